//! The owner of compiler and resources: source → compiler → discovery, one update at a time.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
    time::Duration,
};

use outrigger_compiler::{Change as Compile, Code, Compiler, Diagnostic, ObjectKey, Severity};
use outrigger_model::{Resource, ResourceName, WorkloadName};
use tokio::{
    sync::{broadcast, watch},
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{Event, InForce, ObjectChange};
use crate::{
    discovery::{self, DiscoveryEvent, DiscoveryHandle, HOLD_MAX, Held, Upsert},
    source::{Change, Source, Update},
};

/// How long sidecars have until an edit is reported with those that have it.
const APPLY_MAX: Duration = Duration::from_secs(3);
/// Edits whose arrival is followed at once; of more, the arrival is not reported.
const FOLLOWED_MAX: usize = 16;
/// How long after a change of a cluster there is something to say: that walks all objects, which
/// change all the time, and what is wrong for a moment only (an address ahead of its pod) is none.
const SAY_AFTER: Duration = Duration::from_secs(5);

/// See the module.
pub(super) struct Owner {
    source: Source,
    compiler: Compiler,
    discovery: DiscoveryHandle,
    events: broadcast::Sender<Event>,
    in_force: watch::Sender<InForce>,
    held: Option<Held>,
    said: BTreeSet<Diagnostic>,
    /// What the source had to say with changes that were not spoken of yet, and until when to wait.
    unsaid: Option<(Instant, Vec<Diagnostic>)>,
    followed: JoinSet<()>,
}

impl Owner {
    pub(super) fn new(
        source: Source,
        compiler: Compiler,
        discovery: DiscoveryHandle,
        events: broadcast::Sender<Event>,
        in_force: watch::Sender<InForce>,
    ) -> Self {
        Self {
            source,
            compiler,
            discovery,
            events,
            in_force,
            held: None,
            said: BTreeSet::new(),
            unsaid: None,
            followed: JoinSet::new(),
        }
    }

    /// Compiles and publishes everything there is. `trust` goes along with it.
    pub(super) fn begin(&mut self, first: Update, trust: Resource) {
        let (compile, _) = changes(&first);
        self.compiler.apply(compile);
        let resources = self.compiler.resources();
        let mut update = discovery::Update {
            upserts: resources.values().map(upsert).collect(),
            removals: Vec::new(),
            resolve: Some(self.resolver()),
            is_written: true,
        };
        update.upserts.push(Upsert {
            default: Arc::new(trust),
            per_namespace: std::collections::BTreeMap::new(),
        });
        self.discovery.publish(update);
        self.in_force.send_replace(InForce {
            manifests: first.manifests,
            workloads: self.compiler.workloads().cloned().collect(),
        });
        self.say(&first.diagnostics);
    }

    /// Until stopped.
    pub(super) async fn run(mut self, stop: CancellationToken) {
        let mut sidecars = self.discovery.events();
        loop {
            let due = self.unsaid.as_ref().map(|(due, _)| *due);
            tokio::select! {
                () = stop.cancelled() => return,
                () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                    let (_, of_source) = self.unsaid.take().unwrap_or((Instant::now(), Vec::new()));
                    self.say(&of_source);
                }
                update = self.source.watch() => self.apply(update),
                event = sidecars.recv() => self.pass_on(event),
                Some(_) = self.followed.join_next() => {}
                () = over(self.discovery.held()) => {
                    let changed = self.discovery.release();
                    tracing::warn!(resources = changed.len(), "endpoints were held back long enough");
                    self.alarm();
                }
            }
        }
    }

    fn apply(&mut self, update: Update) {
        let (compile, edits) = changes(&update);
        let compiled = self.compiler.apply(compile);
        let resources = self.compiler.resources();
        let upserts = compiled
            .changed
            .iter()
            .filter_map(|name| resources.get(name));
        let batch = discovery::Update {
            upserts: upserts.map(upsert).collect(),
            removals: compiled.removed.iter().cloned().collect(),
            resolve: compiled.aliases.then(|| self.resolver()),
            is_written: self.source.is_written(),
        };
        // Before it is published, or the first sidecars' answers would be missed.
        let answers = self.discovery.events();
        let published = self.discovery.publish(batch);
        tracing::debug!(
            objects = edits.len(),
            resources = published.changed.len(),
            "configuration changed"
        );
        self.in_force.send_modify(|in_force| {
            in_force.manifests = update.manifests;
            if compiled.workloads {
                in_force.workloads = self.compiler.workloads().cloned().collect();
            }
        });
        self.alarm();
        if !self.source.is_written() {
            // Of a cluster's pods and slices, which nobody wrote, nobody waits to hear.
            let due = self.unsaid.take().map(|(due, _)| due);
            let due = due.unwrap_or_else(|| Instant::now() + SAY_AFTER);
            self.unsaid = Some((due, update.diagnostics));
            return;
        }
        self.say(&update.diagnostics);
        if edits.is_empty() {
            return;
        }
        let follow = Follow {
            discovery: self.discovery.clone(),
            events: self.events.clone(),
            names: published.changed,
            edits,
        };
        if self.followed.len() < FOLLOWED_MAX {
            self.followed.spawn(follow.run(answers));
        } else {
            follow.report(0);
        }
    }

    /// Tells when discovery begins to hold endpoints back, and when that ends.
    fn alarm(&mut self) {
        let held = self.discovery.held();
        let was_held = std::mem::replace(&mut self.held, held);
        let (severity, message) = match (was_held, held) {
            (None, Some(held)) => (
                Severity::Error,
                format!(
                    "most endpoints of the mesh vanished at once: sidecars keep {} that the source \
                     does not show. Check that the control plane sees its source; it lets them go \
                     when it shows enough again, after {} minutes, or when it is told to",
                    held.endpoints,
                    HOLD_MAX.as_secs() / 60
                ),
            ),
            (Some(_), None) => (
                Severity::Info,
                "no endpoints are held back any more".to_owned(),
            ),
            (None, None) | (Some(_), Some(_)) => return,
        };
        let diagnostic = Diagnostic {
            severity,
            code: Code::Endpoint,
            object: None,
            path: String::new(),
            position: None,
            message,
        };
        tell(&self.events, Event::Diagnostic(diagnostic));
    }

    /// What authorities mean, as of now.
    fn resolver(&self) -> discovery::Resolve {
        let aliases = self.compiler.aliases().clone();
        Arc::new(move |namespace, authority| aliases.resolve(namespace, authority))
    }

    /// Tells what there is to say and was not said before.
    fn say(&mut self, of_source: &[Diagnostic]) {
        let mut now = self.compiler.diagnostics();
        now.extend(of_source.iter().cloned());
        for diagnostic in now.difference(&self.said) {
            tell(&self.events, Event::Diagnostic(diagnostic.clone()));
        }
        self.said = now;
    }

    fn pass_on(&self, event: Result<DiscoveryEvent, broadcast::error::RecvError>) {
        let Ok(DiscoveryEvent::Rejected {
            sidecar,
            kind,
            names,
            reason,
        }) = event
        else {
            return;
        };
        let names: Vec<_> = names.iter().map(ToString::to_string).collect();
        let resource = format!("{} {}", kind.as_str(), names.join(", "));
        let event = Event::Rejected {
            sidecar,
            resource,
            reason,
        };
        tell(&self.events, event);
    }
}

