//! The root certificate in a ConfigMap of every namespace, kept true: one that is missing is made,
//! one that says something else is put right, within moments of either.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use k8s_openapi::api::core::v1::ConfigMap;
use outrigger_model::Namespace;
use serde::Deserialize;
use serde_json::value::RawValue;
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::super::{
    Api, ApiError,
    owner::Owner,
    watch::{Event, Item, Listing, Watch},
};

/// Name of the ConfigMap.
pub const CONFIG_MAP: &str = "outrigger-root";
/// Its key.
const KEY: &str = "ca.crt";
/// Events that wait.
const EVENTS_MAX: usize = 64;
/// Pause after one round in which a ConfigMap could not be written: a namespace that is being
/// deleted refuses new objects until it is gone.
const RETRY: Duration = Duration::from_secs(5);

/// What is read of a ConfigMap: its `ca.crt`, empty if it has none.
type Held = BTreeMap<Arc<str>, String>;

#[derive(Deserialize)]
struct View {
    #[serde(default)]
    data: Option<BTreeMap<String, String>>,
}

/// Keeps the ConfigMap of every namespace at what `roots` says (PEM), for ever. Cancel safe: yes.
pub async fn keep(
    api: Api,
    mut namespaces: watch::Receiver<BTreeSet<Namespace>>,
    mut roots: watch::Receiver<String>,
    owner: Owner,
) {
    let (to_events, mut events) = mpsc::channel(EVENTS_MAX);
    let listing = Listing {
        path: "/api/v1/configmaps".to_owned(),
        query: format!("fieldSelector=metadata.name%3D{CONFIG_MAP}"),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(Watch::new(api.clone(), listing, Arc::new(read), (), to_events).run());
    let mut held: Option<Held> = None;
    let mut is_done = false;
    loop {
        tokio::select! {
            Some(((), event)) = events.recv() => {
                take(&mut held, event);
                is_done = false;
            }
            Ok(()) = namespaces.changed() => is_done = false,
            Ok(()) = roots.changed() => is_done = false,
            () = tokio::time::sleep(RETRY), if !is_done && held.is_some() => {}
        }
        let Some(held) = &mut held else {
            continue;
        };
        // More events are at hand: they may be our own writes.
        if !events.is_empty() {
            continue;
        }
        let root = roots.borrow_and_update().clone();
        let wanted = namespaces.borrow_and_update().clone();
        is_done = put_right(&api, &wanted, &root, &owner, held).await;
    }
}

fn read(raw: &RawValue) -> Option<String> {
    let view: View = serde_json::from_str(raw.get()).ok()?;
    Some(
        view.data
            .and_then(|mut data| data.remove(KEY))
            .unwrap_or_default(),
    )
}

fn take(held: &mut Option<Held>, event: Event<String>) {
    match event {
        Event::Listed(items) => {
            let items = items.into_iter();
            *held = Some(
                items
                    .map(
                        |Item {
                             key: (namespace, _),
                             value,
                         }| (namespace, value),
                    )
                    .collect(),
            );
        }
        Event::Put(Item {
            key: (namespace, _),
            value,
        }) => {
            held.get_or_insert_default().insert(namespace, value);
        }
        Event::Deleted((namespace, _)) => {
            held.get_or_insert_default().remove(&namespace);
        }
        Event::Trouble(_) => {}
    }
}

/// Writes what is not as it should be. Says whether all is.
async fn put_right(
    api: &Api,
    namespaces: &BTreeSet<Namespace>,
    root: &str,
    owner: &Owner,
    held: &mut Held,
) -> bool {
    let mut is_done = true;
    for namespace in namespaces {
        let present = held.get(namespace.as_str());
        if present.is_some_and(|present| present == root) {
            continue;
        }
        match write(api, namespace, root, owner, present.is_some()).await {
            Ok(()) => drop(held.insert(namespace.as_str().into(), root.to_owned())),
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::debug!(%namespace, error = cause, "the root certificate was not handed out");
                is_done = false;
            }
        }
    }
    is_done
}

async fn write(
    api: &Api,
    namespace: &Namespace,
    root: &str,
    owner: &Owner,
    is_there: bool,
) -> Result<(), ApiError> {
    let folder = format!("/api/v1/namespaces/{namespace}/configmaps");
    let map = ConfigMap {
        metadata: owner.metadata(CONFIG_MAP),
        data: Some([(KEY.to_owned(), root.to_owned())].into()),
        ..ConfigMap::default()
    };
    let _: ConfigMap = if is_there {
        api.merge(&format!("{folder}/{CONFIG_MAP}"), &map).await?
    } else {
        api.create(&folder, &map).await?
    };
    tracing::info!(%namespace, "the root certificate is handed out");
    Ok(())
}
