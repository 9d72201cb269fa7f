//! The page as a scraper sees it: sums, bound, lint, documentation; and what is logged.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, Write},
    path::Path,
    sync::{Arc, atomic::AtomicI64, mpsc},
    time::{Duration, Instant},
};

use outrigger_model::{Backend, Hostname, Port, SpiffeId, SubsetName, Tracing, TrustDomain};

use super::{names::Kind, table::LINES_MAX, *};

struct Lines(mpsc::SyncSender<Vec<u8>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.send(bytes.to_vec()).map_err(io::Error::other)?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// A request of these headers alone.
pub(super) struct Head(pub(super) Vec<(&'static str, Vec<u8>)>);

impl RequestView for Head {
    fn method(&self) -> &str {
        "GET"
    }

    fn path(&self) -> &str {
        "/"
    }

    fn query(&self) -> Option<&str> {
        None
    }

    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8])) {
        let found = self.0.iter().filter(|(name, _)| *name == name_lowercase);
        found.for_each(|(_, value)| visit(value));
    }
}

pub(super) fn identity() -> Identity {
    Identity {
        workload: "shop/storefront".parse().unwrap(),
        spiffe: "spiffe://cluster.local/ns/shop/sa/storefront"
            .parse()
            .unwrap(),
    }
}

fn telemetry(istio: IstioMetrics) -> Telemetry {
    Telemetry::new(identity(), istio, io::sink()).unwrap()
}

pub(super) fn settings(access_log: AccessLog, tracing: Tracing) -> MeshSettings {
    MeshSettings {
        trust_domain: TrustDomain::parse("cluster.local").unwrap(),
        cluster_domain: Hostname::parse("cluster.local").unwrap(),
        access_log,
        tracing,
        drain_timeout: Duration::from_secs(1),
    }
}

fn backend(service: &str, subset: &str) -> Backend {
    Backend {
        destination: format!("shop/{service}:8080").parse().unwrap(),
        subset: (!subset.is_empty()).then(|| SubsetName::parse(subset).unwrap()),
    }
}

pub(super) fn record(status: u16) -> RequestRecord<'static> {
    RequestRecord {
        direction: Direction::Outbound,
        carried: Carried::Http1,
        method: "GET",
        path: "/items/7",
        authority: "orders:8080",
        destination: None,
        backend: None,
        endpoint: None,
        peer: None,
        security: Security::MutualTls,
        status,
        grpc_status: None,
        reason: None,
        detail: "",
        origin: None,
        attempts: 1,
        duration: Duration::from_millis(3),
        request_bytes: 10,
        response_bytes: 100,
        traceparent: "",
    }
}

/// Lines of the page by name and labels.
fn samples(telemetry: &Telemetry) -> BTreeMap<String, f64> {
    let page = telemetry.page();
    let lines = page.lines().filter(|line| !line.starts_with('#'));
    let split = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.parse().unwrap())
    };
    let all: Vec<(String, f64)> = lines.map(split).collect();
    let number = all.len();
    let map: BTreeMap<_, _> = all.into_iter().collect();
    assert_eq!(map.len(), number, "no line stands twice");
    map
}

/// Sum of the samples of this name whose labels hold all of `with`.
fn sum(samples: &BTreeMap<String, f64>, name: &str, with: &[&str]) -> f64 {
    let of = |line: &str| {
        line.split('{').next() == Some(name) && with.iter().all(|label| line.contains(label))
    };
    samples
        .iter()
        .filter(|(line, _)| of(line))
        .map(|(_, value)| value)
        .sum()
}

/// Ten answers of payments, one refusal, a retry and two ejections.
fn payments() -> (Telemetry, [Rc<Series>; 2]) {
    let telemetry = telemetry(IstioMetrics::Shown);
    telemetry.configure(&settings(AccessLog::Off, Tracing::Off));
    let v1 = telemetry.series(&SeriesKey::Outbound(backend("payments", "v1")));
    let v2 = telemetry.series(&SeriesKey::Outbound(backend("payments", "v2")));
    for _ in 0..9 {
        telemetry.record(&record(200), &v1);
    }
    telemetry.record(&record(503), &v2);
    let refused = RequestRecord {
        reason: Some(Reason::NoEndpoint),
        ..record(503)
    };
    telemetry.record(&refused, &v2);
    telemetry.retry(&v2, RetryCause::Reset);
    telemetry.ejected(&v2);
    telemetry.ejected(&v2);
    v2.ejections_of(&Arc::new(AtomicI64::new(1)));
    (telemetry, [v1, v2])
}

