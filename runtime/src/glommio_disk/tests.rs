use gantry_storage::disk::DiskFile;

use super::*;
use crate::shard::{CorePlan, DataCores};
use crate::shutdown::Shutdown;
use crate::topology::unbound;

/// A folder on the file system of the build, which has direct I/O where /tmp may not.
fn folder() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_MANIFEST_DIR")).unwrap()
}

fn on_disk<F, Fut>(root: PathBuf, act: F)
where
    F: Fn(GlommioDisk) -> Fut + Clone + Send + 'static,
    Fut: Future<Output = ()> + 'static,
{
    let shutdown = Shutdown::new();
    let plan = CorePlan::new(unbound(1));
    let cores = DataCores::start(&plan, &shutdown, vec![root], move |core, root: PathBuf| {
        let act = act.clone();
        async move {
            let disk = GlommioDisk::open(&root, core.queues.flush).await.unwrap();
            act(disk).await;
        }
    })
    .unwrap();
    assert!(cores.join().is_empty());
}

#[test]
fn writes_syncs_and_reads_back_directly() {
    let folder = folder();
    on_disk(folder.path().join("store"), |disk| async move {
        disk.make_dir("shard-0").await.unwrap();
        let mode = OpenMode::CreateLen(64 * 1024);
        let file = disk.open("shard-0/a.log", mode).await.unwrap();
        assert_eq!(file.len(), 64 * 1024);
        let empty = file.read_at(4096, 4096).await.unwrap();
        assert!(empty.as_ref().iter().all(|byte| *byte == 0) && empty.as_ref().len() == 4096);
        for (index, fill) in [7_u8, 8, 9].into_iter().enumerate() {
            let mut buf = disk.alloc(8192);
            assert_eq!(buf.as_ref().len(), 8192);
            buf.as_mut().fill(fill);
            file.write_at_and_sync(buf, index as u64 * 8192)
                .await
                .unwrap();
        }
        file.clone().close().await.unwrap();
        let read = file.read_at(8192, 16384).await.unwrap();
        assert!(read.as_ref()[..8192].iter().all(|byte| *byte == 8));
        assert!(read.as_ref()[8192..].iter().all(|byte| *byte == 9));
        let end = file.read_at(60 * 1024, 16384).await.unwrap();
        assert_eq!(end.as_ref().len(), 4096);
        file.close().await.unwrap();
    });
}

#[test]
fn folders_names_and_errors() {
    let folder = folder();
    on_disk(folder.path().to_owned(), |disk| async move {
        disk.make_dir("a/b").await.unwrap();
        disk.make_dir("a/b").await.unwrap();
        let missing = disk.open("a/none", OpenMode::Existing).await.err().unwrap();
        assert!(missing.is_not_found(), "{missing}");
        assert!(disk.list("nowhere").await.unwrap_err().is_not_found());
        assert!(disk.remove("a/none").await.unwrap_err().is_not_found());
        assert!(
            disk.rename("a/none", "a/x")
                .await
                .unwrap_err()
                .is_not_found()
        );
        let large = disk
            .open("a/huge", OpenMode::CreateLen(1 << 60))
            .await
            .err()
            .unwrap();
        assert!(!large.is_not_found(), "{large}");
        // A failed reservation leaves nothing behind that takes the device's last blocks.
        assert!(disk.remove("a/huge").await.unwrap_err().is_not_found());
        disk.open("a/one", OpenMode::CreateLen(4096))
            .await
            .unwrap()
            .close()
            .await
            .unwrap();
        disk.rename("a/one", "a/two").await.unwrap();
        disk.sync_dir("a").await.unwrap();
        let mut entries = disk.list("a").await.unwrap();
        entries.sort();
        assert_eq!(entries.len(), 2);
        assert!(entries[0].is_dir && entries[0].name == "b");
        assert!(entries[1].name == "two" && entries[1].len == 4096);
        assert!(
            disk.list("")
                .await
                .unwrap()
                .iter()
                .all(|entry| entry.name == "a")
        );
        assert!(disk.free_bytes().await.unwrap() > 0);
        assert_ne!(disk.random_u64(), disk.random_u64());
        let begin = disk.now_mono_us();
        disk.sleep_ms(5).await;
        assert!(disk.now_mono_us() - begin >= 5000 && disk.now_ms() > 1_600_000_000_000);
        let (news, seen) = flume::bounded(1);
        disk.spawn(async move { news.send(()).unwrap() });
        seen.recv_async().await.unwrap();
    });
}

#[test]
fn a_file_system_without_direct_io_is_refused_with_a_remedy() {
    if !Path::new("/dev/shm").is_dir() {
        return;
    }
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let shutdown = Shutdown::new();
    let plan = CorePlan::new(unbound(1));
    let seats = vec![folder.path().to_owned()];
    let cores = DataCores::start(&plan, &shutdown, seats, |core, root: PathBuf| async move {
        let refused = GlommioDisk::open(&root, core.queues.flush)
            .await
            .err()
            .unwrap();
        let text = refused.to_string();
        assert!(
            text.contains("tmpfs") && text.contains("another folder"),
            "{text}"
        );
    })
    .unwrap();
    assert!(cores.join().is_empty());
}

