//! Topics, groups and live subscriptions as one data core knows them.
//!
//! **Owns** this core's copy of the catalog.
//! **Lives on** each data core; fed by `CatalogChange`s from the control plane, in order.
//! **Invariants** a change is visible to the next request of this core; filters are made when a
//! subscription changes, not when a pull comes.
//! **Limits** as large as the control plane allows topics and groups to be.
//! **Not here** who may create what (`control::topics`), persistence, other cores' copies.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::body::{MessageModel, SubscriptionData};
use gantry_runtime::net::PeerRef;
use gantry_storage::units::TopicId;
use hashbrown::{HashMap, HashSet};

use super::filter::expressions::Expressions;
use super::filter::subscription::{Filter, Wanted};
use super::requests::send::checks::check_topic_name;
use crate::known_topics::KnownTopics;
use crate::seam::{CatalogChange, GroupEntry, RequesterChange, TopicEntry};

/// Permission bit: readable.
pub const PERM_READ: i32 = 4;
/// Permission bit: writable.
pub const PERM_WRITE: i32 = 2;

/// One live subscription.
#[derive(Debug)]
pub struct Subscription {
    /// The client's version of it, ms of its clock.
    pub version: i64,
    /// Its expression type.
    pub kind: String,
    /// What it wants.
    pub filter: Filter,
}

/// A group as a pull needs it.
#[derive(Debug)]
pub struct Group {
    /// As the control plane sent it.
    pub entry: Arc<GroupEntry>,
    /// Its live subscriptions by topic; none while no member is connected.
    pub subscriptions: Option<HashMap<String, Subscription>>,
}

impl Group {
    fn new(entry: Arc<GroupEntry>, known: &mut Expressions) -> Self {
        let subscriptions = entry.live.as_ref().map(|live| {
            let one = |(topic, data): (&String, &Arc<SubscriptionData>)| {
                let version = data.sub_version;
                (
                    topic.clone(),
                    Subscription {
                        version,
                        kind: data.expression_type.clone(),
                        filter: Filter::of_subscription(data, known),
                    },
                )
            };
            live.subscriptions.iter().map(one).collect()
        });
        Self {
            entry,
            subscriptions,
        }
    }

    /// The topics of which it wants something else than before, and what.
    pub fn resubscribed<'a>(
        &'a self,
        old: &'a Self,
    ) -> impl Iterator<Item = (&'a str, &'a Wanted)> {
        let now = self.subscriptions.iter().flatten();
        now.filter_map(|(topic, new)| {
            let before = old.subscriptions.as_ref()?.get(topic)?;
            match &new.filter {
                Filter::Wanted(wanted) if before.filter != new.filter => Some((&**topic, wanted)),
                _ => None,
            }
        })
    }

    /// Whether its members broadcast.
    pub fn broadcasts(&self) -> bool {
        let live = self.entry.live.as_ref();
        live.is_some_and(|live| live.message_model == MessageModel::Broadcasting)
    }
}

/// One core's catalog.
#[derive(Debug)]
pub struct Catalog {
    topics: KnownTopics,
    /// Those that clients may not send to, by their names: found out once, not for each message.
    unsendable: HashSet<TopicId>,
    groups: HashMap<Arc<str>, Rc<Group>>,
    requesters: HashMap<Arc<str>, PeerRef>,
    requesters_by_peer: HashMap<PeerRef, Arc<str>>,
    broker_permission: i32,
    expressions: RefCell<Expressions>,
}

impl Catalog {
    /// An empty catalog.
    pub fn new(broker_permission: i32) -> Self {
        Self {
            topics: KnownTopics::default(),
            unsendable: HashSet::new(),
            groups: HashMap::new(),
            requesters: HashMap::new(),
            requesters_by_peer: HashMap::new(),
            broker_permission,
            expressions: RefCell::default(),
        }
    }

    /// Applies one change. A group that was known comes back as it was and as it is.
    pub fn apply(&mut self, change: CatalogChange) -> Option<(Rc<Group>, Rc<Group>)> {
        match change {
            CatalogChange::Topics(entries) => {
                entries.iter().for_each(|entry| self.put_topic(entry));
            }
            CatalogChange::TopicPut(entry) => self.put_topic(&entry),
            CatalogChange::TopicGone(name) => {
                if let Some(gone) = self.topics.remove(&name) {
                    self.unsendable.remove(&gone.id);
                }
            }
            CatalogChange::GroupPut(entry) => {
                let name = Arc::clone(&entry.name);
                let group = Rc::new(Group::new(entry, self.expressions.get_mut()));
                let old = self.groups.insert(name, Rc::clone(&group))?;
                return Some((old, group));
            }
            CatalogChange::GroupGone(name) => {
                self.groups.remove(&name);
            }
            CatalogChange::BrokerPermission(permission) => self.broker_permission = permission,
            CatalogChange::Requester(change) => self.put_requester(change),
        }
        None
    }

    fn put_topic(&mut self, entry: &Arc<TopicEntry>) {
        if check_topic_name(&entry.config.name).is_err() {
            self.unsendable.insert(entry.id);
        }
        self.topics.put(entry);
    }

    fn put_requester(&mut self, change: RequesterChange) {
        let RequesterChange { id, peer } = change;
        if let Some(old) = self.requesters.remove(&id) {
            self.requesters_by_peer.remove(&old);
        }
        if let Some(peer) = peer {
            self.requesters.insert(Arc::clone(&id), peer);
            self.requesters_by_peer.insert(peer, id);
        }
    }

    /// The connection to which replies for a client go.
    pub fn requester(&self, id: &str) -> Option<PeerRef> {
        self.requesters.get(id).copied()
    }

    /// A connection is gone; known here before the control plane says so.
    pub fn forget_requester(&mut self, peer: PeerRef) {
        if let Some(id) = self.requesters_by_peer.remove(&peer) {
            self.requesters.remove(&id);
        }
    }

    /// A topic by name.
    pub fn topic(&self, name: &str) -> Option<&Arc<TopicEntry>> {
        self.topics.get(name)
    }

    /// A topic by name, if clients may send to a topic of this name.
    pub fn sendable(&self, name: &str) -> Option<&Arc<TopicEntry>> {
        let entry = self.topics.get(name)?;
        (!self.unsendable.contains(&entry.id)).then_some(entry)
    }

    /// A topic by its number.
    pub fn topic_by_id(&self, id: TopicId) -> Option<&Arc<TopicEntry>> {
        self.topics.get_by_id(id)
    }

    /// A group by name.
    pub fn group(&self, name: &str) -> Option<&Rc<Group>> {
        self.groups.get(name)
    }

    /// The filter of an expression that a pull carries.
    pub fn filter(&self, kind: Option<&str>, expression: &str) -> Filter {
        Filter::of_expression(kind, expression, &mut self.expressions.borrow_mut())
    }

    /// The broker's permission bits.
    pub fn broker_permission(&self) -> i32 {
        self.broker_permission
    }

    /// Whether the broker may be read.
    pub fn readable(&self) -> bool {
        self.broker_permission & PERM_READ != 0
    }

    /// Whether the broker may be written.
    pub fn writable(&self) -> bool {
        self.broker_permission & PERM_WRITE != 0
    }
}
