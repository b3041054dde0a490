//! Which addresses this machine has, and which ports are free.
//!
//! **Owns** the default of `brokerIP1`, the host name, and holding a port until its listener opens.
//! **Lives on** the main thread.
//! **Invariants** a held port was free: nobody else, not even another Gantry, listens on it. The
//! data
//! cores bind with `SO_REUSEPORT`, which alone would let two brokers share a port unnoticed.
//! **Limits** none of its own.
//! **Not here** listening (`gantry_runtime::net`).

use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, ToSocketAddrs as _};
use std::time::{Duration, Instant};

use gantry_runtime::shutdown::Shutdown;
use socket2::{Domain, Protocol, Socket, Type};

use super::port_holder::{self, Holder};

/// The first IPv4 of an interface that is up and not the loopback, else 127.0.0.1.
pub fn first_ipv4() -> Ipv4Addr {
    use nix::net::if_::InterfaceFlags;
    let Ok(interfaces) = nix::ifaddrs::getifaddrs() else {
        return Ipv4Addr::LOCALHOST;
    };
    interfaces
        .filter(|interface| interface.flags.contains(InterfaceFlags::IFF_UP))
        .filter(|interface| !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK))
        .filter_map(|interface| Some(interface.address?.as_sockaddr_in()?.ip()))
        .find(|ip| !ip.is_loopback() && !ip.is_link_local() && !ip.is_unspecified())
        .unwrap_or(Ipv4Addr::LOCALHOST)
}

/// The machine's name; RocketMQ's fallback when it has none.
pub fn host_name() -> String {
    nix::unistd::gethostname()
        .ok()
        .and_then(|name| name.into_string().ok())
        .filter(|name| !name.is_empty() && !name.contains(char::is_whitespace))
        .unwrap_or_else(|| "DEFAULT_BROKER".into())
}

/// An address written as an IP or a name; IPv4 first, because every client understands it.
///
/// # Errors
/// The resolver's, or that the name has no address.
pub fn resolve(host: &str) -> io::Result<IpAddr> {
    if let Ok(ip) = host.parse::<IpAddr>() {
        return Ok(ip);
    }
    let all: Vec<IpAddr> = (host, 0)
        .to_socket_addrs()?
        .map(|address| address.ip())
        .collect();
    all.iter()
        .find(|ip| ip.is_ipv4())
        .or_else(|| all.first())
        .copied()
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "the name has no address"))
}

/// Longest wait for a port that a living process has: it may be about to end.
const OTHER_WAIT_MAX: Duration = Duration::from_secs(3);
/// Longest wait where nobody can say whose it is.
const UNKNOWN_WAIT_MAX: Duration = Duration::from_secs(15);
/// Longest wait for what a killed process left. It is mostly gone within 50 ms; with a sync of a
/// gibibyte under way it stayed for more than 15 s on a slow device.
const ORPHAN_WAIT_MAX: Duration = Duration::from_mins(2);
/// Time between two tries.
const FREE_POLL: Duration = Duration::from_millis(2);
/// Time between two looks at who has it.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// A port held for a listener that opens soon.
#[derive(Debug)]
pub struct HeldPort {
    /// The address, its port never 0.
    pub address: SocketAddr,
    /// Bound, not listening: it keeps others away and receives nothing.
    #[allow(dead_code, reason = "held, not used")]
    socket: Socket,
}

/// Holds `address`; port 0 becomes a free one. None if `process` was asked to stop while somebody
/// else had it.
///
/// # Errors
/// The bind's: in use, no such address, no permission.
pub fn hold(address: SocketAddr, process: &Shutdown) -> io::Result<Option<HeldPort>> {
    let mut address = address;
    if address.port() != 0 && !await_free(address, process)? {
        return Ok(None);
    }
    let socket = open(address)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.bind(&address.into())?;
    if address.port() == 0 {
        let bound = socket
            .local_addr()?
            .as_socket()
            .map_or(0, |bound| bound.port());
        address.set_port(bound);
    }
    Ok(Some(HeldPort { address, socket }))
}

/// Waits for a port that a killed process still has: the kernel closes the sockets of an `io_uring`
/// only when its last operation has ended, which may be after the process was reaped. False if
/// `process` was asked to stop before.
fn await_free(address: SocketAddr, process: &Shutdown) -> io::Result<bool> {
    let begin = Instant::now();
    let mut look_at = begin;
    let mut holder = Holder::Unknown;
    loop {
        // A bind without SO_REUSEPORT fails when anybody else listens there. SO_REUSEADDR lets
        // connections of an earlier run that still linger pass, as every server does. The trial
        // never listens: a client that came just then would be cut off.
        let trial = open(address)?;
        trial.set_reuse_address(true)?;
        match trial.bind(&address.into()) {
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            outcome => return outcome.map(|()| true),
        }
        if process.is_triggered() {
            return Ok(false);
        }
        let now = Instant::now();
        if now >= look_at {
            let last = std::mem::replace(&mut holder, port_holder::of(address));
            look_at = now + LOOK_EVERY;
            if holder != last && holder == Holder::Nobody {
                let port = address.port();
                tracing::info!(port, "waiting for what a killed process left of the port");
            }
        }
        if now - begin >= wait_max(&holder) {
            return Err(taken(&holder));
        }
        std::thread::sleep(FREE_POLL);
    }
}

fn wait_max(holder: &Holder) -> Duration {
    match holder {
        Holder::Process { .. } => OTHER_WAIT_MAX,
        Holder::Nobody => ORPHAN_WAIT_MAX,
        Holder::Unknown => UNKNOWN_WAIT_MAX,
    }
}

fn taken(holder: &Holder) -> io::Error {
    let whose = match holder {
        Holder::Process { id, name } => format!("process {id} ({name}) has it"),
        Holder::Nobody => "a killed process left it, and the kernel does not let go".to_owned(),
        Holder::Unknown => "some process has it".to_owned(),
    };
    io::Error::new(io::ErrorKind::AddrInUse, whose)
}

fn open(address: SocketAddr) -> io::Result<Socket> {
    Socket::new(
        Domain::for_address(address),
        Type::STREAM,
        Some(Protocol::TCP),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_port_is_noticed_and_port_0_becomes_a_free_one() {
        let process = Shutdown::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let taken = listener.local_addr().unwrap();
        let refused = hold(taken, &process).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
        let held = hold("127.0.0.1:0".parse().unwrap(), &process).unwrap();
        assert_ne!(held.unwrap().address.port(), 0);
    }

    #[test]
    fn a_port_shared_by_reuseport_is_noticed_too() {
        let process = Shutdown::new();
        let first = hold("127.0.0.1:0".parse().unwrap(), &process).unwrap();
        let first = first.unwrap();
        first.socket.listen(1).unwrap();
        let refused = hold(first.address, &process).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    }

    #[test]
    fn nobody_waits_for_a_port_once_asked_to_stop() {
        let process = Shutdown::new();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        process.ask("SIGTERM");
        let begun = Instant::now();
        let held = hold(listener.local_addr().unwrap(), &process).unwrap();
        assert!(held.is_none());
        assert!(begun.elapsed() < OTHER_WAIT_MAX / 2);
    }

    #[test]
    fn names_resolve_to_ipv4_first() {
        assert_eq!(resolve("127.0.0.9").unwrap().to_string(), "127.0.0.9");
        assert!(resolve("no-such-host.invalid").is_err());
    }
}
