//! Deadlines: route timeout, per-try timeout and the client's `grpc-timeout`, as instants.
//!
//! A deadline is set once, when the request is routed, and passed down as an instant, so that
//! retries and queues use up the same time. Combining only ever shortens.

use std::time::{Duration, Instant};

use outrigger_model::Timeout;

/// When work must have ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deadline {
    /// No bound.
    None,
    /// Not after this instant.
    At(Instant),
}

impl Deadline {
    /// `timeout` from `now`. A time too far to be represented is no bound.
    #[must_use]
    pub fn after(timeout: Timeout, now: Instant) -> Self {
        match timeout {
            Timeout::Disabled => Self::None,
            Timeout::After(duration) => now.checked_add(duration).map_or(Self::None, Self::At),
        }
    }

    /// Deadline of a whole request: the route's timeout, or what the client's `grpc-timeout`
    /// header leaves, whichever is shorter. A malformed header is no header.
    #[must_use]
    pub fn of_request(route: Timeout, grpc_timeout: Option<&[u8]>, now: Instant) -> Self {
        let client = grpc_timeout
            .and_then(parse_grpc_timeout)
            .map_or(Timeout::Disabled, Timeout::After);
        Self::after(route, now).earlier(Self::after(client, now))
    }

    /// Deadline of one try that starts `now`: the request's (`self`) or the per-try timeout,
    /// and which of the two it is. At the same instant the request's counts: nothing is retried.
    #[must_use]
    pub fn of_try(self, per_try: Timeout, now: Instant) -> (Self, Bound) {
        let of_try = Self::after(per_try, now);
        if self.earlier(of_try) == self {
            (self, Bound::Request)
        } else {
            (of_try, Bound::Try)
        }
    }

    /// The earlier of two.
    #[must_use]
    pub fn earlier(self, other: Self) -> Self {
        match (self, other) {
            (Self::None, only) | (only, Self::None) => only,
            (Self::At(one), Self::At(two)) => Self::At(one.min(two)),
        }
    }

    /// Time left; zero when passed.
    #[must_use]
    pub fn remaining(self, now: Instant) -> Remaining {
        match self {
            Self::None => Remaining::Unlimited,
            Self::At(at) => Remaining::For(at.saturating_duration_since(now)),
        }
    }
}

/// Which bound a try's deadline comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bound {
    /// The whole request's, or none: passing it is the overall timeout.
    Request,
    /// This try's: passing it is a per-try timeout.
    Try,
}

/// Time left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remaining {
    /// No bound.
    Unlimited,
    /// So long, possibly zero.
    For(Duration),
}

/// Units of `grpc-timeout` with their length in nanoseconds, largest first.
const GRPC_UNITS: [(u8, u64); 6] = [
    (b'H', 3_600_000_000_000),
    (b'M', 60_000_000_000),
    (b'S', 1_000_000_000),
    (b'm', 1_000_000),
    (b'u', 1_000),
    (b'n', 1),
];

/// Parses a `grpc-timeout` value: 1–8 digits and a unit (gRPC over HTTP/2, "Timeout"). `None`
/// when malformed. Zero is accepted, as gRPC's own servers do: the deadline has passed.
#[must_use]
pub fn parse_grpc_timeout(value: &[u8]) -> Option<Duration> {
    let (unit, digits) = value.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number = digits
        .iter()
        .fold(0_u64, |number, digit| number * 10 + u64::from(digit - b'0'));
    let (_, nanos) = GRPC_UNITS.iter().find(|(name, _)| name == unit)?;
    // At most 99,999,999 hours; only that unit can pass u64 nanoseconds.
    Some(Duration::from_nanos(*nanos).saturating_mul(u32::try_from(number).ok()?))
}

