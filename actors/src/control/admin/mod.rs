//! The admin actor: what the broker says of itself, and the settings that change while it runs.
//!
//! **Owns** codes 25, 26, 28, 315, 329 and the private 31003, and feeding the counters.
//! **Lives on** the control plane's thread.
//! **Invariants** a 28 has every key the tools parse, numbers and "a b c" triples included (trap
//! 94): a missing one is a `NullPointerException` in mqadmin.
//! **Limits** those of `config` and `stats`.
//! **Not here** topics and groups (their own actors).

pub mod config;
mod profile;
mod runtime_report;
pub mod stats;

use std::rc::Rc;
use std::sync::Arc;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;

use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, ControlRequest, Counted, Question, StoreReport};

use super::plane::Plane;
use super::reply::{self, Reply, ReplyTo};
use super::supervision::shell::Part;
use super::supervisors::transactions;

/// What the admin actor is told.
pub enum Msg {
    /// A client's request with a code of this actor.
    Serve(ControlRequest),
    /// What a core has counted.
    Counted(Box<Counted>),
    /// A topic was deleted.
    TopicGone(String),
    /// A group was deleted.
    GroupGone(Arc<str>),
}

/// The admin actor; see the room's head.
pub struct Admin;

impl Part for Admin {
    const NAME: &'static str = "admin";
    type Msg = Msg;

    fn build(_plane: &Rc<Plane>) -> Result<Self, Refusal> {
        Ok(Self)
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        match message {
            Msg::Serve(request) => serve(&request, plane),
            Msg::Counted(counted) => {
                let topics = plane.topics.borrow();
                let mut stats = plane.stats.borrow_mut();
                stats.take_in(plane.now_ms(), &counted, |id| topics.name_of(id));
            }
            Msg::TopicGone(topic) => plane.stats.borrow_mut().forget_topic(&topic),
            Msg::GroupGone(group) => plane.stats.borrow_mut().forget_group(&group),
        }
    }

    fn waiting(message: &Msg) -> Option<ReplyTo> {
        match message {
            Msg::Serve(request) => Some(ReplyTo::of(request)),
            _ => None,
        }
    }
}

fn serve(asked: &ControlRequest, plane: &Rc<Plane>) {
    let to = ReplyTo::of(asked);
    let outcome = match asked.command.code {
        request::GET_BROKER_CONFIG => Ok(Some(config::show(plane))),
        request::UPDATE_BROKER_CONFIG => config::update(&asked.command, to, plane),
        request::GET_BROKER_RUNTIME_INFO => {
            runtime(to, plane);
            return;
        }
        request::GANTRY_GET_PROFILE => {
            let asking = Rc::clone(plane);
            plane.reply_later(to, async move { profile::reply(&asking).await });
            return;
        }
        request::DELETE_EXPIRED_COMMITLOG => {
            plane.cleaning.ask();
            Ok(Some(Reply::ok()))
        }
        _ => stats_data(&asked.command, plane).map(Some),
    };
    match outcome {
        Ok(None) => {}
        Ok(Some(reply)) => plane.reply(&to, reply),
        Err(refusal) => plane.refuse(&to, &refusal),
    }
}

/// Code 28.
fn runtime(to: ReplyTo, plane: &Rc<Plane>) {
    let asking = Rc::clone(plane);
    plane.reply_later(to, async move {
        let report = store_report(&asking).await;
        // The cores hold the open halves; the part itself remembers none.
        let tree = &asking.tree;
        tree.set_backlog(transactions::Transactions::NAME, report.open_halves);
        Ok(runtime_report::reply(&asking, &report))
    });
}

/// Code 315.
fn stats_data(command: &Command, plane: &Plane) -> Result<Reply, Refusal> {
    let name = reply::text(command, "statsName")?;
    let key = reply::text(command, "statsKey")?;
    let found = plane.stats.borrow().view(plane.now_ms(), name, key);
    found.map(|body| Reply::json(&body)).ok_or_else(|| {
        let remark = format!("The stats <{}> <{}> not exist", quoted(name), quoted(key));
        Refusal::new(response::SYSTEM_ERROR, remark)
    })
}

/// Totals of all cores; cores that don't answer count as nothing, so that the tools still get a
/// table.
async fn store_report(plane: &Plane) -> StoreReport {
    let answers = plane
        .asker
        .ask(Question::StoreReport)
        .await
        .unwrap_or_default();
    let mut all = StoreReport::default();
    for answer in answers {
        let Answer::Store(report) = answer else {
            continue;
        };
        all.totals.add(&report.totals);
        all.staged_bytes += report.staged_bytes;
        all.waiting_count += report.waiting_count;
        all.open_halves += report.open_halves;
        all.waiting_ms = all.waiting_ms.max(report.waiting_ms);
        all.earliest_ms = match (all.earliest_ms, report.earliest_ms) {
            (0, other) | (other, 0) => other,
            (a, b) => a.min(b),
        };
    }
    all
}
