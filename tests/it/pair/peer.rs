//! Applications behind the mesh, and clients before it.

use std::{
    cell::{Cell, RefCell},
    convert::Infallible,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    rc::Rc,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body_util::{BodyExt, Empty, Full, channel::Channel, combinators::UnsyncBoxBody};
use hyper::{
    body::{Body, Incoming},
    client, server,
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::TcpStream,
    sync::{Semaphore, mpsc},
};
use tokio_util::task::TaskTracker;

use super::mesh::{Mesh, listener};

pub(super) type Content = UnsyncBoxBody<Bytes, Infallible>;
type Answering = Pin<Box<dyn Future<Output = Response<Content>>>>;

/// The version that a peer speaks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Http {
    One,
    Two,
}

/// Lets hyper's HTTP/2 run on this thread, owned by the test's tracker.
#[derive(Clone)]
pub(super) struct Here(TaskTracker);

impl<F> hyper::rt::Executor<F> for Here
where
    F: Future<Output: 'static> + 'static,
{
    fn execute(&self, task: F) {
        self.0.spawn_local(task);
    }
}

/// A request as it reached the application.
#[derive(Debug, Clone)]
pub(super) struct Hit {
    /// Number of the connection, from 0.
    pub(super) connection: usize,
    pub(super) headers: HeaderMap,
}

impl Hit {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }
}

/// An application that answers with a closure and notes what reached it.
#[derive(Clone)]
pub(super) struct App {
    pub(super) address: SocketAddr,
    hits: Rc<RefCell<Vec<Hit>>>,
}

impl App {
    /// An application that answers every request with `status` and its path.
    pub(super) async fn answering(mesh: &Mesh, status: u16) -> Self {
        Self::start(mesh, Http::One, move |request| {
            let path = request.uri().path().to_owned();
            async move { answer(status, path) }
        })
        .await
    }

    pub(super) async fn start<F, A>(mesh: &Mesh, version: Http, answer: F) -> Self
    where
        F: Fn(Request<Incoming>) -> A + 'static,
        A: Future<Output = Response<Content>> + 'static,
    {
        let (listener, address) = listener().await;
        let hits: Rc<RefCell<Vec<Hit>>> = Rc::default();
        let app = Self {
            address,
            hits: Rc::clone(&hits),
        };
        let tasks = mesh.tasks.clone();
        let answer: Rc<dyn Fn(Request<Incoming>) -> Answering> =
            Rc::new(move |request| Box::pin(answer(request)));
        mesh.tasks.spawn_local(async move {
            let connections = Cell::new(0);
            while let Ok((stream, _)) = listener.accept().await {
                let connection = connections.get();
                connections.set(connection + 1);
                let (hits, answer) = (Rc::clone(&hits), Rc::clone(&answer));
                let service = service_fn(move |request: Request<Incoming>| {
                    hits.borrow_mut().push(Hit {
                        connection,
                        headers: request.headers().clone(),
                    });
                    let answering = answer(request);
                    async move { Ok::<_, Infallible>(answering.await) }
                });
                let io = TokioIo::new(stream);
                let here = Here(tasks.clone());
                tasks.spawn_local(async move {
                    // A connection that the sidecar cuts is part of the tests.
                    let _ended = match version {
                        Http::One => {
                            let serving = server::conn::http1::Builder::new()
                                .timer(TokioTimer::new())
                                .serve_connection(io, service);
                            serving.with_upgrades().await.is_ok()
                        }
                        Http::Two => server::conn::http2::Builder::new(here)
                            .serve_connection(io, service)
                            .await
                            .is_ok(),
                    };
                });
            }
        });
        app
    }

    pub(super) fn hits(&self) -> Vec<Hit> {
        self.hits.borrow().clone()
    }

    pub(super) fn count(&self) -> usize {
        self.hits.borrow().len()
    }

    /// Requests on each connection that carried any.
    pub(super) fn by_connection(&self) -> Vec<usize> {
        let mut counts = std::collections::BTreeMap::new();
        for hit in self.hits.borrow().iter() {
            *counts.entry(hit.connection).or_insert(0) += 1;
        }
        counts.into_values().collect()
    }
}

/// An application that tells of each request, and answers it when it is let.
pub(super) struct Gated {
    pub(super) app: App,
    arrivals: mpsc::Receiver<()>,
    gate: Rc<Semaphore>,
}

impl Gated {
    /// It answers with `body`.
    pub(super) async fn start(mesh: &Mesh, version: Http, body: &'static str) -> Self {
        let gate = Rc::new(Semaphore::new(0));
        // More than any test sends at once.
        let (arrived, arrivals) = mpsc::channel(16);
        let opens = Rc::clone(&gate);
        let app = App::start(mesh, version, move |_| {
            let (gate, arrived) = (Rc::clone(&opens), arrived.clone());
            async move {
                arrived.send(()).await.unwrap();
                gate.acquire().await.unwrap().forget();
                answer(200, body)
            }
        })
        .await;
        Self {
            app,
            arrivals,
            gate,
        }
    }

    /// Waits until so many more requests are there.
    pub(super) async fn arrived(&mut self, requests: usize) {
        for _ in 0..requests {
            self.arrivals.recv().await.unwrap();
        }
    }

