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
    host.iter()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~'))
}

fn is_port(digits: &[u8]) -> bool {
    (1..=5).contains(&digits.len())
        && digits.iter().all(u8::is_ascii_digit)
        && std::str::from_utf8(digits).is_ok_and(|text| text.parse::<u16>().is_ok())
}
