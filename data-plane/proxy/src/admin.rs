//! The admin address: health, metrics, and everything that the proxy believes (DESIGN §7).
//!
//! | path | answer |
//! | --- | --- |
//! | `/live` | 200 while the control thread runs |
//! | `/ready` | 200, or 503 with what is `missing`: listeners, certificate, own policy; also while draining |
//! | `/metrics` | Prometheus' text format |
//! | `/config` | the snapshot in force, the standing of each resource, live health of endpoints, as JSON |
//! | `/certs` | certificate chain and roots in force: names, serials, times |
//! | `/log` | the level of the process's log |
//! | `POST`, `PUT /log?level=…` | changes it, where that is allowed |
//!
//! The health address ([`Surface::Health`]) has the first two and the application's probes,
//! `/app-health/NAME`, alone. `/metrics` carries the application's own page behind the sidecar's
//! where the bootstrap says so.
//!
//! It can be reached by other pods, by a request forged on a server, and by a browser (threat
//! model; DEF-40). So: nothing secret is in any answer, keys are nowhere in reach of this module;
//! nothing changes unless the bootstrap allows it *and* the peer is on loopback, names a loopback
//! host and sends a header that no form or image can; a `Host` that is a name other than
//! `localhost` is refused, because a name is what DNS rebinding needs; there is no CORS header.
//!
//! Bounds: [`CONNECTIONS_MAX`], one request each, [`CONNECTION_TIME`] in all.

pub mod application;
mod certs;
mod config;
mod guard;
mod health;
mod resources;

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde_json::{Value, json};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::{sleep, timeout},
};

use application::Application;

use crate::{
    control::subscriptions::Resources,
    drain::Drain,
    listeners::{Accepting, Command},
    snapshot::SnapshotReader,
    telemetry::{
        Telemetry,
        logging::{Level, LogControl},
    },
    upstream::TlsReader,
};

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 64;

/// To a complete head.
const HEAD_TIME: Duration = Duration::from_secs(5);

/// From accept to the last byte of the answer.
const CONNECTION_TIME: Duration = Duration::from_secs(30);

/// Head bytes; a scraper sends 500.
const HEAD_MAX: usize = 16 << 10;

/// Fields of a head.
const HEADERS_MAX: usize = 64;

/// What the admin address shows, and the one thing that it may change.
#[derive(Debug, Clone)]
pub struct Sources {
    /// Configuration in force.
    pub snapshots: SnapshotReader,
    /// Certificate in force.
    pub tls: TlsReader,
    /// Metrics.
    pub telemetry: Telemetry,
    /// Whether the process is ending.
    pub drain: Drain,
    /// Whether workers accept on all addresses.
    pub accepting: Arc<Accepting>,
    /// Workers, to be asked how endpoints are.
    pub workers: Vec<mpsc::Sender<Command>>,
    /// Versions applied, refused and awaited.
    pub resources: Resources,
    /// The application beside the sidecar.
    pub application: Application,
    /// The process's log.
    pub log: LogControl,
    /// Whether the log's level may be changed (DEF-40: no, unless the bootstrap says so).
    pub mutations: bool,
}

/// What an address serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Surface {
    /// Everything.
    Admin,
    /// What the kubelet asks.
    Health,
}

/// Serves until dropped; connections end with it.
pub async fn serve(listener: TcpListener, sources: Arc<Sources>, surface: Surface) {
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((stream, peer)) => {
                let sources = Arc::clone(&sources);
                connections.spawn(async move {
                    connection(stream, peer, sources, surface).await;
                    drop(permit);
                });
            }
            Err(error) => {
                // Out of descriptors, most likely: traffic frees some.
                tracing::warn!(%error, "the admin address cannot accept");
                sleep(Duration::from_millis(100)).await;
            }
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, sources: Arc<Sources>, surface: Surface) {
    let service = service_fn(move |request: Request<Incoming>| {
        let sources = Arc::clone(&sources);
        async move {
            Ok::<_, Infallible>(match surface {
                Surface::Admin => answer(&request, peer, &sources).await,
                Surface::Health => answer_kubelet(&request, &sources).await,
            })
        }
    });
    let serving = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIME)
        .max_buf_size(HEAD_MAX)
        .max_headers(HEADERS_MAX)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    match timeout(CONNECTION_TIME, serving).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, %peer, "admin connection broken off"),
        Err(_) => tracing::debug!(%peer, "admin connection over its time"),
    }
}

type Answer = Response<Full<Bytes>>;

async fn answer_kubelet<B>(request: &Request<B>, sources: &Sources) -> Answer {
    if let Err(refusal) = guard::read(request) {
        return problem(StatusCode::FORBIDDEN, refusal);
    }
    if request.method() != Method::GET {
        return only_get();
    }
    match request.uri().path() {
        "/live" => live(),
        "/ready" => ready(sources),
        path => match path.strip_prefix("/app-health/") {
            Some(name) => app_health(name, sources).await,
            None => problem(
                StatusCode::NOT_FOUND,
                "there are /live, /ready and /app-health/CONTAINER/PROBE",
            ),
        },
    }
}

