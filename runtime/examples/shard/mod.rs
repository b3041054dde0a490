//! What the examples that run a shard's store on the real disk have in common.

use std::collections::VecDeque;
use std::time::Duration;

use gantry_protocol::message::body_crc;
use gantry_runtime::glommio_disk::GlommioDisk;
use gantry_runtime::shard::{CoreContext, CorePlan, DataCores, IO_MEMORY_BYTES_MAX};
use gantry_runtime::shutdown::Shutdown;
use gantry_runtime::topology::unbound;
use gantry_storage::disk::{Disk, DiskFile, OpenMode};
use gantry_storage::shard_store::{NewRecord, ReadLimits, ShardStore};
use gantry_storage::units::QueueKey;
use rustix::time::{ClockId, clock_gettime};

/// How a run ends.
pub type Outcome<T> = Result<T, Box<dyn std::error::Error>>;
/// A store on the real disk.
pub type Store = ShardStore<GlommioDisk>;

/// What direct reads and writes are multiples of.
pub const BLOCK: u64 = 4096;
/// One read of a sequential reader.
pub const CHUNK: u64 = 256 << 10;
/// Reads of one reader that are under way, as the shared log's read-ahead has them.
const DEPTH: usize = 5;
/// What one pull of a consumer asks for.
pub const PULL: ReadLimits = ReadLimits {
    messages: 32,
    bytes: 256 << 10,
    entries_examined: 800,
};

/// Runs `work` on one data core and says why it failed, if it did.
pub fn on_core<S, W, F>(seat: S, work: W) -> Outcome<()>
where
    S: Send + 'static,
    W: Fn(CoreContext, S) -> F + Clone + Send + 'static,
    F: Future<Output = Outcome<()>> + 'static,
{
    let mut plan = CorePlan::new(unbound(1));
    plan.io_memory_bytes = IO_MEMORY_BYTES_MAX;
    let cores = DataCores::start(&plan, &Shutdown::new(), vec![seat], move |core, seat| {
        let run = work(core, seat);
        async move {
            if let Err(error) = run.await {
                println!("{error}");
            }
        }
    })?;
    for (_, cause) in cores.join() {
        println!("{cause}");
    }
    Ok(())
}

/// CPU time of this process, its kernel workers included.
pub fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
    Duration::new(seconds, u32::try_from(time.tv_nsec).unwrap_or(0))
}

/// What is stored again and again: a body of 1 KiB.
pub struct Sample {
    body: Vec<u8>,
    body_crc: u32,
    properties: Vec<u8>,
}

impl Sample {
    /// With so many bytes of properties.
    pub fn new(properties: usize) -> Self {
        let body = vec![b'x'; 1024];
        Self {
            body_crc: body_crc(&body),
            body,
            properties: vec![b'p'; properties],
        }
    }

    /// A record of a queue.
    pub fn record<'a>(&'a self, key: QueueKey, key_hashes: &'a [u64]) -> NewRecord<'a> {
        NewRecord {
            key,
            topic: "Example",
            flag: 0,
            sys_flag: 0,
            born_timestamp: 1,
            born_host: ([127, 0, 0, 1], 1).into(),
            store_timestamp: None,
            store_host: ([127, 0, 0, 1], 1).into(),
            reconsume_times: 0,
            prepared_offset: 0,
            body: &self.body,
            body_crc: self.body_crc,
            properties: &self.properties,
            tags_code: 0,
            key_hashes,
        }
    }
}

/// Reads the first `bytes` of a file in chunks, `DEPTH` of them under way, each in a task of its
/// own.
pub async fn stream(disk: &GlommioDisk, name: &str, bytes: u64) -> Outcome<()> {
    let file = disk.open(name, OpenMode::Existing).await?;
    let mut under_way = VecDeque::new();
    for at in (0..bytes).step_by(usize::try_from(CHUNK)?) {
        let (file, len) = (file.clone(), usize::try_from(CHUNK.min(bytes - at))?);
        let read = async move { file.read_at(at, len).await.map(drop) };
        under_way.push_back(glommio::spawn_local(read));
        if under_way.len() >= DEPTH
            && let Some(first) = under_way.pop_front()
        {
            first.await?;
        }
    }
    for rest in under_way {
        rest.await?;
    }
    file.close().await?;
    Ok(())
}
