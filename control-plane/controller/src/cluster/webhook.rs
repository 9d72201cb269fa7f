//! What the API server trusts when it calls our webhooks: `caBundle` in a
//! MutatingWebhookConfiguration, kept true by the replica that has the Lease.
//!
//! The configuration itself is the chart's. Of it only `caBundle` is written, entry by entry and on
//! the condition that the entry is still the one that was seen; one that is right already is left
//! alone. A change by anybody is seen at once, by a watch.

use std::{sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue};
use tokio::{
    sync::{mpsc, watch},
    task::JoinSet,
};

use super::{
    Api, ApiError,
    watch::{Event, Listing, Watch},
};

/// Where configurations are.
const CONFIGURATIONS: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations";
/// Events that wait.
const EVENTS_MAX: usize = 16;
/// Pause after a write that was refused.
const RETRY: Duration = Duration::from_secs(2);

/// What is read of a configuration.
#[derive(Debug, Deserialize)]
struct View {
    #[serde(default)]
    webhooks: Vec<Hook>,
}

#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Hook {
    name: String,
    #[serde(default)]
    client_config: ClientConfig,
}

#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
struct ClientConfig {
    #[serde(default)]
    ca_bundle: String,
}

/// Keeps every `caBundle` of the configuration `name` at what `roots` says (PEM), for ever. Cancel
/// safe: yes.
pub async fn keep(api: Api, name: &str, mut roots: watch::Receiver<String>) {
    let (to_events, mut events) = mpsc::channel(EVENTS_MAX);
    let listing = Listing {
        path: CONFIGURATIONS.to_owned(),
        query: format!("fieldSelector=metadata.name%3D{name}"),
    };
    let mut tasks = JoinSet::new();
    tasks.spawn(Watch::new(api.clone(), listing, Arc::new(read), (), to_events).run());
    let mut hooks: Vec<Hook> = Vec::new();
    let mut is_done = true;
    loop {
        tokio::select! {
            Some(((), event)) = events.recv() => take(&mut hooks, event),
            Ok(()) = roots.changed() => {}
            () = tokio::time::sleep(RETRY), if !is_done => {}
        }
        // More events are at hand: they may be our own writes.
        if !events.is_empty() {
            continue;
        }
        let bundle = BASE64_STANDARD.encode(roots.borrow_and_update().as_bytes());
        is_done = match put_right(&api, name, &hooks, &bundle).await {
            Ok(()) => true,
            Err(error) => {
                let cause = &error as &dyn std::error::Error;
                tracing::warn!(
                    name,
                    error = cause,
                    "the webhook's caBundle was not written"
                );
                false
            }
        };
    }
}

fn read(raw: &RawValue) -> Option<Vec<Hook>> {
    let view: View = serde_json::from_str(raw.get()).ok()?;
    Some(view.webhooks)
}

fn take(hooks: &mut Vec<Hook>, event: Event<Vec<Hook>>) {
    match event {
        Event::Listed(items) => {
            *hooks = items.into_iter().flat_map(|item| item.value).collect();
        }
        Event::Put(item) => *hooks = item.value,
        Event::Deleted(_) => hooks.clear(),
        Event::Trouble(_) => {}
    }
}

async fn put_right(api: &Api, name: &str, hooks: &[Hook], bundle: &str) -> Result<(), ApiError> {
    let operations = operations(hooks, bundle);
    if operations.is_empty() {
        return Ok(());
    }
    let path = format!("{CONFIGURATIONS}/{name}");
    let _: serde::de::IgnoredAny = api.patch(&path, &operations).await?;
    tracing::info!(name, "the API server trusts the injector");
    Ok(())
}

