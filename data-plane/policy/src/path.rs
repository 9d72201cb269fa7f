//! The one canonical form of a path (SECURITY-NOTES rule 2, DEF-33).
//!
//! Where rules look at paths, what they decide on is what goes upstream: a path that servers read
//! in different ways (`/api/../admin`, `/%61dmin`, `//admin`) would else be routed as one thing and
//! served as another. Where no rule does, paths stay as they came, to the byte.
//!
//! Canonical: percent-encoded unreserved characters are decoded and other escapes have upper-case
//! digits (RFC 3986 §6.2.2), dot segments are folded (§5.2.4), empty segments are merged. What has
//! no one meaning is refused: an encoded slash or backslash, a backslash, `#`, control characters
//! also when encoded, and `%` without two digits.
//!
//! Idempotent: the canonical form of a canonical form is itself.

use std::borrow::Cow;

use crate::request::RequestView;

/// A path that has no one meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum PathError {
    /// `%` without two hexadecimal digits behind it.
    #[error("a % in the path is not followed by two hexadecimal digits")]
    Escape,
    /// `%2F` or `%5C`: some servers take them for separators.
    #[error("the path has an encoded slash or backslash")]
    EncodedSeparator,
    /// A backslash, `#`, or a control character, also when encoded.
    #[error("the path has a backslash, # or control character")]
    Character,
}

/// The canonical form of `path` (without query). What does not begin with `/` (`*`) is its own.
///
/// # Errors
/// When it has no one meaning.
pub fn canonical(path: &str) -> Result<Cow<'_, str>, PathError> {
    if !path.starts_with('/') || is_plain(path.as_bytes()) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path)?;
    let folded = fold(&decoded);
    Ok(if folded == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(folded)
    })
}

/// Whether nothing in the path can need a change: the usual case, one look at each byte.
fn is_plain(path: &[u8]) -> bool {
    let mut after_slash = false;
    path.iter().all(|byte| {
        let harmless = match byte {
            b'%' | b'\\' | b'#' | 0..=0x1f | 0x7f => false,
            b'/' | b'.' => !after_slash,
            _ => true,
        };
        after_slash = *byte == b'/';
        harmless
    })
}

fn decode(path: &str) -> Result<String, PathError> {
    let mut decoded = String::with_capacity(path.len());
    let mut rest = path.chars();
    while let Some(character) = rest.next() {
        match character {
            '%' => {
                let mut digit = || rest.next()?.to_digit(16);
                let (Some(high), Some(low)) = (digit(), digit()) else {
                    return Err(PathError::Escape);
                };
                let byte = u8::try_from(high * 16 + low).map_err(|_| PathError::Escape)?;
                match byte {
                    b'/' | b'\\' => return Err(PathError::EncodedSeparator),
                    0..=0x1f | 0x7f => return Err(PathError::Character),
                    b'-' | b'.' | b'_' | b'~' => decoded.push(char::from(byte)),
                    byte if byte.is_ascii_alphanumeric() => decoded.push(char::from(byte)),
                    byte => {
                        decoded.push('%');
                        for digit in [byte >> 4, byte & 15] {
                            let digit = char::from_digit(u32::from(digit), 16);
                            decoded.extend(digit.map(|digit| digit.to_ascii_uppercase()));
                        }
                    }
                }
            }
            '\\' | '#' => return Err(PathError::Character),
            control if control.is_ascii_control() => return Err(PathError::Character),
            other => decoded.push(other),
        }
    }
    Ok(decoded)
}

/// Folds dot segments and merges empty ones; above the root is the root.
fn fold(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut is_folder = false;
    for segment in path.split('/') {
        is_folder = matches!(segment, "" | "." | "..");
        match segment {
            "" | "." => {}
            ".." => {
                kept.pop();
            }
            segment => kept.push(segment),
        }
    }
    let mut folded = String::with_capacity(path.len());
    for segment in &kept {
        folded.push('/');
        folded.push_str(segment);
    }
    if is_folder || kept.is_empty() {
        folded.push('/');
    }
    folded
}

/// A request under its canonical path.
#[derive(Debug)]
pub struct Canonical<'a, R> {
    /// As it came.
    pub request: &'a R,
    /// Its canonical path, where that is another.
    pub path: Option<&'a str>,
}

impl<R: RequestView> RequestView for Canonical<'_, R> {
    fn method(&self) -> &str {
        self.request.method()
    }

    fn path(&self) -> &str {
        self.path.unwrap_or_else(|| self.request.path())
    }

    fn query(&self) -> Option<&str> {
        self.request.query()
    }

    fn visit_header(&self, name_lowercase: &str, visit: &mut dyn FnMut(&[u8])) {
        self.request.visit_header(name_lowercase, visit);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn forms() {
        let check = |path: &str, expected: Result<&str, PathError>| {
            let got = canonical(path);
            assert_eq!(got.as_deref().map_err(|error| *error), expected, "{path}");
        };
        check("/", Ok("/"));
        check("*", Ok("*"));
        check("/api/v1/orders.json", Ok("/api/v1/orders.json"));
        check("/api/v1/../../admin", Ok("/admin"));
        check("/api/v1/%2e%2E/admin", Ok("/api/admin"));
        check("/../..", Ok("/"));
        check("/a/.", Ok("/a/"));
        check("/a/..", Ok("/"));
        check("/a//b/", Ok("/a/b/"));
        check("//", Ok("/"));
        check("/.hidden/...", Ok("/.hidden/..."));
        check("/%61dmin", Ok("/admin"));
        check("/a%3ab%20c", Ok("/a%3Ab%20c"));
        check("/caf\u{e9}/x", Ok("/caf\u{e9}/x"));
        check("/a%2Fb", Err(PathError::EncodedSeparator));
        check("/a%5cb", Err(PathError::EncodedSeparator));
        check("/a\\b", Err(PathError::Character));
        check("/a#b", Err(PathError::Character));
        check("/a%00", Err(PathError::Character));
        check("/a%0a", Err(PathError::Character));
        check("/a\u{1}", Err(PathError::Character));
        check("/%zz", Err(PathError::Escape));
        check("/%4", Err(PathError::Escape));
    }

    proptest! {
        #[test]
        fn twice_is_once(path in "/[a.%/2eE45fF\\\\#~]{0,16}") {
            if let Ok(once) = canonical(&path) {
                prop_assert_eq!(canonical(&once), Ok(once.clone()));
            }
        }

        #[test]
        fn no_dots_no_doubled_slashes(path in "/[a./%2e]{0,16}") {
            if let Ok(path) = canonical(&path) {
                prop_assert!(path.starts_with('/') && !path.contains("//"));
                prop_assert!(path.split('/').all(|segment| !matches!(segment, "." | "..")));
            }
        }
    }
}
