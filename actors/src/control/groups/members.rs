//! Who is connected: the live producers and consumers of every group.
//!
//! **Owns** the producer and consumer tables, fed by heartbeats, closes, unregistrations and time.
//! **Lives on** the control plane, outside the actor: it outlives a restart of `groups`. Pure.
//! **Invariants** a peer stands in `by_peer` exactly while it stands in some group; a consumer
//! group without members does not exist; who must be told of a change is part of each call's
//! outcome, so it can't be forgotten (traps 70, 71).
//! **Limits** one heartbeat joins at most `GROUPS_PER_PEER_MAX` groups; a group's subscriptions are
//! those of its last full heartbeat, at most `SUBSCRIPTIONS_PER_GROUP_MAX` of
//! `SUBSCRIBED_BYTES_PER_GROUP_MAX`, `SUBSCRIBED_BYTES_MAX` or less for all groups. What is beyond,
//! or has a name or an expression that is too long, is left out as if it hadn't been sent.
//! **Not here** group configurations (`table`), sending the notifications (`super`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;

use gantry_protocol::Language;
use gantry_protocol::body::{ConsumeFromWhere, ConsumeType, MessageModel, SubscriptionData};
use gantry_protocol::system_topic::RETRY_OR_DLQ_TOPIC_CHARS_MAX;
use gantry_runtime::clock::MonoMs;
use gantry_runtime::net::PeerRef;

use crate::seam::{LiveGroup, RequesterChange};

use super::requesters::Requesters;
use crate::memory_plan::SUBSCRIBED_BYTES_MAX;

/// Most groups (of both kinds) that one connection joins. A Java process seldom has over a hundred.
pub const GROUPS_PER_PEER_MAX: usize = 4096;
/// Most topics that one group subscribes.
pub const SUBSCRIPTIONS_PER_GROUP_MAX: usize = 4096;
/// Longest client id: an address and the names of an instance and a unit, some dozens of bytes.
pub const CLIENT_ID_BYTES_MAX: usize = 1024;
/// Longest name of a producer group; clients take 255 characters at most.
const PRODUCER_GROUP_BYTES_MAX: usize = 255;
/// Longest expression, with the name of its type: 4096 tags of 14 bytes.
const EXPRESSION_BYTES_MAX: usize = 64 << 10;
/// Subscriptions of one group: all it may have, with names of 127 and expressions of 500 bytes.
const SUBSCRIBED_BYTES_PER_GROUP_MAX: usize = 4 << 20;

/// One connected client of one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Client {
    /// `ip@instance`, chosen by the client.
    pub id: Arc<str>,
    /// Its address.
    pub addr: SocketAddr,
    /// Language of its library.
    pub language: Language,
    /// Version ordinal of its header.
    pub version: i32,
    /// When its last heartbeat came, ms; for people.
    pub last_update_ms: i64,
    /// The same, for us: a host whose time is set makes nobody silent.
    pub heard: MonoMs,
}

/// What one heartbeat says of one consumer group.
#[derive(Debug, Clone)]
pub struct ConsumerBeat {
    /// The group.
    pub group: Arc<str>,
    /// How it consumes.
    pub consume_type: ConsumeType,
    /// Clustering or broadcasting.
    pub message_model: MessageModel,
    /// Where a new group starts.
    pub consume_from_where: ConsumeFromWhere,
    /// Its subscriptions; `None` in a heartbeat without them (V2).
    pub subscriptions: Option<Vec<SubscriptionData>>,
    /// Fingerprint of the client's subscriptions, 0 in a V1 heartbeat.
    pub fingerprint: i32,
}

/// What a change of membership asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Whom to send code 40, empty when nobody needs to know.
    pub notify: Vec<PeerRef>,
    /// The data cores' copy of the group is out of date.
    pub live_changed: bool,
    /// The client should send its subscriptions with the next heartbeat (V2 reply).
    pub wants_full: bool,
    /// Subscriptions that were left out (`Limits`).
    pub left_out_count: usize,
}

/// Whether a subscription may be kept at all.
fn is_acceptable(data: &SubscriptionData) -> bool {
    data.topic.len() <= RETRY_OR_DLQ_TOPIC_CHARS_MAX
        && data.sub_string.len() + data.expression_type.len() <= EXPRESSION_BYTES_MAX
}

