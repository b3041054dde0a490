//! The words that the data plane and the control plane exchange.
//!
//! **Owns** the message types of the flume mailboxes between a data core and the control plane.
//! **Lives on** both planes; every type here is plain data and `Send`.
//! **Invariants** a core applies what it receives in order, so a reply sent after a catalog change
//! is written after the change took effect on that core (trap 62: a heartbeat's reply).
//! **Limits** mailboxes are bounded by `gantry_runtime::mailbox`; one message holds at most one
//! request's worth of data, rows of offsets excepted (`OFFSET_ROWS_MAX` a message).
//! **Not here** requests between data cores (`data::router`) and anything per message on the hot
//! path: appends and pulls never cross this seam.

pub mod errands;
pub mod owed;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::body::{
    ConsumeType, MessageModel, SubscriptionData, SubscriptionGroupConfig, TopicConfig,
};
use gantry_protocol::command::Command;
use gantry_runtime::budget::shared::Held;
use gantry_runtime::metrics::{Counts, Refused, Snapshot};
use gantry_runtime::net::PeerRef;
use gantry_storage::retention::{Plan, ShardAges};
use gantry_storage::units::{
    FilePosition, PhysicalOffset, QueueKey, QueueOffset, ShardId, StoreTimestamp, TopicId,
};

use self::errands::{Errand, ErrandDone};
use self::owed::OwedRow;
use crate::refusal::Refusal;

/// Most offset rows one message carries.
pub const OFFSET_ROWS_MAX: usize = 4096;

/// Requests of the broker to its clients that are numbered by a data core carry this bit, those of
/// the control plane don't, so that an answer finds whoever asked.
pub const CORE_OPAQUE_BIT: i32 = 1 << 30;

/// Names a question or a parked request, chosen by the asker, unique within it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Ticket(pub u64);

/// A data core's number, 0-based.
pub type CoreNumber = u16;

/// One consumer group's position in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetRow {
    /// Which queue.
    pub queue: QueueKey,
    /// Which group.
    pub group: Arc<str>,
    /// The next offset the group wants to consume.
    pub offset: QueueOffset,
}

/// A position that changed, or that was forgotten with its group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OffsetChange {
    /// Which queue.
    pub queue: QueueKey,
    /// Which group.
    pub group: Arc<str>,
    /// The position now; none when it was forgotten.
    pub offset: Option<QueueOffset>,
}

/// A request that the control plane answers.
#[derive(Debug)]
pub struct ControlRequest {
    /// Who asked; the reply goes back with `ToData::Write`.
    pub peer: PeerRef,
    /// The client's address.
    pub peer_addr: SocketAddr,
    /// The request, owned. `command.encoding` is the encoding of the reply.
    pub command: Command,
    /// Counts its body for as long as it waits and is worked on.
    pub held: Option<Held>,
}

/// Data core → control plane.
#[derive(Debug)]
pub enum ToControl {
    /// A request outside the data plane's table.
    Request(ControlRequest),
    /// A connection is gone; its producers and consumers leave at once.
    PeerClosed(PeerRef),
    /// A send or a pull parked on `core` needs a topic that its catalog doesn't have. The control
    /// plane applies the TBW102 rules (behaviours §1.3), persists, registers, sends the catalog
    /// change to every core and then `ToData::Resolved` to this one.
    EnsureTopic {
        /// The asking core.
        core: CoreNumber,
        /// Names the parked request(s).
        ticket: Ticket,
        /// The wanted topic.
        topic: String,
        /// The template topic of the request, usually `TBW102`; none for the core's own wish, the
        /// topic of dead letters. No client can say that.
        default_topic: Option<String>,
        /// The client's wish, capped by the template's write queues.
        default_topic_queue_nums: i32,
        /// The request's unit-mode flag.
        unit_mode: bool,
    },
    /// A pull or an offset update names an unknown group; created if `autoCreateSubscriptionGroup`.
    EnsureGroup {
        /// The asking core.
        core: CoreNumber,
        /// Names the parked request(s).
        ticket: Ticket,
        /// The wanted group.
        group: String,
    },
    /// Changed consumer offsets, written behind (at most `OFFSET_ROWS_MAX` rows, ≤ 1 s old). What
    /// was forgotten travels among them, so that of one queue and group the last word counts.
    OffsetsChanged(Vec<OffsetChange>),
    /// The answer of one core to a `ToData::Ask`.
    Answer {
        /// The answering core.
        core: CoreNumber,
        /// The question's name.
        ticket: Ticket,
        /// Its queues' share of the answer.
        answer: Answer,
    },
    /// A client answered a request of the broker's own.
    ClientReply {
        /// Who answered.
        peer: PeerRef,
        /// The answer.
        command: Command,
        /// Its bytes, counted until it is looked at.
        held: Held,
    },
    /// What was stored and delivered since the last such word, at most once a second and only when
    /// something was.
    Counted(Box<Counted>),
    /// Half messages whose producers are to be asked (39), counted as checked.
    CheckHalves(Vec<HalfCheck>),
    /// Records were stored that something is owed for (at most `OWED_ROWS_MAX`, a message a pass).
    Owed(Vec<OwedRow>),
    /// The outcome of a `ToData::Errand`.
    ErrandDone {
        /// Its name.
        ticket: Ticket,
        /// What became of it.
        done: ErrandDone,
    },
    /// The core has stopped and its offsets are handed over.
    CoreStopped {
        /// The core.
        core: CoreNumber,
        /// All its shards are shut, with all they stored on the device.
        is_clean: bool,
    },
}

