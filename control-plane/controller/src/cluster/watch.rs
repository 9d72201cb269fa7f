//! Every object of one kind, followed for ever: listed once, then watched.
//!
//! A list is taken as a stream where the server offers that (`sendInitialEvents`), in pages else,
//! and handed on whole, at its end: what is known stays in force until all of the new list is
//! here, and whoever takes it replaces by difference. Lists are asked for without a version and so
//! never older than what was seen. A watch begins where the list, or the watch before it, ended.
//!
//! What can happen to a watch, and what is done:
//! - it closes, as all do after some minutes: opened again from the last version;
//! - 410 Gone, the version is too old: listed again;
//! - neither event nor bookmark for [`SILENCE_MAX`] (the server sends a bookmark a minute): it is
//!   frozen, and opened again from the last version;
//! - the server is away, slow, or says no: tried again, with a growing pause; what is known stays.
//!   After [`REFUSALS_MAX`] refusals in a row the version is given up, and everything listed.
//!
//! State: the version, whether the server streams lists, the pause; owned by [`Watch::run`].

use std::{sync::Arc, time::Duration};

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{sync::mpsc, time::timeout};

use super::{Api, ApiError, Backoff, body::Lines};

mod page;
#[cfg(test)]
pub(crate) mod tests;

/// Longest silence of a watch that lives: a bookmark comes every 60 to 75 s.
pub(crate) const SILENCE_MAX: Duration = Duration::from_secs(80);
/// Refusals in a row after which everything is listed again.
const REFUSALS_MAX: u32 = 3;
/// A watch that closes sooner than this did not work.
const SHORT: Duration = Duration::from_secs(1);
/// Life of a watch that is asked for, in seconds; and up to as much again by chance, so that those
/// of all kinds do not end together.
const WATCH_SECONDS: u64 = 240;

/// The objects of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Listing {
    /// Path of the list, as in `/apis/discovery.k8s.io/v1/endpointslices`.
    pub(crate) path: String,
    /// More of the query, as in `fieldSelector=metadata.name%3Dx`; mostly empty.
    pub(crate) query: String,
}

/// Which object of a kind: namespace, empty if it has none, and name.
pub(crate) type Key = (Arc<str>, Arc<str>);

/// An object as it was read.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Item<T> {
    pub(crate) key: Key,
    pub(crate) value: T,
}

/// What became known.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Event<T> {
    /// All objects there are.
    Listed(Vec<Item<T>>),
    /// An object is new or changed.
    Put(Item<T>),
    /// An object is gone.
    Deleted(Key),
    /// What is in the way of knowing more, or nothing any more.
    Trouble(Option<Trouble>),
}

/// Why a kind is not up to date.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Trouble {
    /// A label for metrics: one of a fixed set.
    pub(crate) reason: &'static str,
    /// For people.
    pub(crate) message: String,
}

/// Reads an object of the kind, trimmed to what is used; `None` if it makes no sense.
pub(crate) type Read<T> = Arc<dyn Fn(&RawValue) -> Option<T> + Send + Sync>;

/// Follows one kind. Events carry `tag`.
pub(crate) struct Watch<G, T> {
    api: Api,
    listing: Listing,
    read: Read<T>,
    tag: G,
    events: mpsc::Sender<(G, Event<T>)>,
    version: Option<String>,
    streams_lists: bool,
    refusals: u32,
    has_trouble: bool,
    backoff: Backoff,
}

/// How one connection ended.
#[derive(Debug)]
enum End {
    /// In order.
    Closed,
    /// Its version is too old.
    Gone,
    /// Nothing came.
    Frozen,
    /// The server does not stream lists.
    NoStreaming,
    /// It went wrong.
    Failed(ApiError),
    /// Nobody takes the events any more.
    Unwanted,
}

impl From<ApiError> for End {
    fn from(error: ApiError) -> Self {
        match error.code() {
            Some(410) => Self::Gone,
            Some(_) | None => Self::Failed(error),
        }
    }
}

