//! The little that is read of a reply.
//!
//! **Owns** scanning a reply's header for its code and number, without decoding the rest.
//! **Lives on** the generator's executor.
//! **Invariants** works for both header encodings and any order of fields; nothing is allocated.
//! **Limits** none of its own: how large a frame may be, the reader knows.
//! **Not here** the full decoder (`gantry_protocol::command`), which pulls and calls use.

use memchr::memmem::Finder;

use crate::error::BenchError;

/// Bytes in front of every header.
pub const FRAME_HEAD_BYTES: usize = 8;

/// What is read of a reply.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplyHead {
    /// Response code.
    pub code: i32,
    /// The request's number.
    pub opaque: i32,
}

/// Finds the two numbers; made once a connection.
#[derive(Debug)]
pub struct ReplyScanner {
    code: Finder<'static>,
    opaque: Finder<'static>,
}

impl Default for ReplyScanner {
    fn default() -> Self {
        Self {
            code: Finder::new(b"\"code\":"),
            opaque: Finder::new(b"\"opaque\":"),
        }
    }
}

impl ReplyScanner {
    /// Takes one whole frame from the front of `input`: its head and its length; `None` = not yet
    /// whole.
    ///
    /// # Errors
    /// The header has no code or no opaque number.
    pub fn take(&self, input: &[u8]) -> Result<Option<(ReplyHead, usize)>, BenchError> {
        let Some((&head, rest)) = input.split_first_chunk::<FRAME_HEAD_BYTES>() else {
            return Ok(None);
        };
        let [length @ .., encoding, high, middle, low] = head;
        let whole = u32::from_be_bytes(length) as usize + 4;
        if input.len() < whole {
            return Ok(None);
        }
        let header_len = u32::from_be_bytes([0, high, middle, low]) as usize;
        let header = rest.get(..header_len).unwrap_or_default();
        let head = if encoding == 0 {
            self.json(header)
        } else {
            binary(header)
        };
        head.map(|head| Some((head, whole)))
            .ok_or_else(|| BenchError::Answer {
                doing: "reading a reply",
                what: format!("no code or opaque in {}", String::from_utf8_lossy(header)),
            })
    }

    fn json(&self, header: &[u8]) -> Option<ReplyHead> {
        // Every server known begins with the code; others are searched.
        const FIRST: &[u8] = b"{\"code\":";
        let code = match header.strip_prefix(FIRST) {
            Some(rest) => number(rest)?,
            None => self.number_after(header, &self.code)?,
        };
        Some(ReplyHead {
            code,
            opaque: self.number_after(header, &self.opaque)?,
        })
    }

    #[allow(clippy::unused_self, reason = "reads as one family with json")]
    fn number_after(&self, header: &[u8], name: &Finder<'_>) -> Option<i32> {
        let at = name.find(header)? + name.needle().len();
        number(header.get(at..)?)
    }
}

fn number(text: &[u8]) -> Option<i32> {
    let mut value: i32 = 0;
    let mut digits = 0;
    for byte in text.iter().take_while(|byte| byte.is_ascii_digit()) {
        value = value.checked_mul(10)?.checked_add(i32::from(byte - b'0'))?;
        digits += 1;
    }
    (digits > 0).then_some(value)
}

fn binary(header: &[u8]) -> Option<ReplyHead> {
    // code 2, language 1, version 2, opaque 4.
    let code = i16::from_be_bytes(*header.first_chunk()?);
    let opaque = i32::from_be_bytes(*header.get(5..)?.first_chunk()?);
    Some(ReplyHead {
        code: i32::from(code),
        opaque,
    })
}

#[cfg(test)]
mod tests {
    use bytes::BytesMut;
    use gantry_protocol::command::Command;
    use gantry_protocol::frame::HeaderEncoding;

    use super::*;

    #[test]
    fn replies_are_read_in_both_encodings_and_only_when_whole() {
        let scanner = ReplyScanner::default();
        for encoding in [HeaderEncoding::Json, HeaderEncoding::Binary] {
            let mut request = Command::request(310, 100_000_005);
            request.encoding = encoding;
            let mut out = BytesMut::new();
            Command::reply_to(&request, 2).encode(&mut out).unwrap();
            assert_eq!(scanner.take(&out[..out.len() - 1]).unwrap(), None);
            let expected = ReplyHead {
                code: 2,
                opaque: 100_000_005,
            };
            assert_eq!(scanner.take(&out).unwrap(), Some((expected, out.len())));
        }
    }

    #[test]
    fn the_order_of_fields_does_not_matter() {
        let header = br#"{"opaque":12,"flag":1,"code":10}"#;
        let mut frame = Vec::new();
        frame.extend_from_slice(&36_u32.to_be_bytes());
        frame.extend_from_slice(&32_u32.to_be_bytes());
        frame.extend_from_slice(header);
        let head = ReplyHead {
            code: 10,
            opaque: 12,
        };
        let got = ReplyScanner::default().take(&frame).unwrap();
        assert_eq!(got, Some((head, frame.len())));
    }
}
