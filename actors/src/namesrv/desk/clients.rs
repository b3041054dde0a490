//! What clients and tools ask.
//!
//! **Owns** the answers to 105, 106, 206, 216, 217, 224, 304, 311–313.
//! **Lives on** the control plane.
//! **Invariants** a route is JSON without any whitespace (trap 19), its integer keys quoted for
//! clients
//! from 4.9.4 on or on their word, plain for older ones (trap 17).
//! **Limits** a reply is one frame.
//! **Not here** the tables (`routes`, `lookup`).

use gantry_protocol::Command;
use gantry_protocol::code::response;
use gantry_protocol::request::namesrv::{ClusterHeader, DeleteTopic, RouteHeader};
use gantry_protocol::system_topic::ORDER_TOPIC_CONFIG_NAMESPACE;

use super::{Answer, Asked, Desk, field, system_error};
use crate::namesrv::bodies;
use crate::namesrv::liveness::ConnectionId;
use crate::namesrv::lookup::{Route, UnitFilter};
use crate::refusal::{Refusal, quoted};

/// `V4_9_4`: from here on clients read standard JSON (`ClientRequestProcessor`, 5.5.0).
const STANDARD_JSON_VERSION: i32 = 401;

impl Desk {
    pub(super) fn topic_route(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let waited_ms = asked.now.since_ms(self.boot);
        if self.settings.need_wait_for_service && waited_ms < self.settings.wait_for_service_ms {
            return Err(system_error("name server not ready"));
        }
        let RouteHeader {
            topic,
            standard_json,
        } = RouteHeader::parse(asked.view).map_err(field)?;
        let route = self.known_or_expected(asked.connection, topic)?;
        let order = self
            .settings
            .order_message_enable
            .then(|| self.values.get(ORDER_TOPIC_CONFIG_NAMESPACE, topic))
            .flatten();
        let standard = standard_json || asked.command.version >= STANDARD_JSON_VERSION;
        Ok(asked.ok_body(bodies::route(&route, order, standard)))
    }

    fn known_or_expected(
        &mut self,
        connection: ConnectionId,
        topic: &str,
    ) -> Result<Route, Refusal> {
        let acting_master = self.settings.support_acting_master;
        if let Some(route) = self.routes.route(topic, acting_master) {
            self.told.note(connection, &route);
            return Ok(route);
        }
        let expected = self.told.expected(connection, topic, &self.routes);
        expected.ok_or_else(|| {
            let remark = format!(
                "No topic route info in name server for the topic: {}",
                quoted(topic)
            );
            Refusal::new(response::TOPIC_NOT_EXIST, remark)
        })
    }

    pub(super) fn clusters(&self, asked: &Asked<'_, '_>) -> Command {
        let body = bodies::clusters(self.routes.brokers(), &self.routes.clusters());
        asked.ok_body(body)
    }

    pub(super) fn all_topics(&self, asked: &Asked<'_, '_>) -> Answer {
        if !self.settings.enable_all_topic_list {
            return Err(system_error("disable"));
        }
        Ok(asked.ok_body(bodies::topic_list(&self.routes.topics(), None)))
    }

    pub(super) fn topics_of_cluster(&self, asked: &Asked<'_, '_>) -> Answer {
        self.check_lists()?;
        let cluster = ClusterHeader::parse(asked.view).map_err(field)?.cluster;
        let topics = self.routes.topics_of_cluster(cluster);
        Ok(asked.ok_body(bodies::topic_list(&topics, None)))
    }

    /// The names of clusters and brokers, which are topics too, and any broker's address.
    pub(super) fn system_topics(&self, asked: &Asked<'_, '_>) -> Answer {
        self.check_lists()?;
        let mut names: Vec<&str> = Vec::new();
        for (cluster, brokers) in self.routes.clusters() {
            names.push(cluster);
            names.extend(brokers);
        }
        let address = self
            .routes
            .brokers()
            .values()
            .find_map(|broker| broker.addresses.values().next());
        Ok(asked.ok_body(bodies::topic_list(&names, address.map(String::as_str))))
    }

    pub(super) fn unit_topics(&self, asked: &Asked<'_, '_>, filter: UnitFilter) -> Answer {
        self.check_lists()?;
        Ok(asked.ok_body(bodies::topic_list(&self.routes.unit_topics(filter), None)))
    }

    pub(super) fn delete_topic(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let header = DeleteTopic::parse(asked.view).map_err(field)?;
        self.routes.delete_topic(header.topic, header.cluster_name);
        Ok(asked.ok())
    }

    pub(super) fn put_topic(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let topic = RouteHeader::parse(asked.view).map_err(field)?.topic;
        if !bodies::is_topic_name(topic) {
            return Err(system_error(format!(
                "no topic has the name {}",
                quoted(topic)
            )));
        }
        let queues = bodies::read_route_queues(&asked.command.body)
            .map_err(|why| system_error(format!("the body is not a route: {why}")))?;
        let put = self.routes.put_topic(topic, queues);
        put.map_err(|why| system_error(why.to_string()))?;
        Ok(asked.ok())
    }

    fn check_lists(&self) -> Result<(), Refusal> {
        if self.settings.enable_topic_list {
            Ok(())
        } else {
            Err(system_error("disable"))
        }
    }
}
