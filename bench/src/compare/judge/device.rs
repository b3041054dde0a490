//! What the device gives by itself: the measure of the log.
//!
//! **Owns** the two figures: one synced block at a time, and reading on from end to end.
//! **Lives on** the calling thread and some of its own.
//! **Invariants** direct I/O only, so that no page cache takes part; the file has been written
//! before, so that no block has to be found for it.
//! **Limits** `SYNCS` blocks, `READERS` reads under way.
//! **Not here** the log (`judge`).

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Instant;

use nix::fcntl::OFlag;

use crate::error::BenchError;

/// One synced write.
const BLOCK_BYTES: usize = 4096;
const SYNCS: usize = 2_000;
/// One read of the sequential reader, and how many of them are under way.
const READ_BYTES: usize = 1 << 20;
const READERS: u64 = 4;
/// What memory of direct I/O must begin with a multiple of.
const ALIGN: usize = 4096;

/// A device's own figures.
#[derive(Debug, Clone, Copy)]
pub struct Device {
    /// A 4 KiB write and its fdatasync, median, µs.
    pub sync_p50_us: f64,
    /// The same, 99th percentile.
    pub sync_p99_us: f64,
    /// Reading a file on, MiB/s.
    pub read_mib_per_second: f64,
}

/// Memory for direct I/O.
struct Aligned {
    bytes: Vec<u8>,
    from: usize,
    len: usize,
}

impl Aligned {
    fn new(len: usize) -> Self {
        let bytes = vec![0x5A; len + ALIGN];
        let from = bytes.as_ptr().align_offset(ALIGN);
        Self { bytes, from, len }
    }

    fn get(&mut self) -> &mut [u8] {
        let end = self.from + self.len;
        self.bytes.get_mut(self.from..end).unwrap_or_default()
    }
}

/// Measures the device under `folder` with a file of `mib` MiB, which is removed again.
///
/// # Errors
/// The file can't be made, written or read with direct I/O.
pub fn measure(folder: &Path, mib: u64) -> Result<Device, BenchError> {
    let path = folder.join("device.bin");
    let measured = measured(&path, mib);
    let _ = std::fs::remove_file(&path);
    measured.map_err(|source| BenchError::Output {
        path: path.display().to_string(),
        source,
    })
}

fn open(path: &Path) -> std::io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true);
    options.custom_flags(OFlag::O_DIRECT.bits()).open(path)
}

fn measured(path: &Path, mib: u64) -> std::io::Result<Device> {
    let file = open(path)?;
    let mut chunk = Aligned::new(READ_BYTES);
    for nth in 0..mib {
        file.write_all_at(chunk.get(), nth * READ_BYTES as u64)?;
    }
    file.sync_all()?;
    let read_mib_per_second = read_on(path, mib)?;
    let mut took_us = synced(&file, mib)?;
    took_us.sort_by(f64::total_cmp);
    let at = |share: usize| took_us.get(took_us.len() * share / 100).copied();
    Ok(Device {
        sync_p50_us: at(50).unwrap_or(f64::NAN),
        sync_p99_us: at(99).unwrap_or(f64::NAN),
        read_mib_per_second,
    })
}

fn synced(file: &File, mib: u64) -> std::io::Result<Vec<f64>> {
    let mut block = Aligned::new(BLOCK_BYTES);
    let blocks = mib * (READ_BYTES / BLOCK_BYTES) as u64;
    let mut took_us = Vec::with_capacity(SYNCS);
    for nth in (0..blocks).take(SYNCS) {
        let since = Instant::now();
        file.write_all_at(block.get(), nth * BLOCK_BYTES as u64)?;
        file.sync_data()?;
        took_us.push(since.elapsed().as_secs_f64() * 1e6);
    }
    Ok(took_us)
}

fn read_on(path: &Path, mib: u64) -> std::io::Result<f64> {
    let since = Instant::now();
    std::thread::scope(|scope| {
        let readers: Vec<_> = (0..READERS)
            .map(|first| {
                scope.spawn(move || -> std::io::Result<()> {
                    let file = open(path)?;
                    let mut chunk = Aligned::new(READ_BYTES);
                    let mut nth = first;
                    while nth < mib {
                        file.read_exact_at(chunk.get(), nth * READ_BYTES as u64)?;
                        nth += READERS;
                    }
                    Ok(())
                })
            })
            .collect();
        let ended = readers.into_iter().map(|reader| {
            let panicked = |_| std::io::Error::other("a reader panicked");
            reader.join().map_err(panicked)?
        });
        ended.collect::<std::io::Result<()>>()
    })?;
    let mib = u32::try_from(mib).map_or(f64::NAN, f64::from);
    Ok(mib / since.elapsed().as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_has_all_three_figures() {
        // Memory has no direct I/O everywhere: a folder on a disk.
        let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let device = measure(folder.path(), 8).unwrap();
        assert!(device.sync_p50_us > 0.0 && device.sync_p99_us >= device.sync_p50_us);
        assert!(device.read_mib_per_second > 0.0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }
}
