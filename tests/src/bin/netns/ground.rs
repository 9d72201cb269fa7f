//! Network namespaces: a node with a bridge, and pods on it.
//!
//! ```text
//! node 10.77.0.1, fd00:77::1, bridge ─┬─ client  10.77.0.2, fd00:77::2
//!                                     ├─ web     10.77.0.3, fd00:77::3
//!                                     └─ outside 10.77.0.4, fd00:77::4
//! ```

use std::{
    fs::File,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, ensure};

/// A namespace, deleted when dropped.
#[derive(Debug)]
pub(crate) struct Namespace {
    name: String,
    /// Its number on the bridge.
    number: u8,
}

/// The node and the bridge; pods hang on it.
#[derive(Debug)]
pub(crate) struct Ground {
    pub(crate) node: Namespace,
    pub(crate) client: Namespace,
    pub(crate) web: Namespace,
    pub(crate) outside: Namespace,
}

impl Ground {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let ground = Self {
            node: Namespace::new("node", 1)?,
            client: Namespace::new("client", 2)?,
            web: Namespace::new("web", 3)?,
            outside: Namespace::new("outside", 4)?,
        };
        let node = &ground.node;
        node.ip("link add bridge0 type bridge")?;
        // No duplicate address detection: addresses are usable at once.
        node.ip("link set bridge0 addrgenmode none")?;
        node.ip("link set bridge0 up")?;
        node.ip("addr add 10.77.0.1/24 dev bridge0")?;
        node.ip("addr add fd00:77::1/64 dev bridge0 nodad")?;
        for pod in [&ground.client, &ground.web, &ground.outside] {
            let (name, number) = (&pod.name, pod.number);
            node.ip(&format!(
                "link add pod{number} type veth peer name eth0 netns {name}"
            ))?;
            node.ip(&format!("link set pod{number} master bridge0 up"))?;
            pod.ip("link set eth0 up")?;
            pod.ip(&format!("addr add 10.77.0.{number}/24 dev eth0"))?;
            pod.ip(&format!("addr add fd00:77::{number}/64 dev eth0 nodad"))?;
            pod.ip("route add default via 10.77.0.1")?;
            pod.ip("-6 route add default via fd00:77::1")?;
        }
        Ok(ground)
    }
}

impl Namespace {
    fn new(role: &str, number: u8) -> anyhow::Result<Self> {
        let name = format!("outrigger-{}-{role}", std::process::id());
        ip(&["netns", "add", &name])?;
        let made = Self { name, number };
        made.ip("link set lo up")?;
        Ok(made)
    }

    pub(crate) fn v4(&self) -> IpAddr {
        Ipv4Addr::new(10, 77, 0, self.number).into()
    }

    pub(crate) fn v6(&self) -> IpAddr {
        Ipv6Addr::new(0xfd00, 0x77, 0, 0, 0, 0, 0, self.number.into()).into()
    }

    fn ip(&self, arguments: &str) -> anyhow::Result<()> {
        let mut words = vec!["-n", &self.name];
        words.extend(arguments.split_whitespace());
        ip(&words)
    }

    /// A command in the namespace; `user` is user and group, root without.
    pub(crate) fn command(&self, user: Option<u32>, program: &Path) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name]);
        if let Some(user) = user {
            command.arg("setpriv");
            command.arg(format!("--reuid={user}"));
            command.arg(format!("--regid={user}"));
            command.arg("--clear-groups");
        }
        command.arg(program);
        command
    }

    /// What a command printed, its errors behind; with whether it succeeded.
    pub(crate) fn output(
        &self,
        user: Option<u32>,
        program: &Path,
        arguments: &[&str],
    ) -> anyhow::Result<(Option<i32>, String)> {
        let output = self.command(user, program).args(arguments).output()?;
        let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.push_str(&String::from_utf8_lossy(&output.stderr));
        Ok((output.status.code(), text))
    }

    pub(crate) fn spawn(
        &self,
        user: Option<u32>,
        program: &Path,
        arguments: &[&Path],
        log: File,
    ) -> anyhow::Result<Process> {
        let mut command = self.command(user, program);
        let error_log = log.try_clone()?;
        let command = command.args(arguments).stdin(Stdio::null());
        let child = command.stdout(log).stderr(error_log).spawn()?;
        Ok(Process(child))
    }

    /// Runs `work` on a thread of its own that is in the namespace, and waits for it.
    pub(crate) fn run<T: Send>(
        &self,
        work: impl FnOnce() -> anyhow::Result<T> + Send,
    ) -> anyhow::Result<T> {
        thread::scope(|scope| {
            let running = scope.spawn(|| {
                self.enter()?;
                work()
            });
            running
                .join()
                .map_err(|_| anyhow::anyhow!("panicked in {}", self.name))?
        })
    }

    /// Moves the calling thread into the namespace, for good.
    pub(crate) fn enter(&self) -> anyhow::Result<()> {
        enter(&self.path())
    }

    pub(crate) fn path(&self) -> PathBuf {
        Path::new("/var/run/netns").join(&self.name)
    }
}

/// Moves the calling thread into the namespace at `path`, for good.
pub(crate) fn enter(path: &Path) -> anyhow::Result<()> {
    let file = File::open(path).with_context(|| format!("no {}", path.display()))?;
    let kind = Some(rustix::thread::LinkNameSpaceType::Network);
    rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)
        .with_context(|| format!("cannot enter {}", path.display()))
}

impl Drop for Namespace {
    #[expect(clippy::print_stderr, reason = "a person has to clean up")]
    fn drop(&mut self) {
        if let Err(error) = ip(&["netns", "delete", &self.name]) {
            eprintln!("left behind: {error:#}");
        }
    }
}

/// A child that is killed when dropped.
#[derive(Debug)]
pub(crate) struct Process(Child);

impl Process {
    pub(crate) fn kill(&mut self) -> anyhow::Result<()> {
        self.0.kill()?;
        self.0.wait()?;
        Ok(())
    }

    pub(crate) fn is_running(&mut self) -> anyhow::Result<bool> {
        Ok(self.0.try_wait()?.is_none())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("ip").args(arguments).output();
    let output = output.context("no `ip`: install iproute2")?;
    ensure!(
        output.status.success(),
        "ip {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
