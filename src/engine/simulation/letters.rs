//! The dead letters as they are committed, for a replay to read: as a table for its SQL, or found in a plain way.

use crate::engine::dead_letter;
use crate::engine::simulation::lake::row_keys;
use crate::engine::simulation::world::{World, unavailable};
use arrow::array::AsArray;
use arrow::compute::concat_batches;
use arrow::datatypes::{SchemaRef, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::catalog::streaming::StreamingTable;
use datafusion::error::DataFusionError;
use datafusion::execution::{SendableRecordBatchStream, TaskContext};
use datafusion::physical_plan::stream::RecordBatchStreamAdapter;
use datafusion::physical_plan::streaming::PartitionStream;
use futures::stream::{self, TryStreamExt};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

const TABLE: &str = "lake.dead_letter";

pub fn table(world: &Arc<World>) -> Arc<dyn TableProvider> {
    let batches = committed(world);
    let schema = dead_letter::schema();
    let committed = Committed { world: world.clone(), schema: schema.clone(), batches };
    Arc::new(StreamingTable::try_new(schema, vec![Arc::new(committed)]).expect("one schema"))
}

/// What is dead, the oldest first: a message by its row with the highest attempt.
pub fn in_order(world: &Arc<World>, limit: Option<usize>) -> SendableRecordBatchStream {
    let batches = committed(world);
    let mut newest: BTreeMap<(String, String, i64), (i64, i64, RecordBatch)> = BTreeMap::new();
    for batch in &batches {
        let received = batch.column_by_name("received_at").expect("a column of the dead letters");
        let received = received.as_primitive::<TimestampMicrosecondType>();
        for (row, (source, label, position, attempt)) in row_keys(TABLE, batch).into_iter().enumerate() {
            let known = newest.get(&(source.clone(), label.clone(), position)).map_or(0, |(attempt, ..)| attempt.abs());
            if attempt.abs() > known {
                let letter = (attempt, received.value(row), batch.slice(row, 1));
                newest.insert((source, label, position), letter);
            }
        }
    }
    // Those of one instant are in the order of their keys already, and stay in it.
    let mut dead: Vec<_> = newest.into_values().filter(|(attempt, ..)| *attempt > 0).collect();
    dead.sort_by_key(|(_, received, _)| *received);
    dead.truncate(limit.unwrap_or(usize::MAX));
    let rows = concat_batches(&dead_letter::schema(), dead.iter().map(|(.., row)| row)).expect("one schema");
    read(world, vec![rows])
}

fn committed(world: &World) -> Vec<RecordBatch> {
    world.logs.lock().expect("no holder panics").batches(TABLE).cloned().collect()
}

fn read(world: &Arc<World>, batches: Vec<RecordBatch>) -> SendableRecordBatchStream {
    let world = world.clone();
    let rows = async move {
        world.pause().await;
        if world.happens(10) {
            world.say(format_args!("503: dead letters"));
            return Err(DataFusionError::External(unavailable("dead letters").into()));
        }
        Ok(stream::iter(batches.into_iter().map(Ok)))
    };
    let rows = stream::once(rows).try_flatten();
    Box::pin(RecordBatchStreamAdapter::new(dead_letter::schema(), rows))
}

struct Committed {
    world: Arc<World>,
    schema: SchemaRef,
    batches: Vec<RecordBatch>,
}

impl fmt::Debug for Committed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Committed")
    }
}

impl PartitionStream for Committed {
    fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    fn execute(&self, _: Arc<TaskContext>) -> SendableRecordBatchStream {
        read(&self.world, self.batches.clone())
    }
}
