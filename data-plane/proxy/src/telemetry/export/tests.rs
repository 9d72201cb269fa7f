//! Spans as an OTLP receiver sees them: a real gRPC server in this process.

use std::{cell::Cell, io, net::SocketAddr, pin::pin};

use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::{KeyValue as ProtoKeyValue, any_value::Value},
    trace::v1::{Span, span::SpanKind},
};
use outrigger_model::{AccessLog, Ratio, Tracing};
use tokio::{net::TcpListener, task::JoinSet};

use super::*;
use crate::{
    exchange::RequestEdit,
    reason::Reason,
    telemetry::{
        Direction, IstioMetrics, RequestRecord, SeriesKey, Telemetry,
        tests::{Head, identity, record, settings},
        trace::Context,
    },
};

/// Hands every request to the test.
struct Receiver(mpsc::Sender<ExportTraceServiceRequest>);

#[tonic::async_trait]
impl TraceService for Receiver {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let sent = self.0.send(request.into_inner()).await;
        sent.map_err(|_| tonic::Status::unavailable("the test is over"))?;
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

async fn receiver(
    tasks: &mut JoinSet<()>,
) -> (SocketAddr, mpsc::Receiver<ExportTraceServiceRequest>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, requests) = mpsc::channel(16);
    let service = TraceServiceServer::from_arc(Arc::new(Receiver(sender)));
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((socket, _)) = listener.accept().await {
            let service = TowerToHyperService::new(service.clone());
            connections.spawn(async move {
                let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                let served = server.serve_connection(TokioIo::new(socket), service).await;
                drop(served);
            });
        }
    });
    (address, requests)
}

/// Passes a request of these headers through a sidecar; the headers that come out, as the next
/// one reads them.
fn pass(telemetry: &Telemetry, head: &Head, record: &RequestRecord<'_>) -> Head {
    thread_local! { static NUMBER: Cell<u64> = const { Cell::new(0x1000) }; }
    let mut random = || {
        NUMBER.set(NUMBER.get() + 1);
        NUMBER.get()
    };
    let context: Context = telemetry.begin_trace(head, &mut random);
    let mut edit = RequestEdit::default();
    context.apply(&mut edit);
    let series = telemetry.series(&SeriesKey::UnknownService);
    telemetry.finish(record, &series, &context);
    Head(
        edit.set
            .iter()
            .map(|(name, value)| (*name, value.to_vec()))
            .collect(),
    )
}

fn telemetry(endpoint: SocketAddr, sampling: Ratio) -> Telemetry {
    let telemetry = Telemetry::new(identity(), IstioMetrics::Hidden, io::sink()).unwrap();
    let tracing = Tracing::Otlp {
        endpoint: format!("http://{endpoint}"),
        sampling,
    };
    telemetry.configure(&settings(AccessLog::Off, tracing));
    telemetry
}

/// Spans of the next requests to this receiver, until there are so many.
async fn spans(
    requests: &mut mpsc::Receiver<ExportTraceServiceRequest>,
    number: usize,
) -> (Vec<Span>, Vec<ProtoKeyValue>) {
    let mut spans = Vec::new();
    let mut resource = Vec::new();
    while spans.len() < number {
        let request = timeout(Duration::from_secs(20), requests.recv())
            .await
            .unwrap()
            .unwrap();
        for of_resource in request.resource_spans {
            resource = of_resource.resource.unwrap().attributes;
            for of_scope in of_resource.scope_spans {
                assert_eq!(of_scope.scope.unwrap().name, "outrigger");
                spans.extend(of_scope.spans);
            }
        }
    }
    (spans, resource)
}

fn attribute(list: &[ProtoKeyValue], key: &str) -> Option<String> {
    let value = list
        .iter()
        .find(|pair| pair.key == key)?
        .value
        .clone()?
        .value?;
    match value {
        Value::StringValue(text) => Some(text),
        Value::IntValue(number) => Some(number.to_string()),
        other => panic!("{key}: {other:?}"),
    }
}

