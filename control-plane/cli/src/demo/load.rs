//! The load generator: customers of the shop, who come at a fixed rate whether the shop is fast or
//! not (an open loop). Latency is measured from when a request was due, so that a stall counts for
//! all who had to wait for it.
//!
//! Owner of the numbers: the one task that runs [`run`]; others read them from its watch channel.
//! Bounds: [`IN_FLIGHT_MAX`] requests at one time; who cannot be served within [`LATE_MAX`] of being
//! due is turned away and counted as `shed`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};
use http_body_util::Full;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use super::client::Client;
use super::latency::Latency;

/// The default rate (100 a second) times the longest route timeout (10 s) is not reached: above
/// this, waiting is what a customer would do.
const IN_FLIGHT_MAX: usize = 256;
const LATE_MAX: Duration = Duration::from_secs(1);
/// Longer than any timeout of the shop's routes: the mesh, not the generator, gives up.
const TIMEOUT_REQUEST: Duration = Duration::from_secs(15);
/// The services that customers call.
pub(super) const SERVICES: [&str; 3] = ["storefront", "order-service", "product-service"];

/// What customers do, in turn: mostly they buy.
const VISITS: [Visit; 10] = [
    Visit::Checkout,
    Visit::Browse,
    Visit::Checkout,
    Visit::Home,
    Visit::Order,
    Visit::Checkout,
    Visit::Browse,
    Visit::Checkout,
    Visit::Products,
    Visit::Checkout,
];

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Visit {
    Home,
    Browse,
    Checkout,
    Order,
    Products,
}

impl Visit {
    const fn service(self) -> &'static str {
        match self {
            Self::Home | Self::Browse | Self::Checkout => "storefront",
            Self::Order => "order-service",
            Self::Products => "product-service",
        }
    }

    const fn line(self) -> (Method, &'static str) {
        match self {
            Self::Home => (Method::GET, "/"),
            Self::Browse => (Method::GET, "/products"),
            Self::Checkout => (Method::POST, "/checkout"),
            Self::Order => (Method::POST, "/orders"),
            Self::Products => (Method::GET, "/api/v1/products"),
        }
    }

    fn body(self, number: u64) -> String {
        let items = r#""items":[{"sku":"mug","quantity":1}],"card_token":"visa""#;
        match self {
            Self::Home | Self::Browse | Self::Products => String::new(),
            Self::Checkout => format!("{{{items}}}"),
            Self::Order => format!(r#"{{"order_id":"direct-{number}",{items}}}"#),
        }
    }

    fn request(self, number: u64, targets: &Targets) -> http::Result<Request<Full<Bytes>>> {
        let (method, path) = self.line();
        let service = self.service();
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", targets.address(service)))
            .header(http::header::HOST, service)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(Full::new(Bytes::from(self.body(number))))
    }
}

/// Where the generator's sidecar takes requests for each of [`SERVICES`].
#[derive(Debug, Clone)]
pub(super) struct Targets(pub(super) [SocketAddr; 3]);

impl Targets {
    fn address(&self, service: &str) -> SocketAddr {
        let place = SERVICES.iter().position(|known| *known == service);
        self.0[place.unwrap_or_default()]
    }
}

/// What the generator has seen so far.
#[derive(Debug, Clone, Default)]
pub(super) struct Totals {
    /// Requests with a 2xx answer.
    pub(super) ok: u64,
    /// Requests with another answer, or none.
    pub(super) failed: u64,
    /// Requests that were due and not sent, because too many were waiting.
    pub(super) shed: u64,
    /// Requests that wait for an answer now.
    pub(super) in_flight: usize,
    /// From when a request was due to the end of its answer, failed ones too.
    pub(super) latency: Latency,
    /// The last failure, as `POST /checkout: 504 (upstream-timeout)`.
    pub(super) failure: Option<String>,
}

impl Totals {
    /// Requests that ended.
    pub(super) const fn requests(&self) -> u64 {
        self.ok + self.failed
    }
}

struct Outcome {
    took: Duration,
    failure: Option<String>,
}

/// Sends `rate` requests a second until `stop`, then waits for those in flight. Cancel safe: yes,
/// requests in flight are dropped with it.
pub(super) async fn run(
    targets: Targets,
    rate: u32,
    totals: watch::Sender<Totals>,
    stop: CancellationToken,
) {
    let client = Client::new();
    let targets = Arc::new(targets);
    let interval = Duration::from_secs(1) / rate.max(1);
    let mut due = Instant::now();
    let mut number = 0;
    let mut visits = VISITS.iter().cycle();
    let mut running = JoinSet::new();
    loop {
        tokio::select! {
            () = stop.cancelled() => break,
            Some(done) = running.join_next() => record(&totals, done.ok(), running.len()),
            () = sleep_until(due), if running.len() < IN_FLIGHT_MAX => {
                if due.elapsed() > LATE_MAX {
                    totals.send_modify(|totals| totals.shed += 1);
                } else if let Some(visit) = visits.next() {
                    number += 1;
                    let (client, targets) = (client.clone(), Arc::clone(&targets));
                    running.spawn(send(client, *visit, number, targets, due));
                    totals.send_modify(|totals| totals.in_flight = running.len());
                }
                due += interval;
            }
        }
    }
    while let Some(done) = running.join_next().await {
        record(&totals, done.ok(), running.len());
    }
}

