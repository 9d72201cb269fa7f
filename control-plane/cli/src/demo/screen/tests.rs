//! The picture, drawn on a terminal in memory.

use ratatui::Terminal;
use ratatui::backend::TestBackend;

use super::*;
use crate::demo::board::Edge;

fn flow(rate: f64, success: f64) -> Flow {
    Flow {
        rate,
        success: Some(success),
        p50_ms: Some(1.25),
        p99_ms: Some(130.4),
    }
}

fn edge(from: &str, to: &str, flow: Flow, mtls: Option<f64>) -> EdgeRow {
    EdgeRow {
        edge: Edge {
            from: from.to_owned(),
            to: to.to_owned(),
        },
        flow,
        mtls,
        retries: 0.4,
        retries_total: 17,
        ejected: 1,
        ejections_total: 2,
    }
}

fn view() -> View {
    View {
        load: LoadRow {
            flow: flow(100.0, 0.9996),
            requests: 1234,
            failed: 5,
            in_flight: 7,
            shed: 3,
            failure: Some("POST /checkout: 504 (route-timeout)".to_owned()),
        },
        services: vec![ServiceRow {
            name: "payments".to_owned(),
            up: (1, 2),
            flow: flow(61.54, 0.875),
        }],
        edges: vec![
            edge("storefront", "order-service", flow(50.0, 1.0), Some(1.0)),
            edge("order-service", "payments", flow(60.0, 0.5), Some(0.0)),
            edge("order-service", "legacy", Flow::default(), None),
        ],
        splits: vec![SplitRow {
            service: "payments".to_owned(),
            subsets: vec![
                ("v1".to_owned(), 0.75, Some(1.0)),
                ("v2".to_owned(), 0.25, Some(0.5)),
            ],
        }],
        retries: 17,
        ejections: 2,
        mtls: Some(0.9999),
    }
}

/// The lines of a terminal of this size.
fn drawn(width: u16, height: u16, help: bool) -> Vec<String> {
    let canary = |service, weight, fault| Canary {
        service,
        weight,
        fault,
    };
    let mut news = News::default();
    news.add(Duration::from_secs(3), "killed inventory-2".to_owned());
    news.config = Some((Duration::from_secs(9), "VirtualService payments".to_owned()));
    let scene = Scene {
        elapsed: Duration::from_secs(12),
        view: &view(),
        canaries: &[
            canary("payments", 20, Fault::Hang),
            canary("order-service", 10, Fault::None),
        ],
        chosen: 0,
        news: &news,
        help,
    };
    let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
    terminal.draw(|frame| draw(frame, &scene)).unwrap();
    let buffer = terminal.backend().buffer();
    let rows = buffer.content().chunks(usize::from(width));
    rows.map(|row| row.iter().map(ratatui::buffer::Cell::symbol).collect())
        .collect()
}

/// The one line with all of `words`, in their order.
#[track_caller]
fn has(lines: &[String], words: &[&str]) {
    let found = lines.iter().filter(|line| {
        let mut rest = line.as_str();
        words.iter().all(|word| match rest.split_once(word) {
            Some((_, after)) => {
                rest = after;
                true
            }
            None => false,
        })
    });
    assert_eq!(found.count(), 1, "{words:?} in\n{}", lines.join("\n"));
}

#[test]
fn services_edges_canaries_and_events_are_shown_with_their_numbers() {
    let lines = drawn(110, 30, false);
    has(
        &lines,
        &[
            "12 s",
            "customers",
            "100/s",
            "99.9 %",
            "p50 1.25 ms",
            "p99 130 ms",
        ],
    );
    has(
        &lines,
        &[
            "1234 requests, 5 failed",
            "7 in flight",
            "17 retries",
            "3 turned away",
        ],
    );
    has(
        &lines,
        &["payments", "1/2", "61.5", "87.5 %", "1.25", "130"],
    );
    has(
        &lines,
        &[
            "storefront → order-service",
            "50.0",
            "100 %",
            "mTLS",
            "0.4/s 17",
            "1/2",
        ],
    );
    has(
        &lines,
        &["order-service → payments", "60.0", "50.0 %", "plain"],
    );
    has(&lines, &["order-service → legacy", "0.0", "-", "-", "-"]);
    has(&lines, &["▶ payments  v2 weight 20 %", "v2 HANGS"]);
    has(&lines, &["█", "v1 75 %", "v2 25 %!"]);
    has(&lines, &["order-service  v2 weight 10 %"]);
    has(&lines, &["no requests yet"]);
    has(&lines, &["9 s", "last change: VirtualService payments"]);
    has(&lines, &["3 s", "killed inventory-2"]);
    has(&lines, &["quit", "weight", "kill sidecar"]);
}

#[test]
fn help_covers_the_rest_and_small_terminals_are_drawn() {
    has(
        &drawn(110, 30, true),
        &["kill the application of inventory-2"],
    );
    let small = drawn(80, 24, false);
    has(&small, &["▶ payments  v2 weight 20 %"]);
    has(&small, &["v1 75 %", "v2 25 %!"]);
    has(
        &small,
        &[
            "order-service → payments",
            "50.0 %",
            "plain",
            "0.4/s 17",
            "1/2",
        ],
    );
    for (width, height) in [(80, 24), (20, 5), (1, 1)] {
        assert_eq!(drawn(width, height, true).len(), usize::from(height));
    }
}

#[test]
fn a_share_is_100_percent_only_if_it_is_all() {
    for (share, text) in [(1.0, "100 %"), (0.99999, "99.9 %"), (0.1234, "12.3 %")] {
        assert_eq!(percent(share), text);
    }
}

#[test]
fn old_events_go() {
    let mut news = News::default();
    for number in 0..NEWS_MAX + 5 {
        news.add(Duration::ZERO, number.to_string());
    }
    assert_eq!(news.events.len(), NEWS_MAX);
    assert_eq!(news.events[0].1, "5");
}
