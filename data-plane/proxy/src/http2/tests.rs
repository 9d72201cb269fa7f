//! The engine between raw h2 peers: a client over memory, upstreams over TCP loopback.
//!
//! The handler under test is [`Path`], a request path of a few lines that tries, retries and
//! delivers as `outbound.rs` does.

mod bounds;
mod connections;
mod hpack;
mod keepalive;
mod relay;
mod retries;
mod server;
mod wire;

use std::{
    cell::{Cell, RefCell},
    future::Future,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwapOption;
use bytes::Bytes;
use h2::{
    RecvStream, SendStream,
    client::{ResponseFuture, SendRequest},
    server::SendResponse,
};
use http::{HeaderMap, Request, Response};
use outrigger_model::{ConnectionLimits, Lifetime, Peer, RequestsPerConnection};
use tokio::{
    io::DuplexStream,
    net::TcpListener,
    sync::Notify,
    task::{JoinSet, LocalSet},
    time::{Instant, timeout},
};

use super::{Limits, server::Context};
use crate::{
    drain::Drain,
    exchange::{
        AttemptFailure, AttemptFailureKind, Deadline, Delivery, DeliveryEnd, Exchange, Handler,
        RequestEdit, ResponseEdit,
    },
    io::Io,
    reason::{Reason, Refusal},
    upstream::{Endpoint, Permits, Pool},
};

/// Runs a test on one thread, as a worker does; fails it rather than hang.
fn local(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    local_on(builder.enable_all(), Duration::from_secs(60), test);
}

/// The same without sockets, on a clock that jumps whenever nothing else is to be done.
fn local_paused(test: impl Future<Output = ()>) {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().start_paused(true);
    local_on(&mut builder, Duration::from_secs(100_000), test);
}

fn local_on(
    builder: &mut tokio::runtime::Builder,
    patience: Duration,
    test: impl Future<Output = ()>,
) {
    let runtime = builder.build().unwrap();
    let bounded = async { timeout(patience, test).await.expect("test hangs") };
    LocalSet::new().block_on(&runtime, bounded);
}

/// A request path of the smallest kind.
struct Path {
    endpoint: Rc<Endpoint>,
    attempts_max: u32,
    /// For each try.
    timeout: Option<Duration>,
    /// For the answer.
    deliver_within: Option<Duration>,
    retry_status: Option<u16>,
    edit: ResponseEdit,
    failures: RefCell<Vec<AttemptFailureKind>>,
    deliveries: RefCell<Vec<Delivery>>,
    rejected: RefCell<Vec<Reason>>,
    changed: Notify,
}

impl Path {
    fn new(endpoint: Rc<Endpoint>) -> Self {
        Self {
            endpoint,
            attempts_max: 1,
            timeout: None,
            deliver_within: None,
            retry_status: None,
            edit: ResponseEdit::default(),
            failures: RefCell::default(),
            deliveries: RefCell::default(),
            rejected: RefCell::default(),
            changed: Notify::new(),
        }
    }

    /// The first delivery (or refusal) that was finished.
    async fn delivered(&self) -> Delivery {
        loop {
            let changed = self.changed.notified();
            if let Some(delivery) = self.deliveries.borrow().first() {
                return delivery.clone();
            }
            changed.await;
        }
    }
}

impl Handler for Path {
    async fn handle<E: Exchange>(&self, exchange: &mut E) {
        let mut tried = 0;
        let delivery = loop {
            tried += 1;
            let deadline = Deadline::NONE.or_after(Instant::now(), self.timeout);
            let attempt = exchange
                .attempt(&self.endpoint, &RequestEdit::default(), deadline)
                .await;
            let may_retry = tried < self.attempts_max && exchange.can_replay();
            match attempt {
                Ok(head) if Some(head.status) == self.retry_status && may_retry => {
                    exchange.discard().await;
                }
                Ok(_) => {
                    let deadline = Deadline::NONE.or_after(Instant::now(), self.deliver_within);
                    break exchange.deliver(&self.edit, deadline).await;
                }
                Err(AttemptFailure {
                    kind: kind @ AttemptFailureKind::ClientGone,
                    ..
                }) => {
                    self.failures.borrow_mut().push(kind);
                    break exchange.abandon();
                }
                Err(failure) => {
                    self.failures.borrow_mut().push(failure.kind);
                    if !may_retry {
                        let refusal = Refusal::new(Reason::UpstreamReset).detail(failure.detail);
                        break exchange.refuse(&refusal).await;
                    }
                }
            }
        };
        self.deliveries.borrow_mut().push(delivery);
        self.changed.notify_waiters();
    }

    fn rejected(&self, _engine: crate::exchange::Engine, refusal: &Refusal) {
        self.rejected.borrow_mut().push(refusal.reason);
    }
}

/// A connection through the engine.
struct Served {
    client: SendRequest<Bytes>,
    engine: Engine,
}

/// The engine's side of a connection.
struct Engine {
    drain: Drain,
    path: Rc<Path>,
    tasks: JoinSet<()>,
    ended: Rc<Notify>,
}

impl Engine {
    /// Serves one connection by `path`; returns its other end.
    fn serve(path: Path) -> (DuplexStream, Self) {
        Self::serve_within(Limits::DEFAULT, Rc::new(path))
    }

    fn serve_within(limits: Limits, path: Rc<Path>) -> (DuplexStream, Self) {
        let (near, far) = tokio::io::duplex(64 * 1024);
        let drain = Drain::default();
        let context = Context {
            limits: Rc::new(limits),
            drain: drain.clone(),
        };
        let handler = Rc::clone(&path);
        let ended = Rc::new(Notify::new());
        let end = Rc::clone(&ended);
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            super::server::serve(Io::Memory(far), &context, &handler).await;
            end.notify_one();
        });
        let engine = Self {
            drain,
            path,
            tasks,
            ended,
        };
        (near, engine)
    }
}

