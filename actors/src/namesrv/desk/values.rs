//! Key-values and the name server's own configuration.
//!
//! **Owns** the answers to 100, 101, 102, 219, 318, 319.
//! **Lives on** the control plane.
//! **Invariants** a missing value is 22, never 1 (trap 32); a change is on disk before it is
//! confirmed.
//! **Limits** those of `kv`.
//! **Not here** the file's format (`kv`).

use std::fmt::Write as _;
use std::io;

use gantry_protocol::code::response;
use gantry_protocol::request::namesrv::{KvHeader, KvNamespace};

use super::{Answer, Asked, Desk, field, system_error};
use crate::kept_file::replace_file;
use crate::live::{KeyVerdict, LiveValue};
use crate::namesrv::bodies;
use crate::refusal::{Refusal, quoted};

/// Keys that code 318 may not touch, as RocketMQ's `configBlackList`.
const FIXED_KEYS: [&str; 3] = ["configBlackList", "configStorePath", "kvConfigPath"];

impl Desk {
    pub(super) fn put_value(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let KvHeader {
            namespace,
            key,
            value,
        } = KvHeader::parse(asked.view).map_err(field)?;
        let value = value.ok_or_else(|| system_error("the custom field <value> is null"))?;
        self.values
            .put(namespace, key, value)
            .map_err(|full| system_error(full.to_string()))?;
        self.save_values()?;
        Ok(asked.ok())
    }

    pub(super) fn get_value(&self, asked: &Asked<'_, '_>) -> Answer {
        let KvHeader { namespace, key, .. } = KvHeader::parse(asked.view).map_err(field)?;
        match self.values.get(namespace, key) {
            Some(value) => Ok(asked.ok().with_ext("value", value)),
            None => Err(not_found(namespace, Some(key))),
        }
    }

    pub(super) fn delete_value(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let KvHeader { namespace, key, .. } = KvHeader::parse(asked.view).map_err(field)?;
        if self.values.delete(namespace, key) {
            self.save_values()?;
        }
        Ok(asked.ok())
    }

    pub(super) fn list_values(&self, asked: &Asked<'_, '_>) -> Answer {
        let namespace = KvNamespace::parse(asked.view).map_err(field)?.namespace;
        match self.values.list(namespace) {
            Some(values) => Ok(asked.ok_body(bodies::key_values(values))),
            None => Err(not_found(namespace, None)),
        }
    }

    fn save_values(&self) -> Result<(), Refusal> {
        let path = &self.settings.kv_config_path;
        self.values.save(path).map_err(|error| {
            tracing::error!(path = %path.display(), %error, "key-values not saved");
            system_error(format!(
                "the value holds until restart only: {} cannot be written: {error}",
                path.display()
            ))
        })
    }

    pub(super) fn config(&self, asked: &Asked<'_, '_>) -> gantry_protocol::Command {
        asked.ok_body(config_text(&self.settings.config_lines))
    }

    /// Changes settings: switches now, all others at the next start, which the remark says. Like
    /// RocketMQ, unknown keys are ignored.
    pub(super) fn update_config(&mut self, asked: &Asked<'_, '_>) -> Answer {
        let text = std::str::from_utf8(&asked.command.body)
            .map_err(|_| system_error("the body is not UTF-8 text"))?;
        let pairs: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.split_once('='))
            .map(|(key, value)| (key.trim(), value.trim()))
            .collect();
        if let Some((key, _)) = pairs.iter().find(|(key, _)| FIXED_KEYS.contains(key)) {
            let remark = format!("Can not update config in black list: {key}");
            return Err(Refusal::new(response::NO_PERMISSION, remark));
        }
        let mut remarks = Vec::new();
        let mut changes = Vec::new();
        // All are checked before any takes effect.
        for (key, value) in pairs {
            let refused = |why: &str| system_error(format!("{key}={}: {why}", quoted(value)));
            let live = match (self.settings.key_check)(key, value) {
                KeyVerdict::Malformed(allowed) => {
                    return Err(refused(&format!("not allowed; it takes {allowed}")));
                }
                KeyVerdict::Refused(why) => return Err(refused(&why)),
                KeyVerdict::Unknown => {
                    remarks.push(format!("unknown, ignored: {}", quoted(key)));
                    continue;
                }
                KeyVerdict::NoEffect(why) => {
                    remarks.push(format!("{key} has no effect: {why}"));
                    None
                }
                KeyVerdict::AtStart => {
                    remarks.push(format!("takes effect after a restart: {key}"));
                    None
                }
                KeyVerdict::Live(value) => Some(value),
            };
            changes.push((key, value, live));
        }
        for (key, value, live) in changes {
            if let (Some(LiveValue::Switch(on)), Some(switch)) =
                (live, self.settings.switch_mut(key))
            {
                *switch = on;
            }
            let lines = &mut self.settings.config_lines;
            if let Some(line) = lines.iter_mut().find(|(name, _)| name == key) {
                value.clone_into(&mut line.1);
            }
            tracing::info!(key, value = quoted(value), "changed by an operator");
        }
        self.save_config().map_err(|error| {
            system_error(format!(
                "changed until restart only: {} cannot be written: {error}",
                self.settings.config_store_path.display()
            ))
        })?;
        let mut answer = asked.ok();
        if !remarks.is_empty() {
            answer = answer.with_remark(remarks.join("; "));
        }
        Ok(answer)
    }

    fn save_config(&self) -> io::Result<()> {
        let text = config_text(&self.settings.config_lines);
        replace_file(&self.settings.config_store_path, text.as_bytes())
    }
}

fn config_text(lines: &[(String, String)]) -> String {
    let mut text = String::new();
    for (key, value) in lines {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{key}={value}");
    }
    text
}

fn not_found(namespace: &str, key: Option<&str>) -> Refusal {
    let key = key.map_or(String::new(), |key| format!(" Key: {}", quoted(key)));
    Refusal::new(
        response::QUERY_NOT_FOUND,
        format!("No config item, Namespace: {}{key}", quoted(namespace)),
    )
}
