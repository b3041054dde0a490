//! What this machine offers, and what to do where it is not enough.
//!
//! **Owns** the capability report of start-up and of `gantry doctor`.
//! **Lives on** the main thread, before any executor: glommio panics with a misleading text where
//! `io_uring` is denied.
//! **Invariants** probing leaves nothing behind and needs no privilege; what it raises (memlock,
//! open files) it raises only up to what the process may.
//! **Limits** the data folder's file system is probed with one written block.
//! **Not here** choosing cores (`topology`), the tail's place (`glommio_disk`).

use std::fmt;
use std::fs::OpenOptions;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::error::StartError;
use crate::shard::IO_MEMORY_BYTES_MAX;

/// Oldest kernel with the operations that glommio 0.9 uses.
const KERNEL_MIN: (u32, u32) = (5, 8);
/// Since this kernel a ring's own memory does not count against the memlock limit.
const KERNEL_RING_ACCOUNTING: (u32, u32) = (5, 12);
/// glommio 0.9 makes no executor under a lower memlock limit.
const MEMLOCK_MIN_BYTES: u64 = 512 * 1024;
/// Memory of a core's three rings that old kernels charge against memlock, on top of the buffers.
const RING_LOCKED_BYTES: u64 = 1024 * 1024;
/// Open files below this are too few for a broker: connections, segments, logs.
const OPEN_FILES_WANTED: u64 = 65_536;
/// Free room that `/dev/shm` must have for tails of the usual 16 MiB each.
const SHM_FREE_MIN: u64 = 64 * 1024 * 1024;
/// Entries of the throw-away ring.
const PROBE_RING_ENTRIES: u32 = 8;
const BLOCK: usize = 4096;

const TMPFS_MAGIC: u64 = 0x0102_1994;
const FILE_SYSTEMS: [(u64, &str); 8] = [
    (0xEF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (TMPFS_MAGIC, "tmpfs"),
    (0x794C_7630, "overlayfs"),
    (0x6969, "nfs"),
    (0x2FC1_2FC1, "zfs"),
    (0x6573_5546, "fuse"),
];

/// How good a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Status {
    /// As it should be.
    Ok,
    /// Works, with a cost or a risk.
    Warn,
    /// Gantry cannot run like this.
    Fail,
}

/// One finding.
#[derive(Debug, Clone)]
pub struct Finding {
    /// What was looked at.
    pub name: &'static str,
    /// How good it is.
    pub status: Status,
    /// What was found.
    pub found: String,
    /// What to do about it, unless all is well.
    pub remedy: Option<String>,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            status: Status::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn bad(
        name: &'static str,
        status: Status,
        found: impl Into<String>,
        remedy: impl Into<String>,
    ) -> Self {
        Self {
            name,
            status,
            found: found.into(),
            remedy: Some(remedy.into()),
        }
    }
}

/// All findings.
#[derive(Debug, Clone)]
pub struct Report {
    /// In the order they are shown.
    pub findings: Vec<Finding>,
}

impl Report {
    /// Probes for `cores` data cores with their store in `data`.
    pub fn take(cores: usize, data: &Path) -> Self {
        let findings = vec![
            kernel(),
            ring(),
            memlock(cores),
            direct_io(data),
            shared_memory(Path::new("/dev/shm")),
            open_files(),
        ];
        Self { findings }
    }

    /// The worst status.
    pub fn worst(&self) -> Status {
        self.findings
            .iter()
            .map(|finding| finding.status)
            .max()
            .unwrap_or(Status::Ok)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for finding in &self.findings {
            let mark = match finding.status {
                Status::Ok => "ok  ",
                Status::Warn => "warn",
                Status::Fail => "FAIL",
            };
            writeln!(f, "  {mark} {:<14} {}", finding.name, finding.found)?;
            if let Some(remedy) = &finding.remedy {
                writeln!(f, "       {:<14} -> {remedy}", "")?;
            }
        }
        Ok(())
    }
}

/// What must hold before an executor may be made.
///
/// # Errors
/// `io_uring` is denied or may lock too little memory, with what to change.
pub fn require_ring() -> Result<(), StartError> {
    for finding in [ring(), memlock(1)] {
        if let (Status::Fail, Some(remedy)) = (finding.status, finding.remedy) {
            let cause = format!("{}: {}", finding.name, finding.found);
            return Err(StartError::RingDenied { cause, remedy });
        }
    }
    Ok(())
}

