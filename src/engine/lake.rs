//! What the engine needs of tables that take rows exactly once: recovery opens them, `deliver` writes their files, the
//! `checkpointer` commits them. Delta here; the simulation puts a model of a log in its place.

use crate::engine::assemble::DeltaPart;
use crate::engine::running::LiveTable;
use crate::sinks::delta::census::Census;
use crate::sinks::delta::config::DeltaTableConfig;
use crate::sinks::delta::sink::DeltaSink;
use crate::sinks::delta::table::{EpochWriter, Landing, Prepared, Table, TableSpec};
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::BoxStream;
use std::collections::BTreeMap;
use std::sync::Arc;

#[async_trait]
pub trait Lake: Send + Sync {
    /// Opens the table, creating it if it is not there. `app_id`: the transaction under which our epochs land.
    async fn open(&self, sink: &str, spec: TableSpec, app_id: &str) -> Result<Arc<dyn LakeTable>>;
}

#[async_trait]
pub trait LakeTable: Send + Sync {
    fn spec(&self) -> &TableSpec;

    /// Part of the record, so that a table swapped underneath is noticed.
    fn id(&self) -> String;

    /// What the first record that writes to the table must change about it.
    fn pending_schema_action(&self) -> Option<serde_json::Value>;

    /// One epoch's files of one slot; invisible until `apply` (I6). Files that are open hold about `memory_bytes_max` at
    /// most; above it they are finished and new ones begun.
    fn writer(&self, memory_bytes_max: u64) -> Result<Box<dyn EpochFiles>>;

    /// Fails unless every file that `adds` refer to is there.
    async fn verify_files(&self, adds: &[serde_json::Value]) -> Result<()>;

    /// Idempotent (I7): skipped when the table holds `epoch` or more under the landing's application id. An error that can
    /// be retried says nothing about whether the commit landed.
    async fn apply(&self, epoch: Epoch, landing: &Landing) -> Result<()>;

    /// Application ids that start with "pipe/", with their versions.
    async fn transactions(&self) -> Result<BTreeMap<String, i64>>;

    /// What the table holds, and whether it can be taken for all that our chain put there.
    async fn census(&self) -> Result<Census>;

    /// The rows at a version, in no order, a bounded batch at a time.
    async fn rows(&self, version: u64, columns: &[Arc<str>]) -> Result<BoxStream<'static, Result<RecordBatch>>>;
}

#[async_trait]
pub trait EpochFiles: Send {
    async fn write(&mut self, rows: &RecordBatch) -> Result<()>;

    /// Complete and durable when this returns.
    async fn finish(self: Box<Self>) -> Result<Prepared>;

    /// Removes what was written, as far as that can be done; the rest is never referenced.
    async fn abort(self: Box<Self>);

    /// What open files hold in memory.
    fn memory_bytes(&self) -> u64;
}

/// The `[sink.x] type = "delta"` of a config.
pub struct DeltaLake {
    parts: BTreeMap<String, DeltaPart>,
    opened: tokio::sync::Mutex<Opened>,
}

#[derive(Default)]
struct Opened {
    sinks: BTreeMap<String, DeltaSink>,
    tables: Vec<LiveTable>,
}

impl DeltaLake {
    pub fn new(parts: BTreeMap<String, DeltaPart>) -> Self {
        DeltaLake { parts, opened: tokio::sync::Mutex::default() }
    }

    pub fn table_config(&self, sink: &str, table: &str) -> DeltaTableConfig {
        self.parts.get(sink).and_then(|part| part.tables.get(table)).cloned().unwrap_or_default()
    }

    /// The tables opened so far, as readers need them; once.
    pub async fn take_tables(&self) -> Vec<LiveTable> {
        std::mem::take(&mut self.opened.lock().await.tables)
    }
}

#[async_trait]
impl Lake for DeltaLake {
    async fn open(&self, sink: &str, spec: TableSpec, app_id: &str) -> Result<Arc<dyn LakeTable>> {
        let part = self
            .parts
            .get(sink)
            .ok_or_else(|| Error::Failed(format!("sink \"{sink}\" takes rows, and only Delta sinks do")))?;
        let mut opened = self.opened.lock().await;
        if !opened.sinks.contains_key(sink) {
            let connected = DeltaSink::connect(sink, &part.config, &part.section).await?;
            opened.sinks.insert(sink.to_string(), connected);
        }
        let key: Arc<str> = format!("{sink}.{}", spec.name).into();
        let table = opened.sinks[sink].open_table(spec, app_id).await?;
        // Opened again when a recovery is tried again.
        opened.tables.retain(|known| known.key != key);
        opened.tables.push(LiveTable { sink: sink.into(), key, table: table.clone() });
        Ok(table)
    }
}

#[async_trait]
impl LakeTable for Table {
    fn spec(&self) -> &TableSpec {
        Table::spec(self)
    }

    fn id(&self) -> String {
        Table::id(self)
    }

    fn pending_schema_action(&self) -> Option<serde_json::Value> {
        Table::pending_schema_action(self)
    }

    fn writer(&self, memory_bytes_max: u64) -> Result<Box<dyn EpochFiles>> {
        Ok(Box::new(Table::writer(self)?.within(memory_bytes_max)))
    }

    async fn verify_files(&self, adds: &[serde_json::Value]) -> Result<()> {
        Table::verify_files(self, adds).await
    }

    async fn apply(&self, epoch: Epoch, landing: &Landing) -> Result<()> {
        Table::apply(self, epoch, landing).await
    }

    async fn transactions(&self) -> Result<BTreeMap<String, i64>> {
        Table::transactions(self).await
    }

    async fn census(&self) -> Result<Census> {
        Table::census(self).await
    }

    async fn rows(&self, version: u64, columns: &[Arc<str>]) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        Table::rows(self, version, columns).await
    }
}

#[async_trait]
impl EpochFiles for EpochWriter {
    async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        EpochWriter::write(self, rows).await
    }

    async fn finish(self: Box<Self>) -> Result<Prepared> {
        EpochWriter::finish(*self).await
    }

    async fn abort(self: Box<Self>) {
        EpochWriter::abort(*self).await
    }

    fn memory_bytes(&self) -> u64 {
        EpochWriter::memory_bytes(self)
    }
}
