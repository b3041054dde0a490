//! Delayed messages as retention sees them: no segment goes below the lowest pending one.
//!
//! **Owns** the answers to the registry of owed records.
//! **Lives on** the control plane's thread.
//! **Invariants** what the floor no longer names is on the device: delivered, or parked again. A
//! batch that is moving isn't torn by the registry's patience: it runs as a task of its own, so
//! that none of its records stays in between.
//! **Limits** those of a batch (`forward`), [`PAUSE_MS`] between two, the registry's for them all.
//! **Not here** moving (`forward`), the drop (`control::cleaning`).

use std::rc::{Rc, Weak};
use std::time::Duration;

use gantry_protocol::code::response;
use gantry_storage::units::{FilePosition, ShardId};

use crate::control::cleaning::owed::{Finding, Moving, OwedRecords};
use crate::control::plane::Plane;
use crate::refusal::Refusal;

/// Between two batches: what is under way is done by then.
const PAUSE_MS: u64 = 50;

fn cannot(why: &str) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, why)
}

/// See the room's head.
pub struct DelayedMessages(Weak<Plane>);

impl DelayedMessages {
    /// Names them to the registry.
    pub fn register(plane: &Rc<Plane>) {
        let own = Rc::new(Self(Rc::downgrade(plane)));
        plane.cleaning.owed.register(own);
    }

    fn plane(&self) -> Result<Rc<Plane>, Refusal> {
        let gone = || cannot("the control plane stops");
        self.0.upgrade().ok_or_else(gone)
    }
}

impl OwedRecords for DelayedMessages {
    fn name(&self) -> &'static str {
        "delayed messages"
    }

    fn floor(&self, shard: ShardId) -> Finding<'_> {
        Box::pin(async move {
            let plane = self.plane()?;
            let shards_count = plane.errands.shards_count();
            let floor = plane.delay.floor(shard, shards_count).map_err(cannot)?;
            // What has left the board a moment ago may not be on the device under ASYNC_FLUSH.
            plane.errands.durable().await?;
            Ok(floor)
        })
    }

    fn move_forward(&self, shard: ShardId, below: FilePosition) -> Moving<'_> {
        Box::pin(async move {
            loop {
                let plane = self.plane()?;
                let batch = async move { plane.delay.move_forward(&plane, shard, below).await };
                let moved = actix::spawn(batch).await;
                if moved.map_err(|_| cannot("a fault while moving"))?? {
                    return Ok(());
                }
                actix::clock::sleep(Duration::from_millis(PAUSE_MS)).await;
            }
        })
    }
}
