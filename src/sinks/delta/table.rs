//! One Delta table: open or create, write an epoch's files, apply a record, snapshot for readers.

use super::commit;
use super::files::path_of_add;
use super::log::{Head, Log, Metadata};
pub use super::rows::row_check;
use super::schema::{arrow_schema, merge, schema_json};
use super::snapshot::{PinnedTable, Reader};
pub use super::writer::{EpochWriter, Prepared};
use super::writer::{FileFormat, Pending};
use crate::env::clock::Clock;
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use arrow::datatypes::SchemaRef;
use datafusion::catalog::TableProvider;
use futures::TryStreamExt;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, RwLock};
use std::time::Instant;
use tokio::sync::watch;

/// What a table must be. Columns are nullable; types are what Delta can hold (timestamps in microseconds UTC).
#[derive(Clone, Debug)]
pub struct TableSpec {
    pub name: String,
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
}

/// What a record says about one table: the Adds of its epoch and the transaction they land under.
#[derive(Clone, Debug)]
pub struct Landing {
    pub app_id: String,
    pub adds: Vec<serde_json::Value>,
    pub schema_action: Option<serde_json::Value>,
}

/// A frozen table for readers, and the epoch of our chain up to which it holds our rows.
#[derive(Clone)]
pub struct LakeSnapshot {
    pub provider: Arc<dyn TableProvider>,
    pub applied: Epoch,
    pub version: i64,
}

pub struct Table {
    spec: TableSpec,
    app_id: String,
    pub(super) log: Log,
    pub(super) format: Arc<FileFormat>,
    pub(super) clock: Clock,
    /// A std lock, because nothing awaits while it is held. Written by whoever holds `commit`.
    head: RwLock<Arc<Seen>>,
    /// The newest version seen; upkeep wakes up by it.
    version: watch::Sender<u64>,
    /// One commit at a time per table.
    pub(super) commit: tokio::sync::Mutex<()>,
    pub(super) pending: Arc<Pending>,
    /// As upkeep last counted them; 0: not yet.
    active_files: AtomicU64,
    reader: Arc<Reader>,
}

/// The log as we last saw it, with what readers need of it.
pub(super) struct Seen {
    pub head: Head,
    /// What a reader gets: the table's columns.
    pub schema: SchemaRef,
    pub at: Instant,
}

/// HEAD requests at once when files are verified.
const VERIFY_IN_FLIGHT_MAX: usize = 16;

impl Table {
    pub(super) fn new(
        spec: TableSpec,
        app_id: &str,
        log: Log,
        format: FileFormat,
        head: Head,
        clock: Clock,
    ) -> Result<Arc<Self>> {
        let reader = Arc::new(Reader::new(&log)?);
        let seen = Self::seen(&log, head)?;
        Ok(Arc::new(Table {
            spec,
            app_id: app_id.to_owned(),
            format: Arc::new(format),
            clock,
            version: watch::Sender::new(seen.head.version),
            head: RwLock::new(Arc::new(seen)),
            commit: tokio::sync::Mutex::default(),
            pending: Arc::default(),
            active_files: AtomicU64::new(0),
            reader,
            log,
        }))
    }

    fn seen(log: &Log, head: Head) -> Result<Seen> {
        let schema = arrow_schema(&head.metadata.schema)
            .map_err(|e| log.failed(format_args!("the table's schema cannot be read: {e}")))?;
        Ok(Seen { head, schema, at: Instant::now() })
    }

    pub fn spec(&self) -> &TableSpec {
        &self.spec
    }

    /// The Delta table's own id; part of the record, so that a table swapped underneath is noticed.
    pub fn id(&self) -> String {
        self.last_seen().head.metadata.id.clone()
    }

    /// The Delta metadata action that this table still needs (new nullable columns), for the first record that writes to it.
    pub fn pending_schema_action(&self) -> Option<serde_json::Value> {
        let seen = self.last_seen();
        let wanted = schema_json(&self.format.schema);
        match merge(&seen.head.metadata.schema, &wanted) {
            Ok(grown) => grown.map(|schema| seen.head.metadata.with_schema(schema).action().clone()),
            // Another writer changed the table since it was opened; `apply` refuses, naming the column.
            Err(_) => None,
        }
    }

