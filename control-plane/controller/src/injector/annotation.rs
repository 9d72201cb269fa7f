//! What a pod's annotations ask of its sidecar.
//!
//! Our own names begin with `outrigger.dev/`; Istio's are read, where the meaning is the same, when
//! the mesh's settings say so. An unknown name of our own is a warning with the nearest known one.

use std::time::Duration;

use ipnet::IpNet;
use outrigger_model::Port;
use serde_json::Value;

use super::{
    pod::annotation,
    settings::{Resources, Settings},
};

/// An annotation or label cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum InjectError {
    /// Neither yes nor no.
    #[error("{place} is {value:?}; write enabled or disabled")]
    Word {
        /// Where it stands.
        place: String,
        /// As written.
        value: String,
    },
    /// Another annotation.
    #[error("annotation {name} of the pod is {value:?}: {want}")]
    Annotation {
        /// Its name.
        name: &'static str,
        /// As written, cut at 200 characters.
        value: String,
        /// What to write.
        want: &'static str,
    },
}

/// A pod's wishes, every default filled in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Options {
    /// Ports of the application that are not captured.
    pub(super) skip_inbound_ports: Vec<Port>,
    /// Ports elsewhere, traffic to which is not captured.
    pub(super) skip_outbound_ports: Vec<Port>,
    /// Ranges, traffic to which is not captured.
    pub(super) skip_outbound_ranges: Vec<IpNet>,
    /// When not empty: only traffic to these is captured.
    pub(super) only_outbound_ranges: Vec<IpNet>,
    /// Log filter.
    pub(super) log: String,
    /// How long requests in flight may take when the pod ends.
    pub(super) drain: Duration,
    /// Worker threads.
    pub(super) workers: u16,
    /// Resources of the sidecar's container.
    pub(super) resources: Resources,
    /// Whether the kubelet's probes go through the sidecar.
    pub(super) turns_probes: bool,
}

/// Our own name, and Istio's for the same.
struct Name {
    own: &'static str,
    istio: Option<&'static str>,
}

const fn name(own: &'static str, istio: Option<&'static str>) -> Name {
    Name { own, istio }
}

const SKIP_INBOUND_PORTS: Name = name(
    "outrigger.dev/skip-inbound-ports",
    Some("traffic.sidecar.istio.io/excludeInboundPorts"),
);
const SKIP_OUTBOUND_PORTS: Name = name(
    "outrigger.dev/skip-outbound-ports",
    Some("traffic.sidecar.istio.io/excludeOutboundPorts"),
);
const SKIP_OUTBOUND_RANGES: Name = name(
    "outrigger.dev/skip-outbound-ranges",
    Some("traffic.sidecar.istio.io/excludeOutboundIPRanges"),
);
const ONLY_OUTBOUND_RANGES: Name = name(
    "outrigger.dev/only-outbound-ranges",
    Some("traffic.sidecar.istio.io/includeOutboundIPRanges"),
);
const LOG: Name = name("outrigger.dev/log-level", Some("sidecar.istio.io/logLevel"));
const DRAIN: Name = name("outrigger.dev/drain-time", None);
const WORKERS: Name = name("outrigger.dev/workers", None);
const CPU: Name = name("outrigger.dev/proxy-cpu", Some("sidecar.istio.io/proxyCPU"));
const CPU_LIMIT: Name = name(
    "outrigger.dev/proxy-cpu-limit",
    Some("sidecar.istio.io/proxyCPULimit"),
);
const MEMORY: Name = name(
    "outrigger.dev/proxy-memory",
    Some("sidecar.istio.io/proxyMemory"),
);
const MEMORY_LIMIT: Name = name(
    "outrigger.dev/proxy-memory-limit",
    Some("sidecar.istio.io/proxyMemoryLimit"),
);
const PROBES: Name = name(
    "outrigger.dev/turn-probes",
    Some("sidecar.istio.io/rewriteAppHTTPProbers"),
);

