//! `gantry send`.
//!
//! **Owns** choosing queues, building messages, retries, and what is printed.
//! **Lives on** a tokio runtime of one thread.
//! **Invariants** a line `sent` is printed exactly for each message that a broker has stored.
//! **Limits** `WINDOW` messages are under way at a time.
//! **Not here** connections and routes (`client`), reading standard input (`lines`).

use std::collections::VecDeque;

use bytes::Bytes;
use gantry_protocol::Command;
use gantry_protocol::body::{TopicRouteData, perm};
use gantry_protocol::code::{request, response};
use gantry_protocol::message_id::{UniqueIdMaker, ms_since_month_began};
use gantry_protocol::properties::{self, name};
use gantry_protocol::request::send::{DEFAULT_TOPIC_QUEUE_NUMS, SendHeader};
use gantry_protocol::system_topic::AUTO_CREATE_TOPIC;
use gantry_runtime::net::client::Client;
use tokio::task::{JoinError, JoinHandle};

use super::lines::{Line, Lines};
use super::{CALL_MAX, Cluster, ask, block_on, now_ms, refused};
use crate::cli;
use crate::config::address;

/// Producer group of the command line.
const GROUP: &str = "gantry-send";
/// Messages under way: enough to fill a connection, few enough to report failures soon.
const WINDOW: usize = 64;
/// Tries of one message, like the Java client's one and two more.
const TRIES: usize = 3;
/// One queue that takes messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Queue {
    /// Its broker's name.
    pub broker: String,
    /// `host:port` of the master.
    pub address: String,
    /// Its number.
    pub id: i32,
}

/// How a call ended.
type Outcome = Result<Result<Command, String>, JoinError>;

/// A message on its way.
struct Sending {
    reply: JoinHandle<Result<Command, String>>,
    body: Bytes,
    properties: String,
    queue: Queue,
    tries: usize,
}

struct Sender<'a> {
    args: &'a cli::Send,
    cluster: Cluster,
    queues: Vec<Queue>,
    next: usize,
    ids: UniqueIdMaker,
    under_way: VecDeque<Sending>,
    stored: u64,
    /// Lines left out, because a message has to have a body.
    blank: u64,
}

/// Runs the command.
///
/// # Errors
/// The first message that could not be stored, and why.
pub fn run(args: &cli::Send) -> Result<(), String> {
    check(args)?;
    block_on(async {
        let mut cluster = Cluster::new(&args.at.namesrv)?;
        let queues = queues(&mut cluster, args).await?;
        let seed = u32::try_from(now_ms() & 0x7FFF_FFFF).unwrap_or(0);
        let mut sender = Sender {
            args,
            cluster,
            queues,
            next: 0,
            ids: UniqueIdMaker::new(address::first_ipv4().into(), std::process::id(), seed),
            under_way: VecDeque::new(),
            stored: 0,
            blank: 0,
        };
        let outcome = sender.send_all().await;
        if sender.blank > 0 {
            tell!("{} blank lines left out", sender.blank);
        }
        if sender.stored != 1 {
            tell!("{} messages stored", sender.stored);
        }
        outcome
    })
}

fn check(args: &cli::Send) -> Result<(), String> {
    let reserved = [name::TAGS, name::KEYS, name::UNIQ_KEY, name::WAIT];
    for (key, value) in &args.properties {
        if reserved.contains(&key.as_str()) {
            return Err(format!("--property {key}: reserved; use --tag or --key"));
        }
        if key.contains(char::is_control) || value.contains(char::is_control) {
            return Err(format!(
                "--property {key}: control characters are not allowed"
            ));
        }
    }
    match args.queue {
        Some(queue) if queue < 0 => Err(format!("--queue {queue}: takes a number from 0")),
        _ => Ok(()),
    }
}

/// The queues to send to; for an unknown topic those that it will have when a broker makes it.
async fn queues(cluster: &mut Cluster, args: &cli::Send) -> Result<Vec<Queue>, String> {
    let topic = &args.topic;
    let (route, count_max) = if let Some(route) = cluster.route(topic).await? {
        (route, i32::MAX)
    } else {
        let template = cluster.route(AUTO_CREATE_TOPIC).await?;
        let unknown = || format!("topic {topic}: unknown, and no broker makes topics; create it");
        (template.ok_or_else(unknown)?, DEFAULT_TOPIC_QUEUE_NUMS)
    };
    let queues = writable(&route, count_max);
    let queues: Vec<Queue> = match args.queue {
        Some(wanted) => queues
            .into_iter()
            .filter(|queue| queue.id == wanted)
            .collect(),
        None => queues,
    };
    if queues.is_empty() {
        return Err(match args.queue {
            Some(queue) => format!("topic {topic}: no broker has a writable queue {queue}"),
            None => format!("topic {topic}: no broker takes messages for it now"),
        });
    }
    Ok(queues)
}

