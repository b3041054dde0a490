//! A server as a process of its own: started with fresh data on an address of its own, ended by its
//! process id.
//!
//! Each one listens on another address of 127.0.0.0/8, so the ports may be the usual ones and no
//! two collide.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use super::client::send_ext;
use super::{Client, code, ext, reply, until};

/// How long a start may take on a busy machine.
const READY_SECONDS: u64 = 30;
/// How long an ordered stop may take before it counts as a failure.
const STOP_SECONDS: u64 = 20;
const BROKER_PORT: u16 = 10911;
const NAMESRV_PORT: u16 = 9876;
/// Lines of its log that a failed test prints.
const LOG_LINES: usize = 60;

static NEXT: AtomicU8 = AtomicU8::new(1);

/// The binary under test: `GANTRY_BIN`, else the one Cargo built for the tests.
pub fn binary() -> PathBuf {
    std::env::var_os("GANTRY_BIN").map_or_else(|| env!("CARGO_BIN_EXE_gantry").into(), Into::into)
}

/// An address that no other test process on this machine uses.
pub fn fresh_ip() -> IpAddr {
    let pid = std::process::id();
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    assert!(n < 250, "too many servers in one suite");
    IpAddr::V4(Ipv4Addr::new(
        127,
        16 + ((pid >> 8) & 0x7F) as u8,
        (pid & 0xFF) as u8,
        n,
    ))
}

/// Folders that go away with the value: one on disk, and one in memory for the tail.
pub struct Scratch {
    disk: tempfile::TempDir,
    memory: Option<tempfile::TempDir>,
}

impl Scratch {
    pub fn new() -> Self {
        let disk = tempfile::Builder::new()
            .prefix("gantry-it-")
            .tempdir()
            .unwrap();
        let memory = tempfile::Builder::new()
            .prefix("gantry-it-")
            .tempdir_in("/dev/shm")
            .ok();
        Self { disk, memory }
    }

    pub fn path(&self) -> &Path {
        self.disk.path()
    }

    /// The setting that puts the tail into this scratch, too.
    fn tail_setting(&self) -> Option<String> {
        let dir = self.memory.as_ref()?.path();
        Some(format!("tailDir={}", dir.display()))
    }
}

/// `gantry` with its output in a file.
pub struct Gantry {
    child: Option<Child>,
    ip: IpAddr,
    args: Vec<String>,
    scratch: Scratch,
    starts: u32,
}

impl Gantry {
    /// `gantry up` with these settings, ready to serve. With `GANTRY_TEST_AGAINST=ip` nothing is
    /// started: the suite then shows what another server does (Apache RocketMQ, by `tests/peer`).
    pub fn up(settings: &[&str]) -> Self {
        let mut gantry = Self::prepared(settings);
        if !gantry.is_elsewhere() {
            gantry.start();
            gantry.await_ready();
        }
        gantry
    }

    /// A name server alone, ready to serve.
    pub fn namesrv_alone(settings: &[&str]) -> Self {
        let mut args = vec!["namesrv", "--listen", "{ip}", "--port", "9876"];
        let files = [
            "kvConfigPath={dir}/kv.json",
            "configStorePath={dir}/namesrv.properties",
        ];
        for setting in files.iter().chain(settings) {
            args.extend(["--set", setting]);
        }
        let mut gantry = Self::command(&args);
        if !gantry.is_elsewhere() {
            gantry.start();
            gantry.await_line("ready:");
        }
        gantry
    }

    fn is_elsewhere(&mut self) -> bool {
        let Ok(ip) = std::env::var("GANTRY_TEST_AGAINST") else {
            return false;
        };
        self.ip = ip.parse().unwrap();
        true
    }

    /// `gantry up`, not yet started.
    pub fn prepared(settings: &[&str]) -> Self {
        let ip = fresh_ip();
        let scratch = Scratch::new();
        let data = scratch.path().join("data");
        let mut args: Vec<String> = ["up", "--data"].map(str::to_owned).into();
        args.push(data.display().to_string());
        args.extend(["--listen".to_owned(), ip.to_string()]);
        args.extend(["--port".to_owned(), BROKER_PORT.to_string()]);
        args.extend(["--namesrv-port".to_owned(), NAMESRV_PORT.to_string()]);
        let tail = scratch.tail_setting();
        // Small files: many servers with fresh data start during the tests.
        let fixed = ["mappedFileSizeCommitLog=8M"]
            .into_iter()
            .chain(tail.as_deref());
        for setting in fixed.chain(settings.iter().copied()) {
            args.extend(["--set".to_owned(), setting.to_owned()]);
        }
        Self {
            child: None,
            ip,
            args,
            scratch,
            starts: 0,
        }
    }

