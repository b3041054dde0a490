//! Positions of groups, taken over queue by queue.
//!
//! **Owns** where each position goes.
//! **Lives on** the command's runtime.
//! **Invariants** as the import's.
//! **Limits** two requests a position, one more a topic.
//! **Not here** topics and groups, which come first (`super`).

use std::collections::BTreeMap;

use gantry_protocol::body::TopicStats;
use gantry_protocol::code::{request, response};
use gantry_protocol::request::offset::{QueryConsumerOffset, UpdateConsumerOffset};
use gantry_protocol::request::topic::TopicHeader;
use gantry_protocol::system_topic;

use super::Work;
use super::files::Position;
use super::tally::{self, Fate, Tally};

/// What the queues of a topic hold, by number.
type Queues = BTreeMap<i32, Bounds>;

/// First offset of a queue, and one past the last.
#[derive(Debug, Clone, Copy, Default)]
struct Bounds {
    min: i64,
    max: i64,
}

impl Work<'_> {
    /// Takes positions over.
    ///
    /// # Errors
    /// The broker can't be reached.
    pub(super) async fn positions(
        &mut self,
        all: &[Position],
        tally: &mut Tally,
    ) -> Result<(), String> {
        let mut known: BTreeMap<&str, Queues> = BTreeMap::new();
        for position in all {
            let name = format!(
                "{}@{} {}",
                position.topic, position.group, position.queue_id
            );
            let system = system_topic::is_system_group(&position.group)
                || system_topic::is_system_topic(&position.topic);
            let fate = if system {
                Fate::System
            } else {
                if !known.contains_key(position.topic.as_str()) {
                    let queues = self.queues(&position.topic).await?;
                    known.insert(&position.topic, queues);
                }
                let bounds = known
                    .get(position.topic.as_str())
                    .and_then(|queues| queues.get(&position.queue_id));
                self.position(position, bounds.copied(), tally).await?
            };
            tally.note(tally::POSITIONS, &name, fate);
        }
        Ok(())
    }

    /// The queues that a topic has, or would have after a dry run.
    async fn queues(&mut self, topic: &str) -> Result<Queues, String> {
        let Some(config) = self.topics.get(topic) else {
            return Ok(Queues::new());
        };
        let count = config.read_queue_nums.max(config.write_queue_nums);
        let queues = (0..count).map(|queue| (queue, Bounds::default()));
        let mut queues: Queues = queues.collect();
        let header = TopicHeader { topic };
        let (code, missing) = (request::GET_TOPIC_STATS_INFO, response::TOPIC_NOT_EXIST);
        let call = self
            .session
            .call_unless(&self.address, code, header.to_ext(), missing);
        if let Some(reply) = call.await? {
            let stats = TopicStats::parse(&reply.body).map_err(|error| error.to_string())?;
            let found = stats.queues.into_iter();
            queues.extend(found.map(|(queue, stats)| {
                let (min, max) = (stats.min_offset, stats.max_offset);
                (queue.queue_id, Bounds { min, max })
            }));
        }
        Ok(queues)
    }

    async fn position(
        &mut self,
        position: &Position,
        bounds: Option<Bounds>,
        tally: &mut Tally,
    ) -> Result<Fate, String> {
        let Some(bounds) = bounds else {
            let why = if self.topics.contains_key(&position.topic) {
                "the topic has no such queue"
            } else {
                "the broker has no such topic"
            };
            return Ok(Fate::Failed(why.to_owned()));
        };
        if !self.groups.contains_key(&position.group) {
            return Ok(Fate::Failed("the broker has no such group".to_owned()));
        }
        let known = self.known(position).await?;
        let within = position.offset.clamp(0, bounds.max);
        let wanted = if known.is_some() { within } else { bounds.min };
        let decided = self.decide(known.map(|known| known == wanted));
        if wanted != position.offset && matches!(decided, None | Some(Fate::Taken)) {
            tally.set_elsewhere(known.is_none());
        }
        if let Some(fate) = decided {
            return Ok(fate);
        }
        let header = UpdateConsumerOffset {
            consumer_group: &position.group,
            topic: &position.topic,
            queue_id: position.queue_id,
            commit_offset: wanted,
        };
        let code = request::UPDATE_CONSUMER_OFFSET;
        let done = self.session.call(&self.address, code, header.to_ext());
        Ok(Self::settle(done.await))
    }

    /// Where the broker has the group.
    async fn known(&mut self, position: &Position) -> Result<Option<i64>, String> {
        let header = QueryConsumerOffset {
            consumer_group: &position.group,
            topic: &position.topic,
            queue_id: position.queue_id,
            set_zero_if_not_found: Some(false),
        };
        let command = crate::client::ask(request::QUERY_CONSUMER_OFFSET, header.to_ext());
        let reply = self.session.any(&self.address, command).await?;
        let offset = reply.ext("offset").and_then(|text| text.parse().ok());
        // Whatever else it says, it has none.
        Ok(offset.filter(|_| reply.code == response::SUCCESS))
    }
}
