//! What the sidecar asks of the application beside it, in the place of others who may not: the
//! kubelet's probes where a port takes only mutual TLS, and the scrape of its metrics.
//!
//! Sent to the pod's own address, as the kubelet would; the sidecar's connections are not captured.
//! Every exchange is bounded in time and size. A probe follows no redirect: 3xx is a success.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use http::{Request, StatusCode, header};
use http_body_util::{BodyExt, Empty, Limited};
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::{net::TcpStream, time::timeout};

use crate::bootstrap::{
    Action, ApplicationMetrics, Bootstrap, GrpcProbe, HttpHeader, HttpProbe, Probe, Scheme,
};

/// Body bytes of a probe's answer that are read: they decide nothing.
const PROBE_BYTES_MAX: usize = 64 << 10;
/// The largest page of metrics that is passed on.
const METRICS_BYTES_MAX: usize = 4 << 20;
/// A scrape has 10 s in all by default.
const METRICS_TIME: Duration = Duration::from_secs(5);
/// `kubelet` waits no longer than its own timeout; this bounds a bootstrap that names none.
const PROBE_SECONDS_MAX: u32 = 300;

/// How the application is reached, and what is asked of it.
#[derive(Debug, Clone)]
pub struct Application {
    address: IpAddr,
    probes: BTreeMap<String, Probe>,
    metrics: Option<ApplicationMetrics>,
}

impl Default for Application {
    /// Nothing is asked of it.
    fn default() -> Self {
        Self {
            address: [127, 0, 0, 1].into(),
            probes: BTreeMap::new(),
            metrics: None,
        }
    }
}

impl Application {
    /// The application of a sidecar.
    #[must_use]
    pub fn new(bootstrap: &Bootstrap) -> Self {
        let probes = bootstrap.file.probes.iter();
        Self {
            address: bootstrap.pod_address(),
            probes: probes
                .map(|probe| (probe.name.clone(), probe.clone()))
                .collect(),
            metrics: bootstrap.file.applications_metrics.clone(),
        }
    }

    /// Performs a probe; `None` when there is none of this name. The error is for the kubelet's event.
    pub async fn probe(&self, name: &str) -> Option<Result<(), String>> {
        let probe = self.probes.get(name)?;
        let seconds = probe.timeout_seconds.clamp(1, PROBE_SECONDS_MAX);
        let performing = self.perform(&probe.action);
        let late = || Err(format!("no answer within {seconds} s"));
        let ended = timeout(Duration::from_secs(seconds.into()), performing).await;
        Some(ended.unwrap_or_else(|_| late()))
    }

    async fn perform(&self, action: &Action) -> Result<(), String> {
        match action {
            Action::Tcp(tcp) => connect(self.at(tcp.port)).await.map(|_| ()),
            Action::Http(HttpProbe {
                scheme: Scheme::Https,
                ..
            }) => Err("HTTPS probes are not performed by the sidecar: leave the probe to the kubelet by skipping its port, or probe plain HTTP".into()),
            Action::Http(http) => {
                let path = (http.path.as_str(), PROBE_BYTES_MAX);
                let (status, _) = get(self.at(http.port), path, &http.headers).await?;
                if (200..400).contains(&status.as_u16()) {
                    Ok(())
                } else {
                    Err(format!("HTTP status {status}"))
                }
            }
            Action::Grpc(grpc) => check(self.at(grpc.port), grpc).await,
        }
    }

    fn at(&self, port: u16) -> SocketAddr {
        (self.address, port).into()
    }

    /// `own` with the application's page behind it. What the application counts under the same name
    /// takes the place of the sidecar's, so that no sample comes twice. If the application's page
    /// cannot be had, a comment says why.
    pub async fn merged(&self, own: String) -> String {
        let Some(metrics) = &self.metrics else {
            return own;
        };
        let accept = [HttpHeader {
            name: "accept".into(),
            value: "text/plain;version=0.0.4".into(),
        }];
        let address = self.at(metrics.port);
        let fetching = get(address, (&metrics.path, METRICS_BYTES_MAX), &accept);
        let page = match timeout(METRICS_TIME, fetching).await {
            Ok(Ok((StatusCode::OK, body))) => {
                String::from_utf8(body.into()).map_err(|_| "its page is not UTF-8".to_owned())
            }
            Ok(Ok((status, _))) => Err(format!("HTTP status {status}")),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(format!("no answer within {} s", METRICS_TIME.as_secs())),
        };
        match page {
            Ok(page) => merge(&own, &page),
            Err(error) => {
                tracing::debug!(%address, %error, "the application's metrics are missing");
                let path = &metrics.path;
                format!(
                    "{own}# The application's metrics (http://{address}{path}) are missing: {error}\n"
                )
            }
        }
    }
}

/// One page of two; the second's families replace the first's. Prometheus reads no `# EOF`, which
/// OpenMetrics ends with.
fn merge(own: &str, application: &str) -> String {
    let theirs: BTreeSet<&str> = application.lines().filter_map(family).collect();
    let keep = |line: &&str| family(line).is_none_or(|name| !theirs.contains(name));
    let lines = own.lines().filter(keep);
    let lines = lines.chain(application.lines().filter(|line| *line != "# EOF"));
    let mut page = String::with_capacity(own.len() + application.len());
    for line in lines {
        page.push_str(line);
        page.push('\n');
    }
    page
}

