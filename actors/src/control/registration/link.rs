//! What one name server is told, and when.
//!
//! **Owns** the calls 103, 104, 217 and 322 to one address, their rhythm and their retries.
//! **Lives on** the control plane's thread, as one task.
//! **Invariants** one call at a time; a server that comes back is told everything at once, and one
//! that is told of topics all the time hears everything once a period, for topics alone (217) are
//! no sign of life; a failure is logged when it begins, changes or ends.
//! **Limits** `CALL_MAX` a call, `RETRY_EVERY` between attempts at a dead server.
//! **Not here** bodies (`body`), what is due (`agenda`), the connection (`channel`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use gantry_protocol::body::KvTable;
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use tokio::sync::Notify;

use crate::control::plane::Plane;
use crate::control::topics;

use super::agenda::{Agenda, Job};
use super::channel::Channel;
use super::{LinkReport, body};

/// Between attempts at a server that doesn't answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// Why a pause ended.
enum Woken {
    Asked,
    Late,
    Lost,
}

/// One name server; see the room's head.
pub struct Link {
    channel: Channel,
    pub(super) agenda: RefCell<Agenda>,
    pub(super) wake: Notify,
    /// `None` before the first attempt.
    state: RefCell<Option<Result<(), String>>>,
    first_try: Notify,
    is_leaving: Cell<bool>,
}

impl Link {
    /// A link that hasn't been tried.
    pub fn new(address: &str) -> Self {
        Self {
            channel: Channel::new(address),
            agenda: RefCell::default(),
            wake: Notify::new(),
            state: RefCell::new(None),
            first_try: Notify::new(),
            is_leaving: Cell::new(false),
        }
    }

    /// Ends once the server has been tried, whatever came of it.
    pub async fn tried(&self) {
        while self.state.borrow().is_none() {
            self.first_try.notified().await;
        }
    }

    /// How it stands.
    pub fn report(&self) -> LinkReport {
        let state = self.state.borrow().clone();
        LinkReport {
            address: self.channel.address().to_owned(),
            state: state.unwrap_or_else(|| Err("not tried yet".to_owned())),
        }
    }

    /// Keeps the server informed until [`Link::unregister`].
    pub async fn run(&self, plane: &Rc<Plane>) {
        let period = Duration::from_millis(plane.settings.registration.period_ms);
        // When the server must hear everything again.
        let mut due = Instant::now();
        while !self.is_leaving.get() {
            let job = self.agenda.borrow_mut().take(due <= Instant::now());
            if let Some(job) = job {
                if !matches!(job, Job::Topics(_)) {
                    due = Instant::now() + period;
                }
                let outcome = self.perform(job, plane).await;
                self.agenda.borrow_mut().done(outcome.is_ok());
                self.note(&outcome);
            }
            if !self.agenda.borrow().is_registered() {
                // A dead server keeps its rhythm, whatever changes here meanwhile.
                actix::clock::sleep(RETRY_EVERY).await;
                continue;
            }
            match self
                .pause(due.saturating_duration_since(Instant::now()))
                .await
            {
                Woken::Asked | Woken::Late => {}
                Woken::Lost => {
                    let name_server = self.channel.address();
                    tracing::info!(name_server, "the name server closed the connection");
                    self.agenda.borrow_mut().need_full();
                }
            }
        }
    }

    async fn pause(&self, left: Duration) -> Woken {
        let asked = async {
            self.wake.notified().await;
            Woken::Asked
        };
        let lost = async {
            self.channel.lost().await;
            Woken::Lost
        };
        let either = futures_lite::future::or(asked, lost);
        actix::clock::timeout(left, either)
            .await
            .unwrap_or(Woken::Late)
    }

