//! Whatever happens in whatever order, a sidecar that has received everything knows the present
//! state of what it subscribes to: random events against a naive sidecar.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use outrigger_model::{Authority, DestinationName, ResourceKind, ResourceName};
use proptest::{collection::vec, prelude::*, sample::select};

use super::*;
use crate::discovery::tests::bench::table;

const KIND: ResourceKind = ResourceKind::RouteTable;
const NAMES: [&str; 3] = ["shop/a:80", "shop/b:80", "shop/c:80"];
const TEXTS: [&str; 5] = ["shop/a:80", "shop/b:80", "a:80", "b.shop:80", "c:80"];

#[derive(Debug, Clone)]
enum Event {
    /// A resource gets one of a few contents.
    Set(&'static str, u8),
    Remove(&'static str),
    /// An authority means something else, or nothing.
    Mean(&'static str, Option<&'static str>),
    Subscribe(&'static str),
    Unsubscribe(&'static str),
    /// The sidecar reads and applies one response.
    Read,
    /// A new stream; what was not read is lost.
    Reconnect,
}

fn event() -> impl Strategy<Value = Event> {
    let name = || select(NAMES.to_vec());
    let text = || select(TEXTS.to_vec());
    let authority = select(TEXTS[2..].to_vec());
    prop_oneof![
        4 => (name(), 0..3_u8).prop_map(|(name, content)| Event::Set(name, content)),
        2 => name().prop_map(Event::Remove),
        3 => (authority, proptest::option::of(name())).prop_map(|(text, name)| Event::Mean(text, name)),
        4 => text().prop_map(Event::Subscribe),
        1 => text().prop_map(Event::Unsubscribe),
        4 => Just(Event::Read),
        1 => Just(Event::Reconnect),
    ]
}

#[derive(Default)]
struct World {
    resources: HashMap<ResourceName, Arc<EncodedResource>>,
    meanings: HashMap<&'static str, DestinationName>,
}

impl View for World {
    fn resource(&self, name: &ResourceName) -> Option<Arc<EncodedResource>> {
        self.resources.get(name).cloned()
    }
    fn resolve(&self, authority: &Authority) -> Option<DestinationName> {
        self.meanings.get(authority.to_string().as_str()).cloned()
    }
}

/// Keeps what it is told, under each text.
#[derive(Default)]
struct Sidecar {
    subscribed: BTreeSet<&'static str>,
    versions: BTreeMap<String, Version>,
    aliases: BTreeMap<String, String>,
}

impl Sidecar {
    fn apply(&mut self, draft: Draft) {
        for (resource, aliases) in draft.resources {
            let name = resource.name.to_string();
            self.versions.insert(name.clone(), resource.version);
            for alias in aliases {
                self.aliases.insert(alias.to_string(), name.clone());
            }
        }
        for text in draft.removed {
            self.versions.remove(&*text);
            self.aliases
                .retain(|alias, name| **alias != *text && **name != *text);
        }
        self.drop_unnamed();
    }

    /// Drops what it did not subscribe to any more.
    fn unsubscribe(&mut self, text: &str) {
        self.subscribed.remove(text);
        self.aliases.remove(text);
        self.drop_unnamed();
    }

    /// What no subscription leads to any more is not kept, as in a real sidecar's fold.
    fn drop_unnamed(&mut self) {
        let (aliases, subscribed) = (&self.aliases, &self.subscribed);
        self.versions.retain(|name, _| {
            subscribed.contains(name.as_str()) || aliases.values().any(|other| other == name)
        });
    }

    fn held(&self) -> HashMap<String, String> {
        let names = self
            .versions
            .iter()
            .map(|(name, v)| (name.clone(), v.to_string()));
        let aliases = self.aliases.iter().filter_map(|(alias, name)| {
            Some((alias.clone(), self.versions.get(name)?.to_string()))
        });
        names.chain(aliases).collect()
    }
}

fn route(name: &str) -> ResourceName {
    ResourceName::RouteTable(name.parse().unwrap())
}

fn request(
    subscriptions: &mut Subscriptions,
    world: &World,
    subscribe: &[&str],
    unsubscribe: &[&str],
    versions: &HashMap<String, String>,
) {
    let texts = |texts: &[&str]| {
        texts
            .iter()
            .map(|text| (*text).to_owned())
            .collect::<Vec<_>>()
    };
    let wish = Wish {
        subscribe: &texts(subscribe),
        unsubscribe: &texts(unsubscribe),
        versions,
    };
    subscriptions.request(KIND, &wish, world).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]
    #[test]
    fn a_sidecar_that_read_everything_knows_the_present(events in vec(event(), 0..40)) {
        let mut world = World::default();
        let mut sidecar = Sidecar::default();
        let mut stream = Subscriptions::default();
        let none = HashMap::new();
        request(&mut stream, &world, &[], &[], &none);
        for event in events {
            match event {
                Event::Set(name, content) => {
                    let resource = EncodedResource::new(&table(name, &content.to_string())).unwrap();
                    world.resources.insert(route(name), Arc::new(resource));
                    stream.changed(route(name));
                }
                Event::Remove(name) => {
                    world.resources.remove(&route(name));
                    stream.changed(route(name));
                }
                Event::Mean(text, name) => {
                    match name {
                        Some(name) => world.meanings.insert(text, name.parse().unwrap()),
                        None => world.meanings.remove(text),
                    };
                    stream.resolve_again(&world);
                }
                Event::Subscribe(text) => {
                    sidecar.subscribed.insert(text);
                    request(&mut stream, &world, &[text], &[], &none);
                }
                Event::Unsubscribe(text) => {
                    sidecar.unsubscribe(text);
                    request(&mut stream, &world, &[], &[text], &none);
                }
                Event::Read => {
                    if let Some(draft) = stream.next(&world) {
                        sidecar.apply(draft);
                    }
                }
                Event::Reconnect => {
                    stream = Subscriptions::default();
                    let subscribed: Vec<_> = sidecar.subscribed.iter().copied().collect();
                    request(&mut stream, &world, &subscribed, &[], &sidecar.held());
                }
            }
        }
        while stream.has_next() {
            if let Some(draft) = stream.next(&world) {
                sidecar.apply(draft);
            }
        }
        for text in &sidecar.subscribed {
            let meaning = world.meanings.get(text).map(ToString::to_string);
            let is_authority = !text.contains('/');
            let name = if is_authority { meaning } else { Some((*text).to_owned()) };
            let present = name.as_ref().and_then(|name| world.resource(&route(name)));
            if is_authority {
                let expected = present.as_ref().and(name.as_ref());
                prop_assert_eq!(sidecar.aliases.get(*text), expected, "meaning of {}", text);
            }
            if let Some(name) = name {
                let held = sidecar.versions.get(&name).copied();
                prop_assert_eq!(held, present.map(|resource| resource.version), "content of {}", name);
            }
        }
        prop_assert_eq!(stream.next(&world).map(|draft| draft.removed), None, "quiet");
    }
}
