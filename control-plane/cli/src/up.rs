//! The local mesh: a control plane on a folder of manifests, in this process, and a real sidecar
//! process for each WorkloadEntry in it, with its application where one is named.
//!
//! [`start`] checks everything that can be checked before anything runs, then hands back a
//! [`Mesh`]; its task reconciles processes with the folder until it is told to end, and reports
//! [`Event`]s. `outrigger up` prints them; the demo draws from them.
//!
//! State: the mesh's task owns the plan and the members; each member's task its two processes;
//! the control plane its own. Nothing is left behind: processes end before [`Mesh::stop`] returns,
//! and the run's folder is removed.

mod address;
mod check;
mod child;
pub(crate) mod event;
mod files;
mod mesh;
mod plan;
mod ready;
mod workload;

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use anyhow::Context;
use outrigger_ca::WorkloadToken;
use outrigger_compiler::Membership;
use outrigger_controller::{
    controller::{self, Controller},
    source::Directory,
};
use outrigger_model::{MeshSettings, SpiffeId, TrustDomain, WorkloadName};
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::{CancellationToken, DropGuard};

pub(crate) use event::Event;
pub(crate) use workload::Application;

use address::AddressBook;
use files::RunFolder;
use mesh::Members;
use plan::{OutboundPorts, Plan, WorkloadPlan, plan};

/// Events that wait for whoever reads them; then the mesh waits, and its children do not.
const EVENTS_MAX: usize = 256;
/// Commands that wait: they come from a person's keys.
const COMMANDS_MAX: usize = 16;

/// How a local mesh runs.
#[derive(Debug, Clone)]
pub(crate) struct Options {
    /// The folder of manifests.
    pub(crate) folder: PathBuf,
    /// Keeps the mesh's keys over restarts, and the run's files while it runs.
    pub(crate) state_dir: PathBuf,
    /// Root certificate and key brought by the user.
    pub(crate) root: controller::Root,
    /// What sidecars are told: trust domain, access log, tracing, drain time.
    pub(crate) settings: MeshSettings,
    /// Where the control plane serves its metrics; none: nowhere.
    pub(crate) metrics: Option<SocketAddr>,
    /// Life of workload certificates.
    pub(crate) leaf_lifetime: Duration,
    /// Worker threads of each sidecar.
    pub(crate) workers: u16,
    /// Log filter of sidecars.
    pub(crate) log: String,
    /// Folder for what children write, a file each; none: all to stderr.
    pub(crate) logs: Option<PathBuf>,
}

/// Why a mesh did not start.
#[derive(Debug, thiserror::Error)]
pub(crate) enum StartError {
    /// Something that the user can put right; nothing was started.
    #[error("{0}")]
    Usage(String),
    /// Anything else.
    #[error("{0:#}")]
    Failed(anyhow::Error),
}

/// What everything of one run shares.
struct Local {
    program: PathBuf,
    trust_domain: TrustDomain,
    control_plane: SocketAddr,
    control_plane_identity: SpiffeId,
    root_file: PathBuf,
    workers: u16,
    log: String,
    logs: Option<PathBuf>,
    drain_time: Duration,
    controller: controller::Running,
}

impl Local {
    fn identity(&self, plan: &WorkloadPlan) -> SpiffeId {
        SpiffeId {
            trust_domain: self.trust_domain.clone(),
            namespace: plan.name.namespace.clone(),
            service_account: plan.service_account.clone(),
        }
    }

    fn mint(&self, plan: &WorkloadPlan) -> anyhow::Result<WorkloadToken> {
        Ok(self
            .controller
            .mint_token(&self.identity(plan), &plan.name)?)
    }

    fn describe(&self, plan: &WorkloadPlan) -> event::Workload {
        event::Workload {
            name: plan.name.name.to_string(),
            namespace: plan.name.namespace.to_string(),
            identity: self.identity(plan).to_string(),
            inbound: plan.inbound().collect(),
            outbound: plan.outbound.clone(),
            forward_proxy: plan.forward_proxy(),
            admin: format!("http://{}", plan.admin()),
        }
    }
}

/// A command to a running mesh.
#[derive(Debug)]
struct Command {
    workload: WorkloadName,
    application: Application,
}

/// A running local mesh. Dropped, it ends its processes without waiting for them to drain.
#[derive(Debug)]
pub(crate) struct Mesh {
    commands: mpsc::Sender<Command>,
    stop: DropGuard,
    cut: CancellationToken,
    task: JoinHandle<()>,
}

