//! Shares, fairness and avoidance, of each algorithm.

use std::time::Duration;

use outrigger_model::Weight;
use proptest::prelude::*;

use super::*;
use crate::{outcome::AttemptOutcome, test_clock::epoch};

const KINDS: [Kind; 4] = [
    Kind::RoundRobin,
    Kind::Random,
    Kind::LeastRequest,
    Kind::PeakEwma,
];
const OK: AttemptOutcome = AttemptOutcome::Response { status: 200 };

fn endpoints(weights: &[u32]) -> Vec<EndpointLoad> {
    let new = |&weight: &u32| EndpointLoad::new(Weight::new(weight).unwrap());
    weights.iter().map(new).collect()
}

/// Picks of `n` requests, each finished before the next.
fn picks(kind: Kind, weights: &[u32], n: usize, eligible: impl Fn(usize) -> bool) -> Vec<usize> {
    let endpoints = endpoints(weights);
    let mut balancer = Balancer::new(kind, &endpoints);
    let mut rng = fastrand::Rng::with_seed(3);
    let mut pick = || balancer.pick(&endpoints, &eligible, epoch(), &mut rng);
    (0..n).filter_map(|_| pick()).collect()
}

fn counts(picks: &[usize], endpoints: usize) -> Vec<u32> {
    let mut counts = vec![0; endpoints];
    for &index in picks {
        counts[index] += 1;
    }
    counts
}

#[test]
fn round_robin_goes_around() {
    let check = |weights: &[u32], skipped: usize, around: &[usize]| {
        let picks = picks(Kind::RoundRobin, weights, 9, |i| i != skipped);
        let first = around.iter().position(|index| *index == picks[0]).unwrap();
        let expected: Vec<_> = around.iter().cycle().skip(first).take(9).copied().collect();
        assert_eq!(picks, expected, "{weights:?} without {skipped}");
    };
    check(&[1, 1, 1], 9, &[0, 1, 2]);
    check(&[7, 7], 9, &[0, 1]);
    check(&[1, 1, 1], 1, &[0, 2]);
    check(&[0, 3], 9, &[1]);
}

#[test]
fn round_robin_starts_anywhere() {
    let endpoints = endpoints(&[1; 4]);
    let first = |seed| {
        let mut balancer = Balancer::new(Kind::RoundRobin, &endpoints);
        let mut rng = fastrand::Rng::with_seed(seed);
        balancer.pick(&endpoints, |_| true, epoch(), &mut rng)
    };
    let firsts: std::collections::BTreeSet<_> = (0..50).map(first).collect();
    assert_eq!(firsts.len(), 4);
}

#[test]
fn round_robin_spreads_light_endpoints() {
    // Five turns of the heavy one in a cycle of seven, and the light ones not side by side.
    let picks = picks(Kind::RoundRobin, &[5, 1, 1], 70, |_| true);
    let side_by_side = picks.windows(2).filter(|pair| !pair.contains(&0)).count();
    assert_eq!(
        (counts(&picks, 3), side_by_side),
        (vec![50, 10, 10], 0),
        "{picks:?}"
    );
}

#[test]
fn nobody_eligible_is_none() {
    for kind in KINDS {
        assert!(picks(kind, &[], 5, |_| true).is_empty());
        assert!(picks(kind, &[1, 1], 5, |_| false).is_empty());
        assert!(picks(kind, &[0, 0], 5, |_| true).is_empty());
        assert!(picks(kind, &[0, 1], 5, |i| i == 0).is_empty());
    }
}

#[test]
fn one_eligible_among_many_is_always_found() {
    for kind in KINDS {
        for weights in [vec![1; 500], (1..=500).collect(), vec![Weight::MAX; 500]] {
            assert_eq!(picks(kind, &weights, 20, |i| i == 0), [0; 20], "{kind:?}");
        }
        let mut weights = vec![Weight::MAX; 50];
        weights[49] = 1;
        assert_eq!(picks(kind, &weights, 20, |i| i == 49), [49; 20], "{kind:?}");
    }
}

