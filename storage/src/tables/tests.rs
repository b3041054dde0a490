//! The tables: order, atomicity, and what a killed process leaves.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};

use super::*;

/// Tells the test binary, started again, to be the process that gets killed.
const VICTIM: &str = "GANTRY_TABLES_VICTIM_FOLDER";

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().unwrap()
}

fn put(tables: &Tables, namespace: Namespace, key: &[u8], value: &[u8]) -> Result<(), TablesError> {
    let mut batch = Batch::new();
    batch.put(namespace, key, value);
    tables.commit(&batch)
}

fn count_of(tables: &Tables, namespace: Namespace) -> u64 {
    tables.all(namespace).unwrap().len() as u64
}

#[test]
fn they_can_be_sent_to_the_control_thread() {
    fn is_send<T: Send>() {}
    is_send::<Tables>();
    is_send::<TablesError>();
}

#[test]
fn what_was_put_is_there_after_reopening() {
    let folder = folder();
    {
        let tables = Tables::open(folder.path()).unwrap();
        let mut batch = Batch::new();
        batch
            .put(Namespace::Topics, "b", "2")
            .put(Namespace::Topics, "a", "1")
            .put(Namespace::Groups, "a", "other")
            .delete(Namespace::Topics, "absent");
        tables.commit(&batch).unwrap();
        let second = Tables::open(folder.path());
        assert!(matches!(second, Err(TablesError::InUse { .. })));
    }
    let tables = Tables::open(folder.path()).unwrap();
    let all = tables.all(Namespace::Topics).unwrap();
    assert_eq!(
        all,
        [
            (b"a".to_vec(), b"1".to_vec()),
            (b"b".to_vec(), b"2".to_vec())
        ]
    );
    assert_eq!(
        tables.get(Namespace::Groups, b"a").unwrap(),
        Some(b"other".to_vec())
    );
    assert_eq!(tables.get(Namespace::Offsets, b"a").unwrap(), None);
}

#[test]
fn ranges_are_half_open_and_bounded() {
    let folder = folder();
    let tables = Tables::open(folder.path()).unwrap();
    let mut batch = Batch::new();
    for due in 0..100u64 {
        batch.put(Namespace::Timers, due.to_be_bytes(), vec![7; 24]);
    }
    batch.delete(Namespace::Timers, 5u64.to_be_bytes());
    tables.commit(&batch).unwrap();
    let due = |from: u64, to: u64, count| {
        let to = to.to_be_bytes();
        let pairs = tables
            .range(Namespace::Timers, &from.to_be_bytes(), Some(&to), count)
            .unwrap();
        pairs.iter().map(|(key, _)| key[7]).collect::<Vec<u8>>()
    };
    assert_eq!(due(3, 8, 10), [3, 4, 6, 7]);
    assert_eq!(due(3, 8, 2), [3, 4]);
    assert_eq!(due(8, 3, 2), []);
    assert_eq!(due(200, 300, 2), []);
}

#[test]
fn a_refused_batch_changes_nothing() {
    let folder = folder();
    let tables = Tables::open(folder.path()).unwrap();
    let mut batch = Batch::new();
    batch
        .put(Namespace::Topics, "good", "1")
        .put(Namespace::Topics, vec![0; 5000], "2");
    let refused = tables.commit(&batch).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "key of 5000 bytes in Topics, at most 4096 are taken"
    );
    assert_eq!(count_of(&tables, Namespace::Topics), 0);
}

#[test]
fn a_newer_layout_is_refused() {
    let folder = folder();
    let tables = Tables::open(folder.path()).unwrap();
    let newer = (LAYOUT_VERSION + 1).to_be_bytes();
    put(&tables, Namespace::Meta, LAYOUT_KEY, &newer).unwrap();
    drop(tables);
    let refused = Tables::open(folder.path());
    assert!(matches!(refused, Err(TablesError::Newer { found: 2, .. })));
}

/// Not a test by itself: writes pairs of keys in batches until it is killed, telling after each
/// how far it came.
#[test]
#[ignore = "started by killed_in_the_middle_of_commits"]
fn victim() {
    let Some(folder) = std::env::var_os(VICTIM) else {
        return;
    };
    let tables = Tables::open(Path::new(&folder)).unwrap();
    let mut round = count_of(&tables, Namespace::Offsets);
    loop {
        let mut batch = Batch::new();
        batch.put(Namespace::Offsets, round.to_be_bytes(), "x");
        batch.put(Namespace::Timers, round.to_be_bytes(), "x");
        tables.commit(&batch).unwrap();
        println!("durable {round}");
        round += 1;
    }
}

#[test]
fn killed_in_the_middle_of_commits() {
    let folder = folder();
    for life in 0..5u64 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "tables::tests::victim",
                "--ignored",
                "--nocapture",
            ])
            .env(VICTIM, folder.path())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut durable = 0;
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let told = lines.map_while(Result::ok);
        let told = told.filter_map(|line| line.strip_prefix("durable ")?.parse::<u64>().ok());
        for round in told.take(3 + usize::try_from(life).unwrap() * 5) {
            durable = round;
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let tables = Tables::open(folder.path()).unwrap();
        let count = count_of(&tables, Namespace::Offsets);
        assert!(count > durable, "{count} keys, round {durable} was durable");
        assert_eq!(count, count_of(&tables, Namespace::Timers), "half a batch");
        let last = tables
            .range(Namespace::Offsets, &(count - 1).to_be_bytes(), None, 2)
            .unwrap();
        assert_eq!(last.len(), 1, "keys are dense");
    }
}

/// Says in the file that `tests/run` reads that the test of this thread could not be run here.
fn skipped(why: &str) {
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    eprint!("SKIPPED {line}");
    if let Some(file) = std::env::var_os("GANTRY_TEST_SKIPPED") {
        let mut options = std::fs::OpenOptions::new();
        let file = options.create(true).append(true).open(file);
        std::io::Write::write_all(&mut file.unwrap(), line.as_bytes()).unwrap();
    }
}

/// A file system of its own in memory; none where this process may not mount one.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mounted(size: &str) -> Option<Self> {
        let folder = folder();
        let options = format!("size={size}");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &options, "tmpfs"])
            .arg(folder.path())
            .output();
        if mounted.is_ok_and(|out| out.status.success()) {
            return Some(Self(folder));
        }
        skipped("no file system can be mounted here (root)");
        None
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).output();
    }
}

#[test]
fn what_was_stored_is_read_after_a_write_found_the_disk_full() {
    let Some(disk) = SmallDisk::mounted("40m") else {
        return;
    };
    let tables = Tables::open(disk.0.path()).unwrap();
    // More than the pages kept in memory: reading it goes to the file.
    let value = vec![7; 64 << 10];
    let stored = 2 * CACHE_BYTES / value.len();
    for n in 0..stored {
        let key = n.to_be_bytes();
        put(&tables, Namespace::Topics, &key, &value).unwrap();
    }
    let mut refused = 0;
    for n in 0..2000_u32 {
        let key = n.to_be_bytes();
        let put = put(&tables, Namespace::Offsets, &key, &value);
        if put.is_err() {
            refused += 1;
            let found = tables.all(Namespace::Topics).unwrap();
            assert_eq!(found.len(), stored);
            if refused == 3 {
                return;
            }
        }
    }
    panic!("the disk was never full");
}
