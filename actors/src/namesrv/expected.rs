//! Routes of retry topics that are about to be made.
//!
//! **Owns** which brokers each connection was told of, and the route of a retry topic that no
//! broker has registered yet.
//! **Lives on** the control plane, inside the name server's actor; pure.
//! **Invariants** a client asks for the route of `%RETRY%group` before its first heartbeat, which
//! makes that topic on every broker the client knows (`ClientManageProcessor.heartBeat`, 5.5.0):
//! those it was told of here. Told "no such topic", it asks again after 30 s and takes the queue up
//! after 20 s more, and so late comes its group's first retry. So it is told what its heartbeat
//! will make. A connection that asked for no other topic (mqadmin does) gets "no such topic".
//! **Limits** [`BROKERS_TOLD_MAX`] broker names a connection, [`CONNECTIONS_MAX`] connections;
//! beyond, a client waits as it does with Apache RocketMQ's name server.
//! **Not here** registered topics (`routes`, `lookup`).

use std::collections::HashMap;

use gantry_protocol::system_topic::{check_group_name, group_of_retry_topic};

use super::liveness::ConnectionId;
use super::lookup::Route;
use super::routes::{MASTER_ID, PERM_READ, PERM_WRITE, Queues, Routes};

/// Broker names remembered of a connection: more than the brokers of one client's topics.
pub const BROKERS_TOLD_MAX: usize = 64;
/// Connections remembered: as many as a listener holds by default.
pub const CONNECTIONS_MAX: usize = 65_536;
/// `retryQueueNums` of a group that nobody configured.
const RETRY_QUEUES: i32 = 1;

/// See the room's head.
#[derive(Debug, Default)]
pub struct Told {
    brokers: HashMap<ConnectionId, Vec<String>>,
}

impl Told {
    /// A connection was told of these brokers.
    pub fn note(&mut self, connection: ConnectionId, route: &Route) {
        if self.brokers.len() >= CONNECTIONS_MAX && !self.brokers.contains_key(&connection) {
            return;
        }
        let known = self.brokers.entry(connection).or_default();
        for (name, _) in &route.brokers {
            if known.len() < BROKERS_TOLD_MAX && !known.contains(name) {
                known.push(name.clone());
            }
        }
    }

    /// A connection is gone.
    pub fn forget(&mut self, connection: ConnectionId) {
        self.brokers.remove(&connection);
    }

    /// The route that a retry topic will have once the asking client's heartbeat has made it.
    pub fn expected(
        &self,
        connection: ConnectionId,
        topic: &str,
        routes: &Routes,
    ) -> Option<Route> {
        let group = group_of_retry_topic(topic)?;
        check_group_name(group).ok()?;
        let queues = Queues {
            read: RETRY_QUEUES,
            write: RETRY_QUEUES,
            perm: PERM_READ | PERM_WRITE,
            sys_flag: 0,
        };
        let mut route = Route {
            queues: Vec::new(),
            brokers: Vec::new(),
        };
        for name in self.brokers.get(&connection)? {
            let broker = routes.brokers().get(name);
            let Some(broker) = broker.filter(|one| one.addresses.contains_key(&MASTER_ID)) else {
                continue;
            };
            route.queues.push((name.clone(), queues));
            route.brokers.push((name.clone(), broker.clone()));
        }
        (!route.brokers.is_empty()).then_some(route)
    }
}
