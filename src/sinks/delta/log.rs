//! The Delta log of one table: what it says now (`Head`), reading on from a version, and the text of our commits.
//!
//! We read only what decides a commit: protocol, metadata and transactions. Files are the business of readers
//! (snapshot.rs), so a commit costs the same on a table of ten files and of a hundred thousand.

use super::protocol::{check_metadata, check_protocol};
use super::schema::Misfit;
use crate::env::store::{Location, PutOutcome};
use crate::types::error::{Error, Result};
use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, TryStreamExt};
use object_store::ObjectStoreExt;
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// Commits read at once when a table is opened; one after the other would cost a round trip each.
pub(super) const COMMITS_IN_FLIGHT_MAX: usize = 16;

/// The newest `metaData` action.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Metadata {
    /// The action as it stands in the log; what we do not know of it is kept.
    action: Value,
    pub id: String,
    pub schema: Value,
    pub partition_by: Vec<String>,
    pub configuration: BTreeMap<String, String>,
}

impl Metadata {
    pub fn parse(action: Value) -> Result<Self, String> {
        let id = action["id"].as_str().ok_or("a metaData action has no id")?.to_owned();
        let schema = action["schemaString"].as_str().ok_or("a metaData action has no schemaString")?;
        let schema = serde_json::from_str(schema).map_err(|e| format!("the schema is not JSON: {e}"))?;
        let text = |v: &Value| v.as_str().map(str::to_owned);
        let partition_by = action["partitionColumns"].as_array().into_iter().flatten().filter_map(text).collect();
        let configuration = action["configuration"]
            .as_object()
            .into_iter()
            .flatten()
            .filter_map(|(k, v)| Some((k.clone(), text(v)?)))
            .collect();
        Ok(Metadata { action, id, schema, partition_by, configuration })
    }

    /// The same table with another schema.
    pub fn with_schema(&self, schema: Value) -> Self {
        let mut action = self.action.clone();
        action["schemaString"] = Value::String(schema.to_string());
        Metadata { action, schema, ..self.clone() }
    }

    pub fn action(&self) -> &Value {
        &self.action
    }
}

/// What the log says up to `version`.
#[derive(Clone, Debug)]
pub(super) struct Head {
    pub version: u64,
    pub metadata: Metadata,
    /// Newest version per application id.
    pub transactions: BTreeMap<String, i64>,
}

/// What commits after a head changed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Changes {
    pub commits: u64,
    pub metadata: bool,
}

/// The log's folder: versions with the store's own time of each commit (milliseconds), and whole checkpoints.
#[derive(Debug, Default)]
pub(super) struct Listing {
    pub commits: BTreeMap<u64, i64>,
    /// version, parts; oldest first
    pub checkpoints: Vec<(u64, u64)>,
}

#[derive(Clone, Debug)]
pub(super) struct Log {
    /// The table's own folder.
    pub table: Location,
    /// For errors: the table's name as the user wrote it.
    pub name: String,
}

/// Everything a line of the log can tell us; the rest of the actions are Adds, Removes and comments.
#[derive(Default)]
struct Actions {
    protocol: Option<Value>,
    metadata: Option<Value>,
    transactions: Vec<(String, i64)>,
}

impl Actions {
    fn read(&mut self, text: &[u8]) -> Result<(), String> {
        for line in text.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()) {
            // Adds and Removes are most of a log and say nothing we need; their statistics are long.
            if line.starts_with(b"{\"add\":") || line.starts_with(b"{\"remove\":") {
                continue;
            }
            let mut action: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            if !action["protocol"].is_null() {
                self.protocol = Some(action["protocol"].take());
            }
            if !action["metaData"].is_null() {
                self.metadata = Some(action["metaData"].take());
            }
            match (action["txn"]["appId"].as_str(), action["txn"]["version"].as_i64()) {
                (Some(app_id), Some(version)) => self.transactions.push((app_id.to_owned(), version)),
                (None, None) => {}
                // Passed over, an epoch that has landed would land once more.
                _ => return Err(format!("the transaction {} cannot be read", action["txn"])),
            }
        }
        Ok(())
    }
}

pub(super) fn commit_key(version: u64) -> String {
    format!("_delta_log/{version:020}.json")
}

