//! Reading `broker.conf` and `namesrv.conf`.
//!
//! **Owns** Java properties syntax, with the line number of every entry; comments may hold
//! anything.
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

/// What Java takes for white space before a comment.
const BLANKS: &[u8] = b" \t\x0c";
/// Ends a last line, and one that it is continued by.
const END: &[u8] = b"\n\n";

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
    let mut bytes = Vec::new();
    if let Err(error) = file.take(CONFIG_BYTES_MAX).read_to_end(&mut bytes) {
        return complain(values, path, None, &error.to_string());
    }
    let bytes = prepared(&bytes);
    // Latin-1 like Java's own reader; anything beyond ASCII belongs into comments.
    let entries = PropertiesIter::new(bytes.as_slice());
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

/// The text with empty lines in place of comments, in which the parser would read escapes, and with
/// an end that completes the last line: one that ends in a backslash would be lost.
fn prepared(text: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(text.len() + END.len());
    let mut is_continued = false;
    for line in text.split_inclusive(|byte| matches!(byte, b'\n' | b'\r')) {
        // The second half of "\r\n" is a line here, and continues or ends nothing.
        if line == b"\n" && out.last() == Some(&b'\r') {
            out.extend_from_slice(line);
            continue;
        }
        let content = line
            .strip_suffix(b"\n")
            .or_else(|| line.strip_suffix(b"\r"));
        let content = content.unwrap_or(line);
        let first = content.iter().find(|byte| !BLANKS.contains(byte));
        if !is_continued && matches!(first, Some(b'#' | b'!')) {
            out.extend_from_slice(line.get(content.len()..).unwrap_or_default());
            continue;
        }
        let backslashes = content.iter().rev().take_while(|byte| **byte == b'\\');
        is_continued = backslashes.count() % 2 == 1;
        out.extend_from_slice(line);
    }
    out.extend_from_slice(END);
    out
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
