//! Where objects come from (DESIGN §2): a manifest folder, or the Kubernetes API. Nothing after the
//! [`Source`] knows which it was.
//!
//! # The manifest folder
//!
//! Watched, parsed, and turned into changes.
//!
//! [`Directory::open`] reads the folder once; [`Directory::watch`] then yields an [`Update`]
//! whenever its files differ from what was seen. The system's notifications only say when to look
//! again: what is there is always read from the folder itself, whole, so that a lost, doubled or
//! misleading notification (atomic renames, `..data` link swaps) cannot leave a wrong picture.
//!
//! Invariants: a look follows every burst of notifications by [`QUIET`] (at most [`BUSY`] after its
//! first), and every [`POLL`] anyway, for file systems that notify nobody. What cannot be read, the
//! folder itself or one below, changes nothing: its objects stay in force, and the error is a
//! diagnostic. A folder that is made again in the place of another is watched again.

mod difference;
mod folder;
#[cfg(feature = "kubernetes")]
mod kubernetes;
mod manifest;
mod store;

use std::{
    collections::BTreeMap,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    time::Duration,
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use outrigger_compiler::{Code, Diagnostic, Severity};
use tokio::{
    sync::mpsc,
    time::{Instant, timeout_at},
};

pub use difference::{FIELDS_MAX, FieldChange};
pub use folder::{DEPTH_MAX, FILE_BYTES_MAX, FILES_MAX};
#[cfg(feature = "kubernetes")]
pub use kubernetes::{Cluster, KnownPod, Kubernetes};
pub use store::{Change, Manifest, Transform, Update};

use store::Store;

/// How long a burst of notifications must be quiet before the folder is read: an editor writes a
/// file in several steps within a few milliseconds.
pub const QUIET: Duration = Duration::from_millis(50);
/// Longest wait for quiet.
pub const BUSY: Duration = Duration::from_millis(500);
/// The folder is read this often without any notification.
pub const POLL: Duration = Duration::from_secs(30);
/// While the folder is away, nobody notifies: it is looked for this often.
pub const AWAY: Duration = Duration::from_millis(500);
/// A folder that is new must be read after it is watched, or what is put into it in between is
/// overlooked: so often at once, and by the next look if they keep coming.
const LOOKS_MAX: usize = 8;

/// The folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// There is none.
    #[error("no folder {}; give one with manifests in it", path.display())]
    Missing {
        /// The folder.
        path: PathBuf,
    },
    /// It cannot be read.
    #[error("cannot read the folder {}; give one with manifests in it", path.display())]
    Folder {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The system gives no watch.
    #[error("cannot watch the folder {}; see fs.inotify.max_user_watches and max_user_instances", path.display())]
    Watch {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: notify::Error,
    },
}

/// Where objects come from.
#[expect(missing_debug_implementations, reason = "holds a foreign transform")]
pub enum Source {
    /// A folder of manifests.
    Directory(Box<Directory>),
    /// A cluster.
    #[cfg(feature = "kubernetes")]
    Kubernetes(Box<Kubernetes>),
}

impl Source {
    /// The next update that says anything new. Cancel safe: yes.
    pub async fn watch(&mut self) -> Update {
        match self {
            Self::Directory(directory) => directory.watch().await,
            #[cfg(feature = "kubernetes")]
            Self::Kubernetes(cluster) => cluster.watch().await,
        }
    }

    /// Whether every object is one that somebody wrote, and is told what became of it.
    #[must_use]
    pub fn is_written(&self) -> bool {
        matches!(self, Self::Directory(_))
    }
}

/// A watched folder. Owner of all state about its files.
#[expect(missing_debug_implementations, reason = "holds a foreign transform")]
pub struct Directory {
    root: PathBuf,
    store: Store,
    transform: Option<Box<dyn Transform>>,
    watcher: RecommendedWatcher,
    /// By path, which folder is meant: device and inode.
    watched: BTreeMap<PathBuf, (u64, u64)>,
    /// The folder could not be read when last looked at.
    is_away: bool,
    /// Capacity 1: that something happened is all that counts.
    happened: mpsc::Receiver<()>,
    /// A notification was taken and not looked after yet: kept here, not in the future that
    /// waits for quiet, which may be dropped.
    is_due: bool,
    said: Vec<Diagnostic>,
}

impl Directory {
    /// Reads the folder and begins to watch it. Blocks for as long as reading takes.
    ///
    /// # Errors
    /// When the folder cannot be read or watched; what is wrong in it is in the update.
    pub fn open(
        root: &Path,
        transform: Option<Box<dyn Transform>>,
    ) -> Result<(Self, Update), SourceError> {
        let watch_error = |source| SourceError::Watch {
            path: root.to_owned(),
            source,
        };
        if !root.is_dir() {
            // One that is there and hidden from us says so when it is read.
            match fs::metadata(root) {
                Err(source) if source.kind() != io::ErrorKind::NotFound => {
                    let path = root.to_owned();
                    return Err(SourceError::Folder { path, source });
                }
                Ok(_) | Err(_) => {
                    let path = root.to_owned();
                    return Err(SourceError::Missing { path });
                }
            }
        }
        let (notice, happened) = mpsc::channel(1);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // A read is an event, too, and ours would follow one another for ever.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                // Full: the look that is due will see this as well.
                notice.try_send(()).ok();
            }
        })
        .map_err(watch_error)?;
        let mut directory = Self {
            root: root.to_owned(),
            store: Store::default(),
            transform,
            watcher,
            watched: BTreeMap::new(),
            is_away: false,
            happened,
            is_due: false,
            said: Vec::new(),
        };
        directory
            .watch_folders(&[root.to_owned()])
            .map_err(watch_error)?;
        let update = directory.look().map_err(|source| SourceError::Folder {
            path: root.to_owned(),
            source,
        })?;
        Ok((directory, update))
    }

    /// The next update that says anything new. Cancel safe: yes, an update is made whole between
    /// two awaits, and what was not yet looked at is looked at by the next call.
    pub async fn watch(&mut self) -> Update {
        loop {
            let poll = Instant::now() + if self.is_away { AWAY } else { POLL };
            if self.is_due || matches!(timeout_at(poll, self.happened.recv()).await, Ok(Some(()))) {
                self.is_due = true;
                let busy = Instant::now() + BUSY;
                while let Ok(Some(())) =
                    timeout_at(busy.min(Instant::now() + QUIET), self.happened.recv()).await
                {
                    if Instant::now() >= busy {
                        break;
                    }
                }
            }
            self.is_due = false;
            let before = self.said.clone();
            let update = self.look();
            self.is_away = update.is_err();
            let update = update.unwrap_or_else(|error| self.unreadable(&error));
            if !update.changes.is_empty() || update.diagnostics != before {
                return update;
            }
        }
    }

    fn look(&mut self) -> io::Result<Update> {
        // What changes after a folder is watched is told; what changed before is read.
        let known: Vec<_> = self.watched.keys().cloned().collect();
        // An error is said below, where it comes again.
        drop(self.watch_folders(&known));
        let mut scan = folder::scan(&self.root)?;
        for _ in 0..LOOKS_MAX {
            match self.watch_folders(&scan.folders) {
                Ok(false) => break,
                Ok(true) => scan = folder::scan(&self.root)?,
                Err(error) => {
                    scan.problems.push(format!(
                        "a folder cannot be watched ({error}): edits in it take up to {} s",
                        POLL.as_secs()
                    ));
                    break;
                }
            }
        }
        let transform = self.transform.as_deref_mut();
        let update = self.store.update(
            scan,
            transform.map(|transform| transform as &mut dyn Transform),
        );
        self.said.clone_from(&update.diagnostics);
        Ok(update)
    }

    /// Nothing changed, but the folder cannot be read.
    fn unreadable(&mut self, error: &io::Error) -> Update {
        let root = self.root.display();
        self.said = vec![Diagnostic {
            severity: Severity::Error,
            code: Code::InvalidObject,
            object: None,
            path: String::new(),
            position: None,
            message: format!(
                "cannot read the folder {root} ({error}); its objects stay in force until it is back"
            ),
        }];
        Update {
            changes: Vec::new(),
            manifests: self.store.in_force(),
            diagnostics: self.said.clone(),
        }
    }

    /// Watches these folders and no others. Folders, not files: an atomic rename replaces the file.
    /// Says whether any of them was not watched before.
    ///
    /// A watch ends with its folder, and a folder made again may even get the same inode: so every
    /// look asks for every watch, which the kernel answers with the one that there is.
    fn watch_folders(&mut self, folders: &[PathBuf]) -> notify::Result<bool> {
        let mut is_new = false;
        let mut watched = BTreeMap::new();
        for folder in folders {
            let Ok(metadata) = fs::metadata(folder) else {
                // Gone since it was listed: its parent's watch tells.
                continue;
            };
            let which = (metadata.dev(), metadata.ino());
            let before = self.watched.remove(folder);
            if before.is_some_and(|before| before != which) {
                // Another stands in its place. An error says that its watch has ended with it.
                drop(self.watcher.unwatch(folder));
            }
            self.watcher.watch(folder, RecursiveMode::NonRecursive)?;
            is_new |= before != Some(which);
            watched.insert(folder.clone(), which);
        }
        for gone in std::mem::replace(&mut self.watched, watched).keys() {
            // It may be gone from the disk already, and its watch with it.
            drop(self.watcher.unwatch(gone));
        }
        Ok(is_new)
    }
}

#[cfg(test)]
mod tests;
