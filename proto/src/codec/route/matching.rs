//! Conditions of an HTTP rule.

use outrigger_model::{
    HeaderMatch, HeaderTest, HttpMatch, InvalidValue, MethodMatch, PathMatch, QueryMatch, TextMatch,
};

use super::super::{
    error::{FieldError, Problem},
    field::{Result, list, message},
    limit::{HEADERS_PER_MATCH_MAX, QUERY_PER_MATCH_MAX, REGEX_CHARS_MAX},
    wire::{self, header_match, http_match, text_match},
};

pub(super) fn encode(value: &HttpMatch) -> wire::HttpMatch {
    let path = match &value.path {
        PathMatch::Any => http_match::Path::PathAny(wire::Any {}),
        PathMatch::Exact(text) => http_match::Path::PathExact(text.clone()),
        PathMatch::Prefix(text) => http_match::Path::PathPrefix(text.clone()),
        PathMatch::Elements(text) => http_match::Path::PathElements(text.clone()),
        PathMatch::Regex(text) => http_match::Path::PathRegex(text.clone()),
    };
    let method = match &value.method {
        MethodMatch::Any => http_match::Method::MethodAny(wire::Any {}),
        MethodMatch::Text(text) => http_match::Method::MethodText(encode_text(text)),
    };
    wire::HttpMatch {
        path: Some(path),
        method: Some(method),
        headers: value.headers.iter().map(encode_header).collect(),
        query: value.query.iter().map(encode_query).collect(),
    }
}

pub(super) fn decode(value: &wire::HttpMatch) -> Result<HttpMatch> {
    let path = match &value.path {
        Some(http_match::Path::PathAny(_)) => PathMatch::Any,
        Some(http_match::Path::PathExact(text)) => PathMatch::Exact(text.clone()),
        Some(http_match::Path::PathPrefix(text)) => PathMatch::Prefix(text.clone()),
        Some(http_match::Path::PathElements(text)) if text.is_empty() || text.ends_with('/') => {
            let error = InvalidValue {
                what: "path prefix",
                value: text.chars().take(128).collect(),
                rule: "it is not empty and does not end with /",
            };
            return Err(FieldError::new("path_elements", error));
        }
        Some(http_match::Path::PathElements(text)) => PathMatch::Elements(text.clone()),
        Some(http_match::Path::PathRegex(text)) => PathMatch::Regex(regex("path_regex", text)?),
        None => return Err(FieldError::new("path", Problem::Missing)),
    };
    let method = match &value.method {
        Some(http_match::Method::MethodAny(_)) => MethodMatch::Any,
        Some(http_match::Method::MethodText(text)) => {
            MethodMatch::Text(decode_text(text).map_err(|error| error.within("method_text"))?)
        }
        None => return Err(FieldError::new("method", Problem::Missing)),
    };
    Ok(HttpMatch {
        path,
        method,
        headers: list(
            "headers",
            &value.headers,
            HEADERS_PER_MATCH_MAX,
            decode_header,
        )?,
        query: list("query", &value.query, QUERY_PER_MATCH_MAX, decode_query)?,
    })
}

fn encode_query(value: &QueryMatch) -> wire::QueryMatch {
    wire::QueryMatch {
        name: value.name.clone(),
        value: Some(encode_text(&value.value)),
    }
}

fn decode_query(value: &wire::QueryMatch) -> Result<QueryMatch> {
    Ok(QueryMatch {
        name: value.name.clone(),
        value: message("value", value.value.as_ref(), decode_text)?,
    })
}

fn encode_text(value: &TextMatch) -> wire::TextMatch {
    let test = match value {
        TextMatch::Exact(text) => text_match::Test::Exact(text.clone()),
        TextMatch::Prefix(text) => text_match::Test::Prefix(text.clone()),
        TextMatch::Regex(text) => text_match::Test::Regex(text.clone()),
    };
    wire::TextMatch { test: Some(test) }
}

fn decode_text(value: &wire::TextMatch) -> Result<TextMatch> {
    Ok(match &value.test {
        Some(text_match::Test::Exact(text)) => TextMatch::Exact(text.clone()),
        Some(text_match::Test::Prefix(text)) => TextMatch::Prefix(text.clone()),
        Some(text_match::Test::Regex(text)) => TextMatch::Regex(regex("regex", text)?),
        None => return Err(FieldError::new("test", Problem::Missing)),
    })
}

fn encode_header(value: &HeaderMatch) -> wire::HeaderMatch {
    let test = match &value.test {
        HeaderTest::Present => header_match::Test::Present(wire::Any {}),
        HeaderTest::Value(text) => header_match::Test::Value(encode_text(text)),
    };
    wire::HeaderMatch {
        name: value.name.clone(),
        test: Some(test),
    }
}

fn decode_header(value: &wire::HeaderMatch) -> Result<HeaderMatch> {
    let visible = |b: u8| b.is_ascii_graphic() && !b.is_ascii_uppercase();
    if value.name.is_empty() || !value.name.bytes().all(visible) {
        let error = InvalidValue {
            what: "header name",
            value: value.name.chars().take(128).collect(),
            rule: "a header name is visible characters in lower case",
        };
        return Err(FieldError::new("name", error));
    }
    let test = match &value.test {
        Some(header_match::Test::Present(_)) => HeaderTest::Present,
        Some(header_match::Test::Value(text)) => {
            HeaderTest::Value(decode_text(text).map_err(|error| error.within("value"))?)
        }
        None => return Err(FieldError::new("test", Problem::Missing)),
    };
    Ok(HeaderMatch {
        name: value.name.clone(),
        test,
    })
}

/// Whether the expression compiles is for the matcher to say; its length is a bound.
fn regex(field: &str, text: &str) -> Result<String> {
    let found = text.chars().count();
    if found > REGEX_CHARS_MAX {
        let expected = REGEX_CHARS_MAX;
        return Err(FieldError::new(field, Problem::Length { found, expected }));
    }
    Ok(text.to_owned())
}
