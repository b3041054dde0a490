//! What the whole machine did: so that a noisy run is seen as noisy.
//!
//! **Owns** readings of processor time, load, disks and all processes, and their differences.
//! **Lives on** the observer's thread.
//! **Invariants** processor time is split without rest: broker, generator, other processes and the
//! kernel on its own, time stolen by the hypervisor, idle. What others spent is the rest of what
//! the kernel sampled at its ticks, or the sum of what it says of each process, whichever is more:
//! short bursts between two ticks, as those of a run at a fixed rate, don't show in the samples.
//! **Limits** Linux; processes that lived only between two readings show as part of the rest.
//! **Not here** one process (`process`).

use std::collections::HashMap;
use std::fs;

use super::process::{TICKS_PER_SECOND, cpu_of, stat_fields};

/// Share of the machine spent by others, or stolen, above which a run is called noisy.
pub const NOISY_SHARE: f64 = 0.05;
/// Other processes named in a report.
const NAMED_COUNT: usize = 3;
/// Bytes of a sector in /proc/diskstats, whatever the device.
const SECTOR_BYTES: u64 = 512;

/// What disks have written since the machine's start.
#[derive(Debug, Clone, Copy, Default)]
struct DiskWrites {
    count: u64,
    bytes: u64,
}

/// The machine at one moment.
#[derive(Debug, Clone, Default)]
pub struct MachineReading {
    busy_seconds: f64,
    steal_seconds: f64,
    io_wait_seconds: f64,
    load: f64,
    disks: DiskWrites,
    /// CPU seconds and name by process.
    processes: HashMap<u32, (String, f64)>,
}

/// What happened between two readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineSpent {
    /// CPU seconds of all processes and the kernel.
    pub busy_seconds: f64,
    /// CPU seconds that neither broker nor generator spent.
    pub others_seconds: f64,
    /// CPU seconds the hypervisor took away.
    pub steal_seconds: f64,
    /// Seconds processors were idle with I/O under way.
    pub io_wait_seconds: f64,
    /// Load average of the last minute, before and after.
    pub load: (f64, f64),
    /// Bytes written to all disks.
    pub disk_written_bytes: u64,
    /// Writes that all disks have done.
    pub disk_writes: u64,
    /// The largest other consumers: name and CPU seconds.
    pub largest: Vec<(String, f64)>,
    /// Share of all processors' time that others and the hypervisor took.
    pub noise_share: f64,
}

impl MachineSpent {
    /// Whether others disturbed the run.
    pub fn is_noisy(&self) -> bool {
        self.noise_share > NOISY_SHARE
    }
}

impl MachineReading {
    /// Reads the machine now.
    pub fn now() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap_or_default();
        let ticks: Vec<f64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .skip(1)
            .filter_map(|field| field.parse().ok())
            .collect();
        let seconds = |at: usize| ticks.get(at).copied().unwrap_or(0.0) / TICKS_PER_SECOND;
        // user, nice, system, irq, softirq; guest time is part of user.
        let busy = [0, 1, 2, 5, 6].map(seconds).iter().sum();
        let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
        let load = load.split_whitespace().next().and_then(|l| l.parse().ok());
        Self {
            busy_seconds: busy,
            steal_seconds: seconds(7),
            io_wait_seconds: seconds(4),
            load: load.unwrap_or(0.0),
            disks: disk_writes(),
            processes: processes(),
        }
    }

    /// What happened since `before`, in `wall_seconds` on `cores`, while broker and generator spent
    /// `known_seconds`; `known` are their processes.
    pub fn since(
        &self,
        before: &Self,
        wall_seconds: f64,
        cores: f64,
        known: &[u32],
        known_seconds: f64,
    ) -> MachineSpent {
        let busy_seconds = self.busy_seconds - before.busy_seconds;
        let steal_seconds = self.steal_seconds - before.steal_seconds;
        let mut largest: Vec<(String, f64)> = self
            .processes
            .iter()
            .filter(|(pid, _)| !known.contains(pid))
            .map(|(pid, (name, cpu))| {
                let earlier = before.processes.get(pid).map_or(0.0, |(_, cpu)| *cpu);
                (name.clone(), cpu - earlier)
            })
            .filter(|(_, cpu)| *cpu > 0.0)
            .collect();
        let counted_seconds: f64 = largest.iter().map(|(_, cpu)| cpu).sum();
        let others_seconds = (busy_seconds - known_seconds).max(counted_seconds);
        largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        largest.truncate(NAMED_COUNT);
        let all_seconds = (wall_seconds * cores).max(f64::MIN_POSITIVE);
        MachineSpent {
            busy_seconds,
            others_seconds,
            steal_seconds,
            io_wait_seconds: self.io_wait_seconds - before.io_wait_seconds,
            load: (before.load, self.load),
            disk_written_bytes: self.disks.bytes.saturating_sub(before.disks.bytes),
            disk_writes: self.disks.count.saturating_sub(before.disks.count),
            largest,
            noise_share: (others_seconds + steal_seconds) / all_seconds,
        }
    }
}

