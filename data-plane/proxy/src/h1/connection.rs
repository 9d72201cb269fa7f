//! The `Connection` field (RFC 9110 §7.6.1): what it asks for, and which fields it takes with it.

use super::{OPTIONS_MAX, Reject, field::is_token};

/// The options of all `Connection` fields of a head.
#[derive(Debug, Clone, Copy, Default)]
#[expect(
    clippy::struct_excessive_bools,
    reason = "a set: each option may stand beside each other"
)]
pub struct Options {
    /// `close`.
    pub close: bool,
    /// `keep-alive`.
    pub keep_alive: bool,
    /// `upgrade`.
    pub upgrade: bool,
    /// Some other option, which names fields of this hop.
    pub nominated: bool,
    count: usize,
}

impl Options {
    /// Takes in one field value.
    ///
    /// # Errors
    /// `BadConnectionOption` where an element is no token, or there are more than
    /// [`OPTIONS_MAX`]: each is compared with each field, so their number bounds the work.
    pub(super) fn note(&mut self, value: &[u8]) -> Result<(), Reject> {
        for option in tokens(value) {
            self.count += 1;
            if self.count > OPTIONS_MAX || !option.iter().copied().all(is_token) {
                return Err(Reject::BadConnectionOption);
            }
            match option.len() {
                5 if option.eq_ignore_ascii_case(b"close") => self.close = true,
                7 if option.eq_ignore_ascii_case(b"upgrade") => self.upgrade = true,
                10 if option.eq_ignore_ascii_case(b"keep-alive") => self.keep_alive = true,
                _ => self.nominated = true,
            }
        }
        Ok(())
    }
}

/// The elements of a comma-separated list, trimmed, without the empty ones (RFC 9110 §5.6.1.2).
pub(super) fn tokens(value: &[u8]) -> impl Iterator<Item = &[u8]> {
    value
        .split(|&byte| byte == b',')
        .map(|element| {
            let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
            let start = element
                .iter()
                .position(|byte| !blank(byte))
                .unwrap_or(element.len());
            let end = element
                .iter()
                .rposition(|byte| !blank(byte))
                .map_or(start, |last| last + 1);
            element.get(start..end).unwrap_or_default()
        })
        .filter(|element| !element.is_empty())
}
