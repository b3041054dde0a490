//! Which segments may go, and whether the store takes writes: `RocketMQ`'s rules as arithmetic.
//!
//! **Owns** the decisions of age, disk watermarks and bounds per run.
//! **Lives on** the control plane's thread; pure: no clock, no disk, no shard.
//! **Invariants** whole segments, oldest first, only those a shard offered (never its newest); what
//! a topic reserves for longer is kept until the forced watermark; a run frees no more than needed.
//! **Limits** [`Rules::segments_per_run`] by age from each shard, as many by force from all.
//! **Not here** measuring (`runtime::space`), dropping (`shard_store`), owed records (actors).

pub mod floors;
#[cfg(test)]
mod tests;

use crate::units::{FilePosition, ShardId, StoreTimestamp};

/// `RocketMQ` deletes at most 10 files of 1 GiB in one run.
pub const RUN_BYTES_MAX: u64 = 10 << 30;
/// Fewest segments a run may take, whatever their size.
pub const RUN_SEGMENTS_MIN: u64 = 10;
/// So far below the warning level the disk must be before writes are taken again.
pub const REOPEN_PERCENT_BELOW: u64 = 2;

/// What the operator set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// `deleteWhen`: hours of the day in which what is old is deleted.
    pub delete_hours: Vec<u8>,
    /// `fileReservedTime`, in ms.
    pub reserved_ms: u64,
    /// `diskMaxUsedSpaceRatio`: above it what is old is deleted at any hour.
    pub max_used_percent: u64,
    /// `diskSpaceCleanForciblyRatio`: above it the oldest go, whatever their age.
    pub forced_percent: u64,
    /// `diskSpaceWarningLevelRatio`: above it writes are refused.
    pub warning_percent: u64,
    /// `cleanFileForciblyEnable`.
    pub is_forcing: bool,
    /// Segments one run may take.
    pub segments_per_run: usize,
}

/// How many segments of this size one run may take.
pub fn segments_per_run(segment_bytes: u64) -> usize {
    let count = (RUN_BYTES_MAX / segment_bytes.max(1)).max(RUN_SEGMENTS_MIN);
    usize::try_from(count).unwrap_or(usize::MAX)
}

/// How full the disk is, as `df` counts: what only root may use is neither used nor free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes taken.
    pub used_bytes: u64,
    /// Bytes an ordinary process may still take.
    pub free_bytes: u64,
}

impl Usage {
    fn total(self) -> u128 {
        u128::from(self.used_bytes) + u128::from(self.free_bytes)
    }

    /// Whether more than `percent` is used.
    pub fn is_above(self, percent: u64) -> bool {
        u128::from(self.used_bytes) * 100 > self.total() * u128::from(percent)
    }

    /// Bytes to free until no more than `percent` is used.
    fn bytes_above(self, percent: u64) -> u64 {
        let allowed = self.total() * u128::from(percent) / 100;
        let above = u128::from(self.used_bytes).saturating_sub(allowed);
        u64::try_from(above).unwrap_or(u64::MAX)
    }

    /// Percent used, in tenths, rounded down.
    pub fn permille(self) -> u64 {
        let permille = (u128::from(self.used_bytes) * 1000).checked_div(self.total());
        u64::try_from(permille.unwrap_or(0)).unwrap_or(1000)
    }
}

/// A segment that could go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SegmentAge {
    /// Its first position.
    pub start: FilePosition,
    /// Its bytes.
    pub bytes: u64,
    /// No record in it is newer; none when that can't be told.
    pub newest: Option<StoreTimestamp>,
}

impl SegmentAge {
    fn end(&self) -> FilePosition {
        self.start.plus(self.bytes)
    }
}

/// What one shard offers: its oldest segments, in order, never the newest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ShardAges {
    /// Which shard.
    pub shard: ShardId,
    /// Its oldest segments.
    pub segments: Vec<SegmentAge>,
    /// From here on a topic with a longer time of its own still wants records.
    pub reserved_from: Option<FilePosition>,
}

impl ShardAges {
    /// For each segment its time, a later one's where its own is unknown: nothing in it is newer. A
    /// time that has yet to come was told by a clock that ran ahead, so it is none; but one that
    /// ran behind must not make older segments look as old.
    fn newest(&self, now: StoreTimestamp) -> Vec<Option<StoreTimestamp>> {
        let mut later = None;
        let mut times: Vec<_> = self
            .segments
            .iter()
            .rev()
            .map(|segment| {
                later = segment.newest.filter(|time| *time <= now).or(later);
                later
            })
            .collect();
        times.reverse();
        times
    }
}

