//! Keeps what is applied for [`super::disk`]: the bytes as they came, and when they are due to be
//! written.
//!
//! Only a settled state is written, in which every route table received is in force: a start from
//! it serves what served before. Writes are at least [`INTERVAL`] apart, so that churn costs one
//! encoding a second; after a quiet time the first comes [`GATHER`] after the change.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use outrigger_model::ResourceKind;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};

use super::{
    disk::{Disk, Kept},
    fold::Fold,
};

/// Between two writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// A new service comes in three or four responses.
const GATHER: Duration = Duration::from_millis(50);

/// The bytes in force.
#[derive(Debug)]
pub(super) struct Keeper {
    disk: Disk,
    held: BTreeMap<(ResourceKind, String), (String, Bytes)>,
    due: Option<Instant>,
    last: Option<Instant>,
    contents: watch::Sender<Option<Arc<[u8]>>>,
}

impl Keeper {
    /// Writes go to whoever listens to `contents`.
    pub(super) fn new(disk: Disk, contents: watch::Sender<Option<Arc<[u8]>>>) -> Self {
        Self {
            disk,
            held: BTreeMap::new(),
            due: None,
            last: None,
            contents,
        }
    }

    pub(super) fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Takes in a resource that was applied. Roots are certificates: they are not kept.
    pub(super) fn hold(&mut self, kept: Kept) {
        if kept.kind != ResourceKind::TrustBundle {
            self.held
                .insert((kept.kind, kept.name), (kept.version, kept.value));
        }
    }

    /// Something was applied or dropped.
    pub(super) fn changed(&mut self, now: Instant) {
        let earliest = self.last.map(|last| last + INTERVAL);
        let due = (now + GATHER).max(earliest.unwrap_or(now));
        self.due.get_or_insert(due);
    }

    /// Ends when [`Self::save`] is due. Cancel safe: yes.
    pub(super) async fn due(&self) {
        match self.due {
            Some(due) => sleep_until(due).await,
            None => std::future::pending().await,
        }
    }

    /// Hands the present state on to be written, or waits for the next change when it is not
    /// settled.
    pub(super) fn save(&mut self, fold: &Fold, now: Instant) {
        self.due = None;
        self.held.retain(|(kind, name), _| fold.holds(*kind, name));
        if !fold.is_settled() {
            return;
        }
        self.last = Some(now);
        let resources = self
            .held
            .iter()
            .map(|((kind, name), (version, value))| Kept {
                kind: *kind,
                name: name.clone(),
                version: version.clone(),
                value: value.clone(),
            });
        let content: Arc<[u8]> = self.disk.encode(fold.used(), resources).into();
        self.contents.send_if_modified(|present| {
            let changed = present.as_ref() != Some(&content);
            if changed {
                *present = Some(content);
            }
            changed
        });
    }
}