#[test]
fn the_lock_admits_one_and_names_its_holder() {
    let folder = folder();
    let lock = StoreLock::take(folder.path()).unwrap();
    let refused = StoreLock::take(folder.path()).unwrap_err().to_string();
    assert!(
        refused.contains(&format!("process {}", std::process::id())),
        "{refused}"
    );
    drop(lock);
    StoreLock::take(folder.path()).unwrap();
}

#[test]
fn the_tail_keeps_its_bytes_and_its_larger_length() {
    let folder = tempfile::tempdir().unwrap();
    let place = TailPlace::choose(Some(folder.path()), Path::new("/nowhere"));
    assert_eq!(place.home, TailHome::Named);
    let path = place.path(0xabc, 3);
    let mut tail = SharedTail::open(&path, 64 * 1024).unwrap();
    assert!(!tail.existed());
    assert!(tail.as_ref().iter().all(|byte| *byte == 0));
    tail.as_mut()[60_000] = 42;
    drop(tail);
    let tail = SharedTail::open(&path, 4096).unwrap();
    assert!(tail.existed() && tail.len() == 64 * 1024 && !tail.is_empty());
    assert_eq!(tail.as_ref()[60_000], 42);
    drop(tail);
    let tail = SharedTail::open(&path, 128 * 1024).unwrap();
    assert_eq!(
        (tail.len(), tail.as_ref()[60_000], tail.as_ref()[100_000]),
        (131_072, 42, 0)
    );
    for bytes in [0, 100, TAIL_TOO_LONG] {
        assert!(matches!(
            SharedTail::open(&path, bytes),
            Err(TailError::Length { .. })
        ));
    }
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    assert!(SharedTail::open(&link, 4096).is_err());
    let data = TailPlace::choose(None, folder.path());
    assert!(!data.why.is_empty());
}

#[test]
fn a_tail_admits_one_and_one_that_is_removed_is_let_go() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("t.tail");
    let held = TailFile::take(&path).unwrap();
    let first = held.map(4096).unwrap();
    let refused = SharedTail::open(&path, 4096).unwrap_err().to_string();
    assert!(
        refused.contains("t.tail: in use by another process"),
        "{refused}"
    );
    assert!(TailFile::is_used(&path));
    // The same process may map it again, and holds it as long as it maps it.
    let second = held.map(4096).unwrap();
    drop((held, first));
    assert!(SharedTail::open(&path, 4096).is_err());
    drop(second);
    let held = TailFile::take(&path).unwrap();
    held.remove().unwrap();
    let next = SharedTail::open(&path, 4096).unwrap();
    assert!(!next.existed());
    // What is in its place by now is another's.
    held.remove().unwrap();
    assert!(path.exists());
}

#[test]
fn a_tail_in_the_data_folder_goes_with_a_copy_of_it() {
    let scratch = tempfile::tempdir().unwrap();
    let [old, new, shm] = ["old", "new", "shm"].map(|name| scratch.path().join(name));
    for folder in [&old, &new, &shm] {
        std::fs::create_dir(folder).unwrap();
    }
    let record = |folder: &Path| folder.join("tail-0.path");
    let place = TailPlace::choose(Some(&shm), &old);
    let in_old = TailPlace::choose(Some(&old), &old).path(7, 0);
    let tail = SharedTail::open(&in_old, 4096).unwrap();
    TailPlace::record(&old, 0, &in_old).unwrap();
    assert_eq!(place.locate(&old, 7, 0), in_old);
    // A copy without it leaves the old folder's alone; one with it has its own.
    std::fs::copy(record(&old), record(&new)).unwrap();
    assert_eq!(place.locate(&new, 7, 0), place.path(7, 0));
    let in_new = new.join(in_old.file_name().unwrap());
    std::fs::copy(&in_old, &in_new).unwrap();
    assert_eq!(place.locate(&new, 7, 0), in_new);
    // Records of older versions have the whole path.
    std::fs::write(record(&new), in_old.to_string_lossy().as_bytes()).unwrap();
    assert_eq!(place.locate(&new, 7, 0), in_new);
    std::fs::write(record(&old), in_old.to_string_lossy().as_bytes()).unwrap();
    assert_eq!(place.locate(&old, 7, 0), in_old);
    // Another folder's is recorded whole.
    drop(tail);
    std::fs::remove_file(&in_old).unwrap();
    let in_shm = place.path(7, 0);
    drop(SharedTail::open(&in_shm, 4096).unwrap());
    TailPlace::record(&old, 0, &in_shm).unwrap();
    let elsewhere = TailPlace::choose(Some(&new), &old);
    assert_eq!(elsewhere.locate(&old, 7, 0), in_shm);
}

const TAIL_TOO_LONG: u64 = shared_tail::TAIL_BYTES_MAX + 4096;

/// Bytes of memory that belong to this process alone.
#[cfg(target_env = "gnu")]
fn anonymous_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
    let kib = line.split_whitespace().nth(1).unwrap();
    kib.parse::<u64>().unwrap() * 1024
}

#[cfg(target_env = "gnu")]
#[test]
fn freed_memory_goes_back_although_something_stays_behind_it() {
    const BLOCKS: usize = 200_000;
    let mut blocks: Vec<Box<[u8; 200]>> = (0..BLOCKS).map(|_| Box::new([7; 200])).collect();
    let last = blocks.pop().unwrap();
    drop(blocks);
    let before = anonymous_bytes();
    memory::give_back();
    let after = anonymous_bytes();
    assert!(after + (30 << 20) < before, "{before} to {after}");
    assert_eq!(*last, [7; 200]);
}
