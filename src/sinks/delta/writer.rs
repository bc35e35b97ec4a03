//! One epoch's files of one slot: Parquet through delta-rs' `DeltaWriter`, invisible until a record lists their Adds.

use super::config::FloatEncoding;
use super::rows::{conform, has_a_name};
use crate::env::store::Location;
use crate::types::error::{Error, Result};
use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use deltalake::DeltaTableError;
use deltalake::datafile::writer::{DeltaWriter, WriterConfig};
use deltalake::kernel::Add;
use object_store::prefix::PrefixStore;
use object_store::{ObjectStore, ObjectStoreExt};
use parquet::basic::{Compression, Encoding, ZstdLevel};
use parquet::file::properties::{EnabledStatistics, WriterProperties, WriterPropertiesBuilder};
use parquet::schema::types::ColumnPath;
use std::collections::HashSet;
use std::sync::{Arc, Mutex};

/// Rows of one row group. An epoch's file is normally one group; the bound keeps an open writer's memory small when a
/// backlog makes the epoch long. Full: the group is encoded and uploaded, the file goes on.
const ROW_GROUP_ROWS_MAX: usize = 1024 * 1024;

/// Bytes of one row group, for wide rows.
const ROW_GROUP_BYTES_MAX: usize = 64 * 1024 * 1024;

/// Partitions open at once; each holds encoders and buffers of its own (about 100 KiB before the first row). Full: the
/// open files are finished and new ones begun, so a file per partition becomes several.
const PARTITIONS_OPEN_MAX: usize = 256;

/// What an open partition holds before its first row, as `PARTITIONS_OPEN_MAX` says, rounded up.
const PARTITION_BYTES: u64 = 128 * 1024;

/// Columns with minimum and maximum in the log. Every commit's readers parse them for every file.
pub(super) const STATS_COLUMNS_MAX: usize = 8;

/// What `finish` gives: Delta Add actions as JSON, and how many rows they hold.
#[derive(Clone, Debug, Default)]
pub struct Prepared {
    pub adds: Vec<serde_json::Value>,
    pub rows: u64,
    pub bytes: u64,
}

/// How the files of a table are written; made once per table.
#[derive(Clone, Debug)]
pub(super) struct FileFormat {
    /// Columns as stored, partition columns among them.
    pub schema: SchemaRef,
    pub partition_by: Vec<String>,
    pub floats: FloatEncoding,
    pub properties: WriterProperties,
    /// Quoted where the name needs it.
    pub stats_columns: Vec<String>,
}

/// Files written by this process that no commit holds yet, by path: prepared for an epoch that is still to be decided or
/// applied, however long that takes. Clean-up leaves them alone.
#[derive(Debug, Default)]
pub(super) struct Pending(Mutex<HashSet<String>>);

impl Pending {
    fn insert(&self, adds: &[Add]) {
        self.0.lock().expect("no panic while held").extend(adds.iter().map(|add| add.path.clone()));
    }

    pub fn remove<'a>(&self, paths: impl Iterator<Item = &'a str>) {
        let mut pending = self.0.lock().expect("no panic while held");
        for path in paths {
            pending.remove(path);
        }
    }

    pub fn snapshot(&self) -> HashSet<String> {
        self.0.lock().expect("no panic while held").clone()
    }
}

/// The files of one epoch of one slot, being written. Nothing is visible until the record that lists them is applied.
pub struct EpochWriter {
    format: Arc<FileFormat>,
    location: Location,
    store: Arc<dyn ObjectStore>,
    writer: DeltaWriter,
    open: Partitions,
    /// Of files finished before the others, because too many partitions were open.
    finished: Vec<Add>,
    pending: Arc<Pending>,
    rows: u64,
    /// Bytes of the rows in the open files, as they were in memory.
    open_row_bytes: u64,
    memory_bytes_max: u64,
}

impl EpochWriter {
    pub(super) fn new(format: Arc<FileFormat>, location: Location, pending: Arc<Pending>) -> Result<Self> {
        let store: Arc<dyn ObjectStore> = Arc::new(PrefixStore::new(location.store.clone(), location.prefix.clone()));
        let writer = new_writer(&format, &store);
        let open = Partitions::new(&format)?;
        Ok(EpochWriter {
            format,
            location,
            store,
            writer,
            open,
            finished: Vec::new(),
            pending,
            rows: 0,
            open_row_bytes: 0,
            memory_bytes_max: u64::MAX,
        })
    }

