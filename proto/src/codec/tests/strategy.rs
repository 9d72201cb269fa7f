//! Every model value that keeps the model's rules, edges included.

use std::{
    collections::BTreeSet,
    net::{IpAddr, SocketAddr},
    num::NonZeroU32,
    sync::Arc,
    time::Duration,
};

use outrigger_model::*;
use proptest::{collection::vec, option, prelude::*, sample::select};

fn parsed<T: std::str::FromStr<Err = InvalidValue> + std::fmt::Debug>(
    pattern: &'static str,
) -> impl Strategy<Value = T> {
    pattern.prop_map(|text| text.parse::<T>().unwrap())
}

fn namespace() -> impl Strategy<Value = Namespace> {
    parsed("[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?")
}

fn host() -> impl Strategy<Value = Hostname> {
    parsed("[a-z0-9_]{1,8}(\\.[a-z0-9]{1,8}){0,3}")
}

fn port() -> impl Strategy<Value = Port> {
    prop_oneof![Just(1_u16), Just(u16::MAX), 1..=u16::MAX].prop_map(|n| Port::new(n).unwrap())
}

fn subset_name() -> impl Strategy<Value = SubsetName> {
    parsed("[!-.0-{}~]{1,12}")
}

fn destination_name() -> impl Strategy<Value = DestinationName> {
    (namespace(), host(), port()).prop_map(|(namespace, service, port)| DestinationName {
        namespace,
        service,
        port,
    })
}

fn trust_domain() -> impl Strategy<Value = TrustDomain> {
    parsed("[a-z0-9]{1,8}(\\.[a-z0-9]{1,8}){0,2}")
}

fn identity() -> impl Strategy<Value = SpiffeId> {
    (
        trust_domain(),
        namespace(),
        parsed("[a-z0-9]{1,8}(\\.[a-z0-9]{1,8})?"),
    )
        .prop_map(|(trust_domain, namespace, service_account)| SpiffeId {
            trust_domain,
            namespace,
            service_account,
        })
}

fn workload_name() -> impl Strategy<Value = WorkloadName> {
    (namespace(), host()).prop_map(|(namespace, name)| WorkloadName { namespace, name })
}

fn origin() -> impl Strategy<Value = Origin> {
    any::<String>().prop_map(|text| Origin::new(&text))
}

fn weight() -> impl Strategy<Value = Weight> {
    prop_oneof![Just(0), Just(Weight::MAX), 0..=Weight::MAX].prop_map(|n| Weight::new(n).unwrap())
}

fn percent() -> impl Strategy<Value = Percent> {
    (0_u8..=100).prop_map(|n| Percent::new(n).unwrap())
}

fn ratio() -> impl Strategy<Value = Ratio> {
    (0_u32..=1_000_000).prop_map(|n| Ratio::from_parts_per_million(n).unwrap())
}

fn duration() -> impl Strategy<Value = Duration> {
    prop_oneof![
        Just(Duration::ZERO),
        Just(Duration::MAX),
        any::<Duration>(),
        (0_u64..100_000).prop_map(Duration::from_millis)
    ]
}

fn non_zero() -> impl Strategy<Value = NonZeroU32> {
    (1_u32..).prop_map(|n| NonZeroU32::new(n).unwrap())
}

fn lifetime() -> impl Strategy<Value = Lifetime> {
    prop_oneof![
        Just(Lifetime::Unlimited),
        duration().prop_map(Lifetime::AtMost)
    ]
}

fn timeout() -> impl Strategy<Value = Timeout> {
    prop_oneof![
        Just(Timeout::Disabled),
        duration().prop_map(|d| Timeout::After(d.max(Duration::from_nanos(1))))
    ]
}

fn threshold() -> impl Strategy<Value = EjectionThreshold> {
    prop_oneof![
        Just(EjectionThreshold::Never),
        non_zero().prop_map(EjectionThreshold::After)
    ]
}

fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![
        Protocol::Detect,
        Protocol::Http,
        Protocol::Http2,
        Protocol::Grpc,
        Protocol::Tcp,
    ])
}

fn limits() -> impl Strategy<Value = ConnectionLimits> {
    let per_connection = prop_oneof![
        Just(RequestsPerConnection::Unlimited),
        non_zero().prop_map(RequestsPerConnection::AtMost)
    ];
    (
        any::<[u32; 4]>(),
        per_connection,
        (duration(), duration()),
        (lifetime(), lifetime()),
    )
        .prop_map(
            |(
                [connections_max, pending_max, requests_max, retries_max],
                requests_per_connection,
                (pending_timeout, connect_timeout),
                (idle_timeout, connection_age),
            )| ConnectionLimits {
                connections_max,
                pending_max,
                pending_timeout,
                requests_max,
                requests_per_connection,
                retries_max,
                connect_timeout,
                idle_timeout,
                connection_age,
            },
        )
}

