//! `outrigger-proxy wait`: ends when the sidecar beside it is ready. For clusters without native
//! sidecars, where the kubelet starts the next container once this returned.

use std::{net::IpAddr, time::Duration};

use anyhow::Context;
use tokio::{
    runtime::Builder,
    time::{Instant, sleep, timeout_at},
};

use crate::{
    admin::application::get,
    bootstrap::{Bootstrap, Source},
};

/// Between two questions.
const PAUSE: Duration = Duration::from_millis(100);
/// Bytes of the answer.
const ANSWER_MAX: usize = 64 << 10;

/// Asks the sidecar of this bootstrap until it is ready. Blocks, at most for `limit`.
///
/// # Errors
/// When it is not ready in time; says what it last answered.
pub fn run(source: &Source, limit: Duration) -> anyhow::Result<()> {
    let bootstrap = Bootstrap::read(source)?;
    let mut address = bootstrap.file.health.unwrap_or(bootstrap.file.admin);
    if address.ip().is_unspecified() {
        address.set_ip(IpAddr::from([127, 0, 0, 1]));
    }
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start a runtime")?;
    runtime.block_on(async {
        let until = Instant::now() + limit;
        let mut last = String::from("no answer");
        loop {
            let asking = get(address, ("/ready", ANSWER_MAX), &[]);
            match timeout_at(until, asking).await {
                Ok(Ok((status, _))) if status.is_success() => return Ok(()),
                Ok(Ok((_, body))) => last = String::from_utf8_lossy(&body).into_owned(),
                Ok(Err(error)) => last = error,
                Err(_) => anyhow::bail!("the sidecar is not ready after {limit:?}: {last}"),
            }
            if timeout_at(until, sleep(PAUSE)).await.is_err() {
                anyhow::bail!("the sidecar is not ready after {limit:?}: {last}");
            }
        }
    })
}