    /// Logs a state when it begins or changes.
    fn note(&self, outcome: &Result<(), String>) {
        let before = self.state.replace(Some(outcome.clone()));
        let name_server = self.channel.address();
        if before.as_ref() != Some(outcome) {
            match outcome {
                Ok(()) => tracing::info!(name_server, "registered at the name server"),
                Err(why) => tracing::warn!(
                    name_server,
                    why,
                    "not registered at this name server: clients that use it can't find this \
                     broker. Check that it runs and that the address is right; trying again \
                     every {} s",
                    RETRY_EVERY.as_secs()
                ),
            }
        }
        self.first_try.notify_waiters();
    }

    async fn perform(&self, job: Job, plane: &Rc<Plane>) -> Result<(), String> {
        match job {
            Job::Topics(names) => {
                let before = self.channel.connections();
                let is_taken = self.some(&names, plane).await?;
                // A server behind a new connection was restarted, and takes these topics for all we
                // have; one that refuses doesn't know us either: everything goes.
                let is_known = before == self.channel.connections();
                if is_taken && is_known {
                    Ok(())
                } else {
                    self.full(plane).await
                }
            }
            Job::Refresh if !plane.settings.registration.is_forced.get() => {
                if self.is_behind(plane).await? {
                    self.full(plane).await
                } else {
                    Ok(())
                }
            }
            Job::Full | Job::Refresh => self.full(plane).await,
        }
    }

    /// Tells of these topics; true when they were taken. A name server with
    /// `deleteTopicWithBrokerRegistration` takes the topics of a 103 for all we have, so with
    /// `enableSingleTopicRegister` each goes by itself.
    async fn some(&self, names: &BTreeSet<String>, plane: &Rc<Plane>) -> Result<bool, String> {
        if !plane.settings.registration.is_single_topic {
            let command = body::register(plane, Some(names), plane.take_opaque());
            let reply = self.channel.call(command).await?;
            return Ok(reply.code == response::SUCCESS);
        }
        for name in names {
            let Some(command) = body::one_topic(plane, name, plane.take_opaque()) else {
                continue;
            };
            if self.channel.call(command).await?.code != response::SUCCESS {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn full(&self, plane: &Rc<Plane>) -> Result<(), String> {
        let reply = self
            .channel
            .call(body::register(plane, None, plane.take_opaque()))
            .await?;
        accepted(&reply)?;
        // Ordered topics are kept as key-values of the name server (`ORDER_TOPIC_CONFIG`).
        if !reply.body.is_empty()
            && let Ok(table) = KvTable::parse(&reply.body)
            && !table.table.is_empty()
        {
            let names = table.table.into_keys().collect();
            plane.book().topics.tell(topics::Msg::OrderTopics(names));
        }
        Ok(())
    }

    /// Code 322: does the server hold another version than ours?
    async fn is_behind(&self, plane: &Rc<Plane>) -> Result<bool, String> {
        let version = plane.topics.borrow().version().to_value();
        let command = body::identified(plane, request::QUERY_DATA_VERSION, plane.take_opaque())
            .with_body(to_bytes(&version, IntegerKeys::Quoted));
        let reply = self.channel.call(command).await?;
        if reply.code != response::SUCCESS {
            return Ok(true);
        }
        let is_unchanged = reply.ext("changed") == Some("false");
        Ok(!is_unchanged)
    }

    /// Code 104. Nothing is registered after it.
    pub async fn unregister(&self, plane: &Rc<Plane>) {
        self.is_leaving.set(true);
        self.wake.notify_one();
        let was_registered = self.agenda.borrow().is_registered();
        // From here on nobody waits for this server.
        self.agenda.borrow_mut().done(false);
        if !was_registered {
            return;
        }
        let command = body::identified(plane, request::UNREGISTER_BROKER, plane.take_opaque());
        if let Err(why) = self.channel.call(command).await {
            tracing::warn!(
                name_server = self.channel.address(),
                why,
                "this name server did not hear goodbye"
            );
        }
    }
}

fn accepted(reply: &Command) -> Result<(), String> {
    if reply.code == response::SUCCESS {
        return Ok(());
    }
    Err(format!(
        "refused with code {}: {}",
        reply.code,
        reply.remark.as_deref().unwrap_or("no reason")
    ))
}
