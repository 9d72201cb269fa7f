//! Several candidates and a fake API server, by a clock that jumps.

use tokio::{task::JoinSet, time::Instant};

use super::*;
use crate::cluster::fake::{Fake, Outage};

struct Replica {
    leads: watch::Receiver<bool>,
    stop: CancellationToken,
    task: JoinSet<()>,
}

impl Replica {
    fn start(fake: &Fake, identity: &str) -> Self {
        let (leads, seen) = watch::channel(false);
        let stop = CancellationToken::new();
        let candidate = Candidate::new(fake.api(), "system", "leader", identity);
        let mut task = JoinSet::new();
        task.spawn(candidate.run(leads, stop.clone()));
        Self {
            leads: seen,
            stop,
            task,
        }
    }

    fn leads(&self) -> bool {
        *self.leads.borrow()
    }

    /// Until it leads, or not. Says how long that took.
    async fn until(&mut self, leads: bool) -> Duration {
        let began = Instant::now();
        let changed = self.leads.wait_for(|now| *now == leads);
        timeout(Duration::from_secs(120), changed)
            .await
            .unwrap()
            .unwrap();
        began.elapsed()
    }
}

#[tokio::test(start_paused = true)]
async fn one_of_several_leads_and_keeps_it() {
    let fake = Fake::new();
    let mut replicas: Vec<_> = (0..3)
        .map(|n| Replica::start(&fake, &format!("pod-{n}")))
        .collect();
    sleep(RENEW).await;
    let before: Vec<_> = replicas.iter().map(Replica::leads).collect();
    assert_eq!(before.iter().filter(|leads| **leads).count(), 1);
    sleep(Duration::from_secs(600)).await;
    let after: Vec<_> = replicas.iter_mut().map(|replica| replica.leads()).collect();
    assert_eq!(before, after);
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_ends_gives_it_back_and_one_that_dies_is_followed() {
    let fake = Fake::new();
    let mut first = Replica::start(&fake, "a");
    first.until(true).await;
    let mut second = Replica::start(&fake, "b");
    sleep(RENEW * 3).await;
    assert!(!second.leads());
    first.stop.cancel();
    first.task.join_next().await.unwrap().unwrap();
    assert!(second.until(true).await <= RENEW * 2);

    let mut third = Replica::start(&fake, "c");
    sleep(RENEW * 3).await;
    second.task.abort_all();
    let took = third.until(true).await;
    assert!(
        took >= DURATION - RENEW && took <= DURATION + RENEW * 2,
        "{took:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_without_an_api_server_steps_down_before_another_may_lead() {
    for outage in [Outage::Cut, Outage::Hang, Outage::Code(500)] {
        let fake = Fake::new();
        let mut replica = Replica::start(&fake, "a");
        replica.until(true).await;
        fake.world().outage = outage;
        let took = replica.until(false).await;
        assert!(took > RENEW && took < DURATION, "{outage:?}: {took:?}");
        fake.world().outage = Outage::None;
        replica.until(true).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_short_outage_changes_nothing() {
    let fake = Fake::new();
    let mut replica = Replica::start(&fake, "a");
    replica.until(true).await;
    fake.world().outage = Outage::Cut;
    sleep(RENEW * 2).await;
    assert!(replica.leads());
    fake.world().outage = Outage::None;
    sleep(RENEW * 10).await;
    assert!(replica.leads());
}

#[test]
fn what_to_do_about_a_lease() {
    let spec = |holder: Option<&str>, seconds: Option<i32>| LeaseSpec {
        holder_identity: holder.map(str::to_owned),
        lease_duration_seconds: seconds,
        ..LeaseSpec::default()
    };
    let check = |spec: &LeaseSpec, age: u64, expected: Step| {
        assert_eq!(
            step("a", spec, Duration::from_secs(age)),
            expected,
            "{spec:?}"
        );
    };
    check(&spec(None, None), 0, Step::Take);
    check(&spec(Some(""), Some(15)), 0, Step::Take);
    check(&spec(Some("a"), Some(15)), 100, Step::Renew);
    check(&spec(Some("b"), Some(15)), 14, Step::Wait);
    check(&spec(Some("b"), Some(15)), 15, Step::Take);
    check(&spec(Some("b"), None), 14, Step::Wait);
    check(&spec(Some("b"), Some(-1)), 15, Step::Take);
    check(&spec(Some("b"), Some(60)), 59, Step::Wait);
}
