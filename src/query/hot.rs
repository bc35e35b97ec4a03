//! A materialized view as a table: final rows over the frozen shares of one cut.
//!
//! Nothing is computed before the scan runs, so that describing a query, EXPLAIN and a view nobody reads cost nothing.

use crate::query::cut::Cut;
use crate::sql::plan::MaterializedView;
use crate::state::view::FrozenView;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::{DataFusionError, Result};
use datafusion::execution::memory_pool::{MemoryConsumer, MemoryReservation};
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::{Stream, TryStreamExt, stream};
use std::fmt;
use std::sync::Arc;

pub fn table(view: &Arc<MaterializedView>, index: usize, cut: &Cut) -> Result<Arc<dyn TableProvider>> {
    let shares = cut.slots.iter().filter_map(|slot| slot.views.get(index).cloned()).collect();
    let scan = HotScan { view: view.clone(), shares };
    Ok(Arc::new(StreamingTable::try_new(view.output_schema.clone(), vec![Arc::new(scan)])?))
}

struct HotScan {
    view: Arc<MaterializedView>,
    shares: Vec<FrozenView>,
}

impl fmt::Debug for HotScan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "hot.{}", self.view.name)
    }
}

impl PartitionStream for HotScan {
    fn schema(&self) -> &SchemaRef {
        &self.view.output_schema
    }

    /// One poll computes the rows: this runs on the query threads, where long polls hurt no one but other queries.
    fn execute(&self, context: Arc<TaskContext>) -> SendableRecordBatchStream {
        let (view, shares) = (self.view.clone(), self.shares.clone());
        let schema = view.output_schema.clone();
        let rows = read_when_polled(move || {
            let batches = FrozenView::read(&view, &shares).map_err(|e| DataFusionError::External(Box::new(e)))?;
            // What was read is held until the last batch is handed on, and counts against the query budget.
            let held = MemoryConsumer::new(format!("hot.{}", view.name)).register(context.memory_pool());
            held.try_grow(batches.iter().map(|b| b.get_array_memory_size()).sum())?;
            Ok((batches, held))
        });
        Box::pin(RecordBatchStreamAdapter::new(schema, rows))
    }
}

type Read = (Vec<RecordBatch>, MemoryReservation);

/// Reads when first polled, then hands the batches on one by one and keeps the reservation until the last.
fn read_when_polled(
    read: impl FnOnce() -> Result<Read> + Send + 'static,
) -> impl Stream<Item = Result<RecordBatch>> + Send {
    stream::once(async move { read() })
        .map_ok(|(batches, held)| {
            stream::unfold((batches.into_iter(), held), |(mut batches, held)| async move {
                batches.next().map(|batch| (Ok(batch), (batches, held)))
            })
        })
        .try_flatten()
}
