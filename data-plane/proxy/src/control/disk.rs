//! The last good configuration on local disk, for a start without a control plane (DESIGN §4).
//!
//! One file, [`FILE`], in the bootstrap's `state_dir`: what the application uses, and the encoded
//! resources it needs, with their versions. Never a key, and no certificate either: the trust
//! bundle stays out, a start begins with the bootstrap's roots.
//!
//! ```text
//! MAGIC | SHA-256 of the rest | Image (protobuf)
//! ```
//! It appears whole or not at all: written under another name, synced, renamed. What cannot be
//! used (too large, cut, altered, of another workload, not decodable) is an [`Unusable`]: a sidecar
//! then starts as if there were none.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::SystemTime,
};

use aws_lc_rs::digest::{SHA256, SHA256_OUTPUT_LEN, digest};
use bytes::Bytes;
use outrigger_model::{
    Authority, DestinationName, InvalidValue, ResourceKind, SpiffeId, WorkloadName,
};
use prost::Message;
use tokio::{sync::watch, task::spawn_blocking};
use tokio_util::sync::CancellationToken;

/// Its name in the folder.
const FILE: &str = "resources";
/// First bytes; the number grows when the layout changes, and older files are then ignored.
const MAGIC: &[u8; 16] = b"outrigger-disk 1";
/// Largest file, written or read: some hundred services with thousands of endpoints need 1 MB.
const BYTES_MAX: usize = 16 << 20;

/// Where a workload's file is, and whose it is.
#[derive(Debug, Clone)]
pub(super) struct Disk {
    path: PathBuf,
    workload: WorkloadName,
    identity: SpiffeId,
}

/// A resource as it was received.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kept {
    pub(super) kind: ResourceKind,
    /// Canonical.
    pub(super) name: String,
    pub(super) version: String,
    /// As encoded by the control plane: what a newer sidecar reads from it is not lost.
    pub(super) value: Bytes,
}

/// What was read.
#[derive(Debug)]
pub(super) struct Saved {
    /// What the application uses, and which destination that is.
    pub(super) used: Vec<(Authority, DestinationName)>,
    pub(super) resources: Vec<Kept>,
    /// When it was written.
    pub(super) at: SystemTime,
}

