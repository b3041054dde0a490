//! Work whose garbage shall not stay.
//!
//! **Owns** the thread on which such work runs.
//! **Lives on** a thread of its own while the caller waits for it.
//! **Invariants** the result is the work's; where no thread can be had, the caller's own does it.
//! **Limits** one thread a call, 0.1 ms: for work on hundreds of KiB and more.
//! **Not here** what the allocator is told at the start (`server/heap.rs`).
//!
//! glibc gives each thread a heap, and returns memory from the end of a heap only. A body of 12,500
//! topics leaves 11 MiB of holes between what is kept of it and what was there before. On a heap of
//! its own nothing is kept, so most of it goes back.

use std::panic::resume_unwind;
use std::thread::{self, ScopedJoinHandle};

/// Bytes of a body from which it is worth a thread.
pub const WORTH_BYTES: usize = 256 << 10;

/// Does `work` on a heap of its own if `is_large`. What it returns should be small, or be copied
/// and dropped soon.
///
/// # Panics
/// When the work does.
pub fn on_own_heap<T: Send>(is_large: bool, work: impl FnOnce() -> T + Send) -> T {
    let mut work = Some(work);
    let mut result = None;
    if is_large {
        thread::scope(|scope| {
            let run = || result = work.take().map(|work| work());
            let thread = thread::Builder::new().name("own-heap".to_owned());
            // Without a thread the work is still there, and done below.
            if let Ok(Err(panic)) = thread.spawn_scoped(scope, run).map(ScopedJoinHandle::join) {
                resume_unwind(panic);
            }
        });
    }
    result
        .or_else(|| work.map(|work| work()))
        .expect("the work has been done, or is still there to be done")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_is_done_once_on_either_heap() {
        let here = thread::current().id();
        let small = on_own_heap(false, || (thread::current().id(), vec![1]));
        assert_eq!(small, (here, vec![1]));
        let large = on_own_heap(true, || (thread::current().id(), vec![2]));
        assert_ne!(large.0, here);
        assert_eq!(large.1, [2]);
    }

    #[test]
    #[should_panic(expected = "bad body")]
    fn a_panic_comes_through() {
        on_own_heap(true, || panic!("bad body"));
    }
}
