//! Message ids: where a record lies, and the unique id a client gives its message.
//!
//! **Owns** the offset id's form, both address families, and the unique id's layout.
//! **Lives on** data cores (offset ids in replies), clients and the broker (unique ids).
//! **Invariants** upper-case hex; ids of others are opaque except for the offset id, whose host
//! clients connect to.
//! **Limits** 56 digits.
//! **Not here** clocks and randomness: the caller gives them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Digits of an id with an IPv6 address.
const DIGITS_MAX: usize = 56;
/// Digits of an id with an IPv4 address.
const DIGITS_V4: usize = 32;

const HEX: [u8; 16] = *b"0123456789ABCDEF";
/// Both digits of every byte.
static PAIRS: [[u8; 2]; 256] = pairs();

#[allow(
    clippy::indexing_slicing,
    reason = "evaluated by the compiler: a wrong index would not build"
)]
const fn pairs() -> [[u8; 2]; 256] {
    let mut pairs = [[0; 2]; 256];
    let mut byte = 0;
    while byte < 256 {
        pairs[byte] = [HEX[byte >> 4], HEX[byte & 15]];
        byte += 1;
    }
    pairs
}

#[inline]
fn digits_of(byte: u8) -> [u8; 2] {
    PAIRS.get(usize::from(byte)).copied().unwrap_or([b'0'; 2])
}

/// An id in its hex form, without an allocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct HexId {
    digits: [u8; DIGITS_MAX],
    len: usize,
}

/// The unique id of a message, `UNIQ_KEY`.
pub type UniqueId = HexId;

impl HexId {
    fn empty() -> Self {
        Self {
            digits: [b'0'; DIGITS_MAX],
            len: 0,
        }
    }

    fn put(&mut self, bytes: &[u8]) {
        for byte in bytes {
            let rest = self.digits.get_mut(self.len..).unwrap_or_default();
            if let Some(slot) = rest.first_chunk_mut::<2>() {
                *slot = digits_of(*byte);
                self.len += 2;
            }
        }
    }

    fn put_ip(&mut self, ip: IpAddr) {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self.put(&v4.octets()),
            IpAddr::V6(v6) => self.put(&v6.octets()),
        }
    }

    /// The digits.
    pub fn as_str(&self) -> &str {
        // Only ASCII digits are ever put.
        self.digits
            .get(..self.len)
            .and_then(|d| std::str::from_utf8(d).ok())
            .unwrap_or_default()
    }
}

impl std::fmt::Display for HexId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The id that says where a record lies: store host and physical offset.
pub fn offset_id(store_host: SocketAddr, physical_offset: i64) -> HexId {
    let mut id = offset_id_host(store_host);
    id.put(&physical_offset.to_be_bytes());
    id
}

/// The offset ids of records of one broker, with commas between them.
pub fn offset_ids(store_host: SocketAddr, offsets: impl Iterator<Item = i64>) -> String {
    let host = offset_id_host(store_host);
    let host = host.as_str();
    let mut ids = String::with_capacity((host.len() + 17) * offsets.size_hint().0);
    for (nth, offset) in offsets.enumerate() {
        if nth > 0 {
            ids.push(',');
        }
        ids.push_str(host);
        // Only ASCII digits.
        let digits = hex_digits(offset.cast_unsigned());
        ids.push_str(std::str::from_utf8(&digits).unwrap_or_default());
    }
    ids
}

/// The first part of every offset id of one broker; [`hex_digits`] of the offset follows.
pub(crate) fn offset_id_host(store_host: SocketAddr) -> HexId {
    let mut id = HexId::empty();
    id.put_ip(store_host.ip());
    id.put(&u32::from(store_host.port()).to_be_bytes());
    id
}

/// The sixteen digits of a number, highest first.
pub(crate) fn hex_digits(number: u64) -> [u8; 16] {
    let mut digits = [0; 16];
    let (pairs, _) = digits.as_chunks_mut::<2>();
    for (pair, byte) in pairs.iter_mut().zip(number.to_be_bytes()) {
        *pair = digits_of(byte);
    }
    digits
}

