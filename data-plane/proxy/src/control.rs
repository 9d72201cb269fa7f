//! The control thread: certificates, discovery, telemetry export, admin (STYLE §1 "Separate
//! threads").
//!
//! It is the only writer of the snapshot ([`crate::snapshot::SnapshotWriter`]) and of the
//! certificate in force. Without a control plane it keeps trying, with backoff, while workers go
//! on from what they have.

mod backoff;
mod certificates;
mod discovery;
mod disk;
mod fold;
mod keeper;
mod link;
mod state;
pub(crate) mod subscriptions;

use std::{net::TcpListener, pin::Pin, sync::Arc};

use anyhow::Context;
use outrigger_model::{Authority, TrustBundle};
use rustls_pki_types::{CertificateDer, pem::PemObject};
use tokio::{
    sync::{mpsc, watch},
    time::Instant,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::{
    admin,
    bootstrap::Bootstrap,
    drain::Drain,
    listeners::{Accepting, Command},
    overload,
    snapshot::{SnapshotReader, SnapshotWriter},
    telemetry::{Telemetry, logging::LogControl},
    upstream::TlsReader,
    worker::SharedLimits,
};
use disk::Disk;
use keeper::Keeper;
use link::ControlPlane;
use subscriptions::Resources;

/// What the control thread's tasks work with.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) bootstrap: Bootstrap,
    pub(crate) writer: SnapshotWriter,
    pub(crate) snapshots: SnapshotReader,
    pub(crate) tls: TlsReader,
    pub(crate) telemetry: Telemetry,
    pub(crate) drain: Drain,
    pub(crate) accepting: Arc<Accepting>,
    pub(crate) workers: Vec<mpsc::Sender<Command>>,
    pub(crate) started: Instant,
    pub(crate) limits: Arc<SharedLimits>,
    pub(crate) stop: CancellationToken,
}

impl Control {
    /// Starts the tasks on `tasks`.
    ///
    /// # Errors
    /// When the roots handed over at start cannot be read, or the admin socket not be used.
    pub(crate) fn start(
        self,
        tasks: &TaskTracker,
        demanded: mpsc::Receiver<Authority>,
        (admin_listener, health_listener): (TcpListener, Option<TcpListener>),
        log: LogControl,
    ) -> anyhow::Result<()> {
        let roots = read_roots(&self.bootstrap)?;
        let to = ControlPlane {
            address: self.bootstrap.file.control_plane.clone(),
            identity: self.bootstrap.control_plane_identity.clone(),
        };
        let (trust_out, trust_in) = watch::channel::<Option<Arc<TrustBundle>>>(None);
        let (has_certificate_out, has_certificate) = watch::channel(0_u64);
        let certificates = certificates::Certificates {
            to: to.clone(),
            identity: self.bootstrap.identity.clone(),
            token_file: self.bootstrap.file.token_file.clone(),
            roots,
            tls: Arc::clone(&self.tls),
            renewed: has_certificate_out,
            trust: trust_in,
            telemetry: self.telemetry.clone(),
            valid_until: 0,
        };
        let resources = Resources::default();
        let sources = Arc::new(self.sources(resources.clone(), log));
        let discovery = discovery::Discovery {
            resources,
            keeper: self.keeper(tasks),
            to,
            workload: self.bootstrap.workload.clone(),
            trust_domain: self.bootstrap.identity.trust_domain.clone(),
            tls: Arc::clone(&self.tls),
            has_certificate,
            demanded,
            writer: self.writer,
            trust: trust_out,
            telemetry: self.telemetry.clone(),
            started: self.started,
        };
        let run = |task: Pin<Box<dyn Future<Output = ()>>>| {
            let stop = self.stop.clone().cancelled_owned();
            tasks.spawn_local(async move {
                tokio::select! { () = task => {}, () = stop => {} }
            });
        };
        run(Box::pin(certificates.run()));
        run(Box::pin(discovery.run()));
        let surfaces = [
            (Some(admin_listener), admin::Surface::Admin),
            (health_listener, admin::Surface::Health),
        ];
        for (listener, surface) in surfaces {
            let Some(listener) = listener else { continue };
            let listener = asynchronous(listener).context("an admin socket cannot be used")?;
            run(Box::pin(admin::serve(
                listener,
                Arc::clone(&sources),
                surface,
            )));
        }
        let reader = overload::Reader::of_this_process(self.bootstrap.file.memory_limit_bytes);
        let telemetry = self.telemetry.clone();
        run(Box::pin(overload::watch(
            self.limits,
            telemetry,
            move || reader.read(),
        )));
        tasks.spawn_local(self.telemetry.export(self.stop));
        Ok(())
    }

    /// What the admin address and the health address tell from.
    fn sources(&self, resources: Resources, log: LogControl) -> admin::Sources {
        admin::Sources {
            snapshots: self.snapshots.clone(),
            tls: Arc::clone(&self.tls),
            telemetry: self.telemetry.clone(),
            drain: self.drain.clone(),
            accepting: self.accepting.clone(),
            workers: self.workers.clone(),
            resources,
            application: admin::application::Application::new(&self.bootstrap),
            log,
            mutations: self.bootstrap.file.admin_mutations,
        }
    }
}

impl Control {
    /// What keeps the configuration on local disk, and a task on `tasks` that writes it; `None`
    /// without a `state_dir`.
    fn keeper(&self, tasks: &TaskTracker) -> Option<Keeper> {
        let folder = self.bootstrap.file.state_dir.as_ref()?;
        let (workload, identity) = (&self.bootstrap.workload, &self.bootstrap.identity);
        let disk = Disk::new(folder, workload.clone(), identity.clone());
        let (contents, newest) = watch::channel(None);
        let writing = disk::write_out(disk.path().to_owned(), newest, self.stop.clone());
        tasks.spawn_local(writing);
        Some(Keeper::new(disk, contents))
    }
}

fn asynchronous(listener: TcpListener) -> std::io::Result<tokio::net::TcpListener> {
    listener.set_nonblocking(true)?;
    tokio::net::TcpListener::from_std(listener)
}

fn read_roots(bootstrap: &Bootstrap) -> anyhow::Result<Vec<Arc<[u8]>>> {
    let path = &bootstrap.file.root_file;
    let certificates = CertificateDer::pem_file_iter(path)
        .with_context(|| format!("cannot read the roots in {}", path.display()))?;
    let roots = certificates
        .map(|certificate| certificate.map(|certificate| Arc::from(certificate.as_ref())))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("the roots in {} are not PEM certificates", path.display()))?;
    anyhow::ensure!(!roots.is_empty(), "{} holds no certificate", path.display());
    Ok(roots)
}
