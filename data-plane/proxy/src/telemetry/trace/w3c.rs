//! `traceparent` and `tracestate` (W3C Trace Context, Level 1).

use outrigger_policy::RequestView;

use super::{Ids, Incoming};

/// `00-<32>-<16>-<2>`.
pub(super) const LENGTH: usize = 55;

/// The caller's `traceparent`. More than one is as good as none (§3.2).
pub(super) fn read(request: &impl RequestView) -> Incoming {
    let mut found = Incoming::Absent;
    request.visit_header("traceparent", &mut |value| {
        found = match found {
            Incoming::Absent => parse(value).unwrap_or(Incoming::Invalid),
            _ => Incoming::Invalid,
        };
    });
    found
}

/// Whether a `tracestate` is there.
pub(super) fn has_state(request: &impl RequestView) -> bool {
    let mut found = false;
    request.visit_header("tracestate", &mut |_| found = true);
    found
}

/// §3.2.2: lower-case hex, ids not zero, version `ff` forbidden; version 00 has nothing after
/// the flags, a later one may, behind a dash.
fn parse(value: &[u8]) -> Option<Incoming> {
    let (known, rest) = value.split_at_checked(LENGTH)?;
    let version = hex(known.get(..2)?)?;
    let extended = version != 0 && rest.first() == Some(&b'-');
    let dashes = [2, 35, 52].iter().all(|at| known.get(*at) == Some(&b'-'));
    if version == 0xff || !dashes || !(rest.is_empty() || extended) {
        return None;
    }
    let trace = hex(known.get(3..35)?)?;
    let span = u64::try_from(hex(known.get(36..52)?)?).ok()?;
    let flags = hex(known.get(53..55)?)?;
    let valid = trace != 0 && span != 0;
    valid.then_some(Incoming::Trace(Ids { trace, span }, Some(flags & 1 == 1)))
}

/// At most 32 digits.
pub(super) fn hex(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

/// Writes a header of version 00.
pub(super) fn format(ids: Ids, sampled: bool) -> [u8; LENGTH] {
    let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
    write_hex(text.get_mut(3..35), ids.trace);
    write_hex(text.get_mut(36..52), u128::from(ids.span));
    write_hex(text.get_mut(53..55), u128::from(sampled));
    text
}

fn write_hex(digits: Option<&mut [u8]>, mut number: u128) {
    for digit in digits.into_iter().flatten().rev() {
        let value = u8::try_from(number & 0xf).unwrap_or(0);
        *digit = if value < 10 {
            b'0' + value
        } else {
            b'a' + value - 10
        };
        number >>= 4;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TRACE: u128 = 0x0af7_6519_16cd_43dd_8448_eb21_1c80_319c;
    const SPAN: u64 = 0xb7ad_6b71_6920_3331;

    #[test]
    fn only_what_the_standard_allows_is_valid() {
        let trace = "0af7651916cd43dd8448eb211c80319c";
        let span = "b7ad6b7169203331";
        let check = |text: &str, expected: Option<bool>| {
            let ids = Ids {
                trace: TRACE,
                span: SPAN,
            };
            let expected = expected.map(|sampled| Incoming::Trace(ids, Some(sampled)));
            assert_eq!(parse(text.as_bytes()), expected, "{text:?}");
        };
        check(&format!("00-{trace}-{span}-01"), Some(true));
        check(&format!("00-{trace}-{span}-00"), Some(false));
        check(&format!("00-{trace}-{span}-03"), Some(true));
        check(&format!("00-{trace}-{span}-fe"), Some(false));
        check(&format!("cc-{trace}-{span}-01"), Some(true));
        check(
            &format!("cc-{trace}-{span}-01-what-comes-later"),
            Some(true),
        );
        check(&format!("cc-{trace}-{span}-01.what-comes-later"), None);
        check(&format!("00-{trace}-{span}-01-what-comes-later"), None);
        check(&format!("00-{trace}-{span}-01-"), None);
        check(&format!("ff-{trace}-{span}-01"), None);
        check(&format!("0-{trace}-{span}-01"), None);
        check(&format!("00-{}-{span}-01", trace.to_uppercase()), None);
        check(&format!("00-{trace}-{}-01", span.to_uppercase()), None);
        check(&format!("00-{}-{span}-01", "0".repeat(32)), None);
        check(&format!("00-{trace}-{}-01", "0".repeat(16)), None);
        check(&format!("00-{trace}-{span}-0x"), None);
        check(&format!("00_{trace}_{span}_01"), None);
        check(&format!("00-{trace}-{span}-1"), None);
        check(&format!(" 00-{trace}-{span}-01"), None);
        check("", None);
    }

    proptest! {
        #[test]
        fn what_is_written_reads_the_same(trace in 1u128.., span in 1u64.., sampled: bool) {
            let ids = Ids { trace, span };
            let read = parse(&format(ids, sampled));
            prop_assert_eq!(read, Some(Incoming::Trace(ids, Some(sampled))));
        }

        #[test]
        fn no_bytes_confuse_the_parser(bytes in prop::collection::vec(any::<u8>(), 0..80)) {
            let _read = parse(&bytes);
        }
    }
}
