//! Telling the name servers what this broker has.
//!
//! **Owns** one link per name server, each with its own task, connection and agenda.
//! **Lives on** the control plane's thread.
//! **Invariants** name servers are told in parallel: a dead one delays nobody else; a link that
//! panics is started anew within the restart budget; whoever waits for an announcement waits only
//! for servers that answered last time.
//! **Limits** `CALL_MAX` a call; `NAME_SERVERS_MAX` name servers.
//! **Not here** which topics exist (`topics`), what a name server does with them (`namesrv`).

pub mod agenda;
pub mod body;
mod channel;
pub mod link;

use std::collections::BTreeSet;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use gantry_runtime::control::guard_task;
use tokio::sync::oneshot;

use crate::seam::TopicEntry;

use super::plane::Plane;
use link::Link;

/// Longest call to a name server; a client's own default is the same.
pub const CALL_MAX: Duration = Duration::from_secs(3);
/// Name servers beyond this are ignored with a warning; clusters have two to five.
const NAME_SERVERS_MAX: usize = 32;

/// How it stands with one name server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkReport {
    /// `host:port` as configured.
    pub address: String,
    /// `Ok`, or what went wrong last.
    pub state: Result<(), String>,
}

/// The name servers; see the room's head.
#[derive(Clone)]
pub struct Registration {
    links: Rc<[Rc<Link>]>,
}

impl Registration {
    /// The links of a broker; nothing is sent before [`Registration::run`].
    pub fn new(addresses: &[String]) -> Self {
        if addresses.len() > NAME_SERVERS_MAX {
            tracing::warn!(
                configured = addresses.len(),
                used = NAME_SERVERS_MAX,
                "more name servers than a broker talks to; the first ones are used"
            );
        }
        let mut seen = BTreeSet::new();
        let links = addresses
            .iter()
            .filter(|address| seen.insert(address.as_str()))
            .take(NAME_SERVERS_MAX)
            .map(|address| Rc::new(Link::new(address)))
            .collect();
        Self { links }
    }

    /// Starts talking.
    pub fn run(&self, plane: &Rc<Plane>) {
        for link in self.links.iter() {
            let budget = plane.budget("registration");
            let (link, plane) = (Rc::clone(link), Rc::clone(plane));
            actix::spawn(guard_task(budget, move || {
                let (link, plane) = (Rc::clone(&link), Rc::clone(&plane));
                async move { link.run(&plane).await }
            }));
        }
    }

    /// Tells every name server of these topics (`in_full`: of everything). The future ends when
    /// those that are alive have heard, or failed.
    pub fn announce(
        &self,
        topics: &[Arc<TopicEntry>],
        in_full: bool,
    ) -> impl Future<Output = ()> + use<> {
        let mut heard = Vec::new();
        for link in self.links.iter() {
            let mut agenda = link.agenda.borrow_mut();
            agenda.need_topics(topics.iter().map(|entry| entry.config.name.clone()));
            if in_full {
                agenda.need_full();
            }
            if agenda.is_registered() {
                let (done, told) = oneshot::channel();
                agenda.wait(done);
                heard.push(told);
            }
            drop(agenda);
            link.wake.notify_one();
        }
        async move {
            for told in heard {
                // A link that restarts drops its waiters: they have waited enough.
                let _ = told.await;
            }
        }
    }

    /// Waits until every name server has been tried once, at most [`CALL_MAX`] and a bit.
    pub async fn first_round(&self) -> Vec<LinkReport> {
        for link in self.links.iter() {
            let tried = actix::clock::timeout(CALL_MAX * 2, link.tried());
            let _ = tried.await;
        }
        self.report()
    }

    /// How it stands with each name server.
    pub fn report(&self) -> Vec<LinkReport> {
        self.links.iter().map(|link| link.report()).collect()
    }

    /// Tells every name server that this broker leaves, all at once.
    pub async fn unregister(&self, plane: &Rc<Plane>) {
        let farewells: Vec<_> = self
            .links
            .iter()
            .map(|link| {
                let (link, plane) = (Rc::clone(link), Rc::clone(plane));
                actix::spawn(async move { link.unregister(&plane).await })
            })
            .collect();
        for farewell in farewells {
            let _ = farewell.await;
        }
    }
}
