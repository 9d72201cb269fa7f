//! What goes upstream for what came in.

use proptest::prelude::*;

use super::*;
use crate::telemetry::tests::Head;

fn request(headers: &[(&'static str, &str)]) -> Head {
    let headers = headers.iter();
    Head(
        headers
            .map(|(name, value)| (*name, value.as_bytes().to_vec()))
            .collect(),
    )
}

const ALL: Sampling = Sampling::Ratio(Ratio::ONE);
const NONE: Sampling = Sampling::Ratio(Ratio::ZERO);
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const SPAN: &str = "b7ad6b7169203331";

/// The headers set, with numbers 1, 2, 3 … as random ones.
fn set(sampling: Sampling, headers: &[(&'static str, &str)]) -> (Context, Vec<(String, String)>) {
    let mut number = 0;
    let context = Context::begin(&request(headers), sampling, &mut || {
        number += 1;
        number
    });
    let mut edit = RequestEdit::default();
    context.apply(&mut edit);
    let text = |value: &Bytes| String::from_utf8(value.to_vec()).unwrap();
    let set = edit
        .set
        .iter()
        .map(|(name, value)| ((*name).to_owned(), text(value)))
        .collect();
    (context, set)
}

#[track_caller]
fn check(sampling: Sampling, headers: &[(&'static str, &str)], expected: &[(&str, &str)]) {
    let (_, set) = set(sampling, headers);
    let set: Vec<_> = set
        .iter()
        .map(|(name, value)| (&**name, &**value))
        .collect();
    assert_eq!(set, expected, "{sampling:?} {headers:?}");
}

#[test]
fn the_callers_decision_stands() {
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    let not = format!("00-{TRACE}-{SPAN}-00");
    let ours = format!("00-{TRACE}-0000000000000001-01");
    check(
        NONE,
        &[("traceparent", &sampled), ("tracestate", "a=b")],
        &[("traceparent", &ours)],
    );
    check(ALL, &[("traceparent", &not), ("tracestate", "a=b")], &[]);
    let (context, _) = set(NONE, &[("traceparent", &sampled)]);
    let trace = u128::from_str_radix(TRACE, 16).unwrap();
    let caller = u64::from_str_radix(SPAN, 16).unwrap();
    assert_eq!(context.recorded(), Some((trace, 1, caller)));
    assert_eq!(context.traceparent(), ours);
    let (context, _) = set(ALL, &[("traceparent", &not)]);
    assert_eq!(context.recorded(), None);
    assert_eq!(context.traceparent(), not, "the log shows it all the same");
}

#[test]
fn a_new_trace_is_decided_here_and_announced() {
    let new = "00-00000000000000010000000000000002-0000000000000003";
    check(ALL, &[], &[("traceparent", &format!("{new}-01"))]);
    check(NONE, &[], &[("traceparent", &format!("{new}-00"))]);
    let (context, _) = set(ALL, &[]);
    assert_eq!(context.recorded(), Some(((1 << 64) | 2, 3, 0)));
}

#[test]
fn an_invalid_header_starts_a_new_trace() {
    let new = "00-00000000000000010000000000000002-0000000000000003-01";
    let valid = format!("00-{TRACE}-{SPAN}-01");
    check(ALL, &[("traceparent", "nonsense")], &[("traceparent", new)]);
    check(
        ALL,
        &[("traceparent", &valid), ("traceparent", &valid)],
        &[("traceparent", new)],
    );
    check(
        ALL,
        &[("traceparent", "nonsense"), ("tracestate", "a=b")],
        &[("traceparent", new), ("tracestate", "")],
    );
    let b3 = format!("{TRACE}-{SPAN}-1");
    check(
        ALL,
        &[("traceparent", "nonsense"), ("b3", &b3)],
        &[("traceparent", new)],
    );
}

#[test]
fn with_tracing_off_nothing_is_touched() {
    let sampled = format!("00-{TRACE}-{SPAN}-01");
    for headers in [
        vec![("traceparent", &*sampled)],
        vec![("traceparent", "x")],
        vec![],
    ] {
        check(Sampling::Off, &headers, &[]);
    }
    let (context, _) = set(Sampling::Off, &[("traceparent", &sampled)]);
    assert!(!context.is_sampled());
    assert_eq!(context.traceparent(), sampled);
}

#[test]
fn b3_is_read_and_kept_in_step() {
    let ours = format!("00-{TRACE}-0000000000000001-01");
    let single = |state: &str| format!("{TRACE}-{SPAN}{state}");
    let next = format!("{TRACE}-0000000000000001-1");
    let both = [("traceparent", &*ours), ("b3", &*next)];
    check(NONE, &[("b3", &single("-1"))], &both);
    check(NONE, &[("b3", &single("-d"))], &both);
    check(NONE, &[("b3", &single("-1-05e3ac9a4f6e3b90"))], &both);
    check(ALL, &[("b3", &single(""))], &both);
    check(ALL, &[("b3", &single("-0"))], &[]);
    check(ALL, &[("b3", "0")], &[]);
    let kept = format!("00-{TRACE}-{SPAN}-00");
    let no = format!("{TRACE}-{SPAN}-0");
    check(
        NONE,
        &[("b3", &single(""))],
        &[("traceparent", &kept), ("b3", &no)],
    );
    check(
        NONE,
        &[
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", SPAN),
            ("x-b3-sampled", "1"),
        ],
        &[
            ("traceparent", &ours),
            ("x-b3-traceid", TRACE),
            ("x-b3-spanid", "0000000000000001"),
            ("x-b3-parentspanid", SPAN),
            ("x-b3-sampled", "1"),
        ],
    );
    check(ALL, &[("x-b3-sampled", "0")], &[]);
    let short = format!("0000000000000000{SPAN}");
    let (context, _) = set(NONE, &[("b3", &format!("{SPAN}-{SPAN}-1"))]);
    assert_eq!(
        context.traceparent(),
        format!("00-{short}-0000000000000001-01")
    );
    let new = "00-00000000000000010000000000000002-0000000000000003-01";
    for bad in [
        "",
        "x",
        "1-1",
        &single("-2"),
        &single("-1-zz"),
        &single("-1-05e3ac9a4f6e3b90-1"),
    ] {
        check(ALL, &[("b3", bad)], &[("traceparent", new)]);
    }
}

proptest! {
    /// The share of new traces that are recorded is the ratio; a trace is decided alike by all.
    #[test]
    fn sampling_follows_the_ratio(seed: u64, millionths in 0u32..=1_000_000) {
        let ratio = Ratio::from_parts_per_million(millionths).unwrap();
        let mut state = seed;
        // SplitMix64.
        let mut random = || {
            state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = state;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            z ^ (z >> 31)
        };
        let number = 4_000;
        let sampled = (0..number).filter(|_| is_sampled(new_trace(&mut random), ratio)).count();
        let expected = f64::from(number) * ratio.as_f64();
        let deviation = (f64::from(number) * ratio.as_f64() * (1.0 - ratio.as_f64())).sqrt();
        let off = (f64::from(u32::try_from(sampled).unwrap()) - expected).abs();
        prop_assert!(off <= 6.0 * deviation + 1.0, "{} of {} at {}", sampled, number, ratio.as_f64());
    }
}
