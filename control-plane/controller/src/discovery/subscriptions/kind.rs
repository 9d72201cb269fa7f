//! The subscriptions of one kind: texts, the names they mean, and what waits to be told.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use outrigger_model::{Authority, ResourceKind, ResourceName};
use outrigger_proto::Version;

use super::{Draft, Interest, RESPONSE_BYTES, View};

/// What the sidecar was last told of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Nothing,
    Version(Version),
    Absent,
}

#[derive(Debug)]
pub(super) struct Named {
    pub(super) texts: BTreeSet<Arc<str>>,
    pub(super) told: Told,
    /// Asked for anew: to be answered even if nothing changed.
    pub(super) asked: bool,
}

#[derive(Debug)]
pub(super) struct Kind {
    pub(super) kind: ResourceKind,
    pub(super) opened: bool,
    pub(super) texts: HashMap<Arc<str>, Option<ResourceName>>,
    pub(super) names: HashMap<ResourceName, Named>,
    /// Names to compare with the present state.
    pub(super) pending: BTreeSet<ResourceName>,
    /// Texts that mean nothing, and were not yet answered so.
    pub(super) absent: BTreeSet<Arc<str>>,
    /// Names the sidecar has and should not.
    pub(super) removals: BTreeSet<ResourceName>,
}

impl Kind {
    pub(super) fn new(kind: ResourceKind) -> Self {
        Self {
            kind,
            opened: false,
            texts: HashMap::new(),
            names: HashMap::new(),
            pending: BTreeSet::new(),
            absent: BTreeSet::new(),
            removals: BTreeSet::new(),
        }
    }

    pub(super) fn subscribe(&mut self, text: &str, view: &impl View, interest: &mut Interest) {
        if let Some(Some(name)) = self.texts.get(text) {
            if let Some(named) = self.names.get_mut(name) {
                named.asked = true;
                self.pending.insert(name.clone());
            }
            return;
        }
        let name = self.meaning(text, view);
        self.attach(&Arc::from(text), name, interest);
    }

    /// The name that a text means; `None` when it means nothing at present.
    fn meaning(&self, text: &str, view: &impl View) -> Option<ResourceName> {
        if let Ok(name) = ResourceName::parse(self.kind, text) {
            return Some(name);
        }
        let authority = || Authority::parse(text, None).ok();
        match self.kind {
            ResourceKind::Destination => view.resolve(&authority()?).map(ResourceName::Destination),
            ResourceKind::RouteTable => view.resolve(&authority()?).map(ResourceName::RouteTable),
            ResourceKind::EndpointShard
            | ResourceKind::InboundPolicy
            | ResourceKind::TrustBundle
            | ResourceKind::MeshSettings => None,
        }
    }

    fn attach(&mut self, text: &Arc<str>, name: Option<ResourceName>, interest: &mut Interest) {
        match &name {
            Some(name) => {
                let named = self.names.entry(name.clone()).or_insert_with(|| {
                    interest.add(name);
                    Named {
                        texts: BTreeSet::new(),
                        told: Told::Nothing,
                        asked: false,
                    }
                });
                named.texts.insert(Arc::clone(text));
                named.asked = true;
                self.pending.insert(name.clone());
                self.absent.remove(text);
                self.removals.remove(name);
            }
            None => {
                self.absent.insert(Arc::clone(text));
            }
        }
        self.texts.insert(Arc::clone(text), name);
    }

    /// Takes a text from the name it meant. Returns what the sidecar was told of a name that has
    /// no text left.
    fn detach(&mut self, text: &str, name: &ResourceName, interest: &mut Interest) -> Option<Told> {
        let named = self.names.get_mut(name)?;
        named.texts.remove(text);
        if !named.texts.is_empty() {
            return None;
        }
        let told = named.told;
        self.names.remove(name);
        self.pending.remove(name);
        interest.drop(name);
        Some(told)
    }

    pub(super) fn unsubscribe(&mut self, text: &str, interest: &mut Interest) {
        self.absent.remove(text);
        if let Some(Some(name)) = self.texts.remove(text) {
            self.detach(text, &name, interest);
        }
    }