/// Queues of masters with write permission, the brokers taking turns.
pub fn writable(route: &TopicRouteData, count_max: i32) -> Vec<Queue> {
    let mut queues = Vec::new();
    for data in route
        .queues
        .iter()
        .filter(|data| data.perm & perm::WRITE != 0)
    {
        let broker = route
            .brokers
            .iter()
            .find(|held| held.broker_name == data.broker_name);
        let Some(address) = broker.and_then(|held| held.addresses.get(&0)) else {
            continue;
        };
        queues.extend((0..data.write_queue_nums.min(count_max)).map(|id| Queue {
            broker: data.broker_name.clone(),
            address: address.clone(),
            id,
        }));
    }
    queues.sort_by(|a, b| (a.id, &a.broker).cmp(&(b.id, &b.broker)));
    queues
}

impl Sender<'_> {
    /// Sends everything, or up to the first failure; what is under way then is settled, too.
    async fn send_all(&mut self) -> Result<(), String> {
        let mut outcome = self.begin_all().await;
        while !self.under_way.is_empty() {
            let settled = self.settle_oldest().await;
            outcome = outcome.and(settled);
        }
        outcome
    }

    async fn begin_all(&mut self) -> Result<(), String> {
        match self.args.body.as_deref() {
            Some(body) if body != "-" => {
                let body = Bytes::copy_from_slice(body.as_bytes());
                for _ in 0..self.args.count {
                    self.send(body.clone()).await?;
                }
                Ok(())
            }
            _ => self.send_lines().await,
        }
    }

    async fn send_lines(&mut self) -> Result<(), String> {
        let mut lines = Lines::start()?;
        let mut outcome = Ok(());
        while outcome.is_ok()
            && let Some(line) = self.next_line(&mut lines).await?
        {
            match line {
                Ok(body) if body.is_empty() => self.blank += 1,
                Ok(body) => {
                    for _ in 0..self.args.count {
                        self.send(body.clone()).await?;
                    }
                }
                Err(why) => outcome = Err(why),
            }
        }
        outcome
    }

    /// The next line; what is under way is settled while none comes, so that a slow writer sees
    /// what became of each.
    async fn next_line(&mut self, lines: &mut Lines) -> Result<Option<Line>, String> {
        loop {
            let Some(oldest) = self.under_way.front_mut() else {
                return Ok(lines.next().await);
            };
            let outcome = tokio::select! {
                line = lines.next() => return Ok(line),
                outcome = &mut oldest.reply => outcome,
            };
            if let Some(sending) = self.under_way.pop_front() {
                self.settle(sending, outcome).await?;
            }
        }
    }

    /// Starts a message; waits for the oldest when the window is full.
    async fn send(&mut self, body: Bytes) -> Result<(), String> {
        if self.under_way.len() >= WINDOW {
            self.settle_oldest().await?;
        }
        let properties = self.properties();
        self.start(body, properties, 1).await
    }

    async fn start(&mut self, body: Bytes, properties: String, tries: usize) -> Result<(), String> {
        let at = self.next % self.queues.len().max(1);
        self.next = self.next.wrapping_add(1);
        let queue = self.queues.get(at).cloned().ok_or("no queue is left")?;
        let client = self.cluster.connect(&queue.address).await;
        let command = self.command(&queue, &properties, body.clone());
        let reply = tokio::spawn(call(client, command));
        self.under_way.push_back(Sending {
            reply,
            body,
            properties,
            queue,
            tries,
        });
        Ok(())
    }

    async fn settle_oldest(&mut self) -> Result<(), String> {
        let Some(mut sending) = self.under_way.pop_front() else {
            return Ok(());
        };
        let outcome = (&mut sending.reply).await;
        self.settle(sending, outcome).await
    }

    async fn settle(&mut self, sending: Sending, outcome: Outcome) -> Result<(), String> {
        let what = format!(
            "broker {} ({})",
            sending.queue.broker, sending.queue.address
        );
        let (failure, again) = match outcome {
            Ok(Ok(reply)) if is_stored(reply.code) => {
                self.print(&sending.queue, &reply, &sending.properties);
                return Ok(());
            }
            Ok(Ok(reply)) => (refused(&what, &reply), is_worth_another_try(reply.code)),
            Ok(Err(error)) => (format!("{what}: {error}"), true),
            Err(error) => (format!("{what}: {error}"), false),
        };
        if !again || sending.tries >= TRIES {
            return Err(failure);
        }
        tracing::warn!(try_ = sending.tries, "{failure}; trying again");
        self.start(sending.body, sending.properties, sending.tries + 1)
            .await
    }

    fn properties(&mut self) -> String {
        let mut out = Vec::new();
        for (key, value) in &self.args.properties {
            properties::append(&mut out, key, value);
        }
        if let Some(tag) = &self.args.tag {
            properties::append(&mut out, name::TAGS, tag);
        }
        if !self.args.keys.is_empty() {
            properties::append(&mut out, name::KEYS, &self.args.keys.join(" "));
        }
        let month_ms = ms_since_month_began(u64::try_from(now_ms()).unwrap_or(0));
        properties::append(&mut out, name::UNIQ_KEY, self.ids.next(month_ms).as_str());
        properties::append(&mut out, name::WAIT, "true");
        // Appended texts only, so it is UTF-8.
        String::from_utf8_lossy(&out).into_owned()
    }

    fn command(&self, queue: &Queue, properties: &str, body: Bytes) -> Command {
        let header = SendHeader {
            producer_group: GROUP,
            topic: &self.args.topic,
            default_topic: AUTO_CREATE_TOPIC,
            default_topic_queue_nums: DEFAULT_TOPIC_QUEUE_NUMS,
            queue_id: queue.id,
            sys_flag: 0,
            born_timestamp: now_ms(),
            flag: 0,
            properties,
            reconsume_times: 0,
            unit_mode: false,
            max_reconsume_times: None,
            batch: false,
            broker_name: Some(&queue.broker),
        };
        ask(
            request::SEND_MESSAGE_V2,
            header.to_ext(request::SEND_MESSAGE_V2),
        )
        .with_body(body)
    }

    fn print(&mut self, queue: &Queue, reply: &Command, properties: &str) {
        self.stored += 1;
        let id = properties::get(properties, name::UNIQ_KEY).unwrap_or_default();
        say!(
            "sent {id} to {} queue {} offset {}{}",
            queue.broker,
            reply.ext("queueId").unwrap_or("?"),
            reply.ext("queueOffset").unwrap_or("?"),
            durability(reply.code),
        );
    }
}

