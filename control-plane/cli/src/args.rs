//! The command line, parsed into values once. What does not parse ends the program with status 2.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use outrigger_model::{Ratio, TrustDomain};
use outrigger_proxy::telemetry::logging::Level;

/// A service mesh: control plane, local mesh, operator's tool.
#[derive(Debug, Parser)]
#[command(name = "outrigger", version, propagate_version = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a mesh on this machine from a folder of manifests: a control plane, and a real sidecar
    /// for each WorkloadEntry
    Up(Box<Up>),
    /// Run the example shop in a mesh on this machine, under load, and show live what happens
    Demo(crate::demo::Arguments),
    /// Run the control plane of a cluster: watch its objects, issue certificates, configure sidecars
    #[cfg(feature = "kubernetes")]
    ControlPlane(Box<crate::command::control_plane::Arguments>),
    /// Run the control plane of a cluster (not in this build: it says how to get one)
    #[cfg(not(feature = "kubernetes"))]
    #[command(disable_help_flag = true)]
    ControlPlane {
        /// Whatever was asked of it.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Put sidecars into manifests, as the injector does on a cluster
    Inject(crate::command::inject::Inject),
    /// Take sidecars out of manifests again
    Uninject(crate::command::inject::Uninject),
    /// Run one sidecar
    #[command(hide = true)]
    Proxy {
        /// Process to end with.
        #[arg(long)]
        parent: Option<u32>,
        /// Bootstrap file (JSON).
        bootstrap: PathBuf,
    },
    /// Turn into another program that ends with its parent
    #[command(hide = true)]
    Launch {
        /// Process to end with.
        #[arg(long)]
        parent: u32,
        /// Program and arguments.
        #[arg(required = true, last = true)]
        command: Vec<OsString>,
    },
    /// Run one application of the example shop
    #[command(hide = true, disable_help_flag = true)]
    Shop {
        /// As the shop's own program takes them.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

/// `outrigger up`.
#[derive(Debug, Args)]
pub(crate) struct Up {
    /// Folder of manifests (*.yaml, *.yml, *.json, also in folders below); edits take effect at once
    pub(crate) folder: PathBuf,
    /// Stop by itself after this time, as in 30s or 1m30s
    #[arg(long = "for", value_name = "TIME", value_parser = duration)]
    pub(crate) time: Option<Duration>,
    /// How to report what happens, on stdout
    #[arg(long, value_enum, default_value_t = Report::Text)]
    pub(crate) report: Report,
    #[command(flatten)]
    pub(crate) mesh: Mesh,
}

/// How a local mesh runs.
#[derive(Debug, Clone, Args)]
pub(crate) struct Mesh {
    /// Folder that keeps the mesh's keys [default: ~/.local/state/outrigger]
    #[arg(long, value_name = "FOLDER")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Life of workload certificates, at most 24h
    #[arg(long, value_name = "TIME", value_parser = leaf_lifetime, default_value = "24h")]
    pub(crate) leaf_lifetime: Duration,
    /// Trust domain of identities
    #[arg(long, value_name = "NAME", value_parser = TrustDomain::parse, default_value = "cluster.local")]
    pub(crate) trust_domain: TrustDomain,
    /// Certificate of the mesh's root (PEM), in place of one made here
    #[arg(long, value_name = "FILE", requires = "ca_key")]
    pub(crate) ca_cert: Option<PathBuf>,
    /// Private key of the mesh's root (PEM)
    #[arg(long, value_name = "FILE", requires = "ca_cert")]
    pub(crate) ca_key: Option<PathBuf>,
    /// Send traces to this OTLP receiver (gRPC), as in http://127.0.0.1:4317
    #[arg(long, value_name = "URL", value_parser = otlp_endpoint)]
    pub(crate) otlp_endpoint: Option<String>,
    /// Share of traces that are recorded, 0 to 1
    #[arg(long, value_name = "SHARE", value_parser = share, default_value = "1")]
    pub(crate) trace_sampling: Ratio,
    /// Which requests sidecars log
    #[arg(long, value_enum, default_value_t = AccessLog::Failures)]
    pub(crate) access_log: AccessLog,
    /// Serve the control plane's metrics and health here, as in 127.0.0.1:15014
    #[arg(long, value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Worker threads of each sidecar
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64), default_value_t = 1)]
    pub(crate) workers: u16,
    /// What is logged, on stderr: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", value_parser = level, default_value = "warn")]
    pub(crate) log: String,
    /// How long work in flight may take to end when a sidecar stops
    #[arg(long, value_name = "TIME", value_parser = duration, default_value = "10s")]
    pub(crate) drain_time: Duration,
}

