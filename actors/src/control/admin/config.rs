//! Settings changed by an operator (codes 25 and 26).
//!
//! **Owns** what is shown as the configuration, and the changes kept for the next start.
//! **Lives on** the control plane's thread; the book outlives the actor.
//! **Invariants** a request is checked as a whole, together with what is configured, kept on disk,
//! and only then takes effect, so a refused one changes nothing. Unknown keys are ignored with 0
//! (trap 110). What doesn't take effect at once is named in the answer's remark.
//! **Limits** [`CONFIG_BYTES_MAX`] of a request's body.
//! **Not here** the keys and their ranges (`server/config`), the file (`kept_settings`).

use std::collections::BTreeMap;
use std::rc::Rc;

use gantry_protocol::code::response;
use gantry_protocol::command::Command;
use gantry_protocol::fastjson::{IntegerKeys, to_bytes};

use crate::control::plane::Plane;
use crate::control::reply::{Reply, ReplyTo};
use crate::control::topics;
use crate::kept_settings::{KEPT_MAX, KeptSettings};
use crate::live::{KeyVerdict, LiveValue};
use crate::refusal::{Refusal, quoted};
use crate::seam::CatalogChange;
use crate::settings::BrokerSettings;

/// Largest body of a configuration change.
const CONFIG_BYTES_MAX: usize = 1024 * 1024;
/// Keys that may not be changed remotely (`configBlackList`, 5.5.0).
const BLACK_LIST: [&str; 2] = ["configBlackList", "brokerConfigPath"];
/// The folder in which changes are kept can't be one of them.
const DATA_FOLDER: &str = "storePathRootDir";
/// Its change travels to cores and name servers.
const BROKER_PERMISSION: &str = "brokerPermission";

/// The configuration as it is now.
#[derive(Debug)]
pub struct ConfigBook {
    shown: BTreeMap<String, String>,
    kept: KeptSettings,
}

impl ConfigBook {
    /// As configured at start. Changes that `broker.conf` has overtaken leave the file, so that
    /// they don't come back with an older one.
    pub fn new(settings: &BrokerSettings) -> Self {
        let (kept, folder) = (&settings.kept, &settings.data_dir);
        let on_disk = KeptSettings::load(folder).unwrap_or_default();
        if on_disk != *kept
            && let Err(error) = kept.save(folder)
        {
            tracing::warn!(%error, "overtaken changes of settings stay in their file");
        }
        Self {
            shown: settings.config_lines.iter().cloned().collect(),
            kept: settings.kept.clone(),
        }
    }
}

/// One key of a request that is kept.
struct Change<'c> {
    key: &'c str,
    value: &'c str,
    live: Option<LiveValue>,
}

/// A request, checked: what to do, and what to say of the rest.
#[derive(Default)]
struct Checked<'c> {
    changes: Vec<Change<'c>>,
    at_start: Vec<&'c str>,
    remarks: Vec<String>,
}