/// Names under `outrigger.dev/` that pods may carry and that mean nothing here, or are read
/// elsewhere.
const OTHERS: [&str; 6] = [
    "outrigger.dev/inject",
    super::STATUS,
    super::probe::ORIGINAL,
    super::scrape::ORIGINAL,
    "outrigger.dev/exec",
    "outrigger.dev/mtls",
];

const READ: [&Name; 12] = [
    &SKIP_INBOUND_PORTS,
    &SKIP_OUTBOUND_PORTS,
    &SKIP_OUTBOUND_RANGES,
    &ONLY_OUTBOUND_RANGES,
    &LOG,
    &DRAIN,
    &WORKERS,
    &CPU,
    &CPU_LIMIT,
    &MEMORY,
    &MEMORY_LIMIT,
    &PROBES,
];

/// Ports or ranges in one annotation at most: a rule each.
const ITEMS_MAX: usize = 100;

impl Options {
    /// Reads them, with a warning for each name that is not known.
    pub(super) fn read(
        settings: &Settings,
        pod: &Value,
    ) -> Result<(Self, Vec<String>), InjectError> {
        let reader = Reader { settings, pod };
        let defaults = &settings.resources;
        let options = Self {
            skip_inbound_ports: reader.list(&SKIP_INBOUND_PORTS, port, PORTS)?,
            skip_outbound_ports: reader.list(&SKIP_OUTBOUND_PORTS, port, PORTS)?,
            skip_outbound_ranges: reader.list(&SKIP_OUTBOUND_RANGES, range, RANGES)?,
            only_outbound_ranges: reader.list(&ONLY_OUTBOUND_RANGES, range, RANGES)?,
            log: reader
                .one(&LOG, log, LEVELS)?
                .unwrap_or_else(|| settings.log.clone()),
            drain: reader
                .one(
                    &DRAIN,
                    duration,
                    "write a time of at most 1h, as in 20s or 1m30s",
                )?
                .unwrap_or(Duration::from_secs(settings.drain_seconds)),
            workers: reader.one(&WORKERS, workers, "write 1 to 64")?.unwrap_or(1),
            resources: Resources {
                cpu_request: reader.quantity(&CPU, defaults.cpu_request.as_ref())?,
                memory_request: reader.quantity(&MEMORY, defaults.memory_request.as_ref())?,
                cpu_limit: reader.quantity(&CPU_LIMIT, defaults.cpu_limit.as_ref())?,
                memory_limit: reader.quantity(&MEMORY_LIMIT, defaults.memory_limit.as_ref())?,
            },
            turns_probes: reader
                .one(&PROBES, boolean, "write true or false")?
                .unwrap_or(true),
        };
        Ok((options, unknown(pod)))
    }
}

const PORTS: &str = "write ports 1 to 65535 with commas between, at most 100, as in 22,9090";
const RANGES: &str =
    "write address ranges with commas between, at most 100, as in 10.0.0.0/8,fd00::/8";
const LEVELS: &str = "write off, error, warn, info, debug or trace";

struct Reader<'a> {
    settings: &'a Settings,
    pod: &'a Value,
}

impl<'a> Reader<'a> {
    /// The annotation's name and text.
    fn text(&self, name: &Name) -> Option<(&'static str, &'a str)> {
        let own = annotation(self.pod, name.own).map(|text| (name.own, text.trim()));
        own.or_else(|| {
            let istio = name.istio.filter(|_| self.settings.honours_istio)?;
            Some((istio, annotation(self.pod, istio)?.trim()))
        })
    }

    fn one<T>(
        &self,
        name: &Name,
        parse: fn(&str) -> Option<T>,
        want: &'static str,
    ) -> Result<Option<T>, InjectError> {
        let Some((name, text)) = self.text(name) else {
            return Ok(None);
        };
        let wrong = || InjectError::Annotation {
            name,
            value: text.chars().take(200).collect(),
            want,
        };
        parse(text).map(Some).ok_or_else(wrong)
    }

