//! The two brokers of a comparison, as processes of this machine.
//!
//! **Owns** starting, stopping, killing and removing them, and what settings they have.
//! **Lives on** the calling thread.
//! **Invariants** every process started is stopped, also when the comparison fails or is
//! interrupted: nothing is started that is not noted in the same breath. Each has a folder of its
//! own that goes away with it.
//! **Limits** `READY_LIMIT` for a start, `STOP_LIMIT` for an ordered stop.
//! **Not here** what is run on them (`compare`).

use std::fs::{self, File};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use nix::fcntl::{PosixFadviseAdvice, posix_fadvise};
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use super::ready::{self, await_free, check_answerer, first_send, is_listening};
use crate::error::BenchError;
use crate::observe::process::{cpu_seconds, field, stat_fields};

/// One way to run the peer: the script that the tests use, too.
const PEER_SCRIPT: &str = include_str!("../../../tests/peer/run.sh");
const PEER_POM: &str = include_str!("../../../tests/peer/pom.xml");
/// Heap of the peer's name server.
const NAMESRV_HEAP: &str = "512m";
/// What Apache's own runbroker.sh gives the JVM besides the heap.
const JAVA_OPTS: &str = "-XX:G1HeapRegionSize=16m -XX:G1ReservePercent=25 \
     -XX:InitiatingHeapOccupancyPercent=30 -XX:SoftRefLRUPolicyMSPerMB=0 -XX:+AlwaysPreTouch \
     -XX:-OmitStackTraceInFastThrow -XX:-UseLargePages";
/// The limit that both sides have widened; Gantry's other settings are its defaults.
const BUSY_WAIT: &str = "waitTimeMillsInSendQueue=10000";
/// Fast-fail limits widened, so that a busy moment is waited out and not refused; files and index
/// of RocketMQ's default size (the script's own are small).
const PEER_SETTINGS: [&str; 8] = [
    BUSY_WAIT,
    "osPageCacheBusyTimeOutMills=10000",
    "sendThreadPoolQueueCapacity=100000",
    "pullThreadPoolQueueCapacity=100000",
    "brokerFastFailureEnable=false",
    "mappedFileSizeCommitLog=1073741824",
    "maxHashSlotNum=5000000",
    "maxIndexNum=20000000",
];
const READY_LIMIT: Duration = Duration::from_secs(90);
const STOP_LIMIT: Duration = Duration::from_secs(30);
/// Process ids that the peer's script writes into its folder.
const PEER_PIDS: [&str; 2] = ["broker.pid", "namesrv.pid"];
/// Exit code of a comparison that was interrupted, as shells have it.
const INTERRUPTED: i32 = 130;
/// Between two attempts to send the first message.
const PROBE_PAUSE: Duration = Duration::from_millis(2);

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// Apache RocketMQ.
    Peer,
    /// Gantry.
    Gantry,
}

impl Side {
    /// Both, in the order of a round.
    pub const BOTH: [Self; 2] = [Self::Peer, Self::Gantry];

    /// For tables and file names.
    pub fn name(self) -> &'static str {
        match self {
            Self::Peer => "peer",
            Self::Gantry => "gantry",
        }
    }
}

/// Settings of a comparison that the servers need.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder of the stores.
    pub work: PathBuf,
    /// First port.
    pub port: u16,
    /// Heap of the peer's broker.
    pub peer_heap: String,
    /// Further settings of the peer.
    pub peer_set: Vec<String>,
    /// Further settings of Gantry.
    pub set: Vec<String>,
    /// What this binary was built from: it is the one measured.
    pub commit: String,
}

/// One broker with its name server.
#[derive(Debug)]
pub struct Server {
    side: Side,
    settings: Settings,
    dir: PathBuf,
    sync_flush: bool,
    child: Option<Noted>,
    started: bool,
}

/// Process groups that run. Held while one is started and noted, and for good by who ends them.
static RUNNING: Mutex<Vec<u32>> = Mutex::new(Vec::new());

fn running() -> MutexGuard<'static, Vec<u32>> {
    // A list of numbers can't be left half done.
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A process that heads a group of its own and ends with the comparison, as all in its group do.
#[derive(Debug)]
struct Noted {
    child: Child,
    entry: Entry,
}

/// One process group in [`RUNNING`], until dropped.
#[derive(Debug)]
struct Entry(u32);

