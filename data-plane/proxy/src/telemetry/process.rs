//! What the kernel tells of this process: read from `/proc/self` when the page is asked for.

use std::fs;

/// `USER_HZ`: the unit of times in `/proc`, 100 in the kernel's interface on every platform that
/// this proxy runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// Numbers of one moment; what cannot be read is left out.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Process {
    pub(super) cpu_seconds: Option<f64>,
    pub(super) resident_bytes: Option<u64>,
    pub(super) open_fds: Option<u64>,
    pub(super) start_seconds: Option<f64>,
}

impl Process {
    pub(super) fn read() -> Self {
        let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
        let boot = fs::read_to_string("/proc/stat").unwrap_or_default();
        let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
        let fds = fs::read_dir("/proc/self/fd").map(Iterator::count);
        Self {
            // The directory itself is open while it is counted.
            open_fds: fds
                .ok()
                .and_then(|count| u64::try_from(count.saturating_sub(1)).ok()),
            ..Self::parse(&stat, &boot, &status)
        }
    }

    /// proc(5): the fields of `stat` after the command name, which may hold anything, are split
    /// at spaces; `utime` and `stime` are the 14th and 15th field of the line, `starttime` is the
    /// 22nd.
    fn parse(stat: &str, boot: &str, status: &str) -> Self {
        let fields = stat.rsplit_once(") ").map_or("", |(_, fields)| fields);
        let ticks = |index: usize| fields.split(' ').nth(index)?.parse::<f64>().ok();
        let line = |text: &str, name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            rest.split_whitespace().next()?.parse::<u64>().ok()
        };
        let boot = boot
            .lines()
            .find_map(|line| line.strip_prefix("btime "))
            .and_then(|seconds| seconds.trim().parse::<f64>().ok());
        Self {
            cpu_seconds: ticks(11)
                .zip(ticks(12))
                .map(|(user, system)| (user + system) / TICKS_PER_SECOND),
            resident_bytes: line(status, "VmRSS:").and_then(|kib| kib.checked_mul(1024)),
            open_fds: None,
            start_seconds: boot
                .zip(ticks(19))
                .map(|(boot, start)| boot + start / TICKS_PER_SECOND),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_writes() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 99 0 0 0 250 50 0 0 20 0 3 0 1000 1 1";
        let read = Process::parse(
            stat,
            "cpu 1\nbtime 1700000000\n",
            "Name:\ta\nVmRSS:\t  2048 kB\n",
        );
        assert_eq!(read.cpu_seconds, Some(3.0));
        assert_eq!(read.resident_bytes, Some(2_097_152));
        assert_eq!(read.start_seconds, Some(1_700_000_010.0));
        assert_eq!(Process::parse("", "", ""), Process::default());
        let own = Process::read();
        assert!(own.resident_bytes > Some(100_000), "{own:?}");
        assert!(own.open_fds > Some(2), "{own:?}");
    }
}
