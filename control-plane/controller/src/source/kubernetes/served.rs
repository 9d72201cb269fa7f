//! Which of the kinds the API server serves now: custom ones come and go with their definitions.
//!
//! Looked up every [`LOOK`]; a kind whose definition is new joins within that. One that is gone is
//! believed to be gone only after [`GONE_LOOKS`] looks in a row: an API server that has just
//! started may not know its definitions yet.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    time::Duration,
};

use outrigger_compiler::Kind;
use serde::Deserialize;
use tokio::sync::mpsc;

use super::kinds::{Row, group_path};
use crate::cluster::{Api, ApiError, Backoff};

/// How often to look.
pub(super) const LOOK: Duration = Duration::from_secs(10);
/// Looks in a row that find nothing where something was.
pub(super) const GONE_LOOKS: u32 = 3;

/// The version in which each kind is served; kinds that are not served are not there.
pub(super) type Served = BTreeMap<Kind, &'static str>;

#[derive(Deserialize)]
struct Resources {
    #[serde(default)]
    resources: Vec<Resource>,
}

#[derive(Deserialize)]
struct Resource {
    name: String,
}

/// Looks for ever; tells of each change, and of the first look in any case.
pub(super) async fn follow(api: Api, changes: mpsc::Sender<Served>) {
    let mut known: Option<Served> = None;
    let mut missing: BTreeMap<Kind, u32> = BTreeMap::new();
    let mut backoff = Backoff::default();
    loop {
        match look(&api).await {
            Ok(found) => {
                backoff.reset();
                let before = known.as_ref();
                let now = confirm(before.unwrap_or(&found), &found, &mut missing);
                if before != Some(&now) {
                    known = Some(now.clone());
                    if changes.send(now).await.is_err() {
                        return;
                    }
                }
                tokio::time::sleep(LOOK).await;
            }
            Err(error) => {
                complain(&error);
                tokio::time::sleep(backoff.fail()).await;
            }
        }
    }
}

fn complain(error: &ApiError) {
    let cause = error as &dyn std::error::Error;
    tracing::warn!(error = cause, "the API server does not say what it serves");
}

/// What was found, with what was there before and is not missing for long enough.
fn confirm(before: &Served, found: &Served, missing: &mut BTreeMap<Kind, u32>) -> Served {
    let mut now = found.clone();
    missing.retain(|kind, _| !found.contains_key(kind));
    for (kind, version) in before {
        if found.contains_key(kind) {
            continue;
        }
        let looks = missing.entry(*kind).or_default();
        *looks += 1;
        if *looks < GONE_LOOKS {
            now.insert(*kind, version);
        }
    }
    now
}

async fn look(api: &Api) -> Result<Served, ApiError> {
    let mut served = Served::new();
    let mut looked: BTreeMap<(&str, &str), BTreeSet<String>> = BTreeMap::new();
    for (kind, row) in Row::used() {
        for version in row.readable() {
            if row.is_built_in {
                served.insert(kind, version);
                break;
            }
            let group = (row.group, version);
            let names = match looked.entry(group) {
                Entry::Occupied(names) => names.into_mut(),
                Entry::Vacant(place) => place.insert(resources(api, row.group, version).await?),
            };
            if names.contains(row.plural) {
                served.insert(kind, version);
                break;
            }
        }
    }
    Ok(served)
}

/// What a version of a group serves; nothing if there is no such version.
async fn resources(api: &Api, group: &str, version: &str) -> Result<BTreeSet<String>, ApiError> {
    match api.get::<Resources>(&group_path(group, version)).await {
        Ok(found) => Ok(found.resources.into_iter().map(|one| one.name).collect()),
        Err(error) if error.code() == Some(404) => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_gone_is_believed_after_some_looks() {
        let all = Served::from([(Kind::Pod, "v1"), (Kind::VirtualService, "v1beta1")]);
        let fewer = Served::from([(Kind::Pod, "v1")]);
        let mut missing = BTreeMap::new();
        for _ in 1..GONE_LOOKS {
            assert_eq!(confirm(&all, &fewer, &mut missing), all);
        }
        // Back in between: counted anew.
        assert_eq!(confirm(&all, &all, &mut missing), all);
        for _ in 1..GONE_LOOKS {
            assert_eq!(confirm(&all, &fewer, &mut missing), all);
        }
        assert_eq!(confirm(&all, &fewer, &mut missing), fewer);
    }

    #[test]
    fn a_better_version_is_taken_at_once() {
        let before = Served::from([(Kind::VirtualService, "v1beta1")]);
        let found = Served::from([(Kind::VirtualService, "v1")]);
        assert_eq!(confirm(&before, &found, &mut BTreeMap::new()), found);
    }
}
