//! The tail: a ring of shared memory that a killed process leaves behind.
//!
//! **Owns** the bytes of the log's newest window, at `ring[position % ring_bytes]`.
//! **Lives on** the shard's core.
//! **Invariants** byte for byte what the device gets; a run is complete before its header is there.
//! **Limits** `RING_BYTES_MIN`; a power of two is not required, a multiple of the block is.
//! **Not here** the layout of runs (`format`), who may overwrite (`shard_log`).

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
