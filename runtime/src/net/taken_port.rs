//! Whether a port is taken, before it is bound.
//!
//! **Owns** the question to the kernel who listens.
//! **Lives on** the core that binds first, once for each address.
//! **Invariants** not knowing counts as no: binding then decides.
//! **Limits** `ANSWER_BYTES` for each part of an answer, `ANSWER_LIMIT` for waiting for it.
//! **Not here** which process it is (the server's `port_holder`).

use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use super::tcp_table::{self, Row, overlaps};

/// `AF_NETLINK`.
const NETLINK: i32 = 16;
/// `NETLINK_SOCK_DIAG`.
const SOCK_DIAG: i32 = 4;
/// `SOCK_DIAG_BY_FAMILY`.
const BY_FAMILY: u16 = 20;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const DUMP: u16 = 0x301;
/// `NLMSG_DONE`.
const DONE: u16 = 3;
/// `AF_INET` and `AF_INET6`.
const FAMILIES: [u8; 2] = [2, 10];
/// `IPPROTO_TCP`.
const TCP: u8 = 6;
/// `1 << TCP_LISTEN`: connections aren't looked at, however many there are.
const LISTENING: u32 = 1 << 10;
/// Bytes of a message's head.
const HEAD_BYTES: u8 = 16;
/// Bytes of a request: its head, what is asked for, an address of which only the port counts.
const REQUEST_BYTES: u8 = HEAD_BYTES + 8 + 48;
/// A reply's local address: behind its head, four bytes of state and both ports.
const ADDRESS_AT: usize = HEAD_BYTES as usize + 4 + 4;
/// Room for one part of an answer; the kernel's are at most this long.
const ANSWER_BYTES: usize = 32 << 10;
/// The kernel answers while it is asked; what only looks like one may not answer at all.
const ANSWER_LIMIT: Duration = Duration::from_secs(1);

/// Whether a socket of this network namespace listens on an address that overlaps `addr`.
pub(super) fn someone_listens(addr: SocketAddr) -> bool {
    match listening_ips(addr.port()) {
        Ok(ips) => ips.iter().any(|ip| overlaps(*ip, addr)),
        // A kernel without this kind of question. Its tables have the connections as well.
        Err(_) => tables_have(addr),
    }
}

/// The addresses at which sockets listen on a port.
fn listening_ips(port: u16) -> std::io::Result<Vec<IpAddr>> {
    let protocol = Some(Protocol::from(SOCK_DIAG));
    let mut socket = Socket::new(Domain::from(NETLINK), Type::RAW, protocol)?;
    socket.set_read_timeout(Some(ANSWER_LIMIT))?;
    let (mut ips, mut answer) = (Vec::new(), vec![0; ANSWER_BYTES]);
    for family in FAMILIES {
        socket.write_all(&request(family, port))?;
        while !take_ips(&mut socket, &mut answer, family, &mut ips)? {}
    }
    Ok(ips)
}

/// Reads one part of an answer; true when it was the last one.
fn take_ips(
    socket: &mut Socket,
    answer: &mut [u8],
    family: u8,
    ips: &mut Vec<IpAddr>,
) -> std::io::Result<bool> {
    let bytes = socket.read(answer)?;
    if bytes == 0 {
        return Err(std::io::ErrorKind::UnexpectedEof.into());
    }
    let mut left = answer.get(..bytes).unwrap_or_default();
    while let Some((kind, message, rest)) = split_message(left) {
        match kind {
            DONE => return Ok(true),
            BY_FAMILY => ips.extend(local_ip(family, message)),
            _ => return Err(std::io::ErrorKind::Unsupported.into()),
        }
        left = rest;
    }
    Ok(false)
}

