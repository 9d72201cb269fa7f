//! What a sidecar knows of a service, in few words.

use std::{
    net::SocketAddr,
    num::NonZeroU32,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use outrigger_model::{
    Backend, Backoff, Balancer, ConnectionLimits, Destination, DestinationName, EjectionThreshold,
    Endpoint, EndpointState, Filters, HttpAction, HttpBackend, HttpMatch, HttpRule, Lifetime,
    Locality, MethodMatch, Origin, OutlierDetection, PathMatch, Peer, Percent, Protocol, Ratio,
    RequestsPerConnection, RetryBudget, RetryConditions, RetryPolicy, RouteTable, SpiffeId,
    TcpRule, Timeout, TrafficPolicy, Weight, WeightedBackend,
};
use outrigger_policy::route::{HttpTable, TcpTable};
use outrigger_proxy::snapshot::{Service, Target};

/// A service with its rules and targets.
#[derive(Clone)]
pub(super) struct ServicePlan {
    pub(super) authority: String,
    pub(super) protocol: Protocol,
    pub(super) http: Vec<HttpRule>,
    pub(super) tcp: Vec<TcpRule>,
    pub(super) targets: Vec<(Backend, TrafficPolicy, Vec<Endpoint>)>,
}

/// A service whose every request and connection goes to `endpoints`, without retries.
pub(super) fn service(authority: &str, endpoints: Vec<Endpoint>) -> ServicePlan {
    let backend = backend(authority, None);
    ServicePlan {
        authority: authority.to_owned(),
        protocol: Protocol::Http,
        http: vec![rule("all", vec![(1, backend.clone())])],
        tcp: vec![TcpRule {
            origin: Origin::new("tcp"),
            backends: weighted(vec![(1, backend.clone())]),
        }],
        targets: vec![(backend, policy(), endpoints)],
    }
}

impl ServicePlan {
    pub(super) fn speaks(mut self, protocol: Protocol) -> Self {
        self.protocol = protocol;
        self
    }

    /// Changes the first rule.
    pub(super) fn rule(mut self, change: impl FnOnce(&mut HttpRule)) -> Self {
        change(&mut self.http[0]);
        self
    }

    /// Changes the policy of every target.
    pub(super) fn policy(mut self, change: impl Fn(&mut TrafficPolicy)) -> Self {
        for (_, policy, _) in &mut self.targets {
            change(policy);
        }
        self
    }

    pub(super) fn service(&self) -> Arc<Service> {
        let name = name(&self.authority);
        let table = RouteTable {
            name: name.clone(),
            http: self.http.clone(),
            tcp: self.tcp.clone(),
        };
        let targets = self.targets.iter().map(|(backend, policy, endpoints)| {
            let mut endpoints = endpoints.clone();
            endpoints.sort_by_key(|endpoint| endpoint.address);
            let target = Target::new(backend.clone(), policy.clone(), endpoints);
            (backend.clone(), Arc::new(target))
        });
        Arc::new(Service {
            destination: Arc::new(Destination {
                name,
                hosts: Vec::new(),
                vips: Vec::new(),
                protocol: self.protocol,
                policy: policy(),
                subsets: Vec::new(),
                shards: 1,
            }),
            http: Arc::new(HttpTable::compile(&table).unwrap()),
            tcp: Arc::new(TcpTable::compile(&table).unwrap()),
            targets: targets.collect(),
            used: AtomicU32::new(0),
        })
    }
}

fn name(authority: &str) -> DestinationName {
    format!("shop/{authority}").parse().unwrap()
}

/// All endpoints of a service, or a subset.
pub(super) fn backend(authority: &str, subset: Option<&str>) -> Backend {
    Backend {
        destination: name(authority),
        subset: subset.map(|subset| subset.parse().unwrap()),
    }
}

fn weighted(backends: Vec<(u32, Backend)>) -> Vec<WeightedBackend> {
    let weighted = backends
        .into_iter()
        .map(|(weight, backend)| WeightedBackend {
            weight: Weight::new(weight).unwrap(),
            backend,
        });
    weighted.collect()
}

/// A rule for every request: no timeout, no retries.
pub(super) fn rule(origin: &str, backends: Vec<(u32, Backend)>) -> HttpRule {
    HttpRule {
        origin: Origin::new(origin),
        matches: Vec::new(),
        action: HttpAction::Forward(
            weighted(backends)
                .into_iter()
                .map(HttpBackend::from)
                .collect(),
        ),
        filters: Filters::default(),
        timeout: Timeout::Disabled,
        retry: retry(0, RetryConditions::default()),
    }
}

/// A match by the path's beginning.
pub(super) fn prefix(path: &str) -> HttpMatch {
    HttpMatch {
        path: PathMatch::Prefix(path.to_owned()),
        method: MethodMatch::Any,
        headers: Vec::new(),
        query: Vec::new(),
    }
}

/// Retries of any method, at once, within a budget that no small test exhausts.
pub(super) fn retry(attempts: u8, on: RetryConditions) -> RetryPolicy {
    RetryPolicy {
        attempts,
        per_try_timeout: Timeout::Disabled,
        on,
        on_idempotent: RetryConditions::default(),
        backoff: Backoff {
            base: Duration::from_millis(1),
            max: Duration::from_millis(2),
            jitter: Ratio::ONE,
        },
        budget: RetryBudget {
            percent: Percent::new(100).unwrap(),
            min_per_second: 100,
        },
    }
}

/// `retryOn: 5xx`.
pub(super) fn on_5xx() -> RetryConditions {
    RetryConditions {
        any_5xx: true,
        ..RetryConditions::default()
    }
}

/// Bounds that no test meets, round robin, no ejection.
pub(super) fn policy() -> TrafficPolicy {
    TrafficPolicy {
        origin: Origin::new("DestinationRule/shop/it"),
        balancer: Balancer::RoundRobin,
        limits: ConnectionLimits {
            connections_max: 1024,
            pending_max: 1024,
            pending_timeout: Duration::from_secs(1),
            requests_max: 1024,
            requests_per_connection: RequestsPerConnection::Unlimited,
            retries_max: 1024,
            connect_timeout: Duration::from_secs(1),
            idle_timeout: Lifetime::AtMost(Duration::from_secs(90)),
            connection_age: Lifetime::Unlimited,
        },
        outlier: OutlierDetection {
            consecutive_5xx: EjectionThreshold::Never,
            consecutive_gateway: EjectionThreshold::Never,
            interval: Duration::from_millis(50),
            base_ejection: Duration::from_millis(100),
            max_ejection: Duration::from_secs(1),
            max_ejection_percent: Percent::new(100).unwrap(),
            min_health_percent: Percent::ZERO,
        },
    }
}

/// Endpoints are ejected after so many failures in a row, for longer than any test.
pub(super) fn eject_after(policy: &mut TrafficPolicy, failures: u32) {
    policy.outlier.consecutive_5xx = EjectionThreshold::After(at_most(failures));
    policy.outlier.base_ejection = Duration::from_secs(60);
    policy.outlier.max_ejection = Duration::from_secs(60);
}

/// A bound above zero.
pub(super) fn at_most(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count).unwrap()
}

/// An endpoint behind a sidecar that proves `identity`.
pub(super) fn meshed(address: SocketAddr, identity: &SpiffeId) -> Endpoint {
    endpoint(address, Peer::Meshed(identity.clone()))
}

/// An endpoint without a sidecar.
pub(super) fn plain(address: SocketAddr) -> Endpoint {
    endpoint(address, Peer::Plain)
}

fn endpoint(address: SocketAddr, peer: Peer) -> Endpoint {
    Endpoint {
        address,
        weight: Weight::ONE,
        locality: Locality::default(),
        peer,
        state: EndpointState::Ready,
        subsets: Vec::new(),
    }
}
