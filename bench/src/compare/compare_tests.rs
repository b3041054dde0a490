use std::process::Command;

use super::*;

fn bench(work: &Path) -> Bench {
    Bench {
        scale: Scale {
            rounds: ROUNDS_MIN,
            seconds: 1,
            warm_up: 0,
            settle_rounds: 1,
            settle_seconds: 1,
            backlog: 1,
            start_backlog: 1,
            memory_messages: 1,
            quick: true,
        },
        settings: Settings {
            work: work.to_owned(),
            port: 0,
            peer_heap: String::new(),
            peer_set: Vec::new(),
            set: Vec::new(),
            commit: String::new(),
        },
        peer: None,
        gantry: None,
        settled: None,
        unsettled: None,
    }
}

#[test]
fn a_broker_that_died_is_no_broker_without_memory() {
    let work = tempfile::tempdir().unwrap();
    let mut bench = bench(work.path());
    let mut child = Command::new("sleep").arg("60").spawn().unwrap();
    bench.peer = Some(Server::new(Side::Peer, &bench.settings, false).unwrap());
    let pid_file = work.path().join("peer/broker.pid");
    std::fs::write(&pid_file, child.id().to_string()).unwrap();
    assert!(bench.unbacked(Side::Peer).unwrap() > 0);
    child.kill().unwrap();
    child.wait().unwrap();
    let error = bench.unbacked(Side::Peer).unwrap_err().to_string();
    assert_eq!(error, "peer: its process is gone");
}

/// A quick comparison keeps a peer that is warm.
#[test]
fn a_peer_that_is_restarted_is_warm_no_more() {
    const WORDS: &[&str] = &["produce"];
    let work = tempfile::tempdir().unwrap();
    let mut bench = bench(work.path());
    bench.settled = Some(WORDS);
    bench.restart_cold(Side::Gantry).unwrap_err();
    assert_eq!(bench.settled, Some(WORDS));
    bench.restart_cold(Side::Peer).unwrap_err();
    assert_eq!(bench.settled, None);
}

/// A case that fails later leaves a table of what there is.
#[test]
fn a_case_is_in_the_table_once_it_is_done() {
    let (work, results) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let bench = bench(work.path());
    for (done, case) in (1..).zip(CASES) {
        let outcome = Outcome::new(case, case.name, true, &bench.settings);
        let table = keep(&outcome, results.path()).unwrap();
        let text = std::fs::read_to_string(table).unwrap();
        let cases = text.lines().filter(|line| line.starts_with("- **"));
        assert_eq!(cases.count(), done, "{text}");
    }
}
