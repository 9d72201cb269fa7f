//! `/config`'s `control_plane` and `resources`: where the configuration comes from, and how far each
//! resource is: applied (acknowledged), rejected, pending, or missing.

use outrigger_model::ResourceKind;
use serde_json::{Map, Value, json};

use crate::{
    control::subscriptions::{Resources, Standing},
    telemetry::timestamp,
};

/// The stream at present, and what a start without it began from.
pub(super) fn source(resources: &Resources) -> Value {
    let source = resources.source();
    json!({
        "connected": source.connected,
        "restored_from_disk": source.restored.map(timestamp),
    })
}

/// Every kind, every name.
pub(super) fn shown(resources: &Resources) -> Value {
    let kinds = ResourceKind::ALL.into_iter().map(|kind| {
        let names = resources.standing(kind);
        let names: Map<String, Value> = names
            .into_iter()
            .map(|(name, standing)| (name, one(&standing)))
            .collect();
        (kind.as_str().to_owned(), Value::Object(names))
    });
    Value::Object(kinds.collect())
}

fn one(standing: &Standing) -> Value {
    let mut shown = Map::new();
    if let Some(version) = &standing.applied {
        shown.insert("applied".into(), version.as_str().into());
    }
    if let Some(rejection) = &standing.rejected {
        let rejected = json!({ "version": rejection.version, "reason": &*rejection.reason });
        shown.insert("rejected".into(), rejected);
    }
    if standing.missing {
        shown.insert("missing".into(), true.into());
    }
    if standing.is_pending() {
        shown.insert("pending".into(), true.into());
    }
    Value::Object(shown)
}
