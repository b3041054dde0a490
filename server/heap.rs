//! How the allocator gives memory back.
//!
//! **Owns** two settings of glibc's `malloc`, for commands that run for long.
//! **Lives on** the main thread, before any other exists.
//! **Invariants** what an operator has set stays; the process keeps its number, arguments and
//! environment. Where the C library is another one, nothing changes.
//! **Limits** one `exec`.
//! **Not here** how much memory is used (`gantry_actors::memory_plan`).
//!
//! By default glibc raises both thresholds with the largest block that was ever freed, up to 32 and
//! 64 MiB, and keeps that much in each thread's heap: after a start with 100,000 queues 26 MiB more
//! than were in use, none of which `memoryLimit` would know. They can be set from outside only (or
//! by a call that needs unsafe code).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

/// Blocks from this size on are the kernel's, and go back to it when freed: above all that is used
/// per request.
const MMAP_THRESHOLD: (&str, &str) = ("MALLOC_MMAP_THRESHOLD_", "1048576");
/// Free memory at the end of a thread's heap that stays there.
const TRIM_THRESHOLD: (&str, &str) = ("MALLOC_TRIM_THRESHOLD_", "2097152");
/// Where newer systems set the same.
const TUNABLES: &str = "GLIBC_TUNABLES";

/// Starts this program again, in the same process, with the thresholds set. Comes back when they
/// are set already, or can't be.
pub fn settle() {
    let names = [MMAP_THRESHOLD.0, TRIM_THRESHOLD.0, TUNABLES];
    if names.iter().any(|name| std::env::var_os(name).is_some()) {
        return;
    }
    let Ok(program) = std::env::current_exe() else {
        return;
    };
    let mut args = std::env::args_os();
    let name = args.next().unwrap_or_else(|| program.clone().into());
    let error = Command::new(&program)
        .arg0(name)
        .args(args)
        .envs([MMAP_THRESHOLD, TRIM_THRESHOLD])
        .exec();
    tracing::debug!(%error, "the allocator keeps its defaults");
}
