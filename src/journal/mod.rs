//! The durable local log in front of sources that cannot be re-read.
