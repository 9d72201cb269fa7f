//! Tables, and a seeded simulation against a log of every request and grant.

use outrigger_model::Percent;
use proptest::prelude::*;

use super::*;
use crate::{admission::Refusal, test_clock::epoch};

fn budget(percent: u8, min_per_second: u32) -> RetryBudget {
    RetryBudget {
        percent: Percent::new(percent).unwrap(),
        min_per_second,
    }
}

fn unbounded() -> Gate {
    Gate::new(u32::MAX, Refusal::Retries)
}

/// How many of `tries` are granted at once after `requests`, `after` later.
fn granted(budget: RetryBudget, requests: u32, after: Duration, tries: u32) -> usize {
    let now = epoch();
    let mut state = Budget::new(unbounded(), now);
    for _ in 0..requests {
        state.on_request(now);
    }
    (0..tries)
        .filter(|_| state.try_retry(budget, now + after).is_ok())
        .count()
}

#[test]
fn floor_and_share_add_up() {
    let secs = Duration::from_secs;
    let check = |percent, floor, requests, after, expected| {
        let found = granted(budget(percent, floor), requests, after, 1_000);
        assert_eq!(
            found, expected,
            "{percent}% + {floor}/s of {requests} after {after:?}"
        );
    };
    check(20, 10, 0, secs(0), 10);
    check(20, 10, 100, secs(0), 30);
    check(20, 0, 100, secs(0), 20);
    check(20, 0, 4, secs(0), 0);
    check(20, 0, 5, secs(0), 1);
    check(100, 0, 7, secs(0), 7);
    check(0, 0, 100, secs(0), 0);
    check(20, 0, 100, secs(9), 20);
    check(20, 0, 100, secs(10), 0);
    check(20, 10, 100, secs(3_600), 10);
}

#[test]
fn the_floor_is_there_again_after_a_second() {
    let now = epoch();
    let mut state = Budget::new(unbounded(), now);
    let mut grants = |at| {
        let at = now + Duration::from_millis(at);
        (0..20)
            .filter(|_| state.try_retry(budget(0, 10), at).is_ok())
            .count()
    };
    assert_eq!(grants(0), 10);
    assert_eq!(grants(999), 0);
    assert_eq!(grants(1_100), 10);
}

#[test]
fn running_retries_are_bounded_and_a_refusal_costs_nothing() {
    let now = epoch();
    let mut state = Budget::new(Gate::new(1, Refusal::Retries), now);
    let held = state.try_retry(budget(0, 2), now).unwrap();
    for _ in 0..5 {
        let refused = state.try_retry(budget(0, 2), now).unwrap_err();
        assert_eq!(refused, BudgetRefusal::TooManyRunning);
    }
    drop(held);
    assert!(state.try_retry(budget(0, 2), now).is_ok());
    let refused = state.try_retry(budget(0, 2), now).unwrap_err();
    assert_eq!(refused, BudgetRefusal::Exhausted);
    assert_eq!(
        state.running.taken(),
        0,
        "an exhausted budget holds no place"
    );
}

/// Retries of the last second that the floor paid for.
fn from_floor(shared: &SharedBudget, now: Instant) -> u64 {
    let mut spent = shared.lock();
    spent.floor.advance(now);
    spent.floor.sum_covering()
}

#[test]
fn workers_share_one_floor_and_add_up_their_requests() {
    let now = epoch();
    let shared = SharedBudget::new(now);
    let mut workers = [(); 3].map(|()| shared.join(unbounded()));
    for worker in &mut workers {
        for _ in 0..10 {
            worker.on_request(now);
        }
    }
    // 4 from the floor, 20 % of 30 requests beside it, whoever asks.
    let grants = |workers: &mut [Budget], after| {
        let tries = (0..60_usize).filter(|number| {
            let worker = &mut workers[number % 3];
            worker.try_retry(budget(20, 4), now + after).is_ok()
        });
        tries.count()
    };
    assert_eq!(grants(&mut workers, Duration::ZERO), 10);
    assert_eq!(grants(&mut workers, Duration::from_secs(2)), 4);
    // Who is gone takes its requests along: the budget is smaller, never larger.
    let mut left: Vec<_> = workers.into_iter().take(1).collect();
    let later = now + Duration::from_secs(4);
    let tries = (0..60).filter(|_| left[0].try_retry(budget(100, 0), later).is_ok());
    assert_eq!(tries.count(), 4);
}