#[test]
fn a_forgotten_change_of_weights_is_harmless() {
    for kind in KINDS {
        let mut balancer = Balancer::new(kind, &endpoints(&[1, 1, 1]));
        let fewer = endpoints(&[9]);
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..5 {
            assert_eq!(balancer.pick(&fewer, |_| true, epoch(), &mut rng), Some(0));
        }
    }
}

#[test]
fn least_request_avoids_the_busy() {
    let mut endpoints = endpoints(&[1, 1]);
    endpoints[0].on_start();
    let mut balancer = Balancer::new(Kind::LeastRequest, &endpoints);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..50 {
        assert_eq!(
            balancer.pick(&endpoints, |_| true, epoch(), &mut rng),
            Some(1)
        );
    }
    endpoints[0].on_end(Duration::ZERO, OK, epoch());
    let both: Vec<_> = (0..50)
        .filter_map(|_| balancer.pick(&endpoints, |_| true, epoch(), &mut rng))
        .collect();
    assert!(both.contains(&0) && both.contains(&1));
}

#[test]
fn least_request_fills_by_weight() {
    let mut endpoints = endpoints(&[1, 3]);
    let mut balancer = Balancer::new(Kind::LeastRequest, &endpoints);
    let mut rng = fastrand::Rng::with_seed(1);
    for _ in 0..400 {
        let index = balancer
            .pick(&endpoints, |_| true, epoch(), &mut rng)
            .unwrap();
        endpoints[index].on_start();
    }
    assert!(
        (99..=101).contains(&endpoints[0].outstanding()),
        "{endpoints:?}"
    );
}

/// Estimate after these observations, each (seconds since the start, latency in ms, outcome).
fn estimate(observed: &[(u64, u64, AttemptOutcome)], at: u64) -> f64 {
    let mut endpoint = endpoints(&[1]).remove(0);
    for &(second, latency, outcome) in observed {
        endpoint.on_start();
        let now = epoch() + Duration::from_secs(second);
        endpoint.on_end(Duration::from_millis(latency), outcome, now);
    }
    let now = epoch() + Duration::from_secs(at);
    endpoint.estimated_seconds(now).unwrap_or(-1.0) * 1e3
}

#[test]
fn the_estimate_peaks_at_once_and_fades() {
    let failure = AttemptOutcome::Response { status: 500 };
    let gone = AttemptOutcome::DownstreamGone;
    let check = |observed: &[_], at, expected: f64| {
        let found = estimate(observed, at);
        let near = (found - expected).abs() <= expected.abs() * 0.01;
        assert!(near, "{observed:?}: {found} for {expected}");
    };
    let e = std::f64::consts::E;
    check(&[], 0, -1e3);
    check(&[(0, 10, OK)], 0, 10.0);
    check(&[(0, 10, OK)], 10, 10.0 / e);
    check(&[(0, 10, OK), (1, 500, OK)], 1, 500.0);
    check(
        &[(0, 500, OK), (10, 10, OK)],
        10,
        500.0 / e + 10.0 * (1.0 - 1.0 / e),
    );
    check(&[(0, 500, OK), (0, 10, OK)], 0, 500.0);
    // Failing fast is no merit: at least 10 ms, then twice as much each time, up to 5 s.
    check(&[(0, 1, failure)], 0, 10.0);
    check(&[(0, 40, OK), (0, 1, failure)], 0, 80.0);
    check(&[(0, 40, OK), (0, 1, failure), (0, 1, failure)], 0, 160.0);
    check(&[(0, 40, OK), (0, 900, failure)], 0, 900.0);
    check(&[(0, 1, failure); 30], 0, 5_000.0);
    check(&[(0, 9_000, failure); 3], 0, 9_000.0);
    // A client that gave up after longer than the estimate proves slowness, never speed.
    check(&[(0, 40, OK), (0, 900, gone)], 0, 900.0);
    check(&[(0, 40, OK), (0, 1, gone)], 0, 40.0);
    check(&[(0, 900, gone)], 0, -1e3);
}

