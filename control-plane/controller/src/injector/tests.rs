//! Golden files for whole patches, a table for who gets a sidecar, properties for the way back.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{manifest::Task, *};

pub(super) fn settings() -> Settings {
    serde_json::from_value(json!({
        "image": "outrigger/proxy:1.0",
        "controlPlane": "outrigger.outrigger-system.svc:15012",
        "controlPlaneIdentity": "spiffe://cluster.local/ns/outrigger-system/sa/outrigger",
    }))
    .unwrap()
}

fn labels(pairs: &[(&str, &str)]) -> BTreeMap<String, String> {
    pairs
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
        .collect()
}

fn inject_enrolled(settings: &Settings, pod: &Value) -> Result<Injected, InjectError> {
    let labels = labels(&[("outrigger.dev/inject", "enabled")]);
    let namespace = Namespace {
        name: "shop",
        labels: &labels,
    };
    inject(settings, &namespace, pod)
}

fn web() -> Value {
    json!({
        "metadata": {"labels": {"app": "web"}, "annotations": {
            "prometheus.io/scrape": "true", "prometheus.io/port": "9102", "prometheus.io/path": "/stats",
            "outrigger.dev/skip-inbound-ports": "22, 9000",
        }},
        "spec": {
            "initContainers": [{"name": "migrate", "image": "app:1"}],
            "containers": [{
                "name": "web", "image": "app:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "livenessProbe": {"httpGet": {"path": "/live?cost=$(x)", "port": "http", "httpHeaders": [{"name": "X-A", "value": "b"}]}, "timeoutSeconds": 3},
                "readinessProbe": {"grpc": {"port": 9090}, "periodSeconds": 2},
                "startupProbe": {"tcpSocket": {"port": 9000}},
            }, {
                "name": "extra", "image": "app:1",
                "livenessProbe": {"exec": {"command": ["true"]}},
                "readinessProbe": {"tcpSocket": {"port": 7000}},
            }],
        },
    })
}

#[test]
fn golden_native_sidecar_with_init_capture() {
    let pod = web();
    let done = inject_enrolled(&settings(), &pod).unwrap();
    assert_eq!(done.skipped, None);
    assert_eq!(done.warnings, Vec::<String>::new());
    insta::assert_yaml_snapshot!("native", patch(&pod, &done.pod));
}

#[test]
fn golden_ordinary_container_with_cni() {
    let mut settings = settings();
    settings.placement = Placement::Container;
    settings.capture = Capture::Cni;
    let pod = json!({"metadata": {}, "spec": {"containers": [{"name": "job", "image": "app:1"}]}});
    let done = inject_enrolled(&settings, &pod).unwrap();
    insta::assert_yaml_snapshot!("container", patch(&pod, &done.pod));
}

/// What becomes of `pod` in namespace `shop` with these labels, in words.
fn outcome(namespace: &[(&str, &str)], honours_istio: bool, pod: &Value) -> String {
    let mut settings = settings();
    settings.honours_istio = honours_istio;
    let labels = labels(namespace);
    let namespace = Namespace {
        name: "shop",
        labels: &labels,
    };
    match inject(&settings, &namespace, pod) {
        Ok(done) => done
            .skipped
            .map_or("injected".into(), |skip| skip.to_string()),
        Err(error) => error.to_string(),
    }
}

const ENROLLED: &[(&str, &str)] = &[("outrigger.dev/inject", "enabled")];
const NOBODY_ASKS: &str = "neither the pod nor its namespace asks for one";

