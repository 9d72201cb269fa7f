//! From the sidecars' counts to what is shown: services, edges between them, and how canaries split.
//!
//! An edge is counted by the sidecars of the callers (outbound), a service by its own (inbound). What
//! is shown as a rate is the mean over the last [`FRAMES`] rounds; the sums since the start give
//! the summary. Pure: rounds come in with the time they cover, a [`View`] goes out.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::counts::{Counts, Direction, Key, Tally};
use super::load::Totals;

/// Rounds that rates are taken over: long enough that a 10 % canary gets some requests.
const FRAMES: usize = 5;

/// One sidecar's answer in a round of scraping.
#[derive(Debug, Clone)]
pub(super) struct Page {
    /// The workload's name.
    pub(super) workload: String,
    /// The service that it is part of.
    pub(super) service: String,
    /// Whether its application runs.
    pub(super) runs: bool,
    /// What it counted; `None` if it did not answer.
    pub(super) counts: Option<Counts>,
}

/// From whom to whom, by service.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Edge {
    pub(super) from: String,
    pub(super) to: String,
}

/// What was counted in some time, over all sidecars.
#[derive(Debug, Clone, Default)]
pub(super) struct Sums {
    services: BTreeMap<String, Tally>,
    edges: BTreeMap<Edge, Tally>,
    subsets: BTreeMap<(String, String), Tally>,
}

impl Sums {
    fn count(&mut self, caller: &str, key: &Key, tally: &Tally) {
        match key.direction {
            Direction::Inbound => self
                .services
                .entry(caller.to_owned())
                .or_default()
                .add(tally),
            Direction::Outbound => {
                let edge = Edge {
                    from: caller.to_owned(),
                    to: key.service.clone(),
                };
                self.edges.entry(edge).or_default().add(tally);
                if !key.subset.is_empty() {
                    let subset = (key.service.clone(), key.subset.clone());
                    self.subsets.entry(subset).or_default().add(tally);
                }
            }
        }
    }

    fn add(&mut self, other: &Self) {
        for (name, tally) in &other.services {
            self.services.entry(name.clone()).or_default().add(tally);
        }
        for (edge, tally) in &other.edges {
            self.edges.entry(edge.clone()).or_default().add(tally);
        }
        for (subset, tally) in &other.subsets {
            self.subsets.entry(subset.clone()).or_default().add(tally);
        }
    }

    /// Further tries of requests between services.
    pub(super) fn retries(&self) -> u64 {
        self.edges.values().map(|tally| tally.retries).sum()
    }

    /// Times that an endpoint was taken out of balancing.
    pub(super) fn ejections(&self) -> u64 {
        self.edges.values().map(|tally| tally.ejections).sum()
    }

    /// The share of requests between services that went over mutual TLS, of those that reached a
    /// connection; `None` if none did.
    pub(super) fn mtls_share(&self) -> Option<f64> {
        let mut all = Tally::default();
        self.edges.values().for_each(|tally| all.add(tally));
        share(all.mutual, all.mutual + all.plain)
    }

    /// The share of each subset in its service's requests, by `service/subset`.
    pub(super) fn split(&self) -> BTreeMap<String, f64> {
        let shares = self
            .subsets
            .iter()
            .filter_map(|((service, subset), tally)| {
                let share = share(tally.requests(), self.of_subsets(service))?;
                Some((format!("{service}/{subset}"), share))
            });
        shares.collect()
    }

    fn of_subsets(&self, service: &str) -> u64 {
        let of_service = self.subsets.iter().filter(|((name, _), _)| name == service);
        of_service.map(|(_, tally)| tally.requests()).sum()
    }
}

fn share(part: u64, whole: u64) -> Option<f64> {
    (whole > 0).then(|| part as f64 / whole as f64)
}

/// Rate and outcome of some requests over the last rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Flow {
    /// Requests a second.
    pub(super) rate: f64,
    /// Share that ended well, 0 to 1; `None` without requests, as the two below.
    pub(super) success: Option<f64>,
    /// Median time in milliseconds.
    pub(super) p50_ms: Option<f64>,
    /// 99th percentile in milliseconds.
    pub(super) p99_ms: Option<f64>,
}

