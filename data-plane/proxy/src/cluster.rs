//! A target as one worker sees it: its endpoints with their load, its balancer, its bounds; and its
//! access to what all workers know together, the endpoints' health and the retry budget.
//!
//! The decisions are `outrigger-policy`'s; this holds their state between requests and keeps it
//! when endpoints come and go: an endpoint that stays (same address, same peer) keeps its
//! connections, latency estimate and health.

mod account;
mod outliers;
mod report;

use std::{
    cell::{Ref, RefCell},
    net::SocketAddr,
    rc::Rc,
    sync::{Arc, atomic::Ordering},
    time::Instant,
};

use outrigger_model::{Backend, EndpointState, Origin};
use outrigger_policy::{
    admission::{Admission, Permit},
    balance::{Balancer, EndpointLoad},
    budget::{Budget, SharedBudget},
    outcome::AttemptOutcome,
    outlier::{Action, Role},
    retry::{self, Decision, Failed},
};

use outliers::{Look, Mark, Outliers};

pub use account::Account;

use crate::{
    snapshot::Target,
    telemetry::{Series, SeriesKey, Telemetry},
    upstream::{Bell, Endpoint, Permits, Pool, TlsReader},
};

pub use report::EndpointReport;

/// What the workers know of a backend together.
#[derive(Debug)]
pub struct SharedBackend {
    /// Connections.
    connections: Arc<Permits>,
    /// Requests and retries in flight.
    admission: Admission,
    /// Retries of late.
    budget: Arc<SharedBudget>,
    /// Health of its endpoints.
    outliers: Outliers,
}

impl SharedBackend {
    /// Of a backend met for the first time. `short` is rung when requests begin to wait.
    #[must_use]
    pub fn new(target: &Target, short: Bell) -> Arc<Self> {
        let limits = &target.policy.limits;
        Arc::new(Self {
            connections: Permits::shared(limits.connections_max, short),
            admission: Admission::new(limits),
            budget: SharedBudget::new(Instant::now()),
            outliers: Outliers::new(target.policy.outlier.clone()),
        })
    }
}

/// One target's state.
#[derive(Debug)]
pub struct Cluster {
    pool: Rc<Pool>,
    tls: TlsReader,
    shared: Arc<SharedBackend>,
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
    budget: Budget,
    /// Whether any member is ready: then draining ones get nothing new.
    any_ready: bool,
}

#[derive(Debug)]
struct Member {
    endpoint: Rc<Endpoint>,
    mark: Arc<Mark>,
    draining: bool,
}

impl Member {
    fn known(&self) -> (SocketAddr, &Arc<Mark>) {
        (self.endpoint.address, &self.mark)
    }
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
        shared: Arc<SharedBackend>,
        tls: TlsReader,
        telemetry: &Telemetry,
    ) -> Rc<Self> {
        let series = telemetry.series(&SeriesKey::Outbound(target.backend.clone()));
        let pool = Pool::new(
            target.policy.limits.clone(),
            Arc::clone(&shared.connections),
        );
        pool.report_to(telemetry, &series);
        series.ejections_of(shared.outliers.out());
        let admission = shared.admission.with_limits(&target.policy.limits);
        let mut state = State {
            target: Arc::clone(target),
            budget: shared.budget.join(admission.retries.clone()),
            admission,
            members: Vec::new(),
            loads: Vec::new(),
            balancer: Balancer::new(target.policy.balancer, &[]),
            any_ready: false,
        };
        let marks = shared.outliers.join(target);
        state.replace_members(target, marks, &pool, &tls);
        Rc::new(Self {
            pool,
            tls,
            shared,
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
            state.admission = self.shared.admission.with_limits(&policy.limits);
            let retries = state.admission.retries.clone();
            state.budget.set_running(retries);
            if state.target.policy.balancer != policy.balancer {
                state.balancer = Balancer::new(policy.balancer, &[]);
            }
        }
        let marks = self.shared.outliers.join(target);
        state.replace_members(target, marks, &self.pool, &self.tls);
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
            any_ready,
            ..
        } = &mut *state;
        let mut look = self.shared.outliers.look();
        let admitted = |member: &Member| {
            let healthy = |look: &Look<'_>| look.admits(member.endpoint.address, &member.mark, now);
            (!member.draining || !*any_ready) && look.as_ref().is_none_or(healthy)
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
        state.start(index, look.as_mut(), now)
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
        let mut look = self.shared.outliers.look();
        state.start(index, look.as_mut(), now)
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
        let state = self.state.borrow();
        let address = picked.endpoint.address;
        let index = index_of(&state.members, &picked.endpoint)?;
        let known = state.members.get(index)?.known();
        let outliers = &self.shared.outliers;
        let action = outliers.judge(known, picked.role, outcome.verdict(), now)?;
        match action {
            Action::Ejected { duration, times } => {
                tracing::info!(%address, ?duration, times, outcome = outcome.as_str(), "endpoint ejected");
                self.telemetry.ejected(&self.series);
            }
            Action::Returned => tracing::info!(%address, "endpoint is back"),
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
        let out = self.shared.outliers.out().load(Ordering::Relaxed);
        let all = self.state.borrow().members.len();
        (all, usize::try_from(out).unwrap_or_default())
    }

    /// Closes what is idle, because nothing names the target any more.
    pub fn retire(&self) {
        for member in &self.state.borrow().members {
            member.endpoint.retire();
        }
    }
}

impl State {
    fn start(&mut self, index: usize, look: Option<&mut Look<'_>>, now: Instant) -> Option<Picked> {
        let member = self.members.get(index)?;
        let (address, mark) = member.known();
        let role = look.map_or(Role::Regular, |look| look.start(address, mark, now));
        self.loads.get_mut(index)?.on_start();
        Some(Picked {
            endpoint: Rc::clone(&member.endpoint),
            role,
            begun: now,
        })
    }

    /// `marks` are those of the target's endpoints, in their order.
    fn replace_members(
        &mut self,
        target: &Target,
        marks: Vec<Arc<Mark>>,
        pool: &Rc<Pool>,
        tls: &TlsReader,
    ) {
        let old = self.members.drain(..).zip(self.loads.drain(..));
        // Both lists are sorted by address: one walk finds what stays.
        let mut old = old.collect::<Vec<_>>().into_iter().peekable();
        let mut gone = Vec::new();
        for (endpoint, mark) in target.endpoints.iter().zip(marks) {
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
                        mark: Arc::clone(&mark),
                        draining: false,
                    };
                    (member, EndpointLoad::new(endpoint.weight))
                }
            };
            member.mark = mark;
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
        self.balancer.endpoints_changed(&self.loads);
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
