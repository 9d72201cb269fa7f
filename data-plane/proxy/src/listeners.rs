//! The sidecar's own addresses: bound before anything starts, handed to every worker.
//!
//! Each worker gets a socket of its own on each address (`SO_REUSEPORT`), so that the kernel
//! spreads connections and no accept lock is shared. A reload adds and removes addresses; what
//! stays is not touched.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use socket2::{Domain, Protocol, Socket, Type};
use tokio::sync::{mpsc, oneshot};

use crate::{accept::Role, bootstrap::Bootstrap, telemetry::Direction, worker::Health};

/// Connections that wait for accept, for each socket; the kernel's own bound is 4,096.
const BACKLOG: i32 = 1_024;

/// Order to a worker.
#[derive(Debug)]
pub enum Command {
    /// Accept on this socket.
    Listen {
        /// Own address, as the key for [`Command::Stop`].
        address: SocketAddr,
        /// What for.
        role: Role,
        /// The worker's own socket.
        listener: std::net::TcpListener,
    },
    /// Stop accepting on this address.
    Stop {
        /// The address.
        address: SocketAddr,
    },
    /// Tell how endpoints are, at most so many of them.
    Report {
        /// Most endpoints.
        most: usize,
        /// Where to.
        to: oneshot::Sender<Health>,
    },
}

/// Sockets that should accept and those that do, over all workers: a part of readiness.
#[derive(Debug, Default)]
pub struct Accepting {
    wanted: AtomicUsize,
    present: AtomicUsize,
}

/// A socket that accepts, until dropped.
#[derive(Debug)]
pub struct Accepts(Arc<Accepting>);

impl Accepting {
    /// So many sockets should accept from now on.
    pub fn want(&self, sockets: usize) {
        self.wanted.store(sockets, Ordering::Relaxed);
    }

    /// One does.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Accepts {
        self.present.fetch_add(1, Ordering::Relaxed);
        Accepts(Arc::clone(self))
    }

    /// How many do, of how many that should.
    #[must_use]
    pub fn count(&self) -> (usize, usize) {
        let of = |count: &AtomicUsize| count.load(Ordering::Relaxed);
        (of(&self.present), of(&self.wanted))
    }
}

impl Drop for Accepts {
    fn drop(&mut self) {
        self.0.present.fetch_sub(1, Ordering::Relaxed);
    }
}

/// An address could not be bound.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {address} ({purpose}); is another process using it?")]
pub struct BindError {
    /// The address.
    pub address: SocketAddr,
    /// What it is for.
    pub purpose: String,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// The addresses in force.
#[derive(Debug, Default)]
pub struct Listeners {
    present: BTreeMap<SocketAddr, Role>,
    accepting: Arc<Accepting>,
}

/// The roles that a bootstrap asks for, by own address.
#[must_use]
pub fn wanted(bootstrap: &Bootstrap) -> BTreeMap<SocketAddr, Role> {
    let outbound = bootstrap
        .outbound
        .iter()
        .map(|(listen, authority)| (*listen, Role::Destination(authority.clone())));
    let inbound = bootstrap.inbound.iter().map(|(listen, port, application)| {
        (
            *listen,
            Role::Inbound {
                port: *port,
                application: *application,
            },
        )
    });
    let forward = bootstrap
        .file
        .forward_proxy
        .map(|listen| (listen, Role::ForwardProxy));
    let captured = bootstrap.file.capture.as_ref().map(|capture| {
        let ports = [capture.outbound.port(), capture.inbound.port()];
        [
            (capture.outbound, Role::Captured(Direction::Outbound, ports)),
            (capture.inbound, Role::Captured(Direction::Inbound, ports)),
        ]
    });
    outbound
        .chain(inbound)
        .chain(forward)
        .chain(captured.into_iter().flatten())
        .collect()
}

impl Listeners {
    /// Brings the addresses in force to `wanted`. All new ones are bound before any worker hears of
    /// one, so that a failure changes nothing.
    ///
    /// # Errors
    /// When an address cannot be bound.
    pub fn apply(
        &mut self,
        wanted: BTreeMap<SocketAddr, Role>,
        workers: &[mpsc::Sender<Command>],
    ) -> Result<(), BindError> {
        let mut commands: Vec<(usize, Command)> = Vec::new();
        for (address, role) in &wanted {
            if self.present.get(address) == Some(role) {
                continue;
            }
            for worker in 0..workers.len() {
                let listener = bind(*address, Sharing::Workers).map_err(|source| BindError {
                    address: *address,
                    purpose: format!("{role:?}"),
                    source,
                })?;
                let role = role.clone();
                commands.push((
                    worker,
                    Command::Listen {
                        address: *address,
                        role,
                        listener,
                    },
                ));
            }
        }
        let gone = self
            .present
            .keys()
            .filter(|address| !wanted.contains_key(address));
        for address in gone {
            for worker in 0..workers.len() {
                commands.push((worker, Command::Stop { address: *address }));
            }
        }
        for (worker, command) in commands {
            // A full or closed queue means a worker that hangs or ended: its process ends too.
            if workers
                .get(worker)
                .is_none_or(|worker| worker.try_send(command).is_err())
            {
                tracing::error!(worker, "a worker does not take orders");
            }
        }
        self.accepting.want(wanted.len() * workers.len());
        self.present = wanted;
        Ok(())
    }

    /// Where readiness sees whether workers accept on all of them.
    #[must_use]
    pub fn accepting(&self) -> Arc<Accepting> {
        Arc::clone(&self.accepting)
    }

    /// Addresses in force.
    #[must_use]
    pub fn count(&self) -> usize {
        self.present.len()
    }
}

/// A listening socket. `[::]` takes IPv4 too, and stands for IPv4 alone where the kernel has no IPv6:
/// one bootstrap serves pods of either kind.
pub(crate) fn bind(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    match bind_to(address, sharing) {
        Err(error) if is_any(address) && lacks_family(&error) => {
            bind_to((Ipv4Addr::UNSPECIFIED, address.port()).into(), sharing)
        }
        result => result,
    }
}

/// Who else may listen on the same address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sharing {
    /// Nobody.
    Alone,
    /// The other workers.
    Workers,
}

fn is_any(address: SocketAddr) -> bool {
    address.ip() == Ipv6Addr::UNSPECIFIED
}

fn lacks_family(error: &io::Error) -> bool {
    let unsupported = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(unsupported)
}

fn bind_to(address: SocketAddr, sharing: Sharing) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )?;
    if is_any(address) {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(sharing == Sharing::Workers)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
