//! One match of a rule: path, method, headers and query parameters, each compiled.

use std::{borrow::Cow, fmt};

use outrigger_model::{
    HeaderMatch, HeaderTest, HttpMatch, MethodMatch, Origin, PathMatch, QueryMatch, TextMatch,
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
    query: Box<[CompiledParameter]>,
}

#[derive(Debug, Clone)]
struct CompiledHeader {
    name: Box<str>,
    /// Any text for a header that only has to be there.
    test: Test,
}

#[derive(Debug, Clone)]
struct CompiledParameter {
    name: Box<str>,
    value: Test,
}

/// Test of a text. Bytes, because header values need not be UTF-8.
#[derive(Debug, Clone)]
enum Test {
    Any,
    Exact(Box<[u8]>),
    Prefix(Box<[u8]>),
    /// The same text, or it goes on with `/`.
    Elements(Box<[u8]>),
    Regex(Regex),
}

impl CompiledMatch {
    /// Whether it asks for a path.
    pub(super) fn reads_path(&self) -> bool {
        !matches!(self.path, Test::Any)
    }

    pub(super) fn compile(one: &HttpMatch, origin: &Origin) -> Result<Self, RouteError> {
        let path = match &one.path {
            PathMatch::Any => Test::Any,
            PathMatch::Exact(text) => Test::Exact(text.as_bytes().into()),
            PathMatch::Prefix(text) => Test::prefix(text),
            PathMatch::Elements(text) => Test::Elements(text.as_bytes().into()),
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
        let parameter = |parameter: &QueryMatch| {
            Ok(CompiledParameter {
                name: parameter.name.as_str().into(),
                value: Test::compile(&parameter.value, origin)?,
            })
        };
        Ok(Self {
            path,
            method,
            headers: one.headers.iter().map(header).collect::<Result<_, _>>()?,
            query: one.query.iter().map(parameter).collect::<Result<_, _>>()?,
        })
    }

    /// Whether every request matches.
    pub(super) fn is_always(&self) -> bool {
        let any = |test: &Test| matches!(test, Test::Any);
        let is_bare = self.headers.is_empty() && self.query.is_empty();
        any(&self.path) && any(&self.method) && is_bare
    }

    pub(super) fn holds(&self, request: &impl RequestView) -> bool {
        self.path.holds(request.path().as_bytes())
            && self.method.holds(request.method().as_bytes())
            && self.headers.iter().all(|header| header.holds(request))
            && self.query.iter().all(|parameter| parameter.holds(request))
    }
}

impl fmt::Display for CompiledMatch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let own = [("path", "", &self.path), ("method", "", &self.method)];
        let own = own
            .into_iter()
            .filter(|(_, _, test)| !matches!(test, Test::Any));
        let headers = self.headers.iter();
        let headers = headers.map(|header| ("header ", &*header.name, &header.test));
        let query = self.query.iter();
        let query = query.map(|parameter| ("query ", &*parameter.name, &parameter.value));
        let mut separator = "";
        for (what, name, test) in own.chain(headers).chain(query) {
            write!(f, "{separator}{what}{name} ")?;
            match test {
                Test::Any => f.write_str("present")?,
                Test::Exact(text) => write!(f, "exact {}", Text(text))?,
                Test::Prefix(text) => write!(f, "prefix {}", Text(text))?,
                Test::Elements(text) => write!(f, "elements {}", Text(text))?,
                Test::Regex(regex) => {
                    let whole = regex.as_str();
                    let inner = whole
                        .strip_prefix(r"\A(?:")
                        .and_then(|t| t.strip_suffix(r")\z"));
                    write!(f, "regex {:?}", inner.unwrap_or(whole))?;
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

impl CompiledParameter {
    /// Tests the first parameter of the name. Nothing is allocated unless something of it is
    /// percent-encoded.
    fn holds(&self, request: &impl RequestView) -> bool {
        let query = request.query().unwrap_or_default();
        let mut parameters = query.split('&').map(|parameter| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            (decoded(name), value)
        });
        let found = parameters.find(|(name, _)| **name == *self.name.as_bytes());
        found.is_some_and(|(_, value)| self.value.holds(&decoded(value)))
    }
}

/// A part of a query with percent-encoding undone (RFC 3986 §2.1); what is no proper encoding, and
/// `+`, stays as it is.
fn decoded(text: &str) -> Cow<'_, [u8]> {
    if !text.contains('%') {
        return Cow::Borrowed(text.as_bytes());
    }
    let nibble = |byte: Option<&u8>| {
        let digit = char::from(*byte?).to_digit(16)?;
        u8::try_from(digit).ok()
    };
    let mut bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    while let Some((first, rest)) = bytes.split_first() {
        let encoded = (*first == b'%').then(|| Some((nibble(rest.first())?, nibble(rest.get(1))?)));
        match encoded.flatten() {
            Some((high, low)) => {
                out.push(high << 4 | low);
                bytes = rest.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                bytes = rest;
            }
        }
    }
    Cow::Owned(out)
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
            Self::Elements(start) => text
                .strip_prefix(&**start)
                .is_some_and(|rest| matches!(rest.first(), None | Some(b'/'))),
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