fn record(totals: &watch::Sender<Totals>, done: Option<Outcome>, in_flight: usize) {
    totals.send_modify(|totals| {
        totals.in_flight = in_flight;
        let Some(outcome) = done else {
            totals.failed += 1;
            return;
        };
        totals.latency.add(outcome.took);
        match outcome.failure {
            None => totals.ok += 1,
            Some(failure) => {
                totals.failed += 1;
                totals.failure = Some(failure);
            }
        }
    });
}

async fn send(
    client: Client,
    visit: Visit,
    number: u64,
    targets: Arc<Targets>,
    due: Instant,
) -> Outcome {
    let failure = match visit.request(number, &targets) {
        Ok(request) => match client.send(request, TIMEOUT_REQUEST).await {
            Ok(answer) if answer.status().is_success() => None,
            Ok(answer) => {
                let reason = answer.headers().get("x-outrigger-reason");
                let reason = reason.and_then(|reason| reason.to_str().ok());
                Some(match reason {
                    Some(reason) => format!("{} ({reason})", answer.status().as_u16()),
                    None => answer.status().as_u16().to_string(),
                })
            }
            Err(error) => Some(error.to_string()),
        },
        Err(error) => Some(error.to_string()),
    };
    let (method, path) = visit.line();
    Outcome {
        took: due.elapsed(),
        failure: failure.map(|failure| format!("{method} {path}: {failure}")),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use tokio::net::TcpListener;
    use tokio::sync::mpsc;

    use super::*;

    /// Answers every request on one address, 503 to every third, and reports what it was asked.
    async fn shop(listener: TcpListener, asked: mpsc::Sender<String>) {
        let mut connections = JoinSet::new();
        let count = Arc::new(std::sync::atomic::AtomicU64::new(0));
        while let Ok((stream, _)) = listener.accept().await {
            let (asked, count) = (asked.clone(), Arc::clone(&count));
            let service = service_fn(move |request: Request<hyper::body::Incoming>| {
                let (asked, count) = (asked.clone(), Arc::clone(&count));
                async move {
                    let line = format!("{} {}", request.method(), request.uri().path());
                    request.into_body().collect().await?;
                    asked.send(line).await.ok();
                    let number = count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let mut answer = http::Response::new(Full::new(Bytes::new()));
                    if number % 3 == 2 {
                        *answer.status_mut() = http::StatusCode::SERVICE_UNAVAILABLE;
                        let reason = http::HeaderValue::from_static("no-endpoint");
                        answer.headers_mut().insert("x-outrigger-reason", reason);
                    }
                    Ok::<_, hyper::Error>(answer)
                }
            });
            let builder = hyper::server::conn::http1::Builder::new();
            connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
        }
    }

    #[tokio::test]
    async fn every_request_is_answered_and_counted_before_it_stops() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (asked, mut lines) = mpsc::channel(64);
        let mut tasks = JoinSet::new();
        tasks.spawn(shop(listener, asked));
        let (totals, seen) = watch::channel(Totals::default());
        let stop = CancellationToken::new();
        let generator = run(Targets([address; 3]), 500, totals, stop.clone());
        let mut asked = Vec::new();
        let reader = async {
            while asked.len() < 30 {
                asked.push(lines.recv().await.unwrap());
            }
            stop.cancel();
            while lines.recv().await.is_some() {}
        };
        let both = async {
            tokio::select! {
                () = generator => {}
                () = reader => panic!("the shop is gone"),
            }
        };
        tokio::time::timeout(Duration::from_secs(30), both)
            .await
            .unwrap();
        let totals = seen.borrow().clone();
        assert!(totals.requests() >= 30, "{totals:?}");
        assert_eq!(totals.failed, totals.requests() / 3);
        assert_eq!((totals.in_flight, totals.shed), (0, 0));
        assert!(totals.latency.quantile_ms(0.5) > 0.0);
        let failure = totals.failure.unwrap();
        assert!(failure.ends_with(": 503 (no-endpoint)"), "{failure}");
        for line in [
            "GET /",
            "GET /products",
            "POST /checkout",
            "POST /orders",
            "GET /api/v1/products",
        ] {
            assert!(asked.iter().any(|asked| asked == line), "{line}");
        }
    }
}
