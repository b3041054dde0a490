//! The scripts of `tests/run`: what a real client does not say fails them too (here the clients are
//! stubs), and tests that could not be run are named.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::process::Scratch;

const LISTED: &str = "case \" $* \" in *' --list '*) echo L.one; echo L.two; exit 0;; esac\n";

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// A folder in which both clients are built already: scripts that know two cases, and then do this.
fn stubs(scratch: &Scratch, does: &str) -> PathBuf {
    let dir = scratch.path().to_owned();
    for (label, client) in [("go", "kit/public/go/interop-go"), ("java", "bin/java")] {
        let script = format!("#!/bin/sh\n{LISTED}{does}\n").replace("L.", &format!("{label}."));
        write(&dir.join(client), &script);
    }
    for file in ["cp.txt", "built"] {
        write(&dir.join("kit/public/java-5.5.0").join(file), "");
    }
    dir
}

fn bash(dir: &Path, args: &[&str]) -> (bool, String) {
    let path = format!("{}/bin:{}", dir.display(), std::env::var("PATH").unwrap());
    let out = Command::new("bash")
        .args(args)
        .current_dir(root())
        .env("PATH", path)
        .env("INTEROP_TARGET", dir.join("kit"))
        .output()
        .unwrap();
    let text = String::from_utf8(out.stdout).unwrap();
    (out.status.success(), text)
}

/// Runs the kit on clients that do this: whether it succeeded and, of each, what it said.
fn kit(does: &str) -> [(bool, String); 2] {
    let scratch = Scratch::new();
    let dir = stubs(&scratch, does);
    ["go", "java"].map(|client| bash(&dir, &["tests/interop/interop.sh", "--only", client]))
}

#[test]
fn a_client_that_says_all_its_cases_passes() {
    for (label, (ok, said)) in ["go", "java"]
        .iter()
        .zip(kit("echo PASS L.one; echo SKIP L.two: no"))
    {
        assert!(ok, "{said}");
        let wanted = format!("PASS {label}.one\nSKIP {label}.two: no\n1 passed, 0 failed\n");
        assert_eq!(said, wanted);
    }
}

#[test]
fn a_client_that_dies_on_the_way_fails_the_kit() {
    for (does, why) in [
        ("echo PASS L.one; exit 2", "exit 2"),
        ("echo PASS L.one; kill -9 $$", "exit 137"),
        ("echo PASS L.one; echo PASS L.two; exit 1", "exit 1"),
        ("echo PASS L.one; exit 0", "a word of 1 cases, not of 2"),
    ] {
        for (label, (ok, said)) in ["go", "java"].iter().zip(kit(does)) {
            assert!(!ok && said.contains("1 failed"), "{does}: {said}");
            let wanted = format!("FAIL {label}.run: {why}");
            assert!(said.contains(&wanted), "{does}: {said}");
        }
    }
}

/// Its own failure is enough.
#[test]
fn a_failed_case_counts_once() {
    for (ok, said) in kit("echo PASS L.one; echo FAIL L.two: why; exit 1") {
        assert!(!ok && said.ends_with("1 passed, 1 failed\n"), "{said}");
    }
}

/// `tests/run` counts what the kit says; a kit that ends with an error and says nothing of it is
/// one failure.
#[test]
fn a_kit_that_fails_without_a_word_fails_the_run() {
    let scratch = Scratch::new();
    let dir = stubs(&scratch, "");
    let report = dir.display().to_string();
    let count = |kit: &str| {
        write(&dir.join("tests/interop/interop.sh"), kit);
        let text = format!(
            "PASSED=0; FAILED=0; REPORT={report}; . {}/tests/parts.sh; cd {report} || exit
             interop go 127.0.0.1:1 go; echo $PASSED passed, $FAILED failed",
            root().display()
        );
        bash(&dir, &["-c", &text]).1
    };
    let said = count("#!/bin/sh\necho PASS go.one; exit 0");
    assert!(said.ends_with("1 passed, 0 failed\n"), "{said}");
    let said = count("#!/bin/sh\necho PASS go.one; exit 137");
    assert!(said.ends_with("1 passed, 1 failed\n"), "{said}");
}

#[test]
fn tests_that_could_not_be_run_are_named() {
    let scratch = Scratch::new();
    let dir = scratch.path();
    let file = dir.join("skipped");
    let tell = format!(
        ". tests/parts.sh; GANTRY_TEST_SKIPPED={} tell_skipped",
        file.display()
    );
    assert_eq!(bash(dir, &["-c", &tell]).1, "");
    // This test again, in a process that skips.
    let me = std::env::current_exe().unwrap();
    // With one thread tests have the main one, which has another name.
    let again = ["skips", "--exact", "--include-ignored", "--test-threads=2"];
    let ran = Command::new(me)
        .args(again)
        .env("GANTRY_TEST_SKIPPED", &file)
        .output();
    assert!(ran.unwrap().status.success());
    let said = bash(dir, &["-c", &tell]).1;
    assert_eq!(said, "1 of these skipped:\n  skips: no reason at all\n");
}

#[test]
#[ignore = "for the test above"]
fn skips() {
    common::skipped("no reason at all");
}
