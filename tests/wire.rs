//! Bad input and bad manners: the process lives, memory stays bounded, other clients do not notice.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use common::client::{encode, send_ext};
use common::{Client, Dice, Gantry, code, ext, reply};

/// A well-behaved client must get its answer within this while others misbehave.
const ANSWER_MS: u128 = 2_000;
/// What a mistreated server may hold more than before.
const RSS_GROWTH_BYTES: u64 = 96 << 20;

/// Sends and reads back one message on a fresh connection, in time.
fn still_serves(gantry: &mut Gantry) {
    let from = Instant::now();
    let mut client = gantry.client();
    let sent = client
        .send("wire-check", 0, b"still here", &[])
        .expect(reply::SUCCESS);
    let at = sent.number("queueOffset");
    let got = client.drain("wire-check", 0, at);
    assert_eq!(got[0].body, b"still here");
    assert!(gantry.namesrv_client().call(code::CLUSTER, &[], b"").code == reply::SUCCESS);
    let took = from.elapsed().as_millis();
    assert!(took < ANSWER_MS, "a good client waited {took} ms");
    assert!(gantry.is_alive());
}

fn started() -> Gantry {
    let gantry = Gantry::up(&[]);
    gantry.client().create_topic("wire-check", 1);
    gantry
}

fn ports(gantry: &Gantry) -> [SocketAddr; 3] {
    [gantry.broker(), gantry.vip(), gantry.namesrv()]
}

/// Throws bytes at a port and reads until the server closes or says nothing for a moment.
fn throw(addr: SocketAddr, bytes: &[u8]) {
    let mut stream = TcpStream::connect(addr).unwrap();
    stream
        .set_read_timeout(Some(Duration::from_millis(50)))
        .unwrap();
    // The server may close while these are still being written.
    let _ = stream.write_all(bytes);
    let mut chunk = [0; 4096];
    while matches!(stream.read(&mut chunk), Ok(n) if n > 0) {}
}

#[test]
fn random_bytes_on_every_port() {
    let mut gantry = started();
    let mut dice = Dice(7);
    let before = gantry.rss_bytes();
    for round in 0..60 {
        for addr in ports(&gantry) {
            let len = [1, 3, 5, 64, 4096, 70_000][round % 6];
            let bytes = dice.bytes(len);
            throw(addr, &bytes);
        }
    }
    still_serves(&mut gantry);
    let grown = gantry.rss_bytes().saturating_sub(before);
    assert!(grown < RSS_GROWTH_BYTES, "{grown} bytes more");
}

#[test]
fn bit_flips_in_good_frames() {
    let mut gantry = started();
    let mut dice = Dice(11);
    let good = encode(
        code::SEND_V2,
        5,
        0,
        &send_ext("wire-check", 0, &[], false),
        b"body",
    );
    for _ in 0..150 {
        let mut bytes = good.clone();
        for _ in 0..=dice.below(3) {
            let at = dice.below(bytes.len());
            bytes[at] ^= 1 << dice.below(8);
        }
        throw(gantry.broker(), &bytes);
    }
    still_serves(&mut gantry);
}

#[test]
fn a_frame_length_of_two_gib_closes_the_connection() {
    let mut gantry = started();
    let before = gantry.rss_bytes();
    for addr in ports(&gantry) {
        for len in [0x8000_0000_u32, 0x7FFF_FFFF, 0xFFFF_FFFF, 0x0200_0000] {
            let mut client = Client::connect(addr);
            client.stream().write_all(&len.to_be_bytes()).unwrap();
            client.stream().write_all(&[0; 64]).unwrap();
            assert!(
                client.closes_within(5),
                "{addr}: a frame of {len} bytes is waited for"
            );
        }
    }
    still_serves(&mut gantry);
    let grown = gantry.rss_bytes().saturating_sub(before);
    assert!(grown < RSS_GROWTH_BYTES, "{grown} bytes more");
}

#[test]
fn a_header_that_lies_about_its_length() {
    let mut gantry = started();
    let good = encode(code::CLUSTER, 1, 0, &[], b"");
    for addr in ports(&gantry) {
        for lie in [0_u32, 1, 0x00FF_FFFF, 0x0100_FFFF, 0x0000_7FFF, 0x5500_0010] {
            let mut bytes = good.clone();
            bytes[4..8].copy_from_slice(&lie.to_be_bytes());
            throw(addr, &bytes);
        }
        // A frame shorter than its own header word.
        throw(addr, &[0, 0, 0, 3, 0, 0, 0, 0]);
        throw(addr, &[0, 0, 0, 0, 0, 0, 0, 0]);
    }
    still_serves(&mut gantry);
}

#[test]
fn half_a_frame_then_silence_holds_nobody_up() {
    let mut gantry = started();
    let before = gantry.rss_bytes();
    // 200 connections promise 16 MB each: together more than the machine has.
    let mut silent = Vec::new();
    for n in 0..200 {
        let addr = ports(&gantry)[n % 3];
        let mut stream = TcpStream::connect(addr).unwrap();
        stream.write_all(&0x00F0_0000_u32.to_be_bytes()).unwrap();
        stream.write_all(&[0, 0, 1, 0, b'{']).unwrap();
        silent.push(stream);
    }
    still_serves(&mut gantry);
    let grown = gantry.rss_bytes().saturating_sub(before);
    assert!(grown < RSS_GROWTH_BYTES, "{grown} bytes more for promises");
    // The rest of the frame still counts when it comes: an unfinished frame is not an error.
    let mut late = gantry.client();
    let frame = encode(
        code::SEND_V2,
        1,
        0,
        &send_ext("wire-check", 0, &[], false),
        b"late",
    );
    late.stream().write_all(&frame[..30]).unwrap();
    std::thread::sleep(Duration::from_millis(300));
    late.stream().write_all(&frame[30..]).unwrap();
    late.next_reply().unwrap().expect(reply::SUCCESS);
}

