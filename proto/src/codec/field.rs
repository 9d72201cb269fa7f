//! Checks that fields of several messages share. Each takes the field's name for its error.

use std::str::FromStr;

use outrigger_model::{InvalidValue, Percent, Ratio, Weight};

use super::error::{FieldError, Problem};

pub(super) type Result<T> = std::result::Result<T, FieldError>;

pub(super) fn required<'a, T>(field: &str, value: Option<&'a T>) -> Result<&'a T> {
    value.ok_or_else(|| FieldError::new(field, Problem::Missing))
}

/// A message field that must be there, converted.
pub(super) fn message<W, M>(
    field: &str,
    value: Option<&W>,
    convert: impl FnOnce(&W) -> Result<M>,
) -> Result<M> {
    convert(required(field, value)?).map_err(|error| error.within(field))
}

pub(super) fn text<T: FromStr<Err = InvalidValue>>(field: &str, value: &str) -> Result<T> {
    value
        .parse()
        .map_err(|error: InvalidValue| FieldError::new(field, error))
}

/// A list of at most `max` entries, each converted.
pub(super) fn list<W, M>(
    field: &str,
    values: &[W],
    max: usize,
    mut convert: impl FnMut(&W) -> Result<M>,
) -> Result<Vec<M>> {
    count(field, values.len(), max)?;
    let each = values.iter().enumerate();
    each.map(|(i, value)| convert(value).map_err(|error| error.within(&format!("{field}[{i}]"))))
        .collect()
}

/// A list of at most `max` texts.
pub(super) fn texts<T: FromStr<Err = InvalidValue>>(
    field: &str,
    values: &[String],
    max: usize,
) -> Result<Vec<T>> {
    list(field, values, max, |value| text("", value))
}

pub(super) fn count(field: &str, count: usize, max: usize) -> Result<()> {
    if count > max {
        return Err(FieldError::new(field, Problem::TooMany { count, max }));
    }
    Ok(())
}

pub(super) fn not_empty<T>(field: &str, values: &[T]) -> Result<()> {
    if values.is_empty() {
        return Err(FieldError::new(field, Problem::Empty));
    }
    Ok(())
}

/// Strictly ascending by `key`: sorted and without repetition.
pub(super) fn ascending<T, K: Ord + ?Sized>(
    field: &str,
    values: &[T],
    key: impl Fn(&T) -> &K,
) -> Result<()> {
    if values
        .windows(2)
        .all(|pair| matches!(pair, [a, b] if key(a) < key(b)))
    {
        Ok(())
    } else {
        Err(FieldError::new(field, Problem::Unsorted))
    }
}

/// A number of at most `M::MAX`, for the narrower integers that protobuf lacks.
pub(super) fn narrow<M>(field: &str, value: u32, max: M) -> Result<M>
where
    M: TryFrom<u32> + Into<u64>,
{
    M::try_from(value).map_err(|_| {
        let (value, max) = (u64::from(value), max.into());
        FieldError::new(field, Problem::OutOfRange { value, max })
    })
}

pub(super) fn percent(field: &str, value: u32) -> Result<Percent> {
    Percent::new(value).map_err(|error| FieldError::new(field, error))
}

pub(super) fn ratio(field: &str, parts_per_million: u32) -> Result<Ratio> {
    Ratio::from_parts_per_million(parts_per_million).map_err(|error| FieldError::new(field, error))
}

pub(super) fn weight(field: &str, value: u32) -> Result<Weight> {
    Weight::new(value).map_err(|error| FieldError::new(field, error))
}

/// An enum value; `known` is `None` for the unspecified one and for those of a later version.
pub(super) fn enumeration<M>(field: &str, value: i32, known: Option<M>) -> Result<M> {
    known.ok_or_else(|| FieldError::new(field, Problem::UnknownValue(value)))
}
