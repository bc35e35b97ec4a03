//! Integration tests: the crate from outside, against servers where a test asks for one. One binary, one link.

mod audit;
mod cases;
mod config;
mod dlq;
mod fleet;
mod flight;
mod kafka;
mod mqtt;
mod regressions;
mod s3;
mod serve;
mod sql_page;
mod sql_words;
