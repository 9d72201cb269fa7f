//! The admin address over real sockets, and what may never be in its answers.

use std::{collections::HashMap, sync::atomic::AtomicU32};

use arc_swap::ArcSwapOption;
use outrigger_model::{
    AccessLog, Backend, Destination, Endpoint, EndpointState, HttpAction, HttpMatch, HttpRule,
    InboundPolicy, InboundPort, Locality, MethodMatch, MtlsMode, Origin, PathMatch, Peer, Port,
    Protocol, ResourceKind, RouteTable, SpiffeId, SubsetName, TextMatch, Timeout, Tracing, Weight,
    WeightedBackend,
};
use outrigger_policy::{
    outlier::Standing,
    route::{HttpTable, TcpTable},
};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use rustls_pki_types::PrivatePkcs8KeyDer;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    time::Instant,
};

use super::*;
use crate::{
    cluster::EndpointReport,
    control::subscriptions::Rejection,
    snapshot::{self, Lookup, Service, Snapshot, SnapshotWriter, Target, policy_of_nothing},
    telemetry::{Identity, IstioMetrics, logging},
    tls::TlsContext,
    worker::Health,
};

/// Planted where secrets lie (T18): nowhere in an answer.
const CANARY: &str = "canary-8f3b";

fn settings() -> outrigger_model::MeshSettings {
    outrigger_model::MeshSettings {
        trust_domain: "cluster.local".parse().unwrap(),
        cluster_domain: "cluster.local".parse().unwrap(),
        access_log: AccessLog::Failures,
        tracing: Tracing::Otlp {
            endpoint: format!("http://user:{CANARY}@collector:4317"),
            sampling: outrigger_model::Ratio::ONE,
        },
        drain_timeout: Duration::from_secs(30),
    }
}

fn empty() -> Snapshot {
    Snapshot {
        number: 0,
        settings: Arc::new(settings()),
        inbound: None,
        services: HashMap::default(),
    }
}

fn identity() -> SpiffeId {
    "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap()
}

/// A chain of one leaf under a root, valid until `not_after`; and the key, in the forms in which
/// it could leak.
pub(crate) fn certificate(not_after: (i32, u8, u8)) -> (TlsContext, Vec<String>) {
    let date = |(year, month, day)| rcgen::date_time_ymd(year, month, day);
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let root = CertifiedIssuer::self_signed(root, KeyPair::generate().unwrap()).unwrap();
    let mut leaf = CertificateParams::default();
    leaf.not_before = date((2020, 1, 1));
    leaf.not_after = date(not_after);
    leaf.subject_alt_names = vec![SanType::URI(identity().to_string().try_into().unwrap())];
    let key = KeyPair::generate().unwrap();
    let leaf = leaf.signed_by(&key, &root).unwrap();
    let roots = [Arc::from(root.der().as_ref())];
    let secret = PrivatePkcs8KeyDer::from(key.serialize_der());
    let context =
        TlsContext::build(identity(), vec![leaf.der().clone()], secret.into(), &roots).unwrap();
    let pem = key.serialize_pem();
    let lines = pem
        .lines()
        .filter(|line| !line.starts_with("--"))
        .map(str::to_owned);
    (context, lines.collect())
}

fn payments() -> outrigger_model::DestinationName {
    "shop/payments:9000".parse().unwrap()
}

fn backend(subset: &str) -> Backend {
    Backend {
        destination: payments(),
        subset: Some(SubsetName::parse(subset).unwrap()),
    }
}

fn rule() -> HttpRule {
    let share = |weight: u32, subset| WeightedBackend {
        weight: Weight::new(weight).unwrap(),
        backend: backend(subset),
    };
    HttpRule {
        origin: Origin::new("VirtualService/shop/payments spec.http[0]"),
        matches: vec![HttpMatch {
            path: PathMatch::Regex("/api/v[0-9]+".to_owned()),
            method: MethodMatch::Text(TextMatch::Exact("GET".to_owned())),
            headers: Vec::new(),
            query: Vec::new(),
        }],
        action: HttpAction::Forward(vec![share(90, "v1").into(), share(10, "v2").into()]),
        filters: outrigger_model::Filters::default(),
        timeout: Timeout::After(Duration::from_millis(1_500)),
        retry: outrigger_model::RetryPolicy {
            attempts: 2,
            per_try_timeout: Timeout::Disabled,
            on: outrigger_model::RetryConditions::default(),
            on_idempotent: outrigger_model::RetryConditions::default(),
            backoff: outrigger_model::Backoff {
                base: Duration::from_millis(25),
                max: Duration::from_millis(250),
                jitter: outrigger_model::Ratio::ONE,
            },
            budget: outrigger_model::RetryBudget {
                percent: outrigger_model::Percent::new(20).unwrap(),
                min_per_second: 10,
            },
        },
    }
}

