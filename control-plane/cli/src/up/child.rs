//! One supervised process: started, watched, started again when it dies, and ended in order.
//!
//! A child runs in a process group of its own, so that Ctrl-C in a terminal reaches `up` alone,
//! which ends its children in order: SIGTERM and SIGKILL go to the whole group, so that what a child
//! started ends with it, also when the child itself died. Should `up` itself be killed, the kernel
//! sends its children SIGTERM: see [`crate::launch`].
//!
//! Backoff: 100 ms, doubling up to 10 s, from the start again once a child lived for 10 s.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs, io,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    os::fd::AsFd,
    path::PathBuf,
    process::{ExitStatus, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal};
use tokio::{
    process::{Child, Command},
    sync::mpsc,
    time::{Instant, sleep, timeout, timeout_at},
};

mod group;

use super::{
    event::{Event, Role},
    ready,
};
use group::Group;

const BACKOFF_FIRST: Duration = Duration::from_millis(100);
const BACKOFF_MAX: Duration = Duration::from_secs(10);
/// Orders that wait: there is one at a time, from the workload's task.
const ORDERS_MAX: usize = 8;
/// After SIGKILL the kernel ends a process at once; longer than this it hangs in the kernel.
const KILL_WAIT: Duration = Duration::from_secs(5);
/// From SIGTERM to SIGKILL for what a dead child left behind.
const ORPHANS_WAIT: Duration = Duration::from_secs(1);

/// What to run.
#[derive(Debug, Clone)]
pub(super) struct ChildSpec {
    /// `namespace/name`, for reports.
    pub(super) workload: String,
    pub(super) role: Role,
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) environment: BTreeMap<String, String>,
    pub(super) output: Output,
    /// From SIGTERM to SIGKILL.
    pub(super) patience: Duration,
    /// Answers `/live` once the child takes SIGHUP; none for one that never gets it.
    pub(super) admin: Option<SocketAddr>,
    /// Ports that it listens on, of 127.0.0.1.
    pub(super) ports: Vec<u16>,
}

/// Where a child's stdout and stderr go. Never to stdout, which belongs to the report.
#[derive(Debug, Clone)]
pub(crate) enum Output {
    /// To stderr.
    Stderr,
    /// Appended to a file.
    File(PathBuf),
}

#[derive(Debug, PartialEq, Eq)]
enum Order {
    /// Run, if it does not.
    Start,
    /// End, and stay ended.
    Stop,
    /// Send SIGHUP, once it takes it.
    Reload,
    /// Start with these variables from the next time on.
    Environment(BTreeMap<String, String>),
    /// Send SIGKILL: it is then started again like any that dies.
    Kill,
}

/// How the workload's task steers its child. Dropping it ends the child.
#[derive(Debug)]
pub(super) struct Handle(mpsc::Sender<Order>);

impl Handle {
    pub(super) async fn start(&self) {
        self.send(Order::Start).await;
    }

    pub(super) async fn stop(&self) {
        self.send(Order::Stop).await;
    }

    pub(super) async fn reload(&self) {
        self.send(Order::Reload).await;
    }

    pub(super) async fn environment(&self, environment: BTreeMap<String, String>) {
        self.send(Order::Environment(environment)).await;
    }

    pub(super) async fn kill(&self) {
        self.send(Order::Kill).await;
    }

    async fn send(&self, order: Order) {
        // An error says that the supervisor has ended, and the child with it.
        self.0.send(order).await.ok();
    }
}

/// A supervisor for a child that is not started yet: poll the future until it ends, which it does
/// when the handle is dropped and the child has ended.
pub(super) fn supervise(
    spec: ChildSpec,
    events: mpsc::Sender<Event>,
) -> (Handle, impl Future<Output = ()> + Send) {
    let (orders, incoming) = mpsc::channel(ORDERS_MAX);
    let supervisor = Supervisor {
        spec,
        events,
        orders: incoming,
        backoff: BACKOFF_FIRST,
    };
    (Handle(orders), supervisor.run())
}

struct Supervisor {
    spec: ChildSpec,
    events: mpsc::Sender<Event>,
    orders: mpsc::Receiver<Order>,
    backoff: Duration,
}

/// What comes after a child's end.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    /// Start it, after this time.
    Again(Duration),
    /// Wait for an order.
    Rest,
    /// Nobody gives orders any more.
    End,
}

