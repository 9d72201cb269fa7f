//! The files that a sidecar is started from: bootstrap, token, root; in a folder of this run that
//! nobody else may read.
//!
//! A file appears whole or not at all: a sidecar reads its token again for each certificate, and
//! its bootstrap on SIGHUP.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use outrigger_model::WorkloadName;
use outrigger_proxy::bootstrap::{BootstrapFile, InboundListener, OutboundListener};

use super::{Local, plan::WorkloadPlan};

/// Followed by the process ID, the name of a run's folder.
const RUN_PREFIX: &str = "up-";

/// The folder of one run. Removed with all it holds when dropped.
#[derive(Debug)]
pub(super) struct RunFolder(PathBuf);

impl RunFolder {
    /// Makes the folder, named by this process, below `state`.
    pub(super) fn new(state: &Path) -> anyhow::Result<Self> {
        remove_stale(state);
        let path = state.join(format!("{RUN_PREFIX}{}", std::process::id()));
        // Left by a process that had the same ID.
        fs::remove_dir_all(&path).ok();
        make_folder(&path)?;
        // Sidecars are told absolute paths: they need not share our working directory.
        let path = fs::canonicalize(&path)
            .with_context(|| format!("cannot find the folder {}", path.display()))?;
        Ok(Self(path))
    }

    /// Where the roots are that sidecars trust at first.
    pub(super) fn root_file(&self) -> PathBuf {
        self.0.join("root.pem")
    }

    /// The folder of a workload.
    pub(super) fn workload(&self, name: &WorkloadName) -> PathBuf {
        self.0.join(format!("{}.{}", name.namespace, name.name))
    }
}

impl Drop for RunFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "cannot remove the run's folder");
        }
    }
}

/// Removes the folders of runs that were killed: they hold tokens. What cannot be removed stays.
fn remove_stale(state: &Path) {
    for entry in fs::read_dir(state).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let process = name.to_str().and_then(|name| name.strip_prefix(RUN_PREFIX));
        let process: Option<u32> = process.and_then(|process| process.parse().ok());
        if process.is_some_and(|process| !Path::new(&format!("/proc/{process}")).exists()) {
            fs::remove_dir_all(entry.path()).ok();
        }
    }
}

/// Makes a folder for us alone, and those above it.
pub(super) fn make_folder(path: &Path) -> anyhow::Result<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .with_context(|| format!("cannot make the folder {}", path.display()))
}

/// Writes a file whole: under another name first, then renamed.
pub(super) fn write(path: &Path, content: &[u8], mode: u32) -> anyhow::Result<()> {
    let beside = path.with_extension("new");
    let write = || -> io::Result<()> {
        if let Err(error) = fs::remove_file(&beside)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(&beside)?;
        file.write_all(content)?;
        fs::rename(&beside, path)
    };
    write().with_context(|| format!("cannot write {}", path.display()))
}

/// Where a workload's bootstrap is.
pub(super) fn bootstrap_path(folder: &Path) -> PathBuf {
    folder.join("bootstrap.json")
}

/// Where a workload's token is.
pub(super) fn token_path(folder: &Path) -> PathBuf {
    folder.join("token")
}

/// Writes what the sidecar of `plan` starts from, its token aside.
pub(super) fn write_bootstrap(
    plan: &WorkloadPlan,
    folder: &Path,
    local: &Local,
) -> anyhow::Result<()> {
    let inbound = plan.ports.iter().map(|port| InboundListener {
        listen: (plan.address, port.get()).into(),
        port: port.get(),
        application: ([127, 0, 0, 1], port.get()).into(),
    });
    let outbound = plan
        .outbound
        .iter()
        .map(|(authority, listen)| OutboundListener {
            listen: *listen,
            authority: authority.clone(),
        });
    let file = BootstrapFile {
        workload: plan.name.to_string(),
        service_account: plan.service_account.to_string(),
        trust_domain: local.trust_domain.to_string(),
        control_plane: local.control_plane.into(),
        control_plane_identity: local.control_plane_identity.to_string(),
        root_file: local.root_file.clone(),
        token_file: token_path(folder),
        state_dir: Some(folder.join("state")),
        admin: plan.admin(),
        health: None,
        capture: None,
        pod_address: None,
        probes: Vec::new(),
        applications_metrics: None,
        drain_seconds: None,
        admin_mutations: false,
        outbound: outbound.collect(),
        forward_proxy: Some(plan.forward_proxy()),
        inbound: inbound.collect(),
        workers: local.workers,
        memory_limit_bytes: None,
        log: local.log.clone(),
    };
    make_folder(&folder.join("state"))?;
    let json = serde_json::to_vec_pretty(&file).context("cannot write the bootstrap as JSON")?;
    write(&bootstrap_path(folder), &json, 0o600)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn files_are_replaced_whole_and_private() {
        let state = tempfile::tempdir().unwrap();
        // No process has this ID: it is above the kernel's limit.
        let stale = state.path().join("a/b/up-4194305");
        let other = state.path().join("a/b/up-to-date");
        fs::create_dir_all(stale.join("x")).unwrap();
        fs::create_dir_all(&other).unwrap();
        let folder = RunFolder::new(&state.path().join("a/b")).unwrap();
        assert!(!stale.exists());
        assert!(other.exists());
        let file = folder.0.join("token");
        for content in ["one", "two"] {
            write(&file, content.as_bytes(), 0o400).unwrap();
            assert_eq!(fs::read_to_string(&file).unwrap(), content);
        }
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&file), mode(&folder.0)), (0o400, 0o700));
        let path = folder.0.clone();
        drop(folder);
        assert!(!path.exists());
    }
}
