//! Transactions on a data core: from a half to its end.
//!
//! A half is stored in the half queue of the shard that its target queue lies on, so its end needs
//! no other core: the shard appends the real message, and behind it in the same run the record of
//! the end. [`halves`] is the table of what is open, [`ends`] does `END_TRANSACTION`, [`checks`]
//! asks producers that said nothing, [`resume`] opens again what was given up, [`listing`] tells
//! operators, [`moves`] keeps retention away from what is open, [`lost`] gives up what can't be
//! read any more, [`rebuild`] reads the table from the log at start.

pub mod checks;
pub mod ends;
pub mod halves;
pub mod listing;
pub mod lost;
pub mod moves;
pub mod rebuild;
pub mod resume;

#[cfg(test)]
mod crash_tests;
#[cfg(test)]
mod delayed_tests;
#[cfg(test)]
pub(in crate::data) mod ends_tests;
#[cfg(test)]
mod late_tests;
#[cfg(test)]
mod lost_tests;
#[cfg(test)]
mod order_tests;
#[cfg(test)]
mod refused_ops_tests;
#[cfg(test)]
mod resume_tests;
