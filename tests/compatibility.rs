//! `docs/COMPATIBILITY.md` tells the truth: its table of request codes names every code there is,
//! and a running server does what each row says.
//!
//! A row is `| code | NAME | receiver | state | note |`; the states are those of [`State::read`].

mod common;

use std::collections::BTreeMap;
use std::net::SocketAddr;

use common::{Client, Frame, Gantry, reply};
use gantry_protocol::code::{REQUEST_CODES, Receiver};

const PAGE: &str = include_str!("../docs/COMPATIBILITY.md");
/// Longest line of the page.
const COLUMNS_MAX: usize = 120;

/// What a row says of its code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// Whole, or with gaps that the note names.
    Served,
    /// Answered with code 3.
    Unserved,
}

impl State {
    fn read(cell: &str) -> Option<Self> {
        match cell {
            "works" | "partly" => Some(Self::Served),
            "not yet" | "not served" => Some(Self::Unserved),
            _ => None,
        }
    }
}

#[derive(Debug)]
struct Row<'a> {
    code: i32,
    name: &'a str,
    receiver: &'a str,
    state: &'a str,
    note: &'a str,
}

/// Rows whose first cell is a number; every other line of the page is prose or another table.
fn rows() -> Vec<Row<'static>> {
    let rows = PAGE.lines().filter_map(|line| {
        let inner = line.strip_prefix("| ")?.strip_suffix(" |")?;
        let cells: Vec<&str> = inner.split(" | ").map(str::trim).collect();
        let code = cells.first()?.parse().ok()?;
        let [_, name, receiver, state, note] = cells[..] else {
            panic!("five cells are wanted: {line}");
        };
        Some(Row {
            code,
            name,
            receiver,
            state,
            note,
        })
    });
    rows.collect()
}

fn receiver(receiver: Receiver) -> &'static str {
    match receiver {
        Receiver::Broker => "broker",
        Receiver::NameServer => "name server",
        Receiver::Client => "client",
        Receiver::Controller => "controller",
        Receiver::Nobody => "nobody",
    }
}

#[test]
fn every_request_code_has_one_row() {
    let rows = rows();
    let mut seen: BTreeMap<i32, usize> = BTreeMap::new();
    for row in &rows {
        *seen.entry(row.code).or_default() += 1;
    }
    let mut wrong: Vec<String> = Vec::new();
    for known in REQUEST_CODES {
        match seen.remove(&known.code) {
            Some(1) => {}
            Some(n) => wrong.push(format!("{} {} is listed {n} times", known.code, known.name)),
            None => wrong.push(format!("{} {} is missing", known.code, known.name)),
        }
        for row in rows.iter().filter(|row| row.code == known.code) {
            if (row.name, row.receiver) != (known.name, receiver(known.receiver)) {
                wrong.push(format!("{row:?}: the protocol's table says {known:?}"));
            }
        }
    }
    wrong.extend(seen.keys().map(|code| format!("{code} is no known code")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn rows_are_well_formed() {
    let mut wrong: Vec<String> = Vec::new();
    for row in rows() {
        if State::read(row.state).is_none() {
            wrong.push(format!("{row:?}: no such state"));
        }
        if row.state == "partly" && row.note.is_empty() {
            wrong.push(format!("{row:?}: partly, and not what is missing"));
        }
        if (row.receiver == "nobody") != (row.state == "not served") {
            wrong.push(format!("{row:?}: 'not served' is for codes of nobody"));
        }
    }
    let long = PAGE
        .lines()
        .filter(|line| line.chars().count() > COLUMNS_MAX);
    wrong.extend(long.map(|line| format!("longer than {COLUMNS_MAX}: {line}")));
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// An empty request on a connection of its own, so that nothing one code does disturbs the next.
fn ask(addr: SocketAddr, code: i32) -> Frame {
    Client::connect(addr).call(code, &[], b"")
}

fn refuses(reply: &Frame, row: &Row<'_>) -> bool {
    let named = reply.remark.contains(row.name) && reply.remark.contains(&row.code.to_string());
    reply.code == reply::NOT_SUPPORTED && named
}

/// Complaints about one row.
fn check(row: &Row<'_>, broker: SocketAddr, namesrv: SocketAddr) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut want = |what: &str, addr: SocketAddr, served: bool| {
        let got = ask(addr, row.code);
        let is_right = if served {
            got.code != reply::NOT_SUPPORTED
        } else {
            refuses(&got, row)
        };
        if !is_right {
            wrong.push(format!("{row:?}: the {what} answers {got:?}"));
        }
    };
    let served = State::read(row.state) == Some(State::Served);
    // What the broker sends to clients it does not answer itself, whatever the state.
    want("broker", broker, served && row.receiver == "broker");
    want(
        "name server",
        namesrv,
        served && row.receiver == "name server",
    );
    wrong
}

#[test]
fn a_server_does_what_each_row_says() {
    let gantry = Gantry::up(&[]);
    let (broker, namesrv) = (gantry.broker(), gantry.namesrv());
    let wrong: Vec<String> = rows()
        .iter()
        .flat_map(|row| check(row, broker, namesrv))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_code_nobody_knows_is_refused_too() {
    let gantry = Gantry::up(&[]);
    for addr in [gantry.broker(), gantry.vip(), gantry.namesrv()] {
        for code in [-1, 0, 9_999, i32::MAX, i32::MIN] {
            let got = ask(addr, code);
            assert_eq!(got.code, reply::NOT_SUPPORTED, "{code} at {addr}: {got:?}");
            assert!(got.remark.contains(&code.to_string()), "{got:?}");
        }
    }
}
