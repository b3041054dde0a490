//! What goes over the wire: prepared sends, stamped bodies, and the little that is read of a reply.

pub mod payload;
pub mod reply;
pub mod templates;
