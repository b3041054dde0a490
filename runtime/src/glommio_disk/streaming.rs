//! Copies that pass the processor's caches by.
//!
//! **Owns** the stores that fill a buffer for the device.
//! **Lives on** the data core that writes its log.
//! **Invariants** afterwards the bytes are those of a plain copy, for whoever may read them.
//! **Limits** none; without SSE2 it is a plain copy.
//! **Not here** what is written (`gantry_storage::log`).
//!
//! The core fills a buffer and never looks at it again, while the host's threads or the device
//! read it: a plain store waits until each line has come back from them, and pushes out of the
//! caches what is needed next.

/// Copies `from` to the front of `into`, as far as both go.
#[cfg(target_arch = "x86_64")]
#[allow(unsafe_code)]
pub(super) fn copy(into: &mut [u8], from: &[u8]) {
    use std::arch::x86_64::{__m128i, _mm_loadu_si128, _mm_sfence, _mm_stream_si128};

    /// Bytes of a cache line: streaming stores are fast where they fill whole ones.
    const LINE_BYTES: usize = 64;
    const PART_BYTES: usize = size_of::<__m128i>();

    let len = into.len().min(from.len());
    let ((into, _), (from, _)) = (into.split_at_mut(len), from.split_at(len));
    // The device's buffers start at a line.
    let head_bytes = into.as_ptr().align_offset(LINE_BYTES).min(len);
    let (into_head, into_lines) = into.split_at_mut(head_bytes);
    let (head, lines) = from.split_at(head_bytes);
    into_head.copy_from_slice(head);
    let mut into_lines = into_lines.chunks_exact_mut(LINE_BYTES);
    let mut lines = lines.chunks_exact(LINE_BYTES);
    for (into, line) in into_lines.by_ref().zip(lines.by_ref()) {
        let into_parts = into.chunks_exact_mut(PART_BYTES);
        for (into, part) in into_parts.zip(line.chunks_exact(PART_BYTES)) {
            // SAFETY: SSE2 is part of x86_64. Both slices have the 16 bytes that are read and
            // written. `into` is aligned to 16: `head_bytes` ends where the address is a multiple
            // of 64, or with the slice, and then there is no line; lines are 64 apart and parts 16.
            // The load needs no alignment.
            unsafe {
                let part = _mm_loadu_si128(part.as_ptr().cast());
                _mm_stream_si128(into.as_mut_ptr().cast(), part);
            }
        }
    }
    into_lines
        .into_remainder()
        .copy_from_slice(lines.remainder());
    // SAFETY: SSE is part of x86_64. Streaming stores are seen by others in any order; behind this
    // they are seen before whatever follows, such as the word to the kernel that there is a write.
    unsafe { _mm_sfence() };
}

/// Copies `from` to the front of `into`, as far as both go.
#[cfg(not(target_arch = "x86_64"))]
pub(super) fn copy(into: &mut [u8], from: &[u8]) {
    into.iter_mut()
        .zip(from)
        .for_each(|(into, byte)| *into = *byte);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// At every alignment of both sides, with and without whole lines.
    #[test]
    fn copies_all_and_no_more() {
        let source: Vec<u8> = (0..7)
            .flat_map(|turn| (0..100).map(move |at| at ^ (turn * 31)))
            .collect();
        for into_at in 0..70 {
            for (from_at, len) in [(0, 0), (0, 1), (3, 15), (1, 64), (0, 127), (5, 600)] {
                let mut into = vec![0xEE; 700];
                copy(
                    &mut into[into_at..into_at + len],
                    &source[from_at..from_at + len],
                );
                assert_eq!(into[into_at..into_at + len], source[from_at..from_at + len]);
                assert!(into[..into_at].iter().all(|byte| *byte == 0xEE));
                assert!(into[into_at + len..].iter().all(|byte| *byte == 0xEE));
            }
        }
    }

    #[test]
    fn of_two_lengths_the_shorter_counts() {
        let mut into = [0; 3];
        copy(&mut into, b"abcdef");
        assert_eq!(&into, b"abc");
        let mut into = *b"xyz";
        copy(&mut into, b"a");
        assert_eq!(&into, b"ayz");
    }
}
