//! 200 topics of 8 queues, 64 producers that never pause, and one consumer group that grows and
//! shrinks: after each change every queue has one reader, every message comes, in order within a
//! reader's stint, and nothing stands still for more than two seconds. Members do as the clients
//! do: they divide the queues by what the broker says about the group, when it says so.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "a test may panic"
)]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_possible_wrap,
    reason = "small test numbers"
)]

mod common;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use common::client::{Pull, send_ext};
use common::{Client, Frame, Gantry, code, ext, fresh, records, reply};
use serde_json::{Value, json};

const TOPICS: usize = 200;
const QUEUES: usize = 8;
const PRODUCERS: usize = 64;
/// Members after each change; more than a topic has queues, and fewer.
const SIZES: [usize; 8] = [1, 4, 12, 5, 2, 9, 8, 1];
const STALL_MAX: Duration = Duration::from_secs(2);
/// How often a producer sends to each of its queues.
const ROUND: Duration = Duration::from_millis(700);
/// Between two changes of the group, once the first has settled.
const STEADY: Duration = Duration::from_millis(900);
/// How long a member waits on its socket before it looks whether it is to go.
const GLANCE: Duration = Duration::from_millis(10);
/// Commit what was read, wait for more; the subscription is the heartbeat's.
const PUSH_PULL_FLAG: i32 = 1 | 2;
const SUSPEND_MS: u64 = 15_000;

/// What became of one queue.
#[derive(Default, Clone)]
struct Line {
    sent: i64,
    /// Everything below was delivered.
    seen: i64,
    repeats: u64,
}

/// What all threads share.
struct World {
    broker: std::net::SocketAddr,
    topics: Vec<String>,
    group: String,
    born: Instant,
    over: AtomicBool,
    lines: Vec<Mutex<Line>>,
    /// The queues each member reads.
    shares: Mutex<BTreeMap<String, BTreeSet<usize>>>,
    slowest_micros: AtomicU64,
    faults: Mutex<Vec<String>>,
}

impl World {
    fn fault(&self, what: String) {
        self.faults.lock().unwrap().push(what);
    }

    /// A delivery in a stint: what is new to the queue must be its next message, soon after it was
    /// sent.
    fn delivered(&self, queue: usize, offset: i64, body: &[u8]) {
        let mut line = self.lines[queue].lock().unwrap();
        match offset.cmp(&line.seen) {
            std::cmp::Ordering::Less => line.repeats += 1,
            std::cmp::Ordering::Greater => self.fault(format!(
                "queue {queue}: {offset} came, {} never did",
                line.seen
            )),
            std::cmp::Ordering::Equal => {
                line.seen += 1;
                let sent = u64::from_be_bytes(body.try_into().unwrap());
                let late = (self.born.elapsed().as_micros() as u64).saturating_sub(sent);
                self.slowest_micros.fetch_max(late, Ordering::Relaxed);
            }
        }
    }
}

/// The clients' average allocation: each topic's queues by the member's place among the sorted ids.
fn share(ids: &[String], me: &str) -> BTreeSet<usize> {
    let Some(at) = ids.iter().position(|id| id == me) else {
        return BTreeSet::new();
    };
    let (each, more) = (QUEUES / ids.len(), QUEUES % ids.len());
    let mine = each + usize::from(at < more);
    let from = at * each + at.min(more);
    let queues = from..from + mine;
    (0..TOPICS)
        .flat_map(|t| queues.clone().map(move |q| t * QUEUES + q))
        .collect()
}

// ---- producers

fn produce(world: &World, number: usize) -> io::Result<()> {
    let mut client = Client::connect(world.broker);
    let mine: Vec<usize> = (number..TOPICS * QUEUES).step_by(PRODUCERS).collect();
    while !world.over.load(Ordering::Relaxed) {
        let began = Instant::now();
        let mut asked = Vec::new();
        for queue in &mine {
            let fields = send_ext(
                &world.topics[queue / QUEUES],
                (queue % QUEUES) as i32,
                &[],
                false,
            );
            let now = world.born.elapsed().as_micros() as u64;
            asked.push((
                *queue,
                client.post(code::SEND_V2, &fields, &now.to_be_bytes()),
            ));
        }
        client.flush()?;
        for (queue, opaque) in asked {
            let answer = client.reply_to(opaque)?;
            if answer.code == reply::SUCCESS {
                world.lines[queue].lock().unwrap().sent += 1;
            } else {
                world.fault(format!("send: code {} '{}'", answer.code, answer.remark));
            }
        }
        std::thread::sleep(ROUND.saturating_sub(began.elapsed()));
    }
    Ok(())
}

