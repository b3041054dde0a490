//! From a frame to a request for a queue actor, or to the control plane.

pub mod dispatch;
pub mod locks;
pub mod offsets;
pub mod orderly;
pub mod parked;
pub mod pulls;
pub mod pushes;
pub mod query;
pub mod reading;
pub mod replies;
pub mod send;
