//! What the demo takes from a sidecar's metrics: for each destination, how many requests ended well
//! and not, how long they took, over which security, and the retries and ejections.
//!
//! A sidecar counts from its start. [`Counts::since`] makes the increase between two pages of it; a
//! count that went down belongs to a sidecar that was started again, so all of it is new.

use std::collections::BTreeMap;

use super::exposition::Sample;

const DURATION_COUNT: &str = "outrigger_request_duration_seconds_count";
const DURATION_BUCKET: &str = "outrigger_request_duration_seconds_bucket";
const RETRIES: &str = "outrigger_retries_total";
const EJECTIONS: &str = "outrigger_ejections_total";
const EJECTED: &str = "outrigger_endpoints_ejected";

/// Which way traffic went through the sidecar that counted it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Direction {
    /// From the application to others.
    Outbound,
    /// To the application.
    Inbound,
}

/// What is counted together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) direction: Direction,
    /// Name of the destination service; `unknown` where none was chosen.
    pub(super) service: String,
    /// Subset of the destination; empty without one.
    pub(super) subset: String,
}

/// Counts of one [`Key`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Tally {
    /// Requests that ended well.
    pub(super) ok: u64,
    /// Requests that did not: 5xx, a gRPC server error, refused by the mesh, left by the client.
    pub(super) failed: u64,
    /// Requests over mutual TLS.
    pub(super) mutual: u64,
    /// Requests in plain text. With [`Tally::mutual`] not all of them: some reach no connection.
    pub(super) plain: u64,
    /// Further tries.
    pub(super) retries: u64,
    /// Endpoints taken out of balancing.
    pub(super) ejections: u64,
    /// How long requests took.
    pub(super) durations: Durations,
}

impl Tally {
    /// All requests.
    pub(super) const fn requests(&self) -> u64 {
        self.ok + self.failed
    }

    /// Adds what another counted.
    pub(super) fn add(&mut self, other: &Self) {
        self.ok += other.ok;
        self.failed += other.failed;
        self.mutual += other.mutual;
        self.plain += other.plain;
        self.retries += other.retries;
        self.ejections += other.ejections;
        self.durations.add(&other.durations);
    }

    fn since(&self, before: &Self) -> Self {
        Self {
            ok: increase(before.ok, self.ok),
            failed: increase(before.failed, self.failed),
            mutual: increase(before.mutual, self.mutual),
            plain: increase(before.plain, self.plain),
            retries: increase(before.retries, self.retries),
            ejections: increase(before.ejections, self.ejections),
            durations: self.durations.since(&before.durations),
        }
    }
}

const fn increase(before: u64, now: u64) -> u64 {
    match now.checked_sub(before) {
        Some(increase) => increase,
        None => now,
    }
}

/// A histogram of durations: cumulative counts by upper bound.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Durations {
    /// Upper bound in microseconds (`u64::MAX` for `+Inf`) to requests within it.
    within: BTreeMap<u64, u64>,
}

impl Durations {
    /// Of cumulative counts by upper bound in microseconds.
    #[cfg(test)]
    pub(super) fn of(within: impl IntoIterator<Item = (u64, u64)>) -> Self {
        Self {
            within: within.into_iter().collect(),
        }
    }

    fn add(&mut self, other: &Self) {
        for (bound, count) in &other.within {
            *self.within.entry(*bound).or_default() += count;
        }
    }

    fn since(&self, before: &Self) -> Self {
        let within = self.within.iter().map(|(bound, count)| {
            let before = before.within.get(bound).copied().unwrap_or_default();
            (*bound, increase(before, *count))
        });
        Self {
            within: within.collect(),
        }
    }

    /// The duration that a `share` (0 to 1) of the requests took at most, in milliseconds: linear
    /// within a bucket as Prometheus' `histogram_quantile`, the last bound for what is beyond it,
    /// `None` without requests.
    pub(super) fn quantile_ms(&self, share: f64) -> Option<f64> {
        let total = *self.within.values().next_back()?;
        if total == 0 {
            return None;
        }
        let rank = share.clamp(0.0, 1.0) * total as f64;
        let (mut bound_below, mut count_below) = (0, 0);
        for (&bound, &count) in &self.within {
            if bound == u64::MAX {
                break;
            }
            if count as f64 >= rank && count > count_below {
                let part = (rank - count_below as f64).max(0.0) / (count - count_below) as f64;
                let width = (bound - bound_below) as f64;
                return Some(part.mul_add(width, bound_below as f64) / 1e3);
            }
            (bound_below, count_below) = (bound, count);
        }
        Some(bound_below as f64 / 1e3)
    }
}

/// What one sidecar's page says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Counts {
    /// Counters by key.
    pub(super) tallies: BTreeMap<Key, Tally>,
    /// Endpoints out of balancing at present, by service.
    pub(super) ejected: BTreeMap<String, u64>,
}

