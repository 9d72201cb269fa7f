//! What is subscribed on the stream, and which versions are held: the client's side of incremental
//! xDS (Envoy's xDS protocol, "Incremental xDS").

use std::collections::{BTreeMap, BTreeSet};

use outrigger_model::ResourceKind;

/// Names subscribed and versions held of one kind.
#[derive(Debug, Default)]
struct Kind {
    subscribed: BTreeSet<String>,
    /// By canonical name; sent on reconnect, so that only what differs comes.
    versions: BTreeMap<String, String>,
}

/// All kinds.
#[derive(Debug, Default)]
pub(super) struct Subscriptions {
    kinds: BTreeMap<ResourceKind, Kind>,
}

/// A change to tell the server.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    pub(super) subscribe: Vec<String>,
    pub(super) unsubscribe: Vec<String>,
}

/// The first request of a kind on a new stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) subscribe: Vec<String>,
    pub(super) versions: Vec<(String, String)>,
}

impl Subscriptions {
    /// Brings the subscriptions of a kind to `wanted`; `None` when they are.
    pub(super) fn update(
        &mut self,
        kind: ResourceKind,
        wanted: BTreeSet<String>,
    ) -> Option<Change> {
        let kind = self.kinds.entry(kind).or_default();
        let subscribe: Vec<_> = wanted.difference(&kind.subscribed).cloned().collect();
        let unsubscribe: Vec<_> = kind.subscribed.difference(&wanted).cloned().collect();
        if subscribe.is_empty() && unsubscribe.is_empty() {
            return None;
        }
        // What is not subscribed is not kept up to date: its version is no longer ours to claim.
        for name in &unsubscribe {
            kind.versions.remove(name);
        }
        kind.subscribed = wanted;
        Some(Change {
            subscribe,
            unsubscribe,
        })
    }

    /// What to say of a kind on a new stream.
    pub(super) fn opening(&self, kind: ResourceKind) -> Opening {
        let Some(kind) = self.kinds.get(&kind) else {
            return Opening {
                subscribe: Vec::new(),
                versions: Vec::new(),
            };
        };
        Opening {
            subscribe: kind.subscribed.iter().cloned().collect(),
            versions: kind.versions.clone().into_iter().collect(),
        }
    }

    /// Notes a version received and accepted.
    pub(super) fn hold(&mut self, kind: ResourceKind, name: String, version: String) {
        self.kinds
            .entry(kind)
            .or_default()
            .versions
            .insert(name, version);
    }

    /// Notes a removal.
    pub(super) fn release(&mut self, kind: ResourceKind, name: &str) {
        self.kinds.entry(kind).or_default().versions.remove(name);
    }

    /// Forgets versions of resources that the fold dropped, because they will be needed whole if
    /// they are ever wanted again.
    pub(super) fn retain(&mut self, kind: ResourceKind, keep: impl Fn(&str) -> bool) {
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.versions.retain(|name, _| keep(name));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn only_differences_are_told_and_everything_on_a_new_stream() {
        let kind = ResourceKind::Destination;
        let mut subscriptions = Subscriptions::default();
        let change = subscriptions.update(kind, names(&["a:1", "b:1"])).unwrap();
        assert_eq!(change.subscribe, ["a:1", "b:1"]);
        assert_eq!(subscriptions.update(kind, names(&["a:1", "b:1"])), None);
        subscriptions.hold(kind, "shop/a:1".into(), "v1".into());
        let change = subscriptions.update(kind, names(&["a:1", "c:1"])).unwrap();
        assert_eq!(
            (change.subscribe, change.unsubscribe),
            (vec!["c:1".into()], vec!["b:1".into()])
        );
        let opening = subscriptions.opening(kind);
        assert_eq!(opening.subscribe, ["a:1", "c:1"]);
        assert_eq!(opening.versions, [("shop/a:1".into(), "v1".into())]);
    }
}
