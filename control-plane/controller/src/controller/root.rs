//! The end of the root (DEF-28): with it every certificate of the mesh ends, so it is told early.
//!
//! `outrigger_control_root_expiry_timestamp_seconds` says when; from sixty days before, the log
//! says so when the control plane starts and once a day.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use outrigger_ca::CertificateAuthority;
use prometheus::{IntGauge, Registry};
use tokio::time::{MissedTickBehavior, interval};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Registers the metric.
pub(super) fn show(
    authority: &CertificateAuthority,
    registry: &Registry,
) -> Result<(), prometheus::Error> {
    let expiry = IntGauge::new(
        "outrigger_control_root_expiry_timestamp_seconds",
        "When the root of the mesh, or an issuer above it, ends, in Unix seconds.",
    )?;
    registry.register(Box::new(expiry.clone()))?;
    let end = authority.root_not_after();
    let seconds = end.duration_since(SystemTime::UNIX_EPOCH);
    let seconds = seconds.map_or(0, |since| since.as_secs());
    expiry.set(i64::try_from(seconds).unwrap_or(i64::MAX));
    Ok(())
}

/// Warns now and once a day, for ever. Cancel safe: yes, drop it to stop.
pub(super) async fn warn(authority: Arc<CertificateAuthority>) {
    let mut days = interval(DAY);
    days.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        days.tick().await;
        match authority.root_ends_soon(SystemTime::now()) {
            Some(Duration::ZERO) => {
                tracing::error!(
                    "the root of the mesh has ended: no certificate can be issued or verified; replace it now"
                );
            }
            Some(left) => {
                let days_left = left.as_secs() / DAY.as_secs();
                tracing::warn!(
                    days_left,
                    "the root of the mesh ends soon, and every certificate with it; replace it"
                );
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Mutex, PoisonError},
    };

    use outrigger_model::TrustDomain;
    use tokio::time::timeout;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    /// What a subscriber of the present thread writes.
    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Log {
        fn count(&self, text: &str) -> usize {
            let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            String::from_utf8_lossy(&bytes).matches(text).count()
        }
    }

    impl io::Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let mut log = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            log.extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// A root that has `left` of its year, and what is logged of it in three days.
    async fn three_days(left: Duration) -> Log {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let made = SystemTime::now() + left - 365 * DAY;
        let authority =
            CertificateAuthority::open_or_create_at(folder.path(), domain, made).unwrap();
        let log = Log::default();
        let writer = log.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(move || writer.clone())
            .finish();
        let guard = tracing::subscriber::set_default(subscriber);
        // The first at once, then one a day.
        let watched = timeout(3 * DAY - HOUR, warn(Arc::new(authority))).await;
        assert!(watched.is_err(), "it never ends");
        drop(guard);
        log
    }

    #[tokio::test(start_paused = true)]
    async fn a_root_near_its_end_is_told_at_start_and_daily() {
        let log = three_days(30 * DAY).await;
        assert_eq!(log.count("the root of the mesh ends soon"), 3);
        assert_eq!(log.count("days_left=29"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_root_that_ended_is_an_error() {
        let log = three_days(Duration::ZERO).await;
        assert_eq!(log.count("ERROR"), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_root_with_time_left_is_no_news() {
        let log = three_days(70 * DAY).await;
        assert_eq!(log.count("root of the mesh"), 0);
    }

    #[test]
    fn the_end_is_a_metric() {
        let folder = tempfile::tempdir().unwrap();
        let domain = TrustDomain::parse("cluster.local").unwrap();
        let authority = CertificateAuthority::open_or_create(folder.path(), domain).unwrap();
        let registry = Registry::new();
        show(&authority, &registry).unwrap();
        let families = registry.gather();
        let shown = families[0].get_metric()[0].get_gauge().get_value();
        let end = authority.root_not_after();
        let expected = end.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert!((shown - expected.as_secs_f64()).abs() < 1.0, "{shown}");
    }
}
