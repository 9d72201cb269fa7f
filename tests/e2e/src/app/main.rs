//! The application in the pods of the end-to-end suite: it serves HTTP, gRPC health and plain TCP,
//! and sends requests when it is told to. It knows nothing of the mesh.
//!
//! `e2e-app serve VERSION`, `e2e-app get URL` (a Job: succeeds when the answer is 200), and
//! `e2e-app alive` (a probe that runs a command).

mod client;
mod serve;

use std::{process::ExitCode, time::Duration};

use anyhow::{bail, ensure};

fn main() -> anyhow::Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        match words.as_slice() {
            ["serve", version] => serve::run(version).await?,
            ["get", url] => {
                let answer = client::get(&url.parse()?, Duration::from_secs(10)).await?;
                ensure!(answer.status == 200, "{url} answers {answer:?}");
            }
            ["alive"] => {}
            _ => bail!("usage: e2e-app serve VERSION | get URL | alive"),
        }
        Ok(ExitCode::SUCCESS)
    })
}
