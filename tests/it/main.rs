//! Integration tests: the crate from outside, against servers where a test asks for one. One binary, one link.

mod cases;
mod fleet;
mod config;
mod mqtt;
mod flight;
mod s3;
