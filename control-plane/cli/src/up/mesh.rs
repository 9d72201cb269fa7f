//! The owner of a running mesh: reconciles members with the plan, passes events on, renews tokens.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use outrigger_compiler::{Diagnostic, ObjectKey, Severity};
use outrigger_controller::controller;
use outrigger_model::{Hostname, WorkloadName};
use tokio::{
    sync::{broadcast, mpsc},
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at},
};
use tokio_util::sync::CancellationToken;

use super::{
    Command, Local, check,
    event::{Event, ObjectChange, Place, WorkloadChange},
    files::RunFolder,
    plan::{OutboundPorts, Plan, Problem, WorkloadPlan, plan},
    workload::{self, Member, Notice, Order},
};

/// Tokens hold for an hour.
const TOKEN_RENEWAL: Duration = Duration::from_secs(20 * 60);
/// Notices that wait: two from each workload in its life.
const NOTICES_MAX: usize = 64;

/// See the module.
pub(super) struct Members {
    local: Arc<Local>,
    run: RunFolder,
    cluster_domain: Hostname,
    ports: OutboundPorts,
    events: mpsc::Sender<Event>,
    members: BTreeMap<WorkloadName, Member>,
    /// Those that end; what is to follow them under the same name waits in `planned`.
    ending: BTreeSet<WorkloadName>,
    planned: BTreeMap<WorkloadName, WorkloadPlan>,
    tasks: JoinSet<()>,
    notices: (mpsc::Sender<Notice>, mpsc::Receiver<Notice>),
    said: Vec<Problem>,
    was_ready: bool,
}

impl Members {
    pub(super) fn new(
        local: Arc<Local>,
        run: RunFolder,
        cluster_domain: Hostname,
        ports: OutboundPorts,
        events: mpsc::Sender<Event>,
    ) -> Self {
        Self {
            local,
            run,
            cluster_domain,
            ports,
            events,
            members: BTreeMap::new(),
            ending: BTreeSet::new(),
            planned: BTreeMap::new(),
            tasks: JoinSet::new(),
            notices: mpsc::channel(NOTICES_MAX),
            said: Vec::new(),
            was_ready: false,
        }
    }

