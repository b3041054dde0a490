//! Every task of the network that may keep its core is a stall under its own name.
use std::io::Read as _;
use std::net::TcpStream;

use super::*;
use crate::metrics::Snapshot;
use crate::shard::{CorePlan, DataCores};
use crate::shutdown::Shutdown;
use crate::topology::unbound;

/// More than a session and a socket hold: its rest waits for a reader.
const LARGE_BYTES: usize = 32 << 20;

/// Sends a lot to whoever comes.
struct Flood;

impl FrameHandler for Flood {
    fn on_open(self: &Rc<Self>, session: &Rc<Session>) {
        session.send(&vec![0; LARGE_BYTES]);
    }

    fn on_frames(self: &Rc<Self>, _: &Rc<Session>, _: &mut Vec<Frame>) {}

    fn on_close(self: &Rc<Self>, _: &Rc<Session>) {}
}

type Seat = (flume::Sender<SocketAddr>, flume::Sender<Snapshot>);

/// Each reading of the clock takes 2 ms, so each turn that is watched is a stall.
#[test]
fn accepting_sweeping_and_draining_are_watched() {
    let shutdown = Shutdown::new();
    let (news, seen) = flume::bounded(1);
    let (told, telling) = flume::bounded(1);
    let cores = DataCores::start(
        &CorePlan::new(unbound(1)),
        &shutdown,
        vec![(news, told)],
        |core, (news, told): Seat| async move {
            core.metrics.profile().begin(core.clock.mono_us_now());
            core.clock.step_us.set(2_000);
            let peers = PeerTable::new(core.index);
            let net = Net::new(&core, NetOptions::default(), Rc::new(Flood), peers);
            let any = "127.0.0.1:0".parse().unwrap();
            news.send(net.listen(any, Claim::First).unwrap()).unwrap();
            core.shutdown.wait().await;
            let snapshot = core.metrics.profile().snapshot(core.clock.mono_us_now());
            told.send(snapshot.unwrap()).unwrap();
        },
    )
    .unwrap();
    let mut client = TcpStream::connect(seen.recv().unwrap()).unwrap();
    std::thread::sleep(Duration::from_millis(2 * RELIEVE_MS));
    client.read_exact(&mut vec![0; LARGE_BYTES]).unwrap();
    std::thread::sleep(Duration::from_millis(2 * RELIEVE_MS));
    shutdown.ask("seen");
    assert!(cores.join().is_empty());
    let rooms = telling.recv().unwrap().stalls.rooms;
    for name in ["net/listener", "net/sweep", "net/writer (slow readers)"] {
        assert!(
            rooms.iter().any(|room| room.room == name),
            "{name}: {rooms:?}"
        );
    }
}
