//! The tolerant reader.
//!
//! **Owns** the grammar: JSON plus unquoted keys, object keys, single quotes, trailing commas and
//! whatever follows the value.
//! **Lives on** the control plane, clients and tools.
//! **Invariants** as its parent states.
//! **Limits** [`DEPTH_MAX`], [`VALUES_MAX`].
//! **Not here** conversions between types (`Value`).

use super::Value;
use crate::error::BodyError;

/// Deepest nesting read; the deepest body of RocketMQ has 7 levels.
pub const DEPTH_MAX: usize = 64;

/// Most values of one body. A registration with 100,000 topics has 1.2 million; the bound keeps a
/// hostile frame of 16 MiB from growing into more than a quarter of a GiB.
pub const VALUES_MAX: usize = 2_000_000;

/// Reads one value; bytes behind it are ignored.
///
/// # Errors
/// No value, or one of the bounds is exceeded.
pub fn parse(bytes: &[u8]) -> Result<Value, BodyError> {
    parse_with_table(bytes, "", &mut |_, _| ())
}

/// As [`parse`], but the members of the maps called `table` are handed to `take` one by one, in the
/// order they come in, and those maps are empty in the value.
///
/// # Errors
/// As [`parse`]; what was handed over before is then part of nothing.
pub fn parse_with_table(
    bytes: &[u8],
    table: &str,
    take: &mut dyn FnMut(Value, Value),
) -> Result<Value, BodyError> {
    Reader {
        bytes,
        at: 0,
        depth: 0,
        values: 0,
        table,
        take,
    }
    .value()
}

struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
    values: usize,
    /// Never the name of a map when empty.
    table: &'a str,
    take: &'a mut dyn FnMut(Value, Value),
}

