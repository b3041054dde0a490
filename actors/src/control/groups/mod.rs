//! The groups actor: subscription groups, heartbeats, who is online.
//!
//! **Owns** the only write access to group configurations and members; the notifications (code 40).
//! **Lives on** the control plane's thread.
//! **Invariants** a heartbeat's changes reach the cores before its reply reaches the client (trap
//! 62); a change of membership tells the others at once (traps 70, 71, 76), except in broadcasting
//! groups (trap 77). The last word a core hears of a group is the group's state in the table.
//! **Limits** see `members` and `table`.
//! **Not here** positions of groups (`offsets`), queue locks (the queue actors).

mod beat;
pub mod calls;
mod clients;
mod forgetting;
pub mod members;
mod queries;
mod requesters;
mod requests;
pub mod table;

use std::collections::BTreeSet;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_protocol::body::SubscriptionGroupConfig;
use gantry_protocol::code::request;
use gantry_protocol::command::Command;
use gantry_runtime::clock::MonoMs;
use gantry_runtime::net::PeerRef;

use crate::refusal::Refusal;
use crate::seam::{
    CatalogChange, ControlRequest, CoreNumber, GroupEntry, RequesterChange, Ticket, ToData,
};

use super::plane::Plane;
use super::reply::{Reply, ReplyTo, encoded};
use super::supervision::shell::Part;
use forgetting::{Deletion, Forgetting};
use members::{Departure, Leaving};
use table::GroupTable;

/// How often silent clients are looked for.
const SCAN_EVERY: Duration = Duration::from_secs(10);

/// What the groups actor is told.
pub enum Msg {
    /// A client's request with a code of this actor.
    Serve(ControlRequest),
    /// A pull or an offset update names an unknown group.
    Ensure {
        /// The asking core.
        core: CoreNumber,
        /// Its name for the parked request.
        ticket: Ticket,
        /// The wanted group.
        group: String,
    },
    /// A connection is gone.
    PeerClosed(PeerRef),
    /// Write out what has changed.
    Commit,
    /// The keys of the positions of groups that are to be deleted with them.
    PositionsFound(Vec<Deletion>, Result<Vec<Vec<u8>>, Refusal>),
    /// Look for silent clients.
    Scan,
}

/// Pause before the table is tried to be read again.
const RELOAD_AFTER: Duration = Duration::from_secs(1);

/// The groups actor; see the room's head.
pub struct Groups {
    put: Vec<Arc<SubscriptionGroupConfig>>,
    gone: Vec<Arc<str>>,
    /// Their positions go with the next commit.
    forgotten: Vec<Arc<str>>,
    /// The keys of these.
    positions: Vec<Vec<u8>>,
    forgetting: Forgetting,
    /// Changed by requests: the cores hear once it is stored.
    changed: Vec<String>,
    /// Answers that wait for the next commit.
    waiters: Vec<(ReplyTo, Reply)>,
    is_commit_due: bool,
    /// Why the table in memory is not the stored one, and changes must not be stored from it.
    astray: Option<Refusal>,
}

impl Part for Groups {
    const NAME: &'static str = "groups";
    type Msg = Msg;

    fn build(plane: &Rc<Plane>) -> Result<Self, Refusal> {
        load(plane)?;
        Ok(Self {
            put: Vec::new(),
            gone: Vec::new(),
            forgotten: Vec::new(),
            positions: Vec::new(),
            forgetting: Forgetting::default(),
            changed: Vec::new(),
            waiters: Vec::new(),
            is_commit_due: false,
            astray: None,
        })
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        match message {
            Msg::Serve(request) => self.serve(&request, plane),
            Msg::Ensure {
                core,
                ticket,
                group,
            } => {
                let outcome = self.ensure(&group, plane).map(drop);
                // The asker doesn't know the group, so it hears of it whether it is new or not.
                if outcome.is_ok()
                    && let Some(put) = put_of(&group, plane)
                {
                    plane.outbox.send(core, ToData::Catalog(put));
                }
                plane
                    .outbox
                    .send(core, ToData::Resolved { ticket, outcome });
            }
            Msg::PeerClosed(peer) => {
                plane.calls.closed(peer);
                let leaving = plane.members.borrow_mut().closed(peer);
                left(leaving, plane);
            }
            Msg::Commit => self.commit(plane),
            Msg::PositionsFound(deletions, found) => {
                self.positions_found(deletions, found, plane);
            }
            Msg::Scan => scan(plane),
        }
    }