async fn app_health(name: &str, sources: &Sources) -> Answer {
    match sources.application.probe(name).await {
        Some(Ok(())) => json_answer(StatusCode::OK, &json!({ "healthy": true })),
        Some(Err(error)) => problem(StatusCode::SERVICE_UNAVAILABLE, &error),
        None => problem(StatusCode::NOT_FOUND, "the bootstrap names no such probe"),
    }
}

fn live() -> Answer {
    json_answer(StatusCode::OK, &json!({ "live": true }))
}

fn only_get() -> Answer {
    let mut answer = problem(StatusCode::METHOD_NOT_ALLOWED, "only GET is served here");
    answer
        .headers_mut()
        .insert(header::ALLOW, HeaderValue::from_static("GET"));
    answer
}

async fn answer<B>(request: &Request<B>, peer: SocketAddr, sources: &Sources) -> Answer {
    if let Err(refusal) = guard::read(request) {
        return problem(StatusCode::FORBIDDEN, refusal);
    }
    let get = request.method() == Method::GET;
    match request.uri().path() {
        "/log" if request.method() == Method::POST || request.method() == Method::PUT => {
            change_log(request, peer, sources)
        }
        "/live" | "/ready" | "/metrics" | "/config" | "/certs" | "/log" if !get => only_get(),
        "/live" => live(),
        "/ready" => ready(sources),
        "/metrics" => text(
            "text/plain; version=0.0.4; charset=utf-8",
            sources.application.merged(sources.telemetry.page()).await,
        ),
        "/config" => config(sources).await,
        "/certs" => json_answer(
            StatusCode::OK,
            &certs::shown(&sources.tls, SystemTime::now()),
        ),
        "/log" => log(sources),
        _ => problem(
            StatusCode::NOT_FOUND,
            "there are /live, /ready, /metrics, /config, /certs and /log",
        ),
    }
}

async fn config(sources: &Sources) -> Answer {
    let health = health::shown(&sources.workers).await;
    let mut page = config::shown(&sources.snapshots.load());
    if let Some(page) = page.as_object_mut() {
        let resources = &sources.resources;
        page.insert("control_plane".into(), resources::source(resources));
        page.insert("resources".into(), resources::shown(resources));
        page.insert("health".into(), health);
    }
    json_answer(StatusCode::OK, &page)
}

/// Ready when every worker accepts on every address, with a valid certificate and the workload's
/// own policy (DESIGN §5), until the drain.
fn ready(sources: &Sources) -> Answer {
    let mut missing = Vec::new();
    let (present, wanted) = sources.accepting.count();
    if present < wanted {
        missing.push("listeners");
    }
    match sources.tls.load().as_deref() {
        None => missing.push("certificate"),
        Some(context) if certs::expired(context, SystemTime::now()) => {
            missing.push("a certificate that has not expired");
        }
        Some(_) => {}
    }
    if sources.snapshots.load().inbound.is_none() {
        missing.push("inbound policy");
    }
    let draining = sources.drain.is_draining();
    let ready = missing.is_empty() && !draining;
    let status = if ready {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    json_answer(
        status,
        &json!({ "ready": ready, "missing": missing, "draining": draining }),
    )
}

fn log(sources: &Sources) -> Answer {
    match sources.log.level() {
        Ok(level) => json_answer(StatusCode::OK, &json!({ "level": level })),
        Err(error) => problem(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
    }
}

fn change_log<B>(request: &Request<B>, peer: SocketAddr, sources: &Sources) -> Answer {
    if !sources.mutations {
        let off = "changes are off; set admin_mutations in the bootstrap file to allow them";
        return problem(StatusCode::FORBIDDEN, off);
    }
    if let Err(refusal) = guard::change(request, peer) {
        return problem(StatusCode::FORBIDDEN, refusal);
    }
    let query = request.uri().query().unwrap_or("");
    let mut levels = query
        .split('&')
        .filter_map(|pair| pair.strip_prefix("level="));
    let (Some(level), None) = (levels.next(), levels.next()) else {
        return problem(StatusCode::BAD_REQUEST, "write /log?level=debug");
    };
    // The characters of a list are allowed in a query as they are; `%2C` comes from tools.
    let level = level
        .replace("%2C", ",")
        .replace("%2c", ",")
        .replace("%3D", "=");
    let set = level
        .parse::<Level>()
        .and_then(|level| sources.log.set(&level));
    match set {
        Ok(()) => {
            tracing::info!(%level, "log level changed");
            log(sources)
        }
        Err(error) => problem(StatusCode::BAD_REQUEST, &error.to_string()),
    }
}

fn problem(status: StatusCode, detail: &str) -> Answer {
    json_answer(status, &json!({ "error": detail }))
}

fn json_answer(status: StatusCode, value: &Value) -> Answer {
    let mut answer = text("application/json", format!("{value:#}\n"));
    *answer.status_mut() = status;
    answer
}

fn text(kind: &'static str, body: String) -> Answer {
    let mut answer = Response::new(Full::new(Bytes::from(body)));
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    answer
}

#[cfg(test)]
mod tests;
#[cfg(test)]
pub(crate) use tests::certificate as test_certificate;
