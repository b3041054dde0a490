//! Finding the log's end again: runs on the device, then runs only the tail has.
//!
//! **Owns** the rules by which bytes count as the next run.
//! **Lives on** the shard's core, at start only.
//! **Invariants** a run counts only at its own position, with the next sequence, an epoch not below
//! its predecessor's, and a right checksum; the tail's runs are durable before new ones are taken.
//! **Limits** reads of `READ_BYTES`, one of them ahead of what is looked at; a run longer than
//! `PAYLOAD_BYTES_MAX` is none.
//! **Not here** what is done with the entries (`shard_store`).

use std::future::{Future, poll_fn, ready};
use std::pin::Pin;
use std::rc::Rc;
use std::task::Poll;

use crate::disk::{Disk, DiskError, DiskErrorKind, DiskFile};
use crate::format::{RUN_HEADER_BYTES, RunHeader};
use crate::log::read_ahead::ReadOf;
use crate::log::segment::Segment;
use crate::log::segments::Segments;
use crate::log::staging::RUN_BYTES_MAX;
use crate::shard_store::RECORD_BYTES_MAX;
use crate::tail::Tail;
use crate::units::{BLOCK_BYTES, FilePosition, index};

/// Bytes of one sequential read.
const READ_BYTES: u64 = 1 << 20;
/// No run written by this program has a longer payload.
pub(crate) const PAYLOAD_BYTES_MAX: u64 = RUN_BYTES_MAX + RECORD_BYTES_MAX + (64 << 10);
/// Bytes behind the log's end that are searched for proof that the end is damage: a damaged run of
/// usual size and its group lie within.
pub(crate) const PROOF_BYTES: u64 = 4 << 20;

/// Reads of the bytes that end the log, until two in a row agree.
pub const END_READS_MAX: u32 = 8;
/// Reads of the parts of blocks that are to be written again, until two of them agree.
const PART_READS_MAX: u32 = 5;

/// Where the scan is and what may come next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Scan {
    /// The number checksums are made with.
    pub store_id: u64,
    /// The end of the last run.
    pub position: FilePosition,
    /// The next run's number; unknown before the first run when there is no checkpoint.
    pub sequence: Option<u64>,
    /// The last run's epoch.
    pub epoch: u64,
}

impl Scan {
    /// The places the next run may start at.
    fn candidates<D: Disk>(&self, segments: &Segments<D>) -> [FilePosition; 3] {
        let block = self.position.block_up();
        // What had no room in a segment is at the next one's start. Nothing is before the log's
        // very beginning: a whole segment behind damage there would be passed over.
        let next = block.0.checked_sub(1);
        let next = next.map(|last| segments.next_start(FilePosition(last)));
        [self.position, block, next.unwrap_or(block)]
    }

    fn may_follow<D: Disk>(&self, header: &RunHeader, segments: &Segments<D>) -> bool {
        let last = FilePosition(header.end().0.saturating_sub(1));
        self.sequence
            .is_none_or(|sequence| header.sequence == sequence)
            && header.epoch >= self.epoch
            && u64::from(header.payload_bytes) <= PAYLOAD_BYTES_MAX
            && segments.start_of(last) == segments.start_of(header.position)
    }

    /// Whether a run behind the end may be one of this log's.
    fn may_be_behind(&self, header: &RunHeader) -> bool {
        // None where the first run of all is the damaged one, and no checkpoint knows of it.
        self.sequence
            .is_none_or(|sequence| header.sequence > sequence)
            && header.epoch >= self.epoch
            && u64::from(header.payload_bytes) <= PAYLOAD_BYTES_MAX
    }

    fn accept(&mut self, header: &RunHeader) {
        self.position = header.end();
        self.sequence = Some(header.sequence.wrapping_add(1));
        self.epoch = header.epoch;
    }
}

type Reading<D> = Pin<Box<dyn Future<Output = Result<ReadOf<D>, DiskError>>>>;

/// A read under way.
struct Ahead<D: Disk> {
    start: FilePosition,
    bytes: u64,
    reading: Reading<D>,
}

/// Reads the log's device bytes front to back.
pub struct DeviceScan<'a, D: Disk> {
    segments: &'a Segments<D>,
    window: Vec<u8>,
    window_start: FilePosition,
    /// What follows the window.
    ahead: Option<Ahead<D>>,
    /// A read of all up to here failed: up to here just what is needed is read.
    narrow_until: FilePosition,
    /// Checksum of the bytes in which no run was found last.
    end_seen: u32,
}