impl Noted {
    fn start(command: &mut Command) -> std::io::Result<Self> {
        command.process_group(0);
        let mut running = running();
        let child = command.spawn()?;
        let entry = Entry(child.id());
        running.push(entry.0);
        Ok(Self { child, entry })
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        running().retain(|pid| *pid != self.0);
    }
}

/// Runs a program to its end.
///
/// # Errors
/// It can't be started or read.
pub fn run_noted(command: &mut Command) -> std::io::Result<Output> {
    command.stdout(Stdio::piped()).stderr(Stdio::piped());
    // The entry lives until the program has ended.
    let Noted {
        child,
        entry: _entry,
    } = Noted::start(command)?;
    child.wait_with_output()
}

/// How long a start took.
#[derive(Debug, Clone, Copy)]
pub struct StartTook {
    /// To the first `SEND_OK`.
    pub seconds: f64,
    /// CPU spent by the broker's process until then.
    pub cpu_seconds: f64,
}

fn program(name: &str, what: &dyn std::fmt::Display) -> BenchError {
    BenchError::Program {
        program: name.to_owned(),
        what: what.to_string(),
    }
}

fn output(path: &Path, source: std::io::Error) -> BenchError {
    BenchError::Output {
        path: path.display().to_string(),
        source,
    }
}

impl Server {
    /// A server that is not started, its folder empty.
    ///
    /// # Errors
    /// The folder can't be made.
    pub fn new(side: Side, settings: &Settings, sync_flush: bool) -> Result<Self, BenchError> {
        let server = Self {
            side,
            dir: settings.work.join(side.name()),
            settings: settings.clone(),
            sync_flush,
            child: None,
            started: false,
        };
        server.remove();
        fs::create_dir_all(&server.dir).map_err(|e| output(&server.dir, e))?;
        Ok(server)
    }

    /// Which of the two it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// Where the broker listens.
    pub fn addr(&self) -> SocketAddr {
        let offset = match self.side {
            Side::Peer => ready::PEER_BROKER,
            Side::Gantry => ready::GANTRY_BROKER,
        };
        SocketAddr::from(([127, 0, 0, 1], self.settings.port + offset))
    }

    fn namesrv_port(&self) -> u16 {
        let offset = match self.side {
            Side::Peer => ready::PEER_NAMESRV,
            Side::Gantry => ready::GANTRY_NAMESRV,
        };
        self.settings.port + offset
    }

    /// Waits until the ports are free that it takes when it starts; a peer's name server stays when
    /// its broker is killed.
    fn await_ports(&self) -> Result<(), BenchError> {
        let ports = match self.side {
            Side::Gantry => &[ready::GANTRY_NAMESRV, ready::GANTRY_BROKER][..],
            Side::Peer => &ready::PEER_BROKER_ALL,
        };
        await_free(self.settings.port, ports, ready::FREE_LIMIT)
    }

    /// The broker's process.
    pub fn pid(&self) -> Option<u32> {
        match self.side {
            Side::Gantry => self.child.as_ref().map(|noted| noted.child.id()),
            Side::Peer => fs::read_to_string(self.dir.join("broker.pid"))
                .ok()
                .and_then(|text| text.trim().parse().ok()),
        }
    }

    /// Whether it was made for this way of flushing.
    pub fn fits(&self, sync_flush: bool) -> bool {
        self.sync_flush == sync_flush
    }

