//! One compaction: a bin of small files is read, written again as one, and exchanged for it in a commit of its own.
//!
//! Reading and writing happen beside the stream, without the table's commit lock; only the commit takes it. The commit
//! removes the inputs and adds the output, both with `dataChange = false`, and holds no transaction: what our chain has
//! applied stays as it is. Before every attempt the log is read to its end:
//!
//! | the log shows                                   | then                                                       |
//! |-------------------------------------------------|------------------------------------------------------------|
//! | our output was added                            | an earlier attempt landed: done                            |
//! | an input is gone, or schema, settings, protocol changed | given up; the output is deleted if no attempt can still land |
//! | neither                                         | commit as the next version                                 |
//!
//! An attempt without an answer may land as long as its version is free. While there is one, the output stays where it is;
//! if the attempt never lands, vacuum finds it.

use super::bins::Bin;
use super::commit::{PUT_TIMEOUT, follow, freshen, pause};
use super::files::Files;
use super::log::{Log, Metadata, engine, lines};
use super::paced::Paced;
use super::protocol::{check_metadata, check_protocol};
use super::rows::align;
use super::schema::{arrow_schema, lake_schema, merge, schema_json};
use super::table::Table;
use super::upkeep::Turn;
use super::writer::{EpochWriter, FileFormat, properties, stats_columns};
use crate::env::store::{Location, PutOutcome};
use crate::types::error::{Error, Result};
use arrow::datatypes::{Schema, SchemaRef};
use bytes::Bytes;
use deltalake::kernel::Add;
use futures::future::BoxFuture;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::arrow::arrow_reader::ArrowReaderOptions;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::errors::ParquetError;
use parquet::file::metadata::{ParquetMetaData, ParquetMetaDataReader};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::Range;
use std::sync::Arc;
use tokio_util::sync::CancellationToken;

/// Rows on their way from a file to the next; fewer, if they are wide, because a batch is in memory several times over.
const BATCH_ROWS_MAX: usize = 8_192;
const BATCH_ROWS_MIN: usize = 64;
const BATCH_BYTES: usize = 1024 * 1024;

const ROW_GROUP_ROWS_MAX: usize = 256 * 1024;

/// Parts of an upload under way before more rows are encoded: one that travels, and one that is full meanwhile.
const UPLOAD_BYTES_MAX: u64 = 10 * 1024 * 1024;

/// Files that are fetched whole before it is their turn, and how many of them at a time.
const FETCH_BYTES_MAX: u64 = 256 * 1024;
const FETCHES_IN_FLIGHT_MAX: usize = 8;

/// How a compaction keeps within the memory it may have. It holds one row group of an input, one of its output, parts of
/// the upload, and some thousand rows between them.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Memory {
    /// Of one row group being written. Its encoders hold about as much again.
    row_group_bytes_max: u64,
    /// Of one row group being read, as it is stored. An input with larger ones is left as it is.
    input_bytes_max: u64,
}

impl Memory {
    /// Twice a twelfth for the encoders, a third for the input, what is left for the upload and the rows in between.
    pub fn within(bytes: u64) -> Self {
        const MIB: u64 = 1024 * 1024;
        Memory { row_group_bytes_max: (bytes / 12).clamp(MIB, 16 * MIB), input_bytes_max: bytes / 3 }
    }

    /// What putting this bin together holds at most, but for the rows in between.
    pub(super) fn of(&self, bin: &Bin) -> u64 {
        let largest = bin.inputs.iter().map(|(_, file)| file.bytes).max().unwrap_or_default();
        let written = bin.bytes();
        let upload = UPLOAD_BYTES_MAX + self.row_group_bytes_max;
        let ahead = written.min(FETCH_BYTES_MAX * FETCHES_IN_FLIGHT_MAX as u64);
        ahead + largest.min(self.input_bytes_max) + written.min(2 * self.row_group_bytes_max) + written.min(upload)
    }
}

/// Attempts to commit one output.
const ATTEMPTS_MAX: u32 = 6;

