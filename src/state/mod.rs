//! Materialized views: keyed hot state as log-structured Arrow. Immutable segments of partial-aggregate rows, an index
//! key -> (segment, row), frozen reads, incremental snapshots.

pub mod cut; // what a slot shows to readers
pub mod distinct_on; // the greatest row per key
pub mod fold; // what a view's rows are and how they are folded: GROUP BY or DISTINCT ON
pub mod group_by; // partial aggregates per key
pub mod index; // key -> (segment, row)
pub mod keys; // keys as bytes, rows grouped by key
pub mod log; // segments, index, cuts, compaction
pub mod lookup; // the same for frozen readers
pub mod read; // final rows from frozen shares
pub mod segment; // immutable rows, and when each died
#[cfg(test)]
mod tests;
pub mod view; // one slot's share of one materialized view
