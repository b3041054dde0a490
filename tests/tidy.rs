//! The house rules that a machine can check: who may know whom, sizes, room heads, where `unsafe`
//! may be.
//!
//! A rule that something breaks for a good reason is listed in `EXEMPT`, and the list must name
//! exactly what is over: an entry that is no longer needed fails too, so the list only shrinks.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

/// Lines of a file at which it must be split.
const FILE_LINES_MAX: usize = 600;
/// Lines of a function, signature and closing brace included.
const FUNCTION_LINES_MAX: usize = 70;
/// Characters of a line; rustfmt keeps code to it, this also holds comments and strings.
const COLUMNS_MAX: usize = 100;
/// Rooms (files and subfolders) of one folder.
const FOLDER_ROOMS_MAX: usize = 15;
/// A file up to this long may do without the full room head.
const HEAD_FROM_LINES: usize = 40;
/// What a room's head says, in this order.
const HEAD_WORDS: [&str; 5] = [
    "**Owns**",
    "**Lives on**",
    "**Invariants**",
    "**Limits**",
    "**Not here**",
];

/// `rule path[:function]` of what may be over, with the reason beside it.
const EXEMPT: &[&str] = &[
    // A literal with a line for each of the settings.
    "function server/config/broker.rs:settings",
];

/// Crates of the house and whom each may know.
const EDGES: &[(&str, &[&str])] = &[
    ("protocol", &[]),
    ("storage", &["gantry-protocol"]),
    ("runtime", &["gantry-protocol", "gantry-storage"]),
    (
        "actors",
        &["gantry-protocol", "gantry-storage", "gantry-runtime"],
    ),
    ("bench", &["gantry-protocol", "gantry-runtime"]),
];

/// Outside crates that only these rooms may know; the root package (`.`) wires and knows none of
/// them.
const GUARDED: &[(&str, &[&str])] = &[
    ("glommio", &["runtime", "actors", "bench"]),
    ("actix", &["runtime", "actors"]),
    ("flume", &["runtime"]),
    ("io-uring", &["runtime"]),
    ("hdrhistogram", &["runtime", "bench"]),
];

/// Folders with our Rust sources.
const SOURCES: [&str; 7] = [
    "protocol/src",
    "storage/src",
    "runtime/src",
    "actors/src",
    "bench/src",
    "server",
    "tests",
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Files below `dir` with one of these name endings, as paths relative to the root, sorted.
fn files(dir: &str, endings: &[&str]) -> Vec<String> {
    fn walk(dir: &Path, out: &mut Vec<PathBuf>) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        for entry in entries {
            let path = entry.unwrap().path();
            if path.is_dir() {
                walk(&path, out);
            } else {
                out.push(path);
            }
        }
    }
    let mut found = Vec::new();
    walk(&root().join(dir), &mut found);
    let mut names: Vec<String> = found
        .iter()
        .map(|p| {
            p.strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned()
        })
        .filter(|n| endings.iter().any(|e| n.ends_with(e)))
        .collect();
    names.sort();
    names
}

