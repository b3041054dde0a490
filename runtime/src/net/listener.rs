//! Listening and accepting.
//!
//! **Owns** the listening sockets of a core and their accept loops.
//! **Lives on** each data core; the kernel deals connections out to the cores (`SO_REUSEPORT`).
//! **Invariants** an accepted connection stays on its core. Two brokers never share a port by
//! accident, although `SO_REUSEPORT` would let them: the first listener of a process looks before
//! it binds.
//! **Limits** `admission`; beyond it a connection is accepted and closed, so that its client
//! learns at once. [`BACKLOG`] wait to be accepted; after [`ACCEPTS_A_BREATH`] the core's other
//! tasks have their turn.
//! **Not here** what happens on a connection (`connection`).

use std::future::poll_fn;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_lite::future::or;
use glommio::net::{TcpListener, TcpStream};
use rustix::net::{AddressFamily, SocketFlags, SocketType, ipproto, sockopt};

use super::admission::Failures;
use super::session::{Accepted, Session};
use super::taken_port::someone_listens;
use super::{Claim, FrameHandler, Net, connection};
use crate::error::ListenError;
use crate::metrics::StallWatch;
use crate::raw_ring;
use crate::shard::{breathe, spawn_into};

/// This room's name in the profile.
const ROOM: &str = "net/listener";
/// Pause after a failed accept (no descriptors left): the loop must not spin.
const ACCEPT_PAUSE_MS: u64 = 20;
/// Connections that may wait to be accepted: what the stock `net.core.somaxconn` of 5.4 and later
/// allows. Many clients come back at once after a failover, while the core may be held up.
const BACKLOG: i32 = 4096;
/// Some 20 us each: a millisecond at most until the core serves its other sessions.
const ACCEPTS_A_BREATH: u32 = 32;

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
    let socket = bind(addr).map_err(|error| refused(&error))?;
    let bound = socket.local_addr().map_err(|error| refused(&error))?;
    let watch = StallWatch::new(ROOM, &net.clock, &net.metrics);
    let accepted = watch.over(accept(Rc::clone(net), socket, bound));
    spawn_into(net.queues.serve, accepted);
    Ok(bound)
}

/// As glommio's own `bind`, whose backlog is 1024.
fn bind(addr: SocketAddr) -> std::io::Result<TcpListener> {
    let family = match addr {
        SocketAddr::V4(_) => AddressFamily::INET,
        SocketAddr::V6(_) => AddressFamily::INET6,
    };
    let (kind, flags) = (SocketType::STREAM, SocketFlags::CLOEXEC);
    let socket = rustix::net::socket_with(family, kind, flags, Some(ipproto::TCP))?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &addr)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(raw_ring::listener(socket))
}

async fn accept<H: FrameHandler>(net: Rc<Net<H>>, socket: TcpListener, bound: SocketAddr) {
    let mut failures = Failures::default();
    let mut refusals = Failures::default();
    let mut accepts: u32 = 0;
    loop {
        let closing = poll_fn(|cx| net.poll_closing(cx).map(|()| None));
        let accepted = async { Some(socket.accept().await) };
        match or(closing, accepted).await {
            None => return,
            Some(Ok(stream)) => {
                welcome(&net, stream, bound, &mut refusals);
                accepts = accepts.wrapping_add(1);
                // While connections wait, an accept never does.
                if accepts.is_multiple_of(ACCEPTS_A_BREATH) {
                    breathe().await;
                }
            }
            Some(Err(error)) => {
                if let Some(times) = failures.note(net.clock.mono_us_now() / 1_000) {
                    tracing::warn!(%bound, %error, times, "accept failed");
                }
                glommio::timer::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
            }
        }
    }
}

fn welcome<H: FrameHandler>(
    net: &Rc<Net<H>>,
    stream: TcpStream,
    bound: SocketAddr,
    refusals: &mut Failures,
) {
    let Some(place) = net.admission.admit(net.peers.len()) else {
        net.metrics.count(|counts| counts.refused += 1);
        if let Some(times) = refusals.note(net.clock.mono_us_now() / 1_000) {
            let open = net.peers.len();
            tracing::warn!(%bound, open, times, "connections are refused: too many are open");
        }
        return;
    };
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
    spawn_into(
        net.queues.serve,
        connection::run(Rc::clone(net), session, place),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::probe;

    /// More than glommio's own backlog wait while nobody accepts.
    #[test]
    fn many_connections_wait_to_be_accepted() {
        const WANTED: usize = 1_500;
        let allowed = std::fs::read_to_string("/proc/sys/net/core/somaxconn").unwrap();
        if allowed.trim().parse::<usize>().unwrap() < WANTED {
            println!("skipped: the machine allows {allowed} only");
            return;
        }
        let _ = probe::open_files();
        let executor = glommio::LocalExecutorBuilder::default().make().unwrap();
        executor.run(async {
            let socket = bind("127.0.0.1:0".parse().unwrap()).unwrap();
            let addr = socket.local_addr().unwrap();
            let limit = Duration::from_millis(500);
            let connect = |_| std::net::TcpStream::connect_timeout(&addr, limit).unwrap();
            let waiting: Vec<_> = (0..WANTED).map(connect).collect();
            let accepted = socket.accept().await.unwrap().peer_addr().unwrap();
            assert_eq!(waiting[0].local_addr().unwrap(), accepted);
        });
    }
}
