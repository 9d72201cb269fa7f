//! Durations and bounds.

use std::{num::NonZeroU32, time::Duration};

use outrigger_model::{EjectionThreshold, Lifetime, RequestsPerConnection, Timeout};

use super::{
    error::{FieldError, Problem},
    field::{Result, message},
    wire::{self, count_bound, time_bound},
};

/// Largest `nanos`.
const NANOS_MAX: u32 = 999_999_999;

#[expect(
    clippy::unnecessary_wraps,
    reason = "message fields are optional on the wire"
)]
pub(super) fn duration(value: Duration) -> Option<wire::Duration> {
    Some(wire::Duration {
        seconds: value.as_secs(),
        nanos: value.subsec_nanos(),
    })
}

fn plain_duration(value: &wire::Duration) -> Result<Duration> {
    if value.nanos > NANOS_MAX {
        let (value, max) = (u64::from(value.nanos), u64::from(NANOS_MAX));
        return Err(FieldError::new("nanos", Problem::OutOfRange { value, max }));
    }
    Ok(Duration::new(value.seconds, value.nanos))
}

pub(super) fn read_duration(field: &str, value: Option<&wire::Duration>) -> Result<Duration> {
    message(field, value, plain_duration)
}

fn time_bound(at_most: Option<Duration>) -> Option<wire::TimeBound> {
    let bound = match at_most {
        None => time_bound::Bound::Unlimited(wire::Unlimited {}),
        Some(value) => time_bound::Bound::AtMost(wire::Duration {
            seconds: value.as_secs(),
            nanos: value.subsec_nanos(),
        }),
    };
    Some(wire::TimeBound { bound: Some(bound) })
}

/// `None`: unlimited.
fn read_time_bound(field: &str, value: Option<&wire::TimeBound>) -> Result<Option<Duration>> {
    message(field, value, |bound| match &bound.bound {
        Some(time_bound::Bound::Unlimited(_)) => Ok(None),
        Some(time_bound::Bound::AtMost(value)) => plain_duration(value)
            .map(Some)
            .map_err(|error| error.within("at_most")),
        None => Err(FieldError::new("bound", Problem::Missing)),
    })
}

pub(super) fn lifetime(value: Lifetime) -> Option<wire::TimeBound> {
    time_bound(match value {
        Lifetime::Unlimited => None,
        Lifetime::AtMost(value) => Some(value),
    })
}

pub(super) fn read_lifetime(field: &str, value: Option<&wire::TimeBound>) -> Result<Lifetime> {
    Ok(match read_time_bound(field, value)? {
        None => Lifetime::Unlimited,
        Some(value) => Lifetime::AtMost(value),
    })
}

pub(super) fn timeout(value: Timeout) -> Option<wire::TimeBound> {
    time_bound(match value {
        Timeout::Disabled => None,
        Timeout::After(value) => Some(value),
    })
}

pub(super) fn read_timeout(field: &str, value: Option<&wire::TimeBound>) -> Result<Timeout> {
    match read_time_bound(field, value)? {
        None => Ok(Timeout::Disabled),
        Some(Duration::ZERO) => Err(FieldError::new(field, Problem::Zero)),
        Some(value) => Ok(Timeout::After(value)),
    }
}

#[expect(
    clippy::unnecessary_wraps,
    reason = "message fields are optional on the wire"
)]
fn count_bound(at_most: Option<NonZeroU32>) -> Option<wire::CountBound> {
    let bound = match at_most {
        None => count_bound::Bound::Unlimited(wire::Unlimited {}),
        Some(value) => count_bound::Bound::AtMost(value.get()),
    };
    Some(wire::CountBound { bound: Some(bound) })
}

/// `None`: unlimited.
fn read_count_bound(field: &str, value: Option<&wire::CountBound>) -> Result<Option<NonZeroU32>> {
    message(field, value, |bound| match bound.bound {
        Some(count_bound::Bound::Unlimited(_)) => Ok(None),
        Some(count_bound::Bound::AtMost(value)) => NonZeroU32::new(value)
            .map(Some)
            .ok_or_else(|| FieldError::new("at_most", Problem::Zero)),
        None => Err(FieldError::new("bound", Problem::Missing)),
    })
}

pub(super) fn requests(value: RequestsPerConnection) -> Option<wire::CountBound> {
    count_bound(match value {
        RequestsPerConnection::Unlimited => None,
        RequestsPerConnection::AtMost(value) => Some(value),
    })
}

pub(super) fn read_requests(
    field: &str,
    value: Option<&wire::CountBound>,
) -> Result<RequestsPerConnection> {
    Ok(match read_count_bound(field, value)? {
        None => RequestsPerConnection::Unlimited,
        Some(value) => RequestsPerConnection::AtMost(value),
    })
}

pub(super) fn threshold(value: EjectionThreshold) -> Option<wire::CountBound> {
    count_bound(match value {
        EjectionThreshold::Never => None,
        EjectionThreshold::After(value) => Some(value),
    })
}

pub(super) fn read_threshold(
    field: &str,
    value: Option<&wire::CountBound>,
) -> Result<EjectionThreshold> {
    Ok(match read_count_bound(field, value)? {
        None => EjectionThreshold::Never,
        Some(value) => EjectionThreshold::After(value),
    })
}
