//! A send, from its header to a request for a queue actor.
//!
//! **Owns** the checks of a send in RocketMQ's order, and the rewriting of its properties.
//! **Lives on** the session's data core; nothing here touches the store.
//! **Invariants** what is refused here was not stored. The header's batch field decides, not the
//! code (trap 39). A half message goes to the half queue on the shard of its target queue, a
//! delayed one is parked. A half with a delay is a half first: the delay begins with its commit.
//! **Limits** `maxMessageSize`; topic and properties as the record's layout allows (trap 46).
//! **Not here** storing (`queue::append`), creation of topics (`control::topics`).

pub mod checks;
pub mod delay;
pub mod marks;
pub mod reply;

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use gantry_protocol::body::FilterType;
use gantry_protocol::code::response;
use gantry_protocol::frame::Frame;
use gantry_protocol::message::{BatchIter, body_crc};
use gantry_protocol::message_id::{UniqueIdMaker, ms_since_month_began};
use gantry_protocol::properties::{self, BrokerProperties, SendProperties, rewrite_for_send};
use gantry_protocol::recall_handle::RecallHandle;
use gantry_protocol::request::send::SendHeader;
use gantry_protocol::{sys_flag, system_topic};
use gantry_storage::units::{QueueId, QueueKey};

use self::checks::{
    check_inner_batch, check_properties_len, check_topic_name, check_transaction,
    check_whole_batch, is_half,
};
use self::delay::Delay;
use super::orderly::{Heard, OrderlyGroups};
use crate::data::catalog::Catalog;
use crate::data::queue::append::key_hashes;
use crate::data::transactions::rebuild::queue_on;
use crate::data::words::{Append, Element, KeyHashes, Marks, Part, Rare, TransactionStep};
use crate::refusal::{Refusal, quoted};
use crate::seam::TopicEntry;
use crate::settings::BrokerSettings;
use crate::transaction::{LATER_BYTES_MAX, append_half_properties, first_check_ms};

/// Properties are rewritten into blocks of this size, each shared by many messages.
const ARENA_BYTES: usize = 64 * 1024;
/// Most messages of one batch: the smallest element takes 22 bytes of a 4 MiB body, and a reply
/// names each of them with 33 bytes.
pub const BATCH_ELEMENTS_MAX: usize = 65_536;

/// What one core needs to check sends.
pub struct SendDesk {
    settings: Arc<BrokerSettings>,
    broker: BrokerProperties,
    keys: RefCell<UniqueIdMaker>,
    arena: RefCell<BytesMut>,
    scratch: RefCell<Vec<u8>>,
    random: RefCell<u64>,
    /// Why messages are refused, if they are.
    refusing: RefCell<Option<Arc<str>>>,
    /// Messages refused because of it.
    refused_full: Cell<u64>,
    shards_count: u8,
    orderly: RefCell<OrderlyGroups>,
}

/// The queue a send names.
struct Target<'a> {
    catalog: &'a Catalog,
    topic: &'a Arc<TopicEntry>,
    key: QueueKey,
}

/// A message's properties as they are stored, and what they say.
struct Rewritten {
    properties: Bytes,
    marks: Marks,
    /// It is a half, first due then.
    half_due_ms: Option<u64>,
    delay: Delay,
    recall: Option<Box<str>>,
    sys_flag: i32,
}

/// The time of a send, as of its core's tick.
#[derive(Debug, Clone, Copy)]
pub struct Now {
    /// Since the Unix epoch.
    pub wall_ms: u64,
    /// Of the clock that never goes back.
    pub mono_ms: u64,
}

/// What a send needs before it can be stored.
#[derive(Debug)]
pub enum Checked {
    /// Nothing: it was handed on.
    HandedOn,
    /// Its topic must be made first.
    NoTopic,
    /// The group of the retry topic must be made first.
    NoGroup(String),
    /// The dead-letter topic it goes to must be made first.
    NoDeadLetters(String),
}

/// Where a send goes.
enum Goal {
    /// To the queue it names.
    AsSent,
    /// To this dead-letter topic.
    DeadLetters(String),
    /// Nobody knows the group of its retry topic.
    NoGroup(String),
}

