//! A shard's log looked at, and mended, while no process has it.
//!
//! **Owns** the walk over every run from the first segment on, past whatever is damaged.
//! **Lives on** a tool's core; nobody else may have the store open.
//! **Invariants** what counts as a run is recovery's own rule; bytes behind the end count as
//! damaged only if a later run, or the last checkpoint, proves that they were synced, else they are
//! a torn end, which a start drops by itself.
//! **Limits** reads everything: about as long as copying the log.
//! **Not here** printing (server), mending (`repair`), the tail.

mod repair;
#[cfg(test)]
mod tests;

use crate::disk::Disk;
use crate::error::RecoverError;
use crate::format::{
    Entry, IdentityKind, RUN_HEADER_BYTES, RecordSeed, RunHeader, SHARD_FILE, entries,
    record_is_intact, segment_name, shard_folder,
};
use crate::identity;
use crate::log::checkpoint::{self, Checkpoint};
use crate::log::recovery::{DeviceScan, PAYLOAD_BYTES_MAX, PROOF_BYTES, Scan};
use crate::log::segments::Segments;
use crate::units::{BLOCK_BYTES, FilePosition, ShardId, index};

pub use repair::{RepairError, Repaired, repair};

/// Bytes behind the log's end that a start may read.
const BEHIND_BYTES: u64 = PROOF_BYTES + RUN_HEADER_BYTES + PAYLOAD_BYTES_MAX;
/// Looks at blocks there that can't be read, and the time between two.
const BEHIND_LOOKS: u32 = 3;
const BEHIND_PAUSE_MS: u64 = 1000;
/// Bytes looked at together for the first letter of a run.
const SKIP_BYTES: usize = 512;
/// Bytes searched between two reads for a run behind damage.
const SEARCH_BYTES: u64 = 1 << 20;

/// Synced bytes that hold no run any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The segment file in which it begins.
    pub file: String,
    /// Where it begins.
    pub position: FilePosition,
    /// Where sound runs go on.
    pub end: FilePosition,
    /// Runs that were there; unknown at the log's very beginning.
    pub runs_lost: Option<u64>,
    /// What the device said, if it was the device.
    pub cause: Option<String>,
    /// What the run behind it says, for `repair`.
    next: RunHeader,
    /// Where the walk was, for `repair`.
    scan: Scan,
}

/// What a walk over a shard's log found.
#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Where the log begins.
    pub first: FilePosition,
    /// Where it ends.
    pub end: FilePosition,
    /// The number of the run that would be next; none without a run.
    pub sequence: Option<u64>,
    /// Sound runs.
    pub runs: u64,
    /// Records in them.
    pub records: u64,
    /// Records in sound runs that don't fit their own check: a reader passes over them.
    pub unfit: u64,
    /// Where the first of them starts.
    pub first_unfit: Option<FilePosition>,
    /// Runs without records, which an earlier repair put in the place of lost ones.
    pub fillers: u64,
    /// What is damaged, in order.
    pub damages: Vec<Damage>,
    /// Where sound runs lie behind an end that was never synced; a start drops them.
    pub torn: Option<FilePosition>,
    /// Up to where the log was synced when the last checkpoint was written, if it ends before that.
    pub unreached: Option<FilePosition>,
    /// Blocks behind the log's end that a start looks at and the device can't read.
    pub unreadable: Vec<FilePosition>,
    /// What the device said of the first of them.
    pub unreadable_cause: Option<String>,
}

/// Walks over the whole log of a shard; `visit` sees every record of every sound run.
///
/// # Errors
/// The shard's identity is missing, damaged or newer, or the folder can't be listed.
pub async fn survey<D: Disk>(
    disk: &D,
    shard: ShardId,
    visit: &mut dyn FnMut(&Entry<'_>),
) -> Result<Survey, RecoverError> {
    let (segments, store_id) = open(disk, shard).await?;
    let mut walk = Walk::new(&segments, store_id);
    walk.run(visit).await;
    // One that can't be read proves nothing.
    let checkpoint = checkpoint::read(disk, &shard_folder(shard), store_id).await;
    let mut found = walk.finish(checkpoint.ok().flatten().as_ref());
    walk.look_behind(&mut found).await;
    Ok(found)
}

async fn open<D: Disk>(disk: &D, shard: ShardId) -> Result<(Segments<D>, u64), RecoverError> {
    let folder = shard_folder(shard);
    let path = format!("{folder}/{SHARD_FILE}");
    let identity = identity::load(disk, IdentityKind::Shard, &path).await?;
    let segments = Segments::load(disk.clone(), folder, identity.segment_bytes).await?;
    Ok((segments, identity.id))
}

struct Walk<'a, D: Disk> {
    device: DeviceScan<'a, D>,
    scan: Scan,
    found: Survey,
    /// Damage that no later run has proved yet, with the counts before it.
    unproved: Vec<(Damage, Survey)>,
}

