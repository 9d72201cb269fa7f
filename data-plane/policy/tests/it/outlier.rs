//! Outlier detection against a reference that keeps every endpoint's whole history and works each
//! answer out anew from the words of the documentation.

use std::{
    num::NonZeroU32,
    time::{Duration, Instant},
};

use outrigger_model::{EjectionThreshold, OutlierDetection, Percent};
use outrigger_policy::{
    outcome::Verdict,
    outlier::{Action, Detector, EndpointHealth, Role},
};

/// What an endpoint has seen since it was last good or returned, and whether it is out.
#[derive(Debug, Clone, Default)]
struct Reference {
    history: Vec<Verdict>,
    out: Option<Out>,
    /// Time of the last return and ejections in a row at it.
    returned: Option<(Duration, u32)>,
}

#[derive(Debug, Clone, Copy)]
struct Out {
    until: Duration,
    times: u32,
    probe: Option<Duration>,
}

struct Settings {
    server: u32,
    gateway: u32,
    interval: Duration,
    base: Duration,
    longest: Duration,
    max_percent: usize,
    min_health: usize,
}

impl Settings {
    fn random(rng: &mut fastrand::Rng) -> Self {
        let secs = |rng: &mut fastrand::Rng| Duration::from_secs(rng.u64(1..20));
        Self {
            server: rng.u32(0..4),
            gateway: rng.u32(0..4),
            interval: secs(rng),
            base: secs(rng),
            longest: secs(rng),
            max_percent: rng.usize(0..=100),
            min_health: *rng.choice(&[0, 0, 30, 50, 100]).unwrap(),
        }
    }

    fn policy(&self) -> OutlierDetection {
        let after = |failures| {
            NonZeroU32::new(failures).map_or(EjectionThreshold::Never, EjectionThreshold::After)
        };
        OutlierDetection {
            consecutive_5xx: after(self.server),
            consecutive_gateway: after(self.gateway),
            interval: self.interval,
            base_ejection: self.base,
            max_ejection: self.longest,
            max_ejection_percent: Percent::new(self.max_percent).unwrap(),
            min_health_percent: Percent::new(self.min_health).unwrap(),
        }
    }

    fn watched(&self, verdict: Verdict) -> bool {
        match verdict {
            Verdict::Success | Verdict::Neutral => false,
            Verdict::ServerError => self.server > 0,
            Verdict::GatewayError => self.server > 0 || self.gateway > 0,
        }
    }

    /// Length of the n-th ejection in a row, by adding up.
    fn length(&self, times: u32) -> Duration {
        let sum = (0..times).map(|_| self.base).sum::<Duration>();
        sum.min(self.longest.max(self.base))
    }

    fn admits(&self, all: &[Reference], index: usize, now: Duration) -> bool {
        let healthy = all.iter().filter(|one| one.out.is_none()).count();
        let off = self.server == 0 && self.gateway == 0;
        all[index].out.is_none_or(|out| self.probe_due(out, now))
            || off
            || healthy * 100 < self.min_health * all.len()
    }

    fn probe_due(&self, out: Out, now: Duration) -> bool {
        match out.probe {
            None => now >= out.until,
            Some(since) => now >= since + self.base,
        }
    }

    fn start(&self, one: &mut Reference, now: Duration) -> Role {
        match &mut one.out {
            Some(out) if self.probe_due(*out, now) => {
                out.probe = Some(now);
                Role::Probe
            }
            _ => Role::Regular,
        }
    }

    fn end(
        &self,
        all: &mut [Reference],
        index: usize,
        (role, verdict): (Role, Verdict),
        now: Duration,
    ) -> Option<Action> {
        let out_others = all.iter().filter(|one| one.out.is_some()).count();
        let may_eject = (out_others + 1) * 100 <= self.max_percent * all.len();
        let one = &mut all[index];
        if let Some(out) = one.out {
            if role == Role::Regular || out.probe.is_none() {
                return None;
            }
            if verdict == Verdict::Neutral {
                one.out = Some(Out {
                    until: now,
                    probe: None,
                    ..out
                });
                return None;
            }
            if self.watched(verdict) {
                return Some(self.eject(one, out.times + 1, now));
            }
            *one = Reference {
                returned: Some((now, out.times)),
                ..Reference::default()
            };
            return Some(Action::Returned);
        }
        one.history.push(verdict);
        if !self.reached(&one.history) {
            return None;
        }
        if !may_eject {
            return Some(Action::Withheld);
        }
        let mut times = 0;
        if let Some((mut since, before)) = one.returned {
            times = before;
            while times > 0 && since + self.interval <= now {
                since += self.interval;
                times -= 1;
            }
        }
        Some(self.eject(one, times + 1, now))
    }

    /// Whether the last event is a failure that completes a run.
    fn reached(&self, history: &[Verdict]) -> bool {
        let spoken = history.iter().rev().filter(|one| **one != Verdict::Neutral);
        let is_failure =
            |one: &&Verdict| matches!(one, Verdict::ServerError | Verdict::GatewayError);
        let server = spoken.clone().take_while(is_failure).count();
        let gateway = spoken
            .take_while(|one| **one == Verdict::GatewayError)
            .count();
        let full = |run: usize, least: u32| least > 0 && run >= usize::try_from(least).unwrap();
        history.last().is_some_and(|last| *last != Verdict::Neutral)
            && (full(server, self.server) || full(gateway, self.gateway))
    }

