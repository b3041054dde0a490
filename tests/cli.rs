//! The commands for people: send, receive, doctor, version.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use common::client::send_ext;
use common::process::{Scratch, binary, run, send_signal};
use common::{Gantry, code, fresh, reply, until};
use serde_json::Value;

/// `gantry` with these arguments, pointed at this server; its standard output.
fn ok(gantry: &Gantry, args: &[&str], stdin: &[u8]) -> String {
    let namesrv = gantry.namesrv().to_string();
    let (ok, out, err) = run(&[args, &["-n", &namesrv]].concat(), stdin);
    assert!(ok, "{args:?}: {out}{err}");
    out
}

#[test]
fn what_is_sent_is_received_once_per_group() {
    let gantry = Gantry::up(&[]);
    let topic = fresh("cli");
    ok(
        &gantry,
        &["send", &topic, "hello there", "--tag", "T", "--key", "k1"],
        b"",
    );
    ok(
        &gantry,
        &["send", &topic, "-"],
        "from standard input\nüöä".as_bytes(),
    );
    let got = ok(
        &gantry,
        &["receive", &topic, "--group", "g1", "--from", "first"],
        b"",
    );
    let mut lines: Vec<&str> = got.lines().collect();
    lines.sort_unstable();
    assert!(lines.iter().any(|l| l.contains("hello there")), "{got}");
    assert!(
        lines.iter().any(|l| l.contains("from standard input")),
        "{got}"
    );
    assert!(got.contains("üöä"), "{got}");
    // The group has moved on; another one starts anew.
    let again = ok(&gantry, &["receive", &topic, "--group", "g1"], b"");
    assert!(!again.contains("hello there"), "{again}");
    let other = ok(
        &gantry,
        &["receive", &topic, "--group", "g2", "--from", "first"],
        b"",
    );
    assert!(other.contains("hello there"), "{other}");
}

#[test]
fn lines_are_sent_as_they_come() {
    let gantry = Gantry::up(&[]);
    let (topic, namesrv) = (fresh("pipe"), gantry.namesrv().to_string());
    let mut child = Command::new(binary())
        .args(["send", &topic, "-", "-n", &namesrv])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut input = child.stdin.take().unwrap();
    let (tell, told) = mpsc::channel();
    let out = BufReader::new(child.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        for line in out.lines() {
            tell.send(line.unwrap()).unwrap();
        }
    });
    // Nothing else comes for now, and the pipe stays open.
    input.write_all(b"one\n\ntwo\n").unwrap();
    for _ in 0..2 {
        let line = told
            .recv_timeout(Duration::from_secs(20))
            .expect("not held back");
        assert!(line.starts_with("sent "), "{line}");
    }
    drop(input);
    let ended = child.wait_with_output().unwrap();
    reader.join().unwrap();
    let err = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(ended.status.success(), "{err}");
    assert!(
        err.contains("1 blank lines left out") && err.contains("2 messages stored"),
        "{err}"
    );
}

#[test]
fn a_line_that_is_too_long_ends_a_send_and_what_came_before_is_counted() {
    let gantry = Gantry::up(&[]);
    let (topic, namesrv) = (fresh("long"), gantry.namesrv().to_string());
    let input = [&b"a\nb\nc\n"[..], &vec![b'x'; (4 << 20) + 1]].concat();
    let (ok, out, err) = run(&["send", &topic, "-", "-n", &namesrv], &input);
    assert!(
        !ok && err.contains("line 4 is longer than 4194304 bytes"),
        "{err}"
    );
    assert_eq!(out.matches("sent ").count(), 3, "{out}");
    assert!(err.contains("3 messages stored"), "{err}");
}

/// A `gantry receive --follow`; ended with the value at the latest.
struct Following(Child);

impl Following {
    fn interrupt(mut self) {
        send_signal(self.0.id(), "INT").unwrap();
        let ended = until(10, "it ends", || self.0.try_wait().unwrap());
        assert!(ended.success(), "{ended:?}");
    }
}

