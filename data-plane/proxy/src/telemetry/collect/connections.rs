//! Connections to endpoints on the page: for each place that traffic goes to, how many there are, what
//! they carry, and what ended them.

use super::{
    super::{
        names,
        upstream::{Closed, ConnectionTotals},
    },
    Labels, Page, Value, direction,
};

impl Page {
    pub(super) fn connections(&mut self, labels: &Labels, totals: &ConnectionTotals) {
        let [service, namespace, port, subset] = labels.target();
        let place = [
            direction(labels.direction),
            service,
            namespace,
            port,
            subset,
        ];
        for (metric, value) in [
            (&names::UPSTREAM_OPENED, Value::Counter(totals.opened)),
            (&names::UPSTREAM_ACTIVE, Value::Gauge(totals.active)),
            (&names::UPSTREAM_IDLE, Value::Gauge(totals.idle)),
            (&names::UPSTREAM_SENT, Value::Counter(totals.sent)),
            (&names::UPSTREAM_RECEIVED, Value::Counter(totals.received)),
        ] {
            self.push(metric, &place, &[], value);
        }
        for cause in Closed::ALL {
            let count = totals.closed.get(cause.index()).copied().unwrap_or(0);
            if count > 0 {
                let value = Value::Counter(count);
                self.push(&names::UPSTREAM_CLOSED, &place, &[cause.slug()], value);
            }
        }
    }
}
