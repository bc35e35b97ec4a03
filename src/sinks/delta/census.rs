//! What a table holds, counted: whether its rows are all of our chain's and no others, and the rows themselves, for those
//! who compute something anew from them.

use super::files::Files;
use super::history;
use super::log::Log;
use super::snapshot::PinnedTable;
use super::table::Table;
use super::writer::store_error;
use crate::types::error::{Error, Result};
use crate::types::table_log::LogCommit;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::DataFusionError;
use datafusion::prelude::{SessionConfig, SessionContext};
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

/// Rows of a batch that is read. One row group of one file is in memory besides.
const READ_ROWS: usize = 8_192;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Census {
    pub version: u64,
    pub rows: u64,
    pub bytes: u64,
    pub partition_by: Vec<String>,
    /// Why the rows cannot be taken for those that our chain put there, as far as the log tells.
    pub doubt: Option<String>,
}

/// `None`: there is no table.
pub(super) async fn census(log: &Log, app_id: &str) -> Result<Option<Census>> {
    if log.load().await?.is_none() {
        return Ok(None);
    }
    let files = Files::load(log).await?;
    let mut found =
        Census { version: files.version, partition_by: files.metadata.partition_by.clone(), ..Census::default() };
    for (path, file) in &files.active {
        found.bytes += file.bytes;
        match file.rows {
            Some(rows) => found.rows += rows,
            None => found.doubt = Some(format!("its log does not say how many rows \"{path}\" has")),
        }
        if file.has_deletions {
            found.doubt = Some(format!("somebody else deleted rows of \"{path}\""));
        }
    }
    // Commits that were cleaned away are vouched for by the number of rows alone.
    let told = history::told(log).await?;
    let by_others =
        told.iter().flat_map(|log| &log.commits).find(|c| c.version <= files.version && is_foreign(c, app_id));
    if let Some(LogCommit { version, operation, writer, .. }) = by_others {
        let writer = if writer.is_empty() { "a writer that does not say its name" } else { writer };
        found.doubt =
            Some(format!("version {version} ({operation}, by {writer}) changed its rows beside the pipeline"));
    }
    Ok(Some(found))
}

fn is_foreign(commit: &LogCommit, app_id: &str) -> bool {
    commit.changes_files() && !commit.is_neutral() && commit.epoch_of(app_id).is_none()
}

impl Table {
    pub async fn census(&self) -> Result<Census> {
        let gone = || self.log.failed("the table is gone");
        census(&self.log, self.app_id()).await?.ok_or_else(gone)
    }

    /// The rows at a version, in no order, each file read from its beginning to its end.
    pub async fn rows(&self, version: u64, columns: &[Arc<str>]) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let provider = PinnedTable::new(self.reader().clone(), version, self.last_seen().schema.clone());
        let config = SessionConfig::new()
            .with_target_partitions(1)
            .with_batch_size(READ_ROWS)
            .set_bool("datafusion.execution.parquet.schema_force_view_types", false);
        let name = self.log.name.clone();
        let failed = move |e: DataFusionError| unread(&name, &e);
        let provider: Arc<dyn TableProvider> = Arc::new(provider);
        let columns: Vec<&str> = columns.iter().map(AsRef::as_ref).collect();
        let rows = SessionContext::new_with_config(config).read_table(provider);
        let rows = rows.and_then(|rows| rows.select_columns(&columns)).map_err(&failed)?;
        let stream = rows.execute_stream().await.map_err(&failed)?;
        Ok(stream.map_err(failed).boxed())
    }
}

fn unread(name: &str, e: &DataFusionError) -> Error {
    match store_error(e) {
        Some(text) => Error::Unavailable(format!("table \"{name}\" could not be read: {text}")),
        None => Error::Failed(format!("table \"{name}\" cannot be read: {}", e.strip_backtrace())),
    }
}
