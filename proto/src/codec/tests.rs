//! Properties of the codec, and a table of refusals: each names its field.

mod strategy;

use bytes::Bytes;
use outrigger_model::{Resource, ResourceKind};
use proptest::{collection::vec, prelude::*, sample::select};
use prost::Message;

use super::{
    DecodeError, Problem, REGEX_CHARS_MAX, RESOURCE_BYTES_MAX, Version, decode, encode, version,
    wire,
};

proptest! {
    #[test]
    fn what_is_encoded_decodes_to_the_same(resource in strategy::resource()) {
        let kind = resource.name().kind();
        let bytes = encode(&resource);
        let back = decode(kind, &bytes);
        prop_assert_eq!(back.as_ref(), Ok(&resource));
        prop_assert_eq!(encode(&back.unwrap()), bytes, "equal values, equal bytes");
    }

    #[test]
    fn order_that_carries_no_meaning_does_not_change_the_bytes(
        shard in strategy::shard(), seed in any::<usize>()
    ) {
        let mut shuffled = shard.clone();
        let n = shuffled.endpoints.len().max(1);
        shuffled.endpoints.rotate_left(seed % n);
        for endpoint in &mut shuffled.endpoints {
            endpoint.subsets.reverse();
        }
        let distinct = {
            let mut addresses: Vec<_> = shard.endpoints.iter().map(|e| e.address).collect();
            addresses.dedup();
            addresses.len() == shard.endpoints.len()
        };
        prop_assume!(distinct);
        prop_assert_eq!(
            encode(&Resource::EndpointShard(shard)),
            encode(&Resource::EndpointShard(shuffled))
        );
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        kind in select(ResourceKind::ALL.to_vec()), bytes in vec(any::<u8>(), 0..512)
    ) {
        if let Ok(resource) = decode(kind, &bytes) {
            prop_assert_eq!(decode(kind, &encode(&resource)), Ok(resource));
        }
    }

    #[test]
    fn damaged_resources_are_refused_or_read_as_some_valid_one(
        resource in strategy::resource(), at in any::<usize>(), with in any::<u8>(), cut in any::<bool>()
    ) {
        let kind = resource.name().kind();
        let mut bytes = encode(&resource).to_vec();
        let at = at % bytes.len().max(1);
        if cut { bytes.truncate(at) } else if let Some(byte) = bytes.get_mut(at) { *byte = with }
        if let Ok(resource) = decode(kind, &bytes) {
            prop_assert_eq!(decode(kind, &encode(&resource)), Ok(resource));
        }
    }

    #[test]
    fn versions_follow_content(a in vec(any::<u8>(), 0..64), b in vec(any::<u8>(), 0..64)) {
        let kind = ResourceKind::Destination;
        prop_assert_eq!(a == b, version(kind, &a) == version(kind, &b));
        prop_assert_ne!(version(kind, &a), version(ResourceKind::RouteTable, &a));
        prop_assert_eq!(version(kind, &a).to_string().parse::<Version>(), Ok(version(kind, &a)));
    }
}

fn shard() -> wire::EndpointShard {
    wire::EndpointShard {
        name: "shop/orders:80/0".to_owned(),
        localities: vec![wire::Locality::default()],
        identities: vec!["spiffe://mesh/ns/shop/sa/orders".to_owned()],
        subsets: vec!["v1".to_owned(), "v2".to_owned()],
        addresses_v4: Bytes::from_static(&[10, 0, 0, 1, 10, 0, 0, 2]),
        ports: vec![80, 80],
        weights: vec![1, 1],
        locality: vec![0, 0],
        peer: vec![0, 1],
        flags: vec![0, 1],
        subset_count: vec![1, 2],
        subset: vec![1, 0, 1],
        ..Default::default()
    }
}

#[track_caller]
fn check_shard(change: impl FnOnce(&mut wire::EndpointShard), expected: &str) {
    let mut message = shard();
    change(&mut message);
    let error = decode(ResourceKind::EndpointShard, &message.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), format!("EndpointShard.{expected}"));
}

