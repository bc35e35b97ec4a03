//! The files of one table: which are active, which were removed, replayed from the log and moved forward with it.
//!
//! Not for commits, which never look at files (log.rs), nor for readers, who leave it to delta-rs (snapshot.rs): only for
//! compaction and vacuum, which must know of every file what the log says of it.

use super::log::{Log, Metadata};
use crate::types::error::{Error, Result};
use deltalake::kernel::{Add, Remove};
use futures::TryStreamExt;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// A file as its Add describes it; what compaction and vacuum do not need is left out.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct DataFile {
    /// The path letter by letter as the log has it, if that is not the key: readers match Removes to Adds by it.
    pub written_as: Option<String>,
    /// By the table's partition columns, in their order.
    pub partition: Vec<Option<String>>,
    pub bytes: u64,
    pub modified_ms: i64,
    /// From the statistics.
    pub rows: Option<u64>,
    /// Some of its rows are deleted elsewhere.
    pub has_deletions: bool,
}

/// The table at `version`. Paths are as object stores know them: relative and percent-decoded.
#[derive(Clone, Debug)]
pub(super) struct Files {
    pub version: u64,
    pub metadata: Metadata,
    pub protocol: Value,
    pub active: BTreeMap<String, DataFile>,
}

/// What one commit did to the files.
#[derive(Debug, Default)]
pub(super) struct Step {
    pub version: u64,
    pub added: Vec<(String, DataFile)>,
    /// With the time of the removal in milliseconds.
    pub removed: Vec<(String, i64)>,
    pub metadata: Option<Metadata>,
    pub protocol: Option<Value>,
}

impl Step {
    /// `partition_by` of the table before this step; a step that changes the metadata brings its own.
    fn read(text: &[u8], partition_by: &[String]) -> Result<Step, String> {
        let mut actions = Vec::new();
        for line in text.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()) {
            actions.push(serde_json::from_slice::<Value>(line).map_err(|e| e.to_string())?);
        }
        let mut step = Step::default();
        for action in &mut actions {
            if !action["metaData"].is_null() {
                step.metadata = Some(Metadata::parse(action["metaData"].take())?);
            }
            if !action["protocol"].is_null() {
                step.protocol = Some(action["protocol"].take());
            }
        }
        let own = step.metadata.as_ref().map(|m| m.partition_by.clone());
        let partition_by = own.as_deref().unwrap_or(partition_by);
        for mut action in actions {
            if !action["add"].is_null() {
                step.added.push(data_file(action["add"].take(), partition_by)?);
            }
            if !action["remove"].is_null() {
                let remove: Remove = serde_json::from_value(action["remove"].take()).map_err(|e| e.to_string())?;
                // A removal without a time is one we never call old.
                step.removed.push((remove.path, remove.deletion_timestamp.unwrap_or(i64::MAX)));
            }
        }
        Ok(step)
    }
}

fn data_file(action: Value, partition_by: &[String]) -> Result<(String, DataFile), String> {
    let written_as = action["path"].as_str().unwrap_or_default().to_owned();
    let add: Add = serde_json::from_value(action).map_err(|e| format!("an add action cannot be read: {e}"))?;
    let stats: Option<Value> = match &add.stats {
        Some(stats) => serde_json::from_str(stats).ok(),
        None => None,
    };
    let file = DataFile {
        written_as: (written_as != add.path).then_some(written_as),
        // A checkpoint turned into JSON leaves NULLs out.
        partition: partition_by.iter().map(|c| add.partition_values.get(c).cloned().flatten()).collect(),
        bytes: add.size.max(0) as u64,
        modified_ms: add.modification_time,
        rows: stats.and_then(|s| s["numRecords"].as_u64()),
        has_deletions: add.deletion_vector.is_some(),
    };
    Ok((add.path, file))
}

/// All that the log still holds: the newest version, and every file that any version of it names.
pub(super) struct History {
    pub files: Files,
    /// Removed and not added again, with the time of the removal: the later of what the commit says and what the store
    /// says of the commit.
    pub removed: BTreeMap<String, i64>,
    /// File names without folders; they hold a uuid, so that a differently written folder cannot hide one.
    pub named: BTreeSet<String>,
    /// When the newest commit was written, by the store's clock and by its writer's: the earlier of the two.
    pub newest_ms: i64,
}

