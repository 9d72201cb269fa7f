//! Responses applied whole or not at all, and a start from what local disk has.

use std::{fs, path::Path, time::Duration};

use outrigger_model::Authority;
use outrigger_proto::wire::discovery;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    super::{
        disk::{self, Disk},
        fold::tests::{destination, settings, shard, table},
    },
    *,
};
use crate::snapshot::Lookup;

const OWNER: &str = "shop/web";

fn disk(folder: &Path) -> Disk {
    let identity = "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap();
    Disk::new(folder, OWNER.parse().unwrap(), identity)
}

/// A state as a process begins, and the end of its writes.
fn begin(folder: &Path) -> (State, watch::Receiver<Option<Arc<[u8]>>>) {
    let (contents, newest) = watch::channel(None);
    let state = State {
        keeper: Some(Keeper::new(disk(folder), contents)),
        ..State::default()
    };
    (state, newest)
}

fn response(kind: ResourceKind, received: Vec<Received>) -> DeltaDiscoveryResponse {
    let resource = |received: Received| {
        let value = codec::encode(&received.resource);
        let mut made = discovery::Resource {
            version: codec::version(kind, &value).to_string(),
            name: received.resource.name().to_string(),
            aliases: received.aliases,
            resource: None,
        };
        made.resource.get_or_insert_default().value = value.into();
        made
    };
    DeltaDiscoveryResponse {
        type_url: kind.type_url().into(),
        resources: received.into_iter().map(resource).collect(),
        ..DeltaDiscoveryResponse::default()
    }
}

fn take(state: &mut State, kind: ResourceKind, received: Vec<Received>) {
    state.take_in(response(kind, received)).unwrap();
    state.fold.snapshot();
}

/// All that `orders:80` needs: one route to `payments`, with one endpoint.
fn complete(state: &mut State) {
    state
        .fold
        .demand(&Authority::parse("orders:80", None).unwrap());
    take(state, ResourceKind::MeshSettings, vec![settings()]);
    // Subscribed by its canonical name, because a route names it.
    let backend = Received {
        aliases: Vec::new(),
        ..destination("payments", 1)
    };
    let used = vec![destination("orders", 0)];
    take(state, ResourceKind::Destination, used);
    let route = vec![table("orders", &["payments"])];
    take(state, ResourceKind::RouteTable, route);
    take(state, ResourceKind::Destination, vec![backend]);
    let endpoints = vec![shard("payments", 0, &["127.0.0.1:9000"])];
    take(state, ResourceKind::EndpointShard, endpoints);
}

fn endpoints(state: &mut State) -> Vec<String> {
    let snapshot = state.fold.snapshot().unwrap();
    let Some(Lookup::Found(service)) = snapshot.services.get("orders:80") else {
        return Vec::new();
    };
    let targets = service.targets.values();
    targets
        .flat_map(|target| target.endpoints.iter().map(|one| one.address.to_string()))
        .collect()
}

/// Writes what is due, as the process does.
async fn written(state: &mut State, newest: watch::Receiver<Option<Arc<[u8]>>>) {
    state.save();
    let path = state.keeper.take().unwrap().disk().path().to_owned();
    disk::write_out(path, newest, CancellationToken::new()).await;
}

#[tokio::test]
async fn a_restart_serves_what_served_and_claims_its_versions() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, newest) = begin(folder.path());
    complete(&mut state);
    let claimed = ResourceKind::ALL.map(|kind| state.subscriptions.with(|all| all.opening(kind)));
    written(&mut state, newest).await;

    let (mut next, _newest) = begin(folder.path());
    let saved = disk(folder.path()).read().unwrap().unwrap();
    next.take_back(saved).unwrap();
    assert_eq!(endpoints(&mut next), ["127.0.0.1:9000"]);
    // The stream that opens asks for the same and claims the same: only differences come.
    for (kind, before) in ResourceKind::ALL.into_iter().zip(claimed) {
        let wanted = next.fold.wanted(kind);
        let now = next.subscriptions.with(|all| {
            all.update(kind, wanted);
            all.opening(kind)
        });
        assert_eq!(now.versions, before.versions, "{kind:?}");
    }
    assert!(
        next.fold
            .wanted(ResourceKind::Destination)
            .contains("orders:80")
    );
}

