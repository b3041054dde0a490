//! The limits of the control groups this process is in: of its container, its unit, its session.
//!
//! **Owns** reading them, version 1 and 2.
//! **Lives on** the main thread, at start.
//! **Invariants** the narrowest limit counts, wherever above this process it is set. What can't be
//! read is no limit.
//! **Limits** [`LEVELS_MAX`] groups upwards.
//! **Not here** what the machine itself has, and what is made of it (`topology`).

use std::fs::read_to_string;
use std::path::{Component, Path, PathBuf};

/// Groups of one line that are looked at. Kubernetes nests five, a user's systemd as many.
const LEVELS_MAX: usize = 32;
/// Version 1 says "none" as a number of almost 63 bits.
const NO_MEMORY_LIMIT: u64 = 1 << 60;

/// What the groups allow.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory.
    pub memory_bytes: Option<u64>,
    /// CPUs' worth of time, a part of one counting as one.
    pub cpus: Option<usize>,
}

/// The limits of this process.
pub fn limits() -> Limits {
    limits_below(Path::new("/"))
}

/// As [`limits`], in the file system that begins at `root`.
fn limits_below(root: &Path) -> Limits {
    let mut limits = Limits::default();
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    // Each line is `number:controllers:group`; version 2 has number 0 and names none.
    for line in groups.lines() {
        let mut parts = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(group)) = (parts.next(), parts.next()) else {
            continue;
        };
        if controllers.is_empty() {
            for folder in upwards(root, "", group) {
                narrow(&mut limits.memory_bytes, number(&folder, "memory.max"));
                narrow(&mut limits.cpus, cpus_2(&folder));
            }
        }
        for controller in controllers.split(',') {
            for folder in upwards(root, controller, group) {
                match controller {
                    "memory" => narrow(&mut limits.memory_bytes, memory_1(&folder)),
                    "cpu" => narrow(&mut limits.cpus, cpus_1(&folder)),
                    _ => {}
                }
            }
        }
    }
    limits
}

/// The folders of a group and of those above it. A container often sees its own group where the
/// root's would be and is told a name from outside: then only the last of these exists.
fn upwards(root: &Path, controller: &str, group: &str) -> Vec<PathBuf> {
    let top = root.join("sys/fs/cgroup").join(controller);
    // A group outside the own namespace is named with `..`, and isn't there.
    let names = Path::new(group).components().filter_map(|part| match part {
        Component::Normal(name) => Some(name),
        _ => None,
    });
    let below: PathBuf = names.take(LEVELS_MAX - 1).collect();
    below.ancestors().map(|level| top.join(level)).collect()
}

fn narrow<T: Ord + Copy>(limit: &mut Option<T>, found: Option<T>) {
    if let Some(found) = found {
        *limit = Some(limit.map_or(found, |limit| limit.min(found)));
    }
}

/// The number in a file; none if there is another word, such as `max` or `-1`.
fn number(folder: &Path, name: &str) -> Option<u64> {
    read_to_string(folder.join(name)).ok()?.trim().parse().ok()
}

fn memory_1(folder: &Path) -> Option<u64> {
    let limit = number(folder, "memory.limit_in_bytes");
    limit.filter(|bytes| *bytes < NO_MEMORY_LIMIT)
}

fn cpus_1(folder: &Path) -> Option<usize> {
    whole_cpus(
        number(folder, "cpu.cfs_quota_us")?,
        number(folder, "cpu.cfs_period_us")?,
    )
}

fn cpus_2(folder: &Path) -> Option<usize> {
    let text = read_to_string(folder.join("cpu.max")).ok()?;
    let (quota, period) = text.trim().split_once(' ')?;
    whole_cpus(quota.parse().ok()?, period.parse().ok()?)
}

fn whole_cpus(quota_us: u64, period_us: u64) -> Option<usize> {
    let whole = quota_us.checked_add(period_us)?.checked_sub(1)?;
    let cpus = whole.checked_div(period_us)?;
    usize::try_from(cpus).ok().filter(|cpus| *cpus > 0)
}

#[cfg(test)]
mod tests {
    use std::fs::{create_dir_all, write};

    use super::*;

    /// The limits that these files set.
    fn found(files: &[(&str, &str)]) -> Limits {
        let root = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = root.path().join(name);
            create_dir_all(path.parent().unwrap()).unwrap();
            write(path, text).unwrap();
        }
        limits_below(root.path())
    }

    fn limits_of(memory_bytes: Option<u64>, cpus: Option<usize>) -> Limits {
        Limits { memory_bytes, cpus }
    }

    #[test]
    fn nothing_to_read_is_no_limit() {
        assert_eq!(found(&[]), Limits::default());
        let unlimited = [
            ("proc/self/cgroup", "0::/a\n"),
            ("sys/fs/cgroup/a/memory.max", "max\n"),
            ("sys/fs/cgroup/a/cpu.max", "max 100000\n"),
        ];
        assert_eq!(found(&unlimited), Limits::default());
    }

    #[test]
    fn a_container_of_version_2_finds_its_limits_at_the_root() {
        let own = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "1073741824\n"),
            ("sys/fs/cgroup/cpu.max", "150000 100000\n"),
        ];
        assert_eq!(found(&own), limits_of(Some(1 << 30), Some(2)));
    }

    #[test]
    fn a_unit_of_version_2_has_the_narrowest_limit_above_it() {
        let nested = [
            ("proc/self/cgroup", "0::/kube.slice/pod/it\n"),
            ("sys/fs/cgroup/kube.slice/memory.max", "8000\n"),
            ("sys/fs/cgroup/kube.slice/cpu.max", "6400000 100000\n"),
            ("sys/fs/cgroup/kube.slice/pod/memory.max", "3000\n"),
            ("sys/fs/cgroup/kube.slice/pod/cpu.max", "200000 100000\n"),
            ("sys/fs/cgroup/kube.slice/pod/it/memory.max", "max\n"),
            ("sys/fs/cgroup/kube.slice/pod/it/cpu.max", "max 100000\n"),
        ];
        assert_eq!(found(&nested), limits_of(Some(3000), Some(2)));
    }

    #[test]
    fn version_1_has_a_folder_for_each_controller() {
        let split = [
            (
                "proc/self/cgroup",
                "5:memory:/docker/it\n3:cpu,cpuacct:/docker/it\n0::/x\n",
            ),
            // The container's own group, in the root's place.
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("sys/fs/cgroup/cpu/docker/cpu.cfs_quota_us", "-1\n"),
            ("sys/fs/cgroup/cpu/docker/cpu.cfs_period_us", "100000\n"),
            ("sys/fs/cgroup/cpu/docker/it/cpu.cfs_quota_us", "50000\n"),
            ("sys/fs/cgroup/cpu/docker/it/cpu.cfs_period_us", "100000\n"),
        ];
        assert_eq!(found(&split), limits_of(Some(4096), Some(1)));
        let none = [
            ("proc/self/cgroup", "5:memory:/\n"),
            (
                "sys/fs/cgroup/memory/memory.limit_in_bytes",
                "9223372036854771712\n",
            ),
        ];
        assert_eq!(found(&none), Limits::default());
    }

    #[test]
    fn a_group_outside_the_namespace_is_looked_for_at_its_root() {
        let outside = [
            ("proc/self/cgroup", "0::/../../other\n"),
            ("sys/fs/cgroup/memory.max", "2048\n"),
            ("sys/fs/cgroup/cpu.max", "0 0\n"),
        ];
        assert_eq!(found(&outside), limits_of(Some(2048), None));
    }
}
