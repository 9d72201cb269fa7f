//! The whole source against a fake API server, by a clock that jumps.

use std::collections::BTreeMap;

use outrigger_compiler::ObjectKey;
use outrigger_model::WorkloadName;
use proptest::{prelude::*, sample::select};
use serde_json::{Value, json};
use tokio::time::timeout;

use super::*;
use crate::{
    cluster::fake::{Fake, Outage},
    source::Change,
};

const SERVICES: &str = "/api/v1/services";
const PODS: &str = "/api/v1/pods";
const ROUTES: &str = "/apis/networking.istio.io/v1/virtualservices";
const ISTIO: &str = "/apis/networking.istio.io/v1";

/// Longer than anything the source waits for.
const QUIET: Duration = Duration::from_secs(200);

fn fake() -> Fake {
    let fake = Fake::new();
    let mut world = fake.world();
    for (_, row) in Row::used().filter(|(_, row)| !row.is_built_in) {
        for version in row.versions {
            let path = kinds::group_path(row.group, version);
            world.served.entry(path).or_default();
        }
    }
    drop(world);
    fake
}

fn serve(fake: &Fake, plural: &str) {
    let mut world = fake.world();
    world
        .served
        .get_mut(ISTIO)
        .unwrap()
        .insert(plural.to_owned());
}

fn service(name: &str, port: u16) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "uid": name},
        "spec": {"ports": [{"port": port}]}})
}

fn pod(name: &str, number: u16) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "uid": format!("{name}-{number}")},
        "spec": {"serviceAccountName": format!("s{number}"), "containers": []},
        "status": {"podIP": format!("10.0.0.{number}")}})
}

fn route(name: &str, number: u16) -> Value {
    json!({"metadata": {"namespace": "a", "name": name, "uid": name},
        "spec": {"hosts": [name], "http": [{"timeout": format!("{number}s"),
            "route": [{"destination": {"host": name}}]}]}})
}

/// The source, and what whoever follows its updates knows.
struct Bed {
    fake: Fake,
    source: Kubernetes,
    cluster: Cluster,
    known: BTreeMap<ObjectKey, Arc<Object>>,
}

async fn start(fake: Fake) -> Bed {
    let (source, cluster) = Kubernetes::start(fake.api(), &Registry::new()).unwrap();
    let mut bed = Bed {
        fake,
        source,
        cluster,
        known: BTreeMap::new(),
    };
    let update = timeout(QUIET, bed.source.synced()).await.unwrap();
    bed.follow(update);
    bed
}

impl Bed {
    fn follow(&mut self, update: Update) {
        for (key, change) in update.changes {
            match change {
                Change::Added(object) | Change::Changed(object, _) => {
                    assert_eq!(*object.key(), key);
                    self.known.insert(key, object);
                }
                Change::Removed => drop(self.known.remove(&key)),
            }
        }
    }

    async fn settle(&mut self) {
        while let Ok(update) = timeout(QUIET, self.source.watch()).await {
            self.follow(update);
        }
    }

    /// What is there, as it would be read.
    fn real(&self) -> BTreeMap<ObjectKey, Arc<Object>> {
        let world = self.fake.world();
        let served = &world.served[ISTIO];
        let mut real = BTreeMap::new();
        for (kind, collection, version) in [
            (Kind::Service, SERVICES, "v1"),
            (Kind::Pod, PODS, "v1"),
            (Kind::VirtualService, ROUTES, "networking.istio.io/v1"),
        ] {
            if kind == Kind::VirtualService && !served.contains("virtualservices") {
                continue;
            }
            for object in world.all(collection) {
                let raw = serde_json::value::RawValue::from_string(object.to_string()).unwrap();
                let object = trim::read_object(kind, version, &raw).unwrap();
                real.insert(object.key().clone(), object);
            }
        }
        real
    }