/// Features of a table that a rewrite of its files does not touch.
pub(super) const FEATURES: [&str; 5] =
    ["appendOnly", "invariants", "changeDataFeed", "vacuumProtocolCheck", "timestampNtz"];

#[derive(Debug)]
pub(super) enum Outcome {
    Compacted(Report),
    /// Others were faster; nothing was lost but the work.
    Overtaken(String),
    /// Asked to stop before the commit.
    Stopped,
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Report {
    pub files_in: u64,
    pub files_out: u64,
    pub bytes_in: u64,
    pub bytes_out: u64,
    pub rows: u64,
}

#[derive(Debug)]
pub(super) enum Trouble {
    /// This input is not one we can rewrite; another bin may do.
    Unfit {
        path: String,
        why: String,
    },
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Failed(error)
    }
}

/// Why this table's files must not be rewritten by us. `None`: they may.
pub(super) fn obstacle(files: &Files) -> Option<String> {
    if let Err(misfit) = check_protocol(&files.protocol).and_then(|()| check_metadata(&files.metadata)) {
        return Some(misfit.what);
    }
    for key in ["readerFeatures", "writerFeatures"] {
        let features = files.protocol[key].as_array().into_iter().flatten().filter_map(Value::as_str);
        if let Some(feature) = features.into_iter().find(|f| !FEATURES.contains(f)) {
            return Some(format!("the table uses the feature \"{feature}\""));
        }
    }
    if files.metadata.configuration.get("delta.enableDeletionVectors").is_some_and(|v| v == "true") {
        return Some("the table uses deletion vectors".into());
    }
    stored_schema(&files.metadata).err()
}

/// The columns of the table's files, in types that come back as they went in.
fn stored_schema(metadata: &Metadata) -> Result<SchemaRef, String> {
    let all = lake_schema(&*arrow_schema(&metadata.schema)?).map_err(|m| m.what)?;
    match merge(&metadata.schema, &schema_json(&all)) {
        Ok(None) => {}
        Ok(Some(_)) => return Err("the table's schema has parts we do not know".into()),
        Err(misfit) => return Err(misfit.what),
    }
    let stored = all.fields().iter().filter(|f| !metadata.partition_by.contains(f.name())).cloned();
    Ok(Arc::new(Schema::new(stored.collect::<Vec<_>>())))
}

/// Exchanges the bin's files for one. `files` moves on with the log.
pub(super) async fn compact(
    table: &Table,
    files: &mut Files,
    bin: &Bin,
    turn: &Turn,
    stop: &CancellationToken,
) -> Result<Outcome, Trouble> {
    let Some((outputs, report)) = rewrite(table, files, bin, turn, stop).await? else { return Ok(Outcome::Stopped) };
    Ok(exchange(table, files, bin, outputs, report).await?)
}

/// The bin's rows in new files, which no version names yet. `None`: asked to stop.
async fn rewrite(
    table: &Table,
    files: &Files,
    bin: &Bin,
    turn: &Turn,
    stop: &CancellationToken,
) -> Result<Option<(Vec<Add>, Report)>, Trouble> {
    let store = Paced::new(table.log.table.store.clone());
    let mut output = Output { writer: new_writer(table, &files.metadata, bin, turn.memory, store.clone())?, store };
    let mut rows = 0;
    let fetched = bin.inputs.iter().map(|(path, file)| fetch(table, path, file.bytes));
    let mut fetched = futures::stream::iter(fetched).buffered(FETCHES_IN_FLIGHT_MAX);
    for (path, file) in &bin.inputs {
        let copied = match fetched.next().await.expect("there is one for every input") {
            Ok(input) => copy(table, files, input, path, (&mut output, turn), stop).await,
            Err(trouble) => Err(trouble),
        };
        let unfit = |why: String| Trouble::Unfit { path: path.clone(), why };
        let copied = match copied {
            Ok(Some(n)) if file.rows.is_some_and(|said| said != n) => {
                Err(unfit(format!("it holds {n} rows, the log says {}", file.rows.unwrap_or_default())))
            }
            other => other,
        };
        match copied {
            Ok(Some(n)) => rows += n,
            Ok(None) => {
                output.writer.abort().await;
                return Ok(None);
            }
            Err(trouble) => {
                output.writer.abort().await;
                return Err(trouble);
            }
        }
    }
    let mut outputs = output.writer.close().await?;
    let folder = folder(bin);
    for add in &mut outputs {
        add.path = format!("{folder}{}", add.path);
        let values = files.metadata.partition_by.iter().cloned().zip(bin.partition.iter().cloned());
        add.partition_values = values.collect();
        // Rows keep their place in the order of commits.
        add.modification_time = bin.inputs.iter().map(|(_, f)| f.modified_ms).max().unwrap_or(add.modification_time);
        add.data_change = false;
    }
    let written = |add: &Add| serde_json::from_str::<Value>(add.stats.as_deref()?).ok()?["numRecords"].as_u64();
    let written: u64 = outputs.iter().filter_map(written).sum();
    if written != rows {
        delete(table, &outputs).await;
        let what = format!("table \"{}\": {rows} rows were read and {written} written", table.log.name);
        return Err(Trouble::Failed(Error::Failed(what)));
    }
    let report = Report {
        files_in: bin.inputs.len() as u64,
        files_out: outputs.len() as u64,
        bytes_in: bin.bytes(),
        bytes_out: outputs.iter().map(|a| a.size as u64).sum(),
        rows,
    };
    Ok(Some((outputs, report)))
}

