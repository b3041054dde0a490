//! Who owes records: delayed messages, transactions.
//!
//! **Owns** how the registry asks them, and asks again until the way is free.
//! **Lives on** the control plane's thread; open halves are asked of the core of their shard.
//! **Invariants** a batch that is moving isn't torn by the registry's patience: it runs as a task of
//! its own, so that none of its records stays in between.
//! **Limits** those of a batch (`delay::forward`, `data::transactions::checks`), [`PAUSE_MS`] between
//! two, the registry's limit for all of them.
//! **Not here** moving (they do), the drop (`super`).

use std::rc::{Rc, Weak};
use std::time::Duration;

use gantry_protocol::code::response;
use gantry_storage::units::{FilePosition, ShardId};

use super::owed::{Floor, Moving, OwedRecords};
use crate::control::plane::Plane;
use crate::refusal::Refusal;

/// Between two batches: what is under way is done by then.
const PAUSE_MS: u64 = 50;

/// Names all of them to the registry.
pub fn register(plane: &Rc<Plane>) {
    let owed = &plane.cleaning.owed;
    owed.register(Rc::new(DelayedMessages(Rc::downgrade(plane))));
    owed.register(Rc::new(OpenHalves(Rc::downgrade(plane))));
}

fn alive(plane: &Weak<Plane>) -> Result<Rc<Plane>, Refusal> {
    let gone = || Refusal::new(response::SYSTEM_ERROR, "the control plane stops");
    plane.upgrade().ok_or_else(gone)
}

struct DelayedMessages(Weak<Plane>);

impl OwedRecords for DelayedMessages {
    fn name(&self) -> &'static str {
        "delayed messages"
    }

    fn floor(&self, shard: ShardId) -> Floor<'_> {
        Box::pin(async move {
            let floor = alive(&self.0)?.delay.floor(shard);
            floor.map_err(|why| Refusal::new(response::SYSTEM_ERROR, why))
        })
    }

    fn move_forward(&self, shard: ShardId, below: FilePosition) -> Moving<'_> {
        Box::pin(async move {
            loop {
                let plane = alive(&self.0)?;
                let batch = async move { plane.delay.move_forward(&plane, shard, below).await };
                let moved = actix::spawn(batch).await;
                let fault = |_| Refusal::new(response::SYSTEM_ERROR, "a fault while moving");
                if moved.map_err(fault)?? {
                    return Ok(());
                }
                actix::clock::sleep(Duration::from_millis(PAUSE_MS)).await;
            }
        })
    }
}

struct OpenHalves(Weak<Plane>);

impl OwedRecords for OpenHalves {
    fn name(&self) -> &'static str {
        "open half messages"
    }

    fn floor(&self, shard: ShardId) -> Floor<'_> {
        Box::pin(async move { alive(&self.0)?.errands.halves_floor(shard).await })
    }

    fn move_forward(&self, shard: ShardId, below: FilePosition) -> Moving<'_> {
        Box::pin(async move {
            loop {
                let plane = alive(&self.0)?;
                plane.errands.move_halves(shard, below).await?;
                actix::clock::sleep(Duration::from_millis(PAUSE_MS)).await;
                let floor = plane.errands.halves_floor(shard).await?;
                if floor.is_none_or(|floor| floor >= below) {
                    return Ok(());
                }
            }
        })
    }
}