impl SendDesk {
    /// A desk; `seed` differs between the cores of a process and between its starts.
    pub fn new(settings: Arc<BrokerSettings>, shards_count: u8, seed: u64) -> Self {
        let [a, b, c, d, ..] = seed.to_le_bytes();
        let maker = UniqueIdMaker::new(
            settings.advertised.ip(),
            std::process::id(),
            u32::from_le_bytes([a, b, c, d]),
        );
        let broker = BrokerProperties::new(
            &settings.region_id,
            settings.trace_on,
            &settings.cluster_name,
        );
        Self {
            settings,
            broker,
            keys: RefCell::new(maker),
            arena: RefCell::default(),
            scratch: RefCell::default(),
            random: RefCell::new(seed | 1),
            refusing: RefCell::default(),
            refused_full: Cell::default(),
            shards_count,
            orderly: RefCell::default(),
        }
    }

    /// A lock request of a group was heard. False when it must not be granted.
    pub fn hear_lock(&self, heard: Heard<'_>, mono_ms: u64) -> bool {
        self.orderly.borrow_mut().note(heard, mono_ms)
    }

    /// Checks a send, prepares it and hands it to `store`: a message is long, and is copied by each
    /// who gives it back.
    ///
    /// # Errors
    /// What the producer is told.
    pub fn check(
        &self,
        catalog: &Catalog,
        header: &SendHeader<'_>,
        frame: &Frame,
        peer: SocketAddr,
        now: Now,
        store: impl FnOnce(QueueKey, Append) -> Result<(), Refusal>,
    ) -> Result<Checked, Refusal> {
        self.check_acceptance(now.wall_ms)?;
        let Some(topic) = catalog.sendable(header.topic) else {
            check_topic_name(header.topic)?;
            return Ok(Checked::NoTopic);
        };
        self.check_broker(catalog, topic)?;
        let key = self.choose_queue(topic, header.queue_id)?;
        let dead = match self.goal(catalog, header, now.mono_ms)? {
            Goal::AsSent => None,
            Goal::DeadLetters(name) => Some(name),
            Goal::NoGroup(group) => return Ok(Checked::NoGroup(group)),
        };
        self.check_body(&frame.body)?;
        let dead_letters = match &dead {
            None => None,
            Some(name) => match catalog.topic(name) {
                None => return Ok(Checked::NoDeadLetters(name.clone())),
                found => found,
            },
        };
        let (key, topic) = dead_letters.map_or((key, topic), |entry| (first_queue(entry), entry));
        let target = Target {
            catalog,
            topic,
            key,
        };
        let sent = (header, &frame.body, peer);
        self.prepare(&target, sent, now.wall_ms, store)?;
        Ok(Checked::HandedOn)
    }

    /// Where a message goes that a consumer sends to its retry topic itself, when not there: it was
    /// tried too often, or its group consumes in order (`SendMessageProcessor.handleRetryAndDLQ`,
    /// 5.5.0; traps 78, 80).
    fn goal(
        &self,
        catalog: &Catalog,
        header: &SendHeader<'_>,
        mono_ms: u64,
    ) -> Result<Goal, Refusal> {
        let Some(group) = system_topic::group_of_retry_topic(header.topic) else {
            return Ok(Goal::AsSent);
        };
        if header.batch {
            let remark = "batch request does not support retry group";
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
        }
        let Some(known) = catalog.group(group) else {
            return Ok(Goal::NoGroup(group.to_owned()));
        };
        let config = &known.entry.config;
        let max = header.max_reconsume_times.unwrap_or(config.retry_max_times);
        let dead = header.reconsume_times > max || self.orderly.borrow().holds(group, mono_ms);
        if dead {
            return Ok(Goal::DeadLetters(system_topic::dlq_topic(group)));
        }
        Ok(Goal::AsSent)
    }

    fn check_broker(&self, catalog: &Catalog, topic: &TopicEntry) -> Result<(), Refusal> {
        if catalog.writable() || !topic.config.order {
            return Ok(());
        }
        let remark = format!(
            "the broker[{}] sending message is forbidden: brokerPermission {}",
            self.settings.advertised.ip(),
            catalog.broker_permission()
        );
        Err(Refusal::new(response::NO_PERMISSION, remark))
    }

