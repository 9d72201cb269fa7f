//! The life of one workload: its files, its sidecar, then its application; and back.
//!
//! One task owns both processes. The application starts when the sidecar is ready, so that its
//! first request finds the mesh. At the end the sidecar goes first: it lets what is in flight end
//! while the application still answers.

use std::{
    collections::BTreeMap,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use outrigger_model::WorkloadName;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::{
    Local, check,
    child::{ChildSpec, Handle, Output, supervise},
    event::{Event, Role, WorkloadChange},
    files,
    plan::WorkloadPlan,
    ready,
};

/// Orders that wait for a workload: they come one at a time, from edits.
const ORDERS_MAX: usize = 16;
/// After this a sidecar that is not ready, or an application that takes no connections, is told of.
const SLOW: Duration = Duration::from_secs(20);
/// A sidecar ends its drain by itself at the drain time; this much later it is killed.
pub(super) const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// An order to a workload.
#[derive(Debug)]
pub(super) enum Order {
    /// New listeners.
    Reload(WorkloadPlan),
    /// Something for the application.
    Application(Application),
    /// End in order.
    End,
}

/// What to do with an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Application {
    /// Run it.
    Start,
    /// SIGTERM, and leave it ended.
    Stop,
    /// SIGKILL: it starts again after its backoff.
    Kill,
}

/// A workload's task, as the mesh sees it.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) plan: WorkloadPlan,
    pub(super) is_ready: bool,
    orders: mpsc::Sender<Order>,
}

impl Member {
    pub(super) async fn order(&self, order: Order) {
        // An error says that it has ended.
        self.orders.send(order).await.ok();
    }
}

/// What a workload's task tells the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Notice {
    /// Sidecar and application are ready, for the first time.
    Ready(WorkloadName),
    /// It ended.
    Ended(WorkloadName),
}

/// A member and its task. The task ends after [`Order::End`], or when the member is dropped.
pub(super) fn start(
    plan: WorkloadPlan,
    folder: PathBuf,
    local: Arc<Local>,
    events: mpsc::Sender<Event>,
    notices: mpsc::Sender<Notice>,
) -> (Member, impl Future<Output = ()> + Send) {
    let (orders, incoming) = mpsc::channel(ORDERS_MAX);
    let member = Member {
        plan: plan.clone(),
        is_ready: false,
        orders,
    };
    let workload = Running {
        plan,
        folder,
        local,
        events,
        orders: incoming,
    };
    let task = async move {
        let name = workload.plan.name.clone();
        workload.run(&notices).await;
        notices.send(Notice::Ended(name)).await.ok();
    };
    (member, task)
}

struct Running {
    plan: WorkloadPlan,
    folder: PathBuf,
    local: Arc<Local>,
    events: mpsc::Sender<Event>,
    orders: mpsc::Receiver<Order>,
}

/// Both processes.
struct Processes {
    sidecar: Handle,
    application: Option<Handle>,
    supervisors: JoinSet<()>,
}

impl Running {
    async fn run(mut self, notices: &mpsc::Sender<Notice>) {
        let Some(mut processes) = self.prepared().await else {
            return;
        };
        processes.sidecar.start().await;
        if self.become_ready(&processes).await {
            notices
                .send(Notice::Ready(self.plan.name.clone()))
                .await
                .ok();
            while let Some(order) = self.orders.recv().await {
                if !self.follow(order, &processes).await {
                    break;
                }
            }
        }
        processes.sidecar.stop().await;
        drop(processes.sidecar);
        // Of the supervisors, that of the sidecar ends first; the application's only when its
        // handle goes.
        if let Some(application) = processes.application {
            processes.supervisors.join_next().await;
            drop(application);
        }
        while processes.supervisors.join_next().await.is_some() {}
        std::fs::remove_dir_all(&self.folder).ok();
    }

    /// [`Self::prepare`]; what cannot start waits for another plan. `None` when told to end.
    async fn prepared(&mut self) -> Option<Processes> {
        loop {
            match self.prepare() {
                Ok(processes) => return Some(processes),
                Err(error) => self.warn(&format!("it cannot start: {error:#}")).await,
            }
            match self.orders.recv().await? {
                Order::End => return None,
                Order::Reload(plan) => self.plan = plan,
                Order::Application(_) => {}
            }
        }
    }

