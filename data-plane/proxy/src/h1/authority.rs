//! `host[:port]`, as in `Host` and in an absolute target (RFC 3986 §3.2).
//!
//! Narrower than the RFC's `reg-name`: no percent-encoding and no sub-delimiters, which no name
//! that a mesh can route contains and which servers decode differently; no user information.

use super::Reject;
use std::net::Ipv6Addr;

/// Checks that `text` is a host with an optional port.
///
/// # Errors
/// `HostInvalid` for anything else, an empty host or an empty port included.
pub fn check(text: &[u8]) -> Result<(), Reject> {
    let (host, port) = split(text).ok_or(Reject::HostInvalid)?;
    if host.is_empty() || !is_host(host) || !port.is_none_or(is_port) {
        return Err(Reject::HostInvalid);
    }
    Ok(())
}

/// Host (brackets of an IPv6 address included) and port digits; nothing is checked but brackets.
fn split(text: &[u8]) -> Option<(&[u8], Option<&[u8]>)> {
    let host_end = if text.first() == Some(&b'[') {
        text.iter().position(|&byte| byte == b']')? + 1
    } else {
        text.iter()
            .position(|&byte| byte == b':')
            .unwrap_or(text.len())
    };
    let (host, rest) = text.split_at_checked(host_end)?;
    match rest.split_first() {
        None => Some((host, None)),
        Some((b':', port)) => Some((host, Some(port))),
        Some(_) => None,
    }
}

fn is_host(host: &[u8]) -> bool {
    if let Some(inner) = host
        .strip_prefix(b"[")
        .and_then(|rest| rest.strip_suffix(b"]"))
    {
        return std::str::from_utf8(inner).is_ok_and(|text| text.parse::<Ipv6Addr>().is_ok());
    }
    host.iter().all(|&byte| HOST[usize::from(byte)])
}

/// What a host name may be made of: looked up, since every request has one.
const HOST: [bool; 256] = {
    let mut table = [false; 256];
    let (mut byte, mut index) = (0_u8, 0);
    while index < table.len() {
        table[index] = byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~');
        byte = byte.wrapping_add(1);
        index += 1;
    }
    table
};

fn is_port(digits: &[u8]) -> bool {
    if !(1..=5).contains(&digits.len()) {
        return false;
    }
    let value = digits.iter().try_fold(0_u32, |value, &byte| {
        byte.is_ascii_digit()
            .then(|| value * 10 + u32::from(byte - b'0'))
    });
    value.is_some_and(|value| value <= 65_535)
}