/// The metric that a line is about.
fn family(line: &str) -> Option<&str> {
    let about = ["# HELP ", "# TYPE "].into_iter();
    let name = about
        .filter_map(|start| line.strip_prefix(start))
        .next()
        .unwrap_or(line);
    let end = name.find(['{', ' ']).unwrap_or(name.len());
    name.get(..end)
        .filter(|name| !name.is_empty() && !name.starts_with('#'))
}

async fn connect(address: SocketAddr) -> Result<TcpStream, String> {
    let connected = TcpStream::connect(address).await;
    connected.map_err(|error| format!("{address}: {error}"))
}

/// One GET; the body is cut off at `most` bytes by an error.
pub(crate) async fn get(
    address: SocketAddr,
    (path, most): (&str, usize),
    headers: &[HttpHeader],
) -> Result<(StatusCode, Bytes), String> {
    let text = |error: &dyn std::error::Error| format!("{address}: {error}");
    let mut request = Request::get(path).header(header::CONNECTION, "close");
    for HttpHeader { name, value } in headers {
        request = request.header(name, value);
    }
    let names = |wanted: header::HeaderName| {
        let mut names = headers.iter();
        names.any(|header| header.name.eq_ignore_ascii_case(wanted.as_str()))
    };
    if !names(header::HOST) {
        request = request.header(header::HOST, address.to_string());
    }
    if !names(header::USER_AGENT) {
        request = request.header(header::USER_AGENT, "outrigger");
    }
    let request = request.body(Empty::<Bytes>::new());
    let request = request.map_err(|error| text(&error))?;
    let stream = TokioIo::new(connect(address).await?);
    let handshake = hyper::client::conn::http1::handshake(stream).await;
    let (mut sender, connection) = handshake.map_err(|error| text(&error))?;
    let asking = async {
        let answer = sender.send_request(request).await;
        let answer = answer.map_err(|error| text(&error))?;
        let status = answer.status();
        let body = Limited::new(answer.into_body(), most).collect().await;
        let body = body.map_err(|error| format!("{address}: {error}"))?;
        Ok((status, body.to_bytes()))
    };
    beside(asking, connection).await
}

/// `work`, while `connection` moves its bytes.
async fn beside<T>(work: impl Future<Output = T>, connection: impl Future) -> T {
    let driving = async {
        connection.await;
        // What ended it shows in the work.
        std::future::pending::<T>().await
    };
    tokio::select! {
        done = work => done,
        never = driving => never,
    }
}

/// `grpc.health.v1.HealthCheckRequest`.
#[derive(Clone, PartialEq, Message)]
struct Asked {
    #[prost(string, tag = "1")]
    service: String,
}

/// `grpc.health.v1.HealthCheckResponse`.
#[derive(Clone, PartialEq, Message)]
struct Told {
    #[prost(int32, tag = "1")]
    status: i32,
}

/// `grpc.health.v1.Health/Check`.
async fn check(address: SocketAddr, probe: &GrpcProbe) -> Result<(), String> {
    /// `ServingStatus::SERVING`.
    const SERVING: i32 = 1;
    let text = |error: h2::Error| format!("{address}: {error}");
    let stream = connect(address).await?;
    let (sender, connection) = h2::client::handshake(stream).await.map_err(text)?;
    let asking = async {
        let request = Request::post(format!("http://{address}/grpc.health.v1.Health/Check"))
            .header(header::CONTENT_TYPE, "application/grpc")
            .header(header::TE, "trailers")
            .header(header::USER_AGENT, "outrigger")
            .body(())
            .map_err(|error| error.to_string())?;
        let mut sender = sender.ready().await.map_err(text)?;
        let (answer, mut body) = sender.send_request(request, false).map_err(text)?;
        let asked = Asked {
            service: probe.service.clone(),
        };
        body.send_data(framed(&asked), true).map_err(text)?;
        let answer = answer.await.map_err(text)?;
        let early = grpc_status(answer.headers());
        let mut body = answer.into_body();
        let mut told = BytesMut::new();
        while let Some(data) = body.data().await {
            let data = data.map_err(text)?;
            if told.len() + data.len() > PROBE_BYTES_MAX {
                return Err(format!("{address}: the answer is too long"));
            }
            body.flow_control()
                .release_capacity(data.len())
                .map_err(text)?;
            told.extend_from_slice(&data);
        }
        let trailers = body.trailers().await.map_err(text)?;
        let status = early.or(trailers.as_ref().and_then(grpc_status));
        if status != Some(0) {
            return Err(format!("{address}: gRPC status {status:?}"));
        }
        let message = told.get(5..).unwrap_or_default();
        match Told::decode(message) {
            Ok(Told { status: SERVING }) => Ok(()),
            Ok(Told { status }) => Err(format!("{address}: health status {status}, not SERVING")),
            Err(error) => Err(format!("{address}: {error}")),
        }
    };
    beside(asking, connection).await
}

/// A gRPC message: uncompressed, with its length.
fn framed(message: &impl Message) -> Bytes {
    let message = message.encode_to_vec();
    let mut bytes = vec![0];
    bytes.extend(
        u32::try_from(message.len())
            .unwrap_or(u32::MAX)
            .to_be_bytes(),
    );
    bytes.extend(message);
    bytes.into()
}

fn grpc_status(fields: &http::HeaderMap) -> Option<u32> {
    fields.get("grpc-status")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests;
