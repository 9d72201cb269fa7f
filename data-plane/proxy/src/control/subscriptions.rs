//! What is subscribed on the stream, which versions are held, and what was refused: the client's
//! side of incremental xDS (Envoy's xDS protocol, "Incremental xDS").
//!
//! The discovery task alone changes it; the admin address looks at it ([`Resources`]), on the same
//! thread.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::SystemTime,
};

use outrigger_model::ResourceKind;

/// Refused resources of a kind that are remembered: a control plane that sends more has one defect
/// many times.
const REJECTED_MAX: usize = 256;

/// Names subscribed and versions held of one kind.
#[derive(Debug, Default)]
struct Kind {
    subscribed: BTreeSet<String>,
    /// By canonical name and by alias; sent on reconnect, so that only what differs comes.
    versions: BTreeMap<String, String>,
    /// Names that do not exist, says the control plane.
    missing: BTreeSet<String>,
    rejected: BTreeMap<String, Rejection>,
}

/// A version that this sidecar could not use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejection {
    pub(crate) version: String,
    /// The resource of the same response that is to blame, and why.
    pub(crate) reason: Arc<str>,
}

/// How far a resource is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// The version in force, acknowledged.
    pub(crate) applied: Option<String>,
    /// A newer one that was refused; the applied one stays.
    pub(crate) rejected: Option<Rejection>,
    /// The control plane says that it does not exist.
    pub(crate) missing: bool,
}

impl Standing {
    /// Whether it is subscribed and nothing has come yet.
    pub(crate) fn is_pending(&self) -> bool {
        self.applied.is_none() && self.rejected.is_none() && !self.missing
    }
}

/// Where the configuration comes from at present.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Source {
    /// Whether a stream to the control plane is open.
    pub(crate) connected: bool,
    /// When what this process started from was written to local disk.
    pub(crate) restored: Option<SystemTime>,
}

/// Subscriptions and source, for whoever looks from outside. The lock is held for a look, and only
/// by the control thread.
#[derive(Debug, Clone, Default)]
pub struct Resources(Arc<Mutex<(Subscriptions, Source)>>);

impl Resources {
    fn lock(&self) -> MutexGuard<'_, (Subscriptions, Source)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes or reads the subscriptions.
    pub(crate) fn with<T>(&self, change: impl FnOnce(&mut Subscriptions) -> T) -> T {
        change(&mut self.lock().0)
    }

    /// Notes where the configuration comes from.
    pub(crate) fn source_is(&self, change: impl FnOnce(&mut Source)) {
        change(&mut self.lock().1);
    }

    /// Where the configuration comes from.
    pub(crate) fn source(&self) -> Source {
        self.lock().1
    }

    /// Every resource of a kind that is subscribed, held or refused.
    pub(crate) fn standing(&self, kind: ResourceKind) -> BTreeMap<String, Standing> {
        self.lock().0.standing(kind)
    }
}

/// All kinds.
#[derive(Debug, Default)]
pub(crate) struct Subscriptions {
    kinds: BTreeMap<ResourceKind, Kind>,
}

/// A change to tell the server.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Change {
    pub(crate) subscribe: Vec<String>,
    pub(crate) unsubscribe: Vec<String>,
}

/// The first request of a kind on a new stream.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Opening {
    pub(super) subscribe: Vec<String>,
    pub(super) versions: Vec<(String, String)>,
}

impl Subscriptions {
    /// Brings the subscriptions of a kind to `wanted`; `None` when they are.
    pub(crate) fn update(
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
            kind.missing.remove(name);
            kind.rejected.remove(name);
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
    pub(crate) fn hold(&mut self, kind: ResourceKind, name: String, version: String) {
        let kind = self.kinds.entry(kind).or_default();
        kind.missing.remove(&name);
        kind.rejected.remove(&name);
        kind.versions.insert(name, version);
    }

    /// Notes a removal.
    pub(crate) fn release(&mut self, kind: ResourceKind, name: &str) {
        let kind = self.kinds.entry(kind).or_default();
        kind.versions.remove(name);
        kind.rejected.remove(name);
        if kind.subscribed.contains(name) {
            kind.missing.insert(name.to_owned());
        }
    }

    /// Notes a version that was refused; what is held stays held.
    pub(crate) fn reject(&mut self, kind: ResourceKind, name: String, rejection: Rejection) {
        let rejected = &mut self.kinds.entry(kind).or_default().rejected;
        if rejected.len() < REJECTED_MAX || rejected.contains_key(&name) {
            rejected.insert(name, rejection);
        }
    }

    fn standing(&self, kind: ResourceKind) -> BTreeMap<String, Standing> {
        let Some(kind) = self.kinds.get(&kind) else {
            return BTreeMap::new();
        };
        let names = kind
            .subscribed
            .iter()
            .chain(kind.versions.keys())
            .chain(kind.rejected.keys());
        names
            .map(|name| {
                let standing = Standing {
                    applied: kind.versions.get(name).cloned(),
                    rejected: kind.rejected.get(name).cloned(),
                    missing: kind.missing.contains(name),
                };
                (name.clone(), standing)
            })
            .collect()
    }

    /// Forgets versions of resources that the fold dropped, because they will be needed whole if
    /// they are ever wanted again.
    pub(super) fn retain(&mut self, kind: ResourceKind, keep: impl Fn(&str) -> bool) {
        if let Some(kind) = self.kinds.get_mut(&kind) {
            kind.versions.retain(|name, _| keep(name));
            let subscribed = &kind.subscribed;
            kind.rejected
                .retain(|name, _| subscribed.contains(name) || keep(name));
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

    #[test]
    fn every_resource_says_how_far_it_is() {
        let kind = ResourceKind::RouteTable;
        let resources = Resources::default();
        let rejection = Rejection {
            version: "v2".into(),
            reason: "RouteTable a:1: regex".into(),
        };
        resources.with(|subscriptions| {
            subscriptions.update(kind, names(&["a:1", "b:1", "c:1"]));
            subscriptions.hold(kind, "a:1".into(), "v1".into());
            subscriptions.reject(kind, "a:1".into(), rejection.clone());
            subscriptions.release(kind, "b:1");
        });
        let standing = resources.standing(kind);
        let a = &standing["a:1"];
        assert_eq!(a.applied.as_deref(), Some("v1"), "the last good one stays");
        assert_eq!(a.rejected.as_ref(), Some(&rejection));
        assert!(standing["b:1"].missing && !standing["b:1"].is_pending());
        assert!(standing["c:1"].is_pending());

        resources.with(|subscriptions| {
            subscriptions.hold(kind, "a:1".into(), "v3".into());
            subscriptions.hold(kind, "b:1".into(), "v1".into());
            subscriptions.update(kind, names(&["a:1", "b:1"]));
        });
        let standing = resources.standing(kind);
        assert_eq!(standing.len(), 2);
        assert_eq!(standing["a:1"].applied.as_deref(), Some("v3"));
        assert_eq!(standing["a:1"].rejected, None, "a good one ends it");
        assert!(!standing["b:1"].missing);
    }

    #[test]
    fn a_flood_of_rejections_is_bounded() {
        let kind = ResourceKind::Destination;
        let resources = Resources::default();
        for number in 0..2 * REJECTED_MAX {
            let rejection = Rejection {
                version: "v".into(),
                reason: "no".into(),
            };
            resources.with(|all| all.reject(kind, format!("shop/a:{number}"), rejection));
        }
        assert_eq!(resources.standing(kind).len(), REJECTED_MAX);
    }
}
