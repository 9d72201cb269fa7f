//! Reads the metrics of all sidecars, all at one time.

use std::time::Duration;

use bytes::Bytes;
use http::Request;
use http_body_util::Full;
use tokio::task::JoinSet;

use super::board::Page;
use super::client::{Client, ClientError};
use super::counts::Counts;
use super::exposition::{self, ParseError};

/// Below the interval of rounds, so that a sidecar which does not answer delays no other.
const TIMEOUT: Duration = Duration::from_millis(800);

/// A sidecar to ask.
#[derive(Debug, Clone)]
pub(super) struct Source {
    /// Name of the workload.
    pub(super) workload: String,
    /// The service that it is part of.
    pub(super) service: String,
    /// URL of its admin address, as `http://127.1.0.1:15020`.
    pub(super) admin: String,
    /// Whether its application runs.
    pub(super) runs: bool,
}

#[derive(Debug, thiserror::Error)]
enum ScrapeError {
    #[error(transparent)]
    Request(#[from] http::Error),
    #[error(transparent)]
    Client(#[from] ClientError),
    #[error("status {0}")]
    Status(u16),
    #[error(transparent)]
    Parse(#[from] ParseError),
}

/// Asks all; who does not answer in time, or not with metrics, has no counts in its page.
pub(super) async fn round(client: &Client, sources: &[Source]) -> Vec<Page> {
    let mut asked = JoinSet::new();
    for source in sources {
        let (client, source) = (client.clone(), source.clone());
        asked.spawn(async move {
            let counts = counts(&client, &source.admin).await;
            if let Err(error) = &counts {
                tracing::debug!(workload = %source.workload, %error, "no metrics");
            }
            Page {
                workload: source.workload,
                service: source.service,
                runs: source.runs,
                counts: counts.ok(),
            }
        });
    }
    asked.join_all().await
}

async fn counts(client: &Client, admin: &str) -> Result<Counts, ScrapeError> {
    let request = Request::get(format!("{admin}/metrics")).body(Full::new(Bytes::new()))?;
    let answer = client.send(request, TIMEOUT).await?;
    if !answer.status().is_success() {
        return Err(ScrapeError::Status(answer.status().as_u16()));
    }
    let page = String::from_utf8_lossy(answer.body());
    Ok(Counts::of(&exposition::parse(&page)?))
}
