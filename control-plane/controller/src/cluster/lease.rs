//! Which replica has the duties that one alone may have: a Lease of `coordination.k8s.io`, held by
//! whoever wrote its name into it.
//!
//! A holder renews every [`RENEW`]. One that could not renew for [`RENEW_MAX`] takes itself for
//! deposed, before any other may take over: that happens [`DURATION`] after the others last saw the
//! Lease change, by their own clocks. (Clocks need not agree, only run about equally fast.) Writes
//! carry the version that was read, so that of two who take over at once one is refused.
//!
//! A holder that ends gives the Lease back, and the next takes over at its next look.

use std::time::Duration;

use jiff::Timestamp;
use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Api, ApiError, owner::Owner};

/// How often a holder renews, and others look.
pub const RENEW: Duration = Duration::from_secs(2);
/// Longest time without renewal after which a holder still believes in itself.
pub const RENEW_MAX: Duration = Duration::from_secs(10);
/// Time without change after which others take over.
pub const DURATION: Duration = Duration::from_secs(15);
/// Longest wait for one answer: several fit into [`RENEW_MAX`].
const ANSWER_MAX: Duration = Duration::from_secs(3);

/// A candidate for one Lease.
#[derive(Debug)]
pub struct Candidate {
    api: Api,
    namespace: String,
    name: String,
    /// Who we are: the pod's name.
    identity: String,
    owner: Owner,
    seen: Option<Seen>,
}

/// The Lease as it was seen last, and since when it is so.
#[derive(Debug)]
struct Seen {
    spec: LeaseSpec,
    since: Instant,
}

/// What to do about a Lease.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: say so again.
    Renew,
    /// It is nobody's, or its holder is gone.
    Take,
    /// It is another's.
    Wait,
}

impl Candidate {
    /// A candidate for the Lease `namespace/name`, under a name that no other replica has.
    #[must_use]
    pub fn new(api: Api, namespace: &str, name: &str, identity: &str) -> Self {
        Self {
            api,
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            identity: identity.to_owned(),
            owner: Owner::default(),
            seen: None,
        }
    }

    /// Names the owner of the Lease, should it be made here.
    #[must_use]
    pub fn owned_by(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// Says in `leads` whether this replica is the one, until stopped; then gives the Lease back.
    pub async fn run(mut self, leads: watch::Sender<bool>, stop: CancellationToken) {
        let mut renewed = Instant::now();
        while !stop.is_cancelled() {
            let look = timeout(ANSWER_MAX, self.look()).await;
            let holds = match look.unwrap_or(Err(ApiError::Timeout)) {
                Ok(holds) => {
                    renewed = Instant::now();
                    holds
                }
                Err(error) => {
                    let cause = &error as &dyn std::error::Error;
                    tracing::warn!(
                        lease = self.name,
                        error = cause,
                        "no answer about the lease"
                    );
                    // The answer may have been lost, not the request: ours until it may be another's.
                    *leads.borrow() && renewed.elapsed() < RENEW_MAX
                }
            };
            self.tell(&leads, holds);
            stop.run_until_cancelled(sleep(RENEW)).await;
        }
        if *leads.borrow() {
            self.tell(&leads, false);
            if let Ok(Err(error)) = timeout(ANSWER_MAX, self.give_back()).await {
                tracing::debug!(%error, "the lease was not given back: it ends by itself");
            }
        }
    }

    fn tell(&self, leads: &watch::Sender<bool>, now: bool) {
        let changed = leads.send_if_modified(|leads| std::mem::replace(leads, now) != now);
        if changed {
            let (lease, identity) = (&self.name, &self.identity);
            tracing::info!(lease, identity, leads = now, "the lease changed hands");
        }
    }

    /// Looks, and writes what is to be written. Says whether the Lease is ours now.
    async fn look(&mut self) -> Result<bool, ApiError> {
        let path = self.path();
        let mut lease: Lease = match self.api.get(&path).await {
            Ok(lease) => lease,
            Err(error) if error.code() == Some(404) => return self.create().await,
            Err(error) => return Err(error),
        };
        let spec = lease.spec.unwrap_or_default();
        let now = Instant::now();
        if self.seen.as_ref().is_none_or(|seen| seen.spec != spec) {
            let spec = spec.clone();
            self.seen = Some(Seen { spec, since: now });
        }
        let age = self
            .seen
            .as_ref()
            .map_or(Duration::ZERO, |seen| now - seen.since);
        let spec = match step(&self.identity, &spec, age) {
            Step::Wait => return Ok(false),
            Step::Renew => LeaseSpec {
                renew_time: Some(MicroTime(Timestamp::now())),
                ..spec
            },
            Step::Take => LeaseSpec {
                lease_transitions: Some(
                    spec.lease_transitions.unwrap_or_default().saturating_add(1),
                ),
                ..self.spec()
            },
        };
        lease.spec = Some(spec);
        self.write(self.api.replace(&path, &lease).await)
    }

    async fn create(&mut self) -> Result<bool, ApiError> {
        let lease = Lease {
            metadata: ObjectMeta {
                namespace: Some(self.namespace.clone()),
                ..self.owner.metadata(&self.name)
            },
            spec: Some(self.spec()),
        };
        self.write(self.api.create(&self.folder(), &lease).await)
    }

    /// What became of a write: refused when another was faster.
    fn write(&mut self, written: Result<Lease, ApiError>) -> Result<bool, ApiError> {
        match written {
            Ok(lease) => {
                self.seen = lease.spec.map(|spec| Seen {
                    spec,
                    since: Instant::now(),
                });
                Ok(true)
            }
            Err(error) if error.code() == Some(409) => Ok(false),
            Err(error) => Err(error),
        }
    }

    async fn give_back(&self) -> Result<(), ApiError> {
        let path = self.path();
        let mut lease: Lease = self.api.get(&path).await?;
        let spec = lease.spec.get_or_insert_default();
        if spec.holder_identity.as_deref() != Some(&self.identity) {
            return Ok(());
        }
        spec.holder_identity = Some(String::new());
        let _: Lease = self.api.replace(&path, &lease).await?;
        Ok(())
    }

    fn spec(&self) -> LeaseSpec {
        let now = Some(MicroTime(Timestamp::now()));
        LeaseSpec {
            holder_identity: Some(self.identity.clone()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: now.clone(),
            renew_time: now,
            lease_transitions: Some(0),
            ..LeaseSpec::default()
        }
    }

    fn folder(&self) -> String {
        format!(
            "/apis/coordination.k8s.io/v1/namespaces/{}/leases",
            self.namespace
        )
    }

    fn path(&self) -> String {
        format!("{}/{}", self.folder(), self.name)
    }
}

/// What to do about a Lease that has been as it is for `age`.
fn step(identity: &str, spec: &LeaseSpec, age: Duration) -> Step {
    match spec.holder_identity.as_deref() {
        None | Some("") => Step::Take,
        Some(holder) if holder == identity => Step::Renew,
        Some(_) => {
            let promised = spec
                .lease_duration_seconds
                .and_then(|seconds| u64::try_from(seconds).ok());
            let promised = promised.map_or(DURATION, Duration::from_secs);
            if age >= promised {
                Step::Take
            } else {
                Step::Wait
            }
        }
    }
}

#[cfg(test)]
mod tests;