/// About the memory of a subscription that is kept; its topic is the key, too.
fn weight(data: &SubscriptionData) -> usize {
    let tags = data.tags.iter();
    let tags: usize = tags.map(|tag| tag.len() + size_of::<String>()).sum();
    size_of::<SubscriptionData>()
        + 2 * data.topic.len()
        + data.sub_string.len()
        + data.expression_type.len()
        + tags
        + size_of_val(data.filter.codes())
}

/// A live consumer group.
#[derive(Debug)]
pub struct ConsumerGroup {
    /// How it consumes.
    pub consume_type: ConsumeType,
    /// Clustering or broadcasting.
    pub message_model: MessageModel,
    /// Where a new group starts.
    pub consume_from_where: ConsumeFromWhere,
    /// Topic → subscription.
    pub subscriptions: HashMap<String, Arc<SubscriptionData>>,
    /// Their weight.
    bytes: usize,
    /// Joined when → member; the number keeps the order of joining.
    members: BTreeMap<u64, (PeerRef, Client)>,
    seats: HashMap<PeerRef, u64>,
    /// Of the last heartbeat of any member.
    fingerprint: Option<i32>,
    /// Whether a heartbeat with subscriptions has come since the group came alive.
    has_full: bool,
}

impl ConsumerGroup {
    fn new(beat: &ConsumerBeat) -> Self {
        Self {
            consume_type: beat.consume_type,
            message_model: beat.message_model,
            consume_from_where: beat.consume_from_where,
            subscriptions: HashMap::new(),
            bytes: 0,
            members: BTreeMap::new(),
            seats: HashMap::new(),
            fingerprint: None,
            has_full: false,
        }
    }

    /// Members in the order they joined.
    pub fn members(&self) -> impl Iterator<Item = &(PeerRef, Client)> {
        self.members.values()
    }

    /// A client by its id, under its newest connection: an older one may be dead.
    pub fn newest(&self, id: &str) -> Option<&(PeerRef, Client)> {
        let mut members = self.members.values().rev();
        members.find(|(_, client)| &*client.id == id)
    }

    /// Whether nobody is left.
    pub fn is_empty(&self) -> bool {
        self.members.is_empty()
    }

    /// Client ids, each once, in the order of joining. A client that reconnects shows up under two
    /// connections until the old one closes; listed twice, it would be given two shares of queues.
    pub fn client_ids(&self) -> Vec<Arc<str>> {
        let mut seen = HashSet::new();
        self.members()
            .map(|(_, client)| &client.id)
            .filter(|id| seen.insert(Arc::clone(id)))
            .cloned()
            .collect()
    }

    /// The group as the data cores know it.
    pub fn live(&self) -> LiveGroup {
        LiveGroup {
            message_model: self.message_model,
            consume_type: self.consume_type,
            subscriptions: self.subscriptions.clone(),
        }
    }

    fn peers(&self) -> Vec<PeerRef> {
        self.members().map(|(peer, _)| *peer).collect()
    }

    /// Joins or touches a member; true when it is new.
    fn sit(&mut self, peer: PeerRef, client: &Client, next_seat: &mut u64) -> bool {
        let known = self.seats.get(&peer).copied();
        let seat = known.unwrap_or_else(|| {
            *next_seat += 1;
            *next_seat
        });
        self.seats.insert(peer, seat);
        self.members.insert(seat, (peer, client.clone()));
        known.is_none()
    }

    fn leave(&mut self, peer: PeerRef) -> bool {
        match self.seats.remove(&peer) {
            Some(seat) => self.members.remove(&seat).is_some(),
            None => false,
        }
    }

