//! Sinks: one folder per connector. Append-only sinks take final rows exactly once; upsert sinks take changes.

pub mod delta;
pub mod kv;