async fn call(client: Result<Client, String>, command: Command) -> Result<Command, String> {
    client?
        .call(command, CALL_MAX)
        .await
        .map_err(|error| error.to_string())
}

/// The four codes that mean "stored".
pub fn is_stored(code: i32) -> bool {
    [
        response::SUCCESS,
        response::FLUSH_DISK_TIMEOUT,
        response::FLUSH_SLAVE_TIMEOUT,
        response::SLAVE_NOT_AVAILABLE,
    ]
    .contains(&code)
}

fn durability(code: i32) -> &'static str {
    match code {
        response::FLUSH_DISK_TIMEOUT => " (not yet on disk)",
        response::FLUSH_SLAVE_TIMEOUT | response::SLAVE_NOT_AVAILABLE => " (not yet on a slave)",
        _ => "",
    }
}

/// What the Java producer tries again (`DefaultMQProducer`, 5.5.0).
fn is_worth_another_try(code: i32) -> bool {
    [
        response::TOPIC_NOT_EXIST,
        response::SERVICE_NOT_AVAILABLE,
        response::SYSTEM_ERROR,
        response::SYSTEM_BUSY,
        response::NO_PERMISSION,
    ]
    .contains(&code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use gantry_protocol::body::{BrokerData, QueueData};

    fn route(perm: i32, write: i32) -> TopicRouteData {
        let broker = |name: &str| BrokerData {
            cluster: "c".into(),
            broker_name: name.into(),
            addresses: [(0, format!("{name}:1"))].into(),
            acting_master: false,
            zone: None,
        };
        let queue = |name: &str| QueueData {
            broker_name: name.into(),
            read_queue_nums: 1,
            write_queue_nums: write,
            perm,
            topic_sys_flag: 0,
        };
        TopicRouteData {
            brokers: vec![broker("a"), broker("b")],
            queues: vec![queue("a"), queue("b")],
            ..TopicRouteData::default()
        }
    }

    #[test]
    fn brokers_take_turns_and_a_template_is_cut_to_the_clients_wish() {
        let queues = writable(&route(7, 8), DEFAULT_TOPIC_QUEUE_NUMS);
        assert_eq!(queues.len(), 8);
        let order: Vec<(i32, &str)> = queues.iter().map(|q| (q.id, q.broker.as_str())).collect();
        assert_eq!(order[..3], [(0, "a"), (0, "b"), (1, "a")]);
    }

    #[test]
    fn trap_36_a_broker_without_write_permission_gets_nothing() {
        assert!(writable(&route(4, 8), i32::MAX).is_empty());
    }

    #[test]
    fn trap_41_four_codes_mean_stored() {
        assert!([0, 10, 11, 12].into_iter().all(is_stored));
        assert!(![1, 2, 13, 14, 17].into_iter().any(is_stored));
    }
}