/// A run and where its payload starts.
pub struct Run<'a> {
    /// Its header.
    pub header: RunHeader,
    /// Its entries.
    pub payload: &'a [u8],
}

impl Run<'_> {
    /// Where the payload starts.
    pub fn payload_start(&self) -> FilePosition {
        self.header.position.plus(RUN_HEADER_BYTES)
    }
}

impl<'a, D: Disk> DeviceScan<'a, D> {
    /// A reader over `segments`.
    pub fn new(segments: &'a Segments<D>) -> Self {
        Self {
            segments,
            window: Vec::new(),
            window_start: FilePosition(0),
            ahead: None,
            narrow_until: FilePosition(0),
            end_seen: 0,
        }
    }

    /// Forgets what it has read: the device is asked again.
    pub fn forget(&mut self) {
        self.window.clear();
        self.ahead = None;
    }

    /// Checksum of the bytes that made `next` say that the log ends.
    pub fn end_seen(&self) -> u32 {
        self.end_seen
    }

    /// The segments it reads.
    pub fn segments(&self) -> &'a Segments<D> {
        self.segments
    }

    /// Has `start..start + len` in the window; false when the segment does not reach that far.
    /// What can't be read behind it does not matter.
    ///
    /// # Errors
    /// The device can't read just this.
    pub(crate) async fn fill(&mut self, start: FilePosition, len: u64) -> Result<bool, DiskError> {
        let window_end = self.window_start.plus(self.window.len() as u64);
        if start >= self.window_start && start.plus(len) <= window_end {
            return Ok(true);
        }
        let segment_end = self.segments.next_start(start);
        if start.plus(len) > segment_end {
            return Ok(false);
        }
        let Some(segment) = self.segments.open(start).await? else {
            return Ok(false);
        };
        let needed = start.plus(len).block_up();
        let wide = start.block_down().plus(READ_BYTES).min(segment_end);
        if start >= self.narrow_until && needed < wide {
            match self.fill_until(&segment, start, wide).await {
                Ok(filled) => return Ok(filled),
                Err(_) => self.narrow_until = wide,
            }
            self.forget();
        }
        self.fill_until(&segment, start, needed).await
    }

    /// Has the window reach from the block of `start` up to `until`.
    async fn fill_until(
        &mut self,
        segment: &Rc<Segment<D>>,
        start: FilePosition,
        until: FilePosition,
    ) -> Result<bool, DiskError> {
        let from = start.block_down();
        // What the window already has is kept: every byte is read once.
        let window_end = self.window_start.plus(self.window.len() as u64);
        let goes_on = from >= self.window_start && from < window_end;
        if goes_on {
            self.window.drain(..index(from.since(self.window_start)));
        } else {
            self.window.clear();
        }
        self.window_start = from;
        let mut at = from.plus(self.window.len() as u64);
        while at < until {
            let ahead = self.ahead.take().filter(|ahead| ahead.start == at);
            let (read, bytes) = if let Some(ahead) = ahead {
                (ahead.reading.await?, ahead.bytes)
            } else {
                let bytes = until.since(at).min(READ_BYTES);
                let offset = segment.offset_of(at);
                (segment.file.read_at(offset, index(bytes)).await?, bytes)
            };
            let count = read.as_ref().len() as u64;
            if count < bytes {
                return Ok(false);
            }
            self.window.extend_from_slice(read.as_ref());
            at = at.plus(bytes);
        }
        let segment_end = self.segments.next_start(start);
        let left = segment_end.since(at).min(READ_BYTES);
        if goes_on && left > 0 && at >= self.narrow_until {
            self.read_ahead(Rc::clone(segment), at, left).await;
        }
        Ok(true)
    }

    /// Has the device work on what follows while this core looks at what is there.
    async fn read_ahead(&mut self, segment: Rc<Segment<D>>, start: FilePosition, bytes: u64) {
        let offset = segment.offset_of(start);
        let read = async move { segment.file.read_at(offset, index(bytes)).await };
        let mut reading: Reading<D> = Box::pin(read);
        let begun = poll_fn(|context| Poll::Ready(reading.as_mut().poll(context))).await;
        if let Poll::Ready(read) = begun {
            reading = Box::pin(ready(read));
        } else {
            // The executor hands it to the kernel.
            self.segments.disk().yield_now().await;
        }
        self.ahead = Some(Ahead {
            start,
            bytes,
            reading,
        });
    }

    /// Bytes of the window.
    pub(crate) fn bytes(&self, start: FilePosition, len: u64) -> &[u8] {
        let from = index(start.since(self.window_start));
        self.window
            .get(from..from.saturating_add(index(len)))
            .unwrap_or_default()
    }

    /// The run that follows `scan`, which it moves on; `None` at the end.
    ///
    /// # Errors
    /// As the device says.
    pub async fn next(&mut self, scan: &mut Scan) -> Result<Option<Run<'_>>, DiskError> {
        let mut seen = crc32fast::Hasher::new();
        for position in scan.candidates(self.segments) {
            if !self.fill(position, RUN_HEADER_BYTES).await? {
                continue;
            }
            let head = self.bytes(position, RUN_HEADER_BYTES);
            seen.update(head);
            let header = RunHeader::peek(head, position);
            let Some(header) = header.filter(|header| scan.may_follow(header, self.segments))
            else {
                continue;
            };
            let payload_bytes = u64::from(header.payload_bytes);
            if !self
                .fill(position, RUN_HEADER_BYTES + payload_bytes)
                .await?
            {
                continue;
            }
            let whole = self.bytes(position, RUN_HEADER_BYTES + payload_bytes);
            let (head, payload) = whole.split_at(index(RUN_HEADER_BYTES).min(whole.len()));
            if header.verify(scan.store_id, head, &[payload]) {
                scan.accept(&header);
                let payload = self.bytes(position.plus(RUN_HEADER_BYTES), payload_bytes);
                return Ok(Some(Run { header, payload }));
            }
            seen.update(payload);
        }
        self.end_seen = seen.finalize();
        Ok(None)
    }

    /// Looks behind the end of the log for a run that was sealed when bytes behind that end were
    /// already synced: then the end is no torn write but damage. Gives that run's position.
    ///
    /// # Errors
    /// As the device says; what it has lost proves nothing.
    pub async fn proof_of_damage(
        &mut self,
        scan: &Scan,
    ) -> Result<Option<FilePosition>, DiskError> {
        let mut at = scan.position.block_up();
        let until = at.plus(PROOF_BYTES);
        while at < until {
            let header = match self.fill(at, BLOCK_BYTES).await {
                Ok(true) => RunHeader::peek(self.bytes(at, RUN_HEADER_BYTES), at),
                Ok(false) => return Ok(None),
                Err(error) if error.kind == DiskErrorKind::Lost => None,
                Err(error) => return Err(error),
            };
            if let Some(header) = header.filter(|header| scan.may_be_behind(header)) {
                let behind = Scan {
                    position: at,
                    sequence: Some(header.sequence),
                    ..*scan
                };
                // The log goes on at a block after a restart: what lies up to there is no run.
                let end = scan.position.block_up();
                match self.proof_from(behind, end).await {
                    Ok(None) => {}
                    Err(error) if error.kind == DiskErrorKind::Lost => {}
                    proof => return proof,
                }
            }
            at = at.plus(BLOCK_BYTES);
        }
        Ok(None)
    }

    /// Follows the runs from `behind` on until one says that more than `end` was synced. The first
    /// ones may not: syncs come later than runs are sealed.
    async fn proof_from(
        &mut self,
        mut behind: Scan,
        end: FilePosition,
    ) -> Result<Option<FilePosition>, DiskError> {
        while let Some(run) = self.next(&mut behind).await? {
            if run.header.committed > end {
                return Ok(Some(run.header.position));
            }
        }
        Ok(None)
    }

    /// Makes what was found from `from` to `end` survive a power cut: the process that wrote it may
    /// have died before its sync.
    ///
    /// # Errors
    /// As the device says.
    pub async fn sync(&self, from: FilePosition, end: FilePosition) -> Result<(), DiskError> {
        let mut at = self.segments.start_of(from);
        while at < end {
            if let Some(segment) = self.segments.open(at).await? {
                segment.file.sync().await?;
            }
            at = self.segments.next_start(at);
        }
        Ok(())
    }

    /// The device's bytes of `from..until`, all in one block that is about to be written again:
    /// read until two reads agree, so that one wrong read does not become lasting.
    ///
    /// # Errors
    /// As the device says.
    async fn agreed(
        &mut self,
        from: FilePosition,
        until: FilePosition,
    ) -> Result<Vec<u8>, DiskError> {
        let len = until.since(from);
        let mut before = None;
        for _ in 0..PART_READS_MAX {
            self.forget();
            self.fill(from, len).await?;
            let read = self.bytes(from, len).to_vec();
            if before.as_ref() == Some(&read) {
                return Ok(read);
            }
            before = Some(read);
        }
        let name = crate::format::segment_name(self.segments.start_of(from));
        let detail = format!("no two reads at position {from} agree");
        Err(DiskError::new(DiskErrorKind::Io, "read", name, detail))
    }
}

