//! What the application serves until SIGTERM:
//!
//! - 8080, HTTP: `/` 200; `/flaky?NAME` 503 the first time for each name, then 200; `/slow` 200 after
//!   five seconds; all with `x-version`.
//! - 8081, HTTP: `/drive?TIMES&URL` sends requests to the URL and answers with what they came to;
//!   `/greet?HOST:PORT` connects and answers with what the other side says first, and echoes.
//! - 9000, gRPC: `grpc.health.v1.Health/Check` says SERVING.
//! - 7000, TCP: speaks first, then echoes.

use std::{
    collections::HashSet,
    convert::Infallible,
    net::{Ipv6Addr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, combinators::BoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use tokio::{
    io::AsyncWriteExt,
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    task::JoinSet,
    time::timeout,
};

use super::client;

/// `HealthCheckResponse { status: SERVING }` in a gRPC message's envelope.
const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
/// How long `/slow` takes.
const SLOW: Duration = Duration::from_secs(5);
/// How long a greeting may take.
const PATIENCE: Duration = Duration::from_secs(10);

struct App {
    version: String,
    seen: Mutex<HashSet<String>>,
}

type Answer = Response<BoxBody<Bytes, Infallible>>;

/// Serves until SIGTERM.
pub(crate) async fn run(version: &str) -> anyhow::Result<()> {
    let app = Arc::new(App {
        version: version.to_owned(),
        seen: Mutex::default(),
    });
    let mut tasks = JoinSet::new();
    for port in [8080, 8081, 9000] {
        let listener = listen(port).await?;
        tasks.spawn(serve(listener, Arc::clone(&app)));
    }
    tasks.spawn(echo(listen(7000).await?));
    signal(SignalKind::terminate())?.recv().await;
    Ok(())
}

async fn listen(port: u16) -> anyhow::Result<TcpListener> {
    let any = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    match TcpListener::bind(any).await {
        Ok(listener) => Ok(listener),
        // No IPv6 here.
        Err(_) => Ok(TcpListener::bind(("0.0.0.0", port)).await?),
    }
}

async fn serve(listener: TcpListener, app: Arc<App>) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        let app = Arc::clone(&app);
        connections.spawn(async move {
            let service = service_fn(move |request| {
                let app = Arc::clone(&app);
                async move { Ok::<_, Infallible>(app.answer(request).await) }
            });
            let server = auto::Builder::new(TokioExecutor::new());
            // A client that goes away midway is its own matter.
            drop(server.serve_connection(TokioIo::new(stream), service).await);
        });
    }
}

async fn echo(listener: TcpListener) {
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((stream, _)) = listener.accept().await else {
            continue;
        };
        connections.spawn(async move {
            if let Err(error) = greet(stream).await {
                drop(error);
            }
        });
    }
}

async fn greet(mut stream: TcpStream) -> std::io::Result<()> {
    stream.write_all(b"hello\n").await?;
    let (mut from, mut to) = stream.split();
    tokio::io::copy(&mut from, &mut to).await?;
    Ok(())
}

impl App {
    async fn answer(&self, request: Request<Incoming>) -> Answer {
        let query = request.uri().query().unwrap_or_default().to_owned();
        match request.uri().path() {
            "/grpc.health.v1.Health/Check" => return health(),
            "/drive" => return drive(&query).await,
            "/greet" => return greeted(&query).await,
            "/flaky" => {
                let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
                if seen.insert(query) {
                    return self.say(503, "not yet\n");
                }
            }
            "/slow" => tokio::time::sleep(SLOW).await,
            _ => {}
        }
        self.say(200, "here\n")
    }

    fn say(&self, status: u16, text: &'static str) -> Answer {
        let mut answer = text_answer(status, text.into());
        if let Ok(version) = self.version.parse() {
            answer.headers_mut().insert("x-version", version);
        }
        answer
    }
}

fn text_answer(status: u16, text: Bytes) -> Answer {
    let mut answer = Response::new(Full::new(text).boxed());
    *answer.status_mut() = http::StatusCode::from_u16(status).unwrap_or_default();
    answer
}

/// `TIMES&URL`.
async fn drive(query: &str) -> Answer {
    let parsed = query
        .split_once('&')
        .and_then(|(times, url)| Some((times.parse().ok()?, url.parse().ok()?)));
    let Some((times, url)) = parsed else {
        return text_answer(400, "write /drive?TIMES&URL\n".into());
    };
    let tally = client::drive(&url, times).await;
    let text = serde_json::to_vec(&tally).unwrap_or_default();
    text_answer(200, text.into())
}

/// What `HOST:PORT` says before it is spoken to, and after.
async fn greeted(address: &str) -> Answer {
    match timeout(PATIENCE, client::greet(address)).await {
        Ok(Ok(said)) => text_answer(200, said.into()),
        Ok(Err(error)) => text_answer(502, format!("{error:#}\n").into()),
        Err(_) => text_answer(504, "nothing was said\n".into()),
    }
}

fn health() -> Answer {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
    let body = Full::new(Bytes::from_static(SERVING))
        .with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut answer = Response::new(body.boxed());
    let grpc = http::HeaderValue::from_static("application/grpc");
    answer
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, grpc);
    answer
}