/// The file being written, and the store it goes to.
struct Output {
    writer: EpochWriter,
    store: Arc<Paced>,
}

/// The inputs' folder, with its slash: files of one partition stay together for people and tools that look at folders.
fn folder(bin: &Bin) -> &str {
    let path = bin.inputs.first().map_or("", |(path, _)| path);
    &path[..path.rfind('/').map_or(0, |slash| slash + 1)]
}

fn new_writer(table: &Table, metadata: &Metadata, bin: &Bin, memory: Memory, store: Arc<Paced>) -> Result<EpochWriter> {
    let failed = |e: String| table.log.failed(e);
    let schema = stored_schema(metadata).map_err(failed)?;
    let floats = table.format.floats;
    let row_groups = properties(&schema, floats)
        .into_builder()
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(memory.row_group_bytes_max as usize))
        .build();
    let format = FileFormat {
        // The partition's values are the same in every row, and not in the file.
        partition_by: Vec::new(),
        floats,
        properties: row_groups,
        stats_columns: stats_columns(&schema, &[]),
        schema,
    };
    let prefix = match folder(bin) {
        "" => table.log.table.prefix.clone(),
        folder => table.log.file(folder.trim_end_matches('/')).map_err(|e| failed(e.to_string()))?,
    };
    let location = Location { prefix, store, ..table.log.table.clone() };
    // Not among the pending files of epochs: compaction and vacuum of a process never run at the same time.
    EpochWriter::new(Arc::new(format), location, Arc::default())
}

/// A small file at once, ahead of its turn: an epoch's file is read in a request, and not in three one after the other.
async fn fetch(table: &Table, path: &str, bytes: u64) -> Result<StoredFile, Trouble> {
    let at = table.log.file(path).map_err(|e| Trouble::Unfit { path: path.to_owned(), why: e.to_string() })?;
    let mut file = StoredFile::new(&table.log, at, bytes);
    if bytes <= FETCH_BYTES_MAX {
        let fetched = async { file.store.get(&file.path).await?.bytes().await }.await;
        file.whole = Some(fetched.map_err(|e| table.log.table.error(&format!("read \"{path}\""), e))?);
    }
    Ok(file)
}

