//! What a backlog costs: a raw sequential direct reader of the log's files against pulls of the same
//! bytes, and the latency of tail pulls beside them.
//!
//! `cargo run --release -p gantry-bench --example backlog -- raw SHARD-FOLDER`
//! `... -- pull BROKER TOPIC FIRST-QUEUE QUEUES PASSES`, one connection and one pull in flight a queue
//! `... -- tail BROKER TOPIC QUEUE PER-SECOND SECONDS`, send to seen by a waiting pull

use std::fs::{self, OpenOptions};
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::BytesMut;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;
use gantry_protocol::message::RecordIter;

type Outcome<T> = Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// `O_DIRECT` on x86-64.
const DIRECT: i32 = 0o40_000;
const BLOCK: usize = 1 << 20;
const ALIGN: usize = 4096;

fn main() -> Outcome<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args.as_slice() {
        ["raw", folder] => raw(Path::new(folder)),
        ["pull", broker, topic, first, queues, passes] => {
            let (first, queues) = (first.parse()?, queues.parse()?);
            pull(broker.parse()?, topic, (first, queues), passes.parse()?)
        }
        ["tail", broker, topic, queue, rate, seconds] => {
            let (rate, seconds) = (rate.parse()?, seconds.parse()?);
            tail(broker.parse()?, topic, queue.parse()?, rate, seconds)
        }
        _ => Err("see the head of this file".into()),
    }
}

/// Reads every segment front to back, 1 MiB at a time, past the page cache. A block of zeros ends a
/// segment: it was reserved and never written, so reading it would not reach the device.
fn raw(folder: &Path) -> Outcome<()> {
    let mut space = vec![0_u8; BLOCK + ALIGN];
    let skip = space.as_ptr().align_offset(ALIGN);
    let block = space
        .get_mut(skip..skip + BLOCK)
        .ok_or("no aligned block")?;
    let (from, mut bytes) = (Instant::now(), 0_u64);
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "log") {
            continue;
        }
        let mut options = OpenOptions::new();
        let mut file = options.read(true).custom_flags(DIRECT).open(path)?;
        loop {
            let read = file.read(block)?;
            let is_written = block.iter().take(read).any(|byte| *byte != 0);
            if !is_written {
                break;
            }
            bytes += read as u64;
        }
    }
    report("raw", bytes, from.elapsed());
    Ok(())
}

#[allow(clippy::cast_precision_loss, reason = "a figure for people")]
fn report(what: &str, bytes: u64, took: Duration) {
    let mib = bytes as f64 / f64::from(1 << 20);
    println!(
        "{what}: {mib:.0} MiB in {took:.2?}, {:.0} MiB/s",
        mib / took.as_secs_f64()
    );
}

struct Client {
    stream: TcpStream,
    input: BytesMut,
    chunk: Vec<u8>,
}

impl Client {
    fn new(broker: SocketAddr) -> Outcome<Self> {
        let stream = TcpStream::connect(broker)?;
        stream.set_nodelay(true)?;
        let (input, chunk) = (BytesMut::new(), vec![0; 512 << 10]);
        Ok(Self {
            stream,
            input,
            chunk,
        })
    }

    fn call(&mut self, code: i32, ext: &[(&str, &str)], body: &[u8]) -> Outcome<Command> {
        let mut request = Command::request(code, 1);
        let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        request.ext = Some(ext.iter().map(owned).collect());
        request.body = body.to_vec().into();
        let mut out = BytesMut::new();
        request.encode(&mut out)?;
        self.stream.write_all(&out)?;
        loop {
            if let Some(frame) = take_frame(&mut self.input)? {
                return Ok(Command::from_frame(&frame)?);
            }
            let read = self.stream.read(&mut self.chunk)?;
            if read == 0 {
                return Err("the broker closed the connection".into());
            }
            self.input
                .extend_from_slice(self.chunk.get(..read).unwrap_or_default());
        }
    }

    fn pull(&mut self, topic: &str, queue: u32, offset: i64, wait_ms: u32) -> Outcome<Command> {
        let (queue, offset, wait) = (queue.to_string(), offset.to_string(), wait_ms.to_string());
        let flag = if wait_ms > 0 { "6" } else { "4" };
        let ext = [
            ("consumerGroup", "gantry_backlog"),
            ("topic", topic),
            ("queueId", queue.as_str()),
            ("queueOffset", offset.as_str()),
            ("maxMsgNums", "32"),
            ("sysFlag", flag),
            ("commitOffset", "0"),
            ("suspendTimeoutMillis", wait.as_str()),
            ("subscription", "*"),
            ("subVersion", "0"),
        ];
        self.call(codes::PULL_MESSAGE, &ext, b"")
    }
}

