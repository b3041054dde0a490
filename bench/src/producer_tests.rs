use std::io::Write as _;
use std::net::TcpListener;
use std::time::Instant;

use glommio::{LocalExecutorBuilder, Placement};

use super::*;
use crate::ledger::Expect;
use crate::recorder::Counts;
use crate::wire::templates::{Flavour, SendShape};

const SENDS: usize = 3;

/// A broker that answers a send after each `pause`, so many of them and then nothing.
fn broker(pause: Duration, answers: usize) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        for opaque in (OPAQUE_BASE..).take(answers) {
            std::thread::sleep(pause);
            let header = format!("{{\"code\":0,\"flag\":1,\"opaque\":{opaque}}}");
            let length = u32::try_from(header.len()).unwrap();
            let head = [(length + 4).to_be_bytes(), length.to_be_bytes()].concat();
            stream
                .write_all(&[&head, header.as_bytes()].concat())
                .unwrap();
        }
        // Until the other side has gone.
        std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
    });
    addr
}

/// What a connection counted that had all its sends in flight at once.
fn counted(addr: SocketAddr) -> Counts {
    let sending = move || async move {
        let (notes, _heard) = std::sync::mpsc::channel();
        let recorder = Recorder::new(Duration::ZERO, None, notes);
        let shape = SendShape {
            topics: vec!["T".to_owned()],
            queues: 1,
            size: 100,
            batch: 1,
            encoding: HeaderEncoding::Json,
            one_way: false,
            flavour: Flavour::Plain,
            run: 5,
        };
        let shared = Shared {
            recorder: Rc::clone(&recorder),
            ledger: Rc::new(RefCell::new(Ledger::new(Expect::ThisRun(5), 0, 1))),
            frames_left: Rc::new(Cell::new(SENDS as u64)),
        };
        let drive = Drive {
            addr,
            stream: 0,
            in_flight: SENDS,
            rate: None,
            phase_ns: 0,
            one_way: false,
            groups: 0,
            delay: Duration::ZERO,
            commit_to: None,
        };
        produce(drive, SendTemplate::new(&shape, 0), shared)
            .await
            .unwrap();
        recorder.totals()
    };
    let executor = LocalExecutorBuilder::new(Placement::Unbound).spawn(sending);
    executor.unwrap().join().unwrap()
}

#[test]
fn a_slow_broker_is_waited_for_as_long_as_it_answers() {
    let since = Instant::now();
    let counts = counted(broker(DRAIN_LIMIT * 6 / 10, SENDS));
    assert!(since.elapsed() > DRAIN_LIMIT, "{:?}", since.elapsed());
    assert_eq!((counts.acknowledged, counts.errors.len()), (3, 0));
}

#[test]
fn replies_that_never_come_are_given_up() {
    let counts = counted(broker(DRAIN_LIMIT / 10, 1));
    assert_eq!(counts.acknowledged, 1);
    assert_eq!(counts.errors, [(NO_REPLY, 2)].into());
}
