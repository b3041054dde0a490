//! A full disk: sends are refused with 14 and the true reason, reads go on, and it ends by itself.
//! On a small file system of its own, which takes root and a loop device; skipped without.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]

mod common;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use common::{Client, Frame, Gantry, code, ext, fresh, reply, until};

/// Bytes of the file system: 10 % of it are less than a segment of 8 MiB.
const DISK_BYTES: u64 = 72 << 20;
/// Less than a segment, more than what is kept beside the log needs.
const SCANT_BYTES: u64 = 7_500_000;
const SECONDS: u64 = 30;

fn does(command: &str, args: &[&str]) -> bool {
    let done = Command::new(command).args(args).output();
    done.is_ok_and(|out| out.status.success())
}

/// A mounted file system in a file.
struct SmallDisk {
    mount: PathBuf,
}

impl SmallDisk {
    /// Mounts one at `mount`; none where that is not possible.
    fn at(mount: &Path, image: &Path) -> Option<Self> {
        fs::create_dir_all(mount).unwrap();
        fs::File::create(image)
            .unwrap()
            .set_len(DISK_BYTES)
            .unwrap();
        let (image, at) = (image.to_str().unwrap(), mount.to_str().unwrap());
        // No blocks for root, who runs this.
        let made = does("mkfs.ext4", &["-q", "-F", "-m", "0", image])
            && does("mount", &["-o", "loop", image, at]);
        if !made {
            common::skipped("no small file system can be mounted here (root and loop devices)");
            return None;
        }
        let mount = mount.to_owned();
        Some(Self { mount })
    }

    fn free_bytes(&self) -> u64 {
        let at = self.mount.to_str().unwrap();
        let out = Command::new("df")
            .args(["--output=avail", "-B1", at])
            .output()
            .unwrap();
        let text = String::from_utf8(out.stdout).unwrap();
        text.lines().last().unwrap().trim().parse().unwrap()
    }

    fn ballast(&self) -> PathBuf {
        self.mount.join("ballast")
    }

    /// Leaves this much room.
    fn leave(&self, bytes: u64) {
        let size = self.free_bytes().saturating_sub(bytes).to_string();
        let at = self.ballast();
        assert!(does("fallocate", &["-l", &size, at.to_str().unwrap()]));
    }

    /// Takes every block there is.
    fn leave_nothing(&self) {
        self.leave(1 << 20);
        let mut crumbs = fs::File::create(self.crumbs()).unwrap();
        while crumbs
            .write_all(&[0; 4096])
            .and_then(|()| crumbs.sync_all())
            .is_ok()
        {}
    }

    fn crumbs(&self) -> PathBuf {
        self.mount.join("crumbs")
    }

    fn free(&self) {
        fs::remove_file(self.ballast()).unwrap();
        // Not every test makes them.
        let _ = fs::remove_file(self.crumbs());
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let at = self.mount.to_str().unwrap();
        if !does("umount", &[at]) {
            does("umount", &["-l", at]);
        }
    }
}

/// A broker whose data lies on a small disk. The disk is dropped last.
fn on_a_small_disk(settings: &[&str]) -> Option<(Gantry, SmallDisk)> {
    let mut gantry = Gantry::prepared(&[&["shardCount=1"], settings].concat());
    let disk = SmallDisk::at(&gantry.data(), &gantry.dir().join("disk.image"))?;
    gantry.start();
    gantry.await_ready();
    Some((gantry, disk))
}

fn send(client: &mut Client, topic: &str, body: &[u8]) -> Frame {
    until(SECONDS, "an answer that is not 'busy'", || {
        let got = client.send(topic, 0, body, &[]);
        (got.code != reply::SYSTEM_BUSY).then_some(got)
    })
}

/// Refused with 14, readable, and taken again once there is room.
fn check_refusing(gantry: &Gantry, topic: &str, acked: usize, reason: &str) {
    let mut client = gantry.client();
    let refused = send(&mut client, topic, &vec![1; 100_000]);
    assert_eq!(
        refused.code,
        reply::SERVICE_NOT_AVAILABLE,
        "{}",
        refused.remark
    );
    assert!(refused.remark.contains(reason), "{}", refused.remark);
    assert_eq!(client.drain(topic, 0, 0).len(), acked);
}

fn await_taken(gantry: &Gantry, topic: &str) {
    let mut client = gantry.client();
    until(SECONDS, "sends are taken again", || {
        (send(&mut client, topic, b"again").code == reply::SUCCESS).then_some(())
    });
}

