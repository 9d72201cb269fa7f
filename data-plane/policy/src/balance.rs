//! Which of a cluster's endpoints a request goes to.
//!
//! One [`Balancer`] per cluster (destination and subset) and worker, over a slice of
//! [`EndpointLoad`] that the caller keeps beside its endpoints. The caller says who is eligible:
//! not ejected, not tried before, not draining. Whatever the algorithm, an endpoint is found if one
//! is eligible and has a weight, and weight zero is never picked.
//!
//! Cost: round robin about 15 instructions with equal weights; random one draw (about 20); the two
//! that compare draw twice (about 60), peak-EWMA with two `exp` (about 150). A draw that meets
//! only ineligible endpoints falls back to one pass over all: n × 10.

use std::time::Instant;

use outrigger_model::Balancer as Kind;

mod draw;
mod load;
mod round_robin;

use draw::{Draw, draw};
use round_robin::RoundRobin;

pub use load::EndpointLoad;

/// Endpoint choice of one cluster in one worker.
#[derive(Debug)]
pub struct Balancer {
    algorithm: Algorithm,
    /// Largest weight among the endpoints, at least 1.
    weight_max: u32,
}

#[derive(Debug)]
enum Algorithm {
    RoundRobin(RoundRobin),
    Random,
    LeastRequest,
    PeakEwma,
}

impl Balancer {
    /// A balancer for these endpoints.
    #[must_use]
    pub fn new(kind: Kind, endpoints: &[EndpointLoad]) -> Self {
        let algorithm = match kind {
            Kind::RoundRobin => Algorithm::RoundRobin(RoundRobin::Fresh),
            Kind::Random => Algorithm::Random,
            Kind::LeastRequest => Algorithm::LeastRequest,
            Kind::PeakEwma => Algorithm::PeakEwma,
        };
        let mut balancer = Self {
            algorithm,
            weight_max: 1,
        };
        balancer.endpoints_changed(endpoints);
        balancer
    }

    /// To be called after endpoints were added or removed or a weight changed. Round robin goes on
    /// from where it was, so that frequent changes do not favour the first endpoints.
    pub fn endpoints_changed(&mut self, endpoints: &[EndpointLoad]) {
        let largest = endpoints.iter().map(EndpointLoad::weight).max();
        self.weight_max = largest.unwrap_or(0).max(1);
    }

    /// The index of one eligible endpoint; `None` if there is none with a weight above zero.
    pub fn pick(
        &mut self,
        endpoints: &[EndpointLoad],
        eligible: impl Fn(usize) -> bool,
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<usize> {
        let weight_max = self.weight_max;
        match &mut self.algorithm {
            Algorithm::RoundRobin(state) => state.pick(endpoints, weight_max, eligible, rng),
            Algorithm::Random => draw(endpoints, weight_max, eligible, rng),
            Algorithm::LeastRequest => {
                let draw = Draw::two(endpoints, weight_max, eligible, rng)?;
                Some(
                    draw.better(|one, two| {
                        endpoints[one].has_fewer_outstanding_than(&endpoints[two])
                    }),
                )
            }
            Algorithm::PeakEwma => {
                let draw = Draw::two(endpoints, weight_max, eligible, rng)?;
                Some(draw.better(|one, two| {
                    endpoints[one].is_cheaper_than(&endpoints[two], weight_max, now)
                }))
            }
        }
    }
}

#[cfg(test)]
mod tests;
