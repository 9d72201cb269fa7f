//! Real clients on real streams.

pub(super) mod bench;

use std::{
    collections::BTreeMap,
    io::Write,
    sync::{Arc, Mutex},
    time::Duration,
};

use outrigger_model::{Namespace, Resource, ResourceKind, ResourceName};
use outrigger_proto::wire::discovery::DeltaDiscoveryRequest;
use prost::Message;
use tokio::time::{Instant, timeout};
use tonic::Code;

use self::bench::*;
use super::{
    DiscoveryEvent, Published, ResourceStatus, Update, Upsert, subscriptions::RESPONSE_BYTES,
};

const DESTINATION: ResourceKind = ResourceKind::Destination;
const SHARD: ResourceKind = ResourceKind::EndpointShard;
const TABLE: ResourceKind = ResourceKind::RouteTable;

fn name(resource: &Resource) -> ResourceName {
    resource.name()
}

#[tokio::test]
async fn subscribed_resources_come_change_and_go() {
    let bench = Bench::start();
    let orders = table("shop/orders:80", "first");
    bench.publish(vec![orders.clone(), table("shop/other:80", "")], &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    let response = sidecar.expect(TABLE, &["+shop/orders:80"]).await;
    assert_eq!(response.decoded(), orders);

    let changed = table("shop/orders:80", "second");
    let published = bench.publish(vec![changed.clone(), table("shop/other:80", "x")], &[]);
    assert_eq!(published.changed.len(), 2);
    let response = sidecar.expect(TABLE, &["+shop/orders:80"]).await;
    assert_eq!(response.decoded(), changed);

    let published = bench.publish(vec![changed.clone()], &[]);
    assert!(published.changed.is_empty(), "equal content is no change");
    sidecar.expect_nothing().await;

    bench.publish(Vec::new(), &[name(&changed)]);
    sidecar.expect(TABLE, &["-shop/orders:80"]).await;
    bench.publish(vec![orders], &[]);
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;
}

/// E1: what a certificate proved it proves until it ends.
#[tokio::test(start_paused = true)]
async fn a_stream_ends_with_its_certificate_and_is_resumed_with_the_next() {
    let bench = Bench::start();
    bench.publish(vec![table("shop/orders:80", "")], &[]);
    let identity = || Some(bench::identity("shop/web"));
    let ends = Instant::now() + Duration::from_secs(20);
    let opened = bench.open_until(Some(ends), identity(), "shop/web").await;
    let mut sidecar = opened.unwrap();
    sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    let response = sidecar.expect(TABLE, &["+shop/orders:80"]).await;
    let ended = sidecar.receive().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated, "{ended}");
    assert_eq!(ended.metadata().get("grpc-retry-pushback-ms").unwrap(), "0");
    let late = Instant::now().duration_since(ends);
    assert!(late < Duration::from_secs(1), "{late:?}");
    assert!(bench.handle.sidecars().is_empty());

    let refused = bench.open_until(Some(ends), identity(), "shop/web").await;
    let refused = refused
        .err()
        .expect("that connection is of no use any more");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");

    let mut sidecar = bench.sidecar("shop/web").await;
    let held = [("shop/orders:80", response.version())];
    sidecar.resume(TABLE, &["shop/orders:80"], &held).await;
    sidecar.expect_nothing().await;
}