    /// Files are finished, and new ones begun, when the open ones hold more than this. One partition is always open.
    pub fn within(mut self, memory_bytes_max: u64) -> Self {
        self.memory_bytes_max = memory_bytes_max;
        self.open.open_max = (memory_bytes_max / PARTITION_BYTES).clamp(1, PARTITIONS_OPEN_MAX as u64) as usize;
        self
    }

    /// What the open files hold, estimated, because delta-rs does not tell: encoded columns are at most half of what they
    /// are as Arrow rows (telemetry: a quarter), and every partition has buffers of its own.
    pub fn memory_bytes(&self) -> u64 {
        let partitions = if self.open_row_bytes == 0 { 0 } else { self.open.open.len().max(1) as u64 };
        partitions * PARTITION_BYTES + self.open_row_bytes / 2
    }

    /// Columns as the spec's schema. Streams to the store; memory is bounded by one row group per partition.
    pub async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.rows += rows.num_rows() as u64;
        let stored = conform(rows, &self.format.schema)?;
        let mut pending = vec![without_empty_partitions(stored, &self.format.partition_by)?];
        while let Some(batch) = pending.pop() {
            if batch.num_rows() == 0 {
                continue;
            }
            match self.open.admit(&batch)? {
                Admission::Fits => {}
                Admission::Full => self.roll().await?,
                Admission::TooMany => {
                    let half = batch.num_rows() / 2;
                    pending.push(batch.slice(half, batch.num_rows() - half));
                    pending.push(batch.slice(0, half));
                    continue;
                }
            }
            self.writer.write(&batch).await.map_err(|e| failed(&self.location, "write its files", e))?;
            self.open_row_bytes += batch.get_array_memory_size() as u64;
            if self.memory_bytes() > self.memory_bytes_max {
                self.open.open.clear();
                self.roll().await?;
            }
        }
        Ok(())
    }

    /// Finishes the open files and goes on with new ones.
    async fn roll(&mut self) -> Result<()> {
        let full = std::mem::replace(&mut self.writer, new_writer(&self.format, &self.store));
        self.open_row_bytes = 0;
        let adds = full.close().await.map_err(|e| failed(&self.location, "finish its files", e))?;
        self.pending.insert(&adds);
        self.finished.extend(adds);
        Ok(())
    }

    /// Files complete and durable (fsynced on local disk).
    pub async fn finish(self) -> Result<Prepared> {
        let rows = self.rows;
        let adds = self.close().await?;
        let bytes = adds.iter().map(|a| a.size as u64).sum();
        let adds = adds
            .iter()
            .map(serde_json::to_value)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|e| Error::Failed(format!("an Add action cannot be written as JSON: {e}")))?;
        Ok(Prepared { adds, rows, bytes })
    }

    /// As `finish`, with the Adds as delta-rs has them.
    pub(super) async fn close(self) -> Result<Vec<Add>> {
        let mut adds = self.finished;
        adds.extend(self.writer.close().await.map_err(|e| failed(&self.location, "finish its files", e))?);
        self.pending.insert(&adds);
        Ok(adds)
    }

    /// How the files are encoded: for measuring against a bare Parquet writer.
    pub fn properties(&self) -> &WriterProperties {
        &self.format.properties
    }

    /// Gives up the files. What cannot be removed is never referenced, and clean-up finds it.
    pub async fn abort(self) {
        if let Err(error) = self.writer.abort().await {
            tracing::warn!(table = %self.location.display, %error, "could not abort an upload");
        }
        for add in &self.finished {
            let removed = match object_store::path::Path::parse(&add.path) {
                Ok(path) => self.store.delete(&path).await,
                Err(e) => Err(e.into()),
            };
            if let Err(error) = removed {
                tracing::warn!(table = %self.location.display, file = add.path, %error, "could not remove an unused file");
            }
        }
        self.pending.remove(self.finished.iter().map(|add| add.path.as_str()));
    }
}

