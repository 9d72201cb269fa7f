//! How a cluster's endpoints are, for whoever looks from outside.

use std::{net::SocketAddr, time::Instant};

use outrigger_policy::{balance::EndpointLoad, outlier::Standing};

use super::{Cluster, Member};

/// One endpoint, as its worker sees it, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EndpointReport {
    /// Where it is.
    pub address: SocketAddr,
    /// Outlier detection's opinion.
    pub standing: Standing,
    /// Attempts in flight.
    pub outstanding: u32,
    /// The latency estimate, seconds; `None` before the first answer.
    pub latency: Option<f64>,
}

impl EndpointReport {
    /// Whether it gets traffic as the others do.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        match self.standing {
            Standing::Healthy { .. } => true,
            Standing::Ejected { .. } | Standing::Probing { .. } => false,
        }
    }
}

impl Cluster {
    /// Every endpoint with its health and load.
    #[must_use]
    pub fn report(&self, now: Instant) -> Vec<EndpointReport> {
        let state = self.state.borrow();
        let known = state.members.iter().map(Member::known);
        let standings = self.shared.outliers.standings(known, now);
        let report =
            |((member, load), standing): ((&Member, &EndpointLoad), Standing)| EndpointReport {
                address: member.endpoint.address,
                standing,
                outstanding: load.outstanding(),
                latency: load.estimated_seconds(now),
            };
        let members = state.members.iter().zip(&state.loads).zip(standings);
        members.map(report).collect()
    }
}