/// What makes every entry right; nothing if they are.
fn operations(hooks: &[Hook], bundle: &str) -> Vec<Value> {
    let wrong = hooks
        .iter()
        .enumerate()
        .filter(|(_, hook)| hook.client_config.ca_bundle != bundle);
    wrong
        .flat_map(|(index, hook)| {
            [
                json!({"op": "test", "path": format!("/webhooks/{index}/name"), "value": hook.name}),
                json!({"op": "add", "path": format!("/webhooks/{index}/clientConfig/caBundle"), "value": bundle}),
            ]
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::cluster::fake::Fake;

    const DEADLINE: Duration = Duration::from_secs(60);

    fn configuration(bundles: &[Option<&str>]) -> Value {
        let hooks = bundles.iter().enumerate().map(|(index, bundle)| {
            let mut config = json!({"service": {"name": "outrigger", "namespace": "o"}});
            if let Some(bundle) = bundle {
                config["caBundle"] = (*bundle).into();
            }
            json!({"name": format!("{index}.outrigger.dev"), "clientConfig": config})
        });
        json!({"metadata": {"name": "injector"}, "webhooks": hooks.collect::<Vec<_>>()})
    }

    fn bundles(fake: &Fake) -> Vec<String> {
        let all = fake.world().all(CONFIGURATIONS);
        let hooks = all
            .iter()
            .flat_map(|one| one["webhooks"].as_array().unwrap().clone());
        hooks
            .map(|hook| {
                hook["clientConfig"]["caBundle"]
                    .as_str()
                    .unwrap_or_default()
                    .to_owned()
            })
            .collect()
    }

    async fn until(mut is_so: impl FnMut() -> bool) {
        let waited = async {
            while !is_so() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(DEADLINE, waited).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn every_bundle_is_kept_true_and_what_is_right_is_left_alone() {
        let fake = Fake::new();
        let (to_roots, roots) = watch::channel("first".to_owned());
        let mut tasks = JoinSet::new();
        let api = fake.api();
        tasks.spawn(async move { keep(api, "injector", roots).await });
        let (first, second) = (
            BASE64_STANDARD.encode("first"),
            BASE64_STANDARD.encode("second"),
        );

        // It comes later, and one entry of it is right.
        fake.world().put(
            CONFIGURATIONS,
            configuration(&[None, Some(&first), Some("else")]),
        );
        until(|| bundles(&fake) == [first.as_str(); 3]).await;
        let service =
            fake.world().all(CONFIGURATIONS)[0]["webhooks"][0]["clientConfig"]["service"].clone();
        assert_eq!(service["name"], "outrigger");
        assert_eq!(fake.world().count(&["PATCH"]), 1);

        // Somebody writes something else; the root changes.
        fake.world()
            .put(CONFIGURATIONS, configuration(&[Some("else")]));
        until(|| bundles(&fake) == [first.as_str()]).await;
        to_roots.send_replace("second".to_owned());
        until(|| bundles(&fake) == [second.as_str()]).await;
        assert_eq!(fake.world().count(&["PATCH"]), 3);

        // A write that is right already, and the end of it: nothing is written.
        fake.world()
            .put(CONFIGURATIONS, configuration(&[Some(&second)]));
        fake.world().delete(CONFIGURATIONS, "/injector");
        sleep(Duration::from_secs(60)).await;
        assert_eq!(fake.world().count(&["PATCH"]), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_write_is_tried_again() {
        let fake = Fake::new();
        let (_to_roots, roots) = watch::channel("root".to_owned());
        let path = format!("{CONFIGURATIONS}/injector");
        fake.world().put(CONFIGURATIONS, configuration(&[None]));
        fake.world()
            .hooks
            .insert(path.clone(), Box::new(|_| (409, Value::Null)));
        let mut tasks = JoinSet::new();
        let api = fake.api();
        tasks.spawn(async move { keep(api, "injector", roots).await });
        until(|| fake.world().count(&["PATCH"]) >= 2).await;
        fake.world().hooks.remove(&path);
        until(|| bundles(&fake) == [BASE64_STANDARD.encode("root")]).await;
    }
}
