//! The engines, as the listeners call them.

use std::rc::Rc;

use crate::{
    drain::Drain,
    ending::Ending,
    exchange::Handler,
    h1,
    http2::server::{self, Context},
    io::Io,
    worker::Worker,
};

/// Serves HTTP/1 until the connection ends.
pub(crate) async fn http1<H: Handler>(io: Io, ending: &Ending, handler: Rc<H>) {
    let served = h1::server::serve(io, ending.signal(), &*handler).await;
    tracing::trace!(requests = served.requests, "HTTP/1 connection ended");
}

/// Serves HTTP/2 until the connection ends.
pub(crate) async fn http2<H: Handler + 'static>(
    worker: &Worker,
    io: Io,
    ending: &Ending,
    handler: Rc<H>,
) {
    let context = Context {
        limits: Rc::clone(&worker.http2_limits),
        drain: Drain::of_connection(ending.signal()),
    };
    server::serve(io, &context, &handler).await;
}
