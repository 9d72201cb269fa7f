//! Processes of a test: one that it started itself, and others by their number.

use std::{
    fs,
    process::{Child, ChildStdout, Command, ExitStatus},
    time::Duration,
};

use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};

use crate::wait_until;

/// How long a program may take to end in good order.
const END_MAX: Duration = Duration::from_secs(60);

/// A program that runs. Dropped, it is asked to end (SIGTERM), waited for, and killed if it does
/// not heed that.
#[derive(Debug)]
pub struct Program(Child);

impl Program {
    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be run.
    pub fn spawn(command: &mut Command) -> anyhow::Result<Self> {
        let child = command.spawn();
        let child =
            child.with_context(|| format!("cannot run {}", command.get_program().display()))?;
        Ok(Self(child))
    }

    /// What it prints, once, when its command piped it.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    ///
    /// # Errors
    /// When it has ended and was waited for.
    pub fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        Ok(kill_process(Pid::from_child(&self.0), signal)?)
    }

    /// Waits for its end, however long that takes.
    ///
    /// # Errors
    /// When it cannot be waited for.
    pub fn wait(&mut self) -> anyhow::Result<ExitStatus> {
        Ok(self.0.wait()?)
    }

    /// Asks it to end and waits until it has.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn end(&mut self) -> anyhow::Result<()> {
        if self.0.try_wait()?.is_some() {
            return Ok(());
        }
        self.signal(Signal::TERM)?;
        wait_until("the program ends", END_MAX, || {
            Ok(self.0.try_wait()?.is_some())
        })
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if self.end().is_err() {
            // An error says that it has ended.
            self.0.kill().ok();
            self.0.wait().ok();
        }
    }
}

/// Sends a signal to a process that somebody else started.
///
/// # Errors
/// When there is none.
pub fn signal(pid: u32, signal: Signal) -> anyhow::Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("process 0 is nobody's")?;
    Ok(kill_process(pid, signal)?)
}

/// Whether a process is no more, or only waits for its new parent to collect it.
#[must_use]
pub fn is_gone(pid: u32) -> bool {
    match fs::read_to_string(format!("/proc/{pid}/stat")) {
        Ok(stat) => stat
            .rsplit(')')
            .next()
            .is_some_and(|rest| rest.starts_with(" Z")),
        Err(_) => true,
    }
}
