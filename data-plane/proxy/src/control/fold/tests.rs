//! The fold against sequences of responses: what is wanted, what is in force, and when.

use std::{collections::BTreeSet, time::Duration};

use outrigger_model::{
    AccessLog, Backoff, Endpoint, EndpointState, Filters, HttpAction, HttpBackend, HttpRule,
    Locality, Origin, Peer, Percent, Protocol, Ratio, RetryBudget, RetryConditions, RetryPolicy,
    Timeout, TrustDomain, Weight, WeightedBackend,
};
use proptest::prelude::*;

use super::*;
use crate::snapshot::policy_of_nothing;

fn name(service: &str) -> DestinationName {
    format!("shop/{service}:80").parse().unwrap()
}

fn backend(service: &str) -> Backend {
    Backend {
        destination: name(service),
        subset: None,
    }
}

pub(in crate::control) fn destination(service: &str, shards: u16) -> Received {
    let resource = Resource::Destination(Destination {
        name: name(service),
        hosts: vec![format!("{service}.shop.svc.cluster.local").parse().unwrap()],
        vips: Vec::new(),
        protocol: Protocol::Http,
        policy: policy_of_nothing(),
        subsets: Vec::new(),
        shards,
    });
    Received {
        resource,
        aliases: vec![format!("{service}:80")],
    }
}

pub(in crate::control) fn shard(service: &str, index: u16, addresses: &[&str]) -> Received {
    let endpoint = |address: &&str| Endpoint {
        address: address.parse().unwrap(),
        weight: Weight::ONE,
        locality: Locality::default(),
        peer: Peer::Plain,
        state: EndpointState::Ready,
        subsets: Vec::new(),
    };
    let resource = Resource::EndpointShard(EndpointShard {
        name: ShardName {
            destination: name(service),
            index,
        },
        endpoints: addresses.iter().map(endpoint).collect(),
    });
    Received {
        resource,
        aliases: Vec::new(),
    }
}

pub(in crate::control) fn table(service: &str, to: &[&str]) -> Received {
    let weighted = |service: &&str| WeightedBackend {
        weight: Weight::ONE,
        backend: backend(service),
    };
    let rule = HttpRule {
        origin: Origin::new(&format!("to {}", to.join("+"))),
        matches: Vec::new(),
        action: HttpAction::Forward(to.iter().map(weighted).map(HttpBackend::from).collect()),
        filters: Filters::default(),
        timeout: Timeout::Disabled,
        retry: RetryPolicy {
            attempts: 0,
            per_try_timeout: Timeout::Disabled,
            on: RetryConditions::default(),
            on_idempotent: RetryConditions::default(),
            backoff: Backoff {
                base: Duration::from_millis(25),
                max: Duration::from_millis(250),
                jitter: Ratio::ONE,
            },
            budget: RetryBudget {
                percent: Percent::ZERO,
                min_per_second: 0,
            },
        },
    };
    let table = RouteTable {
        name: name(service),
        http: vec![rule],
        tcp: Vec::new(),
    };
    Received {
        resource: Resource::RouteTable(table),
        aliases: vec![format!("{service}:80")],
    }
}

pub(in crate::control) fn settings() -> Received {
    let mut settings = MeshSettings::defaults(TrustDomain::parse("cluster.local").unwrap());
    settings.access_log = AccessLog::Off;
    Received {
        resource: Resource::MeshSettings(settings),
        aliases: Vec::new(),
    }
}

/// A fold in which the application uses `orders:80`.
fn demanding() -> Fold {
    let mut fold = Fold::default();
    fold.apply(prepare(vec![settings()]).unwrap());
    assert!(fold.demand(&Authority::parse("orders:80", None).unwrap()));
    fold
}

fn apply(fold: &mut Fold, received: Vec<Received>) -> Snapshot {
    fold.apply(prepare(received).unwrap());
    fold.snapshot().unwrap()
}

/// Origin of the rule in force and addresses of its targets, or what else the look-up says.
fn seen(snapshot: &Snapshot) -> String {
    match snapshot.services.get("orders:80") {
        None => "unknown".into(),
        Some(Lookup::Missing) => "missing".into(),
        Some(Lookup::Found(service)) => {
            let rule = &service.http.rules()[0].origin;
            let addresses: BTreeSet<String> = service
                .targets
                .values()
                .flat_map(|target| target.endpoints.iter().map(|one| one.address.to_string()))
                .collect();
            format!(
                "{rule}: {}",
                addresses.into_iter().collect::<Vec<_>>().join(" ")
            )
        }
    }
}

