//! "If most endpoints of the mesh vanish at once, hold and alarm: the source has gone blind"
//! (DESIGN §4).
//!
//! What takes endpoints away waits: removals, shards that shrink, and destinations whose number of
//! shards changes with them. Everything else of the batch is published, so that an edit of a route
//! is never held up by a source that is blind for endpoints. What waits is published when later
//! batches leave enough endpoints all the same (the source sees again), after [`HOLD_MAX`], or when
//! an operator releases it. Sidecars work on with what they have; dead endpoints among it are
//! ejected where traffic fails.
//!
//! A batch that a person wrote is never held: see [`super::Update::is_written`].

use std::{collections::BTreeMap, time::Duration};

use outrigger_model::ResourceName;
use tokio::time::Instant;

use super::{Resolve, store::Entry};

/// Below so many endpoints in the mesh nothing is held: a small mesh is taken down by hand, and
/// one node can carry all of it.
pub(super) const ENDPOINTS_MIN: usize = 128;

/// Longest time that endpoints are kept which the source does not show: whoever is called by the
/// alarm can look by then, and a mesh that really lost them does not keep them for ever.
pub const HOLD_MAX: Duration = Duration::from_secs(10 * 60);

/// What is held back.
pub(super) struct Held {
    pub(super) batch: Batch,
    /// Endpoints that there were before.
    pub(super) before: usize,
    /// What authorities meant before.
    pub(super) resolve: Option<Resolve>,
    /// Since when; `None` while that is being decided.
    pub(super) since: Option<Instant>,
}

/// Changes not yet visible: by name the new content, or `None` for a removal.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) entries: BTreeMap<ResourceName, Option<Entry>>,
    pub(super) resolve: Option<Resolve>,
}

impl Batch {
    /// Adds later changes.
    pub(super) fn add(
        &mut self,
        entries: Vec<Entry>,
        removals: Vec<ResourceName>,
        resolve: Option<Resolve>,
    ) {
        let upserts = entries
            .into_iter()
            .map(|entry| (entry.default.name.clone(), Some(entry)));
        // A name in both is there: removals first.
        self.entries
            .extend(removals.into_iter().map(|name| (name, None)));
        self.entries.extend(upserts);
        if resolve.is_some() {
            self.resolve = resolve;
        }
    }

    /// Takes out what takes no endpoint away, given the present entry of each name.
    pub(super) fn take_harmless<'a>(
        &mut self,
        present: impl Fn(&ResourceName) -> Option<&'a Entry>,
    ) -> Self {
        let is_harmless = |name: &ResourceName, next: &Option<Entry>| {
            let Some(now) = present(name) else {
                return true;
            };
            next.as_ref().is_some_and(|next| {
                next.default.shards == now.default.shards
                    && next.default.ready.len() >= now.default.ready.len()
            })
        };
        let (harmless, losses) = std::mem::take(&mut self.entries)
            .into_iter()
            .partition(|(name, next)| is_harmless(name, next));
        self.entries = losses;
        Self {
            entries: harmless,
            resolve: None,
        }
    }

    /// How many endpoints fewer take work after this batch; `present` counts those of a shard now.
    /// An endpoint that moves to another shard or destination is not lost.
    pub(super) fn loss(&self, present: impl Fn(&ResourceName) -> usize) -> usize {
        let mut before = 0;
        let mut after = 0;
        for (name, entry) in &self.entries {
            before += present(name);
            after += entry.as_ref().map_or(0, |entry| entry.default.ready.len());
        }
        usize::saturating_sub(before, after)
    }
}

/// Whether losing `loss` of `endpoints` is more likely a blind source than an intent: more than
/// half, in a mesh that is not small.
pub(super) fn is_blackout(endpoints: usize, loss: usize) -> bool {
    endpoints >= ENDPOINTS_MIN && loss > endpoints / 2
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn most_of_a_large_mesh_is_a_blackout() {
        let check = |endpoints, loss, expected| {
            assert_eq!(
                is_blackout(endpoints, loss),
                expected,
                "{loss} of {endpoints}"
            );
        };
        check(1000, 0, false);
        check(1000, 500, false);
        check(1000, 501, true);
        check(ENDPOINTS_MIN, ENDPOINTS_MIN, true);
        check(ENDPOINTS_MIN - 1, ENDPOINTS_MIN - 1, false);
        check(0, 0, false);
    }
}