    fn check_body(&self, body: &[u8]) -> Result<(), Refusal> {
        if body.is_empty() {
            // Trap 104: Java fails on the missing body with its own error text and code 1.
            return Err(Refusal::new(
                response::SYSTEM_ERROR,
                "the message has no body",
            ));
        }
        let bytes_max = self.settings.message_bytes_max.count();
        if body.len() > bytes_max {
            let remark = format!(
                "the message body is {} bytes, maxMessageSize is {}",
                body.len(),
                bytes_max
            );
            return Err(Refusal::new(response::MESSAGE_ILLEGAL, remark));
        }
        Ok(())
    }

    fn check_acceptance(&self, now_ms: u64) -> Result<(), Refusal> {
        self.check_opening_time(now_ms, response::SERVICE_NOT_AVAILABLE)?;
        self.check_room()
    }

    /// Whether messages are taken; each one that isn't is counted.
    ///
    /// # Errors
    /// With the reason that [`Self::refuse_writes`] gave.
    pub fn check_room(&self) -> Result<(), Refusal> {
        match &*self.refusing.borrow() {
            Some(reason) => {
                self.refused_full.set(self.refused_full.get() + 1);
                Err(Refusal::new(response::SERVICE_NOT_AVAILABLE, &**reason))
            }
            None => Ok(()),
        }
    }

    /// `startAcceptSendRequestTimeStamp`; sends and replies are refused with different codes.
    fn check_opening_time(&self, now_ms: u64, code: i32) -> Result<(), Refusal> {
        let from = self.settings.start_accept_send_request_ms.get();
        if now_ms < from {
            let remark = format!("broker unable to service, until {from} ms since 1970");
            return Err(Refusal::new(code, remark));
        }
        Ok(())
    }

    /// Refuses messages for this reason from now on, or takes them again.
    pub fn refuse_writes(&self, reason: Option<Arc<str>>) {
        self.refusing.replace(reason);
    }

    /// Messages refused for such a reason since the start.
    pub fn refused_full(&self) -> u64 {
        self.refused_full.get()
    }

    fn choose_queue(&self, topic: &TopicEntry, wanted: i32) -> Result<QueueKey, Refusal> {
        let config = &topic.config;
        let write = u64::try_from(config.write_queue_nums).unwrap_or(0);
        let all = write.max(u64::try_from(config.read_queue_nums).unwrap_or(0));
        let chosen = match u64::try_from(wanted) {
            Ok(id) if id >= all => {
                let remark = format!(
                    "request queueId[{wanted}] is illegal, topic {}: {} read, {} write queues",
                    quoted(&config.name),
                    config.read_queue_nums,
                    config.write_queue_nums
                );
                return Err(Refusal::new(response::INVALID_PARAMETER, remark));
            }
            Ok(id) => id,
            Err(_) => self.random() % write.max(1),
        };
        let queue = u16::try_from(chosen).map_err(|_| {
            Refusal::new(
                response::INVALID_PARAMETER,
                format!("queueId {chosen} exceeds 65535"),
            )
        })?;
        Ok(QueueKey {
            topic: topic.id,
            queue: QueueId(queue),
        })
    }

    /// Xorshift: spreads messages over queues, nothing more is asked of it.
    fn random(&self) -> u64 {
        let mut state = self.random.borrow_mut();
        *state ^= *state << 13;
        *state ^= *state >> 7;
        *state ^= *state << 17;
        *state
    }

