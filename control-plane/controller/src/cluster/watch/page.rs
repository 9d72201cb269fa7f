//! A list in pages: consistent over all of them, for the server pins the version of the first.

use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::time::timeout;

use super::{End, Head, Item, Watch};
use crate::cluster::ApiError;

/// Objects of a page.
const PAGE_OBJECTS: usize = 500;
/// Largest page: objects of 100 kB each, far more than any kind's average.
const PAGE_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Longest wait for a page.
const PAGE_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Deserialize)]
struct Page<'a> {
    metadata: PageMetadata,
    // A server written in Go says null for an empty list.
    #[serde(borrow, default)]
    items: Option<Vec<&'a RawValue>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PageMetadata {
    #[serde(default)]
    resource_version: String,
    #[serde(default)]
    r#continue: String,
}

impl<G: Copy, T> Watch<G, T> {
    /// All objects, and the version of the list.
    pub(super) async fn list(&self) -> Result<(Vec<Item<T>>, String), End> {
        let mut all = Vec::new();
        let mut token = String::new();
        loop {
            let path = self.path(&format!("limit={PAGE_OBJECTS}{token}"));
            let page = timeout(PAGE_TIMEOUT, self.api.page(&path, PAGE_BYTES_MAX)).await;
            let page = page.map_err(|_| ApiError::Timeout)??;
            let page: Page<'_> =
                serde_json::from_slice(&page).map_err(|error| self.malformed(error))?;
            for object in page.items.unwrap_or_default() {
                let head: Head =
                    serde_json::from_str(object.get()).map_err(|error| self.malformed(error))?;
                if let Some(value) = (self.read)(object) {
                    let key = (head.metadata.namespace.into(), head.metadata.name.into());
                    all.push(Item { key, value });
                }
            }
            if page.metadata.r#continue.is_empty() {
                return Ok((all, page.metadata.resource_version));
            }
            token = format!("&continue={}", encode(&page.metadata.r#continue));
        }
    }
}

/// A value in a query (RFC 3986 §2.3).
fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}
