//! A running `outrigger up` and what it reports.

use std::{
    fs,
    io::{BufRead, BufReader},
    net::{Ipv4Addr, TcpListener},
    process::{Child, Command, ExitStatus, Output, Stdio},
    sync::{
        atomic::{AtomicU8, Ordering},
        mpsc,
    },
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal};
use serde_json::Value;
use tempfile::TempDir;

/// Nothing takes longer than a fraction of this on an idle machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(60);

/// An address of this test's own: by the process, and within it by the caller.
pub(crate) fn address() -> Ipv4Addr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    // 127.1.0.0/16 is where `up` gives addresses by itself.
    Ipv4Addr::new(127, high | 0x80, low, NEXT.fetch_add(1, Ordering::Relaxed))
}

/// A port of 127.0.0.1 that nobody has now.
pub(crate) fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// A folder of manifests with a folder for state beside it.
pub(crate) struct Folder(TempDir);

impl Folder {
    pub(crate) fn new() -> Self {
        let folder = Self(tempfile::tempdir().unwrap());
        fs::create_dir(folder.0.path().join("mesh")).unwrap();
        folder
    }

    pub(crate) fn write(&self, name: &str, text: &str) -> &Self {
        // As careful editors do.
        let path = self.0.path().join("mesh").join(name);
        let beside = path.with_extension("new");
        fs::write(&beside, text).unwrap();
        fs::rename(beside, path).unwrap();
        self
    }

    pub(crate) fn remove(&self, name: &str) {
        fs::remove_file(self.0.path().join("mesh").join(name)).unwrap();
    }

    pub(crate) fn state(&self) -> std::path::PathBuf {
        self.0.path().join("state")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outrigger"));
        command
            .arg("up")
            .arg(self.0.path().join("mesh"))
            .arg("--state-dir")
            .arg(self.state())
            .args(arguments);
        command
    }

    /// Runs `outrigger up` on it to its end.
    pub(crate) fn run(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    /// Starts `outrigger up` on it.
    pub(crate) fn up(&self, arguments: &[&str]) -> Up {
        let mut child = self
            .command(arguments)
            .args(["--report", "json", "--drain-time", "2s"])
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (tell, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if tell.send(line).is_err() {
                    return;
                }
            }
        });
        Up {
            child,
            lines,
            pids: Vec::new(),
        }
    }
}

/// A running mesh; ended when dropped.
pub(crate) struct Up {
    child: Child,
    lines: mpsc::Receiver<String>,
    /// Every process it started.
    pub(crate) pids: Vec<i32>,
}

impl Up {
    /// The next event, in order.
    pub(crate) fn event(&mut self) -> Option<Value> {
        let line = match self.lines.recv_timeout(DEADLINE) {
            Ok(line) => line,
            Err(mpsc::RecvTimeoutError::Disconnected) => return None,
            Err(mpsc::RecvTimeoutError::Timeout) => panic!("no event in {DEADLINE:?}"),
        };
        eprintln!("{line}");
        let event: Value = serde_json::from_str(&line).unwrap();
        if event["event"] == "child_start" {
            let pid = event["pid"].as_i64().unwrap();
            self.pids.push(i32::try_from(pid).unwrap());
        }
        Some(event)
    }

    /// The next event of this name; those before it are passed over.
    pub(crate) fn until(&mut self, name: &str) -> Value {
        self.until_that(|event| event["event"] == name)
    }

    pub(crate) fn until_that(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        while Instant::now() < deadline {
            let event = self.event().expect("it ended before");
            if wanted(&event) {
                return event;
            }
        }
        panic!("no such event in {DEADLINE:?}");
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        rustix::process::kill_process(pid, signal).unwrap();
    }

    /// Its exit status, and that nothing it started is left.
    pub(crate) fn ended(mut self) -> ExitStatus {
        let mut last = Value::Null;
        while let Some(event) = self.event() {
            last = event;
        }
        let status = self.child.wait().unwrap();
        assert_eq!(last["event"], "stopped");
        for pid in &self.pids {
            assert!(is_gone(*pid), "process {pid} is left");
        }
        status
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // Its children end with it. An error says that it has ended.
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

/// Whether a process is no more, or only a zombie that its new parent did not collect yet.
pub(crate) fn is_gone(pid: i32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    }
}

/// Waits for something that the file system or a process will show.
pub(crate) fn eventually(what: &str, is: impl Fn() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !is() {
        assert!(Instant::now() < deadline, "{what}: not in {DEADLINE:?}");
        thread::park_timeout(Duration::from_millis(20));
    }
}
