//! The stores of a data core: opened at its start, and once more when an index must be made anew.
//!
//! **Owns** where a shard's store and tail lie, and which store a data folder holds.
//! **Lives on** each data core, before its ports are open.
//! **Invariants** a store is closed before it is opened again.
//! **Limits** one more try: an index that is made anew and damaged again is an error.
//! **Not here** recovery itself (storage), what a core does with its shards (`core`).

use std::path::Path;
use std::rc::Rc;

use gantry_runtime::glommio_disk::{GlommioDisk, SharedTail, TailError, TailFile, TailPlace};
use gantry_runtime::shard::{CoreContext, on_a_core};
use gantry_storage::error::ReadError;
use gantry_storage::identity::StoreIdentity;
use gantry_storage::shard_store::{FlushMode, RecoveryReport, ShardStore, StoreOptions};
use gantry_storage::tail::memory_bytes;
use gantry_storage::units::ShardId;

use super::{Core, CoreStartError, Store};
use crate::data::router::core_of_shard;
use crate::settings::{BrokerSettings, FlushDiskType};

/// What a burst under `SYNC_FLUSH` finds ready: ten seconds of 100 MB/s. A fresh store then syncs
/// as fast as one whose segments are used again (docs/adr/0003).
const ZEROS_AHEAD_BYTES: u64 = 1 << 30;

/// What stalls of the log's own tasks are called in the profile.
const DISK_TASKS: &str = "log (writer, read-ahead, upkeep, checkpoints)";

/// A core's shards.
pub(super) type Stores = Vec<(ShardId, Rc<Store>)>;

/// The tails of a core's shards, locked until the process ends: the store that one is opened again
/// for finds it still held.
#[derive(Default)]
pub(super) struct Tails(Vec<(ShardId, Rc<TailFile>)>);

impl Tails {
    fn map(
        &mut self,
        settings: &BrokerSettings,
        store_id: u64,
        shard: ShardId,
    ) -> Result<SharedTail, TailError> {
        let bytes = memory_bytes(settings.tail_bytes);
        if let Some((_, file)) = self.0.iter().find(|(held, _)| *held == shard) {
            return file.map(bytes);
        }
        let place = TailPlace::choose(settings.tail_dir.as_deref(), &settings.data_dir);
        let path = place.locate(&settings.data_dir, store_id, shard.0);
        let file = TailFile::take(&path)?;
        let tail = file.map(bytes)?;
        TailPlace::record(&settings.data_dir, shard.0, &path)?;
        self.0.push((shard, file));
        Ok(tail)
    }

    /// Removes the tail of a shard whose every byte is on the device: shared memory isn't held by a
    /// store at rest, and the next start may choose another place.
    pub(super) fn forget(&self, shard: ShardId) {
        for (_, file) in self.0.iter().filter(|(held, _)| *held == shard) {
            if let Err(error) = file.remove() {
                tracing::warn!(%error, "the tail could not be removed");
            }
        }
    }
}

/// Gives the core its shards; those it had under the same numbers are forgotten.
pub(super) fn add_shards(core: &Core, stores: &Stores) {
    for (id, store) in stores {
        store.on_progress(core.add_shard(*id, Rc::clone(store)));
    }
}

/// Closes the stores and recovers them once more if `cause` is a damaged index: a store that has
/// met one leaves a checkpoint behind with which the index is made anew from the log.
///
/// # Errors
/// `cause` if it is something else; as recovery says.
pub(super) async fn open_again(
    context: &CoreContext,
    settings: &BrokerSettings,
    (identity, stores): (StoreIdentity, Stores),
    tails: &mut Tails,
    cause: ReadError,
) -> Result<(Stores, Vec<(ShardId, RecoveryReport)>), CoreStartError> {
    if !matches!(cause, ReadError::Index { .. }) {
        return Err(CoreStartError::Transactions(cause));
    }
    tracing::warn!(%cause, "open half messages can't be read: the index is made anew");
    for (shard, store) in &stores {
        if let Err(error) = store.shutdown().await {
            tracing::error!(%shard, %error, "the shard could not be closed");
            return Err(CoreStartError::Transactions(cause));
        }
    }
    drop(stores);
    open_shards(context, settings, identity, tails).await
}

/// Recovers this core's shards.
pub(super) async fn open_shards(
    context: &CoreContext,
    settings: &BrokerSettings,
    identity: StoreIdentity,
    tails: &mut Tails,
) -> Result<(Stores, Vec<(ShardId, RecoveryReport)>), CoreStartError> {
    let disk = GlommioDisk::open(&settings.data_dir, context.queues.flush).await?;
    let disk = disk.watched(context.watch(DISK_TASKS));
    let memory = settings.memory_plan(context.count);
    let (mut stores, mut reports) = (Vec::new(), Vec::new());
    let mine = (0..identity.shards_count)
        .map(ShardId)
        .filter(|shard| core_of_shard(*shard, context.count) == context.index);
    for shard in mine {
        let tail = tails.map(settings, identity.id, shard)?;
        let options = StoreOptions {
            shard,
            flush_mode: match settings.flush_disk_type {
                FlushDiskType::Async => FlushMode::Async,
                FlushDiskType::Sync => FlushMode::Sync,
            },
            flush_interval_ms: settings.flush_interval_ms,
            segment_bytes: settings.segment_bytes,
            zeros_ahead_bytes: ZEROS_AHEAD_BYTES,
            read_cache_bytes: memory.read_cache_bytes,
            index_cache_bytes: memory.index_cache_bytes,
            sleep_ms: settings.index.sleep_ms,
            ..StoreOptions::default()
        };
        let opened = ShardStore::open(disk.clone(), Box::new(tail), options).await;
        let (store, report) = opened.map_err(|cause| CoreStartError::Recover { shard, cause })?;
        stores.push((shard, store));
        reports.push((shard, report));
    }
    Ok((stores, reports))
}

/// Reads whose store lies in `data_dir`, or makes a store of `shards_count` shards. Blocks; for the
/// main thread, before the cores start.
///
/// # Errors
/// The folder can't be used, or the store is newer or damaged.
pub fn read_identity(data_dir: &Path, shards_count: u8) -> Result<StoreIdentity, CoreStartError> {
    let folder = data_dir.to_owned();
    let found = on_a_core(move |context| {
        let folder = folder.clone();
        async move { identity_of(&context, &folder, shards_count).await }
    });
    found.map_err(CoreStartError::Executor)?
}

async fn identity_of(
    context: &CoreContext,
    folder: &Path,
    shards_count: u8,
) -> Result<StoreIdentity, CoreStartError> {
    let disk = GlommioDisk::open(folder, context.queues.flush).await?;
    let found = StoreIdentity::load_or_create(&disk, shards_count).await;
    found.map_err(|cause| CoreStartError::Recover {
        shard: ShardId(0),
        cause,
    })
}