/// The kernel's version.
pub fn kernel() -> Finding {
    let name = "kernel";
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy().into_owned();
    match read_version(&release) {
        Some(version) if version >= KERNEL_MIN => Finding::ok(name, release),
        Some(_) => {
            let (major, minor) = KERNEL_MIN;
            Finding::bad(
                name,
                Status::Fail,
                release,
                format!("needs Linux {major}.{minor} or newer"),
            )
        }
        None => Finding::bad(
            name,
            Status::Warn,
            release,
            "version not understood; 5.8 is needed",
        ),
    }
}

/// Whether the kernel is this one or newer; not if its version isn't understood.
pub(crate) fn kernel_is_at_least(version: (u32, u32)) -> bool {
    let uname = rustix::system::uname();
    let release = uname.release().to_string_lossy();
    read_version(&release).is_some_and(|found| found >= version)
}

fn read_version(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|c: char| !c.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

/// Whether a ring can be made here.
pub fn ring() -> Finding {
    let name = "io_uring";
    let error = match io_uring::IoUring::new(PROBE_RING_ENTRIES) {
        Ok(ring) => return ring_operations(name, &ring),
        Err(error) => error,
    };
    let disabled = std::fs::read_to_string("/proc/sys/kernel/io_uring_disabled");
    let disabled = disabled.unwrap_or_default();
    let remedy = match (error.kind(), disabled.trim()) {
        (io::ErrorKind::PermissionDenied, "2") => {
            "the kernel forbids it to all: sysctl -w kernel.io_uring_disabled=0".to_owned()
        }
        (io::ErrorKind::PermissionDenied, "1") => {
            "the kernel allows it to one group: sysctl -w kernel.io_uring_disabled=0, or add the \
             user to the \
             group of kernel.io_uring_group"
                .to_owned()
        }
        (io::ErrorKind::PermissionDenied, _) => {
            "a container's seccomp profile forbids it: run with one that allows io_uring_setup, \
             io_uring_enter and io_uring_register (docker: --security-opt seccomp=FILE)"
                .to_owned()
        }
        (io::ErrorKind::Unsupported, _) => "the kernel is built without it; use another".to_owned(),
        (io::ErrorKind::OutOfMemory, _) => {
            "the memlock limit is too low: ulimit -l unlimited, or LimitMEMLOCK=infinity in the \
             unit"
                .to_owned()
        }
        _ => "unexpected; see the kernel's log".to_owned(),
    };
    Finding::bad(name, Status::Fail, error.to_string(), remedy)
}

fn ring_operations(name: &'static str, ring: &io_uring::IoUring) -> Finding {
    use io_uring::opcode as op;
    let needed = [
        ("read", op::Read::CODE),
        ("write", op::Write::CODE),
        ("read_fixed", op::ReadFixed::CODE),
        ("write_fixed", op::WriteFixed::CODE),
        ("fsync", op::Fsync::CODE),
        ("poll_add", op::PollAdd::CODE),
        ("timeout", op::Timeout::CODE),
        ("async_cancel", op::AsyncCancel::CODE),
        ("accept", op::Accept::CODE),
        ("openat", op::OpenAt::CODE),
        ("fallocate", op::Fallocate::CODE),
        ("statx", op::Statx::CODE),
        ("close", op::Close::CODE),
    ];
    let mut probe = io_uring::Probe::new();
    if let Err(error) = ring.submitter().register_probe(&mut probe) {
        let remedy =
            "the ring works but does not say what it can; use a newer kernel if start-up fails";
        return Finding::bad(name, Status::Warn, error.to_string(), remedy);
    }
    let missing: Vec<&str> = needed
        .iter()
        .filter(|(_, code)| !probe.is_supported(*code))
        .map(|(operation, _)| *operation)
        .collect();
    if missing.is_empty() {
        return Finding::ok(name, format!("allowed, all {} operations", needed.len()));
    }
    let found = format!("allowed, without {}", missing.join(", "));
    Finding::bad(name, Status::Fail, found, "use Linux 5.8 or newer")
}

/// Whether `cores` executors may lock their buffers; raises the soft limit where it may.
pub fn memlock(cores: usize) -> Finding {
    let name = "locked memory";
    let each = IO_MEMORY_BYTES_MAX as u64 + ring_locked_bytes();
    let need = each.saturating_mul(cores.max(1) as u64);
    let limit = raise(Resource::Memlock, u64::MAX);
    match limit {
        None => Finding::ok(name, "unlimited"),
        Some(bytes) if bytes >= need => {
            Finding::ok(name, format!("{}, {} needed", kib(bytes), kib(need)))
        }
        Some(bytes) => Finding::bad(
            name,
            if bytes < MEMLOCK_MIN_BYTES {
                Status::Fail
            } else {
                Status::Warn
            },
            format!("{}, {} wanted for {cores} core(s)", kib(bytes), kib(need)),
            "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit, or fewer --cores; else \
             buffers are not registered or a core does not start",
        ),
    }
}

fn ring_locked_bytes() -> u64 {
    if kernel_is_at_least(KERNEL_RING_ACCOUNTING) {
        0
    } else {
        RING_LOCKED_BYTES
    }
}

/// Whether enough files may be open; raises the soft limit to the hard one.
pub fn open_files() -> Finding {
    let name = "open files";
    match raise(Resource::Nofile, OPEN_FILES_WANTED) {
        None => Finding::ok(name, "unlimited"),
        Some(count) if count >= OPEN_FILES_WANTED => Finding::ok(name, count.to_string()),
        Some(count) => Finding::bad(
            name,
            Status::Warn,
            count.to_string(),
            format!(
                "each connection takes one: ulimit -n {OPEN_FILES_WANTED}, or \
                 LimitNOFILE={OPEN_FILES_WANTED} in the unit"
            ),
        ),
    }
}

/// Raises a soft limit towards `wanted`, the hard limit as well where privileged; `None` is
/// unlimited.
fn raise(resource: Resource, wanted: u64) -> Option<u64> {
    let limit = getrlimit(resource);
    let soft = limit.current?;
    if soft >= wanted {
        return Some(soft);
    }
    let unlimited = wanted == u64::MAX;
    let privileged = Rlimit {
        current: if unlimited { None } else { Some(wanted) },
        maximum: if unlimited {
            None
        } else {
            limit.maximum.map(|hard| hard.max(wanted))
        },
    };
    let up_to_hard = Rlimit {
        current: limit.maximum.map(|hard| hard.min(wanted)),
        maximum: limit.maximum,
    };
    if setrlimit(resource, privileged).is_err() && setrlimit(resource, up_to_hard).is_err() {
        tracing::debug!(?resource, "limit not raised");
    }
    getrlimit(resource).current
}

/// Numbers the files of [`direct_io`] within this process.
static DIRECT_PROBES: AtomicU64 = AtomicU64::new(0);

/// Whether the file system of `folder` (or of its nearest existing parent) takes direct writes.
pub fn direct_io(folder: &Path) -> Finding {
    let name = "direct I/O";
    let folder = nearest_existing(folder);
    let kind = file_system(&folder);
    if kind == "tmpfs" {
        return Finding::bad(
            name,
            Status::Fail,
            format!("{} is on tmpfs", folder.display()),
            "choose another folder (--data), on a disk: tmpfs does not outlive the machine",
        );
    }
    // Cores probe at the same time: each uses a name of its own.
    let turn = DIRECT_PROBES.fetch_add(1, Ordering::Relaxed);
    let path = folder.join(format!(".direct-{}-{turn}", std::process::id()));
    let outcome = write_direct(&path);
    // It may not exist when it could not be made.
    let _ = std::fs::remove_file(&path);
    match outcome {
        Ok(()) => Finding::ok(name, format!("{} on {kind}", folder.display())),
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Finding::bad(
            name,
            Status::Fail,
            format!("{kind} at {} has no direct I/O", folder.display()),
            "choose another folder (--data), on ext4 or xfs",
        ),
        Err(error) => Finding::bad(
            name,
            Status::Fail,
            format!("{}: {error}", folder.display()),
            "make the folder writable for this user, or choose another folder (--data)",
        ),
    }
}

fn nearest_existing(folder: &Path) -> PathBuf {
    let absolute = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    absolute
        .ancestors()
        .find(|place| place.is_dir())
        .unwrap_or(&absolute)
        .to_owned()
}

fn write_direct(path: &Path) -> io::Result<()> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(flags)
        .open(path)?;
    // Direct writes need an aligned address: take the aligned block out of twice as much.
    let twice = vec![0_u8; 2 * BLOCK];
    let skip = twice.as_ptr().align_offset(BLOCK);
    let block = twice.get(skip..skip + BLOCK).unwrap_or_default();
    let written = rustix::io::pwrite(&file, block, 0)?;
    if written == BLOCK {
        Ok(())
    } else {
        Err(io::Error::from(io::ErrorKind::WriteZero))
    }
}

