//! Replies pushed to clients that have not said yet that they got them.
//!
//! **Owns** the open ones of this core, and their numbers.
//! **Lives on** the data core of the replier's connection; the requester's may be another one.
//! **Invariants** a push ends exactly once: answered by the connection it went to, that connection
//! closed, its time up, or the core's end. Its number names this core, so the core that reads the
//! answer knows where to pass it on.
//! **Limits** [`PUSHES_MAX`] and [`PUSH_BYTES_MAX`] a core, or less by `memoryLimit`, each for
//! [`PUSH_MS_MAX`].
//! **Not here** what a push says, and what comes of its end (`replies`).

use bytes::Bytes;
use gantry_runtime::net::PeerRef;
use gantry_storage::units::QueueKey;
use hashbrown::HashMap;

use crate::data::words::{Append, ReplyTo};
use crate::seam::{CORE_OPAQUE_BIT, CoreNumber};

/// How long a client may take to answer (`Broker2Client.callClient`, 5.5.0).
pub const PUSH_MS_MAX: u64 = 10_000;
/// Most open pushes: clients answer within a millisecond or are gone.
pub const PUSHES_MAX: usize = 4096;
/// Most bytes of replies that wait to be stored after their push.
pub const PUSH_BYTES_MAX: usize = 32 << 20;

/// A number's low bits count, the ones above name the core.
const COUNT_BITS: u32 = 20;
const COUNT_MASK: i32 = (1 << COUNT_BITS) - 1;
/// Cores that numbers can name: more than a store has shards.
const CORES_MAX: i32 = CORE_OPAQUE_BIT >> COUNT_BITS;
const _: () = assert!(CORES_MAX > u8::MAX as i32 && PUSHES_MAX < COUNT_MASK as usize);

/// One open push.
#[derive(Debug)]
pub struct Push {
    /// Where it went.
    pub peer: PeerRef,
    /// Whom to tell how it ended.
    pub to: ReplyTo,
    /// The client's id, for the remark.
    pub client: String,
    /// The queue that the replier named.
    pub queue_id: u16,
    /// What is to be stored afterwards, and where.
    pub store: Option<(QueueKey, Append)>,
}

impl Push {
    fn bytes(&self) -> usize {
        self.store.as_ref().map_or(0, |(_, append)| append.bytes())
    }
}

/// The open pushes of a core; see the room's head.
#[derive(Debug)]
pub struct Pushes {
    bytes_max: usize,
    open: HashMap<i32, (u64, Push)>,
    bytes: usize,
    count: i32,
}

/// The core whose push has this number; none for a number of the control plane.
pub fn core_of_push(opaque: i32) -> Option<CoreNumber> {
    let is_push = opaque >= CORE_OPAQUE_BIT;
    let core = (opaque & !CORE_OPAQUE_BIT) >> COUNT_BITS;
    is_push.then(|| CoreNumber::try_from(core).ok()).flatten()
}