/// Rows of one input into the writer; `None`: asked to stop.
async fn copy(
    table: &Table,
    files: &Files,
    file: StoredFile,
    path: &str,
    (output, turn): (&mut Output, &Turn),
    stop: &CancellationToken,
) -> Result<Option<u64>, Trouble> {
    let unfit = |why: String| Trouble::Unfit { path: path.to_owned(), why };
    let unread = |e: ParquetError| match e {
        // The store's own error: the file may be read another time.
        ParquetError::External(e) if e.is::<object_store::Error>() => {
            Trouble::Failed(Error::Unavailable(format!("{}: could not read \"{path}\": {e}", table.log.table.display)))
        }
        other => unfit(other.to_string()),
    };
    let stored = stored_schema(&files.metadata).map_err(unfit)?;
    let builder = ParquetRecordBatchStreamBuilder::new(file).await.map_err(unread)?;
    let largest = builder.metadata().row_groups().iter().map(|group| group.compressed_size()).max().unwrap_or_default();
    if largest as u64 > turn.memory.input_bytes_max {
        let limit = turn.memory.input_bytes_max;
        return Err(unfit(format!("a row group of it has {largest} bytes, [limits] memory leaves {limit} for it")));
    }
    let plain: i64 = builder.metadata().row_groups().iter().map(|group| group.total_byte_size()).sum();
    let count = builder.metadata().file_metadata().num_rows().max(1);
    let row_bytes = (plain / count).max(1) as usize;
    let batch_rows = (BATCH_BYTES / row_bytes).clamp(BATCH_ROWS_MIN, BATCH_ROWS_MAX);
    let mut batches = builder.with_batch_size(batch_rows).build().map_err(unread)?;
    let mut rows = 0;
    while let Some(batch) = batches.try_next().await.map_err(unread)? {
        if stop.is_cancelled() {
            return Ok(None);
        }
        rows += batch.num_rows() as u64;
        output.writer.write(&align(&batch, &stored, &files.metadata.partition_by).map_err(unfit)?).await?;
        let go_on = async {
            output.store.at_most(UPLOAD_BYTES_MAX).await;
            turn.checkpoints.let_pass().await;
        };
        tokio::select! {
            () = go_on => {}
            () = stop.cancelled() => return Ok(None),
        }
    }
    Ok(Some(rows))
}

/// The commit, as the table above says.
async fn exchange(table: &Table, files: &mut Files, bin: &Bin, outputs: Vec<Add>, report: Report) -> Result<Outcome> {
    let (metadata, protocol) = (files.metadata.clone(), files.protocol.clone());
    // Versions under which an attempt without an answer may still land.
    let mut open: BTreeSet<u64> = BTreeSet::new();
    let mut last = String::new();
    for attempt in 0..ATTEMPTS_MAX {
        let one_at_a_time = table.commit.lock().await;
        freshen(table).await?;
        let steps = files.follow(&table.log).await?;
        let ours = |path: &String| outputs.iter().any(|add| add.path == *path);
        if steps.iter().any(|step| step.added.iter().any(|(path, _)| ours(path))) {
            follow(table).await?;
            return Ok(Outcome::Compacted(report));
        }
        for step in &steps {
            open.remove(&step.version);
        }
        if files.version > table.last_seen().head.version {
            follow(table).await?;
        }
        if files.version < table.last_seen().head.version {
            // The log was cleaned beyond where we stood.
            if !open.is_empty() {
                return Err(table.log.failed("its log was cleaned: what became of a compaction cannot be told"));
            }
            *files = Files::load(&table.log).await?;
        }
        let changed = files.metadata != metadata || files.protocol != protocol;
        let gone = bin.inputs.iter().find(|(path, _)| !files.active.contains_key(path));
        if changed || gone.is_some() {
            if open.is_empty() {
                delete(table, &outputs).await;
            }
            return Ok(Outcome::Overtaken(match gone {
                Some((path, _)) => format!("\"{path}\" was removed"),
                None => "the table's schema or settings were changed".into(),
            }));
        }
        let version = files.version + 1;
        let text = commit_text(table, files.version, bin, &outputs);
        match tokio::time::timeout(PUT_TIMEOUT, table.log.write(version, text.clone())).await {
            Ok(Ok(PutOutcome::Created)) => {
                files.step(&table.log, version, &text)?;
                let mut head = table.last_seen().head.clone();
                head.version = version;
                table.see(head)?;
                return Ok(Outcome::Compacted(report));
            }
            Ok(Ok(PutOutcome::AlreadyExists)) => last = format!("version {version} was taken"),
            Ok(Err(error)) => last = error.to_string(),
            Err(_) => last = format!("no answer within {} s", PUT_TIMEOUT.as_secs()),
        }
        open.insert(version);
        // Epochs may commit while we wait.
        drop(one_at_a_time);
        tokio::time::sleep(pause(attempt)).await;
    }
    Err(Error::Unavailable(format!("table \"{}\": a compaction could not be committed: {last}", table.log.name)))
}

