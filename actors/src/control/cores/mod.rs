//! The way to the data cores and back: messages, questions, errands, and rows of what is owed.

pub mod ask;
pub mod errands;
pub mod outbox;
pub mod owed;
