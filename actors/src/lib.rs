//! The rules of RocketMQ.
