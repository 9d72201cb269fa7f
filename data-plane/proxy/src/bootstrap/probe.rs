//! The application's probes and metrics, as the injector describes them to its sidecar.

use serde::{Deserialize, Serialize};

/// A kubelet's probe that the sidecar performs in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Described", into = "Described")]
pub struct Probe {
    /// `CONTAINER/livez`, `/readyz` or `/startupz`: the path behind `/app-health/`.
    pub name: String,
    /// What is done.
    pub action: Action,
    /// The whole probe's time (`timeoutSeconds`, default 1).
    pub timeout_seconds: u32,
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// `httpGet`: success is a status of 200–399.
    Http(HttpProbe),
    /// `tcpSocket`: success is a connection.
    Tcp(TcpProbe),
    /// `grpc`: success is `SERVING` (`grpc.health.v1.Health/Check`).
    Grpc(GrpcProbe),
}

/// `httpGet`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpProbe {
    /// The application's port.
    pub port: u16,
    /// Path with query; default `/`.
    #[serde(default = "root")]
    pub path: String,
    /// Scheme; default `HTTP`.
    #[serde(default)]
    pub scheme: Scheme,
    /// Fields sent; `Host` among them replaces the address.
    #[serde(default)]
    pub headers: Vec<HttpHeader>,
}

/// Scheme of an HTTP probe.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Scheme {
    /// Plain text.
    #[default]
    Http,
    /// TLS, whatever certificate the application shows.
    Https,
}

/// A field of an HTTP probe.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HttpHeader {
    /// Name.
    pub name: String,
    /// Value.
    pub value: String,
}

/// `tcpSocket`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TcpProbe {
    /// The application's port.
    pub port: u16,
}

/// `grpc`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GrpcProbe {
    /// The application's port.
    pub port: u16,
    /// Service asked for; default: the server as a whole.
    #[serde(default)]
    pub service: String,
}

/// Where the application's own metrics are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApplicationMetrics {
    /// The application's port.
    pub port: u16,
    /// Path; default `/metrics`.
    #[serde(default = "metrics")]
    pub path: String,
}

fn root() -> String {
    "/".into()
}

fn metrics() -> String {
    "/metrics".into()
}

/// A probe as it is written: with one of three fields.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Described {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    http: Option<HttpProbe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    tcp: Option<TcpProbe>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    grpc: Option<GrpcProbe>,
    #[serde(default = "one_second")]
    timeout_seconds: u32,
}

fn one_second() -> u32 {
    1
}

impl TryFrom<Described> for Probe {
    type Error = String;

    fn try_from(written: Described) -> Result<Self, String> {
        let action = match (written.http, written.tcp, written.grpc) {
            (Some(http), None, None) => Action::Http(http),
            (None, Some(tcp), None) => Action::Tcp(tcp),
            (None, None, Some(grpc)) => Action::Grpc(grpc),
            _ => {
                let name = &written.name;
                return Err(format!(
                    "probe `{name}` needs exactly one of http, tcp and grpc"
                ));
            }
        };
        Ok(Self {
            name: written.name,
            action,
            timeout_seconds: written.timeout_seconds,
        })
    }
}

impl From<Probe> for Described {
    fn from(probe: Probe) -> Self {
        let mut written = Self {
            name: probe.name,
            http: None,
            tcp: None,
            grpc: None,
            timeout_seconds: probe.timeout_seconds,
        };
        match probe.action {
            Action::Http(http) => written.http = Some(http),
            Action::Tcp(tcp) => written.tcp = Some(tcp),
            Action::Grpc(grpc) => written.grpc = Some(grpc),
        }
        written
    }
}