    pub fn writer(&self) -> Result<EpochWriter> {
        EpochWriter::new(self.format.clone(), self.log.table.clone(), self.pending.clone())
    }

    /// Idempotent: skipped when the table already holds `epoch` or more under the landing's application id.
    /// `Unavailable` may be tried again, and says nothing about whether the commit landed.
    pub async fn apply(&self, epoch: Epoch, landing: &Landing) -> Result<()> {
        commit::apply(self, epoch, landing).await
    }

    /// Fails, naming the file, unless every file that `adds` refer to is there. For epochs decided in an earlier life:
    /// committing an Add without its file would break every reader of the table.
    pub async fn verify_files(&self, adds: &[serde_json::Value]) -> Result<()> {
        let paths = adds.iter().map(path_of_add).collect::<Result<Vec<_>>>()?;
        futures::stream::iter(paths.iter().map(Ok::<_, Error>))
            .try_for_each_concurrent(VERIFY_IN_FLIGHT_MAX, |path| async move {
                match self.log.head_file(path).await {
                    Ok(()) => Ok(()),
                    Err(object_store::Error::NotFound { .. }) => Err(Error::refused(
                        format!("table \"{}\": file \"{path}\" of a decided epoch is missing", self.log.name),
                        "Restore the file, or the whole table, from a copy; its rows exist nowhere else.",
                    )),
                    Err(e) => Err(self.log.table.error(&format!("find \"{path}\""), e)),
                }
            })
            .await
    }

    /// Application ids in the table's log that start with "pipe/", with their versions: what refusals are decided on.
    pub async fn transactions(&self) -> Result<BTreeMap<String, i64>> {
        let ours = |(id, version): (&String, &i64)| id.starts_with("pipe/").then(|| (id.clone(), *version));
        Ok(self.last_seen().head.transactions.iter().filter_map(ours).collect())
    }

    /// Looks for commits of other writers, so that the next snapshot shows them.
    pub async fn refresh(&self) -> Result<()> {
        let _one_at_a_time = self.commit.lock().await;
        commit::follow(self).await.map(|_| ())
    }

    /// Pinned: what a query reads. Never older than the last `apply`.
    pub fn snapshot(&self) -> LakeSnapshot {
        let seen = self.last_seen();
        let applied = seen.head.transactions.get(&self.app_id).copied().unwrap_or(0);
        LakeSnapshot {
            provider: Arc::new(PinnedTable::new(self.reader.clone(), seen.head.version, seen.schema.clone())),
            applied: Epoch(applied.max(0) as u64),
            version: seen.head.version as i64,
        }
    }

    pub(super) fn last_seen(&self) -> Arc<Seen> {
        self.head.read().expect("no panic while held").clone()
    }

    /// Publishes a newer head; readers see it from now on.
    pub(super) fn see(&self, head: Head) -> Result<()> {
        let seen = Self::seen(&self.log, head)?;
        let version = seen.head.version;
        *self.head.write().expect("no panic while held") = Arc::new(seen);
        self.version.send_replace(version);
        Ok(())
    }

    /// Files of the newest version when upkeep last looked; `None`: it has not.
    pub fn active_files(&self) -> Option<u64> {
        Some(self.active_files.load(Ordering::Relaxed)).filter(|n| *n > 0)
    }

    pub(super) fn count_active(&self, files: usize) {
        self.active_files.store(files as u64, Ordering::Relaxed);
        metrics::gauge!("pipe_table_active_files", "component" => self.log.name.clone()).set(files as f64);
    }

    pub(super) fn versions(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(super) fn metadata(&self) -> Metadata {
        self.last_seen().head.metadata.clone()
    }

    pub(super) fn app_id(&self) -> &str {
        &self.app_id
    }

    pub(super) fn reader(&self) -> &Arc<Reader> {
        &self.reader
    }
}
