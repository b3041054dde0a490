//! Requests of the broker to its clients, and their answers.
//!
//! **Owns** the open ones, by connection and number.
//! **Lives on** the control plane's thread.
//! **Invariants** a request ends exactly once: answered, its connection closed, or its time up; an
//! answer to a closed one is dropped. Requests go out in JSON, which every client reads (trap 7).
//! **Limits** [`CALLS_MAX`] at once.
//! **Not here** what is asked (`groups::clients`), notifications, which nobody answers (`groups`).

use std::cell::RefCell;
use std::collections::HashMap;
use std::time::Duration;

use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_runtime::net::PeerRef;
use tokio::sync::oneshot;

use crate::control::plane::Plane;
use crate::control::reply::encoded;
use crate::refusal::Refusal;

/// Most open requests: an operator asks a few clients, a dashboard all of some groups.
pub const CALLS_MAX: usize = 4096;

/// Open requests; see the room's head.
#[derive(Default)]
pub struct Calls {
    open: RefCell<HashMap<(PeerRef, i32), oneshot::Sender<Command>>>,
}

impl Calls {
    /// A client's answer has come.
    pub fn replied(&self, peer: PeerRef, command: Command) {
        let waiting = self.open.borrow_mut().remove(&(peer, command.opaque));
        if let Some(waiting) = waiting {
            // The asker may have given up at this very moment.
            let _ = waiting.send(command);
        }
    }

    /// A connection is gone: whoever waits for it is told at once.
    pub fn closed(&self, peer: PeerRef) {
        self.open.borrow_mut().retain(|(of, _), _| *of != peer);
    }
}

impl Plane {
    /// Asks a client and waits for its answer.
    ///
    /// # Errors
    /// What the operator is told: 207 when the client is silent for `limit`, 1 when it is gone.
    pub async fn call(
        &self,
        peer: PeerRef,
        mut command: Command,
        limit: Duration,
    ) -> Result<Command, Refusal> {
        if self.calls.open.borrow().len() >= CALLS_MAX {
            let remark = format!("[OVERLOAD]{CALLS_MAX} requests wait for clients already");
            return Err(Refusal::new(response::SYSTEM_BUSY, remark));
        }
        command.opaque = self.take_opaque();
        let failed = |why: String| Refusal::new(response::SYSTEM_ERROR, why);
        let frame = encoded(&command).map_err(|error| failed(error.to_string()))?;
        let key = (peer, command.opaque);
        let (answer, answered) = oneshot::channel();
        self.calls.open.borrow_mut().insert(key, answer);
        self.outbox.write(peer, frame);
        let outcome = actix::clock::timeout(limit, answered).await;
        self.calls.open.borrow_mut().remove(&key);
        match outcome {
            Ok(Ok(reply)) => Ok(reply),
            Ok(Err(_)) => Err(failed("the client's connection closed".to_owned())),
            Err(_) => {
                let remark = format!("the client did not answer within {} ms", limit.as_millis());
                Err(Refusal::new(response::CONSUME_MSG_TIMEOUT, remark))
            }
        }
    }
}
