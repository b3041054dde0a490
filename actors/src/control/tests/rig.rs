//! A whole control plane on its own thread, with the test as its only data core.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use gantry_protocol::command::Command;
use gantry_protocol::frame::take_frame;
use gantry_runtime::mailbox::{MAILBOX_MESSAGES_MAX, MailReceiver, MailSender, mailbox};
use gantry_runtime::net::PeerRef;
use gantry_runtime::shutdown::Shutdown;

use crate::kept_settings::KeptSettings;
use crate::live::{KeyVerdict, LiveValue, StartCheck};
use crate::seam::errands::{Errand, ErrandDone, Scanned};
use crate::seam::{
    Answer, CatalogChange, ControlRequest, GroupEntry, Question, Ticket, ToControl, ToData,
    TopicEntry,
};
use crate::settings::{
    BrokerSettings, FlushDiskType, IndexSettings, RegistrationSettings, RetentionSettings,
};

use crate::control::ControlPlane;

/// How long a test waits for anything.
const WAIT: Duration = Duration::from_secs(10);

/// Settings as a stock broker.conf gives them.
/// Where the broker of a test would listen.
fn any() -> SocketAddr {
    "127.0.0.1:10911".parse().unwrap()
}

pub fn settings() -> BrokerSettings {
    BrokerSettings {
        cluster_name: "DefaultCluster".into(),
        broker_name: "b0".into(),
        broker_id: 0,
        advertised: any(),
        ha_advertised: "127.0.0.1:10912".parse().unwrap(),
        listen: any(),
        listen_vip: "127.0.0.1:10909".parse().unwrap(),
        namesrv_addrs: Vec::new(),
        region_id: "DefaultRegion".into(),
        trace_on: true,
        trace_topic_enable: false,
        trace_topic_name: "RMQ_SYS_TRACE_TOPIC".into(),
        broker_permission: 6,
        auto_create_topic_enable: true.into(),
        auto_create_subscription_group: true.into(),
        default_topic_queue_nums: 8,
        cluster_topic_enable: true,
        broker_topic_enable: true,
        message_bytes_max: (4_u64 << 20).into(),
        enable_property_filter: false.into(),
        long_polling_enable: true.into(),
        short_polling_time_ms: 1000_u64.into(),
        notify_consumer_ids_changed_enable: true.into(),
        lite_pull_message_enable: true.into(),
        enable_mixed_message_type: false,
        reject_pull_consumer_enable: false,
        index: IndexSettings::STOCK,
        latency_profile_enable: true,
        coalesce_max_us: 0,
        use_server_side_reset_offset: true.into(),
        transfer_bytes_max_in_memory: 262_144_u64.into(),
        transfer_count_max_in_memory: 32_u64.into(),
        default_query_max_num: 32_u64.into(),
        wait_time_in_send_queue_ms: 200_u64.into(),
        send_queue_capacity: 10_000_u64.into(),
        flush_disk_type: FlushDiskType::Async,
        sync_flush_timeout_ms: 5000_u64.into(),
        flush_interval_ms: 500,
        flush_consumer_offset_interval_ms: 1000,
        registration: RegistrationSettings::stock(),
        channel_expired_timeout_ms: 120_000_u64.into(),
        channel_idle_max_seconds: 120,
        start_accept_send_request_ms: 0_u64.into(),
        reject_transaction_message: false.into(),
        transaction_timeout_ms: 6_000,
        transaction_check_interval_ms: 30_000,
        transaction_check_max: 15,
        transaction_age_ms_max: 72 * 3_600_000,
        delay_levels_ms: vec![1000; 18],
        timer_wheel_enable: true,
        timer_max_delay_sec: 259_200,
        recall_message_enable: true,
        store_reply_message_enable: true,
        data_dir: "/nowhere".into(),
        tail_dir: None,
        retention: RetentionSettings::stock(256 << 20),
        tail_bytes: 16 << 20,
        segment_bytes: 256 << 20,
        shard_count: 1,
        memory_limit_bytes: 1 << 30,
        config_lines: vec![("brokerName".into(), "b0".into())],
        file_lines: Vec::new(),
        kept: KeptSettings::default(),
        key_check: check,
        start_check: StartCheck::default(),
    }
}

