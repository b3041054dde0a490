//! Which brokers hold which topics.
//!
//! **Owns** the table of brokers and of topics' queues, and the rules of registration: RocketMQ's
//! `RouteInfoManager` (5.5.0), without its locks because one actor owns it.
//! **Lives on** the control plane; pure, the time is an argument.
//! **Invariants** a topic's queues name only brokers in the broker table; a broker in the table has
//! at
//! least one live address.
//! **Limits** `BROKERS_COUNT_MAX`, `TOPICS_COUNT_MAX`; static topics' queue mappings are not kept.
//! **Not here** encodings (`desk`), what is asked of the tables (`lookup`).

use std::collections::{BTreeMap, HashMap, HashSet};

use gantry_runtime::clock::MonoMs;

use super::liveness::{
    BrokerPlace, ConnectionId, DataVersion, EXPIRE_AFTER_MS_DEFAULT, Live, Liveness,
};
use super::per_broker::PerBroker;

/// Most broker names: ten times the largest known deployment, a few MiB here.
pub const BROKERS_COUNT_MAX: usize = 10_000;

/// Most topics: about 200 MiB of names and queues.
pub const TOPICS_COUNT_MAX: usize = 1_000_000;

/// A master's number.
pub const MASTER_ID: i64 = 0;

/// A topic that only the broker's own slaves use; never shown with an acting master
/// (`TopicValidator.SYNC_BROKER_MEMBER_GROUP_PREFIX`, 5.5.0).
pub const MEMBER_TOPIC_PREFIX: &str = "rmq_sys_SYNC_BROKER_MEMBER_";

/// Bit 2 of a permission.
pub const PERM_READ: i32 = 4;
/// Bit 1 of a permission.
pub const PERM_WRITE: i32 = 2;

/// A topic's queues on one broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Queues {
    /// Queues a consumer sees.
    pub read: i32,
    /// Queues a producer sees.
    pub write: i32,
    /// Permission, already cut by the broker's own.
    pub perm: i32,
    /// Unit flags.
    pub sys_flag: i32,
}

/// One broker name with the addresses behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Its cluster.
    pub cluster: String,
    /// Number → address.
    pub addresses: BTreeMap<i64, String>,
    /// Whether a slave may act as master.
    pub acting_master: bool,
    /// Its zone.
    pub zone: Option<String>,
}

/// A broker's registration (code 103).
#[derive(Debug, Clone)]
pub struct Registration {
    /// Its cluster.
    pub cluster: String,
    /// Its name.
    pub broker_name: String,
    /// What clients are told.
    pub address: String,
    /// Its number, 0 = master.
    pub broker_id: i64,
    /// What its slaves are told.
    pub ha_address: String,
    /// Its zone.
    pub zone: Option<String>,
    /// How long it lives after this.
    pub timeout_ms: Option<u64>,
    /// None: an old broker that doesn't know of acting masters.
    pub acting_master: Option<bool>,
    /// Its topics' version.
    pub version: DataVersion,
    /// Its topics, or only the new one.
    pub topics: Vec<(String, Queues)>,
    /// The connection it came over.
    pub connection: ConnectionId,
}

/// What a registering broker is told.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Registered {
    /// For a slave: its master.
    pub master_address: Option<String>,
    /// For a slave: where it fetches from.
    pub ha_address: Option<String>,
}

/// Why a registration is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// A single topic of a broker that hasn't registered in full (Java returns null).
    #[error("register broker failed")]
    NotYetKnown,
    /// The tables are full.
    #[error("at its limit of {BROKERS_COUNT_MAX} brokers or {TOPICS_COUNT_MAX} topics")]
    Full,
}

/// The tables.
#[derive(Debug, Default)]
pub struct Routes {
    pub(super) topics: HashMap<String, PerBroker>,
    pub(super) brokers: BTreeMap<String, Broker>,
    pub(super) liveness: Liveness,
}