#[test]
fn who_gets_a_sidecar() {
    let check = |namespace: &[(&str, &str)], pod: Value, expected: &str| {
        assert_eq!(
            outcome(namespace, false, &pod),
            expected,
            "{namespace:?} {pod}"
        );
    };
    let said = |kind: &str, word: &str| json!({"metadata": {kind: {"outrigger.dev/inject": word}}});
    check(&[], json!({}), NOBODY_ASKS);
    check(ENROLLED, json!({}), "injected");
    check(
        &[("outrigger.dev/inject", "disabled")],
        json!({}),
        "label outrigger.dev/inject of namespace shop says no",
    );
    check(&[], said("labels", "true"), "injected");
    check(&[], said("annotations", "enabled"), "injected");
    check(
        ENROLLED,
        said("labels", "false"),
        "label outrigger.dev/inject of the pod says no",
    );
    check(
        ENROLLED,
        said("labels", "please"),
        "label outrigger.dev/inject of the pod is \"please\"; write enabled or disabled",
    );
    check(
        ENROLLED,
        json!({"spec": {"hostNetwork": true}}),
        "the pod is on the host's network",
    );
    check(
        ENROLLED,
        json!({"spec": {"initContainers": [{"name": "outrigger-proxy"}]}}),
        "the pod has a sidecar",
    );
}

#[test]
fn istios_words_count_where_the_mesh_says_so() {
    let istio: &[(&str, &str)] = &[("istio-injection", "enabled")];
    assert_eq!(outcome(istio, false, &json!({})), NOBODY_ASKS);
    assert_eq!(outcome(istio, true, &json!({})), "injected");
    let no = json!({"metadata": {"labels": {"sidecar.istio.io/inject": "false"}}});
    assert_eq!(
        outcome(istio, true, &no),
        "label sidecar.istio.io/inject of the pod says no"
    );
    let both = [
        ("istio-injection", "enabled"),
        ("outrigger.dev/inject", "disabled"),
    ];
    assert_eq!(
        outcome(&both, true, &json!({})),
        "label outrigger.dev/inject of namespace shop says no"
    );
}

#[test]
fn the_pod_says_why_it_was_left_alone() {
    let pod = json!({"metadata": {"labels": {"outrigger.dev/inject": "no"}}, "spec": {}});
    let done = inject_enrolled(&settings(), &pod).unwrap();
    assert_eq!(
        patch(&pod, &done.pod),
        [
            json!({"op": "add", "path": "/metadata/annotations", "value": {
                "outrigger.dev/status": "skipped: label outrigger.dev/inject of the pod says no",
            }})
        ]
    );
}

#[test]
fn values_that_cannot_be_used_name_the_annotation() {
    let cases = [
        ("outrigger.dev/skip-inbound-ports", "22,http"),
        ("outrigger.dev/skip-outbound-ports", "0"),
        ("outrigger.dev/skip-outbound-ranges", "10.0.0.0/33"),
        ("outrigger.dev/only-outbound-ranges", "*"),
        ("outrigger.dev/log-level", "loud"),
        ("outrigger.dev/drain-time", "2h"),
        ("outrigger.dev/workers", "65"),
        ("outrigger.dev/proxy-cpu", "half"),
        ("outrigger.dev/proxy-memory-limit", "1.Gi"),
        ("outrigger.dev/turn-probes", "maybe"),
        ("traffic.sidecar.istio.io/excludeInboundPorts", "http"),
    ];
    let mut settings = settings();
    settings.honours_istio = true;
    for (name, value) in cases {
        let pod = json!({"metadata": {"annotations": {name: value}}, "spec": {}});
        let error = inject_enrolled(&settings, &pod).unwrap_err().to_string();
        let start = format!("annotation {name} of the pod is {value:?}: write ");
        assert!(error.starts_with(&start), "{error}");
    }
}

