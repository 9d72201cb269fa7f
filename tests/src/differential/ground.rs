//! The programs the check needs: found, or installed from Debian, or the run fails.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};

/// Program and the Debian package that has it.
const PROGRAMS: &[(&str, &str)] = &[
    ("node", "nodejs"),
    ("go", "golang-go"),
    ("nginx", "nginx-light"),
    ("haproxy", "haproxy"),
    ("apache2", "apache2-bin"),
    ("gunicorn", "gunicorn"),
    ("python3", "python3"),
];

/// Where a program lies. Debian's own places first: what a package brings belongs together.
pub(super) fn find(program: &str) -> Option<PathBuf> {
    [
        "/usr/bin",
        "/usr/sbin",
        "/usr/local/bin",
        "/usr/local/go/bin",
    ]
    .iter()
    .map(|folder| Path::new(folder).join(program))
    .find(|path| path.is_file())
}

/// Path of a program.
pub(super) fn program(name: &str) -> anyhow::Result<PathBuf> {
    find(name).with_context(|| format!("no {name} on this machine"))
}

/// Installs what is missing.
pub(super) fn prepare() -> anyhow::Result<()> {
    let missing: Vec<&str> = PROGRAMS
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    apt_get(&["update", "-q"])?;
    let install = ["install", "-y", "-q", "--no-install-recommends"];
    apt_get(&[&install[..], &missing[..]].concat())?;
    for (name, _) in PROGRAMS {
        program(name)?;
    }
    Ok(())
}

fn apt_get(arguments: &[&str]) -> anyhow::Result<()> {
    let done = Command::new("apt-get")
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .output()
        .context("apt-get is needed to install what is missing")?;
    let errors = String::from_utf8_lossy(&done.stderr);
    ensure!(done.status.success(), "apt-get {arguments:?}: {errors}");
    Ok(())
}