#[test]
fn a_service_appears_only_when_all_of_it_is_there() {
    let mut fold = demanding();
    assert_eq!(
        fold.wanted(ResourceKind::Destination),
        BTreeSet::from(["orders:80".into()])
    );
    assert_eq!(
        fold.wanted(ResourceKind::RouteTable),
        BTreeSet::from(["orders:80".into()])
    );
    assert_eq!(
        seen(&apply(&mut fold, vec![destination("orders", 1)])),
        "unknown"
    );
    assert_eq!(
        seen(&apply(&mut fold, vec![table("orders", &["orders"])])),
        "unknown"
    );
    let wanted = fold.wanted(ResourceKind::EndpointShard);
    assert_eq!(wanted, BTreeSet::from(["shop/orders:80/0".into()]));
    let snapshot = apply(&mut fold, vec![shard("orders", 0, &["10.0.0.1:80"])]);
    assert_eq!(seen(&snapshot), "to orders: 10.0.0.1:80");
}

fn serving() -> Fold {
    let mut fold = demanding();
    let all = vec![
        destination("orders", 1),
        table("orders", &["orders"]),
        shard("orders", 0, &["10.0.0.1:80"]),
    ];
    assert_eq!(seen(&apply(&mut fold, all)), "to orders: 10.0.0.1:80");
    fold
}

#[test]
fn a_new_table_waits_for_what_it_names_while_endpoints_stay_current() {
    let mut fold = serving();
    let snapshot = apply(&mut fold, vec![table("orders", &["orders", "canary"])]);
    assert_eq!(
        seen(&snapshot),
        "to orders: 10.0.0.1:80",
        "the old table serves"
    );
    assert!(
        fold.wanted(ResourceKind::Destination)
            .contains("shop/canary:80")
    );
    let snapshot = apply(&mut fold, vec![shard("orders", 0, &["10.0.0.2:80"])]);
    assert_eq!(seen(&snapshot), "to orders: 10.0.0.2:80");
    apply(&mut fold, vec![destination("canary", 1)]);
    let snapshot = apply(&mut fold, vec![shard("canary", 0, &["10.0.1.1:80"])]);
    assert_eq!(seen(&snapshot), "to orders+canary: 10.0.0.2:80 10.0.1.1:80");
}

#[test]
fn a_destination_that_does_not_exist_completes_a_table() {
    let mut fold = serving();
    apply(&mut fold, vec![table("orders", &["orders", "gone"])]);
    fold.remove(ResourceKind::Destination, "shop/gone:80");
    assert_eq!(
        seen(&fold.snapshot().unwrap()),
        "to orders+gone: 10.0.0.1:80"
    );
}

#[test]
fn more_shards_than_arrived_keep_the_old_endpoints() {
    let mut fold = serving();
    let snapshot = apply(&mut fold, vec![destination("orders", 2)]);
    assert_eq!(seen(&snapshot), "to orders: 10.0.0.1:80");
    let snapshot = apply(&mut fold, vec![shard("orders", 1, &["10.0.0.9:80"])]);
    assert_eq!(seen(&snapshot), "to orders: 10.0.0.1:80 10.0.0.9:80");
}

#[test]
fn what_is_unknown_to_the_control_plane_is_missing_and_may_appear() {
    let mut fold = demanding();
    fold.remove(ResourceKind::Destination, "orders:80");
    assert_eq!(seen(&fold.snapshot().unwrap()), "missing");
    let all = vec![
        destination("orders", 1),
        table("orders", &["orders"]),
        shard("orders", 0, &["10.0.0.1:80"]),
    ];
    assert_eq!(seen(&apply(&mut fold, all)), "to orders: 10.0.0.1:80");
    fold.remove(ResourceKind::Destination, "shop/orders:80");
    assert_eq!(seen(&fold.snapshot().unwrap()), "missing");
}