#[test]
fn annotations_reach_the_containers() {
    let mut settings = settings();
    settings.honours_istio = true;
    let pod = json!({"metadata": {"annotations": {
        "traffic.sidecar.istio.io/includeOutboundIPRanges": "*",
        "traffic.sidecar.istio.io/excludeOutboundIPRanges": "10.1.2.3,fd00::/8",
        "sidecar.istio.io/proxyCPU": "250m",
        "sidecar.istio.io/logLevel": "warning",
        "outrigger.dev/proxy-memory-limit": "1.5Gi",
        "outrigger.dev/drain-time": "1m30s",
        "outrigger.dev/workers": "2",
    }}, "spec": {"containers": []}});
    let done = inject_enrolled(&settings, &pod).unwrap().pod;
    let arguments = done
        .pointer("/spec/initContainers/0/args")
        .unwrap()
        .as_array()
        .unwrap();
    let tail: Vec<&str> = arguments.iter().skip(7).filter_map(Value::as_str).collect();
    assert_eq!(tail, ["--skip-outbound-ranges", "10.1.2.3/32,fd00::/8"]);
    let sidecar = done.pointer("/spec/initContainers/1").unwrap();
    assert_eq!(
        sidecar["resources"],
        json!({
            "requests": {"cpu": "250m", "memory": "16Mi"}, "limits": {"memory": "1.5Gi"},
        })
    );
    let bootstrap: Value =
        serde_json::from_str(sidecar["env"][4]["value"].as_str().unwrap()).unwrap();
    assert_eq!(
        [
            &bootstrap["log"],
            &bootstrap["drain_seconds"],
            &bootstrap["workers"]
        ],
        [&json!("warn"), &json!(90), &json!(2)]
    );
}

#[test]
fn an_unknown_name_of_ours_is_a_warning() {
    let pod =
        json!({"metadata": {"annotations": {"outrigger.dev/skip-inbound-port": "22"}}, "spec": {}});
    let done = inject_enrolled(&settings(), &pod).unwrap();
    assert_eq!(
        done.warnings,
        [
            "annotation outrigger.dev/skip-inbound-port of the pod is not known and has no effect; \
          the nearest known one is outrigger.dev/skip-inbound-ports"
        ]
    );
}

#[test]
fn a_port_name_that_is_not_there_leaves_the_probe() {
    let probe = json!({"httpGet": {"port": "htpp"}});
    let pod = json!({"spec": {"containers": [{"name": "web", "livenessProbe": probe}]}});
    let done = inject_enrolled(&settings(), &pod).unwrap();
    assert_eq!(done.pod["spec"]["containers"][0]["livenessProbe"], probe);
    assert_eq!(
        done.warnings,
        [
            "livenessProbe of container web names port \"htpp\", which the container does not have: it is left as it is"
        ]
    );
}

#[test]
fn unknown_settings_are_refused() {
    let error = serde_json::from_value::<Settings>(json!({"image": "a", "controlPlane": "b",
        "controlPlaneIdentity": "c", "placment": "native"}));
    assert!(
        error
            .unwrap_err()
            .to_string()
            .contains("unknown field `placment`")
    );
}

#[test]
fn files_go_there_and_back() {
    let yaml = "\
apiVersion: v1
kind: Service
metadata: {name: web}
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: shop}
spec:
  template:
    metadata: {labels: {app: web}}
    spec:
      containers:
      - {name: web, image: 'app:1', readinessProbe: {httpGet: {port: 80}}}
---
apiVersion: v1
kind: List
items:
- kind: CronJob
  metadata: {name: nightly}
  spec: {jobTemplate: {spec: {template: {spec: {hostNetwork: true, containers: []}}}}}
";
    let settings = settings();
    let (injected, notes) = manifest::rewrite(Task::Inject(&settings), yaml).unwrap();
    let said: Vec<(&str, &str)> = notes
        .iter()
        .map(|note| (note.object.as_str(), note.outcome.as_str()))
        .collect();
    assert_eq!(
        said,
        [
            ("Deployment shop/web", "injected"),
            (
                "CronJob nightly",
                "skipped: the pod is on the host's network"
            ),
        ]
    );
    let (again, _) = manifest::rewrite(Task::Inject(&settings), &injected).unwrap();
    assert_eq!(again, injected);
    let (back, _) = manifest::rewrite(Task::Uninject, &injected).unwrap();
    let (plain, _) = manifest::rewrite(Task::Uninject, yaml).unwrap();
    assert_eq!(back, plain);
}

