//! The queues of a group's dead letters.
//!
//! **Owns** where they are, what they hold, how far they have been resent, reading them.
//! **Lives on** the command's runtime.
//! **Invariants** how far is the committed offset of one group, [`POSITION_GROUP`], so it lives
//! with the broker and any machine goes on where another one stopped. Nothing is deleted.
//! **Limits** [`PAGE_MESSAGES`] messages a pull.
//! **Not here** what is resent (`letter`), the commands (`super`).

use bytes::Bytes;
use gantry_protocol::body::{SubscriptionGroupConfig, TopicStats};
use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_protocol::request::offset::{QueryConsumerOffset, UpdateConsumerOffset};
use gantry_protocol::request::pull::{FLAG_SUBSCRIPTION, PullHeader};
use gantry_protocol::request::topic::TopicHeader;

use crate::admin::session::{Broker, Session, pages};
use crate::client::{ask, refused};

/// Its committed offset in a `%DLQ%` topic is how far that was resent.
pub const POSITION_GROUP: &str = "gantry-dlq-resend";
/// Messages read at once, as much as a broker gives by default.
pub const PAGE_MESSAGES: i32 = 32;
/// A group that every broker has, for tools that read.
const READING_GROUP: &str = "TOOLS_CONSUMER";

/// One queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letters {
    /// Its broker.
    pub broker: Broker,
    /// `%DLQ%group`.
    pub topic: String,
    /// Its number.
    pub queue_id: i32,
    /// The oldest one.
    pub min: i64,
    /// One past the newest.
    pub max: i64,
    /// Those before were resent.
    pub position: i64,
}

impl Letters {
    /// The queues of a topic on one broker.
    ///
    /// # Errors
    /// The broker can't be reached, or refuses.
    pub async fn of(
        session: &mut Session,
        topic: &str,
        broker: &Broker,
    ) -> Result<Vec<Self>, String> {
        let code = request::GET_TOPIC_STATS_INFO;
        let header = TopicHeader { topic };
        let reply = session.call(&broker.address, code, header.to_ext()).await?;
        let stats = TopicStats::parse(&reply.body).map_err(|error| error.to_string())?;
        let mut all = Vec::new();
        for (queue, bounds) in stats.queues {
            let mut one = Self {
                broker: broker.clone(),
                topic: topic.to_owned(),
                queue_id: queue.queue_id,
                min: bounds.min_offset,
                max: bounds.max_offset,
                position: bounds.min_offset,
            };
            let known = one.committed(session).await?;
            one.position = known.unwrap_or(one.min).clamp(one.min, one.max);
            all.push(one);
        }
        Ok(all)
    }

    async fn committed(&self, session: &mut Session) -> Result<Option<i64>, String> {
        let header = QueryConsumerOffset {
            consumer_group: POSITION_GROUP,
            topic: &self.topic,
            queue_id: self.queue_id,
            set_zero_if_not_found: Some(false),
        };
        let (code, missing) = (request::QUERY_CONSUMER_OFFSET, response::QUERY_NOT_FOUND);
        let reply = session.call_unless(&self.broker.address, code, header.to_ext(), missing);
        let reply = reply.await?;
        Ok(reply.and_then(|reply| reply.ext("offset")?.parse().ok()))
    }

    /// Notes that everything before `offset` was resent.
    ///
    /// # Errors
    /// The broker can't be reached, or refuses.
    pub async fn commit(&self, session: &mut Session, offset: i64) -> Result<(), String> {
        let header = UpdateConsumerOffset {
            consumer_group: POSITION_GROUP,
            topic: &self.topic,
            queue_id: self.queue_id,
            commit_offset: offset,
        };
        let code = request::UPDATE_CONSUMER_OFFSET;
        let reply = session.call(&self.broker.address, code, header.to_ext());
        reply.await.map(|_| ())
    }

    /// Records from `offset` on, one after the other, and where to go on; none at the end.
    ///
    /// # Errors
    /// The broker can't be reached, or refuses.
    pub async fn read(
        &self,
        session: &mut Session,
        offset: i64,
    ) -> Result<Option<(Bytes, i64)>, String> {
        if offset >= self.max {
            return Ok(None);
        }
        let header = PullHeader {
            consumer_group: READING_GROUP,
            topic: &self.topic,
            queue_id: self.queue_id,
            queue_offset: offset,
            max_msg_nums: PAGE_MESSAGES,
            sys_flag: FLAG_SUBSCRIPTION,
            commit_offset: 0,
            suspend_timeout_ms: 0,
            sub_version: 0,
            subscription: Some("*"),
            expression_type: Some("TAG"),
            max_msg_bytes: None,
        };
        let address = &self.broker.address;
        let command = ask(request::PULL_MESSAGE, header.to_ext());
        let reply = session.any(address, command).await?;
        let next = reply.ext("nextBeginOffset");
        let next = next.and_then(|text| text.parse::<i64>().ok());
        match (reply.code, next.filter(|next| *next > offset)) {
            (response::SUCCESS, Some(next)) => Ok(Some((reply.body, next))),
            (response::PULL_RETRY_IMMEDIATELY | response::PULL_OFFSET_MOVED, Some(next)) => {
                Ok(Some((Bytes::new(), next)))
            }
            (response::PULL_NOT_FOUND, _) => Ok(None),
            _ => Err(refused(&format!("PULL_MESSAGE to {address}"), &reply)),
        }
    }
}

/// Makes sure that a broker keeps the position's group.
///
/// # Errors
/// The broker can't be reached, or refuses.
pub async fn keep_position_group(session: &mut Session, broker: &Broker) -> Result<(), String> {
    let known = pages::groups(session, &broker.address).await?;
    if known.contains_key(POSITION_GROUP) {
        return Ok(());
    }
    let config = SubscriptionGroupConfig::new(POSITION_GROUP);
    let body = to_bytes(&config.to_value(), IntegerKeys::Quoted);
    let code = request::UPDATE_AND_CREATE_SUBSCRIPTIONGROUP;
    let reply = session.call_with_body(&broker.address, code, [], body);
    reply.await.map(|_| ())
}
