//! Which records a consumer wants.

pub mod expressions;
pub mod subscription;