fn number(reply: &Command, name: &str) -> Outcome<i64> {
    let found = reply.ext.iter().flatten().find(|(key, _)| key == name);
    let (_, value) = found.ok_or("a field is missing")?;
    Ok(value.parse()?)
}

fn pull(broker: SocketAddr, topic: &str, (first, queues): (u32, u32), passes: u32) -> Outcome<()> {
    for _ in 0..passes {
        let from = Instant::now();
        let threads: Vec<_> = (first..first + queues)
            .map(|queue| {
                let topic = topic.to_owned();
                std::thread::spawn(move || drain(broker, &topic, queue))
            })
            .collect();
        let mut bytes = 0;
        for thread in threads {
            bytes += thread.join().map_err(|_| "a reader panicked")??;
        }
        report("pull", bytes, from.elapsed());
    }
    Ok(())
}

/// Reads a queue to its end; bytes of records.
fn drain(broker: SocketAddr, topic: &str, queue: u32) -> Outcome<u64> {
    let mut client = Client::new(broker)?;
    let (mut offset, mut bytes) = (0, 0);
    loop {
        let reply = client.pull(topic, queue, offset, 0)?;
        bytes += reply.body.len() as u64;
        match reply.code {
            0 | 20 | 21 => offset = number(&reply, "nextBeginOffset")?,
            19 => return Ok(bytes),
            code => return Err(format!("code {code}: {:?}", reply.remark).into()),
        }
    }
}

fn now_us() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.map_or(0, |now| u64::try_from(now.as_micros()).unwrap_or(u64::MAX))
}

/// A producer at a fixed rate and a consumer that waits: how long from send to seen.
fn tail(broker: SocketAddr, topic: &str, queue: u32, rate: u64, seconds: u64) -> Outcome<()> {
    let mut client = Client::new(broker)?;
    let (id, name) = (queue.to_string(), topic.to_owned());
    let max = client.call(
        codes::GET_MAX_OFFSET,
        &[("topic", topic), ("queueId", &id)],
        b"",
    )?;
    let mut offset = number(&max, "offset")?;
    let producer = std::thread::spawn(move || send_at(broker, &name, &id, rate, seconds));
    let (mut latencies, from) = (Vec::new(), Instant::now());
    while from.elapsed() < Duration::from_secs(seconds) {
        let reply = client.pull(topic, queue, offset, 1000)?;
        let seen = now_us();
        if reply.code == 0 {
            for record in RecordIter::new(&reply.body) {
                let sent: [u8; 8] = record?.body.get(..8).ok_or("short")?.try_into()?;
                latencies.push(seen.saturating_sub(u64::from_be_bytes(sent)));
            }
            offset = number(&reply, "nextBeginOffset")?;
        }
    }
    producer.join().map_err(|_| "the producer panicked")??;
    latencies.sort_unstable();
    let at = |part: usize| {
        latencies
            .get(latencies.len() * part / 1000)
            .copied()
            .unwrap_or(0)
    };
    let (p50, p99, p999) = (at(500), at(990), at(999));
    println!(
        "tail: {} messages, µs p50 {p50} p99 {p99} p99.9 {p999}",
        latencies.len()
    );
    Ok(())
}

fn send_at(broker: SocketAddr, topic: &str, queue: &str, rate: u64, seconds: u64) -> Outcome<()> {
    let mut client = Client::new(broker)?;
    let (from, mut body) = (Instant::now(), vec![b't'; 1024]);
    for n in 0..rate * seconds {
        let due = Duration::from_micros(n * 1_000_000 / rate.max(1));
        std::thread::sleep(due.saturating_sub(from.elapsed()));
        if let Some(head) = body.get_mut(..8) {
            head.copy_from_slice(&now_us().to_be_bytes());
        }
        let ext = [
            ("a", "gantry_backlog"),
            ("b", topic),
            ("c", "TBW102"),
            ("d", "4"),
            ("e", queue),
            ("f", "0"),
            ("g", "1700000000000"),
            ("h", "0"),
            ("j", "0"),
            ("k", "false"),
            ("m", "false"),
        ];
        let reply = client.call(codes::SEND_MESSAGE_V2, &ext, &body)?;
        if reply.code != 0 {
            return Err(format!("send: code {}", reply.code).into());
        }
    }
    Ok(())
}