#[test]
fn requests_are_counted_by_where_they_went_and_how_they_ended() {
    let (telemetry, _held) = payments();
    let page = samples(&telemetry);
    let count = |name: &str, with: &[&str]| sum(&page, name, with);
    assert_eq!(
        count("outrigger_requests_total", &["subset=\"v1\"", "\"200\""]),
        9.0
    );
    assert_eq!(
        count(
            "outrigger_requests_total",
            &["subset=\"v2\"", "reason=\"\""]
        ),
        1.0
    );
    assert_eq!(
        count("outrigger_requests_total", &["reason=\"no-endpoint\""]),
        1.0
    );
    assert_eq!(
        count("outrigger_refusals_total", &["no-endpoint", "outbound"]),
        1.0
    );
    assert_eq!(count("outrigger_request_body_bytes_total", &[]), 110.0);
    assert_eq!(
        count("outrigger_retries_total", &["cause=\"reset\"", "v2"]),
        1.0
    );
    assert_eq!(count("outrigger_ejections_total", &["v2"]), 2.0);
    assert_eq!(count("outrigger_endpoints_ejected", &["v2"]), 1.0);
    let bucket = "outrigger_request_duration_seconds_bucket";
    assert_eq!(count(bucket, &["success", "le=\"0.0025\""]), 0.0);
    assert_eq!(count(bucket, &["success", "le=\"0.005\""]), 9.0);
    assert_eq!(count(bucket, &["failure", "le=\"+Inf\""]), 2.0);
    let seconds = count("outrigger_request_duration_seconds_sum", &[]);
    assert!((seconds - 0.033).abs() < 1e-9, "{seconds}");
}

#[test]
fn istios_metrics_tell_the_same() {
    let (telemetry, _held) = payments();
    let page = samples(&telemetry);
    let count = |name: &str, with: &[&str]| sum(&page, name, with);
    let full = "destination_service=\"payments.shop.svc.cluster.local\"";
    let of_v1 = [
        "reporter=\"source\"",
        full,
        "destination_version=\"v1\"",
        "\"200\"",
    ];
    assert_eq!(count("istio_requests_total", &of_v1), 9.0);
    assert_eq!(
        count("istio_requests_total", &["response_flags=\"UH\""]),
        1.0
    );
    assert_eq!(
        count("istio_request_duration_milliseconds_bucket", &["le=\"5\""]),
        11.0
    );
    assert_eq!(
        count(
            "istio_request_duration_milliseconds_bucket",
            &["le=\"2.5\""]
        ),
        0.0
    );
    assert_eq!(count("istio_request_duration_milliseconds_sum", &[]), 33.0);
    assert_eq!(count("istio_response_bytes_sum", &[]), 1_100.0);
}

#[test]
fn inbound_and_tcp_have_their_own_lines() {
    let telemetry = telemetry(IstioMetrics::Shown);
    let peer: SpiffeId = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
    let key = SeriesKey::Inbound {
        port: Port::new(9_001).unwrap(),
        peer: Some(peer),
    };
    let series = telemetry.series(&key);
    let inbound = RequestRecord {
        direction: Direction::Inbound,
        ..record(200)
    };
    telemetry.record(&inbound, &series);
    series.tcp_opened(Security::MutualTls);
    series.tcp_opened(Security::MutualTls);
    telemetry.record(
        &RequestRecord {
            carried: Carried::Tcp,
            status: 0,
            ..inbound
        },
        &series,
    );

    let page = samples(&telemetry);
    let caller = "source_principal=\"spiffe://cluster.local/ns/shop/sa/orders\"";
    let at = ["direction=\"inbound\"", "destination_port=\"9001\"", caller];
    assert_eq!(sum(&page, "outrigger_requests_total", &at), 1.0);
    assert_eq!(
        sum(&page, "outrigger_tcp_connections_opened_total", &at),
        2.0
    );
    assert_eq!(
        sum(&page, "outrigger_tcp_connections_closed_total", &at),
        1.0
    );
    assert_eq!(sum(&page, "outrigger_tcp_sent_bytes_total", &at), 100.0);
    let istio = [
        "reporter=\"destination\"",
        "destination_workload=\"storefront\"",
        caller,
    ];
    assert_eq!(sum(&page, "istio_requests_total", &istio), 1.0);
    assert_eq!(
        sum(&page, "istio_tcp_connections_opened_total", &istio),
        2.0
    );
}

