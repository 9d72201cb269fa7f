//! Becomes another program that does not outlive `up`.
//!
//! `up` starts its children through this: it asks the kernel for SIGTERM when the parent ends,
//! however it ends, and then turns into the program. The setting survives that (prctl(2),
//! `PR_SET_PDEATHSIG`), and no code runs between fork and exec.

use std::{ffi::OsString, os::unix::process::CommandExt, path::PathBuf, process::Command};

use anyhow::Context;
use rustix::process::{Pid, Signal};

/// The parent and the bootstrap file, if these are the arguments with which `up` starts a sidecar:
/// `proxy --parent PID FILE`. Read without the tables of the whole command line, which would stay
/// mapped in each sidecar for as long as it lives.
pub(crate) fn sidecar(mut arguments: impl Iterator<Item = OsString>) -> Option<(u32, PathBuf)> {
    let mut is = |word: &str| arguments.next().is_some_and(|next| next == word);
    if !(is("proxy") && is("--parent")) {
        return None;
    }
    let parent = arguments.next()?.to_str()?.parse().ok()?;
    let bootstrap = arguments.next()?;
    arguments
        .next()
        .is_none()
        .then(|| (parent, bootstrap.into()))
}

/// Ends with `parent`, from now on. If it has ended already, this process does so now.
///
/// # Errors
/// When the kernel refuses, or the parent is gone.
pub(crate) fn end_with(parent: u32) -> anyhow::Result<()> {
    rustix::process::set_parent_process_death_signal(Some(Signal::TERM))
        .context("cannot tie this process to its parent")?;
    let present = rustix::process::getppid().map(Pid::as_raw_nonzero);
    let present = present.and_then(|pid| u32::try_from(pid.get()).ok());
    anyhow::ensure!(
        present == Some(parent),
        "the process {parent} that started this one has ended"
    );
    Ok(())
}

/// Turns into `command`. Returns only if that fails.
///
/// # Errors
/// When there is no such program.
pub(crate) fn become_program(parent: u32, command: &[OsString]) -> anyhow::Result<()> {
    end_with(parent)?;
    let (program, arguments) = command.split_first().context("no command is given")?;
    let error = Command::new(program).args(arguments).exec();
    Err(error).with_context(|| format!("cannot start {}", program.to_string_lossy()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_sidecar_of_up_is_told_apart_from_the_command_line() {
        let check = |line: &str, expected: Option<(u32, &str)>| {
            let arguments = line.split(' ').map(OsString::from);
            let expected = expected.map(|(parent, file)| (parent, PathBuf::from(file)));
            assert_eq!(sidecar(arguments), expected, "{line}");
        };
        check("proxy --parent 7 a.json", Some((7, "a.json")));
        for other in [
            "",
            "proxy",
            "proxy a.json",
            "proxy --parent",
            "proxy --parent 7",
            "proxy --parent x a.json",
            "proxy --parent 7 a.json more",
            "up --parent 7 a.json",
        ] {
            check(other, None);
        }
    }
}
