//! What can be wrong with foreign bytes, one type per operation.
//!
//! **Owns** the error enums of this crate and their texts, which become remarks and log lines.
//! **Lives on** any core.
//! **Invariants** a text names what was found and what is allowed; foreign text in it is cut at
//! [`VALUE_CHARS_MAX`].
//! **Limits** [`VALUE_CHARS_MAX`].
//! **Not here** the mapping to response codes (`actors::refusal`).

use thiserror::Error;

/// Longest piece of a peer's text that is repeated in an error: enough to recognise a value,
/// small enough that a hostile peer cannot make remarks or logs grow.
pub const VALUE_CHARS_MAX: usize = 64;

/// Why bytes of a connection are not a frame; the connection cannot be continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FrameError {
    /// The length word exceeds the largest frame.
    #[error("frame of {bytes} bytes exceeds the limit of {max}")]
    TooLong {
        /// What the length word says.
        bytes: u64,
        /// [`crate::frame::FRAME_BYTES_MAX`].
        max: u32,
    },
    /// The length word leaves no room for the header word.
    #[error("frame length {bytes} is below 4, the size of the header word")]
    TooShort {
        /// What the length word says.
        bytes: u32,
    },
    /// The header word claims more bytes than the frame has.
    #[error("header of {header} bytes in a frame of {frame}")]
    HeaderTooLong {
        /// Header bytes claimed.
        header: u32,
        /// Bytes of the frame after its length word.
        frame: u32,
    },
    /// The top byte of the header word is no known encoding.
    #[error("unknown header encoding {0}: 0 (JSON) and 1 (binary) are known")]
    UnknownEncoding(u8),
}

/// Why a header could not be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum HeaderError {
    /// The bytes end inside a value.
    #[error("header ends in the middle of {0}")]
    Truncated(&'static str),
    /// Something else stands where the grammar wants a token.
    #[error("header: expected {expected} at byte {at}")]
    Expected {
        /// What would have been right.
        expected: &'static str,
        /// Offset in the header.
        at: usize,
    },
    /// A numeric field holds something that is no 32-bit integer.
    #[error("header field {field} is not a 32-bit integer")]
    NotANumber {
        /// Name of the field.
        field: &'static str,
    },
    /// Objects or arrays are nested deeper than any client does.
    #[error("header nests deeper than {0} levels")]
    TooDeep(usize),
    /// There is no `code`.
    #[error("header has no code")]
    NoCode,
    /// More ext fields than any client sends.
    #[error("header has more than {0} ext fields")]
    TooManyFields(usize),
}

/// A field of a request that is missing or outside what is allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// Wire name of the field.
    pub field: &'static str,
    /// What was sent; `None` when the field is missing.
    pub value: Option<String>,
    /// What would have been accepted.
    pub allowed: &'static str,
}

impl FieldError {
    /// A required field that was not sent.
    pub fn missing(field: &'static str, allowed: &'static str) -> Self {
        Self {
            field,
            value: None,
            allowed,
        }
    }

    /// A field whose value cannot be taken; the text is cut at [`VALUE_CHARS_MAX`].
    pub fn bad(field: &'static str, value: &str, allowed: &'static str) -> Self {
        let value = value.chars().take(VALUE_CHARS_MAX).collect();
        Self {
            field,
            value: Some(value),
            allowed,
        }
    }
}

impl std::fmt::Display for FieldError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.value {
            None => {
                write!(
                    f,
                    "the custom field <{}> is null; allowed: {}",
                    self.field, self.allowed
                )
            }
            Some(value) => write!(
                f,
                "the custom field <{}> is \"{value}\"; allowed: {}",
                self.field, self.allowed
            ),
        }
    }
}

impl std::error::Error for FieldError {}

/// Why a record cannot be encoded or decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum RecordError {
    /// The topic does not fit its length field.
    #[error("topic of {bytes} bytes exceeds the limit of {max}")]
    TopicTooLong {
        /// Bytes of the topic.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The properties do not fit their signed 16-bit length.
    #[error("properties of {bytes} bytes exceed the limit of {max}")]
    PropertiesTooLong {
        /// Bytes of the property string.
        bytes: usize,
        /// The limit.
        max: usize,
    },
    /// The body does not fit a signed 32-bit length.
    #[error("body of {bytes} bytes exceeds what a record can hold")]
    BodyTooLong {
        /// Bytes of the body.
        bytes: usize,
    },
    /// The bytes end before the record does.
    #[error("record ends in the middle of its {0}")]
    Truncated(&'static str),
    /// The magic is neither of the two of a message.
    #[error("record magic {0:#010x} is unknown")]
    UnknownMagic(u32),
    /// A length field is negative or does not add up to the record's size.
    #[error("record size {claimed} does not match its parts")]
    SizeMismatch {
        /// The size the record claims.
        claimed: u32,
    },
    /// Topic or properties are not UTF-8.
    #[error("record {0} is not UTF-8")]
    NotUtf8(&'static str),
}

/// Why a batch body cannot be split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum BatchError {
    /// The body has no element.
    #[error("batch body is empty")]
    Empty,
    /// An element's length fields do not fit into the bytes.
    #[error("batch element {index} is malformed: its {part} does not fit")]
    Malformed {
        /// Position of the element, from 0.
        index: usize,
        /// The part that does not fit.
        part: &'static str,
    },
    /// The properties of an element are not UTF-8.
    #[error("batch element {index}: properties are not UTF-8")]
    NotUtf8 {
        /// Position of the element, from 0.
        index: usize,
    },
}

/// Why a JSON or compressed body cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum BodyError {
    /// Something else stands where the grammar wants a token.
    #[error("body: expected {expected} at byte {at}")]
    Expected {
        /// What would have been right.
        expected: &'static str,
        /// Offset in the body.
        at: usize,
    },
    /// Nested deeper than any body is.
    #[error("body nests deeper than {0} levels")]
    TooDeep(usize),
    /// More values than any body has.
    #[error("body has more than {0} values")]
    TooManyValues(usize),
    /// A member that the body cannot do without is missing or of another kind.
    #[error("body: {0} is missing or malformed")]
    Member(&'static str),
    /// The checksum of the request does not match its body.
    #[error("crc32 not match: the header says {claimed}, the body has {found}")]
    Checksum {
        /// `bodyCrc32` of the header.
        claimed: u32,
        /// CRC of the bytes that arrived.
        found: u32,
    },
    /// The compressed form cannot be unpacked.
    #[error("body cannot be unpacked: {0}")]
    Unpack(&'static str),
}