impl Reader<'_> {
    /// Skips whitespace and shows the next byte.
    fn peek(&mut self) -> Option<u8> {
        while let Some(byte) = self.bytes.get(self.at) {
            if !byte.is_ascii_whitespace() {
                return Some(*byte);
            }
            self.at += 1;
        }
        None
    }

    fn take_if(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn expected(&self, expected: &'static str) -> BodyError {
        BodyError::Expected {
            expected,
            at: self.at,
        }
    }

    fn value(&mut self) -> Result<Value, BodyError> {
        self.values += 1;
        if self.values > VALUES_MAX {
            return Err(BodyError::TooManyValues(VALUES_MAX));
        }
        match self.peek() {
            Some(b'{') => self.nested(Self::map),
            Some(b'[') => self.nested(Self::list),
            Some(quote @ (b'"' | b'\'')) => self.text(quote).map(Value::Text),
            Some(_) => self.bare_value(),
            None => Err(self.expected("a value")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Value, BodyError>,
    ) -> Result<Value, BodyError> {
        if self.depth >= DEPTH_MAX {
            return Err(BodyError::TooDeep(DEPTH_MAX));
        }
        self.at += 1;
        self.depth += 1;
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn list(&mut self) -> Result<Value, BodyError> {
        let mut values = Vec::new();
        while !self.take_if(b']') {
            values.push(self.value()?);
            if !self.take_if(b',') && self.peek() != Some(b']') {
                return Err(self.expected("',' or ']'"));
            }
        }
        Ok(Value::List(values))
    }

    fn map(&mut self) -> Result<Value, BodyError> {
        let mut pairs = Vec::new();
        self.members(|reader, key| {
            let is_table = matches!(&key, Value::Text(name) if *name == reader.table);
            let value = if is_table && !reader.table.is_empty() && reader.peek() == Some(b'{') {
                reader.nested(Self::table)?
            } else {
                reader.value()?
            };
            pairs.push((key, value));
            Ok(())
        })?;
        Ok(Value::Map(pairs))
    }

    fn table(&mut self) -> Result<Value, BodyError> {
        self.members(|reader, key| {
            let value = reader.value()?;
            (reader.take)(key, value);
            Ok(())
        })?;
        Ok(Value::Map(Vec::new()))
    }

    /// The members of a map, whose values `read` takes.
    fn members(
        &mut self,
        mut read: impl FnMut(&mut Self, Value) -> Result<(), BodyError>,
    ) -> Result<(), BodyError> {
        while !self.take_if(b'}') {
            let key = self.key()?;
            if !self.take_if(b':') {
                return Err(self.expected("':'"));
            }
            read(self, key)?;
            if !self.take_if(b',') && self.peek() != Some(b'}') {
                return Err(self.expected("',' or '}'"));
            }
        }
        Ok(())
    }

    /// A quoted key, a bare one (`0`, `name`), or an object.
    fn key(&mut self) -> Result<Value, BodyError> {
        match self.peek() {
            Some(b'{') => self.value(),
            Some(quote @ (b'"' | b'\'')) => self.text(quote).map(Value::Text),
            _ => Ok(Value::Text(self.bare_text()?.to_owned())),
        }
    }

    fn bare_text(&mut self) -> Result<&str, BodyError> {
        self.peek();
        let from = self.at;
        let is_bare = |byte: u8| {
            byte.is_ascii_alphanumeric() || matches!(byte, b'+' | b'-' | b'.' | b'_' | b'$')
        };
        while self.bytes.get(self.at).is_some_and(|byte| is_bare(*byte)) {
            self.at += 1;
        }
        let bare = self.bytes.get(from..self.at).unwrap_or_default();
        match std::str::from_utf8(bare) {
            Ok(text) if !text.is_empty() => Ok(text),
            _ => Err(BodyError::Expected {
                expected: "a value",
                at: from,
            }),
        }
    }

    fn bare_value(&mut self) -> Result<Value, BodyError> {
        let at = self.at;
        Ok(match self.bare_text()? {
            "null" => Value::Null,
            "true" => Value::Bool(true),
            "false" => Value::Bool(false),
            text => match text.parse::<i64>() {
                Ok(number) => Value::Int(number),
                // fastjson marks longs as 5L when asked for class names.
                Err(_) => match text.trim_end_matches(['L', 'l']).parse::<f64>() {
                    Ok(number) if number.is_finite() => Value::Float(number),
                    _ => {
                        return Err(BodyError::Expected {
                            expected: "a value",
                            at,
                        });
                    }
                },
            },
        })
    }

    fn text(&mut self, quote: u8) -> Result<String, BodyError> {
        self.at += 1;
        let mut out = Vec::new();
        loop {
            let rest = self.bytes.get(self.at..).unwrap_or_default();
            let stop = memchr::memchr2(quote, b'\\', rest);
            let stop = stop.ok_or_else(|| self.expected("the end of a text"))?;
            out.extend_from_slice(rest.get(..stop).unwrap_or_default());
            self.at += stop + 1;
            if rest.get(stop) == Some(&quote) {
                break;
            }
            let escaped = self.escape()?;
            out.extend_from_slice(escaped.encode_utf8(&mut [0; 4]).as_bytes());
        }
        Ok(String::from_utf8(out)
            .unwrap_or_else(|bad| String::from_utf8_lossy(bad.as_bytes()).into_owned()))
    }

    fn escape(&mut self) -> Result<char, BodyError> {
        let byte = self.bytes.get(self.at).copied();
        self.at += 1;
        Ok(match byte {
            Some(b'n') => '\n',
            Some(b't') => '\t',
            Some(b'r') => '\r',
            Some(b'b') => '\u{8}',
            Some(b'f') => '\u{c}',
            Some(b'0') => '\0',
            Some(b'u') => return self.unicode_escape(),
            Some(b @ (b'"' | b'\\' | b'/' | b'\'')) => char::from(b),
            _ => return Err(self.expected("an escape")),
        })
    }

    fn hex4(&mut self) -> Result<u32, BodyError> {
        let digits = self.bytes.get(self.at..self.at + 4).unwrap_or_default();
        let value = std::str::from_utf8(digits)
            .ok()
            .and_then(|d| u32::from_str_radix(d, 16).ok());
        let value = value.filter(|_| digits.len() == 4);
        self.at += 4;
        value.ok_or_else(|| self.expected("four hex digits"))
    }

    fn unicode_escape(&mut self) -> Result<char, BodyError> {
        let unit = self.hex4()?;
        let follows = self
            .bytes
            .get(self.at..)
            .is_some_and(|rest| rest.starts_with(b"\\u"));
        if (0xD800..0xDC00).contains(&unit) && follows {
            let after_first = self.at;
            self.at += 2;
            let low = self.hex4()?;
            if (0xDC00..0xE000).contains(&low) {
                let joined = 0x1_0000 + ((unit - 0xD800) << 10) + (low - 0xDC00);
                return Ok(char::from_u32(joined).unwrap_or(char::REPLACEMENT_CHARACTER));
            }
            self.at = after_first;
        }
        Ok(char::from_u32(unit).unwrap_or(char::REPLACEMENT_CHARACTER))
    }
}
