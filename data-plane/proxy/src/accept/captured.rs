//! A connection that the kernel redirected to the sidecar (DESIGN §5 "Interception"): where it was
//! going, and so what it is.
//!
//! The socket knows the original destination. A connection that has none, or that was meant for the
//! sidecar itself, is refused: following it would lead back here.

use std::{io, net::SocketAddr, rc::Rc};

use outrigger_model::Port;
use socket2::{SockAddr, SockRef};
use tokio::net::TcpStream;

use super::{canonical, inbound, outbound};
use crate::{reason::Reason, telemetry::Direction, worker::Worker};

pub(super) async fn connection(
    worker: &Rc<Worker>,
    stream: TcpStream,
    client: SocketAddr,
    (direction, own): (Direction, [u16; 2]),
) {
    let original = match original(&stream) {
        Ok(Some(original)) => original,
        Ok(None) => return refuse(worker, client, direction, "it was not redirected"),
        Err(error) => {
            tracing::debug!(%client, %error, "no original destination");
            return refuse(worker, client, direction, "it has no original destination");
        }
    };
    let Ok(port) = Port::new(original.port()) else {
        return refuse(worker, client, direction, "it was going to port 0");
    };
    match direction {
        Direction::Outbound => outbound::captured(worker, stream, original).await,
        // What comes in was going to this pod: to the sidecar's ports it must not go on.
        Direction::Inbound if own.contains(&original.port()) => {
            refuse(worker, client, direction, "it was going to the sidecar");
        }
        Direction::Inbound => inbound::connection(worker, stream, client, port, original).await,
    }
}

fn refuse(worker: &Worker, client: SocketAddr, direction: Direction, why: &str) {
    worker
        .shared
        .telemetry
        .refused(direction, Reason::NotCaptured);
    tracing::warn!(%client, ?direction, why, "connection to the sidecar's own port refused");
}

/// Where the connection was going; `None` when it came here as it was.
fn original(stream: &TcpStream) -> io::Result<Option<SocketAddr>> {
    let local = canonical(stream.local_addr()?);
    let socket = SockRef::from(stream);
    let original = match local {
        SocketAddr::V4(_) => socket.original_dst_v4()?,
        SocketAddr::V6(_) => socket.original_dst_v6()?,
    };
    let original = SockAddr::as_socket(&original).map(canonical);
    Ok(original.filter(|original| *original != local))
}
