//! What the engine knows about itself, as tables of the schema `system`.

use crate::query::World;
use crate::query::running::Running;
use arrow::record_batch::RecordBatch;

/// The tables there may be, in the order in which they are listed. A world that has no rows for one hides it.
const TABLES: [&str; 6] = ["sources", "sinks", "views", "checkpoints", "rejects", "queries"];

pub fn rows(world: &dyn World, running: &Running, name: &str) -> Option<RecordBatch> {
    match name {
        "queries" => Some(running.rows()),
        name if TABLES.contains(&name) => world.system(name),
        _ => None,
    }
}

pub fn names(world: &dyn World) -> Vec<&'static str> {
    TABLES.into_iter().filter(|name| *name == "queries" || world.system(name).is_some()).collect()
}