/// One line of a watch.
#[derive(Deserialize)]
struct Line<'a> {
    r#type: LineType,
    #[serde(borrow)]
    object: &'a RawValue,
}

#[derive(Deserialize, Clone, Copy)]
#[serde(rename_all = "UPPERCASE")]
enum LineType {
    Added,
    Modified,
    Deleted,
    Bookmark,
    Error,
}

/// What every object has.
#[derive(Debug, Deserialize)]
struct Head {
    metadata: HeadMetadata,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct HeadMetadata {
    #[serde(default)]
    namespace: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    annotations: Option<InitialEnd>,
}

/// Marks the bookmark at the end of a streamed list.
#[derive(Debug, Deserialize)]
struct InitialEnd {
    #[serde(rename = "k8s.io/initial-events-end", default)]
    is_end: String,
}

/// An `ERROR` line.
#[derive(Deserialize)]
struct Status {
    #[serde(default)]
    code: u16,
    #[serde(default)]
    message: String,
}

impl<G: Copy, T> Watch<G, T> {
    pub(crate) fn new(
        api: Api,
        listing: Listing,
        read: Read<T>,
        tag: G,
        events: mpsc::Sender<(G, Event<T>)>,
    ) -> Self {
        Self {
            api,
            listing,
            read,
            tag,
            events,
            version: None,
            streams_lists: true,
            refusals: 0,
            has_trouble: false,
            backoff: Backoff::default(),
        }
    }

    /// Until nobody takes the events any more.
    pub(crate) async fn run(mut self) {
        loop {
            let began = tokio::time::Instant::now();
            let end = match self.follow().await {
                Ok(end) | Err(end) => end,
            };
            let path = &self.listing.path;
            match end {
                End::Unwanted => return,
                End::Closed if began.elapsed() >= SHORT => continue,
                End::Closed => {}
                End::Frozen => {
                    tracing::warn!(path, "a watch was silent for too long: opened again");
                    continue;
                }
                End::Gone => {
                    tracing::info!(path, "a watch is too old: everything is listed again");
                    self.version = None;
                }
                End::NoStreaming => {
                    tracing::debug!(path, "lists are not streamed: taken in pages");
                    self.streams_lists = false;
                    continue;
                }
                End::Failed(error) => {
                    if self.failed(&error).await.is_err() {
                        return;
                    }
                }
            }
            tokio::time::sleep(self.backoff.fail()).await;
        }
    }

    /// One connection: list if nothing is known, then watch until that ends.
    async fn follow(&mut self) -> Result<End, End> {
        let mut initial = None;
        if self.version.is_none() && self.streams_lists {
            initial = Some(Vec::new());
        } else if self.version.is_none() {
            let (items, version) = self.list().await?;
            self.tell(Event::Listed(items)).await?;
            self.progressed(version).await?;
        }
        let opened = self.api.open(&self.watch_path()).await;
        // What a server that does not know, or does not allow, streamed lists answers.
        let is_unknown = |code| initial.is_some() && matches!(code, Some(400 | 422));
        let response = match opened {
            Err(error) if is_unknown(error.code()) => return Ok(End::NoStreaming),
            other => other?,
        };
        let mut lines = Lines::new(response.into_body());
        loop {
            let Ok(line) = timeout(SILENCE_MAX, lines.next()).await else {
                // Old servers take no notice of what is asked, and never mark the list's end.
                return Ok(if initial.is_some() {
                    End::NoStreaming
                } else {
                    End::Frozen
                });
            };
            let Some(line) = line.map_err(ApiError::from)? else {
                return Ok(if initial.is_some() {
                    End::NoStreaming
                } else {
                    End::Closed
                });
            };
            self.line(&line, &mut initial).await?;
        }
    }

