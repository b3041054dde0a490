//! Which brokers are alive.
//!
//! **Owns** the time of each broker's last word, its expiry, and the connection it registered over.
//! **Lives on** the control plane; pure, the time is an argument.
//! **Invariants** a broker is in here exactly while its routes are served; the connection is that
//! of
//! the latest registration, so the close of an older one is nobody's death. A host whose time is
//! set loses nobody.
//! **Limits** one entry per broker address, bounded by `routes::BROKERS_COUNT_MAX`.
//! **Not here** what a death does to the routes (`routes`).

use std::collections::HashMap;

pub use gantry_protocol::body::DataVersion;
use gantry_runtime::clock::MonoMs;

/// A broker that names no timeout lives this long after its last word
/// (`RouteInfoManager.DEFAULT_BROKER_CHANNEL_EXPIRED_TIME`, 5.5.0).
pub const EXPIRE_AFTER_MS_DEFAULT: u64 = 120_000;

/// Names a connection to the name server; unique for the process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ConnectionId(pub u64);

/// A broker's place: addresses alone may repeat in several clusters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BrokerPlace {
    /// Its cluster.
    pub cluster: String,
    /// The address it advertises.
    pub address: String,
}

/// What is known of a live broker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Live {
    /// When it last registered or beat.
    pub last: MonoMs,
    /// How long it lives after that.
    pub timeout_ms: u64,
    /// Its topics' version.
    pub version: DataVersion,
    /// Where its slaves fetch from.
    pub ha_address: String,
    /// Its name.
    pub broker_name: String,
    /// Its number.
    pub broker_id: i64,
    /// The connection it registered over.
    pub connection: ConnectionId,
}

/// The live brokers.
#[derive(Debug, Default)]
pub struct Liveness {
    brokers: HashMap<BrokerPlace, Live>,
}

impl Liveness {
    /// A broker registered.
    pub fn put(&mut self, place: BrokerPlace, live: Live) {
        self.brokers.insert(place, live);
    }

    /// A broker left or was turned away.
    pub fn remove(&mut self, place: &BrokerPlace) -> Option<Live> {
        self.brokers.remove(place)
    }

    /// What is known of a broker.
    pub fn get(&self, place: &BrokerPlace) -> Option<&Live> {
        self.brokers.get(place)
    }

    /// A broker gave a sign of life; unknown ones are ignored.
    pub fn touch(&mut self, place: &BrokerPlace, now: MonoMs) {
        if let Some(live) = self.brokers.get_mut(place) {
            live.last = live.last.max(now);
        }
    }

    /// Those whose time is up.
    pub fn expired(&self, now: MonoMs) -> Vec<BrokerPlace> {
        self.select(|live| now.since_ms(live.last) > live.timeout_ms)
    }

    /// Those that registered over a connection.
    pub fn of_connection(&self, connection: ConnectionId) -> Vec<BrokerPlace> {
        self.select(|live| live.connection == connection)
    }

    fn select(&self, want: impl Fn(&Live) -> bool) -> Vec<BrokerPlace> {
        let mut places: Vec<BrokerPlace> = self
            .brokers
            .iter()
            .filter(|(_, live)| want(live))
            .map(|(place, _)| place.clone())
            .collect();
        places.sort();
        places
    }
}
