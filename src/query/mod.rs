//! Tables over frozen state and the lake: one consistent cut per query.

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
