//! Which records a consumer wants.

pub mod tag;
