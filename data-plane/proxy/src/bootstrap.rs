//! What a sidecar is told when it starts: who it is, where its control plane is, which addresses
//! are its own. A JSON file, written by `outrigger up` or the injector.
//!
//! Everything else comes over the discovery stream. The file is read again on SIGHUP; listeners
//! are then added and removed, the rest of a change needs a restart and is said so.

use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use outrigger_model::{
    Authority, InvalidValue, Port, ServiceAccount, SpiffeId, TrustDomain, WorkloadName,
};
use serde::{Deserialize, Serialize};

use crate::telemetry::logging::{Level, LevelError};

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
    /// Where the control plane listens.
    pub control_plane: SocketAddr,
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
    #[error("cannot read the bootstrap file {}; give its path as the first argument", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Not JSON of the right shape; line and column are in the source's text.
    #[error("the bootstrap file {} does not parse", path.display())]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A value breaks its rule.
    #[error("{field} in the bootstrap file {}", path.display())]
    Value {
        /// The field.
        field: &'static str,
        /// The file.
        path: PathBuf,
        /// The rule.
        #[source]
        source: InvalidValue,
    },
    /// Not a log level.
    #[error("log in the bootstrap file {}", path.display())]
    Log {
        /// The file.
        path: PathBuf,
        /// What to write.
        #[source]
        source: LevelError,
    },
    /// Workers outside 1–64.
    #[error("workers is {workers} in the bootstrap file {}; write 1 to 64", path.display())]
    Workers {
        /// What was written.
        workers: u16,
        /// The file.
        path: PathBuf,
    },
}

impl Bootstrap {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// When it cannot be read, does not parse, or a value breaks its rule.
    pub fn read(path: &Path) -> Result<Self, BootstrapError> {
        let text = fs::read_to_string(path).map_err(|source| BootstrapError::Read {
            path: path.into(),
            source,
        })?;
        let file: BootstrapFile =
            serde_json::from_str(&text).map_err(|source| BootstrapError::Parse {
                path: path.into(),
                source,
            })?;
        Self::check(file, path)
    }

    fn check(file: BootstrapFile, path: &Path) -> Result<Self, BootstrapError> {
        let value = |field: &'static str| {
            move |source: InvalidValue| BootstrapError::Value {
                field,
                path: path.into(),
                source,
            }
        };
        if !(1..=64).contains(&file.workers) {
            return Err(BootstrapError::Workers {
                workers: file.workers,
                path: path.into(),
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
                path: path.into(),
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
        Bootstrap::read(&path).map_err(|error| {
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
        check("control_plane", "localhost".into(), "line 1 column");
        check("worker", 1.into(), "unknown field `worker`");
        check(
            "outbound",
            serde_json::json!([{"listen": "127.1.0.1:1", "authority": "x"}]),
            "host:port",
        );
    }
}
