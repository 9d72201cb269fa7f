//! How this mesh injects: the same for all pods, from the chart.

use serde::{Deserialize, Serialize};

/// What the injector puts into pods. In YAML or JSON, camelCase; an unknown field is an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Settings {
    /// The sidecar's image.
    pub image: String,
    /// When it is pulled.
    #[serde(default)]
    pub image_pull_policy: PullPolicy,
    /// `host:port` of discovery and certificates.
    pub control_plane: String,
    /// The SPIFFE ID that the control plane proves.
    pub control_plane_identity: String,
    /// Trust domain of identities.
    #[serde(default = "trust_domain")]
    pub trust_domain: String,
    /// ConfigMap in each namespace that holds the root certificate, key `ca.crt`.
    #[serde(default = "root_config_map")]
    pub root_config_map: String,
    /// Kind of container that the sidecar is.
    #[serde(default)]
    pub placement: Placement,
    /// Who captures a pod's traffic.
    #[serde(default)]
    pub capture: Capture,
    /// Whether `istio-injection`, `sidecar.istio.io/inject` and Istio's annotations for ports,
    /// ranges and resources are read where our own are absent.
    #[serde(default)]
    pub honours_istio: bool,
    /// What a sidecar logs when its pod does not say.
    #[serde(default = "log")]
    pub log: String,
    /// Seconds that requests in flight may take when a pod ends, when it does not say.
    #[serde(default = "drain_seconds")]
    pub drain_seconds: u64,
    /// Resources of a sidecar whose pod does not say.
    #[serde(default)]
    pub resources: Resources,
}

fn trust_domain() -> String {
    "cluster.local".into()
}

fn root_config_map() -> String {
    "outrigger-root".into()
}

fn log() -> String {
    "info".into()
}

fn drain_seconds() -> u64 {
    20
}

/// When an image is pulled (Kubernetes' `imagePullPolicy`).
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum PullPolicy {
    /// Each time.
    Always,
    /// When the node has none.
    #[default]
    IfNotPresent,
    /// Never: it has to be there.
    Never,
}

/// Kind of container that a sidecar is.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Placement {
    /// An init container with `restartPolicy: Always`: up before the application and until after
    /// it, and no hindrance to Jobs. Kubernetes 1.29 and newer.
    #[default]
    Native,
    /// The first of the ordinary containers. Applications may start before it is ready, and the
    /// pods of Jobs do not finish.
    Container,
}

/// Who writes the rules that capture a pod's traffic.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Capture {
    /// An init container with `NET_ADMIN` and `NET_RAW`.
    #[default]
    Init,
    /// The CNI plugin on the node: pods need no capability, and pass `restricted`.
    Cni,
}

/// Kubernetes quantities; what is absent is not set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Resources {
    /// `requests.cpu`.
    pub cpu_request: Option<String>,
    /// `requests.memory`.
    pub memory_request: Option<String>,
    /// `limits.cpu`.
    pub cpu_limit: Option<String>,
    /// `limits.memory`.
    pub memory_limit: Option<String>,
}

impl Default for Resources {
    /// Enough for a few hundred requests a second, and a ceiling on memory that the sidecar's own
    /// overload control works below (DEF-21). No ceiling on CPU: throttling shows as latency.
    fn default() -> Self {
        Self {
            cpu_request: Some("10m".into()),
            memory_request: Some("16Mi".into()),
            cpu_limit: None,
            memory_limit: Some("128Mi".into()),
        }
    }
}