    async fn line(&mut self, line: &[u8], initial: &mut Option<Vec<Item<T>>>) -> Result<(), End> {
        let line: Line<'_> = serde_json::from_slice(line).map_err(|error| self.malformed(error))?;
        if let LineType::Error = line.r#type {
            let status: Status =
                serde_json::from_str(line.object.get()).map_err(|error| self.malformed(error))?;
            let path = self.listing.path.clone();
            let (code, message) = (status.code, status.message);
            return Err(ApiError::Refused {
                code,
                path,
                message,
            }
            .into());
        }
        let head: Head =
            serde_json::from_str(line.object.get()).map_err(|error| self.malformed(error))?;
        let HeadMetadata {
            namespace,
            name,
            resource_version,
            annotations,
        } = head.metadata;
        let key = || (namespace.as_str().into(), name.as_str().into());
        match (line.r#type, &mut *initial) {
            (LineType::Added | LineType::Modified, initial) => {
                let Some(value) = (self.read)(line.object) else {
                    return Ok(());
                };
                let item = Item { key: key(), value };
                if let Some(initial) = initial {
                    // The version of one object is none of the list.
                    initial.push(item);
                    return Ok(());
                }
                self.tell(Event::Put(item)).await?;
            }
            (LineType::Deleted, Some(initial)) => {
                let key = key();
                initial.retain(|item| item.key != key);
                return Ok(());
            }
            (LineType::Deleted, None) => self.tell(Event::Deleted(key())).await?,
            (LineType::Bookmark, Some(items)) => {
                if annotations.is_none_or(|annotations| annotations.is_end != "true") {
                    return Ok(());
                }
                let items = std::mem::take(items);
                self.tell(Event::Listed(items)).await?;
                *initial = None;
            }
            (LineType::Bookmark | LineType::Error, _) => {}
        }
        self.progressed(resource_version).await
    }

    /// Everything up to a version is known and handed on.
    async fn progressed(&mut self, version: String) -> Result<(), End> {
        if !version.is_empty() {
            self.version = Some(version);
        }
        self.refusals = 0;
        self.backoff.reset();
        if std::mem::take(&mut self.has_trouble) {
            self.tell(Event::Trouble(None)).await?;
        }
        Ok(())
    }

    async fn failed(&mut self, error: &ApiError) -> Result<(), End> {
        self.complain(error);
        if error.code().is_some() {
            self.refusals += 1;
        }
        if self.refusals >= REFUSALS_MAX {
            self.version = None;
        }
        self.has_trouble = true;
        let trouble = Trouble {
            reason: error.reason(),
            message: error.to_string(),
        };
        self.tell(Event::Trouble(Some(trouble))).await
    }

    /// Said once; the pause says the rest.
    fn complain(&self, error: &ApiError) {
        let (path, cause) = (&self.listing.path, error as &dyn std::error::Error);
        if self.has_trouble {
            tracing::debug!(path, error = cause, "the API server gives no objects");
        } else {
            tracing::warn!(
                path,
                error = cause,
                "the API server gives no objects; trying again"
            );
        }
    }

    async fn tell(&self, event: Event<T>) -> Result<(), End> {
        let sent = self.events.send((self.tag, event)).await;
        sent.map_err(|_| End::Unwanted)
    }

    fn malformed(&self, source: serde_json::Error) -> End {
        End::Failed(ApiError::Malformed {
            path: self.listing.path.clone(),
            source,
        })
    }

    fn watch_path(&self) -> String {
        let seconds = WATCH_SECONDS + fastrand::u64(0..WATCH_SECONDS);
        let from = match &self.version {
            Some(version) => format!("&resourceVersion={version}"),
            None => "&sendInitialEvents=true&resourceVersionMatch=NotOlderThan".to_owned(),
        };
        let query = format!("watch=true&allowWatchBookmarks=true&timeoutSeconds={seconds}{from}");
        self.path(&query)
    }

    fn path(&self, query: &str) -> String {
        let Listing { path, query: more } = &self.listing;
        match more.as_str() {
            "" => format!("{path}?{query}"),
            more => format!("{path}?{more}&{query}"),
        }
    }
}