fn read(name: &str) -> String {
    fs::read_to_string(root().join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn rust_files() -> Vec<String> {
    SOURCES
        .iter()
        .flat_map(|dir| files(dir, &[".rs"]))
        .collect()
}

/// A source of the product itself, not a test beside it.
fn is_room(name: &str) -> bool {
    let test = name.starts_with("tests/") || name.ends_with("_tests.rs");
    !test && !Path::new(name).ancestors().any(is_for_tests_only)
}

/// A file or folder that the file above it declares as a module of the tests.
fn is_for_tests_only(path: &Path) -> bool {
    let (Some(folder), Some(stem)) = (path.parent(), path.file_stem()) else {
        return false;
    };
    let declaration = format!("mod {};", stem.to_string_lossy());
    let beside = folder.with_extension("rs");
    let inside = ["mod.rs", "lib.rs", "main.rs"].map(|file| folder.join(file));
    inside.into_iter().chain([beside]).any(|file| {
        let text = fs::read_to_string(root().join(file)).unwrap_or_default();
        let lines: Vec<&str> = text.lines().map(str::trim).collect();
        let declared = |pair: &[&str]| pair[1].ends_with(&declaration);
        lines
            .windows(2)
            .any(|pair| pair[0] == "#[cfg(test)]" && declared(pair))
    })
}

/// Compares what breaks a rule with the exemptions of that rule.
fn settle(rule: &str, over: &[(String, String)]) {
    let exempt: BTreeSet<&str> = EXEMPT
        .iter()
        .filter_map(|e| e.strip_prefix(rule)?.strip_prefix(' '))
        .collect();
    let found: BTreeSet<&str> = over.iter().map(|(what, _)| what.as_str()).collect();
    let mut complaints: Vec<String> = over
        .iter()
        .filter(|(what, _)| !exempt.contains(what.as_str()))
        .map(|(what, why)| format!("{what}: {why}"))
        .collect();
    let unused = exempt.difference(&found);
    complaints.extend(unused.map(|e| format!("{e}: exempt from '{rule}', but no longer over")));
    assert!(
        complaints.is_empty(),
        "{rule}:\n  {}",
        complaints.join("\n  ")
    );
}

/// Names in the dependency tables of a manifest, development ones left out.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut inside = false;
    let mut names = BTreeSet::new();
    for line in read(manifest).lines() {
        if let Some(table) = line.strip_prefix('[') {
            let table = table.trim_end_matches(']');
            inside = table == "dependencies" || table == "build-dependencies";
            if let Some(name) = table.strip_prefix("dependencies.") {
                names.insert(name.to_owned());
            }
            inside |= table.starts_with("target.") && table.ends_with(".dependencies");
        } else if inside && !line.starts_with('#') {
            let name: String = line
                .chars()
                .take_while(|c| c.is_alphanumeric() || "-_".contains(*c))
                .collect();
            if !name.is_empty() {
                names.insert(name);
            }
        }
    }
    names
}

#[test]
fn crates_know_only_whom_they_may() {
    let mut over = Vec::new();
    for (room, allowed) in EDGES {
        for name in dependencies(&format!("{room}/Cargo.toml")) {
            if name.starts_with("gantry") && !allowed.contains(&name.as_str()) {
                over.push((format!("{room} -> {name}"), "no such edge".to_owned()));
            }
        }
    }
    for room in EDGES.iter().map(|(room, _)| *room).chain(["."]) {
        let names = dependencies(&format!("{room}/Cargo.toml"));
        assert!(
            !names.is_empty(),
            "{room}/Cargo.toml: no dependency found, is this still the manifest's shape?"
        );
        for (name, rooms) in GUARDED {
            if names.contains(*name) && !rooms.contains(&room) {
                over.push((format!("{room} -> {name}"), format!("only for {rooms:?}")));
            }
        }
    }
    settle("edge", &over);
}

#[test]
fn each_plane_stays_in_its_rooms() {
    let mut over = Vec::new();
    for name in files("actors/src", &[".rs"]) {
        let text = code_of(&read(&name));
        if text.contains("glommio::") && !name.starts_with("actors/src/data/") {
            over.push((
                name.clone(),
                "glommio belongs to actors/src/data".to_owned(),
            ));
        }
        let control =
            name.starts_with("actors/src/control/") || name.starts_with("actors/src/namesrv/");
        if text.contains("actix::") && !control {
            over.push((
                name,
                "actix belongs to actors/src/control and namesrv".to_owned(),
            ));
        }
    }
    settle("plane", &over);
}

/// The lines of a source without comments; strings stay.
fn code_of(text: &str) -> String {
    let lines = text
        .lines()
        .map(|line| line.split_once("//").map_or(line, |(code, _)| code));
    lines.collect::<Vec<_>>().join("\n")
}

#[test]
fn files_stay_readable_in_one_sitting() {
    let mut over = Vec::new();
    for name in rust_files() {
        let lines = read(&name).lines().count();
        if lines > FILE_LINES_MAX {
            over.push((name, format!("{lines} lines, more than {FILE_LINES_MAX}")));
        }
    }
    settle("file", &over);
}

/// `(name, lines)` of each function of a rustfmt'd source: it ends at the first `}` at the
/// indentation of its `fn`.
fn functions(text: &str) -> Vec<(String, usize)> {
    let lines: Vec<&str> = text.lines().collect();
    let mut found = Vec::new();
    for (at, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let indent = line.len() - code.len();
        let Some(name) = function_name(code) else {
            continue;
        };
        // A declaration ends in `;`, a body on one line in `}`, an ordinary signature in `{`.
        let signature = lines[at..]
            .iter()
            .position(|l| l.ends_with(['{', ';', '}']));
        let Some(signature) = signature.filter(|s| lines[at + s].ends_with('{')) else {
            continue;
        };
        let closing = format!("{}}}", " ".repeat(indent));
        let body = lines[at + signature..].iter().position(|l| **l == closing);
        found.push((name, signature + body.unwrap_or(usize::MAX / 2) + 1));
    }
    found
}

/// The name, when a trimmed line starts a function.
fn function_name(code: &str) -> Option<String> {
    let mut words = code.split(' ').peekable();
    loop {
        match words.next()? {
            "fn" => break,
            "const" | "async" | "unsafe" | "extern" | "\"C\"" | "pub" => {}
            word if word.starts_with("pub(") && word.ends_with(')') => {}
            _ => return None,
        }
    }
    let name = words.next()?;
    Some(
        name.chars()
            .take_while(|c| c.is_alphanumeric() || *c == '_')
            .collect(),
    )
}

#[test]
fn functions_stay_readable_at_one_glance() {
    let mut over = Vec::new();
    let mut seen = 0;
    for name in rust_files() {
        for (function, lines) in functions(&read(&name)) {
            seen += 1;
            if lines > FUNCTION_LINES_MAX {
                let why = format!("{lines} lines, more than {FUNCTION_LINES_MAX}");
                over.push((format!("{name}:{function}"), why));
            }
        }
    }
    assert!(
        seen > 20,
        "only {seen} functions seen: this test has gone blind"
    );
    settle("function", &over);
}

#[test]
fn the_function_counter_counts() {
    let text = [
        "impl X {",
        "    pub(crate) async fn a(",
        "        b: u8,",
        "    ) -> u8 {",
        "        b",
        "    }",
        "    fn c();",
        "    fn d() {}",
        "}",
        "fn e() {",
        "    if x {",
        "    }",
        "}",
    ];
    let expected = [("a".to_owned(), 5), ("e".to_owned(), 4)];
    assert_eq!(functions(&text.join("\n")), expected);
}

#[test]
fn lines_fit_a_screen() {
    let mut over = Vec::new();
    for name in rust_files() {
        for (at, line) in read(&name).lines().enumerate() {
            // Tests quote whole frames and bodies; splitting them would hide what is compared.
            let quotes = !is_room(&name) && line.contains('"');
            if line.chars().count() > COLUMNS_MAX && !quotes {
                let why = format!("line {} is {} columns wide", at + 1, line.chars().count());
                over.push((name.clone(), why));
            }
        }
    }
    settle("columns", &over);
}

#[test]
fn unsafe_stays_in_its_two_rooms() {
    let allowed = ["runtime/src/raw_ring", "runtime/src/glommio_disk"];
    let mut over = Vec::new();
    for name in rust_files() {
        if allowed.iter().any(|room| name.starts_with(room)) || name == "tests/tidy.rs" {
            continue;
        }
        // Every second piece between quotes is a text, not code.
        let code = code_of(&read(&name));
        let text: String = code
            .lines()
            .flat_map(|l| l.split('"').step_by(2).chain(["\n"]))
            .collect();
        let word = |w: &str| w == "unsafe";
        if text
            .split(|c: char| !c.is_alphanumeric() && c != '_')
            .any(word)
        {
            over.push((name, "unsafe code outside of its rooms".to_owned()));
        }
    }
    settle("unsafe", &over);
}

#[test]
fn rooms_say_what_they_are() {
    let mut over = Vec::new();
    for name in rust_files().into_iter().filter(|n| is_room(n)) {
        let text = read(&name);
        if text.lines().count() <= HEAD_FROM_LINES {
            continue;
        }
        let head: String = text
            .lines()
            .take_while(|l| l.starts_with("//!") || l.starts_with("#!") || l.is_empty())
            .collect();
        let missing: Vec<&str> = HEAD_WORDS
            .into_iter()
            .filter(|word| !head.contains(word))
            .collect();
        if !missing.is_empty() {
            over.push((name, format!("its head lacks {}", missing.join(", "))));
        }
    }
    settle("head", &over);
}

#[test]
fn crates_take_the_lints_of_the_house() {
    let mut over = Vec::new();
    for (room, _) in EDGES {
        let manifest = format!("{room}/Cargo.toml");
        if !read(&manifest).contains("[lints]\nworkspace = true") {
            over.push((manifest, "does not take the workspace's lints".to_owned()));
        }
    }
    let safe = ["protocol", "storage", "actors", "bench"].map(|c| format!("{c}/src/lib.rs"));
    for name in safe.into_iter().chain(["server/main.rs".to_owned()]) {
        if !read(&name).contains("#![forbid(unsafe_code)]") {
            over.push((name, "does not forbid unsafe code".to_owned()));
        }
    }
    settle("lints", &over);
}

/// Folders below `dir`, itself included.
fn folders(dir: &Path) -> Vec<PathBuf> {
    let mut all = vec![dir.to_path_buf()];
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            all.extend(folders(&path));
        }
    }
    all
}