/// A half message whose producer is to be asked.
#[derive(Debug)]
pub struct HalfCheck {
    /// Its record.
    pub record: Bytes,
    /// Checks so far, this one included.
    pub checks: u32,
}

/// Control plane → one data core.
#[derive(Debug, Clone)]
pub enum ToData {
    /// A topic, group or permission changed.
    Catalog(CatalogChange),
    /// Write this frame to a client: a reply, or the broker's own request.
    Write {
        /// To whom; a stale reference is dropped silently.
        peer: PeerRef,
        /// One whole frame.
        frame: Bytes,
    },
    /// Close a client's connection.
    Close(PeerRef),
    /// The outcome of `EnsureTopic` or `EnsureGroup`; on success the change came before.
    Resolved {
        /// The asker's name for it.
        ticket: Ticket,
        /// `Err` is what the parked client is told.
        outcome: Result<(), Refusal>,
    },
    /// A group was deleted with its offsets, and that is stored: forget them, and its locks.
    ForgetGroup(Arc<str>),
    /// A question about queues; every core answers for the queues it holds.
    Ask {
        /// Echoed in the answer.
        ticket: Ticket,
        /// What is asked.
        question: Question,
    },
    /// Something to do for a supervisor.
    Errand {
        /// Echoed in the answer.
        ticket: Ticket,
        /// What.
        errand: Errand,
    },
    /// Consumer offsets read from the tables at start, before the first client is served.
    OffsetsLoaded(Vec<OffsetRow>),
    /// All that a core must know before it serves anybody has been sent.
    Loaded,
}

/// What the control plane asks of the queue actors.
#[derive(Debug, Clone)]
pub enum Question {
    /// Bounds of these queues (a core skips those it doesn't hold).
    Bounds(Vec<QueueKey>),
    /// Positions of one group (`None`: of all groups) in these topics (`None`: in all topics).
    Offsets {
        /// The group, or all.
        group: Option<Arc<str>>,
        /// The topics, or all.
        topics: Option<Vec<TopicId>>,
        /// Store times, too, each of which an index is read for.
        with_times: bool,
    },
    /// Where resets would go; nothing is moved.
    FindOffsets(Vec<(QueueKey, ResetTo)>),
    /// Set a one-shot reset (behaviours §6, code 222): queries return it, updates are swallowed,
    /// the next pull gets 21 with it.
    ResetOffsets(Vec<OffsetRow>),
    /// Set positions directly.
    PutOffsets(Vec<OffsetRow>),
    /// Totals for the runtime-info table.
    StoreReport,
    /// Where the time of the core's requests goes.
    Profile,
    /// Forget a topic's queues and offsets.
    DropTopic(TopicId),
    /// Apply the times of topics with a time of their own, and say which segments could go.
    Ages(Arc<OwnTimes>),
    /// Where open halves lie in a shard; those below `move_below` begin to move forward.
    OpenHalves {
        /// The shard.
        shard: ShardId,
        /// Zero moves none.
        move_below: FilePosition,
    },
    /// Open halves of a shard, in the order of their records.
    ListHalves {
        /// The shard.
        shard: ShardId,
        /// Those known by offsets from here on, of their records.
        from: QueueOffset,
        /// True: only the one that its producer knows as `from`.
        is_one: bool,
        /// Most of them.
        count_max: usize,
    },
    /// Give up these segments; answered when that has begun.
    DropSegments(Arc<Plan>),
    /// Refuse messages of clients for this reason, or take them again.
    RefuseWrites(Option<Arc<str>>),
    /// One record.
    Record(PhysicalOffset),
    /// Store times of these records.
    StoreTimes(Vec<(QueueKey, QueueOffset)>),
    /// What the index of a queue says of `count_max` records from `from` on.
    IndexRows {
        /// The queue.
        queue: QueueKey,
        /// The first offset.
        from: QueueOffset,
        /// Most rows.
        count_max: u32,
    },
    /// Forget queues of topics that are neither in `known` nor made after `below` was the next id.
    DropUnknownTopics {
        /// The topics that exist.
        known: Arc<HashSet<TopicId>>,
        /// Ids from here on are newer than the question.
        below: TopicId,
    },
}

