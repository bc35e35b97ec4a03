//! Writes a checkpoint of a table's log: what still counts of the checkpoint before it and of the commits since.
//!
//! Row by row, so that it takes the memory of some thousand rows, of the commits since and of the finished file, however
//! many files the table has and had.
//!
//! | action             | stays                                                                                  |
//! |--------------------|----------------------------------------------------------------------------------------|
//! | protocol, metaData | the newest                                                                             |
//! | txn                | the newest of its application                                                          |
//! | add                | unless its path was added again, or removed, later                                     |
//! | remove             | likewise, and until the table's `deletedFileRetentionDuration` has passed              |
//!
//! An action, or a field of one, that is not known here belongs to a feature of Delta that we do not know. Then nothing is
//! written, and delta-rs, which knows more, is to write the checkpoint.

use super::compact::{FEATURES, StoredFile};
use super::log::Log;
use super::vacuum::{RETENTION_DEFAULT, interval};
use crate::types::error::Error;
use arrow::array::RecordBatch;
use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};
use arrow::json::reader::{Decoder, ReaderBuilder};
use arrow::json::writer::{LineDelimited, WriterBuilder};
use bytes::Bytes;
use futures::TryStreamExt;
use object_store::ObjectStoreExt;
use parquet::arrow::async_reader::{AsyncFileReader, ParquetRecordBatchStreamBuilder};
use parquet::arrow::{ArrowWriter, ProjectionMask};
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, LazyLock};

/// Rows on their way from one checkpoint to the next.
const BATCH_ROWS: usize = 1_024;

/// A reader holds one row group; statistics make a row of it some hundred bytes.
const ROW_GROUP_ROWS_MAX: usize = 8_192;

const KINDS: [&str; 5] = ["protocol", "metaData", "txn", "add", "remove"];

/// What can be computed from the rest of an Add, and costs more than it.
const DERIVED: [&str; 2] = ["stats_parsed", "partitionValues_parsed"];

#[derive(Debug)]
pub(super) enum Trouble {
    /// The log holds what we do not know.
    Unknown(String),
    Failed(Error),
}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Trouble::Failed(error)
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Summary {
    pub rows: u64,
    pub adds: u64,
    pub bytes: u64,
}

/// Writes the checkpoint of `version` and reads back that it is whole.
pub(super) async fn summarise(
    log: &Log,
    version: u64,
    configuration: &BTreeMap<String, String>,
    now_ms: i64,
) -> Result<Summary, Trouble> {
    if let Some(key) = configuration.keys().find(|key| key.starts_with("delta.checkpoint.")) {
        return Err(Trouble::Unknown(format!("the setting \"{key}\"")));
    }
    let listing = log.listing().await?;
    let base = listing.checkpoints.iter().rev().find(|(v, _)| *v < version).copied();
    let mut since = Since::default();
    let mut reached = base.map(|(v, _)| v);
    let mut commits = log.commits(&listing, reached.map_or(0, |v| v + 1))?;
    while reached != Some(version) {
        let Some((v, text)) = commits.try_next().await? else {
            return Err(log.failed(format_args!("version {version} is missing from the log")).into());
        };
        since.take(&text)?;
        reached = Some(v);
    }
    drop(commits);

    let keep_removed_ms = match configuration.get("delta.deletedFileRetentionDuration") {
        None => Some(RETENTION_DEFAULT),
        // Not understood: all removals are kept.
        Some(text) => interval(text),
    };
    let expired_before = keep_removed_ms.map_or(i64::MIN, |keep| now_ms.saturating_sub(keep.as_millis() as i64));
    let mut output = Output::new(expired_before).map_err(|e| log.failed(e))?;
    for key in base.into_iter().flat_map(|(v, parts)| log.checkpoint_keys(v, parts)) {
        carry_over(log, &key, &since, &mut output).await?;
    }
    since.finish(&mut output).map_err(|e| log.failed(e))?;
    let (bytes, mut summary) = output.finish().map_err(|e| log.failed(e))?;
    summary.bytes = bytes.len() as u64;
    let key = log.checkpoint_keys(version, 1).next().expect("one part has one key");
    log.table.put(&key, bytes).await?;
    read_back(log, &key, summary).await?;
    let hint = json!({
        "version": version,
        "size": summary.rows,
        "sizeInBytes": summary.bytes,
        "numOfAddFiles": summary.adds,
    });
    log.table.put("_delta_log/_last_checkpoint", hint.to_string().into()).await?;
    Ok(summary)
}

