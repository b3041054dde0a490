use super::*;

#[test]
fn medians_of_odd_and_even() {
    let odd = span(vec![3.0, 1.0, 2.0]).unwrap();
    assert_eq!((odd.median, odd.min, odd.max), (2.0, 1.0, 3.0));
    assert!((span(vec![4.0, 1.0]).unwrap().median - 2.5).abs() < 1e-9);
    assert_eq!(span(vec![]), None);
}

fn run(cpu: f64, rate: f64) -> Value {
    json!({"main_latency": "send", "per_second": rate,
        "broker": {"cpu_seconds_per_million": cpu},
        "latency_us": {"send": {"p99": 7.0}},
        "machine": {"noise_share": 0.25}})
}

fn complaining(text: &str) -> Value {
    let mut run = run(2.0, 250_000.0);
    run["complaint"] = json!(text);
    run
}

fn settings() -> Settings {
    Settings {
        work: PathBuf::new(),
        port: 1,
        peer_heap: String::new(),
        peer_set: Vec::new(),
        set: Vec::new(),
        commit: String::new(),
    }
}

/// What this case's rounds are judged to be.
fn produce(peer: &[Value], gantry: &[Value]) -> Outcome {
    let case = CASES.iter().find(|case| case.name == "produce").unwrap();
    let mut outcome = Outcome::new(case, "this", true, &settings());
    for (side, reports) in [(Side::Peer, peer), (Side::Gantry, gantry)] {
        for report in reports {
            outcome.add(side, report.clone());
        }
    }
    outcome
}

fn verdicts(outcome: &Outcome) -> Vec<String> {
    let lines = lines(&outcome.to_json());
    lines.iter().map(Line::verdict).collect()
}

#[test]
fn a_complaint_of_gantry_holds_no_bar() {
    let (peer, good) = ([run(25.0, 60_000.0)], run(2.0, 250_000.0));
    let outcome = produce(&peer, std::slice::from_ref(&good));
    assert_eq!(verdicts(&outcome), ["held", "held"]);
    assert_eq!(outcome.failed_count(), 0);
    let mut filled_badly = good.clone();
    filled_badly["fill"] = complaining("gantry: 3 not filled");
    for (bad, reason) in [
        (complaining("gantry: 2 lost\ngantry: a|b"), "2 lost, a/b"),
        (filled_badly, "3 not filled"),
    ] {
        let outcome = produce(&peer, &[good.clone(), bad]);
        let failed = format!("FAILED: {reason}");
        assert_eq!(verdicts(&outcome), [failed.clone(), failed.clone()]);
        assert_eq!(outcome.failed_count(), 1);
        for text in [outcome.table(), markdown(&[outcome.to_json()])] {
            assert!(text.contains(&failed) && !text.contains("held"), "{text}");
        }
    }
}

#[test]
fn a_complaint_of_the_peer_is_named_beside_the_table() {
    let outcome = produce(&[complaining("gantry: 5 lost")], &[run(0.1, 9e6)]);
    assert_eq!(verdicts(&outcome), ["held", "held"]);
    assert_eq!(outcome.failed_count(), 1);
    for text in [outcome.table(), markdown(&[outcome.to_json()])] {
        assert!(text.contains("peer: a run FAILED: 5 lost"), "{text}");
    }
}

#[test]
fn a_figure_that_is_missing_fails() {
    let (peer, gantry) = (run(25.0, 60_000.0), run(2.0, 250_000.0));
    let mut lacking = peer.clone();
    lacking["broker"] = Value::Null;
    let (mut dead, mut spent_nothing) = (gantry.clone(), peer.clone());
    dead["broker"] = Value::Null;
    spent_nothing["broker"]["cpu_seconds_per_million"] = json!(0.0);
    for (peer, gantry) in [
        (vec![lacking.clone()], vec![gantry.clone()]),
        (
            vec![peer.clone(), lacking],
            vec![gantry.clone(), gantry.clone()],
        ),
        (vec![peer.clone(), peer.clone()], vec![gantry.clone(), dead]),
        (vec![spent_nothing], vec![gantry]),
        (vec![peer], vec![]),
    ] {
        let outcome = produce(&peer, &gantry);
        let found = verdicts(&outcome);
        assert_eq!(found.first().unwrap(), "no figure");
        let lacking = found.iter().filter(|verdict| *verdict == "no figure");
        assert_eq!(outcome.failed_count(), lacking.count());
    }
    // Also one without a bar.
    let start = CASES.iter().find(|case| case.name == "start").unwrap();
    let mut outcome = Outcome::new(start, "this", true, &settings());
    for side in Side::BOTH {
        let cpu = f64::NAN;
        outcome.add(
            side,
            json!({"start_seconds": 1.0, "start_cpu_seconds": cpu, "restart_seconds": 1.0}),
        );
    }
    assert_eq!(verdicts(&outcome), ["MISSED", "no figure", "MISSED"]);
    assert_eq!(outcome.failed_count(), 1);
}

#[test]
fn notes_stand_beside_the_table() {
    let mut outcome = produce(&[run(25.0, 60_000.0)], &[run(2.0, 250_000.0)]);
    outcome.note(Side::Peer, "its warm-up ended unsettled after 24 runs");
    let told = "peer: its warm-up ended unsettled after 24 runs";
    for text in [outcome.table(), markdown(&[outcome.to_json()])] {
        assert!(text.contains(told), "{text}");
    }
}

#[test]
fn a_table_names_bars_machine_and_what_is_doubtful() {
    let mut all = produce(&[run(25.0, 60_000.0)], &[run(2.0, 250_000.0)]).to_json();
    all["machine"] = json!("two cores");
    all["commit"] = json!("abc");
    all["set"] = json!(["a=b"]);
    let text = markdown(&[all]);
    for part in [
        "1/12.5 | ≤ 1/12 | held",
        "4.17 ×",
        "two cores",
        "abc",
        "with a=b",
        "25 %",
    ] {
        assert!(text.contains(part), "no {part} in {text}");
    }
}
