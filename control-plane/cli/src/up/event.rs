//! What happens in a local mesh, as `outrigger up` reports it: one JSON object a line, or a line of
//! text.

use std::{collections::BTreeMap, fmt, net::SocketAddr};

use serde::Serialize;

/// Something that happened. As JSON, `event` names it.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Event {
    /// Every sidecar holds its certificate and policy, and every application that `up` started
    /// takes connections.
    Ready {
        /// All of them, by namespace and name.
        workloads: Vec<Workload>,
    },
    /// A workload came or went after that.
    Workload {
        /// What happened to it.
        change: WorkloadChange,
        /// Which.
        workload: Workload,
    },
    /// An edit is in force.
    Config {
        /// `kind/namespace/name`.
        object: String,
        /// What happened to the object.
        change: ObjectChange,
        /// The fields that differ, at most 16: `spec.http[0].route[1].weight 90 → 80`.
        fields: Vec<String>,
        /// Sidecars that work from it by now.
        sidecars: usize,
        /// Sidecars that use what it changed.
        of: usize,
    },
    /// Something is not as it should be.
    Warning {
        /// `error`, `warning` or `info`.
        severity: &'static str,
        /// What it is about: a stable name.
        code: String,
        /// `kind/namespace/name`, if it is about one object.
        #[serde(skip_serializing_if = "Option::is_none")]
        object: Option<String>,
        /// The field.
        #[serde(skip_serializing_if = "Option::is_none")]
        path: Option<String>,
        /// Where, if it is in a file.
        #[serde(skip_serializing_if = "Option::is_none", flatten)]
        place: Option<Place>,
        /// What is wrong and what to do.
        message: String,
    },
    /// A process was started.
    ChildStart {
        /// `namespace/name`.
        workload: String,
        /// Which of its processes.
        role: Role,
        /// Its process ID.
        pid: u32,
    },
    /// A process ended.
    ChildExit {
        /// `namespace/name`.
        workload: String,
        /// Which of its processes.
        role: Role,
        /// `exit status: 1`, `signal: 9 (SIGKILL)`.
        status: String,
        /// Whether it was told to end.
        expected: bool,
        /// When it is started again, in milliseconds from now.
        #[serde(skip_serializing_if = "Option::is_none")]
        restart_in_ms: Option<u64>,
        /// What to try, if that can be guessed.
        #[serde(skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    },
    /// Everything has ended.
    Stopped {
        /// Why.
        reason: StopReason,
    },
}

/// A place in a manifest file, both numbers from 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Place {
    pub(crate) file: String,
    pub(crate) line: u32,
    pub(crate) column: u32,
}

/// A workload with the addresses of its sidecar.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(crate) struct Workload {
    pub(crate) name: String,
    pub(crate) namespace: String,
    /// SPIFFE ID.
    pub(crate) identity: String,
    pub(crate) inbound: Vec<SocketAddr>,
    /// By `host:port` of the destination.
    pub(crate) outbound: BTreeMap<String, SocketAddr>,
    pub(crate) forward_proxy: SocketAddr,
    /// `http://address:port`.
    pub(crate) admin: String,
}

/// What happened to a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WorkloadChange {
    /// It is ready.
    Added,
    /// Its listeners are others now.
    Changed,
    /// It ended.
    Removed,
}

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ObjectChange {
    /// It is new.
    Added,
    /// It is different.
    Changed,
    /// It is gone.
    Removed,
}

/// Which process of a workload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Role {
    /// The proxy.
    Sidecar,
    /// What the annotation `outrigger.dev/exec` names.
    Application,
}

/// Why everything ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum StopReason {
    /// Ctrl-C, SIGTERM, or whoever embeds it.
    Asked,
    /// The time given with `--for` is over.
    Time,
    /// Something failed that cannot be repaired.
    Failed,
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Sidecar => "sidecar",
            Self::Application => "application",
        })
    }
}

impl fmt::Display for WorkloadChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for ObjectChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Added => "added",
            Self::Changed => "changed",
            Self::Removed => "removed",
        })
    }
}

impl fmt::Display for Workload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)?;
        for address in &self.inbound {
            write!(f, "  in {address}")?;
        }
        write!(f, "  proxy {}  admin {}", self.forward_proxy, self.admin)
    }
}

