//! `gantry receive`.
//!
//! **Owns** a consumer's life: heartbeat, dealing queues out, pulling, committing, leaving.
//! **Lives on** a tokio runtime of one thread: a puller per queue, one task that prints.
//! **Invariants** a position is committed only after its messages are printed, so what a crash
//! loses is progress, never a message.
//! With `--follow` it ends when it is told to, not with a broker.
//! **Limits** `BATCHES_WAITING` replies wait to be printed; `WAIT_MAX` per held pull.
//! **Not here** connections and routes (`client`), output (`message`).

use std::collections::{BTreeSet, HashMap};
use std::io::Write as _;
use std::time::Duration;

use bytes::Bytes;
use gantry_protocol::body::{
    ConsumeFromWhere, ConsumeType, ConsumerData, HeartbeatData, MessageModel, SubscriptionData,
    parse_consumer_id_list, perm,
};
use gantry_protocol::code::{request, response};
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};
use gantry_protocol::message::RecordIter;
use gantry_protocol::system_topic::retry_topic;
use gantry_runtime::net::client::Client;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::assign::{self, Queue};
use super::pull::{self, Pulled, Puller};
use super::start_at::StartAt;
use super::{Cluster, ask, block_on, message, now_ms, refused};
use crate::cli;
use crate::config::address;

/// Pull replies that wait to be printed.
const BATCHES_WAITING: usize = 16;
/// Heartbeats, as often as other clients send them.
const HEARTBEAT_EVERY: Duration = Duration::from_secs(30);
/// Queues are dealt out anew this often, and whenever a broker says so.
const DEAL_EVERY: Duration = Duration::from_secs(20);
/// And so long after something went wrong, with a heartbeat before: a broker that is back knows no
/// members.
const AGAIN_AFTER: Duration = Duration::from_secs(2);
/// Positions are committed this often.
const COMMIT_EVERY: Duration = Duration::from_secs(5);

struct Receiver<'a> {
    args: &'a cli::Receive,
    start_at: StartAt,
    cluster: Cluster,
    client_id: String,
    version: i64,
    /// Broker name → address of its master.
    brokers: HashMap<String, String>,
    pullers: HashMap<Queue, JoinHandle<()>>,
    /// Queues with their end seen; only without `--follow`.
    done: BTreeSet<Queue>,
    /// What is printed but not committed.
    positions: HashMap<Queue, i64>,
    out: mpsc::Sender<Pulled>,
    received: u64,
    /// Something went wrong since the last look; only with `--follow`.
    is_astray: bool,
}

/// Runs the command.
///
/// # Errors
/// One line for the operator.
pub fn run(args: &cli::Receive) -> Result<(), String> {
    let start_at = StartAt::read(&args.from)?;
    block_on(async {
        let cluster = Cluster::new(&args.at.namesrv)?;
        let (out, pulled) = mpsc::channel(BATCHES_WAITING);
        let now = now_ms();
        let client_id = format!("{}@{}#{now}", address::first_ipv4(), std::process::id());
        let mut receiver = Receiver {
            args,
            start_at,
            cluster,
            client_id,
            version: now,
            brokers: HashMap::new(),
            pullers: HashMap::new(),
            done: BTreeSet::new(),
            positions: HashMap::new(),
            out,
            received: 0,
            is_astray: false,
        };
        let outcome = receiver.work(pulled).await;
        receiver.leave().await;
        tell!("{} messages received", receiver.received);
        outcome
    })
}