/// A file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub(super) enum Unusable {
    #[error("it cannot be read")]
    Read(#[source] io::Error),
    #[error("it has more than {BYTES_MAX} bytes")]
    TooLarge,
    #[error("it is no file of this version of outrigger-proxy")]
    Magic,
    #[error("its checksum is wrong: it was cut or altered")]
    Checksum,
    #[error("its content does not parse")]
    Parse(#[source] prost::DecodeError),
    #[error("it is of {workload} ({identity})")]
    Foreign { workload: String, identity: String },
    #[error("it holds the name {name:?}")]
    Name {
        name: String,
        #[source]
        source: InvalidValue,
    },
    #[error("it holds a resource of the unknown type {0:?}")]
    Kind(String),
}

/// The payload.
#[derive(Clone, PartialEq, Message)]
struct Image {
    #[prost(string, tag = "1")]
    workload: String,
    #[prost(string, tag = "2")]
    identity: String,
    #[prost(message, repeated, tag = "3")]
    used: Vec<Used>,
    #[prost(message, repeated, tag = "4")]
    resources: Vec<Entry>,
}

#[derive(Clone, PartialEq, Message)]
struct Used {
    #[prost(string, tag = "1")]
    authority: String,
    #[prost(string, tag = "2")]
    destination: String,
}

#[derive(Clone, PartialEq, Message)]
struct Entry {
    #[prost(string, tag = "1")]
    type_url: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    version: String,
    #[prost(bytes = "bytes", tag = "4")]
    value: Bytes,
}

impl Disk {
    /// The file of this workload in `folder`.
    pub(super) fn new(folder: &Path, workload: WorkloadName, identity: SpiffeId) -> Self {
        Self {
            path: folder.join(FILE),
            workload,
            identity,
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// What was kept; `None` when there is no file.
    ///
    /// # Errors
    /// When the file is not one to start from.
    pub(super) fn read(&self) -> Result<Option<Saved>, Unusable> {
        let file = match File::open(&self.path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Unusable::Read(error)),
        };
        let at = file.metadata().and_then(|about| about.modified());
        let at = at.map_err(Unusable::Read)?;
        let limit = u64::try_from(BYTES_MAX).unwrap_or(u64::MAX);
        let mut content = Vec::new();
        file.take(limit.saturating_add(1))
            .read_to_end(&mut content)
            .map_err(Unusable::Read)?;
        if content.len() > BYTES_MAX {
            return Err(Unusable::TooLarge);
        }
        let payload = content.strip_prefix(MAGIC).ok_or(Unusable::Magic)?;
        let (sum, payload) = payload
            .split_at_checked(SHA256_OUTPUT_LEN)
            .ok_or(Unusable::Checksum)?;
        if digest(&SHA256, payload).as_ref() != sum {
            return Err(Unusable::Checksum);
        }
        let image = Image::decode(payload).map_err(Unusable::Parse)?;
        self.saved(image, at).map(Some)
    }

    fn saved(&self, image: Image, at: SystemTime) -> Result<Saved, Unusable> {
        if image.workload != self.workload.to_string()
            || image.identity != self.identity.to_string()
        {
            return Err(Unusable::Foreign {
                workload: image.workload,
                identity: image.identity,
            });
        }
        let used = image.used.into_iter().map(|used| {
            let authority = Authority::parse(&used.authority, None);
            let destination = used.destination.parse();
            let named = |name: String| move |source| Unusable::Name { name, source };
            Ok((
                authority.map_err(named(used.authority))?,
                destination.map_err(named(used.destination))?,
            ))
        });
        let resources = image.resources.into_iter().map(|entry| {
            let kind = ResourceKind::from_type_url(&entry.type_url);
            Ok(Kept {
                kind: kind.ok_or(Unusable::Kind(entry.type_url))?,
                name: entry.name,
                version: entry.version,
                value: entry.value,
            })
        });
        Ok(Saved {
            used: used.collect::<Result<_, _>>()?,
            resources: resources.collect::<Result<_, _>>()?,
            at,
        })
    }

    /// The file's content. What would be too large is kept without its resources: the names alone
    /// still spare the first requests their wait.
    pub(super) fn encode<'a>(
        &self,
        used: impl Iterator<Item = (&'a str, &'a DestinationName)>,
        resources: impl Iterator<Item = Kept>,
    ) -> Vec<u8> {
        let used = used.map(|(authority, destination)| Used {
            authority: authority.to_owned(),
            destination: destination.to_string(),
        });
        let resources = resources.map(|kept| Entry {
            type_url: kept.kind.type_url().to_owned(),
            name: kept.name,
            version: kept.version,
            value: kept.value,
        });
        let mut image = Image {
            workload: self.workload.to_string(),
            identity: self.identity.to_string(),
            used: used.collect(),
            resources: resources.collect(),
        };
        let head = MAGIC.len() + SHA256_OUTPUT_LEN;
        if head + image.encoded_len() > BYTES_MAX {
            tracing::warn!(file = %self.path.display(), most = BYTES_MAX, "the configuration is too large to be kept on disk; only the names in use are");
            image.resources.clear();
        }
        let payload = image.encode_to_vec();
        let mut content = Vec::with_capacity(head + payload.len());
        content.extend_from_slice(MAGIC);
        content.extend_from_slice(digest(&SHA256, &payload).as_ref());
        content.extend_from_slice(&payload);
        content
    }
}

/// Writes each content that `contents` shows, the newest only; after `stop`, or when nobody makes
/// any more, what is left. Cancel safe: no, a content may be lost.
pub(super) async fn write_out(
    path: PathBuf,
    mut contents: watch::Receiver<Option<Arc<[u8]>>>,
    stop: CancellationToken,
) {
    let mut written: Option<Arc<[u8]>> = None;
    loop {
        let ending = tokio::select! {
            changed = contents.changed() => changed.is_err(),
            () = stop.cancelled() => true,
        };
        let newest = contents.borrow_and_update().clone();
        if let Some(content) = newest
            && written
                .as_ref()
                .is_none_or(|written| !Arc::ptr_eq(written, &content))
        {
            let (path_to, bytes) = (path.clone(), Arc::clone(&content));
            // Syncing may take long; nothing else of this thread waits for it.
            let result = spawn_blocking(move || write(&path_to, &bytes)).await;
            match result.map_err(io::Error::other).flatten() {
                Ok(()) => {
                    tracing::debug!(file = %path.display(), bytes = content.len(), "configuration kept on disk")
                }
                Err(error) => {
                    tracing::warn!(file = %path.display(), %error, "the configuration cannot be kept on disk; is state_dir writable and not full?");
                }
            }
            written = Some(content);
        }
        if ending {
            return;
        }
    }
}

/// Replaces the file at one stroke; it outlasts a power cut.
fn write(path: &Path, content: &[u8]) -> io::Result<()> {
    let beside = path.with_extension("new");
    match fs::remove_file(&beside) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&beside)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    match path.parent() {
        Some(folder) => File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests;
