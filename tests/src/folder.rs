//! A folder of manifests, and one for the state of what runs on it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use tempfile::TempDir;

/// What `outrigger up` works on, and its state beside it: not where a person's own mesh keeps its
/// keys. Both go when it is dropped.
#[derive(Debug)]
pub struct Folder(TempDir);

impl Folder {
    /// An empty one.
    ///
    /// # Panics
    /// When the system gives none.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder can be made");
        fs::create_dir(folder.path().join("mesh")).expect("a folder in it can be made");
        Self(folder)
    }

    /// Where manifests are.
    #[must_use]
    pub fn manifests(&self) -> PathBuf {
        self.0.path().join("mesh")
    }

    /// For `--state-dir`; what runs makes it.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.0.path().join("state")
    }

    /// Writes a file of manifests at one stroke, as careful editors do.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) -> &Self {
        let path = self.manifests().join(name);
        let beside = path.with_extension("new");
        fs::write(&beside, text).expect("a file can be written");
        fs::rename(beside, path).expect("a file can be renamed");
        self
    }

    /// Removes one.
    ///
    /// # Panics
    /// When there is none.
    pub fn remove(&self, name: &str) {
        fs::remove_file(self.manifests().join(name)).expect("a file can be removed");
    }

    /// `BINARY up` on it.
    #[must_use]
    pub fn up(&self, binary: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(binary);
        command
            .arg("up")
            .arg(self.manifests())
            .arg("--state-dir")
            .arg(self.state())
            .args(arguments);
        command
    }
}

impl Default for Folder {
    fn default() -> Self {
        Self::new()
    }
}
