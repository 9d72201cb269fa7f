//! The sidecar process: threads, their wiring, signals, and the orderly end.
//!
//! The main thread is the control thread: a current-thread runtime with discovery, certificates,
//! telemetry export and admin. Each worker is a thread with a runtime of its own. They meet in the
//! snapshot, the certificate in force, and bounded queues.

use std::{collections::HashMap, net::SocketAddr, rc::Rc, sync::Arc, thread, time::Duration};

use anyhow::Context;
use outrigger_model::MeshSettings;
use tokio::{
    net::TcpListener,
    runtime::{Builder, LocalOptions},
    signal::unix::{Signal, SignalKind, signal},
    sync::{mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    accept,
    bootstrap::{Bootstrap, Source},
    control,
    drain::Drain,
    listeners::{Accepting, Command, Listeners, Sharing, bind, wanted},
    snapshot::{self, Snapshot},
    telemetry::{Identity, IstioMetrics, Telemetry, logging},
    worker::{Shared, SharedLimits, Worker},
};

/// Orders waiting for a worker: a reload may bring every listener at once.
const COMMANDS_MAX: usize = 4_096;
/// Services asked for and not yet answered.
const DEMANDS_MAX: usize = 1_024;
/// DEF-18.
const CONNECTIONS_MAX: u64 = 10_000;

/// A worker thread, as the control thread sees it.
struct WorkerThread {
    commands: mpsc::Sender<Command>,
    ended: oneshot::Receiver<()>,
    thread: thread::JoinHandle<()>,
}

/// Runs a sidecar until it is told to end. Blocks.
///
/// # Errors
/// When the bootstrap cannot be used, an address cannot be bound, or a thread cannot start.
pub fn run(source: &Source) -> anyhow::Result<()> {
    let bootstrap = Bootstrap::read(source)?;
    let runtime = Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default());
    let runtime = runtime.context("cannot start the control thread's runtime")?;
    runtime.block_on(supervise(bootstrap, source))
}

async fn supervise(bootstrap: Bootstrap, source: &Source) -> anyhow::Result<()> {
    // First of all: a signal that nobody handles yet ends the process.
    let signals = Signals::new()?;
    let log = logging::init(&bootstrap.log, logging::Format::Json)?;
    let started = Instant::now();
    let drain = Drain::default();
    let own = Identity {
        workload: bootstrap.workload.clone(),
        spiffe: bootstrap.identity.clone(),
    };
    let telemetry = Telemetry::new(own, IstioMetrics::Shown, std::io::stdout())?;
    let (demand, demanded) = mpsc::channel(DEMANDS_MAX);
    let (writer, snapshots) = snapshot::channel(empty_snapshot(&bootstrap));
    let files_max = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    let shared = Shared {
        snapshots: snapshots.clone(),
        demand,
        tls: Arc::default(),
        telemetry: telemetry.clone(),
        drain: drain.clone(),
        limits: SharedLimits::new(downstream_max(files_max)),
        started,
    };
    let admin = listen(bootstrap.file.admin, "admin")?;
    let health = bootstrap
        .file
        .health
        .map(|address| listen(address, "health"));
    let health = health.transpose()?;
    let mut listeners = Listeners::default();
    let workers = (0..bootstrap.file.workers)
        .map(|index| start_worker(index, shared.clone(), listeners.accepting()))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let commands: Vec<_> = workers
        .iter()
        .map(|worker| worker.commands.clone())
        .collect();
    listeners.apply(wanted(&bootstrap), &commands)?;

    let tasks = TaskTracker::new();
    let stop = CancellationToken::new();
    let control = control::Control {
        bootstrap: bootstrap.clone(),
        writer,
        snapshots,
        tls: Arc::clone(&shared.tls),
        telemetry,
        drain: drain.clone(),
        accepting: listeners.accepting(),
        workers: commands.clone(),
        started,
        limits: Arc::clone(&shared.limits),
        stop: stop.clone(),
    };
    control.start(&tasks, demanded, (admin, health), log)?;
    wait_for_end(signals, source, &mut listeners, &commands).await;
    end(&shared, workers, &bootstrap).await;
    stop.cancel();
    tasks.close();
    // Export of the last spans and log lines.
    if timeout(Duration::from_secs(2), tasks.wait()).await.is_err() {
        tracing::warn!("control tasks did not end in time");
    }
    shared.telemetry.close(Duration::from_secs(1));
    Ok(())
}

fn listen(address: SocketAddr, purpose: &str) -> anyhow::Result<std::net::TcpListener> {
    bind(address, Sharing::Alone).with_context(|| format!("cannot listen on {address} ({purpose})"))
}

/// What is heeded.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }
}

/// Until SIGTERM or SIGINT; SIGHUP reads the listeners again.
async fn wait_for_end(
    mut signals: Signals,
    source: &Source,
    listeners: &mut Listeners,
    commands: &[mpsc::Sender<Command>],
) {
    loop {
        tokio::select! {
            _ = signals.terminate.recv() => return,
            _ = signals.interrupt.recv() => return,
            _ = signals.hangup.recv() => {
                let reloaded = Bootstrap::read(source)
                    .map_err(anyhow::Error::from)
                    .and_then(|next| Ok(listeners.apply(wanted(&next), commands)?));
                match reloaded {
                    Ok(()) => tracing::info!(listeners = listeners.count(), "listeners reloaded"),
                    Err(error) => {
                        tracing::error!(error = format!("{error:#}"), "reload failed; the old listeners stay");
                    }
                }
            }
        }
    }
}

