//! What a sidecar is told when it starts: who it is, where its control plane is, which addresses
//! are its own. JSON: a file written by `outrigger up`, or the variable `OUTRIGGER_BOOTSTRAP` that
//! the injector writes, where Kubernetes puts in names that are known only to the pod.
//!
//! Everything else comes over the discovery stream. A file is read again on SIGHUP; listeners
//! are then added and removed, the rest of a change needs a restart and is said so.

mod address;
mod probe;

use std::{
    fmt, fs, io,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

use outrigger_model::{
    Authority, InvalidValue, Port, ServiceAccount, SpiffeId, TrustDomain, WorkloadName,
};
use serde::{Deserialize, Serialize};

use crate::telemetry::logging::{Level, LevelError};

pub use address::{ControlPlaneAddress, NotAnAddress};
pub use probe::{
    Action, ApplicationMetrics, GrpcProbe, HttpHeader, HttpProbe, Probe, Scheme, TcpProbe,
};

/// The variable that may hold the bootstrap itself.
pub const VARIABLE: &str = "OUTRIGGER_BOOTSTRAP";
/// The variable with the pod's address, where the bootstrap names none.
const POD_ADDRESS: &str = "POD_IP";

/// The file's content. Unknown fields are errors.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BootstrapFile {
    /// `namespace/name`.
    pub workload: String,
    /// Service account; the identity is made of it, the namespace and the trust domain.
    pub service_account: String,
    /// Trust domain.
    pub trust_domain: String,
    /// Where the control plane listens: `host:port`, resolved anew for each connection.
    pub control_plane: ControlPlaneAddress,
    /// The SPIFFE ID that the control plane must prove.
    pub control_plane_identity: String,
    /// PEM file with the roots to trust before the first trust bundle arrives.
    pub root_file: PathBuf,
    /// File with the token that proves this workload; read again for each certificate.
    pub token_file: PathBuf,
    /// Folder for what survives a restart (last good configuration); none: nothing is kept.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// Metrics, health and read-only admin.
    pub admin: SocketAddr,
    /// Where `/live`, `/ready` and the application's probes are served, and nothing else; none: only
    /// the admin address has the first two.
    #[serde(default)]
    pub health: Option<SocketAddr>,
    /// Captured mode: where the rules of `outrigger-proxy redirect` lead.
    #[serde(default)]
    pub capture: Option<CaptureListeners>,
    /// The application's address as others see it, where probes and scrapes are sent; default:
    /// variable `POD_IP`, else 127.0.0.1.
    #[serde(default)]
    pub pod_address: Option<IpAddr>,
    /// The application's probes, served at the health address as `/app-health/NAME`.
    #[serde(default)]
    pub probes: Vec<Probe>,
    /// The application's own metrics, appended to the sidecar's.
    #[serde(default)]
    pub applications_metrics: Option<ApplicationMetrics>,
    /// How long work in flight may take once the process is told to end, in seconds; default: the
    /// mesh's setting.
    #[serde(default)]
    pub drain_seconds: Option<u32>,
    /// Whether the admin address may change the log level (DEF-40).
    #[serde(default)]
    pub admin_mutations: bool,
    /// Explicit mode: one listener for each destination.
    #[serde(default)]
    pub outbound: Vec<OutboundListener>,
    /// Takes absolute-form requests.
    #[serde(default)]
    pub forward_proxy: Option<SocketAddr>,
    /// One listener for each port of the application.
    #[serde(default)]
    pub inbound: Vec<InboundListener>,
    /// Worker threads, 1–64.
    #[serde(default = "one")]
    pub workers: u16,
    /// Memory that this process may use, in bytes, beside what its cgroup allows: near it, work is
    /// given up step by step (DEF-21). None: the cgroup's limit alone.
    #[serde(default)]
    pub memory_limit_bytes: Option<u64>,
    /// Log filter: `info`, `debug`, or per target as in `outrigger_proxy=debug`.
    #[serde(default = "info")]
    pub log: String,
}

fn one() -> u16 {
    1
}

fn info() -> String {
    "info".into()
}

/// Addresses that connections are redirected to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureListeners {
    /// What the application opens; usually `[::]:15001`, which takes IPv4 too.
    pub outbound: SocketAddr,
    /// What comes to the application; usually `[::]:15006`.
    pub inbound: SocketAddr,
}

/// Where the bootstrap is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In the variable [`VARIABLE`].
    Environment,
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => write!(f, "the bootstrap file {}", path.display()),
            Self::Environment => write!(f, "the variable {VARIABLE}"),
        }
    }
}

