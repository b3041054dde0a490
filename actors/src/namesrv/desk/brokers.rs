//! What brokers ask.
//!
//! **Owns** the answers to 103, 104, 322, 904, 901, 205, 327.
//! **Lives on** the control plane.
//! **Invariants** an address that clients could not parse is refused at the door (trap 20).
//! **Limits** `ADDRESS_CHARS_MAX`, `NAME_CHARS_MAX`.
//! **Not here** the rules of registration (`routes`).

use gantry_protocol::HeaderView;
use gantry_protocol::frame::FRAME_BYTES_MAX;
use gantry_protocol::request::namesrv::{
    BrokerHeartbeat, BrokerIdentity, BrokerNameHeader, MemberGroup, RegisterBroker,
};
use gantry_protocol::system_topic::ORDER_TOPIC_CONFIG_NAMESPACE;

use super::{Answer, Asked, Desk, field, system_error};
use crate::namesrv::bodies::{self, RegisterBody};
use crate::namesrv::liveness::BrokerPlace;
use crate::namesrv::routes::Registration;
use crate::refusal::{Refusal, quoted};

/// Longest address: a full host name and a port.
const ADDRESS_CHARS_MAX: usize = 255 + 6;
/// Largest table of ordered topics in the reply to a 103: the rest of a frame is for its header.
const ORDER_BODY_BYTES_MAX: usize = FRAME_BYTES_MAX as usize - (1 << 20);
/// Longest broker or cluster name.
const NAME_CHARS_MAX: usize = 255;

/// Who speaks: the four fields of every broker request.
struct Speaker {
    place: BrokerPlace,
    broker_name: String,
    broker_id: i64,
}

fn speaker(view: &HeaderView<'_>) -> Result<Speaker, Refusal> {
    let header = BrokerIdentity::parse(view).map_err(field)?;
    let (cluster, address) = (header.cluster_name, header.broker_addr);
    let broker_name = header.broker_name;
    for name in [cluster, broker_name] {
        if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
            return Err(system_error(format!(
                "the name {} is not a broker's or cluster's name",
                quoted(name)
            )));
        }
    }
    // Go cuts the address list at commas and colons without reading the JSON (trap 20).
    let plain =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    if address.len() > ADDRESS_CHARS_MAX || !address.chars().all(plain) {
        return Err(system_error(format!(
            "brokerAddr {} is not host:port",
            quoted(address)
        )));
    }
    Ok(Speaker {
        place: BrokerPlace {
            cluster: cluster.to_owned(),
            address: address.to_owned(),
        },
        broker_name: broker_name.to_owned(),
        broker_id: header.broker_id,
    })
}

impl Desk {
    pub(super) fn register(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let who = speaker(asked.view)?;
        let header = RegisterBroker::parse(asked.view).map_err(field)?;
        let body = register_body(asked, &header)?;
        if body.left_out > 0 {
            tracing::warn!(
                broker = who.broker_name,
                topics = body.left_out,
                "topics without a usable name are left out of a registration"
            );
        }
        let timeout_ms = header
            .heartbeat_timeout_ms
            .and_then(|ms| u64::try_from(ms).ok());
        // A broker that doesn't say is an old one; its slaves never act as masters.
        let knows_acting = asked.view.ext("enableActingMaster").is_some();
        let registered = self
            .routes
            .register(
                &Registration {
                    cluster: who.place.cluster,
                    broker_name: who.broker_name.clone(),
                    address: who.place.address.clone(),
                    broker_id: who.broker_id,
                    ha_address: header.ha_server_addr.unwrap_or_default().to_owned(),
                    zone: header.zone.map(str::to_owned),
                    timeout_ms: timeout_ms.filter(|ms| *ms > 0),
                    acting_master: knows_acting.then_some(header.acting_master),
                    version: body.version,
                    topics: body.topics,
                    connection: asked.connection,
                },
                asked.now,
                self.settings.delete_topic_with_broker_registration,
            )
            .map_err(|refused| system_error(refused.to_string()))?;
        tracing::debug!(
            broker = who.broker_name,
            address = who.place.address,
            "broker registered"
        );
        let mut reply = asked.ok().with_ext_fields();
        if let Some(address) = &registered.ha_address {
            reply = reply.with_ext("haServerAddr", address.as_str());
        }
        if let Some(address) = &registered.master_address {
            reply = reply.with_ext("masterAddr", address.as_str());
        }
        if self.settings.return_order_topic_config_to_broker
            && let Some(values) = self.values.list(ORDER_TOPIC_CONFIG_NAMESPACE)
        {
            let body = bodies::key_values(values);
            if body.len() <= ORDER_BODY_BYTES_MAX {
                reply = reply.with_body(body);
            } else {
                // The topics stay registered; a broker that hears nothing keeps what it knows.
                tracing::warn!(
                    bytes = body.len(),
                    allowed = ORDER_BODY_BYTES_MAX,
                    "{ORDER_TOPIC_CONFIG_NAMESPACE} is too large to be sent to brokers"
                );
            }
        }
        Ok(reply)
    }

    pub(super) fn unregister(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let who = speaker(asked.view)?;
        self.routes
            .unregister(&who.place, &who.broker_name, who.broker_id);
        tracing::info!(
            broker = who.broker_name,
            address = who.place.address,
            "broker unregistered"
        );
        Ok(asked.ok())
    }

    pub(super) fn beat(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let header = BrokerHeartbeat::parse(asked.view).map_err(field)?;
        let place = BrokerPlace {
            cluster: header.cluster_name.to_owned(),
            address: header.broker_addr.to_owned(),
        };
        self.routes.touch(&place, asked.now);
        Ok(asked.ok())
    }

    pub(super) fn query_data_version(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let who = speaker(asked.view)?;
        let theirs = bodies::read_data_version(&asked.command.body)
            .map_err(|why| system_error(format!("the body is not a DataVersion: {why}")))?;
        let changed = self.routes.version_changed(&who.place, theirs);
        self.routes.touch(&who.place, asked.now);
        let reply = asked.ok().with_ext("changed", changed);
        Ok(match self.routes.version_of(&who.place) {
            Some(ours) => reply.with_body(bodies::data_version(ours)),
            None => reply,
        })
    }

    pub(super) fn members(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let header = MemberGroup::parse(asked.view).map_err(field)?;
        let (cluster, name) = (header.cluster_name, header.broker_name);
        let broker = self.routes.brokers().get(name);
        Ok(asked.ok_body(bodies::member_group(cluster, name, broker)))
    }

    pub(super) fn set_write(&mut self, asked: &Asked<'_, '_>, writable: bool) -> Answer {
        let name = BrokerNameHeader::parse(asked.view)
            .map_err(field)?
            .broker_name;
        let count = self.routes.set_write(name, writable);
        tracing::info!(
            broker = name,
            writable,
            topics = count,
            "write permission changed"
        );
        let count = i64::try_from(count).unwrap_or(i64::MAX);
        let ext = if writable {
            "addTopicCount"
        } else {
            "wipeTopicCount"
        };
        Ok(asked.ok().with_ext(ext, count))
    }
}

fn register_body(
    asked: &Asked<'_, '_>,
    header: &RegisterBroker<'_>,
) -> Result<RegisterBody, Refusal> {
    let (compressed, crc) = (header.compressed, header.body_crc);
    let (body, version) = (&asked.command.body, asked.command.version);
    bodies::read_register(body, compressed, crc, version).map_err(|error| {
        tracing::warn!(%error, "registration body refused");
        system_error(error.to_string())
    })
}