    /// Writes the files and sets up both supervisors; nothing runs yet.
    fn prepare(&self) -> anyhow::Result<Processes> {
        files::make_folder(&self.folder)?;
        write_token(&self.plan, &self.folder, &self.local)?;
        files::write_bootstrap(&self.plan, &self.folder, &self.local)?;
        let mut supervisors = JoinSet::new();
        let mut supervised = |role, command: Vec<_>, environment| {
            let spec = self.child(role, command, environment);
            let (handle, supervisor) = supervise(spec, self.events.clone());
            supervisors.spawn(supervisor);
            handle
        };
        let parent = ["--parent".into(), std::process::id().to_string().into()];
        let mut command = vec!["proxy".into()];
        command.extend(parent.clone());
        command.push(files::bootstrap_path(&self.folder).into());
        let sidecar = supervised(Role::Sidecar, command, BTreeMap::new());
        let application = match &self.plan.exec {
            None => None,
            Some(words) => {
                let (program, arguments) = words.split_first().context("the command is empty")?;
                let program = check::program(program).map_err(anyhow::Error::msg)?;
                let mut command = vec!["launch".into()];
                command.extend(parent);
                command.extend(["--".into(), program.into()]);
                command.extend(arguments.iter().map(Into::into));
                let environment = self.plan.environment.clone();
                Some(supervised(Role::Application, command, environment))
            }
        };
        Ok(Processes {
            sidecar,
            application,
            supervisors,
        })
    }

    fn child(
        &self,
        role: Role,
        arguments: Vec<std::ffi::OsString>,
        environment: BTreeMap<String, String>,
    ) -> ChildSpec {
        let output = match &self.local.logs {
            None => Output::Stderr,
            Some(folder) => {
                let name = &self.plan.name;
                Output::File(folder.join(format!("{}.{}.{role}.log", name.namespace, name.name)))
            }
        };
        ChildSpec {
            workload: self.plan.name.to_string(),
            role,
            program: self.local.program.clone(),
            arguments,
            environment,
            output,
            patience: self.local.drain_time + DRAIN_GRACE,
            admin: (role == Role::Sidecar).then(|| self.plan.admin()),
            ports: match role {
                Role::Sidecar => Vec::new(),
                Role::Application => self.plan.ports.iter().map(|port| port.get()).collect(),
            },
        }
    }

    /// Waits until the sidecar is ready, starts the application, waits until it takes
    /// connections. False when told to end before. Says so, again and again, if it takes long.
    async fn become_ready(&mut self, processes: &Processes) -> bool {
        let mut slow = Instant::now() + SLOW;
        let mut is_started = false;
        loop {
            // Made again after each order: it may have changed what to wait for.
            let (admin, listening) = (self.plan.admin(), self.listening());
            let waiting = async {
                ready::sidecar(admin).await;
                if let Some(application) = &processes.application
                    && !is_started
                {
                    application.start().await;
                    is_started = true;
                }
                ready::application(&listening).await;
            };
            let order = tokio::select! {
                () = waiting => return true,
                () = sleep_until(slow) => {
                    slow += SLOW;
                    self.warn("it is not ready yet; see the log of its sidecar and its application").await;
                    continue;
                }
                order = self.orders.recv() => order,
            };
            let Some(order) = order else {
                return false;
            };
            if !self.follow(order, processes).await {
                return false;
            }
        }
    }

    /// Where the application takes connections once it is ready; nowhere that we know of if
    /// somebody else runs it.
    fn listening(&self) -> Vec<SocketAddr> {
        let awaited = self.plan.exec.iter().flat_map(|_| &self.plan.awaited);
        awaited
            .map(|port| ([127, 0, 0, 1], port.get()).into())
            .collect()
    }

    /// False when it is to end.
    async fn follow(&mut self, order: Order, processes: &Processes) -> bool {
        match order {
            Order::End => return false,
            Order::Reload(plan) => {
                self.plan = plan;
                if let Some(application) = &processes.application {
                    let environment = self.plan.environment.clone();
                    application.environment(environment).await;
                }
                match files::write_bootstrap(&self.plan, &self.folder, &self.local) {
                    Ok(()) => processes.sidecar.reload().await,
                    Err(error) => self.warn(&format!("{error:#}")).await,
                }
            }
            Order::Application(what) => match (&processes.application, what) {
                (Some(application), Application::Start) => application.start().await,
                (Some(application), Application::Stop) => application.stop().await,
                (Some(application), Application::Kill) => application.kill().await,
                (None, _) => self.warn("it has no application that can be steered").await,
            },
        }
        true
    }

    async fn warn(&self, message: &str) {
        let event = Event::Warning {
            severity: "warning",
            code: "workload".to_owned(),
            object: Some(format!("WorkloadEntry/{}", self.plan.name)),
            path: None,
            place: None,
            message: message.to_owned(),
        };
        self.events.send(event).await.ok();
    }
}

/// Writes a fresh token: who reads the file is the workload.
pub(super) fn write_token(plan: &WorkloadPlan, folder: &Path, local: &Local) -> anyhow::Result<()> {
    let token = local
        .mint(plan)
        .with_context(|| format!("cannot make a token for {}", plan.name))?;
    files::write(&files::token_path(folder), token.expose().as_bytes(), 0o400)
}

/// The event for a workload that came, changed or went.
pub(super) fn event(plan: &WorkloadPlan, change: WorkloadChange, local: &Local) -> Event {
    Event::Workload {
        change,
        workload: local.describe(plan),
    }
}