impl Flow {
    fn of(tally: &Tally, elapsed: Duration) -> Self {
        Self {
            rate: rate(tally.requests(), elapsed),
            success: share(tally.ok, tally.requests()),
            p50_ms: tally.durations.quantile_ms(0.5),
            p99_ms: tally.durations.quantile_ms(0.99),
        }
    }
}

fn rate(count: u64, elapsed: Duration) -> f64 {
    let seconds = elapsed.as_secs_f64();
    if seconds > 0.0 {
        count as f64 / seconds
    } else {
        0.0
    }
}

/// A service: its instances as a whole.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct ServiceRow {
    pub(super) name: String,
    /// Instances whose application runs and whose sidecar answered in the last round, and all.
    pub(super) up: (usize, usize),
    pub(super) flow: Flow,
}

/// An edge between two services.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct EdgeRow {
    pub(super) edge: Edge,
    pub(super) flow: Flow,
    /// Share over mutual TLS, 0 to 1; `None` where no request reached a connection.
    pub(super) mtls: Option<f64>,
    /// Further tries a second.
    pub(super) retries: f64,
    /// Further tries since the start.
    pub(super) retries_total: u64,
    /// Endpoints out of balancing now, over the caller's sidecars.
    pub(super) ejected: u64,
    /// Ejections since the start.
    pub(super) ejections_total: u64,
}

/// How one service's requests split over its subsets.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct SplitRow {
    pub(super) service: String,
    /// Subset, share 0 to 1, success 0 to 1.
    pub(super) subsets: Vec<(String, f64, Option<f64>)>,
}

/// What the customers see.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct LoadRow {
    pub(super) flow: Flow,
    /// Requests that ended since the start.
    pub(super) requests: u64,
    /// Of them without a 2xx answer.
    pub(super) failed: u64,
    /// Requests that wait for an answer now.
    pub(super) in_flight: usize,
    /// Requests turned away since the start.
    pub(super) shed: u64,
    /// The last failure.
    pub(super) failure: Option<String>,
}

/// What is shown of the mesh.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct View {
    pub(super) load: LoadRow,
    pub(super) services: Vec<ServiceRow>,
    pub(super) edges: Vec<EdgeRow>,
    pub(super) splits: Vec<SplitRow>,
    /// Further tries since the start.
    pub(super) retries: u64,
    /// Ejections since the start.
    pub(super) ejections: u64,
    /// Share of requests over mutual TLS since the start.
    pub(super) mtls: Option<f64>,
}

/// Keeps the last pages and what was counted.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// Each workload's last page, to count on from.
    last: BTreeMap<String, Counts>,
    /// Instances that are up, and all, by service.
    up: BTreeMap<String, (usize, usize)>,
    ejected: BTreeMap<Edge, u64>,
    frames: VecDeque<(Duration, Sums)>,
    totals: Sums,
    /// The generator's numbers at the end of each frame, and before the first.
    loads: VecDeque<Totals>,
}

impl Board {
    /// Takes a round of pages and the generator's numbers; `elapsed` is the time since the round
    /// before.
    pub(super) fn take(&mut self, pages: Vec<Page>, load: Totals, elapsed: Duration) {
        let mut sums = Sums::default();
        let none = Counts::default();
        self.up.clear();
        self.ejected.clear();
        for page in pages {
            let (up, all) = self.up.entry(page.service.clone()).or_default();
            *all += 1;
            *up += usize::from(page.runs && page.counts.is_some());
            let Some(counts) = page.counts else { continue };
            let before = self.last.get(&page.workload).unwrap_or(&none);
            for (key, tally) in counts.since(before).tallies {
                sums.count(&page.service, &key, &tally);
            }
            for (to, count) in &counts.ejected {
                let edge = Edge {
                    from: page.service.clone(),
                    to: to.clone(),
                };
                *self.ejected.entry(edge).or_default() += count;
            }
            self.last.insert(page.workload, counts);
        }
        self.totals.add(&sums);
        self.frames.push_back((elapsed, sums));
        if self.frames.len() > FRAMES {
            self.frames.pop_front();
        }
        if self.loads.is_empty() {
            self.loads.push_back(Totals::default());
        }
        self.loads.push_back(load);
        if self.loads.len() > FRAMES + 1 {
            self.loads.pop_front();
        }
    }

