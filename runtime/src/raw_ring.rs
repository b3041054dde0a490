//! How the rings of glommio are made and entered: the four system calls of `io_uring`; and a socket
//! of ours made one of its listeners.
//!
//! **Owns** the C functions behind liburing's own, which glommio carries: whoever links this crate
//! takes these instead (a linker asks an archive only for what is still missing). They say the same
//! to the kernel, but that a ring made within [`cooperatively`] doesn't interrupt its core.
//! **Lives on** each thread that makes or enters a ring.
//! **Invariants** results are those of the C library: -1 and `errno`. A kernel that doesn't know
//! the flag (before 5.19) makes the ring without it.
//! **Limits** none of its own.
//! **Not here** what is submitted (glommio), whether rings are allowed at all (`probe`).
//!
//! Why: whenever something completes, the kernel interrupts the core that made the ring, wherever
//! it is, to have the completion written down at once. In a virtual machine that costs some 15 µs
//! (perf: 7 % of a busy core's time under sends, 12 % under pulls of a backlog), for what glommio
//! looks at next turn only. A turn enters the kernel several times, and sleeping is done there.

use std::cell::Cell;
use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use glommio::net::TcpListener;
use libc::{c_int, c_long, c_uint, c_void, sigset_t};

/// `IORING_SETUP_COOP_TASKRUN`: completions are written down when the thread is in the kernel next
/// time, not by an interrupt.
const COOPERATIVE: u32 = 1 << 8;
/// Bytes of the kernel's signal set.
const SIGNAL_SET_BYTES: c_int = 8;

thread_local! {
    /// Whether the rings that this thread makes are cooperative.
    static WANTED: Cell<bool> = const { Cell::new(false) };
    /// Cooperative rings that this thread made.
    static MADE: Cell<usize> = const { Cell::new(0) };
}

/// Runs `make` with rings made on this thread set up so that a completion interrupts nobody. Not
/// for an executor that spins before it sleeps: spinning looks at the rings without entering the
/// kernel.
pub(crate) fn cooperatively<T>(make: impl FnOnce() -> T) -> T {
    WANTED.set(true);
    let result = make();
    WANTED.set(false);
    result
}

/// A listening socket as glommio's, which has no other way to say its options. Within an executor.
#[allow(unsafe_code)]
pub(crate) fn listener(socket: OwnedFd) -> TcpListener {
    // SAFETY: the descriptor is open and ours alone; the listener owns and closes it from here on.
    unsafe { TcpListener::from_raw_fd(socket.into_raw_fd()) }
}

/// The kernel's `struct io_uring_params`: 120 bytes, of which only the flags matter here.
#[repr(C)]
struct RingParameters {
    sq_entries: u32,
    cq_entries: u32,
    flags: u32,
    others: [u32; 27],
}
const _: () = assert!(size_of::<RingParameters>() == 120);

fn result(value: c_long) -> c_int {
    c_int::try_from(value).expect("a descriptor, a count or -1")
}

#[allow(unsafe_code)]
mod calls {
    use super::{
        COOPERATIVE, MADE, RingParameters, SIGNAL_SET_BYTES, WANTED, c_int, c_uint, c_void, result,
        sigset_t,
    };

    /// `io_uring_setup(2)`.
    ///
    /// # Safety
    /// `parameters` is the caller's own `struct io_uring_params`.
    // SAFETY: the name, arguments and result are those of liburing's function of this name, which
    // nothing else defines: a second definition in the link is an error of the linker.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn __sys_io_uring_setup(
        entries: c_uint,
        parameters: *mut RingParameters,
    ) -> c_int {
        let setup = |parameters: *mut RingParameters| {
            // SAFETY: the caller's promise; the kernel reads and writes these 120 bytes only.
            result(unsafe { libc::syscall(libc::SYS_io_uring_setup, entries, parameters) })
        };
        if !WANTED.get() {
            return setup(parameters);
        }
        // SAFETY: the caller's promise; nobody else has the structure during the call.
        unsafe { (*parameters).flags |= COOPERATIVE };
        let ring = setup(parameters);
        if ring >= 0 {
            MADE.set(MADE.get() + 1);
            return ring;
        }
        // SAFETY: as above. A refused call leaves the structure as it was.
        unsafe { (*parameters).flags &= !COOPERATIVE };
        setup(parameters)
    }

    /// `io_uring_register(2)`.
    ///
    /// # Safety
    /// What `code` asks of `arguments` and `count`.
    // SAFETY: as for the setup.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn __sys_io_uring_register(
        ring: c_int,
        code: c_uint,
        arguments: *const c_void,
        count: c_uint,
    ) -> c_int {
        // SAFETY: handed on as it came.
        result(unsafe { libc::syscall(libc::SYS_io_uring_register, ring, code, arguments, count) })
    }

    /// `io_uring_enter(2)` with the size of what `signals` points to.
    ///
    /// # Safety
    /// What is queued in the ring is valid until it completes; `signals` is null, a signal set or
    /// what `flags` makes of it, of `bytes` bytes.
    // SAFETY: as for the setup.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn __sys_io_uring_enter2(
        ring: c_int,
        submit: c_uint,
        wait_for: c_uint,
        flags: c_uint,
        signals: *mut sigset_t,
        bytes: c_int,
    ) -> c_int {
        let call = libc::SYS_io_uring_enter;
        // SAFETY: handed on as it came.
        result(unsafe { libc::syscall(call, ring, submit, wait_for, flags, signals, bytes) })
    }

    /// `io_uring_enter(2)` with a signal set or none.
    ///
    /// # Safety
    /// As for [`__sys_io_uring_enter2`].
    // SAFETY: as for the setup.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn __sys_io_uring_enter(
        ring: c_int,
        submit: c_uint,
        wait_for: c_uint,
        flags: c_uint,
        signals: *mut sigset_t,
    ) -> c_int {
        let bytes = SIGNAL_SET_BYTES;
        // SAFETY: the caller's promise.
        unsafe { __sys_io_uring_enter2(ring, submit, wait_for, flags, signals, bytes) }
    }
}

#[cfg(test)]
mod tests {
    use super::{MADE, cooperatively};

    #[test]
    fn an_executors_rings_are_made_here() {
        let known = crate::probe::kernel_is_at_least((5, 19));
        let make = || glommio::LocalExecutorBuilder::default().make().unwrap();
        // The first one of a process makes one more, to ask what there is.
        drop(make());
        assert_eq!(MADE.get(), 0);
        let executor = cooperatively(make);
        // The main ring, the one for latency and the one that is polled.
        let rings = MADE.get();
        assert_eq!(rings, if known { 3 } else { 0 });
        let one = executor.run(async {
            glommio::timer::sleep(std::time::Duration::from_millis(1)).await;
            1
        });
        assert_eq!(one, 1);
        // Outside of it a ring is as glommio asks for it.
        drop(make());
        assert_eq!(MADE.get(), rings);
    }
}