#[tokio::test]
async fn an_unsettled_state_is_not_kept() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, newest) = begin(folder.path());
    complete(&mut state);
    state.save();
    let settled = newest.borrow().clone().unwrap();
    // Its second backend has not arrived: the old table serves.
    let two = vec![table("orders", &["payments", "shipping"])];
    take(&mut state, ResourceKind::RouteTable, two);
    assert_eq!(endpoints(&mut state), ["127.0.0.1:9000"]);
    state.save();
    assert!(Arc::ptr_eq(&settled, newest.borrow().as_ref().unwrap()));
}

#[tokio::test]
async fn what_the_disk_has_is_taken_whole_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, newest) = begin(folder.path());
    complete(&mut state);
    written(&mut state, newest).await;
    let mut saved = disk(folder.path()).read().unwrap().unwrap();
    let last = saved.resources.last_mut().unwrap();
    last.value = vec![0xff; 8].into();
    let name = last.name.clone();

    let (mut next, _newest) = begin(folder.path());
    let rejected = next.take_back(saved).unwrap_err();
    assert!(rejected.name.contains(&name), "{rejected}");
    assert!(next.fold.wanted(ResourceKind::Destination).is_empty());
    for kind in ResourceKind::ALL {
        assert!(next.subscriptions.standing(kind).is_empty());
    }
}

/// DESIGN §6: keys and certificates are in memory alone.
#[tokio::test]
async fn no_certificate_reaches_the_disk() {
    const CANARY: &[u8] = b"canary-8f3b";
    let folder = tempfile::tempdir().unwrap();
    let (mut state, newest) = begin(folder.path());
    complete(&mut state);
    let bundle = Resource::TrustBundle(outrigger_model::TrustBundle {
        trust_domain: "cluster.local".parse().unwrap(),
        roots: vec![CANARY.into()],
    });
    let bundle = Received {
        resource: bundle,
        aliases: Vec::new(),
    };
    take(&mut state, ResourceKind::TrustBundle, vec![bundle]);
    let path = disk(folder.path()).path().to_owned();
    written(&mut state, newest).await;
    let content = fs::read(path).unwrap();
    assert!(!content.windows(CANARY.len()).any(|part| part == CANARY));
    assert!(
        content
            .windows(OWNER.len())
            .any(|part| part == OWNER.as_bytes())
    );
}

#[test]
fn a_rejected_response_changes_nothing_and_is_remembered() {
    let mut state = State::default();
    complete(&mut state);
    let kind = ResourceKind::Destination;
    let good = state.subscriptions.standing(kind);
    let mut bad = response(
        kind,
        vec![destination("orders", 3), destination("payments", 2)],
    );
    bad.resources[1].resource.as_mut().unwrap().value = vec![0xff; 8];
    let version = bad.resources[0].version.clone();
    let rejected = state.take_in(bad).unwrap_err();
    assert!(rejected.name.contains("shop/payments:80"), "{rejected}");
    assert_eq!(endpoints(&mut state), ["127.0.0.1:9000"]);
    let standing = state.subscriptions.standing(kind);
    for (name, before) in good {
        assert_eq!(standing[&name].applied, before.applied, "{name}");
    }
    let orders = standing["orders:80"].rejected.as_ref().unwrap();
    assert_eq!(orders.version, version);
    assert!(orders.reason.contains("payments"), "{}", orders.reason);
}

#[tokio::test(start_paused = true)]
async fn churn_is_written_once_a_second() {
    let folder = tempfile::tempdir().unwrap();
    let (mut state, mut newest) = begin(folder.path());
    complete(&mut state);
    let begun = Instant::now();
    for number in 1..=3_u16 {
        let endpoints = vec![shard("payments", 0, &[&format!("127.0.0.1:900{number}")])];
        take(&mut state, ResourceKind::EndpointShard, endpoints);
        let keeper = state.keeper.as_mut().unwrap();
        keeper.changed(Instant::now());
        keeper.changed(Instant::now());
        state.due().await;
        state.save();
        assert!(newest.has_changed().unwrap());
        newest.mark_unchanged();
    }
    assert!(begun.elapsed() >= Duration::from_secs(2));
    assert!(begun.elapsed() < Duration::from_secs(3));
    let idle = tokio::time::timeout(Duration::from_secs(60), state.due());
    assert!(idle.await.is_err(), "nothing is due without a change");
}
