//! The tail: a ring of shared memory that a killed process leaves behind.
//!
//! **Owns** the bytes of the log's newest window, at `ring[position % ring_bytes]`.
//! **Lives on** the shard's core.
//! **Invariants** byte for byte what the device gets; a run's header is put after its entries.
//! **Limits** the ring is a power of two of at least `RING_BYTES_MIN`, the memory's largest one or
//! a smaller one; what memory is left is unused.
//! **Not here** the layout of runs (`format`), who may overwrite (`staging`).

pub(crate) mod ring_size;

use bytes::BytesMut;

use crate::format::{TAIL_HEADER_BYTES, TailHeader};
use crate::log::staging::Staging;
use crate::shard_store::RECORD_BYTES_MAX;
use crate::units::{FilePosition, index};

/// The smallest ring a shard runs with.
pub const RING_BYTES_MIN: u64 = 64 << 10;
/// The ring a shard gets unless told otherwise: half of it has room for the largest record.
pub const RING_BYTES_DEFAULT: u64 = 16 << 20;
const _: () = assert!(Staging::entry_bytes_max(RING_BYTES_DEFAULT, u64::MAX) >= RECORD_BYTES_MAX);

/// Bytes to map for a ring of `ring_bytes`.
pub const fn memory_bytes(ring_bytes: u64) -> u64 {
    TAIL_HEADER_BYTES + ring_bytes
}

/// Memory that outlives the process (a mapping), or just a vector in tests.
pub trait TailMemory {
    /// All of it.
    fn bytes(&self) -> &[u8];
    /// All of it, to write.
    fn bytes_mut(&mut self) -> &mut [u8];
}

impl<T: AsRef<[u8]> + AsMut<[u8]>> TailMemory for T {
    fn bytes(&self) -> &[u8] {
        self.as_ref()
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        self.as_mut()
    }
}

/// The header page and the ring.
pub struct Tail {
    memory: Box<dyn TailMemory>,
    ring_bytes: u64,
}

impl Tail {
    /// Takes the memory as its last user left it; `None` when it is too small for any ring.
    pub fn new(memory: Box<dyn TailMemory>) -> Option<Self> {
        let mut tail = Self {
            memory,
            ring_bytes: 0,
        };
        tail.ring_bytes = tail.ring_bytes_max();
        (tail.ring_bytes >= RING_BYTES_MIN).then_some(tail)
    }

    /// Bytes of the ring.
    pub fn ring_bytes(&self) -> u64 {
        self.ring_bytes
    }

    /// What the last user wrote into the header page.
    pub fn header(&self) -> Option<TailHeader> {
        TailHeader::decode(self.memory.bytes())
    }

    /// Makes the ring as large as the last user had it, to read what it left.
    /// False when the memory is smaller than that.
    pub fn use_ring_of(&mut self, header: &TailHeader) -> bool {
        let fits = header.ring_bytes.is_power_of_two() && header.ring_bytes <= self.ring_bytes;
        if fits {
            self.ring_bytes = header.ring_bytes;
        }
        fits
    }

    /// Bytes of the largest ring that the memory has room for.
    pub fn ring_bytes_max(&self) -> u64 {
        let room = (self.memory.bytes().len() as u64).saturating_sub(TAIL_HEADER_BYTES);
        1 << room.max(1).ilog2()
    }

    /// Starts a new life of the ring with `ring_bytes` (a power of two). What it held is lost: the
    /// device must have it.
    pub fn begin(&mut self, store_id: u64, epoch: u64, ring_bytes: u64) {
        self.ring_bytes = ring_bytes.min(self.ring_bytes_max());
        let header = TailHeader {
            store_id,
            ring_bytes: self.ring_bytes,
            epoch,
        }
        .encode();
        if let Some(page) = self.memory.bytes_mut().get_mut(..header.len()) {
            page.copy_from_slice(&header);
        }
    }

    fn place(&self, position: FilePosition) -> usize {
        index(position.0 & (self.ring_bytes - 1))
    }

