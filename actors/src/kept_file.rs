//! Small files that are replaced as a whole.
//!
//! **Owns** the order of the steps.
//! **Lives on** the control plane's thread and the main thread, a few times a day.
//! **Invariants** after a crash or a power cut at any moment the old or the new content is there:
//! the new one is on the device before it takes the name, the name before the call returns.
//! **Limits** the caller's: the content is in memory.
//! **Not here** what is in them (`kept_settings`, `namesrv`).

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

/// Replaces a file; its folder is made if need be.
///
/// # Errors
/// The disk's; then the old file is still there.
pub fn replace_file(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    std::fs::create_dir_all(folder)?;
    let fresh = fresh_name(path);
    let mut file = File::create(&fresh)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    File::open(folder)?.sync_all()
}

/// Where the new content waits: beside the file, for only a rename within a folder is one step.
fn fresh_name(path: &Path) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(".tmp");
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_new_content_waits_beside_the_file_and_takes_its_name() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("folder/a.properties");
        replace_file(&path, b"one").unwrap();
        replace_file(&path, b"two").unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
        let names = std::fs::read_dir(path.parent().unwrap()).unwrap();
        assert_eq!(names.count(), 1, "nothing is left beside it");
        // What can't be written leaves the old content.
        std::fs::create_dir(fresh_name(&path)).unwrap();
        assert!(replace_file(&path, b"three").is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"two");
    }
}
