//! The desk: one table of request code → answer.
//!
//! **Owns** the name server's whole state, and what every request gets.
//! **Lives on** the control plane, inside the name server's actor; pure but for saving key-values.
//! **Invariants** every request is answered unless it is one-way; an unknown code gets 3 with its
//! name
//! (trap 15), a bad field gets a remark that names it.
//! **Limits** those of the tables.
//! **Not here** the tables' rules (`routes`, `kv`), receiving and sending (`shell`).

mod brokers;
mod clients;
mod values;

use gantry_protocol::code::{self, request, response};
use gantry_protocol::request::FieldError;
use gantry_protocol::{Command, HeaderView};
use gantry_runtime::clock::MonoMs;

use super::expected::Told;
use super::kv::KeyValues;
use super::liveness::{BrokerPlace, ConnectionId};
use super::lookup::UnitFilter;
use super::routes::Routes;
use super::settings::NamesrvSettings;
use crate::refusal::Refusal;

/// The name server's state.
#[derive(Debug)]
pub struct Desk {
    settings: NamesrvSettings,
    routes: Routes,
    told: Told,
    values: KeyValues,
    boot: MonoMs,
}

/// A reply in the making, or why not.
type Answer = Result<Command, Refusal>;

/// One request with what an answer needs beside it.
struct Asked<'a, 'v> {
    command: &'a Command,
    view: &'a HeaderView<'v>,
    connection: ConnectionId,
    now: MonoMs,
}

impl Asked<'_, '_> {
    fn ok(&self) -> Command {
        Command::reply_to(self.command, response::SUCCESS)
    }

    fn ok_body(&self, body: impl Into<bytes::Bytes>) -> Command {
        self.ok().with_body(body)
    }
}

impl Desk {
    /// A name server that knows no broker yet.
    pub fn new(settings: NamesrvSettings, values: KeyValues, now: MonoMs) -> Self {
        Self {
            settings,
            routes: Routes::default(),
            told: Told::default(),
            values,
            boot: now,
        }
    }

    /// Answers a request; `None` for a one-way request or a stray reply.
    pub fn answer(
        &mut self,
        command: &Command,
        connection: ConnectionId,
        now: MonoMs,
    ) -> Option<Command> {
        if command.is_reply() {
            return None;
        }
        let view = command.view();
        let asked = Asked {
            command,
            view: &view,
            connection,
            now,
        };
        let reply = self.route(&asked).unwrap_or_else(|refusal| {
            tracing::debug!(code = command.code, %refusal, "request refused");
            Command::reply_to(command, refusal.code).with_remark(refusal.remark)
        });
        (!command.is_oneway()).then_some(reply)
    }

    fn route(&mut self, asked: &Asked<'_, '_>) -> Answer {
        match asked.command.code {
            request::REGISTER_BROKER => self.register(asked),
            request::UNREGISTER_BROKER => self.unregister(asked),
            request::BROKER_HEARTBEAT => self.beat(asked),
            request::QUERY_DATA_VERSION => self.query_data_version(asked),
            request::GET_BROKER_MEMBER_GROUP => self.members(asked),
            request::WIPE_WRITE_PERM_OF_BROKER => self.set_write(asked, false),
            request::ADD_WRITE_PERM_OF_BROKER => self.set_write(asked, true),
            request::GET_ROUTEINFO_BY_TOPIC => self.topic_route(asked),
            request::GET_BROKER_CLUSTER_INFO => Ok(self.clusters(asked)),
            request::GET_ALL_TOPIC_LIST_FROM_NAMESERVER => self.all_topics(asked),
            request::GET_TOPICS_BY_CLUSTER => self.topics_of_cluster(asked),
            request::GET_SYSTEM_TOPIC_LIST_FROM_NS => self.system_topics(asked),
            request::GET_UNIT_TOPIC_LIST => self.unit_topics(asked, UnitFilter::Unit),
            request::GET_HAS_UNIT_SUB_TOPIC_LIST => self.unit_topics(asked, UnitFilter::UnitSub),
            request::GET_HAS_UNIT_SUB_UNUNIT_TOPIC_LIST => {
                self.unit_topics(asked, UnitFilter::UnitSubNotUnit)
            }
            request::DELETE_TOPIC_IN_NAMESRV => self.delete_topic(asked),
            request::REGISTER_TOPIC_IN_NAMESRV => self.put_topic(asked),
            request::PUT_KV_CONFIG => self.put_value(asked),
            request::GET_KV_CONFIG => self.get_value(asked),
            request::DELETE_KV_CONFIG => self.delete_value(asked),
            request::GET_KVLIST_BY_NAMESPACE => self.list_values(asked),
            request::UPDATE_NAMESRV_CONFIG => self.update_config(asked),
            request::GET_NAMESRV_CONFIG => Ok(self.config(asked)),
            other => Err(unknown(other)),
        }
    }

    /// Drops brokers whose time is up.
    pub fn expire(&mut self, now: MonoMs) -> Vec<BrokerPlace> {
        self.routes.expire(now)
    }

    /// Drops the brokers that registered over a connection that closed.
    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<BrokerPlace> {
        self.told.forget(connection);
        self.routes.connection_closed(connection)
    }

    /// How often to look for silent brokers, in ms.
    pub fn scan_interval_ms(&self) -> u64 {
        self.settings.scan_interval_ms
    }
}

/// The refusal of a code without an answer here.
fn unknown(request: i32) -> Refusal {
    let name = code::request_name(request).map_or(String::new(), |name| format!(" ({name})"));
    Refusal::new(
        response::REQUEST_CODE_NOT_SUPPORTED,
        format!("request type {request}{name} not supported by the name server"),
    )
}

/// A missing or malformed field; `RocketMQ` answers 1 for it.
#[allow(
    clippy::needless_pass_by_value,
    reason = "the form that `map_err` takes"
)]
fn field(error: FieldError) -> Refusal {
    system_error(error.to_string())
}

/// A refusal with code 1.
fn system_error(remark: impl Into<String>) -> Refusal {
    Refusal::new(response::SYSTEM_ERROR, remark)
}

#[cfg(test)]
#[path = "desk_tests.rs"]
mod tests;
