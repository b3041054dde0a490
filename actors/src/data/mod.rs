//! The data plane: what runs on the glommio cores, between a client and its bytes.
//!  A frame comes in at [`requests`], is checked against the [`catalog`], goes by the [`router`] to
//! the core of its queue, into the inbox of a queue actor, and is done by the [`shard`]'s next
//! pass.

pub mod catalog;
pub mod core;
pub mod filter;
pub mod gather;
pub mod host;
pub mod orders;
pub mod queue;
pub mod requests;
pub mod retention;
pub mod router;
pub mod seat;
pub mod shard;
pub mod transactions;
pub mod words;

#[cfg(test)]
pub(crate) mod testing;