/// Runs one behind the other that only the tail has, all in one segment.
#[derive(Debug)]
struct Extent {
    start: FilePosition,
    end: FilePosition,
    /// The device has the run behind them.
    is_followed: bool,
}

/// Runs found only in the tail, as they must be written to the device.
#[derive(Debug, Default)]
pub struct TailRuns {
    extents: Vec<Extent>,
}

impl TailRuns {
    /// The run that follows `scan` in the ring, its payload copied to `payload`.
    pub fn next<D: Disk>(
        &mut self,
        tail: &Tail,
        segments: &Segments<D>,
        scan: &mut Scan,
        payload: &mut Vec<u8>,
    ) -> Option<RunHeader> {
        for position in scan.candidates(segments) {
            let mut head = [0; 64];
            tail.copy_to(position, &mut head);
            let header = RunHeader::peek(&head, position);
            let Some(header) = header.filter(|header| scan.may_follow(header, segments)) else {
                continue;
            };
            let bytes = u64::from(header.payload_bytes);
            if bytes + RUN_HEADER_BYTES > tail.ring_bytes() {
                continue;
            }
            let pieces = tail.pieces(position.plus(RUN_HEADER_BYTES), bytes);
            if !header.verify(scan.store_id, &head, &pieces) {
                continue;
            }
            payload.clear();
            payload.extend_from_slice(pieces[0]);
            payload.extend_from_slice(pieces[1]);
            scan.accept(&header);
            self.add(segments, &header);
            return Some(header);
        }
        None
    }

