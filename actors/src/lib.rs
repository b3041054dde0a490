//! The rules of RocketMQ, as actors on two planes.
//!
//! `data` runs on the glommio data cores: sessions, queue actors, pulls, offsets, queue locks.
//! `control` runs on the actix control plane: topics, groups, registration, admin.
//! `namesrv` is the name server. `seam` holds the only words the planes exchange.
#![forbid(unsafe_code)]

pub mod control;
pub mod data;
mod join;
mod kept_file;
pub mod kept_settings;
pub mod known_topics;
pub mod live;
pub mod memory_plan;
pub mod namesrv;
pub mod refusal;
pub mod seam;
pub mod settings;
pub mod sql92;
pub mod transaction;
