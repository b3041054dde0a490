//! What waits to be written to one connection.
//!
//! **Owns** the bytes, in pieces: the last one is appended to, those before it are complete.
//! **Lives on** the data core of its connection.
//! **Invariants** bytes leave in the order they came; a long answer that was made elsewhere becomes
//! a piece as it is, without a copy; what is counted is what is allocated.
//! **Limits** a piece is closed from [`PIECE_BYTES`] on, so growth copies no more than that and one
//! answer; [`PIECES_A_WRITE`] go into one system call.
//! **Not here** when it is written (`writer`), how much may wait (`session`).

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

/// Frames of this size that have a buffer of their own become a piece as they are; shorter ones are
/// cheaper to copy.
pub const MOVED_FRAMES_BYTES_MIN: usize = 16 * 1024;
/// A piece that has this much is appended to no more.
pub(super) const PIECE_BYTES: usize = 32 * 1024;
/// Pieces in one system call.
const PIECES_A_WRITE: usize = 16;
/// Memory that is kept once everything has been written.
const KEEP_BYTES: usize = 64 * 1024;

/// A complete piece.
#[derive(Debug)]
struct Piece {
    bytes: BytesMut,
    /// What it was allocated with: what has been written stays until the whole piece goes.
    allocated: usize,
}

impl Piece {
    fn new(bytes: BytesMut) -> Self {
        let allocated = bytes.capacity();
        Self { bytes, allocated }
    }
}

/// Bytes on their way to a socket.
#[derive(Debug, Default)]
pub(super) struct OutBuffer {
    complete: VecDeque<Piece>,
    complete_bytes: usize,
    complete_allocated: usize,
    open: BytesMut,
}

