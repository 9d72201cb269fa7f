//! `outrigger inject` and `outrigger uninject`: the injector's patch for files, without a cluster.
//!
//! The manifests go to stdout, what became of each to stderr. Nothing is written unless all of it
//! can be.

use std::{
    io::{Read, Write},
    path::{Path, PathBuf},
    process::ExitCode,
};

use anyhow::Context;
use clap::Args;
use outrigger_controller::injector::{
    SettingsFile,
    manifest::{Task, rewrite},
};

use crate::complain;

/// `outrigger inject`.
#[derive(Debug, Args)]
pub(crate) struct Inject {
    /// Manifests (YAML or JSON); - reads them from stdin
    file: PathBuf,
    /// What is put in: `injector.json` of the cluster's ConfigMap `outrigger-injector`
    #[arg(long, value_name = "FILE")]
    settings: PathBuf,
}

/// `outrigger uninject`.
#[derive(Debug, Args)]
pub(crate) struct Uninject {
    /// Manifests (YAML or JSON); - reads them from stdin
    file: PathBuf,
}

/// Puts sidecars into every pod and pod template that does not say no.
pub(crate) fn inject(arguments: &Inject) -> ExitCode {
    let settings = SettingsFile::open(&arguments.settings).map(|file| file.settings());
    ended(settings.map_err(Into::into).and_then(|settings| {
        let settings = settings.borrow().clone();
        run(Task::Inject(&settings), &arguments.file)
    }))
}

/// Takes them out again.
pub(crate) fn uninject(arguments: &Uninject) -> ExitCode {
    ended(run(Task::Uninject, &arguments.file))
}

/// Whatever went wrong is in the files.
fn ended(result: anyhow::Result<()>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("{error:#}"));
            ExitCode::from(2)
        }
    }
}

fn run(task: Task<'_>, file: &Path) -> anyhow::Result<()> {
    let mut yaml = String::new();
    let read = if file == Path::new("-") {
        std::io::stdin().read_to_string(&mut yaml)
    } else {
        std::fs::File::open(file).and_then(|mut file| file.read_to_string(&mut yaml))
    };
    let name = || file.display().to_string();
    read.with_context(|| format!("cannot read {}", name()))?;
    let (written, notes) = rewrite(task, &yaml).with_context(name)?;
    std::io::stdout().write_all(written.as_bytes())?;
    for note in notes {
        complain(&format!("{}: {}", note.object, note.outcome));
    }
    Ok(())
}
