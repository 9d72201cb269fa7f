//! The state of the demo: what was counted, what happened, what the keys act on.
//!
//! Owner: the demo's one loop. It decides; processes, connections and the terminal are elsewhere.
//! Of I/O there is only the edit of a file in the demo's folder.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use outrigger_model::WorkloadName;

use super::board::Board;
use super::folder::{Folder, FolderError};
use super::keys::{Action, Fault};
use super::load::{SERVICES, Targets};
use super::scrape::Source;
use super::screen::{Canary, News, Scene};
use crate::up::event::{Event, Role, Workload, WorkloadChange};

/// The workload that sends the load.
const LOADGEN: &str = "loadgen";
/// The workload whose processes are killed: one of two that do the same.
const VICTIM: &str = "inventory-2";
/// Services with two versions, and the workload of the second.
const CANARIES: [(&str, &str); 3] = [
    ("payments", "payments-v2"),
    ("order-service", "order-v2"),
    ("product-service", "product-v2"),
];

/// Something to be done outside.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Errand {
    /// Tell the application at this address what to do.
    Fault {
        /// Its own port, not its sidecar's.
        application: SocketAddr,
        fault: Fault,
    },
    /// Kill this application, `namespace/name`, and leave it down.
    Kill(WorkloadName),
    /// Start it again.
    Restart(WorkloadName),
    /// Kill the process with this ID.
    Signal(u32),
    /// End the demo.
    Quit,
}

/// Why the demo cannot work with the mesh that is ready.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum StageError {
    /// No generator.
    #[error("the mesh is ready without the workload {LOADGEN}")]
    NoLoadgen,
    /// The generator cannot reach what it is to call.
    #[error("the workload {LOADGEN} has no outbound listener for {0}")]
    NoListener(&'static str),
}

/// Everything that is known.
#[derive(Debug)]
pub(super) struct Stage {
    folder: Folder,
    workloads: Vec<Workload>,
    /// The process of the victim's sidecar, while it runs.
    sidecar: Option<u32>,
    /// Applications that ended and were not started again, `namespace/name`.
    down: BTreeSet<String>,
    canaries: Vec<Canary>,
    chosen: usize,
    help: bool,
    /// What happened.
    pub(super) news: News,
    /// What was counted.
    pub(super) board: Board,
}

impl Stage {
    /// Nothing has happened yet.
    ///
    /// # Errors
    /// If the folder has no weights to move.
    pub(super) fn new(folder: Folder) -> Result<Self, FolderError> {
        let canaries = CANARIES.iter().map(|(service, _)| {
            Ok(Canary {
                service,
                weight: folder.weight(service)?,
                fault: Fault::None,
            })
        });
        Ok(Self {
            canaries: canaries.collect::<Result<_, _>>()?,
            folder,
            workloads: Vec::new(),
            sidecar: None,
            down: BTreeSet::new(),
            chosen: 0,
            help: false,
            news: News::default(),
            board: Board::default(),
        })
    }

    /// Takes note of an event.
    pub(super) fn hear(&mut self, at: Duration, event: &Event) {
        self.note_process(event);
        match event {
            Event::Ready { workloads } => {
                self.workloads.clone_from(workloads);
                let ready = format!("{} sidecars are ready; load begins", workloads.len());
                self.news.add(at, ready);
            }
            Event::Workload { change, workload } => {
                self.workloads.retain(|known| known.name != workload.name);
                match change {
                    WorkloadChange::Added | WorkloadChange::Changed => {
                        self.workloads.push(workload.clone());
                    }
                    WorkloadChange::Removed => {}
                }
                self.news.add(at, event.to_string());
            }
            Event::Config { .. } => {
                let text = event.to_string();
                let text = text.strip_prefix("config: ").unwrap_or(&text);
                self.news.config = Some((at, text.to_owned()));
            }
            Event::ChildStart { .. } if self.workloads.is_empty() => {}
            Event::Warning { .. }
            | Event::ChildStart { .. }
            | Event::ChildExit { .. }
            | Event::Stopped { .. } => self.news.add(at, event.to_string()),
        }
    }