    /// The generator's numbers in the last round.
    pub(super) fn load(&self) -> Totals {
        self.loads.back().cloned().unwrap_or_default()
    }

    /// All that was counted since the start.
    pub(super) const fn totals(&self) -> &Sums {
        &self.totals
    }

    /// What there is to show.
    pub(super) fn view(&self) -> View {
        let (mut elapsed, mut recent) = (Duration::ZERO, Sums::default());
        for (time, sums) in &self.frames {
            elapsed += *time;
            recent.add(sums);
        }
        View {
            load: self.load_row(elapsed),
            services: self.services(&recent, elapsed),
            edges: self.edges(&recent, elapsed),
            splits: splits(&recent),
            retries: self.totals.retries(),
            ejections: self.totals.ejections(),
            mtls: self.totals.mtls_share(),
        }
    }

    fn load_row(&self, elapsed: Duration) -> LoadRow {
        let (Some(before), Some(now)) = (self.loads.front(), self.loads.back()) else {
            return LoadRow::default();
        };
        let latency = now.latency.since(&before.latency);
        let requests = now.requests() - before.requests();
        LoadRow {
            flow: Flow {
                rate: rate(requests, elapsed),
                success: share(now.ok - before.ok, requests),
                p50_ms: (requests > 0).then(|| latency.quantile_ms(0.5)),
                p99_ms: (requests > 0).then(|| latency.quantile_ms(0.99)),
            },
            requests: now.requests(),
            failed: now.failed,
            in_flight: now.in_flight,
            shed: now.shed,
            failure: now.failure.clone(),
        }
    }

    fn services(&self, recent: &Sums, elapsed: Duration) -> Vec<ServiceRow> {
        let none = Tally::default();
        let rows = self.up.iter().filter_map(|(name, up)| {
            // Who only calls others has nothing to show here.
            self.totals.services.get(name)?;
            let tally = recent.services.get(name).unwrap_or(&none);
            Some(ServiceRow {
                name: name.clone(),
                up: *up,
                flow: Flow::of(tally, elapsed),
            })
        });
        rows.collect()
    }

    fn edges(&self, recent: &Sums, elapsed: Duration) -> Vec<EdgeRow> {
        let none = Tally::default();
        let rows = self.totals.edges.iter().map(|(edge, total)| {
            let tally = recent.edges.get(edge).unwrap_or(&none);
            EdgeRow {
                edge: edge.clone(),
                flow: Flow::of(tally, elapsed),
                mtls: share(tally.mutual, tally.mutual + tally.plain),
                retries: rate(tally.retries, elapsed),
                retries_total: total.retries,
                ejected: self.ejected.get(edge).copied().unwrap_or_default(),
                ejections_total: total.ejections,
            }
        });
        rows.collect()
    }
}

