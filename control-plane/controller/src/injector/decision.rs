//! Whether a pod gets a sidecar. The pod's own word goes before its namespace's, and our own words
//! before Istio's.

use std::{collections::BTreeMap, fmt};

use serde_json::Value;

use super::{
    SIDECAR, Settings,
    annotation::InjectError,
    pod::{annotation, at, containers, label, name},
};

/// The namespace of a pod, as far as injection asks.
#[derive(Debug, Clone, Copy)]
pub struct Namespace<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
}

/// Why a pod is left alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Skip {
    /// `hostNetwork: true`: capturing there would capture the node's traffic.
    HostNetwork,
    /// It has a sidecar.
    AlreadyInjected,
    /// The pod or its namespace says no.
    OptedOut {
        /// Where, as in `label outrigger.dev/inject of the pod`.
        place: String,
    },
    /// Neither it nor its namespace asks for one.
    NotEnrolled,
}

impl Skip {
    /// Whether the pod gets a note: where somebody could expect a sidecar.
    pub(super) fn is_worth_saying(&self) -> bool {
        match self {
            Self::HostNetwork | Self::OptedOut { .. } => true,
            Self::AlreadyInjected | Self::NotEnrolled => false,
        }
    }
}

impl fmt::Display for Skip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::HostNetwork => write!(f, "the pod is on the host's network"),
            Self::AlreadyInjected => write!(f, "the pod has a sidecar"),
            Self::OptedOut { place } => write!(f, "{place} says no"),
            Self::NotEnrolled => write!(f, "neither the pod nor its namespace asks for one"),
        }
    }
}

/// Our own word, on pods and namespaces.
const INJECT: &str = "outrigger.dev/inject";
/// Istio's word on pods.
const ISTIO_POD: &str = "sidecar.istio.io/inject";
/// Istio's word on namespaces.
const ISTIO_NAMESPACE: &str = "istio-injection";

/// `None`: the pod gets a sidecar.
pub(super) fn decide(
    settings: &Settings,
    namespace: &Namespace<'_>,
    pod: &Value,
) -> Result<Option<Skip>, InjectError> {
    if containers(pod).any(|container| name(container) == SIDECAR) {
        return Ok(Some(Skip::AlreadyInjected));
    }
    let Some((wanted, place)) = word(settings, namespace, pod)? else {
        return Ok(Some(Skip::NotEnrolled));
    };
    if !wanted {
        return Ok(Some(Skip::OptedOut { place }));
    }
    let on_host = at(pod, &["spec", "hostNetwork"]).and_then(Value::as_bool);
    Ok((on_host == Some(true)).then_some(Skip::HostNetwork))
}

/// The first word said about this pod, and where it stands.
fn word(
    settings: &Settings,
    namespace: &Namespace<'_>,
    pod: &Value,
) -> Result<Option<(bool, String)>, InjectError> {
    let of_pod = |name: &str| {
        label(pod, name)
            .map(|value| (format!("label {name} of the pod"), value))
            .or_else(|| {
                Some((
                    format!("annotation {name} of the pod"),
                    annotation(pod, name)?,
                ))
            })
    };
    let of_namespace = |name: &str| {
        let value = namespace.labels.get(name)?.as_str();
        Some((
            format!("label {name} of namespace {}", namespace.name),
            value,
        ))
    };
    let istio = settings.honours_istio;
    let found = of_pod(INJECT)
        .or_else(|| of_pod(ISTIO_POD).filter(|_| istio))
        .or_else(|| of_namespace(INJECT))
        .or_else(|| of_namespace(ISTIO_NAMESPACE).filter(|_| istio));
    let Some((place, value)) = found else {
        return Ok(None);
    };
    match value {
        "enabled" | "true" | "yes" | "on" => Ok(Some((true, place))),
        "disabled" | "false" | "no" | "off" => Ok(Some((false, place))),
        _ => Err(InjectError::Word {
            place,
            value: value.into(),
        }),
    }
}