impl<'a, D: Disk> Walk<'a, D> {
    fn new(segments: &'a Segments<D>, store_id: u64) -> Self {
        let first = segments.first().unwrap_or_default();
        let found = Survey {
            first,
            end: first,
            ..Survey::default()
        };
        Self {
            device: DeviceScan::new(segments),
            scan: Scan {
                store_id,
                position: first,
                sequence: None,
                epoch: 0,
            },
            found,
            unproved: Vec::new(),
        }
    }

    async fn run(&mut self, visit: &mut dyn FnMut(&Entry<'_>)) {
        let seed = RecordSeed::of(self.scan.store_id);
        loop {
            let cause = match self.device.next(&mut self.scan).await {
                Ok(Some(run)) => {
                    let before = self.found.records;
                    for entry in entries(run.payload, run.payload_start()) {
                        self.found.records += 1;
                        if !record_is_intact(seed, entry.check, entry.record) {
                            self.found.unfit += 1;
                            self.found.first_unfit.get_or_insert(entry.position);
                        }
                        visit(&entry);
                    }
                    self.found.fillers += u64::from(self.found.records == before);
                    self.found.runs += 1;
                    self.found.end = run.header.end();
                    self.found.sequence = Some(run.header.sequence.wrapping_add(1));
                    let committed = run.header.committed;
                    self.prove(committed);
                    continue;
                }
                Ok(None) => None,
                Err(error) => Some(error.to_string()),
            };
            if !self.pass_over(cause).await {
                return;
            }
        }
    }

    /// Something that says so much was synced proves the damage before that.
    fn prove(&mut self, committed: FilePosition) {
        while let Some((damage, _)) = self.unproved.first() {
            // As recovery's: the log goes on at a block after a restart.
            if damage.position.block_up() >= committed {
                return;
            }
            let (damage, _) = self.unproved.remove(0);
            self.found.damages.push(damage);
        }
    }

    /// Goes on at the next sound run, if there is one.
    async fn pass_over(&mut self, cause: Option<String>) -> bool {
        let Some(next) = self.search().await else {
            return false;
        };
        let segments = self.device.segments();
        let damage = Damage {
            file: segment_name(segments.start_of(self.scan.position)),
            position: self.scan.position,
            end: next.position,
            runs_lost: self.scan.sequence.map(|wanted| next.sequence - wanted),
            cause,
            next,
            scan: self.scan,
        };
        self.unproved.push((damage, self.found.clone()));
        self.scan.position = next.position;
        self.scan.sequence = Some(next.sequence);
        true
    }

    /// The first sound run behind the walk's position, at any byte.
    async fn search(&mut self) -> Option<RunHeader> {
        let segments = self.device.segments();
        let last = segments.last()?;
        let mut at = self.scan.position.block_down();
        while at < last.plus(segments.segment_bytes()) {
            let end = segments.next_start(at).min(at.plus(SEARCH_BYTES));
            // A header may lie across the border of two steps.
            let overlap = segments.next_start(at).min(end.plus(BLOCK_BYTES));
            if self.device.fill(at, overlap.since(at)).await == Ok(true) {
                if let Some(found) = self.search_in(at, end, overlap).await {
                    return Some(found);
                }
            } else if let Some(found) = self.search_by_block(at, end).await {
                return Some(found);
            }
            at = end;
        }
        None
    }

    /// A device that can't read all of it may read some.
    async fn search_by_block(
        &mut self,
        mut at: FilePosition,
        end: FilePosition,
    ) -> Option<RunHeader> {
        let limit = self.device.segments().next_start(at);
        while at < end {
            let next = at.plus(BLOCK_BYTES);
            // As above: a header may lie across the border, if that can be read.
            for readable in [limit.min(next.plus(BLOCK_BYTES)), next] {
                if self.device.fill(at, readable.since(at)).await != Ok(true) {
                    continue;
                }
                if let Some(found) = self.search_in(at, next, readable).await {
                    return Some(found);
                }
                break;
            }
            at = next;
        }
        None
    }

    async fn search_in(
        &mut self,
        from: FilePosition,
        until: FilePosition,
        readable: FilePosition,
    ) -> Option<RunHeader> {
        let bytes = self.device.bytes(from, readable.since(from));
        let wanted = bytes.get(..index(until.since(from))).unwrap_or(bytes);
        let mut hits = Vec::new();
        for (begin, block) in (0..).step_by(SKIP_BYTES).zip(wanted.chunks(SKIP_BYTES)) {
            // Behind the log's end most are zeros.
            if !block.contains(&b'G') {
                continue;
            }
            for (n, _) in (begin..).zip(block).filter(|(_, byte)| **byte == b'G') {
                let window = bytes.get(n..n + index(RUN_HEADER_BYTES));
                let header = window.and_then(|window| {
                    let position = from.plus(n as u64);
                    RunHeader::peek(window, position)
                });
                hits.extend(header.filter(|header| self.may_go_on(header)));
            }
        }
        for header in hits {
            if self.is_sound(&header).await {
                return Some(header);
            }
        }
        None
    }

    fn may_go_on(&self, header: &RunHeader) -> bool {
        let follows = self
            .scan
            .sequence
            .is_none_or(|wanted| header.sequence >= wanted);
        let is_behind = header.position > self.scan.position || self.scan.sequence.is_none();
        follows && is_behind && header.epoch >= self.scan.epoch
    }

    async fn is_sound(&mut self, header: &RunHeader) -> bool {
        let mut probe = Scan {
            position: header.position,
            sequence: Some(header.sequence),
            ..self.scan
        };
        let run = self.device.next(&mut probe).await;
        matches!(run, Ok(Some(run)) if run.header == *header)
    }

    fn finish(&mut self, checkpoint: Option<&Checkpoint>) -> Survey {
        self.prove(checkpoint.map(Checkpoint::synced_until).unwrap_or_default());
        let mut found = std::mem::take(&mut self.found);
        let unproved = std::mem::take(&mut self.unproved);
        if let Some((damage, before)) = unproved.into_iter().next() {
            let proved = std::mem::take(&mut found.damages);
            found = before;
            found.damages = proved;
            found.torn = Some(damage.end);
        }
        found.unreached = checkpoint
            .filter(|known| !known.is_reached(found.end, found.sequence))
            .map(Checkpoint::synced_until);
        found
    }

    /// Notes the blocks behind the log's end that can't be read, as far as a start looks there: in
    /// the end's own segment, and at the beginning of the next one.
    async fn look_behind(&mut self, found: &mut Survey) {
        let segments = self.device.segments();
        let start = found.end.block_up();
        let next = segments.next_start(FilePosition(start.0.saturating_sub(1)));
        let blocks = (start.0..start.plus(BEHIND_BYTES).min(next).0).step_by(index(BLOCK_BYTES));
        let mut blocks: Vec<FilePosition> = blocks.map(FilePosition).chain([next]).collect();
        blocks.retain(|at| segments.exists(*at));
        for look in 0..BEHIND_LOOKS {
            if look > 0 && !blocks.is_empty() {
                // What only failed for a moment may be a record.
                segments.disk().sleep_ms(BEHIND_PAUSE_MS).await;
            }
            let (mut unreadable, mut cause) = (Vec::new(), None);
            for at in blocks {
                if let Err(error) = self.device.fill(at, BLOCK_BYTES).await {
                    unreadable.push(at);
                    cause.get_or_insert_with(|| error.to_string());
                }
            }
            (blocks, found.unreadable_cause) = (unreadable, cause);
        }
        found.unreadable = blocks;
    }
}
