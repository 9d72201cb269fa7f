//! How much memory the process may have, and has: its cgroup's word (version 2), and the kernel's
//! count of its own pages where the cgroup has no limit of its own or is shared.
//!
//! A cgroup's usage is believed only where this process is alone in it, as in a container: in one
//! that is shared (a login session, a container with a whole mesh) others fill it, and giving up
//! work here would not help. Then the process's own pages stand against that limit. Pages of files
//! that the kernel can drop at once do not count.

use std::{
    fs,
    path::{Path, PathBuf},
};

use outrigger_policy::overload::Memory;

/// From here on pages that can be dropped are looked up: below it they change nothing, and the
/// kernel has to add up counters of all processors for them.
const CACHE_MATTERS_AT: u32 = 80;

/// Reads the process's memory.
#[derive(Debug)]
pub(crate) struct Reader {
    /// `/proc/self`.
    process: PathBuf,
    /// `/sys/fs/cgroup`.
    cgroups: PathBuf,
    /// By the bootstrap file, in bytes.
    limit: Option<u64>,
}

impl Reader {
    /// A reader of this process. `limit`: a limit beside that of the cgroup, in bytes.
    pub(crate) fn of_this_process(limit: Option<u64>) -> Self {
        Self {
            process: "/proc/self".into(),
            cgroups: "/sys/fs/cgroup".into(),
            limit,
        }
    }

    /// The present numbers, against whichever limit is nearer; `None` without any limit.
    pub(crate) fn read(&self) -> Option<Memory> {
        let own = || resident(&self.process);
        let configured = self.limit.and_then(|limit| {
            Some(Memory {
                used: own()?,
                limit,
            })
        });
        let cgroup = self.limited_cgroup().and_then(|cgroup| {
            let used = if cgroup.alone { cgroup.used() } else { own() };
            Some(Memory {
                used: used?,
                limit: cgroup.limit,
            })
        });
        match (configured, cgroup) {
            (Some(one), Some(other)) => Some(one.tighter(other)),
            (one, other) => one.or(other),
        }
    }

    /// The nearest cgroup, from the process's own upwards, that has a limit.
    fn limited_cgroup(&self) -> Option<Cgroup> {
        let membership = fs::read_to_string(self.process.join("cgroup")).ok()?;
        let path = membership
            .lines()
            .find_map(|line| line.strip_prefix("0::/"))?;
        let own = self.cgroups.join(path);
        // In a namespace of its own, a container sees its cgroup as the root.
        let own = if own.join("memory.max").exists() {
            own
        } else {
            self.cgroups.clone()
        };
        let limited = own
            .ancestors()
            .take_while(|folder| folder.starts_with(&self.cgroups))
            .find_map(|folder| Some((folder, number(&folder.join("memory.max"))?)));
        let (folder, limit) = limited?;
        let alone = folder == own
            && fs::read_to_string(own.join("cgroup.procs"))
                .is_ok_and(|processes| processes.lines().count() == 1);
        Some(Cgroup {
            folder: folder.to_owned(),
            limit,
            alone,
        })
    }
}

struct Cgroup {
    folder: PathBuf,
    limit: u64,
    /// This process is the only one in it.
    alone: bool,
}

impl Cgroup {
    fn used(&self) -> Option<u64> {
        let all = Memory {
            used: number(&self.folder.join("memory.current"))?,
            limit: self.limit,
        };
        if !all.is_at_least(CACHE_MATTERS_AT) {
            return Some(all.used);
        }
        let droppable = fs::read_to_string(self.folder.join("memory.stat"))
            .ok()
            .and_then(|stat| {
                let line = stat
                    .lines()
                    .find_map(|line| line.strip_prefix("inactive_file "))?;
                line.trim().parse().ok()
            });
        Some(all.used.saturating_sub(droppable.unwrap_or(0)))
    }
}

/// A file with one number; `max` is none.
fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// Bytes of the process in RAM.
fn resident(process: &Path) -> Option<u64> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))?;
    let kib: u64 = line.split_whitespace().next()?.parse().ok()?;
    kib.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    /// `/proc/self` and `/sys/fs/cgroup`, made up.
    struct Kernel(TempDir);

    impl Kernel {
        fn new(membership: &str) -> Self {
            let kernel = Self(tempfile::tempdir().unwrap());
            kernel.write("proc/cgroup", membership);
            kernel.write("proc/status", "Name:\tx\nVmRSS:\t   30 kB\n");
            kernel
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }

        /// A limit, memory in use, droppable pages, and processes.
        fn cgroup(&self, folder: &str, max: &str, used: u64, cache: u64, processes: &str) {
            let file = |name: &str| format!("cgroup/{folder}/{name}");
            self.write(&file("memory.max"), &format!("{max}\n"));
            self.write(&file("memory.current"), &format!("{used}\n"));
            let stat = format!("anon 1\nfile 2\ninactive_file {cache}\nactive_file 3\n");
            self.write(&file("memory.stat"), &stat);
            self.write(&file("cgroup.procs"), processes);
        }

        #[track_caller]
        fn check(&self, limit: Option<u64>, expected: Option<(u64, u64)>) {
            let reader = Reader {
                process: self.0.path().join("proc"),
                cgroups: self.0.path().join("cgroup"),
                limit,
            };
            let read = reader.read().map(|memory| (memory.used, memory.limit));
            assert_eq!(read, expected);
        }
    }

    #[test]
    fn a_container_of_its_own() {
        let kernel = Kernel::new("0::/\n");
        kernel.cgroup("", "100000", 50_000, 10_000, "1\n");
        kernel.check(None, Some((50_000, 100_000)));
        kernel.cgroup("", "100000", 90_000, 10_000, "1\n");
        kernel.check(None, Some((80_000, 100_000)));
        kernel.cgroup("", "max", 90_000, 10_000, "1\n");
        kernel.check(None, None);
    }

    #[test]
    fn where_others_are_too_the_own_pages_count() {
        let kernel = Kernel::new("0::/user/session\n");
        kernel.cgroup("user/session", "100000", 99_000, 0, "1\n2\n");
        kernel.check(None, Some((30 * 1024, 100_000)));
    }

    #[test]
    fn a_limit_above_is_found() {
        let kernel = Kernel::new("12:cpu:/x\n0::/pod/sidecar\n");
        kernel.cgroup("pod/sidecar", "max", 90_000, 0, "1\n");
        kernel.cgroup("pod", "200000", 190_000, 0, "");
        kernel.check(None, Some((30 * 1024, 200_000)));
    }

    #[test]
    fn a_path_of_another_namespace_is_the_root_here() {
        let kernel = Kernel::new("0::/kubepods/pod1/abc\n");
        kernel.cgroup("", "100000", 50_000, 0, "1\n");
        kernel.check(None, Some((50_000, 100_000)));
    }

    #[test]
    fn a_limit_by_configuration_needs_no_cgroup() {
        let kernel = Kernel::new("1:memory:/v1\n");
        kernel.check(None, None);
        kernel.check(Some(64 * 1024), Some((30 * 1024, 64 * 1024)));
    }

    #[test]
    fn the_nearer_limit_counts() {
        let kernel = Kernel::new("0::/\n");
        kernel.cgroup("", "100000", 50_000, 0, "1\n");
        kernel.check(Some(1 << 30), Some((50_000, 100_000)));
        kernel.check(Some(32 * 1024), Some((30 * 1024, 32 * 1024)));
    }

    #[test]
    fn this_process_has_pages() {
        assert!(resident(Path::new("/proc/self")) > Some(100_000));
    }
}
