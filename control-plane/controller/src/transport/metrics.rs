//! What the listener counts.

use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

use super::HandshakeRefusal;

/// Counters of the control plane's listener, resolved once.
#[derive(Debug, Clone)]
pub struct TransportMetrics {
    pub(super) handshakes_ok: IntCounter,
    pub(super) handshakes_timeout: IntCounter,
    pub(super) handshakes_tls: IntCounter,
    pub(super) handshakes_identity: IntCounter,
    pub(super) certificate_expiry: IntGauge,
    pub(super) renewals_failed: IntCounter,
}

impl TransportMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::of(registry, "control", "the control plane's gRPC port")
    }

    /// The same for the port that the API server calls.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register_webhook(registry: &Registry) -> Result<Self, prometheus::Error> {
        Self::of(registry, "webhook", "the webhook's port")
    }

    fn of(registry: &Registry, name: &str, what: &str) -> Result<Self, prometheus::Error> {
        let handshakes = IntCounterVec::new(
            Opts::new(
                format!("outrigger_{name}_handshakes_total"),
                format!("TLS handshakes on {what}, by result."),
            ),
            &["result"],
        )?;
        let certificate_expiry = IntGauge::new(
            format!("outrigger_{name}_certificate_expiry_timestamp_seconds"),
            format!("When the certificate of {what} ends, in Unix seconds."),
        )?;
        let renewals_failed = IntCounter::new(
            format!("outrigger_{name}_certificate_renewal_failures_total"),
            format!("Failed renewals of the certificate of {what}."),
        )?;
        registry.register(Box::new(handshakes.clone()))?;
        registry.register(Box::new(certificate_expiry.clone()))?;
        registry.register(Box::new(renewals_failed.clone()))?;
        Ok(Self {
            handshakes_ok: handshakes.with_label_values(&["ok"]),
            handshakes_timeout: handshakes.with_label_values(&["timeout"]),
            handshakes_tls: handshakes.with_label_values(&["tls"]),
            handshakes_identity: handshakes.with_label_values(&["identity"]),
            certificate_expiry,
            renewals_failed,
        })
    }

    pub(super) fn refused(&self, refusal: &HandshakeRefusal) {
        match refusal {
            HandshakeRefusal::Timeout => self.handshakes_timeout.inc(),
            HandshakeRefusal::Tls(_) => self.handshakes_tls.inc(),
            HandshakeRefusal::Identity => self.handshakes_identity.inc(),
        }
    }
}
