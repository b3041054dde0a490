//! Clients that ask for much and read nothing.
use std::io::{Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use bytes::BytesMut;
use gantry_protocol::Command;
use gantry_protocol::code::{request, response};
use gantry_protocol::frame::take_frame;

use super::*;

const REPLIES_BYTES: usize = 4 << 20;
const VALUES_COUNT: usize = 100;

/// A name server that knows 100 KiB of values.
fn name_server(folder: &std::path::Path, replies: &Arc<SharedBudget>) -> Running {
    let mut values = config::values();
    let path = |name: &str| folder.join(name).display().to_string();
    for (key, value) in [
        ("bindAddress", "127.0.0.1".to_owned()),
        ("listenPort", "0".to_owned()),
        ("kvConfigPath", path("kvConfig.json")),
        ("configStorePath", path("namesrv.properties")),
    ] {
        values.give(key, &value, Origin::Set);
    }
    let settings = config::plan(&mut values).unwrap().settings;
    let process = Shutdown::new();
    let held = hold(settings.listen, &process).unwrap();
    let running = start(settings, &held, Arc::clone(replies), &process).unwrap();
    let mut client = client(&running);
    for n in 0..VALUES_COUNT {
        let (key, value) = (n.to_string(), "v".repeat(1024));
        let put = Command::request(request::PUT_KV_CONFIG, 1)
            .with_ext("namespace", "S")
            .with_ext("key", &*key)
            .with_ext("value", &*value);
        assert_eq!(ask(&mut client, &put), response::SUCCESS);
    }
    running
}

fn client(running: &Running) -> TcpStream {
    let stream = TcpStream::connect(running.address).unwrap();
    // All that was asked before is answered first.
    let limit = Some(Duration::from_secs(30));
    stream.set_read_timeout(limit).unwrap();
    stream.set_write_timeout(limit).unwrap();
    stream
}

fn frame(command: &Command) -> BytesMut {
    let mut out = BytesMut::new();
    command.encode(&mut out).unwrap();
    out
}

/// Asks; the answer's code.
fn ask(client: &mut TcpStream, command: &Command) -> i32 {
    client.write_all(&frame(command)).unwrap();
    let mut word = [0; 4];
    client.read_exact(&mut word).unwrap();
    let mut rest = vec![0; u32::from_be_bytes(word) as usize];
    client.read_exact(&mut rest).unwrap();
    let mut buffer = BytesMut::from(&[&word[..], &rest].concat()[..]);
    let frame = take_frame(&mut buffer).unwrap().unwrap();
    Command::from_frame(&frame).unwrap().code
}

#[test]
fn answers_that_nobody_reads_have_a_common_bound() {
    let folder = tempfile::tempdir().unwrap();
    let replies = SharedBudget::new(REPLIES_BYTES);
    let running = name_server(folder.path(), &replies);
    let list = Command::request(request::GET_KVLIST_BY_NAMESPACE, 2).with_ext("namespace", "S");
    let small = Command::request(request::GET_KV_CONFIG, 3)
        .with_ext("namespace", "S")
        .with_ext("key", "1");
    // Worth 10 MiB each, of which the sockets hold some.
    let greedy: Vec<TcpStream> = (0..20)
        .map(|_| {
            let mut client = client(&running);
            client.write_all(&frame(&list).repeat(100)).unwrap();
            client
        })
        .collect();
    let is_over = Arc::new(AtomicBool::new(false));
    let (seen, over) = (Arc::clone(&replies), Arc::clone(&is_over));
    let watching = std::thread::spawn(move || {
        let mut most = 0;
        while !over.load(Ordering::Relaxed) {
            most = most.max(seen.used());
            std::thread::sleep(Duration::from_micros(100));
        }
        most
    });
    let mut reader = client(&running);
    for _ in 0..20 {
        assert_eq!(ask(&mut reader, &small), response::SUCCESS);
    }
    is_over.store(true, Ordering::Relaxed);
    let most = watching.join().unwrap();
    assert!(most > REPLIES_BYTES / 2, "{most} bytes: nothing was short");
    // A buffer takes up to twice of what is in it.
    assert!(most < 3 * REPLIES_BYTES, "{most} bytes");
    // Those who read nothing were closed, and large answers are given again.
    let end = Instant::now() + Duration::from_secs(10);
    while ask(&mut reader, &list) != response::SUCCESS {
        assert!(Instant::now() < end, "{} bytes wait", replies.used());
        std::thread::sleep(Duration::from_millis(50));
    }
    drop(greedy);
    running.stop(&mut StopReport::new());
}
