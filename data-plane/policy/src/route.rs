//! Route tables compiled for matching: which rule a request takes.
//!
//! Compiled when the resource arrives, once; expressions that do not compile refuse the whole
//! table then, so that nothing can fail on the request path. The first rule that matches decides.
//!
//! Cost: a table whose first rule matches everything, the usual case, is one branch. Otherwise
//! each match before the hit costs about 20 instructions for a path test that fails, a scan of the
//! head for a header test, and 300–600 for an expression. Nothing is allocated unless several
//! fields of one name are tested, whose values are joined.
//!
//! Workers share a table. An expression keeps its search state in a pool whose first user has a
//! lock-free path; others take a lock.

use std::{borrow::Cow, sync::Arc};

use outrigger_model::{
    Backend, HttpAction, HttpRule, HttpTarget, Origin, Redirect, RetryPolicy, RouteTable, TcpRule,
    Timeout, Weight, WeightedBackend,
};

use crate::{
    filter::Changes,
    path::{self, PathError},
    request::RequestView,
    split::{NoWeight, Split},
};

mod matcher;

use matcher::CompiledMatch;

/// Longest expression accepted, in characters.
pub const REGEX_CHARS_MAX: usize = 1_024;
/// Largest compiled expression, in bytes; the lazily built automaton has the same bound.
pub const REGEX_BYTES_MAX: usize = 256 * 1_024;

/// The HTTP rules of one destination.
#[derive(Debug, Clone)]
pub struct HttpTable {
    rules: Box<[CompiledRule]>,
    /// Whether any rule asks for a path.
    reads_paths: bool,
}

/// One HTTP rule, ready for use.
#[derive(Debug, Clone)]
pub struct CompiledRule {
    /// Its place in the resource, from 0.
    pub index: usize,
    /// The object and field that decided.
    pub origin: Origin,
    /// What is done.
    pub action: RuleAction,
    /// Whole request, retries included.
    pub timeout: Timeout,
    /// Retries.
    pub retry: RetryPolicy,
    condition: Condition,
}

/// What a rule does with a request.
#[derive(Debug, Clone)]
pub enum RuleAction {
    /// Send to one of these by weight.
    Forward(Split<Choice>),
    /// Answer with another place to go.
    Redirect(Redirect),
    /// The rule's configuration is invalid: answer 500 with this reason.
    Invalid {
        /// What is wrong.
        reason: Origin,
    },
}

/// One share of a rule's requests.
#[derive(Debug, Clone)]
pub struct Choice {
    /// Where it goes.
    pub target: HttpTarget,
    /// What changes on the way, the rule's changes included; `None` for nothing.
    pub changes: Option<Arc<Changes>>,
}

/// When a rule applies.
#[derive(Debug, Clone)]
enum Condition {
    Always,
    AnyOf(Box<[CompiledMatch]>),
}

/// A table that cannot be used. The sidecar rejects the resource and keeps the one it has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// An expression is too long, too large, or not RE2 syntax.
    #[error("{origin}: regular expression {pattern:?} cannot be used: {reason}")]
    Regex {
        /// The rule.
        origin: Origin,
        /// The expression, cut to 128 characters.
        pattern: String,
        /// What is wrong with it.
        reason: String,
    },
    /// A rule forwards to nothing.
    #[error("{origin}: its backends cannot be used")]
    Backends {
        /// The rule.
        origin: Origin,
        /// Why.
        #[source]
        source: NoWeight,
    },
}

impl HttpTable {
    /// Compiles the HTTP rules of a table. Rules behind one that matches everything are left out.
    ///
    /// # Errors
    /// See [`RouteError`].
    pub fn compile(table: &RouteTable) -> Result<Self, RouteError> {
        let mut rules = Vec::with_capacity(table.http.len());
        for (index, rule) in table.http.iter().enumerate() {
            let compiled = CompiledRule::compile(index, rule)?;
            let last = matches!(compiled.condition, Condition::Always);
            rules.push(compiled);
            if last {
                break;
            }
        }
        let reads_paths = rules.iter().any(|rule| rule.condition.reads_paths());
        Ok(Self {
            rules: rules.into(),
            reads_paths,
        })
    }

