//! What one run comes to: the last line of output, and the figures of each second before it.

use std::collections::BTreeMap;

use serde::Serialize;

use super::board::Sums;
use super::load::Totals;

/// `{"event":"summary",…}`, the last line of a run; `{"event":"load",…}` with the figures so far.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Summary {
    event: &'static str,
    /// Requests of the generator that ended.
    requests: u64,
    /// Share of them with a 2xx answer, rounded down: 1.0 means that none failed.
    success_rate: f64,
    /// Share of each subset, by `service/subset`, by the callers' sidecars.
    split: BTreeMap<String, f64>,
    /// Further tries, by all sidecars.
    retries: u64,
    /// Share of requests between sidecars over mutual TLS, rounded down.
    mtls_share: f64,
    /// Median and 99th percentile of the generator's latency in milliseconds.
    p50_ms: f64,
    p99_ms: f64,
    /// Times that an endpoint was taken out of balancing; left out while there was none.
    #[serde(skip_serializing_if = "is_zero")]
    ejections: u64,
    /// Requests that were due and not sent, because too many were waiting; left out likewise.
    #[serde(skip_serializing_if = "is_zero")]
    shed: u64,
}

impl Summary {
    /// Of all that was sent and counted.
    pub(super) fn end(load: &Totals, sums: &Sums) -> Self {
        Self::of("summary", load, sums)
    }

    /// The same, while it goes on.
    pub(super) fn so_far(load: &Totals, sums: &Sums) -> Self {
        Self::of("load", load, sums)
    }

    fn of(event: &'static str, load: &Totals, sums: &Sums) -> Self {
        let requests = load.requests();
        let success_rate = if requests == 0 {
            0.0
        } else {
            load.ok as f64 / requests as f64
        };
        let split = sums.split().into_iter();
        Self {
            event,
            requests,
            success_rate: down(success_rate),
            split: split.map(|(name, share)| (name, round(share))).collect(),
            retries: sums.retries(),
            mtls_share: down(sums.mtls_share().unwrap_or_default()),
            p50_ms: round(load.latency.quantile_ms(0.5)),
            p99_ms: round(load.latency.quantile_ms(0.99)),
            ejections: sums.ejections(),
            shed: load.shed,
        }
    }

    /// Whether the run measured anything: requests of the generator, and the sidecars' counts.
    pub(super) fn measured(&self) -> bool {
        self.requests > 0 && !self.split.is_empty()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

fn round(value: f64) -> f64 {
    (value * 1e3).round() / 1e3
}

fn down(share: f64) -> f64 {
    (share * 1e4).floor() / 1e4
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::demo::board::{Board, Page};
    use crate::demo::counts::{Counts, Direction, Key, Tally};

    fn sums(subsets: &[(&str, u64)], plain: u64) -> Board {
        let tallies = subsets.iter().map(|(subset, ok)| {
            let key = Key {
                direction: Direction::Outbound,
                service: "payments".to_owned(),
                subset: (*subset).to_owned(),
            };
            let tally = Tally {
                ok: *ok,
                mutual: ok - plain,
                plain,
                retries: 1,
                ..Tally::default()
            };
            (key, tally)
        });
        let page = Page {
            workload: "order-v1".to_owned(),
            service: "order-service".to_owned(),
            runs: true,
            counts: Some(Counts {
                tallies: tallies.collect(),
                ejected: BTreeMap::new(),
            }),
        };
        let mut board = Board::default();
        board.take(vec![page], Totals::default(), Duration::from_secs(1));
        board
    }

    #[test]
    fn the_last_line_has_the_documented_fields_in_order() {
        let mut load = Totals {
            ok: 100,
            ..Totals::default()
        };
        load.latency.add(Duration::from_micros(15));
        let board = sums(&[("v1", 90), ("v2", 10)], 0);
        let summary = Summary::end(&load, board.totals());
        assert!(summary.measured());
        assert_eq!(
            serde_json::to_string(&summary).unwrap(),
            "{\"event\":\"summary\",\"requests\":100,\"success_rate\":1.0,\
             \"split\":{\"payments/v1\":0.9,\"payments/v2\":0.1},\"retries\":2,\"mtls_share\":1.0,\
             \"p50_ms\":0.015,\"p99_ms\":0.015}"
        );
    }

    #[test]
    fn one_failure_or_one_plain_request_is_not_rounded_away() {
        let load = Totals {
            ok: 99_999,
            failed: 1,
            ..Totals::default()
        };
        let board = sums(&[("v1", 99_999)], 1);
        let summary = Summary::so_far(&load, board.totals());
        assert!(summary.success_rate < 1.0);
        assert!(summary.mtls_share < 1.0);
        assert_eq!(summary.event, "load");
    }

    #[test]
    fn nothing_measured_is_seen() {
        let nothing = Board::default();
        let summary = Summary::end(&Totals::default(), nothing.totals());
        assert!(!summary.measured());
    }
}