/// A file name of the log.
#[derive(Debug, PartialEq)]
pub(super) enum LogFile {
    Commit(u64),
    /// version, part, of parts
    Checkpoint(u64, u64, u64),
    /// A checkpoint under a name with a uuid: the v2 kind.
    Unknown(u64),
}

pub(super) fn log_file(name: &str) -> Option<LogFile> {
    let (version, rest) = name.split_at_checked(20)?;
    let version = version.parse().ok()?;
    let parts: Vec<&str> = rest.strip_prefix('.')?.split('.').collect();
    Some(match parts[..] {
        ["json"] => LogFile::Commit(version),
        ["checkpoint", "parquet"] => LogFile::Checkpoint(version, 1, 1),
        ["checkpoint", part, of, "parquet"] => LogFile::Checkpoint(version, part.parse().ok()?, of.parse().ok()?),
        ["checkpoint", _, "parquet" | "json"] => LogFile::Unknown(version),
        _ => return None,
    })
}

impl Log {
    pub fn failed(&self, what: impl std::fmt::Display) -> Error {
        Error::Failed(format!("table \"{}\" ({}): {what}", self.name, self.table.display))
    }

    pub fn refused(&self, misfit: Misfit) -> Error {
        Error::refused(format!("table \"{}\" ({}): {}", self.name, self.table.display, misfit.what), misfit.hint)
    }

    /// What is in the log's folder.
    pub async fn listing(&self) -> Result<Listing> {
        let mut listing = Listing::default();
        let mut parts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
        let mut newest_unknown = None;
        for object in self.table.list("_delta_log").await? {
            match object.location.filename().and_then(log_file) {
                Some(LogFile::Commit(v)) => drop(listing.commits.insert(v, object.last_modified.timestamp_millis())),
                Some(LogFile::Checkpoint(v, _, of)) => *parts.entry((v, of)).or_default() += 1,
                Some(LogFile::Unknown(v)) => newest_unknown = newest_unknown.max(Some(v)),
                None => {}
            }
        }
        // A checkpoint in several parts counts only when all of them are there.
        listing.checkpoints = parts.into_iter().filter(|((_, of), found)| of == found).map(|(key, _)| key).collect();
        if newest_unknown > listing.checkpoints.last().map(|(v, _)| *v) {
            return Err(self.refused(Misfit {
                what: "the table has checkpoints of the v2 kind, which we do not read".into(),
                hint: "Deliver into a table of our own: a new name, or another folder.".into(),
            }));
        }
        Ok(listing)
    }

