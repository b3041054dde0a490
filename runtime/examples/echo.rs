//! What a session costs: pipelined 1 KiB frames in, 200-byte replies out, 4 connections x 64.
//!
//! `cargo run --release -p gantry-runtime --example echo [seconds]` prints messages per second and
//! the data core's CPU microseconds per message.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use gantry_protocol::frame::Frame;
use gantry_runtime::net::{Claim, FrameHandler, Net, NetOptions, PeerTable, Session};
use gantry_runtime::shard::{CorePlan, DataCores};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::unbound;

const CONNECTIONS: usize = 4;
const IN_FLIGHT: usize = 64;
const REQUEST_BODY: usize = 1024;
const REPLY: usize = 200;

struct Answer {
    reply: Vec<u8>,
}

impl FrameHandler for Answer {
    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>) {
        let mut out = session.out();
        for _ in frames.drain(..) {
            out.extend_from_slice(&self.reply);
        }
        drop(out);
        session.flush_soon();
    }

    fn on_close(self: &Rc<Self>, _session: &Rc<Session>) {}
}

fn frame(bytes: usize) -> Vec<u8> {
    let mut frame = u32::try_from(bytes - 4).unwrap_or(0).to_be_bytes().to_vec();
    frame.resize(bytes, 0);
    frame
}

fn main() {
    let seconds = std::env::args()
        .nth(1)
        .and_then(|text| text.parse().ok())
        .unwrap_or(3);
    let shutdown = Shutdown::new();
    let (news, seen) = flume::bounded::<SocketAddr>(1);
    let (report, reported) = flume::bounded(1);
    let plan = CorePlan::new(unbound(1));
    let cores = DataCores::start(
        &plan,
        &shutdown,
        vec![(news, report)],
        |core, (news, report)| async move {
            let handler = Rc::new(Answer {
                reply: frame(REPLY),
            });
            let net = Net::new(
                &core,
                NetOptions::default(),
                handler,
                PeerTable::new(core.index),
            );
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let addr = net
                .listen(any, Claim::First)
                .expect("loopback has a free port");
            news.send(addr).expect("main waits");
            core.shutdown.wait().await;
            let cpu = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
            let counts = core.metrics.counts();
            report
                .send((cpu.tv_sec * 1_000_000 + cpu.tv_nsec / 1000, counts))
                .expect("main waits");
        },
    )
    .expect("a core");
    let addr = seen.recv().expect("an address");
    let stop = Arc::new(AtomicBool::new(false));
    let total = Arc::new(AtomicU64::new(0));
    let begin = Instant::now();
    let clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| {
            let (stop, total) = (Arc::clone(&stop), Arc::clone(&total));
            std::thread::spawn(move || drive(addr, &stop, &total))
        })
        .collect();
    std::thread::sleep(Duration::from_secs(seconds));
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.join().expect("no panic").expect("no error");
    }
    let took = begin.elapsed().as_secs_f64();
    shutdown.ask("done");
    let (cpu_us, counts) = reported.recv().expect("a report");
    drop(cores.join());
    let messages = total.load(Ordering::Relaxed);
    #[allow(clippy::cast_precision_loss, reason = "figures for a reader")]
    let per = |value: u64| value as f64 / messages as f64;
    println!(
        "{messages} messages, {:.0}/s, {:.2} CPU us each, {:.4} reads and {:.4} writes each",
        1.0 / per(1) / took,
        per(u64::try_from(cpu_us).unwrap_or(0)),
        per(counts.reads),
        per(counts.writes),
    );
}

fn drive(addr: SocketAddr, stop: &AtomicBool, total: &AtomicU64) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(addr)?;
    stream.set_nodelay(true)?;
    let one = frame(8 + REQUEST_BODY);
    let many: Vec<u8> = one
        .iter()
        .copied()
        .cycle()
        .take(one.len() * IN_FLIGHT)
        .collect();
    stream.write_all(&many)?;
    let mut buffer = vec![0; REPLY * IN_FLIGHT];
    let (mut odd, mut done) = (0, 0);
    while !stop.load(Ordering::Relaxed) {
        let got = odd + stream.read(&mut buffer)?;
        let answers = got / REPLY;
        odd = got % REPLY;
        done += answers as u64;
        stream.write_all(many.get(..answers * one.len()).unwrap_or_default())?;
    }
    total.fetch_add(done, Ordering::Relaxed);
    Ok(())
}
