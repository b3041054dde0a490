//! A process that has as many files open as it may; alone in its process, because the limit is the
//! whole process's.

#![allow(
    clippy::unwrap_used,
    reason = "a test's helpers are outside of its functions"
)]

use std::path::PathBuf;

use gantry_runtime::glommio_disk::GlommioDisk;
use gantry_runtime::shard::{CorePlan, DataCores};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::unbound;
use gantry_storage::disk::{Disk, DiskFile, OpenMode};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const BLOCK: usize = 4096;

#[test]
fn a_synced_write_needs_no_second_handle_and_passes_when_none_is_free() {
    let folder = tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap();
    let root = folder.path().join("store");
    let plan = CorePlan::new(unbound(1));
    let shutdown = Shutdown::new();
    let cores = DataCores::start(
        &plan,
        &shutdown,
        vec![root],
        |core, root: PathBuf| async move {
            let disk = GlommioDisk::open(&root, core.queues.flush).await.unwrap();
            let mode = OpenMode::CreateLen(4 * BLOCK as u64);
            let file = disk.open("a.log", mode).await.unwrap();
            let usual = getrlimit(Resource::Nofile);
            let none = Rlimit {
                current: Some(0),
                ..usual
            };
            setrlimit(Resource::Nofile, none).unwrap();
            let refused = disk.open("b.log", mode).await.err();
            let mut buf = disk.alloc(BLOCK);
            buf.as_mut().fill(7);
            let without = file.write_at_and_sync(buf, 0).await;
            setrlimit(Resource::Nofile, usual).unwrap();
            let refused = refused.unwrap();
            assert!(refused.is_no_handle(), "{refused}");
            without.unwrap();
            let mut buf = disk.alloc(BLOCK);
            buf.as_mut().fill(8);
            file.write_at_and_sync(buf, BLOCK as u64).await.unwrap();
            let read = file.read_at(0, 2 * BLOCK).await.unwrap();
            assert_eq!(read.as_ref()[0], 7);
            assert_eq!(read.as_ref()[2 * BLOCK - 1], 8);
            disk.open("b.log", mode).await.unwrap();
        },
    )
    .unwrap();
    assert!(cores.join().is_empty());
}
