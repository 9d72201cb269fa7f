//! One running application: accepts connections, serves HTTP/1.1 and HTTP/2 on one port, drains.
//!
//! Order of a stop: the listener closes, HTTP/2 peers get GOAWAY and HTTP/1 ones `connection:
//! close`, hanging requests are answered 503, and what is still open after five seconds is cut.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::args::Role;
use crate::control::{Control, Fault};
use crate::exchange;
use crate::peers::{Addresses, Peers};
use crate::roles::Application;
use crate::stats::{Counter, Stats};

const TIMEOUT_DRAIN: Duration = Duration::from_secs(5);
/// How long a connection may be idle. Long: a caller that has kept its connection may send at the
/// moment it is closed, and that looks like a failure of the application.
const TIMEOUT_IDLE: Duration = Duration::from_mins(10);
/// Wait after a failed accept (out of file descriptors): trying again at once would spin.
const PAUSE_ACCEPT: Duration = Duration::from_millis(50);
/// Requests at one time on one HTTP/2 connection; a sidecar may carry all callers on one.
const STREAMS_MAX: u32 = 1024;

/// What to start.
#[derive(Clone, Debug)]
pub struct Config {
    /// The application to be.
    pub role: Role,
    /// Answered in `x-shop-version`; letters, digits, '.', '-' and '_'.
    pub version: String,
    /// Where to listen; port 0 takes a free one.
    pub listen: SocketAddr,
    /// Where the other services are.
    pub addresses: Addresses,
}

/// An address that cannot be listened on.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {listen}: {source}")]
pub struct StartError {
    listen: SocketAddr,
    source: io::Error,
}

/// What the requests of one application share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) role: Role,
    pub(crate) version: String,
    pub(crate) application: Application,
    pub(crate) control: Control,
    pub(crate) counter: Counter,
    /// Cancelled when the application stops, so that nothing hangs on.
    pub(crate) stopping: CancellationToken,
}

/// A running application. Dropping it cuts its connections; [`App::stop`] drains them.
#[derive(Debug)]
pub struct App {
    local_addr: SocketAddr,
    shared: Arc<Shared>,
    tasks: JoinSet<()>,
}

impl App {
    /// Listens and serves; returns as soon as connections are accepted.
    ///
    /// # Errors
    /// If the address cannot be listened on.
    pub async fn start(config: Config) -> Result<Self, StartError> {
        let failed = |source| StartError {
            listen: config.listen,
            source,
        };
        let listener = TcpListener::bind(config.listen).await.map_err(failed)?;
        let local_addr = listener.local_addr().map_err(failed)?;
        let peers = Peers::new(config.addresses);
        let shared = Arc::new(Shared {
            role: config.role,
            application: Application::new(config.role, &config.version, peers),
            control: Control::new(),
            counter: Counter::new(config.role.name(), &config.version),
            stopping: CancellationToken::new(),
            version: config.version,
        });
        let mut tasks = JoinSet::new();
        tasks.spawn(serve(listener, Arc::clone(&shared)));
        Ok(Self {
            local_addr,
            shared,
            tasks,
        })
    }

    /// Where it listens.
    #[must_use]
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// What it has served; as `GET /_stats`.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.counter.read()
    }

    /// Makes it do `fault` from the next request on; as `POST /_control`.
    pub fn set_fault(&self, fault: Fault) {
        self.shared.control.set(fault);
    }

    /// Stops accepting, finishes what is in flight for at most five seconds, and closes.
    pub async fn stop(mut self) {
        self.shared.stopping.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

async fn serve(listener: TcpListener, shared: Arc<Shared>) {
    let graceful = GracefulShutdown::new();
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            () = shared.stopping.cancelled() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(stream, Arc::clone(&shared), graceful.watcher()));
                }
                Err(_) => tokio::time::sleep(PAUSE_ACCEPT).await,
            },
            Some(_) = connections.join_next() => {}
        }
    }
    drop(listener);
    // Past the deadline the set is dropped, and with it every connection.
    tokio::time::timeout(TIMEOUT_DRAIN, graceful.shutdown())
        .await
        .ok();
}

async fn connection(
    stream: TcpStream,
    shared: Arc<Shared>,
    watcher: hyper_util::server::graceful::Watcher,
) {
    let _open = shared.counter.connected();
    // Without it small answers wait for the caller's delayed acknowledgement; never fatal.
    stream.set_nodelay(true).ok();
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(TIMEOUT_IDLE);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAMS_MAX)
        .keep_alive_interval(TIMEOUT_IDLE);
    let service = {
        let shared = Arc::clone(&shared);
        service_fn(move |request| exchange::answer(Arc::clone(&shared), request))
    };
    let connection = builder
        .serve_connection(TokioIo::new(stream), service)
        .into_owned();
    // A connection that breaks concerns its caller alone, who sees it.
    watcher.watch(connection).await.ok();
}
