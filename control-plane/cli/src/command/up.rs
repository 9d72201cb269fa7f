//! `outrigger up`: a local mesh in the foreground.

use std::{
    io::{self, Write},
    path::PathBuf,
    process::ExitCode,
    time::Duration,
};

use anyhow::Context;
use outrigger_controller::controller::Root;
use outrigger_model::{AccessLog, MeshSettings, Ratio, Tracing};
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    sync::mpsc,
    time::sleep,
};

use crate::{
    args,
    up::{
        self,
        event::{Event, StopReason},
    },
};

/// Runs a local mesh until it is told to end, or its time is over.
///
/// # Errors
/// When it cannot start, for another reason than what the user gave.
pub(crate) async fn run(arguments: args::Up) -> anyhow::Result<ExitCode> {
    let signals = Signals::new()?;
    let report = Reporter(arguments.report);
    let options = options(arguments.folder, &arguments.mesh)?;
    match up::start(options).await {
        Ok((mesh, events)) => {
            follow(mesh, events, signals, arguments.time, &report).await;
            Ok(ExitCode::SUCCESS)
        }
        Err(up::StartError::Usage(problems)) => {
            for problem in problems.lines() {
                crate::complain(problem);
            }
            Ok(ExitCode::from(2))
        }
        Err(up::StartError::Failed(error)) => Err(error),
    }
}

/// The options of a local mesh on `folder`.
///
/// # Errors
/// When there is no place for its state.
pub(crate) fn options(folder: PathBuf, arguments: &args::Mesh) -> anyhow::Result<up::Options> {
    let state_dir = match &arguments.state_dir {
        Some(folder) => folder.clone(),
        None => up::default_state_dir().context("there is no folder for the mesh's keys")?,
    };
    let root = match (&arguments.ca_cert, &arguments.ca_key) {
        (Some(certificate), Some(key)) => Root::Files {
            certificate: certificate.clone(),
            key: key.clone(),
        },
        (None, None) | (Some(_), None) | (None, Some(_)) => Root::State,
    };
    let settings = MeshSettings {
        access_log: arguments.access_log.into(),
        tracing: tracing(arguments.otlp_endpoint.as_deref(), arguments.trace_sampling),
        drain_timeout: arguments.drain_time,
        ..MeshSettings::defaults(arguments.trust_domain.clone())
    };
    Ok(up::Options {
        folder,
        state_dir,
        root,
        settings,
        metrics: arguments.metrics,
        leaf_lifetime: arguments.leaf_lifetime,
        workers: arguments.workers,
        log: arguments.log.clone(),
        logs: None,
    })
}

impl From<args::AccessLog> for AccessLog {
    fn from(log: args::AccessLog) -> Self {
        match log {
            args::AccessLog::Off => Self::Off,
            args::AccessLog::Failures => Self::Failures,
            args::AccessLog::All => Self::All,
        }
    }
}

/// Where sidecars send traces, if anywhere.
pub(crate) fn tracing(endpoint: Option<&str>, sampling: Ratio) -> Tracing {
    match endpoint {
        None => Tracing::Off,
        Some(endpoint) => Tracing::Otlp {
            endpoint: endpoint.to_owned(),
            sampling,
        },
    }
}

/// Reports until it is told to end, ends it, and reports that.
async fn follow(
    mesh: up::Mesh,
    mut events: mpsc::Receiver<Event>,
    mut signals: Signals,
    time: Option<Duration>,
    report: &Reporter,
) {
    let over = async {
        match time {
            Some(time) => sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(over);
    let reason = loop {
        tokio::select! {
            event = events.recv() => match event {
                Some(event) => if report.print(&event).is_err() {
                    // Nobody reads any more.
                    break StopReason::Asked;
                },
                None => break StopReason::Failed,
            },
            () = signals.next() => break StopReason::Asked,
            () = &mut over => break StopReason::Time,
        }
    };
    let cut = mesh.cut();
    let ending = mesh.stop();
    tokio::pin!(ending);
    loop {
        tokio::select! {
            () = &mut ending => break,
            Some(event) = events.recv() => { report.print(&event).ok(); }
            // Asked twice: at once, then.
            () = signals.next() => cut.cancel(),
        }
    }
    while let Ok(event) = events.try_recv() {
        report.print(&event).ok();
    }
    report.print(&Event::Stopped { reason }).ok();
}

/// Ctrl-C and SIGTERM.
pub(crate) struct Signals {
    interrupt: Signal,
    terminate: Signal,
}

impl Signals {
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
        })
    }

    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// Prints events on stdout, one at a time, each at once.
struct Reporter(args::Report);

impl Reporter {
    fn print(&self, event: &Event) -> io::Result<()> {
        let line = match self.0 {
            args::Report::Text => event.to_string(),
            args::Report::Json => serde_json::to_string(event)?,
        };
        let mut stdout = io::stdout().lock();
        writeln!(stdout, "{line}")?;
        stdout.flush()
    }
}
