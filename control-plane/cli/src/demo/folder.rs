//! The shop's mesh configuration, carried in the binary and written to a temporary folder, so that
//! the demo runs from anywhere and its edits go through the same directory source as a user's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::canary;

macro_rules! carried {
    ($name:literal) => {
        (
            $name,
            include_str!(concat!("../../../../examples/shop/mesh/", $name)),
        )
    };
}

/// Every file of examples/shop/mesh.
const FILES: [(&str, &str); 8] = [
    carried!("inventory.yaml"),
    carried!("namespace.yaml"),
    carried!("order-service.yaml"),
    carried!("payments.yaml"),
    carried!("product-service.yaml"),
    carried!("service-accounts.yaml"),
    carried!("services.yaml"),
    carried!("workloads.yaml"),
];

/// A file that could not be written or read, or is not what it was.
#[derive(Debug, thiserror::Error)]
pub(super) enum FolderError {
    /// The temporary folder itself.
    #[error("cannot make a temporary folder for the shop's configuration (TMPDIR chooses where)")]
    Create(#[source] io::Error),
    /// One file.
    #[error("cannot access {path}")]
    Access {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file that somebody changed beyond recognition.
    #[error("{path}: {source}")]
    Edit {
        /// Where.
        path: PathBuf,
        /// Why.
        source: canary::EditError,
    },
}

/// The folder; gone with all in it when dropped.
#[derive(Debug)]
pub(super) struct Folder {
    root: tempfile::TempDir,
}

impl Folder {
    /// Writes the shop's configuration to a new temporary folder.
    ///
    /// # Errors
    /// If it cannot be made or written.
    pub(super) fn create() -> Result<Self, FolderError> {
        let root = tempfile::Builder::new()
            .prefix("outrigger-demo-")
            .tempdir()
            .map_err(FolderError::Create)?;
        let folder = Self { root };
        let mesh = folder.mesh();
        for path in [&mesh, &folder.logs()] {
            fs::create_dir(path).map_err(|source| FolderError::Access {
                path: path.clone(),
                source,
            })?;
        }
        for (name, text) in FILES {
            write(&mesh.join(name), text)?;
        }
        Ok(folder)
    }

    /// The configuration.
    pub(super) fn mesh(&self) -> PathBuf {
        self.root.path().join("mesh")
    }

    /// Where the control plane of this run keeps its state.
    pub(super) fn state(&self) -> PathBuf {
        self.root.path().join("state")
    }

    /// Where sidecars and applications write while the terminal is drawn on.
    pub(super) fn logs(&self) -> PathBuf {
        self.root.path().join("logs")
    }

    /// The weight of a service's canary, as its VirtualService has it now.
    ///
    /// # Errors
    /// If the file cannot be read or has no such weight.
    pub(super) fn weight(&self, service: &str) -> Result<u8, FolderError> {
        let path = self.path(service);
        let text = read(&path)?;
        canary::weight(&text).map_err(|source| FolderError::Edit { path, source })
    }

    /// Moves the weight of a service's canary by `step` within 0 to 100 and returns the new one.
    ///
    /// # Errors
    /// If the file cannot be read, has no such weight, or cannot be replaced.
    pub(super) fn shift(&self, service: &str, step: i8) -> Result<u8, FolderError> {
        let path = self.path(service);
        let text = read(&path)?;
        let edit = |source| FolderError::Edit {
            path: path.clone(),
            source,
        };
        let old = canary::weight(&text).map_err(edit)?;
        let new = old.saturating_add_signed(step).min(100);
        let edited = canary::set_weight(&text, new).map_err(edit)?;
        write(&path, &edited)?;
        Ok(new)
    }

    fn path(&self, service: &str) -> PathBuf {
        self.mesh().join(format!("{service}.yaml"))
    }
}

fn read(path: &Path) -> Result<String, FolderError> {
    fs::read_to_string(path).map_err(|source| FolderError::Access {
        path: path.to_owned(),
        source,
    })
}

/// Writes beside the file and renames, so that nobody reads half of it.
fn write(path: &Path, text: &str) -> Result<(), FolderError> {
    let beside = path.with_extension("new");
    fs::write(&beside, text)
        .and_then(|()| fs::rename(&beside, path))
        .map_err(|source| FolderError::Access {
            path: path.to_owned(),
            source,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_of_the_shop_is_carried() {
        let shop = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/shop/mesh");
        let mut there: Vec<_> = fs::read_dir(shop)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        there.sort();
        let carried: Vec<_> = FILES.iter().map(|(name, _)| *name).collect();
        assert_eq!(there, carried);
    }

    #[test]
    fn weights_are_moved_in_the_files() {
        let folder = Folder::create().unwrap();
        for service in ["payments", "order-service", "product-service"] {
            assert_eq!(folder.weight(service).unwrap(), 10, "{service}");
            assert_eq!(folder.shift(service, 10).unwrap(), 20);
            assert_eq!(folder.shift(service, -50).unwrap(), 0);
            assert_eq!(folder.shift(service, 120).unwrap(), 100);
            assert_eq!(folder.weight(service).unwrap(), 100);
        }
        assert!(folder.weight("inventory").is_err());
        let root = folder.root.path().to_owned();
        drop(folder);
        assert!(!root.exists());
    }
}