fn service() -> Service {
    let table = RouteTable {
        name: payments(),
        http: vec![rule()],
        tcp: Vec::new(),
    };
    let endpoints = vec![Endpoint {
        address: "127.1.0.4:9000".parse().unwrap(),
        weight: Weight::new(1).unwrap(),
        locality: Locality::default(),
        peer: Peer::Meshed(identity()),
        state: EndpointState::Ready,
        subsets: vec![SubsetName::parse("v2").unwrap()],
    }];
    let target = Target::new(backend("v2"), policy_of_nothing(), endpoints);
    Service {
        destination: Arc::new(Destination {
            name: payments(),
            hosts: vec!["payments.shop.svc.cluster.local".parse().unwrap()],
            vips: Vec::new(),
            protocol: Protocol::Http,
            policy: policy_of_nothing(),
            subsets: Vec::new(),
            shards: 1,
        }),
        http: Arc::new(HttpTable::compile(&table).unwrap()),
        tcp: Arc::new(TcpTable::compile(&table).unwrap()),
        targets: [(target.backend.clone(), Arc::new(target))]
            .into_iter()
            .collect(),
        used: AtomicU32::new(7),
    }
}

fn full(number: u64) -> Snapshot {
    let inbound = InboundPolicy {
        name: "shop/orders".parse().unwrap(),
        identity: identity(),
        default_mtls: MtlsMode::Strict,
        ports: vec![InboundPort {
            port: Port::new(9_001).unwrap(),
            protocol: Protocol::Http,
            mtls: MtlsMode::Permissive,
        }],
    };
    let services = [
        ("payments:9000".into(), Lookup::Found(Arc::new(service()))),
        ("nowhere:1".into(), Lookup::Missing),
    ];
    Snapshot {
        number,
        settings: Arc::new(settings()),
        inbound: Some(Arc::new(inbound)),
        services: services.into_iter().collect(),
    }
}

/// A running admin address and the ends of what it shows.
struct Rig {
    address: SocketAddr,
    writer: SnapshotWriter,
    tls: TlsReader,
    drain: Drain,
    accepting: Arc<Accepting>,
    resources: Resources,
    /// What the admin address asks the one worker.
    orders: mpsc::Receiver<Command>,
    log: LogControl,
    _keep: Box<dyn std::any::Any>,
    _serving: JoinSet<()>,
}

impl Rig {
    async fn start(mutations: bool) -> Self {
        let (writer, snapshots) = snapshot::channel(empty());
        let tls: TlsReader = Arc::new(ArcSwapOption::empty());
        let drain = Drain::default();
        let (log, layer) = logging::unattached("info");
        let own = Identity {
            workload: "shop/orders".parse().unwrap(),
            spiffe: identity(),
        };
        let telemetry = Telemetry::new(own, IstioMetrics::Shown, std::io::sink()).unwrap();
        let (worker, orders) = mpsc::channel(1);
        let workers = vec![worker];
        let accepting = Arc::<Accepting>::default();
        let resources = Resources::default();
        let sources = Sources {
            snapshots,
            tls: Arc::clone(&tls),
            telemetry,
            drain: drain.clone(),
            accepting: Arc::clone(&accepting),
            workers,
            resources: resources.clone(),
            application: Application::default(),
            log: log.clone(),
            mutations,
        };
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut serving = JoinSet::new();
        serving.spawn(serve(listener, Arc::new(sources), Surface::Admin));
        Self {
            address,
            writer,
            tls,
            drain,
            accepting,
            resources,
            orders,
            log,
            _keep: Box::new(layer),
            _serving: serving,
        }
    }