/// A few keys of each kind.
fn check(key: &str, value: &str) -> KeyVerdict {
    let number = value.parse().ok().map(LiveValue::Number);
    match (key, number) {
        ("brokerPermission", Some(LiveValue::Number(0 | 2 | 4 | 6)))
        | ("maxMessageSize", Some(_)) => KeyVerdict::Live(number.unwrap()),
        ("brokerPermission" | "maxMessageSize", _) => KeyVerdict::Malformed("a number".into()),
        ("listenPort", _) => KeyVerdict::AtStart,
        ("brokerId", _) => KeyVerdict::Refused("there are no slaves".into()),
        ("warmMapedFileEnable", _) => KeyVerdict::NoEffect("nothing is mapped"),
        _ => KeyVerdict::Unknown,
    }
}

/// The rig; see the file's head.
pub struct Rig {
    pub control: Option<ControlPlane>,
    pub mail: MailSender<ToControl>,
    from: MailReceiver<ToData>,
    waiting: std::collections::VecDeque<ToData>,
    pub shutdown: Shutdown,
    next: i32,
    /// Answers the plane's questions.
    pub answer: Box<dyn Fn(&Question) -> Answer>,
    /// Does the supervisors' errands.
    pub errand: Box<dyn Fn(&Errand) -> ErrandDone>,
    /// Errands that the core never answers.
    pub is_mute: Box<dyn Fn(&Errand) -> bool>,
    /// What the plane said, except replies, in order.
    pub seen: Vec<ToData>,
}

impl Rig {
    pub fn start(folder: &Path, mut settings: BrokerSettings) -> Self {
        folder.clone_into(&mut settings.data_dir);
        let (mail, inbox) = mailbox(MAILBOX_MESSAGES_MAX);
        let (out, from) = mailbox(MAILBOX_MESSAGES_MAX);
        let shutdown = Shutdown::new();
        let control =
            ControlPlane::start(Arc::new(settings), folder, inbox, vec![out], &shutdown).unwrap();
        Self {
            control: Some(control),
            mail,
            from,
            waiting: std::collections::VecDeque::new(),
            shutdown,
            next: 100,
            answer: Box::new(|_| Answer::Done),
            errand: Box::new(nothing_parked),
            is_mute: Box::new(|_| false),
            seen: Vec::new(),
        }
    }

    pub fn tell(&self, message: ToControl) {
        self.mail.try_send(message).unwrap();
    }

    /// The next message; questions are answered on the way and kept in `seen`.
    fn next_message(&mut self) -> ToData {
        let deadline = Instant::now() + WAIT;
        loop {
            if let Some(message) = self.waiting.pop_front() {
                if let ToData::Ask { ticket, question } = &message {
                    let answer = (self.answer)(question);
                    self.tell(ToControl::Answer {
                        core: 0,
                        ticket: *ticket,
                        answer,
                    });
                }
                if let ToData::Errand { ticket, errand } = &message
                    && !(self.is_mute)(errand)
                {
                    let done = (self.errand)(errand);
                    self.tell(ToControl::ErrandDone {
                        ticket: *ticket,
                        done,
                    });
                }
                return message;
            }
            let mut batch = Vec::new();
            if self.from.try_batch(&mut batch) == 0 {
                assert!(
                    Instant::now() < deadline,
                    "nothing came; seen: {:?}",
                    self.seen
                );
                std::thread::sleep(Duration::from_millis(1));
            }
            self.waiting.extend(batch);
        }
    }

    /// Reads until one fits; all before it, and it, are kept in `seen`.
    pub fn until(&mut self, fits: impl Fn(&ToData) -> bool) -> ToData {
        loop {
            let message = self.next_message();
            self.seen.push(message.clone());
            if fits(&message) {
                return message;
            }
        }
    }

    /// Asks as `peer`, without waiting for a reply.
    pub fn request(&self, peer: PeerRef, command: Command) {
        self.tell(ToControl::Request(ControlRequest {
            peer,
            peer_addr: "127.0.0.1:5555".parse().unwrap(),
            command,
            held: None,
        }));
    }

    /// Asks as `peer` and returns the reply.
    pub fn ask(&mut self, peer: PeerRef, mut command: Command) -> Command {
        self.next += 1;
        command.opaque = self.next;
        let opaque = command.opaque;
        self.request(peer, command);
        let reply = self.until(|message| {
            frame_of(message).is_some_and(|command| command.is_reply() && command.opaque == opaque)
        });
        frame_of(&reply).unwrap()
    }