/// Topics that keep their records for a time of their own, with the time since which.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct OwnTimes {
    /// Shorter than the broker's: their queues begin there.
    pub trim: Vec<(TopicId, StoreTimestamp)>,
    /// Longer than the broker's: segments with such records stay.
    pub keep: Vec<(TopicId, StoreTimestamp)>,
}

/// Where a reset goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetTo {
    /// First offset stored at or after this time, in ms.
    Timestamp(i64),
    /// The end of the queue.
    Max,
    /// This offset, which the queue must have.
    Offset(QueueOffset),
}

/// A core's share of the answer to a [`Question`].
#[derive(Debug, Clone)]
pub enum Answer {
    /// To `Bounds`.
    Bounds(Vec<QueueReport>),
    /// To `Offsets`.
    Offsets(Vec<GroupReport>),
    /// To `FindOffsets`: all that were asked for of this core, or why there is one that can't be.
    FoundOffsets(Result<Vec<(QueueKey, QueueOffset)>, Refusal>),
    /// To `StoreReport`.
    Store(StoreReport),
    /// To `Profile`.
    Profile(Box<CoreProfile>),
    /// To `Ages`: one a shard.
    Ages(Vec<ShardAges>),
    /// To `OpenHalves`: the lowest one, none when none is open.
    OpenHalves(Result<Option<FilePosition>, Refusal>),
    /// To `ListHalves`.
    Halves(Result<HalvesPage, Refusal>),
    /// To `Record`: none when it isn't this core's, or isn't there.
    Record(Option<Bytes>),
    /// To `StoreTimes`: ms, of those that this core holds.
    StoreTimes(Vec<(QueueKey, QueueOffset, u64)>),
    /// To `IndexRows`: none when another core holds the queue.
    IndexRows(Option<Vec<IndexRow>>),
    /// To the rest.
    Done,
}

/// One core's latency profile.
#[derive(Debug, Clone)]
pub struct CoreProfile {
    /// Which core.
    pub core: CoreNumber,
    /// When it was taken, µs of the process's clock.
    pub now_us: u64,
    /// What its network and its roads have counted since the start; kept with the profile off, too.
    pub counts: Counts,
    /// Requests refused because something was full or too late, since the start.
    pub refused: Vec<Refused>,
    /// None when `latencyProfileEnable` is off.
    pub snapshot: Option<Snapshot>,
}

/// Some open halves of a shard.
#[derive(Debug, Clone, Default)]
pub struct HalvesPage {
    /// They.
    pub halves: Vec<OpenHalf>,
    /// Where to go on; none at the end of the shard.
    pub next: Option<QueueOffset>,
}

/// An open half.
#[derive(Debug, Clone)]
pub struct OpenHalf {
    /// Its record.
    pub record: Bytes,
    /// Checks so far.
    pub checks: u32,
    /// When it is checked next, ms since 1970.
    pub due_ms: u64,
}

/// One queue's bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QueueReport {
    /// Which queue.
    pub queue: QueueKey,
    /// First readable offset.
    pub min: QueueOffset,
    /// One past the last readable offset.
    pub max: QueueOffset,
    /// Store time of the last record in ms, 0 when empty.
    pub last_update_ms: u64,
}

/// One group's progress in one queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupReport {
    /// The group.
    pub group: Arc<str>,
    /// The queue.
    pub queue: QueueKey,
    /// The committed position.
    pub consumer_offset: QueueOffset,
    /// The position of the last pull.
    pub pull_offset: QueueOffset,
    /// Store time of the record before `consumer_offset` in ms, 0 when unknown or not asked for.
    pub last_timestamp_ms: u64,
}

