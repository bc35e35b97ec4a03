//! Keeps a table's log short: a checkpoint every so many commits, read back, then old versions cleaned away.
//!
//! Beside the commits, without their lock: a checkpoint says what a version was, and versions do not change. What fails
//! here is said and tried again later.

use super::table::Table;
use crate::types::error::{Error, Result};
use deltalake::{DeltaTable, DeltaTableError, checkpoints};
use std::time::Duration;

/// Commits between two checkpoints unless the table says otherwise. A reader replays at most so many commits.
pub(super) const CHECKPOINT_COMMITS: u64 = 100;

/// Commits until a checkpoint that failed is tried again.
const RETRY_COMMITS: u64 = 10;

/// A checkpoint of 50,000 files takes 0.3 s on local disk; a store that hangs is given up and tried again.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// When the next checkpoint is due.
#[derive(Default)]
pub(super) struct Checkpoints {
    next: Option<u64>,
}

impl Checkpoints {
    pub async fn after_commit(&mut self, table: &Table) {
        let metadata = table.metadata();
        let interval = metadata
            .configuration
            .get("delta.checkpointInterval")
            .and_then(|text| text.parse().ok())
            .filter(|n| *n > 0)
            .unwrap_or(CHECKPOINT_COMMITS);
        let version = table.last_seen().head.version;
        let due = *self.next.get_or_insert_with(|| version.max(1).next_multiple_of(interval));
        if version < due {
            return;
        }
        let done = match tokio::time::timeout(CHECKPOINT_TIMEOUT, checkpoint(table, version)).await {
            Ok(done) => done,
            Err(_) => Err(Error::Unavailable(format!("not done within {} s", CHECKPOINT_TIMEOUT.as_secs()))),
        };
        self.next = Some(match done {
            Ok(()) => (version + 1).next_multiple_of(interval),
            Err(error) => {
                metrics::counter!("pipe_table_checkpoint_failures_total", "component" => table.log.name.clone())
                    .increment(1);
                tracing::warn!(table = %table.log.table.display, version, %error, "could not write a checkpoint of the log");
                version + RETRY_COMMITS
            }
        });
    }
}

async fn checkpoint(table: &Table, version: u64) -> Result<()> {
    let failed = |e: DeltaTableError| Error::Unavailable(e.to_string());
    let mut delta = DeltaTable::new(table.reader().log_store.clone());
    delta.load_version(version).await.map_err(failed)?;
    checkpoints::create_checkpoint(&delta, None).await.map_err(failed)?;
    read_back(table, version).await?;
    table.reader().renew().await;
    if keeps_log(&table.metadata().configuration) {
        let removed = checkpoints::cleanup_metadata(&delta, None).await.map_err(failed)?;
        if removed > 0 {
            tracing::debug!(table = %table.log.table.display, version, removed, "cleaned old versions from the log");
        }
    }
    Ok(())
}

/// Old versions are only ever removed behind a checkpoint that is whole.
async fn read_back(table: &Table, version: u64) -> Result<()> {
    let key = format!("_delta_log/{version:020}.checkpoint.parquet");
    let bytes = table.log.table.get(&key).await?.ok_or_else(|| Error::Failed(format!("\"{key}\" is not there")))?;
    if bytes.len() < 12 || !bytes.starts_with(b"PAR1") || !bytes.ends_with(b"PAR1") {
        return Err(Error::Failed(format!("\"{key}\" is not a Parquet file")));
    }
    Ok(())
}

/// Tables we created leave the cleaning to us; in others' it follows their own setting (on, unless they say off).
fn keeps_log(configuration: &std::collections::BTreeMap<String, String>) -> bool {
    let set = |key: &str, value: &str| configuration.get(key).is_some_and(|v| v == value);
    set("pipe.keepsLog", "true") || !set("delta.enableExpiredLogCleanup", "false")
}