    /// Status, head and body of the answer to these bytes.
    async fn raw(&self, request: &str) -> (u16, String, String) {
        let exchange = async {
            let mut stream = TcpStream::connect(self.address).await.unwrap();
            stream.write_all(request.as_bytes()).await.unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await.unwrap();
            answer
        };
        let answer = timeout(Duration::from_secs(20), exchange).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        let status = head
            .split(' ')
            .nth(1)
            .and_then(|code| code.parse().ok())
            .unwrap_or(0);
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    async fn send(&self, method: &str, path: &str, headers: &str) -> (u16, String, String) {
        self.raw(&format!(
            "{method} {path} HTTP/1.1\r\nhost: localhost\r\n{headers}\r\n"
        ))
        .await
    }

    async fn get(&self, path: &str) -> (u16, Value) {
        let (status, _, body) = self.send("GET", path, "").await;
        (
            status,
            serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}")),
        )
    }
}

#[tokio::test]
async fn ready_names_what_is_missing() {
    let rig = Rig::start(false).await;
    let (status, body) = rig.get("/ready").await;
    assert_eq!(
        (status, &body["missing"]),
        (503, &json!(["certificate", "inbound policy"]))
    );
    rig.writer.publish(full(1));
    rig.tls.store(Some(Arc::new(certificate((2021, 1, 1)).0)));
    let (status, body) = rig.get("/ready").await;
    let expired = json!(["a certificate that has not expired"]);
    assert_eq!((status, &body["missing"]), (503, &expired));
    rig.tls.store(Some(Arc::new(certificate((2999, 1, 1)).0)));
    let (status, body) = rig.get("/ready").await;
    assert_eq!((status, &body["ready"]), (200, &json!(true)));
    rig.accepting.want(2);
    let first = rig.accepting.begin();
    let (status, body) = rig.get("/ready").await;
    assert_eq!((status, &body["missing"]), (503, &json!(["listeners"])));
    let second = rig.accepting.begin();
    assert_eq!(rig.get("/ready").await.0, 200);
    drop(second);
    assert_eq!(rig.get("/ready").await.0, 503, "a worker stopped accepting");
    rig.accepting.want(1);
    assert_eq!(rig.get("/ready").await.0, 200, "a reload took it away");
    drop(first);
    rig.drain.begin();
    let (status, body) = rig.get("/ready").await;
    assert_eq!((status, &body["draining"]), (503, &json!(true)));
    assert_eq!(rig.get("/live").await.0, 200, "alive while it drains");
}

#[tokio::test]
async fn config_shows_what_workers_decide_from() {
    let rig = Rig::start(false).await;
    rig.writer.publish(full(42));
    let (status, body) = rig.get("/config").await;
    assert_eq!(status, 200);
    assert_eq!(body["number"], 42);
    assert_eq!(body["inbound"]["ports"][0]["mtls"], "permissive");
    assert_eq!(
        body["settings"]["tracing"]["endpoint"],
        "http://collector:4317"
    );
    let service = &body["services"]["payments:9000"];
    let rule = &service["http"][0];
    assert_eq!(rule["origin"], "VirtualService/shop/payments spec.http[0]");
    assert_eq!(
        rule["any_of"],
        json!(["path regex \"/api/v[0-9]+\", method exact \"GET\""])
    );
    assert_eq!(rule["timeout"], "1.5s");
    assert_eq!(
        rule["action"]["forward"],
        json!([
            { "backend": "shop/payments:9000 subset v1", "weight": 90 },
            { "backend": "shop/payments:9000 subset v2", "weight": 10 },
        ])
    );
    let endpoint = &service["targets"]["shop/payments:9000 subset v2"]["endpoints"][0];
    assert_eq!(endpoint["address"], "127.1.0.4:9000");
    assert_eq!(endpoint["peer"], identity().to_string());
    assert!(body["services"]["nowhere:1"]["missing"].is_string());
}

