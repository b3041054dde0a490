//! The admin actor: what the broker says of itself, and the settings that change while it runs.
//!
//! **Owns** codes 25, 26, 28, 315 and 329, and the changed settings.
//! **Lives on** the control plane's thread.
//! **Invariants** a 28 has every key the tools parse, numbers and "a b c" triples included (trap
//! 94): a missing one is a `NullPointerException` in mqadmin. Unknown keys of a 25 are ignored with
//! 0 (trap 110).
//! **Limits** `CONFIG_BYTES_MAX` of a 25's body.
//! **Not here** topics and groups (their own actors).

mod runtime_report;

use std::collections::BTreeMap;
use std::rc::Rc;

use gantry_protocol::code::{request, response};
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};

use crate::refusal::{Refusal, quoted};
use crate::seam::{Answer, CatalogChange, ControlRequest, Question, StoreReport};

use super::plane::Plane;
use super::reply::{Reply, ReplyTo};
use super::shell::Part;
use super::topics;
use runtime_report::Sample;

/// Largest body of a configuration change.
const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Keys that may not be changed remotely (`configBlackList`, 5.5.0).
const NOT_CHANGEABLE: [&str; 2] = ["configBlackList", "brokerConfigPath"];
/// The live key.
const BROKER_PERMISSION: &str = "brokerPermission";

/// What the admin actor is told.
pub enum Msg {
    /// A client's request with a code of this actor.
    Serve(ControlRequest),
    /// The cores' totals, for rates.
    Sampled(Sample),
}

/// The admin actor; see the room's head.
pub struct Admin {
    /// Changed while running, over `config_lines`.
    changed: BTreeMap<String, String>,
    last: Option<Sample>,
}

impl Part for Admin {
    const NAME: &'static str = "admin";
    type Msg = Msg;

    fn build(_plane: &Rc<Plane>) -> Result<Self, Refusal> {
        Ok(Self {
            changed: BTreeMap::new(),
            last: None,
        })
    }

    fn handle(&mut self, message: Msg, plane: &Rc<Plane>) {
        match message {
            Msg::Serve(request) => self.serve(&request, plane),
            Msg::Sampled(sample) => self.last = Some(sample),
        }
    }

    fn waiting(message: &Msg) -> Option<ReplyTo> {
        match message {
            Msg::Serve(request) => Some(ReplyTo::of(request)),
            Msg::Sampled(_) => None,
        }
    }
}

impl Admin {
    fn serve(&mut self, asked: &ControlRequest, plane: &Rc<Plane>) {
        let to = ReplyTo::of(asked);
        let outcome = match asked.command.code {
            request::GET_BROKER_CONFIG => Ok(Some(self.config(plane))),
            request::UPDATE_BROKER_CONFIG => self.update(&asked.command, to, plane),
            request::GET_BROKER_RUNTIME_INFO => {
                self.runtime(to, plane);
                return;
            }
            request::DELETE_EXPIRED_COMMITLOG => {
                plane.cleaning.ask();
                Ok(Some(Reply::ok()))
            }
            _ => Err(Refusal::new(
                response::SYSTEM_ERROR,
                "The stats of this name and key are not kept by this broker yet",
            )),
        };
        match outcome {
            Ok(None) => {}
            Ok(Some(reply)) => plane.reply(&to, reply),
            Err(refusal) => plane.refuse(&to, &refusal),
        }
    }

    /// Code 26: sorted `key=value` lines.
    fn config(&self, plane: &Plane) -> Reply {
        let mut lines: BTreeMap<&str, &str> = plane
            .settings
            .config_lines
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
            .collect();
        lines.extend(
            self.changed
                .iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
        );
        let mut body = String::new();
        for (key, value) in lines {
            body.push_str(key);
            body.push('=');
            body.push_str(value);
            body.push('\n');
        }
        let version = to_bytes(
            &plane.topics.borrow().version().to_value(),
            IntegerKeys::Quoted,
        );
        Reply::body(body).with("version", String::from_utf8_lossy(version.as_ref()))
    }

