//! The bench harness: its counts add up, and a broker that loses, reorders, repeats or damages
//! messages is found out. The sink of the harness plays the bad brokers.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use common::Gantry;
use common::process::{Scratch, run};
use serde_json::Value;

const PORT: u16 = 10911;

/// A sink with these switches.
fn sink(switches: &[&str]) -> Gantry {
    let args = [&["bench", "sink", "--listen", "{ip}:10911"], switches].concat();
    let mut sink = Gantry::command(&args);
    sink.start();
    sink.await_line("ready:");
    sink
}

/// A run against this address: whether it succeeded, its report, its complaint.
fn bench(broker: &str, words: &[&str]) -> (bool, Value, String) {
    let common = ["--broker", broker, "--json"];
    let (ok, out, err) = run(&[&["bench"], words, &common].concat(), b"");
    let report = serde_json::from_str(&out).unwrap_or_else(|e| panic!("{e}: {out}{err}"));
    (ok, report, err)
}

/// The report of a run whose broker died after some seconds.
fn broken_off(mut sink: Gantry, words: &'static [&str]) -> Value {
    let broker = format!("{}:{PORT}", sink.ip());
    let running = std::thread::spawn(move || bench(&broker, words));
    std::thread::sleep(std::time::Duration::from_secs(3));
    sink.kill9();
    let (ok, report, err) = running.join().unwrap();
    assert!(!ok && err.contains("broke off"), "{err}");
    assert!(count(&report, "/acknowledged") > 100);
    report
}

fn on_sink(switches: &[&str], words: &[&str]) -> (bool, Value, String) {
    let sink = sink(switches);
    bench(&format!("{}:{PORT}", sink.ip()), words)
}

fn on_gantry(words: &[&str]) -> (bool, Value, String) {
    let gantry = Gantry::up(&[]);
    bench(&gantry.broker().to_string(), words)
}

fn count(report: &Value, pointer: &str) -> u64 {
    report
        .pointer(pointer)
        .and_then(Value::as_u64)
        .unwrap_or_else(|| panic!("no {pointer} in {report}"))
}

const SHORT: [&str; 4] = ["--seconds", "1", "--warm-up", "0"];
const PACED: [&str; 6] = ["--seconds", "1", "--warm-up", "0", "--rate", "500"];

