//! What a rule changes on the way, ready for use: fields, path, authority, and redirects.
//!
//! Compiled once, with the table. A rule's changes and those of one of its backends are folded into
//! one: which fields of the incoming head go, and which lines are written. A request without
//! filters, the usual case, costs one branch; a path or location is allocated only where it
//! changes.

use std::{
    fmt::{self, Write as _},
    sync::Arc,
};

use outrigger_model::{FieldEdit, Filters, HostRewrite, PathRewrite, Redirect, Scheme};

use crate::request::RequestView;

/// Changes to the fields of a head: what goes, then what is written. Names are lower case; none
/// of them is framing or reserved (the model sees to it).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct FieldOps {
    drop: Vec<Box<str>>,
    put: Vec<(Box<str>, Box<str>)>,
}

impl FieldOps {
    /// Whether a field of the incoming head goes; case does not count.
    #[must_use]
    pub fn drops(&self, name: &[u8]) -> bool {
        let is = |other: &str| name.eq_ignore_ascii_case(other.as_bytes());
        self.drop.iter().any(|other| is(other))
    }

    /// The fields to write, in order.
    pub fn put(&self) -> impl Iterator<Item = (&str, &str)> {
        self.put.iter().map(|(name, value)| (&**name, &**value))
    }

    /// Whether nothing changes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.drop.is_empty() && self.put.is_empty()
    }

    /// Applies an edit after what is there.
    fn then(&mut self, edit: &FieldEdit) {
        for field in &edit.set {
            self.forget(field.name.as_str());
            self.write(field.name.as_str(), field.value.as_str());
        }
        for field in &edit.add {
            self.write(field.name.as_str(), field.value.as_str());
        }
        for name in &edit.remove {
            self.forget(name.as_str());
        }
    }

    fn forget(&mut self, name: &str) {
        self.put.retain(|(other, _)| &**other != name);
        if !self.drop.iter().any(|other| &**other == name) {
            self.drop.push(name.into());
        }
    }

    fn write(&mut self, name: &str, value: &str) {
        self.put.push((name.into(), value.into()));
    }
}

/// Everything that changes between a client and one backend of a rule.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Changes {
    /// Fields of the request.
    pub request: FieldOps,
    /// Fields of the answer.
    pub response: FieldOps,
    path: PathRewrite,
    host: HostRewrite,
}

impl Changes {
    /// Those of a rule, then those of a backend, whose path and host go before the rule's. `None`
    /// where nothing changes.
    #[must_use]
    pub fn compile(rule: &Filters, backend: &Filters) -> Option<Arc<Self>> {
        let mut changes = Self::default();
        for filters in [rule, backend] {
            changes.request.then(&filters.request);
            changes.response.then(&filters.response);
            if filters.path != PathRewrite::Keep {
                changes.path = filters.path.clone();
            }
            if filters.host != HostRewrite::Keep {
                changes.host = filters.host.clone();
            }
        }
        (changes != Self::default()).then(|| Arc::new(changes))
    }

    /// Path and query to send instead of the request's own; `None` where they stay.
    #[must_use]
    pub fn target(&self, request: &impl RequestView) -> Option<Box<str>> {
        if self.path == PathRewrite::Keep {
            return None;
        }
        let mut target = String::new();
        put_target(&self.path, request, &mut target);
        Some(target.into())
    }

    /// Authority to send instead of the request's own.
    #[must_use]
    pub fn authority(&self) -> Option<&str> {
        match &self.host {
            HostRewrite::Keep => None,
            HostRewrite::To(host) => Some(host.as_str()),
        }
    }
}

/// For people: names alone, for a value may be a secret.
impl fmt::Display for Changes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut separator = "";
        for (what, ops) in [("request", &self.request), ("response", &self.response)] {
            for name in &ops.drop {
                write!(f, "{separator}{what} without {name}")?;
                separator = ", ";
            }
            for (name, _) in &ops.put {
                write!(f, "{separator}{what} with {name}")?;
                separator = ", ";
            }
        }
        if self.path != PathRewrite::Keep {
            write!(f, "{separator}path {:?}", self.path)?;
            separator = ", ";
        }
        if let Some(host) = self.authority() {
            write!(f, "{separator}host {host}")?;
        }
        Ok(())
    }
}

/// The request's own path and query.
#[must_use]
pub fn target(request: &impl RequestView) -> Box<str> {
    let mut target = String::new();
    put_target(&PathRewrite::Keep, request, &mut target);
    target.into()
}

/// Where a redirect sends a request that was addressed to `authority` (`host` or `host:port`): an
/// absolute location (RFC 9110 §10.2.2).
#[must_use]
pub fn location(redirect: &Redirect, authority: &str, request: &impl RequestView) -> String {
    let (scheme, own_port) = match redirect.scheme {
        Scheme::Http => ("http://", 80),
        Scheme::Https => ("https://", 443),
    };
    let mut location = String::from(scheme);
    location.push_str(match &redirect.host {
        HostRewrite::Keep => host_of(authority),
        HostRewrite::To(host) => host.as_str(),
    });
    if redirect.port.get() != own_port {
        // Writing to a String cannot fail.
        write!(location, ":{}", redirect.port).ok();
    }
    put_target(&redirect.path, request, &mut location);
    location
}

/// The host of `host`, `host:port` or `[v6]:port`.
fn host_of(authority: &str) -> &str {
    match authority.rsplit_once(':') {
        Some((host, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => host,
        Some(_) | None => authority,
    }
}

fn put_target(path: &PathRewrite, request: &impl RequestView, out: &mut String) {
    match path {
        PathRewrite::Keep => out.push_str(request.path()),
        PathRewrite::Full(path) => out.push_str(path.as_str()),
        PathRewrite::Prefix {
            matched,
            replacement,
        } => {
            // The rule matched, so the prefix is there; else the path stays as it is.
            let rest = request.path().strip_prefix(matched.as_str());
            let (replacement, rest) = match rest {
                Some(rest) => (replacement.as_str(), rest),
                None => ("", request.path()),
            };
            out.push_str(replacement);
            if !rest.starts_with('/') && (!rest.is_empty() || replacement.is_empty()) {
                out.push('/');
            }
            out.push_str(rest);
        }
    }
    if let Some(query) = request.query() {
        out.push('?');
        out.push_str(query);
    }
}

#[cfg(test)]
mod tests;