#[tokio::test]
async fn config_shows_how_far_each_resource_is() {
    let mut rig = Rig::start(false).await;
    rig.orders.close();
    let kind = ResourceKind::RouteTable;
    rig.resources.with(|all| {
        let wanted = ["a:1", "b:1", "c:1", "d:1"].map(str::to_owned).into();
        all.update(kind, wanted);
        all.hold(kind, "a:1".into(), "11".into());
        all.hold(kind, "b:1".into(), "12".into());
        let rejection = Rejection {
            version: "13".into(),
            reason: "RouteTable b:1: a regex".into(),
        };
        all.reject(kind, "b:1".into(), rejection);
        all.release(kind, "c:1");
    });
    let (_, body) = rig.get("/config").await;
    let rejected = json!({ "version": "13", "reason": "RouteTable b:1: a regex" });
    assert_eq!(
        body["resources"]["RouteTable"],
        json!({
            "a:1": { "applied": "11" },
            "b:1": { "applied": "12", "rejected": rejected },
            "c:1": { "missing": true },
            "d:1": { "pending": true },
        })
    );
    assert_eq!(body["resources"]["TrustBundle"], json!({}));
    let nowhere = json!({ "connected": false, "restored_from_disk": null });
    assert_eq!(body["control_plane"], nowhere);
    assert_eq!(body["health"]["workers_without_answer"], json!([0]));

    rig.resources.source_is(|source| {
        source.connected = true;
        source.restored = Some(std::time::UNIX_EPOCH);
    });
    let (_, body) = rig.get("/config").await;
    let restored = json!({ "connected": true, "restored_from_disk": "1970-01-01T00:00:00.000Z" });
    assert_eq!(body["control_plane"], restored);
}

#[tokio::test]
async fn config_asks_workers_how_endpoints_are() {
    let mut rig = Rig::start(false).await;
    let answer = async |rig: &mut Rig| {
        let Some(Command::Report { to, most }) = rig.orders.recv().await else {
            panic!("it asks for nothing else");
        };
        assert!(most > 100);
        let report = |port: u16, standing| {
            let report = EndpointReport {
                address: ([127, 1, 0, 4], port).into(),
                standing,
                outstanding: 3,
                latency: Some(0.012_5),
            };
            (backend("v2"), report)
        };
        let ejected = Standing::Ejected {
            left: Duration::from_millis(1_500),
            times: 2,
        };
        let healthy = Standing::Healthy {
            server_errors: 4,
            gateway_errors: 1,
        };
        let endpoints = vec![report(9_000, ejected), report(9_001, healthy)];
        let health = Health {
            endpoints,
            left_out: 7,
        };
        to.send(health).unwrap();
    };
    let address = rig.address;
    let (body, ()) = tokio::join!(
        async {
            let mut stream = TcpStream::connect(address).await.unwrap();
            let request = b"GET /config HTTP/1.1\r\nhost: localhost\r\n\r\n";
            stream.write_all(request).await.unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).await.unwrap();
            let (_, body) = text.split_once("\r\n\r\n").unwrap();
            serde_json::from_str::<Value>(body).unwrap()
        },
        answer(&mut rig)
    );
    let health = &body["health"];
    assert_eq!(health["workers_without_answer"], json!([]));
    assert_eq!(
        (&health["ejected"], &health["left_out"]),
        (&json!(1), &json!(7))
    );
    let endpoints = &health["backends"]["shop/payments:9000 subset v2"];
    let ejected = &endpoints["127.1.0.4:9000"][0];
    assert_eq!(ejected["state"], "ejected");
    assert_eq!(ejected["ejected_for_ms"], 1_500);
    assert_eq!(ejected["ejections_in_a_row"], 2);
    let healthy = &endpoints["127.1.0.4:9001"][0];
    assert_eq!(healthy["server_errors_in_a_row"], 4);
    assert_eq!(healthy["latency_ms"], 12.5);
    assert_eq!(
        (&healthy["worker"], &healthy["outstanding"]),
        (&json!(0), &json!(3))
    );
}

#[tokio::test]
async fn certs_tell_names_and_times() {
    let rig = Rig::start(false).await;
    assert_eq!(rig.get("/certs").await.1["identity"], Value::Null);
    rig.tls.store(Some(Arc::new(certificate((2999, 12, 31)).0)));
    let (status, body) = rig.get("/certs").await;
    assert_eq!(status, 200);
    assert_eq!(body["identity"], identity().to_string());
    let leaf = &body["chain"][0];
    assert_eq!(leaf["uris"], json!([identity().to_string()]));
    assert_eq!(leaf["not_before"], "2020-01-01T00:00:00.000Z");
    assert_eq!(leaf["not_after"], "2999-12-31T00:00:00.000Z");
    assert!(leaf["serial"].as_str().unwrap().len() > 8);
    assert!(leaf["expires_in_seconds"].as_u64().unwrap() > 1_000_000);
    assert_eq!(body["roots"].as_array().unwrap().len(), 1);
}

