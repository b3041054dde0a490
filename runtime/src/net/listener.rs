//! Listening and accepting.
//!
//! **Owns** the listening sockets of a core and their accept loops.
//! **Lives on** each data core; the kernel deals connections out to the cores (`SO_REUSEPORT`).
//! **Invariants** an accepted connection stays on its core. Two brokers never share a port by
//! accident, although `SO_REUSEPORT` would let them: the first listener of a process looks before
//! it binds.
//! **Limits** `connections_max`; beyond it a connection is accepted and closed, so that its client
//! learns at once.
//! **Not here** what happens on a connection (`connection`).

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;
use glommio::net::{TcpListener, TcpStream};

use super::session::{Accepted, Session};
use super::{Claim, FrameHandler, Net, connection};
use crate::error::ListenError;
use crate::shard::spawn_into;

/// Pause after a failed accept (no descriptors left): the loop must not spin.
const ACCEPT_PAUSE_MS: u64 = 20;
/// State of a listening socket in `/proc/net/tcp` (`TCP_LISTEN`).
const PROC_LISTEN: &str = "0A";

pub(super) fn listen<H: FrameHandler>(
    net: &Rc<Net<H>>,
    addr: SocketAddr,
    claim: Claim,
) -> Result<SocketAddr, ListenError> {
    if claim == Claim::First && addr.port() != 0 && someone_listens(addr) {
        return Err(ListenError::InUse { addr });
    }
    let refused = |error: &dyn std::fmt::Display| ListenError::Refused {
        addr,
        cause: error.to_string(),
    };
    let socket = TcpListener::bind(addr).map_err(|error| refused(&error))?;
    let bound = socket.local_addr().map_err(|error| refused(&error))?;
    spawn_into(net.queues.serve, accept(Rc::clone(net), socket, bound));
    Ok(bound)
}

async fn accept<H: FrameHandler>(net: Rc<Net<H>>, socket: TcpListener, bound: SocketAddr) {
    loop {
        let closing = poll_fn(|cx| net.poll_closing(cx).map(|()| None));
        let accepted = async { Some(socket.accept().await) };
        match or(closing, accepted).await {
            None => return,
            Some(Ok(stream)) => welcome(&net, stream, bound),
            Some(Err(error)) => {
                tracing::warn!(%bound, %error, "accept failed");
                glommio::timer::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn welcome<H: FrameHandler>(net: &Rc<Net<H>>, stream: TcpStream, bound: SocketAddr) {
    if net.peers.len() >= net.options.connections_max {
        net.metrics.count(|counts| counts.refused += 1);
        return;
    }
    // Without an address the peer is gone already.
    let Ok(peer_addr) = stream.peer_addr() else {
        return;
    };
    let local_addr = stream.local_addr().unwrap_or(bound);
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer_addr, %error, "TCP_NODELAY refused");
    }
    // glommio binds with SO_REUSEPORT only. A lingering connection without SO_REUSEADDR would keep
    // the next process from checking that its port is free with an exclusive bind (EADDRINUSE in
    // FIN_WAIT2 and TIME_WAIT).
    if let Err(error) = socket2::SockRef::from(&stream).set_reuse_address(true) {
        tracing::debug!(%peer_addr, %error, "SO_REUSEADDR refused");
    }
    if let Err(error) = socket2::SockRef::from(&stream).set_nonblocking(true) {
        tracing::warn!(%peer_addr, %error, "a socket can't be read without waiting");
        return;
    }
    net.clock.refresh();
    net.metrics.count(|counts| {
        counts.accepted += 1;
        counts.connections += 1;
    });
    let session = net.peers.insert(|id| {
        Session::new(Accepted {
            id,
            peer_addr,
            local_addr,
            stream,
            lane: Rc::clone(&net.lane),
            out_soft: net.options.out_bytes_soft,
            out_max: net.options.out_bytes_max,
            replies: Arc::clone(&net.options.replies),
            now_ms: net.clock.mono_ms(),
        })
    });
    spawn_into(net.queues.serve, connection::run(Rc::clone(net), session));
}

/// Whether a socket of this network namespace listens on an address that overlaps `addr`. Not
/// knowing counts as no: binding then decides.
fn someone_listens(addr: SocketAddr) -> bool {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().any(|table| {
        let text = std::fs::read_to_string(table).unwrap_or_default();
        text.lines().skip(1).any(|line| listens_on(line, addr))
    })
}

/// One line of `/proc/net/tcp`: `sl local_address rem_address st ...`.
fn listens_on(line: &str, addr: SocketAddr) -> bool {
    let mut words = line.split_whitespace().skip(1);
    let (Some(local), Some(_), Some(state)) = (words.next(), words.next(), words.next()) else {
        return false;
    };
    let Some((ip, port)) = local.split_once(':') else {
        return false;
    };
    if state != PROC_LISTEN || u16::from_str_radix(port, 16) != Ok(addr.port()) {
        return false;
    }
    let any = ip.bytes().all(|digit| digit == b'0');
    any || addr.ip().is_unspecified() || read_ip(ip).is_none_or(|ip| ip == addr.ip())
}

/// The kernel prints each 32-bit word of the address in its own byte order.
fn read_ip(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        hex.get(at..at + 8)
            .and_then(|part| u32::from_str_radix(part, 16).ok())
    };
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?.to_ne_bytes())),
        32 => {
            let mut octets = [0_u8; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index * 8)?.to_ne_bytes());
            }
            Some(IpAddr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sees_a_listener() {
        let socket = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = socket.local_addr().unwrap();
        assert!(someone_listens(addr));
        assert!(someone_listens(SocketAddr::from((
            [0, 0, 0, 0],
            addr.port()
        ))));
        assert!(!someone_listens(SocketAddr::from((
            [127, 0, 0, 2],
            addr.port()
        ))));
        drop(socket);
        assert!(!someone_listens(addr));
    }

    #[test]
    fn reads_what_the_kernel_prints() {
        assert_eq!(read_ip("0100007F"), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(
            read_ip("0000000000000000FFFF00000100007F"),
            Some(IpAddr::from([127, 0, 0, 1]))
        );
        for bad in [
            "",
            "x",
            "  sl  local",
            "0: zz:zz 0:0 0A",
            "0: 0100007F 0:0 0A",
        ] {
            assert!(!listens_on(bad, SocketAddr::from(([0, 0, 0, 0], 1))));
        }
    }
}
