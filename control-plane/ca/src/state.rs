//! Files with secrets: the state folder, and keys brought by the user.
//!
//! The folder is made with mode 0700, its keys with 0600. A file appears whole or not at all: it
//! is written under another name, flushed, then renamed. Whoever reads or makes state holds the
//! folder's lock, so that of two control planes started together one makes the root and the other
//! finds it. The lock is the kernel's: it ends with its holder, and a holder needs milliseconds.

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use zeroize::Zeroizing;

/// Largest certificate or key file read: a dozen certificates are below 32 KiB.
const FILE_BYTES_MAX: u64 = 128 * 1024;

/// A state folder or one of its files could not be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// The operating system refused.
    #[error("cannot {action} {}; {hint}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// What to do about it.
        hint: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Others may read the key.
    #[error(
        "{} has mode {mode:04o}, so others may read the private key; run: chmod {wanted} {}",
        path.display(), path.display()
    )]
    KeyExposed {
        /// The key file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The permissions to give it, as chmod takes them.
        wanted: &'static str,
    },
    /// Others may replace files in the folder.
    #[error(
        "others may write to the state folder {} (mode {mode:04o}); run: chmod 700 {}",
        path.display(), path.display()
    )]
    FolderExposed {
        /// The folder.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not a file of certificates or keys.
    #[error("{} is larger than {FILE_BYTES_MAX} bytes; give a PEM file", path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
}

impl StateError {
    pub(crate) fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        let hint = match source.kind() {
            io::ErrorKind::NotFound => "check the path",
            io::ErrorKind::PermissionDenied => "check its owner and permissions",
            io::ErrorKind::StorageFull => "free some disk space",
            io::ErrorKind::ReadOnlyFilesystem => "give a folder on a writable file system",
            _ => "see the cause",
        };
        Self::Io {
            action,
            path: path.to_owned(),
            hint,
            source,
        }
    }
}

/// Who, besides its owner, may read a private key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeyAccess {
    /// Nobody: keys in our own folder.
    Owner,
    /// The group: a Secret mounted for a non-root user is readable through `fsGroup`.
    OwnerAndGroup,
}

/// A state folder, locked for as long as the value lives.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Makes the folder if it is missing (parents too) and waits for its lock.
    pub(crate) fn open(path: &Path) -> Result<Self, StateError> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path)
            .map_err(|e| StateError::io("create the state folder", path, e))?;
        let metadata =
            fs::metadata(path).map_err(|e| StateError::io("look at the state folder", path, e))?;
        let mode = metadata.mode() & 0o7777;
        if mode & 0o022 != 0 {
            return Err(StateError::FolderExposed {
                path: path.to_owned(),
                mode,
            });
        }
        let lock_path = path.join("lock");
        let lock = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(&lock_path)
            .map_err(|e| StateError::io("open", &lock_path, e))?;
        lock.lock()
            .map_err(|e| StateError::io("lock", &lock_path, e))?;
        Ok(Self {
            path: path.to_owned(),
            _lock: lock,
        })
    }

    pub(crate) fn path_of(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    pub(crate) fn exists(&self, name: &str) -> Result<bool, StateError> {
        let path = self.path_of(name);
        path.try_exists()
            .map_err(|e| StateError::io("look at", &path, e))
    }

    /// Writes a file whole, with mode 0600: it survives a crash right after the return.
    pub(crate) fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.path_of(name);
        let partial = self.path_of(&format!("{name}.partial"));
        // Left over from a crash; the lock says that nobody is writing it now.
        match fs::remove_file(&partial) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(StateError::io("remove", &partial, e));
            }
            Ok(()) | Err(_) => {}
        }
        let written = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(&partial)
            .and_then(|mut file| {
                // The umask may only take bits away; a stricter one must not take our own.
                file.set_permissions(fs::Permissions::from_mode(0o600))?;
                file.write_all(bytes)?;
                file.sync_all()
            });
        written.map_err(|e| StateError::io("write", &partial, e))?;
        fs::rename(&partial, &path).map_err(|e| StateError::io("create", &path, e))?;
        File::open(&self.path)
            .and_then(|folder| folder.sync_all())
            .map_err(|e| StateError::io("flush the state folder", &self.path, e))
    }
}

/// Reads a certificate file.
pub(crate) fn read_public(path: &Path) -> Result<Vec<u8>, StateError> {
    let file = File::open(path).map_err(|e| StateError::io("read", path, e))?;
    let mut bytes = Vec::new();
    read_bounded(file, path, &mut bytes)?;
    Ok(bytes)
}

/// Reads a key file, unless others than `access` says may read it too.
pub(crate) fn read_secret(
    path: &Path,
    access: KeyAccess,
) -> Result<Zeroizing<Vec<u8>>, StateError> {
    let file = File::open(path).map_err(|e| StateError::io("read", path, e))?;
    let metadata = file
        .metadata()
        .map_err(|e| StateError::io("look at", path, e))?;
    let mode = metadata.mode() & 0o7777;
    let (refused, wanted) = match access {
        KeyAccess::Owner => (0o077, "600"),
        KeyAccess::OwnerAndGroup => (0o027, "640"),
    };
    if mode & refused != 0 {
        return Err(StateError::KeyExposed {
            path: path.to_owned(),
            mode,
            wanted,
        });
    }
    // Room for the largest file at once: a buffer that grows leaves copies of the key behind.
    let capacity = usize::try_from(metadata.len().min(FILE_BYTES_MAX) + 1).unwrap_or(0);
    let mut bytes = Zeroizing::new(Vec::with_capacity(capacity));
    read_bounded(file, path, &mut bytes)?;
    Ok(bytes)
}

fn read_bounded(file: File, path: &Path, bytes: &mut Vec<u8>) -> Result<(), StateError> {
    let count = file
        .take(FILE_BYTES_MAX + 1)
        .read_to_end(bytes)
        .map_err(|e| StateError::io("read", path, e))?;
    if u64::try_from(count).is_ok_and(|count| count <= FILE_BYTES_MAX) {
        Ok(())
    } else {
        Err(StateError::TooLarge {
            path: path.to_owned(),
        })
    }
}
