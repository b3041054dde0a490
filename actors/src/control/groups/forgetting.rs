//! Groups that are deleted with their positions (`cleanOffset`).
//!
//! **Owns** the deletions that wait until the rows of their positions are found.
//! **Lives on** the control plane's thread; rows are looked for on a blocking thread beside it, as
//! all positions there are must be looked through: 1 s a million.
//! **Invariants** a group and its positions go in one commit. What a core stores of them after the
//! look comes to the tables as changed rows, and then as forgotten ones.
//! **Limits** [`WAITING_MAX`] deletions; one look at a time, for all that wait.
//! **Not here** the commit (`super`), the cores' copies (`ToData::ForgetGroup`).

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::response;

use super::{Groups, Msg};
use crate::control::plane::Plane;
use crate::control::reply::ReplyTo;
use crate::refusal::Refusal;

/// Deletions that wait for a look; an operator's script sends one after the other.
const WAITING_MAX: usize = 1024;

/// A group to be deleted with its positions, and who wants that.
pub type Deletion = (Arc<str>, ReplyTo);

/// See the room's head.
#[derive(Default)]
pub struct Forgetting {
    pub(super) waiting: Vec<Deletion>,
    is_looking: bool,
}

impl Groups {
    /// Deletes a group once its positions are found.
    ///
    /// # Errors
    /// Too many deletions wait.
    pub(super) fn delete_later(
        &mut self,
        deletion: Deletion,
        plane: &Rc<Plane>,
    ) -> Result<(), Refusal> {
        if self.forgetting.waiting.len() >= WAITING_MAX {
            let busy = format!("[OVERLOAD]{WAITING_MAX} groups wait to be deleted already");
            return Err(Refusal::new(response::SYSTEM_BUSY, busy));
        }
        self.forgetting.waiting.push(deletion);
        self.look(plane);
        Ok(())
    }

    fn look(&mut self, plane: &Rc<Plane>) {
        let forgetting = &mut self.forgetting;
        if forgetting.waiting.is_empty() || forgetting.is_looking {
            return;
        }
        forgetting.is_looking = true;
        let deletions = std::mem::take(&mut forgetting.waiting);
        let groups: Vec<Arc<str>> = deletions.iter().map(|(group, _)| group.clone()).collect();
        let (plane, ledger) = (Rc::clone(plane), plane.ledger.clone());
        actix::spawn(async move {
            let found = tokio::task::spawn_blocking(move || ledger.positions_of(&groups)).await;
            let found = found.unwrap_or_else(|error| {
                Err(Refusal::new(response::SYSTEM_ERROR, error.to_string()))
            });
            plane
                .book()
                .groups
                .tell(Msg::PositionsFound(deletions, found));
        });
    }

    /// The look has ended: the groups go with the next commit, and these rows.
    pub(super) fn positions_found(
        &mut self,
        deletions: Vec<Deletion>,
        found: Result<Vec<Vec<u8>>, Refusal>,
        plane: &Rc<Plane>,
    ) {
        self.forgetting.is_looking = false;
        match found {
            Ok(rows) => {
                self.positions.extend(rows);
                for (group, to) in deletions {
                    self.remove(&group, plane);
                    self.forgotten.push(group);
                    self.wait(to, plane);
                }
            }
            Err(refusal) => {
                for (_, to) in deletions {
                    plane.refuse(&to, &refusal);
                }
            }
        }
        self.look(plane);
    }
}
