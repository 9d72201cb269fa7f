//! ACK and NACK: what a sidecar says of a response, and where that is noted.

use std::collections::HashMap;

use outrigger_model::{ResourceKind, ResourceName};
use outrigger_proto::{Version, wire::discovery::DeltaDiscoveryRequest};
use tokio::time::Instant;

use super::{
    super::{DiscoveryEvent, subscriber::Answer},
    Session,
};

/// Characters of a NACK's reason that are kept.
const REASON_CHARS_MAX: usize = 512;

impl<S> Session<S> {
    /// What a sidecar brings along from an earlier stream counts as accepted.
    pub(super) fn note_held(&self, kind: ResourceKind, versions: &HashMap<String, String>) {
        let mut progress = self.subscriber.progress();
        for (name, version) in self.subscriptions.held(kind) {
            if versions.contains_key(&name.to_string()) {
                progress.entry(name.clone()).or_default().accepted = Answer::Present(version);
            }
        }
    }

    /// ACK or NACK; an answer to anything but the response in flight says nothing.
    pub(super) fn take_answer(&mut self, request: &DeltaDiscoveryRequest) {
        let Some(answered) = self
            .in_flight
            .take_if(|sent| sent.nonce == request.response_nonce)
        else {
            return;
        };
        self.idle = Instant::now();
        let metrics = self.shared.metrics.of(answered.kind);
        let waited = answered.sent.elapsed().as_secs_f64();
        self.shared.metrics.answer_seconds.observe(waited);
        let sidecar = &self.subscriber.workload;
        let names = || answered.tells.iter().map(|(name, _)| name.clone());
        let accepted = request.error_detail.is_none();
        self.note_progress(&answered.tells, accepted);
        let rejections = self.shared.metrics.rejections();
        let Some(error) = &request.error_detail else {
            metrics.acks.inc();
            rejections.clear(self.subscriber.id, &names().collect::<Vec<_>>());
            self.shared.emit(|| DiscoveryEvent::Accepted {
                sidecar: sidecar.clone(),
                names: names().collect(),
            });
            return;
        };
        metrics.nacks.inc();
        let reason: String = error.message.chars().take(REASON_CHARS_MAX).collect();
        let names: Vec<_> = names().collect();
        let texts: Vec<_> = names.iter().map(ToString::to_string).collect();
        tracing::error!(%sidecar, identity = %self.subscriber.identity,
            kind = answered.kind.as_str(), nonce = answered.nonce, resources = ?texts,
            reason, "a sidecar refused configuration and works on with what it had");
        rejections.add(self.subscriber.id, sidecar, &names, &reason);
        self.shared.emit(|| DiscoveryEvent::Rejected {
            sidecar: sidecar.clone(),
            kind: answered.kind,
            names: names.into(),
            reason: reason.into(),
        });
    }

    fn note_progress(&self, tells: &[(ResourceName, Option<Version>)], accepted: bool) {
        let mut progress = self.subscriber.progress();
        for (name, content) in tells {
            // A name dropped meanwhile is not tracked any more.
            if !self.subscriptions.has(name) {
                continue;
            }
            let progress = progress.entry(name.clone()).or_default();
            let answer = Answer::from(*content);
            if accepted {
                progress.accepted = answer;
                progress.rejected = Answer::None;
            } else {
                progress.rejected = answer;
            }
        }
    }
}
