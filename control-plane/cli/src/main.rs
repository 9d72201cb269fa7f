//! The binary `outrigger`: control plane, local mesh, operator's tool.
//!
//! `args` is the command line, `command` what each subcommand does, [`up`] the local mesh as a
//! library for `outrigger up` and the demo. Hidden subcommands are this program's own children:
//! one sidecar (`proxy`), one application of the example shop (`shop`), and the way into any other
//! program (`launch`).
//!
//! Exit status: 0; 2 when the user can put it right and nothing was started; 1 for anything else.

mod args;
mod command;
mod demo;
mod launch;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::Parser;
use outrigger_proxy::bootstrap::Source;
use tracing_subscriber::{filter::Targets, layer::SubscriberExt, util::SubscriberInitExt};

use args::{Arguments, Command};

fn main() -> ExitCode {
    let done = match launch::sidecar(std::env::args_os().skip(1)) {
        Some((parent, bootstrap)) => proxy(Some(parent), bootstrap),
        None => run(Arguments::parse().command),
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        Command::Up(arguments) => {
            init_log(&arguments.mesh.log)?;
            runtime()?.block_on(command::up::run(*arguments))
        }
        #[cfg(not(feature = "kubernetes"))]
        Command::ControlPlane { .. } => {
            complain(
                "this build has no client for clusters; the images have it, and \
                 `cargo build --release --features outrigger/kubernetes --bin outrigger`",
            );
            Ok(ExitCode::from(2))
        }
        #[cfg(feature = "kubernetes")]
        Command::ControlPlane(arguments) => {
            init_log(&arguments.log)?;
            runtime()?.block_on(command::control_plane::run(*arguments))
        }
        Command::Demo(arguments) => {
            // What writes to the terminal while it is drawn on is lost in the picture.
            if !arguments.is_drawn() {
                init_log(&arguments.log)?;
            }
            runtime()?.block_on(demo::run(arguments))
        }
        Command::Inject(arguments) => Ok(command::inject::inject(&arguments)),
        Command::Uninject(arguments) => Ok(command::inject::uninject(&arguments)),
        Command::Proxy { parent, bootstrap } => proxy(parent, bootstrap),
        Command::Launch { parent, command } => {
            launch::become_program(parent, &command)?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Shop { arguments } => {
            match runtime()?.block_on(outrigger_shop::run(arguments.into_iter())) {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(error) => match error.downcast::<clap::Error>() {
                    Ok(error) => error.exit(),
                    Err(error) => Err(error),
                },
            }
        }
    }
}

/// One sidecar, until it is told to end.
fn proxy(parent: Option<u32>, bootstrap: PathBuf) -> anyhow::Result<ExitCode> {
    if let Some(parent) = parent {
        launch::end_with(parent)?;
    }
    outrigger_proxy::sidecar::run(&Source::File(bootstrap))?;
    Ok(ExitCode::SUCCESS)
}

/// Two workers: the control plane's handshakes need not wait for its compiler. Children are tied
/// to the thread that starts them, so its threads have to live as long as the process: nothing
/// here may use `block_in_place`.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")
}

/// The log of this process goes to stderr.
fn init_log(filter: &str) -> anyhow::Result<()> {
    let filter: Targets = filter.parse()?;
    let lines = tracing_subscriber::fmt::layer()
        .with_writer(std::io::stderr)
        .with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr()));
    tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .try_init()
        .map_err(|error| anyhow::anyhow!("cannot set up the log: {error}"))
}

#[expect(clippy::print_stderr, reason = "a person reads this")]
pub(crate) fn complain(text: &str) {
    eprintln!("outrigger: {text}");
}