/// Share of each endpoint when `concurrency` requests are always in flight over simulated seconds,
/// each endpoint answering in its own time.
fn simulate(kind: Kind, latencies_ms: &[u64], concurrency: usize, n: usize) -> Vec<u32> {
    let mut endpoints = endpoints(&vec![1; latencies_ms.len()]);
    let mut balancer = Balancer::new(kind, &endpoints);
    let mut rng = fastrand::Rng::with_seed(5);
    let mut running: Vec<(Duration, usize)> = Vec::new();
    let mut now = Duration::ZERO;
    let mut counts = vec![0; endpoints.len()];
    for _ in 0..n {
        if running.len() == concurrency {
            let next = (0..running.len()).min_by_key(|&i| running[i].0).unwrap();
            let (end, index) = running.swap_remove(next);
            now = end;
            let latency = Duration::from_millis(latencies_ms[index]);
            endpoints[index].on_end(latency, OK, epoch() + now);
        }
        let index = balancer
            .pick(&endpoints, |_| true, epoch() + now, &mut rng)
            .unwrap();
        endpoints[index].on_start();
        counts[index] += 1;
        running.push((now + Duration::from_millis(latencies_ms[index]), index));
    }
    counts
}

#[test]
fn peak_ewma_sends_little_to_the_slow() {
    let counts = simulate(Kind::PeakEwma, &[10, 10, 10, 200], 8, 4_000);
    assert!(counts[3] < 80, "the slow one got {counts:?}");
    assert!(counts[..3].iter().all(|&count| count > 1_000), "{counts:?}");
    let robin = simulate(Kind::RoundRobin, &[10, 10, 10, 200], 8, 4_000);
    assert_eq!(robin, [1_000; 4]);
}

#[test]
fn peak_ewma_shares_among_equals_even_one_by_one() {
    let counts = simulate(Kind::PeakEwma, &[10, 11, 10, 11], 1, 4_000);
    assert!(counts.iter().all(|&count| count > 800), "{counts:?}");
}

#[test]
fn peak_ewma_weighs_what_is_outstanding_by_share_not_by_number() {
    // Four outstanding here, none there, same latency: only weights decide how much that is.
    let share_of_busy = |weights: &[u32]| {
        let mut endpoints = endpoints(weights);
        for endpoint in &mut endpoints {
            endpoint.on_start();
            endpoint.on_end(Duration::from_millis(20), OK, epoch());
        }
        (0..4).for_each(|_| endpoints[0].on_start());
        let mut balancer = Balancer::new(Kind::PeakEwma, &endpoints);
        let mut rng = fastrand::Rng::with_seed(5);
        let picks: Vec<_> = (0..200)
            .filter_map(|_| balancer.pick(&endpoints, |_| true, epoch(), &mut rng))
            .collect();
        counts(&picks, 2)[0]
    };
    assert_eq!(share_of_busy(&[1, 1]), 0);
    assert_eq!(share_of_busy(&[Weight::MAX, Weight::MAX]), 0);
    assert_eq!(share_of_busy(&[500, 1]), 0);
    assert_eq!(share_of_busy(&[1, 500]), 0);
}

#[test]
fn peak_ewma_gives_a_new_endpoint_a_fair_start() {
    let mut endpoints = endpoints(&[1, 1, 1]);
    for old in &mut endpoints[..2] {
        old.on_start();
        old.on_end(Duration::from_millis(20), OK, epoch());
    }
    let mut balancer = Balancer::new(Kind::PeakEwma, &endpoints);
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..300 {
        let index = balancer
            .pick(&endpoints, |_| true, epoch(), &mut rng)
            .unwrap();
        endpoints[index].on_start();
    }
    let new = endpoints[2].outstanding();
    assert!((85..=115).contains(&new), "{new} of 300");
}

