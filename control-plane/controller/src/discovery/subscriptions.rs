//! What one sidecar asked for, what it was told, and what to tell it next.
//!
//! A subscription is a text: a canonical name, or for Destination and RouteTable an authority that
//! means a name (DESIGN §4). Several texts may mean one name; the resource is then sent once, with
//! the other texts as its aliases. Pure: the present state comes in as a [`View`].
//!
//! Order of what is sent: kind by kind in the order of [`ResourceKind::ALL`], so that what is named
//! comes before what names it, together with answers "does not exist" for what the sidecar never
//! had; then, in the opposite order, removals of what it has.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use outrigger_model::{Authority, DestinationName, ResourceKind, ResourceName};
use outrigger_proto::Version;

use super::{encoded::EncodedResource, envelope::removed_len};

mod kind;
#[cfg(test)]
mod tests;

use kind::{Kind, Told};

/// Most subscriptions of one stream: several times what a gateway to 10,000 services needs is
/// refused; a sidecar has some dozens. At about 600 bytes each, 20 MB.
pub(super) const SUBSCRIPTIONS_MAX: usize = 32_768;
/// Longest subscription: a shard's name is 63 + 1 + 253 + 1 + 5 + 1 + 5 at most.
const TEXT_BYTES_MAX: usize = 512;
/// A response is closed at this size, or after its first resource if that alone is larger (1 MiB at
/// most). Far below the 4 MiB of DEF-34, so that even 10,000 sidecars that all stop reading in the
/// middle of a response hold a bounded part of the memory.
pub(super) const RESPONSE_BYTES: usize = 256 * 1024;

/// The present state as this sidecar may see it.
pub(super) trait View {
    /// `None`: does not exist, for this sidecar.
    fn resource(&self, name: &ResourceName) -> Option<Arc<EncodedResource>>;
    /// What an authority means in the sidecar's namespace.
    fn resolve(&self, authority: &Authority) -> Option<DestinationName>;
}

/// The part of a request that concerns subscriptions.
#[derive(Debug)]
pub(super) struct Wish<'a> {
    pub(super) subscribe: &'a [String],
    pub(super) unsubscribe: &'a [String],
    /// What the sidecar holds, by canonical name and by the other texts it knows to mean it.
    pub(super) versions: &'a HashMap<String, String>,
}

/// More subscriptions than [`SUBSCRIPTIONS_MAX`], or a longer one than any name is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("more than {SUBSCRIPTIONS_MAX} subscriptions, or one of more than {TEXT_BYTES_MAX} bytes")]
pub(super) struct TooMuch;

/// Names whose changes concern this sidecar from now on, or no longer.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) added: BTreeSet<ResourceName>,
    pub(super) dropped: BTreeSet<ResourceName>,
}

impl Interest {
    fn add(&mut self, name: &ResourceName) {
        if !self.dropped.remove(name) {
            self.added.insert(name.clone());
        }
    }

    fn drop(&mut self, name: &ResourceName) {
        if !self.added.remove(name) {
            self.dropped.insert(name.clone());
        }
    }
}

/// The content of one response.
#[derive(Debug)]
pub(super) struct Draft {
    pub(super) kind: ResourceKind,
    pub(super) resources: Vec<(Arc<EncodedResource>, Vec<Arc<str>>)>,
    pub(super) removed: Vec<Arc<str>>,
    /// What it tells of each name: a version, or that it does not exist.
    pub(super) tells: Vec<(ResourceName, Option<Version>)>,
    bytes: usize,
}

impl Draft {
    fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            resources: Vec::new(),
            removed: Vec::new(),
            tells: Vec::new(),
            bytes: 0,
        }
    }

    fn remove(&mut self, text: Arc<str>) {
        self.bytes += removed_len(&text);
        self.removed.push(text);
    }

    fn is_full(&self) -> bool {
        self.bytes >= RESPONSE_BYTES
    }

    fn finish(self) -> Option<Self> {
        let is_empty = self.resources.is_empty() && self.removed.is_empty();
        (!is_empty).then_some(self)
    }
}

/// See the module.
#[derive(Debug)]
pub(super) struct Subscriptions {
    /// In the order of [`ResourceKind::ALL`].
    kinds: [Kind; 6],
}

impl Default for Subscriptions {
    fn default() -> Self {
        Self {
            kinds: ResourceKind::ALL.map(Kind::new),
        }
    }
}

impl Subscriptions {
    /// Takes in a request.
    pub(super) fn request(
        &mut self,
        kind: ResourceKind,
        wish: &Wish<'_>,
        view: &impl View,
    ) -> Result<Interest, TooMuch> {
        let present: usize = self.kinds.iter().map(|kind| kind.texts.len()).sum();
        let long = |text: &String| text.len() > TEXT_BYTES_MAX;
        if present + wish.subscribe.len() > SUBSCRIPTIONS_MAX || wish.subscribe.iter().any(long) {
            return Err(TooMuch);
        }
        let mut interest = Interest::default();
        if let Some(kind) = self.kinds.iter_mut().find(|each| each.kind == kind) {
            for text in wish.unsubscribe {
                kind.unsubscribe(text, &mut interest);
            }
            for text in wish.subscribe {
                kind.subscribe(text, view, &mut interest);
            }
            if !std::mem::replace(&mut kind.opened, true) {
                kind.resume(wish.versions);
            }
        }
        Ok(interest)
    }

    /// Looks up again what every authority means.
    pub(super) fn resolve_again(&mut self, view: &impl View) -> Interest {
        let mut interest = Interest::default();
        for kind in &mut self.kinds {
            kind.resolve_again(view, &mut interest);
        }
        interest
    }

    /// Notes that a name's content may have changed.
    pub(super) fn changed(&mut self, name: ResourceName) {
        let kind = self.kinds.iter_mut().find(|each| each.kind == name.kind());
        if let Some(kind) = kind
            && kind.names.contains_key(&name)
        {
            kind.pending.insert(name);
        }
    }

    /// Whether [`Self::next`] may have something.
    pub(super) fn has_next(&self) -> bool {
        let waits = |kind: &Kind| {
            !(kind.pending.is_empty() && kind.absent.is_empty() && kind.removals.is_empty())
        };
        self.kinds.iter().any(waits)
    }

    /// The next response, taken as told.
    pub(super) fn next(&mut self, view: &impl View) -> Option<Draft> {
        let first = self.kinds.iter_mut().find_map(|kind| kind.upserts(view));
        first.or_else(|| {
            let mut kinds = self.kinds.iter_mut().rev();
            kinds.find_map(|kind| kind.removals(view))
        })
    }

    /// Every name that is subscribed to.
    pub(super) fn names(&self) -> impl Iterator<Item = &ResourceName> {
        self.kinds.iter().flat_map(|kind| kind.names.keys())
    }

    /// Whether a name is subscribed to.
    pub(super) fn has(&self, name: &ResourceName) -> bool {
        let kind = self.kinds.iter().find(|each| each.kind == name.kind());
        kind.is_some_and(|kind| kind.names.contains_key(name))
    }

    /// Names the sidecar holds with this content although it was not sent on this stream.
    pub(super) fn held(
        &self,
        kind: ResourceKind,
    ) -> impl Iterator<Item = (&ResourceName, Version)> {
        let kind = self.kinds.iter().filter(move |each| each.kind == kind);
        kind.flat_map(|kind| &kind.names)
            .filter_map(|(name, named)| match named.told {
                Told::Version(version) => Some((name, version)),
                Told::Nothing | Told::Absent => None,
            })
    }
}
