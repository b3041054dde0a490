//! What one name server still has to be told.
//!
//! **Owns** the pending work of one link and who waits for it.
//! **Lives on** the control plane's thread; pure.
//! **Invariants** work that arrives while a call is under way is done by the next call, never lost;
//! a full registration covers every topic; after a failure everything is due again, in full.
//! **Limits** `TOPICS_PENDING_MAX` names before a full registration is cheaper.
//! **Not here** the call itself (`link`).

use std::collections::BTreeSet;

use tokio::sync::oneshot;

/// Above this many changed topics one full registration is sent instead: the name server would
/// merge them one by one.
const TOPICS_PENDING_MAX: usize = 64;

/// One call to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Job {
    /// Everything, because something changed or the server may not know us.
    Full,
    /// Everything, if the server's data version says that it is behind (`forceRegister=false`).
    Refresh,
    /// Only these topics.
    Topics(BTreeSet<String>),
}

/// Pending work; see the room's head.
#[derive(Debug)]
pub struct Agenda {
    full: bool,
    topics: BTreeSet<String>,
    /// Told after the next call.
    next: Vec<oneshot::Sender<()>>,
    /// Told after the call that is under way.
    current: Vec<oneshot::Sender<()>>,
    is_registered: bool,
}

impl Default for Agenda {
    fn default() -> Self {
        Self {
            full: true,
            topics: BTreeSet::new(),
            next: Vec::new(),
            current: Vec::new(),
            is_registered: false,
        }
    }
}

impl Agenda {
    /// Whether the last call succeeded.
    pub fn is_registered(&self) -> bool {
        self.is_registered
    }

    /// Everything has to be sent.
    pub fn need_full(&mut self) {
        self.full = true;
    }

    /// These topics have to be sent.
    pub fn need_topics(&mut self, names: impl IntoIterator<Item = String>) {
        self.topics.extend(names);
        if self.topics.len() > TOPICS_PENDING_MAX {
            self.full = true;
        }
    }

    /// Tells `done` after the next call, whatever comes of it.
    pub fn wait(&mut self, done: oneshot::Sender<()>) {
        self.next.push(done);
    }

    /// The call to make now. `is_period_over`: the periodic refresh is due. With topics to tell it
    /// is a full registration, which covers them: they would keep it waiting for ever.
    pub fn take(&mut self, is_period_over: bool) -> Option<Job> {
        let topics = std::mem::take(&mut self.topics);
        let is_covered = is_period_over && !topics.is_empty();
        let job = if self.full || !self.is_registered || is_covered {
            Job::Full
        } else if !topics.is_empty() {
            Job::Topics(topics)
        } else if is_period_over {
            Job::Refresh
        } else {
            return None;
        };
        self.full = false;
        self.current.append(&mut self.next);
        Some(job)
    }

    /// The call is over.
    pub fn done(&mut self, succeeded: bool) {
        self.is_registered = succeeded;
        for waiter in self.current.drain(..) {
            // The waiter may have stopped waiting.
            let _ = waiter.send(());
        }
        if !succeeded {
            self.full = true;
            // Nobody should wait for a server that is down.
            for waiter in self.next.drain(..) {
                let _ = waiter.send(());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn first_call_is_full_then_only_what_changed() {
        let mut agenda = Agenda::default();
        agenda.need_topics(["a".to_owned()]);
        assert_eq!(agenda.take(false), Some(Job::Full));
        agenda.done(true);
        assert_eq!(agenda.take(false), None);
        assert_eq!(agenda.take(true), Some(Job::Refresh));
        agenda.done(true);
        agenda.need_topics(["b".to_owned(), "c".to_owned()]);
        assert_eq!(agenda.take(false), Some(Job::Topics(names(&["b", "c"]))));
        agenda.done(true);
        agenda.need_topics(["d".to_owned()]);
        assert_eq!(agenda.take(true), Some(Job::Full), "topics don't starve it");
    }

    #[test]
    fn trap_27_a_change_during_a_call_waits_for_the_next_one() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.take(false), Some(Job::Full));
        let (done, mut told) = oneshot::channel();
        agenda.need_topics(["late".to_owned()]);
        agenda.wait(done);
        agenda.done(true);
        assert!(
            told.try_recv().is_err(),
            "the call under way may have missed the topic"
        );
        assert_eq!(agenda.take(false), Some(Job::Topics(names(&["late"]))));
        agenda.done(true);
        assert!(told.try_recv().is_ok());
    }

    #[test]
    fn after_a_failure_everything_is_due_and_nobody_waits() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.take(false), Some(Job::Full));
        agenda.done(true);
        agenda.need_topics(["a".to_owned()]);
        let (done, mut told) = oneshot::channel();
        agenda.wait(done);
        assert!(matches!(agenda.take(false), Some(Job::Topics(_))));
        agenda.done(false);
        assert!(told.try_recv().is_ok());
        assert!(!agenda.is_registered());
        assert_eq!(agenda.take(false), Some(Job::Full));
    }

    #[test]
    fn many_changed_topics_are_sent_as_one_full_registration() {
        let mut agenda = Agenda::default();
        assert_eq!(agenda.take(false), Some(Job::Full));
        agenda.done(true);
        agenda.need_topics((0..=TOPICS_PENDING_MAX).map(|n| n.to_string()));
        assert_eq!(agenda.take(false), Some(Job::Full));
    }
}
