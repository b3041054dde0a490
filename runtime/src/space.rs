//! How full the disk under a folder is.
//!
//! **Owns** the one question to the file system.
//! **Lives on** the control plane's thread; the call takes microseconds on a local disk.
//! **Invariants** counts as `df` does: blocks kept for root are neither used nor free.
//! **Limits** none.
//! **Not here** what follows from it (`gantry_storage::retention`).

use std::io;
use std::path::Path;

use gantry_storage::retention::Usage;

/// Measures the file system that holds `folder`.
///
/// # Errors
/// As the system says.
pub fn usage(folder: &Path) -> io::Result<Usage> {
    let stat = rustix::fs::statvfs(folder)?;
    let used = stat.f_blocks.saturating_sub(stat.f_bfree);
    Ok(Usage {
        used_bytes: used.saturating_mul(stat.f_frsize),
        free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_on_some_disk() {
        let usage = usage(Path::new("/")).unwrap();
        assert!(usage.used_bytes > 0 && usage.permille() <= 1000);
        assert!(super::usage(Path::new("/no such folder")).is_err());
    }
}