fn splits(recent: &Sums) -> Vec<SplitRow> {
    let mut rows: Vec<SplitRow> = Vec::new();
    for ((service, subset), tally) in &recent.subsets {
        let whole = recent.of_subsets(service);
        let part = share(tally.requests(), whole).unwrap_or_default();
        let entry = (subset.clone(), part, share(tally.ok, tally.requests()));
        match rows.last_mut() {
            Some(row) if row.service == *service => row.subsets.push(entry),
            _ => rows.push(SplitRow {
                service: service.clone(),
                subsets: vec![entry],
            }),
        }
    }
    rows
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::demo::counts::Durations;

    /// A page of order-service's sidecar `workload` with requests to payments by subset.
    fn page(workload: &str, v1: u64, v2: u64, plain: u64) -> Page {
        let key = |direction, service: &str, subset: &str| Key {
            direction,
            service: service.to_owned(),
            subset: subset.to_owned(),
        };
        let tally = |ok, failed| Tally {
            ok,
            failed,
            mutual: ok + failed,
            retries: failed,
            durations: Durations::of([(1_000, ok), (u64::MAX, ok + failed)]),
            ..Tally::default()
        };
        let mut counts = Counts::default();
        counts
            .tallies
            .insert(key(Direction::Outbound, "payments", "v1"), tally(v1, 0));
        counts
            .tallies
            .insert(key(Direction::Outbound, "payments", "v2"), tally(0, v2));
        let legacy = Tally {
            ok: plain,
            plain,
            ..Tally::default()
        };
        counts
            .tallies
            .insert(key(Direction::Outbound, "legacy", ""), legacy);
        counts
            .tallies
            .insert(key(Direction::Inbound, "order-service", ""), tally(v1, v2));
        counts.ejected.insert("payments".to_owned(), v2.min(1));
        Page {
            workload: workload.to_owned(),
            service: "order-service".to_owned(),
            runs: true,
            counts: Some(counts),
        }
    }

    fn load(ok: u64, failed: u64) -> Totals {
        Totals {
            ok,
            failed,
            ..Totals::default()
        }
    }

    fn second() -> Duration {
        Duration::from_secs(1)
    }

    fn close(left: f64, right: f64) -> bool {
        (left - right).abs() < 1e-9
    }

    #[test]
    fn callers_of_one_service_are_one_edge() {
        let mut board = Board::default();
        board.take(
            vec![page("a", 0, 0, 0), page("b", 0, 0, 0)],
            load(0, 0),
            second(),
        );
        board.take(
            vec![page("a", 60, 10, 0), page("b", 30, 0, 20)],
            load(150, 50),
            second(),
        );
        let view = board.view();
        let [legacy, payments] = &view.edges[..] else {
            panic!("{:?}", view.edges)
        };
        assert_eq!(legacy.edge.to, "legacy");
        assert_eq!((legacy.mtls, legacy.flow.success), (Some(0.0), Some(1.0)));
        assert_eq!(payments.edge.from, "order-service");
        assert!(close(payments.flow.rate, 50.0), "100 in two seconds");
        assert!(close(payments.flow.success.unwrap(), 0.9));
        assert_eq!((payments.mtls, payments.retries_total), (Some(1.0), 10));
        assert!(close(payments.retries, 5.0));
        assert_eq!(payments.ejected, 1);
        let [service] = &view.services[..] else {
            panic!("{:?}", view.services)
        };
        assert_eq!(
            (service.name.as_str(), service.up),
            ("order-service", (2, 2))
        );
        assert!(close(service.flow.rate, 50.0));
        let [split] = &view.splits[..] else {
            panic!("{:?}", view.splits)
        };
        assert_eq!(
            split.subsets,
            [
                ("v1".to_owned(), 0.9, Some(1.0)),
                ("v2".to_owned(), 0.1, Some(0.0))
            ]
        );
        assert_eq!((view.load.requests, view.load.failed), (200, 50));
        assert!(close(view.load.flow.rate, 100.0));
        assert_eq!(view.load.flow.success, Some(0.75));
        let totals = board.totals();
        assert_eq!(totals.split()["payments/v2"], 0.1);
        assert!(close(totals.mtls_share().unwrap(), 100.0 / 120.0));
        assert_eq!(totals.retries(), 10);
    }

    #[test]
    fn rates_are_recent_and_totals_are_not() {
        let mut board = Board::default();
        for _ in 0..=FRAMES {
            board.take(vec![page("a", 100, 0, 0)], load(0, 0), second());
        }
        let view = board.view();
        assert!(close(view.edges[1].flow.rate, 0.0));
        assert_eq!(view.edges[1].flow.success, None);
        assert_eq!(board.totals().split()["payments/v1"], 1.0);
    }

    #[test]
    fn a_sidecar_that_does_not_answer_is_down_and_counts_on_later() {
        let mut board = Board::default();
        board.take(vec![page("a", 10, 0, 0)], load(0, 0), second());
        let silent = Page {
            counts: None,
            ..page("a", 0, 0, 0)
        };
        board.take(vec![silent], load(0, 0), second());
        assert_eq!(board.view().services[0].up, (0, 1));
        let idle = Page {
            runs: false,
            ..page("a", 12, 0, 0)
        };
        board.take(vec![idle], load(0, 0), second());
        assert_eq!(board.view().services[0].up, (0, 1));
        board.take(vec![page("a", 15, 0, 0)], load(0, 0), second());
        assert_eq!(board.view().services[0].up, (1, 1));
        let retained = &board.totals().edges.values().last().unwrap().ok;
        assert_eq!(*retained, 15);
        board.take(vec![page("a", 3, 0, 0)], load(0, 0), second());
        assert_eq!(board.totals().edges.values().last().unwrap().ok, 18);
    }
}