fn request(family: u8, port: u16) -> Vec<u8> {
    let mut request = Vec::with_capacity(REQUEST_BYTES.into());
    request.extend_from_slice(&u32::from(REQUEST_BYTES).to_ne_bytes());
    request.extend_from_slice(&BY_FAMILY.to_ne_bytes());
    request.extend_from_slice(&DUMP.to_ne_bytes());
    // Sequence and sender: the kernel's answers are the only ones here.
    request.extend_from_slice(&[0; 8]);
    request.extend_from_slice(&[family, TCP, 0, 0]);
    request.extend_from_slice(&LISTENING.to_ne_bytes());
    request.extend_from_slice(&port.to_be_bytes());
    request.resize(REQUEST_BYTES.into(), 0);
    request
}

/// The kind of the first message, all of its bytes, and what follows it.
fn split_message(bytes: &[u8]) -> Option<(u16, &[u8], &[u8])> {
    let len = u32::from_ne_bytes(*bytes.first_chunk()?) as usize;
    let kind = u16::from_ne_bytes(*bytes.get(4..)?.first_chunk()?);
    let message = bytes.get(..len).filter(|_| len >= HEAD_BYTES.into())?;
    let rest = bytes.get(len.next_multiple_of(4)..).unwrap_or_default();
    Some((kind, message, rest))
}

fn local_ip(family: u8, message: &[u8]) -> Option<IpAddr> {
    let address = message.get(ADDRESS_AT..)?;
    if family == FAMILIES[0] {
        Some(Ipv4Addr::from(*address.first_chunk::<4>()?).into())
    } else {
        let ip = Ipv6Addr::from(*address.first_chunk::<16>()?);
        Some(IpAddr::from(ip).to_canonical())
    }
}

fn tables_have(addr: SocketAddr) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        let mut rows = text.lines().filter_map(Row::of);
        rows.any(|row| row.state == tcp_table::LISTENING && row.is_in_the_way(addr))
    })
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    /// Both ways of asking see the same listeners, whatever they are bound to.
    #[test]
    fn sees_a_listener() {
        for bound in ["127.0.0.1:0", "0.0.0.0:0", "[::1]:0", "[::]:0"] {
            let Ok(socket) = TcpListener::bind(bound) else {
                // A host without IPv6.
                assert!(bound.starts_with('['), "{bound}");
                continue;
            };
            let port = socket.local_addr().unwrap().port();
            let any = bound.contains("0.0.0.0") || bound.contains("::]");
            for (asked, is_taken) in [
                ("127.0.0.1", any || bound.starts_with("127")),
                ("127.0.0.2", any),
                ("0.0.0.0", true),
                ("::1", any || bound.starts_with("[::1]")),
                ("::", true),
            ] {
                let addr = SocketAddr::new(asked.parse().unwrap(), port);
                assert_eq!(someone_listens(addr), is_taken, "{bound} {asked}");
                assert_eq!(tables_have(addr), is_taken, "table, {bound} {asked}");
            }
            drop(socket);
            let addr = SocketAddr::from(([0, 0, 0, 0], port));
            assert!(!someone_listens(addr) && !tables_have(addr), "{bound}");
        }
    }

    #[test]
    fn a_connection_is_no_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let _client = std::net::TcpStream::connect(addr).unwrap();
        let _accepted = listener.accept().unwrap();
        drop(listener);
        assert!(!someone_listens(addr) && !tables_have(addr));
    }

    #[test]
    fn an_answer_cut_short_is_none() {
        let mut whole = request(FAMILIES[0], 9876);
        assert_eq!(whole.len(), usize::from(REQUEST_BYTES));
        let (kind, message, rest) = split_message(&whole).unwrap();
        assert_eq!((kind, message.len(), rest.len()), (BY_FAMILY, 72, 0));
        for len in 0..whole.len() {
            assert_eq!(split_message(&whole[..len]), None, "{len}");
        }
        whole[0] = 15;
        assert_eq!(split_message(&whole), None);
        assert_eq!(local_ip(FAMILIES[1], &whole[..ADDRESS_AT + 15]), None);
    }
}