    /// Takes over the subscriptions of a full heartbeat, up to `bytes_max` in all.
    fn subscribe(&mut self, wanted: &[SubscriptionData], bytes_max: usize) -> Subscribed {
        let mut done = Subscribed::default();
        let kept = wanted.iter().take(SUBSCRIPTIONS_PER_GROUP_MAX);
        let kept: Vec<_> = kept.filter(|data| is_acceptable(data)).collect();
        done.left_out_count = wanted.len() - kept.len();
        let named: HashSet<&str> = kept.iter().map(|data| data.topic.as_str()).collect();
        let bytes = &mut self.bytes;
        self.subscriptions.retain(|topic, data| {
            let is_named = named.contains(topic.as_str());
            if !is_named {
                *bytes -= weight(data);
                done.topics_changed = true;
            }
            is_named
        });
        for data in kept {
            let known = self.subscriptions.get(&data.topic);
            if known.is_some_and(|known| data.sub_version <= known.sub_version) {
                continue;
            }
            let after = self.bytes - known.map_or(0, |known| weight(known)) + weight(data);
            if after > bytes_max {
                done.left_out_count += 1;
                continue;
            }
            done.topics_changed |= known.is_none();
            done.anything_changed = true;
            self.bytes = after;
            self.subscriptions
                .insert(data.topic.clone(), Arc::new(data.clone()));
        }
        done.anything_changed |= done.topics_changed;
        done
    }
}

/// What the subscriptions of a heartbeat changed.
#[derive(Debug, Default)]
struct Subscribed {
    topics_changed: bool,
    anything_changed: bool,
    left_out_count: usize,
}

/// What one peer belongs to.
#[derive(Debug, Default)]
struct Seats {
    consumers: HashSet<Arc<str>>,
    producers: HashSet<Arc<str>>,
}

impl Seats {
    fn count(&self) -> usize {
        self.consumers.len() + self.producers.len()
    }
}

/// A consumer group that lost a member.
#[derive(Debug)]
pub struct Departure {
    /// Which group.
    pub group: Arc<str>,
    /// Whom to tell; empty for a broadcasting group (trap 77).
    pub notify: Vec<PeerRef>,
    /// Nobody is left, so the data cores must forget the subscriptions.
    pub is_last: bool,
}

/// What a closed connection leaves.
#[derive(Debug, Default)]
pub struct Leaving {
    /// Consumer groups that lost a member.
    pub departures: Vec<Departure>,
    /// What the cores must hear of its replies.
    pub requester: Option<RequesterChange>,
}

/// Who has not been heard of for too long.
#[derive(Debug, Default)]
pub struct Expired {
    /// Consumer groups that lost a member.
    pub departures: Vec<Departure>,
    /// What the cores must hear of replies to those who left.
    pub requesters: Vec<RequesterChange>,
    /// Peers that belong to no group any more.
    pub silent: Vec<PeerRef>,
}

/// The producer and consumer tables; see the room's head.
#[derive(Debug)]
pub struct Members {
    consumers: HashMap<Arc<str>, ConsumerGroup>,
    producers: HashMap<Arc<str>, HashMap<PeerRef, Client>>,
    by_peer: HashMap<PeerRef, Seats>,
    requesters: Requesters,
    next_seat: u64,
    /// The weight of all subscriptions.
    subscribed_bytes: usize,
    subscribed_bytes_max: usize,
}

impl Default for Members {
    fn default() -> Self {
        Self::new(SUBSCRIBED_BYTES_MAX)
    }
}

impl Members {
    /// Nobody is connected yet. With so much memory for all subscriptions.
    pub fn new(subscribed_bytes_max: usize) -> Self {
        Self {
            consumers: HashMap::new(),
            producers: HashMap::new(),
            by_peer: HashMap::new(),
            requesters: Requesters::default(),
            next_seat: 0,
            subscribed_bytes: 0,
            subscribed_bytes_max,
        }
    }

    /// Whether a group's positions in a topic still mean something: a group that is online has
    /// given up what it doesn't subscribe (`findSubscriptionData` and `findSubscriptionDataCount`
    /// in `AdminBrokerProcessor`, 5.5.0).
    pub fn reads(&self, group: &str, topic: &str) -> bool {
        let live = self.consumers(group).map(|group| &group.subscriptions);
        live.is_none_or(|all| all.is_empty() || all.contains_key(topic))
    }

    /// A live consumer group.
    pub fn consumers(&self, group: &str) -> Option<&ConsumerGroup> {
        self.consumers.get(group)
    }

    /// The live producers of a group.
    pub fn producers(&self, group: &str) -> Option<&HashMap<PeerRef, Client>> {
        self.producers.get(group)
    }

