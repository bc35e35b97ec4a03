//! Handle to a running pipeline: facts for readers, a way to stop it, and how it ended.

use crate::engine::checkpointer::CheckpointStatus;
use crate::engine::pressure::Pressure;
use crate::engine::published::{Board, Published};
use crate::env::budget::Budget;
use crate::sinks::kv::KvSink;
use crate::sources::SourceStatus;
use crate::sql::plan::Plan;
use crate::types::count::Counts;
use crate::types::epoch::ChainId;
use crate::types::error::Result;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What readers share with the engine. Everything in it is frozen, atomic, or behind a lock held for a copy.
pub struct Live {
    pub pipeline: String,
    pub plan: Arc<Plan>,
    pub chain: ChainId,
    pub incarnation: u64,
    pub boards: Vec<Arc<Board>>,
    pub tables: Vec<LiveTable>,
    pub sources: BTreeMap<String, LiveSource>,
    /// By sink name.
    pub kv: BTreeMap<String, Arc<KvSink>>,
    pub checkpoint: Arc<Mutex<CheckpointStatus>>,
    pub pressure: Arc<Pressure>,
    pub in_flight: Budget,
    pub memory_bytes: u64,
    pub started_at_us: i64,
    /// The key-value store shows every key of hot state (no hold-back, no rebuild under way).
    pub kv_ready: Arc<AtomicBool>,
    pub stopping: AtomicBool,
}

pub struct LiveTable {
    pub sink: Arc<str>,
    pub key: Arc<str>,
    pub table: Arc<crate::sinks::delta::table::Table>,
}

pub struct LiveSource {
    pub kind: String,
    pub status: Arc<SourceStatus>,
}

impl Live {
    pub fn published(&self) -> Vec<Arc<Published>> {
        self.boards.iter().map(|b| b.load()).collect()
    }

    /// The ledger over all partitions, as of the last batch of each slot.
    pub fn counts(&self) -> Counts {
        let mut all = Counts::default();
        self.boards.iter().for_each(|board| board.load().partitions.values().for_each(|p| all.add(&p.counts)));
        all
    }

    pub fn checkpoint_status(&self) -> CheckpointStatus {
        self.checkpoint.lock().expect("no holder panics").clone()
    }
}

/// A started pipeline. Dropping it does not stop it; `stop` and `wait` do.
pub struct Running {
    pub live: Arc<Live>,
    pub(super) stop: CancellationToken,
    pub(super) supervisor: JoinHandle<Result<()>>,
}

impl Running {
    /// Stop reading, take what was handed over, final checkpoint. `wait` returns when it is done.
    pub fn stop(&self) {
        self.live.stopping.store(true, Ordering::Relaxed);
        self.stop.cancel();
    }

    pub fn stopper(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// How the pipeline ended. Cancel-safe.
    pub async fn wait(&mut self) -> Result<()> {
        match (&mut self.supervisor).await {
            Ok(ended) => ended,
            Err(e) => Err(crate::types::error::Error::Failed(format!("the supervisor ended unexpectedly: {e}"))),
        }
    }
}
