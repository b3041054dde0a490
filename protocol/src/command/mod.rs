//! The header of a frame, read and written, in both encodings.
//!
//! **Owns** header fields and flags, the borrowed view and the owned command.
//! **Lives on** the session's core (view, writer) and the control plane (owned command).
//! **Invariants** one decoder per encoding, shared by everybody who reads a header; ext values are
//! text whatever the peer's JSON types were (trap 96).
//! **Limits** [`EXT_FIELDS_MAX`], [`json::DEPTH_MAX`].
//! **Not here** what ext fields mean (`request`), what codes mean (`code`).

pub mod binary;
mod ext_fields;
pub mod json;
mod json_shapes;
mod json_usual;
mod owned;
pub mod send_reply;
mod view;
pub mod writer;

pub use ext_fields::ExtFields;
pub use owned::Command;
pub use view::HeaderView;

/// Bit 0 of `flag`: this frame answers a request.
pub const FLAG_REPLY: i32 = 1;
/// Bit 1 of `flag`: nobody waits for an answer.
pub const FLAG_ONE_WAY: i32 = 2;

/// The release ordinal announced in every reply: `V5_5_0`. No client disables a feature because
/// of a high number; a low one makes Java refuse SQL92 (trap 14).
pub const VERSION: i32 = 513;

/// `V3_4_9`: from this release on the `maxReconsumeTimes` of a request counts; what older clients
/// put there doesn't.
pub const VERSION_MAX_RECONSUME_TIMES: i32 = 121;

/// Most ext fields of one header. The richest request of any client has about 30 (a send with
/// signature, namespace and trace fields); the bound keeps lookups cheap for a hostile header.
pub const EXT_FIELDS_MAX: usize = 256;

/// The client library that wrote a header; unknown names and numbers are kept as `Other`
/// (trap 10: never refuse a frame because of it).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
#[allow(missing_docs)] // The names are the wire's own.
pub enum Language {
    #[default]
    Java,
    Cpp,
    DotNet,
    Python,
    Delphi,
    Erlang,
    Ruby,
    Other,
    Http,
    Go,
    Php,
    Oms,
    Rust,
    NodeJs,
}

/// Wire names, in the order of their numbers.
const LANGUAGES: [(Language, &str); 14] = [
    (Language::Java, "JAVA"),
    (Language::Cpp, "CPP"),
    (Language::DotNet, "DOTNET"),
    (Language::Python, "PYTHON"),
    (Language::Delphi, "DELPHI"),
    (Language::Erlang, "ERLANG"),
    (Language::Ruby, "RUBY"),
    (Language::Other, "OTHER"),
    (Language::Http, "HTTP"),
    (Language::Go, "GO"),
    (Language::Php, "PHP"),
    (Language::Oms, "OMS"),
    (Language::Rust, "RUST"),
    (Language::NodeJs, "NODE_JS"),
];

impl Language {
    /// The JSON spelling.
    pub fn name(self) -> &'static str {
        LANGUAGES
            .iter()
            .find(|(l, _)| *l == self)
            .map_or("OTHER", |(_, name)| name)
    }

    /// The number of the binary encoding.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// From a name, or from a number written as text; everything else is `Other`.
    pub fn from_text(text: &str) -> Self {
        if let Some((language, _)) = LANGUAGES.iter().find(|(_, name)| *name == text) {
            return *language;
        }
        text.parse::<u8>().map_or(Self::Other, Self::from_number)
    }

    /// From the number of the binary encoding.
    pub fn from_number(number: u8) -> Self {
        LANGUAGES
            .get(usize::from(number))
            .map_or(Self::Other, |(language, _)| *language)
    }
}

/// A value of an ext field to write: always text on the wire (trap 1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExtValue<'a> {
    /// Text as it is; escaped where the encoding needs it.
    Str(&'a str),
    /// A number, written as decimal text.
    Int(i64),
}

impl std::fmt::Display for ExtValue<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Str(text) => f.write_str(text),
            Self::Int(number) => number.fmt(f),
        }
    }
}

impl<'a> From<&'a str> for ExtValue<'a> {
    fn from(text: &'a str) -> Self {
        Self::Str(text)
    }
}

impl From<i64> for ExtValue<'_> {
    fn from(number: i64) -> Self {
        Self::Int(number)
    }
}

impl From<i32> for ExtValue<'_> {
    fn from(number: i32) -> Self {
        Self::Int(i64::from(number))
    }
}

impl From<bool> for ExtValue<'_> {
    fn from(value: bool) -> Self {
        Self::Str(if value { "true" } else { "false" })
    }
}

/// The fields of a header to write, without its ext fields.
#[derive(Debug, Clone, Copy)]
pub struct HeaderParts<'a> {
    /// Request or response code.
    pub code: i32,
    /// Who writes.
    pub language: Language,
    /// Release ordinal of who writes.
    pub version: i32,
    /// Copied from request to reply.
    pub opaque: i32,
    /// [`FLAG_REPLY`], [`FLAG_ONE_WAY`].
    pub flag: i32,
    /// Human text; `None` is left out.
    pub remark: Option<&'a str>,
}

/// Codes cut to 16 bits by the binary encoding, mapped back (trap 9): the pop family starts at
/// 200050, which arrives as `200050 & 0xFFFF`.
pub(crate) fn widen_binary_code(cut: u16) -> i32 {
    match cut {
        3442..=3447 | 3543 => i32::from(cut) + 0x3_0000,
        other => i32::from(other),
    }
}
