//! Many workers, one truth: threads that tell and ask at once.

use std::{num::NonZeroU32, sync::Barrier, time::Duration};

use outrigger_model::{
    Backend, EjectionThreshold, Endpoint, EndpointState, Locality, Percent, Weight,
};

use super::*;
use crate::snapshot::policy_of_nothing;

const THREADS: usize = 4;

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// Endpoints by the last byte of their address; `failures` in a row eject.
fn target(endpoints: &[u8], failures: u32) -> Target {
    let mut policy = policy_of_nothing();
    policy.outlier.consecutive_5xx = EjectionThreshold::After(NonZeroU32::new(failures).unwrap());
    policy.outlier.consecutive_gateway = EjectionThreshold::Never;
    policy.outlier.max_ejection_percent = Percent::new(100).unwrap();
    policy.outlier.min_health_percent = Percent::ZERO;
    policy.outlier.base_ejection = Duration::from_secs(30);
    let endpoint = |last: &u8| Endpoint {
        address: address(*last),
        weight: Weight::ONE,
        locality: Locality::default(),
        peer: Peer::Plain,
        state: EndpointState::Ready,
        subsets: Vec::new(),
    };
    let backend = Backend {
        destination: "shop/orders:80".parse().unwrap(),
        subset: None,
    };
    Target::new(backend, policy, endpoints.iter().map(endpoint).collect())
}

fn outliers(target: &Target) -> Outliers {
    Outliers::new(target.policy.outlier.clone())
}

/// Runs `work` on all threads at once; their results.
fn at_once<T: Send>(work: impl Fn(usize) -> T + Sync) -> Vec<T> {
    let begin = Barrier::new(THREADS);
    std::thread::scope(|scope| {
        let run = |number| {
            let (begin, work) = (&begin, &work);
            scope.spawn(move || {
                begin.wait();
                work(number)
            })
        };
        let running: Vec<_> = (0..THREADS).map(run).collect();
        let ended = running.into_iter().map(|thread| thread.join().unwrap());
        ended.collect()
    })
}

#[test]
fn failures_of_all_workers_count_together_and_eject_once() {
    let now = Instant::now();
    for round in 0..200 {
        for (threshold, expected) in [(40, 1), (41, 0)] {
            let target = target(&[1, 2], threshold);
            let outliers = outliers(&target);
            let told = at_once(|_| {
                let marks = outliers.join(&target);
                let at = (address(1), &marks[0]);
                let tell = |_| outliers.judge(at, Role::Regular, Verdict::ServerError, now);
                (0..10).filter_map(tell).count()
            });
            assert_eq!(told.iter().sum::<usize>(), expected, "round {round}");
            assert_eq!(
                outliers.out().load(Ordering::Relaxed),
                i64::from(expected == 1)
            );
            assert_eq!(outliers.look().is_some(), expected == 1);
        }
    }
}

/// Whatever the interleaving: after a success that came last of all, it takes all failures again.
#[test]
fn a_success_through_one_worker_counts_for_all() {
    let now = Instant::now();
    let target = target(&[1, 2], 21);
    let outliers = outliers(&target);
    let tell = |verdict, times: usize| {
        at_once(|_| {
            let marks = outliers.join(&target);
            let at = (address(1), &marks[0]);
            let tell = |_| outliers.judge(at, Role::Regular, verdict, now);
            (0..times).filter_map(tell).count()
        })
    };
    for _ in 0..200 {
        assert_eq!(tell(Verdict::ServerError, 5), [0; THREADS]);
        assert_eq!(tell(Verdict::Success, 1), [0; THREADS]);
    }
    tell(Verdict::ServerError, 5);
    let marks = outliers.join(&target);
    let last = outliers.judge(
        (address(1), &marks[0]),
        Role::Regular,
        Verdict::ServerError,
        now,
    );
    assert!(
        matches!(last, Some(Action::Ejected { times: 1, .. })),
        "{last:?}"
    );
}

/// The fast path, as the module's sketch has it: a lock that is held elsewhere would hang this.
#[test]
fn a_request_without_trouble_takes_no_lock() {
    let now = Instant::now();
    let target = target(&[1, 2], 5);
    let outliers = outliers(&target);
    let marks = outliers.join(&target);
    let held = outliers.lock();
    for verdict in [Verdict::Success, Verdict::Neutral] {
        assert!(outliers.look().is_none());
        let at = (address(1), &marks[0]);
        assert_eq!(outliers.judge(at, Role::Regular, verdict, now), None);
    }
    drop(held);
}

#[test]
fn one_worker_alone_gets_the_probe() {
    let now = Instant::now();
    let target = target(&[1, 2], 1);
    for _ in 0..200 {
        let outliers = outliers(&target);
        let marks = outliers.join(&target);
        let at = (address(1), &marks[0]);
        outliers.judge(at, Role::Regular, Verdict::ServerError, now);
        assert!(!outliers.look().unwrap().admits(at.0, at.1, now));
        let due = now + Duration::from_secs(30);
        let picked = at_once(|_| {
            let marks = outliers.join(&target);
            let mut look = outliers.look().unwrap();
            let admitted = look.admits(address(1), &marks[0], due);
            admitted.then(|| look.start(address(1), &marks[0], due))
        });
        let probes: Vec<_> = picked.into_iter().flatten().collect();
        assert_eq!(probes, [Role::Probe]);
        let back = outliers.judge(at, Role::Probe, Verdict::Success, due);
        assert_eq!(back, Some(Action::Returned));
        assert!(outliers.look().is_none());
    }
}

/// Workers come to a new target at different times: the newest says who is there.
#[test]
fn an_older_target_does_not_bring_back_what_left() {
    let now = Instant::now();
    let (older, newer) = (target(&[1, 2], 1), target(&[2, 3], 1));
    let outliers = outliers(&older);
    let before = outliers.join(&older);
    let fail = |last, mark: &Arc<Mark>| {
        let at = (address(last), mark);
        outliers.judge(at, Role::Regular, Verdict::ServerError, now)
    };
    assert!(fail(1, &before[0]).is_some());
    assert!(fail(2, &before[1]).is_some());
    let after = outliers.join(&newer);
    assert!(
        Arc::ptr_eq(&before[1], &after[0]),
        "who stays keeps its health"
    );
    assert_eq!(
        outliers.out().load(Ordering::Relaxed),
        1,
        "who left is not out"
    );
    let again = outliers.join(&older);
    assert_eq!(outliers.out().load(Ordering::Relaxed), 1);
    assert!(fail(1, &again[0]).is_none(), "it is judged by nobody");
    assert!(fail(1, &before[0]).is_none());
    let look = outliers.look().unwrap();
    assert!(look.admits(address(1), &before[0], now));
    assert!(!look.admits(address(2), &again[1], now));
}