#[test]
fn the_page_has_a_bound_and_no_request_is_lost() {
    for istio in [IstioMetrics::Shown, IstioMetrics::Hidden] {
        let telemetry = telemetry(istio);
        let mut held = Vec::new();
        let mut sent = 0.0;
        for service in 0..1_500 {
            let key = SeriesKey::Outbound(backend(&format!("s{service}"), ""));
            let series = telemetry.series(&key);
            for status in [200, 201, 404, 503, 599, 777] {
                telemetry.record(&record(status), &series);
                sent += 1.0;
            }
            telemetry.retry(&series, RetryCause::Connect);
            series.pending(1);
            held.push(OpenConnection::new(&series));
        }
        let page = samples(&telemetry);
        assert!(page.len() <= LINES_MAX, "{} lines", page.len());
        assert!(
            page.len() > LINES_MAX * 4 / 5,
            "the room is used: {} lines",
            page.len()
        );
        assert_eq!(sum(&page, "outrigger_requests_total", &[]), sent);
        assert_eq!(sum(&page, "outrigger_retries_total", &[]), 1_500.0);
        assert_eq!(sum(&page, "outrigger_pool_pending_requests", &[]), 1_500.0);
        let open = "outrigger_upstream_connections_active";
        assert_eq!(sum(&page, open, &[]), 1_500.0);
        let other = [
            "destination_service_name=\"other\"",
            "response_code=\"5xx\"",
        ];
        assert!(sum(&page, "outrigger_requests_total", &other) > 1_000.0);
        assert!(sum(&page, "outrigger_telemetry_series_refused_total", &[]) > 1_000.0);
    }
}

#[test]
fn the_room_taken_is_the_lines_shown() {
    for istio in [IstioMetrics::Shown, IstioMetrics::Hidden] {
        let telemetry = telemetry(istio);
        let before = samples(&telemetry).len();
        let series = telemetry.series(&SeriesKey::Outbound(backend("orders", "")));
        telemetry.record(&record(200), &series);
        telemetry.record(&record(404), &series);
        telemetry.record(&record(503), &series);
        series.tcp_opened(Security::None);
        telemetry.record(
            &RequestRecord {
                carried: Carried::Tcp,
                security: Security::None,
                ..record(0)
            },
            &series,
        );
        telemetry.retry(&series, RetryCause::Status);
        telemetry.ejected(&series);
        series.pending(1);
        let _open = OpenConnection::new(&series);
        let closed = OpenConnection::new(&series);
        closed.ends(Closed::Idle);
        drop(closed);
        let shown = samples(&telemetry).len() - before;
        assert_eq!(telemetry.0.metrics.table.lines(), shown, "{istio:?}");
    }
}

