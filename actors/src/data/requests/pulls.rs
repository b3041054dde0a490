//! A pull, from its header to a request for a queue actor.
//!
//! **Owns** the checks of 11 and 361, in RocketMQ's order (behaviours §5.1), and the choice of the
//! filter.
//! **Lives on** the session's data core.
//! **Invariants** a pull never makes a topic; it makes a group if the settings allow. A pull whose
//! subscription is newer than the catalog's gets 25, so it is never filtered by an old one (trap
//! 62).
//! **Limits** [`SUSPEND_MS_MAX`]; sizes as the settings say.
//! **Not here** offsets, records, waiting (`shard::pulls`), what a filter is (`filter`).

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::HeaderView;
use gantry_protocol::frame::Frame;
use gantry_protocol::request::pull::{self, PullHeader};
use gantry_protocol::system_topic;
use gantry_storage::units::{QueueId, QueueKey};

use super::dispatch::{no_group, no_topic};
use super::parked::{Caller, Waited};
use crate::data::catalog::{Catalog, Group, PERM_READ};
use crate::data::core::DataCore;
use crate::data::filter::subscription::{Filter, Wanted};
use crate::data::host::Host;
use crate::data::queue::store::QueueStore;
use crate::data::words::{Pull, QueueRequest, ReplyTo};
use crate::refusal::{Refusal, no_property_filter, quoted};
use crate::seam::TopicEntry;

/// Longest suspension a client may ask for; Java's clients ask for 15 s and wait 30 s.
pub const SUSPEND_MS_MAX: u64 = 120_000;

impl<S: QueueStore, H: Host> DataCore<S, H> {
    pub(in crate::data) fn pull(
        self: &Rc<Self>,
        view: &HeaderView<'_>,
        caller: Caller,
        frame: &Frame,
        to: ReplyTo,
        waited: Waited,
    ) -> Result<(), Refusal> {
        let header = PullHeader::parse(view).map_err(Refusal::malformed)?;
        let (key, pull) = {
            let catalog = self.catalog.borrow();
            self.check_broker(&catalog, view.code)?;
            let Some(group) = catalog.group(header.consumer_group) else {
                drop(catalog);
                let group = header.consumer_group;
                if self.may_make_group(group, waited) {
                    return self.park_for_group(group, caller, frame, waited);
                }
                return Err(no_group(group));
            };
            let topic = Self::check_names(&catalog, &header, group)?;
            let filter = self.filter_of(&catalog, group, &header)?;
            self.check_pull_consumer(group)?;
            self.prepare(&header, topic, group, filter)?
        };
        self.route_ask(key, to, QueueRequest::Pull(Box::new(pull)))
    }

    fn check_broker(&self, catalog: &Catalog, code: i32) -> Result<(), Refusal> {
        let address = self.settings.advertised.ip();
        if !catalog.readable() {
            let remark = format!("the broker[{address}] pulling message is forbidden");
            return Err(forbidden(remark));
        }
        if code == request::LITE_PULL_MESSAGE && !self.settings.lite_pull_message_enable.get() {
            let remark = format!("the broker[{address}] for lite pull consumer is forbidden");
            return Err(forbidden(remark));
        }
        Ok(())
    }

