//! A target as one worker sees it: its endpoints with their load and health, its balancer, its
//! retry budget, its bounds.
//!
//! The decisions are `outrigger-policy`'s; this holds their state between requests and keeps it
//! when endpoints come and go: an endpoint that stays (same address, same peer) keeps its
//! connections, latency estimate and health.

mod account;
mod report;

use std::{
    cell::{Ref, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Instant,
};

use outrigger_model::{Backend, EndpointState, Origin};
use outrigger_policy::{
    admission::{Admission, Permit},
    balance::{Balancer, EndpointLoad},
    budget::Budget,
    outcome::AttemptOutcome,
    outlier::{Action, Detector, EndpointHealth, Role},
    retry::{self, Decision, Failed},
};

pub use account::Account;

use crate::{
    snapshot::Target,
    telemetry::{Series, SeriesKey, Telemetry},
    upstream::{Endpoint, Permits, Pool, TlsReader},
};

pub use report::EndpointReport;

/// Counters of a backend's limits that span workers.
#[derive(Debug)]
pub struct BackendLimits {
    /// Connections.
    pub connections: Arc<Permits>,
    /// Requests and retries in flight.
    pub admission: Admission,
}

/// One target's state.
#[derive(Debug)]
pub struct Cluster {
    pool: Rc<Pool>,
    tls: TlsReader,
    limits: Arc<BackendLimits>,
    /// Metric cells of this backend.
    pub series: Rc<Series>,
    telemetry: Telemetry,
    state: RefCell<State>,
}

#[derive(Debug)]
struct State {
    target: Arc<Target>,
    admission: Admission,
    /// Sorted by address, parallel to `loads`.
    members: Vec<Member>,
    loads: Vec<EndpointLoad>,
    balancer: Balancer,
    detector: Detector,
    budget: Budget,
    /// Whether any member is ready: then draining ones get nothing new.
    any_ready: bool,
}

#[derive(Debug)]
struct Member {
    endpoint: Rc<Endpoint>,
    health: EndpointHealth,
    draining: bool,
}

/// An endpoint picked for one attempt; its end is told by [`Cluster::finish`].
#[derive(Debug)]
pub struct Picked {
    /// The endpoint.
    pub endpoint: Rc<Endpoint>,
    role: Role,
    begun: Instant,
}

impl Cluster {
    /// State for a target met for the first time.
    #[must_use]
    pub fn new(
        target: &Arc<Target>,
        limits: Arc<BackendLimits>,
        tls: TlsReader,
        telemetry: &Telemetry,
    ) -> Rc<Self> {
        let series = telemetry.series(&SeriesKey::Outbound(target.backend.clone()));
        let pool = Pool::new(
            target.policy.limits.clone(),
            Arc::clone(&limits.connections),
        );
        pool.report_to(telemetry, &series);
        let admission = limits.admission.with_limits(&target.policy.limits);
        let now = Instant::now();
        let mut state = State {
            target: Arc::clone(target),
            budget: Budget::new(admission.retries.clone(), now),
            admission,
            members: Vec::new(),
            loads: Vec::new(),
            balancer: Balancer::new(target.policy.balancer, &[]),
            detector: Detector::new(target.policy.outlier.clone(), 0),
            any_ready: false,
        };
        // Nothing was there before, so nothing leaves.
        state.replace_members(target, &pool, &tls);
        Rc::new(Self {
            pool,
            tls,
            limits,
            series,
            telemetry: telemetry.clone(),
            state: RefCell::new(state),
        })
    }

    /// Takes over a changed target; cheap when it is the same.
    pub fn update(&self, target: &Arc<Target>) {
        let mut state = self.state.borrow_mut();
        if Arc::ptr_eq(&state.target, target) {
            return;
        }
        if state.target.policy != target.policy {
            let policy = &target.policy;
            self.pool.set_limits(policy.limits.clone());
            state.admission = self.limits.admission.with_limits(&policy.limits);
            let retries = state.admission.retries.clone();
            state.budget.set_running(retries);
            state.detector.set_policy(policy.outlier.clone());
            if state.target.policy.balancer != policy.balancer {
                state.balancer = Balancer::new(policy.balancer, &[]);
            }
        }
        for _ in 0..state.replace_members(target, &self.pool, &self.tls) {
            self.telemetry.returned(&self.series);
        }
        state.target = Arc::clone(target);
    }

    /// Connections and the line of those who wait.
    #[must_use]
    pub fn pool(&self) -> &Rc<Pool> {
        &self.pool
    }

    /// Which backend this is.
    #[must_use]
    pub fn backend(&self) -> Ref<'_, Backend> {
        Ref::map(self.state.borrow(), |state| &state.target.backend)
    }

    /// The object that its policy comes from.
    #[must_use]
    pub fn policy_origin(&self) -> Origin {
        self.state.borrow().target.policy.origin.clone()
    }

    /// A place among the requests in flight (`requests_max`), counted across workers; the request
    /// also pays into the retry budget.
    #[must_use]
    pub fn admit(&self, now: Instant) -> Option<Permit> {
        let mut state = self.state.borrow_mut();
        let permit = state.admission.requests.try_enter().ok()?;
        state.budget.on_request(now);
        Some(permit)
    }

    /// An endpoint for the next try: by the balancer, without the ejected and those already tried
    /// while others are left. `None` when there is none at all.
    #[must_use]
    pub fn pick(
        &self,
        tried: &[SocketAddr],
        now: Instant,
        rng: &mut fastrand::Rng,
    ) -> Option<Picked> {
        let mut state = self.state.borrow_mut();
        let State {
            members,
            loads,
            balancer,
            detector,
            any_ready,
            ..
        } = &mut *state;
        let admitted = |member: &Member| {
            (!member.draining || !*any_ready) && detector.admits(&member.health, now)
        };
        let fresh = |index: usize| {
            members
                .get(index)
                .is_some_and(|member| admitted(member) && !tried.contains(&member.endpoint.address))
        };
        let again = |index: usize| members.get(index).is_some_and(&admitted);
        let index = balancer.pick(loads, fresh, now, rng).or_else(|| {
            if tried.is_empty() {
                None
            } else {
                balancer.pick(loads, again, now, rng)
            }
        })?;
        state.start(index, now)
    }

    /// The endpoint of this address, whatever its health: the client chose it. `None` when the target
    /// has none such.
    #[must_use]
    pub fn pick_at(&self, address: SocketAddr, now: Instant) -> Option<Picked> {
        let mut state = self.state.borrow_mut();
        let index = state
            .members
            .binary_search_by_key(&address, |member| member.endpoint.address)
            .ok()?;
        state.start(index, now)
    }

    /// A try came to its response head or failure: what the balancer's estimate is made of.
    fn note_latency(&self, picked: &Picked, outcome: AttemptOutcome, now: Instant) {
        let mut state = self.state.borrow_mut();
        let State { members, loads, .. } = &mut *state;
        if let Some(index) = index_of(members, &picked.endpoint)
            && let Some(load) = loads.get_mut(index)
        {
            load.on_end(now.saturating_duration_since(picked.begun), outcome, now);
        }
    }

    /// What an outcome says of the endpoint's health. Returns an ejection or a return that
    /// followed from it.
    fn judge(&self, picked: &Picked, outcome: AttemptOutcome, now: Instant) -> Option<Action> {
        let mut state = self.state.borrow_mut();
        let State {
            members, detector, ..
        } = &mut *state;
        let address = picked.endpoint.address;
        let index = index_of(members, &picked.endpoint)?;
        let member = members.get_mut(index)?;
        let action = detector.on_end(&mut member.health, picked.role, outcome.verdict(), now)?;
        match action {
            Action::Ejected { duration, times } => {
                tracing::info!(%address, ?duration, times, outcome = outcome.as_str(), "endpoint ejected");
                self.telemetry.ejected(&self.series);
            }
            Action::Returned => {
                tracing::info!(%address, "endpoint is back");
                self.telemetry.returned(&self.series);
            }
            Action::Withheld => {}
        }
        Some(action)
    }

    /// What follows a failed try.
    #[must_use]
    pub fn decide(&self, failed: &Failed<'_>, now: Instant, rng: &mut fastrand::Rng) -> Decision {
        retry::decide(failed, &mut self.state.borrow_mut().budget, now, rng)
    }

    /// Endpoints in all, and those out by ejection.
    #[must_use]
    pub fn health(&self) -> (usize, usize) {
        let state = self.state.borrow();
        (state.members.len(), state.detector.out())
    }

    /// Closes what is idle, because nothing names the target any more.
    pub fn retire(&self) {
        for member in &self.state.borrow().members {
            member.endpoint.retire();
        }
    }
}

