//! Weighted round robin without state per endpoint, exact in cycles.
//!
//! The schedule runs in generations, each a pass over all endpoints. Of `weight_max` generations an
//! endpoint has a turn in as many as its weight, spread evenly (Bresenham's line), so the heaviest
//! has one in each and no pick passes over more than n entries while it is eligible. Each endpoint
//! starts at another phase, so that light ones do not all have their turn in the same generation.
//! With equal weights everybody has a turn in each generation: plain round robin.
//!
//! Ineligible endpoints are passed over: the others keep their order and shares.

use super::EndpointLoad;

/// Where the next pick starts.
#[derive(Debug)]
pub(super) enum RoundRobin {
    /// Anywhere: sidecars that start together must not all send their first requests to the
    /// first endpoint.
    Fresh,
    /// Here.
    At(Cursor),
}

impl RoundRobin {
    pub(super) fn pick(
        &mut self,
        endpoints: &[EndpointLoad],
        weight_max: u32,
        eligible: impl Fn(usize) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        match self {
            Self::At(cursor) => cursor.pick(endpoints, weight_max, eligible),
            Self::Fresh if endpoints.is_empty() => None,
            Self::Fresh => {
                let mut cursor = Cursor {
                    generation: rng.u64(..u64::from(weight_max)),
                    index: rng.usize(..endpoints.len()),
                };
                let picked = cursor.pick(endpoints, weight_max, eligible);
                *self = Self::At(cursor);
                picked
            }
        }
    }
}

#[derive(Debug)]
pub(super) struct Cursor {
    /// Below the largest weight: the schedule repeats after it.
    generation: u64,
    /// The next entry of this generation.
    index: usize,
}

impl Cursor {
    fn pick(
        &mut self,
        endpoints: &[EndpointLoad],
        weight_max: u32,
        eligible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let period = u64::from(weight_max);
        self.generation %= period;
        for _ in 0..endpoints.len() {
            if self.index >= endpoints.len() {
                self.index = 0;
                self.generation = (self.generation + 1) % period;
            }
            let index = self.index;
            self.index += 1;
            let line = Line::new(index, endpoints[index].weight(), weight_max);
            if line.has_turn(self.generation) && eligible(index) {
                return Some(index);
            }
        }
        self.skip_to_next(endpoints, weight_max, eligible)
    }

    /// Goes straight to the next entry of an eligible endpoint, however many generations away.
    fn skip_to_next(
        &mut self,
        endpoints: &[EndpointLoad],
        weight_max: u32,
        eligible: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let (generations, index) = (0..endpoints.len())
            .filter(|&index| endpoints[index].weight() > 0 && eligible(index))
            .map(|index| {
                let line = Line::new(index, endpoints[index].weight(), weight_max);
                let passed = u64::from(index < self.index);
                let wait = line.generations_to_turn(self.generation + passed);
                (passed + wait, index)
            })
            .min()?;
        self.generation = (self.generation + generations) % u64::from(weight_max);
        self.index = index + 1;
        Some(index)
    }
}

/// The turns of one endpoint: generation g is one if the line `(weight × g + phase) / period`
/// reaches a new whole number in it.
struct Line {
    weight: u64,
    phase: u64,
    period: u64,
}

impl Line {
    fn new(index: usize, weight: u32, weight_max: u32) -> Self {
        let period = u64::from(weight_max);
        // Multiples of the golden ratio fall evenly into the period, whatever their number.
        let golden = u64::try_from(index).unwrap_or(0).wrapping_mul(0x9E37_79B9) & 0xFFFF_FFFF;
        Self {
            weight: u64::from(weight.min(weight_max)),
            phase: (golden * period) >> 32,
            period,
        }
    }

    /// Weights are at most a million, generations too: no overflow.
    fn has_turn(&self, generation: u64) -> bool {
        if self.weight == self.period {
            return true;
        }
        let at = |generation| (self.weight * generation + self.phase) / self.period;
        at(generation + 1) > at(generation)
    }

    /// 0 if it has a turn in this generation. The weight is above zero.
    fn generations_to_turn(&self, generation: u64) -> u64 {
        let reached = (self.weight * generation + self.phase) / self.period;
        let next = ((reached + 1) * self.period - self.phase).div_ceil(self.weight);
        next - 1 - generation
    }
}