    fn check_names<'c>(
        catalog: &'c Catalog,
        header: &PullHeader<'_>,
        group: &Group,
    ) -> Result<&'c Arc<TopicEntry>, Refusal> {
        if !group.entry.config.consume_enable {
            let remark = format!("subscription group no permission, {}", group.entry.name);
            return Err(forbidden(remark));
        }
        let topic = catalog
            .topic(header.topic)
            .ok_or_else(|| no_topic(header.topic))?;
        let config = &topic.config;
        if config.perm & PERM_READ == 0 {
            let remark = format!(
                "the topic[{}] pulling message is forbidden",
                quoted(header.topic)
            );
            return Err(forbidden(remark));
        }
        if header.queue_id < 0 || header.queue_id >= config.read_queue_nums {
            let remark = format!(
                "queueId[{}] is illegal, topic:[{}] topicConfig.readQueueNums:[{}]",
                header.queue_id,
                quoted(header.topic),
                config.read_queue_nums
            );
            return Err(Refusal::new(response::INVALID_PARAMETER, remark));
        }
        Ok(topic)
    }

    fn filter_of(
        &self,
        catalog: &Catalog,
        group: &Group,
        header: &PullHeader<'_>,
    ) -> Result<Wanted, Refusal> {
        if header.has(pull::FLAG_CLASS_FILTER) {
            let remark = "class filters are not supported";
            return Err(Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, remark));
        }
        if header.has(pull::FLAG_SUBSCRIPTION) {
            let kind = header.expression_type;
            let filter = catalog.filter(kind, header.subscription.unwrap_or_default());
            return self.usable(filter, kind);
        }
        let missing = || {
            let remark = format!(
                "the consumer's subscription not exist: group {}, topic {}",
                group.entry.name,
                quoted(header.topic)
            );
            Refusal::new(response::SUBSCRIPTION_NOT_EXIST, remark)
        };
        let subscriptions = group.subscriptions.as_ref().ok_or_else(missing)?;
        if group.broadcasts() && !group.entry.config.consume_broadcast_enable {
            let remark = format!(
                "the consumer group[{}] can not consume by broadcast way",
                group.entry.name
            );
            return Err(forbidden(remark));
        }
        if group.entry.forbidden.contains(header.topic) {
            let remark = format!(
                "the consumer group[{}] is forbidden for topic[{}]",
                group.entry.name,
                quoted(header.topic)
            );
            return Err(forbidden(remark));
        }
        let subscription = subscriptions.get(header.topic).ok_or_else(missing)?;
        if subscription.version < header.sub_version {
            let remark = "the consumer's subscription not latest";
            return Err(Refusal::new(response::SUBSCRIPTION_NOT_LATEST, remark));
        }
        self.usable(subscription.filter.clone(), Some(&subscription.kind))
    }

    /// With `rejectPullConsumerEnable` a group pulls while members of it that are pushed to are
    /// connected, or as a tool (`PullMessageProcessor`, 5.5.0). A pull consumer can't be connected:
    /// its heartbeats are passed over (`control/groups/beat`).
    fn check_pull_consumer(&self, group: &Group) -> Result<(), Refusal> {
        let name = &group.entry.name;
        let is_rejected = self.settings.reject_pull_consumer_enable
            && group.entry.live.is_none()
            && !system_topic::is_pulling_system_group(name);
        if !is_rejected {
            return Ok(());
        }
        let remark = format!(
            "the consumer's group info not exist, or the pull consumer is rejected by server: \
             group {name}, rejectPullConsumerEnable=true"
        );
        Err(Refusal::new(response::SUBSCRIPTION_NOT_EXIST, remark))
    }

    fn usable(&self, filter: Filter, kind: Option<&str>) -> Result<Wanted, Refusal> {
        let is_enabled = self.settings.enable_property_filter.get();
        match filter {
            Filter::Wanted(Wanted::Sql(_)) | Filter::Refused { by_tag: false, .. }
                if !is_enabled =>
            {
                Err(no_property_filter(kind.unwrap_or_default()))
            }
            Filter::Wanted(wanted) => Ok(wanted),
            Filter::Refused { why, .. } => {
                let remark = format!("parse the consumer's subscription failed: {why}");
                Err(Refusal::new(response::SUBSCRIPTION_PARSE_FAILED, remark))
            }
        }
    }

    fn prepare(
        &self,
        header: &PullHeader<'_>,
        topic: &TopicEntry,
        group: &Group,
        filter: Wanted,
    ) -> Result<(QueueKey, Pull), Refusal> {
        let queue = u16::try_from(header.queue_id)
            .map_err(|_| Refusal::new(response::INVALID_PARAMETER, "queueId exceeds 65535"))?;
        let settings = &self.settings;
        let wanted = u32::try_from(header.max_msg_nums).unwrap_or(0).max(1);
        let messages_max = u32::try_from(settings.transfer_count_max_in_memory.get())
            .unwrap_or(u32::MAX)
            .min(wanted);
        let asked = header
            .max_msg_bytes
            .and_then(|bytes| u64::try_from(bytes).ok());
        let bytes_max = settings.transfer_bytes_max_in_memory.get();
        let bytes_max = asked
            .filter(|bytes| *bytes > 0)
            .map_or(bytes_max, |n| n.min(bytes_max));
        let pull = Pull {
            group: Arc::clone(&group.entry.name),
            wanted: header.queue_offset,
            messages_max,
            bytes_max,
            filter,
            is_subscribed: !header.has(pull::FLAG_SUBSCRIPTION),
            commit: header
                .has(pull::FLAG_COMMIT_OFFSET)
                .then_some(header.commit_offset),
            suspend_ms: header
                .has(pull::FLAG_SUSPEND)
                .then(|| self.suspend_ms(header)),
            topic_sys_flag: topic.config.topic_sys_flag,
            group_sys_flag: group.entry.config.group_sys_flag,
        };
        Ok((
            QueueKey {
                topic: topic.id,
                queue: QueueId(queue),
            },
            pull,
        ))
    }

    fn suspend_ms(&self, header: &PullHeader<'_>) -> u64 {
        if self.settings.long_polling_enable.get() {
            u64::try_from(header.suspend_timeout_ms)
                .unwrap_or(0)
                .min(SUSPEND_MS_MAX)
        } else {
            self.settings.short_polling_time_ms.get()
        }
    }
}

fn forbidden(remark: String) -> Refusal {
    Refusal::new(response::NO_PERMISSION, remark)
}