impl Served {
    /// A client over memory, served by `path`.
    async fn new(path: Path) -> Self {
        Self::over(Engine::serve(path)).await
    }

    async fn within(limits: Limits, path: Path) -> Self {
        Self::over(Engine::serve_within(limits, Rc::new(path))).await
    }

    async fn over((io, mut engine): (DuplexStream, Engine)) -> Self {
        let builder = h2::client::Builder::new();
        let (client, connection) = builder.handshake::<_, Bytes>(io).await.unwrap();
        engine.tasks.spawn_local(async move {
            connection.await.ok();
        });
        Self { client, engine }
    }

    fn path(&self) -> &Path {
        &self.engine.path
    }

    /// Sends a request whose body the caller writes.
    async fn send(&self, request: Request<()>) -> (ResponseFuture, SendStream<Bytes>) {
        let mut client = self.client.clone().ready().await.unwrap();
        client.send_request(request, false).unwrap()
    }

    /// Sends a request without a body and reads the whole answer.
    async fn get(&self, path: &str) -> Answer {
        let mut client = self.client.clone().ready().await.unwrap();
        let request = Request::get(format!("http://shop{path}")).body(()).unwrap();
        let (response, _) = client.send_request(request, true).unwrap();
        read(response.await.unwrap()).await.unwrap()
    }

    /// Sends a request with this body and reads the whole answer.
    async fn post(&self, body: impl Into<Bytes>) -> Result<Answer, h2::Error> {
        let (response, mut stream) = self.send(post()).await;
        stream.send_data(body.into(), true)?;
        read(response.await?).await
    }
}

