//! All traffic series of the process: which there are, how much room they take, and their sums.
//!
//! Owner of the list; each number in it is written by the one worker that holds the shard. The
//! page has at most [`LINES_MAX`] lines (D6: 5,000 series a sidecar). Room is taken line by line,
//! when something is first counted; what finds none goes to the `other` series of its direction,
//! for which room is set aside. A worker that drops its handle leaves its numbers: they are folded
//! into the key's own, and the key goes when nobody has held it for [`IDLE`].

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    sync::{
        Arc, Mutex, MutexGuard, OnceLock, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use super::{
    names::{BUCKETS_SECONDS, BUCKETS_US},
    series::{Durations, Lane, LaneIndex, OutcomeKey, RetryCause, SeriesKey, Shard},
    upstream::{Closed, ConnectionTotals},
};

/// Most lines on the page (D6).
pub(super) const LINES_MAX: usize = 5_000;

/// Lines kept for everything that is not a traffic series, and for `other`: both directions of
/// it with two lanes (72 + 10 lines, twice its outcomes), 9 causes, 8 closings and 8 target metrics
/// come to 270; refusals by two directions and some forty reasons to 100; the rest of the page to
/// 110.
const LINES_RESERVED: usize = 500;

/// How long a key lives that nobody holds (D6).
pub(super) const IDLE: Duration = Duration::from_secs(600);

/// Most keys: each takes some memory even before it has a line.
const KEYS_MAX: usize = 1_024;

/// What takes room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Item {
    /// A protocol and security.
    Lane(LaneIndex),
    /// The durations of its failures.
    Failed(LaneIndex),
    /// One response code and reason.
    Outcome(LaneIndex, OutcomeKey),
    /// Retries of this cause.
    Retry(RetryCause),
    /// Ejections: their number and how many are out.
    Ejection,
    /// Waiting requests.
    Pending,
    /// Connections to endpoints: opened, active, idle, bytes both ways.
    Connections,
    /// Those that ended so.
    Closed(Closed),
}

impl Item {
    /// A bit for items that are found again without the table, else 0.
    pub(super) fn bit(self) -> u32 {
        match self {
            Self::Lane(_) | Self::Failed(_) | Self::Outcome(..) => 0,
            Self::Retry(cause) => 1 << cause.index(),
            Self::Closed(cause) => 1 << (16 + cause.index()),
            Self::Connections => 1 << 29,
            Self::Ejection => 1 << 30,
            Self::Pending => 1 << 31,
        }
    }

    /// Lines on the page.
    fn lines(self, istio: bool) -> usize {
        // Each histogram has its bounds, `+Inf`, sum and count.
        let durations = BUCKETS_SECONDS + 3;
        let durations_istio = BUCKETS_US.len() - 1 + 3;
        let (own, istios) = match self {
            Self::Lane(lane) if lane.is_tcp() => (3, 3),
            // Body bytes: two counters, two histograms of three lines in Istio's form.
            Self::Lane(_) => (durations + 2, durations_istio + 6),
            Self::Failed(_) => (durations, 0),
            Self::Outcome(..) => (1, 1),
            Self::Retry(_) | Self::Pending | Self::Closed(_) => (1, 0),
            Self::Ejection => (2, 0),
            Self::Connections => (5, 0),
        };
        if istio { own + istios } else { own }
    }
}

/// The list.
#[derive(Debug)]
pub(super) struct Table {
    entries: Mutex<Entries>,
    istio: AtomicBool,
    refused: AtomicU64,
}

#[derive(Debug, Default)]
struct Entries {
    by_key: HashMap<SeriesKey, Entry, foldhash::fast::RandomState>,
    lines: usize,
}

#[derive(Debug)]
struct Entry {
    shards: Vec<Arc<Shard>>,
    /// Numbers of shards that nobody holds any more.
    folded: Totals,
    admitted: HashSet<Item, foldhash::fast::RandomState>,
    /// Since when nobody holds it.
    unheld: Option<Instant>,
}