#[test]
fn above_the_warning_level_sends_get_14_until_there_is_room() {
    let settings = ["cleanFileForciblyEnable=false"];
    let Some((gantry, disk)) = on_a_small_disk(&settings) else {
        return;
    };
    let topic = fresh("warning");
    gantry.client().create_topic(&topic, 1);
    send(&mut gantry.client(), &topic, b"kept").expect(reply::SUCCESS);
    disk.leave(DISK_BYTES / 20);
    until(SECONDS, "the broker notices", || {
        let got = send(&mut gantry.client(), &topic, b"x");
        (got.code != reply::SUCCESS).then_some(())
    });
    let acked = gantry.client().drain(&topic, 0, 0).len();
    check_refusing(&gantry, &topic, acked, "diskSpaceWarningLevelRatio is 90%");
    disk.free();
    await_taken(&gantry, &topic);
    assert!(gantry.log().contains("the disk has room again"));
    drop(gantry);
}

fn commit(client: &mut Client, (topic, queue): (&str, i32), group: &str, offset: &str) {
    let fields = ext(&[
        ("consumerGroup", group),
        ("topic", topic),
        ("queueId", &queue.to_string()),
        ("commitOffset", offset),
    ]);
    client
        .call(code::UPDATE_CONSUMER_OFFSET, &fields, b"")
        .expect(reply::SUCCESS);
}

#[test]
fn positions_committed_while_not_a_block_is_free_are_stored_afterwards() {
    let settings = ["cleanFileForciblyEnable=false"];
    let Some((mut gantry, disk)) = on_a_small_disk(&settings) else {
        return;
    };
    let (topic, group) = (fresh("positions"), fresh("group"));
    let mut client = gantry.client();
    client.create_topic(&topic, 2000);
    client.beat("one", &group, &topic).expect(reply::SUCCESS);
    for _ in 0..200 {
        send(&mut client, &topic, b"x").expect(reply::SUCCESS);
    }
    // A position beyond its queue's end would go back to it at the next start.
    for queue in 1..2000 {
        let sent = client.send(&topic, queue, b"x", &[]);
        sent.expect(reply::SUCCESS);
    }
    disk.leave_nothing();
    // More than fits into what the tables' file has free inside.
    for queue in 0..2000 {
        commit(&mut client, (&topic, queue), &group, "1");
    }
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(client.drain(&topic, 0, 0).len(), 200);
    disk.free();
    await_taken(&gantry, &topic);
    commit(&mut client, (&topic, 0), &group, "150");
    // Tried again after 5 s, also without news.
    std::thread::sleep(Duration::from_secs(7));
    gantry.kill9();
    gantry.start();
    gantry.await_ready();
    let mut client = gantry.client();
    for (queue, wanted) in [(0, 150), (1999, 1)] {
        let asked = [("consumerGroup", &group[..])];
        let found = client.offset(code::QUERY_CONSUMER_OFFSET, &topic, queue, &asked);
        assert_eq!(found, wanted, "queue {queue}");
    }
}

#[test]
fn a_device_without_space_refuses_and_loses_nothing() {
    for mode in ["flushDiskType=ASYNC_FLUSH", "flushDiskType=SYNC_FLUSH"] {
        let settings = [mode, "cleanFileForciblyEnable=false"];
        let Some((mut gantry, disk)) = on_a_small_disk(&settings) else {
            return;
        };
        let topic = fresh("enospc");
        let mut client = gantry.client();
        client.create_topic(&topic, 1);
        send(&mut client, &topic, b"0").expect(reply::SUCCESS);
        disk.leave(SCANT_BYTES);
        let mut acked = 1;
        let refused = loop {
            let body = vec![1; 100_000];
            let got = send(&mut client, &topic, &body);
            if got.code != reply::SUCCESS {
                break got;
            }
            acked += 1;
            assert!(acked < 1000, "the disk is never full");
        };
        assert!(acked > 20, "{acked}");
        assert_eq!(
            refused.code,
            reply::SERVICE_NOT_AVAILABLE,
            "{}",
            refused.remark
        );
        check_refusing(&gantry, &topic, acked, "No space left");
        // Killed in that state, it comes back in that state.
        gantry.kill9();
        gantry.start();
        gantry.await_ready();
        let found = gantry.client().drain(&topic, 0, 0);
        assert_eq!(found.len(), acked, "{mode}");
        disk.free();
        await_taken(&gantry, &topic);
        // Consumers' positions and topics can be stored again, too.
        gantry.client().create_topic(&fresh("later"), 1);
        assert!(gantry.client().offset(code::MAX_OFFSET, &topic, 0, &[]) > 20);
        drop(gantry);
    }
}
