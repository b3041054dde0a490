//! Who sees to it that a message goes on: when it is due, when it was sent back, when its
//! transaction is undecided.

pub mod delay;
pub mod open_halves;
pub mod retry;
pub mod transactions;