    /// First request of this kind on this stream: the sidecar says what it holds.
    pub(super) fn resume(&mut self, versions: &HashMap<String, String>) {
        for (text, version) in versions {
            let Ok(name) = ResourceName::parse(self.kind, text) else {
                continue;
            };
            let Some(named) = self.names.get_mut(&name) else {
                // It was known by a text that means something else or nothing by now.
                self.removals.insert(name);
                continue;
            };
            let Ok(held) = version.parse() else {
                continue;
            };
            named.told = Told::Version(held);
            // A text that the sidecar does not know to mean this name needs an answer.
            let canonical = text.as_str();
            let known = |text: &Arc<str>| {
                text.as_ref() == canonical || versions.get(text.as_ref()) == Some(version)
            };
            named.asked = !named.texts.iter().all(known);
        }
    }

    pub(super) fn resolve_again(&mut self, view: &impl View, interest: &mut Interest) {
        let is_authority = |text: &str| ResourceName::parse(self.kind, text).is_err();
        let texts: Vec<Arc<str>> = self
            .texts
            .keys()
            .filter(|text| is_authority(text))
            .cloned()
            .collect();
        for text in texts {
            let before = self.texts.get(&text).cloned().flatten();
            let after = self.meaning(&text, view);
            if before == after {
                continue;
            }
            if let Some(before) = before {
                let told = self.detach(&text, &before, interest);
                if let Some(Told::Version(_)) = told {
                    self.removals.insert(before);
                }
            }
            self.attach(&text, after, interest);
        }
    }

    pub(super) fn upserts(&mut self, view: &impl View) -> Option<Draft> {
        let mut draft = Draft::new(self.kind);
        while !draft.is_full()
            && let Some(text) = self.absent.pop_first()
        {
            draft.remove(text);
        }
        while !draft.is_full()
            && let Some(name) = self.pending.pop_first()
        {
            let Some(named) = self.names.get_mut(&name) else {
                continue;
            };
            match (view.resource(&name), named.told) {
                (Some(resource), told) => {
                    if told == Told::Version(resource.version) && !named.asked {
                        continue;
                    }
                    let aliases = named.aliases(&name);
                    let bytes = resource.encoded_len(&aliases);
                    if draft.bytes > 0 && draft.bytes + bytes > RESPONSE_BYTES {
                        self.pending.insert(name);
                        break;
                    }
                    draft.bytes += bytes;
                    draft.tells.push((name, Some(resource.version)));
                    named.told = Told::Version(resource.version);
                    named.asked = false;
                    draft.resources.push((resource, aliases));
                }
                (None, Told::Version(_)) => {
                    self.removals.insert(name);
                }
                (None, Told::Absent) if !named.asked => {}
                (None, Told::Nothing | Told::Absent) => {
                    named.told = Told::Absent;
                    named.asked = false;
                    for text in &named.texts {
                        draft.remove(Arc::clone(text));
                    }
                    draft.tells.push((name, None));
                }
            }
        }
        draft.finish()
    }

    pub(super) fn removals(&mut self, view: &impl View) -> Option<Draft> {
        let mut draft = Draft::new(self.kind);
        while !draft.is_full()
            && let Some(name) = self.removals.pop_first()
        {
            if let Some(named) = self.names.get_mut(&name) {
                if view.resource(&name).is_some() {
                    // It is back.
                    self.pending.insert(name);
                    continue;
                }
                named.told = Told::Absent;
                named.asked = false;
                for alias in named.aliases(&name) {
                    draft.remove(alias);
                }
            }
            draft.remove(name.to_string().into());
            draft.tells.push((name, None));
        }
        draft.finish()
    }
}

impl Named {
    fn aliases(&self, name: &ResourceName) -> Vec<Arc<str>> {
        let canonical = name.to_string();
        let texts = self.texts.iter();
        texts
            .filter(|text| ***text != *canonical)
            .cloned()
            .collect()
    }
}