    fn note_process(&mut self, event: &Event) {
        let (workload, role, process) = match event {
            Event::ChildStart {
                workload,
                role,
                pid,
            } => (workload, role, Some(*pid)),
            Event::ChildExit { workload, role, .. } => (workload, role, None),
            Event::Ready { .. }
            | Event::Workload { .. }
            | Event::Config { .. }
            | Event::Warning { .. }
            | Event::Stopped { .. } => return,
        };
        match role {
            Role::Sidecar if workload.rsplit('/').next() == Some(VICTIM) => self.sidecar = process,
            Role::Sidecar => {}
            Role::Application => {
                if process.is_some() {
                    self.down.remove(workload);
                } else {
                    self.down.insert(workload.clone());
                }
            }
        }
    }

    /// Does what the user asks for, or says what is to be done outside.
    pub(super) fn act(&mut self, at: Duration, action: Action) -> Option<Errand> {
        match action {
            Action::Next => self.chosen = (self.chosen + 1) % CANARIES.len(),
            Action::Help => self.help = !self.help,
            Action::Quit => return Some(Errand::Quit),
            Action::Shift(step) => self.shift(at, step),
            Action::Fault(fault) => return self.fault(at, fault),
            Action::Kill => {
                let victim = self.victim()?;
                let text = format!("you: kill the application of {VICTIM}; r starts it again");
                self.news.add(at, text);
                return Some(Errand::Kill(victim));
            }
            Action::Restart => {
                let victim = self.victim()?;
                let text = format!("you: start the application of {VICTIM}");
                self.news.add(at, text);
                return Some(Errand::Restart(victim));
            }
            Action::KillSidecar => {
                let pid = self.sidecar?;
                self.news
                    .add(at, format!("you: kill the sidecar of {VICTIM}"));
                return Some(Errand::Signal(pid));
            }
        }
        None
    }

    fn shift(&mut self, at: Duration, step: i8) {
        let Some(canary) = self.canaries.get_mut(self.chosen) else {
            return;
        };
        let service = canary.service;
        let text = match self.folder.shift(service, step) {
            Ok(weight) => {
                canary.weight = weight;
                format!("you: weight of {service} v2 is {weight} % in {service}.yaml")
            }
            Err(error) => format!("the weight of {service} cannot be moved: {error}"),
        };
        self.news.add(at, text);
    }

    fn fault(&mut self, at: Duration, fault: Fault) -> Option<Errand> {
        let (service, name) = CANARIES.get(self.chosen)?;
        let inbound = self.workload(name)?.inbound.first()?;
        let application = SocketAddr::from((Ipv4Addr::LOCALHOST, inbound.port()));
        if let Some(canary) = self.canaries.get_mut(self.chosen) {
            canary.fault = fault;
        }
        let does = match fault {
            Fault::None => "works again",
            Fault::Fail => "answers every request with an error",
            Fault::Hang => "answers no request",
        };
        self.news.add(at, format!("you: {service} v2 {does}"));
        Some(Errand::Fault { application, fault })
    }

    fn victim(&self) -> Option<WorkloadName> {
        let victim = self.workload(VICTIM)?;
        format!("{}/{}", victim.namespace, victim.name).parse().ok()
    }

    fn workload(&self, name: &str) -> Option<&Workload> {
        self.workloads.iter().find(|known| known.name == name)
    }

    /// Where the load goes in.
    ///
    /// # Errors
    /// If the mesh has no way for it.
    pub(super) fn targets(&self) -> Result<Targets, StageError> {
        let loadgen = self.workload(LOADGEN).ok_or(StageError::NoLoadgen)?;
        let mut addresses = Vec::with_capacity(SERVICES.len());
        for service in SERVICES {
            let prefix = format!("{service}.{}.svc.", loadgen.namespace);
            let listener = loadgen
                .outbound
                .iter()
                .find(|(host, _)| host.starts_with(&prefix));
            let (_, address) = listener.ok_or(StageError::NoListener(service))?;
            addresses.push(*address);
        }
        let addresses = <[SocketAddr; 3]>::try_from(addresses);
        addresses.map(Targets).map_err(|_| StageError::NoLoadgen)
    }