impl State {
    fn start(&mut self, index: usize, now: Instant) -> Option<Picked> {
        let member = self.members.get_mut(index)?;
        let role = self.detector.on_start(&mut member.health, now);
        self.loads.get_mut(index)?.on_start();
        Some(Picked {
            endpoint: Rc::clone(&member.endpoint),
            role,
            begun: now,
        })
    }

    /// Returns how many of those that left were ejected.
    fn replace_members(&mut self, target: &Target, pool: &Rc<Pool>, tls: &TlsReader) -> usize {
        let old = self.members.drain(..).zip(self.loads.drain(..));
        // Both lists are sorted by address: one walk finds what stays.
        let mut old = old.collect::<Vec<_>>().into_iter().peekable();
        let mut gone = Vec::new();
        for endpoint in &target.endpoints {
            gone.extend(std::iter::from_fn(|| {
                old.next_if(|(member, _)| member.endpoint.address < endpoint.address)
            }));
            let kept = old.next_if(|(member, _)| member.endpoint.address == endpoint.address);
            let kept = match kept {
                Some((member, load)) if member.endpoint.peer == endpoint.peer => {
                    Some((member, load))
                }
                Some(other) => {
                    gone.push(other);
                    None
                }
                None => None,
            };
            let (mut member, mut load) = match kept {
                Some(kept) => kept,
                None => {
                    let tls = Arc::clone(tls);
                    let made = Endpoint::new(endpoint.address, endpoint.peer.clone(), pool, tls);
                    let member = Member {
                        endpoint: made,
                        health: EndpointHealth::new(),
                        draining: false,
                    };
                    (member, EndpointLoad::new(endpoint.weight))
                }
            };
            member.draining = endpoint.state == EndpointState::Draining;
            load.set_weight(endpoint.weight);
            self.members.push(member);
            self.loads.push(load);
        }
        gone.extend(old);
        for (member, _) in &gone {
            member.endpoint.retire();
        }
        self.any_ready = self.members.iter().any(|member| !member.draining);
        self.detector
            .endpoints_changed(self.members.iter().map(|member| &member.health));
        self.balancer.endpoints_changed(&self.loads);
        gone.iter()
            .filter(|(member, _)| member.health.is_out())
            .count()
    }
}

/// Where an endpoint stands. One that was removed and added again meanwhile is another: it has a
/// record of its own.
fn index_of(members: &[Member], endpoint: &Rc<Endpoint>) -> Option<usize> {
    let index = members
        .binary_search_by_key(&endpoint.address, |member| member.endpoint.address)
        .ok()?;
    let member = members.get(index)?;
    Rc::ptr_eq(&member.endpoint, endpoint).then_some(index)
}