/// Writes the largest `grpc-timeout` value that is not above `duration` (so the next hop never
/// waits longer than this one) into `buffer` and returns it. The smallest is `1n`: the
/// specification asks for a positive number.
pub fn write_grpc_timeout(duration: Duration, buffer: &mut [u8; 9]) -> &[u8] {
    let nanos = duration.as_nanos().max(1);
    // The finest unit that fits 8 digits; hours always do, cut to the largest value.
    let (unit, number) = GRPC_UNITS
        .iter()
        .rev()
        .map(|&(unit, length)| (unit, nanos / u128::from(length)))
        .find(|&(_, number)| number <= 99_999_999)
        .unwrap_or((b'H', 99_999_999));
    let mut rest = u32::try_from(number).unwrap_or(99_999_999);
    let mut start = buffer.len() - 1;
    buffer[start] = unit;
    loop {
        start -= 1;
        buffer[start] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        if rest == 0 {
            return &buffer[start..];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::test_clock::epoch;
    use proptest::prelude::*;

    const MS: fn(u64) -> Duration = Duration::from_millis;

    #[test]
    fn grpc_timeout_values() {
        let check = |text: &str, expected: Option<Duration>| {
            assert_eq!(parse_grpc_timeout(text.as_bytes()), expected, "{text:?}");
        };
        check("1H", Some(MS(3_600_000)));
        check("2M", Some(MS(120_000)));
        check("3S", Some(MS(3_000)));
        check("250m", Some(MS(250)));
        check("5u", Some(Duration::from_micros(5)));
        check("7n", Some(Duration::from_nanos(7)));
        check("0S", Some(Duration::ZERO));
        check("00000012m", Some(MS(12)));
        check("99999999H", Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in [
            "",
            "S",
            "1",
            "123456789m",
            "-1S",
            "+1S",
            "1.5S",
            " 1S",
            "1S ",
            "1s",
            "1d",
        ] {
            check(bad, None);
        }
    }

    #[test]
    fn a_request_takes_the_shorter_bound() {
        let now = epoch();
        let check = |route: Timeout, grpc: Option<&str>, expected: Option<u64>| {
            let expected = expected.map_or(Deadline::None, |ms| Deadline::At(now + MS(ms)));
            let deadline = Deadline::of_request(route, grpc.map(str::as_bytes), now);
            assert_eq!(deadline, expected, "{route:?} {grpc:?}");
        };
        check(Timeout::Disabled, None, None);
        check(Timeout::After(MS(500)), None, Some(500));
        check(Timeout::Disabled, Some("200m"), Some(200));
        check(Timeout::After(MS(500)), Some("200m"), Some(200));
        check(Timeout::After(MS(500)), Some("900m"), Some(500));
        check(Timeout::After(MS(500)), Some("soon"), Some(500));
        check(Timeout::After(Duration::MAX), None, None);
    }

    #[test]
    fn a_try_never_outlives_its_request() {
        let now = epoch();
        let check = |request: Option<u64>, per_try: Option<u64>, expected: (Option<u64>, Bound)| {
            let at = |ms: Option<u64>| ms.map_or(Deadline::None, |ms| Deadline::At(now + MS(ms)));
            let per_try = per_try.map_or(Timeout::Disabled, |ms| Timeout::After(MS(ms)));
            let found = at(request).of_try(per_try, now);
            assert_eq!(found, (at(expected.0), expected.1));
        };
        check(None, None, (None, Bound::Request));
        check(Some(5), None, (Some(5), Bound::Request));
        check(None, Some(2), (Some(2), Bound::Try));
        check(Some(5), Some(2), (Some(2), Bound::Try));
        check(Some(2), Some(5), (Some(2), Bound::Request));
        check(Some(2), Some(2), (Some(2), Bound::Request));
    }

    #[test]
    fn remaining_ends_at_zero() {
        let now = epoch();
        let deadline = Deadline::At(now + MS(5));
        assert_eq!(deadline.remaining(now), Remaining::For(MS(5)));
        assert_eq!(
            deadline.remaining(now + MS(9)),
            Remaining::For(Duration::ZERO)
        );
        assert_eq!(Deadline::None.remaining(now), Remaining::Unlimited);
    }

    proptest! {
        /// What is written is read back, never longer, and within a part in 100,000.
        #[test]
        fn written_values_never_lengthen(nanos in prop_oneof![1..10_000_u64, 1..=u64::MAX]) {
            let duration = Duration::from_nanos(nanos);
            let mut buffer = [0; 9];
            let text = write_grpc_timeout(duration, &mut buffer).to_vec();
            let back = parse_grpc_timeout(&text);
            prop_assert!(back.is_some_and(|back| back <= duration), "{text:?}");
            prop_assert!(back.is_some_and(|back| back.as_nanos() * 100_000 >= u128::from(nanos) * 99_999));
        }
    }
}
