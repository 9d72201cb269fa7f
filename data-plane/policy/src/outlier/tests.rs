//! The state machine of one endpoint and the bounds of a cluster.

use std::num::NonZeroU32;

use outrigger_model::Percent;

use super::*;
use crate::test_clock::epoch;

use Verdict::{GatewayError as G, Neutral as N, ServerError as S, Success as OK};

fn after(failures: u32) -> EjectionThreshold {
    NonZeroU32::new(failures).map_or(EjectionThreshold::Never, EjectionThreshold::After)
}

const SECOND: Duration = Duration::from_secs(1);

/// Base 10 s, at most 25 s, interval 30 s.
fn policy(server: u32, gateway: u32, max_percent: u8, min_health: u8) -> OutlierDetection {
    OutlierDetection {
        consecutive_5xx: after(server),
        consecutive_gateway: after(gateway),
        interval: 30 * SECOND,
        base_ejection: 10 * SECOND,
        max_ejection: 25 * SECOND,
        max_ejection_percent: Percent::new(max_percent).unwrap(),
        min_health_percent: Percent::new(min_health).unwrap(),
    }
}

/// Some endpoints under one detector, and a clock.
struct Cluster {
    detector: Detector,
    health: Vec<EndpointHealth>,
    now: Instant,
}

impl Cluster {
    fn new(policy: OutlierDetection, endpoints: usize) -> Self {
        Self {
            detector: Detector::new(policy, endpoints),
            health: vec![EndpointHealth::new(); endpoints],
            now: epoch(),
        }
    }

    /// One request to an endpoint, start to end.
    fn send(&mut self, index: usize, verdict: Verdict) -> Option<Action> {
        let role = self.detector.on_start(&mut self.health[index], self.now);
        self.end(index, role, verdict)
    }

    fn start(&mut self, index: usize) -> Role {
        self.detector.on_start(&mut self.health[index], self.now)
    }

    fn end(&mut self, index: usize, role: Role, verdict: Verdict) -> Option<Action> {
        let health = &mut self.health[index];
        self.detector.on_end(health, role, verdict, self.now)
    }

    fn admits(&self, index: usize) -> bool {
        self.detector.admits(&self.health[index], self.now)
    }
}

fn ejected(seconds: u32, times: u32) -> Option<Action> {
    let duration = seconds * SECOND;
    Some(Action::Ejected { duration, times })
}

#[test]
fn thresholds() {
    let check = |server, gateway, verdicts: &[Verdict], ejected_by_last: bool| {
        let mut cluster = Cluster::new(policy(server, gateway, 100, 0), 4);
        let (last, before) = verdicts.split_last().unwrap();
        for verdict in before {
            assert_eq!(cluster.send(0, *verdict), None, "{verdicts:?}");
        }
        let expected = ejected_by_last.then_some(()).and(ejected(10, 1));
        assert_eq!(cluster.send(0, *last), expected, "{verdicts:?}");
        assert_eq!(cluster.admits(0), !ejected_by_last);
    };
    check(3, 0, &[S, S, S], true);
    check(3, 0, &[S, S, OK, S, S], false);
    check(3, 0, &[S, G, S], true);
    check(3, 0, &[S, N, S, N, S], true);
    check(3, 0, &[S, S, N], false);
    check(0, 3, &[G, G, G], true);
    check(0, 3, &[G, G, S, G], false);
    check(0, 3, &[S, S, S, S], false);
    check(5, 2, &[G, G], true);
    check(2, 5, &[G, G], true);
    check(1, 0, &[S], true);
    check(0, 0, &[G, G, G, G, G, G], false);
}

#[test]
fn returns_after_a_successful_probe() {
    let mut cluster = Cluster::new(policy(1, 0, 100, 0), 2);
    assert_eq!(cluster.send(0, S), ejected(10, 1));
    cluster.now += 10 * SECOND - Duration::from_nanos(1);
    assert!(!cluster.admits(0));
    cluster.now += Duration::from_nanos(1);
    assert!(cluster.admits(0));
    assert_eq!(cluster.start(0), Role::Probe);
    assert!(!cluster.admits(0), "one probe at a time");
    assert_eq!(cluster.detector.out(), 1);
    assert_eq!(cluster.end(0, Role::Probe, OK), Some(Action::Returned));
    assert!(cluster.admits(0));
    assert_eq!(cluster.detector.out(), 0);
}

#[test]
fn a_failed_probe_ejects_for_longer_up_to_the_maximum() {
    let mut cluster = Cluster::new(policy(1, 0, 100, 0), 2);
    assert_eq!(cluster.send(0, S), ejected(10, 1));
    for (seconds, times) in [(20, 2), (25, 3), (25, 4)] {
        cluster.now += 25 * SECOND;
        assert_eq!(cluster.send(0, S), ejected(seconds, times));
        assert!(!cluster.admits(0));
    }
}

#[test]
fn good_health_is_rewarded_interval_by_interval() {
    // Two ejections in a row, then so long in good health before the next.
    let check = |healthy: Duration, expected| {
        let mut cluster = Cluster::new(policy(1, 0, 100, 0), 2);
        cluster.send(0, S);
        cluster.now += 25 * SECOND;
        cluster.send(0, S);
        cluster.now += 25 * SECOND;
        assert_eq!(cluster.send(0, OK), Some(Action::Returned));
        cluster.now += healthy;
        assert_eq!(cluster.send(0, S), expected, "{healthy:?}");
    };
    check(Duration::ZERO, ejected(25, 3));
    check(29 * SECOND, ejected(25, 3));
    check(30 * SECOND, ejected(20, 2));
    check(60 * SECOND, ejected(10, 1));
    check(6_000 * SECOND, ejected(10, 1));
}