    /// Until `stop`, then ends everything in order; `cut` makes that quick.
    pub(super) async fn run(
        mut self,
        first: Plan,
        mut controller: broadcast::Receiver<controller::Event>,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
        cut: CancellationToken,
    ) {
        let mut in_force = self.local.controller.in_force();
        let mut renewal = interval_at(Instant::now() + TOKEN_RENEWAL, TOKEN_RENEWAL);
        renewal.set_missed_tick_behavior(MissedTickBehavior::Delay);
        self.take(first).await;
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                Some(notice) = self.notices.1.recv() => self.heed(notice).await,
                Ok(()) = in_force.changed() => {
                    let in_force = in_force.borrow_and_update().clone();
                    let next = plan(&in_force, &self.cluster_domain, &mut self.ports);
                    self.take(next).await;
                }
                event = controller.recv() => self.pass_on(event).await,
                Some(command) = commands.recv() => {
                    if let Some(member) = self.members.get(&command.workload) {
                        member.order(Order::Application(command.application)).await;
                    }
                }
                _ = renewal.tick() => self.renew_tokens().await,
                Some(_) = self.tasks.join_next() => {}
            }
        }
        self.end(&cut).await;
    }

    /// Takes a new plan. A workload that runs already and is not understood any more runs on.
    async fn take(&mut self, next: Plan) {
        let mut problems = next.problems;
        problems.extend(next.warnings);
        self.planned = next.workloads;
        for (name, member) in &self.members {
            let is_of = |key: &&ObjectKey| {
                key.namespace.as_ref() == Some(&name.namespace) && key.name == name.name
            };
            if next.unclear.iter().any(|key| is_of(&key)) {
                self.planned.insert(name.clone(), member.plan.clone());
            }
            let Some(planned) = self.planned.get_mut(name) else {
                continue;
            };
            let program = planned.exec.as_ref().and_then(|words| words.first());
            if planned.exec != member.plan.exec
                && let Some(Err(message)) = program.map(|program| check::program(program))
            {
                problems.push(Problem {
                    place: format!("WorkloadEntry/{name}"),
                    message: format!("{message}; it runs on as it was"),
                });
                planned.exec.clone_from(&member.plan.exec);
            }
        }
        self.complain(problems).await;
        self.reconcile().await;
    }

    /// Brings the members to what is planned.
    async fn reconcile(&mut self) {
        let names: Vec<_> = self.members.keys().cloned().collect();
        for name in names {
            let Some(member) = self.members.get_mut(&name) else {
                continue;
            };
            let next = self.planned.get(&name);
            match next {
                Some(next) if *next == member.plan => {}
                Some(next) if member.plan.differs_in_listeners_alone(next) => {
                    member.plan = next.clone();
                    member.order(Order::Reload(next.clone())).await;
                    let changed = workload::event(next, WorkloadChange::Changed, &self.local);
                    self.tell(changed).await;
                }
                Some(_) | None => {
                    if self.ending.insert(name) {
                        member.order(Order::End).await;
                    }
                }
            }
        }
        let new: Vec<_> = self
            .planned
            .values()
            .filter(|planned| !self.members.contains_key(&planned.name))
            .cloned()
            .collect();
        for planned in new {
            self.start(planned);
        }
    }

    fn start(&mut self, planned: WorkloadPlan) {
        let name = planned.name.clone();
        let (member, task) = workload::start(
            planned,
            self.run.workload(&name),
            Arc::clone(&self.local),
            self.events.clone(),
            self.notices.0.clone(),
        );
        self.tasks.spawn(task);
        self.members.insert(name, member);
    }

    async fn heed(&mut self, notice: Notice) {
        match notice {
            Notice::Ready(name) => {
                let Some(member) = self.members.get_mut(&name) else {
                    return;
                };
                member.is_ready = true;
                let plan = member.plan.clone();
                if self.was_ready {
                    let added = workload::event(&plan, WorkloadChange::Added, &self.local);
                    self.tell(added).await;
                }
            }
            Notice::Ended(name) => {
                self.ending.remove(&name);
                if let Some(member) = self.members.remove(&name)
                    && self.was_ready
                {
                    let removed =
                        workload::event(&member.plan, WorkloadChange::Removed, &self.local);
                    self.tell(removed).await;
                }
                self.reconcile().await;
            }
        }
        if !self.was_ready && self.members.values().all(|member| member.is_ready) {
            self.was_ready = true;
            let members = self.members.values();
            let workloads = members.map(|member| self.local.describe(&member.plan));
            let workloads = workloads.collect();
            self.tell(Event::Ready { workloads }).await;
        }
    }

    /// Problems that were not said before.
    async fn complain(&mut self, problems: Vec<Problem>) {
        for problem in &problems {
            if !self.said.contains(problem) {
                self.warn("workload", problem.to_string()).await;
            }
        }
        self.said = problems;
    }

    async fn renew_tokens(&self) {
        for (name, member) in &self.members {
            let folder = self.run.workload(name);
            if let Err(error) = workload::write_token(&member.plan, &folder, &self.local) {
                self.warn("token", format!("{error:#}")).await;
            }
        }
    }

    async fn pass_on(&self, event: Result<controller::Event, broadcast::error::RecvError>) {
        let event = match event {
            Ok(controller::Event::Config {
                object,
                change,
                sidecars,
                of,
            }) => {
                let (change, fields) = match change {
                    controller::ObjectChange::Added => (ObjectChange::Added, Vec::new()),
                    controller::ObjectChange::Removed => (ObjectChange::Removed, Vec::new()),
                    controller::ObjectChange::Changed(fields) => (
                        ObjectChange::Changed,
                        fields.iter().map(ToString::to_string).collect(),
                    ),
                };
                Event::Config {
                    object: object.to_string(),
                    change,
                    fields,
                    sidecars,
                    of,
                }
            }
            Ok(controller::Event::Diagnostic(diagnostic)) => warning(diagnostic),
            Ok(controller::Event::Rejected {
                sidecar,
                resource,
                reason,
            }) => {
                let message = format!(
                    "the sidecar of {sidecar} refuses {resource} and keeps the old: {reason}"
                );
                return self.warn("rejected", message).await;
            }
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                let message = format!("{missed} events were missed: too many at once");
                return self.warn("missed-events", message).await;
            }
            // Not while `local` holds the control plane.
            Err(broadcast::error::RecvError::Closed) => return,
        };
        self.tell(event).await;
    }

    /// Ends every member, then the control plane.
    async fn end(mut self, cut: &CancellationToken) {
        for member in self.members.values() {
            member.order(Order::End).await;
        }
        self.members.clear();
        loop {
            tokio::select! {
                // Aborted tasks drop their children, and dropping kills.
                () = cut.cancelled() => break,
                ended = self.tasks.join_next() => if ended.is_none() { break },
                // Room for what members have to say.
                Some(_) = self.notices.1.recv() => {}
            }
        }
        self.tasks.shutdown().await;
        if let Some(local) = Arc::into_inner(self.local) {
            local.controller.shutdown().await;
        }
    }

    async fn warn(&self, code: &str, message: String) {
        let event = Event::Warning {
            severity: "warning",
            code: code.to_owned(),
            object: None,
            path: None,
            place: None,
            message,
        };
        self.tell(event).await;
    }

    async fn tell(&self, event: Event) {
        // An error says that nobody listens.
        self.events.send(event).await.ok();
    }
}

fn warning(diagnostic: Diagnostic) -> Event {
    Event::Warning {
        severity: match diagnostic.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        },
        code: diagnostic.code.to_string(),
        object: diagnostic.object.map(|object| object.to_string()),
        path: Some(diagnostic.path).filter(|path| !path.is_empty()),
        place: diagnostic.position.map(|source| Place {
            file: source.file.to_string(),
            line: source.position.line,
            column: source.position.column,
        }),
        message: diagnostic.message,
    }
}