    /// All live producer groups.
    pub fn producer_groups(&self) -> impl Iterator<Item = (&Arc<str>, &HashMap<PeerRef, Client>)> {
        self.producers.iter()
    }

    /// Connections that belong to some group.
    pub fn peers_count(&self) -> usize {
        self.by_peer.len()
    }

    fn has_room(&self, peer: PeerRef) -> bool {
        self.by_peer
            .get(&peer)
            .is_none_or(|seats| seats.count() < GROUPS_PER_PEER_MAX)
    }

    /// A heartbeat's word on one consumer group. `notify_enabled` is the group's and the broker's
    /// `notifyConsumerIdsChangedEnable`.
    pub fn beat_consumer(
        &mut self,
        peer: PeerRef,
        client: &Client,
        beat: &ConsumerBeat,
        notify_enabled: bool,
    ) -> Outcome {
        let is_known = self
            .by_peer
            .get(&peer)
            .is_some_and(|seats| seats.consumers.contains(&beat.group));
        if !is_known && !self.has_room(peer) {
            return Outcome::default();
        }
        let group = self
            .consumers
            .entry(Arc::clone(&beat.group))
            .or_insert_with(|| ConsumerGroup::new(beat));
        let joined = group.sit(peer, client, &mut self.next_seat);
        let mut outcome = Outcome::default();
        let mut topics_changed = false;
        if let Some(subscriptions) = &beat.subscriptions {
            let kind_changed = group.message_model != beat.message_model
                || group.consume_type != beat.consume_type;
            group.consume_type = beat.consume_type;
            group.message_model = beat.message_model;
            group.consume_from_where = beat.consume_from_where;
            let others = self.subscribed_bytes - group.bytes;
            let room = self.subscribed_bytes_max.saturating_sub(others);
            let done = group.subscribe(subscriptions, room.min(SUBSCRIBED_BYTES_PER_GROUP_MAX));
            self.subscribed_bytes = others + group.bytes;
            topics_changed = done.topics_changed;
            outcome.left_out_count = done.left_out_count;
            outcome.live_changed = done.anything_changed || kind_changed || !group.has_full;
            group.has_full = true;
        }
        // Another fingerprint in the group means that its members disagree (or one changed its
        // mind): ask for the whole heartbeat again (`ClientManageProcessor.heartBeatV2`, 5.5.0).
        // The 0 of a V1 heartbeat is another one, too: it may have taken subscriptions away. So
        // does a heartbeat without subscriptions in a group we know none of.
        let last = group.fingerprint.replace(beat.fingerprint);
        outcome.wants_full = beat.fingerprint == 0
            || last.is_some_and(|last| last != beat.fingerprint)
            || !group.has_full;
        if (joined || topics_changed)
            && notify_enabled
            && group.message_model == MessageModel::Clustering
        {
            outcome.notify = group.peers();
        }
        let seats = self.by_peer.entry(peer).or_default();
        seats.consumers.insert(Arc::clone(&beat.group));
        outcome
    }

    /// A heartbeat's word on one producer group. Returns what the cores must hear of requesters.
    pub fn beat_producer(
        &mut self,
        peer: PeerRef,
        client: &Client,
        group: &str,
    ) -> Vec<RequesterChange> {
        let known = self
            .producers
            .get_key_value(group)
            .map(|(name, _)| Arc::clone(name));
        let is_member = known.as_ref().is_some_and(|name| {
            self.by_peer
                .get(&peer)
                .is_some_and(|seats| seats.producers.contains(name))
        });
        if !is_member && (!self.has_room(peer) || group.len() > PRODUCER_GROUP_BYTES_MAX) {
            return Vec::new();
        }
        let name = known.unwrap_or_else(|| Arc::from(group));
        self.producers
            .entry(Arc::clone(&name))
            .or_default()
            .insert(peer, client.clone());
        self.by_peer.entry(peer).or_default().producers.insert(name);
        self.requesters.beat(peer, &client.id)
    }