fn new_writer(format: &FileFormat, store: &Arc<dyn ObjectStore>) -> DeltaWriter {
    let config = WriterConfig::new(
        format.schema.clone(),
        format.partition_by.clone(),
        Some(format.properties.clone()),
        // No target size: with one, delta-rs slices batches at 1,024 rows, and epochs bound the files anyway.
        None,
        Some(8192),
        // Not asked: the columns are named.
        Default::default(),
        Some(format.stats_columns.clone()),
    );
    DeltaWriter::new(store.clone(), config)
}

fn failed(location: &Location, doing: &str, e: DeltaTableError) -> Error {
    match e {
        DeltaTableError::ObjectStore { source } => location.error(doing, source),
        // An upload's error comes wrapped by Parquet; it is still the store's.
        other => match store_error(&other) {
            Some(text) => Error::Unavailable(format!("{}: could not {doing}: {text}", location.display)),
            None => Error::Failed(format!("{}: could not {doing}: {other}", location.display)),
        },
    }
}

pub(super) fn store_error(e: &(dyn std::error::Error + 'static)) -> Option<String> {
    let mut next = Some(e);
    while let Some(e) = next {
        // The end of an upload wraps it once more, and an io::Error hides what it wraps from `source`.
        let wrapped = e.downcast_ref::<std::io::Error>().and_then(|io| io.get_ref());
        let wrapped = wrapped.and_then(|e| e.downcast_ref::<object_store::Error>());
        if let Some(store) = e.downcast_ref::<object_store::Error>().or(wrapped) {
            return Some(store.to_string());
        }
        next = e.source();
    }
    None
}

/// Which partitions have rows in the open files.
struct Partitions {
    columns: Vec<usize>,
    /// `None`: the table is not partitioned.
    rows: Option<RowConverter>,
    open: HashSet<Box<[u8]>>,
    open_max: usize,
}

enum Admission {
    Fits,
    /// Only in new files; the old ones are to be finished first.
    Full,
    /// Not even in new files; in parts.
    TooMany,
}

impl Partitions {
    fn new(format: &FileFormat) -> Result<Self> {
        let columns =
            format.partition_by.iter().map(|name| format.schema.index_of(name)).collect::<Result<Vec<_>, _>>()?;
        let fields = columns.iter().map(|i| SortField::new(format.schema.field(*i).data_type().clone()));
        let rows = if columns.is_empty() { None } else { Some(RowConverter::new(fields.collect())?) };
        Ok(Partitions { columns, rows, open: HashSet::new(), open_max: PARTITIONS_OPEN_MAX })
    }

    fn admit(&mut self, batch: &RecordBatch) -> Result<Admission> {
        let Some(converter) = &self.rows else { return Ok(Admission::Fits) };
        let columns: Vec<ArrayRef> = self.columns.iter().map(|i| batch.column(*i).clone()).collect();
        for (i, column) in self.columns.iter().zip(&columns) {
            // The rows' messages were set aside before (`row_check`): this is the last door.
            has_a_name(batch.schema_ref().field(*i).name(), column).map_err(|what| {
                Error::refused(what, "Leave such rows out in the statement: WHERE the column is in a sensible range.")
            })?;
        }
        let rows = converter.convert_columns(&columns)?;
        let mut here: HashSet<Box<[u8]>> = HashSet::new();
        let mut last: Option<arrow::row::Row> = None;
        for row in rows.iter() {
            // Most rows share their partition with the row before.
            if last != Some(row) && !here.contains(row.as_ref()) {
                here.insert(row.as_ref().into());
            }
            last = Some(row);
        }
        if here.len() > self.open_max && batch.num_rows() > 1 {
            return Ok(Admission::TooMany);
        }
        let fresh = here.iter().filter(|p| !self.open.contains(*p)).count();
        if self.open.len() + fresh > self.open_max {
            self.open = here;
            return Ok(Admission::Full);
        }
        self.open.extend(here);
        Ok(Admission::Fits)
    }
}

/// An empty text as partition value is written like NULL and read as either, reader by reader: NULL it is.
fn without_empty_partitions(batch: RecordBatch, partition_by: &[String]) -> Result<RecordBatch> {
    let schema = batch.schema();
    let mut columns = batch.columns().to_vec();
    for (column, field) in columns.iter_mut().zip(schema.fields()) {
        if field.data_type() == &DataType::Utf8 && partition_by.contains(field.name()) {
            let empty = arrow::compute::kernels::cmp::eq(column, &StringArray::new_scalar(""))?;
            if empty.true_count() > 0 {
                *column = arrow::compute::nullif(column, &empty)?;
            }
        }
    }
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// zstd(1), BYTE_STREAM_SPLIT for floats, DELTA_BINARY_PACKED for whole numbers and times, dictionaries for text alone:
/// about twice as fast as dictionaries everywhere, at the same size, for telemetry (docs/decisions).
pub(super) fn properties(schema: &SchemaRef, floats: FloatEncoding) -> WriterProperties {
    let mut builder = WriterProperties::builder()
        .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("1 is a zstd level")))
        .set_statistics_enabled(EnabledStatistics::Chunk)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
        .set_max_row_group_bytes(Some(ROW_GROUP_BYTES_MAX))
        .set_created_by(format!("pipe {}", env!("CARGO_PKG_VERSION")));
    for field in schema.fields() {
        builder = encode(builder, field, &mut vec![], floats);
    }
    builder.build()
}