    fn ring_mut(&mut self) -> &mut [u8] {
        let end = index(TAIL_HEADER_BYTES + self.ring_bytes);
        self.memory
            .bytes_mut()
            .get_mut(index(TAIL_HEADER_BYTES)..end)
            .unwrap_or_default()
    }

    /// Copies bytes in, around the end of the ring if need be.
    #[inline]
    pub fn put(&mut self, position: FilePosition, bytes: &[u8]) {
        let at = self.place(position);
        let ring = self.ring_mut();
        let first = bytes.len().min(ring.len() - at);
        let (head, rest) = bytes.split_at(first);
        if let Some(into) = ring.get_mut(at..at + first) {
            into.copy_from_slice(head);
        }
        if !rest.is_empty()
            && let Some(into) = ring.get_mut(..rest.len())
        {
            into.copy_from_slice(rest);
        }
    }

    /// Zeroes `position..end`.
    pub fn zero(&mut self, position: FilePosition, end: FilePosition) {
        const ZEROS: [u8; 4096] = [0; 4096];
        let mut at = position;
        while at < end {
            let len = end.since(at).min(ZEROS.len() as u64);
            self.put(at, ZEROS.get(..index(len)).unwrap_or_default());
            at = at.plus(len);
        }
    }

    /// The bytes of `position..position + len` in one or two pieces.
    #[inline]
    pub fn pieces(&self, position: FilePosition, len: u64) -> [&[u8]; 2] {
        let end = index(TAIL_HEADER_BYTES + self.ring_bytes);
        let ring = self
            .memory
            .bytes()
            .get(index(TAIL_HEADER_BYTES)..end)
            .unwrap_or_default();
        let at = self.place(position);
        let first = index(len).min(ring.len() - at);
        let rest = index(len) - first;
        [
            ring.get(at..at + first).unwrap_or_default(),
            ring.get(..rest).unwrap_or_default(),
        ]
    }

    /// Adds `len` bytes from `position` on to `out`.
    pub fn get(&self, position: FilePosition, len: u64, out: &mut BytesMut) {
        for piece in self.pieces(position, len) {
            out.extend_from_slice(piece);
        }
    }

    /// Copies from `position` on until `into` is full.
    pub fn copy_to(&self, position: FilePosition, into: &mut [u8]) {
        let [first, rest] = self.pieces(position, into.len() as u64);
        let (head, end) = into.split_at_mut(first.len());
        head.copy_from_slice(first);
        end.copy_from_slice(rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tail() -> Tail {
        Tail::new(Box::new(vec![0u8; 4096 + (64 << 10) + 100])).unwrap()
    }

    #[test]
    fn bytes_go_around_the_end() {
        let mut tail = tail();
        assert_eq!(tail.ring_bytes(), 64 << 10);
        let position = FilePosition((64 << 10) * 5 - 3);
        tail.put(position, b"abcdefgh");
        let [first, rest] = tail.pieces(position, 8);
        assert_eq!((first, rest), (&b"abc"[..], &b"defgh"[..]));
        let mut out = BytesMut::new();
        tail.get(position.plus(1), 5, &mut out);
        assert_eq!(&out[..], b"bcdef");
        tail.zero(position, position.plus(4));
        let mut copy = [9; 6];
        tail.copy_to(position, &mut copy);
        assert_eq!(&copy, b"\0\0\0\0ef");
    }

    #[test]
    fn the_header_tells_a_known_ring() {
        let mut tail = tail();
        assert_eq!(tail.header(), None);
        tail.begin(7, 3, 64 << 10);
        let header = tail.header().unwrap();
        assert_eq!((header.store_id, header.epoch), (7, 3));
        assert!(tail.use_ring_of(&header));
        assert!(!tail.use_ring_of(&TailHeader {
            ring_bytes: 1 << 30,
            ..header
        }));
        assert!(Tail::new(Box::new(vec![0u8; 5000])).is_none());
    }
}