    /// Takes a peer out of one consumer group (`UNREGISTER_CLIENT`).
    pub fn leave_consumer(&mut self, peer: PeerRef, name: &str) -> Option<Departure> {
        let (name, group) = self.consumers.get_key_value(name)?;
        let name = Arc::clone(name);
        let message_model = group.message_model;
        let group = self.consumers.get_mut(&name)?;
        if !group.leave(peer) {
            return None;
        }
        let is_last = group.is_empty();
        let is_told = message_model == MessageModel::Clustering;
        let notify = if is_told { group.peers() } else { Vec::new() };
        if is_last {
            let gone = self.consumers.remove(&name);
            self.subscribed_bytes -= gone.map_or(0, |group| group.bytes);
        }
        self.forget(peer, |seats| seats.consumers.remove(&name));
        Some(Departure {
            group: name,
            notify,
            is_last,
        })
    }

    /// Takes a peer out of one producer group (`UNREGISTER_CLIENT`).
    pub fn leave_producer(&mut self, peer: PeerRef, name: &str) -> Option<RequesterChange> {
        if let Some(group) = self.producers.get_mut(name) {
            group.remove(&peer);
            if group.is_empty() {
                self.producers.remove(name);
            }
        }
        self.forget(peer, |seats| seats.producers.remove(name));
        let seats = self.by_peer.get(&peer);
        let is_last = seats.is_none_or(|seats| seats.producers.is_empty());
        is_last.then(|| self.requesters.left(peer)).flatten()
    }

    fn forget(&mut self, peer: PeerRef, unseat: impl FnOnce(&mut Seats) -> bool) {
        if let Some(seats) = self.by_peer.get_mut(&peer) {
            unseat(seats);
            if seats.count() == 0 {
                self.by_peer.remove(&peer);
            }
        }
    }

    /// The connection is gone: it leaves everything at once (trap 76).
    pub fn closed(&mut self, peer: PeerRef) -> Leaving {
        let Some(seats) = self.by_peer.remove(&peer) else {
            return Leaving::default();
        };
        let mut requester = None;
        for name in &seats.producers {
            requester = self.leave_producer(peer, name).or(requester);
        }
        let departures = seats
            .consumers
            .iter()
            .filter_map(|name| self.leave_consumer(peer, name))
            .collect();
        Leaving {
            departures,
            requester,
        }
    }

    /// Takes everybody out of the groups that none of its heartbeats has named for `idle_ms`: a
    /// client that shares its connection may have dropped a group without a word, and the queues it
    /// held there would wait for it (`ConsumerManager.scanNotActiveChannel`, 5.5.0).
    pub fn expire(&mut self, now: MonoMs, idle_ms: u64) -> Expired {
        let is_old = |client: &Client| now.since_ms(client.heard) > idle_ms;
        let mut old_consumers = Vec::new();
        for (name, group) in &self.consumers {
            let old = group.members().filter(|(_, client)| is_old(client));
            old_consumers.extend(old.map(|(peer, _)| (*peer, Arc::clone(name))));
        }
        let mut old_producers = Vec::new();
        for (name, clients) in &self.producers {
            let old = clients.iter().filter(|(_, client)| is_old(client));
            old_producers.extend(old.map(|(peer, _)| (*peer, Arc::clone(name))));
        }
        let mut expired = Expired::default();
        for (peer, name) in &old_consumers {
            let departure = self.leave_consumer(*peer, name);
            expired.departures.extend(departure);
        }
        for (peer, name) in &old_producers {
            let change = self.leave_producer(*peer, name);
            expired.requesters.extend(change);
        }
        let touched = old_consumers.iter().chain(&old_producers);
        let touched: BTreeSet<PeerRef> = touched.map(|(peer, _)| *peer).collect();
        let silent = touched
            .into_iter()
            .filter(|peer| !self.by_peer.contains_key(peer));
        expired.silent = silent.collect();
        expired
    }

    /// Groups that subscribe a topic now.
    pub fn groups_of_topic(&self, topic: &str) -> Vec<Arc<str>> {
        self.consumers
            .iter()
            .filter(|(_, group)| group.subscriptions.contains_key(topic))
            .map(|(name, _)| Arc::clone(name))
            .collect()
    }
}

#[cfg(test)]
#[path = "members_tests.rs"]
mod tests;