impl Routes {
    /// Takes a registration in. `delete_unnamed`: topics of this broker that a full body doesn't
    /// name go.
    ///
    /// # Errors
    /// See [`RegisterError`].
    pub fn register(
        &mut self,
        registration: &Registration,
        now: MonoMs,
        delete_unnamed: bool,
    ) -> Result<Registered, RegisterError> {
        self.check_room(registration, TOPICS_COUNT_MAX)?;
        let Registration {
            cluster,
            broker_name,
            address,
            broker_id,
            ..
        } = registration;
        let (place, broker_id) = (
            BrokerPlace {
                cluster: cluster.clone(),
                address: address.clone(),
            },
            *broker_id,
        );
        let held = self.brokers.get(broker_name).and_then(|broker| {
            let address = broker.addresses.get(&broker_id)?;
            Some(BrokerPlace {
                cluster: cluster.clone(),
                address: address.clone(),
            })
        });
        if let Some(held) = held.as_ref().filter(|held| held.address != *address) {
            let held_state = self
                .liveness
                .get(held)
                .map_or(0, |live| live.version.state_version);
            if held_state > registration.version.state_version {
                // A late word of a master that has been replaced: ignored, and answered as if fine.
                self.liveness.remove(&place);
                return Ok(Registered::default());
            }
        }
        if held.is_none() && registration.topics.len() == 1 {
            return Err(RegisterError::NotYetKnown);
        }
        let first = held.is_none();
        let prime_slave = self.put_broker(registration);
        if broker_id == MASTER_ID || prime_slave {
            let changed = first || self.version_changed(&place, registration.version);
            self.put_topics(registration, changed, prime_slave, delete_unnamed);
        }
        self.liveness.put(
            place,
            Live {
                last: now,
                timeout_ms: registration.timeout_ms.unwrap_or(EXPIRE_AFTER_MS_DEFAULT),
                version: registration.version,
                ha_address: registration.ha_address.clone(),
                broker_name: registration.broker_name.clone(),
                broker_id,
                connection: registration.connection,
            },
        );
        Ok(self.master_for(registration))
    }

    pub(super) fn check_room(
        &self,
        registration: &Registration,
        topics_max: usize,
    ) -> Result<(), RegisterError> {
        let new_broker = !self.brokers.contains_key(&registration.broker_name);
        if new_broker && self.brokers.len() >= BROKERS_COUNT_MAX {
            return Err(RegisterError::Full);
        }
        let (held, named) = (self.topics.len(), &registration.topics);
        if held + named.len() <= topics_max {
            return Ok(());
        }
        let is_new = |(topic, _): &&(String, Queues)| !self.topics.contains_key(topic);
        let new = named.iter().filter(is_new).count();
        if new > 0 && held + new > topics_max {
            return Err(RegisterError::Full);
        }
        Ok(())
    }

    /// Returns whether it is the slave that stands for an absent master.
    fn put_broker(&mut self, registration: &Registration) -> bool {
        let broker = self
            .brokers
            .entry(registration.broker_name.clone())
            .or_insert_with(|| Broker {
                cluster: registration.cluster.clone(),
                addresses: BTreeMap::new(),
                acting_master: false,
                zone: None,
            });
        broker.acting_master = registration.acting_master.unwrap_or(false);
        broker.zone.clone_from(&registration.zone);
        // One address has one number: a slave that became master is not also still a slave.
        broker.addresses.retain(|id, address| {
            *address != registration.address || *id == registration.broker_id
        });
        broker
            .addresses
            .insert(registration.broker_id, registration.address.clone());
        registration.acting_master.is_some()
            && registration.broker_id != MASTER_ID
            && broker.addresses.keys().next() == Some(&registration.broker_id)
    }

    fn put_topics(
        &mut self,
        registration: &Registration,
        changed: bool,
        prime_slave: bool,
        delete_unnamed: bool,
    ) {
        let name = &registration.broker_name;
        if delete_unnamed {
            let named: HashSet<&str> = registration
                .topics
                .iter()
                .map(|(topic, _)| topic.as_str())
                .collect();
            self.topics.retain(|topic, queues| {
                if !named.contains(topic.as_str()) {
                    queues.remove(name);
                }
                !queues.is_empty()
            });
        }
        let read_only = prime_slave && registration.acting_master == Some(true);
        for (topic, queues) in &registration.topics {
            let brokers = self.topics.entry(topic.clone()).or_default();
            if changed || !brokers.has(name) {
                let mut queues = *queues;
                if read_only {
                    queues.perm &= !PERM_WRITE;
                }
                brokers.set(name, queues);
            }
        }
    }

    fn master_for(&self, registration: &Registration) -> Registered {
        if registration.broker_id == MASTER_ID {
            return Registered::default();
        }
        let master = self
            .brokers
            .get(&registration.broker_name)
            .and_then(|broker| broker.addresses.get(&MASTER_ID));
        let Some(address) = master else {
            return Registered::default();
        };
        let place = BrokerPlace {
            cluster: registration.cluster.clone(),
            address: address.clone(),
        };
        match self.liveness.get(&place) {
            Some(live) => Registered {
                master_address: Some(address.clone()),
                ha_address: Some(live.ha_address.clone()),
            },
            None => Registered::default(),
        }
    }