impl Supervisor {
    async fn run(mut self) {
        let mut next = Next::Rest;
        loop {
            next = match next {
                Next::End => return,
                Next::Rest => match self.orders.recv().await {
                    Some(Order::Start) => Next::Again(Duration::ZERO),
                    Some(Order::Environment(environment)) => {
                        self.spec.environment = environment;
                        Next::Rest
                    }
                    Some(Order::Stop | Order::Reload | Order::Kill) => Next::Rest,
                    None => Next::End,
                },
                Next::Again(wait) => {
                    let due = Instant::now() + wait;
                    tokio::select! {
                        () = sleep(wait) => self.live().await,
                        order = self.orders.recv() => match order {
                            Some(Order::Start) => Next::Again(Duration::ZERO),
                            Some(Order::Environment(environment)) => {
                                self.spec.environment = environment;
                                Next::Again(due.saturating_duration_since(Instant::now()))
                            }
                            Some(Order::Reload | Order::Kill) => Next::Again(wait),
                            Some(Order::Stop) => Next::Rest,
                            None => Next::End,
                        },
                    }
                }
            };
        }
    }

    /// One life of the child.
    async fn live(&mut self) -> Next {
        let started = Instant::now();
        let mut child = match self.spawn() {
            Ok(child) => child,
            Err(error) => return self.died(&format!("cannot start: {error}"), started).await,
        };
        let Some(pid) = child.id() else {
            return self.died("ended at once", started).await;
        };
        // Declared after the child: dropped before it is collected, so that the ID is still its own.
        let mut group = Group::of(pid);
        self.tell(Event::ChildStart {
            workload: self.spec.workload.clone(),
            role: self.spec.role,
            pid,
        })
        .await;
        // A child that has just started reads the newest files, but it may have begun to before.
        let mut is_reload_due = false;
        loop {
            let reloadable = self.spec.admin.filter(|_| is_reload_due);
            tokio::select! {
                status = child.wait() => {
                    group.end(ORPHANS_WAIT).await;
                    return self.died(&describe(&status), started).await;
                }
                () = live(reloadable) => {
                    is_reload_due = false;
                    signal(pid, Signal::HUP);
                }
                order = self.orders.recv() => match order {
                    Some(Order::Start) => {}
                    Some(Order::Reload) => is_reload_due = true,
                    Some(Order::Environment(environment)) => self.spec.environment = environment,
                    Some(Order::Kill) => group.signal(Signal::KILL),
                    Some(Order::Stop) => {
                        self.end(&mut child, &mut group).await;
                        return Next::Rest;
                    }
                    None => {
                        self.end(&mut child, &mut group).await;
                        return Next::End;
                    }
                },
            }
        }
    }

    fn spawn(&self) -> io::Result<Child> {
        let output = || -> io::Result<Stdio> {
            Ok(match &self.spec.output {
                Output::Stderr => io::stderr().as_fd().try_clone_to_owned()?.into(),
                Output::File(path) => fs::OpenOptions::new()
                    .create(true)
                    .append(true)
                    .open(path)?
                    .into(),
            })
        };
        Command::new(&self.spec.program)
            .args(&self.spec.arguments)
            .envs(&self.spec.environment)
            .stdin(Stdio::null())
            .stdout(output()?)
            .stderr(output()?)
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
    }

    /// It ended by itself.
    async fn died(&mut self, status: &str, started: Instant) -> Next {
        if started.elapsed() >= BACKOFF_MAX {
            self.backoff = BACKOFF_FIRST;
        }
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF_MAX);
        let is_short = started.elapsed() < BACKOFF_MAX;
        self.tell(Event::ChildExit {
            workload: self.spec.workload.clone(),
            role: self.spec.role,
            status: status.to_owned(),
            expected: false,
            restart_in_ms: Some(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX)),
            hint: is_short.then(|| hint(&self.spec.ports)).flatten(),
        })
        .await;
        Next::Again(wait)
    }

    /// SIGTERM, patience, SIGKILL.
    async fn end(&mut self, child: &mut Child, group: &mut Group) {
        let deadline = Instant::now() + self.spec.patience;
        group.signal(Signal::TERM);
        let status = match timeout_at(deadline, child.wait()).await {
            Ok(status) => status,
            Err(_) => {
                group.signal(Signal::KILL);
                match timeout(KILL_WAIT, child.wait()).await {
                    Ok(status) => status,
                    Err(_) => Err(io::ErrorKind::TimedOut.into()),
                }
            }
        };
        // The child has let them go: they have what is left of its time.
        group
            .end(deadline.saturating_duration_since(Instant::now()))
            .await;
        self.backoff = BACKOFF_FIRST;
        self.tell(Event::ChildExit {
            workload: self.spec.workload.clone(),
            role: self.spec.role,
            status: describe(&status),
            expected: true,
            restart_in_ms: None,
            hint: None,
        })
        .await;
    }

    async fn tell(&self, event: Event) {
        // An error says that nobody listens.
        self.events.send(event).await.ok();
    }
}