    /// The wish of a parked send; its outcome's code, 0 for success.
    pub fn ensure_topic(&mut self, topic: &str, template: &str, queues: i32) -> i32 {
        self.ensure_topic_from(topic, Some(template), queues)
    }

    /// As [`Rig::ensure_topic`]; without a template it is a core's own wish.
    pub fn ensure_topic_from(&mut self, topic: &str, from: Option<&str>, queues: i32) -> i32 {
        self.next += 1;
        let ticket = Ticket(u64::try_from(self.next).unwrap());
        self.tell(ToControl::EnsureTopic {
            core: 0,
            ticket,
            topic: topic.into(),
            default_topic: from.map(str::to_owned),
            default_topic_queue_nums: queues,
            unit_mode: false,
        });
        self.resolved(ticket)
    }

    pub fn resolved(&mut self, wanted: Ticket) -> i32 {
        let message =
            self.until(|m| matches!(m, ToData::Resolved { ticket, .. } if *ticket == wanted));
        let ToData::Resolved { outcome, .. } = message else {
            unreachable!()
        };
        outcome.map_or_else(|refusal| refusal.code, |()| 0)
    }

    /// The last state of each topic told so far.
    pub fn topics(&mut self) -> BTreeMap<String, Arc<TopicEntry>> {
        let mut topics = BTreeMap::new();
        for message in &self.seen {
            match message {
                ToData::Catalog(CatalogChange::Topics(entries)) => {
                    let named = |entry: &Arc<TopicEntry>| entry.config.name.clone();
                    topics.extend(
                        entries
                            .iter()
                            .map(|entry| (named(entry), Arc::clone(entry))),
                    );
                }
                ToData::Catalog(CatalogChange::TopicPut(entry)) => {
                    topics.insert(entry.config.name.clone(), Arc::clone(entry));
                }
                ToData::Catalog(CatalogChange::TopicGone(name)) => {
                    topics.remove(name);
                }
                _ => {}
            }
        }
        topics
    }

    /// The last state of a group told so far.
    pub fn group(&self, name: &str) -> Option<Arc<GroupEntry>> {
        self.seen.iter().rev().find_map(|message| match message {
            ToData::Catalog(CatalogChange::GroupPut(entry)) if &*entry.name == name => {
                Some(Arc::clone(entry))
            }
            _ => None,
        })
    }

    /// Requests the plane has sent to this peer.
    pub fn pushed(&self, peer: PeerRef) -> Vec<Command> {
        let written = self.seen.iter().filter_map(|message| match message {
            ToData::Write { peer: to, .. } if *to == peer => frame_of(message),
            _ => None,
        });
        written.filter(|command| !command.is_reply()).collect()
    }

    /// An orderly stop: the core says goodbye, then the plane ends.
    pub fn stop(self) {
        self.stop_with(true);
    }

    /// As [`Rig::stop`]; the core says whether it could shut its shards.
    pub fn stop_with(mut self, is_clean: bool) {
        self.tell(ToControl::CoreStopped { core: 0, is_clean });
        self.control.take().unwrap().finish(WAIT).unwrap();
    }
}

/// The log holds nothing that is parked.
fn nothing_parked(errand: &Errand) -> ErrandDone {
    if matches!(errand, Errand::Durable) {
        return ErrandDone::Durable(Ok(()));
    }
    assert!(matches!(errand, Errand::Scan(_)), "{errand:?}");
    ErrandDone::Scanned(Ok(Scanned::default()))
}

pub fn frame_of(message: &ToData) -> Option<Command> {
    let ToData::Write { frame, .. } = message else {
        return None;
    };
    let mut bytes = BytesMut::from(&frame[..]);
    let frame = take_frame(&mut bytes).unwrap().expect("one whole frame");
    assert!(bytes.is_empty());
    Some(Command::from_frame(&frame).unwrap())
}

pub fn peer(slot: u32) -> PeerRef {
    PeerRef {
        core: 0,
        slot,
        generation: 1,
    }
}

pub fn request(code: i32, ext: &[(&str, &str)], body: impl Into<Bytes>) -> Command {
    let mut command = Command::request(code, 0).with_body(body);
    for (name, value) in ext {
        command = command.with_ext(name, *value);
    }
    command
}