fn outlier() -> impl Strategy<Value = OutlierDetection> {
    (
        (threshold(), threshold()),
        (duration(), duration(), duration()),
        (percent(), percent()),
    )
        .prop_map(
            |(
                (consecutive_5xx, consecutive_gateway),
                (interval, base_ejection, max_ejection),
                (max_ejection_percent, min_health_percent),
            )| OutlierDetection {
                consecutive_5xx,
                consecutive_gateway,
                interval,
                base_ejection,
                max_ejection,
                max_ejection_percent,
                min_health_percent,
            },
        )
}

fn policy() -> impl Strategy<Value = TrafficPolicy> {
    let balancer = select(vec![
        Balancer::PeakEwma,
        Balancer::RoundRobin,
        Balancer::Random,
        Balancer::LeastRequest,
    ]);
    (origin(), balancer, limits(), outlier()).prop_map(|(origin, balancer, limits, outlier)| {
        TrafficPolicy {
            origin,
            balancer,
            limits,
            outlier,
        }
    })
}

fn destination() -> impl Strategy<Value = Destination> {
    let subsets = vec((subset_name(), policy()), 0..4).prop_map(|mut subsets| {
        subsets.sort_by(|a, b| a.0.cmp(&b.0));
        subsets.dedup_by(|a, b| a.0 == b.0);
        let build = |(name, policy)| Subset { name, policy };
        subsets.into_iter().map(build).collect::<Vec<_>>()
    });
    (
        destination_name(),
        vec(host(), 0..5),
        vec(any::<IpAddr>(), 0..4),
        protocol(),
        policy(),
        subsets,
        any::<u16>(),
    )
        .prop_map(
            |(name, hosts, vips, protocol, policy, subsets, shards)| Destination {
                name,
                hosts,
                vips,
                protocol,
                policy,
                subsets,
                shards,
            },
        )
}

fn locality() -> impl Strategy<Value = Locality> {
    let part = || prop_oneof![Just(String::new()), "[a-z0-9-]{1,12}", any::<String>()];
    (part(), part(), part()).prop_map(|(region, zone, subzone)| Locality {
        region: region.into(),
        zone: zone.into(),
        subzone: subzone.into(),
    })
}

/// A few of a small pool, so that dictionaries are shared.
fn endpoint(
    localities: Vec<Locality>,
    identities: Vec<SpiffeId>,
    subsets: Vec<SubsetName>,
) -> impl Strategy<Value = Endpoint> {
    let peer = option::of(select(identities))
        .prop_map(|identity| identity.map_or(Peer::Plain, Peer::Meshed));
    (
        (any::<IpAddr>(), port()),
        weight(),
        select(localities),
        peer,
        any::<bool>(),
        vec(select(subsets), 0..3),
    )
        .prop_map(
            |((ip, port), weight, locality, peer, draining, subsets)| Endpoint {
                address: SocketAddr::new(ip, port.get()),
                weight,
                locality,
                peer,
                state: if draining {
                    EndpointState::Draining
                } else {
                    EndpointState::Ready
                },
                subsets: Vec::from_iter(BTreeSet::from_iter(subsets)),
            },
        )
}

pub(crate) fn shard() -> impl Strategy<Value = EndpointShard> {
    let pools = (
        vec(locality(), 1..4),
        vec(identity(), 1..4),
        vec(subset_name(), 1..4),
    );
    let endpoints = pools.prop_flat_map(|(localities, identities, subsets)| {
        vec(
            endpoint(localities, identities, subsets),
            0..=ENDPOINTS_PER_SHARD_MAX,
        )
    });
    (destination_name(), any::<u16>(), endpoints).prop_map(|(destination, index, mut endpoints)| {
        endpoints.sort_by_key(|endpoint| endpoint.address);
        EndpointShard {
            name: ShardName { destination, index },
            endpoints,
        }
    })
}

fn backends() -> impl Strategy<Value = Vec<WeightedBackend>> {
    let backend =
        (destination_name(), option::of(subset_name())).prop_map(|(destination, subset)| Backend {
            destination,
            subset,
        });
    let weighted =
        (weight(), backend).prop_map(|(weight, backend)| WeightedBackend { weight, backend });
    vec(weighted, 1..4).prop_map(|mut backends| {
        if backends.iter().all(|b| b.weight.get() == 0) {
            backends[0].weight = Weight::ONE;
        }
        backends
    })
}