impl Drop for Following {
    fn drop(&mut self) {
        // An error means that it is gone already.
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Follows a topic from the first message on; with what is printed.
fn follow(gantry: &Gantry, topic: &str, group: &str) -> (Following, BufReader<ChildStdout>) {
    let mut child = Command::new(binary())
        .args(["receive", topic, "--group", group, "--from", "first"])
        .args(["--follow", "-n", &gantry.namesrv().to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    (Following(child), out)
}

#[test]
fn a_receiver_that_follows_outlives_its_broker() {
    let mut gantry = Gantry::up(&[]);
    let topic = fresh("outlive");
    ok(&gantry, &["send", &topic, "before"], b"");
    let (following, out) = follow(&gantry, &topic, "g");
    let (tell, told) = mpsc::channel();
    let reader = std::thread::spawn(move || {
        for line in out.lines() {
            // Whoever asked has what it wanted.
            drop(tell.send(line.unwrap()));
        }
    });
    let await_line = |word: &str| {
        let wait = Duration::from_secs(30);
        while !told.recv_timeout(wait).expect(word).contains(word) {}
    };
    await_line("before");
    gantry.kill9();
    // Long enough for it to notice, and to look for what isn't there.
    std::thread::sleep(Duration::from_secs(3));
    gantry.start();
    gantry.await_ready();
    ok(&gantry, &["send", &topic, "after"], b"");
    await_line("after");
    following.interrupt();
    reader.join().unwrap();
}

/// A signal that came while a message was taken was forgotten now and then.
#[test]
fn a_receiver_in_a_flood_hears_an_interrupt() {
    let gantry = Gantry::up(&[]);
    let topic = fresh("flood");
    let mut client = gantry.client();
    client.create_topic(&topic, 4);
    let body = vec![b'f'; 200];
    for n in 0..20_000 {
        client.post(code::SEND_V2, &send_ext(&topic, n % 4, &[], false), &body);
        if n % 100 == 99 {
            client.flush().unwrap();
            for _ in 0..100 {
                client.next_reply().unwrap().expect(reply::SUCCESS);
            }
        }
    }
    for n in 0..6 {
        let (following, mut out) = follow(&gantry, &topic, &format!("g{n}"));
        let mut first = String::new();
        out.read_line(&mut first).unwrap();
        assert!(first.contains("fff"), "{first}");
        // Nobody reads: replies pile up until it waits in a write.
        std::thread::sleep(Duration::from_millis(200));
        let reader = std::thread::spawn(move || {
            std::thread::sleep(Duration::from_millis(100));
            out.lines().count()
        });
        following.interrupt();
        reader.join().unwrap();
    }
}

#[test]
fn json_holds_every_part_of_a_message() {
    let gantry = Gantry::up(&[]);
    let topic = fresh("json");
    let send = [
        "send",
        &topic,
        "body \"quoted\"",
        "--tag",
        "TagA",
        "--key",
        "k1",
    ];
    let more = ["--property", "colour=blue", "--queue", "1", "--count", "3"];
    ok(&gantry, &[&send[..], &more].concat(), b"");
    let args = [
        "receive", &topic, "--group", "g", "--from", "first", "--json",
    ];
    let got = ok(&gantry, &args, b"");
    let all: Vec<Value> = got
        .lines()
        .map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}")))
        .collect();
    assert_eq!(all.len(), 3, "{got}");
    for message in &all {
        let text = message.to_string();
        for part in [
            "body \\\"quoted\\\"",
            "TagA",
            "k1",
            "colour",
            "blue",
            &topic,
        ] {
            assert!(text.contains(part), "no {part} in {text}");
        }
    }
}

#[test]
fn doctor_and_version_answer() {
    let scratch = Scratch::new();
    let data = scratch.path().display().to_string();
    let (good, out, err) = run(&["doctor", "--data", &data], b"");
    assert!(good, "{out}{err}");
    for word in ["io_uring", "locked memory", "direct I/O"] {
        assert!(
            out.to_lowercase().contains(&word.to_lowercase()),
            "no {word} in: {out}"
        );
    }
    let (good, out, _) = run(&["version"], b"");
    assert!(good && out.contains(env!("CARGO_PKG_VERSION")), "{out}");
    // The commit it was built from, wherever it is run.
    assert!(out.contains(concat!("(", env!("GANTRY_COMMIT"))), "{out}");
}

#[test]
fn mistakes_end_with_a_reason() {
    let (good, _, err) = run(&["send", "t", "x", "-n", "127.0.0.1:1"], b"");
    assert!(!good && err.contains("127.0.0.1:1"), "{err}");
    let (good, _, err) = run(&["up", "--set", "noSuchKey=1"], b"");
    assert!(!good && err.contains("noSuchKey"), "{err}");
    let (good, _, err) = run(&["dance"], b"");
    assert!(!good && err.contains("dance"), "{err}");
}

#[test]
fn the_start_prints_what_to_do_next() {
    let gantry = Gantry::up(&[]);
    let log = gantry.log();
    for part in ["gantry send", "gantry receive", "data"] {
        assert!(log.contains(part), "no '{part}' in: {log}");
    }
    assert!(log.contains(&gantry.namesrv().to_string()), "{log}");
    assert!(log.contains(&gantry.broker().to_string()), "{log}");
}
