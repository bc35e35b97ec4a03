//! Rows -> the epoch's Parquet files: one thread per slot, encoding while the worker goes on.
//!
//! Files are invisible until the record that lists them is applied (I6). `Seal` ends the epoch in band: what was sent
//! before it is in its files, what comes after is in the next epoch's.

use crate::engine::lake::{EpochFiles, LakeTable};
use crate::sinks::delta::table::Prepared;
use crate::types::error::{Error, Result};
use arrow::compute::concat_batches;
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// Rows gathered before they are encoded: the writer splits every batch by partition value, which costs the same for
/// ten rows as for a thousand.
const ENCODE_ROWS_MIN: usize = 8_192;

pub enum Delivery {
    Rows { table: Arc<str>, rows: RecordBatch },
    Seal { reply: oneshot::Sender<Result<BTreeMap<Arc<str>, Prepared>>> },
}

#[derive(Default)]
struct Open {
    writer: Option<Box<dyn EpochFiles>>,
    waiting: Vec<RecordBatch>,
    waiting_rows: usize,
}

pub type Tables = BTreeMap<Arc<str>, Arc<dyn LakeTable>>;

/// Runs until the worker lets go of the channel. An error ends it: the epoch's files are orphans, the rows are read
/// again after the restart.
pub async fn run(tables: Tables, mut inbox: mpsc::Receiver<Delivery>) -> Result<()> {
    let mut open: BTreeMap<Arc<str>, Open> = BTreeMap::new();
    while let Some(delivery) = inbox.recv().await {
        match delivery {
            Delivery::Rows { table, rows } => {
                let entry = open.entry(table.clone()).or_default();
                entry.waiting_rows += rows.num_rows();
                entry.waiting.push(rows);
                if entry.waiting_rows >= ENCODE_ROWS_MIN {
                    encode(&tables, &table, entry).await?;
                }
            }
            Delivery::Seal { reply } => {
                let sealed = seal(&tables, std::mem::take(&mut open)).await;
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

async fn encode(tables: &Tables, name: &Arc<str>, open: &mut Open) -> Result<()> {
    let table = tables.get(name).ok_or_else(|| Error::Failed(format!("table \"{name}\" is not open")))?;
    let schema = table.spec().schema.clone();
    let rows = concat_batches(&schema, open.waiting.iter())?;
    open.waiting.clear();
    open.waiting_rows = 0;
    let writer = match &mut open.writer {
        Some(writer) => writer,
        None => open.writer.insert(table.writer()?),
    };
    writer.write(&rows).await.map_err(|e| e.context(format!("table \"{name}\" could not write its files")))
}

async fn seal(tables: &Tables, open: BTreeMap<Arc<str>, Open>) -> Result<BTreeMap<Arc<str>, Prepared>> {
    let mut prepared = BTreeMap::new();
    for (name, mut entry) in open {
        if entry.waiting_rows > 0 {
            encode(tables, &name, &mut entry).await?;
        }
        if let Some(writer) = entry.writer {
            let files =
                writer.finish().await.map_err(|e| e.context(format!("table \"{name}\" could not finish its files")))?;
            prepared.insert(name, files);
        }
    }
    Ok(prepared)
}