fn text_match() -> impl Strategy<Value = TextMatch> {
    prop_oneof![
        any::<String>().prop_map(TextMatch::Exact),
        any::<String>().prop_map(TextMatch::Prefix),
        any::<String>().prop_map(TextMatch::Regex),
    ]
}

fn http_match() -> impl Strategy<Value = HttpMatch> {
    let path = prop_oneof![
        Just(PathMatch::Any),
        any::<String>().prop_map(PathMatch::Exact),
        any::<String>().prop_map(PathMatch::Prefix),
        "(/[a-z]{1,5}){1,3}".prop_map(PathMatch::Elements),
        any::<String>().prop_map(PathMatch::Regex),
    ];
    let method = prop_oneof![
        Just(MethodMatch::Any),
        text_match().prop_map(MethodMatch::Text)
    ];
    let test = prop_oneof![
        Just(HeaderTest::Present),
        text_match().prop_map(HeaderTest::Value)
    ];
    let header = ("[a-z0-9-]{1,12}", test).prop_map(|(name, test)| HeaderMatch { name, test });
    let query =
        (any::<String>(), text_match()).prop_map(|(name, value)| QueryMatch { name, value });
    (path, method, vec(header, 0..3), vec(query, 0..3)).prop_map(
        |(path, method, headers, query)| HttpMatch {
            path,
            method,
            headers,
            query,
        },
    )
}

fn field_edit() -> impl Strategy<Value = FieldEdit> {
    let name = || "x-[a-z_]{1,6}".prop_map(|text| FieldName::parse(&text).unwrap());
    let value = "([!-~]([ -~]{0,6}[!-~])?)?".prop_map(|text| FieldValue::parse(&text).unwrap());
    let field = (name(), value).prop_map(|(name, value)| NewField { name, value });
    let fields = vec(field, 0..3);
    (fields.clone(), fields, vec(name(), 0..3)).prop_map(|(set, add, remove)| FieldEdit {
        set,
        add,
        remove,
    })
}

fn path_rewrite() -> impl Strategy<Value = PathRewrite> {
    let path = |pattern| {
        proptest::string::string_regex(pattern)
            .unwrap()
            .prop_map(|text| PathText::parse(&text).unwrap())
    };
    prop_oneof![
        Just(PathRewrite::Keep),
        path("(/[!-\"$->@-~]{0,4}){1,3}").prop_map(PathRewrite::Full),
        (path("(/[a-z]{1,4}){0,3}"), path("(/[a-z]{1,4}){0,3}")).prop_map(
            |(matched, replacement)| PathRewrite::Prefix {
                matched,
                replacement,
            }
        ),
    ]
}

fn host_rewrite() -> impl Strategy<Value = HostRewrite> {
    prop_oneof![Just(HostRewrite::Keep), host().prop_map(HostRewrite::To)]
}

fn filters() -> impl Strategy<Value = Filters> {
    let any = (field_edit(), field_edit(), path_rewrite(), host_rewrite()).prop_map(
        |(request, response, path, host)| Filters {
            request,
            response,
            path,
            host,
        },
    );
    prop_oneof![Just(Filters::default()), any]
}

fn redirect() -> impl Strategy<Value = Redirect> {
    let status = select(vec![301, 302, 303, 307, 308]);
    let scheme = select(vec![Scheme::Http, Scheme::Https]);
    (scheme, host_rewrite(), port(), path_rewrite(), status).prop_map(
        |(scheme, host, port, path, status)| Redirect {
            scheme,
            host,
            port,
            path,
            status: RedirectStatus::new(status).unwrap(),
        },
    )
}

fn shares() -> impl Strategy<Value = Vec<HttpBackend>> {
    let target = |backend| {
        let backend = Just(HttpTarget::Backend(backend));
        let invalid = origin().prop_map(|reason| HttpTarget::Invalid { reason });
        prop_oneof![3 => backend, 1 => invalid]
    };
    let share = move |weighted: WeightedBackend| {
        (target(weighted.backend), filters()).prop_map(move |(target, filters)| HttpBackend {
            weight: weighted.weight,
            target,
            filters,
        })
    };
    backends().prop_flat_map(move |backends| backends.into_iter().map(share).collect::<Vec<_>>())
}