/// Why an application may have failed that died early: a port that is free on 127.0.0.1 and not on
/// every address at once is its sidecar's on its sidecar's address.
fn hint(ports: &[u16]) -> Option<String> {
    let is_free = |address: Ipv4Addr, port| TcpListener::bind((address, port)).is_ok();
    let is_shared = |port: &&u16| {
        !is_free(Ipv4Addr::UNSPECIFIED, **port) && is_free(Ipv4Addr::LOCALHOST, **port)
    };
    let port = ports.iter().find(is_shared)?;
    Some(format!(
        "if it listens on 0.0.0.0, have it listen on 127.0.0.1:{port}: the other addresses are for sidecars"
    ))
}

fn describe(status: &io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => status.to_string(),
        Err(error) => format!("unknown: {error}"),
    }
}

/// Until the child takes SIGHUP; for ever without an address. Cancel safe: yes, it only looks.
async fn live(admin: Option<SocketAddr>) {
    match admin {
        Some(admin) => ready::live(admin).await,
        None => std::future::pending().await,
    }
}

/// Signals a child that was not waited for yet, so that its ID is still its own.
fn signal(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw);
    if let Some(pid) = pid {
        // An error says that it has ended.
        rustix::process::kill_process(pid, signal).ok();
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::{
        group::{LOOK_EVERY, members},
        *,
    };

    const DEADLINE: Duration = Duration::from_secs(20);

    struct Bench {
        handle: Handle,
        events: mpsc::Receiver<Event>,
        tasks: JoinSet<()>,
    }

    fn bench(program: &str, arguments: &[&str], patience: Duration) -> Bench {
        let (tell, events) = mpsc::channel(64);
        let spec = ChildSpec {
            workload: "shop/a".to_owned(),
            role: Role::Application,
            program: program.into(),
            arguments: arguments.iter().map(OsString::from).collect(),
            environment: BTreeMap::new(),
            output: Output::Stderr,
            patience,
            admin: None,
            ports: Vec::new(),
        };
        let (handle, supervisor) = supervise(spec, tell);
        let mut tasks = JoinSet::new();
        tasks.spawn(supervisor);
        Bench {
            handle,
            events,
            tasks,
        }
    }

    /// Waits for what the file system or the processes will show.
    async fn until(what: &str, is: impl Fn() -> bool) {
        let seen = timeout(DEADLINE, async {
            while !is() {
                sleep(LOOK_EVERY).await;
            }
        });
        assert!(seen.await.is_ok(), "{what}: not in {DEADLINE:?}");
    }

    impl Bench {
        async fn event(&mut self) -> Event {
            timeout(DEADLINE, self.events.recv())
                .await
                .unwrap()
                .unwrap()
        }

        async fn started(&mut self) -> u32 {
            match self.event().await {
                Event::ChildStart { pid, .. } => pid,
                other => panic!("{other:?}"),
            }
        }

        async fn ended(&mut self) -> (String, bool, Option<u64>) {
            match self.event().await {
                Event::ChildExit {
                    status,
                    expected,
                    restart_in_ms,
                    ..
                } => (status, expected, restart_in_ms),
                other => panic!("{other:?}"),
            }
        }
    }

    #[tokio::test]
    async fn a_child_that_dies_is_started_again_ever_later() {
        let mut bench = bench("false", &[], DEADLINE);
        bench.handle.start().await;
        for expected in [100, 200, 400] {
            bench.started().await;
            let ended = bench.ended().await;
            assert_eq!(ended, ("exit status: 1".to_owned(), false, Some(expected)));
        }
        drop(bench.handle);
        timeout(DEADLINE, bench.tasks.join_all()).await.unwrap();
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_a_death() {
        let mut bench = bench("/nonexistent/program", &[], DEADLINE);
        bench.handle.start().await;
        let (status, expected, restart) = bench.ended().await;
        assert!(status.contains("cannot start"), "{status}");
        assert_eq!((expected, restart), (false, Some(100)));
    }

    #[tokio::test]
    async fn stop_is_terminate_and_start_runs_it_again() {
        let mut bench = bench("sleep", &["600"], DEADLINE);
        bench.handle.start().await;
        let first = bench.started().await;
        bench.handle.stop().await;
        let (status, expected, restart) = bench.ended().await;
        assert!(status.contains("SIGTERM"), "{status}");
        assert_eq!((expected, restart), (true, None));
        bench.handle.start().await;
        let second = bench.started().await;
        assert_ne!(first, second);
        bench.handle.kill().await;
        assert!(bench.ended().await.0.contains("SIGKILL"));
        let third = bench.started().await;
        drop(bench.handle);
        timeout(DEADLINE, bench.tasks.join_all()).await.unwrap();
        let gone = rustix::process::test_kill_process(Pid::from_raw(third.cast_signed()).unwrap());
        assert!(gone.is_err());
    }

    #[tokio::test]
    async fn who_ignores_terminate_is_killed() {
        let folder = tempfile::tempdir().unwrap();
        let trapped = folder.path().join("trapped");
        let script = "trap '' TERM; echo >\"$0\"; while :; do sleep 1 & wait $!; done";
        let arguments = ["-c", script, trapped.to_str().unwrap()];
        let mut bench = bench("sh", &arguments, Duration::from_millis(300));
        bench.handle.start().await;
        bench.started().await;
        until("its trap stands", || trapped.exists()).await;
        bench.handle.stop().await;
        let (status, expected, restart) = bench.ended().await;
        assert!(status.contains("SIGKILL"), "{status}");
        assert_eq!((expected, restart), (true, None));
    }

    /// A shell that starts two others, in the same group, and tells on its way when both run.
    const FAMILY: &str = "sleep 600 & sh -c 'trap \"\" TERM; sleep 600 & wait' & wait";

    async fn family(bench: &mut Bench) -> Pid {
        bench.handle.start().await;
        let group = Pid::from_raw(bench.started().await.cast_signed()).unwrap();
        until("all four run", || members(group).len() == 4).await;
        group
    }

    async fn gone(group: Pid) {
        until("none is left", || members(group).is_empty()).await;
    }

    #[tokio::test]
    async fn what_a_child_started_ends_with_it() {
        let mut bench = bench("sh", &["-c", FAMILY], Duration::from_millis(300));
        let group = family(&mut bench).await;
        bench.handle.stop().await;
        bench.ended().await;
        gone(group).await;

        // The child itself is killed: it is started again when the others are gone.
        let group = family(&mut bench).await;
        signal(group.as_raw_nonzero().get().cast_unsigned(), Signal::KILL);
        assert!(bench.ended().await.0.contains("SIGKILL"));
        gone(group).await;
        let next = Pid::from_raw(bench.started().await.cast_signed()).unwrap();

        // The supervisor is cut.
        drop(bench.tasks);
        gone(next).await;
    }

    #[tokio::test]
    async fn a_changed_environment_holds_from_the_next_start_on() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("color");
        let script = "echo \"<$COLOR>\" >\"$0\"; exec sleep 600";
        let arguments = ["-c", script, path.to_str().unwrap()];
        let bench = bench("sh", &arguments, DEADLINE);
        let written = |expected| {
            let path = &path;
            until("it is written", move || {
                fs::read_to_string(path).is_ok_and(|text| text == expected)
            })
        };
        bench.handle.start().await;
        written("<>\n").await;
        let environment = [("COLOR".to_owned(), "blue".to_owned())].into();
        bench.handle.environment(environment).await;
        bench.handle.kill().await;
        written("<blue>\n").await;
    }

    #[test]
    fn a_port_that_the_sidecar_has_on_its_own_address_is_hinted_at() {
        let sidecar = std::net::TcpListener::bind("127.1.0.1:0").unwrap();
        let port = sidecar.local_addr().unwrap().port();
        assert!(
            hint(&[port])
                .unwrap()
                .contains(&format!("127.0.0.1:{port}"))
        );
        drop(sidecar);
        assert_eq!(hint(&[port]), None);
        assert_eq!(hint(&[]), None);
    }
}