impl Receiver<'_> {
    async fn work(&mut self, mut pulled: mpsc::Receiver<Pulled>) -> Result<(), String> {
        self.find_brokers().await?;
        self.heartbeat().await?;
        self.deal().await?;
        let members_changed = std::sync::Arc::clone(&self.cluster.members_changed);
        let mut heartbeat = tokio::time::interval(HEARTBEAT_EVERY);
        let mut deal = tokio::time::interval(DEAL_EVERY);
        let mut commit = tokio::time::interval(COMMIT_EVERY);
        heartbeat.reset();
        deal.reset();
        // One for all rounds: a new one wouldn't know of a signal that came in the round before.
        let mut interrupt = signal(SignalKind::interrupt())
            .map_err(|error| format!("signal handler refused: {error}"))?;
        let mut is_dealt_soon = false;
        while self.args.follow || self.done.len() < self.pullers.len() {
            if std::mem::take(&mut self.is_astray) && !is_dealt_soon {
                is_dealt_soon = true;
                heartbeat.reset_after(AGAIN_AFTER);
                deal.reset_after(AGAIN_AFTER);
            }
            // In this order: there may always be messages, and a heartbeat goes before a deal.
            let outcome = tokio::select! {
                biased;
                _ = interrupt.recv() => return Ok(()),
                _ = heartbeat.tick() => self.heartbeat().await,
                _ = deal.tick() => {
                    is_dealt_soon = false;
                    self.deal().await
                }
                () = members_changed.notified() => self.deal().await,
                _ = commit.tick() => {
                    self.commit().await;
                    Ok(())
                }
                message = pulled.recv() => match message {
                    Some(message) => {
                        self.take(message)?;
                        Ok(())
                    }
                    None => return Ok(()),
                },
            };
            self.settle(outcome)?;
        }
        Ok(())
    }

    /// With `--follow` what went wrong is tried again, else it is the end.
    fn settle(&mut self, outcome: Result<(), String>) -> Result<(), String> {
        match outcome {
            Err(failure) if self.args.follow => {
                tracing::warn!("{failure}");
                self.is_astray = true;
                Ok(())
            }
            outcome => outcome,
        }
    }

    /// The masters of the topic's brokers.
    async fn find_brokers(&mut self) -> Result<(), String> {
        let topic = &self.args.topic;
        let route = self.cluster.route(topic).await?;
        let route = route.ok_or_else(|| {
            format!(
                "topic {topic}: no broker has it; it is made by the first message or by an operator"
            )
        })?;
        for broker in route.brokers {
            if let Some(address) = broker.addresses.get(&0) {
                self.brokers.insert(broker.broker_name, address.clone());
            }
        }
        if self.brokers.is_empty() {
            return Err(format!("topic {topic}: no master of its brokers is alive"));
        }
        Ok(())
    }

    /// Tells every broker that this member lives and what it wants. The retry topic belongs to
    /// it: members of one group must not differ in what they subscribe.
    async fn heartbeat(&mut self) -> Result<(), String> {
        let subscriptions = [self.args.topic.clone(), retry_topic(&self.args.group)]
            .map(|topic| SubscriptionData::tag(topic, "*", self.version));
        let data = HeartbeatData {
            client_id: self.client_id.clone(),
            producer_groups: Vec::new(),
            consumers: vec![ConsumerData {
                group: self.args.group.clone(),
                consume_type: ConsumeType::Passively,
                message_model: MessageModel::Clustering,
                consume_from: match self.start_at {
                    StartAt::First => ConsumeFromWhere::FirstOffset,
                    StartAt::Last => ConsumeFromWhere::LastOffset,
                    StartAt::Time(_) => ConsumeFromWhere::Timestamp,
                },
                subscriptions: subscriptions.into(),
                unit_mode: false,
            }],
            fingerprint: 0,
            without_subscriptions: false,
        };
        let body = to_bytes(&data.to_value(), IntegerKeys::Quoted);
        let mut failure = None;
        let mut heard = false;
        for (name, address) in self.brokers.clone() {
            let command = ask(request::HEART_BEAT, []).with_body(body.clone());
            match self.cluster.call(&address, command).await {
                Ok(reply) if reply.code == response::SUCCESS => heard = true,
                Ok(reply) => failure = Some(refused(&format!("broker {name} ({address})"), &reply)),
                Err(error) => failure = Some(format!("broker {name} ({address}): {error}")),
            }
        }
        match failure {
            Some(failure) if !heard => Err(failure),
            Some(failure) => {
                tracing::warn!("{failure}");
                Ok(())
            }
            None => Ok(()),
        }
    }

    /// Computes this member's queues, starts pullers of new ones, ends those of lost ones.
    async fn deal(&mut self) -> Result<(), String> {
        let members = self.members().await?;
        let mut mine = BTreeSet::new();
        for topic in [self.args.topic.clone(), retry_topic(&self.args.group)] {
            let queues = self.queues(&topic).await?;
            // A name server that has just come up hears of its brokers within seconds.
            self.is_astray |= self.args.follow && queues.is_empty() && topic == self.args.topic;
            mine.extend(assign::average(queues, members.clone(), &self.client_id));
        }
        let lost: Vec<Queue> = self
            .pullers
            .keys()
            .filter(|queue| !mine.contains(queue))
            .cloned()
            .collect();
        if !lost.is_empty() {
            self.commit().await;
        }
        for queue in lost {
            if let Some(puller) = self.pullers.remove(&queue) {
                puller.abort();
            }
            self.done.remove(&queue);
            self.positions.remove(&queue);
        }
        let mut gone = BTreeSet::new();
        for queue in mine {
            if !self.pullers.contains_key(&queue) && !gone.contains(&queue.broker) {
                let broker = queue.broker.clone();
                let started = self.start(queue).await;
                if started.is_err() {
                    gone.insert(broker);
                }
                self.settle(started)?;
            }
        }
        if self.pullers.is_empty() && !self.is_astray {
            tracing::warn!(
                members = members.len(),
                "other members of the group have all queues"
            );
        }
        Ok(())
    }

    async fn members(&mut self) -> Result<Vec<String>, String> {
        let mut members = BTreeSet::new();
        for (name, address) in self.brokers.clone() {
            let group = ("consumerGroup", self.args.group.as_str().into());
            let command = ask(request::GET_CONSUMER_LIST_BY_GROUP, [group]);
            match self.cluster.call(&address, command).await {
                Ok(reply) if reply.code == response::SUCCESS => {
                    members.extend(parse_consumer_id_list(&reply.body).unwrap_or_default());
                }
                Ok(reply) => tracing::warn!("{}", refused(&format!("broker {name}"), &reply)),
                Err(error) => tracing::warn!("broker {name}: {error}"),
            }
        }
        if members.is_empty() {
            return Err(format!(
                "group {}: no broker takes it; is autoCreateSubscriptionGroup off?",
                self.args.group
            ));
        }
        Ok(members.into_iter().collect())
    }

    /// The readable queues of a topic; none when it has no route (a retry topic not yet made).
    async fn queues(&mut self, topic: &str) -> Result<Vec<Queue>, String> {
        let Some(route) = self.cluster.route(topic).await? else {
            return Ok(Vec::new());
        };
        for broker in &route.brokers {
            if let Some(address) = broker.addresses.get(&0) {
                self.brokers
                    .insert(broker.broker_name.clone(), address.clone());
            }
        }
        let readable = route
            .queues
            .iter()
            .filter(|queue| queue.perm & perm::READ != 0);
        let known = readable.filter(|queue| self.brokers.contains_key(&queue.broker_name));
        Ok(known
            .flat_map(|data| {
                (0..data.read_queue_nums).map(|id| Queue {
                    topic: topic.to_owned(),
                    broker: data.broker_name.clone(),
                    id,
                })
            })
            .collect())
    }

    async fn start(&mut self, queue: Queue) -> Result<(), String> {
        let address = self.brokers.get(&queue.broker).cloned().unwrap_or_default();
        let client: Client = self.cluster.connect(&address).await?;
        let position = match self.positions.get(&queue) {
            // Printed, and the broker went away before it was committed.
            Some(printed) => *printed,
            None => pull::position(&client, &self.args.group, &queue, self.start_at).await?,
        };
        tracing::debug!(?queue, position, "consuming");
        let puller = Puller {
            client,
            group: self.args.group.clone(),
            queue: queue.clone(),
            position,
            version: self.version,
            follow: self.args.follow,
            out: self.out.clone(),
        };
        self.pullers.insert(queue, tokio::spawn(puller.run()));
        Ok(())
    }

    /// Prints what a puller got.
    fn take(&mut self, pulled: Pulled) -> Result<(), String> {
        match pulled {
            Pulled::Messages { queue, body, next } => {
                self.print(&queue, &body)?;
                self.positions.insert(queue, next);
            }
            Pulled::End { queue, next } => {
                self.positions.insert(queue.clone(), next);
                self.done.insert(queue);
            }
            Pulled::Failed { queue, why } if self.args.follow => {
                // The next dealing starts it again, from what is committed.
                tracing::warn!("broker {} queue {}: {why}", queue.broker, queue.id);
                self.pullers.remove(&queue);
                self.is_astray = true;
            }
            Pulled::Failed { queue, why } => {
                return Err(format!("broker {} queue {}: {why}", queue.broker, queue.id));
            }
        }
        Ok(())
    }

    fn print(&mut self, queue: &Queue, body: &Bytes) -> Result<(), String> {
        let mut out = std::io::stdout().lock();
        for record in RecordIter::new(body) {
            let record = record.map_err(|error| format!("a reply cannot be read: {error}"))?;
            let line = if self.args.json {
                message::to_json(&queue.broker, &record)
            } else {
                message::line(&queue.broker, &record)
            };
            writeln!(out, "{line}").map_err(|error| format!("standard output: {error}"))?;
            self.received += 1;
        }
        out.flush()
            .map_err(|error| format!("standard output: {error}"))
    }

    async fn commit(&mut self) {
        let mut gone = BTreeSet::new();
        for (queue, position) in std::mem::take(&mut self.positions) {
            let Some(address) = self.brokers.get(&queue.broker).cloned() else {
                continue;
            };
            if gone.contains(&queue.broker) {
                self.positions.insert(queue, position);
                continue;
            }
            let command = ask(
                request::UPDATE_CONSUMER_OFFSET,
                [
                    ("consumerGroup", self.args.group.as_str().into()),
                    ("topic", queue.topic.as_str().into()),
                    ("queueId", queue.id.into()),
                    ("commitOffset", position.into()),
                ],
            );
            match self.cluster.call(&address, command).await {
                Ok(reply) if reply.code == response::SUCCESS => {}
                Ok(reply) => {
                    let what = format!("position of {} queue {}", queue.topic, queue.id);
                    tracing::warn!("{}", refused(&what, &reply));
                }
                Err(error) => {
                    tracing::warn!("position of {} queue {}: {error}", queue.topic, queue.id);
                    // Tried again with the next commit, unless there is a newer one by then.
                    gone.insert(queue.broker.clone());
                    self.positions.entry(queue).or_insert(position);
                }
            }
        }
    }

    /// Commits, and tells the brokers, so that other members take the queues over at once.
    async fn leave(&mut self) {
        for (_, puller) in self.pullers.drain() {
            puller.abort();
        }
        self.commit().await;
        for (name, address) in self.brokers.clone() {
            let command = ask(
                request::UNREGISTER_CLIENT,
                [
                    ("clientID", self.client_id.as_str().into()),
                    ("consumerGroup", self.args.group.as_str().into()),
                ],
            );
            if let Err(error) = self.cluster.call(&address, command).await {
                tracing::debug!(name, error, "leaving without a word");
            }
        }
    }
}