#[test]
fn unchanged_parts_keep_their_arcs() {
    let mut fold = serving();
    let first = fold.snapshot().unwrap();
    let second = fold.snapshot().unwrap();
    let service = |snapshot: &Snapshot| match snapshot.services.get("orders:80") {
        Some(Lookup::Found(service)) => Arc::clone(service),
        other => panic!("{other:?}"),
    };
    assert!(Arc::ptr_eq(&service(&first), &service(&second)));
    let third = apply(&mut fold, vec![shard("orders", 0, &["10.0.0.3:80"])]);
    assert!(!Arc::ptr_eq(&service(&first), &service(&third)));
    assert!(Arc::ptr_eq(&service(&first).http, &service(&third).http));
}

#[test]
fn a_resume_claims_what_was_subscribed_by_authority() {
    let fold = serving();
    assert!(fold.holds(ResourceKind::Destination, "orders:80"));
    assert!(fold.holds(ResourceKind::Destination, "shop/orders:80"));
    assert!(!fold.holds(ResourceKind::Destination, "other:80"));
}

#[test]
fn a_bad_regex_refuses_the_response() {
    let mut received = table("orders", &["orders"]);
    if let Resource::RouteTable(table) = &mut received.resource {
        table.http[0].matches = vec![outrigger_model::HttpMatch {
            path: outrigger_model::PathMatch::Regex("(".into()),
            method: outrigger_model::MethodMatch::Any,
            headers: Vec::new(),
            query: Vec::new(),
        }];
    }
    let rejected = prepare(vec![destination("orders", 1), received]).unwrap_err();
    assert_eq!(rejected.name, "RouteTable shop/orders:80");
}

#[test]
fn what_is_unused_is_forgotten_and_no_longer_wanted() {
    let mut fold = serving();
    assert!(!fold.forget_unused(0));
    assert!(fold.forget_unused(1));
    fold.snapshot();
    for kind in ResourceKind::ALL {
        assert!(fold.wanted(kind).is_empty(), "{kind:?}");
    }
    assert!(!fold.holds(ResourceKind::Destination, "shop/orders:80"));
}

#[test]
fn what_is_no_service_is_asked_for_anew_from_time_to_time() {
    let mut fold = serving();
    let stranger = Authority::parse("10.1.2.3:80", None).unwrap();
    assert!(fold.demand(&stranger));
    assert!(!fold.forget_unused(0), "not answered yet");
    fold.remove(ResourceKind::Destination, "10.1.2.3:80");
    assert!(!fold.forget_unused(0), "missing for the first time");
    assert!(!fold.demand(&stranger));
    assert!(fold.forget_unused(0));
    assert!(fold.demand(&stranger));
}

/// One step of the control plane's story.
#[derive(Debug, Clone)]
enum Event {
    Destination(u16),
    Shard(u16, u8),
    Table(bool),
    Canary(bool),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        (1..3_u16).prop_map(Event::Destination),
        (0..3_u16, 1..200_u8).prop_map(|(index, host)| Event::Shard(index, host)),
        any::<bool>().prop_map(Event::Table),
        any::<bool>().prop_map(Event::Canary),
    ]
}

proptest! {
    /// Once a service serves, it never stops doing so: in whatever order its parts change.
    #[test]
    fn a_service_that_serves_keeps_an_endpoint(events in proptest::collection::vec(event(), 0..40)) {
        let mut fold = serving();
        for event in events {
            match event {
                Event::Destination(shards) => fold.apply(prepare(vec![destination("orders", shards)]).unwrap()),
                Event::Shard(index, host) => {
                    let address = format!("10.0.{index}.{host}:80");
                    fold.apply(prepare(vec![shard("orders", index, &[&address])]).unwrap());
                }
                Event::Table(canary) => {
                    let to: &[&str] = if canary { &["orders", "canary"] } else { &["orders"] };
                    fold.apply(prepare(vec![table("orders", to)]).unwrap());
                }
                Event::Canary(true) => fold.apply(prepare(vec![destination("canary", 0)]).unwrap()),
                Event::Canary(false) => fold.remove(ResourceKind::Destination, "shop/canary:80"),
            }
            let snapshot = fold.snapshot().unwrap();
            let Some(Lookup::Found(service)) = snapshot.services.get("orders:80") else {
                return Err(TestCaseError::fail("the service is gone"));
            };
            prop_assert!(!service.targets[&backend("orders")].endpoints.is_empty());
            for named in service.http.rules() {
                prop_assert!(named.origin.as_str().starts_with("to orders"));
            }
        }
    }
}