/// What counts of `key`, a checkpoint or a part of one.
async fn carry_over(log: &Log, key: &str, since: &Since, output: &mut Output) -> Result<(), Trouble> {
    let failed = |e: String| log.failed(format_args!("checkpoint \"{key}\" cannot be read: {e}"));
    let path = log.table.path(key);
    let bytes = log.table.store.head(&path).await.map_err(|e| log.table.error(&format!("find \"{key}\""), e))?.size;
    let file = StoredFile::new(log, path, bytes);
    let builder = ParquetRecordBatchStreamBuilder::new(file).await.map_err(|e| failed(e.to_string()))?;
    let columns = builder.parquet_schema().columns().iter().enumerate();
    let leaves = columns.filter(|(_, c)| !c.path().parts().iter().any(|part| DERIVED.contains(&part.as_str())));
    let mask = ProjectionMask::leaves(builder.parquet_schema(), leaves.map(|(i, _)| i).collect::<Vec<_>>());
    let rows = builder.with_batch_size(BATCH_ROWS).with_projection(mask).build().map_err(|e| failed(e.to_string()))?;
    let mut rows = rows.map_err(|e| failed(e.to_string()));
    while let Some(batch) = rows.try_next().await? {
        for (kind, action) in actions_of(&batch).map_err(failed)? {
            let Some((kind, action)) = known(&kind, action)? else { continue };
            if !since.replaces(kind, &action) {
                output.push(kind, action).map_err(failed)?;
            }
        }
    }
    Ok(())
}

/// The rows of a checkpoint as actions with their names.
fn actions_of(batch: &RecordBatch) -> Result<Vec<(String, Value)>, String> {
    // NULLs are written out, because a partition's value may be one.
    let builder = WriterBuilder::new().with_explicit_nulls(true);
    let mut writer = builder.build::<_, LineDelimited>(Vec::new());
    writer.write(batch).and_then(|()| writer.finish()).map_err(|e| e.to_string())?;
    lines_of(&writer.into_inner())
}

fn lines_of(text: &[u8]) -> Result<Vec<(String, Value)>, String> {
    let mut actions = Vec::new();
    for line in text.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()) {
        let Value::Object(row) = serde_json::from_slice(line).map_err(|e| e.to_string())? else {
            return Err("a line is not an object".into());
        };
        actions.extend(row.into_iter().filter(|(_, action)| !action.is_null()));
    }
    Ok(actions)
}

/// The action as checkpoints hold it. `None`: they do not.
fn known(kind: &str, action: Value) -> Result<Option<(&'static str, Value)>, Trouble> {
    if ["commitInfo", "cdc"].contains(&kind) {
        return Ok(None);
    }
    let Some(kind) = KINDS.into_iter().find(|name| *name == kind) else {
        return Err(Trouble::Unknown(format!("the action \"{kind}\"")));
    };
    let Value::Object(mut action) = action else {
        return Err(Trouble::Unknown(format!("a \"{kind}\" that is not an object")));
    };
    action.retain(|name, value| !value.is_null() && !DERIVED.contains(&name.as_str()));
    match kind {
        "add" => drop(action.insert("dataChange".into(), false.into())),
        // Nobody needs the statistics of a file that is gone.
        "remove" => {
            action.retain(|name, _| name != "stats" && name != "tags");
            action.insert("dataChange".into(), false.into());
        }
        "protocol" => {
            let features = ["readerFeatures", "writerFeatures"].map(|key| action.get(key).and_then(Value::as_array));
            let mut features = features.into_iter().flatten().flatten().filter_map(Value::as_str);
            if let Some(feature) = features.find(|f| !FEATURES.contains(f)) {
                return Err(Trouble::Unknown(format!("the feature \"{feature}\"")));
            }
        }
        _ => {}
    }
    let DataType::Struct(fields) = SCHEMA.field_with_name(kind).expect("every kind has its column").data_type() else {
        unreachable!("every column of a checkpoint is a struct")
    };
    if let Some(name) = action.keys().find(|name| fields.find(name).is_none()) {
        return Err(Trouble::Unknown(format!("the field \"{name}\" of \"{kind}\"")));
    }
    Ok(Some((kind, Value::Object(action))))
}

fn name_of<'a>(kind: &str, action: &'a Value) -> &'a str {
    let key = match kind {
        "txn" => "appId",
        "add" | "remove" => "path",
        _ => return "",
    };
    action[key].as_str().unwrap_or_default()
}

/// What the commits since the last checkpoint left: the newest of each thing, by kind and name. A path is one thing,
/// whether added or removed.
#[derive(Default)]
struct Since(BTreeMap<(&'static str, String), (&'static str, Value)>);

