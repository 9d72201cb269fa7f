//! Values of a document that `schema` has walked, and a place for further findings.

use std::{sync::Arc, time::Duration};

use crate::{
    Code, Node, Severity, duration,
    ir::Sourced,
    schema::{Checked, Finding, join},
};

/// Reads one object.
#[derive(Debug)]
pub(crate) struct Reader {
    pub(crate) checked: Checked,
}

impl Reader {
    /// Adds a finding.
    pub(crate) fn find(
        &mut self,
        severity: Severity,
        code: Code,
        path: &str,
        node: &Node,
        message: impl Into<String>,
    ) {
        self.checked.findings.push(Finding {
            severity,
            code,
            path: path.to_owned(),
            position: node.position,
            message: message.into(),
        });
    }

    /// Adds the finding that a value cannot be used.
    pub(crate) fn refuse(&mut self, path: &str, node: &Node, message: impl Into<String>) {
        self.find(Severity::Error, Code::InvalidValue, path, node, message);
    }

    /// The reason for which nothing at or below `path` can be used, if there is one.
    pub(crate) fn invalid(&self, path: &str) -> Option<Arc<str>> {
        let finding = self.checked.error_below(path)?;
        Some(format!("{}: {}", finding.path, finding.message).into())
    }
}

/// A whole number of 32 bits that passed the schema.
pub(crate) fn number(node: &Node, key: &str) -> Option<u32> {
    node.get(key)?.integer()?.try_into().ok()
}

/// A duration that passed the schema.
pub(crate) fn time(node: &Node, key: &str) -> Option<Duration> {
    let value = duration::parse(node.get(key)?.text()?).ok()?;
    // Shorter than the schema allows: found there.
    (value.is_zero() || value >= Duration::from_millis(1)).then_some(value)
}

/// Reports a list that is longer than the sidecar, or the API that it is written for, takes.
pub(crate) fn bound(reader: &mut Reader, node: &Node, path: &str, key: &str, max: usize) {
    let Some(list) = node.get(key).filter(|list| list.items().len() > max) else {
        return;
    };
    let message = format!("{} entries: write at most {max}", list.items().len());
    let at = join(path, key);
    reader.refuse(&at, list, message);
}

/// The items of a list with their paths.
pub(crate) fn items<'a>(
    node: &'a Node,
    path: &str,
    key: &str,
) -> impl Iterator<Item = Sourced<&'a Node>> {
    let path = join(path, key);
    node.get(key)
        .map(Node::items)
        .unwrap_or_default()
        .iter()
        .enumerate()
        .map(move |(index, value)| Sourced {
            value,
            path: format!("{path}[{index}]").into(),
        })
}