    /// Code 25.
    fn update(
        &mut self,
        command: &Command,
        to: ReplyTo,
        plane: &Rc<Plane>,
    ) -> Result<Option<Reply>, Refusal> {
        if command.body.len() > CONFIG_BYTES_MAX {
            return Err(Refusal::new(
                response::SYSTEM_ERROR,
                format!(
                    "{} bytes of configuration, {CONFIG_BYTES_MAX} are allowed",
                    command.body.len()
                ),
            ));
        }
        let text = String::from_utf8_lossy(&command.body);
        let pairs = parse(&text);
        if let Some((key, _)) = pairs.iter().find(|(key, _)| NOT_CHANGEABLE.contains(key)) {
            return Err(Refusal::new(
                response::NO_PERMISSION,
                format!("Can not update config in black list: {key}"),
            ));
        }
        // Everything is checked before anything is changed.
        let permission = match pairs.iter().find(|(key, _)| *key == BROKER_PERMISSION) {
            Some((_, value)) => Some(permission(value)?),
            None => None,
        };
        for (key, _) in pairs.iter().filter(|(key, _)| *key != BROKER_PERMISSION) {
            tracing::info!(
                key = quoted(key),
                "a setting can't be changed while running: change broker.conf and restart"
            );
        }
        let Some(permission) = permission else {
            return Ok(Some(Reply::ok()));
        };
        self.changed
            .insert(BROKER_PERMISSION.to_owned(), permission.to_string());
        if plane.permission.replace(permission) == permission {
            return Ok(Some(Reply::ok()));
        }
        plane
            .outbox
            .change(CatalogChange::BrokerPermission(permission));
        // The table's version moves with it, and the answer waits for the name servers.
        plane.book().topics.tell(topics::Msg::PermissionChanged(to));
        Ok(None)
    }

    /// Code 28.
    fn runtime(&mut self, to: ReplyTo, plane: &Rc<Plane>) {
        let last = self.last;
        let asking = Rc::clone(plane);
        plane.reply_later(to, async move {
            let total = store_totals(&asking).await;
            let sample = Sample {
                at_ms: asking.now_ms(),
                total,
            };
            let reply = runtime_report::reply(&asking, last, sample);
            asking.book().admin.tell(Msg::Sampled(sample));
            Ok(reply)
        });
    }
}

/// Totals of all cores; cores that don't answer count as nothing, so that the tools still get a
/// table.
async fn store_totals(plane: &Plane) -> StoreReport {
    let answers = plane
        .asker
        .ask(Question::StoreReport)
        .await
        .unwrap_or_default();
    let mut total = StoreReport::default();
    for answer in answers {
        let Answer::Store(report) = answer else {
            continue;
        };
        total.put_count += report.put_count;
        total.get_count += report.get_count;
        total.staged_bytes += report.staged_bytes;
        total.earliest_ms = match (total.earliest_ms, report.earliest_ms) {
            (0, other) | (other, 0) => other,
            (a, b) => a.min(b),
        };
    }
    total
}

fn permission(value: &str) -> Result<i32, Refusal> {
    match value.parse() {
        Ok(permission @ (0 | 2 | 4 | 6)) => Ok(permission),
        _ => Err(Refusal::new(
            response::SYSTEM_ERROR,
            format!(
                "brokerPermission={}: 6, 4 (read only), 2 (write only) or 0",
                quoted(value)
            ),
        )),
    }
}

/// `key=value` lines of a properties text; comments and lines without `=` are skipped.
fn parse(text: &str) -> Vec<(&str, &str)> {
    text.lines()
        .map(str::trim)
        .filter(|line| !line.starts_with(['#', '!']))
        .filter_map(|line| line.split_once('='))
        .map(|(key, value)| (key.trim(), value.trim()))
        .filter(|(key, _)| !key.is_empty())
        .collect()
}