/// Code 26: sorted `key=value` lines.
pub(super) fn show(plane: &Plane) -> Reply {
    let mut body = String::new();
    for (key, value) in &plane.config.borrow().shown {
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

/// Code 25. `None`: the answer waits for the name servers.
pub(super) fn update(
    command: &Command,
    to: ReplyTo,
    plane: &Rc<Plane>,
) -> Result<Option<Reply>, Refusal> {
    let refused = |why: String| Refusal::new(response::SYSTEM_ERROR, why);
    if command.body.len() > CONFIG_BYTES_MAX {
        return Err(refused(format!(
            "{} bytes of configuration, {CONFIG_BYTES_MAX} are allowed",
            command.body.len()
        )));
    }
    let text = String::from_utf8_lossy(&command.body);
    let Checked {
        changes,
        at_start,
        mut remarks,
    } = check(&parse(&text), plane)?;
    keep(&changes, plane)?;
    if !at_start.is_empty() {
        remarks.push(format!(
            "takes effect after a restart: {}",
            at_start.join(", ")
        ));
    }
    let mut reply = Reply::ok();
    if !remarks.is_empty() {
        let remark = remarks.join("; ");
        tracing::info!(remark, "settings changed by an operator");
        reply = reply.with_remark(remark);
    }
    let mut permission = None;
    for change in &changes {
        tracing::info!(
            key = change.key,
            value = quoted(change.value),
            "changed by an operator"
        );
        let mut book = plane.config.borrow_mut();
        book.shown
            .insert(change.key.to_owned(), change.value.to_owned());
        match change.live {
            Some(LiveValue::Number(bits)) if change.key == BROKER_PERMISSION => {
                permission = i32::try_from(bits).ok();
            }
            Some(value) => {
                let cell = plane.settings.live_cell(change.key);
                let is_set = cell.is_some_and(|cell| cell.set(value));
                debug_assert!(is_set, "{} has no cell of its kind", change.key);
            }
            None => {}
        }
    }
    let Some(permission) = permission else {
        return Ok(Some(reply));
    };
    if plane.permission.replace(permission) == permission {
        return Ok(Some(reply));
    }
    plane
        .outbox
        .change(CatalogChange::BrokerPermission(permission));
    // The table's version moves with it, and the answer waits for the name servers.
    let changed = topics::Msg::PermissionChanged(to, reply);
    plane.book().topics.tell(changed);
    Ok(None)
}

fn check<'c>(pairs: &[(&'c str, &'c str)], plane: &Plane) -> Result<Checked<'c>, Refusal> {
    if let Some((key, _)) = pairs.iter().find(|(key, _)| BLACK_LIST.contains(key)) {
        let remark = format!("Can not update config in black list: {key}");
        return Err(Refusal::new(response::NO_PERMISSION, remark));
    }
    let mut checked = Checked::default();
    for (key, value) in pairs.iter().copied() {
        let refuse = |why: &str| {
            let remark = format!("{key}={}: {why}", quoted(value));
            Err(Refusal::new(response::SYSTEM_ERROR, remark))
        };
        if key == DATA_FOLDER {
            return refuse("changes are kept in that folder, so it is changed in broker.conf only");
        }
        let live = match (plane.settings.key_check)(key, value) {
            KeyVerdict::Unknown => {
                checked
                    .remarks
                    .push(format!("unknown, ignored: {}", quoted(key)));
                continue;
            }
            KeyVerdict::Malformed(allowed) => {
                return refuse(&format!("not allowed; it takes {allowed}"));
            }
            KeyVerdict::Refused(why) => return refuse(&why),
            KeyVerdict::NoEffect(why) => {
                checked.remarks.push(format!("{key} has no effect: {why}"));
                None
            }
            KeyVerdict::AtStart => {
                checked.at_start.push(key);
                None
            }
            KeyVerdict::Live(value) => Some(value),
        };
        if is_given_elsewhere(key, plane) {
            checked.remarks.push(format!(
                "the command line gives {key} and wins at the next start"
            ));
        }
        checked.changes.push(Change { key, value, live });
    }
    // What takes effect now depends on no other key.
    if !checked.at_start.is_empty() {
        check_start(&checked.changes, plane)?;
    }
    Ok(checked)
}

/// The request as a whole, with everything else that is configured.
fn check_start(changes: &[Change<'_>], plane: &Plane) -> Result<(), Refusal> {
    let pairs: Vec<_> = changes.iter().map(|c| (c.key, c.value)).collect();
    let book = plane.config.borrow();
    let outcome = plane.settings.start_check.ask(&book.kept, &pairs);
    outcome.map_err(|why| {
        let remark = format!("nothing is changed: the next start would be refused: {why}");
        Refusal::new(response::SYSTEM_ERROR, remark)
    })
}

fn file_says<'p>(key: &str, plane: &'p Plane) -> &'p str {
    let lines = plane.settings.file_lines.iter();
    let line = lines.into_iter().find(|(name, _)| name == key);
    line.map_or("", |(_, value)| value)
}

/// Whether the start took another value than `broker.conf` or a kept change says.
fn is_given_elsewhere(key: &str, plane: &Plane) -> bool {
    let lines = &plane.settings.config_lines;
    let Some((_, started)) = lines.iter().find(|(name, _)| name == key) else {
        return false;
    };
    let kept = plane.settings.kept.iter().find(|(name, _)| *name == key);
    let said = kept.map_or(file_says(key, plane), |(_, value)| value);
    // What `auto` comes to is shown as what it came to.
    said != "auto" && said != started
}

/// Puts the changes on disk.
fn keep(changes: &[Change<'_>], plane: &Plane) -> Result<(), Refusal> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut kept = plane.config.borrow().kept.clone();
    for change in changes {
        if !kept.keep(change.key, change.value, file_says(change.key, plane)) {
            let remark = format!("{KEPT_MAX} changed settings are kept already");
            return Err(Refusal::new(response::SYSTEM_ERROR, remark));
        }
    }
    let folder = &plane.settings.data_dir;
    kept.save(folder).map_err(|error| {
        let remark = format!(
            "nothing is changed: the change can't be kept in {}: {error}",
            folder.display()
        );
        Refusal::new(response::SYSTEM_ERROR, remark)
    })?;
    plane.config.borrow_mut().kept = kept;
    Ok(())
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