    /// Starts it; the time runs from the start of the broker's process to the first `SEND_OK`.
    ///
    /// # Errors
    /// It does not come up.
    pub fn start(&mut self) -> Result<StartTook, BenchError> {
        let flush = if self.sync_flush {
            "flushDiskType=SYNC_FLUSH"
        } else {
            "flushDiskType=ASYNC_FLUSH"
        };
        self.await_ports()?;
        self.started = true;
        let mut command = match self.side {
            Side::Gantry => self.gantry(flush),
            Side::Peer => self.peer(flush)?,
        };
        let log = self.dir.join("start.log");
        let file = File::create(&log).map_err(|e| output(&log, e))?;
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone().map_err(|e| output(&log, e))?)
            .stderr(file);
        let since = Instant::now();
        let started = Noted::start(&mut command);
        let mut noted = started.map_err(|e| program(self.side.name(), &e))?;
        let first = self.await_first_send(&mut noted.child, since, &log);
        match self.side {
            Side::Gantry => self.child = Some(noted),
            Side::Peer => {
                // The script ends once the broker says that it is up.
                noted.child.wait().map_err(|e| program("run.sh", &e))?;
            }
        }
        first
    }

    fn gantry(&self, flush: &str) -> Command {
        // The binary that runs this is the one to be measured.
        let binary = std::env::current_exe().unwrap_or_else(|_| "gantry".into());
        let mut command = Command::new(binary);
        let port = self.addr().port().to_string();
        let namesrv = self.namesrv_port().to_string();
        command.args(["up", "--listen", "127.0.0.1", "--port", &port]);
        command.args(["--namesrv-port", &namesrv, "--set", flush]);
        command.args(["--set", BUSY_WAIT, "--data"]);
        command.arg(data_of(&self.dir));
        for setting in &self.settings.set {
            command.args(["--set", setting]);
        }
        command.env_remove("NAMESRV_ADDR");
        command
    }

    fn script(&self) -> Result<PathBuf, BenchError> {
        let script = self.settings.work.join("run.sh");
        let pom = self.settings.work.join("pom.xml");
        fs::write(&pom, PEER_POM).map_err(|e| output(&pom, e))?;
        fs::write(&script, PEER_SCRIPT).map_err(|e| output(&script, e))?;
        let mode = fs::Permissions::from_mode(0o755);
        fs::set_permissions(&script, mode).map_err(|e| output(&script, e))?;
        Ok(script)
    }

    fn peer(&self, flush: &str) -> Result<Command, BenchError> {
        let script = self.script()?;
        let namesrv = self.namesrv_port().to_string();
        if !self.dir.join("namesrv.pid").exists() {
            let mut start = Command::new(&script);
            start.arg("namesrv").arg(&self.dir).arg(&namesrv);
            start.env("PEER_HEAP", NAMESRV_HEAP).stdin(Stdio::null());
            let started = run_noted(&mut start).map_err(|e| program("run.sh", &e))?;
            if !started.status.success() {
                let text = String::from_utf8_lossy(&started.stderr).into_owned();
                return Err(program("run.sh namesrv", &text));
            }
        }
        let mut command = Command::new(&script);
        command
            .arg("broker")
            .arg(&self.dir)
            .arg(self.addr().port().to_string())
            .arg(format!("127.0.0.1:{namesrv}"))
            .arg(flush)
            .args(PEER_SETTINGS)
            .args(&self.settings.peer_set)
            .env("PEER_HEAP", &self.settings.peer_heap)
            .env("PEER_JAVA_OPTS", JAVA_OPTS);
        Ok(command)
    }

    fn await_first_send(
        &self,
        child: &mut Child,
        since: Instant,
        log: &Path,
    ) -> Result<StartTook, BenchError> {
        while since.elapsed() < READY_LIMIT {
            if first_send(self.addr()) {
                let pid = match self.side {
                    Side::Gantry => Some(child.id()),
                    Side::Peer => self.pid(),
                };
                // Both at once: what is spent from here on is not the start's.
                let took = StartTook {
                    seconds: since.elapsed().as_secs_f64(),
                    cpu_seconds: pid.and_then(cpu_seconds).unwrap_or(f64::NAN),
                };
                check_answerer(self.side.name(), self.addr(), pid)?;
                return Ok(took);
            }
            let ended = child.try_wait().ok().flatten();
            if ended.is_some_and(|status| !status.success() || self.side == Side::Gantry) {
                break;
            }
            std::thread::sleep(PROBE_PAUSE);
        }
        let text = fs::read_to_string(log).unwrap_or_default();
        Err(program(self.side.name(), &format!("not up:\n{text}")))
    }

    /// An ordered stop.
    ///
    /// # Errors
    /// The script of the peer can't be run.
    pub fn stop(&mut self) -> Result<(), BenchError> {
        if !std::mem::take(&mut self.started) {
            return Ok(());
        }
        match self.child.take() {
            Some(mut noted) => {
                signal(noted.child.id(), Signal::SIGTERM);
                let until = Instant::now() + STOP_LIMIT;
                while noted.child.try_wait().ok().flatten().is_none() {
                    if Instant::now() > until {
                        let _ = noted.child.kill();
                    }
                    std::thread::sleep(Duration::from_millis(5));
                }
            }
            None if self.side == Side::Peer => {
                let script = self.settings.work.join("run.sh");
                let mut stop = Command::new(script);
                stop.arg("stop").arg(&self.dir).stdin(Stdio::null());
                run_noted(&mut stop).map_err(|e| program("run.sh stop", &e))?;
            }
            None => {}
        }
        Ok(())
    }

    /// SIGKILL to the broker; its name server stays.
    ///
    /// # Errors
    /// It does not go.
    pub fn kill9(&mut self) -> Result<(), BenchError> {
        if let Some(mut noted) = self.child.take() {
            let _ = noted.child.kill();
            noted.child.wait().map_err(|e| program("gantry", &e))?;
            return Ok(());
        }
        let Some(pid) = self.pid() else {
            return Ok(());
        };
        signal(pid, Signal::SIGKILL);
        let until = Instant::now() + STOP_LIMIT;
        // Its first thread is gone at once; the others hold the port until the heap is given back.
        while is_running(pid) || is_listening(self.addr()) {
            if Instant::now() > until {
                return Err(program("peer", &"does not go after kill -9"));
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Writes the store out and drops its files from the page cache; the server must be stopped.
    ///
    /// # Errors
    /// The store can't be read.
    pub fn drop_page_cache(&self) -> Result<(), BenchError> {
        nix::unistd::sync();
        let mut folders = vec![self.dir.clone()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(&folder)
                .map_err(|e| output(&folder, e))?
                .flatten()
            {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Ok(file) = File::open(&path) {
                    // A file that can't be dropped only makes the reader's work easier.
                    let advice = PosixFadviseAdvice::POSIX_FADV_DONTNEED;
                    let _ = posix_fadvise(&file, 0, 0, advice);
                }
            }
        }
        Ok(())
    }

    fn remove(&self) {
        remove_store(&self.dir);
    }
}

/// Removes a server's folder, and the tails in shared memory that its store names: a Gantry that
/// was killed leaves them.
fn remove_store(dir: &Path) {
    for entry in fs::read_dir(data_of(dir)).into_iter().flatten().flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|end| end == "path")
            && let Ok(tail) = fs::read_to_string(&path)
        {
            // One without a folder lies in the store itself.
            let tail = data_of(dir).join(tail);
            if tail.extension().is_some_and(|end| end == "tail") {
                let _ = fs::remove_file(tail);
            }
        }
    }
    // Nothing there is the usual case.
    let _ = fs::remove_dir_all(dir);
}