fn conditions() -> impl Strategy<Value = RetryConditions> {
    let sets = (
        proptest::collection::btree_set(any::<u16>(), 0..4),
        proptest::collection::btree_set(any::<u8>(), 0..4),
    );
    (any::<[bool; 7]>(), sets).prop_map(|(flags, (statuses, grpc_statuses))| {
        let [
            any_5xx,
            gateway_error,
            reset,
            connect_failure,
            refused_stream,
            retriable_4xx,
            per_try_timeout,
        ] = flags;
        RetryConditions {
            any_5xx,
            gateway_error,
            reset,
            connect_failure,
            refused_stream,
            retriable_4xx,
            per_try_timeout,
            statuses,
            grpc_statuses,
        }
    })
}

fn retry() -> impl Strategy<Value = RetryPolicy> {
    let backoff = (duration(), duration(), ratio()).prop_map(|(base, max, jitter)| Backoff {
        base,
        max,
        jitter,
    });
    let budget = (percent(), any::<u32>()).prop_map(|(percent, min_per_second)| RetryBudget {
        percent,
        min_per_second,
    });
    (
        any::<u8>(),
        timeout(),
        conditions(),
        conditions(),
        backoff,
        budget,
    )
        .prop_map(
            |(attempts, per_try_timeout, on, on_idempotent, backoff, budget)| RetryPolicy {
                attempts,
                per_try_timeout,
                on,
                on_idempotent,
                backoff,
                budget,
            },
        )
}

fn table() -> impl Strategy<Value = RouteTable> {
    let action = prop_oneof![
        shares().prop_map(HttpAction::Forward),
        redirect().prop_map(HttpAction::Redirect),
        origin().prop_map(|reason| HttpAction::Invalid { reason }),
    ];
    let http = (
        origin(),
        vec(http_match(), 0..3),
        action,
        filters(),
        timeout(),
        retry(),
    )
        .prop_map(
            |(origin, matches, action, filters, timeout, retry)| HttpRule {
                origin,
                matches,
                action,
                filters,
                timeout,
                retry,
            },
        );
    let tcp = (origin(), backends()).prop_map(|(origin, backends)| TcpRule { origin, backends });
    (destination_name(), vec(http, 0..4), vec(tcp, 0..3)).prop_map(|(name, http, tcp)| RouteTable {
        name,
        http,
        tcp,
    })
}

fn mode() -> impl Strategy<Value = MtlsMode> {
    select(vec![MtlsMode::Strict, MtlsMode::Permissive])
}

fn inbound() -> impl Strategy<Value = InboundPolicy> {
    let ports = vec((port(), protocol(), mode()), 0..5).prop_map(|mut ports| {
        ports.sort_by_key(|(port, ..)| *port);
        ports.dedup_by_key(|(port, ..)| *port);
        let build = |(port, protocol, mtls)| InboundPort {
            port,
            protocol,
            mtls,
        };
        ports.into_iter().map(build).collect::<Vec<_>>()
    });
    (workload_name(), identity(), mode(), ports).prop_map(
        |(name, identity, default_mtls, ports)| InboundPolicy {
            name,
            identity,
            default_mtls,
            ports,
        },
    )
}

fn bundle() -> impl Strategy<Value = TrustBundle> {
    let root = vec(any::<u8>(), 1..64);
    let roots = proptest::collection::btree_set(root, 1..4);
    (trust_domain(), roots).prop_map(|(trust_domain, roots)| TrustBundle {
        trust_domain,
        roots: roots.into_iter().map(Arc::from).collect(),
    })
}

fn settings() -> impl Strategy<Value = MeshSettings> {
    let access_log = select(vec![AccessLog::Off, AccessLog::Failures, AccessLog::All]);
    let otlp = ("http://[a-z]{1,8}:4317", ratio())
        .prop_map(|(endpoint, sampling)| Tracing::Otlp { endpoint, sampling });
    let tracing = prop_oneof![Just(Tracing::Off), otlp];
    (trust_domain(), host(), access_log, tracing, duration()).prop_map(
        |(trust_domain, cluster_domain, access_log, tracing, drain_timeout)| MeshSettings {
            trust_domain,
            cluster_domain,
            access_log,
            tracing,
            drain_timeout,
        },
    )
}

pub(crate) fn resource() -> impl Strategy<Value = Resource> {
    prop_oneof![
        destination().prop_map(Resource::Destination),
        shard().prop_map(Resource::EndpointShard),
        table().prop_map(Resource::RouteTable),
        inbound().prop_map(Resource::InboundPolicy),
        bundle().prop_map(Resource::TrustBundle),
        settings().prop_map(Resource::MeshSettings),
    ]
}