#[tokio::test]
async fn what_does_not_exist_is_answered_at_once_and_comes_when_it_appears() {
    let bench = Bench::start();
    bench.publish(Vec::new(), &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar
        .subscribe(DESTINATION, &["shop/late:80", "late:80", "not a name"])
        .await;
    let expected = ["-late:80", "-not a name", "-shop/late:80"];
    sidecar.expect(DESTINATION, &expected).await;
    bench.publish(vec![destination("shop/late:80", 0)], &[]);
    sidecar.expect(DESTINATION, &["+shop/late:80"]).await;
    bench.publish_aliases(&[("late:80", "shop/late:80")]);
    sidecar
        .expect(DESTINATION, &["+shop/late:80 =late:80"])
        .await;
}

#[tokio::test]
async fn nothing_is_answered_before_the_first_batch() {
    let bench = Bench::start();
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar
        .resume(
            TABLE,
            &["shop/orders:80"],
            &[("shop/orders:80", &"0".repeat(32))],
        )
        .await;
    // The server has the request: it counts a stream only after the first.
    let events = bench.handle.events();
    while bench.handle.sidecars().is_empty() {
        tokio::task::yield_now().await;
    }
    drop(events);
    bench.publish(vec![table("shop/orders:80", "")], &[]);
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;
}

#[tokio::test]
async fn authorities_are_resolved_and_follow_their_meaning() {
    let bench = Bench::start();
    let both = vec![
        destination("shop/orders:80", 0),
        destination("eu/orders:80", 0),
    ];
    bench.publish(both, &[]);
    let (full, short) = ("orders.shop.svc.cluster.local:80", "orders:80");
    bench.publish_aliases(&[(full, "shop/orders:80"), (short, "shop/orders:80")]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(DESTINATION, &[short]).await;
    sidecar
        .expect(DESTINATION, &["+shop/orders:80 =orders:80"])
        .await;
    sidecar.subscribe(DESTINATION, &[full]).await;
    let both = format!("+shop/orders:80 ={full} =orders:80");
    sidecar.expect(DESTINATION, &[&both]).await;

    bench.publish_aliases(&[(full, "shop/orders:80"), (short, "eu/orders:80")]);
    sidecar
        .expect(DESTINATION, &["+eu/orders:80 =orders:80"])
        .await;
    bench.publish_aliases(&[(short, "eu/orders:80")]);
    sidecar.expect(DESTINATION, &[&format!("-{full}")]).await;
    sidecar.expect(DESTINATION, &["-shop/orders:80"]).await;

    bench.publish(Vec::new(), &[name(&destination("eu/orders:80", 0))]);
    sidecar
        .expect(DESTINATION, &["-orders:80", "-eu/orders:80"])
        .await;
}

#[tokio::test]
async fn what_is_named_comes_first_and_goes_last() {
    let bench = Bench::start();
    let present = |n| {
        let origin = format!("table {n}");
        vec![
            table("shop/orders:80", &origin),
            destination("shop/orders:80", n),
            shard("shop/orders:80/0", 1),
        ]
    };
    bench.publish(present(1), &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(SHARD, &["shop/orders:80/0"]).await;
    sidecar.expect(SHARD, &["+shop/orders:80/0"]).await;
    sidecar.subscribe(DESTINATION, &["shop/orders:80"]).await;
    sidecar.expect(DESTINATION, &["+shop/orders:80"]).await;
    sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;

    let mut next = present(2);
    next[2] = shard("shop/orders:80/0", 2);
    let names: Vec<_> = next.iter().map(name).collect();
    bench.publish(next, &[]);
    sidecar.expect(SHARD, &["+shop/orders:80/0"]).await;
    sidecar.expect(DESTINATION, &["+shop/orders:80"]).await;
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;

    bench.publish(Vec::new(), &names);
    sidecar.expect(TABLE, &["-shop/orders:80"]).await;
    sidecar.expect(DESTINATION, &["-shop/orders:80"]).await;
    sidecar.expect(SHARD, &["-shop/orders:80/0"]).await;
}

#[tokio::test]
async fn a_reconnect_brings_only_what_differs() {
    let bench = Bench::start();
    let tables = ["a", "b", "c"].map(|n| table(&format!("shop/{n}:80"), "1"));
    bench.publish(tables.to_vec(), &[]);
    bench.publish_aliases(&[("c:80", "shop/c:80")]);
    let names = ["shop/a:80", "shop/b:80", "c:80"];
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(TABLE, &names).await;
    let all = ["+shop/a:80", "+shop/b:80", "+shop/c:80 =c:80"];
    let response = sidecar.expect(TABLE, &all).await;
    drop(sidecar);
    let versions: Vec<_> = response
        .response
        .resources
        .iter()
        .flat_map(|resource| {
            let texts = resource.aliases.iter().chain([&resource.name]);
            texts.map(|text| (text.as_str(), resource.version.as_str()))
        })
        .collect();

    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.resume(TABLE, &names, &versions).await;
    sidecar.expect_nothing().await;
    let a = name(&tables[0]);
    assert_eq!(bench.handle.status(&a).acked, 1, "held counts as accepted");
    drop(sidecar);

    bench.publish(vec![table("shop/b:80", "2")], &[a]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.resume(TABLE, &names, &versions).await;
    sidecar.expect(TABLE, &["+shop/b:80"]).await;
    sidecar.expect(TABLE, &["-shop/a:80"]).await;
    sidecar.expect_nothing().await;
    drop(sidecar);

    // A sidecar that does not know what a text means is told, although it has the content.
    let mut sidecar = bench.sidecar("shop/web").await;
    let canonical: Vec<_> = versions
        .iter()
        .filter(|(name, _)| *name == "shop/c:80")
        .copied()
        .collect();
    sidecar.resume(TABLE, &["c:80"], &canonical).await;
    sidecar.expect(TABLE, &["+shop/c:80 =c:80"]).await;
}

/// What the log says, of this thread.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }
    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_nack_is_logged_counted_and_shown() {
    let log = Log::default();
    let writer = log.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_ansi(false)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let bench = Bench::start();
    let mut events = bench.handle.events();
    let orders = name(&table("shop/orders:80", ""));
    bench.publish(vec![table("shop/orders:80", "good")], &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;

    bench.publish(vec![table("shop/orders:80", "bad")], &[]);
    let response = sidecar.receive().await.unwrap();
    sidecar.nack(&response, "tcp[0]: no such luck").await;
    let rejected = loop {
        let event = timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
        if let DiscoveryEvent::Rejected { names, reason, .. } = event {
            break (names.to_vec(), reason.to_string());
        }
    };
    assert_eq!(
        rejected,
        (vec![orders.clone()], "tcp[0]: no such luck".to_owned())
    );
    let status = |acked, rejected| ResourceStatus {
        subscribed: 1,
        acked,
        rejected,
    };
    assert_eq!(bench.handle.status(&orders), status(0, 1));
    bench.assert_metric("outrigger_discovery_nacks_total{type=\"RouteTable\"} 1");
    bench.assert_metric("outrigger_discovery_acks_total{type=\"RouteTable\"} 1");
    let series = "outrigger_discovery_rejected{reason=\"tcp[0]: no such luck\",resource=\"shop/orders:80\",sidecar=\"shop/web\",type=\"RouteTable\"} 1";
    bench.assert_metric(series);
    let text = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
    let line = text.lines().find(|line| line.contains("refused")).unwrap();
    for part in [
        "ERROR",
        "sidecar=shop/web",
        "identity=spiffe://cluster.local/ns/shop/sa/web",
        "kind=\"RouteTable\"",
        "nonce=\"2\"",
        "resources=[\"shop/orders:80\"]",
        "reason=\"tcp[0]: no such luck\"",
    ] {
        assert!(line.contains(part), "{part}: {line}");
    }

    bench.publish(vec![table("shop/orders:80", "better")], &[]);
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;
    sidecar.expect_nothing().await;
    assert_eq!(bench.handle.status(&orders), status(1, 0));
    assert!(!bench.metrics().contains("outrigger_discovery_rejected{"));
}

#[tokio::test]
async fn a_sidecar_that_does_not_read_gets_the_newest_state_once() {
    let bench = Bench::start();
    let large = |n: usize| table("shop/orders:80", &format!("{n} {}", "x".repeat(400)));
    bench.publish(vec![large(0)], &[]);
    let mut slow = bench.sidecar("shop/slow").await;
    let mut quick = bench.sidecar("shop/quick").await;
    for sidecar in [&slow, &quick] {
        sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    }
    quick.expect(TABLE, &["+shop/orders:80"]).await;
    let first = slow.receive().await.unwrap();
    for n in 1..=5000 {
        bench.publish(vec![large(n)], &[]);
        if n % 1000 == 0 {
            // The other one is served meanwhile.
            quick.expect(TABLE, &["+shop/orders:80"]).await;
        }
    }
    slow.ack(&first).await;
    let newest = slow.expect(TABLE, &["+shop/orders:80"]).await;
    assert_eq!(newest.decoded(), large(5000));
    slow.expect_nothing().await;
}

#[tokio::test]
async fn without_a_certificate_there_is_no_stream() {
    let bench = Bench::start();
    bench.publish(vec![settings(1)], &[]);
    let refused = bench.open(None, "shop/web").await.err().unwrap();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let mut foreign = bench
        .open(Some(identity("shop/web")), "eu/web")
        .await
        .unwrap();
    foreign
        .subscribe(ResourceKind::MeshSettings, &["mesh"])
        .await;
    let refused = foreign.receive().await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    bench.assert_metric("outrigger_discovery_streams_refused_total 2");
    bench.assert_metric("outrigger_discovery_streams 0");
}

#[tokio::test]
async fn an_inbound_policy_goes_to_its_identity_alone() {
    let bench = Bench::start();
    bench.publish(
        vec![inbound("shop/web"), inbound("shop/orders"), settings(1)],
        &[],
    );
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar
        .subscribe(ResourceKind::InboundPolicy, &["shop/web", "shop/orders"])
        .await;
    sidecar
        .expect(ResourceKind::InboundPolicy, &["+shop/web", "-shop/orders"])
        .await;
    sidecar
        .subscribe(ResourceKind::MeshSettings, &["mesh"])
        .await;
    sidecar.expect(ResourceKind::MeshSettings, &["+mesh"]).await;
}

#[tokio::test]
async fn clients_of_a_namespace_see_its_variant() {
    let bench = Bench::start();
    let eu = Namespace::parse("eu").unwrap();
    let publish = |default: &str, special: &str| {
        let variant = Arc::new(table("shop/orders:80", special));
        bench.handle.publish(Update {
            upserts: vec![Upsert {
                default: Arc::new(table("shop/orders:80", default)),
                per_namespace: BTreeMap::from([(eu.clone(), variant)]),
            }],
            ..Update::default()
        });
    };
    publish("default", "special");
    let mut here = bench.sidecar("shop/web").await;
    let mut there = bench.sidecar("eu/web").await;
    for (sidecar, origin) in [(&mut here, "default"), (&mut there, "special")] {
        sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
        let response = sidecar.expect(TABLE, &["+shop/orders:80"]).await;
        assert_eq!(response.decoded(), table("shop/orders:80", origin));
    }
    publish("default", "changed");
    there.expect(TABLE, &["+shop/orders:80"]).await;
    here.expect_nothing().await;
}

#[tokio::test]
async fn large_answers_are_split() {
    let bench = Bench::start();
    let names: Vec<String> = (0..2000).map(|i| format!("shop/s{i}:80")).collect();
    let origin = "x".repeat(500);
    let tables = names.iter().map(|name| table(name, &origin)).collect();
    bench.publish(tables, &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    sidecar.subscribe(TABLE, &names).await;
    let (mut received, mut responses) = (0, 0);
    while received < names.len() {
        let response = sidecar.receive().await.unwrap();
        assert!(response.response.encoded_len() <= RESPONSE_BYTES + 1024);
        received += response.response.resources.len();
        responses += 1;
        sidecar.ack(&response).await;
    }
    assert!(responses >= 4, "{responses}");
    sidecar.expect_nothing().await;
}

#[tokio::test]
async fn answers_to_other_responses_say_nothing() {
    let bench = Bench::start();
    bench.publish(vec![table("shop/a:80", "1"), table("shop/b:80", "1")], &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(TABLE, &["shop/a:80"]).await;
    let first = sidecar.expect(TABLE, &["+shop/a:80"]).await;
    sidecar.subscribe(TABLE, &["shop/b:80"]).await;
    let second = sidecar.receive().await.unwrap();
    sidecar.nack(&first, "late").await;
    sidecar.ack(&second).await;
    sidecar.expect_nothing().await;
    bench.assert_metric("outrigger_discovery_nacks_total{type=\"RouteTable\"} 0");
    assert_eq!(first.version().len(), 32);
}

#[tokio::test]
async fn unsubscribed_names_and_ended_streams_are_forgotten() {
    let bench = Bench::start();
    let orders = name(&table("shop/orders:80", ""));
    bench.publish(vec![table("shop/orders:80", "1")], &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;
    sidecar.expect_nothing().await;
    let one = ResourceStatus {
        subscribed: 1,
        acked: 1,
        rejected: 0,
    };
    assert_eq!(bench.handle.status(&orders), one);
    let request = DeltaDiscoveryRequest {
        resource_names_unsubscribe: vec!["shop/orders:80".to_owned()],
        ..DeltaDiscoveryRequest::default()
    };
    sidecar.send(TABLE, request).await;
    sidecar.subscribe(DESTINATION, &["shop/none:1"]).await;
    sidecar.expect(DESTINATION, &["-shop/none:1"]).await;
    assert_eq!(bench.handle.status(&orders), ResourceStatus::default());
    bench.publish(vec![table("shop/orders:80", "2")], &[]);
    sidecar.subscribe(DESTINATION, &["shop/none:2"]).await;
    sidecar.expect(DESTINATION, &["-shop/none:2"]).await;

    let mut events = bench.handle.events();
    drop(sidecar);
    loop {
        let event = timeout(DEADLINE, events.recv()).await.unwrap().unwrap();
        if matches!(event, DiscoveryEvent::Disconnected { .. }) {
            break;
        }
    }
    assert!(bench.handle.sidecars().is_empty());
    bench.assert_metric("outrigger_discovery_streams 0");
}

#[tokio::test]
async fn when_most_endpoints_vanish_they_are_kept_until_released() {
    let bench = Bench::start();
    let shards: Vec<_> = (0..4)
        .map(|i| shard(&format!("shop/orders:80/{i}"), 50))
        .collect();
    let names: Vec<_> = shards.iter().map(name).collect();
    bench.publish(shards.clone(), &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(SHARD, &["shop/orders:80/0"]).await;
    sidecar.expect(SHARD, &["+shop/orders:80/0"]).await;
    let held = |published: Published| published.held.map(|held| held.endpoints);

    let quarter = bench.publish(Vec::new(), &names[3..]);
    assert_eq!(held(quarter), None, "a quarter may go");
    assert_eq!(held(bench.publish(Vec::new(), &names[..3])), Some(150));
    bench.assert_metric("outrigger_discovery_holding 1");
    sidecar.subscribe(DESTINATION, &["shop/none:1"]).await;
    sidecar.expect(DESTINATION, &["-shop/none:1"]).await;
    // Other changes go on: a route, a new service with its endpoints.
    let published = bench.publish(vec![table("shop/orders:80", "2")], &[]);
    assert_eq!(published.changed.len(), 1);
    assert_eq!(held(published), Some(150));
    sidecar.subscribe(TABLE, &["shop/orders:80"]).await;
    sidecar.expect(TABLE, &["+shop/orders:80"]).await;
    let published = bench.publish(vec![shard("shop/new:80/0", 10)], &[]);
    assert_eq!(published.changed.len(), 1);
    assert_eq!(held(published), Some(150));
    // With two shards back, 50 of 150 are lost, and 10 are new.
    let published = bench.publish(shards[..2].to_vec(), &[]);
    assert_eq!(held(published), None, "the source sees again");
    bench.assert_metric("outrigger_discovery_holding 0");

    bench.publish(vec![shards[2].clone(), shards[3].clone()], &[]);
    assert!(held(bench.publish(Vec::new(), &names)).is_some());
    assert_eq!(bench.handle.release().len(), 4);
    assert_eq!(bench.handle.held(), None);
    sidecar.expect(SHARD, &["-shop/orders:80/0"]).await;
}

/// A destination keeps its number of shards as long as it keeps them, and its name its meaning.
#[tokio::test]
async fn what_belongs_to_kept_endpoints_is_kept_with_them() {
    let bench = Bench::start();
    let orders = |shards| destination("shop/orders:80", shards);
    let shards: Vec<_> = (0..4)
        .map(|i| shard(&format!("shop/orders:80/{i}"), 50))
        .collect();
    let mut all = shards.clone();
    all.push(orders(4));
    bench.publish_aliases(&[("orders:80", "shop/orders:80")]);
    bench.publish(all, &[]);
    let names: Vec<_> = shards.iter().map(name).collect();
    let held = bench.publish(vec![orders(1)], &names[1..]);
    assert!(held.changed.is_empty());
    bench.publish_aliases(&[("other:80", "shop/other:80")]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar.subscribe(DESTINATION, &["orders:80"]).await;
    let response = sidecar
        .expect(DESTINATION, &["+shop/orders:80 =orders:80"])
        .await;
    assert_eq!(response.decoded(), orders(4));

    let written = bench.handle.publish(Update {
        removals: names,
        is_written: true,
        ..Update::default()
    });
    assert_eq!(written.held, None, "who writes it means it");
    assert!(bench.handle.release().is_empty());
}

#[tokio::test]
async fn closing_sends_sidecars_elsewhere() {
    let bench = Bench::start();
    bench.publish(vec![settings(1)], &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    sidecar
        .subscribe(ResourceKind::MeshSettings, &["mesh"])
        .await;
    sidecar.expect(ResourceKind::MeshSettings, &["+mesh"]).await;
    bench.handle.close();
    let status = sidecar.receive().await.err().unwrap();
    assert_eq!(status.code(), Code::Unavailable);
    let refused = bench.open(Some(identity("shop/web")), "shop/web").await;
    assert_eq!(refused.err().unwrap().code(), Code::Unavailable);
}

#[test]
fn what_no_sidecar_could_decode_is_not_published() {
    let registry = prometheus::Registry::new();
    let handle = super::DiscoveryHandle::new(&registry).unwrap();
    let good = table("shop/orders:80", "");
    let Resource::RouteTable(mut bad) = good.clone() else {
        unreachable!("a table");
    };
    bad.tcp[0].backends.clear();
    let update = |resource| Update {
        upserts: vec![everywhere(resource)],
        ..Update::default()
    };
    assert_eq!(handle.publish(update(good.clone())).changed.len(), 1);
    let published = handle.publish(update(Resource::RouteTable(bad)));
    assert!(published.changed.is_empty());
    assert_eq!(published.refused[0].0, name(&good));
    let error = published.refused[0].1.to_string();
    assert_eq!(error, "RouteTable.tcp[0].backends: is empty");
}

/// DEF-35: beyond the pace, streams wait up to a second; beyond that they are told when to come
/// again, and do get in then.
#[tokio::test(start_paused = true)]
async fn streams_are_let_in_at_a_pace() {
    let bench = Bench::admitting(2);
    bench.publish(vec![settings(1)], &[]);
    let begun = tokio::time::Instant::now();
    let mut sidecars = Vec::new();
    for _ in 0..4 {
        sidecars.push(bench.sidecar("shop/web").await);
    }
    let refused = bench.open(Some(identity("shop/web")), "shop/web").await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), Code::ResourceExhausted);
    let after = status.metadata().get("grpc-retry-pushback-ms").unwrap();
    let after: u64 = after.to_str().unwrap().parse().unwrap();
    assert!((1_000..=1_500).contains(&after), "{after} ms");
    bench.assert_metric("outrigger_discovery_streams_throttled_total 1");
    for sidecar in &mut sidecars {
        sidecar
            .subscribe(ResourceKind::MeshSettings, &["mesh"])
            .await;
        sidecar.expect(ResourceKind::MeshSettings, &["+mesh"]).await;
    }
    let took = begun.elapsed();
    assert!(
        (Duration::from_millis(900)..Duration::from_secs(2)).contains(&took),
        "{took:?}"
    );
    tokio::time::sleep(Duration::from_millis(after)).await;
    let mut late = bench.sidecar("shop/web").await;
    late.subscribe(ResourceKind::MeshSettings, &["mesh"]).await;
    late.expect(ResourceKind::MeshSettings, &["+mesh"]).await;
}

/// DEF-35: while as many responses are made as may be, no other is.
#[tokio::test(start_paused = true)]
async fn responses_are_made_for_so_many_streams_at_once() {
    let bench = Bench::start();
    bench.publish(vec![settings(1)], &[]);
    let mut sidecar = bench.sidecar("shop/web").await;
    let shared = Arc::clone(&bench.handle.shared);
    let turns = u32::try_from(super::PUSHES_MAX).unwrap();
    let turns = shared.pushes.acquire_many(turns).await.unwrap();
    sidecar
        .subscribe(ResourceKind::MeshSettings, &["mesh"])
        .await;
    let early = timeout(Duration::from_millis(50), sidecar.receive()).await;
    assert!(early.is_err(), "no turn is free");
    drop(turns);
    sidecar.expect(ResourceKind::MeshSettings, &["+mesh"]).await;
}