impl Counts {
    /// Takes the samples that matter.
    pub(super) fn of(samples: &[Sample<'_>]) -> Self {
        let mut counts = Self::default();
        for sample in samples {
            counts.take(sample);
        }
        counts
    }

    fn take(&mut self, sample: &Sample<'_>) {
        let count = sample.count();
        let service = sample.label("destination_service_name");
        match sample.name {
            DURATION_COUNT => {
                let tally = self.tally(sample);
                match sample.label("outcome") {
                    "success" => tally.ok += count,
                    _ => tally.failed += count,
                }
                match sample.label("connection_security_policy") {
                    "mutual_tls" => tally.mutual += count,
                    "none" => tally.plain += count,
                    _ => {}
                }
            }
            DURATION_BUCKET => {
                let bound = bound_us(sample.label("le"));
                *self
                    .tally(sample)
                    .durations
                    .within
                    .entry(bound)
                    .or_default() += count;
            }
            RETRIES => self.tally(sample).retries += count,
            EJECTIONS => self.tally(sample).ejections += count,
            EJECTED => *self.ejected.entry(service.to_owned()).or_default() += count,
            _ => {}
        }
    }

    fn tally(&mut self, sample: &Sample<'_>) -> &mut Tally {
        // Retries and ejections have no direction: only what goes out is tried again.
        let direction = match sample.label("direction") {
            "inbound" => Direction::Inbound,
            _ => Direction::Outbound,
        };
        let key = Key {
            direction,
            service: sample.label("destination_service_name").to_owned(),
            subset: sample.label("destination_subset").to_owned(),
        };
        self.tallies.entry(key).or_default()
    }

    /// What was counted between `before` and this page of the same workload.
    pub(super) fn since(&self, before: &Self) -> Self {
        let none = Tally::default();
        let tallies = self.tallies.iter().map(|(key, tally)| {
            let before = before.tallies.get(key).unwrap_or(&none);
            (key.clone(), tally.since(before))
        });
        Self {
            tallies: tallies.collect(),
            ejected: self.ejected.clone(),
        }
    }
}

/// A bucket's bound in whole microseconds, read from its decimal digits: floats would not meet.
fn bound_us(le: &str) -> u64 {
    let (seconds, fraction) = le.split_once('.').unwrap_or((le, ""));
    let Ok(seconds) = seconds.parse::<u64>() else {
        return u64::MAX;
    };
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    seconds * 1_000_000 + micros.parse::<u64>().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::exposition;

    const BASE: &str = "direction=\"outbound\",destination_service_name=\"payments\"";

    fn page(ok: u64, failed: u64, retries: u64) -> Counts {
        let v2 = format!("{BASE},destination_subset=\"v2\"");
        let page = format!(
            "{DURATION_COUNT}{{{v2},connection_security_policy=\"mutual_tls\",outcome=\"success\"}} {ok}\n\
             {DURATION_COUNT}{{{v2},connection_security_policy=\"unknown\",outcome=\"failure\"}} {failed}\n\
             {DURATION_BUCKET}{{{v2},outcome=\"success\",le=\"0.0005\"}} 0\n\
             {DURATION_BUCKET}{{{v2},outcome=\"success\",le=\"1\"}} {ok}\n\
             {DURATION_BUCKET}{{{v2},outcome=\"success\",le=\"+Inf\"}} {ok}\n\
             {RETRIES}{{destination_service_name=\"payments\",destination_subset=\"v2\",cause=\"5xx\"}} {retries}\n\
             {EJECTED}{{destination_service_name=\"payments\",destination_subset=\"v2\"}} 1\n\
             unrelated_total{{{v2}}} 7\n"
        );
        Counts::of(&exposition::parse(&page).unwrap())
    }

    fn only(counts: &Counts) -> &Tally {
        assert_eq!(counts.tallies.len(), 1);
        counts.tallies.values().next().unwrap()
    }

    #[test]
    fn a_page_is_counted_by_destination() {
        let counts = page(8, 2, 3);
        let tally = only(&counts);
        assert_eq!((tally.ok, tally.failed, tally.requests()), (8, 2, 10));
        assert_eq!((tally.mutual, tally.plain, tally.retries), (8, 0, 3));
        assert_eq!(
            tally.durations,
            Durations::of([(500, 0), (1_000_000, 8), (u64::MAX, 8)])
        );
        assert_eq!(counts.ejected["payments"], 1);
    }

    #[test]
    fn the_increase_survives_a_restart_of_the_sidecar() {
        for (before, now, ok, failed, retries) in [
            (page(8, 2, 3), page(9, 2, 5), 1, 0, 2),
            (page(8, 2, 3), page(8, 2, 3), 0, 0, 0),
            (page(8, 2, 3), page(4, 1, 0), 4, 1, 0),
            (Counts::default(), page(8, 2, 3), 8, 2, 3),
        ] {
            let increase = now.since(&before);
            let tally = only(&increase);
            assert_eq!(
                (tally.ok, tally.failed, tally.retries),
                (ok, failed, retries)
            );
        }
    }

    #[test]
    fn quantiles_are_linear_within_a_bucket() {
        let durations = Durations::of([(1_000, 50), (2_000, 90), (10_000, 100), (u64::MAX, 100)]);
        for (share, ms) in [(0.25, 0.5), (0.5, 1.0), (0.7, 1.5), (0.9, 2.0), (1.0, 10.0)] {
            let found = durations.quantile_ms(share).unwrap();
            assert!((found - ms).abs() < 1e-9, "{share}: {found}");
        }
        let slow = Durations::of([(1_000, 0), (2_000, 0), (u64::MAX, 5)]);
        assert_eq!(slow.quantile_ms(0.5), Some(2.0));
        assert_eq!(Durations::default().quantile_ms(0.5), None);
        assert_eq!(Durations::of([(u64::MAX, 0)]).quantile_ms(0.5), None);
    }

    #[test]
    fn bounds_are_exact() {
        for (le, us) in [
            ("0.0005", 500),
            ("0.001", 1_000),
            ("0.25", 250_000),
            ("1", 1_000_000),
            ("60", 60_000_000),
            ("+Inf", u64::MAX),
        ] {
            assert_eq!(bound_us(le), us, "{le}");
        }
    }
}