/// When a run happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// Now.
    pub now: StoreTimestamp,
    /// The hour of the day where the broker stands.
    pub hour: u8,
    /// An operator asked for it (code 329): as if the hour had come.
    pub is_asked: bool,
}

/// Why segments go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// They are older than `fileReservedTime`.
    Age,
    /// The disk is above `diskSpaceCleanForciblyRatio`.
    Forced,
}

/// A shard gives up what ends at or before a position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardDrop {
    /// Which shard.
    pub shard: ShardId,
    /// Where its log begins afterwards.
    pub before: FilePosition,
    /// Why.
    pub reason: Reason,
}

/// What a run does.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// At most one a shard.
    pub drops: Vec<ShardDrop>,
    /// Whether segments given up are kept for use again: not when the disk needs the room.
    pub is_recycling: bool,
}

/// Decides what goes.
pub fn plan(shards: &[ShardAges], rules: &Rules, usage: Usage, moment: Moment) -> Plan {
    let is_tight = usage.is_above(rules.max_used_percent);
    let is_time = moment.is_asked || is_tight || rules.delete_hours.contains(&moment.hour);
    let mut going: Vec<(usize, Reason)> = shards
        .iter()
        .map(|shard| {
            let count = if is_time {
                expired(shard, rules, moment.now)
            } else {
                0
            };
            (count, Reason::Age)
        })
        .collect();
    if rules.is_forcing && usage.is_above(rules.forced_percent) {
        let needed = usage.bytes_above(rules.forced_percent);
        let count_max = rules.segments_per_run;
        force(shards, moment.now, (count_max, needed), &mut going);
    }
    let drops = shards
        .iter()
        .zip(going)
        .filter_map(|(shard, (count, reason))| {
            let last = shard.segments.get(count.checked_sub(1)?)?;
            Some(ShardDrop {
                shard: shard.shard,
                before: last.end(),
                reason,
            })
        });
    Plan {
        drops: drops.collect(),
        is_recycling: !is_tight,
    }
}

/// How many of the oldest segments are wholly older than allowed and not reserved.
fn expired(shard: &ShardAges, rules: &Rules, now: StoreTimestamp) -> usize {
    let is_old = |newest: Option<StoreTimestamp>| {
        newest.is_some_and(|newest| newest.0.saturating_add(rules.reserved_ms) <= now.0)
    };
    let is_free = |segment: &SegmentAge| {
        shard
            .reserved_from
            .is_none_or(|reserved| segment.end() <= reserved)
    };
    let times = shard.newest(now);
    shard
        .segments
        .iter()
        .zip(times)
        .take_while(|(segment, newest)| is_old(*newest) && is_free(segment))
        .take(rules.segments_per_run)
        .count()
}

/// Adds the oldest segments of all shards until `needed` bytes go, `count_max` segments at most.
fn force(
    shards: &[ShardAges],
    now: StoreTimestamp,
    (count_max, needed): (usize, u64),
    going: &mut [(usize, Reason)],
) {
    let times: Vec<_> = shards.iter().map(|shard| shard.newest(now)).collect();
    let taken = shards.iter().zip(going.iter());
    let mut freed: u64 = taken
        .flat_map(|(shard, (count, _))| shard.segments.iter().take(*count))
        .map(|segment| segment.bytes)
        .sum();
    for _ in 0..count_max {
        if freed >= needed {
            return;
        }
        // Unknown times come last; of equal ones the shard that has given least.
        let head = |at: usize| {
            let count = going.get(at)?.0;
            let segment = shards.get(at)?.segments.get(count)?;
            let time = times.get(at)?.get(count).copied().flatten();
            let order = time.map_or(u64::MAX, |time| time.0);
            Some((order, count, at, segment.bytes))
        };
        let Some((_, _, at, bytes)) = (0..shards.len()).filter_map(head).min() else {
            return;
        };
        if let Some((count, reason)) = going.get_mut(at) {
            *count += 1;
            *reason = Reason::Forced;
        }
        freed = freed.saturating_add(bytes);
    }
}

/// Whether writes are refused now, given whether they were: above the warning level they are, and
/// again taken only once the disk is clearly below it, or as far down as deletion by force brings
/// it.
pub fn refuses_writes(was_refusing: bool, rules: &Rules, usage: Usage) -> bool {
    if !was_refusing {
        return usage.is_above(rules.warning_percent);
    }
    let below = rules.warning_percent.saturating_sub(REOPEN_PERCENT_BELOW);
    let reopen = if rules.is_forcing && rules.forced_percent < rules.warning_percent {
        below.max(rules.forced_percent)
    } else {
        below
    };
    usage.is_above(reopen)
}