/// Writes one block to a new file and syncs it, so that reading it reaches the device.
pub(crate) fn write_one_block(path: &Path) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(&[1; BLOCK])?;
    file.sync_all()
}

/// Room of a file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DiskSpace {
    /// All of it.
    pub total_bytes: u64,
    /// What this process may still write.
    pub free_bytes: u64,
}

impl DiskSpace {
    /// The used part, from 0 to 1.
    pub fn used_ratio(self) -> f64 {
        let mib = |bytes: u64| f64::from(u32::try_from(bytes >> 20).unwrap_or(u32::MAX));
        1.0 - mib(self.free_bytes) / mib(self.total_bytes).max(1.0)
    }
}

/// Room of the file system that `folder` lies on.
pub fn disk_space(folder: &Path) -> Option<DiskSpace> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    Some(DiskSpace {
        total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

/// Whether `folder` is a tmpfs with room that outlives a killed process.
pub fn shared_memory(folder: &Path) -> Finding {
    let name = "shared memory";
    let fallback =
        "the tail then lies in the data folder; set tailDir to a tmpfs that outlives the container";
    let place = folder.display();
    if file_system(folder) != "tmpfs" {
        return Finding::bad(name, Status::Warn, format!("{place} is no tmpfs"), fallback);
    }
    let free =
        rustix::fs::statvfs(folder).map_or(0, |stat| stat.f_bavail.saturating_mul(stat.f_frsize));
    if free < SHM_FREE_MIN {
        let found = format!("{place} has only {} free", kib(free));
        return Finding::bad(name, Status::Warn, found, fallback);
    }
    if rustix::fs::access(folder, rustix::fs::Access::WRITE_OK).is_err() {
        return Finding::bad(
            name,
            Status::Warn,
            format!("{place} is not writable"),
            fallback,
        );
    }
    if let Some(sign) = container_sign() {
        let found = format!("{place} belongs to a container ({sign}) that ends with this process");
        return Finding::bad(name, Status::Warn, found, fallback);
    }
    Finding::ok(
        name,
        format!("{place}, {} free, outlives the process", kib(free)),
    )
}

/// What says that this process lives in a container whose tmpfs ends with it: a container ends with
/// its process 1, so only that process and its own children (an init's ward, or left behind) can
/// take it along.
fn container_sign() -> Option<String> {
    let parent = rustix::process::getppid().map_or(0, |pid| pid.as_raw_nonzero().get());
    if std::process::id() != 1 && parent > 1 {
        return None;
    }
    let files = ["/.dockerenv", "/run/.containerenv"];
    if let Some(file) = files.iter().find(|file| Path::new(file).exists()) {
        return Some((*file).to_owned());
    }
    let names = ["KUBERNETES_SERVICE_HOST", "container"];
    if let Some(name) = names.iter().find(|name| std::env::var_os(name).is_some()) {
        return Some(format!("${name}"));
    }
    (std::process::id() == 1).then(|| "process 1".to_owned())
}

fn file_system(folder: &Path) -> &'static str {
    let Ok(stat) = rustix::fs::statfs(folder) else {
        return "an unknown file system";
    };
    let magic = u64::try_from(stat.f_type).unwrap_or_default();
    let known = FILE_SYSTEMS.iter().find(|(number, _)| *number == magic);
    known.map_or("a file system without a name here", |(_, name)| name)
}

fn kib(bytes: u64) -> String {
    if bytes >= 1024 * 1024 {
        format!("{} MiB", bytes / (1024 * 1024))
    } else {
        format!("{} KiB", bytes / 1024)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        assert_eq!(read_version("6.18.44-fc-v782"), Some((6, 18)));
        assert_eq!(read_version("5.8"), Some((5, 8)));
        assert_eq!(read_version("5"), None);
        assert_eq!(read_version("x"), None);
    }

    #[test]
    fn this_host_is_good_enough_for_the_tests() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        let report = Report::take(1, folder);
        assert_ne!(report.worst(), Status::Fail, "{report}");
        assert_eq!(report.findings.len(), 6);
        require_ring().unwrap();
        let left = std::fs::read_dir(folder).unwrap();
        let left = left.filter_map(Result::ok).map(|entry| entry.file_name());
        assert!(
            !left
                .into_iter()
                .any(|name| name.to_string_lossy().starts_with(".direct"))
        );
    }

    #[test]
    fn what_is_bad_says_what_to_do() {
        for folder in ["/dev/shm", "/proc"] {
            let finding = direct_io(Path::new(folder));
            assert_eq!(finding.status, Status::Fail, "{folder}");
            assert!(finding.remedy.unwrap().contains("--data"));
        }
        let finding = shared_memory(Path::new("/proc"));
        assert_eq!(finding.status, Status::Warn);
        assert!(finding.remedy.unwrap().contains("tailDir"));
        let report = Report {
            findings: vec![direct_io(Path::new("/dev/shm"))],
        };
        assert!(report.to_string().contains("FAIL") && report.to_string().contains("->"));
    }
}
