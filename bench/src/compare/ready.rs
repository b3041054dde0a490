//! Whether a server of a comparison is there, and is the one that was started.
//!
//! **Owns** the ports of a comparison, the first message, the look at who answers it.
//! **Lives on** the calling thread.
//! **Invariants** a port is free before a server is started at it, and what answers there is held
//! against the process that was started: what else listens on this machine is not measured.
//! **Limits** `FREE_LIMIT` for a port to be let go.
//! **Not here** starting and stopping (`servers`).

use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::error::BenchError;
use crate::observe::process::listening_pid;
use crate::route::Caller;
use gantry_protocol::code::request as codes;
use gantry_protocol::command::Command as Request;

/// The peer's name server, counted from the first port as all here.
pub const PEER_NAMESRV: u16 = 0;
/// Its broker, which takes two more: one for VIPs, one for replication.
pub const PEER_BROKER: u16 = 10;
const PEER_VIP: u16 = PEER_BROKER - 2;
const PEER_REPLICATION: u16 = PEER_BROKER + 1;
/// Gantry's name server.
pub const GANTRY_NAMESRV: u16 = 20;
/// Its broker.
pub const GANTRY_BROKER: u16 = 30;
/// Those of the peer's broker.
pub const PEER_BROKER_ALL: [u16; 3] = [PEER_BROKER, PEER_VIP, PEER_REPLICATION];
/// All of them.
pub const ALL: [u16; 6] = [
    PEER_NAMESRV,
    PEER_BROKER,
    PEER_VIP,
    PEER_REPLICATION,
    GANTRY_NAMESRV,
    GANTRY_BROKER,
];
/// Longest wait for a port that a server had which has just ended: the kernel closes what it had
/// open behind its end.
pub const FREE_LIMIT: Duration = Duration::from_secs(5);
const FREE_PAUSE: Duration = Duration::from_millis(5);
/// Longest wait for a connection on this machine.
const CONNECT_LIMIT: Duration = Duration::from_secs(30);

/// Checks that all ports of a comparison are ports.
///
/// # Errors
/// What is allowed.
pub fn check_first(port: u16) -> Result<(), BenchError> {
    if port == 0 || port > u16::MAX - GANTRY_BROKER {
        return Err(BenchError::Argument {
            name: "--port",
            value: port.to_string(),
            allowed: "1 to 65505, ports up to 30 above it are used",
        });
    }
    Ok(())
}

/// Waits until all these ports are free, so long at the most; they are counted from `first`.
///
/// # Errors
/// The port that somebody has.
pub fn await_free(first: u16, ports: &[u16], limit: Duration) -> Result<(), BenchError> {
    let until = Instant::now() + limit;
    for port in ports.iter().map(|port| first + port) {
        // Connections of a server that has ended are not in the way: the library allows that.
        while let Err(error) = TcpListener::bind((Ipv4Addr::LOCALHOST, port)) {
            if Instant::now() >= until {
                let holder = listening_pid(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
                let holder = holder.map_or("unknown".to_owned(), |pid| pid.to_string());
                return Err(BenchError::Program {
                    program: "compare".to_owned(),
                    what: format!(
                        "port {port} is not free ({error}; process {holder}): end what has it, \
                         or take another --port"
                    ),
                });
            }
            std::thread::sleep(FREE_PAUSE);
        }
    }
    Ok(())
}

/// Checks that the process that was started is the one that listens.
///
/// # Errors
/// It is another, or the one that was started has ended.
pub fn check_answerer(
    side: &str,
    addr: SocketAddr,
    started: Option<u32>,
) -> Result<(), BenchError> {
    let holder = listening_pid(addr);
    if started.is_some() && holder == started {
        return Ok(());
    }
    let name = |pid: Option<u32>| pid.map_or("unknown".to_owned(), |pid| pid.to_string());
    let (holder, started) = (name(holder), name(started));
    Err(BenchError::Program {
        program: side.to_owned(),
        what: format!("process {holder} answers at {addr}, process {started} was started"),
    })
}

/// Whether somebody listens there.
pub fn is_listening(addr: SocketAddr) -> bool {
    TcpStream::connect_timeout(&addr, CONNECT_LIMIT).is_ok()
}

/// Whether a send to a topic that may not exist yet is acknowledged.
pub fn first_send(addr: SocketAddr) -> bool {
    let Ok(mut caller) = Caller::connect(addr) else {
        return false;
    };
    let fields = [
        ("a", "gantry_bench"),
        ("b", "GantryBenchStart"),
        ("c", "TBW102"),
        ("d", "4"),
        ("e", "0"),
        ("f", "0"),
        ("g", "1700000000000"),
        ("h", "0"),
        ("i", ""),
        ("j", "0"),
        ("k", "false"),
        ("m", "false"),
    ];
    let mut request = Request::request(codes::SEND_MESSAGE_V2, 0);
    let owned = fields.map(|(name, value)| (name.to_owned(), value.to_owned()));
    request.ext = Some(owned.to_vec());
    let request = request.with_body(&b"first"[..]);
    let replies = caller.calls("sending the first message", &[request]);
    replies.is_ok_and(|replies| replies.first().is_some_and(|reply| reply.code == 0))
}

#[cfg(test)]
#[path = "ready_tests.rs"]
pub(super) mod tests;
