//! Requests that wait for a topic or a group to be made.
//!
//! **Owns** the parked frames, by what they wait for.
//! **Lives on** each data core.
//! **Invariants** while anything waits for a topic, further sends to it wait behind, so the order
//! of a connection's messages holds (those that wait for a retry topic's group have none); one
//! question a subject is under way at the control plane.
//! **Limits** [`PARKED_MAX`] requests of [`PARKED_BYTES_MAX`] together, or less by `memoryLimit`,
//! each at most [`PARKED_MS`] and [`WAITS_MAX`] times.
//! **Not here** who may make what (`control`).

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;
use gantry_protocol::frame::Frame;
use gantry_runtime::net::PeerRef;
use hashbrown::HashMap;

use crate::refusal::quoted;
use crate::seam::Ticket;

/// Most requests parked on a core.
pub const PARKED_MAX: usize = 10_000;
/// Most bytes of parked frames on a core.
pub const PARKED_BYTES_MAX: usize = 32 * 1024 * 1024;
/// Longest wait: a client gives up after 3 s.
pub const PARKED_MS: u64 = 3_000;

/// Most waits of a request: a send waits for its retry topic, for that topic's group, and for the
/// topic of the group's dead letters.
const WAITS_MAX: u8 = 3;

/// How often a request has waited for a topic or a group to be made, and since when it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waited {
    count: u8,
    /// When the read that completed the request was done, µs: the same for all of its waits.
    pub read_us: u64,
}

impl Waited {
    /// It came from the wire.
    pub fn never(read_us: u64) -> Self {
        Self { count: 0, read_us }
    }

    /// Whether it came from the wire.
    pub fn is_never(self) -> bool {
        self.count == 0
    }

    /// Whether it may wait again.
    pub fn may_again(self) -> bool {
        self.count < WAITS_MAX
    }

    /// One wait is over.
    #[must_use]
    pub fn once_more(self) -> Self {
        Self {
            count: self.count.saturating_add(1),
            ..self
        }
    }
}

/// Who sent a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Caller {
    /// The connection.
    pub peer: PeerRef,
    /// Its address.
    pub addr: SocketAddr,
}

/// What is waited for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A topic.
    Topic(String),
    /// A group.
    Group(String),
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Topic(name) => write!(f, "topic {}", quoted(name)),
            Self::Group(name) => write!(f, "group {}", quoted(name)),
        }
    }
}

/// A parked request.
#[derive(Debug)]
pub struct ParkedRequest {
    /// Who sent it.
    pub caller: Caller,
    /// The request as it came.
    pub frame: Frame,
    /// Waits before this one.
    pub waited: Waited,
}

#[derive(Debug)]
struct Wait {
    subject: Subject,
    deadline_ms: u64,
    requests: Vec<ParkedRequest>,
}

/// One core's parked requests.
#[derive(Debug)]
pub struct Parked {
    bytes_max: usize,
    tickets: HashMap<Subject, Ticket>,
    waits: BTreeMap<Ticket, Wait>,
    count: usize,
    bytes: usize,
    last_ticket: u64,
}

/// What parking did.
#[derive(Debug, PartialEq, Eq)]
pub enum Park {
    /// The control plane must be asked under this ticket.
    Ask(Ticket),
    /// It has been asked already.
    Waits,
    /// No room.
    Full,
}

