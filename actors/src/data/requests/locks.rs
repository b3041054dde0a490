//! Order locks over many queues (41, 42).
//!
//! **Owns** the requests' bodies and the collected answer.
//! **Lives on** the session's core (bodies) and on every core (its queues' locks).
//! **Invariants** the reply lists exactly the requested queues that the client owns after the call
//! (trap 75); unknown queues are not listed.
//! **Limits** [`LOCK_QUEUES_MAX`] queues a request, [`LOCK_NAME_BYTES_MAX`] a name; how much is
//! remembered: `orderly`.
//! **Not here** the life of a lock (`queue::order_lock`), the gathering (`gather`).

use std::collections::HashSet;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{LockRequest, MessageQueue, lock_reply};
use gantry_protocol::code::response;
use gantry_protocol::fastjson::{self, IntegerKeys};
use gantry_protocol::frame::Frame;
use gantry_storage::units::{QueueId, QueueKey};

use crate::data::core::DataCore;
use crate::data::gather::{GatherAsk, GatherGoal};
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::words::ReplyTo;
use crate::refusal::{Refusal, quoted};

/// Most queues of one request.
pub const LOCK_QUEUES_MAX: usize = 65_536;

/// Longest name of a client or a group that takes locks.
pub const LOCK_NAME_BYTES_MAX: usize = 1024;

/// A queue under the names the client used.
#[derive(Debug, Clone)]
pub struct NamedQueue {
    queue: MessageQueue,
    key: QueueKey,
}

impl<S: QueueStore, H: Host> DataCore<S, H> {
    pub(in crate::data) fn lock_queues(
        self: &Rc<Self>,
        frame: &Frame,
        to: ReplyTo,
        take: bool,
    ) -> Result<(), Refusal> {
        let illegal = |why: String| Refusal::new(response::SYSTEM_ERROR, why);
        let body = LockRequest::parse(&frame.body).map_err(|error| illegal(error.to_string()))?;
        if body.queues.len() > LOCK_QUEUES_MAX {
            return Err(illegal(format!(
                "more than {LOCK_QUEUES_MAX} queues in one request"
            )));
        }
        let texts = [
            ("clientId", &body.client_id),
            ("consumerGroup", &body.consumer_group),
        ];
        for (field, name) in texts {
            if name.len() > LOCK_NAME_BYTES_MAX {
                let (name, bytes) = (quoted(name), name.len());
                return Err(illegal(format!(
                    "{field} {name} has {bytes} bytes, {LOCK_NAME_BYTES_MAX} are allowed"
                )));
            }
        }
        let named = body
            .queues
            .into_iter()
            .filter_map(|queue| self.named_queue(queue));
        let named: Vec<NamedQueue> = named.collect();
        let ask = GatherAsk::Lock {
            queues: named.iter().map(|named| named.key).collect(),
            group: Arc::from(body.consumer_group),
            client: Arc::from(body.client_id),
            take,
        };
        let goal = if take {
            GatherGoal::LockReply(named)
        } else {
            GatherGoal::UnlockReply
        };
        self.gather(to, &ask, goal)
    }

    fn named_queue(&self, queue: MessageQueue) -> Option<NamedQueue> {
        let catalog = self.catalog.borrow();
        let entry = catalog.topic(&queue.topic)?;
        if queue.queue_id >= entry.config.queue_nums() {
            return None;
        }
        let id = QueueId(u16::try_from(queue.queue_id).ok()?);
        Some(NamedQueue {
            queue,
            key: QueueKey {
                topic: entry.id,
                queue: id,
            },
        })
    }

    /// Takes or gives back the locks of this core's queues; returns those taken.
    pub(in crate::data) fn lock_own(
        &self,
        queues: &[QueueKey],
        group: &Arc<str>,
        client: &Arc<str>,
        take: bool,
    ) -> Vec<QueueKey> {
        let mine = |key: &&QueueKey| match self.shard_of(**key) {
            Some(shard) if take => shard.lock_queue(**key, group, client),
            Some(shard) => {
                shard.unlock_queue(**key, group, client);
                false
            }
            None => false,
        };
        queues.iter().filter(mine).copied().collect()
    }

    pub(in crate::data) fn finish_lock(
        &self,
        to: ReplyTo,
        asked: &[NamedQueue],
        locked: &[QueueKey],
    ) {
        let locked: HashSet<&QueueKey> = locked.iter().collect();
        let owned = asked.iter().filter(|named| locked.contains(&named.key));
        let body = lock_reply(owned.map(|named| &named.queue));
        let body = fastjson::to_bytes(&body, IntegerKeys::Quoted);
        self.host.reply(to, response::SUCCESS, None, None, &[&body]);
    }
}