    fn prepare(
        &self,
        target: &Target<'_>,
        (header, body, peer): (&SendHeader<'_>, &Bytes, SocketAddr),
        now_ms: u64,
        store: impl FnOnce(QueueKey, Append) -> Result<(), Refusal>,
    ) -> Result<(), Refusal> {
        let (mut half_due_ms, mut delay, mut recall) = (None, Delay::None, None);
        let mut sys_flag = header.sys_flag;
        let (properties, mut marks, elements) = if header.batch {
            let found = SendProperties::scan(header.properties);
            check_inner_batch(sys_flag, found.inner_count)?;
            check_whole_batch(&found, sys_flag)?;
            let marks = Marks {
                no_wait: found.no_wait,
                ..Marks::default()
            };
            (Bytes::new(), marks, self.split_batch(body, target.key)?)
        } else {
            let rewritten = self.rewrite(target, header, now_ms)?;
            half_due_ms = rewritten.half_due_ms;
            delay = rewritten.delay;
            recall = rewritten.recall;
            sys_flag = rewritten.sys_flag;
            (rewritten.properties, rewritten.marks, Vec::new())
        };
        let parked = parking(target.catalog, delay)?;
        let (mut key, mut topic) = parked.unwrap_or((target.key, target.topic));
        let mut shown_queue = parked.map(|_| target.key.queue.0);
        let mut step = None;
        if let Some(due_ms) = half_due_ms {
            (key, topic) = self.half_queue(target)?;
            shown_queue = Some(target.key.queue.0);
            // The index keeps it, so that a restart need not read the record.
            marks.tags_code = i64::try_from(due_ms).unwrap_or(i64::MAX);
            step = Some(TransactionStep::Half { due_ms });
        }
        let rare = Rare {
            elements,
            step,
            owed: delay.time(&self.settings),
            shown_queue,
            recall,
            ..Rare::default()
        };
        let append = Append {
            topic: Arc::clone(topic),
            flag: header.flag,
            sys_flag: sys_flag | multi_tags(target.topic),
            born_ms: header.born_timestamp,
            born_host: peer,
            reconsume_times: header.reconsume_times,
            body: body.clone(),
            body_crc: if header.batch { 0 } else { body_crc(body) },
            properties,
            marks,
            rare: rare.kept(),
        };
        store(key, append)
    }

    /// The elements of a batch for a queue, with all that storing needs of their bytes.
    fn split_batch(&self, body: &[u8], key: QueueKey) -> Result<Vec<Element>, Refusal> {
        let illegal = |remark: String| Refusal::new(response::MESSAGE_ILLEGAL, remark);
        let base = body.as_ptr().addr();
        let elements = BatchIter::new(body).map_err(|error| illegal(error.to_string()))?;
        let index_keys = self.settings.index.keys_enable;
        let mut split = Vec::new();
        for element in elements {
            let element = element.map_err(|error| illegal(error.to_string()))?;
            if split.len() == BATCH_ELEMENTS_MAX {
                return Err(illegal(format!(
                    "a batch holds at most {BATCH_ELEMENTS_MAX} messages"
                )));
            }
            let part = |part: &[u8]| {
                let at = part.as_ptr().addr().saturating_sub(base);
                Part::new(at, part.len())
            };
            let found = SendProperties::scan(element.properties);
            let tags_code = marks::code_of(&found);
            let key_hashes = if index_keys {
                let unique = found.unique_key.map(str::as_bytes);
                key_hashes(key.topic, unique, found.keys.map(str::as_bytes))
            } else {
                KeyHashes::new()
            };
            split.push(Element {
                flag: element.flag,
                body_crc: body_crc(element.body),
                body: part(element.body),
                properties: part(element.properties.as_bytes()),
                tags_code,
                key_hashes,
            });
        }
        Ok(split)
    }

    /// Where halves of this target go.
    fn half_queue<'a>(
        &self,
        target: &Target<'a>,
    ) -> Result<(QueueKey, &'a Arc<TopicEntry>), Refusal> {
        let topic = target.catalog.topic(system_topic::TRANS_HALF_TOPIC);
        let topic = topic.ok_or_else(|| {
            let remark = "the half topic is missing: transactions can't be done";
            Refusal::new(response::SYSTEM_ERROR, remark)
        })?;
        let shard = target.key.shard(self.shards_count);
        Ok((queue_on(topic, shard, self.shards_count), topic))
    }