fn commit_text(table: &Table, read_version: u64, bin: &Bin, outputs: &[Add]) -> Bytes {
    let now_ms = table.clock.now_us() / 1000;
    let partition_by = &table.metadata().partition_by;
    let info = json!({ "commitInfo": {
        "timestamp": now_ms,
        "operation": "OPTIMIZE",
        "operationParameters": { "predicate": "[]" },
        "operationMetrics": {
            "numRemovedFiles": bin.inputs.len().to_string(),
            "numAddedFiles": outputs.len().to_string(),
        },
        "readVersion": read_version,
        "isBlindAppend": false,
        "engineInfo": engine(),
    } });
    let removes = bin.inputs.iter().map(|(path, file)| {
        let values: serde_json::Map<String, Value> =
            partition_by.iter().cloned().zip(file.partition.iter().map(|v| json!(v))).collect();
        json!({ "remove": {
            "path": file.written_as.as_ref().unwrap_or(path),
            "deletionTimestamp": now_ms,
            "dataChange": false,
            "extendedFileMetadata": true,
            "partitionValues": values,
            "size": file.bytes,
        } })
    });
    let adds = outputs.iter().map(|add| json!({ "add": add }));
    lines([info].into_iter().chain(removes).chain(adds))
}

/// Files that no version names and none can any more.
async fn delete(table: &Table, outputs: &[Add]) {
    for add in outputs {
        let removed = match table.log.file(&add.path) {
            Ok(path) => table.log.table.store.delete(&path).await,
            Err(e) => Err(e),
        };
        if let Err(error) = removed {
            tracing::warn!(table = %table.log.table.display, file = add.path, %error, "could not remove an unused file");
        }
    }
}

/// A Parquet file in a store, read a column chunk at a time, or from memory if it was fetched whole.
pub(super) struct StoredFile {
    pub store: Arc<dyn ObjectStore>,
    pub path: Path,
    pub bytes: u64,
    pub whole: Option<Bytes>,
}

impl StoredFile {
    pub fn new(log: &Log, path: Path, bytes: u64) -> Self {
        StoredFile { store: log.table.store.clone(), path, bytes, whole: None }
    }

    fn in_memory(&self, range: &Range<u64>) -> Option<Result<Bytes, ParquetError>> {
        let whole = self.whole.as_ref()?;
        Some(match range.start <= range.end && range.end <= whole.len() as u64 {
            true => Ok(whole.slice(range.start as usize..range.end as usize)),
            false => Err(ParquetError::EOF(format!("the file ends at {}, before {}", whole.len(), range.end))),
        })
    }
}

impl AsyncFileReader for StoredFile {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, Result<Bytes, ParquetError>> {
        if let Some(bytes) = self.in_memory(&range) {
            return futures::future::ready(bytes).boxed();
        }
        async move { self.store.get_range(&self.path, range).await.map_err(|e| ParquetError::External(Box::new(e))) }
            .boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, Result<Vec<Bytes>, ParquetError>> {
        if self.whole.is_some() {
            let bytes = ranges.iter().filter_map(|range| self.in_memory(range)).collect();
            return futures::future::ready(bytes).boxed();
        }
        async move { self.store.get_ranges(&self.path, &ranges).await.map_err(|e| ParquetError::External(Box::new(e))) }
            .boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _options: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, Result<Arc<ParquetMetaData>, ParquetError>> {
        async move {
            let bytes = self.bytes;
            // Small files come whole with their footer.
            let reader = ParquetMetaDataReader::new().with_prefetch_hint(Some(64 * 1024));
            Ok(Arc::new(reader.load_and_finish(self, bytes).await?))
        }
        .boxed()
    }
}
