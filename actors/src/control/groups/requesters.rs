//! To which connection the reply for a client goes.
//!
//! **Owns** client id → connection, of clients that joined a producer group (trap 89).
//! **Lives on** the control plane, as part of `members`. Pure.
//! **Invariants** a connection has one client id; an id belongs to the connection that joined with
//! it last, until that one leaves its last producer group or closes.
//! **Limits** one entry a connection.
//! **Not here** the cores' copies (`data::catalog`).

use std::collections::HashMap;
use std::sync::Arc;

use gantry_runtime::net::PeerRef;

use crate::seam::RequesterChange;

/// The table; see the room's head.
#[derive(Debug, Default)]
pub struct Requesters {
    by_id: HashMap<Arc<str>, PeerRef>,
    by_peer: HashMap<PeerRef, Arc<str>>,
}

impl Requesters {
    /// A producer's heartbeat came by this connection. What the cores must hear, in this order.
    pub fn beat(&mut self, peer: PeerRef, id: &Arc<str>) -> Vec<RequesterChange> {
        let same = self.by_peer.get(&peer) == Some(id);
        // A connection left behind by its client doesn't take the replies back.
        if same && self.by_id.contains_key(id) {
            return Vec::new();
        }
        let mut changes = Vec::new();
        if !same {
            changes.extend(self.left(peer));
        }
        self.by_peer.insert(peer, Arc::clone(id));
        self.by_id.insert(Arc::clone(id), peer);
        changes.push(RequesterChange {
            id: Arc::clone(id),
            peer: Some(peer),
        });
        changes
    }

    /// A connection is no producer any more.
    pub fn left(&mut self, peer: PeerRef) -> Option<RequesterChange> {
        let id = self.by_peer.remove(&peer)?;
        if self.by_id.get(&id) != Some(&peer) {
            return None;
        }
        self.by_id.remove(&id);
        Some(RequesterChange { id, peer: None })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(slot: u32) -> PeerRef {
        PeerRef {
            core: 0,
            slot,
            generation: 1,
        }
    }

    fn change(id: &str, peer: Option<PeerRef>) -> RequesterChange {
        let id = Arc::from(id);
        RequesterChange { id, peer }
    }

    #[test]
    fn the_last_connection_of_an_id_has_its_replies() {
        let mut table = Requesters::default();
        let id: Arc<str> = Arc::from("c");
        assert_eq!(table.beat(peer(1), &id), [change("c", Some(peer(1)))]);
        assert_eq!(table.beat(peer(1), &id), []);
        assert_eq!(table.beat(peer(2), &id), [change("c", Some(peer(2)))]);
        // The old connection still says something, then closes: no change.
        assert_eq!(table.beat(peer(1), &id), []);
        assert_eq!(table.left(peer(1)), None);
        assert_eq!(table.left(peer(2)), Some(change("c", None)));
        assert_eq!(table.beat(peer(3), &id), [change("c", Some(peer(3)))]);
    }

    #[test]
    fn a_connection_with_another_id_gives_the_first_one_up() {
        let mut table = Requesters::default();
        table.beat(peer(1), &Arc::from("a"));
        let changes = table.beat(peer(1), &Arc::from("b"));
        assert_eq!(changes, [change("a", None), change("b", Some(peer(1)))]);
    }
}
