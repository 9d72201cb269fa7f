//! A place that traffic goes to, on the page: retries, ejections, who waits, and its connections.

use super::{
    super::{
        names,
        series::RetryCause,
        table::Totals,
        upstream::{Closed, ConnectionTotals},
    },
    Labels, Page, Value, direction,
};

impl Page {
    pub(super) fn target(&mut self, labels: &Labels, totals: &Totals) {
        let target = labels.target();
        for cause in RetryCause::ALL {
            let count = totals.retries.get(cause.index()).copied().unwrap_or(0);
            if count > 0 {
                self.push(
                    &names::RETRIES,
                    &target,
                    &[cause.slug()],
                    Value::Counter(count),
                );
            }
        }
        if totals.ejections > 0 {
            self.push(
                &names::EJECTIONS,
                &target,
                &[],
                Value::Counter(totals.ejections),
            );
            self.push(&names::EJECTED, &target, &[], Value::Gauge(totals.ejected));
        }
        if let Some(pending) = totals.pending {
            self.push(&names::PENDING, &target, &[], Value::Gauge(pending));
        }
        if let Some(connections) = &totals.connections {
            self.connections(labels, connections);
        }
    }

    fn connections(&mut self, labels: &Labels, totals: &ConnectionTotals) {
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