impl Pushes {
    /// None open; at most so many bytes of replies, and no more than [`PUSH_BYTES_MAX`].
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max: bytes_max.min(PUSH_BYTES_MAX),
            open: HashMap::new(),
            bytes: 0,
            count: 0,
        }
    }

    /// Whether nothing is open.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Opens one and numbers it; none when too much is open.
    pub fn open(&mut self, core: CoreNumber, mut push: Push, now_ms: u64) -> Option<i32> {
        let bytes = push.bytes();
        let fits = self.bytes + bytes <= self.bytes_max;
        if self.open.len() >= PUSHES_MAX || !fits || i32::from(core) >= CORES_MAX {
            return None;
        }
        // They are parts of larger blocks, the body of all that was read with it, which would stay
        // as long.
        if let Some((_, append)) = &mut push.store {
            append.body = Bytes::copy_from_slice(&append.body);
            append.properties = Bytes::copy_from_slice(&append.properties);
        }
        let place = CORE_OPAQUE_BIT | (i32::from(core) << COUNT_BITS);
        // Far fewer are open than there are numbers.
        let opaque = loop {
            self.count = (self.count + 1) & COUNT_MASK;
            let opaque = place | self.count;
            if !self.open.contains_key(&opaque) {
                break opaque;
            }
        };
        self.bytes += bytes;
        self.open.insert(opaque, (now_ms + PUSH_MS_MAX, push));
        Some(opaque)
    }

    /// Takes the one with this number, if it went to this connection.
    pub fn take(&mut self, opaque: i32, peer: PeerRef) -> Option<Push> {
        let is_its = self
            .open
            .get(&opaque)
            .is_some_and(|(_, push)| push.peer == peer);
        let (_, push) = is_its.then(|| self.open.remove(&opaque)).flatten()?;
        self.bytes = self.bytes.saturating_sub(push.bytes());
        Some(push)
    }

    /// Takes those that went to this connection.
    pub fn take_of(&mut self, peer: PeerRef) -> Vec<Push> {
        self.take_if(|_, push| push.peer == peer)
    }

    /// Takes those whose time is up; all of them at the end of time.
    pub fn take_due(&mut self, now_ms: u64) -> Vec<Push> {
        self.take_if(|deadline_ms, _| deadline_ms <= now_ms)
    }

    fn take_if(&mut self, wanted: impl Fn(u64, &Push) -> bool) -> Vec<Push> {
        let due = |_: &i32, entry: &mut (u64, Push)| wanted(entry.0, &entry.1);
        let taken: Vec<Push> = self
            .open
            .extract_if(due)
            .map(|(_, (_, push))| push)
            .collect();
        let bytes: usize = taken.iter().map(Push::bytes).sum();
        self.bytes = self.bytes.saturating_sub(bytes);
        taken
    }
}

#[cfg(test)]
mod tests {
    use gantry_protocol::frame::HeaderEncoding;

    use super::*;
    use crate::data::testing::{client_addr, peer, topic};
    use crate::data::words::Marks;

    fn push(slot: u32) -> Push {
        Push {
            peer: peer(0, slot),
            to: ReplyTo {
                peer: peer(0, 1),
                opaque: 1,
                encoding: HeaderEncoding::Json,
                one_way: false,
                read_us: 0,
            },
            client: "c".to_owned(),
            queue_id: 0,
            store: None,
        }
    }

    #[test]
    fn a_number_names_its_core_and_is_taken_once_by_its_connection() {
        let mut pushes = Pushes::new(PUSH_BYTES_MAX);
        let opaque = pushes.open(3, push(7), 0).unwrap();
        assert_eq!(core_of_push(opaque), Some(3));
        assert_eq!(core_of_push(5), None);
        assert_eq!(core_of_push(-1), None);
        assert!(pushes.take(opaque, peer(0, 8)).is_none());
        assert!(pushes.take(opaque, peer(0, 7)).is_some());
        assert!(pushes.take(opaque, peer(0, 7)).is_none());
    }

    /// A short reply holds its own bytes, not the read it came with.
    #[test]
    fn what_came_with_it_is_not_kept() {
        let read = Bytes::from(vec![0; 256 << 10]);
        let append = Append {
            topic: topic("R", 1, 1),
            flag: 0,
            sys_flag: 0,
            born_ms: 0,
            born_host: client_addr(),
            reconsume_times: 0,
            body: read.slice(50..100),
            body_crc: 0,
            properties: read.slice(..50),
            marks: Marks::default(),
            rare: None,
        };
        let one = Push {
            store: Some((QueueKey::new(1, 0), append)),
            ..push(7)
        };
        let mut pushes = Pushes::new(PUSH_BYTES_MAX);
        let opaque = pushes.open(0, one, 0).unwrap();
        assert!(read.is_unique());
        let (_, append) = pushes.take(opaque, peer(0, 7)).unwrap().store.unwrap();
        assert_eq!(append.body, read.slice(50..100));
    }

    #[test]
    fn they_are_bounded_and_end_in_time() {
        let mut pushes = Pushes::new(PUSH_BYTES_MAX);
        for _ in 0..PUSHES_MAX {
            assert!(pushes.open(0, push(7), 0).is_some());
        }
        assert!(pushes.open(0, push(7), 0).is_none());
        assert!(pushes.take_due(PUSH_MS_MAX - 1).is_empty());
        assert_eq!(pushes.take_due(PUSH_MS_MAX).len(), PUSHES_MAX);
        assert!(pushes.is_empty());
    }
}