    fn rewrite(
        &self,
        target: &Target<'_>,
        header: &SendHeader<'_>,
        now_ms: u64,
    ) -> Result<Rewritten, Refusal> {
        check_properties_len(header.properties.len())?;
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        let make = || self.keys.borrow_mut().next(ms_since_month_began(now_ms));
        let mut found = rewrite_for_send(header.properties, &self.broker, make, &mut scratch);
        check_inner_batch(header.sys_flag, found.inner_count)?;
        let is_half = is_half(&found, header.reconsume_times);
        check_transaction(&found, is_half, header.sys_flag, &self.settings)?;
        // A half is stored as an ordinary record, and so is what is only tried again.
        let sys_flag = if found.transaction_prepared {
            sys_flag::with_transaction_type(header.sys_flag, 0)
        } else {
            header.sys_flag
        };
        let (real, real_queue) = (target.topic.config.name.as_str(), target.key.queue.0);
        let mut half_due_ms = None;
        if is_half {
            let unique = found.unique_key();
            append_half_properties(&mut scratch, header.properties, (real, real_queue), unique);
            half_due_ms = Some(self.half_due_ms(header, now_ms));
        }
        let mut delay = if system_topic::group_of_dlq_topic(real).is_some() {
            // Read back and sent to its topic, it would be late once more.
            found.is_kept &= !delay::forget(&found, &mut scratch);
            Delay::None
        } else {
            Delay::of(&found, header.properties, sys_flag, &self.settings, now_ms)?
        };
        if is_half {
            // A copy that retention asks for must find room, and its delay, with its commit.
            check_properties_len(scratch.len() + LATER_BYTES_MAX + delay.parked_bytes())?;
            delay = Delay::None;
        }
        if delay != Delay::None {
            let stored = std::mem::take(&mut *scratch);
            let text = std::str::from_utf8(&stored).unwrap_or_default();
            delay.rewrite(text, real, real_queue, &mut scratch);
            found.is_kept = false;
        }
        check_properties_len(scratch.len())?;
        let marks = marks::of_rewritten(&found, header.properties, &scratch);
        let properties = self.kept(&scratch);
        let goes_back = system_topic::group_of_retry_topic(real).is_some();
        let recall = match (delay, found.unique_key()) {
            (Delay::Until(ms), Some(unique)) if !goes_back => {
                let broker = &self.settings.broker_name;
                let handle = RecallHandle::encode(real, broker, ms, unique);
                Some(handle.into_boxed_str())
            }
            _ => None,
        };
        Ok(Rewritten {
            properties,
            marks,
            half_due_ms,
            delay,
            recall,
            sys_flag,
        })
    }

    /// Properties in a block that many messages share.
    #[inline]
    fn kept(&self, properties: &[u8]) -> Bytes {
        let mut arena = self.arena.borrow_mut();
        if arena.capacity() < properties.len() {
            arena.reserve(ARENA_BYTES.max(properties.len()));
        }
        arena.extend_from_slice(properties);
        arena.split().freeze()
    }

    fn half_due_ms(&self, header: &SendHeader<'_>, now_ms: u64) -> u64 {
        let immunity = properties::get(
            header.properties,
            properties::name::CHECK_IMMUNITY_TIME_IN_SECONDS,
        );
        let timeout_ms = self.settings.transaction_timeout_ms;
        first_check_ms(header.born_timestamp, now_ms, immunity, timeout_ms)
    }
}

/// The queue that holds a parked message.
///
/// # Errors
/// The broker lacks the topic of such queues.
pub fn parking(
    catalog: &Catalog,
    delay: Delay,
) -> Result<Option<(QueueKey, &Arc<TopicEntry>)>, Refusal> {
    let (topic, queue) = match delay {
        Delay::None => return Ok(None),
        Delay::Level(level) => (system_topic::SCHEDULE_TOPIC, level.saturating_sub(1)),
        Delay::Until(_) => (system_topic::TIMER_TOPIC, 0),
    };
    let Some(entry) = catalog.topic(topic) else {
        let remark = format!("topic[{topic}] of the broker itself is missing");
        return Err(Refusal::new(response::SYSTEM_ERROR, remark));
    };
    let key = QueueKey {
        topic: entry.id,
        queue: QueueId(queue),
    };
    Ok(Some((key, entry)))
}

/// What a topic's filter type adds to its messages' `sysFlag`.
fn multi_tags(topic: &TopicEntry) -> i32 {
    match topic.config.filter_type {
        FilterType::MultiTag => sys_flag::MULTI_TAGS,
        FilterType::SingleTag => 0,
    }
}

fn first_queue(entry: &TopicEntry) -> QueueKey {
    QueueKey {
        topic: entry.id,
        queue: QueueId(0),
    }
}

#[cfg(test)]
mod retry_tests;
#[cfg(test)]
mod tests;