    /// Items with commas between; none for an empty text or `*` (Istio's word for all).
    fn list<T>(
        &self,
        name: &Name,
        parse: fn(&str) -> Option<T>,
        want: &'static str,
    ) -> Result<Vec<T>, InjectError> {
        let Some((name, text)) = self.text(name) else {
            return Ok(Vec::new());
        };
        if text.is_empty()
            || (text == "*" && name == ONLY_OUTBOUND_RANGES.istio.unwrap_or_default())
        {
            return Ok(Vec::new());
        }
        let items: Option<Vec<T>> = text.split(',').map(|item| parse(item.trim())).collect();
        items
            .filter(|items| items.len() <= ITEMS_MAX)
            .ok_or_else(|| InjectError::Annotation {
                name,
                value: text.chars().take(200).collect(),
                want,
            })
    }

    fn quantity(
        &self,
        name: &Name,
        default: Option<&String>,
    ) -> Result<Option<String>, InjectError> {
        let want = "write a Kubernetes quantity, as in 100m or 64Mi";
        let given = self.one(name, quantity, want)?;
        Ok(given.or_else(|| default.cloned()))
    }
}

fn port(text: &str) -> Option<Port> {
    Port::new(text.parse::<u16>().ok()?).ok()
}

/// An address alone is a range of one.
fn range(text: &str) -> Option<IpNet> {
    text.parse()
        .ok()
        .or_else(|| Some(text.parse::<std::net::IpAddr>().ok()?.into()))
}

fn duration(text: &str) -> Option<Duration> {
    let time = Duration::try_from(text.parse::<jiff::SignedDuration>().ok()?).ok()?;
    (time <= Duration::from_hours(1)).then_some(time)
}

fn workers(text: &str) -> Option<u16> {
    text.parse()
        .ok()
        .filter(|workers| (1..=64).contains(workers))
}

fn boolean(text: &str) -> Option<bool> {
    text.parse().ok()
}

/// A level, or a list of `target=level`. Istio's levels are of the same names, but for `warning`.
fn log(text: &str) -> Option<String> {
    let is_level = |part: &str| {
        let level = part.rsplit_once('=').map_or(part, |(_, level)| level);
        matches!(level, "off" | "error" | "warn" | "info" | "debug" | "trace")
    };
    match text {
        "warning" => Some("warn".into()),
        _ => (text.len() <= 256 && text.split(',').all(is_level)).then(|| text.into()),
    }
}

/// A number with an SI or binary suffix (Kubernetes' resource.Quantity, without exponents).
fn quantity(text: &str) -> Option<String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let suffix = text.get(digits.len()..)?;
    let is_suffix = matches!(
        suffix,
        "" | "m" | "k" | "M" | "G" | "T" | "Ki" | "Mi" | "Gi" | "Ti"
    );
    let (whole, part) = digits.split_once('.').unwrap_or((digits, "0"));
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    (is_suffix && is_number(whole) && is_number(part) && text.len() <= 20).then(|| text.into())
}

/// Names of ours that nobody reads.
fn unknown(pod: &Value) -> Vec<String> {
    let known = || READ.iter().map(|name| name.own).chain(OTHERS);
    let annotations = pod
        .pointer("/metadata/annotations")
        .and_then(Value::as_object);
    annotations
        .into_iter()
        .flat_map(|annotations| annotations.keys())
        .filter(|name| name.starts_with("outrigger.dev/") && known().all(|known| known != *name))
        .map(|name| {
            let nearest = known().min_by_key(|known| strsim::damerau_levenshtein(name, known));
            let hint = nearest.map(|near| format!("; the nearest known one is {near}"));
            format!(
                "annotation {name} of the pod is not known and has no effect{}",
                hint.unwrap_or_default()
            )
        })
        .collect()
}