// ---- members

/// What a member waits for under an opaque number.
enum Ask {
    Beat,
    Members,
    Position(usize),
    Pull(usize),
}

struct Member<'a> {
    world: &'a World,
    id: String,
    client: Client,
    asks: HashMap<i32, Ask>,
    /// Queue → where the next pull reads.
    queues: BTreeMap<usize, i64>,
    /// Told of a change while a question about members was under way.
    again: bool,
}

impl Member<'_> {
    fn ask(&mut self, code: i32, fields: &[(String, String)], body: &[u8], what: Ask) {
        let opaque = self.client.post(code, fields, body);
        self.asks.insert(opaque, what);
    }

    fn ask_members(&mut self) {
        self.again = self.asks.values().any(|ask| matches!(ask, Ask::Members));
        if !self.again {
            let fields = ext(&[("consumerGroup", &self.world.group)]);
            self.ask(code::CONSUMER_LIST, &fields, b"", Ask::Members);
        }
    }

    fn join(&mut self) {
        let topics: Vec<Value> = self
            .world
            .topics
            .iter()
            .map(|topic| {
                json!({"topic": topic,
            "subString": "*", "tagsSet": [], "codeSet": [], "subVersion": 1_700_000_000_000_i64,
            "expressionType": "TAG", "classFilterMode": false})
            })
            .collect();
        let body = json!({"clientID": self.id, "producerDataSet": [],
            "consumerDataSet": [{"groupName": self.world.group,
                "consumeType": "CONSUME_PASSIVELY", "messageModel": "CLUSTERING",
                "consumeFromWhere": "CONSUME_FROM_FIRST_OFFSET", "unitMode": false,
                "subscriptionDataSet": topics}]});
        self.ask(
            code::HEART_BEAT,
            &[],
            body.to_string().as_bytes(),
            Ask::Beat,
        );
    }

    fn position_fields(&self, queue: usize) -> Vec<(String, String)> {
        ext(&[
            ("consumerGroup", &self.world.group),
            ("topic", &self.world.topics[queue / QUEUES]),
            ("queueId", &(queue % QUEUES).to_string()),
        ])
    }

    /// Writes down how far a queue was read, as the clients do when they give it away.
    fn commit(&mut self, queue: usize, offset: i64) {
        let mut fields = self.position_fields(queue);
        fields.extend(ext(&[("commitOffset", &offset.to_string())]));
        self.client
            .post_oneway(code::UPDATE_CONSUMER_OFFSET, &fields, b"");
    }

    fn pull(&mut self, queue: usize, offset: i64) {
        self.queues.insert(queue, offset);
        let topic = &self.world.topics[queue / QUEUES];
        let mut pull = Pull::new(topic, (queue % QUEUES) as i32, offset);
        pull.group = &self.world.group;
        pull.sys_flag = PUSH_PULL_FLAG;
        pull.suspend_ms = SUSPEND_MS;
        pull.commit = offset;
        let fields = pull.ext();
        self.ask(code::PULL, &fields, b"", Ask::Pull(queue));
    }

    fn divide(&mut self, answer: &Frame) {
        let ids: Value = serde_json::from_slice(&answer.body).unwrap();
        let ids = ids["consumerIdList"].as_array().unwrap();
        let mut ids: Vec<String> = ids
            .iter()
            .map(|id| id.as_str().unwrap().to_owned())
            .collect();
        ids.sort();
        let share = share(&ids, &self.id);
        let lost: Vec<usize> = self.queues.keys().copied().collect();
        for queue in lost.into_iter().filter(|q| !share.contains(q)) {
            let offset = self.queues.remove(&queue).unwrap();
            if offset >= 0 {
                self.commit(queue, offset);
            }
            self.asks
                .retain(|_, ask| !matches!(ask, Ask::Pull(q) | Ask::Position(q) if *q == queue));
        }
        for queue in &share {
            if !self.queues.contains_key(queue) {
                self.queues.insert(*queue, -1);
                let fields = self.position_fields(*queue);
                self.ask(
                    code::QUERY_CONSUMER_OFFSET,
                    &fields,
                    b"",
                    Ask::Position(*queue),
                );
            }
        }
        let mut shares = self.world.shares.lock().unwrap();
        shares.insert(self.id.clone(), share);
    }

    fn take(&mut self, frame: &Frame) {
        if !frame.is_reply() {
            if frame.code == code::NOTIFY_CONSUMER_IDS {
                self.ask_members();
            }
            return;
        }
        // Of a queue given away meanwhile nobody waits for anything.
        let Some(ask) = self.asks.remove(&frame.opaque) else {
            return;
        };
        match (ask, frame.code) {
            (Ask::Beat, reply::SUCCESS) => self.ask_members(),
            (Ask::Members, reply::SUCCESS) => {
                self.divide(frame);
                if self.again {
                    self.ask_members();
                }
            }
            (Ask::Position(queue), reply::SUCCESS) => self.pull(queue, frame.number("offset")),
            (Ask::Position(queue), reply::QUERY_NOT_FOUND) => self.pull(queue, 0),
            (Ask::Pull(queue), reply::SUCCESS | reply::PULL_NOT_FOUND | reply::PULL_RETRY) => {
                self.read(queue, frame);
            }
            (_, code) => self.world.fault(format!(
                "{}: code {code} '{}' {:?}",
                self.id, frame.remark, frame.ext
            )),
        }
    }

    fn read(&mut self, queue: usize, frame: &Frame) {
        let mut next = self.queues[&queue];
        for record in records(&frame.body) {
            if record.queue_offset != next {
                let at = record.queue_offset;
                let who = &self.id;
                self.world
                    .fault(format!("{who}, queue {queue}: {at} instead of {next}"));
            }
            next = record.queue_offset + 1;
            self.world
                .delivered(queue, record.queue_offset, &record.body);
        }
        self.pull(queue, frame.number("nextBeginOffset"));
    }

    fn leave(&mut self) -> io::Result<()> {
        for (queue, offset) in self.queues.clone() {
            self.commit(queue, offset.max(0));
        }
        let fields = ext(&[("clientID", &self.id), ("consumerGroup", &self.world.group)]);
        self.client.post(code::UNREGISTER_CLIENT, &fields, b"");
        self.client.flush()
    }

    fn live(&mut self, orders: &AtomicU64) -> io::Result<()> {
        self.client.stream().set_read_timeout(Some(GLANCE))?;
        self.join();
        loop {
            self.client.flush()?;
            match self.client.next_frame() {
                Ok(frame) => self.take(&frame),
                Err(e)
                    if matches!(
                        e.kind(),
                        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                    ) => {}
                Err(e) => return Err(e),
            }
            match orders.load(Ordering::Relaxed) {
                STAY => {}
                LEAVE => return self.leave(),
                // Nothing is said: the connection closes, as when the process is killed.
                _ => return Ok(()),
            }
        }
    }
}

