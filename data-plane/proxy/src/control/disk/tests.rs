//! What is written is read again; what was cut, altered or is another's is not.

use std::os::unix::fs::PermissionsExt;

use super::*;

fn disk(folder: &Path, workload: &str) -> Disk {
    let identity = "spiffe://cluster.local/ns/shop/sa/orders".parse().unwrap();
    Disk::new(folder, workload.parse().unwrap(), identity)
}

fn payments() -> DestinationName {
    "shop/payments:9000".parse().unwrap()
}

fn kept() -> Vec<Kept> {
    let one = |kind, name: &str, value: &'static [u8]| Kept {
        kind,
        name: name.into(),
        version: format!("version of {name}"),
        value: Bytes::from_static(value),
    };
    vec![
        one(ResourceKind::Destination, "shop/payments:9000", b"bytes"),
        one(
            ResourceKind::EndpointShard,
            "shop/payments:9000/0",
            b"\0\xff",
        ),
    ]
}

fn image(disk: &Disk) -> Vec<u8> {
    let name = payments();
    disk.encode([("payments:9000", &name)].into_iter(), kept().into_iter())
}

#[test]
fn what_was_kept_comes_back() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), "shop/orders");
    assert!(disk.read().unwrap().is_none(), "nothing is no error");
    // Left behind by a process that was killed while it wrote.
    fs::write(disk.path().with_extension("new"), "half").unwrap();
    write(disk.path(), &image(&disk)).unwrap();
    let saved = disk.read().unwrap().unwrap();
    assert_eq!(saved.resources, kept());
    let (authority, destination) = &saved.used[0];
    assert_eq!(authority.to_string(), "payments:9000");
    assert_eq!(*destination, payments());
    let mode = fs::metadata(disk.path()).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let files = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(files, 1, "nothing is left beside it");
}

#[test]
fn every_altered_byte_is_seen() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), "shop/orders");
    let good = image(&disk);
    for at in 0..good.len() {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        fs::write(disk.path(), &bad).unwrap();
        let error = disk.read().expect_err("an altered file").to_string();
        assert!(
            error.contains("checksum") || at < MAGIC.len(),
            "{at}: {error}"
        );
        fs::write(disk.path(), &good[..at]).unwrap();
        assert!(disk.read().is_err(), "cut at {at}");
    }
}

#[test]
fn what_is_anothers_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ours = disk(folder.path(), "shop/orders");
    write(ours.path(), &image(&disk(folder.path(), "shop/web"))).unwrap();
    let error = ours.read().unwrap_err().to_string();
    assert!(error.contains("it is of shop/web"), "{error}");
    let other = Disk {
        identity: "spiffe://cluster.local/ns/shop/sa/web".parse().unwrap(),
        ..ours.clone()
    };
    write(ours.path(), &image(&other)).unwrap();
    let error = ours.read().unwrap_err().to_string();
    assert!(error.contains("sa/web"), "{error}");
}

#[test]
fn a_file_has_a_largest_size() {
    let folder = tempfile::tempdir().unwrap();
    let disk = disk(folder.path(), "shop/orders");
    fs::write(disk.path(), vec![0; BYTES_MAX + 1]).unwrap();
    assert!(matches!(disk.read(), Err(Unusable::TooLarge)));
    // Too much to keep: the names in use remain.
    let name = payments();
    let large = Kept {
        value: vec![7; BYTES_MAX].into(),
        ..kept().remove(0)
    };
    let used = [("payments:9000", &name)].into_iter();
    write(disk.path(), &disk.encode(used, [large].into_iter())).unwrap();
    let saved = disk.read().unwrap().unwrap();
    assert_eq!((saved.used.len(), saved.resources.len()), (1, 0));
}

#[tokio::test]
async fn the_newest_is_written_before_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join(FILE);
    let (contents, newest) = watch::channel(None);
    let stop = CancellationToken::new();
    for number in [1_u8, 2, 3] {
        contents.send_replace(Some(Arc::from([number].as_slice())));
    }
    stop.cancel();
    write_out(path.clone(), newest, stop).await;
    assert_eq!(fs::read(path).unwrap(), [3]);
}

#[tokio::test]
async fn a_folder_that_is_gone_costs_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("gone").join(FILE);
    let (contents, newest) = watch::channel(Some(Arc::from([1_u8].as_slice())));
    drop(contents);
    write_out(path.clone(), newest, CancellationToken::new()).await;
    assert!(!path.exists());
}
