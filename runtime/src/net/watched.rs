//! Sessions that are read after each gathering without the rings being asked.
//!
//! **Owns** the wakers of the reader tasks that wait for the next look.
//! **Lives on** each data core; the writer task looks.
//! **Invariants** while nobody looks, no reader waits here: it waits at the rings. A reader that
//! waits here is woken by the next look or by the end of looking. A look is one short read a
//! socket: a peer that sends as fast as it is read can't keep the core from everything else.
//! **Limits** [`SESSIONS_MAX`] readers; further ones wait at the rings.
//! **Not here** when requests gather (`coalescing`).

use std::cell::{Cell, RefCell};
use std::task::{Context, Waker};

/// Sockets that are tried at each look: some 0.5 us for one that has nothing.
const SESSIONS_MAX: usize = 64;
/// A socket that had nothing at so many looks in a row is left to the rings.
pub(super) const MISSES_MAX: u32 = 8;

/// The readers of a core that wait for the next look.
#[derive(Default)]
pub(super) struct Watched {
    is_on: Cell<bool>,
    readers: RefCell<Vec<Waker>>,
    looks: Cell<u64>,
}

impl Watched {
    /// Whether somebody looks.
    pub(super) fn is_on(&self) -> bool {
        self.is_on.get()
    }

    /// Looks since the start.
    pub(super) fn looks(&self) -> u64 {
        self.looks.get()
    }

    /// Wakes this reader at the next look. False where it has to wait at the rings.
    pub(super) fn wait(&self, cx: &Context<'_>) -> bool {
        let mut readers = self.readers.borrow_mut();
        let has_room = self.is_on.get() && readers.len() < SESSIONS_MAX;
        if has_room {
            readers.push(cx.waker().clone());
        }
        has_room
    }

    /// From now on somebody looks.
    pub(super) fn begin(&self) {
        self.is_on.set(true);
    }

    /// Nobody looks any more: the readers go to the rings.
    pub(super) fn end(&self) {
        self.is_on.set(false);
        self.look();
    }

    /// Wakes the readers.
    pub(super) fn look(&self) {
        self.looks.set(self.looks.get() + 1);
        for reader in self.readers.take() {
            reader.wake();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::task::Wake;

    use super::*;

    #[derive(Default)]
    struct Woken(AtomicUsize);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    #[test]
    fn readers_wait_here_only_while_somebody_looks() {
        let (watched, woken) = (Watched::default(), Arc::new(Woken::default()));
        let waker = Waker::from(Arc::clone(&woken));
        let cx = Context::from_waker(&waker);
        let count = || woken.0.load(Ordering::Relaxed);
        assert!(!watched.wait(&cx));
        watched.begin();
        assert!(watched.is_on() && watched.wait(&cx));
        watched.look();
        assert_eq!(count(), 1);
        watched.look();
        assert_eq!(count(), 1);
        for _ in 0..SESSIONS_MAX {
            assert!(watched.wait(&cx));
        }
        assert!(!watched.wait(&cx));
        watched.end();
        assert_eq!(count(), 1 + SESSIONS_MAX);
        assert!(!watched.is_on() && !watched.wait(&cx));
    }
}
