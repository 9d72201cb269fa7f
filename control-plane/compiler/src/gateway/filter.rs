//! The filters of a rule or of a backend.

use std::{collections::BTreeSet, sync::Arc};

use outrigger_model::{
    FieldEdit, FieldName, FieldValue, Filters, HostRewrite, Hostname, InvalidValue, NewField,
    PathRewrite, PathText, Port, RedirectStatus, Scheme,
};

use super::ENTRIES_MAX;
use crate::{
    Code, Node, Severity,
    ir::{Redirection, RuleProblem},
    istio::{Reader, bound, items, number},
    schema::join,
    status::Reason,
};

/// Where a filter stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// In a rule.
    Rule,
    /// In a backend, where a redirect has no place.
    Backend,
}

/// What the filters say.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) filters: Filters,
    pub(super) redirect: Option<Redirection>,
}

/// Reads `filters`. `prefix` is what `ReplacePrefixMatch` replaces, if the rule says what.
///
/// # Errors
/// The first thing that makes them unusable: then the rule, or the backend's share, answers 500.
pub(super) fn read(
    reader: &mut Reader,
    node: &Node,
    path: &str,
    place: Place,
    prefix: Option<&PathText>,
) -> Result<Read, RuleProblem> {
    let mut read = Read::default();
    let mut seen: BTreeSet<&str> = BTreeSet::new();
    for item in items(node, path, "filters") {
        let kind = item
            .value
            .get("type")
            .and_then(Node::text)
            .unwrap_or_default();
        let mut filter = Filter {
            reader: &mut *reader,
            node: item.value,
            path: &item.path,
        };
        filter.apply(kind, place, prefix, &mut read);
        if let Some(message) = reader.invalid(&item.path) {
            return Err(problem(Reason::UnsupportedValue, &message));
        }
        if !is_supported(kind, place) {
            let message = format!("filter {kind} is not supported yet: answered 500");
            let at = join(&item.path, "type");
            let (severity, code) = (Severity::Error, Code::Unsupported);
            reader.find(severity, code, &at, item.value, message.clone());
            let message = format!("{at}: {message}");
            return Err(problem(Reason::UnsupportedValue, &message));
        }
        if !seen.insert(kind) {
            let message = format!("filter {kind} is there twice");
            return Err(incompatible(reader, item.value, &item.path, message));
        }
    }
    if seen.contains("RequestRedirect") && seen.contains("URLRewrite") {
        let message = "RequestRedirect and URLRewrite exclude each other".to_owned();
        let at = join(path, "filters");
        return Err(incompatible(reader, node, &at, message));
    }
    let has_backends = node
        .get("backendRefs")
        .is_some_and(|refs| !refs.items().is_empty());
    if read.redirect.is_some() && has_backends {
        let message = "a rule that redirects has no backendRefs".to_owned();
        let at = join(path, "filters");
        return Err(incompatible(reader, node, &at, message));
    }
    Ok(read)
}

fn problem(reason: Reason, message: &str) -> RuleProblem {
    let message = Arc::from(message);
    RuleProblem { reason, message }
}

fn incompatible(reader: &mut Reader, node: &Node, path: &str, message: String) -> RuleProblem {
    let whole = format!("{path}: {message}");
    reader.refuse(path, node, message);
    problem(Reason::IncompatibleFilters, &whole)
}

fn is_supported(kind: &str, place: Place) -> bool {
    match kind {
        "RequestHeaderModifier" | "ResponseHeaderModifier" | "URLRewrite" => true,
        "RequestRedirect" => place == Place::Rule,
        _ => false,
    }
}

struct Filter<'a> {
    reader: &'a mut Reader,
    node: &'a Node,
    path: &'a str,
}

