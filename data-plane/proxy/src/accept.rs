//! Accept loops: one for each listener and worker, and what a new connection is.
//!
//! A listener stops at the drain or when its configuration goes; connections that the kernel had
//! accepted by then are still served. Out of file descriptors it
//! pauses briefly and goes on, and says so once; at the bound on connections (DEF-18) it waits for one to end, and
//! while memory is nearly full (DEF-21) it takes none.

mod captured;
mod inbound;
mod outbound;

use std::{io, net::SocketAddr, rc::Rc, time::Duration};

use outrigger_model::{Authority, Port};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::{io::prepare, telemetry::Direction, upstream::Permit, worker::Worker};

/// Pause after a failed accept: descriptors come free in the meantime, and a loop that fails at
/// once would take the whole core.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// What a listener is for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Explicit mode: all traffic goes to this service, whatever its `Host` says.
    Destination(Authority),
    /// Takes absolute-form requests like a forward proxy; the authority names the service.
    ForwardProxy,
    /// Traffic of the mesh for the application's port.
    Inbound {
        /// The port that the policy speaks of.
        port: Port,
        /// Where the application listens.
        application: SocketAddr,
    },
    /// What the kernel redirected here (`outrigger-redirect`): where a connection was going says what
    /// it is. With the ports of both such listeners.
    Captured(Direction, [u16; 2]),
}

/// Accepts until the drain begins or `stop` is cancelled.
pub async fn accept(
    worker: Rc<Worker>,
    listener: TcpListener,
    role: Rc<Role>,
    stop: CancellationToken,
) {
    let mut failing = false;
    while may_accept(&worker, &stop).await {
        // The place is taken by a connection, not by the wait for one: an idle listener would
        // else hold what a busy one needs. Above the bound each listener holds one at most.
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = worker.shared.limits.overload.stopped() => continue,
            () = worker.shared.drain.begun() => break,
            () = stop.cancelled() => break,
        };
        match accepted {
            Ok((stream, client)) => {
                if std::mem::take(&mut failing) {
                    tracing::info!("connections are accepted again");
                }
                let Some(permit) = room(&worker, &stop).await else {
                    break;
                };
                start(&worker, &role, stream, client, permit);
            }
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                if !std::mem::replace(&mut failing, true) {
                    tracing::warn!(%error, "cannot accept connections; trying again; check the limit of open files");
                }
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    if let Err(error) = take_rest(&worker, listener, &role) {
        tracing::warn!(%error, "connections that waited when the listener ended were not accepted");
    }
}

/// Closing a listener resets what waits in its backlog, though those clients are connected and may
/// have sent a request: they are taken first. Asks the kernel itself, which knows of connections
/// that the runtime has not heard of yet.
fn take_rest(worker: &Rc<Worker>, listener: TcpListener, role: &Rc<Role>) -> io::Result<()> {
    let listener = listener.into_std()?;
    while let Some(permit) = worker.shared.limits.downstream.try_acquire() {
        let (stream, client) = match listener.accept() {
            Ok(accepted) => accepted,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
            Err(error) if is_of_one_connection(&error) => continue,
            Err(error) => return Err(error),
        };
        stream.set_nonblocking(true)?;
        start(worker, role, TcpStream::from_std(stream)?, client, permit);
    }
    Ok(())
}

/// Waits while memory is nearly full (DEF-21); `false` when the listener ends first.
async fn may_accept(worker: &Worker, stop: &CancellationToken) -> bool {
    tokio::select! {
        biased;
        () = worker.shared.limits.overload.accepting() => true,
        () = worker.shared.drain.begun() => false,
        () = stop.cancelled() => false,
    }
}

/// Room for one more connection; `None` when the listener ends first.
async fn room(worker: &Worker, stop: &CancellationToken) -> Option<Permit> {
    let downstream = &worker.shared.limits.downstream;
    loop {
        let freed = downstream.freed();
        if let Some(permit) = downstream.try_acquire() {
            return Some(permit);
        }
        tokio::select! {
            () = freed => {}
            () = worker.shared.drain.begun() => return None,
            () = stop.cancelled() => return None,
        }
    }
}

/// The client left between its SYN and our accept: its affair.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset
    )
}

fn start(
    worker: &Rc<Worker>,
    role: &Rc<Role>,
    stream: TcpStream,
    client: SocketAddr,
    permit: Permit,
) {
    prepare(&stream);
    let (worker, role) = (Rc::clone(worker), Rc::clone(role));
    let tracker = worker.tasks.clone();
    tracker.spawn_local(async move {
        let _permit = permit;
        let direction = match *role {
            Role::Destination(_) | Role::ForwardProxy => Direction::Outbound,
            Role::Inbound { .. } => Direction::Inbound,
            Role::Captured(direction, _) => direction,
        };
        worker.shared.telemetry.connection_opened(direction);
        let cut = worker.shared.drain.clone();
        let serve = async {
            match &*role {
                Role::Destination(authority) => {
                    outbound::destination(&worker, stream, &authority.to_string()).await;
                }
                Role::ForwardProxy => outbound::forward_proxy(&worker, stream).await,
                Role::Inbound { port, application } => {
                    inbound::connection(&worker, stream, client, *port, *application).await;
                }
                Role::Captured(direction, ports) => {
                    let client = canonical(client);
                    captured::connection(&worker, stream, client, (*direction, *ports)).await;
                }
            }
        };
        tokio::select! {
            () = serve => {}
            () = cut.cut() => {}
        }
        worker.shared.telemetry.connection_closed(direction);
    });
}

/// IPv4 as IPv4, though the socket is one of IPv6; without scope and flow.
fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