    /// Commits of `listing` from `first` on, in order and without a hole, read a few at a time.
    pub fn commits<'a>(
        &'a self,
        listing: &Listing,
        first: u64,
    ) -> Result<impl Stream<Item = Result<(u64, Bytes)>> + Unpin + 'a> {
        let versions: Vec<u64> = listing.commits.range(first..).map(|(v, _)| *v).collect();
        if let Some((missing, _)) = (first..).zip(&versions).find(|(expected, found)| expected != *found) {
            return Err(self.failed(format_args!(
                "version {missing} is missing from the log: something other than pipe has deleted it\n  hint: Restore the \
                 table's folder from a copy; or give the sink a new uri and the pipeline a new data_dir, to begin again."
            )));
        }
        let read = move |v| {
            async move {
                let text = self.read(v).await?;
                let text = text.ok_or_else(|| self.failed(format_args!("version {v} vanished while it was read")))?;
                Ok((v, text))
            }
            .boxed()
        };
        Ok(futures::stream::iter(versions).map(read).buffered(COMMITS_IN_FLIGHT_MAX))
    }

    /// Reads the log from its newest checkpoint. `None`: there is no table.
    pub async fn load(&self) -> Result<Option<Head>> {
        let listing = self.listing().await?;
        let checkpoint = listing.checkpoints.last().copied();
        let mut seen = Actions::default();
        let first = match checkpoint {
            None => 0,
            Some((version, parts)) => {
                let lines = self.read_checkpoint(version, parts, &["protocol", "metaData", "txn"]).await?;
                seen.read(&lines).map_err(|e| self.failed(format_args!("checkpoint {version}: {e}")))?;
                version + 1
            }
        };
        if listing.commits.range(first..).next().is_none() && checkpoint.is_none() {
            return Ok(None);
        }
        let mut version = first.saturating_sub(1);
        let mut tail = self.commits(&listing, first)?;
        while let Some((v, text)) = tail.try_next().await? {
            seen.read(&text).map_err(|e| self.failed(format_args!("version {v} is not a commit: {e}")))?;
            version = v;
        }
        let (Some(protocol), Some(metadata)) = (seen.protocol, seen.metadata) else {
            return Err(self.failed("the log has no protocol or metadata"));
        };
        check_protocol(&protocol).map_err(|m| self.refused(m))?;
        let metadata = Metadata::parse(metadata).map_err(|e| self.failed(e))?;
        check_metadata(&metadata).map_err(|m| self.refused(m))?;
        Ok(Some(Head { version, metadata, transactions: seen.transactions.into_iter().collect() }))
    }

    /// The rows of a checkpoint that hold one of `actions`, as lines of JSON.
    pub async fn read_checkpoint(&self, version: u64, parts: u64, actions: &[&str]) -> Result<Vec<u8>> {
        let mut lines = Vec::new();
        for key in self.checkpoint_keys(version, parts) {
            let bytes = self.table.get(&key).await?.ok_or_else(|| self.failed(format_args!("\"{key}\" vanished")))?;
            checkpoint_lines(bytes, actions, &mut lines)
                .map_err(|e| self.failed(format_args!("checkpoint \"{key}\" cannot be read: {e}")))?;
        }
        Ok(lines)
    }

    pub fn checkpoint_keys(&self, version: u64, parts: u64) -> impl Iterator<Item = String> {
        (1..=parts).map(move |part| match parts {
            1 => format!("_delta_log/{version:020}.checkpoint.parquet"),
            _ => format!("_delta_log/{version:020}.checkpoint.{part:010}.{parts:010}.parquet"),
        })
    }

    pub async fn read(&self, version: u64) -> Result<Option<Bytes>> {
        self.table.get(&commit_key(version)).await
    }

    /// Follows the log from `head` to its end.
    pub async fn follow(&self, head: &mut Head) -> Result<Changes> {
        let mut changes = Changes::default();
        while let Some(text) = self.read(head.version + 1).await? {
            let version = head.version + 1;
            let mut seen = Actions::default();
            seen.read(&text).map_err(|e| self.failed(format_args!("version {version} is not a commit: {e}")))?;
            if let Some(protocol) = seen.protocol {
                check_protocol(&protocol).map_err(|m| self.refused(m))?;
            }
            if let Some(metadata) = seen.metadata {
                head.metadata = Metadata::parse(metadata).map_err(|e| self.failed(e))?;
                check_metadata(&head.metadata).map_err(|m| self.refused(m))?;
                changes.metadata = true;
            }
            head.transactions.extend(seen.transactions);
            head.version = version;
            changes.commits += 1;
        }
        Ok(changes)
    }

    /// True when the log was cleaned, or replaced, beyond `version`: its successor is missing although later versions
    /// exist, or the version itself is gone. Creating the successor would then write into the past, or into nothing.
    pub async fn has_hole_after(&self, version: u64) -> Result<bool> {
        if self.read(version).await?.is_none() {
            return Ok(true);
        }
        let (mut next, mut later) = (false, false);
        let mut listing = self
            .table
            .store
            .list_with_offset(Some(&self.table.path("_delta_log")), &self.table.path(&commit_key(version)));
        while let Some(object) = listing.try_next().await.map_err(|e| self.table.error("list \"_delta_log\"", e))? {
            match object.location.filename().and_then(log_file) {
                Some(LogFile::Commit(v)) if v == version + 1 => next = true,
                Some(LogFile::Commit(v) | LogFile::Checkpoint(v, _, _) | LogFile::Unknown(v)) if v > version => {
                    later = true
                }
                _ => {}
            }
        }
        Ok(later && !next)
    }

    /// Creates version `version`, or finds it taken.
    pub async fn write(&self, version: u64, commit: Bytes) -> Result<PutOutcome> {
        self.table.put_create(&commit_key(version), commit).await
    }

    /// Where a file of the table is, by its path in the log.
    pub fn file(&self, path: &str) -> Result<object_store::path::Path, object_store::Error> {
        // Percent-decoded already; it must not be encoded again.
        let relative = object_store::path::Path::parse(path)?;
        Ok(relative.parts().fold(self.table.prefix.clone(), |p, part| p.join(part)))
    }

    /// Fails unless the object is there.
    pub async fn head_file(&self, path: &str) -> Result<(), object_store::Error> {
        self.table.store.head(&self.file(path)?).await.map(|_| ())
    }
}

