//! What the whole machine did: so that a noisy run is seen as noisy.
//!
//! **Owns** readings of processor time, load, disks and all processes, and their differences.
//! **Lives on** the observer's thread.
//! **Invariants** processor time is split without rest: broker, generator, the kernel's own threads
//! (which do part of the broker's writing to the device), others, time stolen by the hypervisor,
//! idle. What others spent is the rest of what the kernel sampled at its ticks, or the sum of what
//! it says of each process, whichever is more: short bursts between two ticks, as those of a run at
//! a fixed rate, don't show in the samples.
//! **Limits** Linux; processes that lived only between two readings show as part of the rest.
//! **Not here** one process (`process`).

use std::collections::HashMap;
use std::fs;

use super::process::{TICKS_PER_SECOND, cpu_of, is_kernel_thread, stat_fields};

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

/// One process or thread of the kernel's own, at one moment.
#[derive(Debug, Clone)]
struct Task {
    name: String,
    cpu_seconds: f64,
    is_kernel: bool,
}

/// A name and CPU seconds.
type Spent = (String, f64);

/// The machine at one moment.
#[derive(Debug, Clone, Default)]
pub struct MachineReading {
    busy_seconds: f64,
    steal_seconds: f64,
    io_wait_seconds: f64,
    load: f64,
    disks: DiskWrites,
    tasks: HashMap<u32, Task>,
}

/// What happened between two readings.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct MachineSpent {
    /// CPU seconds of all processes and the kernel.
    pub busy_seconds: f64,
    /// CPU seconds of the kernel's own threads, whoever they worked for: the device's completions,
    /// the file system's journal.
    pub kernel_seconds: f64,
    /// CPU seconds that none of broker, generator and the kernel's own threads spent.
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
    pub largest: Vec<Spent>,
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
            tasks: tasks(),
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
        let (kernel, mut largest) = self.spent_by_task(before, known);
        let kernel_seconds: f64 = kernel.iter().map(|(_, cpu)| cpu).sum();
        let counted_seconds: f64 = largest.iter().map(|(_, cpu)| cpu).sum();
        let rest_seconds = busy_seconds - known_seconds - kernel_seconds;
        let others_seconds = rest_seconds.max(counted_seconds);
        largest.sort_by(|a, b| b.1.total_cmp(&a.1));
        largest.truncate(NAMED_COUNT);
        let all_seconds = (wall_seconds * cores).max(f64::MIN_POSITIVE);
        MachineSpent {
            busy_seconds,
            kernel_seconds,
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

    /// Names and CPU seconds since `before` of the kernel's own threads, and of all processes that
    /// are not `known`.
    fn spent_by_task(&self, before: &Self, known: &[u32]) -> (Vec<Spent>, Vec<Spent>) {
        let (mut kernel, mut others) = (Vec::new(), Vec::new());
        for (pid, task) in self.tasks.iter().filter(|(pid, _)| !known.contains(pid)) {
            let earlier = before.tasks.get(pid).map_or(0.0, |task| task.cpu_seconds);
            let spent = task.cpu_seconds - earlier;
            if spent > 0.0 {
                let kind = if task.is_kernel {
                    &mut kernel
                } else {
                    &mut others
                };
                kind.push((task.name.clone(), spent));
            }
        }
        (kernel, others)
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

fn tasks() -> HashMap<u32, Task> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .flatten()
        .filter_map(|entry| {
            let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            let (name, fields) = stat_fields(&stat)?;
            let task = Task {
                name: name.to_owned(),
                cpu_seconds: cpu_of(&fields),
                is_kernel: is_kernel_thread(&fields),
            };
            Some((pid, task))
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

    fn task(pid: u32, name: &str, cpu_seconds: f64) -> (u32, Task) {
        let task = Task {
            name: name.to_owned(),
            cpu_seconds,
            is_kernel: name.starts_with("kworker"),
        };
        (pid, task)
    }

    fn reading<const N: usize>(busy_seconds: f64, tasks: [(u32, Task); N]) -> MachineReading {
        MachineReading {
            busy_seconds,
            tasks: HashMap::from(tasks),
            ..MachineReading::default()
        }
    }

    #[test]
    fn what_others_spent_is_the_rest_and_makes_noise() {
        let before = reading(0.0, [task(7, "compiler", 1.0)]);
        let after = reading(18.0, [task(7, "compiler", 9.0)]);
        let spent = after.since(&before, 10.0, 2.0, &[], 8.0);
        assert!((spent.others_seconds - 10.0).abs() < 1e-9);
        assert!((spent.noise_share - 0.5).abs() < 1e-9);
        assert!(spent.is_noisy());
        assert_eq!(spent.largest, [("compiler".to_owned(), 8.0)]);
    }

    #[test]
    fn what_others_spent_between_the_ticks_is_noise_too() {
        let tasks = |broker, other, another| {
            let broker = task(7, "broker", broker);
            [broker, task(8, "one", other), task(9, "another", another)]
        };
        // The ticks saw three seconds, of which the broker alone says that it had four.
        let before = reading(0.0, tasks(1.0, 1.0, 1.0));
        let after = reading(3.0, tasks(5.0, 2.5, 1.5));
        let spent = after.since(&before, 10.0, 2.0, &[7], 4.0);
        assert!((spent.others_seconds - 2.0).abs() < 1e-9, "{spent:?}");
        assert!(spent.is_noisy());
    }

    #[test]
    fn the_kernels_own_threads_are_a_figure_of_their_own_and_no_noise() {
        let before = reading(0.0, [task(7, "broker", 0.0), task(8, "kworker/1:1H", 1.0)]);
        let after = reading(7.0, [task(7, "broker", 4.0), task(8, "kworker/1:1H", 4.0)]);
        let spent = after.since(&before, 10.0, 2.0, &[7], 4.0);
        assert!((spent.kernel_seconds - 3.0).abs() < 1e-9, "{spent:?}");
        assert!(spent.others_seconds.abs() < 1e-9, "{spent:?}");
        assert!(spent.largest.is_empty() && !spent.is_noisy());
    }

    #[test]
    fn a_machine_can_be_read() {
        let reading = MachineReading::now();
        assert!(reading.busy_seconds > 0.0);
        let own = &reading.tasks[&std::process::id()];
        assert!(!own.is_kernel);
        assert!(
            reading
                .tasks
                .get(&2)
                .is_none_or(|task| task.is_kernel || task.name != "kthreadd")
        );
    }
}
