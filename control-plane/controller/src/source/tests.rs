//! A real folder, real notifications.

use std::{fs, os::unix::fs::symlink};

use tempfile::TempDir;
use tokio::time::timeout;

use super::*;

/// Nothing here takes longer than a fraction of this on an idle machine; well below [`POLL`].
const DEADLINE: Duration = Duration::from_secs(20);

fn service(port: u16) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: orders}}\nspec: {{ports: [{{port: {port}}}]}}\n"
    )
}

async fn next(directory: &mut Directory) -> Update {
    timeout(DEADLINE, directory.watch()).await.unwrap()
}

/// Updates until the service has this port: one write may be seen in several looks.
async fn until_port(directory: &mut Directory, port: u16) -> Update {
    loop {
        let update = next(directory).await;
        let found = update.manifests.iter().any(|manifest| {
            let ports = manifest.node.get("spec").and_then(|spec| spec.get("ports"));
            ports.is_some_and(|ports| {
                ports.items()[0]
                    .get("port")
                    .and_then(outrigger_compiler::Node::integer)
                    == Some(port.into())
            })
        });
        if found {
            return update;
        }
    }
}

fn open(folder: &TempDir) -> (Directory, Update) {
    Directory::open(folder.path(), None).unwrap()
}

#[tokio::test]
async fn edits_renames_and_deletions_are_seen() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, service(80)).unwrap();
    let (mut directory, first) = open(&folder);
    assert_eq!(first.changes.len(), 1);

    fs::write(&path, service(81)).unwrap();
    until_port(&mut directory, 81).await;

    let beside = folder.path().join(".a.yaml.swp");
    fs::write(&beside, service(82)).unwrap();
    fs::rename(&beside, &path).unwrap();
    until_port(&mut directory, 82).await;

    fs::remove_file(&path).unwrap();
    let update = next(&mut directory).await;
    assert_eq!(update.changes[0].1, Change::Removed);
    assert!(update.manifests.is_empty());
}

#[tokio::test]
async fn a_broken_file_is_reported_and_keeps_its_objects() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, service(80)).unwrap();
    let (mut directory, _) = open(&folder);
    fs::write(&path, "kind: Service\nspec: [").unwrap();
    let update = loop {
        let update = next(&mut directory).await;
        if !update.diagnostics.is_empty() {
            break update;
        }
    };
    assert_eq!(update.manifests.len(), 1);
    assert!(update.changes.is_empty());
    let said = update.diagnostics[0].to_string();
    assert!(said.starts_with("a.yaml:2:"), "{said}");
    fs::write(&path, service(81)).unwrap();
    let update = until_port(&mut directory, 81).await;
    assert!(update.diagnostics.is_empty());
}

#[tokio::test]
async fn new_folders_are_watched() {
    let folder = tempfile::tempdir().unwrap();
    let (mut directory, first) = open(&folder);
    assert!(first.manifests.is_empty());
    let below = folder.path().join("x/y");
    fs::create_dir_all(&below).unwrap();
    fs::write(below.join("a.json"), "{\"apiVersion\": \"v1\", \"kind\": \"Service\", \"metadata\": {\"name\": \"orders\"}, \"spec\": {\"ports\": [{\"port\": 80}]}}").unwrap();
    until_port(&mut directory, 80).await;
    fs::write(below.join("a.json"), service(81)).unwrap();
    until_port(&mut directory, 81).await;
}

#[tokio::test]
async fn a_swapped_link_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path();
    for (version, port) in [("..v1", 80), ("..v2", 81)] {
        fs::create_dir(root.join(version)).unwrap();
        fs::write(root.join(version).join("a.yaml"), service(port)).unwrap();
    }
    symlink("..v1", root.join("..data")).unwrap();
    symlink("..data/a.yaml", root.join("a.yaml")).unwrap();
    let (mut directory, _) = open(&folder);
    symlink("..v2", root.join("..tmp")).unwrap();
    fs::rename(root.join("..tmp"), root.join("..data")).unwrap();
    until_port(&mut directory, 81).await;
}

#[tokio::test]
async fn a_folder_that_goes_away_takes_nothing_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("mesh");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), service(80)).unwrap();
    let (mut directory, _) = Directory::open(&root, None).unwrap();
    fs::rename(&root, folder.path().join("elsewhere")).unwrap();
    fs::write(folder.path().join("elsewhere/b.yaml"), "").unwrap();
    let update = next(&mut directory).await;
    assert_eq!(update.manifests.len(), 1);
    assert!(update.diagnostics[0].message.contains("stay in force"));
    // Back, and edited: both are seen at once, not by the next poll.
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), service(81)).unwrap();
    let update = until_port(&mut directory, 81).await;
    assert_eq!(update.diagnostics, []);
    fs::write(root.join("a.yaml"), service(82)).unwrap();
    until_port(&mut directory, 82).await;
}

/// Removed and made again within one look, which may get the same inode: the watch is another all
/// the same.
#[tokio::test]
async fn a_folder_made_again_is_watched_again() {
    let folder = tempfile::tempdir().unwrap();
    let below = folder.path().join("below");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("a.yaml"), service(80)).unwrap();
    let (mut directory, _) = open(&folder);
    let mut port = 80;
    for _ in 0..3 {
        for again in [below.as_path(), folder.path()] {
            fs::remove_dir_all(again).unwrap();
            fs::create_dir_all(&below).unwrap();
            fs::write(below.join("a.yaml"), service(port + 1)).unwrap();
            until_port(&mut directory, port + 1).await;
            fs::write(below.join("a.yaml"), service(port + 2)).unwrap();
            until_port(&mut directory, port + 2).await;
            port += 2;
        }
    }
}

#[tokio::test]
async fn a_wait_that_is_dropped_loses_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a.yaml");
    fs::write(&path, service(80)).unwrap();
    let (mut directory, _) = open(&folder);
    fs::write(&path, service(81)).unwrap();
    // The notification is taken, and the wait for quiet dropped: again and again, as a caller does
    // that listens to something busier, too.
    while !directory.is_due {
        timeout(QUIET / 5, directory.watch()).await.unwrap_err();
    }
    timeout(QUIET / 5, directory.watch()).await.unwrap_err();
    until_port(&mut directory, 81).await;
}

#[test]
fn a_missing_folder_is_an_error() {
    let folder = tempfile::tempdir().unwrap();
    let none = folder.path().join("none");
    let error = Directory::open(&none, None).err().unwrap().to_string();
    assert!(error.starts_with("no folder /"), "{error}");
    fs::write(&none, "").unwrap();
    let error = Directory::open(&none, None).err().unwrap().to_string();
    assert!(error.starts_with("no folder /"), "{error}");
}