pub(super) fn file_name(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

impl Files {
    /// From the newest checkpoint.
    pub async fn load(log: &Log) -> Result<Files> {
        let listing = log.listing().await?;
        let checkpoint = listing.checkpoints.last().copied();
        let mut files = Self::first(log, checkpoint).await?;
        let mut tail = log.commits(&listing, checkpoint.map_or(1, |(v, _)| v + 1))?;
        while let Some((version, text)) = tail.try_next().await? {
            files.step(log, version, &text)?;
        }
        Ok(files)
    }

    /// Version 0, or a checkpoint.
    async fn first(log: &Log, checkpoint: Option<(u64, u64)>) -> Result<Files> {
        let (version, text) = match checkpoint {
            Some((version, parts)) => {
                (version, log.read_checkpoint(version, parts, &["protocol", "metaData", "add"]).await?)
            }
            None => match log.read(0).await? {
                Some(text) => (0, text.to_vec()),
                None => return Err(log.failed("the log has neither a checkpoint nor a version 0")),
            },
        };
        let step = Step::read(&text, &[]).map_err(|e| log.failed(format_args!("version {version}: {e}")))?;
        let (Some(metadata), Some(protocol)) = (step.metadata, step.protocol) else {
            return Err(log.failed(format_args!("version {version} has no protocol or metadata")));
        };
        Ok(Files { version, metadata, protocol, active: step.added.into_iter().collect() })
    }

    /// Moves to `version` by the text of its commit.
    pub fn step(&mut self, log: &Log, version: u64, text: &[u8]) -> Result<Step> {
        let mut step = Step::read(text, &self.metadata.partition_by)
            .map_err(|e| log.failed(format_args!("version {version} is not a commit: {e}")))?;
        step.version = version;
        // Removes first: a file may be removed and added with other deletions by one commit.
        for (path, _) in &step.removed {
            self.active.remove(path);
        }
        self.active.extend(step.added.iter().cloned());
        self.metadata = step.metadata.clone().unwrap_or_else(|| self.metadata.clone());
        self.protocol = step.protocol.clone().unwrap_or_else(|| self.protocol.clone());
        self.version = version;
        Ok(step)
    }

    /// Moves to the end of the log, one version after the other.
    pub async fn follow(&mut self, log: &Log) -> Result<Vec<Step>> {
        let mut steps = Vec::new();
        while let Some(text) = log.read(self.version + 1).await? {
            steps.push(self.step(log, self.version + 1, &text)?);
        }
        Ok(steps)
    }
}

impl History {
    /// Reads the whole log. Any hole, any line that cannot be read: an error, because what is not known to be unused may
    /// be used (I14).
    pub async fn load(log: &Log) -> Result<History> {
        let listing = log.listing().await?;
        // Every commit there is, also those below the oldest checkpoint: what they name is named.
        let oldest = listing.checkpoints.first().copied().filter(|_| !listing.commits.contains_key(&0));
        let mut files = Files::first(log, oldest).await?;
        let mut named: BTreeSet<String> = files.active.keys().map(|path| file_name(path).to_owned()).collect();
        let mut removed = BTreeMap::new();
        if let Some((version, parts)) = oldest {
            let text = log.read_checkpoint(version, parts, &["remove"]).await?;
            let step = Step::read(&text, &[]).map_err(|e| log.failed(format_args!("checkpoint {version}: {e}")))?;
            removed.extend(step.removed);
        }
        let mut newest_ms = i64::MIN;
        let first = files.version + 1;
        for version in listing.commits.range(..first).map(|(v, _)| *v) {
            let text = log.read(version).await?;
            let text = text.ok_or_else(|| log.failed(format_args!("version {version} vanished while it was read")))?;
            let step = Step::read(&text, &files.metadata.partition_by)
                .map_err(|e| log.failed(format_args!("version {version} is not a commit: {e}")))?;
            named.extend(step.added.iter().map(|(path, _)| file_name(path).to_owned()));
        }
        let mut tail = log.commits(&listing, first)?;
        while let Some((version, text)) = tail.try_next().await? {
            let step = files.step(log, version, &text)?;
            let stored_ms = listing.commits.get(&version).copied().unwrap_or(i64::MAX);
            removed.extend(step.removed.into_iter().map(|(path, ms)| (path, ms.max(stored_ms))));
            for (path, _) in &step.added {
                removed.remove(path);
                named.insert(file_name(path).to_owned());
            }
            newest_ms = stored_ms.min(written_ms(&text).unwrap_or(i64::MAX));
        }
        Ok(History { files, removed, named, newest_ms })
    }
}

/// When a commit says it was written.
fn written_ms(text: &[u8]) -> Option<i64> {
    let first = text.split(|b| *b == b'\n').next()?;
    serde_json::from_slice::<Value>(first).ok()?["commitInfo"]["timestamp"].as_i64()
}

/// An Add of the log as it stands in a record.
pub(super) fn path_of_add(add: &Value) -> Result<String, Error> {
    let path = serde_json::from_value::<Add>(add.clone()).map(|add| add.path);
    path.map_err(|e| Error::Failed(format!("an add action cannot be read: {e}")))
}
