//! Reading `broker.conf` and `namesrv.conf`.
//!
//! **Owns** Java properties syntax, with the line number of every entry.
//! **Lives on** the main thread.
//! **Invariants** every entry reaches `Values::give` with its file and line.
//! **Limits** `CONFIG_BYTES_MAX`.
//! **Not here** which keys exist (`table`).

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use java_properties::{LineContent, PropertiesIter};

use super::values::{ConfigError, Origin, Values};

/// Largest configuration file: real ones have a few KiB; the bound stops a mistyped path to a log.
pub const CONFIG_BYTES_MAX: u64 = 1 << 20;

/// Reads a properties file into `values`; complaints are collected there.
pub fn read(path: &Path, values: &mut Values) {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) => return complain(values, path, None, &error.to_string()),
    };
    match file.metadata() {
        Ok(meta) if meta.len() > CONFIG_BYTES_MAX => {
            let reason = format!(
                "{} bytes are too many for a configuration (at most {CONFIG_BYTES_MAX})",
                meta.len()
            );
            return complain(values, path, None, &reason);
        }
        Ok(meta) if meta.is_dir() => {
            return complain(values, path, None, "it is a folder");
        }
        Ok(_) => {}
        Err(error) => return complain(values, path, None, &error.to_string()),
    }
    // Latin-1 like Java's own reader; anything beyond ASCII belongs into comments.
    let entries = PropertiesIter::new(file.take(CONFIG_BYTES_MAX));
    for entry in entries {
        match entry {
            Ok(line) => {
                let number = line.line_number();
                if let LineContent::KVPair(key, value) = line.consume_content() {
                    values.give(&key, &value, Origin::File(path.to_owned(), number));
                }
            }
            Err(error) => {
                complain(values, path, error.line_number(), &error.to_string());
                return;
            }
        }
    }
}

fn complain(values: &mut Values, path: &Path, line: Option<usize>, reason: &str) {
    let path = match line {
        Some(line) => format!("{}:{line}", path.display()),
        None => path.display().to_string(),
    };
    values.error(ConfigError::File {
        path,
        reason: reason.to_owned(),
    });
}