#[test]
fn a_file_that_does_not_parse_says_where() {
    let error = manifest::rewrite(Task::Uninject, "a: 1\n---\nb: [1\n").unwrap_err();
    assert_eq!(error.to_string(), "document 2 does not parse");
}

fn probe() -> impl Strategy<Value = Value> {
    let port = prop_oneof![
        (1_u16..9000).prop_map(Value::from),
        Just(json!("http")),
        Just(json!("none"))
    ];
    let handler = prop_oneof![
        port.clone()
            .prop_map(|port| json!({"httpGet": {"port": port, "path": "/x"}})),
        port.clone()
            .prop_map(|port| json!({"tcpSocket": {"port": port}})),
        port.prop_map(|port| json!({"grpc": {"port": port}})),
        Just(json!({"exec": {"command": ["a"]}})),
    ];
    (handler, 1..5_u32).prop_map(|(mut handler, period)| {
        handler["periodSeconds"] = period.into();
        handler
    })
}

fn container() -> impl Strategy<Value = Value> {
    (
        "[a-c]",
        proptest::option::of(probe()),
        proptest::option::of(probe()),
    )
        .prop_map(|(name, live, ready)| {
            let mut container =
                json!({"name": name, "ports": [{"name": "http", "containerPort": 80}]});
            for (kind, probe) in [("livenessProbe", live), ("readinessProbe", ready)] {
                if let Some(probe) = probe {
                    container[kind] = probe;
                }
            }
            container
        })
}

fn any_pod() -> impl Strategy<Value = Value> {
    let annotation = prop_oneof![
        Just(("prometheus.io/scrape", "true")),
        Just(("prometheus.io/port", "9000")),
        Just(("prometheus.io/scheme", "https")),
        Just(("other", "text")),
        Just(("outrigger.dev/skip-inbound-ports", "80")),
        Just(("outrigger.dev/inject", "no")),
    ];
    let unique = |mut containers: Vec<Value>| {
        let mut seen = std::collections::BTreeSet::new();
        containers.retain(|container| seen.insert(container["name"].to_string()));
        containers
    };
    (
        proptest::collection::vec(annotation, 0..4),
        proptest::collection::vec(container(), 1..4),
        proptest::bool::ANY,
    )
        .prop_map(move |(annotations, containers, has_metadata)| {
            let mut pod = json!({"spec": {"containers": unique(containers), "other": 1}});
            if has_metadata {
                pod["metadata"] = json!({"name": "a"});
            }
            for (name, value) in annotations {
                pod["metadata"]["annotations"][name] = value.into();
            }
            pod
        })
}

proptest! {
    #[test]
    fn the_way_back_leads_home(pod in any_pod()) {
        let done = inject_enrolled(&settings(), &pod).unwrap().pod;
        prop_assert_eq!(uninject(&done), pod);
    }

    #[test]
    fn twice_is_once(pod in any_pod()) {
        let once = inject_enrolled(&settings(), &pod).unwrap().pod;
        let twice = inject_enrolled(&settings(), &once).unwrap().pod;
        prop_assert_eq!(twice, once);
    }

    #[test]
    fn the_patch_makes_the_pod(pod in any_pod()) {
        let done = inject_enrolled(&settings(), &pod).unwrap().pod;
        let mut patched = pod.clone();
        for operation in patch(&pod, &done) {
            let path = operation["path"].as_str().unwrap();
            let (parent, name) = path.rsplit_once('/').unwrap();
            let parent = patched.pointer_mut(parent).unwrap().as_object_mut().unwrap();
            match operation["op"].as_str() {
                Some("add") => { parent.insert(name.into(), operation["value"].clone()); }
                _ => { parent.remove(name); }
            }
        }
        prop_assert_eq!(patched, done);
    }
}
