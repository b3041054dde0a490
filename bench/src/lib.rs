//! The load generator behind `gantry bench`: it drives any RocketMQ-protocol broker, not only ours.
//!
//! What it is not: a client library. It writes prepared frames, patches what must differ from
//! message to message and reads no more of a reply than its code and number, so that two cores can
//! be shared with the broker under test without the generator being what is measured.
#![forbid(unsafe_code)]

pub mod args;
pub mod compare;
pub mod connection;
pub mod consumer;
pub mod error;
pub mod ledger;
pub mod observe;
pub mod pace;
pub mod producer;
pub mod recorder;
pub mod report;
pub mod route;
pub mod scenario;
pub mod sink;
pub mod wire;

pub use error::BenchError;
pub use scenario::run;
