//! pipe: MQTT and Kafka messages through plain SQL into hot state, Delta tables and a key-value store, and out over
//! Arrow Flight SQL. One process. See docs/architecture.md; the floors below are held by tests/tidy.rs.

// Floor 0: words.
pub mod types;
// Floor 1: pure (sql and state may await DataFusion's planner).
pub mod checkpoint;
pub mod codec;
pub mod config;
pub mod sql;
pub mod state;
// Floor 2: the edge.
pub mod env;
pub mod journal;
pub mod sinks;
pub mod sources;
// Floor 3: the work.
pub mod engine;
pub mod query;
// Floor 4: the faces.
pub mod cli;
pub mod serve;
pub mod simulate;
