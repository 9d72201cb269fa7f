//! The hostile corpus through a pair of sidecars to six real HTTP/1 servers and three clients.
//!
//! `differential OUTRIGGER`: every row must arrive at every server as the model reads it, or not
//! at all, and must leave nothing behind for the next request. Programs that are missing are
//! installed (Debian, root) or fail the run. Prints `N passed, M failed` last.

use std::path::PathBuf;

use anyhow::{Context, bail, ensure};
use outrigger_tests::{
    Folder, Mesh,
    differential::{
        Tally, corpus, direct, manifests,
        requests::{self, Fleet},
        responses,
    },
};

fn main() -> anyhow::Result<()> {
    let Some(binary) = std::env::args_os().nth(1).map(PathBuf::from) else {
        bail!("usage: differential OUTRIGGER");
    };
    let binary = binary
        .canonicalize()
        .with_context(|| format!("no {}", binary.display()))?;
    let folder = tempfile::tempdir()?;
    let fleet = Fleet::start(&folder.path().join("behind"))?;
    let apart = Fleet::start(&folder.path().join("apart"))?;
    let answers = responses::Answers::start()?;
    let mut ports = fleet.ports();
    ports.push((responses::NAME, answers.port()));
    let mesh_folder = Folder::new();
    mesh_folder.write("mesh.yaml", &manifests::of(&ports));
    let mesh = Mesh::start(&binary, &mesh_folder, &[])?;

    let mut tally = Tally::default();
    let sent = requests::send_all(&fleet, mesh.workload("client")?)?;
    let compared = direct::send_all(&apart)?;
    responses::check(
        &answers,
        mesh.workload("client")?,
        folder.path(),
        &mut tally,
    )?;
    let seen = fleet.end()?;
    requests::check(&sent, &seen, &mut tally);
    show(&direct::table(&compared, &apart.end()?));
    ensure!(
        corpus::count() >= 500,
        "the corpus has {} rows",
        corpus::count()
    );
    show(&tally.to_string());
    ensure!(tally.failed() == 0, "the model and the world differ");
    Ok(())
}

#[expect(clippy::print_stdout, reason = "the result is this program's output")]
fn show(text: &str) {
    println!("{text}");
}