#[test]
fn numbers_outlive_their_handle_and_idle_series_go() {
    let telemetry = telemetry(IstioMetrics::Shown);
    let key = SeriesKey::Outbound(backend("orders", ""));
    let one = telemetry.series(&key);
    let two = telemetry.series(&key);
    telemetry.record(&record(200), &one);
    telemetry.record(&record(200), &two);
    let out = Arc::new(AtomicI64::new(1));
    for series in [&one, &two] {
        series.ejections_of(&out);
    }
    telemetry.ejected(&one);
    drop(one);
    assert_eq!(
        sum(&samples(&telemetry), "outrigger_requests_total", &[]),
        2.0
    );
    let ejected = || sum(&samples(&telemetry), "outrigger_endpoints_ejected", &[]);
    assert_eq!(
        ejected(),
        1.0,
        "once, and as long as a worker holds the backend"
    );
    drop(two);
    assert_eq!(ejected(), 0.0);
    let table = &telemetry.0.metrics.table;
    let now = Instant::now();
    assert_eq!(
        table.totals(now).len(),
        1,
        "kept for a while: the worker may come back"
    );
    let three = telemetry.series(&key);
    assert_eq!(
        table.totals(now + table::IDLE * 2).len(),
        1,
        "kept as long as it is held"
    );
    telemetry.record(&record(200), &three);
    assert_eq!(
        sum(&samples(&telemetry), "outrigger_requests_total", &[]),
        3.0
    );
    drop(three);
    assert_eq!(table.totals(now).len(), 1);
    assert_eq!(table.totals(now + table::IDLE).len(), 0);
    assert_eq!(table.lines(), 0, "its room is free again");
}

#[test]
fn workers_add_up_while_the_page_is_read() {
    let telemetry = telemetry(IstioMetrics::Shown);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let series = telemetry.series(&SeriesKey::Outbound(backend("orders", "")));
                for round in 0..10_000 {
                    let status = if round % 100 == 0 { 503 } else { 200 };
                    telemetry.record(
                        &RequestRecord {
                            reason: None,
                            ..record(status)
                        },
                        &series,
                    );
                }
            });
        }
        for _ in 0..20 {
            let page = samples(&telemetry);
            assert!(sum(&page, "outrigger_requests_total", &[]) <= 40_000.0);
        }
    });
    let page = samples(&telemetry);
    assert_eq!(sum(&page, "outrigger_requests_total", &[]), 40_000.0);
    assert_eq!(
        sum(
            &page,
            "outrigger_request_duration_seconds_count",
            &["failure"]
        ),
        400.0
    );
}

#[test]
fn events_show() {
    let telemetry = telemetry(IstioMetrics::Hidden);
    telemetry.connection_opened(Direction::Inbound);
    telemetry.connection_opened(Direction::Inbound);
    telemetry.connection_closed(Direction::Inbound);
    telemetry.handshake(
        Direction::Inbound,
        Handshake::Completed,
        Duration::from_millis(2),
    );
    telemetry.handshake(
        Direction::Outbound,
        Handshake::WrongIdentity,
        Duration::ZERO,
    );
    telemetry.refused(Direction::Inbound, Reason::PlaintextRefused);
    telemetry.certificate(UNIX_EPOCH + Duration::from_secs(1_800_000_000));
    telemetry.configuration(7);
    telemetry.discovery_connected(true);
    telemetry.nack();
    let page = samples(&telemetry);
    let count = |name: &str, with: &[&str]| sum(&page, name, with);
    assert_eq!(count("outrigger_connections_total", &["inbound"]), 2.0);
    assert_eq!(count("outrigger_connections_active", &["inbound"]), 1.0);
    assert_eq!(
        count("outrigger_tls_handshakes_total", &["inbound", "completed"]),
        1.0
    );
    assert_eq!(
        count("outrigger_tls_handshakes_total", &["wrong-identity"]),
        1.0
    );
    assert_eq!(
        count("outrigger_tls_handshake_duration_seconds_count", &[]),
        1.0
    );
    assert_eq!(
        count("outrigger_refusals_total", &["plaintext-refused"]),
        1.0
    );
    assert_eq!(
        count("outrigger_certificate_expiry_timestamp_seconds", &[]),
        1.8e9
    );
    assert_eq!(count("outrigger_configuration_number", &[]), 7.0);
    assert!(count("outrigger_configuration_update_timestamp_seconds", &[]) > 1.7e9);
    assert_eq!(count("outrigger_discovery_connected", &[]), 1.0);
    assert_eq!(count("outrigger_configuration_rejections_total", &[]), 1.0);
    assert_eq!(count("outrigger_build_info", &[]), 1.0);
    assert!(count("process_resident_memory_bytes", &[]) > 1e5);
}

