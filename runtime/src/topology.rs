//! Which CPUs the data cores run on.
//!
//! **Owns** the reading of `--cores`, the default count and the placement.
//! **Lives on** the main thread, at start.
//! **Invariants** a plan has 1 to [`DATA_CORES_MAX`] cores; a pinned CPU is one this process may
//! use, and no CPU is pinned twice. Where a quota leaves fewer CPUs' worth of time than there are,
//! no core is pinned unless its CPU was named.
//! **Limits** [`DATA_CORES_MAX`].
//! **Not here** the executors themselves (`shard`), reading the limits of a container (`cgroup`).

mod cgroup;

use crate::error::StartError;

/// Most data cores: a core's number travels in seven bits of a physical offset's shard.
pub const DATA_CORES_MAX: usize = 64;
/// Up to this many CPUs there is one data core, and the control plane takes what is left.
const SMALL_HOST_CPUS_MAX: usize = 2;

/// Where one data core runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Placement {
    /// On this CPU only.
    Pinned(usize),
    /// Wherever the kernel puts it: small hosts, tests, more cores than CPUs.
    Unbound,
}

/// The CPUs there are for this process.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cpus {
    /// Those it may run on, ascending.
    pub allowed: Vec<usize>,
    /// How many CPUs' worth of time its container or unit gives it.
    pub quota: Option<usize>,
}

impl Cpus {
    /// What the affinity and the control groups of this process leave it.
    pub fn of_process() -> Self {
        Self {
            allowed: cpus_allowed(),
            quota: cgroup::limits().cpus,
        }
    }

    /// How many of them can be busy all the time.
    pub fn count(&self) -> usize {
        let allowed = self.allowed.len();
        self.quota.map_or(allowed, |quota| quota.min(allowed))
    }
}

fn cpus_allowed() -> Vec<usize> {
    if let Ok(set) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|cpu| set.is_set(*cpu))
            .collect();
    }
    let count = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    (0..count).collect()
}

/// The data cores taken when nobody chose: one on a host of up to two CPUs, else all but one.
pub fn data_cores_default(cpus: usize) -> usize {
    if cpus <= SMALL_HOST_CPUS_MAX {
        1
    } else {
        (cpus - 1).min(DATA_CORES_MAX)
    }
}

/// Turns `--cores` (`None`: the default) into placements.
///
/// A plain number is a count: pinned when it leaves a CPU for the control plane, else unbound. A
/// value with a comma or a dash is a list of CPUs (`0,2-3`), always pinned; write `2,` for CPU 2
/// alone.
///
/// # Errors
/// The value cannot be read, is empty, too long, or names a CPU that isn't allowed.
pub fn plan_cores(wish: Option<&str>, cpus: &Cpus) -> Result<Vec<Placement>, StartError> {
    let Some(text) = wish.map(str::trim) else {
        return Ok(place_count(data_cores_default(cpus.count()), cpus));
    };
    let refuse = |cause: String| StartError::Cores {
        value: text.to_owned(),
        cause,
    };
    if !text.contains([',', '-']) {
        let count: usize = text
            .parse()
            .map_err(|_| refuse("expected a count such as 2 or a list such as 0,2-3".into()))?;
        if count == 0 || count > DATA_CORES_MAX {
            return Err(refuse(format!("expected 1 to {DATA_CORES_MAX} cores")));
        }
        return Ok(place_count(count, cpus));
    }
    let named = read_list(text).map_err(refuse)?;
    if named.is_empty() || named.len() > DATA_CORES_MAX {
        return Err(refuse(format!("expected 1 to {DATA_CORES_MAX} cores")));
    }
    let allowed = &cpus.allowed;
    if let Some(cpu) = named.iter().find(|cpu| !allowed.contains(cpu)) {
        return Err(refuse(format!(
            "CPU {cpu} is not allowed here; allowed are {allowed:?}"
        )));
    }
    Ok(named.into_iter().map(Placement::Pinned).collect())
}

/// `count` cores without pinning, as tests want them.
pub fn unbound(count: usize) -> Vec<Placement> {
    vec![Placement::Unbound; count.clamp(1, DATA_CORES_MAX)]
}

/// Pins from the highest CPU down, so that CPU 0, where most hosts take their interrupts, stays
/// with the control plane; leaves all unbound when no CPU would remain for it. Under a quota the
/// CPUs belong to others as well: a core pinned to one would wait for them while another is idle.
fn place_count(count: usize, cpus: &Cpus) -> Vec<Placement> {
    let allowed = &cpus.allowed;
    let is_shared = cpus.count() < allowed.len();
    if is_shared || count >= allowed.len() || allowed.len() <= SMALL_HOST_CPUS_MAX {
        return unbound(count);
    }
    let mut taken: Vec<usize> = allowed.iter().rev().take(count).copied().collect();
    taken.reverse();
    taken.into_iter().map(Placement::Pinned).collect()
}

