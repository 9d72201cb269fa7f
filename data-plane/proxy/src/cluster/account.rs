//! What one try tells of its endpoint, and when: latency at the head, health at the end.

use std::{rc::Rc, time::Instant};

use outrigger_policy::{
    outcome::{AttemptOutcome, Verdict},
    outlier::Role,
};

use super::{Cluster, Picked};

/// The account of one try: its latency is told once, at the response head or the failure; its
/// health when that is certain, which for a good head is the end of the answer.
///
/// A good head counts at once only for a probe of an ejected endpoint, which would else wait for
/// the end of a stream. Dropped before it was told anything, it says that the client left, which
/// says nothing about the endpoint; dropped after a good head, it stands by that.
#[derive(Debug)]
pub struct Account {
    cluster: Rc<Cluster>,
    picked: Option<Picked>,
    /// A good head whose answer is not through.
    head: Option<AttemptOutcome>,
}

impl Account {
    /// Opens the account of a try.
    #[must_use]
    pub fn new(cluster: &Rc<Cluster>, picked: Picked) -> Self {
        Self {
            cluster: Rc::clone(cluster),
            picked: Some(picked),
            head: None,
        }
    }

    /// The response head came. A head that is a failure is judged now, and whatever follows it
    /// is not counted again.
    pub fn answered(&mut self, head: AttemptOutcome) {
        let now = Instant::now();
        let Some(picked) = &mut self.picked else {
            return;
        };
        self.cluster.note_latency(picked, head, now);
        let good = head.verdict() == Verdict::Success;
        if picked.role == Role::Probe || !good {
            self.cluster.judge(picked, head, now);
            // What follows of the same answer is no probe any more.
            picked.role = Role::Regular;
        }
        if good {
            self.head = Some(head);
        } else {
            self.picked = None;
        }
    }

    /// The answer is through, or broke off: `end` is what that says beyond the head.
    pub fn ended(mut self, end: Option<AttemptOutcome>) {
        if let (Some(picked), Some(head)) = (self.picked.take(), self.head.take()) {
            self.cluster
                .judge(&picked, end.unwrap_or(head), Instant::now());
        }
    }

    /// The try failed, or all there is to know of it is known.
    pub fn close(mut self, outcome: AttemptOutcome) {
        if let Some(picked) = self.picked.take() {
            let now = Instant::now();
            self.cluster.note_latency(&picked, outcome, now);
            self.cluster.judge(&picked, outcome, now);
        }
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let Some(picked) = self.picked.take() else {
            return;
        };
        let now = Instant::now();
        if let Some(head) = self.head {
            self.cluster.judge(&picked, head, now);
        } else {
            let gone = AttemptOutcome::DownstreamGone;
            self.cluster.note_latency(&picked, gone, now);
            self.cluster.judge(&picked, gone, now);
        }
    }
}
