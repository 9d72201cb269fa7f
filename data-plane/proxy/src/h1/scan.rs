//! Finding the end of a head (or of a trailer section) while bytes arrive.
//!
//! Nothing is parsed before the whole section is there, and no byte is looked at twice: a peer
//! that sends one byte at a time costs the same work per byte as one that sends the head at once.
//! Line ends are judged on the raw bytes, here or in [`field`](super::field), because the parser
//! between accepts a bare LF.

use super::{FIELDS_MAX, HEAD_BYTES_MAX, Reject};
use memchr::memchr;
use memchr::memmem::Finder;
use std::sync::LazyLock;

/// What may stand before the first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Leading {
    /// One empty line is skipped: some clients send CRLF after a body (RFC 9112 §2.2).
    OneBlankLine,
    /// The section starts at once.
    Nothing,
    /// As `Nothing`, and the section is fields only: an empty first line ends it.
    FieldsOnly,
}

/// Where a complete section lies in the buffer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Section {
    /// Bytes to drop before it: 2 where a blank line was skipped, otherwise 0.
    pub skip: usize,
    /// Its length, final empty line included.
    pub len: usize,
}

/// Incremental search for the empty line. Feed it the same growing buffer each time.
#[derive(Debug, Clone, Copy)]
pub struct Scanner {
    leading: Leading,
    skip: usize,
    /// Every byte before this one has been seen.
    scanned: usize,
    line_start: usize,
    lines: usize,
}

impl Scanner {
    /// A scanner at the start of a section.
    pub const fn new(leading: Leading) -> Scanner {
        Scanner {
            leading,
            skip: 0,
            scanned: 0,
            line_start: 0,
            lines: 0,
        }
    }

    /// Looks at what is new in `buf`, which starts where it started at the last call.
    ///
    /// `Ok(None)`: not complete yet.
    ///
    /// # Errors
    /// `BareLf`, `LeadingBlankLine`, `BadMethod` or `BadStatusLine` (nothing begins so),
    /// `HeadTooLarge`, `TooManyFields`: as soon as they can be known.
    pub fn scan(&mut self, buf: &[u8]) -> Result<Option<Section>, Reject> {
        if self.scanned == 0
            && let Some(section) = self.whole(buf)
        {
            return Ok(Some(section));
        }
        match self.leading {
            Leading::OneBlankLine if self.scanned == self.skip => {
                check_first_byte(buf.get(self.skip..).unwrap_or_default())?;
            }
            Leading::Nothing if self.scanned < PROTOCOL.len() => check_protocol(buf)?,
            Leading::OneBlankLine | Leading::Nothing | Leading::FieldsOnly => {}
        }
        while let Some(offset) = buf.get(self.scanned..).and_then(|rest| memchr(b'\n', rest)) {
            let line_feed = self.scanned + offset;
            if line_feed == self.line_start || buf.get(line_feed - 1) != Some(&b'\r') {
                return Err(Reject::BareLf);
            }
            self.scanned = line_feed + 1;
            let blank = line_feed == self.line_start + 1;
            self.line_start = self.scanned;
            if !blank {
                self.lines += 1;
                self.check_bounds(self.scanned)?;
            } else if self.lines > 0 || self.leading == Leading::FieldsOnly {
                self.check_bounds(self.scanned)?;
                return Ok(Some(Section {
                    skip: self.skip,
                    len: self.scanned - self.skip,
                }));
            } else if self.leading == Leading::OneBlankLine && self.skip == 0 {
                self.skip = self.scanned;
                check_first_byte(buf.get(self.skip..).unwrap_or_default())?;
            } else {
                return Err(Reject::LeadingBlankLine);
            }
        }
        self.scanned = buf.len();
        self.check_bounds(buf.len())?;
        Ok(None)
    }

    /// The usual case: the first read brought the whole head. One search for the empty line, in
    /// place of one for each line end; that every line ends in CRLF is seen again when the fields
    /// are collected, where it costs one comparison a field.
    fn whole(&self, buf: &[u8]) -> Option<Section> {
        let begins = match self.leading {
            Leading::OneBlankLine => buf.first().copied().is_some_and(super::field::is_token),
            Leading::Nothing => buf.starts_with(PROTOCOL),
            Leading::FieldsOnly => false,
        };
        let within = buf
            .get(..buf.len().min(HEAD_BYTES_MAX))
            .filter(|_| begins)?;
        let end = EMPTY_LINE.find(within)?;
        Some(Section {
            skip: 0,
            len: end + EMPTY_LINE.needle().len(),
        })
    }

    /// How many bytes of `buf` the next call would look at.
    #[cfg(test)]
    pub(super) fn unseen(&self, buf: &[u8]) -> usize {
        buf.len() - self.scanned
    }

    fn check_bounds(&self, seen: usize) -> Result<(), Reject> {
        let first_line = usize::from(self.leading != Leading::FieldsOnly);
        if seen - self.skip > HEAD_BYTES_MAX {
            Err(Reject::HeadTooLarge)
        } else if self.lines > FIELDS_MAX + first_line {
            Err(Reject::TooManyFields)
        } else {
            Ok(())
        }
    }
}

/// The end of a head. Prepared once: preparing costs more than one search.
static EMPTY_LINE: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(b"\r\n\r\n"));

/// What every status line begins with.
const PROTOCOL: &[u8] = b"HTTP/";

/// A server that speaks something else (an SSH banner) is found out at once.
fn check_protocol(buf: &[u8]) -> Result<(), Reject> {
    let there = buf.len().min(PROTOCOL.len());
    match buf.first() {
        Some(b'\r' | b'\n') => Ok(()),
        _ if buf.get(..there) == PROTOCOL.get(..there) => Ok(()),
        Some(_) | None => Err(Reject::BadStatusLine),
    }
}

/// A TLS hello or binary noise is refused at its first byte, not after 64 KiB of waiting.
fn check_first_byte(buf: &[u8]) -> Result<(), Reject> {
    match buf.first() {
        None | Some(b'\r' | b'\n') => Ok(()),
        Some(&byte) if super::field::is_token(byte) => Ok(()),
        Some(0) => Err(Reject::Nul),
        Some(_) => Err(Reject::BadMethod),
    }
}