    /// The path that rules decide on and that goes upstream, where it is another than the
    /// request's own (DEF-33): only a table that looks at paths changes any.
    ///
    /// # Errors
    /// When rules look at paths and this one has no one meaning.
    pub fn canonical(&self, path: &str) -> Result<Option<Box<str>>, PathError> {
        if !self.reads_paths {
            return Ok(None);
        }
        Ok(match path::canonical(path)? {
            Cow::Borrowed(_) => None,
            Cow::Owned(path) => Some(path.into()),
        })
    }

    /// The first rule that matches; `None` when none does (answer 404).
    #[must_use]
    pub fn find(&self, request: &impl RequestView) -> Option<&CompiledRule> {
        self.rules.iter().find(|rule| rule.condition.holds(request))
    }

    /// All rules that a request can reach, in order.
    #[must_use]
    pub fn rules(&self) -> &[CompiledRule] {
        &self.rules
    }
}

impl CompiledRule {
    fn compile(index: usize, rule: &HttpRule) -> Result<Self, RouteError> {
        let matches: Vec<CompiledMatch> = rule
            .matches
            .iter()
            .map(|one| CompiledMatch::compile(one, &rule.origin))
            .collect::<Result<_, _>>()?;
        let condition = if matches.is_empty() || matches.iter().any(CompiledMatch::is_always) {
            Condition::Always
        } else {
            Condition::AnyOf(matches.into())
        };
        let action = match &rule.action {
            HttpAction::Forward(backends) => {
                let choice = backends.iter().map(|share| {
                    let choice = Choice {
                        target: share.target.clone(),
                        changes: Changes::compile(&rule.filters, &share.filters),
                    };
                    (share.weight, choice)
                });
                RuleAction::Forward(split(&rule.origin, choice)?)
            }
            HttpAction::Redirect(redirect) => RuleAction::Redirect(redirect.clone()),
            HttpAction::Invalid { reason } => RuleAction::Invalid {
                reason: reason.clone(),
            },
        };
        Ok(Self {
            index,
            origin: rule.origin.clone(),
            action,
            timeout: rule.timeout,
            retry: rule.retry.clone(),
            condition,
        })
    }
}

impl CompiledRule {
    /// What a request must fulfil, any one of these; none for a rule that takes every request.
    /// For people: `path prefix "/api", method exact "GET"`.
    pub fn conditions(&self) -> impl Iterator<Item = impl std::fmt::Display> {
        let matches: &[CompiledMatch] = match &self.condition {
            Condition::Always => &[],
            Condition::AnyOf(matches) => matches,
        };
        matches.iter()
    }
}

impl Condition {
    fn reads_paths(&self) -> bool {
        match self {
            Self::Always => false,
            Self::AnyOf(matches) => matches.iter().any(CompiledMatch::reads_path),
        }
    }

    fn holds(&self, request: &impl RequestView) -> bool {
        match self {
            Self::Always => true,
            Self::AnyOf(matches) => matches.iter().any(|one| one.holds(request)),
        }
    }
}

/// The TCP rules of one destination.
#[derive(Debug, Clone)]
pub struct TcpTable {
    rules: Box<[CompiledTcpRule]>,
}

/// One TCP rule, ready for use.
#[derive(Debug, Clone)]
pub struct CompiledTcpRule {
    /// The object and field that decided.
    pub origin: Origin,
    /// Where connections go, by weight.
    pub backends: Split<Backend>,
}

impl TcpTable {
    /// Compiles the TCP rules of a table.
    ///
    /// # Errors
    /// [`RouteError::Backends`].
    pub fn compile(table: &RouteTable) -> Result<Self, RouteError> {
        let compile = |rule: &TcpRule| {
            Ok(CompiledTcpRule {
                origin: rule.origin.clone(),
                backends: split(&rule.origin, rule.backends.iter().map(weighted))?,
            })
        };
        Ok(Self {
            rules: table.tcp.iter().map(compile).collect::<Result<_, _>>()?,
        })
    }

    /// The rule of every connection: TCP rules have no conditions yet, so the first. `None` when
    /// there is none (the connection is closed).
    #[must_use]
    pub fn find(&self) -> Option<&CompiledTcpRule> {
        self.rules.first()
    }
}

fn weighted(one: &WeightedBackend) -> (Weight, Backend) {
    (one.weight, one.backend.clone())
}

fn split<T>(
    origin: &Origin,
    items: impl Iterator<Item = (Weight, T)>,
) -> Result<Split<T>, RouteError> {
    Split::new(items).map_err(|source| RouteError::Backends {
        origin: origin.clone(),
        source,
    })
}

#[cfg(test)]
mod tests;
