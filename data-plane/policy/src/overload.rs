//! What a sidecar gives up as its memory fills (DEF-21), least first.
//!
//! A level is entered the moment memory reaches its share of the limit, and left only
//! [`HYSTERESIS`] points below that, so that what a level frees does not end it at once. Falling
//! skips no check: one reading far below all shares ends every level.

use std::fmt;

/// How far a level is left below the share that enters it, in points of a hundred.
pub const HYSTERESIS: u32 = 3;

/// What holds less is never reset for want of memory, bytes. An exchange at work has up to four
/// buffers of 8 KiB for a moment; one whose peer does not take what it is sent has a window or
/// more.
pub const HELD_MIN: usize = 48 * 1024;

/// Of what is held, by whom: who is to be reset at [`Level::Refuse`], and what that frees.
#[must_use]
pub fn to_reset<W>(held: impl IntoIterator<Item = (W, usize)>) -> Option<(W, usize)> {
    let mut most: Option<(W, usize)> = None;
    for (who, bytes) in held {
        let beats = most.as_ref().is_none_or(|(_, before)| bytes > *before);
        if bytes >= HELD_MIN && beats {
            most = Some((who, bytes));
        }
    }
    most
}

/// What is done, each level beside all before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Level {
    /// Nothing.
    #[default]
    Normal,
    /// 85 %: connections without work are closed sooner.
    ShorterIdle,
    /// 92 %: connections end after the work at hand (GOAWAY, `connection: close`).
    EndConnections,
    /// 95 %: new requests are answered 503, and what holds the most memory is reset.
    Refuse,
    /// 98 %: no connection is accepted.
    StopAccepting,
}

impl Level {
    /// All, least first.
    pub const ALL: [Self; 5] = [
        Self::Normal,
        Self::ShorterIdle,
        Self::EndConnections,
        Self::Refuse,
        Self::StopAccepting,
    ];

    /// Share of the limit that enters it, in points of a hundred.
    #[must_use]
    pub fn enters_at(self) -> u32 {
        match self {
            Self::Normal => 0,
            Self::ShorterIdle => 85,
            Self::EndConnections => 92,
            Self::Refuse => 95,
            Self::StopAccepting => 98,
        }
    }

    /// Its place in [`Self::ALL`].
    #[must_use]
    pub fn number(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::ShorterIdle => 1,
            Self::EndConnections => 2,
            Self::Refuse => 3,
            Self::StopAccepting => 4,
        }
    }

    /// The level of that place; the highest for numbers beyond.
    #[must_use]
    pub fn from_number(number: u8) -> Self {
        let place = usize::from(number).min(Self::ALL.len() - 1);
        Self::ALL.get(place).copied().unwrap_or_default()
    }

    /// Whether memory at this share of its limit keeps the level up.
    fn stays_at(self, memory: Memory) -> bool {
        memory.is_at_least(self.enters_at().saturating_sub(HYSTERESIS))
    }

    /// The level after this reading.
    #[must_use]
    pub fn after(self, memory: Memory) -> Self {
        let highest = |holds: &dyn Fn(Self) -> bool| {
            let mut levels = Self::ALL.into_iter().rev();
            levels.find(|level| holds(*level)).unwrap_or_default()
        };
        let entered = highest(&|level| memory.is_at_least(level.enters_at()));
        let kept = highest(&|level| level <= self && level.stays_at(memory));
        entered.max(kept)
    }
}

/// For log lines and labels.
impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Normal => "normal",
            Self::ShorterIdle => "shorter-idle",
            Self::EndConnections => "end-connections",
            Self::Refuse => "refuse",
            Self::StopAccepting => "stop-accepting",
        })
    }
}

/// Memory in use, and what there may be. Bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Memory {
    /// In use.
    pub used: u64,
    /// The limit; 0 is as good as full.
    pub limit: u64,
}

impl Memory {
    /// Whether `used` is at least so many hundredths of the limit.
    #[must_use]
    pub fn is_at_least(self, hundredths: u32) -> bool {
        u128::from(self.used) * 100 >= u128::from(self.limit) * u128::from(hundredths)
    }

