//! Weighted random draws of one or two eligible endpoints.
//!
//! A draw takes any endpoint and keeps it with probability weight / largest weight: with equal
//! weights the first draw is kept, and no table has to be rebuilt when endpoints change. After
//! [`TRIES`] draws in vain (few eligible, or very unequal weights) one pass over all endpoints
//! draws exactly. Both ways give each eligible endpoint its weight's share.

use super::EndpointLoad;

/// Draws before the pass over all. At half the endpoints eligible one in 256 gets there.
const TRIES: usize = 8;

/// One eligible endpoint.
pub(super) fn draw(
    endpoints: &[EndpointLoad],
    weight_max: u32,
    eligible: impl Fn(usize) -> bool,
    rng: &mut fastrand::Rng,
) -> Option<usize> {
    if endpoints.is_empty() {
        return None;
    }
    for _ in 0..TRIES {
        let index = rng.usize(..endpoints.len());
        let weight = endpoints[index].weight();
        let kept = weight >= weight_max || rng.u32(..weight_max) < weight;
        if kept && weight > 0 && eligible(index) {
            return Some(index);
        }
    }
    let mut total = 0_u64;
    let mut chosen = None;
    for (index, endpoint) in endpoints.iter().enumerate() {
        let weight = u64::from(endpoint.weight().min(weight_max));
        if weight > 0 && eligible(index) {
            total += weight;
            if rng.u64(..total) < weight {
                chosen = Some(index);
            }
        }
    }
    chosen
}

/// What two draws without replacement came to.
#[derive(Debug, Clone, Copy)]
pub(super) enum Draw {
    /// Only this one is eligible.
    One(usize),
    /// Two different ones; the first has its weight's share.
    Two(usize, usize),
}

impl Draw {
    pub(super) fn two(
        endpoints: &[EndpointLoad],
        weight_max: u32,
        eligible: impl Fn(usize) -> bool,
        rng: &mut fastrand::Rng,
    ) -> Option<Self> {
        let first = draw(endpoints, weight_max, &eligible, rng)?;
        if endpoints.len() == 1 {
            return Some(Self::One(first));
        }
        let other = |index| index != first && eligible(index);
        Some(match draw(endpoints, weight_max, other, rng) {
            Some(second) => Self::Two(first, second),
            None => Self::One(first),
        })
    }

    /// The second only if it is better; so that equal ones get their weights' shares.
    pub(super) fn better(self, is_better: impl Fn(usize, usize) -> bool) -> usize {
        match self {
            Self::One(only) => only,
            Self::Two(first, second) if is_better(second, first) => second,
            Self::Two(first, _) => first,
        }
    }
}