#[test]
fn folders_hold_few_rooms() {
    let mut over = Vec::new();
    for folder in SOURCES[..6]
        .iter()
        .flat_map(|dir| folders(&root().join(dir)))
    {
        let rooms: BTreeSet<String> = fs::read_dir(&folder)
            .unwrap()
            .map(|e| {
                e.unwrap()
                    .file_name()
                    .to_string_lossy()
                    .trim_end_matches(".rs")
                    .to_owned()
            })
            .filter(|n| !["lib", "mod", "main", "tests"].contains(&n.as_str()))
            .filter(|n| !n.ends_with("_tests"))
            .collect();
        if rooms.len() > FOLDER_ROOMS_MAX {
            let name = folder
                .strip_prefix(root())
                .unwrap()
                .to_string_lossy()
                .into_owned();
            over.push((
                name,
                format!("{} rooms, more than {FOLDER_ROOMS_MAX}", rooms.len()),
            ));
        }
    }
    settle("folder", &over);
}

#[test]
fn nothing_unfinished_or_private_is_left() {
    // Put together here, so that this file does not hold what it looks for.
    let banned = [
        concat!("to", "do!("),
        concat!("unimplemen", "ted!("),
        concat!("db", "g!("),
        concat!("/wo", "rk/"),
        concat!("/tmp/", "plan"),
        concat!("/ro", "ot/"),
    ];
    let mut over = Vec::new();
    let endings = [
        ".rs", ".toml", ".md", ".sh", ".py", ".xml", ".java", ".go", ".conf", "run",
    ];
    let dirs = SOURCES.iter().copied().chain(["docs", "deploy", ".ci"]);
    let mut names: Vec<String> = dirs.flat_map(|dir| files(dir, &endings)).collect();
    names.extend(["README.md", "Cargo.toml"].map(str::to_owned));
    for name in names.into_iter().filter(|n| root().join(n).exists()) {
        let text = read(&name);
        for word in banned.iter().filter(|word| text.contains(**word)) {
            over.push((name.clone(), format!("holds '{word}'")));
        }
    }
    settle("banned", &over);
}

/// The table of traps in `tests/README.md` names tests, and the tests are there.
#[test]
fn tests_of_traps_are_there() {
    let page = read("tests/README.md");
    let (_, table) = page.split_once("\n## Traps\n").expect("a table of traps");
    let mut wanted: BTreeSet<&str> = BTreeSet::new();
    for row in table.lines().filter(|line| line.starts_with("| ")) {
        wanted.extend(row.split('`').skip(1).step_by(2));
    }
    assert!(wanted.len() > 50, "{} tests in the table", wanted.len());
    for name in rust_files() {
        let text = read(&name);
        wanted.retain(|test| !text.contains(&format!("fn {test}(")));
    }
    assert!(wanted.is_empty(), "no test is called {wanted:?}");
}

#[test]
fn exemptions_name_a_rule() {
    let rules = [
        "edge", "plane", "file", "function", "columns", "unsafe", "head", "lints", "folder",
        "banned",
    ];
    for entry in EXEMPT {
        let rule = entry.split(' ').next().unwrap();
        assert!(rules.contains(&rule), "'{entry}' names no rule");
    }
}
