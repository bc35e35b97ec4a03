//! Tables over frozen state and the lake: one consistent cut per query.
//!
//! `run::Queries` is the way in: SQL text and values go in, Arrow batches stream out. What a query sees is fixed by
//! `cut::Cut` before it is planned (I10). Queries run on a runtime of their own with their own share of the memory
//! budget, so that they never starve ingestion. Left to `serve`: wires, formats, who may ask.

pub mod boundary; // the types that leave the house
pub mod catalog; // the names: hot, one schema per table sink, system, and bare names
pub mod cut; // what one query sees: slot views and pinned tables
pub mod dead_letters; // rejects, counted and shown
pub mod error;
pub mod hot; // a materialized view as a table
pub mod lake; // a lake table and the rows it does not have yet
pub mod parameter; // the values of $1, $2, ...
pub mod rows; // the stream of a running query
pub mod run; // the way in: describe, run, list, cancel
pub mod running; // system.queries, and cancelling
pub mod statement; // text -> one query, checked
pub mod system; // what the engine knows about itself, as tables // what went wrong with a query, for the one who wrote it

use crate::sinks::delta::table::Table;
use crate::sql::plan::Plan;
use crate::state::cut::SlotView;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// What there is to read, as the running engine (or a stopped one's files) shows it. Implemented in `serve`.
pub trait World: Send + Sync {
    fn plan(&self) -> &Plan;

    /// One view per slot. A query loads these FIRST and pins lake snapshots after, so that no row falls between.
    fn slots(&self) -> Vec<Arc<SlotView>>;

    /// Every table of every append sink: (sink name, table).
    fn lake(&self) -> Vec<(Arc<str>, Arc<Table>)>;

    /// Rows of `system.<name>`: sources, sinks, views, checkpoints, rejects. `queries` is kept by this module.
    fn system(&self, name: &str) -> Option<RecordBatch>;
}

#[cfg(test)]
mod tests;
