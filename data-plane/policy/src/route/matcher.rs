//! One match of a rule: path, method and headers, each compiled.

use std::fmt;

use outrigger_model::{
    HeaderMatch, HeaderTest, HttpMatch, MethodMatch, Origin, PathMatch, TextMatch,
};
use regex::bytes::{Regex, RegexBuilder};

use super::{REGEX_BYTES_MAX, REGEX_CHARS_MAX, RouteError};
use crate::request::RequestView;

/// All conditions hold.
#[derive(Debug, Clone)]
pub(super) struct CompiledMatch {
    path: Test,
    method: Test,
    headers: Box<[CompiledHeader]>,
}

#[derive(Debug, Clone)]
struct CompiledHeader {
    name: Box<str>,
    /// Any text for a header that only has to be there.
    test: Test,
}

/// Test of a text. Bytes, because header values need not be UTF-8.
#[derive(Debug, Clone)]
enum Test {
    Any,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    Regex(Regex),
}

impl CompiledMatch {
    pub(super) fn compile(one: &HttpMatch, origin: &Origin) -> Result<Self, RouteError> {
        let path = match &one.path {
            PathMatch::Any => Test::Any,
            PathMatch::Exact(text) => Test::Exact(text.as_bytes().into()),
            PathMatch::Prefix(text) => Test::prefix(text),
            PathMatch::Regex(pattern) => Test::regex(pattern, origin)?,
        };
        let method = match &one.method {
            MethodMatch::Any => Test::Any,
            MethodMatch::Text(text) => Test::compile(text, origin)?,
        };
        let header = |header: &HeaderMatch| {
            Ok(CompiledHeader {
                name: header.name.as_str().into(),
                test: match &header.test {
                    HeaderTest::Present => Test::Any,
                    HeaderTest::Value(text) => Test::compile(text, origin)?,
                },
            })
        };
        Ok(Self {
            path,
            method,
            headers: one.headers.iter().map(header).collect::<Result<_, _>>()?,
        })
    }

    /// Whether every request matches.
    pub(super) fn is_always(&self) -> bool {
        let any = |test: &Test| matches!(test, Test::Any);
        any(&self.path) && any(&self.method) && self.headers.is_empty()
    }

    pub(super) fn holds(&self, request: &impl RequestView) -> bool {
        self.path.holds(request.path().as_bytes())
            && self.method.holds(request.method().as_bytes())
            && self.headers.iter().all(|header| header.holds(request))
    }
}

impl fmt::Display for CompiledMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = [("path", &self.path), ("method", &self.method)];
        let headers = self
            .headers
            .iter()
            .map(|header| (&*header.name, &header.test));
        let mut separator = "";
        for (index, (name, test)) in own.into_iter().chain(headers).enumerate() {
            let header = if index < own.len() { "" } else { "header " };
            match test {
                Test::Any if header.is_empty() => continue,
                Test::Any => write!(f, "{separator}{header}{name} present")?,
                Test::Exact(text) => write!(f, "{separator}{header}{name} exact {}", Text(text))?,
                Test::Prefix(text) => write!(f, "{separator}{header}{name} prefix {}", Text(text))?,
                Test::Regex(regex) => {
                    let whole = regex.as_str();
                    let inner = whole
                        .strip_prefix(r"\A(?:")
                        .and_then(|t| t.strip_suffix(r")\z"));
                    let pattern = inner.unwrap_or(whole);
                    write!(f, "{separator}{header}{name} regex {pattern:?}")?;
                }
            }
            separator = ", ";
        }
        Ok(())
    }
}

/// A text of the configuration, quoted.
struct Text<'a>(&'a [u8]);

impl fmt::Display for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(self.0))
    }
}

impl CompiledHeader {
    fn holds(&self, request: &impl RequestView) -> bool {
        let mut fields = 0_usize;
        let mut holds = false;
        request.visit_header(&self.name, &mut |value| {
            fields += 1;
            // Of one field, the usual case, the value is tested where it lies.
            if fields == 1 {
                holds = self.test.holds(value);
            }
        });
        if fields < 2 || matches!(self.test, Test::Any) {
            return holds;
        }
        let mut joined = Vec::new();
        request.visit_header(&self.name, &mut |value| {
            joined.extend_from_slice(value);
            joined.push(b',');
        });
        joined.pop();
        self.test.holds(&joined)
    }
}

impl Test {
    fn compile(text: &TextMatch, origin: &Origin) -> Result<Self, RouteError> {
        match text {
            TextMatch::Exact(text) => Ok(Self::Exact(text.as_bytes().into())),
            TextMatch::Prefix(text) => Ok(Self::prefix(text)),
            TextMatch::Regex(pattern) => Self::regex(pattern, origin),
        }
    }

    fn prefix(text: &str) -> Self {
        Self::Prefix(text.as_bytes().into())
    }

    /// The whole text must match, as with RE2's `FullMatch`; `\d`, `\w`, `\s`, `\b` are ASCII, as
    /// in RE2.
    fn regex(pattern: &str, origin: &Origin) -> Result<Self, RouteError> {
        let refuse = |reason: String| RouteError::Regex {
            origin: origin.clone(),
            pattern: pattern.chars().take(128).collect(),
            reason,
        };
        if pattern.chars().count() > REGEX_CHARS_MAX {
            return Err(refuse(format!("longer than {REGEX_CHARS_MAX} characters")));
        }
        // Alone first: `a)|(?:b` is only well-formed inside the anchors, and would escape them.
        build(pattern).map_err(&refuse)?;
        build(&format!(r"\A(?:{pattern})\z"))
            .map(Self::Regex)
            .map_err(&refuse)
    }

    fn holds(&self, text: &[u8]) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(whole) => text == &**whole,
            Self::Prefix(start) => text.starts_with(start),
            Self::Regex(regex) => regex.is_match(text),
        }
    }
}

fn build(pattern: &str) -> Result<Regex, String> {
    RegexBuilder::new(pattern)
        .unicode(false)
        .size_limit(REGEX_BYTES_MAX)
        .dfa_size_limit(REGEX_BYTES_MAX)
        .build()
        .map_err(|error| {
            if matches!(error, regex::Error::CompiledTooBig(_)) {
                return format!(
                    "larger than {REGEX_BYTES_MAX} bytes when compiled; write fewer repetitions"
                );
            }
            // The text ends with the reason; what stands before shows the pattern over lines.
            let text = error.to_string();
            text.lines().last().unwrap_or(&text).to_owned()
        })
}