    fn waiting(message: &Msg) -> Option<ReplyTo> {
        match message {
            Msg::Serve(request) => Some(ReplyTo::of(request)),
            _ => None,
        }
    }

    fn abandon(&mut self, plane: &Rc<Plane>, why: &Refusal) {
        let waiters = std::mem::take(&mut self.waiters).into_iter();
        let deletions = std::mem::take(&mut self.forgetting.waiting).into_iter();
        let waiting = waiters.map(|(to, _)| to);
        for to in waiting.chain(deletions.map(|(_, to)| to)) {
            plane.refuse(&to, why);
        }
    }
}

fn load(plane: &Rc<Plane>) -> Result<(), Refusal> {
    let stored = plane.ledger.load_groups()?;
    *plane.groups.borrow_mut() = GroupTable::new(stored.configs, stored.version, stored.forbidden);
    Ok(())
}

/// Looks for silent clients now and then, for as long as the plane lives.
pub fn scan_for_ever(plane: &Rc<Plane>) {
    let plane = Rc::clone(plane);
    actix::spawn(async move {
        loop {
            actix::clock::sleep(SCAN_EVERY).await;
            plane.book().groups.tell(Msg::Scan);
        }
    });
}

/// Clients leave the groups they have not named for `channelExpiredTimeout`, and lose their
/// connection when none is left.
fn scan(plane: &Rc<Plane>) {
    let idle_ms = plane.settings.channel_expired_timeout_ms.get();
    let expired = plane.members.borrow_mut().expire(MonoMs::now(), idle_ms);
    for departure in &expired.departures {
        let group = &departure.group;
        tracing::info!(%group, idle_ms, "a member's heartbeats don't name its group any more");
    }
    requesters_changed(expired.requesters, plane);
    departed(expired.departures, plane);
    for peer in expired.silent {
        tracing::info!(
            ?peer,
            idle_ms,
            "a client sent no heartbeat and is disconnected"
        );
        plane.outbox.send(peer.core, ToData::Close(peer));
    }
}

/// Tells whoever must know that a connection is gone.
fn left(leaving: Leaving, plane: &Rc<Plane>) {
    requesters_changed(leaving.requester, plane);
    departed(leaving.departures, plane);
}

/// Tells the cores where replies go.
fn requesters_changed(changes: impl IntoIterator<Item = RequesterChange>, plane: &Plane) {
    for change in changes {
        plane.outbox.change(CatalogChange::Requester(change));
    }
}

/// Tells the members who are left, and the cores when nobody is.
fn departed(departures: Vec<Departure>, plane: &Rc<Plane>) {
    for departure in departures {
        if departure.is_last {
            publish(&departure.group, plane);
        }
        if may_notify(&departure.group, plane) {
            notify(&departure.group, &departure.notify, plane);
        }
    }
}

/// Whether members of this group are told of changes.
fn may_notify(group: &str, plane: &Plane) -> bool {
    let enabled = plane
        .groups
        .borrow()
        .get(group)
        .is_none_or(|config| config.notify_ids_changed_enable);
    plane.settings.notify_consumer_ids_changed_enable.get() && enabled
}

/// Sends code 40 to these members.
fn notify(group: &Arc<str>, peers: &[PeerRef], plane: &Plane) {
    for peer in peers {
        // JSON whatever the client speaks: every client reads it, the C++ one nothing else (trap
        // 7).
        let command = Command::request(request::NOTIFY_CONSUMER_IDS_CHANGED, plane.take_opaque())
            .with_ext("consumerGroup", &**group)
            .one_way();
        match encoded(&command) {
            Ok(frame) => plane.outbox.write(*peer, frame),
            Err(error) => tracing::error!(%error, "a notification can't be encoded"),
        }
    }
}

/// Gives the cores the present state of a group.
fn publish(group: &str, plane: &Plane) {
    if let Some(put) = put_of(group, plane) {
        plane.outbox.change(put);
    }
}

/// The present state of a group, as the cores are told it.
fn put_of(group: &str, plane: &Plane) -> Option<CatalogChange> {
    let groups = plane.groups.borrow();
    let (name, config) = groups.name_of(group).zip(groups.get(group))?;
    let members = plane.members.borrow();
    let entry = GroupEntry {
        name: Arc::clone(name),
        config: config.as_ref().clone(),
        live: members.consumers(group).map(members::ConsumerGroup::live),
        forbidden: groups.forbidden(group),
    };
    Some(CatalogChange::GroupPut(Arc::new(entry)))
}