/// Checks, then starts. Events come until the mesh has ended; read them, or it waits.
///
/// # Errors
/// [`StartError::Usage`] before anything was started, else [`StartError::Failed`].
pub(crate) async fn start(options: Options) -> Result<(Mesh, mpsc::Receiver<Event>), StartError> {
    let book = Box::new(AddressBook::default());
    let (directory, first) = Directory::open(&options.folder, Some(book)).map_err(usage)?;
    let controller = controller::Options {
        state_dir: options.state_dir.clone(),
        root: options.root.clone(),
        listen: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        metrics: options.metrics,
        leaf_lifetime: options.leaf_lifetime,
        settings: options.settings.clone(),
        membership: Membership::All,
    };
    let in_force = controller.in_force(&first).map_err(failed)?;
    let mut ports = OutboundPorts::default();
    let domain = options.settings.cluster_domain.clone();
    let planned = plan(&in_force, &domain, &mut ports);
    let broken = first.diagnostics.iter().filter(|diagnostic| {
        // Without its file a mesh may be empty, and that is what to say.
        diagnostic.object.is_none() && diagnostic.severity == outrigger_compiler::Severity::Error
    });
    let broken: Vec<_> = broken.map(ToString::to_string).collect();
    check_plan(&planned, &options, &broken)?;

    let state_dir = options.state_dir.clone();
    files::make_folder(&state_dir).map_err(|error| StartError::Usage(format!("{error:#}")))?;
    let (controller, controller_events) = Controller::start(controller, directory, first)
        .await
        .map_err(|error| match error {
            controller::StartError::Keys(error) => usage(error),
            error @ controller::StartError::Listen { .. } => usage(error),
            other => failed(other),
        })?;
    let run = RunFolder::new(&state_dir).map_err(StartError::Failed)?;
    let root_file = run.root_file();
    files::write(&root_file, controller.root_pem().as_bytes(), 0o600)
        .map_err(StartError::Failed)?;
    let local = Arc::new(Local {
        program: program()?,
        trust_domain: options.settings.trust_domain.clone(),
        control_plane: controller.address(),
        control_plane_identity: controller.identity().clone(),
        root_file,
        workers: options.workers,
        log: options.log,
        logs: options.logs,
        drain_time: options.settings.drain_timeout,
        controller,
    });

    let (events, received) = mpsc::channel(EVENTS_MAX);
    let (commands, incoming) = mpsc::channel(COMMANDS_MAX);
    let (stop, cut) = (CancellationToken::new(), CancellationToken::new());
    let members = Members::new(local, run, domain, ports, events);
    let task = members.run(
        planned,
        controller_events,
        incoming,
        stop.clone(),
        cut.clone(),
    );
    let tasks = tokio_util::task::TaskTracker::new();
    let task = tasks.spawn(task);
    Ok((
        Mesh {
            commands,
            stop: stop.drop_guard(),
            cut,
            task,
        },
        received,
    ))
}

impl Mesh {
    /// Starts, stops or kills the application of a workload.
    pub(crate) async fn application(&self, workload: WorkloadName, application: Application) {
        let command = Command {
            workload,
            application,
        };
        // An error says that the mesh has ended.
        self.commands.send(command).await.ok();
    }

    /// Ends everything in order: sidecars drain, applications end, then the control plane. Returns
    /// when nothing is left. Events must still be read meanwhile.
    pub(crate) async fn stop(self) {
        drop(self.stop);
        self.task.await.ok();
    }

    /// Ends a [`Self::stop`] at once: what has not ended is killed.
    pub(crate) fn cut(&self) -> CancellationToken {
        self.cut.clone()
    }
}

/// All that keeps the mesh from running, before anything is started.
fn check_plan(plan: &Plan, options: &Options, broken: &[String]) -> Result<(), StartError> {
    let mut problems: Vec<String> = plan.problems.iter().map(ToString::to_string).collect();
    for workload in plan.workloads.values() {
        let name = &workload.name;
        let program = workload.exec.as_ref().and_then(|words| words.first());
        let program = program.map(|program| check::program(program)).transpose();
        let ports = check::addresses(workload);
        problems.extend(
            [program.map(drop), ports]
                .into_iter()
                .filter_map(Result::err)
                .map(|problem| format!("WorkloadEntry/{name}: {problem}")),
        );
    }
    if plan.workloads.is_empty() && plan.problems.is_empty() {
        problems.extend(broken.iter().cloned());
        problems.push(format!(
            "no WorkloadEntry in {}: write one for each application that is to be in the mesh",
            options.folder.display()
        ));
    }
    if problems.is_empty() {
        Ok(())
    } else {
        Err(StartError::Usage(problems.join("\n")))
    }
}

fn program() -> Result<PathBuf, StartError> {
    std::env::current_exe()
        .context("cannot find this program")
        .map_err(StartError::Failed)
}

/// An error with its causes, as something that the user can put right.
fn usage(error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Usage(format!("{:#}", anyhow::Error::from(error)))
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> StartError {
    StartError::Failed(error.into())
}

/// The folder for state unless one is given: `$XDG_STATE_HOME/outrigger`, or
/// `~/.local/state/outrigger` (XDG Base Directory Specification).
///
/// # Errors
/// When neither variable is set.
pub(crate) fn default_state_dir() -> io::Result<PathBuf> {
    let folder = |name: &str| std::env::var_os(name).map(PathBuf::from);
    folder("XDG_STATE_HOME")
        .filter(|path| path.is_absolute())
        .or_else(|| Some(folder("HOME")?.join(".local/state")))
        .map(|path| path.join("outrigger"))
        .ok_or_else(|| io::Error::other("neither XDG_STATE_HOME nor HOME is set: use --state-dir"))
}
