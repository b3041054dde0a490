//! What is asked of the route tables.
//!
//! **Owns** route answers with the acting-master rule, and the lists of topics and brokers.
//! **Lives on** the control plane; pure.
//! **Invariants** a route has queues and at least one broker, else there is none (behaviours §2.2).
//! **Limits** none of its own.
//! **Not here** changing the tables (`routes`), encodings (`desk`).

use std::collections::BTreeMap;

use super::routes::{Broker, MASTER_ID, MEMBER_TOPIC_PREFIX, PERM_WRITE, Queues, Routes};

/// Unit topic (`TopicSysFlag`, 5.5.0).
const SYS_FLAG_UNIT: i32 = 1;
/// Topic with a unit subscription.
const SYS_FLAG_UNIT_SUB: i32 = 2;

/// A topic's route.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Route {
    /// Queues by broker name.
    pub queues: Vec<(String, Queues)>,
    /// The brokers, by name.
    pub brokers: Vec<(String, Broker)>,
}

/// Which unit topics a list wants (311, 312, 313).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitFilter {
    /// Unit topics.
    Unit,
    /// Topics with a unit subscription.
    UnitSub,
    /// Those with a unit subscription that aren't unit topics.
    UnitSubNotUnit,
}

impl Routes {
    /// A topic's route; `None` unless queues and a broker exist.
    pub fn route(&self, topic: &str, acting_master: bool) -> Option<Route> {
        let queues = self.topics.get(topic)?;
        let mut route = Route {
            queues: Vec::new(),
            brokers: Vec::new(),
        };
        for (name, held) in queues.iter() {
            route.queues.push((name.to_owned(), *held));
            if let Some(broker) = self.brokers.get(name) {
                let mut broker = broker.clone();
                let readable_only = held.perm & PERM_WRITE == 0;
                if acting_master && !topic.starts_with(MEMBER_TOPIC_PREFIX) && readable_only {
                    show_acting_master(&mut broker);
                }
                route.brokers.push((name.to_owned(), broker));
            }
        }
        (!route.queues.is_empty() && !route.brokers.is_empty()).then_some(route)
    }

    /// The brokers by name (106).
    pub fn brokers(&self) -> &BTreeMap<String, Broker> {
        &self.brokers
    }

    /// Cluster → broker names.
    pub fn clusters(&self) -> BTreeMap<&str, Vec<&str>> {
        let mut clusters: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (name, broker) in &self.brokers {
            clusters
                .entry(broker.cluster.as_str())
                .or_default()
                .push(name);
        }
        clusters
    }

    /// All topics, sorted.
    pub fn topics(&self) -> Vec<&str> {
        sorted(self.topics.keys())
    }

    /// The topics with queues on a broker of a cluster, sorted.
    pub fn topics_of_cluster(&self, cluster: &str) -> Vec<&str> {
        let held = |name: &str| self.brokers.get(name).is_some_and(|b| b.cluster == cluster);
        sorted(
            self.topics
                .iter()
                .filter(|(_, all)| all.iter().any(|(name, _)| held(name)))
                .map(|(topic, _)| topic),
        )
    }

    /// The topics whose first queues carry these unit flags, sorted.
    pub fn unit_topics(&self, filter: UnitFilter) -> Vec<&str> {
        let wanted = |flag: i32| match filter {
            UnitFilter::Unit => flag & SYS_FLAG_UNIT != 0,
            UnitFilter::UnitSub => flag & SYS_FLAG_UNIT_SUB != 0,
            UnitFilter::UnitSubNotUnit => {
                flag & (SYS_FLAG_UNIT | SYS_FLAG_UNIT_SUB) == SYS_FLAG_UNIT_SUB
            }
        };
        sorted(
            self.topics
                .iter()
                .filter(|(_, all)| {
                    let first = all.iter().next();
                    first.is_some_and(|(_, queues)| wanted(queues.sys_flag))
                })
                .map(|(topic, _)| topic),
        )
    }
}

/// With no master alive, the smallest slave is shown as number 0.
fn show_acting_master(broker: &mut Broker) {
    if !broker.acting_master || broker.addresses.contains_key(&MASTER_ID) {
        return;
    }
    if let Some((_, address)) = broker.addresses.pop_first() {
        broker.addresses.insert(MASTER_ID, address);
    }
}

fn sorted<'a>(names: impl Iterator<Item = &'a String>) -> Vec<&'a str> {
    let mut names: Vec<&str> = names.map(String::as_str).collect();
    names.sort_unstable();
    names
}
