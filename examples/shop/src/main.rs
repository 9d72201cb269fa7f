//! The binary `outrigger-shop`: one role of the example shop. `outrigger shop` is the same code.

use std::io::Write as _;
use std::process::ExitCode;

/// Each role of the shop is small, and the demo runs a dozen of them on one machine: one thread.
/// Ends with 2 if the arguments do not parse, 1 on any other error.
#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let Err(error) = outrigger_shop::run(std::env::args().skip(1)).await else {
        return ExitCode::SUCCESS;
    };
    if let Some(usage) = error.downcast_ref::<clap::Error>() {
        usage.print().ok();
        return ExitCode::from(2);
    }
    writeln!(std::io::stderr(), "outrigger-shop: {error}").ok();
    ExitCode::FAILURE
}
