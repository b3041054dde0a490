//! Freed memory that the allocator keeps.
//!
//! **Owns** one call of glibc.
//! **Lives on** the blocking thread of a data core, when the shard's upkeep asks for it; the main
//! thread, after a start.
//! **Invariants** nothing in use is touched. With another C library nothing happens.
//! **Limits** some ms for tens of MiB; a core that needs memory of its heap meanwhile waits.
//! **Not here** when it is worth it (`gantry_storage::shard_store`), what the allocator is told at
//! the start (`server/heap.rs`).
//!
//! glibc returns memory from the end of a heap only, and there always lies something small that
//! stays: 100,000 queues that were written once and sleep left 42 MiB of free memory in a core's
//! heap.

/// Returns what all heaps keep of freed memory to the system, as far as it is whole pages.
#[cfg(target_env = "gnu")]
#[allow(unsafe_code)]
pub fn give_back() {
    unsafe extern "C" {
        /// Joins what is free in all heaps and returns its whole pages, but for `pad` bytes at the
        /// end of the first heap.
        fn malloc_trim(pad: usize) -> i32;
    }
    // SAFETY: the declaration is glibc's own (malloc.h). It takes the lock of each heap, may be
    // called by any thread at any time, and touches free blocks only.
    unsafe { malloc_trim(0) };
}

/// Nothing is known of this C library's allocator.
#[cfg(not(target_env = "gnu"))]
pub fn give_back() {}
