//! Tasks that kept their core for too long.
//!
//! **Owns** the count of stalls by room, and the latest ones.
//! **Lives on** each data core.
//! **Invariants** a stall is what the clock says between a task's begin and its end: time that the
//! machine took away from the thread counts as well.
//! **Limits** [`RECENT_MAX`] latest ones; as many rooms as call it.
//! **Not here** who is timed (the rooms).

use std::collections::VecDeque;

/// A task that runs longer stalls its core, µs.
pub const STALL_US: u64 = 1_000;
/// Latest stalls kept.
pub const RECENT_MAX: usize = 32;

/// One stall.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stall {
    /// The room whose task it was.
    pub room: &'static str,
    /// How long, µs.
    pub took_us: u64,
    /// When it ended, µs of the process's clock.
    pub ended_us: u64,
}

/// A room's stalls since the start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StalledRoom {
    /// Which.
    pub room: &'static str,
    /// How many.
    pub count: u64,
    /// All of them together, µs.
    pub sum_us: u64,
    /// The longest, µs.
    pub max_us: u64,
}

/// The stalls of a core, or of several.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stalls {
    /// By room, in the order of their first stall.
    pub rooms: Vec<StalledRoom>,
    /// The latest, oldest first.
    pub recent: VecDeque<Stall>,
}

impl Stalls {
    pub(super) fn note(&mut self, stall: Stall) {
        let one = StalledRoom {
            room: stall.room,
            count: 1,
            sum_us: stall.took_us,
            max_us: stall.took_us,
        };
        self.add_room(&one);
        if self.recent.len() >= RECENT_MAX {
            self.recent.pop_front();
        }
        self.recent.push_back(stall);
    }

    /// Adds another core's.
    pub fn merge(&mut self, other: &Self) {
        for room in &other.rooms {
            self.add_room(room);
        }
        let mut all: Vec<Stall> = self.recent.iter().chain(&other.recent).copied().collect();
        all.sort_unstable_by_key(|stall| stall.ended_us);
        let from = all.len().saturating_sub(RECENT_MAX);
        self.recent = all.split_off(from).into();
    }

    fn add_room(&mut self, more: &StalledRoom) {
        match self.rooms.iter_mut().find(|room| room.room == more.room) {
            Some(room) => {
                room.count += more.count;
                room.sum_us += more.sum_us;
                room.max_us = room.max_us.max(more.max_us);
            }
            None => self.rooms.push(*more),
        }
    }
}