proptest! {
    /// In each cycle of (sum of weights) picks everybody has exactly its weight in turns,
    /// wherever the cycle starts.
    #[test]
    fn round_robin_is_exact_in_cycles(
        weights in prop::collection::vec(0..30_u32, 1..8), start in 0..200_usize,
    ) {
        let cycle = usize::try_from(weights.iter().sum::<u32>()).unwrap();
        let picks = picks(Kind::RoundRobin, &weights, start + cycle, |_| true);
        if cycle > 0 {
            // The schedule repeats after weight_max generations; its sum is the cycle.
            prop_assert_eq!(counts(&picks[start..], weights.len()), weights);
        }
    }

    /// The same among those that are eligible.
    #[test]
    fn round_robin_is_exact_among_the_eligible(
        weights in prop::collection::vec((0..30_u32, any::<bool>()), 1..8), start in 0..200_usize,
    ) {
        let open: Vec<bool> = weights.iter().map(|(_, open)| *open).collect();
        let expected: Vec<u32> = weights.iter().map(|(w, open)| if *open { *w } else { 0 }).collect();
        let weights: Vec<u32> = weights.into_iter().map(|(w, _)| w).collect();
        let cycle = usize::try_from(expected.iter().sum::<u32>()).unwrap();
        let picks = picks(Kind::RoundRobin, &weights, start + cycle, |i| open[i]);
        if cycle > 0 {
            prop_assert_eq!(counts(&picks[start..], weights.len()), expected);
        }
    }

    /// All kinds find somebody exactly if somebody can be found, and only such.
    #[test]
    fn a_pick_is_eligible_and_exists_if_any_does(
        all in prop::collection::vec((0..4_u32, any::<bool>(), 0..5_u32), 0..20),
        kind in prop::sample::select(&KINDS[..]), seed: u64,
    ) {
        let weights: Vec<u32> = all.iter().map(|one| one.0).collect();
        let mut endpoints = endpoints(&weights);
        for (endpoint, one) in endpoints.iter_mut().zip(&all) {
            (0..one.2).for_each(|_| endpoint.on_start());
        }
        let possible = |i: usize| all[i].1 && all[i].0 > 0;
        let mut balancer = Balancer::new(kind, &endpoints);
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..10 {
            let pick = balancer.pick(&endpoints, |i| all[i].1, epoch(), &mut rng);
            prop_assert_eq!(pick.is_some(), (0..all.len()).any(possible));
            prop_assert!(pick.is_none_or(possible));
        }
    }

}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// Idle endpoints get their weights' shares from all that draw, also when few are eligible.
    #[test]
    fn draws_follow_weights(
        weights in prop::collection::vec(1..20_u32, 2..6),
        kind in prop::sample::select(&KINDS[1..]), hidden in 0..40_usize, seed: u64,
    ) {
        let all: Vec<u32> = weights.iter().copied().chain(std::iter::repeat_n(20, hidden)).collect();
        let endpoints = endpoints(&all);
        let mut balancer = Balancer::new(kind, &endpoints);
        let mut rng = fastrand::Rng::with_seed(seed);
        let draws = 1_000_u32;
        let picks: Vec<_> = (0..draws)
            .filter_map(|_| balancer.pick(&endpoints, |i| i < weights.len(), epoch(), &mut rng))
            .collect();
        let total: u32 = weights.iter().sum();
        for (count, weight) in counts(&picks, all.len()).iter().zip(&weights) {
            let share = f64::from(*weight) / f64::from(total);
            let expected = share * f64::from(draws);
            let deviation = (expected * (1.0 - share)).sqrt();
            prop_assert!((f64::from(*count) - expected).abs() <= 6.0 * deviation + 3.0);
        }
    }
}