/// What all whole disks have written; partitions and stacked devices would count twice.
fn disk_writes() -> DiskWrites {
    const STACKED: [&str; 5] = ["loop", "ram", "dm-", "md", "zram"];
    let stats = fs::read_to_string("/proc/diskstats").unwrap_or_default();
    let mut all = DiskWrites::default();
    for line in stats.lines() {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let Some(name) = fields.get(2) else { continue };
        let whole = fs::exists(format!("/sys/block/{name}")).unwrap_or(false);
        if !whole || STACKED.iter().any(|stem| name.starts_with(stem)) {
            continue;
        }
        let number = |at: usize| fields.get(at).and_then(|f| f.parse::<u64>().ok());
        all.count += number(7).unwrap_or(0);
        all.bytes += number(9).unwrap_or(0) * SECTOR_BYTES;
    }
    all
}

fn processes() -> HashMap<u32, (String, f64)> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, fields) = stat_fields(&stat)?;
            Some((pid, (name.to_owned(), cpu_of(&fields))))
        })
        .collect()
}

/// Processors of this machine, as a number to divide by.
pub fn cores() -> f64 {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    u32::try_from(cores).map_or(1.0, f64::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_spent_is_the_rest_and_makes_noise() {
        let process = |cpu| (7, ("compiler".to_owned(), cpu));
        let reading = |busy, cpu| MachineReading {
            busy_seconds: busy,
            processes: HashMap::from([process(cpu)]),
            ..MachineReading::default()
        };
        let spent = reading(18.0, 9.0).since(&reading(0.0, 1.0), 10.0, 2.0, &[], 8.0);
        assert!((spent.others_seconds - 10.0).abs() < 1e-9);
        assert!((spent.noise_share - 0.5).abs() < 1e-9);
        assert!(spent.is_noisy());
        assert_eq!(spent.largest, [("compiler".to_owned(), 8.0)]);
    }

    #[test]
    fn what_others_spent_between_the_ticks_is_noise_too() {
        let process = |pid, name: &str, cpu| (pid, (name.to_owned(), cpu));
        let reading = |busy, broker, other, another| MachineReading {
            busy_seconds: busy,
            processes: HashMap::from([
                process(7, "broker", broker),
                process(8, "one", other),
                process(9, "another", another),
            ]),
            ..MachineReading::default()
        };
        // The ticks saw three seconds, of which the broker alone says that it had four.
        let before = reading(0.0, 1.0, 1.0, 1.0);
        let after = reading(3.0, 5.0, 2.5, 1.5);
        let spent = after.since(&before, 10.0, 2.0, &[7], 4.0);
        assert!((spent.others_seconds - 2.0).abs() < 1e-9, "{spent:?}");
        assert!(spent.is_noisy());
    }

    #[test]
    fn a_machine_can_be_read() {
        let reading = MachineReading::now();
        assert!(reading.busy_seconds > 0.0);
        assert!(reading.processes.contains_key(&std::process::id()));
    }
}