    /// Lets it answer so many requests, those that are there first.
    pub(super) fn open(&self, requests: usize) {
        self.gate.add_permits(requests);
    }
}

/// A response of known length.
pub(super) fn answer(status: u16, body: impl Into<Bytes>) -> Response<Content> {
    let mut response = Response::new(Full::new(body.into()).boxed_unsync());
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(super) fn empty() -> Content {
    Empty::new().boxed_unsync()
}

pub(super) fn full(body: impl Into<Bytes>) -> Content {
    Full::new(body.into()).boxed_unsync()
}

/// A whole answer.
#[derive(Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: HeaderMap,
    pub(super) body: Bytes,
    pub(super) trailers: Option<HeaderMap>,
}

impl Reply {
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.to_str().unwrap())
    }

    /// `x-outrigger-reason`, empty when there is none.
    pub(super) fn reason(&self) -> &str {
        self.header("x-outrigger-reason").unwrap_or_default()
    }

    /// The mesh answered in the application's place, for a reason that begins so.
    #[track_caller]
    pub(super) fn assert_refused(&self, status: u16, reason: &str) {
        let (got, why) = (self.status, self.reason());
        assert!(got == status && why.starts_with(reason), "{got} {why}");
    }

    pub(super) fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    async fn read(response: Response<Incoming>) -> hyper::Result<Self> {
        let (head, body) = response.into_parts();
        let collected = body.collect().await?;
        let trailers = collected.trailers().cloned();
        Ok(Self {
            status: head.status.as_u16(),
            headers: head.headers,
            body: collected.to_bytes(),
            trailers,
        })
    }
}

enum Sender {
    One(client::conn::http1::SendRequest<Content>),
    Two(client::conn::http2::SendRequest<Content>),
}

/// A client on one connection.
pub(super) struct Client(Sender);

impl Client {
    pub(super) async fn connect(mesh: &Mesh, address: SocketAddr, version: Http) -> Self {
        let stream = TcpStream::connect(address).await.unwrap();
        let io = TokioIo::new(stream);
        Self(match version {
            Http::One => {
                let (sender, driver) = client::conn::http1::handshake(io).await.unwrap();
                mesh.tasks.spawn_local(driver.with_upgrades());
                Sender::One(sender)
            }
            Http::Two => {
                let here = Here(mesh.tasks.clone());
                let (sender, driver) = client::conn::http2::handshake(here, io).await.unwrap();
                mesh.tasks.spawn_local(driver);
                Sender::Two(sender)
            }
        })
    }

    /// The response head, its body still to come.
    pub(super) async fn begin(
        &mut self,
        request: Request<Content>,
    ) -> hyper::Result<Response<Incoming>> {
        match &mut self.0 {
            Sender::One(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
            Sender::Two(sender) => {
                sender.ready().await?;
                sender.send_request(request).await
            }
        }
    }

    pub(super) async fn try_send(&mut self, request: Request<Content>) -> hyper::Result<Reply> {
        Reply::read(self.begin(request).await?).await
    }

    pub(super) async fn send(&mut self, request: Request<Content>) -> Reply {
        self.try_send(request).await.unwrap()
    }

    pub(super) async fn get(&mut self, path: &str) -> Reply {
        self.send(get(path)).await
    }
}

/// A GET; for HTTP/2 the path stands behind an authority.
pub(super) fn get(path: &str) -> Request<Content> {
    request("GET", path, empty())
}

pub(super) fn request(method: &str, path: &str, body: Content) -> Request<Content> {
    let uri = if path.starts_with('/') {
        format!("http://orders{path}")
    } else {
        path.to_owned()
    };
    Request::builder()
        .method(method)
        .uri(uri)
        .header("host", "orders")
        .body(body)
        .unwrap()
}

/// One request on a connection of its own.
pub(super) async fn once(mesh: &Mesh, address: SocketAddr, request: Request<Content>) -> Reply {
    Client::connect(mesh, address, Http::One)
        .await
        .send(request)
        .await
}

/// A body of these pieces, sent as they are taken.
pub(super) fn pieces(mesh: &Mesh, pieces: impl Iterator<Item = Bytes> + 'static) -> Content {
    pieces_on(&mesh.tasks, pieces)
}

fn pieces_on(tasks: &TaskTracker, pieces: impl Iterator<Item = Bytes> + 'static) -> Content {
    let (mut sender, body) = Channel::new(1);
    tasks.spawn_local(async move {
        for piece in pieces {
            // The other side may have answered without it.
            if sender.send_data(piece).await.is_err() {
                return;
            }
        }
    });
    body.boxed_unsync()
}

/// A body of 160 MB, sent as it is taken.
pub(super) fn endless(tasks: &TaskTracker) -> Content {
    let piece = Bytes::from(vec![b'x'; 16_384]);
    pieces_on(tasks, std::iter::repeat_n(piece, 10_000))
}

/// A body read to its end.
pub(super) async fn read<B>(body: B) -> Bytes
where
    B: Body<Data = Bytes, Error: std::fmt::Debug>,
{
    body.collect().await.unwrap().to_bytes()
}