/// Form of the report.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Report {
    /// Readable lines.
    Text,
    /// One JSON object a line.
    Json,
}

/// Which requests get an access log line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AccessLog {
    /// None.
    Off,
    /// Those that failed.
    Failures,
    /// All.
    All,
}

/// The longest time that may be asked for, 100 years: sums with it cannot overflow.
const DURATION_MAX: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// `30s`, `1m30s`, `500ms`, `2h`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let parsed: Option<jiff::SignedDuration> = text.parse().ok();
    parsed
        .and_then(|duration| Duration::try_from(duration).ok())
        .filter(|duration| !duration.is_zero() && *duration <= DURATION_MAX)
        .ok_or_else(|| "write a time above zero as in 500ms, 30s, 1m30s or 2h".to_owned())
}

pub(crate) fn leaf_lifetime(text: &str) -> Result<Duration, String> {
    let duration = duration(text)?;
    if duration < Duration::from_secs(1) || duration > outrigger_ca::LEAF_TTL_MAX {
        return Err("a certificate lives for 1s to 24h".to_owned());
    }
    Ok(duration)
}

pub(crate) fn share(text: &str) -> Result<Ratio, String> {
    let share: Option<f64> = text.parse().ok();
    share
        .filter(|share| (0.0..=1.0).contains(share))
        .and_then(|share| format!("{:.0}", share * 1e6).parse().ok())
        .and_then(|parts| Ratio::from_parts_per_million(parts).ok())
        .ok_or_else(|| "write a share from 0 to 1, as in 0.1".to_owned())
}

pub(crate) fn otlp_endpoint(text: &str) -> Result<String, String> {
    let uri: Option<http::Uri> = text.parse().ok();
    uri.filter(|uri| uri.scheme_str() == Some("http") && uri.host().is_some())
        .map(|_| text.to_owned())
        .ok_or_else(|| "write http://host:port".to_owned())
}

pub(crate) fn level(text: &str) -> Result<String, String> {
    let level: Result<Level, _> = text.parse();
    level
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn times_are_read() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(
                duration(text).ok(),
                millis.map(Duration::from_millis),
                "{text}"
            );
        };
        check("30s", Some(30_000));
        check("1m30s", Some(90_000));
        check("500ms", Some(500));
        check("2h", Some(7_200_000));
        check("1.5s", Some(1_500));
        for bad in [
            "",
            "30",
            "s",
            "-30s",
            "30s ago",
            "0s",
            "abc",
            "1x",
            "99999999999h",
        ] {
            check(bad, None);
        }
        assert!(leaf_lifetime("24h").is_ok());
        assert!(leaf_lifetime("25h").is_err());
        assert!(leaf_lifetime("900ms").is_err());
    }

    #[test]
    fn shares_are_read() {
        let check = |text: &str, parts: Option<u32>| {
            let read = share(text).ok().map(Ratio::parts_per_million);
            assert_eq!(read, parts, "{text}");
        };
        check("0", Some(0));
        check("1", Some(1_000_000));
        check("0.1", Some(100_000));
        check("0.000001", Some(1));
        for bad in ["1.1", "-0.1", "NaN", "x", "10%"] {
            check(bad, None);
        }
    }
}