    /// Another subcommand than `up`; `{ip}` and `{dir}` in its arguments become this one's address
    /// and scratch folder. A broker's tail lies in this scratch as well.
    pub fn command(args: &[&str]) -> Self {
        let ip = fresh_ip();
        let scratch = Scratch::new();
        let dir = scratch.path().display().to_string();
        let fill = |a: &&str| a.replace("{ip}", &ip.to_string()).replace("{dir}", &dir);
        let mut args: Vec<String> = args.iter().map(fill).collect();
        if args.first().is_some_and(|word| word == "broker")
            && let Some(tail) = scratch.tail_setting()
        {
            args.extend(["--set".to_owned(), tail]);
        }
        Self {
            child: None,
            ip,
            args,
            scratch,
            starts: 0,
        }
    }

    /// Adds settings for the next start; stronger than those before.
    pub fn set(&mut self, settings: &[&str]) {
        for setting in settings {
            self.args
                .extend(["--set".to_owned(), (*setting).to_owned()]);
        }
    }

    /// The data folder of `up`.
    pub fn data(&self) -> PathBuf {
        let at = self.args.iter().position(|arg| arg == "--data").unwrap();
        PathBuf::from(&self.args[at + 1])
    }

    /// Uses another data folder from the next start on.
    pub fn use_data(&mut self, data: &Path) {
        let at = self.args.iter().position(|arg| arg == "--data").unwrap();
        self.args[at + 1] = data.display().to_string();
    }

    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    pub fn broker(&self) -> SocketAddr {
        SocketAddr::new(self.ip, BROKER_PORT)
    }

    pub fn vip(&self) -> SocketAddr {
        SocketAddr::new(self.ip, BROKER_PORT - 2)
    }

    pub fn namesrv(&self) -> SocketAddr {
        SocketAddr::new(self.ip, NAMESRV_PORT)
    }

    pub fn dir(&self) -> &Path {
        self.scratch.path()
    }

    pub fn log(&self) -> String {
        fs::read_to_string(self.log_path()).unwrap_or_default()
    }

    fn log_path(&self) -> PathBuf {
        self.scratch
            .path()
            .join(format!("gantry-{}.log", self.starts))
    }

    /// Starts the process and does not wait.
    pub fn start(&mut self) {
        assert!(self.child.is_none(), "already started");
        self.starts += 1;
        let log = File::create(self.log_path()).unwrap();
        let copy = log.try_clone().unwrap();
        self.child = Some(self.spawn(copy.into(), log.into()));
    }

    /// As [`Gantry::start`], with nobody who reads what the process prints.
    pub fn start_unread(&mut self) {
        assert!(self.child.is_none(), "already started");
        self.starts += 1;
        let mut child = self.spawn(Stdio::piped(), Stdio::piped());
        drop((child.stdout.take(), child.stderr.take()));
        self.child = Some(child);
    }

    /// As [`Gantry::start`], but nobody reads what it logs, and the pipe stays open.
    pub fn start_held(&mut self) {
        assert!(self.child.is_none(), "already started");
        self.starts += 1;
        let log = File::create(self.log_path()).unwrap();
        self.child = Some(self.spawn(log.into(), Stdio::piped()));
    }

    fn spawn(&self, stdout: Stdio, stderr: Stdio) -> Child {
        Command::new(binary())
            .args(&self.args)
            .current_dir(self.scratch.path())
            .env_remove("NAMESRV_ADDR")
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .unwrap_or_else(|e| panic!("{}: {e}", binary().display()))
    }

    /// The start has said `ready:`, and the name server knows the broker.
    pub fn await_ready(&mut self) {
        self.await_line("ready:");
        let mut client = Client::connect(self.namesrv());
        let fields = ext(&[("topic", "TBW102")]);
        until(READY_SECONDS, "the broker is registered", || {
            let answer = client.call(code::ROUTE, &fields, b"");
            (answer.code == reply::SUCCESS).then_some(())
        });
    }