/// Store host and physical offset of an offset id; `None` if it is none.
pub fn parse_offset_id(id: &str) -> Option<(SocketAddr, i64)> {
    let mut bytes = [0_u8; DIGITS_MAX / 2];
    if id.len() != DIGITS_V4 && id.len() != DIGITS_MAX {
        return None;
    }
    for (slot, pair) in bytes.iter_mut().zip(id.as_bytes().chunks_exact(2)) {
        *slot = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    let (ip, rest) = if id.len() == DIGITS_V4 {
        let (ip, rest) = bytes.split_first_chunk::<4>()?;
        (IpAddr::V4(Ipv4Addr::from(*ip)), rest)
    } else {
        let (ip, rest) = bytes.split_first_chunk::<16>()?;
        (IpAddr::V6(Ipv6Addr::from(*ip)), rest)
    };
    let (port, rest) = rest.split_first_chunk::<4>()?;
    let port = u16::try_from(u32::from_be_bytes(*port)).ok()?;
    let offset = i64::from_be_bytes(*rest.first_chunk::<8>()?);
    Some((SocketAddr::new(ip, port), offset))
}

/// Makes unique ids in the layout of Java's `MessageClientIDSetter`: address, process id, a
/// loader's hash, milliseconds since the month began, a counter.
///
/// mqadmin reads the birth time out of an id to bound its search.
#[derive(Debug, Clone)]
pub struct UniqueIdMaker {
    prefix: HexId,
    counter: u16,
}

impl UniqueIdMaker {
    /// A maker for one process and owner. `seed` stands where Java has its class loader's hash:
    /// give each maker of one process another one.
    pub fn new(ip: IpAddr, process_id: u32, seed: u32) -> Self {
        let mut prefix = HexId::empty();
        prefix.put_ip(ip);
        let [_, _, high, low] = process_id.to_be_bytes();
        prefix.put(&[high, low]);
        prefix.put(&seed.to_be_bytes());
        Self { prefix, counter: 0 }
    }

    /// The next id. `ms_since_month_began` is the caller's clock, cut to 32 bits as in Java.
    pub fn next(&mut self, ms_since_month_began: u32) -> UniqueId {
        let mut id = self.prefix;
        id.put(&ms_since_month_began.to_be_bytes());
        id.put(&self.counter.to_be_bytes());
        self.counter = self.counter.wrapping_add(1);
        id
    }
}

/// Milliseconds from the beginning of the month that holds `epoch_ms` (UTC).
pub fn ms_since_month_began(epoch_ms: u64) -> u32 {
    const DAY_MS: u64 = 86_400_000;
    let days = epoch_ms / DAY_MS;
    let in_month = days_into_month(days) * DAY_MS + epoch_ms % DAY_MS;
    // 31 days are 2.7e9 ms: fits 32 bits unsigned.
    u32::try_from(in_month).unwrap_or(u32::MAX)
}

/// Zero-based day of the month, by the proleptic Gregorian calendar.
fn days_into_month(days_since_epoch: u64) -> u64 {
    // Counted from 0000-03-01, so that a leap day is a year's last day.
    let shifted = days_since_epoch + 719_468;
    let of_era = shifted % 146_097;
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    of_year - (153 * month + 2) / 5
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offset_ids_of_both_families() {
        let id = offset_id("127.0.0.1:10911".parse().unwrap(), 256);
        assert_eq!(id.as_str(), "7F00000100002A9F0000000000000100");
        assert_eq!(
            parse_offset_id(id.as_str()),
            Some(("127.0.0.1:10911".parse().unwrap(), 256))
        );
        let host: SocketAddr = "[2001:db8::1]:10911".parse().unwrap();
        let id = offset_id(host, i64::MAX);
        assert_eq!(id.as_str().len(), 56);
        assert_eq!(parse_offset_id(id.as_str()), Some((host, i64::MAX)));
        let mapped = offset_id("[::ffff:127.0.0.1]:1".parse().unwrap(), 0);
        assert_eq!(mapped.as_str().len(), 32);
    }

    #[test]
    fn many_offset_ids_are_single_ones_joined() {
        for host in ["127.0.0.1:10911", "[2001:db8::1]:10911"] {
            let host = host.parse().unwrap();
            let offsets = [0, 256, i64::MAX];
            let single = offsets.map(|offset| offset_id(host, offset).to_string());
            assert_eq!(offset_ids(host, offsets.into_iter()), single.join(","));
        }
        let none = std::iter::empty::<i64>();
        let host = "127.0.0.1:10911".parse().unwrap();
        assert_eq!(offset_ids(host, none), "");
    }

    #[test]
    fn what_is_no_offset_id_is_none() {
        for text in [
            "",
            "7F",
            "7F00000100002A9F000000000000010",
            &"Z".repeat(32),
            &"é".repeat(16),
        ] {
            assert_eq!(parse_offset_id(text), None, "{text}");
        }
        assert_eq!(parse_offset_id(&"F".repeat(32)), None, "port above 65535");
    }

    #[test]
    fn unique_ids_have_javas_layout_and_differ() {
        let mut maker = UniqueIdMaker::new("10.0.0.1".parse().unwrap(), 0x1_2345, 0xAABB_CCDD);
        let first = maker.next(0x0102_0304);
        assert_eq!(first.as_str(), "0A0000012345AABBCCDD010203040000");
        assert_ne!(first, maker.next(0x0102_0304));
    }

    #[test]
    fn month_begins() {
        assert_eq!(ms_since_month_began(0), 0);
        // 2024-02-29 00:00:00.001 UTC.
        assert_eq!(ms_since_month_began(1_709_164_800_001), 28 * 86_400_000 + 1);
        // 2024-03-01 00:00:00 UTC.
        assert_eq!(ms_since_month_began(1_709_251_200_000), 0);
        // 2026-11-22 22:00:00 UTC.
        assert_eq!(
            ms_since_month_began(1_795_384_800_000),
            21 * 86_400_000 + 22 * 3_600_000
        );
    }
}