/// One core's totals.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct StoreReport {
    /// What was counted since start.
    pub totals: Totals,
    /// Bytes staged in the logs of this core.
    pub staged_bytes: u64,
    /// Store time of the oldest record in ms, 0 when empty.
    pub earliest_ms: u64,
    /// Requests that wait in the inboxes.
    pub waiting_count: u64,
    /// How long the first of them has waited for a full tail, ms.
    pub waiting_ms: u64,
    /// Open half messages.
    pub open_halves: u64,
}

/// Totals since start, all topics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Records stored.
    pub put_count: u64,
    /// Their bytes.
    pub put_bytes: u64,
    /// Records delivered.
    pub got_count: u64,
    /// Pulls that delivered something.
    pub found_count: u64,
    /// Pulls that found nothing, those that were suspended included.
    pub missed_count: u64,
}

impl Totals {
    /// Adds another shard's or core's.
    pub fn add(&mut self, other: &Self) {
        self.put_count += other.put_count;
        self.put_bytes += other.put_bytes;
        self.got_count += other.got_count;
        self.found_count += other.found_count;
        self.missed_count += other.missed_count;
    }
}

/// What one core stored and delivered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Counted {
    /// The core.
    pub core: CoreNumber,
    /// Its totals since start.
    pub totals: Totals,
    /// By queue, since the last word.
    pub topics: Vec<TopicCount>,
    /// By queue and group, since the last word.
    pub groups: Vec<GroupCount>,
}

/// Messages stored in one queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicCount {
    /// Its topic.
    pub topic: TopicId,
    /// How many.
    pub count: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Requests that brought them.
    pub requests: u64,
}

/// Messages of one queue delivered to one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCount {
    /// Its topic.
    pub topic: TopicId,
    /// The group.
    pub group: Arc<str>,
    /// How many.
    pub count: u64,
    /// Bytes of their records.
    pub bytes: u64,
    /// Pulls that took them.
    pub requests: u64,
    /// Time that these pulls spent reading, ms.
    pub read_ms: u64,
}

/// One record, as the index of its queue knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexRow {
    /// Where it lies.
    pub physical: PhysicalOffset,
    /// Its bytes.
    pub bytes: u32,
    /// The hash of its tag.
    pub tags_code: i64,
}

/// A topic as the data cores know it.
#[derive(Debug, Clone)]
pub struct TopicEntry {
    /// Given at creation, never reused: a topic deleted and made again starts empty.
    pub id: TopicId,
    /// Its configuration; `config.perm` is not yet cut by the broker's permission.
    pub config: TopicConfig,
}

/// A consumer group as the data cores know it: configuration, and what its live members subscribe.
#[derive(Debug, Clone)]
pub struct GroupEntry {
    /// Its name.
    pub name: Arc<str>,
    /// Its configuration.
    pub config: SubscriptionGroupConfig,
    /// `None` while no member is connected: a pull without its own subscription then gets 24.
    pub live: Option<LiveGroup>,
    /// Topics that it may not read (code 353).
    pub forbidden: Arc<BTreeSet<String>>,
}

/// The heartbeat-fed part of a group.
#[derive(Debug, Clone)]
pub struct LiveGroup {
    /// Clustering or broadcasting.
    pub message_model: MessageModel,
    /// Actively (pull) or passively (push).
    pub consume_type: ConsumeType,
    /// Topic → subscription.
    pub subscriptions: HashMap<String, Arc<SubscriptionData>>,
}

/// To which connection the replies for a client go from now on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequesterChange {
    /// The client, by the id of its heartbeats.
    pub id: Arc<str>,
    /// Its connection; none when it has left.
    pub peer: Option<PeerRef>,
}

/// A change of the catalog, sent to every core.
#[derive(Debug, Clone)]
pub enum CatalogChange {
    /// The topics there are at the start: as one word, for a mailbox keeps room for as many as it
    /// ever held.
    Topics(Arc<[Arc<TopicEntry>]>),
    /// A topic was made or changed.
    TopicPut(Arc<TopicEntry>),
    /// A topic was deleted.
    TopicGone(String),
    /// A group was made or changed, or its members or subscriptions changed.
    GroupPut(Arc<GroupEntry>),
    /// A group was deleted.
    GroupGone(Arc<str>),
    /// `brokerPermission` changed.
    BrokerPermission(i32),
    /// Replies for a client go to another connection, or nowhere any more.
    Requester(RequesterChange),
}