/// T18.
#[tokio::test]
async fn no_answer_holds_a_secret() {
    let rig = Rig::start(true).await;
    let (context, key) = certificate((2999, 1, 1));
    rig.tls.store(Some(Arc::new(context)));
    rig.writer.publish(full(1));
    let headers = format!("authorization: Bearer {CANARY}\r\ncookie: a={CANARY}\r\n");
    for path in [
        "/live", "/ready", "/metrics", "/config", "/certs", "/log", "/nothing",
    ] {
        let (_, head, body) = rig.send("GET", path, &headers).await;
        for secret in key
            .iter()
            .map(String::as_str)
            .chain([CANARY, "PRIVATE KEY"])
        {
            assert!(
                !head.contains(secret) && !body.contains(secret),
                "{path}: {secret}"
            );
        }
        assert!(!head.contains("access-control"), "no CORS: {head}");
        assert!(head.contains("cache-control: no-store"), "{head}");
    }
}

#[tokio::test]
async fn metrics_are_served_as_prometheus_reads_them() {
    let rig = Rig::start(false).await;
    let (status, head, body) = rig.send("GET", "/metrics", "").await;
    assert_eq!(status, 200);
    assert!(
        head.contains("content-type: text/plain; version=0.0.4"),
        "{head}"
    );
    assert!(body.contains("\noutrigger_build_info{version=\""), "{body}");
}

#[tokio::test]
async fn the_log_level_changes_only_where_allowed() {
    let level = |rig: &Rig| rig.log.level().unwrap();
    let header = "x-outrigger-admin: 1\r\n";
    let closed = Rig::start(false).await;
    assert_eq!(closed.send("POST", "/log?level=debug", header).await.0, 403);
    assert_eq!(level(&closed), "info");

    let open = Rig::start(true).await;
    assert_eq!(
        open.send("POST", "/log?level=debug", "").await.0,
        403,
        "no header"
    );
    assert_eq!(level(&open), "info");
    assert_eq!(open.send("POST", "/log?level=loud", header).await.0, 400);
    assert_eq!(open.send("POST", "/log", header).await.0, 400);
    assert_eq!(
        open.send("POST", "/log?level=warn&level=info", header)
            .await
            .0,
        400
    );
    assert_eq!(level(&open), "info");
    assert_eq!(open.send("POST", "/log?level=debug", header).await.0, 200);
    assert_eq!(open.get("/log").await.1["level"], "debug");
    assert_eq!(
        open.send("PUT", "/log?level=warn,h2=off", header).await.0,
        200
    );
    assert_eq!(open.get("/log").await.1["level"], level(&open));
    assert!(level(&open).contains("h2=off"), "{}", level(&open));
}

#[tokio::test]
async fn everything_else_is_refused() {
    let rig = Rig::start(true).await;
    let check = async |method: &str, path: &str, expected: u16| {
        let (status, ..) = rig.send(method, path, "").await;
        assert_eq!(status, expected, "{method} {path}");
    };
    check("GET", "/", 404).await;
    check("GET", "/config/", 404).await;
    check("GET", "/../config", 404).await;
    check("POST", "/config", 405).await;
    check("DELETE", "/log", 405).await;
    check("OPTIONS", "/metrics", 405).await;
    check("PUT", "/quit", 404).await;
    let (status, ..) = rig
        .raw("GET /config HTTP/1.1\r\nhost: evil.example\r\n\r\n")
        .await;
    assert_eq!(status, 403, "DNS rebinding");
    let (status, ..) = rig.raw("GET /config HTTP/1.1\r\n\r\n").await;
    assert_eq!(status, 403, "no Host");
    let (status, ..) = rig.raw("nonsense\r\n\r\n").await;
    assert_eq!(status, 400);
}

/// D1: connections that say nothing hold their places for a bounded time; others wait.
#[tokio::test]
async fn silent_connections_do_not_lock_others_out() {
    let rig = Rig::start(false).await;
    let mut silent = Vec::new();
    for _ in 0..CONNECTIONS_MAX {
        silent.push(TcpStream::connect(rig.address).await.unwrap());
    }
    let begun = Instant::now();
    assert_eq!(rig.get("/live").await.0, 200);
    assert!(begun.elapsed() < HEAD_TIME * 3, "{:?}", begun.elapsed());
}