#[test]
fn a_bad_shard_is_refused_with_its_field() {
    assert!(decode(ResourceKind::EndpointShard, &shard().encode_to_vec()).is_ok());
    check_shard(
        |s| s.addresses_v4 = Bytes::from_static(&[10, 0, 0]),
        "addresses_v4: has length 3, expected 0",
    );
    check_shard(|s| s.ports.truncate(1), "ports: has length 1, expected 2");
    check_shard(
        |s| s.ports[1] = 65_536,
        "ports[1]: port \"65536\" is not valid: a port is a number from 1 to 65535",
    );
    check_shard(
        |s| s.weights[0] = 1_000_001,
        "weights[0]: weight \"1000001\" is not valid: a weight is a number from 0 to 1000000",
    );
    check_shard(
        |s| s.locality[0] = 1,
        "locality[0]: points at entry 1 of a dictionary of 1",
    );
    check_shard(
        |s| s.peer[0] = 2,
        "peer[0]: points at entry 1 of a dictionary of 1",
    );
    check_shard(|s| s.flags[0] = 2, "flags[0]: is 2, at most 1 is allowed");
    check_shard(
        |s| s.subset_count[1] = 3,
        "subset_count[1]: is 3, at most 2 is allowed",
    );
    check_shard(|s| s.subset.push(0), "subset: has length 4, expected 3");
    check_shard(
        |s| s.subset = vec![1, 1, 0],
        "subset[1]: is not in ascending order",
    );
    check_shard(
        |s| s.subsets = vec!["v2".to_owned(), "v1".to_owned()],
        "subsets: is not in ascending order",
    );
    check_shard(
        |s| s.addresses_v4 = Bytes::from_static(&[10, 0, 0, 2, 10, 0, 0, 1]),
        "addresses_v4: is not in ascending order",
    );
    check_shard(
        |s| s.addresses_v4 = Bytes::from_static(&[0; 65 * 4]),
        "ports: has 65 entries, at most 64 are allowed",
    );
    check_shard(
        |s| s.name = "shop".to_owned(),
        "name: shard name \"shop\" is not valid: the form is namespace/name:port/k",
    );
}

fn to(destination: &str) -> wire::http_backend::Target {
    wire::http_backend::Target::Destination(destination.to_owned())
}

fn table() -> wire::RouteTable {
    let at_most = wire::Duration {
        seconds: 1,
        nanos: 0,
    };
    let bound = |bound| Some(wire::TimeBound { bound: Some(bound) });
    wire::RouteTable {
        name: "shop/orders:80".to_owned(),
        http: vec![wire::HttpRule {
            origin: "default".to_owned(),
            matches: vec![wire::HttpMatch {
                path: Some(wire::http_match::Path::PathAny(wire::Any {})),
                method: Some(wire::http_match::Method::MethodAny(wire::Any {})),
                headers: Vec::new(),
                query: Vec::new(),
            }],
            action: Some(wire::http_rule::Action::Forward(wire::Forward {
                backends: vec![wire::HttpBackend {
                    weight: 1,
                    target: Some(to("shop/orders:80")),
                    ..Default::default()
                }],
            })),
            timeout: bound(wire::time_bound::Bound::AtMost(at_most)),
            retry: Some(wire::RetryPolicy {
                attempts: 1,
                per_try_timeout: bound(wire::time_bound::Bound::Unlimited(wire::Unlimited {})),
                on: Some(wire::RetryConditions::default()),
                on_idempotent: Some(wire::RetryConditions::default()),
                backoff: Some(wire::Backoff {
                    base: Some(at_most),
                    max: Some(at_most),
                    jitter_ppm: 0,
                }),
                budget: Some(wire::RetryBudget::default()),
            }),
            filters: None,
        }],
        tcp: Vec::new(),
    }
}

#[track_caller]
fn check_rule(change: impl FnOnce(&mut wire::HttpRule), expected: &str) {
    let mut message = table();
    change(&mut message.http[0]);
    let error = decode(ResourceKind::RouteTable, &message.encode_to_vec()).unwrap_err();
    assert_eq!(error.to_string(), format!("RouteTable.http[0].{expected}"));
}

fn retry(rule: &mut wire::HttpRule) -> &mut wire::RetryPolicy {
    rule.retry.as_mut().unwrap()
}

