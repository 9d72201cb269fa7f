//! `outrigger up` as a child process, from manifests to its end, by the events it reports.
//!
//! Events come in order, and each is read once; those that were passed over are in
//! [`Mesh::seen`]. Dropped, the mesh ends in good order.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::Instant,
};

use anyhow::{Context, bail, ensure};
use rustix::process::Signal;
use serde::Deserialize;
use serde_json::Value;

use crate::{Folder, PATIENCE, Program, is_gone};

/// Lines of the report waiting to be read.
const EVENTS_MAX: usize = 4096;
/// Events that a message about a missing one shows.
const EVENTS_SHOWN_MAX: usize = 10;

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    up: Program,
    lines: Receiver<String>,
    seen: Vec<Value>,
    workloads: BTreeMap<String, Workload>,
}

/// One workload of the `ready` event.
#[derive(Debug, Clone, Deserialize)]
pub struct Workload {
    /// Name of the WorkloadEntry.
    pub name: String,
    /// Its SPIFFE ID.
    pub identity: String,
    /// Where its sidecar takes traffic in.
    #[serde(default)]
    pub inbound: Vec<SocketAddr>,
    /// Where its sidecar takes traffic out, by `host:port` of the destination.
    #[serde(default)]
    pub outbound: BTreeMap<String, SocketAddr>,
    /// Where its sidecar takes absolute-form requests.
    pub forward_proxy: SocketAddr,
    /// Base of its admin address.
    pub admin: String,
}

impl Workload {
    /// Where its sidecar takes traffic for a service, named `host:port`.
    ///
    /// # Errors
    /// When it does not.
    pub fn outbound(&self, authority: &str) -> anyhow::Result<SocketAddr> {
        let found = self.outbound.get(authority).copied();
        found.with_context(|| format!("no listener for {authority}: {:?}", self.outbound))
    }
}

impl Mesh {
    /// Runs `binary up` on a folder, with further arguments, and waits for it to be ready.
    ///
    /// # Errors
    /// When it does not start, ends, or is not ready within [`PATIENCE`].
    pub fn start(binary: &Path, folder: &Folder, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut mesh = Self::launch(binary, folder, arguments)?;
        mesh.ready()?;
        Ok(mesh)
    }

    /// Runs `binary up` on a folder, with further arguments.
    ///
    /// # Errors
    /// When it does not start.
    pub fn launch(binary: &Path, folder: &Folder, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut command = folder.up(binary, arguments);
        command.args(["--report", "json", "--drain-time", "5s"]);
        let mut up = Program::spawn(command.stdout(Stdio::piped()))?;
        let stdout = up.stdout().context("stdout is piped")?;
        let (tell, lines) = sync_channel(EVENTS_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self {
            up,
            lines,
            seen: Vec::new(),
            workloads: BTreeMap::new(),
        })
    }

    /// Waits until it is ready, and knows its workloads from then on.
    ///
    /// # Errors
    /// When it ends, or is not ready within [`PATIENCE`].
    pub fn ready(&mut self) -> anyhow::Result<()> {
        let ready = self.until("ready")?;
        let workloads: Vec<Workload> = serde_json::from_value(ready["workloads"].clone())
            .context("the ready event lists its workloads")?;
        self.workloads = workloads
            .into_iter()
            .map(|one| (one.name.clone(), one))
            .collect();
        Ok(())
    }

    /// The next event.
    ///
    /// # Errors
    /// When none comes within [`PATIENCE`], the mesh ends, or a line is no event.
    pub fn event(&mut self) -> anyhow::Result<Value> {
        let next = self.next(Instant::now() + PATIENCE)?;
        next.with_context(|| self.without("it ended before another event"))
    }

    /// The next event of this name; those before it are passed over.
    ///
    /// # Errors
    /// When it does not come.
    pub fn until(&mut self, name: &str) -> anyhow::Result<Value> {
        let found = self.until_that(|event| event["event"] == name);
        found.with_context(|| format!("waiting for {name}"))
    }

    /// The next event that is `wanted`; those before it are passed over.
    ///
    /// # Errors
    /// When it does not come within [`PATIENCE`].
    pub fn until_that(&mut self, wanted: impl Fn(&Value) -> bool) -> anyhow::Result<Value> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            match self.next(deadline)? {
                Some(event) if wanted(&event) => return Ok(event),
                Some(_) => {}
                None => bail!(self.without("it ended before such an event")),
            }
        }
    }

    /// None: its report has ended.
    fn next(&mut self, deadline: Instant) -> anyhow::Result<Option<Value>> {
        let left = deadline.saturating_duration_since(Instant::now());
        let line = match self.lines.recv_timeout(left) {
            Ok(line) => line,
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) => {
                bail!(self.without(&format!("no such event in {PATIENCE:?}")))
            }
        };
        let event: Value =
            serde_json::from_str(&line).with_context(|| format!("no event: {line}"))?;
        self.seen.push(event.clone());
        Ok(Some(event))
    }

    /// What is wrong, with what was said before.
    fn without(&self, wrong: &str) -> String {
        let from = self.seen.len().saturating_sub(EVENTS_SHOWN_MAX);
        let last = self.seen.iter().skip(from).map(ToString::to_string);
        let last = last.collect::<Vec<_>>().join("\n");
        format!("{wrong}; before:\n{last}")
    }

    /// Every event that was read so far, in order.
    #[must_use]
    pub fn seen(&self) -> &[Value] {
        &self.seen
    }

    /// Every process that it said it started.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        let starts = self.seen.iter();
        let starts = starts.filter(|event| event["event"] == "child_start");
        let pids = starts.filter_map(|event| event["pid"].as_u64()?.try_into().ok());
        pids.collect()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        self.up.signal(signal)
    }

    /// Asks it to end; what [`Mesh::ended`] says.
    ///
    /// # Errors
    /// As there.
    pub fn end(self) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.ended()
    }

    /// Waits for its end: it says that it has stopped, and nothing that it started is left. Its
    /// exit status.
    ///
    /// # Errors
    /// When it does not end so within [`PATIENCE`].
    pub fn ended(mut self) -> anyhow::Result<ExitStatus> {
        let deadline = Instant::now() + PATIENCE;
        while self.next(deadline)?.is_some() {}
        let status = self.up.wait()?;
        let last = self.seen.last();
        ensure!(
            last.is_some_and(|event| event["event"] == "stopped"),
            self.without("it does not say that it stopped")
        );
        for pid in self.children() {
            ensure!(is_gone(pid), "process {pid} is left");
        }
        Ok(status)
    }

    /// The workload of this name, as the `ready` event listed it.
    ///
    /// # Errors
    /// When there is none.
    pub fn workload(&self, name: &str) -> anyhow::Result<&Workload> {
        let found = self.workloads.get(name);
        found.with_context(|| format!("no workload {name}"))
    }
}