    /// Whether a broker's version differs from the one it registered with (unknown: yes).
    pub fn version_changed(&self, place: &BrokerPlace, version: DataVersion) -> bool {
        self.version_of(place) != Some(version)
    }

    /// The version a broker registered with.
    pub fn version_of(&self, place: &BrokerPlace) -> Option<DataVersion> {
        self.liveness.get(place).map(|live| live.version)
    }

    /// A sign of life (322, 904).
    pub fn touch(&mut self, place: &BrokerPlace, now: MonoMs) {
        self.liveness.touch(place, now);
    }

    /// A broker leaves (104).
    pub fn unregister(&mut self, place: &BrokerPlace, broker_name: &str, broker_id: i64) {
        self.liveness.remove(place);
        let Some(broker) = self.brokers.get_mut(broker_name) else {
            return;
        };
        // Only if the number is still this address's: it may have been taken over meanwhile.
        if broker.addresses.get(&broker_id) == Some(&place.address) {
            broker.addresses.remove(&broker_id);
        }
        if broker.addresses.is_empty() {
            self.brokers.remove(broker_name);
            self.topics.retain(|_, queues| {
                queues.remove(broker_name);
                !queues.is_empty()
            });
        } else if broker.acting_master && !broker.addresses.contains_key(&MASTER_ID) {
            for queues in self
                .topics
                .values_mut()
                .filter_map(|all| all.get_mut(broker_name))
            {
                queues.perm &= !PERM_WRITE;
            }
        }
    }

    /// Drops brokers whose time is up; returns them.
    pub fn expire(&mut self, now: MonoMs) -> Vec<BrokerPlace> {
        let gone = self.liveness.expired(now);
        self.drop_all(&gone);
        gone
    }

    /// Drops the brokers that registered over a connection that closed (trap 34); returns them.
    pub fn connection_closed(&mut self, connection: ConnectionId) -> Vec<BrokerPlace> {
        let gone = self.liveness.of_connection(connection);
        self.drop_all(&gone);
        gone
    }

    fn drop_all(&mut self, places: &[BrokerPlace]) {
        for place in places {
            if let Some(live) = self.liveness.remove(place) {
                self.unregister(place, &live.broker_name, live.broker_id);
            }
        }
    }

    /// Takes write permission from a broker's topics, or gives it; returns how many there are.
    pub fn set_write(&mut self, broker_name: &str, writable: bool) -> usize {
        let mut count = 0;
        for queues in self
            .topics
            .values_mut()
            .filter_map(|all| all.get_mut(broker_name))
        {
            queues.perm = if writable {
                PERM_READ | PERM_WRITE
            } else {
                queues.perm & !PERM_WRITE
            };
            count += 1;
        }
        count
    }

    /// Forgets a topic, everywhere or in one cluster (216).
    pub fn delete_topic(&mut self, topic: &str, cluster: Option<&str>) {
        let Some(cluster) = cluster else {
            self.topics.remove(topic);
            return;
        };
        let brokers = &self.brokers;
        let emptied = self.topics.get_mut(topic).is_some_and(|queues| {
            queues.retain(|name| brokers.get(name).is_none_or(|held| held.cluster != cluster));
            queues.is_empty()
        });
        if emptied {
            self.topics.remove(topic);
        }
    }

    /// Sets a topic's queues by hand (217); brokers that aren't known are left out.
    ///
    /// # Errors
    /// [`RegisterError::Full`] for a topic that is new.
    pub fn put_topic(
        &mut self,
        topic: &str,
        queues: Vec<(String, Queues)>,
    ) -> Result<(), RegisterError> {
        self.put_topic_within(topic, queues, TOPICS_COUNT_MAX)
    }

    pub(super) fn put_topic_within(
        &mut self,
        topic: &str,
        queues: Vec<(String, Queues)>,
        topics_max: usize,
    ) -> Result<(), RegisterError> {
        let known = queues
            .into_iter()
            .filter(|(name, _)| self.brokers.contains_key(name));
        let known: Vec<(String, Queues)> = known.collect();
        if known.is_empty() {
            return Ok(());
        }
        if !self.topics.contains_key(topic) && self.topics.len() >= topics_max {
            return Err(RegisterError::Full);
        }
        let held = self.topics.entry(topic.to_owned()).or_default();
        for (name, queues) in known {
            held.set(&name, queues);
        }
        Ok(())
    }
}