/// All at once: what is granted is the floor and the share of what all have sent.
#[test]
fn threads_never_spend_more_than_there_is() {
    let now = epoch();
    let shared = SharedBudget::new(now);
    let sent = std::sync::Barrier::new(4);
    let granted: usize = std::thread::scope(|scope| {
        let run = || {
            let mut worker = shared.join(unbounded());
            for _ in 0..250 {
                worker.on_request(now);
            }
            sent.wait();
            let tries = (0..500).filter(|_| worker.try_retry(budget(20, 7), now).is_ok());
            let granted = tries.count();
            sent.wait();
            granted
        };
        let running: Vec<_> = (0..4).map(|_| scope.spawn(run)).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    });
    assert_eq!(granted, 200 + 7);
}

/// Events counted in the window that ends `now`, its start excluded.
fn recent(log: &[Duration], now: Duration, window: Duration) -> usize {
    log.iter().filter(|&&at| at + window > now).count()
}

proptest! {
    /// The promises of the module doc hold at every grant, and the budget is not stingy: what it
    /// refuses would have broken a promise within one slot more.
    #[test]
    fn never_exceeded_and_not_stingy(
        percent in 0..=100_u8, floor in 0..15_usize, running_max in 0..20_u32,
        events in prop::collection::vec((0..400_u64, 0..7_u32), 1..300),
        workers in 1..4_usize,
    ) {
        let paid = budget(percent, u32::try_from(floor).unwrap());
        let shared = SharedBudget::new(epoch());
        let gate = Gate::new(running_max, Refusal::Retries);
        let mut states: Vec<_> = (0..workers).map(|_| shared.join(gate.clone())).collect();
        let (mut requests, mut floors, mut shares) = (Vec::new(), Vec::new(), Vec::new());
        let mut running = Vec::new();
        let mut now = Duration::ZERO;
        let (second, ten) = (Duration::from_secs(1), Duration::from_secs(10));
        for (number, (pause, what)) in events.into_iter().enumerate() {
            let state = &mut states[number % workers];
            now += Duration::from_millis(pause);
            match what {
                0..=3 => {
                    state.on_request(epoch() + now);
                    requests.push(now);
                    continue;
                }
                4 => {
                    running.pop();
                    continue;
                }
                _ => {}
            }
            let before = from_floor(&shared, epoch() + now);
            let grant = state.try_retry(paid, epoch() + now);
            let in_share = recent(&shares, now, ten);
            let allowed = |window| recent(&requests, now, window) * usize::from(percent) / 100;
            match grant {
                Ok(permit) => {
                    if from_floor(&shared, epoch() + now) == before {
                        prop_assert!(in_share < allowed(ten), "{shares:?} of {requests:?}");
                        shares.push(now);
                    } else {
                        prop_assert!(recent(&floors, now, second) < floor, "{floors:?}");
                        floors.push(now);
                    }
                    running.push(permit);
                    prop_assert!(running.len() <= usize::try_from(running_max).unwrap());
                }
                Err(BudgetRefusal::TooManyRunning) => {
                    prop_assert_eq!(running.len(), usize::try_from(running_max).unwrap());
                }
                Err(BudgetRefusal::Exhausted) => {
                    prop_assert!(recent(&floors, now, second + FLOOR_SLOT) >= floor);
                    prop_assert!(recent(&shares, now, ten + SHARE_SLOT) >= allowed(ten - SHARE_SLOT));
                }
            }
        }
    }
}
