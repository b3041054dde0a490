//! The client behind `gantry send` and `gantry receive`.
//!
//! **Owns** connections to name servers and brokers, routes, the words of failures.
//! **Lives on** a tokio runtime of one thread.
//! **Invariants** nothing here knows Gantry: it works against any broker of the protocol. Of a
//! name's several addresses one that hangs leaves time for the others.
//! **Limits** `CALL_MAX` per call and per connect; one connection per address or name.
//! **Not here** what is sent (`send`) or received (`receive`).

pub mod assign;
mod lines;
pub mod message;
pub mod pull;
pub mod receive;
pub mod send;
pub mod start_at;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use gantry_protocol::body::TopicRouteData;
use gantry_protocol::code::{request, response, response_name};
use gantry_protocol::command::ExtValue;
use gantry_protocol::{Command, Language};
use gantry_runtime::net::client::{Client, Pushes};
use tokio::sync::Notify;

use crate::config::value;

/// Longest call, and longest connect; what the Java client takes by default.
pub const CALL_MAX: Duration = Duration::from_secs(3);

/// Runs a command's future.
///
/// # Errors
/// Its own, or that no runtime could be made.
pub fn block_on(work: impl Future<Output = Result<(), String>>) -> Result<(), String> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("no runtime: {error}"))?
        .block_on(work)
}

/// A request with these ext fields.
pub fn ask<'n, 'v>(code: i32, ext: impl IntoIterator<Item = (&'n str, ExtValue<'v>)>) -> Command {
    let mut command = Command::request(code, 0).with_ext_fields();
    command.language = Language::Rust;
    for (name, value) in ext {
        command = command.with_ext(name, value);
    }
    command
}

/// What a reply other than 0 means, for people.
pub fn refused(what: &str, reply: &Command) -> String {
    let name = response_name(reply.code).unwrap_or("unknown code");
    let remark = reply.remark.as_deref().unwrap_or("no reason given");
    format!("{what}: {name} ({}): {remark}", reply.code)
}

/// Milliseconds since 1970.
pub fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

/// Everything that is connected.
pub struct Cluster {
    name_servers: Vec<String>,
    connections: HashMap<String, Client>,
    /// Signalled when a broker says that a group's members changed.
    pub members_changed: std::sync::Arc<Notify>,
}

impl Cluster {
    /// A cluster behind these name servers; nothing is connected yet.
    ///
    /// # Errors
    /// The list can't be read.
    pub fn new(name_servers: &str) -> Result<Self, String> {
        let list = value::read_addresses(name_servers).filter(|list| !list.is_empty());
        let list = list.ok_or_else(|| {
            let allowed = value::Kind::Addresses.allowed();
            format!("--namesrv {name_servers}: not allowed; it takes {allowed}")
        })?;
        Ok(Self {
            name_servers: list,
            connections: HashMap::new(),
            members_changed: std::sync::Arc::default(),
        })
    }

    /// The addresses of the name servers.
    pub fn name_servers(&self) -> &[String] {
        &self.name_servers
    }

    /// The connection to an address, made if need be.
    ///
    /// # Errors
    /// It can't be reached.
    pub async fn connect(&mut self, address: &str) -> Result<Client, String> {
        if let Some(client) = self
            .connections
            .get(address)
            .filter(|client| client.is_open())
        {
            return Ok(client.clone());
        }
        let (client, pushes) = Client::connect_any(&resolve(address).await?, CALL_MAX).await?;
        tokio::spawn(listen(pushes, std::sync::Arc::clone(&self.members_changed)));
        self.connections.insert(address.to_owned(), client.clone());
        Ok(client)
    }

    /// Calls an address.
    ///
    /// # Errors
    /// No reply.
    pub async fn call(&mut self, address: &str, command: Command) -> Result<Command, String> {
        let client = self.connect(address).await?;
        client
            .call(command, CALL_MAX)
            .await
            .map_err(|error| error.to_string())
    }

    /// A topic's route, `None` if no name server has one.
    ///
    /// # Errors
    /// No name server answers, or one answers something else.
    pub async fn route(&mut self, topic: &str) -> Result<Option<TopicRouteData>, String> {
        let (mut failures, mut is_unknown) = (Vec::new(), false);
        for address in self.name_servers.clone() {
            let command = ask(
                request::GET_ROUTEINFO_BY_TOPIC,
                [
                    ("topic", topic.into()),
                    ("acceptStandardJsonOnly", true.into()),
                ],
            );
            match self.call(&address, command).await {
                Ok(reply) if reply.code == response::SUCCESS => {
                    return TopicRouteData::parse(&reply.body)
                        .map(Some)
                        .map_err(|error| {
                            format!("name server {address}: route of {topic}: {error}")
                        });
                }
                // Another one may have it: only some may have heard of it, or of its end.
                Ok(reply) if reply.code == response::TOPIC_NOT_EXIST => is_unknown = true,
                Ok(reply) => failures.push(refused(&format!("name server {address}"), &reply)),
                Err(error) => failures.push(format!("name server {address}: {error}")),
            }
        }
        if is_unknown {
            return Ok(None);
        }
        Err(failures.join("\n"))
    }
}

/// A name's addresses, IPv4 first, as everywhere.
async fn resolve(name: &str) -> Result<Vec<SocketAddr>, String> {
    let found = tokio::net::lookup_host(name).await;
    let found = found.map_err(|error| format!("{name}: {error}"))?;
    let mut all: Vec<SocketAddr> = found.collect();
    all.sort_by_key(SocketAddr::is_ipv6);
    Ok(all)
}

async fn listen(mut pushes: Pushes, members_changed: std::sync::Arc<Notify>) {
    while let Some(push) = pushes.next().await {
        if push.code == request::NOTIFY_CONSUMER_IDS_CHANGED {
            members_changed.notify_one();
        }
    }
}