#[test]
fn a_probe_that_says_nothing_is_repeated() {
    let mut cluster = Cluster::new(policy(1, 0, 100, 0), 2);
    cluster.send(0, S);
    cluster.now += 10 * SECOND;
    assert_eq!(cluster.send(0, N), None);
    assert!(cluster.admits(0));
    assert_eq!(cluster.start(0), Role::Probe);
    // Never answered: given up as lost after the base time, and its late end changes nothing.
    cluster.now += 10 * SECOND;
    assert_eq!(cluster.start(0), Role::Probe);
    assert_eq!(cluster.end(0, Role::Probe, S), ejected(20, 2));
    assert_eq!(cluster.end(0, Role::Probe, OK), None);
    assert!(!cluster.admits(0));
}

#[test]
fn what_was_in_flight_at_the_ejection_changes_nothing() {
    let mut cluster = Cluster::new(policy(1, 0, 100, 0), 2);
    let old = [cluster.start(0), cluster.start(0), cluster.start(0)];
    assert_eq!(cluster.send(0, S), ejected(10, 1));
    assert_eq!(cluster.end(0, old[0], S), None);
    assert_eq!(cluster.end(0, old[1], OK), None);
    assert!(!cluster.admits(0));
    cluster.now += 10 * SECOND;
    let probe = cluster.start(0);
    assert_eq!(cluster.end(0, old[2], OK), None);
    assert!(!cluster.admits(0), "the probe alone decides");
    assert_eq!(cluster.end(0, probe, OK), Some(Action::Returned));
}

#[test]
fn a_probe_fails_only_by_what_is_watched() {
    let mut cluster = Cluster::new(policy(0, 1, 100, 0), 2);
    assert_eq!(cluster.send(0, G), ejected(10, 1));
    cluster.now += 10 * SECOND;
    assert_eq!(cluster.send(0, S), Some(Action::Returned));
}

#[test]
fn the_bound_on_ejections() {
    // How many of `endpoints` can be out at once.
    let check = |percent, endpoints, expected| {
        let mut cluster = Cluster::new(policy(1, 0, percent, 0), endpoints);
        for index in 0..endpoints {
            let action = cluster.send(index, S);
            let allowed = index < expected;
            assert_eq!(
                action == Some(Action::Withheld),
                !allowed,
                "{percent}% of {endpoints}"
            );
        }
        assert_eq!(cluster.detector.out(), expected);
    };
    check(100, 4, 4);
    check(50, 4, 2);
    check(50, 5, 2);
    check(50, 3, 1);
    check(34, 3, 1);
    check(33, 3, 0);
    check(10, 3, 0);
    check(0, 3, 0);
    check(50, 1, 0);
    check(100, 1, 1);
    check(10, 10, 1);
    check(10, 20, 2);
    check(99, 100, 99);
}

#[test]
fn a_withheld_ejection_follows_once_there_is_room() {
    let mut cluster = Cluster::new(policy(2, 0, 50, 0), 2);
    cluster.send(0, S);
    cluster.send(0, S);
    cluster.send(1, S);
    assert_eq!(cluster.send(1, S), Some(Action::Withheld));
    cluster.now += 10 * SECOND;
    assert_eq!(cluster.send(0, OK), Some(Action::Returned));
    assert_eq!(cluster.send(1, S), ejected(10, 1));
}

#[test]
fn too_few_healthy_and_ejection_is_disregarded() {
    let mut cluster = Cluster::new(policy(1, 0, 100, 50), 4);
    cluster.send(0, S);
    cluster.send(1, S);
    assert!(!cluster.detector.panicking(), "half is not below half");
    assert!(!cluster.admits(0));
    cluster.send(2, S);
    assert!(cluster.detector.panicking());
    assert!((0..4).all(|index| cluster.admits(index)));
    assert_eq!(cluster.start(0), Role::Regular, "not yet due: no probe");
    assert_eq!(cluster.end(0, Role::Regular, OK), None);
    cluster.now += 10 * SECOND;
    assert_eq!(
        cluster.start(0),
        Role::Probe,
        "due ones return by a probe also in panic"
    );
    assert_eq!(cluster.end(0, Role::Probe, OK), Some(Action::Returned));
    assert!(!cluster.detector.panicking());
}

#[test]
fn removed_endpoints_give_their_place_back() {
    let mut cluster = Cluster::new(policy(1, 0, 50, 0), 4);
    cluster.send(0, S);
    cluster.send(1, S);
    assert_eq!(cluster.detector.out(), 2);
    cluster.health.remove(0);
    cluster.detector.endpoints_changed(&cluster.health);
    assert_eq!(cluster.detector.out(), 1);
    assert_eq!(
        cluster.send(1, S),
        Some(Action::Withheld),
        "two of three are over half"
    );
}

#[test]
fn switched_off_admits_everybody() {
    let mut cluster = Cluster::new(policy(1, 0, 100, 0), 2);
    cluster.send(0, S);
    assert!(!cluster.admits(0));
    cluster.detector.set_policy(policy(0, 0, 100, 0));
    assert!(cluster.admits(0));
    assert_eq!(cluster.send(0, S), None);
    assert_eq!(cluster.send(1, G), None);
}
