//! What the broker's process and the machine spent, from /proc.
//!
//! **Owns** finding the process that listens on a port, and its CPU and memory figures.
//! **Lives on** the thread that prints the report; never during the measured window.
//! **Invariants** figures are differences of two readings of the same process.
//! **Limits** Linux; reading another user's process needs its rights.
//! **Not here** latency (`producer`).

use std::fs;

/// Kernel clock ticks a second as /proc reports them: fixed at 100 on every Linux this runs on.
const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds and memory of one process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessReading {
    /// User and system CPU seconds since its start.
    pub cpu_seconds: f64,
    /// Resident set, bytes.
    pub rss_bytes: u64,
    /// Anonymous part of it, bytes.
    pub rss_anon_bytes: u64,
    /// Bytes it sent to the storage layer.
    pub write_bytes: u64,
}

/// The process that listens on `port`, found through the socket's inode.
pub fn listening_pid(port: u16) -> Option<u32> {
    let inodes: Vec<String> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| listening_inodes(&text, port))
        .collect();
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let holds = fs::read_dir(entry.path().join("fd"))
            .ok()?
            .flatten()
            .any(|fd| {
                fs::read_link(fd.path())
                    .ok()
                    .and_then(|link| {
                        let text = link.to_str()?.strip_prefix("socket:[")?.strip_suffix(']')?;
                        Some(inodes.iter().any(|inode| inode == text))
                    })
                    .unwrap_or(false)
            });
        holds.then_some(pid)
    })
}

/// Inodes of sockets listening on `port` in the text of /proc/net/tcp.
fn listening_inodes(text: &str, port: u16) -> Vec<String> {
    const STATE_LISTEN: &str = "0A";
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let local_port = fields.get(1)?.rsplit(':').next()?;
            let matches = *fields.get(3)? == STATE_LISTEN
                && u16::from_str_radix(local_port, 16).ok()? == port;
            matches
                .then(|| fields.get(9).map(|inode| (*inode).to_owned()))
                .flatten()
        })
        .collect()
}

/// Reads a process; `None` when it is gone or not ours to read.
pub fn read_process(pid: u32) -> Option<ProcessReading> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let io = fs::read_to_string(format!("/proc/{pid}/io")).unwrap_or_default();
    // The name may hold spaces and brackets: fields count from the last bracket.
    let fields: Vec<&str> = stat.rsplit(')').next()?.split_whitespace().collect();
    let ticks = |at: usize| {
        fields
            .get(at)
            .and_then(|f| f.parse::<f64>().ok())
            .unwrap_or(0.0)
    };
    Some(ProcessReading {
        cpu_seconds: (ticks(11) + ticks(12)) / TICKS_PER_SECOND,
        rss_bytes: kib_field(&status, "VmRSS:") * 1024,
        rss_anon_bytes: kib_field(&status, "RssAnon:") * 1024,
        write_bytes: kib_field(&io, "write_bytes:"),
    })
}

/// The number behind `name` in a /proc text, 0 when missing.
fn kib_field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

/// CPU seconds that all processes of the machine spent since boot, idle and I/O wait excluded.
pub fn machine_busy_seconds() -> f64 {
    const IDLE_FIELDS: [usize; 2] = [3, 4];
    let Ok(text) = fs::read_to_string("/proc/stat") else {
        return 0.0;
    };
    text.lines().next().map_or(0.0, |line| {
        line.split_whitespace()
            .skip(1)
            .take(8)
            .enumerate()
            .filter(|(at, _)| !IDLE_FIELDS.contains(at))
            .filter_map(|(_, field)| field.parse::<f64>().ok())
            .sum::<f64>()
            / TICKS_PER_SECOND
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_process_that_listens() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(listening_pid(port), Some(std::process::id()));
        drop(listener);
        assert_eq!(listening_pid(port), None);
    }

    #[test]
    fn reads_our_own_figures() {
        let reading = read_process(std::process::id()).unwrap();
        assert!(reading.rss_bytes > 0);
        assert!(machine_busy_seconds() > 0.0);
    }
}
