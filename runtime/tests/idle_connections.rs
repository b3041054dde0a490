//! What idle connections cost; alone in its process, because it looks at the whole process's
//! memory.

#![allow(
    clippy::unwrap_used,
    reason = "a test's helpers are outside of its functions"
)]

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::rc::Rc;
use std::time::Duration;

use gantry_protocol::frame::Frame;
use gantry_runtime::net::{Claim, FrameHandler, Net, NetOptions, PeerTable, Session};
use gantry_runtime::shard::{CorePlan, DataCores};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::unbound;

const CONNECTIONS: usize = 2_000;
const FRAME_BYTES: usize = 1_000;
/// 10,000 connections would hold 40 MiB at this.
const BYTES_EACH_MAX: usize = 4 * 1024;
/// CPU of the idle process over `IDLE`: 1 % of a core, the bound.
const IDLE: Duration = Duration::from_secs(3);
const IDLE_CPU_MAX: Duration = Duration::from_millis(30);

struct Echo;

impl FrameHandler for Echo {
    fn on_frames(self: &Rc<Self>, session: &Rc<Session>, frames: &mut Vec<Frame>) {
        for frame in frames.drain(..) {
            session.send(&whole_frame(frame.body.len()));
        }
    }

    fn on_close(self: &Rc<Self>, _session: &Rc<Session>) {}
}

fn whole_frame(body: usize) -> Vec<u8> {
    let mut frame = u32::try_from(body + 4).unwrap().to_be_bytes().to_vec();
    frame.resize(body + 8, 0);
    frame
}

#[test]
fn idle_connections_cost_little_memory_and_no_cpu() {
    gantry_runtime::probe::open_files();
    let shutdown = Shutdown::new();
    let (news, seen) = flume::bounded::<SocketAddr>(1);
    let plan = CorePlan::new(unbound(1));
    let cores = DataCores::start(&plan, &shutdown, vec![news], |core, news| async move {
        let peers = PeerTable::new(core.index);
        let net = Net::new(&core, NetOptions::default(), Rc::new(Echo), peers);
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        news.send(net.listen(any, Claim::First).unwrap()).unwrap();
        core.shutdown.wait().await;
        assert_eq!(net.peers().len(), CONNECTIONS);
        net.close(Duration::from_secs(5)).await;
        assert!(net.peers().is_empty());
    })
    .unwrap();
    let addr = seen.recv().unwrap();
    let ping = whole_frame(FRAME_BYTES);
    let ask = |client: &mut TcpStream| {
        client.write_all(&ping).unwrap();
        client.read_exact(&mut vec![0; ping.len()]).unwrap();
    };
    // The first connection pays for what all share.
    ask(&mut TcpStream::connect(addr).unwrap());
    let before = resident_bytes();
    let mut clients: Vec<_> = (0..CONNECTIONS)
        .map(|_| TcpStream::connect(addr).unwrap())
        .collect();
    clients.iter_mut().for_each(ask);
    // Long enough for the sweep to take the out buffers back.
    std::thread::sleep(Duration::from_millis(2_500));
    let each = resident_bytes().saturating_sub(before) / clients.len();
    println!("{each} bytes a connection");
    assert!(each < BYTES_EACH_MAX, "{each} bytes a connection");
    let begin = cpu();
    std::thread::sleep(IDLE);
    let idle = cpu().saturating_sub(begin);
    println!("{idle:?} of CPU in {IDLE:?}");
    assert!(idle < IDLE_CPU_MAX, "{idle:?} of CPU in {IDLE:?}");
    shutdown.ask("done");
    assert!(cores.join().is_empty());
}

fn resident_bytes() -> usize {
    let text = std::fs::read_to_string("/proc/self/statm").unwrap();
    text.split_whitespace()
        .nth(1)
        .unwrap()
        .parse::<usize>()
        .unwrap()
        * 4096
}

fn cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(
        time.tv_sec.cast_unsigned(),
        u32::try_from(time.tv_nsec).unwrap(),
    )
}
