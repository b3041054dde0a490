//! What a process spent, from /proc.
//!
//! **Owns** finding the process that listens at an address, and its CPU and memory figures.
//! **Lives on** the observer's thread.
//! **Invariants** figures are differences of two readings of the same process.
//! **Limits** Linux; reading another user's process needs its rights.
//! **Not here** the rest of the machine (`machine`).

use std::fs;
use std::net::{IpAddr, SocketAddr, UdpSocket};

/// Kernel clock ticks a second as /proc reports them: fixed at 100 on every Linux this runs on.
pub const TICKS_PER_SECOND: f64 = 100.0;

/// CPU seconds and memory of one process at one moment.
#[derive(Debug, Clone, Copy, Default)]
pub struct ProcessReading {
    /// User and system CPU seconds since its start.
    pub cpu_seconds: f64,
    /// Resident set, bytes.
    pub rss_bytes: u64,
    /// Anonymous part of it, bytes.
    pub anon_bytes: u64,
    /// Shared memory that no disk backs: tmpfs files it has mapped.
    pub shmem_bytes: u64,
    /// Bytes it sent to the storage layer.
    pub write_bytes: u64,
    /// Bytes it fetched from the storage layer.
    pub read_bytes: u64,
}

impl ProcessReading {
    /// Memory that no file on a disk backs.
    pub fn unbacked_bytes(&self) -> u64 {
        self.anon_bytes + self.shmem_bytes
    }
}

/// The process that listens at `addr`, found through the socket's inode; `None` unless the address
/// is one of this machine's.
pub fn listening_pid(addr: SocketAddr) -> Option<u32> {
    // Only an own address can be bound.
    UdpSocket::bind((addr.ip(), 0)).ok()?;
    let sockets: Vec<(bool, String)> = ["/proc/net/tcp", "/proc/net/tcp6"]
        .iter()
        .filter_map(|table| fs::read_to_string(table).ok())
        .flat_map(|text| listening_inodes(&text, addr))
        .collect();
    // One bound to the very address comes before one that listens on all.
    let exact = sockets.iter().filter(|(exact, _)| *exact);
    exact
        .chain(sockets.iter().filter(|(exact, _)| !exact))
        .find_map(|(_, inode)| holder(inode))
}

/// The process that has the socket with this inode open.
fn holder(inode: &str) -> Option<u32> {
    let wanted = format!("socket:[{inode}]");
    fs::read_dir("/proc").ok()?.flatten().find_map(|entry| {
        let pid: u32 = entry.file_name().to_str()?.parse().ok()?;
        let mut fds = fs::read_dir(entry.path().join("fd")).ok()?.flatten();
        fds.any(|fd| fs::read_link(fd.path()).is_ok_and(|l| l.as_os_str() == wanted.as_str()))
            .then_some(pid)
    })
}

/// Inodes of sockets listening at `addr` in the text of /proc/net/tcp, and whether they are bound
/// to the very address or to all.
fn listening_inodes(text: &str, addr: SocketAddr) -> Vec<(bool, String)> {
    const STATE_LISTEN: &str = "0A";
    let IpAddr::V4(ip) = addr.ip() else {
        return Vec::new();
    };
    // The kernel prints the address as a number of the machine's byte order.
    let exact = format!("{:08X}", u32::from_le_bytes(ip.octets()));
    text.lines()
        .skip(1)
        .filter_map(|line| {
            let fields: Vec<&str> = line.split_whitespace().collect();
            let (ip, port) = fields.get(1)?.rsplit_once(':')?;
            let at_port = u16::from_str_radix(port, 16).ok()? == addr.port();
            let is_exact = ip.ends_with(&exact);
            let matches = is_exact || ip.bytes().all(|digit| digit == b'0');
            let listens = *fields.get(3)? == STATE_LISTEN;
            let inode = (*fields.get(9)?).to_owned();
            (at_port && matches && listens).then_some((is_exact, inode))
        })
        .collect()
}

/// Fields of /proc/PID/stat behind the name, which may hold spaces and brackets, and the name.
pub fn stat_fields(stat: &str) -> Option<(&str, Vec<&str>)> {
    let (head, rest) = stat.rsplit_once(')')?;
    let name = head.split_once('(')?.1;
    Some((name, rest.split_whitespace().collect()))
}

