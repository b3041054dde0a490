//! How long the device takes to write and to sync what the passes have stored.
//!
//! **Owns** the passes whose sends the device has not yet synced, with their times.
//! **Lives on** the data core of the shard, beside the shard's other state: the log's writer calls
//! it, maybe in the middle of a pass.
//! **Invariants** passes are in the order of the log. A write and a sync that end at one moment are
//! one operation, recorded as a sync.
//! **Limits** [`WAITING_MAX`] entries in each list; then further passes are counted with the last.
//! **Not here** who waits for the device (`acks`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use gantry_runtime::metrics::{Kind, Profile, Stage};
use gantry_storage::units::FilePosition;

/// Entries of a list: 10 ms of passes, half a second of writes.
const WAITING_MAX: usize = 4096;

/// Sends that reached a state of the log together.
#[derive(Debug, Clone, Copy)]
struct Group {
    end: FilePosition,
    since_us: u64,
    sends: u64,
}

/// See the module.
#[derive(Debug, Default)]
pub struct LogTimes {
    staged: RefCell<VecDeque<Group>>,
    written: RefCell<VecDeque<Group>>,
    committed_us: Cell<u64>,
}

impl LogTimes {
    /// A pass has sealed so many sends up to `end`.
    pub fn staged(&self, end: FilePosition, now_us: u64, sends: u64) {
        if sends > 0 {
            let since_us = now_us;
            push(
                &self.staged,
                Group {
                    end,
                    since_us,
                    sends,
                },
            );
        }
    }

    /// The device has written up to `stable` and synced up to `committed`.
    pub fn progressed(
        &self,
        profile: &Profile,
        now_us: u64,
        stable: FilePosition,
        committed: FilePosition,
    ) {
        let next = |list: &RefCell<VecDeque<Group>>, reached| {
            list.borrow_mut().pop_front_if(|group| group.end <= reached)
        };
        let record = |stage, group: &Group| {
            let took_us = now_us.saturating_sub(group.since_us);
            profile.record(Kind::Send, stage, took_us, group.sends);
        };
        while let Some(group) = next(&self.written, committed) {
            self.committed_us.set(now_us);
            record(Stage::Sync, &group);
        }
        let mut now_written: Option<Group> = None;
        while let Some(group) = next(&self.staged, stable) {
            if group.end <= committed {
                self.committed_us.set(now_us);
                record(Stage::Sync, &group);
                continue;
            }
            record(Stage::Write, &group);
            let sends = group.sends + now_written.map_or(0, |written| written.sends);
            now_written = Some(Group {
                end: group.end,
                since_us: now_us,
                sends,
            });
        }
        if let Some(group) = now_written {
            push(&self.written, group);
        }
    }

    /// When the device last synced sends of this shard.
    pub fn committed_us(&self) -> u64 {
        self.committed_us.get()
    }
}

fn push(list: &RefCell<VecDeque<Group>>, group: Group) {
    let mut list = list.borrow_mut();
    if list.len() < WAITING_MAX {
        list.push_back(group);
    } else if let Some(last) = list.back_mut() {
        last.end = group.end;
        last.sends += group.sends;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(bytes: u64) -> FilePosition {
        FilePosition(bytes)
    }

    fn profile() -> Profile {
        let profile = Profile::off();
        profile.begin(0);
        profile
    }

    fn figures(profile: &Profile, stage: Stage) -> (u64, u64) {
        let all = profile.snapshot(1).unwrap().since_start;
        let figures = all.figures(Kind::Send, stage).unwrap_or_default();
        (figures.count, figures.max_us)
    }

    #[test]
    fn a_write_and_a_later_sync_are_told_apart() {
        let (times, profile) = (LogTimes::default(), profile());
        times.staged(at(100), 10, 2);
        times.staged(at(200), 20, 3);
        times.staged(at(300), 30, 4);
        times.staged(at(300), 31, 0);
        times.progressed(&profile, 110, at(200), at(0));
        assert_eq!(figures(&profile, Stage::Write), (5, 100));
        assert_eq!(figures(&profile, Stage::Sync).0, 0);
        times.progressed(&profile, 120, at(300), at(0));
        times.progressed(&profile, 160, at(300), at(250));
        assert_eq!(figures(&profile, Stage::Write), (9, 100));
        assert_eq!(figures(&profile, Stage::Sync), (5, 50));
        assert_eq!(times.committed_us(), 160);
    }

    #[test]
    fn one_operation_is_recorded_once() {
        let (times, profile) = (LogTimes::default(), profile());
        times.staged(at(100), 10, 2);
        times.progressed(&profile, 60, at(100), at(100));
        assert_eq!(figures(&profile, Stage::Write).0, 0);
        assert_eq!(figures(&profile, Stage::Sync), (2, 50));
    }

    #[test]
    fn a_device_that_stands_still_costs_no_more_memory() {
        let (times, profile) = (LogTimes::default(), profile());
        let all = WAITING_MAX as u64 + 100;
        for n in 0..all {
            times.staged(at(n), n, 1);
        }
        assert_eq!(times.staged.borrow().len(), WAITING_MAX);
        times.progressed(&profile, all, at(all), at(all));
        assert_eq!(figures(&profile, Stage::Sync).0, all);
    }
}
