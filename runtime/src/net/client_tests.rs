use std::io::{Read, Write};

use super::*;

/// A peer on a thread: hands each command to `answer` and writes what it gives.
fn peer(
    answer: impl Fn(Command) -> Vec<Command> + Send + 'static,
) -> (SocketAddr, std::thread::JoinHandle<usize>) {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut buffer = BytesMut::new();
        let mut seen = 0;
        let mut piece = [0; 4096];
        loop {
            match stream.read(&mut piece) {
                Ok(0) | Err(_) => return seen,
                Ok(n) => buffer.extend_from_slice(&piece[..n]),
            }
            while let Some(frame) = frame::take_frame(&mut buffer).unwrap() {
                seen += 1;
                for command in answer(Command::from_frame(&frame).unwrap()) {
                    if command.code == BYE {
                        return seen;
                    }
                    let mut out = BytesMut::new();
                    command.encode(&mut out).unwrap();
                    stream.write_all(&out).unwrap();
                }
            }
        }
    });
    (addr, thread)
}

const BYE: i32 = 999;
const LIMIT: Duration = Duration::from_secs(10);

fn run(act: impl Future<Output = ()>) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(act);
}

#[test]
fn calls_pushes_and_one_ways() {
    let (addr, thread) = peer(|command| {
        if command.is_oneway() {
            return vec![Command::request(40, 7).one_way(), Command::request(41, 8)];
        }
        let body = command.body.clone();
        vec![Command::reply_to(&command, command.code + 1).with_body(body)]
    });
    run(async move {
        let (client, mut pushes) = Client::connect(addr, LIMIT).await.unwrap();
        let calls = (0..200_i32).map(|n| {
            let client = client.clone();
            tokio::spawn(async move {
                let command = Command::request(n, 0).with_body(vec![7; 3000]);
                let reply = client.call(command, LIMIT).await.unwrap();
                assert_eq!((reply.code, reply.body.len()), (n + 1, 3000));
            })
        });
        for call in calls.collect::<Vec<_>>() {
            call.await.unwrap();
        }
        assert!(
            futures_lite::future::poll_once(pushes.next())
                .await
                .is_none()
        );
        client.one_way(Command::request(3, 0)).await.unwrap();
        assert_eq!(pushes.next().await.unwrap().code, 40);
        let question = pushes.next().await.unwrap();
        assert_eq!((question.code, question.opaque), (41, 8));
        assert!(client.is_open());
        drop(client);
        assert!(pushes.next().await.is_none());
    });
    assert_eq!(thread.join().unwrap(), 201);
}

#[test]
fn every_call_ends() {
    let (addr, thread) = peer(|command| {
        if command.code == 5 {
            vec![Command::request(BYE, 0)]
        } else {
            vec![]
        }
    });
    run(async move {
        let (client, mut pushes) = Client::connect(addr, LIMIT).await.unwrap();
        let short = Duration::from_millis(30);
        let late = client
            .call(Command::request(1, 0), short)
            .await
            .unwrap_err();
        assert_eq!(late, CallError::TimedOut { addr, limit: short });
        assert!(client.inner.calls().is_empty());
        let gone = client
            .call(Command::request(5, 0), LIMIT)
            .await
            .unwrap_err();
        assert_eq!(gone, CallError::Closed { addr });
        assert!(pushes.next().await.is_none());
        assert!(!client.is_open());
        let gone = client
            .call(Command::request(1, 0), LIMIT)
            .await
            .unwrap_err();
        assert_eq!(gone, CallError::Closed { addr });
    });
    thread.join().unwrap();
    run(async move {
        let refused = Client::connect(addr, LIMIT).await.unwrap_err();
        assert!(matches!(refused, CallError::Connect { .. }), "{refused}");
    });
}

/// A call that a peer never reads ends by its limit; its connection ends soon after its client.
#[test]
fn a_peer_that_does_not_read_keeps_no_connection() {
    const CLIENTS: usize = 4;
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    run(async move {
        let body = vec![7; 8 << 20];
        for _ in 0..CLIENTS {
            let (client, _) = Client::connect(addr, LIMIT).await.unwrap();
            let limit = Duration::from_millis(50);
            let call = Command::request(1, 0).with_body(body.clone());
            let late = client.call(call, limit).await.unwrap_err();
            assert_eq!(late, CallError::TimedOut { addr, limit });
        }
        tokio::time::sleep(LAST_WRITE * 2).await;
        for _ in 0..CLIENTS {
            let (mut stream, _) = listener.accept().unwrap();
            stream.set_read_timeout(Some(LIMIT)).unwrap();
            // What the sockets held, then the end in the midst of the frame.
            let held = std::io::copy(&mut stream, &mut std::io::sink()).unwrap();
            assert!(held < body.len() as u64, "{held} bytes");
        }
    });
}

/// What was given before the end still leaves.
#[test]
fn a_last_one_way_leaves() {
    let (addr, thread) = peer(|_| Vec::new());
    run(async move {
        let (client, _) = Client::connect(addr, LIMIT).await.unwrap();
        client.one_way(Command::request(1, 0)).await.unwrap();
        drop(client);
        let seen = tokio::task::spawn_blocking(|| thread.join().unwrap());
        assert_eq!(seen.await.unwrap(), 1);
    });
}

/// An address of this machine that nobody listens at.
fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

#[test]
fn every_address_of_a_name_is_tried() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let good = listener.local_addr().unwrap();
    run(async {
        let connected = Client::connect_any(&[nobody(), good], LIMIT).await;
        connected.map(drop).unwrap();
        let found = [nobody(), nobody()];
        let why = Client::connect_any(&found, LIMIT).await.map(drop);
        let why = why.unwrap_err();
        assert!(
            found.iter().all(|addr| why.contains(&addr.to_string())),
            "{why}"
        );
        let none = Client::connect_any(&[], LIMIT).await.map(drop);
        assert_eq!(none.unwrap_err(), "the name has no address");
    });
}
