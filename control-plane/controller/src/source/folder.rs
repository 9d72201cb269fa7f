//! The files of a manifest folder, as they are now.
//!
//! Every `*.yaml`, `*.yml` and `*.json` below the folder, sorted by path, hidden names left out:
//! editors keep their own files there, and a mounted ConfigMap its `..data` folders (the files
//! beside them are links into it and count). Links are followed; a folder is visited once.
//!
//! Bounds: [`FILES_MAX`] files, [`FILE_BYTES_MAX`] each, [`DEPTH_MAX`] levels. What lies beyond is
//! reported and left out, the rest is used.

use std::{
    collections::{BTreeMap, HashSet},
    fs, io,
    io::Read,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Most files read: a mesh of a thousand services in a file per object stays below it.
pub const FILES_MAX: usize = 10_000;
/// Largest file read: some 10,000 objects of 400 bytes.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;
/// Levels of folders below the root.
pub const DEPTH_MAX: usize = 32;

/// What a file holds: its text, or why it cannot be read.
pub(super) type Content = Result<String, String>;

/// All files by their path relative to the folder, and the folders to watch.
#[derive(Debug, Default)]
pub(super) struct Scan {
    pub(super) files: BTreeMap<Arc<str>, Content>,
    /// Every folder on the way, also those that links lead to.
    pub(super) folders: Vec<PathBuf>,
    /// Files and folders that are there and cannot be read; relative to the folder.
    pub(super) unreadable: Vec<Arc<str>>,
    /// Problems that are not of one file.
    pub(super) problems: Vec<String>,
}

/// Reads the folder. Blocks.
///
/// # Errors
/// When the folder itself cannot be read; what is wrong below it is in the scan.
pub(super) fn scan(root: &Path) -> io::Result<Scan> {
    let mut scan = Scan::default();
    let mut seen = HashSet::new();
    seen.insert(fs::canonicalize(root)?);
    visit(root, root, 0, &mut seen, &mut scan)?;
    Ok(scan)
}

impl Scan {
    /// Whether a file, by its relative path, may be there all the same.
    pub(super) fn is_hidden(&self, path: &str) -> bool {
        let mut unreadable = self.unreadable.iter();
        unreadable.any(|hidden| {
            let below = path.strip_prefix(hidden.as_ref());
            below.is_some_and(|below| below.is_empty() || below.starts_with('/'))
        })
    }

    /// What is gone since it was listed, and links to nowhere, are no problem: the next look tells.
    fn cannot_read(&mut self, name: Arc<str>, error: &io::Error) {
        if error.kind() != io::ErrorKind::NotFound {
            self.problems.push(format!(
                "cannot read {name} ({error}); objects that came from it stay in force"
            ));
            self.unreadable.push(name);
        }
    }
}

fn visit(
    root: &Path,
    folder: &Path,
    depth: usize,
    seen: &mut HashSet<PathBuf>,
    scan: &mut Scan,
) -> io::Result<()> {
    scan.folders.push(folder.to_owned());
    let mut entries: Vec<PathBuf> = fs::read_dir(folder)?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| !is_hidden(path))
        .collect();
    entries.sort();
    for path in entries {
        let metadata = match fs::metadata(&path) {
            Ok(metadata) => metadata,
            Err(error) => {
                scan.cannot_read(relative(root, &path), &error);
                continue;
            }
        };
        if metadata.is_dir() {
            let real = match fs::canonicalize(&path) {
                Ok(real) => real,
                Err(error) => {
                    scan.cannot_read(relative(root, &path), &error);
                    continue;
                }
            };
            if depth >= DEPTH_MAX {
                let name = relative(root, &path);
                scan.problems.push(format!(
                    "{name} is not read: it is more than {DEPTH_MAX} folders deep"
                ));
            } else if seen.insert(real)
                && let Err(error) = visit(root, &path, depth + 1, seen, scan)
            {
                scan.cannot_read(relative(root, &path), &error);
            }
        } else if metadata.is_file() && is_manifest(&path) {
            if scan.files.len() >= FILES_MAX {
                scan.problems.push(format!(
                    "more than {FILES_MAX} files: those after {} are not read",
                    relative(root, &path)
                ));
                return Ok(());
            }
            scan.files.insert(relative(root, &path), read(&path));
        }
    }
    Ok(())
}

