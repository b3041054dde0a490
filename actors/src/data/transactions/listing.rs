//! What operators are told of a shard's open halves.
//!
//! **Owns** the answer to `Question::ListHalves`.
//! **Lives on** the core of the half's shard, in a task of its own.
//! **Invariants** only halves that are open when their record has been read; the table isn't
//! touched.
//! **Limits** the question's count, [`PAGE_BYTES_MAX`] of records (one always fits).
//! **Not here** who asks (`control::supervisors::open_halves`), ending them (`ends`).

use gantry_protocol::code::response;
use gantry_storage::units::QueueOffset;

use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::shard::Shard;
use crate::refusal::Refusal;
use crate::seam::{HalvesPage, OpenHalf};

/// Bytes of records after which a page takes no further one.
pub const PAGE_BYTES_MAX: usize = 1 << 20;

impl<S: QueueStore, H: Host> Shard<S, H> {
    /// Open halves from `from` on, or the one that its producer knows as `from`.
    ///
    /// # Errors
    /// The table isn't read yet, or the device failed.
    pub async fn list_halves(
        &self,
        from: QueueOffset,
        is_one: bool,
        count_max: usize,
    ) -> Result<HalvesPage, Refusal> {
        let cannot = |why: String| Refusal::new(response::SYSTEM_ERROR, why);
        let queues = self
            .transaction_queues()
            .ok_or_else(|| cannot("the table of open halves is not read yet".to_owned()))?;
        let count_max = if is_one { 1 } else { count_max };
        let found: Vec<(QueueOffset, u32, u64)> = self.with_halves(|halves| {
            let first = if is_one {
                halves.find(from)
            } else {
                Some(from)
            };
            let open = first.into_iter().flat_map(|first| halves.open_from(first));
            open.take(count_max).collect()
        });
        let is_full = found.len() == count_max && !is_one;
        let mut page = HalvesPage::default();
        let mut bytes = 0;
        for (offset, checks, due_ms) in found {
            if bytes >= PAGE_BYTES_MAX {
                return Ok(page);
            }
            let read = self.half_record(queues.half, offset).await;
            let record = read.map_err(|error| cannot(error.to_string()))?;
            let is_open = self.with_halves(|halves| halves.is_undecided(offset));
            if let Some(record) = record.filter(|_| is_open) {
                bytes += record.len();
                page.halves.push(OpenHalf {
                    record,
                    checks,
                    due_ms,
                });
            }
            page.next = Some(offset.next());
        }
        if !is_full {
            page.next = None;
        }
        Ok(page)
    }
}
