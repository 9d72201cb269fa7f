//! What the whole mesh shares: roots and settings.

use std::{sync::Arc, time::Duration};

use crate::{Hostname, Ratio, TrustDomain};

/// Root certificates of a trust domain: old and new while a root rotates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustBundle {
    /// Key.
    pub trust_domain: TrustDomain,
    /// DER certificates, sorted, at least one.
    pub roots: Vec<Arc<[u8]>>,
}

/// Settings of every sidecar. The key is always `mesh`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MeshSettings {
    /// Trust domain of identities.
    pub trust_domain: TrustDomain,
    /// Suffix of service names, `cluster.local` by default.
    pub cluster_domain: Hostname,
    /// What is logged.
    pub access_log: AccessLog,
    /// Where spans go.
    pub tracing: Tracing,
    /// How long work in flight may take to end after SIGTERM.
    pub drain_timeout: Duration,
}

impl MeshSettings {
    /// What holds where nothing is configured: `cluster.local`, failures logged, no tracing, a
    /// drain of 10 s.
    ///
    /// # Panics
    /// Never: the constant host name is valid (tested).
    #[must_use]
    pub fn defaults(trust_domain: TrustDomain) -> Self {
        Self {
            trust_domain,
            cluster_domain: Hostname::parse("cluster.local").expect("a constant valid host name"),
            access_log: AccessLog::Failures,
            tracing: Tracing::Off,
            drain_timeout: Duration::from_secs(10),
        }
    }
}

/// Which requests get an access log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AccessLog {
    /// None.
    Off,
    /// 5xx, resets and refusals by the mesh: the default (DESIGN §7).
    Failures,
    /// All.
    All,
}

/// Trace export.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Tracing {
    /// Trace context is passed on, nothing is recorded.
    Off,
    /// Spans are sent to an OTLP receiver over gRPC.
    Otlp {
        /// `http://host:port`.
        endpoint: String,
        /// Share of traces started here that are recorded; a caller's decision is kept.
        sampling: Ratio,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_exist() {
        let settings = MeshSettings::defaults(TrustDomain::parse("cluster.local").unwrap());
        assert_eq!(settings.cluster_domain.as_str(), "cluster.local");
    }
}
