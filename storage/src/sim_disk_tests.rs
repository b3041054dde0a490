use super::*;
use crate::disk::DiskFile;

fn block(byte: u8) -> Vec<u8> {
    vec![byte; 4096]
}

#[test]
fn a_kill_keeps_finished_writes_and_a_power_cut_keeps_synced_ones() {
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.block_on(async {
            disk.make_dir("a").await.unwrap();
            let file = disk.open("a/f", OpenMode::CreateLen(16384)).await.unwrap();
            disk.sync_dir("").await.unwrap();
            disk.sync_dir("a").await.unwrap();
            file.write_at(block(1), 0).await.unwrap();
            file.sync().await.unwrap();
            file.write_at(block(2), 4096).await.unwrap();
        });
        disk.kill();
        disk.block_on(async {
            let file = disk.open("a/f", OpenMode::Existing).await.unwrap();
            assert_eq!(file.read_at(4096, 4096).await.unwrap(), block(2));
        });
        disk.cut_power();
        disk.block_on(async {
            let file = disk.open("a/f", OpenMode::Existing).await.unwrap();
            assert_eq!(file.read_at(0, 4096).await.unwrap(), block(1));
            let unsynced = file.read_at(4096, 4096).await.unwrap();
            assert!(unsynced.chunks(512).all(|s| s == [2; 512] || s == [0; 512]));
        });
    }
}

#[test]
fn names_need_a_folder_sync() {
    let mut lost = 0;
    for seed in 0..50 {
        let disk = SimDisk::new(seed);
        disk.block_on(async { disk.open("f", OpenMode::CreateLen(4096)).await.map(drop) })
            .unwrap();
        disk.cut_power();
        let found = disk.block_on(async { disk.open("f", OpenMode::Existing).await.map(drop) });
        lost += u32::from(found.is_err());
    }
    assert!((5..45).contains(&lost), "lost {lost} of 50");
}

#[test]
fn faults_come_on_the_nth_operation_once() {
    let disk = SimDisk::new(1);
    disk.fail_after(SimOp::Write, 1, DiskErrorKind::Io);
    disk.block_on(async {
        let file = disk.open("f", OpenMode::CreateLen(8192)).await.unwrap();
        file.write_at(block(1), 0).await.unwrap();
        assert_eq!(
            file.write_at(block(1), 0).await.unwrap_err().kind,
            DiskErrorKind::Io
        );
        file.write_at(block(1), 0).await.unwrap();
        disk.set_capacity(8192);
        let full = disk.open("g", OpenMode::CreateLen(4096)).await;
        assert!(full.err().is_some_and(|error| error.is_no_space()));
    });
}

#[test]
fn equal_seeds_give_equal_traces_and_time_is_virtual() {
    let run = |seed| {
        let disk = SimDisk::new(seed);
        let start = disk.now_ms();
        disk.block_on(async {
            for name in ["a", "b", "c"] {
                let task = disk.clone();
                disk.spawn(async move {
                    let file = task.open(name, OpenMode::CreateLen(4096)).await.unwrap();
                    file.write_at(vec![7; 4096], 0).await.unwrap();
                    file.sync().await.unwrap();
                });
            }
            disk.sleep_ms(3_600_000).await;
        });
        assert!(disk.now_ms() - start >= 3_600_000);
        disk.trace()
    };
    assert_eq!(run(3), run(3));
    assert_ne!(run(3), run(4));
}
