//! Content versions.

use std::{fmt, str::FromStr};

use aws_lc_rs::digest;
use outrigger_model::ResourceKind;

/// Content hash of an encoded resource: the first 128 bits of SHA-256 over kind and bytes, on the
/// wire 32 lower-case hexadecimal digits. Equal content has equal versions on every replica.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Version([u8; 16]);

/// The version of these bytes as a resource of this kind.
#[must_use]
pub fn version(kind: ResourceKind, bytes: &[u8]) -> Version {
    let mut context = digest::Context::new(&digest::SHA256);
    context.update(kind.as_str().as_bytes());
    context.update(&[0]);
    context.update(bytes);
    let hash = context.finish();
    let mut version = [0; 16];
    for (to, from) in version.iter_mut().zip(hash.as_ref()) {
        *to = *from;
    }
    Version(version)
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Not 32 lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a version is 32 lower-case hexadecimal digits")]
pub struct InvalidVersion;

impl FromStr for Version {
    type Err = InvalidVersion;

    fn from_str(text: &str) -> Result<Self, InvalidVersion> {
        let digit = |b: u8| b.is_ascii_digit() || (b'a'..=b'f').contains(&b);
        if text.len() != 32 || !text.bytes().all(digit) {
            return Err(InvalidVersion);
        }
        let number = u128::from_str_radix(text, 16).map_err(|_| InvalidVersion)?;
        Ok(Self(number.to_be_bytes()))
    }
}