    fn eject(&self, one: &mut Reference, times: u32, now: Duration) -> Action {
        let duration = self.length(times);
        one.history.clear();
        one.out = Some(Out {
            until: now + duration,
            times,
            probe: None,
        });
        Action::Ejected { duration, times }
    }
}

/// Detector and reference side by side.
struct Pair {
    settings: Settings,
    detector: Detector,
    health: Vec<EndpointHealth>,
    references: Vec<Reference>,
    in_flight: Vec<(usize, Role)>,
    epoch: Instant,
    now: Duration,
}

impl Pair {
    fn new(rng: &mut fastrand::Rng) -> Self {
        let settings = Settings::random(rng);
        let endpoints = rng.usize(1..8);
        #[expect(
            clippy::disallowed_methods,
            reason = "an instant to count from; nothing depends on when it is"
        )]
        let epoch = Instant::now();
        Self {
            detector: Detector::new(settings.policy(), endpoints),
            settings,
            health: vec![EndpointHealth::new(); endpoints],
            references: vec![Reference::default(); endpoints],
            in_flight: Vec::new(),
            epoch,
            now: Duration::ZERO,
        }
    }

    /// One random event; what the detector did, checked against the reference.
    fn step(&mut self, rng: &mut fastrand::Rng) -> Option<Action> {
        if rng.u8(..3) == 0 {
            self.now += Duration::from_millis(rng.u64(..6_000));
        }
        let at = self.epoch + self.now;
        if self.in_flight.is_empty() || (self.in_flight.len() < 12 && rng.bool()) {
            // Now and then an endpoint that is not admitted: the balancer had no other.
            let index = rng.usize(..self.health.len());
            if self.detector.admits(&self.health[index], at) || rng.u8(..10) == 0 {
                let role = self.detector.on_start(&mut self.health[index], at);
                let expected = self.settings.start(&mut self.references[index], self.now);
                assert_eq!(role, expected, "role of a start");
                self.in_flight.push((index, role));
            }
            return None;
        }
        let (index, role) = self
            .in_flight
            .swap_remove(rng.usize(..self.in_flight.len()));
        let verdict = match rng.u8(..10) {
            0..3 => Verdict::Success,
            3..6 => Verdict::ServerError,
            6..9 => Verdict::GatewayError,
            _ => Verdict::Neutral,
        };
        let action = self
            .detector
            .on_end(&mut self.health[index], role, verdict, at);
        let expected = self
            .settings
            .end(&mut self.references, index, (role, verdict), self.now);
        assert_eq!(
            action, expected,
            "action of {verdict:?} as {role:?} at {index}"
        );
        action
    }

    /// Membership changes: an endpoint leaves, or one comes.
    fn change_endpoints(&mut self, rng: &mut fastrand::Rng) {
        if self.health.len() > 1 && rng.bool() {
            let gone = rng.usize(..self.health.len());
            self.health.remove(gone);
            self.references.remove(gone);
            self.in_flight.retain(|(index, _)| *index != gone);
            for (index, _) in &mut self.in_flight {
                *index -= usize::from(*index > gone);
            }
        } else {
            self.health.push(EndpointHealth::new());
            self.references.push(Reference::default());
        }
        self.detector.endpoints_changed(&self.health);
    }

    fn check_invariants(&self) {
        let out = self
            .references
            .iter()
            .filter(|one| one.out.is_some())
            .count();
        assert_eq!(self.detector.out(), out, "number out");
        let at = self.epoch + self.now;
        for (index, health) in self.health.iter().enumerate() {
            let admits = self.detector.admits(health, at);
            let expected = self.settings.admits(&self.references, index, self.now);
            assert_eq!(admits, expected, "whether {index} is admitted");
            assert_eq!(health.is_out(), self.references[index].out.is_some());
        }
    }
}

/// Runs one seed; how often each kind of action was seen.
fn run(seed: u64) -> [u32; 3] {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut pair = Pair::new(&mut rng);
    let mut seen = [0; 3];
    for _ in 0..300 {
        if rng.u8(..60) == 0 {
            pair.change_endpoints(&mut rng);
        }
        let before = pair.detector.out();
        let action = pair.step(&mut rng);
        pair.check_invariants();
        let out = pair.detector.out();
        let bound = pair.settings.max_percent * pair.health.len() / 100;
        assert!(
            out <= before || out <= bound,
            "{out} out of {}",
            pair.health.len()
        );
        match action {
            Some(Action::Ejected { .. }) => seen[0] += 1,
            Some(Action::Returned) => seen[1] += 1,
            Some(Action::Withheld) => seen[2] += 1,
            None => {}
        }
    }
    seen
}

#[test]
fn behaves_as_the_reference() {
    let mut seen = [0; 3];
    for seed in 0..300 {
        let result = std::panic::catch_unwind(|| run(seed));
        let counts = result.unwrap_or_else(|_| panic!("replay with run({seed})"));
        seen.iter_mut().zip(counts).for_each(|(sum, n)| *sum += n);
    }
    // The events reach every action often enough for the comparison to mean something.
    assert!(seen.iter().all(|&n| n > 300), "{seen:?}");
}