    fn add<D: Disk>(&mut self, segments: &Segments<D>, header: &RunHeader) {
        let start = segments.start_of(header.position);
        match self.extents.last_mut() {
            Some(last) if !last.is_followed && segments.start_of(last.start) == start => {
                last.end = header.end();
            }
            _ => self.extents.push(Extent {
                start: header.position,
                end: header.end(),
                is_followed: false,
            }),
        }
    }

    /// The device goes on where the tail's runs end: its bytes there are no one's to overwrite.
    pub fn are_followed(&mut self) {
        if let Some(last) = self.extents.last_mut() {
            last.is_followed = true;
        }
    }

    /// Writes what was found (the caller syncs), so that the device alone has the whole log again.
    ///
    /// # Errors
    /// As the device says; nothing is lost then, the tail still has it.
    pub async fn write<D: Disk>(
        &self,
        disk: &D,
        tail: &Tail,
        device: &mut DeviceScan<'_, D>,
    ) -> Result<(), DiskError> {
        for extent in &self.extents {
            let (start, end) = (extent.start, extent.end);
            if !device.segments.exists(start) {
                let start = device.segments.start_of(start);
                device.segments.create(start).await?;
            }
            // Up to the first run and behind the last one, the block has runs of the device.
            let mut lead = device.agreed(start.block_down(), start).await?;
            let behind = if extent.is_followed {
                device.agreed(end, end.block_up()).await?
            } else {
                Vec::new()
            };
            let Some(segment) = device.segments.open(start).await? else {
                continue;
            };
            let mut at = start.block_down();
            while at < end {
                let bytes = end.block_up().since(at).min(READ_BYTES);
                let mut buf = disk.alloc(index(bytes));
                buf.as_mut().fill(0);
                let from = lead.len();
                let until = index(end.since(at).min(bytes));
                if let Some(into) = buf.as_mut().get_mut(..from) {
                    into.copy_from_slice(&lead);
                }
                if let Some(into) = buf.as_mut().get_mut(from..until) {
                    tail.copy_to(at.plus(from as u64), into);
                }
                // There is room for it in the last block only.
                if let Some(into) = buf.as_mut().get_mut(until..until + behind.len()) {
                    into.copy_from_slice(&behind);
                }
                lead.clear();
                segment.file.write_at(buf, segment.offset_of(at)).await?;
                at = at.plus(bytes);
            }
        }
        Ok(())
    }
}