fn encode(
    builder: WriterPropertiesBuilder,
    field: &Field,
    path: &mut Vec<String>,
    floats: FloatEncoding,
) -> WriterPropertiesBuilder {
    path.push(field.name().clone());
    let builder = match field.data_type() {
        DataType::Float32 | DataType::Float64 => {
            let encoding = match floats {
                FloatEncoding::ByteStreamSplit => Encoding::BYTE_STREAM_SPLIT,
                FloatEncoding::Plain => Encoding::PLAIN,
            };
            column(builder, path, encoding)
        }
        DataType::Int8 | DataType::Int16 | DataType::Int32 | DataType::Int64 => {
            column(builder, path, Encoding::DELTA_BINARY_PACKED)
        }
        DataType::Date32 | DataType::Timestamp(_, _) => column(builder, path, Encoding::DELTA_BINARY_PACKED),
        // Up to 18 digits Parquet stores a whole number; beyond that, fixed bytes.
        DataType::Decimal128(precision, _) if *precision <= 18 => column(builder, path, Encoding::DELTA_BINARY_PACKED),
        DataType::List(element) => {
            path.push("list".into());
            let builder = encode(builder, element, path, floats);
            path.pop();
            builder
        }
        DataType::Map(entries, _) => encode(builder, entries, path, floats),
        DataType::Struct(fields) => fields.iter().fold(builder, |b, f| encode(b, f, path, floats)),
        _ => builder,
    };
    path.pop();
    builder
}

fn column(builder: WriterPropertiesBuilder, path: &[String], encoding: Encoding) -> WriterPropertiesBuilder {
    let path = ColumnPath::new(path.to_vec());
    builder.set_column_dictionary_enabled(path.clone(), false).set_column_encoding(path, encoding)
}

/// The columns worth bounds in the log, times and numbers first: those are what queries range over.
pub(super) fn stats_columns(schema: &SchemaRef, partition_by: &[String]) -> Vec<String> {
    // Not decimals: delta-rs writes their bounds as floats, which round, and a rounded bound hides rows. Not dates: it
    // panics on the bounds of absurd ones, and they are mostly partition columns.
    let worth = |t: &DataType| match t {
        DataType::Timestamp(_, _) => Some(0),
        DataType::Utf8 => Some(1),
        t if t.is_integer() || t.is_floating() => Some(2),
        _ => None,
    };
    let mut columns: Vec<(u8, &String)> = schema
        .fields()
        .iter()
        .filter(|f| !partition_by.contains(f.name()))
        .filter_map(|f| Some((worth(f.data_type())?, f.name())))
        .collect();
    columns.sort_by_key(|(rank, _)| *rank);
    columns.truncate(STATS_COLUMNS_MAX);
    columns.into_iter().map(|(_, name)| quoted(name)).collect()
}

/// The property is a list of column paths: a name with anything but letters, digits and underscores goes in backticks.
fn quoted(name: &str) -> String {
    let plain =
        name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_') && !name.starts_with(|c: char| c.is_ascii_digit());
    if plain { name.to_owned() } else { format!("`{}`", name.replace('`', "``")) }
}
