//! The process group of a child: itself, and what it started and did not set apart.
//!
//! The kernel gives the group's ID to nobody else while one of them lives. What is left of it is
//! killed when the value is dropped.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal};
use tokio::time::{Instant, sleep};

/// Between two looks at a group, whose end nobody announces.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);

/// See the module.
pub(super) struct Group(Option<Pid>);

impl Group {
    pub(super) fn of(pid: u32) -> Self {
        Self(i32::try_from(pid).ok().and_then(Pid::from_raw))
    }

    pub(super) fn signal(&self, signal: Signal) {
        if let Some(group) = self.0 {
            // An error says that all have ended.
            rustix::process::kill_process_group(group, signal).ok();
        }
    }

    /// What is left after the child: SIGTERM, patience, SIGKILL.
    pub(super) async fn end(&mut self, patience: Duration) {
        let deadline = Instant::now() + patience;
        if self.is_alive() {
            self.signal(Signal::TERM);
        }
        while self.is_alive() && Instant::now() < deadline {
            sleep(LOOK_EVERY).await;
        }
        if self.is_alive() {
            self.signal(Signal::KILL);
        }
        self.0 = None;
    }

    fn is_alive(&self) -> bool {
        let Some(group) = self.0 else { return false };
        rustix::process::test_kill_process_group(group).is_ok() && !members(group).is_empty()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
    }
}

/// The processes of a group that live: where nobody collects the dead, they stay in it.
pub(super) fn members(group: Pid) -> Vec<i32> {
    let group = group.as_raw_nonzero().to_string();
    let processes = fs::read_dir("/proc").into_iter().flatten().flatten();
    let member = |entry: fs::DirEntry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
        // `pid (name) state parent group …`; a name may hold anything.
        let mut fields = stat.rsplit(')').next()?.split_whitespace();
        let is_dead = matches!(fields.next()?, "Z" | "X");
        (!is_dead && fields.nth(1)? == group).then_some(pid)
    };
    processes.filter_map(member).collect()
}