impl OutBuffer {
    /// Bytes that wait.
    pub(super) fn len(&self) -> usize {
        self.complete_bytes + self.open.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes of memory.
    pub(super) fn allocated(&self) -> usize {
        self.complete_allocated + self.open.capacity()
    }

    /// What whole frames are appended to.
    pub(super) fn open(&mut self) -> &mut BytesMut {
        if self.open.len() >= PIECE_BYTES {
            let open = std::mem::take(&mut self.open);
            self.complete(Piece::new(open));
        }
        &mut self.open
    }

    /// Appends whole frames, without a copy if they are long and nobody else has them.
    pub(super) fn push(&mut self, frames: Bytes) {
        let own = if frames.len() >= MOVED_FRAMES_BYTES_MIN {
            frames.try_into_mut()
        } else {
            Err(frames)
        };
        match own {
            Ok(own) => self.push_own(own),
            Err(frames) => self.open().extend_from_slice(&frames),
        }
    }

    fn push_own(&mut self, frames: BytesMut) {
        if self.open.is_empty() {
            self.open = frames;
            return;
        }
        let open = std::mem::replace(&mut self.open, frames);
        self.complete(Piece::new(open));
    }

    fn complete(&mut self, piece: Piece) {
        self.complete_bytes += piece.bytes.len();
        self.complete_allocated += piece.allocated;
        self.complete.push_back(piece);
    }

    /// What the next system call should write.
    pub(super) fn slices(&self) -> SmallVec<[IoSlice<'_>; PIECES_A_WRITE]> {
        let complete = self.complete.iter().map(|piece| &piece.bytes);
        complete
            .chain(Some(&self.open).filter(|open| !open.is_empty()))
            .take(PIECES_A_WRITE)
            .map(|bytes| IoSlice::new(bytes))
            .collect()
    }

    /// The socket has taken the first `count` bytes.
    pub(super) fn advance(&mut self, mut count: usize) {
        while let Some(first) = self.complete.front_mut() {
            let taken = count.min(first.bytes.len());
            count -= taken;
            self.complete_bytes -= taken;
            first.bytes.advance(taken);
            if !first.bytes.is_empty() {
                return;
            }
            self.complete_allocated -= first.allocated;
            self.complete.pop_front();
        }
        if count >= self.open.len() {
            self.open.clear();
        } else if count > 0 {
            // Completed, it keeps the count of its memory.
            let mut piece = Piece::new(std::mem::take(&mut self.open));
            piece.bytes.advance(count);
            self.complete(piece);
        }
    }

    /// Gives back memory that what still waits does not need.
    pub(super) fn fit(&mut self) {
        if self.is_empty() {
            if self.open.capacity() > KEEP_BYTES {
                self.open = BytesMut::new();
            }
            if self.complete.capacity() > PIECES_A_WRITE {
                self.complete = VecDeque::new();
            }
        } else if let Some(first) = self.complete.front_mut()
            && first.allocated > KEEP_BYTES
            && first.bytes.len() < first.allocated / 4
        {
            self.complete_allocated -= first.allocated;
            *first = Piece::new(BytesMut::from(first.bytes.as_ref()));
            self.complete_allocated += first.allocated;
        }
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first bytes of what the next system call would write.
    fn first_bytes(out: &OutBuffer, count: usize) -> Vec<u8> {
        let slices = out.slices();
        let bytes = slices.iter().flat_map(|slice| slice.iter().copied());
        bytes.take(count).collect()
    }

    fn bytes_of(out: &OutBuffer) -> Vec<u8> {
        first_bytes(out, usize::MAX)
    }

    #[test]
    fn a_long_answer_becomes_a_piece_without_a_copy_and_in_its_place() {
        let long = |byte| Bytes::from(vec![byte; MOVED_FRAMES_BYTES_MIN]);
        let mut out = OutBuffer::default();
        let first = long(7);
        let place = first.as_ptr();
        out.push(first);
        assert_eq!(out.open().as_ptr(), place, "into an empty one");
        out.open().extend_from_slice(b"tail");
        let second = long(9);
        let place = second.as_ptr();
        out.push(second);
        assert_eq!(out.slices().len(), 2);
        assert_eq!(out.slices()[1].as_ptr(), place);
        out.open().extend_from_slice(b"end");
        assert_eq!(out.len(), 2 * MOVED_FRAMES_BYTES_MIN + 4 + 3);
        let expected = [&long(7)[..], b"tail", &long(9), b"end"].concat();
        assert_eq!(bytes_of(&out), expected);
        let taken = MOVED_FRAMES_BYTES_MIN + 4;
        out.advance(taken);
        assert_eq!(bytes_of(&out), expected[taken..]);
        let (mut other, shared) = (OutBuffer::default(), long(5));
        other.push(shared.clone());
        other.push(Bytes::from_static(&[9]));
        assert_eq!(other.slices().len(), 1, "a short one is copied");
        let both = [&shared[..], &[9]].concat();
        assert_eq!(bytes_of(&other), both, "somebody else has them as well");
    }

    #[test]
    fn bytes_leave_in_order_whatever_the_socket_takes() {
        for step in [1, 3, 999, PIECE_BYTES, PIECE_BYTES + 1, 1 << 20] {
            let mut out = OutBuffer::default();
            let mut expected = Vec::new();
            for turn in 0..60_u8 {
                let frame = vec![turn; 1 + usize::from(turn) * 97];
                expected.extend_from_slice(&frame);
                if turn % 5 == 4 {
                    out.push(Bytes::from(frame));
                } else {
                    out.open().extend_from_slice(&frame);
                }
            }
            assert_eq!(out.len(), expected.len());
            let mut left = Vec::new();
            while !out.is_empty() {
                let taken = first_bytes(&out, step);
                left.extend_from_slice(&taken);
                out.advance(taken.len());
                out.fit();
                assert_eq!(left.len() + out.len(), expected.len());
            }
            assert_eq!(left, expected, "in steps of {step}");
            assert!(out.allocated() <= KEEP_BYTES);
        }
    }

    #[test]
    fn memory_is_counted_as_it_is_allocated_and_given_back() {
        let mut out = OutBuffer::default();
        out.open().extend_from_slice(&[1; 100]);
        out.push(Bytes::from(vec![2; 1 << 20]));
        let whole = out.allocated();
        assert!(whole >= (1 << 20) + 100);
        out.advance(100 + (1 << 19));
        out.fit();
        assert!(out.allocated() >= 1 << 20, "half of it is still needed");
        out.advance((1 << 19) - 1000);
        assert!(out.allocated() >= 1 << 20, "its memory is one piece");
        out.fit();
        assert_eq!((out.len(), out.allocated()), (1000, 1000));
        out.advance(1000);
        out.fit();
        assert!(out.is_empty() && out.allocated() <= KEEP_BYTES);
        out.open().extend_from_slice(&vec![1; PIECE_BYTES]);
        let open = out.open();
        assert!(open.is_empty(), "a full piece is closed");
        out.clear();
        assert_eq!((out.len(), out.allocated()), (0, 0));
    }
}