/// Every group, for a core that starts.
pub fn publish_all(plane: &Plane) {
    let names: Vec<Arc<str>> = plane
        .groups
        .borrow()
        .iter()
        .map(|(name, _)| Arc::clone(name))
        .collect();
    for name in names {
        publish(&name, plane);
    }
}

impl Groups {
    /// Finds or makes a group by the auto-creation rules; a new one is published at once and stored
    /// with the next commit (losing it costs nothing: it is made again the same way).
    fn ensure(
        &mut self,
        group: &str,
        plane: &Rc<Plane>,
    ) -> Result<Arc<SubscriptionGroupConfig>, Refusal> {
        let auto = plane.settings.auto_create_subscription_group.get();
        let now_ms = plane.now_ms();
        let (config, is_new) = plane.groups.borrow_mut().ensure(group, auto, now_ms)?;
        if is_new {
            publish(group, plane);
            self.put.push(Arc::clone(&config));
            self.commit_soon(plane);
        }
        Ok(config)
    }

    /// Answers success once everything so far is stored.
    fn wait(&mut self, to: ReplyTo, plane: &Rc<Plane>) {
        self.waiters.push((to, Reply::ok()));
        self.commit_soon(plane);
    }

    fn commit_soon(&mut self, plane: &Rc<Plane>) {
        if !self.is_commit_due {
            self.is_commit_due = true;
            plane.book().groups.tell(Msg::Commit);
        }
    }

    /// What is stored is the truth: the table is read again, sooner or later. A disk that can't
    /// even be read is no reason to end the process: messages may still be served from memory.
    fn take_back(&mut self, plane: &Rc<Plane>) {
        if let Err(refusal) = load(plane) {
            self.astray = Some(refusal);
            plane.tell_later(RELOAD_AFTER, |book| book.groups.tell(Msg::Commit));
            return;
        }
        publish_all(plane);
    }

    fn commit(&mut self, plane: &Rc<Plane>) {
        self.is_commit_due = false;
        let nothing = self.put.is_empty()
            && self.gone.is_empty()
            && self.forgotten.is_empty()
            && self.changed.is_empty();
        let put = std::mem::take(&mut self.put);
        let gone = std::mem::take(&mut self.gone);
        let forgotten = std::mem::take(&mut self.forgotten);
        let positions = std::mem::take(&mut self.positions);
        let waiters = std::mem::take(&mut self.waiters);
        let stored = match self.astray.take() {
            Some(refusal) => Err(refusal),
            None if nothing => Ok(()),
            None => {
                let table = plane.groups.borrow();
                plane.ledger.store_groups(&put, &gone, positions, &table)
            }
        };
        if let Err(refusal) = stored {
            tracing::error!(%refusal, "group changes can't be stored and are taken back");
            for (to, _) in waiters {
                plane.refuse(&to, &refusal);
            }
            self.take_back(plane);
            return;
        }
        self.tell_cores(&gone, forgotten, plane);
        for (to, reply) in waiters {
            plane.reply(&to, reply);
        }
    }

    /// What is stored reaches the cores: who is gone first, for a group deleted and made again
    /// before one commit is in both lists, or was published when it was made. Positions are
    /// forgotten in between, so that a group made again starts without them and keeps what it
    /// commits.
    fn tell_cores(&mut self, gone: &[Arc<str>], forgotten: Vec<Arc<str>>, plane: &Rc<Plane>) {
        for group in gone {
            let forgotten = super::admin::Msg::GroupGone(Arc::clone(group));
            plane.book().admin.tell(forgotten);
            let change = CatalogChange::GroupGone(Arc::clone(group));
            plane.outbox.change(change);
        }
        for group in forgotten {
            plane.outbox.send_all(&ToData::ForgetGroup(group));
        }
        let changed = std::mem::take(&mut self.changed);
        let made_again = gone.iter().map(|group| &**group);
        let names: BTreeSet<&str> = changed
            .iter()
            .map(String::as_str)
            .chain(made_again)
            .collect();
        for group in names {
            publish(group, plane);
        }
    }
}
