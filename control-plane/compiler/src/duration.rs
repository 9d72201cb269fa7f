//! Durations as Kubernetes and Istio write them: Go's `time.ParseDuration`, without sign.

use std::time::Duration;

const RULE: &str = "write a number with its unit, for example 5s, 250ms or 1m30s";

/// Parses `1h2m3.5s`, `250ms`, `10us`; `0` needs no unit.
///
/// # Errors
/// What to write instead.
pub(crate) fn parse(text: &str) -> Result<Duration, &'static str> {
    if text == "0" {
        return Ok(Duration::ZERO);
    }
    let mut nanos: u128 = 0;
    let mut rest = text;
    if rest.is_empty() {
        return Err(RULE);
    }
    while !rest.is_empty() {
        let number_len = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .ok_or(RULE)?;
        let (number, tail) = rest.split_at(number_len);
        let unit_len = tail
            .find(|c: char| c.is_ascii_digit() || c == '.')
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        nanos = nanos
            .checked_add(term(number, unit).ok_or(RULE)?)
            .ok_or(RULE)?;
        rest = tail;
    }
    u64::try_from(nanos)
        .map(Duration::from_nanos)
        .map_err(|_| "write at most 500 years")
}

fn term(number: &str, unit: &str) -> Option<u128> {
    let scale: u128 = match unit {
        "ns" => 1,
        "us" | "µs" | "μs" => 1_000,
        "ms" => 1_000_000,
        "s" => 1_000_000_000,
        "m" => 60_000_000_000,
        "h" => 3_600_000_000_000,
        _ => return None,
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if whole.is_empty() && fraction.is_empty() {
        return None;
    }
    let digits = |text: &str| -> Option<u128> {
        if text.is_empty() {
            return Some(0);
        }
        if text.len() > 20 {
            return None;
        }
        text.bytes()
            .all(|b| b.is_ascii_digit())
            .then(|| text.parse().ok())?
    };
    let mut part = scale;
    let mut below: u128 = 0;
    for digit in fraction.bytes() {
        if !digit.is_ascii_digit() {
            return None;
        }
        part /= 10;
        below += part * u128::from(digit - b'0');
    }
    digits(whole)?.checked_mul(scale)?.checked_add(below)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn go_durations() {
        let check = |text: &str, millis: Option<u64>| {
            assert_eq!(
                parse(text).ok(),
                millis.map(Duration::from_millis),
                "{text}"
            );
        };
        check("5s", Some(5000));
        check("0s", Some(0));
        check("0", Some(0));
        check("1.5s", Some(1500));
        check(".5s", Some(500));
        check("1h2m3s", Some(3_723_000));
        check("1m30s", Some(90_000));
        check("250ms", Some(250));
        check("5", None);
        check("5 s", None);
        check("-5s", None);
        check("s", None);
        check("5sec", None);
        check("1.2.3s", None);
        check("", None);
        check("99999999999999999999h", None);
    }
}
