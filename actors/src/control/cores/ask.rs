//! Questions to the queue actors: fan out to every core, gather the answers.
//!
//! **Owns** the tickets of open questions.
//! **Lives on** the control plane's thread.
//! **Invariants** a question ends exactly once: all cores answered, or its time is up; an answer to
//! a closed ticket is dropped.
//! **Limits** `ASK_TIMEOUT` a question, `OPEN_MAX` questions at once.
//! **Not here** what is asked (`seam::Question`).

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::Duration;

use gantry_protocol::code::response;
use tokio::sync::oneshot;

use crate::refusal::Refusal;
use crate::seam::{Answer, CoreNumber, Question, Ticket, ToData};

use super::outbox::Outbox;

/// How long the cores may take; below the 3 s after which most clients give up.
const ASK_TIMEOUT: Duration = Duration::from_millis(2500);
/// Most open questions: admin requests, so a few; more is a flood.
const OPEN_MAX: usize = 1024;

struct Open {
    missing: HashSet<CoreNumber>,
    answers: Vec<Answer>,
    done: oneshot::Sender<Vec<Answer>>,
}

/// Open questions; see the room's head.
pub struct Asker {
    outbox: Rc<Outbox>,
    next: Cell<u64>,
    open: RefCell<HashMap<Ticket, Open>>,
}

impl Asker {
    /// No open questions yet.
    pub fn new(outbox: Rc<Outbox>) -> Self {
        Self {
            outbox,
            next: Cell::new(1),
            open: RefCell::default(),
        }
    }

    /// Asks every core and waits for all of them.
    ///
    /// # Errors
    /// 1 when a core doesn't answer in time, 2 when too much is being asked already.
    pub async fn ask(&self, question: Question) -> Result<Vec<Answer>, Refusal> {
        let cores = self.outbox.cores();
        if self.open.borrow().len() >= OPEN_MAX {
            return Err(Refusal::new(
                response::SYSTEM_BUSY,
                format!("[OVERLOAD]{OPEN_MAX} admin requests wait for the queues already"),
            ));
        }
        let ticket = Ticket(self.next.get());
        self.next.set(ticket.0 + 1);
        let (done, answers) = oneshot::channel();
        let open = Open {
            missing: (0..cores).collect(),
            answers: Vec::new(),
            done,
        };
        self.open.borrow_mut().insert(ticket, open);
        self.outbox.send_all(&ToData::Ask { ticket, question });
        let gathered = actix::clock::timeout(ASK_TIMEOUT, answers).await;
        let left = self.open.borrow_mut().remove(&ticket);
        if let Ok(Ok(answers)) = gathered {
            return Ok(answers);
        }
        let silent = left.map_or(0, |open| open.missing.len());
        let limit = ASK_TIMEOUT.as_millis();
        Err(Refusal::new(
            response::SYSTEM_ERROR,
            format!("{silent} of {cores} data cores did not answer within {limit} ms"),
        ))
    }

    /// An answer arrived.
    pub fn answered(&self, core: CoreNumber, ticket: Ticket, answer: Answer) {
        let mut open = self.open.borrow_mut();
        let Some(question) = open.get_mut(&ticket) else {
            return;
        };
        if question.missing.remove(&core) {
            question.answers.push(answer);
        }
        if question.missing.is_empty()
            && let Some(question) = open.remove(&ticket)
        {
            // The asker may have given up at this very moment.
            let _ = question.done.send(question.answers);
        }
    }
}