impl Table {
    pub(super) fn new(istio: bool) -> Arc<Self> {
        Arc::new(Self {
            entries: Mutex::default(),
            istio: AtomicBool::new(istio),
            refused: AtomicU64::new(0),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether Istio's metrics are on the page.
    pub(super) fn istio(&self) -> bool {
        self.istio.load(Ordering::Relaxed)
    }

    /// Series that found no room so far.
    pub(super) fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }

    /// A new shard of this key, or of `other` when there are too many keys.
    pub(super) fn open(&self, key: SeriesKey) -> (SeriesKey, Arc<Shard>) {
        let mut entries = self.lock();
        let full = entries.by_key.len() >= KEYS_MAX && !entries.by_key.contains_key(&key);
        let key = if full {
            SeriesKey::Other(key.direction())
        } else {
            key
        };
        let shard = Arc::new(Shard::default());
        let entry = entries.by_key.entry(key.clone()).or_insert_with(Entry::new);
        entry.fold();
        entry.shards.push(Arc::clone(&shard));
        entry.unheld = None;
        (key, shard)
    }

    /// Whether there is room for this item of this key; taken once, by whichever worker asks
    /// first.
    pub(super) fn admit(&self, key: &SeriesKey, item: Item) -> bool {
        let lines = item.lines(self.istio());
        let mut entries = self.lock();
        if entries
            .by_key
            .get(key)
            .is_some_and(|entry| entry.admitted.contains(&item))
        {
            return true;
        }
        if entries.lines + lines > LINES_MAX - LINES_RESERVED {
            entries.sweep(Instant::now(), self.istio());
        }
        let room = entries.lines + lines <= LINES_MAX - LINES_RESERVED;
        match entries.by_key.get_mut(key) {
            Some(entry) if room => {
                entry.admitted.insert(item);
                entries.lines += lines;
                true
            }
            _ => {
                self.refused.fetch_add(1, Ordering::Relaxed);
                false
            }
        }
    }

    /// Drops what nobody has held for [`IDLE`], and sums up the rest.
    pub(super) fn totals(&self, now: Instant) -> Vec<(SeriesKey, Totals)> {
        let mut entries = self.lock();
        entries.sweep(now, self.istio());
        let sum = |entry: &Entry| {
            let mut totals = entry.folded.clone();
            for shard in &entry.shards {
                totals.add(shard);
                totals.add_present(shard);
            }
            totals.ejected = entry.ejected();
            totals
        };
        entries
            .by_key
            .iter()
            .map(|(key, entry)| (key.clone(), sum(entry)))
            .collect()
    }

    /// Runs `work` while nobody else can use the list.
    #[cfg(test)]
    pub(super) fn while_locked(&self, work: impl FnOnce()) {
        let entries = self.lock();
        work();
        drop(entries);
    }

    /// Lines taken by traffic series other than `other`.
    pub(super) fn lines(&self) -> usize {
        self.lock().lines
    }
}

impl Entries {
    fn sweep(&mut self, now: Instant, istio: bool) {
        let mut freed = 0;
        self.by_key.retain(|_, entry| {
            entry.fold();
            if !entry.shards.is_empty() {
                return true;
            }
            let since = *entry.unheld.get_or_insert(now);
            let keep = now.saturating_duration_since(since) < IDLE;
            if !keep {
                freed += entry
                    .admitted
                    .iter()
                    .map(|item| item.lines(istio))
                    .sum::<usize>();
            }
            keep
        });
        self.lines = self.lines.saturating_sub(freed);
    }
}

impl Entry {
    fn new() -> Self {
        Self {
            shards: Vec::new(),
            folded: Totals::default(),
            admitted: HashSet::default(),
            unheld: None,
        }
    }

    /// Endpoints out: a backend's number once, though all its workers lead to it.
    fn ejected(&self) -> i64 {
        let mut known: Vec<&Arc<AtomicI64>> = Vec::new();
        for out in self.shards.iter().filter_map(|shard| shard.ejected.get()) {
            if !known.iter().any(|other| Arc::ptr_eq(other, out)) {
                known.push(out);
            }
        }
        known.iter().map(|out| out.load(Ordering::Relaxed)).sum()
    }

    /// Takes over the numbers of shards whose handle is gone.
    fn fold(&mut self) {
        let folded = &mut self.folded;
        self.shards.retain_mut(|shard| {
            // `get_mut` sees all that the last holder wrote before it let go.
            let gone = Arc::get_mut(shard).is_some();
            if gone {
                folded.add(shard);
            }
            !gone
        });
    }
}

/// Sums of all shards of a key.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    pub(super) lanes: BTreeMap<LaneIndex, LaneTotals>,
    pub(super) retries: [u64; RetryCause::ALL.len()],
    pub(super) ejections: u64,
    pub(super) ejected: i64,
    pub(super) pending: Option<i64>,
    pub(super) connections: Option<ConnectionTotals>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct LaneTotals {
    pub(super) succeeded: DurationTotals,
    pub(super) failed: Option<DurationTotals>,
    pub(super) request_bytes: u64,
    pub(super) response_bytes: u64,
    pub(super) opened: u64,
    pub(super) outcomes: Vec<(OutcomeKey, u64)>,
}

#[derive(Debug, Clone, Default)]
pub(super) struct DurationTotals {
    pub(super) buckets: [u64; BUCKETS_US.len() + 1],
    pub(super) sum_us: u64,
}

impl Totals {
    /// Adds what only grows.
    fn add(&mut self, shard: &Shard) {
        for lane in LaneIndex::all() {
            if let Some(counters) = shard.lanes.get(lane.get()).and_then(OnceLock::get) {
                self.lanes.entry(lane).or_default().add(counters);
            }
        }
        for (sum, number) in self.retries.iter_mut().zip(&shard.retries) {
            *sum += number.load(Ordering::Relaxed);
        }
        self.ejections += shard.ejections.load(Ordering::Relaxed);
        if shard.has_pending() {
            self.pending.get_or_insert(0);
        }
        if shard.has_connections() {
            let connections = self.connections.get_or_insert_default();
            connections.add(&shard.connections);
        }
    }

    /// Adds what is true only while somebody holds the shard.
    fn add_present(&mut self, shard: &Shard) {
        if let Some(pending) = &mut self.pending {
            *pending += shard.pending.load(Ordering::Relaxed);
        }
        if let Some(connections) = &mut self.connections {
            connections.add_present(&shard.connections);
        }
    }
}

impl LaneTotals {
    fn add(&mut self, lane: &Lane) {
        self.succeeded.add(&lane.succeeded);
        if let Some(failed) = lane.failed.get() {
            self.failed.get_or_insert_default().add(failed);
        }
        self.request_bytes += lane.request_bytes.load(Ordering::Relaxed);
        self.response_bytes += lane.response_bytes.load(Ordering::Relaxed);
        self.opened += lane.opened.load(Ordering::Relaxed);
        let outcomes = lane.outcomes.lock().unwrap_or_else(PoisonError::into_inner);
        for outcome in outcomes.iter() {
            let count = outcome.count.load(Ordering::Relaxed);
            match self
                .outcomes
                .iter_mut()
                .find(|(key, _)| *key == outcome.key)
            {
                Some((_, sum)) => *sum += count,
                None => self.outcomes.push((outcome.key, count)),
            }
        }
    }
}

impl DurationTotals {
    fn add(&mut self, durations: &Durations) {
        for (sum, number) in self.buckets.iter_mut().zip(&durations.buckets) {
            *sum += number.load(Ordering::Relaxed);
        }
        self.sum_us = self
            .sum_us
            .wrapping_add(durations.sum_us.load(Ordering::Relaxed));
    }

    /// Both, added.
    pub(super) fn with(&self, other: Option<&Self>) -> Self {
        let mut sum = self.clone();
        if let Some(other) = other {
            for (sum, number) in sum.buckets.iter_mut().zip(&other.buckets) {
                *sum += number;
            }
            sum.sum_us = sum.sum_us.wrapping_add(other.sum_us);
        }
        sum
    }
}
