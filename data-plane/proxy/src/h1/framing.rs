//! How long a body is: a typed value, decided once by rules stricter than RFC 9112 §6.
//!
//! Where the RFC lets a recipient repair an ambiguity (equal `Content-Length`s, a length beside
//! `Transfer-Encoding`), two servers may repair it differently, and that difference is request
//! smuggling. So every ambiguity is refused, and both framing fields of what leaves are written
//! from the value here, never copied.

use super::{Reject, Version};

/// The framing of a message body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Framing {
    /// There is no body, and no framing field says so.
    None,
    /// Exactly this many bytes follow; 0 is written out as `content-length: 0`.
    Length(u64),
    /// Chunks follow, then perhaps trailers.
    Chunked,
    /// The body ends with the connection. Responses only.
    UntilClose,
}

impl Framing {
    /// Whether no body byte follows the head.
    pub const fn is_empty(self) -> bool {
        matches!(self, Framing::None | Framing::Length(0))
    }
}

/// What the framing fields of a head said, before it is known what kind of message it is.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct FramingFacts {
    length: Option<u64>,
    chunked: bool,
}

impl FramingFacts {
    /// Takes in a field that is, or resembles, `Content-Length`.
    pub(super) fn note_length(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        if name.contains(&b'_') {
            return Err(Reject::FramingLookalike);
        }
        let length = parse_length(value)?;
        if self.length.replace(length).is_some() {
            return Err(Reject::LengthRepeated);
        }
        Ok(())
    }

    /// Takes in a field that is, or resembles, `Transfer-Encoding`.
    pub(super) fn note_encoding(&mut self, name: &[u8], value: &[u8]) -> Result<(), Reject> {
        if name.contains(&b'_') {
            return Err(Reject::FramingLookalike);
        }
        if std::mem::replace(&mut self.chunked, true) {
            return Err(Reject::EncodingInvalid);
        }
        if value.eq_ignore_ascii_case(b"chunked") {
            return Ok(());
        }
        // `chunked` anywhere in what is not exactly `chunked` is an attempt at two readings;
        // anything else is an honest coding that we do not have.
        let lower = value.to_ascii_lowercase();
        let codings = lower.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
        let (mut total, mut chunked, mut malformed) = (0_usize, 0_usize, false);
        for coding in codings {
            total += 1;
            chunked += usize::from(coding == b"chunked");
            let token = coding.split(|&b| b == b';').next().unwrap_or_default();
            malformed |= token.is_empty()
                || !token.iter().copied().all(super::field::is_token)
                || (token == b"chunked" && coding != b"chunked");
        }
        if malformed || chunked > 1 || (chunked == 1 && !lower.ends_with(b"chunked")) || total == 0
        {
            Err(Reject::EncodingInvalid)
        } else {
            Err(Reject::EncodingNotSupported)
        }
    }

    /// The framing of a request (RFC 9112 §6.3).
    pub(super) fn request(self, version: Version) -> Result<Framing, Reject> {
        Ok(match self.checked(version)? {
            FramingFacts { chunked: true, .. } => Framing::Chunked,
            FramingFacts {
                length: Some(length),
                ..
            } => Framing::Length(length),
            FramingFacts { .. } => Framing::None,
        })
    }

    /// The framing of a response, and the length it declares of a body it does not carry
    /// (to HEAD, and in 304).
    pub(super) fn response(
        self,
        version: Version,
        status: u16,
        asked: Asked,
    ) -> Result<(Framing, Option<u64>), Reject> {
        let facts = self.checked(version)?;
        let bodiless = matches!(status, 100..=199 | 204 | 304) || asked == Asked::Head;
        if bodiless {
            // 1xx and 204 must not carry a length (RFC 9110 §8.6): it is not passed on.
            let declared = if matches!(status, 100..=199 | 204) {
                None
            } else {
                facts.length
            };
            return Ok((Framing::None, declared));
        }
        Ok((
            match facts {
                FramingFacts { chunked: true, .. } => Framing::Chunked,
                FramingFacts {
                    length: Some(length),
                    ..
                } => Framing::Length(length),
                FramingFacts { .. } => Framing::UntilClose,
            },
            None,
        ))
    }

    fn checked(self, version: Version) -> Result<FramingFacts, Reject> {
        if self.chunked && version == Version::Http10 {
            Err(Reject::EncodingInHttp10)
        } else if self.chunked && self.length.is_some() {
            Err(Reject::LengthAndEncoding)
        } else {
            Ok(self)
        }
    }
}

/// Which request a response answers: it decides whether a body follows. CONNECT is missing
/// because it is never forwarded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    /// HEAD: the head describes a body that does not come.
    Head,
    /// Any other method.
    Other,
}

/// 1*DIGIT within 64 bits, nothing else: no sign, no space, no list.
fn parse_length(value: &[u8]) -> Result<u64, Reject> {
    if value.is_empty() {
        return Err(Reject::LengthInvalid);
    }
    value.iter().try_fold(0_u64, |length, &byte| {
        if !byte.is_ascii_digit() {
            return Err(Reject::LengthInvalid);
        }
        length
            .checked_mul(10)
            .and_then(|tens| tens.checked_add(u64::from(byte - b'0')))
            .ok_or(Reject::LengthInvalid)
    })
}
