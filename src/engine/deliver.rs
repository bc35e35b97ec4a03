//! Rows -> the epoch's Parquet files: one thread per slot, encoding while the worker goes on.
//!
//! Files are invisible until the record that lists them is applied (I6). `Seal` ends the epoch in band: what was sent
//! before it is in its files, what comes after is in the next epoch's. A store that is away is waited for: the epoch's
//! rows are kept until its files are complete (the slot shows the same rows to readers, so they are in memory once), and
//! files that a failure left incomplete are given up and written anew under other names.

use crate::engine::lake::{EpochFiles, LakeTable};
use crate::engine::pressure::Pressure;
use crate::engine::retry::Patience;
use crate::env::clock::Clock;
use crate::sinks::delta::table::Prepared;
use crate::types::error::{Error, Result};
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

/// Rows gathered before they are encoded: the writer splits every batch by partition value, which costs the same for
/// ten rows as for a thousand.
const ENCODE_ROWS_MIN: usize = 8_192;

/// For removing incomplete files from a store that has just failed. What stays is never referenced.
const ABORT_TIMEOUT: Duration = Duration::from_secs(10);

pub enum Delivery {
    Rows { table: Arc<str>, rows: RecordBatch },
    Seal { reply: oneshot::Sender<Result<BTreeMap<Arc<str>, Prepared>>> },
}

pub type Tables = BTreeMap<Arc<str>, Arc<dyn LakeTable>>;

/// One per slot; `run` is given the slot's channel.
#[derive(Clone)]
pub struct Deliver {
    pub tables: Tables,
    pub pressure: Arc<Pressure>,
    /// What the open files of one table may hold in memory; above it they are finished and new ones begun.
    pub writer_bytes_max: u64,
    pub clock: Clock,
    /// The pipeline has ended: nothing is waited for any more.
    pub abandon: CancellationToken,
}

/// One table's part of the open epoch.
#[derive(Default)]
struct Open {
    /// All rows since the cut.
    rows: Vec<RecordBatch>,
    writer: Option<Box<dyn EpochFiles>>,
    /// How many of `rows` the writer has taken.
    written: usize,
    waiting_rows: usize,
    /// As the pressure knows it.
    file_bytes: u64,
}

impl Deliver {
    /// Runs until the worker lets go of the channel. An error ends it: the epoch's files are orphans, the rows are read
    /// again after the restart.
    pub async fn run(self, inbox: mpsc::Receiver<Delivery>) -> Result<()> {
        let abandon = self.abandon.clone();
        tokio::select! {
            ended = self.deliver(inbox) => ended,
            () = abandon.cancelled() => Ok(()),
        }
    }

    async fn deliver(self, mut inbox: mpsc::Receiver<Delivery>) -> Result<()> {
        let mut open: BTreeMap<Arc<str>, Open> = BTreeMap::new();
        while let Some(delivery) = inbox.recv().await {
            match delivery {
                Delivery::Rows { table, rows } => {
                    let entry = open.entry(table.clone()).or_default();
                    entry.waiting_rows += rows.num_rows();
                    entry.rows.push(rows);
                    if entry.waiting_rows >= ENCODE_ROWS_MIN {
                        self.persist(&table, entry, false).await?;
                    }
                }
                Delivery::Seal { reply } => {
                    let sealed = self.seal(std::mem::take(&mut open)).await;
                    let failed = sealed.as_ref().err().map(|e| Error::Failed(e.to_string()));
                    // Nobody waits any more only when the engine is stopping; the files are then orphans.
                    if reply.send(sealed).is_err() {
                        return Ok(());
                    }
                    if let Some(error) = failed {
                        return Err(error);
                    }
                }
            }
        }
        Ok(())
    }

    async fn seal(&self, open: BTreeMap<Arc<str>, Open>) -> Result<BTreeMap<Arc<str>, Prepared>> {
        let mut prepared = BTreeMap::new();
        for (name, mut entry) in open {
            if let Some(files) = self.persist(&name, &mut entry, true).await? {
                prepared.insert(name, files);
            }
        }
        Ok(prepared)
    }

    /// Brings all rows so far into the files, and completes these if asked to; for as long as it takes.
    async fn persist(&self, name: &Arc<str>, open: &mut Open, finish: bool) -> Result<Option<Prepared>> {
        let table = self.tables.get(name).ok_or_else(|| Error::Failed(format!("table \"{name}\" is not open")))?;
        let mut patience = Patience::new(&self.clock);
        let mut failed = false;
        loop {
            let done = match self.encode(table.as_ref(), open).await {
                Ok(()) if finish => match open.writer.take() {
                    Some(writer) => writer.finish().await.map(Some),
                    None => Ok(None),
                },
                Ok(()) => Ok(None),
                Err(e) => Err(e),
            };
            let error = match done {
                Ok(files) => {
                    if finish {
                        self.note_files(open, 0);
                    }
                    if failed {
                        tracing::info!(table = %name, "files are written again");
                        self.pressure.table_waits(name, None);
                    }
                    return Ok(files);
                }
                Err(e) => e.context(format!("table \"{name}\" could not write its files")),
            };
            if let Some(writer) = open.writer.take() {
                tokio::select! {
                    () = writer.abort() => {}
                    () = self.clock.sleep(ABORT_TIMEOUT) => {
                        tracing::warn!(table = %name, "incomplete files could not be removed; nothing refers to them");
                    }
                }
            }
            open.written = 0;
            self.note_files(open, 0);
            if !error.is_retriable() {
                return Err(error);
            }
            failed = true;
            tracing::warn!(retry_in_ms = patience.next_ms(), "{error}");
            self.pressure.table_waits(name, Some(error.to_string()));
            patience.sleep().await;
        }
    }

    /// In parts of some thousand rows: after a failure all rows of the epoch are written anew, and a copy of all of them
    /// at once would double what is accounted.
    async fn encode(&self, table: &dyn LakeTable, open: &mut Open) -> Result<()> {
        let schema = table.spec().schema.clone();
        while open.written < open.rows.len() {
            let (mut to, mut rows) = (open.written, 0);
            while to < open.rows.len() && rows < ENCODE_ROWS_MIN {
                rows += open.rows[to].num_rows();
                to += 1;
            }
            let part = concat_batches(&schema, &open.rows[open.written..to])?;
            let writer = match &mut open.writer {
                Some(writer) => writer,
                None => open.writer.insert(table.writer(self.writer_bytes_max)?),
            };
            writer.write(&part).await?;
            open.written = to;
            let bytes = writer.memory_bytes();
            self.note_files(open, bytes);
        }
        open.waiting_rows = 0;
        Ok(())
    }

    fn note_files(&self, open: &mut Open, bytes: u64) {
        self.pressure.files_changed(open.file_bytes, bytes);
        open.file_bytes = bytes;
    }
}
