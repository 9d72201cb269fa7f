//! Weighted choice among the backends of a rule.
//!
//! Cumulative weights are computed when the table is built; a pick is one random number and a
//! binary search (about 40 instructions for two backends, none random for one). Items of weight
//! zero are dropped at the start: they can never be picked.

use outrigger_model::Weight;

/// Some items and their shares. Never empty.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Split<T> {
    /// Upper bound (exclusive) of each item's range, strictly increasing.
    bounds: Box<[u64]>,
    items: Box<[T]>,
}

/// Nothing can be picked: there is no item, or all weights are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no weight is above 0, so nothing would ever be picked; give one a weight")]
pub struct NoWeight;

impl<T> Split<T> {
    /// Keeps the items whose weight is above zero, in order.
    ///
    /// # Errors
    /// [`NoWeight`] when none is left.
    pub fn new(items: impl IntoIterator<Item = (Weight, T)>) -> Result<Self, NoWeight> {
        let mut total = 0_u64;
        let (bounds, items): (Vec<u64>, Vec<T>) = items
            .into_iter()
            .filter(|(weight, _)| weight.get() > 0)
            .map(|(weight, item)| {
                total += u64::from(weight.get());
                (total, item)
            })
            .unzip();
        if items.is_empty() {
            return Err(NoWeight);
        }
        Ok(Self {
            bounds: bounds.into(),
            items: items.into(),
        })
    }

    /// One item, with probability weight / sum of weights.
    pub fn pick(&self, rng: &mut fastrand::Rng) -> &T {
        let last = self.items.len() - 1;
        if last == 0 {
            return &self.items[0];
        }
        let drawn = rng.u64(..self.bounds[last]);
        &self.items[self.bounds.partition_point(|&bound| bound <= drawn)]
    }

    /// All items that can be picked, in order.
    #[must_use]
    pub fn items(&self) -> &[T] {
        &self.items
    }

    /// All items that can be picked with their weights, in order.
    pub fn weighted(&self) -> impl Iterator<Item = (u64, &T)> {
        let below = std::iter::once(0).chain(self.bounds.iter().copied());
        let weights = self
            .bounds
            .iter()
            .zip(below)
            .map(|(bound, below)| bound - below);
        weights.zip(&self.items)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(weights: &[u32]) -> Result<Split<usize>, NoWeight> {
        let weighted = weights.iter().map(|&w| Weight::new(w).unwrap());
        Split::new(weighted.zip(0..))
    }

    #[test]
    fn weights_can_be_read_back() {
        let split = split(&[90, 0, 10]).unwrap();
        assert_eq!(split.weighted().collect::<Vec<_>>(), [(90, &0), (10, &2)]);
    }

    #[test]
    fn nothing_to_pick_is_refused() {
        assert_eq!(split(&[]), Err(NoWeight));
        assert_eq!(split(&[0, 0]), Err(NoWeight));
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        /// Each share stays within six standard deviations of a binomial; zero stays at zero.
        #[test]
        fn shares_follow_weights(
            weights in prop::collection::vec(prop_oneof![Just(0_u32), 1..=10_u32, 1..=Weight::MAX], 1..6),
            seed: u64,
        ) {
            let total: u64 = weights.iter().map(|&w| u64::from(w)).sum();
            prop_assume!(total > 0);
            let split = split(&weights).unwrap();
            let mut rng = fastrand::Rng::with_seed(seed);
            let mut counts = vec![0_u32; weights.len()];
            let draws = 4_000_u32;
            for _ in 0..draws {
                counts[*split.pick(&mut rng)] += 1;
            }
            for (count, weight) in counts.iter().zip(&weights) {
                if *weight == 0 {
                    prop_assert_eq!(*count, 0);
                }
                let share = f64::from(*weight) / total as f64;
                let expected = share * f64::from(draws);
                let deviation = (expected * (1.0 - share)).sqrt();
                prop_assert!((f64::from(*count) - expected).abs() <= 6.0 * deviation + 3.0,
                    "{weights:?}: {counts:?}");
            }
        }
    }
}