/// Drain: stop accepting, let work end, cut at the deadline.
async fn end(shared: &Shared, workers: Vec<WorkerThread>, bootstrap: &Bootstrap) {
    let own = bootstrap.file.drain_seconds;
    let limit = own.map_or(shared.snapshots.load().settings.drain_timeout, |seconds| {
        Duration::from_secs(seconds.into())
    });
    tracing::info!(workload = %bootstrap.workload, ?limit, "draining");
    shared.drain.begin();
    let deadline = Instant::now() + limit;
    for worker in workers {
        if tokio::time::timeout_at(deadline, worker.ended)
            .await
            .is_err()
        {
            tracing::warn!("work in flight was cut at the drain's deadline");
            shared.drain.force();
        }
        if worker.thread.join().is_err() {
            tracing::error!("a worker ended by a panic");
        }
    }
    tracing::info!("drained");
}

/// What is known before the control plane has answered: nothing, and no setting but the defaults.
fn empty_snapshot(bootstrap: &Bootstrap) -> Snapshot {
    Snapshot {
        number: 0,
        settings: Arc::new(MeshSettings::defaults(
            bootstrap.identity.trust_domain.clone(),
        )),
        inbound: None,
        services: HashMap::default(),
    }
}

/// min(10,000, half the descriptors that this process may have, if there is a bound) (DEF-18).
fn downstream_max(files_max: Option<u64>) -> u32 {
    let half = files_max.map_or(CONNECTIONS_MAX, |files| files / 2);
    u32::try_from(half.clamp(16, CONNECTIONS_MAX)).unwrap_or(u32::MAX)
}

fn start_worker(
    index: u16,
    shared: Shared,
    accepting: Arc<Accepting>,
) -> anyhow::Result<WorkerThread> {
    let (commands, orders) = mpsc::channel(COMMANDS_MAX);
    let (report, ended) = oneshot::channel();
    // Seeds only spread load; a fixed one would make sidecars choose alike.
    let seed = fastrand::u64(..);
    let thread = thread::Builder::new()
        .name(format!("worker-{index}"))
        .spawn(move || {
            let runtime = Builder::new_current_thread()
                .enable_all()
                // Each turn of the loop costs a poll of epoll: under load take more tasks first.
                .event_interval(61)
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => {
                    runtime.block_on(work(Worker::new(shared, seed), orders, &accepting));
                }
                Err(error) => tracing::error!(%error, "a worker's runtime does not start"),
            }
            if report.send(()).is_err() {
                tracing::debug!("nobody waits for this worker's end");
            }
        })
        .context("cannot start a worker thread")?;
    Ok(WorkerThread {
        commands,
        ended,
        thread,
    })
}

/// A worker's life: follow orders until the drain, then wait for its tasks or the cut.
async fn work(
    worker: Rc<Worker>,
    mut orders: mpsc::Receiver<Command>,
    accepting_all: &Arc<Accepting>,
) {
    let mut accepting: HashMap<SocketAddr, CancellationToken> = HashMap::new();
    let sweeping = TaskTracker::new();
    sweeping.spawn_local(Rc::clone(&worker).sweep());
    loop {
        let order = tokio::select! {
            order = orders.recv() => order,
            () = worker.shared.drain.begun() => break,
        };
        match order {
            Some(Command::Listen {
                address,
                role,
                listener,
            }) => {
                let stop = CancellationToken::new();
                match TcpListener::from_std(listener) {
                    Ok(listener) => {
                        let accept = accept::accept(
                            Rc::clone(&worker),
                            listener,
                            Rc::new(role),
                            stop.clone(),
                        );
                        let accepts = accepting_all.begin();
                        worker.tasks.spawn_local(async move {
                            accept.await;
                            drop(accepts);
                        });
                        if let Some(old) = accepting.insert(address, stop) {
                            old.cancel();
                        }
                    }
                    Err(error) => tracing::error!(%address, %error, "cannot listen"),
                }
            }
            Some(Command::Stop { address }) => {
                if let Some(stop) = accepting.remove(&address) {
                    stop.cancel();
                }
            }
            Some(Command::Report { most, to }) => {
                // Who asked may have gone.
                to.send(worker.health(most)).ok();
            }
            None => break,
        }
    }
    worker.tasks.close();
    tokio::select! {
        () = worker.tasks.wait() => {}
        () = worker.shared.drain.cut() => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn half_the_descriptors_bound_the_connections() {
        let check = |files_max, expected| assert_eq!(downstream_max(files_max), expected);
        check(None, 10_000);
        check(Some(1 << 20), 10_000);
        check(Some(20_000), 10_000);
        check(Some(1_024), 512);
        check(Some(256), 128);
        check(Some(8), 16);
    }
}