fn checkpoint_lines(bytes: Bytes, actions: &[&str], lines: &mut Vec<u8>) -> Result<(), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    let roots: Vec<usize> = builder
        .schema()
        .fields()
        .iter()
        .enumerate()
        .filter(|(_, f)| actions.contains(&f.name().as_str()))
        .map(|(i, _)| i)
        .collect();
    let mask = ProjectionMask::roots(builder.parquet_schema(), roots);
    let reader = builder.with_projection(mask).build().map_err(|e| e.to_string())?;
    let mut writer = arrow::json::LineDelimitedWriter::new(lines);
    for batch in reader {
        writer.write(&batch.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
    }
    writer.finish().map_err(|e| e.to_string())
}

/// Version 0: an empty table that every Delta reader can open (reader 1, writer 2).
pub(super) fn creation(metadata: &Metadata, now_ms: i64) -> Bytes {
    lines([
        json!({ "commitInfo": {
            "timestamp": now_ms,
            "operation": "CREATE TABLE",
            "operationParameters": {},
            "engineInfo": engine(),
        } }),
        json!({ "protocol": { "minReaderVersion": 1, "minWriterVersion": 2 } }),
        json!({ "metaData": metadata.action() }),
    ])
}

/// One epoch: its Adds and the transaction that says so, in one atomic object.
pub(super) struct Commit<'a> {
    pub app_id: &'a str,
    pub epoch: u64,
    pub read_version: u64,
    pub adds: &'a [Value],
    /// Set when this commit grows the table.
    pub metadata: Option<&'a Metadata>,
    pub now_ms: i64,
}

impl Commit<'_> {
    pub fn text(&self) -> Bytes {
        let info = json!({ "commitInfo": {
            "timestamp": self.now_ms,
            "operation": "STREAMING UPDATE",
            "operationParameters": {
                "outputMode": "Append",
                "queryId": self.app_id,
                "epochId": self.epoch.to_string(),
            },
            "readVersion": self.read_version,
            // Lets other writers' deletes and merges commit beside us (with isolation level writeSerializable).
            "isBlindAppend": self.metadata.is_none(),
            "engineInfo": engine(),
        } });
        let metadata = self.metadata.map(|m| json!({ "metaData": m.action() }));
        let adds = self.adds.iter().map(|add| json!({ "add": add }));
        let txn = json!({ "txn": { "appId": self.app_id, "version": self.epoch, "lastUpdated": self.now_ms } });
        lines([info].into_iter().chain(metadata).chain(adds).chain([txn]))
    }
}

pub(super) fn lines(actions: impl IntoIterator<Item = Value>) -> Bytes {
    let mut text = String::new();
    for action in actions {
        text.push_str(&action.to_string());
        text.push('\n');
    }
    text.into()
}

pub(super) fn engine() -> String {
    format!("pipe/{}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn log_file_names() {
        let check = |name: &str, expected| assert_eq!(log_file(name), expected, "{name}");
        check("00000000000000000007.json", Some(LogFile::Commit(7)));
        check("00000000000000000100.checkpoint.parquet", Some(LogFile::Checkpoint(100, 1, 1)));
        check("00000000000000000100.checkpoint.0000000002.0000000003.parquet", Some(LogFile::Checkpoint(100, 2, 3)));
        check("00000000000000000100.checkpoint.80a083e8-7026.parquet", Some(LogFile::Unknown(100)));
        check("00000000000000000007.crc", None);
        check("00000000000000000001.00000000000000000007.compacted.json", None);
        check("_last_checkpoint", None);
    }

    #[test]
    fn a_broken_line_is_an_error_and_unknown_actions_are_not() {
        let mut seen = Actions::default();
        assert!(seen.read(b"{\"txn\":").is_err());
        let version = seen.read(b"{\"txn\":{\"appId\":\"a\",\"version\":\"3\"}}").unwrap_err();
        assert!(version.contains("cannot be read"), "{version}");
        seen.read(b"{\"future\":{}}\n\n{\"txn\":{\"appId\":\"a\",\"version\":3}}\n").unwrap();
        assert_eq!(seen.transactions, [("a".to_owned(), 3)]);
    }
}
