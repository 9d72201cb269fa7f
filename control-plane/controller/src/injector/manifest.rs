//! The injector for files: each pod template in a stream of YAML documents.
//!
//! Nothing is known here of the cluster's namespaces, so that every template counts as enrolled
//! unless it says no itself. Documents of other kinds pass as they are. Comments and the order of
//! fields are not kept.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::Value;

use super::{InjectError, Namespace, Settings, inject, pod::text, uninject};

/// A file cannot be worked on.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// It does not parse; line and column are in the source's text.
    #[error("document {number} does not parse")]
    Parse {
        /// Which document, from 1.
        number: usize,
        /// Where and why.
        #[source]
        source: Box<serde_saphyr::Error>,
    },
    /// It cannot be written again.
    #[error("document {number} cannot be written as YAML")]
    Write {
        /// Which document, from 1.
        number: usize,
        /// Why.
        #[source]
        source: Box<serde_saphyr::ser::Error>,
    },
    /// An annotation cannot be used.
    #[error("{object}")]
    Inject {
        /// Kind and name.
        object: String,
        /// Which, and what to write.
        #[source]
        source: InjectError,
    },
}

/// What was done to one object: kind and name, and the outcome in words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Note {
    /// `Deployment shop/web`.
    pub object: String,
    /// As in `injected`, or why not.
    pub outcome: String,
}

/// What to do with each pod template.
#[derive(Debug, Clone, Copy)]
pub enum Task<'a> {
    /// Put a sidecar in.
    Inject(&'a Settings),
    /// Take it out.
    Uninject,
}

/// Works on every document of `yaml`; the result is YAML again, with a note for each pod template
/// and each warning.
///
/// # Errors
/// When a document does not parse, or an annotation cannot be used; nothing is returned then.
pub fn rewrite(task: Task<'_>, yaml: &str) -> Result<(String, Vec<Note>), ManifestError> {
    let mut written = String::new();
    let mut notes = Vec::new();
    for (index, document) in serde_saphyr::read(&mut yaml.as_bytes()).enumerate() {
        let number = index + 1;
        let document: Any = document.map_err(|source| ManifestError::Parse {
            number,
            source: Box::new(source),
        })?;
        let Any(mut object) = document;
        if object.is_null() {
            continue;
        }
        one(task, &mut object, &mut notes)?;
        let text = serde_saphyr::to_string(&object).map_err(|source| ManifestError::Write {
            number,
            source: Box::new(source),
        })?;
        if !written.is_empty() {
            written.push_str("---\n");
        }
        written.push_str(&text);
    }
    Ok((written, notes))
}

/// A document of any shape.
#[derive(Deserialize)]
#[serde(transparent)]
struct Any(Value);

fn one(task: Task<'_>, object: &mut Value, notes: &mut Vec<Note>) -> Result<(), ManifestError> {
    if text(object, &["kind"]) == Some("List") {
        let items = object.get_mut("items").and_then(Value::as_array_mut);
        return items
            .into_iter()
            .flatten()
            .try_for_each(|item| one(task, item, notes));
    }
    let Some(path) = template(text(object, &["kind"]).unwrap_or_default()) else {
        return Ok(());
    };
    let described = describe(object);
    let Some(pod) = object
        .pointer_mut(path)
        .filter(|pod| pod.get("spec").is_some())
    else {
        return Ok(());
    };
    let mut note = |outcome: String| {
        notes.push(Note {
            object: described.clone(),
            outcome,
        });
    };
    match task {
        Task::Inject(settings) => {
            let labels = BTreeMap::from([("outrigger.dev/inject".into(), "enabled".into())]);
            let namespace = Namespace {
                name: "of the file",
                labels: &labels,
            };
            let done =
                inject(settings, &namespace, pod).map_err(|source| ManifestError::Inject {
                    object: described.clone(),
                    source,
                })?;
            *pod = done.pod;
            note(match done.skipped {
                None => "injected".into(),
                Some(skip) => format!("skipped: {skip}"),
            });
            done.warnings
                .into_iter()
                .for_each(|warning| note(format!("warning: {warning}")));
        }
        Task::Uninject => {
            let bare = uninject(pod);
            note(
                if bare == *pod {
                    "nothing to take out"
                } else {
                    "taken out"
                }
                .into(),
            );
            *pod = bare;
        }
    }
    Ok(())
}

/// Where a kind has its pod (JSON pointer).
fn template(kind: &str) -> Option<&'static str> {
    match kind {
        "Pod" => Some(""),
        "Deployment"
        | "StatefulSet"
        | "DaemonSet"
        | "ReplicaSet"
        | "ReplicationController"
        | "Job" => Some("/spec/template"),
        "CronJob" => Some("/spec/jobTemplate/spec/template"),
        _ => None,
    }
}

fn describe(object: &Value) -> String {
    let part = |path: &[&str]| text(object, path).map(str::to_owned);
    let kind = part(&["kind"]).unwrap_or_default();
    let name = part(&["metadata", "name"])
        .or_else(|| part(&["metadata", "generateName"]))
        .unwrap_or_else(|| "without a name".into());
    match part(&["metadata", "namespace"]) {
        Some(namespace) => format!("{kind} {namespace}/{name}"),
        None => format!("{kind} {name}"),
    }
}
