//! The thread beside the stream that keeps the lake's tables in order: checkpoints of their logs, compaction, vacuum.
//!
//! Nothing waits for it, and nothing that fails in it ends the pipeline: a panic is said, and the work begins anew.

use crate::sinks::delta::config::DeltaTableConfig;
use crate::sinks::delta::table::Table;
use crate::sinks::delta::upkeep::{Upkeep, turn};
use crate::types::error::panic_text;
use crate::types::limit::{IN_FLIGHT_UPKEEP_PERCENT, UPKEEP_BYTES_MIN};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// After a panic: not at once into the same one.
const RESTART_AFTER: Duration = Duration::from_secs(60);

/// Runs until `stop`. To be called when recovery is done: what an earlier process decided is applied by then, so that
/// every file that still matters is named by a log or known to this process.
pub fn start(
    tables: Vec<(Arc<Table>, DeltaTableConfig)>,
    in_flight_bytes: u64,
    stop: CancellationToken,
) -> JoinHandle<()> {
    let io = tokio::runtime::Handle::current();
    let memory_bytes = (in_flight_bytes * IN_FLIGHT_UPKEEP_PERCENT / 100).max(UPKEEP_BYTES_MIN);
    metrics::gauge!("pipe_budget_limit_bytes", "share" => "upkeep").set(memory_bytes as f64);
    let work = move || {
        while !stop.is_cancelled() {
            let turn = turn(memory_bytes);
            let all = tables.iter().map(|(table, config)| Upkeep::new(table.clone(), config.clone(), turn.clone()));
            let all = futures::future::join_all(all.map(|upkeep| upkeep.run(stop.clone())).collect::<Vec<_>>());
            // Encoding happens on this thread, reading and writing on the runtime's.
            let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(|| io.block_on(all))) else { return };
            tracing::error!(
                panic = panic_text(&*panic),
                "the upkeep of the lake's tables failed; it begins anew in a minute"
            );
            metrics::counter!("pipe_table_upkeep_panics_total").increment(1);
            io.block_on(async {
                tokio::select! {
                    _ = stop.cancelled() => {}
                    _ = tokio::time::sleep(RESTART_AFTER) => {}
                }
            });
        }
    };
    std::thread::Builder::new().name("upkeep".into()).spawn(work).expect("the system can start a thread")
}