/// A client over memory, served by a handler of the test's own: its connection is to be driven
/// beside the tasks.
async fn served_by(
    handler: impl Handler + 'static,
) -> (
    SendRequest<Bytes>,
    h2::client::Connection<DuplexStream, Bytes>,
    JoinSet<()>,
) {
    let (near, far) = tokio::io::duplex(64 * 1024);
    let context = Context {
        limits: Rc::new(Limits::DEFAULT),
        drain: Drain::default(),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn_local(async move {
        super::server::serve(Io::Memory(far), &context, &Rc::new(handler)).await;
    });
    let (client, connection) = h2::client::handshake(near).await.unwrap();
    (client, connection, tasks)
}

/// A whole answer.
#[derive(Debug)]
struct Answer {
    head: http::response::Parts,
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn read(response: Response<RecvStream>) -> Result<Answer, h2::Error> {
    let (head, mut stream) = response.into_parts();
    let body = drain(&mut stream).await?;
    let trailers = stream.trailers().await?;
    Ok(Answer {
        head,
        body,
        trailers,
    })
}

async fn drain(stream: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut body = Vec::new();
    while let Some(bytes) = stream.data().await {
        let bytes = bytes?;
        stream.flow_control().release_capacity(bytes.len())?;
        body.extend_from_slice(&bytes);
    }
    Ok(body)
}

fn post() -> Request<()> {
    Request::post("http://shop/orders").body(()).unwrap()
}

/// Sends a body as fast as the window lets it go.
async fn send_all(stream: &mut SendStream<Bytes>, mut bytes: Bytes, end: bool) {
    while !bytes.is_empty() {
        stream.reserve_capacity(bytes.len());
        let mut capacity = stream.capacity();
        if capacity == 0 {
            let grown = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await;
            capacity = grown.unwrap().unwrap();
        }
        let part = bytes.split_to(capacity.min(bytes.len()));
        stream.send_data(part, end && bytes.is_empty()).unwrap();
    }
}

/// An upstream on TCP loopback.
struct Server {
    address: SocketAddr,
    connections: Rc<Cell<u32>>,
    requests: Rc<Cell<u32>>,
    _tasks: JoinSet<()>,
}

/// What an upstream does with its connections.
#[derive(Clone)]
struct ServerOptions {
    streams_max: u32,
    window: u32,
}

const PLAIN: ServerOptions = ServerOptions {
    streams_max: 100,
    window: 65_535,
};

impl Server {
    /// Answers each request by `answer`, which also gets the number of the request, from 1.
    async fn new<F, A>(options: ServerOptions, answer: A) -> Self
    where
        A: Fn(u32, Request<RecvStream>, SendResponse<Bytes>) -> F + Clone + 'static,
        F: Future<Output = ()> + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Rc::new(Cell::new(0));
        let requests = Rc::new(Cell::new(0));
        let (opened, seen) = (Rc::clone(&connections), Rc::clone(&requests));
        let mut tasks = JoinSet::new();
        tasks.spawn_local(async move {
            let mut inner = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                opened.set(opened.get() + 1);
                let (options, answer, seen) = (options.clone(), answer.clone(), Rc::clone(&seen));
                inner.spawn_local(async move {
                    let mut connection = h2::server::Builder::new()
                        .max_concurrent_streams(options.streams_max)
                        .initial_window_size(options.window)
                        .handshake::<_, Bytes>(stream)
                        .await
                        .unwrap();
                    let mut streams = JoinSet::new();
                    while let Some(Ok((request, respond))) = connection.accept().await {
                        seen.set(seen.get() + 1);
                        streams.spawn_local(answer(seen.get(), request, respond));
                    }
                });
            }
        });
        Self {
            address,
            connections,
            requests,
            _tasks: tasks,
        }
    }

    /// Echoes body and trailers.
    async fn echo() -> Self {
        Self::new(PLAIN, |_, request, mut respond| async move {
            let (head, mut body) = request.into_parts();
            let mut response = Response::new(());
            if let Some(value) = head.headers.get("te") {
                response.headers_mut().insert("x-te", value.clone());
            }
            let mut stream = respond.send_response(response, false).unwrap();
            while let Some(Ok(bytes)) = body.data().await {
                body.flow_control().release_capacity(bytes.len()).unwrap();
                send_all(&mut stream, bytes, false).await;
            }
            match body.trailers().await {
                Ok(Some(trailers)) => stream.send_trailers(trailers).unwrap(),
                Ok(None) => stream.send_data(Bytes::new(), true).unwrap(),
                Err(_) => {}
            }
        })
        .await
    }

    /// An endpoint that leads here.
    fn endpoint(&self, change: impl FnOnce(&mut ConnectionLimits)) -> Rc<Endpoint> {
        endpoint(self.address, change)
    }

    fn path(&self) -> Path {
        Path::new(self.endpoint(|_| {}))
    }
}

fn endpoint(address: SocketAddr, change: impl FnOnce(&mut ConnectionLimits)) -> Rc<Endpoint> {
    let mut limits = ConnectionLimits {
        connections_max: 10,
        pending_max: 1024,
        pending_timeout: Duration::from_secs(1),
        requests_max: 1024,
        requests_per_connection: RequestsPerConnection::Unlimited,
        retries_max: 3,
        connect_timeout: Duration::from_secs(1),
        idle_timeout: Lifetime::Unlimited,
        connection_age: Lifetime::Unlimited,
    };
    change(&mut limits);
    let permits = Permits::new(limits.connections_max);
    let pool = Pool::new(limits, permits);
    let tls = Arc::new(ArcSwapOption::empty());
    Endpoint::new(address, Peer::Plain, &pool, tls)
}

/// Answers with a status and this body.
fn answer_with(respond: &mut SendResponse<Bytes>, status: u16, body: &'static [u8]) {
    let response = Response::builder().status(status).body(()).unwrap();
    let mut stream = respond.send_response(response, body.is_empty()).unwrap();
    if !body.is_empty() {
        stream.send_data(Bytes::from_static(body), true).unwrap();
    }
}
