//! Names the commit that the binary is built from, for `gantry --version` and the results of
//! `gantry bench compare`: a binary may be run in another folder, or after other commits.
//!
//! It runs again only when the commit or a source has changed; then the package is built anew for
//! that reason already. Two builds of the same sources say the same (`deploy/build`).

use std::path::Path;
use std::process::Command;

/// What a binary is made of.
const SOURCES: [&str; 9] = [
    "protocol",
    "storage",
    "runtime",
    "actors",
    "bench/src",
    "server",
    "build.rs",
    "Cargo.toml",
    "Cargo.lock",
];

fn main() {
    for path in SOURCES {
        println!("cargo:rerun-if-changed={path}");
    }
    let branch = git(&["symbolic-ref", "-q", "HEAD"]);
    for name in ["HEAD", "packed-refs"].into_iter().chain(branch.as_deref()) {
        // One that is not there would make every build a new one.
        let path = git(&["rev-parse", "--git-path", name]);
        if let Some(path) = path.filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    let commit = git(&["rev-parse", "--short=10", "HEAD"]).map_or("unknown".to_owned(), marked);
    println!("cargo:rustc-env=GANTRY_COMMIT={commit}");
}

/// The commit, marked if the sources are not what was committed.
fn marked(commit: String) -> String {
    let status = [&["status", "--porcelain", "--"][..], &SOURCES].concat();
    match git(&status) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + " with changes",
    }
}

/// What git says; none if it fails or is not there.
fn git(args: &[&str]) -> Option<String> {
    let output = Command::new("git").args(args).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}
