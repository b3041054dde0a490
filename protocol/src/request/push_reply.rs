//! The header of a reply pushed to whoever asked (326).
//!
//! **Owns** its fields, as `ReplyMessageRequestHeader` of 5.5.0 has them.
//! **Lives on** the data core that pushes.
//! **Invariants** those of the reply's own header keep their names and values; it says where the
//! reply was born and stored as `ip:port`.
//! **Limits** none of its own.
//! **Not here** to whom it is pushed (`actors`).

use crate::code::request;
use crate::command::ExtValue;
use crate::request::send::SendHeader;

/// Fields of a send that 326 lacks.
const NOT_PUSHED: [&str; 3] = ["maxReconsumeTimes", "batch", "bname"];

/// The header of a 326.
#[derive(Debug, Clone, Copy)]
pub struct PushReply<'a> {
    /// As the replier sent it, but for its properties.
    pub sent: &'a SendHeader<'a>,
    /// The reply's properties as the requester sees them.
    pub properties: &'a str,
    /// The replier's address.
    pub born_host: &'a str,
    /// The broker's address.
    pub store_host: &'a str,
    /// When the broker took it, ms.
    pub store_timestamp: i64,
}

impl<'a> PushReply<'a> {
    /// The ext fields, with the long names of a send.
    pub fn to_ext(&self) -> Vec<(&'static str, ExtValue<'a>)> {
        let sent = SendHeader {
            properties: self.properties,
            ..*self.sent
        };
        let fields = sent.to_ext(request::SEND_MESSAGE).into_iter();
        let mut ext: Vec<_> = fields
            .filter(|(name, _)| !NOT_PUSHED.contains(name))
            .collect();
        ext.push(("bornHost", self.born_host.into()));
        ext.push(("storeHost", self.store_host.into()));
        ext.push(("storeTimestamp", self.store_timestamp.into()));
        ext
    }
}
