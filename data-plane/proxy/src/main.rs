//! The binary `outrigger-proxy`: a sidecar, and the init step that leads traffic through it.

use std::{io::Write, process::ExitCode, time::Duration};

use outrigger_proxy::{
    await_ready,
    bootstrap::{BootstrapError, Source, VARIABLE},
};
use outrigger_redirect::{Order, USAGE as REDIRECT_USAGE, apply, parse, ruleset, undo};

const USAGE: &str = "\
usage: outrigger-proxy [BOOTSTRAP.json]    run a sidecar; without a file: $OUTRIGGER_BOOTSTRAP
       outrigger-proxy redirect ...        lead this network namespace's traffic through it
       outrigger-proxy wait [--timeout S]  wait until the sidecar is ready (120 s)
       outrigger-proxy --version
";

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let first = arguments.next();
    match first.as_ref().and_then(|first| first.to_str()) {
        Some("redirect") => {
            let rest = arguments.map(|argument| argument.to_string_lossy().into_owned());
            redirect(rest)
        }
        Some("--version" | "-V") => {
            say(&format!("outrigger-proxy {}\n", env!("CARGO_PKG_VERSION")))
        }
        Some("--help" | "-h") => say(USAGE),
        Some("wait") => {
            let rest = arguments.map(|argument| argument.to_string_lossy().into_owned());
            wait(&rest.collect::<Vec<_>>())
        }
        _ => match (first, arguments.next()) {
            (Some(path), None) => sidecar(&Source::File(path.into())),
            (None, _) if std::env::var_os(VARIABLE).is_some() => sidecar(&Source::Environment),
            _ => usage(),
        },
    }
}

fn usage() -> ExitCode {
    complain(USAGE);
    ExitCode::from(2)
}

fn wait(arguments: &[String]) -> ExitCode {
    let seconds = match arguments {
        [] => Some(120),
        [flag, seconds] if flag == "--timeout" => seconds.parse().ok(),
        _ => None,
    };
    let Some(seconds) = seconds else {
        return usage();
    };
    ended(await_ready::run(
        &Source::Environment,
        Duration::from_secs(seconds),
    ))
}

fn sidecar(source: &Source) -> ExitCode {
    ended(outrigger_proxy::sidecar::run(source))
}

fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("outrigger-proxy: {error:#}"));
            // Started wrongly: trying again the same way does not help.
            if error.is::<BootstrapError>() {
                ExitCode::from(2)
            } else {
                ExitCode::FAILURE
            }
        }
    }
}

/// Exits 0 when what was asked is in force, else 2.
fn redirect(arguments: impl Iterator<Item = String>) -> ExitCode {
    let done = match parse(arguments) {
        Ok(Order::Help) => return say(REDIRECT_USAGE),
        Ok(Order::Show(capture)) => return say(&ruleset(&capture).to_string()),
        Ok(Order::Undo) => undo().map(|()| "the rules are gone".to_owned()),
        Ok(Order::Apply(capture)) => apply(&capture).map(|applied| {
            format!(
                "{} rules in force (nft list table inet outrigger): outgoing to port {}, incoming to port {}, except of user {}",
                applied.rules, capture.outbound_port, capture.inbound_port, capture.uid
            )
        }),
        Err(error) => {
            complain(&format!("outrigger-proxy redirect: {error}"));
            return ExitCode::from(2);
        }
    };
    match done {
        Ok(text) => say(&format!("outrigger-proxy redirect: {text}\n")),
        Err(error) => {
            complain(&format!(
                "outrigger-proxy redirect: {:#}",
                anyhow::Error::from(error)
            ));
            ExitCode::from(2)
        }
    }
}

fn say(text: &str) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[expect(
    clippy::print_stderr,
    reason = "before the log exists, a person reads this"
)]
fn complain(text: &str) {
    eprintln!("{}", text.trim_end());
}