fn read_list(text: &str) -> Result<Vec<usize>, String> {
    let mut cpus = Vec::new();
    for part in text
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty())
    {
        let (low, high) = match part.split_once('-') {
            Some((low, high)) => (read_cpu(low)?, read_cpu(high)?),
            None => (read_cpu(part)?, read_cpu(part)?),
        };
        if low > high {
            return Err(format!("`{part}` runs backwards"));
        }
        for cpu in low..=high {
            if cpus.contains(&cpu) {
                return Err(format!("CPU {cpu} is named twice"));
            }
            if cpus.len() >= DATA_CORES_MAX {
                return Err(format!("expected 1 to {DATA_CORES_MAX} cores"));
            }
            cpus.push(cpu);
        }
    }
    Ok(cpus)
}

fn read_cpu(text: &str) -> Result<usize, String> {
    text.trim()
        .parse()
        .map_err(|_| format!("`{text}` is not a CPU number"))
}

/// Bytes of memory this process may use: the narrowest limit of its control groups, else the
/// machine's memory; 0 when neither can be read.
pub fn memory_bytes() -> u64 {
    const KIB: u64 = 1024;
    let machine = std::fs::read_to_string("/proc/meminfo")
        .ok()
        .and_then(|text| {
            let line = text
                .lines()
                .find_map(|line| line.strip_prefix("MemTotal:"))?;
            line.split_whitespace()
                .next()?
                .parse::<u64>()
                .ok()
                .map(|kib| kib * KIB)
        });
    match (cgroup::limits().memory_bytes, machine) {
        (Some(limit), Some(machine)) => limit.min(machine),
        (limit, machine) => limit.or(machine).unwrap_or(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(allowed: &[usize]) -> Cpus {
        Cpus {
            allowed: allowed.to_vec(),
            quota: None,
        }
    }

    #[test]
    fn a_quota_counts_like_so_many_cpus_and_pins_none() {
        let pod = Cpus {
            allowed: (0..64).collect(),
            quota: Some(4),
        };
        assert_eq!(pod.count(), 4);
        assert_eq!(plan_cores(None, &pod).unwrap(), unbound(3));
        assert_eq!(plan_cores(Some("8"), &pod).unwrap(), unbound(8));
        let named = plan_cores(Some("7,"), &pod).unwrap();
        assert_eq!(named, [Placement::Pinned(7)]);
        let wide = Cpus {
            quota: Some(64),
            ..pod
        };
        assert_eq!(
            plan_cores(Some("1"), &wide).unwrap(),
            [Placement::Pinned(63)]
        );
    }

    #[test]
    fn defaults_leave_room_for_the_control_plane() {
        assert_eq!(data_cores_default(1), 1);
        assert_eq!(data_cores_default(2), 1);
        assert_eq!(data_cores_default(3), 2);
        assert_eq!(data_cores_default(16), 15);
        assert_eq!(
            plan_cores(None, &cpus(&[0, 1])).unwrap(),
            [Placement::Unbound]
        );
        assert_eq!(
            plan_cores(None, &cpus(&[0, 1, 2])).unwrap(),
            [Placement::Pinned(1), Placement::Pinned(2)]
        );
        assert!(Cpus::of_process().count() > 0);
    }

    #[test]
    fn lists_and_counts() {
        let allowed = cpus(&[0, 1, 2, 3]);
        assert_eq!(plan_cores(Some("2"), &allowed).unwrap().len(), 2);
        assert_eq!(plan_cores(Some("8"), &allowed).unwrap(), unbound(8));
        assert_eq!(
            plan_cores(Some("0,2-3"), &allowed).unwrap(),
            [
                Placement::Pinned(0),
                Placement::Pinned(2),
                Placement::Pinned(3)
            ]
        );
        assert_eq!(
            plan_cores(Some("2,"), &allowed).unwrap(),
            [Placement::Pinned(2)]
        );
        for bad in [
            "",
            "0",
            "x",
            "3-1",
            "1,1",
            "9,",
            "0-99999999999",
            "-",
            ",",
            "65",
        ] {
            let error = plan_cores(Some(bad), &allowed).unwrap_err().to_string();
            assert!(error.starts_with("cores `"), "{error}");
        }
    }
}
