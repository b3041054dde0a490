//! A reply to a request, from its header to what is pushed and stored.
//!
//! **Owns** the checks of 324 and 325 in RocketMQ's order (`ReplyMessageProcessor`, 5.5.0).
//! **Lives on** the session's data core; pure.
//! **Invariants** its properties are pushed and stored as they were sent, but for region and trace
//! switch, which the broker sets. Where nothing may be stored, it is still pushed.
//! **Limits** as for any send.
//! **Not here** the push (`requests::replies`).

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use gantry_protocol::code::response;
use gantry_protocol::frame::Frame;
use gantry_protocol::message::body_crc;
use gantry_protocol::properties::{self, SendProperties, name};
use gantry_protocol::request::send::SendHeader;
use gantry_protocol::sys_flag;
use gantry_storage::units::QueueKey;

use super::checks::{check_inner_batch, check_properties_len, check_topic_name};
use super::{SendDesk, marks};
use crate::data::catalog::Catalog;
use crate::data::words::Append;
use crate::refusal::Refusal;

/// What becomes of a reply.
#[derive(Debug)]
#[allow(
    clippy::large_enum_variant,
    reason = "boxing would allocate for each message"
)]
pub enum CheckedReply {
    /// It can be pushed.
    Ready(CheckedPush),
    /// Its topic must be made first.
    NoTopic,
}

/// A reply that can be pushed.
#[derive(Debug)]
pub struct CheckedPush {
    /// The queue of the reply topic.
    pub key: QueueKey,
    /// Its properties.
    pub properties: Bytes,
    /// What is to be stored.
    pub append: Option<Append>,
}

impl SendDesk {
    /// Checks a reply and prepares it.
    ///
    /// # Errors
    /// What the replier is told.
    pub fn check_reply(
        &self,
        catalog: &Catalog,
        header: &SendHeader<'_>,
        frame: &Frame,
        peer: SocketAddr,
        now_ms: u64,
    ) -> Result<CheckedReply, Refusal> {
        self.check_opening_time(now_ms, response::SYSTEM_ERROR)?;
        check_topic_name(header.topic)?;
        let Some(topic) = catalog.topic(header.topic) else {
            return Ok(CheckedReply::NoTopic);
        };
        self.check_broker(catalog, topic)?;
        let key = self.choose_queue(topic, header.queue_id)?;
        self.check_body(&frame.body)?;
        let count = properties::get(header.properties, name::INNER_NUM);
        check_inner_batch(header.sys_flag, count)?;
        let properties = self.reply_properties(header.properties)?;
        let may_store =
            self.settings.store_reply_message_enable && self.refusing.borrow().is_none();
        let append = may_store.then(|| {
            let stored = std::str::from_utf8(&properties).unwrap_or_default();
            let marks = marks::of_kept(&SendProperties::scan(stored), stored);
            Append {
                topic: Arc::clone(topic),
                flag: header.flag,
                // What a body is compressed with stays known, which RocketMQ forgets.
                sys_flag: header.sys_flag & !sys_flag::TRANSACTION_MASK,
                born_ms: header.born_timestamp,
                born_host: peer,
                reconsume_times: header.reconsume_times,
                body: frame.body.clone(),
                body_crc: body_crc(&frame.body),
                properties: properties.clone(),
                marks,
                rare: None,
            }
        });
        Ok(CheckedReply::Ready(CheckedPush {
            key,
            properties,
            append,
        }))
    }

    fn reply_properties(&self, sent: &str) -> Result<Bytes, Refusal> {
        check_properties_len(sent.len())?;
        let mut scratch = self.scratch.borrow_mut();
        scratch.clear();
        for (key, value) in properties::items(sent) {
            if !matches!(key, name::MSG_REGION | name::TRACE_ON) {
                properties::append(&mut scratch, key, value);
            }
        }
        let trace_on = self.settings.trace_on.to_string();
        properties::append(&mut scratch, name::MSG_REGION, &self.settings.region_id);
        properties::append(&mut scratch, name::TRACE_ON, &trace_on);
        check_properties_len(scratch.len())?;
        Ok(self.kept(&scratch))
    }
}