#[test]
fn frames_come_in_any_pieces() {
    let gantry = started();
    let mut client = gantry.client();
    let mut bytes = Vec::new();
    for n in 1..=20 {
        bytes.extend(encode(
            code::SEND_V2,
            n,
            0,
            &send_ext("wire-check", 0, &[], false),
            b"piece",
        ));
    }
    let mut dice = Dice(3);
    let mut rest = &bytes[..];
    while !rest.is_empty() {
        let n = (1 + dice.below(97)).min(rest.len());
        client.stream().write_all(&rest[..n]).unwrap();
        rest = &rest[n..];
    }
    let mut opaques: Vec<i32> = (0..20)
        .map(|_| client.next_reply().unwrap().expect(reply::SUCCESS).opaque)
        .collect();
    opaques.sort_unstable();
    assert_eq!(opaques, (1..=20).collect::<Vec<i32>>());
}

#[test]
fn trap_15_an_unknown_code_is_named_in_the_refusal() {
    let gantry = started();
    for addr in ports(&gantry) {
        let mut client = Client::connect(addr);
        let answer = client.call(31_337, &[], b"").expect(reply::NOT_SUPPORTED);
        assert!(
            answer.remark.contains("31337"),
            "remark '{}'",
            answer.remark
        );
        // A one-way request gets no answer, not even this one.
        client.post_oneway(31_338, &[], b"");
        let next = client.call(31_339, &[], b"").expect(reply::NOT_SUPPORTED);
        assert!(next.remark.contains("31339"), "remark '{}'", next.remark);
    }
}

#[test]
fn missing_and_malformed_fields_are_refused_by_an_answer() {
    let mut gantry = started();
    let mut client = gantry.client();
    let codes = [
        code::SEND,
        code::SEND_V2,
        code::SEND_BATCH,
        code::PULL,
        code::QUERY_CONSUMER_OFFSET,
        code::UPDATE_CONSUMER_OFFSET,
        code::MAX_OFFSET,
        code::HEART_BEAT,
        code::LOCK_BATCH,
        code::CREATE_TOPIC,
        code::VIEW_MESSAGE,
        code::QUERY_MESSAGE,
    ];
    let mut dice = Dice(5);
    for code in codes {
        let answer = client.call(code, &[], b"");
        assert_ne!(
            answer.code,
            reply::SUCCESS,
            "code {code} with nothing in it"
        );
        let odd = ext(&[
            ("topic", "wire-check"),
            ("queueId", "x"),
            ("e", "99999999999"),
            ("b", ""),
        ]);
        let answer = client.call(code, &odd, &dice.bytes(100));
        assert_ne!(answer.code, reply::SUCCESS, "code {code} with odd fields");
    }
    still_serves(&mut gantry);
}

#[test]
fn traps_8_96_101_103_numbers_a_newline_and_empty_keys_are_read() {
    let gantry = started();
    let mut client = gantry.client();
    // As the C++ client writes: numbers instead of strings, an unknown language, a newline behind
    // the header.
    let header = concat!(
        r#"{"code":310,"language":"CPP","version":79,"opaque":9,"flag":0,"remark":"","#,
        r#""extFields":{"#,
        r#""a":"g","b":"wire-check","c":"TBW102","d":4,"e":0,"f":0,"g":"1700000000000","h":0,"#,
        r#""i":"","j":"0","k":"false","l":0,"Signature":"","AccessKey":"","OnsChannel":""}}"#,
        "\n"
    );
    let mut bytes = u32::try_from(4 + header.len() + 4)
        .unwrap()
        .to_be_bytes()
        .to_vec();
    bytes.extend(u32::try_from(header.len()).unwrap().to_be_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(b"numb");
    client.stream().write_all(&bytes).unwrap();
    let answer = client.next_reply().unwrap().expect(reply::SUCCESS);
    assert_eq!(answer.opaque, 9);
    assert!(
        answer.header["version"].as_i64().unwrap() >= 232,
        "{}",
        answer.header
    );
}

#[test]
fn many_idle_connections_cost_little() {
    // Each takes one descriptor here and one in the server; the limit of both is the same.
    let limit = std::fs::read_to_string("/proc/self/limits").unwrap();
    let line = limit
        .lines()
        .find(|l| l.starts_with("Max open files"))
        .unwrap();
    let soft: usize = line
        .split_whitespace()
        .nth(3)
        .unwrap()
        .parse()
        .unwrap_or(1 << 20);
    let wanted = if common::quick() { 2_000 } else { 10_000 };
    let count = wanted.min(soft.saturating_sub(500));
    if count < wanted {
        println!("open files are limited to {soft}: {count} connections instead of {wanted}");
    }
    assert!(
        count >= 200,
        "an open-files limit of {soft} is too small for this test"
    );
    let mut gantry = started();
    let before = gantry.rss_bytes();
    let mut idle = Vec::with_capacity(count);
    for _ in 0..count {
        idle.push(TcpStream::connect(gantry.broker()).unwrap());
    }
    still_serves(&mut gantry);
    // The last ones accepted work, too, and so does one from the middle.
    for at in [count / 2, count - 1] {
        let frame = encode(31_337, 1, 0, &[], b"");
        idle[at].write_all(&frame).unwrap();
        idle[at]
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        assert!(idle[at].read(&mut [0; 64]).unwrap() > 0);
    }
    let grown = gantry.rss_bytes().saturating_sub(before);
    let each = grown / count as u64;
    assert!(
        each < 16 << 10,
        "{each} bytes for each of {count} idle connections"
    );
    drop(idle);
    still_serves(&mut gantry);
}