    /// Whose metrics there are to read.
    pub(super) fn sources(&self) -> Vec<Source> {
        let sources = self.workloads.iter().map(|workload| Source {
            workload: workload.name.clone(),
            // In the shop a service account is named as the service.
            service: workload
                .identity
                .rsplit('/')
                .next()
                .unwrap_or(&workload.name)
                .to_owned(),
            admin: workload.admin.clone(),
            runs: !self
                .down
                .contains(&format!("{}/{}", workload.namespace, workload.name)),
        });
        sources.collect()
    }

    /// Calls `with` with the scene to draw.
    pub(super) fn scene<T>(&self, elapsed: Duration, with: impl FnOnce(&Scene<'_>) -> T) -> T {
        with(&Scene {
            elapsed,
            view: &self.board.view(),
            canaries: &self.canaries,
            chosen: self.chosen,
            news: &self.news,
            help: self.help,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AT: Duration = Duration::from_secs(1);

    fn workload(
        name: &str,
        account: &str,
        inbound: &[&str],
        outbound: &[(&str, &str)],
    ) -> Workload {
        let outbound = outbound.iter();
        Workload {
            name: name.to_owned(),
            namespace: "shop".to_owned(),
            identity: format!("spiffe://cluster.local/ns/shop/sa/{account}"),
            inbound: inbound
                .iter()
                .map(|address| address.parse().unwrap())
                .collect(),
            outbound: outbound
                .map(|(host, address)| ((*host).to_owned(), address.parse().unwrap()))
                .collect(),
            forward_proxy: "127.1.0.1:15001".parse().unwrap(),
            admin: format!("http://{name}:15020"),
        }
    }

    fn ready() -> Stage {
        let mut stage = Stage::new(Folder::create().unwrap()).unwrap();
        let outbound = [
            ("storefront.shop.svc.cluster.local:80", "127.1.0.12:20005"),
            (
                "order-service.shop.svc.cluster.local:80",
                "127.1.0.12:20002",
            ),
            (
                "product-service.shop.svc.cluster.local:80",
                "127.1.0.12:20004",
            ),
        ];
        let workloads = vec![
            workload("loadgen", "loadgen", &[], &outbound),
            workload("inventory-2", "inventory", &["127.1.0.7:9007"], &[]),
            workload("payments-v2", "payments", &["127.1.0.5:9005"], &[]),
            workload("order-v2", "order-service", &["127.1.0.3:9003"], &[]),
        ];
        stage.hear(AT, &Event::Ready { workloads });
        stage
    }

    #[test]
    fn a_ready_mesh_says_where_load_goes_and_metrics_come_from() {
        let stage = ready();
        let ports = stage.targets().unwrap().0.map(|address| address.port());
        assert_eq!(ports, [20_005, 20_002, 20_004]);
        let sources = stage.sources();
        let victim = &sources[1];
        assert_eq!(
            (
                victim.workload.as_str(),
                victim.service.as_str(),
                victim.admin.as_str()
            ),
            ("inventory-2", "inventory", "http://inventory-2:15020")
        );
    }

    #[test]
    fn a_mesh_without_the_generator_is_refused() {
        let mut stage = ready();
        let listeners = std::mem::take(&mut stage.workloads[0].outbound);
        assert_eq!(
            stage.targets().unwrap_err(),
            StageError::NoListener("storefront")
        );
        stage.workloads[0].outbound = listeners;
        stage.workloads.remove(0);
        assert_eq!(stage.targets().unwrap_err(), StageError::NoLoadgen);
    }

    #[test]
    fn keys_act_on_the_chosen_canary() {
        let mut stage = ready();
        let fault = |port: u16, fault| {
            Some(Errand::Fault {
                application: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
                fault,
            })
        };
        assert_eq!(stage.act(AT, Action::Shift(10)), None);
        assert_eq!(stage.folder.weight("payments").unwrap(), 20);
        assert_eq!(stage.canaries[0].weight, 20);
        assert_eq!(
            stage.act(AT, Action::Fault(Fault::Hang)),
            fault(9005, Fault::Hang)
        );
        assert_eq!(stage.act(AT, Action::Next), None);
        assert_eq!(
            stage.act(AT, Action::Fault(Fault::Fail)),
            fault(9003, Fault::Fail)
        );
        assert_eq!(stage.act(AT, Action::Shift(-10)), None);
        assert_eq!(stage.folder.weight("order-service").unwrap(), 0);
        assert_eq!(stage.folder.weight("payments").unwrap(), 20);
        stage.act(AT, Action::Next);
        assert_eq!(
            stage.act(AT, Action::Fault(Fault::Fail)),
            None,
            "it does not run"
        );
        stage.act(AT, Action::Next);
        assert_eq!(stage.chosen, 0);
        assert_eq!(stage.act(AT, Action::Quit), Some(Errand::Quit));
    }

    #[test]
    fn the_victim_is_killed_and_started_by_name_and_its_sidecar_by_process() {
        let mut stage = ready();
        let victim: WorkloadName = "shop/inventory-2".parse().unwrap();
        let kill = stage.act(AT, Action::Kill);
        assert_eq!(kill, Some(Errand::Kill(victim.clone())));
        let restart = stage.act(AT, Action::Restart);
        assert_eq!(restart, Some(Errand::Restart(victim)));
        assert_eq!(stage.act(AT, Action::KillSidecar), None, "not started yet");
        for (workload, role, pid) in [
            ("shop/inventory-2", Role::Sidecar, 7),
            ("shop/inventory-2", Role::Application, 8),
            ("shop/inventory-1", Role::Sidecar, 9),
        ] {
            let workload = workload.to_owned();
            let started = Event::ChildStart {
                workload,
                role,
                pid,
            };
            stage.hear(AT, &started);
        }
        assert_eq!(stage.act(AT, Action::KillSidecar), Some(Errand::Signal(7)));
        let ended = Event::ChildExit {
            workload: "shop/inventory-2".to_owned(),
            role: Role::Sidecar,
            status: "signal: 9 (SIGKILL)".to_owned(),
            expected: false,
            restart_in_ms: Some(100),
            hint: None,
        };
        stage.hear(AT, &ended);
        assert_eq!(stage.act(AT, Action::KillSidecar), None, "it is down");
        let runs = |stage: &Stage| stage.sources()[1].runs;
        assert!(runs(&stage), "of its application nothing was heard");
        let ended = Event::ChildExit {
            workload: "shop/inventory-2".to_owned(),
            role: Role::Application,
            status: "signal: 9 (SIGKILL)".to_owned(),
            expected: true,
            restart_in_ms: None,
            hint: None,
        };
        stage.hear(AT, &ended);
        assert!(!runs(&stage));
        let started = Event::ChildStart {
            workload: "shop/inventory-2".to_owned(),
            role: Role::Application,
            pid: 10,
        };
        stage.hear(AT, &started);
        assert!(runs(&stage));
    }

    #[test]
    fn the_last_change_of_the_configuration_is_kept_apart() {
        let mut stage = ready();
        let config = Event::Config {
            object: "VirtualService/shop/payments".to_owned(),
            change: crate::up::event::ObjectChange::Changed,
            fields: vec!["spec.http[0].route[1].weight 10 → 20".to_owned()],
            sidecars: 2,
            of: 2,
        };
        stage.hear(AT, &config);
        let (at, text) = stage.news.config.clone().unwrap();
        assert_eq!(at, AT);
        assert!(
            text.starts_with("VirtualService/shop/payments changed"),
            "{text}"
        );
    }
}