    fn check(&self) {
        assert_eq!(self.known, self.real());
        let in_store: BTreeMap<_, _> = Kind::ALL
            .into_iter()
            .flat_map(|kind| self.source.store.objects(kind))
            .map(|object| (object.key().clone(), Arc::clone(object)))
            .collect();
        assert_eq!(in_store, self.real());
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_is_handed_on_before_every_kind_is_there() {
    let fake = fake();
    fake.world().put(SERVICES, service("x", 80));
    fake.world().outage = Outage::Cut;
    let (mut source, cluster) = Kubernetes::start(fake.api(), &Registry::new()).unwrap();
    assert!(timeout(QUIET, source.synced()).await.is_err());
    fake.world().outage = Outage::None;
    let update = timeout(QUIET, source.synced()).await.unwrap();
    assert_eq!(update.changes.len(), 1);
    assert!(cluster.namespaces().borrow().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_kind_joins_when_its_definition_appears_and_leaves_with_it() {
    let mut bed = start(fake()).await;
    bed.fake.world().put(ROUTES, route("x", 1));
    bed.settle().await;
    assert!(bed.known.is_empty());
    serve(&bed.fake, "virtualservices");
    let update = timeout(served::LOOK + COLLECT * 2, bed.source.watch())
        .await
        .unwrap();
    bed.follow(update);
    assert_eq!(bed.known.len(), 1);
    bed.check();
    bed.fake.world().served.get_mut(ISTIO).unwrap().clear();
    bed.settle().await;
    assert!(bed.known.is_empty());
    bed.check();
}

#[tokio::test(start_paused = true)]
async fn a_definition_that_is_missing_for_a_moment_takes_nothing_with_it() {
    let fake = fake();
    serve(&fake, "virtualservices");
    fake.world().put(ROUTES, route("x", 1));
    let mut bed = start(fake).await;
    bed.fake.world().served.get_mut(ISTIO).unwrap().clear();
    let shortly = served::LOOK * (served::GONE_LOOKS - 1);
    assert!(timeout(shortly, bed.source.watch()).await.is_err());
    serve(&bed.fake, "virtualservices");
    assert!(timeout(QUIET, bed.source.watch()).await.is_err());
    assert_eq!(bed.known.len(), 1);
}

#[tokio::test(start_paused = true)]
async fn pods_and_namespaces_are_known_beside_the_objects() {
    let fake = fake();
    fake.world()
        .put("/api/v1/namespaces", json!({"metadata": {"name": "a"}}));
    fake.world().put(PODS, pod("p", 1));
    let mut bed = start(fake).await;
    let name: WorkloadName = "a/p".parse().unwrap();
    let known = bed.cluster.pod(&name).unwrap();
    assert_eq!(
        (known.uid.as_str(), known.service_account.as_str()),
        ("p-1", "s1")
    );
    assert_eq!(bed.cluster.namespaces().borrow().len(), 1);
    bed.fake.world().put(PODS, pod("p", 2));
    bed.settle().await;
    assert_eq!(bed.cluster.pod(&name).unwrap().uid, "p-2");
    bed.fake.world().delete(PODS, "a/p");
    bed.settle().await;
    assert_eq!(bed.cluster.pod(&name), None);
}

#[tokio::test(start_paused = true)]
async fn a_watch_that_dies_begins_anew() {
    let mut bed = start(fake()).await;
    bed.source.watches[&Kind::Service].1.abort();
    bed.fake.world().put(SERVICES, service("x", 80));
    bed.settle().await;
    bed.check();
    assert_eq!(bed.known.len(), 1);
}

/// Something that happens to a cluster, or to the way there.
#[derive(Debug, Clone)]
enum Happening {
    Put(usize, &'static str, u16),
    Delete(usize, &'static str),
    Repeat(usize, usize),
    Close,
    Freeze,
    Compact,
    Outage(Outage, u64),
    Served(bool),
    Wait(u64),
}

fn happening() -> impl Strategy<Value = Happening> {
    let name = || select(vec!["x", "y", "z"]);
    let outage = select(vec![
        Outage::Cut,
        Outage::Hang,
        Outage::Code(503),
        Outage::Code(404),
    ]);
    prop_oneof![
        6 => (0..3_usize, name(), 1..4_u16).prop_map(|(kind, name, value)| Happening::Put(kind, name, value)),
        3 => (0..3_usize, name()).prop_map(|(kind, name)| Happening::Delete(kind, name)),
        1 => (0..3_usize, 1..5_usize).prop_map(|(kind, events)| Happening::Repeat(kind, events)),
        1 => Just(Happening::Close),
        1 => Just(Happening::Freeze),
        1 => Just(Happening::Compact),
        1 => (outage, 1..60_u64).prop_map(|(outage, seconds)| Happening::Outage(outage, seconds)),
        1 => any::<bool>().prop_map(Happening::Served),
        3 => (1..100_u64).prop_map(Happening::Wait),
    ]
}

async fn happen(bed: &mut Bed, happening: Happening) {
    let collections = [SERVICES, PODS, ROUTES];
    let mut wait = Duration::ZERO;
    {
        let mut world = bed.fake.world();
        match happening {
            Happening::Put(kind, name, value) => {
                let object = [service, pod, route][kind](name, value);
                world.put(collections[kind], object);
            }
            Happening::Delete(kind, name) => world.delete(collections[kind], &format!("a/{name}")),
            Happening::Repeat(kind, events) => world.repeat(collections[kind], events),
            Happening::Close => world.close(),
            Happening::Freeze => world.freeze(),
            Happening::Compact => world.compact(),
            Happening::Outage(outage, seconds) => {
                world.outage = outage;
                wait = Duration::from_secs(seconds);
            }
            Happening::Served(is_served) => {
                let names = world.served.get_mut(ISTIO).unwrap();
                names.clear();
                if is_served {
                    names.insert("virtualservices".to_owned());
                }
            }
            Happening::Wait(seconds) => wait = Duration::from_secs(seconds),
        }
    }
    let until = Instant::now() + wait;
    while let Ok(update) = timeout_at(until, bed.source.watch()).await {
        bed.follow(update);
    }
    bed.fake.world().outage = Outage::None;
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, cases: 128, ..ProptestConfig::default() })]

    /// Whatever happens on the way, in the end what is known is what is there.
    #[test]
    fn in_the_end_everything_is_known(
        happenings in prop::collection::vec(happening(), 1..40),
        streams_lists in any::<bool>(),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .unwrap();
        runtime.block_on(async {
            let fake = fake();
            fake.world().streams_lists = streams_lists;
            fake.world().page = 2;
            let mut bed = start(fake).await;
            for happening in happenings {
                happen(&mut bed, happening).await;
            }
            bed.settle().await;
            bed.check();
        });
    }
}
