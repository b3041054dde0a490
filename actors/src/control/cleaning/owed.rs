//! Records that are still owed to somebody: scheduled ones, open half messages.
//!
//! **Owns** the registry of those who know them, and the question how far a drop may go.
//! **Lives on** the control plane's thread.
//! **Invariants** owed records are moved forward, never deleted: a drop ends at the lowest one that
//! is left, whatever the disk wants; a source that can't say what it owes stops it altogether.
//! **Limits** [`MOVE_LIMIT`] a source and drop; the next run goes on where it ended.
//! **Not here** what is owed (the sources), moving it (they do).

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::time::Duration;

use gantry_storage::units::{FilePosition, ShardId};

use crate::refusal::Refusal;

/// How long one source may move records for one drop.
pub const MOVE_LIMIT: Duration = Duration::from_secs(30);

/// Where the lowest owed record lies, as soon as it is known.
pub type Finding<'a> = Pin<Box<dyn Future<Output = Result<Option<FilePosition>, Refusal>> + 'a>>;
/// Records on their way forward.
pub type Moving<'a> = Pin<Box<dyn Future<Output = Result<(), Refusal>> + 'a>>;

/// Somebody with records in the logs that must not be lost with their segments.
pub trait OwedRecords {
    /// Its name in the log.
    fn name(&self) -> &'static str;

    /// The lowest position in `shard` at which one of its owed records lies.
    ///
    /// What it doesn't name any more is on the device: settled, or stored again.
    ///
    /// # Errors
    /// Why it can't say; nothing is dropped then.
    fn floor(&self, shard: ShardId) -> Finding<'_>;

    /// Appends again what it owes below `below`, and owes the new records instead. Ends when
    /// `floor` says so, or with why not all could be moved. May be called again at any time.
    fn move_forward(&self, shard: ShardId, below: FilePosition) -> Moving<'_>;
}

/// The registry; see the room's head.
#[derive(Default)]
pub struct Owed {
    sources: RefCell<Vec<Rc<dyn OwedRecords>>>,
}

impl Owed {
    /// Adds a source, at the start of its part.
    pub fn register(&self, source: Rc<dyn OwedRecords>) {
        let mut sources = self.sources.borrow_mut();
        // A part that was made anew after a panic takes its own place.
        sources.retain(|known| known.name() != source.name());
        sources.push(source);
    }

    /// Has everything moved that is owed below `below`; how far a drop may go then.
    pub async fn clear(&self, shard: ShardId, below: FilePosition) -> FilePosition {
        let sources = self.sources.borrow().clone();
        let mut allowed = below;
        for source in sources {
            allowed = allowed.min(clear_of(&*source, shard, below).await);
        }
        allowed
    }
}

async fn clear_of(source: &dyn OwedRecords, shard: ShardId, below: FilePosition) -> FilePosition {
    let before = left(source, shard, below).await;
    if before >= below || before.0 == 0 {
        return before;
    }
    let name = source.name();
    let moving = source.move_forward(shard, below);
    match actix::clock::timeout(MOVE_LIMIT, moving).await {
        Ok(Ok(())) => {}
        Ok(Err(refusal)) => {
            tracing::warn!(source = name, %shard, %refusal, "owed records hold old segments");
        }
        Err(_) => tracing::warn!(source = name, %shard, "moving owed records takes long"),
    }
    left(source, shard, below).await
}

async fn left(source: &dyn OwedRecords, shard: ShardId, below: FilePosition) -> FilePosition {
    match source.floor(shard).await {
        Ok(floor) => floor.map_or(below, |floor| floor.min(below)),
        Err(refusal) => {
            let name = source.name();
            tracing::warn!(source = name, %shard, %refusal, "what is owed is not known");
            FilePosition(0)
        }
    }
}
