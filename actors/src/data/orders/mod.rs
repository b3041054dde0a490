//! What the control plane has done here: its words, and the errands of its supervisors.

pub mod control_words;
pub mod errands;
