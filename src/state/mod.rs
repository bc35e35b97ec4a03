//! Materialized views: keyed hot state as log-structured Arrow. Immutable segments of partial-aggregate rows, an index
//! key -> (segment, row), frozen reads, incremental snapshots.

pub mod view; // one slot's share of one materialized view
pub mod cut; // what a slot shows to readers