/// An address that leads to one destination.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct OutboundListener {
    /// Own address.
    pub listen: SocketAddr,
    /// `host:port` of the destination, as the control plane resolves it.
    pub authority: String,
}

/// An address that leads to the application.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct InboundListener {
    /// Own address.
    pub listen: SocketAddr,
    /// The application's port, which policy speaks of.
    pub port: u16,
    /// Where the application listens.
    pub application: SocketAddr,
}

/// The file, checked.
#[derive(Debug, Clone)]
pub struct Bootstrap {
    /// Who this sidecar serves.
    pub workload: WorkloadName,
    /// Its identity.
    pub identity: SpiffeId,
    /// The identity that the control plane must prove.
    pub control_plane_identity: SpiffeId,
    /// Outbound listeners with their parsed authorities.
    pub outbound: Vec<(SocketAddr, Authority)>,
    /// Inbound listeners: own address, policy port, application.
    pub inbound: Vec<(SocketAddr, Port, SocketAddr)>,
    /// What of its own events it logs.
    pub log: Level,
    /// The rest, as read.
    pub file: BootstrapFile,
}

/// The bootstrap cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BootstrapError {
    /// Not readable.
    #[error("cannot read {from}; give a file's path as the first argument, or set {VARIABLE}")]
    Read {
        /// Where it should be.
        from: Source,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON of the right shape; line and column are in the source's text.
    #[error("{from} does not parse")]
    Parse {
        /// Where it is.
        from: Source,
        /// Where in it and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value breaks its rule.
    #[error("{field} in {from}")]
    Value {
        /// The field.
        field: &'static str,
        /// Where it is.
        from: Source,
        /// The rule.
        #[source]
        source: InvalidValue,
    },
    /// Not a log level.
    #[error("log in {from}")]
    Log {
        /// Where it is.
        from: Source,
        /// What to write.
        #[source]
        source: LevelError,
    },
    /// Workers outside 1–64.
    #[error("workers is {workers} in {from}; write 1 to 64")]
    Workers {
        /// What was written.
        workers: u16,
        /// Where it is.
        from: Source,
    },
    /// A name of Kubernetes' own was not put in.
    #[error("{from} holds `{name}` unexpanded; define that variable before it in the container")]
    Unexpanded {
        /// As it stands there.
        name: String,
        /// Where it is.
        from: Source,
    },
}

impl Bootstrap {
    /// Reads and checks it.
    ///
    /// # Errors
    /// When it cannot be read, does not parse, or a value breaks its rule.
    pub fn read(from: &Source) -> Result<Self, BootstrapError> {
        let text = match from {
            Source::File(path) => fs::read_to_string(path),
            Source::Environment => std::env::var(VARIABLE).map_err(io::Error::other),
        };
        let text = text.map_err(|source| BootstrapError::Read {
            from: from.clone(),
            source,
        })?;
        Self::parse(&text, from)
    }

    fn parse(text: &str, from: &Source) -> Result<Self, BootstrapError> {
        if *from == Source::Environment
            && let Some((_, rest)) = text.split_once("$(")
            && let Some((name, _)) = rest.split_once(')')
        {
            return Err(BootstrapError::Unexpanded {
                name: format!("$({name})"),
                from: from.clone(),
            });
        }
        let file = serde_json::from_str(text).map_err(|source| BootstrapError::Parse {
            from: from.clone(),
            source,
        })?;
        Self::check(file, from)
    }

    /// Where the application is asked how it is.
    #[must_use]
    pub fn pod_address(&self) -> IpAddr {
        let variable = || std::env::var(POD_ADDRESS).ok()?.parse().ok();
        let named = self.file.pod_address.or_else(variable);
        named.unwrap_or(IpAddr::from([127, 0, 0, 1]))
    }

    fn check(file: BootstrapFile, from: &Source) -> Result<Self, BootstrapError> {
        let value = |field: &'static str| {
            move |source: InvalidValue| BootstrapError::Value {
                field,
                from: from.clone(),
                source,
            }
        };
        if !(1..=64).contains(&file.workers) {
            return Err(BootstrapError::Workers {
                workers: file.workers,
                from: from.clone(),
            });
        }
        let workload: WorkloadName = file.workload.parse().map_err(value("workload"))?;
        let identity = SpiffeId {
            trust_domain: TrustDomain::parse(&file.trust_domain).map_err(value("trust_domain"))?,
            namespace: workload.namespace.clone(),
            service_account: ServiceAccount::parse(&file.service_account)
                .map_err(value("service_account"))?,
        };
        let outbound = file.outbound.iter().map(|listener| {
            let authority = Authority::parse(&listener.authority, None);
            Ok((
                listener.listen,
                authority.map_err(value("outbound.authority"))?,
            ))
        });
        let inbound = file.inbound.iter().map(|listener| {
            let port = Port::new(listener.port).map_err(value("inbound.port"))?;
            Ok((listener.listen, port, listener.application))
        });
        Ok(Self {
            control_plane_identity: file
                .control_plane_identity
                .parse()
                .map_err(value("control_plane_identity"))?,
            outbound: outbound.collect::<Result<_, _>>()?,
            inbound: inbound.collect::<Result<_, _>>()?,
            log: file.log.parse().map_err(|source| BootstrapError::Log {
                from: from.clone(),
                source,
            })?,
            workload,
            identity,
            file,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(json: &serde_json::Value) -> Result<Bootstrap, String> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("sidecar.json");
        fs::write(&path, json.to_string()).unwrap();
        Bootstrap::read(&Source::File(path)).map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            format!("{error}: {}", source.unwrap_or_default())
        })
    }

    fn minimal() -> serde_json::Value {
        serde_json::json!({
            "workload": "shop/orders-v1",
            "service_account": "orders",
            "trust_domain": "cluster.local",
            "control_plane": "127.0.0.1:15012",
            "control_plane_identity": "spiffe://cluster.local/ns/outrigger-system/sa/outrigger",
            "root_file": "root.pem",
            "token_file": "token",
            "admin": "127.1.0.1:15020",
            "outbound": [{"listen": "127.1.0.1:20001", "authority": "payments.shop:8080"}],
            "inbound": [{"listen": "127.1.0.1:9001", "port": 9001, "application": "127.0.0.1:9001"}],
        })
    }

    #[test]
    fn a_minimal_file_reads() {
        let bootstrap = read(&minimal()).unwrap();
        assert_eq!(
            bootstrap.identity.to_string(),
            "spiffe://cluster.local/ns/shop/sa/orders"
        );
        assert_eq!(bootstrap.file.workers, 1);
    }

    #[test]
    fn what_the_injector_writes_reads() {
        let mut json = minimal();
        json["control_plane"] = "outrigger.outrigger-system.svc:15012".into();
        json["health"] = "[::]:15021".into();
        json["capture"] = serde_json::json!({"outbound": "[::]:15001", "inbound": "[::]:15006"});
        json["pod_address"] = "10.1.0.7".into();
        json["drain_seconds"] = 25.into();
        json["applications_metrics"] = serde_json::json!({"port": 9100, "path": "/metrics"});
        json["probes"] = serde_json::json!([
            {"name": "app/livez", "http": {"port": 8080, "path": "/live", "scheme": "HTTP",
                "headers": [{"name": "x-probe", "value": "yes"}]}, "timeout_seconds": 3},
            {"name": "app/readyz", "tcp": {"port": 5432}},
            {"name": "app/startupz", "grpc": {"port": 9000, "service": "shop"}},
        ]);
        let text = json.to_string();
        let bootstrap = Bootstrap::parse(&text, &Source::Environment).unwrap();
        assert_eq!(bootstrap.file.control_plane.port(), 15_012);
        assert_eq!(bootstrap.file.probes.len(), 3);
        assert_eq!(bootstrap.pod_address(), IpAddr::from([10, 1, 0, 7]));
        let again = serde_json::to_string(&bootstrap.file).unwrap();
        Bootstrap::parse(&again, &Source::Environment).unwrap();

        let unexpanded = text.replace("shop/orders-v1", "$(POD_NAMESPACE)/$(POD_NAME)");
        let error = Bootstrap::parse(&unexpanded, &Source::Environment).unwrap_err();
        assert!(
            error.to_string().contains("`$(POD_NAMESPACE)` unexpanded"),
            "{error}"
        );
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |field: &str, value: serde_json::Value, expected: &str| {
            let mut json = minimal();
            json[field] = value;
            let error = read(&json).unwrap_err();
            assert!(error.contains(expected), "{field}: {error}");
        };
        check("workload", "orders".into(), "namespace/name");
        check("trust_domain", "Cluster".into(), "trust_domain");
        check("workers", 0.into(), "1 to 64");
        check("control_plane", "localhost".into(), "write host:port");
        check("control_plane", 15012.into(), "line 1 column");
        check(
            "capture",
            serde_json::json!({"outbound": "[::]:15001"}),
            "missing field `inbound`",
        );
        check(
            "probes",
            serde_json::json!([{"name": "app/livez"}]),
            "exactly one of http, tcp and grpc",
        );
        check("worker", 1.into(), "unknown field `worker`");
        check(
            "outbound",
            serde_json::json!([{"listen": "127.1.0.1:1", "authority": "x"}]),
            "host:port",
        );
    }
}
