//! Keeps a table's log short: a checkpoint every so many commits, read back, then old versions cleaned away.
//!
//! Beside the commits, without their lock: a checkpoint says what a version was, and versions do not change. What fails
//! here is said and tried again later.

use super::log::{Log, commit_key};
use super::summarise::{Summary, Trouble, summarise};
use super::table::Table;
use super::vacuum::interval;
use crate::types::error::{Error, Result};
use deltalake::{DeltaTable, DeltaTableError, checkpoints};
use futures::{StreamExt, TryStreamExt};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// Commits between two checkpoints unless the table says otherwise. A reader replays at most so many commits.
pub(super) const CHECKPOINT_COMMITS: u64 = 100;

/// Commits until a checkpoint that failed is tried again.
const RETRY_COMMITS: u64 = 10;

/// What Delta says when the table does not.
const LOG_RETENTION_DEFAULT: Duration = Duration::from_secs(30 * 24 * 3600);

/// A store that hangs is given up and tried again.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

/// Checkpoints that are being written, of all tables of the process. Compaction lets them go first: they are short, and
/// meanwhile the log grows, and with it what every reader replays.
#[derive(Clone, Default)]
pub(super) struct UnderWay(Arc<watch::Sender<usize>>);

/// Until it is dropped.
pub(super) struct Begun(UnderWay);

impl UnderWay {
    pub fn begin(&self) -> Begun {
        self.0.send_modify(|n| *n += 1);
        Begun(self.clone())
    }

    /// Between two steps of what takes the thread for long: a checkpoint that has become due can begin, and is waited for.
    pub async fn let_pass(&self) {
        tokio::task::yield_now().await;
        // The sender lives as long as we.
        let waited = self.0.subscribe().wait_for(|n| *n == 0).await.map(drop);
        debug_assert!(waited.is_ok());
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.0.0.send_modify(|n| *n -= 1);
    }
}

/// When the next checkpoint is due.
#[derive(Default)]
pub(super) struct Checkpoints {
    next: Option<u64>,
    under_way: UnderWay,
}

impl Checkpoints {
    pub fn new(under_way: UnderWay) -> Self {
        Checkpoints { next: None, under_way }
    }

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
        let _begun = self.under_way.begin();
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
    let configuration = table.metadata().configuration;
    let started = Instant::now();
    match summarise(&table.log, version, &configuration, table.clock.now_us() / 1000).await {
        Ok(summary) => {
            let Summary { rows, adds, bytes } = summary;
            let duration_ms = started.elapsed().as_millis() as u64;
            tracing::debug!(table = %table.log.name, version, rows, adds, bytes, duration_ms, "wrote a checkpoint of the log");
        }
        Err(Trouble::Failed(error)) => return Err(error),
        Err(Trouble::Unknown(what)) => {
            tracing::debug!(table = %table.log.name, version, what, "the checkpoint is left to delta-rs");
            by_delta_rs(table, version).await?;
        }
    }
    table.reader().renew().await;
    if keeps_log(&configuration) {
        let removed = clean(&table.log, &configuration).await?;
        if removed > 0 {
            tracing::debug!(table = %table.log.table.display, version, removed, "cleaned old versions from the log");
        }
    }
    Ok(())
}

/// For tables of other programs that use more of Delta than we write.
async fn by_delta_rs(table: &Table, version: u64) -> Result<()> {
    let failed = |e: DeltaTableError| Error::Unavailable(e.to_string());
    let mut delta = DeltaTable::new(table.reader().log_store.clone());
    delta.load_version(version).await.map_err(failed)?;
    checkpoints::create_checkpoint(&delta, None).await.map_err(failed)?;
    let key = format!("_delta_log/{version:020}.checkpoint.parquet");
    let bytes = table.log.table.get(&key).await?.ok_or_else(|| Error::Failed(format!("\"{key}\" is not there")))?;
    if bytes.len() < 12 || !bytes.starts_with(b"PAR1") || !bytes.ends_with(b"PAR1") {
        return Err(Error::Failed(format!("\"{key}\" is not a Parquet file")));
    }
    Ok(())
}

/// Removes versions that are older than the table keeps its log, behind a checkpoint that holds what they said: every
/// younger version can still be read. Ages are differences of the store's own times of the commits.
async fn clean(log: &Log, configuration: &BTreeMap<String, String>) -> Result<usize> {
    let kept = match configuration.get("delta.logRetentionDuration") {
        None => LOG_RETENTION_DEFAULT,
        Some(text) => match interval(text) {
            Some(kept) => kept,
            // As vacuum does: what is not understood deletes nothing.
            None => return Ok(0),
        },
    };
    let listing = log.listing().await?;
    let Some(newest_ms) = listing.commits.values().max() else { return Ok(0) };
    let cutoff_ms = newest_ms.saturating_sub(kept.as_millis() as i64);
    let young = listing.commits.iter().find(|(_, ms)| **ms >= cutoff_ms).map_or(0, |(version, _)| *version);
    let Some((base, _)) = listing.checkpoints.iter().rev().find(|(version, _)| *version <= young) else { return Ok(0) };
    let commits = listing.commits.range(..base).map(|(version, _)| commit_key(*version));
    let checkpoints = listing.checkpoints.iter().filter(|(version, _)| version < base);
    let checkpoints = checkpoints.flat_map(|(version, parts)| log.checkpoint_keys(*version, *parts));
    // Checkpoints first, then commits from the oldest on: wherever this ends, what is left has no hole behind its oldest
    // checkpoint.
    let old: Vec<_> = checkpoints.chain(commits).map(|key| Ok(log.table.path(&key))).collect();
    let deleted = log.table.store.delete_stream(futures::stream::iter(old).boxed());
    let gone = |e| match e {
        object_store::Error::NotFound { .. } => Ok(()),
        e => Err(log.table.error("clean its log", e)),
    };
    deleted.map(|done| done.map_or_else(gone, |_| Ok(()))).try_fold(0, |n, ()| async move { Ok(n + 1) }).await
}

/// Tables we created leave the cleaning to us; in others' it follows their own setting (on, unless they say off).
fn keeps_log(configuration: &BTreeMap<String, String>) -> bool {
    let set = |key: &str, value: &str| configuration.get(key).is_some_and(|v| v == value);
    set("pipe.keepsLog", "true") || !set("delta.enableExpiredLogCleanup", "false")
}