    /// Of two readings, the one nearer to its limit.
    #[must_use]
    pub fn tighter(self, other: Self) -> Self {
        let (own, others) = (
            u128::from(self.used) * u128::from(other.limit),
            u128::from(other.used) * u128::from(self.limit),
        );
        if own >= others { self } else { other }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn percent(used: u64) -> Memory {
        Memory {
            used: used * 1024,
            limit: 100 * 1024,
        }
    }

    #[track_caller]
    fn check(readings: &[u64], expected: Level) {
        let level = readings
            .iter()
            .fold(Level::Normal, |level, share| level.after(percent(*share)));
        assert_eq!(level, expected, "{readings:?}");
    }

    #[test]
    fn levels_begin_at_their_shares_and_end_three_points_below() {
        check(&[84], Level::Normal);
        check(&[85], Level::ShorterIdle);
        check(&[92], Level::EndConnections);
        check(&[95], Level::Refuse);
        check(&[98], Level::StopAccepting);
        check(&[250], Level::StopAccepting);
        check(&[85, 83], Level::ShorterIdle);
        check(&[85, 82], Level::ShorterIdle);
        check(&[85, 81], Level::Normal);
        check(&[98, 95], Level::StopAccepting);
        check(&[98, 94], Level::Refuse);
        check(&[98, 91], Level::EndConnections);
        check(&[98, 88], Level::ShorterIdle);
        check(&[98, 10], Level::Normal);
        check(&[98, 10, 84], Level::Normal);
        check(&[85, 83, 93, 90], Level::EndConnections);
    }

    #[test]
    fn one_byte_decides_and_nothing_overflows() {
        let limit: u64 = 64 * 1024 * 1024;
        let at = |used| Level::Normal.after(Memory { used, limit });
        let first = (limit * 95).div_ceil(100);
        assert_eq!(at(first - 1), Level::EndConnections);
        assert_eq!(at(first), Level::Refuse);
        let full = Memory {
            used: u64::MAX,
            limit: u64::MAX,
        };
        assert_eq!(Level::Normal.after(full), Level::StopAccepting);
        let none = Memory { used: 0, limit: 0 };
        assert_eq!(Level::Normal.after(none), Level::StopAccepting);
    }

    #[test]
    fn the_reading_nearer_to_its_limit_counts() {
        let (cgroup, own) = (
            Memory {
                used: 50,
                limit: 100,
            },
            Memory {
                used: 30,
                limit: 40,
            },
        );
        assert_eq!(cgroup.tighter(own), own);
        assert_eq!(own.tighter(cgroup), own);
    }

    #[test]
    fn the_largest_is_reset_and_no_modest_one() {
        let check = |held: &[usize], expected: Option<usize>| {
            let reset = to_reset(held.iter().copied().enumerate());
            let expected = expected.map(|who| (who, held[who]));
            assert_eq!(reset, expected, "{held:?}");
        };
        check(&[], None);
        check(&[0, 1, HELD_MIN - 1], None);
        check(&[HELD_MIN], Some(0));
        check(&[0, HELD_MIN + 1, HELD_MIN, 7], Some(1));
        check(&[HELD_MIN, usize::MAX, 300_000], Some(1));
        check(&[9, 300_000, 300_000], Some(1));
    }

    #[test]
    fn numbers_lead_back() {
        for level in Level::ALL {
            assert_eq!(Level::from_number(level.number()), level);
        }
        assert_eq!(Level::from_number(u8::MAX), Level::StopAccepting);
    }

    proptest! {
        /// Whatever came before: memory at a level's share brings it, memory three points below a
        /// level's share ends it, and a reading that changes nothing changes nothing twice.
        #[test]
        fn the_reading_bounds_the_level(before in 0..5_u8, share in 0..130_u64) {
            let before = Level::from_number(before);
            let memory = percent(share);
            let after = before.after(memory);
            for level in Level::ALL {
                if share >= u64::from(level.enters_at()) {
                    prop_assert!(after >= level);
                }
                if share + u64::from(HYSTERESIS) < u64::from(level.enters_at()) {
                    prop_assert!(after < level);
                }
            }
            prop_assert_eq!(after.after(memory), after);
            prop_assert!(after <= before.max(Level::Normal.after(memory)));
        }

        /// More memory never means a lower level.
        #[test]
        fn it_grows_with_memory(before in 0..5_u8, share in 0..130_u64, more in 0..50_u64) {
            let before = Level::from_number(before);
            prop_assert!(before.after(percent(share)) <= before.after(percent(share + more)));
        }
    }
}
