use std::io::{Read as _, Write as _};

use super::*;

/// A port of its own that somebody listens at.
fn taken() -> (TcpListener, u16) {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    (listener, port)
}

#[test]
fn the_last_of_the_ports_is_a_port() {
    for port in [0, 65_506, u16::MAX] {
        let error = check_first(port).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("--port = {port}: 1 to 65505")),
            "{error}"
        );
    }
    check_first(1).unwrap();
    check_first(65_505).unwrap();
    assert!(ALL.iter().all(|port| *port <= GANTRY_BROKER));
}

#[test]
fn a_port_that_somebody_has_is_named() {
    let (listener, port) = taken();
    let first = port - GANTRY_BROKER;
    let error = await_free(first, &[GANTRY_BROKER], Duration::ZERO).unwrap_err();
    let error = error.to_string();
    let own = std::process::id();
    assert!(
        error.contains(&format!("port {port} is not free")),
        "{error}"
    );
    assert!(error.contains(&format!("process {own}")), "{error}");
    // One that is let go while it is waited for is free.
    let holder = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(100));
        drop(listener);
    });
    await_free(first, &[GANTRY_BROKER], FREE_LIMIT).unwrap();
    holder.join().unwrap();
}

#[test]
fn what_answers_is_the_process_that_was_started() {
    let (listener, port) = taken();
    let addr = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    let own = std::process::id();
    check_answerer("gantry", addr, Some(own)).unwrap();
    let error = check_answerer("gantry", addr, Some(1))
        .unwrap_err()
        .to_string();
    let told = format!("gantry: process {own} answers at {addr}, process 1 was started");
    assert_eq!(error, told);
    check_answerer("gantry", addr, None).unwrap_err();
    drop(listener);
    check_answerer("gantry", addr, Some(own)).unwrap_err();
}

/// Answers every send with `SEND_OK`, one connection after the other, until dropped.
pub fn answering() -> SocketAddr {
    let (listener, port) = taken();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut length = [0; 4];
            if stream.read_exact(&mut length).is_err() {
                continue;
            }
            let mut frame = vec![0; u32::from_be_bytes(length) as usize];
            stream.read_exact(&mut frame).unwrap();
            let mut out = bytes::BytesMut::new();
            let request = Request::request(codes::SEND_MESSAGE_V2, 0);
            let reply = Request::reply_to(&request, 0);
            reply.encode(&mut out).unwrap();
            stream.write_all(&out).unwrap();
        }
    });
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

#[test]
fn a_first_send_is_answered() {
    assert!(first_send(answering()));
    let (listener, port) = taken();
    drop(listener);
    assert!(!first_send(SocketAddr::from((Ipv4Addr::LOCALHOST, port))));
}