impl Filter<'_> {
    fn apply(&mut self, kind: &str, place: Place, prefix: Option<&PathText>, read: &mut Read) {
        if !is_supported(kind, place) {
            return;
        }
        let key = match kind {
            "RequestHeaderModifier" => "requestHeaderModifier",
            "ResponseHeaderModifier" => "responseHeaderModifier",
            "RequestRedirect" => "requestRedirect",
            _ => "urlRewrite",
        };
        let at = join(self.path, key);
        let Some(node) = self.node.get(key) else {
            let message = format!("a filter of type {kind} needs {key}");
            self.reader
                .find(Severity::Error, Code::MissingField, &at, self.node, message);
            return;
        };
        match key {
            "requestHeaderModifier" => read.filters.request = self.fields(node, &at),
            "responseHeaderModifier" => read.filters.response = self.fields(node, &at),
            "requestRedirect" => read.redirect = self.redirect(node, &at, prefix),
            _ => {
                read.filters.host = self.host(node, &at);
                read.filters.path = self.rewrite(node, &at, prefix);
            }
        }
    }

    fn fields(&mut self, node: &Node, path: &str) -> FieldEdit {
        for key in ["set", "add", "remove"] {
            bound(self.reader, node, path, key, ENTRIES_MAX);
        }
        let mut edit = FieldEdit {
            set: self.new_fields(node, path, "set"),
            add: self.new_fields(node, path, "add"),
            remove: Vec::new(),
        };
        for item in items(node, path, "remove") {
            let name = item.value.text().map(FieldName::parse);
            edit.remove
                .extend(name.and_then(|name| self.accept(name, item.value, &item.path)));
        }
        edit
    }

    /// Of several entries for one name, in whatever case, the first counts.
    fn new_fields(&mut self, node: &Node, path: &str, key: &str) -> Vec<NewField> {
        let mut fields: Vec<NewField> = Vec::new();
        for item in items(node, path, key) {
            let text = |key: &str| item.value.get(key).and_then(Node::text);
            let (Some(name), Some(value)) = (text("name"), text("value")) else {
                continue;
            };
            let name_at = join(&item.path, "name");
            let value_at = join(&item.path, "value");
            let name = self.accept(FieldName::parse(name), item.value, &name_at);
            let value = self.accept(FieldValue::parse(value), item.value, &value_at);
            if let (Some(name), Some(value)) = (name, value)
                && fields.iter().all(|field| field.name != name)
            {
                fields.push(NewField { name, value });
            }
        }
        fields
    }

    /// The value, or a finding.
    fn accept<T>(&mut self, value: Result<T, InvalidValue>, node: &Node, at: &str) -> Option<T> {
        match value {
            Ok(value) => Some(value),
            Err(error) => {
                self.refuse(node, at, error.to_string());
                None
            }
        }
    }

    fn refuse(&mut self, node: &Node, at: &str, message: String) {
        let (severity, code) = (Severity::Error, Code::InvalidValue);
        self.reader.find(severity, code, at, node, message);
    }

    fn host(&mut self, node: &Node, path: &str) -> HostRewrite {
        let Some(text) = node.get("hostname").and_then(Node::text) else {
            return HostRewrite::Keep;
        };
        let host = self.accept(Hostname::parse(text), node, &join(path, "hostname"));
        host.map_or(HostRewrite::Keep, HostRewrite::To)
    }

    fn rewrite(&mut self, node: &Node, path: &str, prefix: Option<&PathText>) -> PathRewrite {
        let at = join(path, "path");
        let Some(node) = node.get("path") else {
            return PathRewrite::Keep;
        };
        let (key, is_prefix) = match node.get("type").and_then(Node::text) {
            Some("ReplaceFullPath") => ("replaceFullPath", false),
            Some("ReplacePrefixMatch") => ("replacePrefixMatch", true),
            Some(_) | None => return PathRewrite::Keep,
        };
        let at = join(&at, key);
        let Some(text) = node.get(key).and_then(Node::text) else {
            self.refuse(node, &at, format!("write {key}, as type says"));
            return PathRewrite::Keep;
        };
        let text = match (is_prefix, text) {
            (true, text) => text.trim_end_matches('/'),
            (false, "") => "/",
            (false, text) => text,
        };
        let Some(replacement) = self.accept(PathText::parse(text), node, &at) else {
            return PathRewrite::Keep;
        };
        match (is_prefix, prefix) {
            (false, _) => PathRewrite::Full(replacement),
            (true, Some(matched)) => PathRewrite::Prefix {
                matched: matched.clone(),
                replacement,
            },
            (true, None) => {
                let message = "replacePrefixMatch needs a rule with exactly one match, whose path \
                               is a PathPrefix";
                self.refuse(node, &at, message.to_owned());
                PathRewrite::Keep
            }
        }
    }

    fn redirect(
        &mut self,
        node: &Node,
        path: &str,
        prefix: Option<&PathText>,
    ) -> Option<Redirection> {
        let status = number(node, "statusCode").unwrap_or(302);
        let status_at = join(path, "statusCode");
        Some(Redirection {
            scheme: match node.get("scheme").and_then(Node::text) {
                Some("http") => Some(Scheme::Http),
                Some("https") => Some(Scheme::Https),
                Some(_) | None => None,
            },
            host: self.host(node, path),
            port: node
                .get("port")
                .and_then(|port| Port::new(port.integer()?).ok()),
            path: self.rewrite(node, path, prefix),
            status: self.accept(RedirectStatus::new(status), node, &status_at)?,
        })
    }
}