/// CPU seconds, user and system, among the fields of [`stat_fields`].
pub fn cpu_of(fields: &[&str]) -> f64 {
    let ticks = |at: usize| fields.get(at).and_then(|f| f.parse::<f64>().ok());
    (ticks(11).unwrap_or(0.0) + ticks(12).unwrap_or(0.0)) / TICKS_PER_SECOND
}

/// Whether it is one of the kernel's own threads, among the fields of [`stat_fields`].
pub fn is_kernel_thread(fields: &[&str]) -> bool {
    const PF_KTHREAD: u64 = 0x0020_0000;
    let flags = fields.get(6).and_then(|flags| flags.parse::<u64>().ok());
    flags.is_some_and(|flags| flags & PF_KTHREAD != 0)
}

/// CPU seconds of a process since its start.
pub fn cpu_seconds(pid: u32) -> Option<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    Some(cpu_of(&stat_fields(&stat)?.1))
}

fn text(pid: u32, file: &str) -> Option<String> {
    fs::read_to_string(format!("/proc/{pid}/{file}")).ok()
}

/// Reads a process; `None` when it is gone or not ours to read. One that has ended and waits to be
/// reaped is gone: it has no memory left, and none is not what it used.
pub fn read_process(pid: u32) -> Option<ProcessReading> {
    // First, so that reading the rest is no part of what is measured.
    let cpu_seconds = cpu_seconds(pid)?;
    let status = text(pid, "status").filter(|status| status.contains("VmRSS:"))?;
    let io = text(pid, "io").unwrap_or_default();
    Some(ProcessReading {
        cpu_seconds,
        rss_bytes: field(&status, "VmRSS:") * 1024,
        anon_bytes: (field(&status, "RssAnon:") + field(&status, "VmSwap:")) * 1024,
        shmem_bytes: field(&status, "RssShmem:") * 1024,
        write_bytes: field(&io, "write_bytes:"),
        read_bytes: field(&io, "read_bytes:"),
    })
}

/// Memory of a process that no file on a disk backs, by the kernel's counters alone.
pub fn unbacked_bytes(pid: u32) -> Option<u64> {
    Some(read_process(pid)?.unbacked_bytes())
}

/// Proportional set of a process, bytes. The kernel walks all its page tables for that and keeps it
/// from mapping memory meanwhile: never while something is measured.
pub fn pss_bytes(pid: u32) -> Option<u64> {
    Some(field(&text(pid, "smaps_rollup")?, "Pss:") * 1024)
}

/// The number behind `name` in a /proc text, 0 when missing.
pub fn field(text: &str, name: &str) -> u64 {
    text.lines()
        .find_map(|line| line.strip_prefix(name))
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_process_that_listens_at_the_address() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        assert_eq!(listening_pid(addr), Some(std::process::id()));
        let neighbour = SocketAddr::new(IpAddr::from([127, 0, 0, 2]), addr.port());
        assert_eq!(listening_pid(neighbour), None);
        drop(listener);
        assert_eq!(listening_pid(addr), None);
    }

    #[test]
    fn a_listener_on_all_addresses_is_found_too() {
        let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let addr = SocketAddr::new(IpAddr::from([127, 0, 0, 1]), port);
        assert_eq!(listening_pid(addr), Some(std::process::id()));
    }

    #[test]
    fn reads_our_own_figures() {
        let reading = read_process(std::process::id()).unwrap();
        assert!(reading.rss_bytes > reading.anon_bytes);
        assert!(reading.anon_bytes > 0);
        assert!(unbacked_bytes(std::process::id()).unwrap() > 0);
    }

    #[test]
    fn a_process_that_was_killed_and_is_not_reaped_has_no_figures() {
        let mut child = std::process::Command::new("sleep")
            .arg("60")
            .spawn()
            .unwrap();
        assert!(unbacked_bytes(child.id()).is_some());
        child.kill().unwrap();
        let end = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while unbacked_bytes(child.id()).is_some() && std::time::Instant::now() < end {
            std::thread::yield_now();
        }
        assert!(fs::exists(format!("/proc/{}/status", child.id())).unwrap());
        assert!(read_process(child.id()).is_none());
        child.wait().unwrap();
    }

    #[test]
    fn names_with_brackets_do_not_shift_the_fields() {
        let stat = "12 (a) b)) S 1 2 3 4 5 6 7 8 9 10 250 150 0 0 20";
        let (name, fields) = stat_fields(stat).unwrap();
        assert_eq!(name, "a) b)");
        assert!((cpu_of(&fields) - 4.0).abs() < 1e-9);
    }
}