/// Until what is held back was held long enough; never when nothing is.
async fn over(held: Option<Held>) {
    match held {
        Some(held) => sleep_until(held.since + HOLD_MAX).await,
        None => std::future::pending().await,
    }
}

/// The way of one update to the sidecars.
struct Follow {
    discovery: DiscoveryHandle,
    events: broadcast::Sender<Event>,
    names: Vec<ResourceName>,
    edits: Vec<(ObjectKey, ObjectChange)>,
}

impl Follow {
    async fn run(self, mut answers: broadcast::Receiver<DiscoveryEvent>) {
        let mut accepted = HashSet::new();
        let all = async {
            while !self.is_everywhere() {
                match answers.recv().await {
                    Ok(DiscoveryEvent::Accepted { sidecar, names }) => {
                        if names.iter().any(|name| self.names.contains(name)) {
                            accepted.insert(sidecar);
                        }
                    }
                    Ok(_) | Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(broadcast::error::RecvError::Closed) => return,
                }
            }
        };
        let in_time = timeout(APPLY_MAX, all).await.is_ok();
        let users = self.users();
        let have = if in_time {
            users.len()
        } else {
            users.iter().filter(|user| accepted.contains(*user)).count()
        };
        self.report(have);
    }

    fn is_everywhere(&self) -> bool {
        self.names.iter().all(|name| {
            let status = self.discovery.status(name);
            status.acked >= status.subscribed
        })
    }

    /// Sidecars that subscribe to something that changed.
    fn users(&self) -> Vec<WorkloadName> {
        let sidecars = self.discovery.sidecars().into_iter();
        sidecars
            .filter(|sidecar| {
                let mut names = self.names.iter();
                names.any(|name| sidecar.accepted.contains_key(name))
            })
            .map(|sidecar| sidecar.workload)
            .collect()
    }

    fn report(&self, have: usize) {
        let of = self.users().len();
        for (object, change) in &self.edits {
            let event = Event::Config {
                object: object.clone(),
                change: change.clone(),
                sidecars: have.min(of),
                of,
            };
            tell(&self.events, event);
        }
    }
}

/// An update's changes for the compiler, and those that people made.
fn changes(update: &Update) -> (Vec<Compile>, Vec<(ObjectKey, ObjectChange)>) {
    let mut compile = Vec::with_capacity(update.changes.len());
    let mut edits = Vec::new();
    for (key, change) in &update.changes {
        let (compiled, edit) = match change {
            Change::Added(object) => (
                Compile::Upsert(Arc::clone(object)),
                Some(ObjectChange::Added),
            ),
            Change::Changed(object, fields) => (
                Compile::Upsert(Arc::clone(object)),
                // It only stands elsewhere.
                (!fields.is_empty()).then(|| ObjectChange::Changed(fields.clone())),
            ),
            Change::Removed => (Compile::Delete(key.clone()), Some(ObjectChange::Removed)),
        };
        compile.push(compiled);
        edits.extend(edit.map(|edit| (key.clone(), edit)));
    }
    (compile, edits)
}

/// What [`Owner::begin`] will publish of workloads, for whoever has to know before it starts.
pub(super) fn in_force(first: &Update, options: outrigger_compiler::Options) -> InForce {
    let mut compiler = Compiler::new(options);
    compiler.apply(changes(first).0);
    InForce {
        manifests: Arc::clone(&first.manifests),
        workloads: compiler.workloads().cloned().collect(),
    }
}

fn upsert(variants: &outrigger_compiler::Variants<Resource>) -> Upsert {
    Upsert {
        default: Arc::clone(&variants.default),
        per_namespace: variants.per_namespace.clone(),
    }
}

fn tell(events: &broadcast::Sender<Event>, event: Event) {
    // An error says that nobody listens.
    events.send(event).ok();
}