fn is_hidden(path: &Path) -> bool {
    path.file_name()
        .is_none_or(|name| name.as_encoded_bytes().starts_with(b"."))
}

fn is_manifest(path: &Path) -> bool {
    path.extension()
        .is_some_and(|extension| extension == "yaml" || extension == "yml" || extension == "json")
}

fn relative(root: &Path, path: &Path) -> Arc<str> {
    path.strip_prefix(root)
        .unwrap_or(path)
        .to_string_lossy()
        .into()
}

fn read(path: &Path) -> Content {
    let mut bytes = Vec::new();
    fs::File::open(path)
        .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
        .map_err(|error| format!("cannot read the file: {error}"))?;
    if u64::try_from(bytes.len()).unwrap_or(u64::MAX) > FILE_BYTES_MAX {
        return Err(format!(
            "the file is larger than {FILE_BYTES_MAX} bytes: split it"
        ));
    }
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        format!("the file is not UTF-8 text (byte {at})")
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn files_are_found_and_others_left_out() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        fs::create_dir_all(path.join("b/c")).unwrap();
        fs::create_dir_all(path.join(".git")).unwrap();
        fs::create_dir_all(path.join("..2026")).unwrap();
        for name in [
            "z.yaml",
            "a.yml",
            "b/c/x.json",
            "b/readme.md",
            ".hidden.yaml",
            ".git/x.yaml",
            "..2026/m.yaml",
            "b/old.yaml~",
        ] {
            fs::write(path.join(name), name).unwrap();
        }
        symlink("..2026", path.join("..data")).unwrap();
        symlink("..data/m.yaml", path.join("m.yaml")).unwrap();
        symlink("..", path.join("b/loop")).unwrap();
        symlink("nowhere", path.join("gone.yaml")).unwrap();
        symlink("itself", path.join("itself")).unwrap();
        fs::write(path.join("bin.yaml"), b"a: \xff").unwrap();
        let scan = scan(path).unwrap();
        let names: Vec<_> = scan.files.keys().map(AsRef::as_ref).collect();
        assert_eq!(
            names,
            ["a.yml", "b/c/x.json", "bin.yaml", "m.yaml", "z.yaml"]
        );
        assert_eq!(scan.files["m.yaml"], Ok("..2026/m.yaml".to_owned()));
        assert!(
            scan.files["bin.yaml"]
                .as_ref()
                .unwrap_err()
                .contains("UTF-8")
        );
        assert_eq!(scan.problems.len(), 1);
        assert!(
            scan.problems[0].starts_with("cannot read itself ("),
            "{:?}",
            scan.problems
        );
        for (path, hidden) in [
            ("itself", true),
            ("itself/a/b.yaml", true),
            ("itself.yaml", false),
            ("a/itself/b.yaml", false),
        ] {
            assert_eq!(scan.is_hidden(path), hidden, "{path}");
        }
    }

    #[test]
    fn what_is_too_large_is_said() {
        let root = tempfile::tempdir().unwrap();
        let big = fs::File::create(root.path().join("big.yaml")).unwrap();
        big.set_len(FILE_BYTES_MAX + 1).unwrap();
        let scan = scan(root.path()).unwrap();
        assert!(
            scan.files["big.yaml"]
                .as_ref()
                .unwrap_err()
                .contains("larger")
        );
    }

    #[test]
    fn a_missing_folder_is_an_error() {
        let root = tempfile::tempdir().unwrap();
        assert!(scan(&root.path().join("none")).is_err());
    }
}
