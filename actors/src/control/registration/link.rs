//! The connection to one name server.
//!
//! **Owns** the calls 103, 104 and 322 to one address, their rhythm and their retries.
//! **Lives on** the control plane's thread, as one task.
//! **Invariants** one call at a time; the connection stays open between calls, since a name server
//! forgets a broker when its connection closes; a failure is logged when it begins, changes or ends.
//! **Limits** `CALL_MAX` a call, `RETRY_EVERY` between attempts at a dead server.
//! **Not here** bodies (`body`), what is due (`agenda`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::Duration;

use gantry_protocol::body::KvTable;
use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_runtime::net::client::Client;
use tokio::sync::Notify;

use crate::control::plane::Plane;
use crate::control::topics;

use super::agenda::{Agenda, Job};
use super::{CALL_MAX, LinkReport, body};

/// Between attempts at a server that doesn't answer.
const RETRY_EVERY: Duration = Duration::from_secs(2);

/// One name server; see the room's head.
pub struct Link {
    address: String,
    pub(super) agenda: RefCell<Agenda>,
    pub(super) wake: Notify,
    client: RefCell<Option<Client>>,
    /// `None` before the first attempt.
    state: RefCell<Option<Result<(), String>>>,
    first_try: Notify,
    is_leaving: Cell<bool>,
}

impl Link {
    /// A link that hasn't been tried.
    pub fn new(address: &str) -> Self {
        Self {
            address: address.to_owned(),
            agenda: RefCell::default(),
            wake: Notify::new(),
            client: RefCell::new(None),
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
            address: self.address.clone(),
            state: state.unwrap_or_else(|| Err("not tried yet".to_owned())),
        }
    }

    /// Keeps the server informed until [`Link::unregister`].
    pub async fn run(&self, plane: &Rc<Plane>) {
        let period = Duration::from_millis(plane.settings.register_name_server_period_ms);
        let mut is_period_over = true;
        while !self.is_leaving.get() {
            let job = self.agenda.borrow_mut().take(is_period_over);
            if let Some(job) = job {
                let outcome = self.perform(job, plane).await;
                self.agenda.borrow_mut().done(outcome.is_ok());
                self.note(&outcome);
                is_period_over = false;
            }
            let pause = if self.agenda.borrow().is_registered() {
                period
            } else {
                RETRY_EVERY
            };
            // A change wakes a link only while its server lives: a dead one keeps its rhythm.
            let woken = actix::clock::timeout(pause, self.wake.notified()).await;
            is_period_over |= woken.is_err();
            if woken.is_ok() && !self.agenda.borrow().is_registered() {
                actix::clock::sleep(RETRY_EVERY).await;
            }
        }
    }

    /// Logs a state when it begins or changes.
    fn note(&self, outcome: &Result<(), String>) {
        let before = self.state.replace(Some(outcome.clone()));
        let name_server = self.address.as_str();
        if before.as_ref() != Some(outcome) {
            match outcome {
                Ok(()) => tracing::info!(name_server, "registered at the name server"),
                Err(why) => tracing::warn!(
                    name_server,
                    why,
                    "not registered at this name server: clients that use it can't find this broker. \
                     Check that it runs and that the address is right; trying again every {} s",
                    RETRY_EVERY.as_secs()
                ),
            }
        }
        self.first_try.notify_waiters();
    }

    async fn perform(&self, job: Job, plane: &Rc<Plane>) -> Result<(), String> {
        match job {
            Job::Topics(names) => {
                let command = body::register(plane, Some(&names), plane.take_opaque());
                let reply = self.call(command).await?;
                // The server doesn't know us (it restarted): everything goes.
                if reply.code == response::SUCCESS {
                    Ok(())
                } else {
                    self.full(plane).await
                }
            }
            Job::Refresh if !plane.settings.force_register => {
                if self.is_behind(plane).await? {
                    self.full(plane).await
                } else {
                    Ok(())
                }
            }
            Job::Full | Job::Refresh => self.full(plane).await,
        }
    }

    async fn full(&self, plane: &Rc<Plane>) -> Result<(), String> {
        let reply = self
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
        let reply = self.call(command).await?;
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
        if !self.agenda.borrow().is_registered() {
            return;
        }
        let command = body::identified(plane, request::UNREGISTER_BROKER, plane.take_opaque());
        if let Err(why) = self.call(command).await {
            tracing::warn!(
                name_server = self.address,
                why,
                "this name server did not hear goodbye"
            );
        }
    }

    /// One call on the open connection, or on a new one.
    async fn call(&self, command: Command) -> Result<Command, String> {
        let outcome = actix::clock::timeout(CALL_MAX, self.exchange(command)).await;
        let outcome =
            outcome.unwrap_or_else(|_| Err(format!("no answer within {} s", CALL_MAX.as_secs())));
        if outcome.is_err() {
            self.client.replace(None);
        }
        outcome
    }

    async fn exchange(&self, command: Command) -> Result<Command, String> {
        let open = self.client.take();
        if let Some(client) = open
            && let Ok(reply) = client.call(command.clone(), CALL_MAX).await
        {
            self.client.replace(Some(client));
            return Ok(reply);
        }
        // The old connection is dead, most likely because the server was restarted: try a new one.
        let client = connect(&self.address).await?;
        let reply = client
            .call(command, CALL_MAX)
            .await
            .map_err(|error| error.to_string())?;
        self.client.replace(Some(client));
        Ok(reply)
    }
}

/// Resolves a name and connects to the first of its addresses that answers.
async fn connect(address: &str) -> Result<Client, String> {
    let found = tokio::net::lookup_host(address).await;
    let found = found.map_err(|error| format!("the name can't be resolved: {error}"))?;
    let mut last = "the name has no address".to_owned();
    for addr in found {
        match Client::connect(addr, CALL_MAX).await {
            // A name server asks nothing of a broker; what it pushes is dropped with the receiver.
            Ok((client, _pushes)) => return Ok(client),
            Err(error) => last = error.to_string(),
        }
    }
    Err(last)
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
