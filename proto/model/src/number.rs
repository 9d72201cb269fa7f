//! Numbers with a rule: ports, weights, percentages, ratios.

use std::{fmt, num::NonZeroU16};

use crate::InvalidValue;

/// A TCP port, 1–65535.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Port(NonZeroU16);

impl Port {
    /// Takes any integer, so that the many integer types of YAML and protobuf convert once, here.
    ///
    /// # Errors
    /// When the number is not in 1–65535.
    pub fn new(number: impl TryInto<u16> + fmt::Display + Copy) -> Result<Self, InvalidValue> {
        number
            .try_into()
            .ok()
            .and_then(NonZeroU16::new)
            .map(Self)
            .ok_or_else(|| {
                InvalidValue::new(
                    "port",
                    &number.to_string(),
                    "a port is a number from 1 to 65535",
                )
            })
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u16 {
        self.0.get()
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A relative share of traffic or load, 0 (takes none) to 1,000,000.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Weight(u32);

impl Weight {
    /// The weight of an endpoint or backend that names none.
    pub const ONE: Self = Self(1);
    /// The largest weight. Sums of 4,096 of them stay far from overflow in `u64`.
    pub const MAX: u32 = 1_000_000;

    /// # Errors
    /// When the number is not in 0–1,000,000.
    pub fn new(number: impl TryInto<u32> + fmt::Display + Copy) -> Result<Self, InvalidValue> {
        match number.try_into() {
            Ok(weight) if weight <= Self::MAX => Ok(Self(weight)),
            Ok(_) | Err(_) => Err(InvalidValue::new(
                "weight",
                &number.to_string(),
                "a weight is a number from 0 to 1000000",
            )),
        }
    }

    /// The number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// A whole percentage, 0–100.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// # Errors
    /// When the number is not in 0–100.
    pub fn new(number: impl TryInto<u8> + fmt::Display + Copy) -> Result<Self, InvalidValue> {
        match number.try_into() {
            Ok(percent) if percent <= 100 => Ok(Self(percent)),
            Ok(_) | Err(_) => Err(InvalidValue::new(
                "percentage",
                &number.to_string(),
                "a percentage is a whole number from 0 to 100",
            )),
        }
    }

    /// The number, 0–100.
    #[must_use]
    pub fn get(self) -> u8 {
        self.0
    }
}

/// A share of one in parts per million, 0–1,000,000: exact on the wire, unlike a float.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ratio(u32);

impl Ratio {
    /// Nothing.
    pub const ZERO: Self = Self(0);
    /// All.
    pub const ONE: Self = Self(1_000_000);

    /// # Errors
    /// When `parts_per_million` is above 1,000,000.
    pub fn from_parts_per_million(parts_per_million: u32) -> Result<Self, InvalidValue> {
        if parts_per_million <= 1_000_000 {
            Ok(Self(parts_per_million))
        } else {
            Err(InvalidValue::new(
                "ratio",
                &parts_per_million.to_string(),
                "a ratio is at most 1000000 parts per million",
            ))
        }
    }

    /// Parts per million, 0–1,000,000.
    #[must_use]
    pub fn parts_per_million(self) -> u32 {
        self.0
    }

    /// As a number from 0 to 1.
    #[must_use]
    pub fn as_f64(self) -> f64 {
        f64::from(self.0) / 1e6
    }
}
