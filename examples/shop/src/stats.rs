//! The requests that really reached an application, so that what a mesh did can be counted.
//!
//! `GET /_stats` answers a [`Stats`]; `DELETE /_stats` starts from zero. Health, control and count
//! requests do not count. A request whose caller left before the answer ends as `abandoned`.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use serde::{Deserialize, Serialize};

/// Paths counted by name; callers choose paths, so the rest share one entry.
const PATHS_MAX: usize = 64;
/// Attempts counted by number, for the same reason.
const ATTEMPTS_MAX: usize = 16;
const OTHER: &str = "other";

/// What one application has served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// The application's role.
    pub role: String,
    /// The application's version.
    pub version: String,
    /// All requests that began.
    pub requests: u64,
    /// Requests without an answer yet.
    pub in_flight: u64,
    /// The most at one time.
    pub in_flight_max: u64,
    /// Connections, with those that carried only control requests.
    pub connections: Connections,
    /// By path; at most 64, then `other`.
    pub paths: BTreeMap<String, PathStats>,
}

/// Connections to one application.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connections {
    /// Accepted so far.
    pub accepted: u64,
    /// Open now.
    pub open: u64,
    /// The most at one time.
    pub open_max: u64,
}

/// What one path of an application has served.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathStats {
    /// Requests that began.
    pub requests: u64,
    /// How they ended: an HTTP status as `200`, a gRPC status as `grpc-14`, or `abandoned`.
    pub outcomes: BTreeMap<String, u64>,
    /// By the number in the attempt header (`x-outrigger-attempt` or `x-envoy-attempt-count`), if
    /// there was one.
    pub attempts: BTreeMap<String, u64>,
}

/// The counters of one application. Owner: the application; each request writes under the lock,
/// which is held for a few map operations and never across an await.
#[derive(Debug)]
pub(crate) struct Counter(Mutex<Stats>);

impl Counter {
    pub(crate) fn new(role: &str, version: &str) -> Self {
        Self(Mutex::new(Stats {
            role: role.to_owned(),
            version: version.to_owned(),
            ..Stats::default()
        }))
    }

    pub(crate) fn read(&self) -> Stats {
        self.lock().clone()
    }

    /// Starts from zero; what is open or in flight stays.
    pub(crate) fn reset(&self) {
        let mut stats = self.lock();
        let (in_flight, open) = (stats.in_flight, stats.connections.open);
        *stats = Stats {
            role: std::mem::take(&mut stats.role),
            version: std::mem::take(&mut stats.version),
            in_flight,
            in_flight_max: in_flight,
            connections: Connections {
                accepted: 0,
                open,
                open_max: open,
            },
            ..Stats::default()
        };
    }

    /// Counts a connection as open until the guard goes.
    pub(crate) fn connected(&self) -> impl Drop + use<'_> {
        let mut stats = self.lock();
        let connections = &mut stats.connections;
        connections.accepted += 1;
        connections.open += 1;
        connections.open_max = connections.open_max.max(connections.open);
        Connected(self)
    }

    /// Counts a request as in flight until it ends, or until the guard goes: then as abandoned.
    pub(crate) fn begin(&self, path: &str, attempt: Option<&str>) -> InFlight<'_> {
        let mut stats = self.lock();
        stats.requests += 1;
        stats.in_flight += 1;
        stats.in_flight_max = stats.in_flight_max.max(stats.in_flight);
        let path = slot(&stats.paths, path, PATHS_MAX);
        let of_path = stats.paths.entry(path.clone()).or_default();
        of_path.requests += 1;
        if let Some(attempt) = attempt {
            let attempt = slot(&of_path.attempts, attempt, ATTEMPTS_MAX);
            *of_path.attempts.entry(attempt).or_default() += 1;
        }
        InFlight {
            counter: self,
            path,
            outcome: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, Stats> {
        // Counts stay usable whatever a panicking request left behind.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The key to count under: `key`, or [`OTHER`] when the map is full.
fn slot<V>(map: &BTreeMap<String, V>, key: &str, max: usize) -> String {
    if map.contains_key(key) || map.len() < max {
        key.to_owned()
    } else {
        OTHER.to_owned()
    }
}

struct Connected<'a>(&'a Counter);

impl Drop for Connected<'_> {
    fn drop(&mut self) {
        self.0.lock().connections.open -= 1;
    }
}

/// A request that has begun.
#[derive(Debug)]
pub(crate) struct InFlight<'a> {
    counter: &'a Counter,
    path: String,
    outcome: Option<String>,
}

impl InFlight<'_> {
    pub(crate) fn end(mut self, outcome: String) {
        self.outcome = Some(outcome);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        let outcome = self
            .outcome
            .take()
            .unwrap_or_else(|| "abandoned".to_owned());
        let mut stats = self.counter.lock();
        stats.in_flight -= 1;
        let path = std::mem::take(&mut self.path);
        let of_path = stats.paths.entry(path).or_default();
        *of_path.outcomes.entry(outcome).or_default() += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_end_once_and_those_left_are_abandoned() {
        let counter = Counter::new("orders", "v1");
        let first = counter.begin("/orders", Some("1"));
        let second = counter.begin("/orders", Some("2"));
        assert_eq!(counter.read().in_flight, 2);
        first.end("200".to_owned());
        drop(second);
        let stats = counter.read();
        assert_eq!(
            (stats.requests, stats.in_flight, stats.in_flight_max),
            (2, 0, 2)
        );
        let path = &stats.paths["/orders"];
        assert_eq!(path.outcomes["200"], 1);
        assert_eq!(path.outcomes["abandoned"], 1);
        assert_eq!((path.attempts["1"], path.attempts["2"]), (1, 1));
    }

    #[test]
    fn paths_are_bounded() {
        let counter = Counter::new("orders", "v1");
        for n in 0..100 {
            counter.begin(&format!("/{n}"), None).end("404".to_owned());
        }
        let stats = counter.read();
        assert_eq!(stats.requests, 100);
        assert_eq!(stats.paths.len(), PATHS_MAX + 1);
        assert_eq!(stats.paths[OTHER].requests, 36);
    }

    #[test]
    fn a_reset_keeps_what_is_open() {
        let counter = Counter::new("orders", "v1");
        let connection = counter.connected();
        let request = counter.begin("/orders", None);
        counter.reset();
        let stats = counter.read();
        assert_eq!((stats.requests, stats.in_flight), (0, 1));
        assert_eq!((stats.connections.accepted, stats.connections.open), (0, 1));
        request.end("200".to_owned());
        drop(connection);
        assert_eq!(counter.read().connections.open, 0);
    }
}