    /// Waits for a line of its output that starts with `start`.
    pub fn await_line(&mut self, start: &str) {
        let end = Instant::now() + Duration::from_secs(READY_SECONDS);
        while !self.log().lines().any(|l| l.starts_with(start)) {
            let over = self.child.as_mut().unwrap().try_wait().unwrap();
            assert!(over.is_none(), "ended with {over:?} before it said {start}");
            assert!(
                Instant::now() < end,
                "no line {start} within {READY_SECONDS} s"
            );
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    pub fn client(&self) -> Client {
        Client::connect(self.broker())
    }

    pub fn namesrv_client(&self) -> Client {
        Client::connect(self.namesrv())
    }

    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    pub fn is_alive(&mut self) -> bool {
        self.starts == 0
            || self
                .child
                .as_mut()
                .is_some_and(|c| c.try_wait().unwrap().is_none())
    }

    /// Whether SIGTERM would be handled now; before that it just ends the process.
    pub fn catches_term(&self) -> bool {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let caught = status.lines().find_map(|l| l.strip_prefix("SigCgt:"));
        let caught = u64::from_str_radix(caught.unwrap().trim(), 16).unwrap();
        caught & 1 << (15 - 1) != 0
    }

    /// Bytes resident, from /proc.
    pub fn rss_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let line = status.lines().find(|l| l.starts_with("VmRSS:")).unwrap();
        let kib = line.split_whitespace().nth(1).unwrap();
        kib.parse::<u64>().unwrap() * 1024
    }

    /// Bytes resident that no file backs: anonymous and shared memory, from /proc.
    pub fn memory_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let kib = |name: &str| -> u64 {
            let line = status.lines().find(|l| l.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        (kib("RssAnon:") + kib("RssShmem:")) * 1024
    }

    /// Starts the process and sends to queue 0 until a send succeeds: how long that took.
    pub fn start_to_send_ok(&mut self, topic: &str) -> Duration {
        let from = Instant::now();
        self.start();
        let mut last = "no connection".to_owned();
        loop {
            assert!(self.is_alive(), "it ended instead of starting");
            assert!(
                from.elapsed() < Duration::from_mins(3),
                "no SEND_OK within three minutes, at last: {last}"
            );
            if let Ok(mut client) = Client::try_connect(self.broker()) {
                let fields = send_ext(topic, 0, &[], false);
                match client.try_call(code::SEND_V2, &fields, b"first") {
                    Ok(answer) if answer.code == reply::SUCCESS => return from.elapsed(),
                    Ok(answer) => last = format!("code {}: {}", answer.code, answer.remark),
                    Err(error) => last = error.to_string(),
                }
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// SIGKILL: nothing is said goodbye to.
    pub fn kill9(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// Asks it to stop with a signal (`INT`, `TERM`) and waits.
    pub fn stop(&mut self, signal: &str) -> ExitStatus {
        let mut child = self.child.take().unwrap();
        send_signal(child.id(), signal).unwrap();
        let end = Instant::now() + Duration::from_secs(STOP_SECONDS);
        loop {
            if let Some(status) = child.try_wait().unwrap() {
                return status;
            }
            if Instant::now() >= end {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("no stop within {STOP_SECONDS} s of {signal}");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The exit status, when the process ends by itself.
    pub fn ends_within(&mut self, seconds: u64) -> ExitStatus {
        let child = self.child.as_mut().unwrap();
        let status = until(seconds, "the process ends", || child.try_wait().unwrap());
        self.child = None;
        status
    }
}

/// Any signal by name, through kill(1): no unsafe code for a test.
pub fn send_signal(pid: u32, signal: &str) -> io::Result<()> {
    let status = Command::new("kill")
        .arg(format!("-{signal}"))
        .arg(pid.to_string())
        .status()?;
    if status.success() {
        Ok(())
    } else {
        Err(io::Error::other(format!("kill: {status}")))
    }
}

impl Drop for Gantry {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(LOG_LINES);
            eprintln!(
                "--- the end of {}:\n{}",
                self.log_path().display(),
                lines[from..].join("\n")
            );
        }
        if let Some(mut child) = self.child.take() {
            // An error means that it is gone already.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Runs `gantry ARGS` to its end: whether it succeeded, standard output, standard error.
pub fn run(args: &[&str], stdin: &[u8]) -> (bool, String, String) {
    use std::io::Write;
    let mut child = Command::new(binary())
        .args(args)
        .env_remove("NAMESRV_ADDR")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(stdin).unwrap();
    let out = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (out.status.success(), text(&out.stdout), text(&out.stderr))
}
