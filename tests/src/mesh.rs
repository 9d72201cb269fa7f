//! `outrigger up` as a child process, from manifests to its `ready` event.
//!
//! The mesh ends when the value is dropped: SIGTERM, a drain, and the process's end is waited for.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{Receiver, RecvTimeoutError, sync_channel},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, bail};
use serde::Deserialize;

/// How long a mesh may take to be ready on a busy machine.
const READY_MAX: Duration = Duration::from_secs(60);
/// Lines of the report waiting to be read.
const EVENTS_MAX: usize = 4096;

/// A running mesh.
#[derive(Debug)]
pub struct Mesh {
    up: Child,
    events: Receiver<serde_json::Value>,
    seen: Vec<serde_json::Value>,
    /// By name, as the `ready` event listed them.
    pub workloads: BTreeMap<String, Workload>,
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

impl Mesh {
    /// Runs `binary up FOLDER` with further arguments and waits for it to be ready.
    ///
    /// # Errors
    /// When it does not start, ends, or is not ready within a minute.
    pub fn start(binary: &Path, folder: &Path, arguments: &[&str]) -> anyhow::Result<Self> {
        let mut up = Command::new(binary)
            .arg("up")
            .arg(folder)
            .args(["--report", "json"])
            .args(arguments)
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot run {}", binary.display()))?;
        let stdout = up.stdout.take().context("stdout is piped")?;
        let (send, events) = sync_channel(EVENTS_MAX);
        thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                let event = serde_json::from_str(&line)
                    .unwrap_or_else(|_| serde_json::json!({"event": "unparsable", "line": line}));
                if send.send(event).is_err() {
                    return;
                }
            }
        });
        let mut mesh = Self {
            up,
            events,
            seen: Vec::new(),
            workloads: BTreeMap::new(),
        };
        let ready = mesh.wait_for(READY_MAX, |event| event["event"] == "ready")?;
        let workloads: Vec<Workload> = serde_json::from_value(ready["workloads"].clone())
            .context("the ready event lists its workloads")?;
        mesh.workloads = workloads
            .into_iter()
            .map(|one| (one.name.clone(), one))
            .collect();
        Ok(mesh)
    }

    /// The next event that `wanted` accepts, within `patience`.
    ///
    /// # Errors
    /// When it does not come.
    pub fn wait_for(
        &mut self,
        patience: Duration,
        wanted: impl Fn(&serde_json::Value) -> bool,
    ) -> anyhow::Result<serde_json::Value> {
        let deadline = Instant::now() + patience;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            match self.events.recv_timeout(left) {
                Ok(event) => {
                    self.seen.push(event.clone());
                    if wanted(&event) {
                        return Ok(event);
                    }
                }
                Err(RecvTimeoutError::Timeout) => bail!("no such event within {patience:?}"),
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the mesh ended: {:?}", self.up.wait()?)
                }
            }
        }
    }

    /// Every event that was read so far, in order.
    #[must_use]
    pub fn seen(&self) -> &[serde_json::Value] {
        &self.seen
    }

    /// Ends it, reads what it still reports, and returns every event with its exit status.
    ///
    /// # Errors
    /// When it cannot be told or waited for.
    pub fn end(mut self) -> anyhow::Result<(Vec<serde_json::Value>, ExitStatus)> {
        self.terminate().context("cannot run kill")?;
        let mut events = std::mem::take(&mut self.seen);
        events.extend(self.events.iter());
        Ok((events, self.up.wait()?))
    }

    fn terminate(&self) -> std::io::Result<ExitStatus> {
        let pid = self.up.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status()
    }

    /// The workload of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn workload(&self, name: &str) -> anyhow::Result<&Workload> {
        self.workloads
            .get(name)
            .with_context(|| format!("no workload {name}"))
    }

    /// Process id of `outrigger up`.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.up.id()
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        if matches!(self.up.try_wait(), Ok(Some(_))) {
            return;
        }
        if self.terminate().is_err() || self.up.wait().is_err() {
            // Nothing more to do for a process that is not ours any more.
            drop(self.up.kill());
        }
    }
}

/// A port that was free a moment ago, for programs that take a number and not a socket.
///
/// # Errors
/// When the machine has none.
pub fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}
