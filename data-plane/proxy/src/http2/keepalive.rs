//! Noticing a peer that is gone without a word (DEF-17): PING, and a bounded wait for its answer.
//!
//! Sent to clients and to other sidecars. A plain upstream gets none: gRPC servers answer pings
//! that come more often than every few minutes with GOAWAY (`too_many_pings`), and TCP keepalive
//! covers it.

use std::time::Duration;

use h2::{Ping, PingPong};
use tokio::time::{sleep, timeout};

/// Completes when the peer did not answer in time. `every` and `wait` are DEF-17's two values.
pub(super) async fn lost(mut pings: PingPong, (every, wait): (Duration, Duration)) {
    loop {
        sleep(every).await;
        match timeout(wait, pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                tracing::debug!(%error, "HTTP/2 ping not possible");
                return;
            }
            Err(_) => {
                tracing::debug!("HTTP/2 ping not answered");
                return;
            }
        }
    }
}