#[test]
fn only_what_the_settings_name_is_logged() {
    let check = |mode: AccessLog, expected: &[u16]| {
        let (sender, receiver) = mpsc::sync_channel(16);
        let telemetry = Telemetry::new(identity(), IstioMetrics::Hidden, Lines(sender)).unwrap();
        telemetry.configure(&settings(mode, Tracing::Off));
        let series = telemetry.series(&SeriesKey::UnknownService);
        for status in [200, 404, 502] {
            telemetry.record(&record(status), &series);
        }
        telemetry.close(Duration::from_secs(10));
        drop(series);
        let lines = receiver.try_iter().flatten().collect::<Vec<u8>>();
        let status = |line: &str| {
            serde_json::from_str::<serde_json::Value>(line).unwrap()["status"]
                .as_u64()
                .unwrap()
        };
        let statuses: Vec<_> = String::from_utf8(lines)
            .unwrap()
            .lines()
            .map(status)
            .collect();
        let expected: Vec<_> = expected.iter().copied().map(u64::from).collect();
        assert_eq!(statuses, expected, "{mode:?}");
    };
    check(AccessLog::Off, &[]);
    check(AccessLog::Failures, &[502]);
    check(AccessLog::All, &[200, 404, 502]);
}

/// The rules of `promtool check metrics` that apply to names, help and kinds.
#[test]
fn the_declarations_pass_the_lint() {
    let mut seen = BTreeSet::new();
    for metric in names::ALL {
        let name = metric.name;
        assert!(seen.insert(name), "{name} stands twice");
        assert!(!metric.help.is_empty() && metric.help.is_ascii(), "{name}");
        let plain = |text: &str| {
            text.bytes()
                .all(|b| b.is_ascii_lowercase() || b == b'_' || b.is_ascii_digit())
        };
        assert!(
            plain(name) && metric.labels.iter().all(|label| plain(label)),
            "{name}"
        );
        assert!(
            !metric.labels.contains(&"le") && !metric.labels.contains(&"quantile"),
            "{name}"
        );
        assert_eq!(
            metric.kind == Kind::Counter,
            name.ends_with("_total"),
            "{name}"
        );
        for suffix in ["_count", "_sum", "_bucket"] {
            assert!(!name.ends_with(suffix), "{name}");
        }
        for kind in ["_counter", "_gauge", "_histogram", "_summary"] {
            assert!(!name.contains(kind), "{name}");
        }
        // Istio's own name is not in a base unit; dashboards know it so.
        if name != "istio_request_duration_milliseconds" {
            for unit in [
                "milliseconds",
                "_ms",
                "_seconds_seconds",
                "kilobytes",
                "_kb",
                "minutes",
            ] {
                assert!(!name.contains(unit), "{name}");
            }
        }
    }
}

#[test]
fn all_that_is_shown_is_declared() {
    let telemetry = telemetry(IstioMetrics::Shown);
    let series = telemetry.series(&SeriesKey::UnknownService);
    telemetry.record(&record(503), &series);
    let declared: BTreeSet<_> = names::ALL.iter().map(|metric| metric.name).collect();
    let page = telemetry.page();
    for line in page.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let name = line.split(' ').next().unwrap();
        assert!(declared.contains(name), "{name}");
    }
}

#[test]
fn documentation_is_what_the_code_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/metrics.md");
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    // What follows is the control plane's, which this crate does not know.
    let rest = found
        .find("\n## The control plane's metrics")
        .and_then(|at| found.get(at..))
        .unwrap_or_default();
    let expected = names::documentation() + rest;
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/metrics.md is old: run the test with UPDATE_DOCS=1"
    );
}

/// Sketch of [`Telemetry::record`]'s cost; the number itself is measured with callgrind.
#[test]
fn a_known_outcome_takes_no_room_and_no_lock() {
    let telemetry = telemetry(IstioMetrics::Shown);
    let series = telemetry.series(&SeriesKey::Outbound(backend("orders", "")));
    telemetry.record(&record(200), &series);
    let table = &telemetry.0.metrics.table;
    // The list is locked: a second record that asked for it would hang here.
    table.while_locked(|| {
        for _ in 0..1_000 {
            telemetry.record(&record(200), &series);
        }
    });
    assert_eq!(
        sum(&samples(&telemetry), "outrigger_requests_total", &[]),
        1_001.0
    );
}
