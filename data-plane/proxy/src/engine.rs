//! The engines, as the listeners call them.

use std::rc::Rc;

use crate::{
    exchange::Handler,
    h1,
    http2::server::{self, Context},
    io::Io,
    worker::Worker,
};

/// Serves HTTP/1 until the connection ends.
pub(crate) async fn http1<H: Handler>(worker: &Worker, io: Io, handler: Rc<H>) {
    let served = h1::server::serve(io, &worker.engine_drain, &*handler).await;
    tracing::trace!(requests = served.requests, "HTTP/1 connection ended");
}

/// Serves HTTP/2 until the connection ends.
pub(crate) async fn http2<H: Handler + 'static>(worker: &Worker, io: Io, handler: Rc<H>) {
    let context = Context {
        limits: Rc::clone(&worker.http2_limits),
        drain: worker.shared.drain.clone(),
    };
    server::serve(io, &context, &handler).await;
}