fn with<'a>(scenario: &'a str, options: &[&'a str]) -> Vec<&'a str> {
    [&[scenario], options].concat()
}

#[test]
fn everything_sent_is_acknowledged_and_stored() {
    for more in [
        &[][..],
        &["--batch", "8"],
        &["--encoding", "binary"],
        &["--rate", "2000"],
    ] {
        let words = [with("produce", &SHORT), more.to_vec()].concat();
        let (ok, report, err) = on_sink(&[], &words);
        assert!(ok, "{more:?}: {err}");
        let sent = count(&report, "/sent");
        assert!(sent >= 1900, "{more:?}: {sent}");
        assert_eq!(sent, count(&report, "/acknowledged"));
        assert_eq!(sent, count(&report, "/stored"));
        let recorded = count(&report, "/latency_us/send/count");
        assert!(recorded * count_of_batch(more) <= sent && recorded > 0);
    }
}

fn count_of_batch(more: &[&str]) -> u64 {
    if more.contains(&"--batch") { 8 } else { 1 }
}

#[test]
fn one_way_sends_are_counted_in_the_queues() {
    let (ok, report, err) = on_gantry(&[&with("produce", &PACED)[..], &["--one-way"]].concat());
    assert!(ok, "{err}");
    assert_eq!(count(&report, "/sent"), count(&report, "/stored"));
    // No generator writes ten million a second to one connection.
    let words = [&with("produce", &SHORT)[..], &["--one-way", "--size", "32"]].concat();
    let load = ["--connections", "1", "--rate", "10000000"];
    let (ok, report, err) = on_sink(&[], &[&words[..], &load].concat());
    assert!(!ok && err.contains("due but not sent"), "{err}");
    assert!(count(&report, "/overdue") > 0);
}

#[test]
fn a_topic_that_exists_is_used_as_it_is() {
    let gantry = Gantry::up(&[]);
    let broker = gantry.broker().to_string();
    let queues = |scenario, queues| {
        let words = with(scenario, &PACED);
        bench(&broker, &[&words[..], &["--queues", queues]].concat())
    };
    for (scenario, wanted) in [("produce", "16"), ("e2e", "8"), ("produce", "16")] {
        let (ok, _, err) = queues(scenario, wanted);
        assert!(ok, "{scenario} {wanted}: {err}");
    }
    let words = ["bench", "produce", "--queues", "32", "--broker", &broker];
    let (ok, _, err) = run(&words, b"");
    let complaint = "GantryBench exists with 16 queues, 32 are wanted";
    assert!(!ok && err.contains(complaint), "{err}");
}

/// Due long after the window closed: it is the messages sent in the window that are measured.
#[test]
fn a_delay_longer_than_the_window_is_measured() {
    let words = [&with("delay", &PACED)[..], &["--delay-ms", "3000"]].concat();
    let (ok, report, err) = on_gantry(&words);
    assert!(ok, "{err}");
    let measured = count(&report, "/latency_us/deliver/count");
    assert_eq!(measured, count(&report, "/acknowledged"));
}

#[test]
fn what_gantry_is_sent_comes_back_whole_and_in_order() {
    let gantry = Gantry::up(&[]);
    let broker = gantry.broker().to_string();
    for words in [
        with("produce", &SHORT),
        with("queues", &[&SHORT[..], &["--topics", "3"]].concat()),
        with("e2e", &PACED),
        with("mixed", &SHORT),
        with("fanout", &[&PACED[..], &["--groups", "3"]].concat()),
        with("soak", &PACED),
        vec!["consume", "--messages", "5000", "--groups", "2"],
    ] {
        let (ok, report, err) = bench(&broker, &words);
        assert!(ok, "{words:?}: {err}");
        if let Some(received) = report.pointer("/read_back/received") {
            let groups = report["scenario"]["readers × groups"].as_str().unwrap();
            let groups: u64 = groups.rsplit(' ').next().unwrap().parse().unwrap();
            let sent = match count(&report, "/acknowledged") {
                0 => 5024, // a backlog is filled by whole batches of 32
                sent => sent,
            };
            assert_eq!(received.as_u64(), Some(sent * groups), "{words:?}");
        }
        assert!(report["broker"]["rss_bytes"].as_u64().unwrap() > 1 << 20);
        let disk = &report["machine"];
        let sends = count(&report, "/acknowledged") > 0;
        for figure in ["disk_bytes_per_record_byte", "disk_bytes_per_body_byte"] {
            assert_eq!(disk[figure].is_number(), sends, "{words:?}: {disk}");
        }
    }
}

#[test]
fn a_backlog_of_another_run_is_checked_too() {
    let gantry = Gantry::up(&[]);
    let broker = gantry.broker().to_string();
    let words = ["consume", "--messages", "3200", "--phase"];
    let (ok, report, err) = bench(&broker, &[&words[..], &["fill"]].concat());
    assert!(ok, "{err}");
    assert_eq!(count(&report, "/acknowledged"), 3200);
    let (ok, report, err) = bench(&broker, &[&words[..], &["read"]].concat());
    assert!(ok, "{err}");
    assert_eq!(count(&report, "/read_back/received"), 3200);
    // What a broker says that it has is not all that it was given: a lost end shows only so.
    let words = ["consume", "--phase", "read", "--messages", "6400"];
    let (ok, report, err) = bench(&broker, &words);
    assert!(!ok && err.contains("3200 lost"), "{err}");
    assert_eq!(report["believable"], false);
}

/// What was measured until a broker died is told all the same.
#[test]
fn a_run_that_breaks_off_gives_its_report() {
    broken_off(
        sink(&["--keep"]),
        &["produce", "--seconds", "60", "--warm-up", "0"],
    );
}

/// Of messages that could not all be parked, those that come back say nothing.
#[test]
fn parking_that_breaks_off_ends_the_run() {
    let words = &["delay", "--pending", "1000000000", "--lead", "600"];
    // That of the parking.
    let report = broken_off(sink(&[]), words);
    assert!(report["read_back"].is_null(), "{report}");
}

/// A broker that stands still, or gives nothing of what it has, is not waited for without end.
#[test]
fn a_broker_that_is_silent_ends_a_run() {
    let gantry = Gantry::up(&["brokerPermission=2"]);
    let words = ["consume", "--messages", "3200"];
    let (ok, report, err) = bench(&gantry.broker().to_string(), &words);
    assert!(!ok && err.contains("nothing came for 10 s"), "{err}");
    assert_eq!(count(&report, "/read_back/lost"), 3200);
    let sink = sink(&[]);
    let broker = format!("{}:{PORT}", sink.ip());
    let fill = ["consume", "--phase", "fill", "--messages", "50000000"];
    let timed = ["produce", "--seconds", "100", "--warm-up", "0"];
    let paced = [&timed[..], &["--rate", "1000"]].concat();
    let since = std::time::Instant::now();
    let runs = [&fill[..], &timed, &paced].map(|words| {
        let (broker, words) = (broker.clone(), words.to_vec());
        std::thread::spawn(move || bench(&broker, &words))
    });
    std::thread::sleep(std::time::Duration::from_secs(2));
    let pid = sink.pid().to_string();
    let signal = |name: &str| {
        let sent = std::process::Command::new("kill")
            .args([name, &pid])
            .status();
        assert!(sent.unwrap().success());
    };
    signal("-STOP");
    let ended = runs.map(|running| running.join().unwrap());
    signal("-CONT");
    for (ok, report, err) in ended {
        assert!(!ok && err.contains("nothing came for 10 s"), "{err}");
        assert!(count(&report, "/acknowledged") > 100);
        // What was on its way has waited as long as the broker was silent.
        let slowest = report.pointer("/latency_us/send/max");
        assert!(
            slowest.and_then(serde_json::Value::as_f64) > Some(8e6),
            "{slowest:?}"
        );
    }
    assert!(since.elapsed().as_secs() < 60, "{:?}", since.elapsed());
}

/// A broker is found by any address of this machine.
#[test]
fn the_brokers_process_is_found_where_it_listens_on_all_addresses() {
    let own = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
    // Nothing is sent: this only asks which address would be used.
    if own.connect("192.0.2.1:9").is_err() {
        common::skipped("this machine has no address but 127.0.0.1");
        return;
    }
    let address = own.local_addr().unwrap().ip();
    let listener = std::net::TcpListener::bind("0.0.0.0:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let mut sink = Gantry::command(&["bench", "sink", "--listen", &format!("0.0.0.0:{port}")]);
    drop(listener);
    sink.start();
    sink.await_line("ready:");
    let (ok, report, err) = bench(&format!("{address}:{port}"), &with("produce", &PACED));
    assert!(ok, "{err}");
    assert!(report["broker"]["cpu_seconds"].is_number(), "{report}");
}

#[test]
fn loss_is_found_with_and_without_reading_back() {
    let spoilt = ["--lose-every", "100"];
    let (ok, _, err) = on_sink(&spoilt, &with("produce", &PACED));
    assert!(!ok && err.contains("the queues grew by"), "{err}");
    let kept = [&["--keep"], &spoilt[..]].concat();
    let words = ["consume", "--messages", "3200"];
    let (ok, report, err) = on_sink(&kept, &words);
    assert!(!ok && err.contains("32 lost"), "{err}");
    assert_eq!(count(&report, "/read_back/received"), 3168);
}

#[test]
fn what_is_out_of_order_repeated_or_damaged_is_found() {
    for (switch, complaint) in [
        ("--swap-every", "out of order"),
        ("--repeat-every", "repeated"),
        ("--damage-every", "damaged"),
    ] {
        let words = ["consume", "--messages", "3200"];
        let (ok, _, err) = on_sink(&["--keep", switch, "99"], &words);
        assert!(!ok && err.contains(complaint), "{switch}: {err}");
    }
}

#[test]
fn order_may_be_waived() {
    let words = ["consume", "--messages", "3200", "--allow-reorder"];
    let (ok, report, err) = on_sink(&["--keep", "--swap-every", "99"], &words);
    assert!(ok, "{err}");
    assert!(count(&report, "/read_back/reordered") > 0);
}

#[test]
fn refusals_are_counted_by_code_and_fail_the_run() {
    let words = with("e2e", &PACED);
    let (ok, report, err) = on_sink(&["--keep", "--refuse-every", "50"], &words);
    assert!(!ok && err.contains("SYSTEM_BUSY"), "{err}");
    let refused = count(&report, "/errors_by_code/2");
    assert_eq!(
        refused + count(&report, "/acknowledged"),
        count(&report, "/sent")
    );
    // A refused message is not a lost one.
    assert_eq!(count(&report, "/read_back/lost"), 0);
}

#[test]
fn a_stall_is_counted_from_the_intended_time() {
    // With one message in flight a broker that syncs each can't keep up with many times what it
    // did: the wait for a free slot must show, though no single answer took that long.
    let gantry = Gantry::up(&["flushDiskType=SYNC_FLUSH"]);
    let broker = gantry.broker().to_string();
    let load = ["--connections", "1", "--in-flight", "1", "--seconds", "1"];
    let words = [&with("produce", &load)[..], &["--warm-up", "0"]].concat();
    let (ok, closed, err) = bench(&broker, &words);
    assert!(ok, "{err}");
    // A window of one second: what was acknowledged is the rate.
    let rate = 20 * count(&closed, "/acknowledged");
    let (ok, report_of_open, err) = bench(
        &broker,
        &[&words[..], &["--rate", &rate.to_string()]].concat(),
    );
    assert!(!ok && err.contains("were due but not sent"), "{err}");
    let p50 = |report: &Value| report["latency_us"]["send"]["p50"].as_f64().unwrap();
    let (closed, open) = (p50(&closed), p50(&report_of_open));
    // What could not even be sent is part of the percentiles.
    let due = count(&report_of_open, "/sent") + count(&report_of_open, "/overdue");
    assert!(due > count(&report_of_open, "/sent"));
    assert_eq!(count(&report_of_open, "/latency_us/send/count"), due);
    assert!(open > 5.0 * closed, "open {open} µs, closed {closed} µs");
}

#[test]
fn connections_are_counted() {
    let words = ["connect", "--connections", "300", "--at-once", "20"];
    let gantry = Gantry::up(&[]);
    let (ok, out, err) = run(
        &[
            &["bench"],
            &words[..],
            &["--json", "--broker", &gantry.broker().to_string()],
        ]
        .concat(),
        b"",
    );
    assert!(ok, "{err}");
    let report: Value = serde_json::from_str(&out).unwrap();
    assert_eq!(count(&report, "/connected"), 300);
    assert_eq!(count(&report, "/latency_us/connect/count"), 300);
}

#[test]
fn delays_and_transactions_are_measured() {
    for (scenario, more) in [("delay", &["--level", "1"][..]), ("tx", &[])] {
        let words = [&with(scenario, &PACED)[..], more].concat();
        let (ok, report, err) = on_gantry(&words);
        assert!(ok, "{scenario}: {err}");
        let sent = count(&report, "/sent");
        assert!(sent >= 400, "{scenario}: {sent}");
        assert_eq!(count(&report, "/read_back/received"), sent, "{scenario}");
    }
}

#[test]
fn log_and_picture_are_written() {
    let scratch = Scratch::new();
    let file = |name: &str| scratch.path().join(name).display().to_string();
    let (log, plot, out) = (file("run.hlog"), file("run.svg"), file("run.json"));
    let files = ["--hlog", &log, "--plot", &plot, "--out", &out];
    let (ok, _, err) = on_sink(&["--keep"], &[&with("e2e", &PACED)[..], &files].concat());
    assert!(ok, "{err}");
    let text = std::fs::read_to_string(&log).unwrap();
    assert!(text.starts_with("#[Histogram log format version"), "{text}");
    let line = text
        .lines()
        .find(|l| l.starts_with("Tag=deliver,"))
        .unwrap();
    assert!(line.contains(",HISTFAAA"), "{line}");
    let picture = std::fs::read_to_string(&plot).unwrap();
    assert!(picture.starts_with("<svg") && picture.contains("deliver"));
    let report: Value = serde_json::from_str(&std::fs::read_to_string(&out).unwrap()).unwrap();
    assert_eq!(report["believable"], true);
    // A file that can't be written: one is found before the run, the other fails it.
    let nowhere = file("none/run.svg");
    let words = with("produce", &["--seconds", "60", "--plot", &nowhere]);
    let since = std::time::Instant::now();
    let sink = sink(&[]);
    let broker = format!("{}:{PORT}", sink.ip());
    let common = ["--broker", &broker];
    let (ok, _, err) = run(&[&["bench"], &words[..], &common].concat(), b"");
    assert!(!ok && err.contains(&nowhere), "{err}");
    assert!(since.elapsed().as_secs() < 30);
    let words = [&with("produce", &PACED)[..], &["--hlog", "/dev/full"]].concat();
    let (ok, report, err) = bench(&broker, &words);
    assert!(!ok && err.contains("/dev/full"), "{err}");
    assert_eq!(report["believable"], true);
}

/// Hung up while it fetches what it compares with, a comparison leaves nothing behind.
#[test]
fn an_interrupted_comparison_ends_what_it_started() {
    use std::os::unix::fs::PermissionsExt as _;
    use std::os::unix::process::ExitStatusExt as _;
    use std::time::Duration;
    let scratch = Scratch::new();
    let file = |name: &str| scratch.path().join(name);
    // The script that starts the peer calls it to fetch the jars; it would take long.
    let text = format!(
        "#!/bin/sh\necho $$ >{}\nexec sleep 300\n",
        file("pid").display()
    );
    std::fs::write(file("mvn"), text).unwrap();
    std::fs::set_permissions(file("mvn"), std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!(
        "{}:{}",
        scratch.path().display(),
        std::env::var("PATH").unwrap()
    );
    // Under `nohup` the tests ignore hang-ups, and what they start does so, too.
    let mut compare = std::process::Command::new("env")
        .arg("--default-signal=HUP")
        .arg(common::process::binary())
        .args([
            "bench",
            "compare",
            "--quick",
            "--scenario",
            "start",
            "--work",
        ])
        .arg(file("work"))
        .arg("--results")
        .arg(file("results"))
        .env("PATH", path)
        .env("PEER_TARGET", file("peer"))
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let until = |what: &str, is_so: &dyn Fn() -> bool| {
        let end = std::time::Instant::now() + Duration::from_secs(20);
        while !is_so() {
            assert!(std::time::Instant::now() < end, "{what}");
            std::thread::sleep(Duration::from_millis(10));
        }
    };
    let pid = || {
        std::fs::read_to_string(file("pid"))
            .ok()?
            .trim()
            .parse::<u32>()
            .ok()
    };
    until("nothing was fetched", &|| pid().is_some());
    let hang_up = ["-HUP".to_owned(), compare.id().to_string()];
    std::process::Command::new("kill")
        .args(hang_up)
        .status()
        .unwrap();
    let status = compare.wait().unwrap();
    let process = format!("/proc/{}/status", pid().unwrap());
    let is_gone = || {
        let status = std::fs::read_to_string(&process).unwrap_or_default();
        status.is_empty() || status.contains("(zombie)")
    };
    until("what it started goes on", &is_gone);
    assert_eq!((status.code(), status.signal()), (Some(130), None));
    let left = std::fs::read_dir(file("work")).unwrap().count();
    assert_eq!(left, 0, "its folder is still there");
}

#[test]
fn what_can_be_compared_is_listed() {
    let (ok, out, _) = run(&["bench", "compare", "--list"], b"");
    assert!(ok);
    for name in ["produce", "sync", "e2e", "cold", "start", "memory"] {
        assert!(out.lines().any(|l| l.starts_with(name)), "{name}: {out}");
    }
    let (ok, _, err) = run(&["bench", "compare", "--scenario", "nothing"], b"");
    assert!(!ok && err.contains("--list"), "{err}");
    let (ok, _, err) = run(&["bench", "compare", "--quick", "--rounds", "2"], b"");
    assert!(!ok && err.contains("--rounds = 2: 3 and up"), "{err}");
    let (ok, _, err) = run(&["bench", "compare", "--port", "65506"], b"");
    assert!(!ok && err.contains("--port = 65506: 1 to 65505"), "{err}");
    let (_, out, _) = run(&["bench", "compare", "--quick", "--list"], b"");
    assert!(out.contains("backlog of 300000 ×"), "{out}");
}

/// What else listens on this machine is not measured in the place of a server of the comparison.
#[test]
fn nothing_is_compared_where_somebody_listens() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    // Its last port.
    let first = (listener.local_addr().unwrap().port() - 30).to_string();
    let (ok, _, err) = run(&["bench", "compare", "--quick", "--port", &first], b"");
    assert!(!ok && err.contains("is not free"), "{err}");
}

/// The log beside the device, with the smallest of everything: the figures are of a debug build.
#[test]
fn the_log_is_judged_beside_the_device() {
    let (work, results) = (Scratch::new(), Scratch::new());
    let [work, folder] = [&work, &results].map(|folder| folder.path().to_str().unwrap());
    let words = [
        "bench",
        "judge",
        "--quick",
        "--rounds",
        "1",
        "--port",
        "23400",
        "--scenario",
        "device,sync-one",
        "--work",
        work,
        "--results",
        folder,
    ];
    let (ok, out, err) = run(&words, b"");
    assert!(ok, "{out}{err}");
    let text = std::fs::read_to_string(results.path().join("log.json")).unwrap();
    let found: Value = serde_json::from_str(&text).unwrap();
    let median = |row: usize| found["rows"][row]["median"].as_f64().unwrap();
    assert!(median(0) > 0.0 && median(1) > 0.0, "{text}");
    let p50 = found["rows"][1]["rounds"][0]["parts"]["p50 µs"]
        .as_f64()
        .unwrap();
    assert!((p50 / median(0) - median(1)).abs() < 1e-6, "{text}");
    let table = std::fs::read_to_string(results.path().join("LOG.md")).unwrap();
    assert!(table.contains("| sync-one |"), "{table}");
    assert_eq!(
        std::fs::read_dir(work).unwrap().count(),
        0,
        "its folder is still there"
    );
    let (ok, _, err) = run(&["bench", "judge", "--scenario", "nothing"], b"");
    assert!(!ok && err.contains("--scenario = nothing"), "{err}");
}