const STAY: u64 = 0;
const LEAVE: u64 = 1;
const DIE: u64 = 2;

struct Seat {
    id: String,
    orders: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

fn seat(world: &Arc<World>, number: usize) -> Seat {
    // Not in the order of joining: newcomers shift everybody's share.
    let id = format!("127.0.0.1@{:03}", number * 37 % 101);
    let orders = Arc::new(AtomicU64::new(STAY));
    let (world, name, wish) = (Arc::clone(world), id.clone(), Arc::clone(&orders));
    let thread = std::thread::spawn(move || {
        let mut member = Member {
            client: Client::connect(world.broker),
            world: &world,
            id: name,
            asks: HashMap::new(),
            queues: BTreeMap::new(),
            again: false,
        };
        if let Err(e) = member.live(&wish) {
            world.fault(format!("{}: {e}", member.id));
        }
    });
    Seat { id, orders, thread }
}

/// Waits until exactly these members read exactly their shares.
fn settle(world: &World, seats: &[Seat], what: &str, since: Instant) -> Duration {
    let mut ids: Vec<String> = seats.iter().map(|seat| seat.id.clone()).collect();
    ids.sort();
    let wanted: BTreeMap<String, BTreeSet<usize>> =
        ids.iter().map(|id| (id.clone(), share(&ids, id))).collect();
    let read: usize = wanted.values().map(BTreeSet::len).sum();
    assert_eq!(read, TOPICS * QUEUES, "the shares of {ids:?} cover all");
    while *world.shares.lock().unwrap() != wanted {
        assert!(
            since.elapsed() < STALL_MAX,
            "{what}: the queues are not divided anew after {STALL_MAX:?}; {:?}",
            world.faults.lock().unwrap()
        );
        std::thread::sleep(Duration::from_millis(2));
    }
    since.elapsed()
}

/// Grows or shrinks the group to `size`; every second one that goes says nothing.
fn change(world: &Arc<World>, seats: &mut Vec<Seat>, joined: &mut usize, size: usize) {
    let (before, since) = (seats.len(), Instant::now());
    while seats.len() < size {
        seats.push(seat(world, *joined));
        *joined += 1;
    }
    while seats.len() > size {
        let gone = seats.remove(seats.len() / 2);
        let order = if seats.len().is_multiple_of(2) {
            LEAVE
        } else {
            DIE
        };
        gone.orders.store(order, Ordering::Relaxed);
        gone.thread.join().unwrap();
        world.shares.lock().unwrap().remove(&gone.id);
    }
    let what = format!("from {before} to {size} members");
    let took = settle(world, seats, &what, since);
    println!("{what}: {} ms", took.as_millis());
}

fn faults_are_none(world: &World) {
    let faults = world.faults.lock().unwrap();
    assert!(
        faults.is_empty(),
        "{} faults, the first: {:?}",
        faults.len(),
        &faults[..faults.len().min(5)]
    );
}

#[test]
fn a_group_that_grows_and_shrinks_covers_1600_queues_exactly() {
    let gantry = Gantry::up(&[]);
    let mut client = gantry.client();
    let topics: Vec<String> = (0..TOPICS).map(|_| fresh("churn")).collect();
    for topic in &topics {
        client.create_topic(topic, QUEUES as i32);
    }
    let world = Arc::new(World {
        broker: gantry.broker(),
        topics,
        group: fresh("churners"),
        born: Instant::now(),
        over: AtomicBool::new(false),
        lines: vec![Line::default(); TOPICS * QUEUES]
            .into_iter()
            .map(Mutex::new)
            .collect(),
        shares: Mutex::default(),
        slowest_micros: AtomicU64::new(0),
        faults: Mutex::default(),
    });
    let (mut seats, mut joined) = (Vec::new(), 0);
    change(&world, &mut seats, &mut joined, SIZES[0]);
    let producers: Vec<JoinHandle<()>> = (0..PRODUCERS)
        .map(|number| {
            let world = Arc::clone(&world);
            std::thread::spawn(move || produce(&world, number).unwrap())
        })
        .collect();
    for size in &SIZES[1..] {
        std::thread::sleep(STEADY);
        change(&world, &mut seats, &mut joined, *size);
        faults_are_none(&world);
    }
    std::thread::sleep(STEADY);
    world.over.store(true, Ordering::Relaxed);
    for producer in producers {
        producer.join().unwrap();
    }
    let lines = || world.lines.iter().map(|line| line.lock().unwrap().clone());
    common::until(STALL_MAX.as_secs(), "every message was delivered", || {
        lines().all(|line| line.seen == line.sent).then_some(())
    });
    for seat in seats {
        seat.orders.store(DIE, Ordering::Relaxed);
        seat.thread.join().unwrap();
    }
    faults_are_none(&world);
    let sent: i64 = lines().map(|line| line.sent).sum();
    let repeats: u64 = lines().map(|line| line.repeats).sum();
    let slowest = Duration::from_micros(world.slowest_micros.load(Ordering::Relaxed));
    println!("{sent} messages, {repeats} repeats at changes, the slowest took {slowest:?}");
    assert!(lines().all(|line| line.sent > 0), "every queue was used");
    assert!(slowest <= STALL_MAX, "a message took {slowest:?}");
}
