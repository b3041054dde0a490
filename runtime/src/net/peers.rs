//! The connections of one core by slot and generation.
//!
//! **Owns** the slab that turns a [`PeerRef`] into its [`Session`] in O(1).
//! **Lives on** one data core; a `PeerRef` itself may travel anywhere.
//! **Invariants** a slot's generation grows each time the slot is taken, so a stale `PeerRef`
//! misses and never finds a stranger.
//! **Limits** as many slots as connections were open at once; slots are reused, never returned.
//! **Not here** what a client is (producer, consumer): `actors`.

use std::cell::RefCell;
use std::rc::Rc;

use super::session::Session;

/// Names one connection of the process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerRef {
    /// The data core that owns the connection.
    pub core: u16,
    /// Its slot there.
    pub slot: u32,
    /// Which tenant of the slot.
    pub generation: u32,
}

#[derive(Default)]
struct Slot {
    generation: u32,
    session: Option<Rc<Session>>,
}

/// The slab.
#[derive(Default)]
pub struct PeerTable {
    core: u16,
    slots: RefCell<Slots>,
}

#[derive(Default)]
struct Slots {
    all: Vec<Slot>,
    free: Vec<u32>,
    taken: usize,
}

impl PeerTable {
    /// An empty table for `core`.
    pub fn new(core: u16) -> Rc<Self> {
        Rc::new(Self {
            core,
            slots: RefCell::default(),
        })
    }

    /// The session, unless it is gone.
    pub fn get(&self, peer: PeerRef) -> Option<Rc<Session>> {
        if peer.core != self.core {
            return None;
        }
        let slots = self.slots.borrow();
        let slot = slots.all.get(usize::try_from(peer.slot).ok()?)?;
        if slot.generation == peer.generation {
            slot.session.clone()
        } else {
            None
        }
    }

    /// Open connections.
    pub fn len(&self) -> usize {
        self.slots.borrow().taken
    }

    /// Whether no connection is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// All sessions, as a copy: closing one while walking is fine.
    pub fn all(&self) -> Vec<Rc<Session>> {
        let slots = self.slots.borrow();
        slots
            .all
            .iter()
            .filter_map(|slot| slot.session.clone())
            .collect()
    }

    /// Takes a slot for the session that `make` builds with its name.
    pub(super) fn insert(&self, make: impl FnOnce(PeerRef) -> Rc<Session>) -> Rc<Session> {
        let mut slots = self.slots.borrow_mut();
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.all.push(Slot::default());
            u32::try_from(slots.all.len() - 1).expect("connections are bounded far below 2^32")
        });
        slots.taken += 1;
        let place = entry(&mut slots.all, slot).expect("the slot was just found or made");
        place.generation = place.generation.wrapping_add(1);
        let name = PeerRef {
            core: self.core,
            slot,
            generation: place.generation,
        };
        let session = make(name);
        place.session = Some(Rc::clone(&session));
        session
    }

    /// Frees the slot.
    pub(super) fn remove(&self, peer: PeerRef) {
        let mut slots = self.slots.borrow_mut();
        let gone = match entry(&mut slots.all, peer.slot) {
            Some(place) if place.generation == peer.generation => place.session.take(),
            _ => None,
        };
        if gone.is_some() {
            slots.taken -= 1;
            slots.free.push(peer.slot);
        }
        // The session's drop runs foreign code; not under the borrow.
        drop(slots);
        drop(gone);
    }
}

fn entry(slots: &mut [Slot], slot: u32) -> Option<&mut Slot> {
    slots.get_mut(usize::try_from(slot).ok()?)
}
