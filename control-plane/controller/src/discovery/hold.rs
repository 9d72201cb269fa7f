//! "If most endpoints of the mesh vanish at once, hold and alarm: the source has gone blind"
//! (DESIGN §4).
//!
//! The batch that would do it waits whole, and later batches are added to it, until all of them
//! together leave enough endpoints (the source sees again), or an operator releases it. Sidecars
//! work on with what they have; dead endpoints among it are ejected where traffic fails.

use std::collections::BTreeMap;

use outrigger_model::ResourceName;

use super::{Resolve, store::Entry};

/// Below so many endpoints in the mesh nothing is held: a small mesh is taken down by hand, and
/// one node can carry all of it.
pub(super) const ENDPOINTS_MIN: usize = 128;

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
