//! What the certificate service counts.

use prometheus::{IntCounter, IntCounterVec, Opts, Registry};

/// Counters of the certificate service.
#[derive(Debug, Clone)]
pub struct IdentityMetrics {
    /// Certificates issued.
    pub issued: IntCounter,
    refused: IntCounterVec,
}

impl IdentityMetrics {
    /// Makes and registers them.
    ///
    /// # Errors
    /// When the registry has metrics of these names already.
    pub fn register(registry: &Registry) -> Result<Self, prometheus::Error> {
        let issued = IntCounter::new(
            "outrigger_ca_certificates_issued_total",
            "Certificates issued to workloads.",
        )?;
        let refused = IntCounterVec::new(
            Opts::new(
                "outrigger_ca_certificates_refused_total",
                "Requests for a certificate that were refused, by reason.",
            ),
            &["reason"],
        )?;
        registry.register(Box::new(issued.clone()))?;
        registry.register(Box::new(refused.clone()))?;
        Ok(Self { issued, refused })
    }

    /// Refusals for one reason so far.
    #[must_use]
    pub fn refusals(&self, reason: &str) -> u64 {
        self.refused.with_label_values(&[reason]).get()
    }

    /// Refusals are rare, and their reasons a fixed set: the look-up by label is cheap enough.
    pub(super) fn refused(&self, reason: &'static str) {
        self.refused.with_label_values(&[reason]).inc();
    }
}