fn thing(kind: &'static str) -> &'static str {
    match kind {
        "remove" => "add",
        other => other,
    }
}

impl Since {
    /// The next commit.
    fn take(&mut self, text: &[u8]) -> Result<(), Trouble> {
        let actions = lines_of(text).map_err(|e| Trouble::Failed(Error::Failed(e)))?;
        let mut actions =
            actions.into_iter().map(|(kind, action)| known(&kind, action)).collect::<Result<Vec<_>, _>>()?;
        // Removes first: within one commit an Add of the same path is what stays.
        actions.sort_by_key(|found| found.as_ref().is_none_or(|(kind, _)| *kind != "remove"));
        for (kind, action) in actions.into_iter().flatten() {
            self.0.insert((thing(kind), name_of(kind, &action).to_owned()), (kind, action));
        }
        Ok(())
    }

    fn replaces(&self, kind: &'static str, action: &Value) -> bool {
        self.0.contains_key(&(thing(kind), name_of(kind, action).to_owned()))
    }

    fn finish(self, output: &mut Output) -> Result<(), String> {
        self.0.into_values().try_for_each(|(kind, action)| output.push(kind, action))
    }
}

/// The checkpoint being written.
struct Output {
    decoder: Decoder,
    held: Vec<Value>,
    writer: ArrowWriter<Vec<u8>>,
    summary: Summary,
    /// Removals before this are forgotten.
    expired_before_ms: i64,
    has_protocol: bool,
    has_metadata: bool,
}

impl Output {
    fn new(expired_before_ms: i64) -> Result<Self, String> {
        let schema = SCHEMA.clone();
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("1 is a zstd level")))
            .set_max_row_group_row_count(Some(ROW_GROUP_ROWS_MAX))
            .set_created_by(super::log::engine())
            .build();
        Ok(Output {
            decoder: ReaderBuilder::new(schema.clone())
                .with_strict_mode(true)
                .build_decoder()
                .map_err(|e| e.to_string())?,
            held: Vec::new(),
            writer: ArrowWriter::try_new(Vec::new(), schema, Some(properties)).map_err(|e| e.to_string())?,
            summary: Summary::default(),
            expired_before_ms,
            has_protocol: false,
            has_metadata: false,
        })
    }

    fn push(&mut self, kind: &'static str, action: Value) -> Result<(), String> {
        match kind {
            "protocol" => self.has_protocol = true,
            "metaData" => self.has_metadata = true,
            "add" => self.summary.adds += 1,
            // A removal without a time is one we never call old.
            "remove" if action["deletionTimestamp"].as_i64().is_some_and(|ms| ms < self.expired_before_ms) => {
                return Ok(());
            }
            _ => {}
        }
        self.summary.rows += 1;
        self.held.push(json!({ kind: action }));
        match self.held.len() < BATCH_ROWS {
            true => Ok(()),
            false => self.encode(),
        }
    }

    fn encode(&mut self) -> Result<(), String> {
        self.decoder.serialize(&self.held).map_err(|e| e.to_string())?;
        self.held.clear();
        match self.decoder.flush().map_err(|e| e.to_string())? {
            Some(batch) => self.writer.write(&batch).map_err(|e| e.to_string()),
            None => Ok(()),
        }
    }

    fn finish(mut self) -> Result<(Bytes, Summary), String> {
        if !(self.has_protocol && self.has_metadata) {
            return Err("the log has no protocol or metadata".into());
        }
        self.encode()?;
        Ok((self.writer.into_inner().map_err(|e| e.to_string())?.into(), self.summary))
    }
}

/// Readers must be able to start from it, and old versions are only ever removed behind one that is whole.
async fn read_back(log: &Log, key: &str, written: Summary) -> Result<(), Error> {
    let path = log.table.path(key);
    let bytes = log.table.store.head(&path).await.map_err(|e| log.table.error(&format!("find \"{key}\""), e))?.size;
    if bytes != written.bytes {
        return Err(log.failed(format_args!("\"{key}\" has {bytes} bytes, {} were written", written.bytes)));
    }
    let mut file = StoredFile::new(log, path, bytes);
    let footer = file.get_metadata(None).await;
    let footer = footer.map_err(|e| Error::Unavailable(format!("could not read back \"{key}\": {e}")))?;
    match footer.file_metadata().num_rows() as u64 == written.rows {
        true => Ok(()),
        false => Err(log.failed(format_args!("\"{key}\" does not have the rows that were written"))),
    }
}

/// The columns of a checkpoint, as the protocol has them, without those of features we do not know.
static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(schema);

fn schema() -> SchemaRef {
    let text = |name: &str| Field::new(name, DataType::Utf8, true);
    let number = |name: &str| Field::new(name, DataType::Int64, true);
    let version = |name: &str| Field::new(name, DataType::Int32, true);
    let flag = |name: &str| Field::new(name, DataType::Boolean, true);
    let texts = |name: &str| Field::new_list(name, text("element"), true);
    let map = |name: &str| {
        Field::new_map(name, "key_value", Field::new("key", DataType::Utf8, false), text("value"), false, true)
    };
    let group = |name: &str, fields: Vec<Field>| Field::new(name, DataType::Struct(Fields::from(fields)), true);
    Arc::new(Schema::new(vec![
        group("txn", vec![text("appId"), number("version"), number("lastUpdated")]),
        group(
            "add",
            vec![
                text("path"),
                map("partitionValues"),
                number("size"),
                number("modificationTime"),
                flag("dataChange"),
                text("stats"),
                map("tags"),
            ],
        ),
        group(
            "remove",
            vec![
                text("path"),
                number("deletionTimestamp"),
                flag("dataChange"),
                flag("extendedFileMetadata"),
                map("partitionValues"),
                number("size"),
            ],
        ),
        group(
            "metaData",
            vec![
                text("id"),
                text("name"),
                text("description"),
                group("format", vec![text("provider"), map("options")]),
                text("schemaString"),
                texts("partitionColumns"),
                number("createdTime"),
                map("configuration"),
            ],
        ),
        group(
            "protocol",
            vec![
                version("minReaderVersion"),
                version("minWriterVersion"),
                texts("readerFeatures"),
                texts("writerFeatures"),
            ],
        ),
    ]))
}
