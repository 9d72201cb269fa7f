//! The binary `outrigger-proxy`: one sidecar. `outrigger-proxy BOOTSTRAP.json`.

use std::{path::PathBuf, process::ExitCode};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    let (Some(path), None) = (arguments.next(), arguments.next()) else {
        complain("usage: outrigger-proxy BOOTSTRAP.json");
        return ExitCode::from(2);
    };
    match outrigger_proxy::sidecar::run(&PathBuf::from(path)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("outrigger-proxy: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

#[expect(
    clippy::print_stderr,
    reason = "before the log exists, a person reads this"
)]
fn complain(text: &str) {
    eprintln!("{text}");
}