#[test]
fn a_bad_rule_is_refused_with_its_field() {
    use wire::http_rule::Action;
    let forward = |backends| Some(Action::Forward(wire::Forward { backends }));
    assert!(decode(ResourceKind::RouteTable, &table().encode_to_vec()).is_ok());
    check_rule(|r| r.action = None, "action: is missing");
    check_rule(
        |r| r.action = forward(Vec::new()),
        "forward.backends: is empty",
    );
    check_rule(
        |r| {
            r.action = forward(vec![wire::HttpBackend {
                target: Some(to("a/b:1")),
                ..Default::default()
            }]);
        },
        "forward.backends: is zero",
    );
    check_rule(|r| r.timeout = None, "timeout: is missing");
    check_rule(
        |r| r.timeout = Some(wire::TimeBound { bound: None }),
        "timeout.bound: is missing",
    );
    check_rule(
        |r| {
            let at_most = wire::Duration::default();
            r.timeout = Some(wire::TimeBound {
                bound: Some(wire::time_bound::Bound::AtMost(at_most)),
            });
        },
        "timeout: is zero",
    );
    check_rule(
        |r| retry(r).attempts = 256,
        "retry.attempts: is 256, at most 255 is allowed",
    );
    check_rule(
        |r| {
            retry(r)
                .backoff
                .as_mut()
                .unwrap()
                .base
                .as_mut()
                .unwrap()
                .nanos = 1_000_000_000
        },
        "retry.backoff.base.nanos: is 1000000000, at most 999999999 is allowed",
    );
    check_rule(
        |r| retry(r).on.as_mut().unwrap().statuses = vec![503, 502],
        "retry.on.statuses: is not in ascending order",
    );
    check_rule(|r| r.matches[0].path = None, "matches[0].path: is missing");
    let long = "x".repeat(REGEX_CHARS_MAX + 1);
    check_rule(
        |r| r.matches[0].path = Some(wire::http_match::Path::PathRegex(long)),
        "matches[0].path_regex: has length 1025, expected 1024",
    );
    check_rule(
        |r| {
            r.matches[0].headers = vec![wire::HeaderMatch {
                name: "X-User".to_owned(),
                test: None,
            }];
        },
        "matches[0].headers[0].name: header name \"X-User\" is not valid: a header name is visible characters in lower case",
    );
}

#[test]
fn a_bad_filter_is_refused_with_its_field() {
    use wire::http_rule::Action;
    let filters = |change: fn(&mut wire::FieldEdit)| {
        let mut edit = wire::FieldEdit::default();
        change(&mut edit);
        Some(wire::Filters {
            request: Some(edit),
            ..Default::default()
        })
    };
    let field = |name: &str, value: &str| wire::NewField {
        name: name.to_owned(),
        value: value.to_owned(),
    };
    check_rule(
        |r| r.filters = filters(|edit| edit.remove = vec!["Content-Length".to_owned()]),
        "filters.request.remove[0]: field name \"Content-Length\" is not valid: framing, connection and the mesh's own fields cannot be changed",
    );
    check_rule(
        |r| {
            r.filters = filters(|edit| edit.set = Vec::new());
            let edit = r.filters.as_mut().unwrap().request.as_mut().unwrap();
            edit.add = vec![field("x", "a\r\nhost: b")];
        },
        "filters.request.add[0].value: field value \"a\\r\\nhost: b\" is not valid: write at most 4096 visible ASCII characters, with single spaces or tabs inside",
    );
    let redirect = |status, port| {
        Some(Action::Redirect(wire::Redirect {
            scheme: 1,
            status,
            port,
            ..Default::default()
        }))
    };
    check_rule(
        |r| r.action = redirect(304, 80),
        "redirect.status: status of a redirect \"304\" is not valid: write 301, 302, 303, 307 or 308",
    );
    check_rule(
        |r| r.action = redirect(302, 0),
        "redirect.port: port \"0\" is not valid: a port is a number from 1 to 65535",
    );
    check_rule(
        |r| r.matches[0].path = Some(wire::http_match::Path::PathElements("/a/".to_owned())),
        "matches[0].path_elements: path prefix \"/a/\" is not valid: it is not empty and does not end with /",
    );
}

#[test]
fn unknown_values_oversize_and_empty_lists_are_refused() {
    let destination = wire::Destination {
        name: "shop/orders:80".to_owned(),
        protocol: 99,
        ..Default::default()
    };
    let error = decode(ResourceKind::Destination, &destination.encode_to_vec()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "Destination.protocol: has unknown value 99"
    );

    let bundle = wire::TrustBundle {
        trust_domain: "mesh".to_owned(),
        roots: Vec::new(),
    };
    let error = decode(ResourceKind::TrustBundle, &bundle.encode_to_vec()).unwrap_err();
    assert!(
        matches!(&error, DecodeError::Field { field, problem: Problem::Empty, .. } if field == "roots"),
        "{error}"
    );

    let error = decode(ResourceKind::RouteTable, &vec![0; RESOURCE_BYTES_MAX + 1]).unwrap_err();
    assert!(matches!(error, DecodeError::TooLarge { .. }), "{error}");
    let error = decode(ResourceKind::RouteTable, &[0xff]).unwrap_err();
    assert!(matches!(error, DecodeError::Malformed { .. }), "{error}");
}