/// For people; several lines for [`Event::Ready`].
impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ready { workloads } => {
                write!(f, "ready: {} workloads", workloads.len())?;
                for workload in workloads {
                    write!(f, "\n  {workload}")?;
                }
                Ok(())
            }
            Self::Workload { change, workload } => write!(f, "workload {change}: {workload}"),
            Self::Config {
                object,
                change,
                fields,
                sidecars,
                of,
            } => {
                write!(f, "config: {object} {change}")?;
                if !fields.is_empty() {
                    write!(f, ": {}", fields.join(", "))?;
                }
                write!(f, " ({sidecars} of {of} sidecars have it)")
            }
            Self::Warning {
                severity,
                code,
                object,
                path,
                place,
                message,
            } => {
                if let Some(Place { file, line, column }) = place {
                    write!(f, "{file}:{line}:{column}: ")?;
                }
                write!(f, "{severity}: ")?;
                for part in object.iter().chain(path) {
                    write!(f, "{part}: ")?;
                }
                write!(f, "{message} [{code}]")
            }
            Self::ChildStart {
                workload,
                role,
                pid,
            } => write!(f, "{workload}: {role} started (process {pid})"),
            Self::ChildExit {
                workload,
                role,
                status,
                restart_in_ms,
                hint,
                ..
            } => {
                write!(f, "{workload}: {role} ended ({status})")?;
                if let Some(wait) = restart_in_ms {
                    write!(f, "; it starts again in {wait} ms")?;
                }
                hint.iter().try_for_each(|hint| write!(f, "; {hint}"))
            }
            Self::Stopped { reason } => f.write_str(match reason {
                StopReason::Asked => "stopped",
                StopReason::Time => "stopped: the time is over",
                StopReason::Failed => "stopped: something failed",
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn workload() -> Workload {
        Workload {
            name: "orders-v1".to_owned(),
            namespace: "shop".to_owned(),
            identity: "spiffe://cluster.local/ns/shop/sa/orders".to_owned(),
            inbound: vec![SocketAddr::from(([127, 1, 0, 1], 9001))],
            outbound: [(
                "orders.shop.svc.cluster.local:8080".to_owned(),
                SocketAddr::from(([127, 1, 0, 1], 20_001)),
            )]
            .into(),
            forward_proxy: SocketAddr::from(([127, 1, 0, 1], 15_001)),
            admin: "http://127.1.0.1:15020".to_owned(),
        }
    }

    #[test]
    fn ready_is_the_documented_object() {
        let ready = Event::Ready {
            workloads: vec![workload()],
        };
        let expected = serde_json::json!({"event": "ready", "workloads": [{
            "name": "orders-v1",
            "namespace": "shop",
            "identity": "spiffe://cluster.local/ns/shop/sa/orders",
            "inbound": ["127.1.0.1:9001"],
            "outbound": {"orders.shop.svc.cluster.local:8080": "127.1.0.1:20001"},
            "forward_proxy": "127.1.0.1:15001",
            "admin": "http://127.1.0.1:15020",
        }]});
        assert_eq!(serde_json::to_value(&ready).unwrap(), expected);
        assert!(ready.to_string().contains("in 127.1.0.1:9001"));
    }

    #[test]
    fn events_are_named_and_flat() {
        let check = |event: Event, json: serde_json::Value, text: &str| {
            assert_eq!(serde_json::to_value(&event).unwrap(), json);
            assert_eq!(event.to_string(), text);
        };
        check(
            Event::Warning {
                severity: "error",
                code: "invalid-object".to_owned(),
                object: None,
                path: None,
                place: Some(Place {
                    file: "a.yaml".to_owned(),
                    line: 3,
                    column: 1,
                }),
                message: "broken".to_owned(),
            },
            serde_json::json!({"event": "warning", "severity": "error", "code": "invalid-object", "file": "a.yaml", "line": 3, "column": 1, "message": "broken"}),
            "a.yaml:3:1: error: broken [invalid-object]",
        );
        check(
            Event::ChildExit {
                workload: "shop/a".to_owned(),
                role: Role::Application,
                status: "exit status: 1".to_owned(),
                expected: false,
                restart_in_ms: Some(100),
                hint: None,
            },
            serde_json::json!({"event": "child_exit", "workload": "shop/a", "role": "application", "status": "exit status: 1", "expected": false, "restart_in_ms": 100}),
            "shop/a: application ended (exit status: 1); it starts again in 100 ms",
        );
        check(
            Event::Config {
                object: "VirtualService/shop/a".to_owned(),
                change: ObjectChange::Changed,
                fields: vec!["spec.x 1 → 2".to_owned()],
                sidecars: 2,
                of: 3,
            },
            serde_json::json!({"event": "config", "object": "VirtualService/shop/a", "change": "changed", "fields": ["spec.x 1 → 2"], "sidecars": 2, "of": 3}),
            "config: VirtualService/shop/a changed: spec.x 1 → 2 (2 of 3 sidecars have it)",
        );
        check(
            Event::Stopped {
                reason: StopReason::Time,
            },
            serde_json::json!({"event": "stopped", "reason": "time"}),
            "stopped: the time is over",
        );
    }
}
