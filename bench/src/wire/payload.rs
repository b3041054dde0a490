//! The body of a benchmark message: filler, then a stamp that says who sent it as which number.
//!
//! **Owns** the stamp's layout and its checksum.
//! **Lives on** the generator's executor, sending and receiving side.
//! **Invariants** the checksum covers the whole body, so a flipped bit anywhere is found; sealing a
//! body costs the stamp only, the filler's part of the checksum is taken once.
//! **Limits** bodies of at least [`STAMP_BYTES`].
//! **Not here** which numbers should have come (`ledger`).

use crc32fast::Hasher;

/// Bytes of the stamp at the end of every body; the smallest body.
pub const STAMP_BYTES: usize = 32;
const CRC_BYTES: usize = 4;
/// First word of a stamp.
const MAGIC: u32 = 0x4742_4E31;
const FILLER: &[u8; 16] = b"0123456789ABCDEF";

/// Who sent a message, as which number, and when it was meant to be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The run.
    pub run: u32,
    /// The sending connection.
    pub stream: u32,
    /// Counts up from 0 for each stream and queue.
    pub sequence: u64,
    /// Intended send time, ns since the start of the run.
    pub intended_ns: u64,
}

/// What is wrong with a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodyFault {
    /// It carries no stamp: another program's message.
    Foreign,
    /// Its checksum does not fit.
    Corrupt,
}

/// The body all messages of a run share but for the stamp.
#[derive(Debug, Clone)]
pub struct Filler {
    crc: Hasher,
    size: usize,
}

impl Filler {
    /// For bodies of `size` bytes, at least [`STAMP_BYTES`].
    pub fn new(size: usize) -> Self {
        let size = size.max(STAMP_BYTES);
        let mut crc = Hasher::new();
        crc.update(&filler(size - STAMP_BYTES));
        Self { crc, size }
    }

    /// A body with an empty place for the stamp.
    pub fn body(&self) -> Vec<u8> {
        let mut body = filler(self.size - STAMP_BYTES);
        body.resize(self.size, 0);
        body
    }

    /// Writes the stamp over the last [`STAMP_BYTES`] of a body.
    pub fn seal(&self, place: &mut [u8; STAMP_BYTES], stamp: &Stamp) {
        let (fields, crc_place) = place.split_at_mut(STAMP_BYTES - CRC_BYTES);
        let words = [
            MAGIC.to_be_bytes(),
            stamp.run.to_be_bytes(),
            stamp.stream.to_be_bytes(),
        ];
        let longs = [
            stamp.sequence.to_be_bytes(),
            stamp.intended_ns.to_be_bytes(),
        ];
        let (head, tail) = fields.split_at_mut(words.as_flattened().len());
        head.copy_from_slice(words.as_flattened());
        tail.copy_from_slice(longs.as_flattened());
        let mut crc = self.crc.clone();
        crc.update(fields);
        crc_place.copy_from_slice(&crc.finalize().to_be_bytes());
    }
}

/// Text that doesn't compress to nothing and differs by position.
fn filler(size: usize) -> Vec<u8> {
    (0..size)
        .map(|at| FILLER.get((at * 7 + at / 16) % 16).copied().unwrap_or(b'0'))
        .collect()
}

/// Reads and checks a received body.
///
/// # Errors
/// It is not one of ours, or not as it was sent.
pub fn open(body: &[u8]) -> Result<Stamp, BodyFault> {
    let at = body.len().checked_sub(STAMP_BYTES);
    let (covered, crc) = body
        .split_last_chunk::<CRC_BYTES>()
        .ok_or(BodyFault::Foreign)?;
    let stamp = at
        .and_then(|at| covered.get(at..))
        .and_then(|fields| fields.split_first_chunk::<12>())
        .ok_or(BodyFault::Foreign)?;
    let (words, longs) = stamp;
    let word = |n: usize| be_u32(words.get(n * 4..)?);
    let long = |n: usize| be_u64(longs.get(n * 8..)?);
    if crc32fast::hash(covered) != u32::from_be_bytes(*crc) {
        // A damaged message of ours must not pass for another program's.
        let ours = word(0) == Some(MAGIC) || body.starts_with(&filler(16));
        return Err(if ours {
            BodyFault::Corrupt
        } else {
            BodyFault::Foreign
        });
    }
    let fields = (word(0), word(1), word(2), long(0), long(1));
    let (Some(MAGIC), Some(run), Some(stream), Some(sequence), Some(intended_ns)) = fields else {
        return Err(BodyFault::Foreign);
    };
    Ok(Stamp {
        run,
        stream,
        sequence,
        intended_ns,
    })
}

fn be_u32(bytes: &[u8]) -> Option<u32> {
    Some(u32::from_be_bytes(*bytes.first_chunk()?))
}

fn be_u64(bytes: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*bytes.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp {
        run: 7,
        stream: 3,
        sequence: 99,
        intended_ns: 123_456_789,
    };

    fn sealed(size: usize) -> Vec<u8> {
        let filler = Filler::new(size);
        let mut body = filler.body();
        filler.seal(body.last_chunk_mut().unwrap(), &STAMP);
        body
    }

    #[test]
    fn what_is_sealed_is_read_back() {
        for size in [32, 33, 128, 1024] {
            let body = sealed(size);
            assert_eq!(body.len(), size);
            assert_eq!(open(&body), Ok(STAMP));
        }
    }

    #[test]
    fn every_flipped_byte_is_found() {
        let body = sealed(100);
        for at in 0..body.len() {
            let mut bad = body.clone();
            bad[at] ^= 1;
            assert_eq!(open(&bad), Err(BodyFault::Corrupt), "byte {at}");
        }
    }

    #[test]
    fn other_messages_are_not_ours() {
        for body in [&b""[..], b"hello", &[7; 200]] {
            assert_eq!(open(body), Err(BodyFault::Foreign));
        }
    }
}