impl Parked {
    /// Nothing parked; at most so many bytes of frames, and no more than [`PARKED_BYTES_MAX`].
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: bytes_max.min(PARKED_BYTES_MAX),
            tickets: HashMap::new(),
            waits: BTreeMap::new(),
            count: 0,
            bytes: 0,
            last_ticket: 0,
        }
    }

    /// Whether anything waits for a topic.
    pub fn holds_topic(&self, topic: &str) -> bool {
        // Almost always empty, and then no key is built.
        !self.tickets.is_empty() && self.tickets.contains_key(&Subject::Topic(topic.to_owned()))
    }

    /// Parks a request.
    pub fn park(&mut self, subject: &Subject, mut request: ParkedRequest, now_ms: u64) -> Park {
        let bytes = request.frame.wire_bytes();
        if self.count >= PARKED_MAX || self.bytes + bytes > self.bytes_max {
            return Park::Full;
        }
        // As it came it is a part of all that was read with it, which would stay as long.
        let frame = &mut request.frame;
        frame.header = Bytes::copy_from_slice(&frame.header);
        frame.body = Bytes::copy_from_slice(&frame.body);
        self.count += 1;
        self.bytes += bytes;
        if let Some(ticket) = self.tickets.get(subject)
            && let Some(wait) = self.waits.get_mut(ticket)
        {
            wait.requests.push(request);
            return Park::Waits;
        }
        self.last_ticket += 1;
        let ticket = Ticket(self.last_ticket);
        self.tickets.insert(subject.clone(), ticket);
        let deadline_ms = now_ms + PARKED_MS;
        self.waits.insert(
            ticket,
            Wait {
                subject: subject.clone(),
                deadline_ms,
                requests: vec![request],
            },
        );
        Park::Ask(ticket)
    }

    /// Takes what waits under a ticket, in the order it came.
    pub fn take(&mut self, ticket: Ticket) -> Vec<ParkedRequest> {
        self.take_wait(ticket).map_or(Vec::new(), |(_, all)| all)
    }

    fn take_wait(&mut self, ticket: Ticket) -> Option<(Subject, Vec<ParkedRequest>)> {
        let wait = self.waits.remove(&ticket)?;
        self.tickets.remove(&wait.subject);
        self.count -= wait.requests.len();
        self.bytes -= wait
            .requests
            .iter()
            .map(|one| one.frame.wire_bytes())
            .sum::<usize>();
        Some((wait.subject, wait.requests))
    }

    /// How many requests wait, of how many bytes, and how long the first of them has, ms.
    pub fn waiting(&self, now_ms: u64) -> (usize, usize, u64) {
        let first = self.waits.values().next();
        let waited_ms = first.map_or(0, |wait| {
            (now_ms + PARKED_MS).saturating_sub(wait.deadline_ms)
        });
        (self.count, self.bytes, waited_ms)
    }

    /// Takes what has waited too long, with what for.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<(Subject, Vec<ParkedRequest>)> {
        // Tickets and deadlines grow together.
        let due = self
            .waits
            .iter()
            .take_while(|(_, wait)| wait.deadline_ms <= now_ms);
        let due: Vec<Ticket> = due.map(|(ticket, _)| *ticket).collect();
        due.into_iter()
            .filter_map(|ticket| self.take_wait(ticket))
            .collect()
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.waits.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use gantry_protocol::frame::HeaderEncoding;

    use super::*;

    fn request(slot: u32, bytes: usize) -> ParkedRequest {
        let peer = PeerRef {
            core: 0,
            slot,
            generation: 1,
        };
        let body = Bytes::from(vec![0; bytes]);
        let frame = Frame {
            encoding: HeaderEncoding::Json,
            header: Bytes::new(),
            body,
        };
        ParkedRequest {
            caller: Caller {
                peer,
                addr: "127.0.0.1:1".parse().unwrap(),
            },
            frame,
            waited: Waited::never(0),
        }
    }

    fn topic() -> Subject {
        Subject::Topic("T".to_owned())
    }

    #[test]
    fn one_question_and_the_order_kept() {
        let mut parked = Parked::new(PARKED_BYTES_MAX);
        let Park::Ask(ticket) = parked.park(&topic(), request(1, 10), 0) else {
            panic!()
        };
        assert_eq!(parked.park(&topic(), request(2, 10), 5), Park::Waits);
        assert!(parked.holds_topic("T"));
        let slots: Vec<u32> = parked
            .take(ticket)
            .iter()
            .map(|p| p.caller.peer.slot)
            .collect();
        assert_eq!(slots, [1, 2]);
        assert!(!parked.holds_topic("T"));
        assert!(parked.take(ticket).is_empty());
    }

    /// A short message holds its own bytes, not the read it came with.
    #[test]
    fn what_came_with_it_is_not_kept() {
        let read = Bytes::from(vec![0; 256 << 10]);
        let mut one = request(1, 0);
        (one.frame.header, one.frame.body) = (read.slice(..50), read.slice(50..100));
        let mut parked = Parked::new(PARKED_BYTES_MAX);
        let Park::Ask(ticket) = parked.park(&topic(), one, 0) else {
            panic!()
        };
        assert!(read.is_unique());
        assert_eq!(parked.take(ticket)[0].frame.body, read.slice(50..100));
    }

    #[test]
    fn bounds_hold_and_time_ends_the_wait() {
        let mut parked = Parked::new(PARKED_BYTES_MAX);
        assert_ne!(
            parked.park(&topic(), request(1, PARKED_BYTES_MAX / 2), 0),
            Park::Full
        );
        assert_eq!(
            parked.park(&topic(), request(2, PARKED_BYTES_MAX / 2), 0),
            Park::Full
        );
        assert!(parked.take_due(PARKED_MS - 1).is_empty());
        assert_eq!(parked.take_due(PARKED_MS).len(), 1);
        assert!(parked.is_empty());
        assert_eq!((parked.count, parked.bytes), (0, 0));
    }
}
