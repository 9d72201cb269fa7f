//! `outrigger demo`: the example shop in a local mesh, under load, with what happens shown live.
//!
//! One loop owns everything that changes: see [`player`]. Numbers about traffic come from the
//! sidecars' own metrics; how customers fare comes from the generator.
//!
//! Order of an end: the generator stops and waits for its answers, a last round is scraped, then
//! the mesh drains. So nothing fails because the demo ends. The last line on stdout is the summary.

mod board;
mod canary;
mod client;
mod counts;
mod exposition;
mod folder;
mod keys;
mod latency;
mod lines;
mod load;
mod player;
mod scrape;
mod screen;
mod stage;
mod summary;
mod terminal;

use std::io::{self, IsTerminal as _};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use outrigger_controller::controller::Root;
use outrigger_model::{MeshSettings, TrustDomain};

use crate::args;
use crate::command::up::Signals;
use crate::up::{self, event::StopReason};

use folder::Folder;
use lines::Form;
use player::{Player, Show};
use stage::Stage;

/// `outrigger demo`.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Stop by itself after this time under load, as in 20s or 1m30s
    #[arg(long = "for", value_name = "TIME", value_parser = args::duration)]
    time: Option<Duration>,
    /// Print lines of this form instead of the live view [default: the view; without a terminal, text]
    #[arg(long, value_enum)]
    report: Option<args::Report>,
    /// Requests a second
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=5_000), default_value_t = 100)]
    rate: u32,
    /// What is logged: off, error, warn, info, debug, trace
    #[arg(long, value_name = "LEVEL", value_parser = args::level, default_value = "error")]
    pub(crate) log: String,
}

impl Arguments {
    /// Whether the terminal is drawn on, so that nothing else may write to it.
    pub(crate) fn is_drawn(&self) -> bool {
        self.report.is_none() && io::stdout().is_terminal() && io::stdin().is_terminal()
    }
}

/// Runs the demo until it is told to end, or its time is over.
///
/// # Errors
/// When the mesh cannot start for a reason other than ports in use and the like (status 2), does
/// not get ready, or nothing could be measured.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let signals = Signals::new().context("cannot listen for signals")?;
    let folder = Folder::create()?;
    let drawn = arguments.is_drawn();
    let options = options(&folder, &arguments, drawn)?;
    let stage = Stage::new(folder)?;
    let show = Show::open(arguments.report, drawn)?;
    let (mesh, events) = match up::start(options).await {
        Ok(started) => started,
        Err(error) => {
            // The terminal is given back before anything is said.
            drop(show);
            return match error {
                up::StartError::Usage(problems) => {
                    problems.lines().for_each(crate::complain);
                    Ok(ExitCode::from(2))
                }
                up::StartError::Failed(error) => Err(error),
            };
        }
    };
    let mut player = Player::new(stage, show, events, signals, arguments.rate, arguments.time);
    let played = player.play(&mesh).await;
    let summary = player.end(mesh).await;
    drop(player);
    let reason = played?;
    lines::write(Form::Json, &summary, "").context("cannot write the summary")?;
    if reason == StopReason::Failed {
        anyhow::bail!("the mesh ended by itself");
    }
    // Who ends it before there is load has not asked for measurements.
    if reason != StopReason::Asked && !summary.measured() {
        anyhow::bail!("nothing could be measured: --log debug says why");
    }
    Ok(ExitCode::SUCCESS)
}

fn options(folder: &Folder, arguments: &Arguments, drawn: bool) -> anyhow::Result<up::Options> {
    let trust_domain = TrustDomain::parse("cluster.local").context("no trust domain")?;
    Ok(up::Options {
        metrics: None,
        folder: folder.mesh(),
        state_dir: folder.state(),
        root: Root::State,
        settings: MeshSettings::defaults(trust_domain),
        leaf_lifetime: Duration::from_hours(24),
        workers: 1,
        log: arguments.log.clone(),
        logs: drawn.then(|| folder.logs()),
    })
}
