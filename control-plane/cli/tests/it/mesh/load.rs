//! Steady load through a sidecar, in which nothing may fail.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread::{self, JoinHandle},
    time::Duration,
};

use outrigger_tests::{
    eventually,
    http1::{Connection, Reply},
};

/// Between two requests of one connection: load, and not a benchmark.
const PAUSE: Duration = Duration::from_millis(4);

/// Requests over some connections, one after the other on each.
pub(crate) struct Load {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    connections: Vec<JoinHandle<Vec<String>>>,
}

impl Load {
    pub(crate) fn start(address: SocketAddr, target: &str, connections: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let connections = (0..connections).map(|_| {
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            let target = target.to_owned();
            thread::spawn(move || one(address, &target, &stop, &done))
        });
        Self {
            connections: connections.collect(),
            stop,
            done,
        }
    }

    /// Waits until this many more have been answered.
    pub(crate) fn more(&self, requests: u64) {
        let aim = self.done.load(Ordering::Relaxed) + requests;
        eventually("load goes on", || self.done.load(Ordering::Relaxed) >= aim);
    }

    /// Stops, and proves that nothing failed. Returns how many were answered.
    pub(crate) fn end_without_failure(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        let failures: Vec<String> = self
            .connections
            .into_iter()
            .flat_map(|connection| connection.join().unwrap())
            .collect();
        let answered = self.done.load(Ordering::Relaxed);
        assert!(
            failures.is_empty(),
            "{} of {answered} failed: {:#?}",
            failures.len(),
            failures.iter().take(10).collect::<Vec<_>>()
        );
        answered
    }
}

fn one(address: SocketAddr, target: &str, stop: &AtomicBool, done: &AtomicU64) -> Vec<String> {
    let mut failures = Vec::new();
    let mut connection = Connection::open(address).unwrap();
    while !stop.load(Ordering::Relaxed) {
        match connection.exchange("GET", target, &[]) {
            Ok(reply) => {
                if reply.status != 200 {
                    failures.push(format!("{} {}", reply.status, reply.reason()));
                }
                if reply.header("connection") == "close" {
                    connection = Connection::open(address).unwrap();
                }
            }
            Err(error) => {
                failures.push(error.to_string());
                connection = Connection::open(address).unwrap();
            }
        }
        done.fetch_add(1, Ordering::Relaxed);
        thread::park_timeout(PAUSE);
    }
    failures
}

/// `count` GETs over a few connections at once; the answers.
pub(crate) fn gets(
    address: SocketAddr,
    target: &str,
    count: usize,
    connections: usize,
) -> Vec<Reply> {
    thread::scope(|scope| {
        let parts: Vec<_> = (0..connections)
            .map(|_| {
                scope.spawn(|| {
                    let mut connection = Connection::open(address).unwrap();
                    let get = |_| connection.exchange("GET", target, &[]).unwrap();
                    (0..count / connections).map(get).collect::<Vec<_>>()
                })
            })
            .collect();
        let replies = parts.into_iter().flat_map(|part| part.join().unwrap());
        replies.collect()
    })
}

/// How many answers came from each version, all of them 200.
pub(crate) fn split(replies: &[Reply]) -> BTreeMap<String, u64> {
    let mut split = BTreeMap::new();
    for reply in replies {
        assert_eq!(reply.status, 200, "{}: {}", reply.reason(), reply.text());
        *split.entry(reply.version().to_owned()).or_default() += 1;
    }
    split
}
