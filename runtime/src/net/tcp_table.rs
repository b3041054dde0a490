//! The kernel's tables of TCP sockets, `/proc/net/tcp` and `tcp6`.
//!
//! **Owns** reading a row, and when a socket is in the way of another's address.
//! **Lives on** whoever asks, before it listens.
//! **Invariants** what can't be read is taken to be in the way.
//! **Limits** none: a table has a row for each connection, and takes the kernel ms to make.
//! **Not here** what follows from it (`taken_port`, the server's `port_holder`).

use std::net::{IpAddr, SocketAddr};

/// State of a listening socket (`TCP_LISTEN`).
pub const LISTENING: &str = "0A";

/// One socket.
#[derive(Debug, Clone, Copy)]
pub struct Row<'a> {
    ip: Option<IpAddr>,
    port: u16,
    /// Its state, two digits.
    pub state: &'a str,
    /// The number of its file.
    pub inode: Option<u64>,
}

impl<'a> Row<'a> {
    /// Reads `sl local_address rem_address st tx:rx tr:tm retrnsmt uid timeout inode ...`; `None`
    /// for what is no socket.
    pub fn of(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let (ip, port) = fields.nth(1)?.split_once(':')?;
        Some(Self {
            ip: ip_of(ip),
            port: u16::from_str_radix(port, 16).ok()?,
            state: fields.nth(1)?,
            inode: fields.nth(5).and_then(|text| text.parse().ok()),
        })
    }

    /// Whether it keeps `wanted` from being bound.
    pub fn is_in_the_way(&self, wanted: SocketAddr) -> bool {
        self.port == wanted.port() && self.ip.is_none_or(|ip| overlaps(ip, wanted))
    }
}

/// Whether a socket at `ip` gets what is sent to `addr`, or the other way round.
pub(super) fn overlaps(ip: IpAddr, addr: SocketAddr) -> bool {
    ip.is_unspecified() || addr.ip().is_unspecified() || ip == addr.ip()
}

/// The kernel prints each 32-bit word of an address in its own byte order.
fn ip_of(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| {
        let part = hex.get(at..at + 8)?;
        u32::from_str_radix(part, 16).ok().map(u32::to_ne_bytes)
    };
    match hex.len() {
        8 => Some(IpAddr::from(word(0)?)),
        32 => {
            let words = [word(0)?, word(8)?, word(16)?, word(24)?];
            let octets: [u8; 16] = words.concat().try_into().ok()?;
            Some(IpAddr::from(octets).to_canonical())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_the_kernel_prints() {
        assert_eq!(ip_of("0100007F"), Some(IpAddr::from([127, 0, 0, 1])));
        assert_eq!(
            ip_of("0000000000000000FFFF00000100007F"),
            Some(IpAddr::from([127, 0, 0, 1]))
        );
        for bad in [
            "",
            "x",
            "  sl  local",
            "0: zz:zz 0:0 0A",
            "0: 0100007F 0:0 0A",
        ] {
            assert!(Row::of(bad).is_none());
        }
    }
}