/// Gantry's store in its folder.
fn data_of(dir: &Path) -> PathBuf {
    dir.join("data")
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing can be done about a stop that fails while failing.
        let _ = self.stop();
        self.remove();
    }
}

/// Whether this process was told to live on when its terminal is closed (`nohup`).
fn ignores_hang_up() -> bool {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

/// Ends what a comparison started when it is itself asked to end, and removes its folder.
///
/// # Errors
/// The signals can't be watched.
pub fn end_with_us(work: PathBuf) -> Result<(), BenchError> {
    use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
    use signal_hook::iterator::Signals;
    let hang_up = (!ignores_hang_up()).then_some(SIGHUP);
    let watched = [SIGINT, SIGTERM].into_iter().chain(hang_up);
    let mut signals = Signals::new(watched).map_err(|e| program("watching signals", &e))?;
    std::thread::spawn(move || {
        if signals.forever().next().is_none() {
            return;
        }
        // Never let go of: nothing is started any more.
        let running = running();
        for group in running.iter().filter_map(|pid| i32::try_from(*pid).ok()) {
            // An error means that it is gone.
            let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        }
        // The peer's processes left the group of the script that started them.
        let peer = work.join(Side::Peer.name());
        for file in PEER_PIDS {
            let pid = fs::read_to_string(peer.join(file)).ok();
            if let Some(pid) = pid.and_then(|text| text.trim().parse().ok()) {
                signal(pid, Signal::SIGKILL);
            }
        }
        // What can't be removed stays; the process ends either way.
        remove_store(&work.join(Side::Gantry.name()));
        let _ = fs::remove_dir_all(&work);
        std::process::exit(INTERRUPTED);
    });
    Ok(())
}

fn signal(pid: u32, signal: Signal) {
    if let Ok(pid) = i32::try_from(pid) {
        // An error means that it is gone.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Whether a process still runs; one that only waits to be reaped does not.
fn is_running(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(stat_fields(&stat)?.1.first().copied()? != "Z"))
        .unwrap_or(false)
}

/// Memory of this machine, bytes.
pub fn memory_bytes() -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    field(&text, "MemTotal:") * 1024
}

#[cfg(test)]
#[path = "servers_tests.rs"]
mod tests;