fn counted(telemetry: &Telemetry, result: &str) -> f64 {
    let line = format!("outrigger_spans_total{{result=\"{result}\"}} ");
    let page = telemetry.page();
    page.lines()
        .find_map(|text| text.strip_prefix(&line))
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test]
async fn two_sidecars_make_one_trace() {
    let mut tasks = JoinSet::new();
    let (address, mut requests) = receiver(&mut tasks).await;
    let stop = CancellationToken::new();
    let telemetry = telemetry(address, Ratio::ONE);
    let exporting = telemetry.clone();
    let stopped = stop.clone();
    let mut export = JoinSet::new();
    export.spawn(async move { exporting.export(stopped).await });

    let outbound = RequestRecord {
        endpoint: Some("127.0.0.9:9000".parse().unwrap()),
        reason: Some(Reason::RetriesExhausted),
        attempts: 3,
        ..record(503)
    };
    let head = pass(&telemetry, &Head(Vec::new()), &outbound);
    let inbound = RequestRecord {
        direction: Direction::Inbound,
        ..record(200)
    };
    pass(&telemetry, &head, &inbound);

    let (spans, resource) = spans(&mut requests, 2).await;
    assert_eq!(
        attribute(&resource, "service.name").as_deref(),
        Some("storefront")
    );
    let [client, server] = &spans[..] else {
        panic!("{spans:?}")
    };
    assert_eq!(client.kind(), SpanKind::Client);
    assert_eq!(server.kind(), SpanKind::Server);
    assert_eq!(client.trace_id.len(), 16);
    assert_eq!(client.trace_id, server.trace_id);
    assert!(
        client.parent_span_id.is_empty(),
        "a root: {:?}",
        client.parent_span_id
    );
    assert_eq!(server.parent_span_id, client.span_id);
    assert_ne!(server.span_id, client.span_id);
    assert_eq!(client.name, "GET");
    assert_eq!(
        client.end_time_unix_nano - client.start_time_unix_nano,
        3_000_000
    );
    let of = |key| attribute(&client.attributes, key);
    let check = |key, value: &str| assert_eq!(of(key).as_deref(), Some(value), "{key}");
    check("http.request.method", "GET");
    check("http.response.status_code", "503");
    check("url.path", "/items/7");
    check("server.address", "orders");
    check("server.port", "8080");
    check("network.peer.address", "127.0.0.9");
    check("network.peer.port", "9000");
    check("error.type", "retries-exhausted");
    check("outrigger.reason", "retries-exhausted");
    check("outrigger.attempts", "3");
    assert_eq!(client.status.as_ref().unwrap().code, 2, "an error");
    assert_eq!(
        server.status.as_ref().map_or(0, |status| status.code),
        0,
        "unset"
    );
    stop.cancel();
    timeout(Duration::from_secs(20), export.join_next())
        .await
        .unwrap();
    assert_eq!(counted(&telemetry, "exported"), 2.0);
}

#[tokio::test]
async fn the_endpoint_changes_while_it_runs_and_the_last_spans_are_sent() {
    let mut tasks = JoinSet::new();
    let (first, mut to_first) = receiver(&mut tasks).await;
    let (second, mut to_second) = receiver(&mut tasks).await;
    let telemetry = telemetry(first, Ratio::ONE);
    let stop = CancellationToken::new();
    let exporting = telemetry.clone();
    let stopped = stop.clone();
    let mut export = JoinSet::new();
    export.spawn(async move { exporting.export(stopped).await });

    pass(&telemetry, &Head(Vec::new()), &record(200));
    assert_eq!(spans(&mut to_first, 1).await.0.len(), 1);
    let moved = Tracing::Otlp {
        endpoint: format!("http://{second}"),
        sampling: Ratio::ONE,
    };
    telemetry.configure(&settings(AccessLog::Off, moved));
    pass(&telemetry, &Head(Vec::new()), &record(200));
    assert_eq!(spans(&mut to_second, 1).await.0.len(), 1);

    pass(&telemetry, &Head(Vec::new()), &record(200));
    stop.cancel();
    assert_eq!(spans(&mut to_second, 1).await.0.len(), 1, "sent at the end");
    timeout(Duration::from_secs(20), export.join_next())
        .await
        .unwrap();
    assert_eq!(counted(&telemetry, "exported"), 3.0);
    assert!(
        to_first.try_recv().is_err(),
        "nothing more went to the first"
    );
}

#[tokio::test]
async fn a_receiver_that_is_away_costs_spans_only() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = gone.local_addr().unwrap();
    drop(gone);
    let telemetry = telemetry(address, Ratio::ONE);
    for _ in 0..QUEUE + 7 {
        pass(&telemetry, &Head(Vec::new()), &record(200));
    }
    assert_eq!(counted(&telemetry, "dropped"), 7.0, "the queue has a bound");
    let stop = CancellationToken::new();
    stop.cancel();
    let mut export = pin!(telemetry.clone().export(stop));
    timeout(Duration::from_secs(20), &mut export).await.unwrap();
    assert_eq!(counted(&telemetry, "exported"), 0.0);
    assert_eq!(
        counted(&telemetry, "failed") + counted(&telemetry, "dropped"),
        2_055.0,
        "every span is accounted for"
    );
}

#[tokio::test]
async fn unsampled_requests_make_no_span() {
    let telemetry = telemetry("127.0.0.1:1".parse().unwrap(), Ratio::ZERO);
    let head = pass(&telemetry, &Head(Vec::new()), &record(200));
    assert!(
        String::from_utf8(head.0[0].1.clone())
            .unwrap()
            .ends_with("-00")
    );
    pass(&telemetry, &head, &record(503));
    let mut export = telemetry.0.export.lock().unwrap().take().unwrap();
    assert!(export.spans.try_recv().is_err());
}
