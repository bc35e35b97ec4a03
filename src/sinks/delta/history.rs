//! A table's log as far back as it goes, file by file: for those who check it. Reads only, and opens nothing for writing.
//!
//! The commit loop needs none of this (log.rs); an audit needs all of it, and can wait.

use super::log::{COMMITS_IN_FLIGHT_MAX, Log, LogFile as Name, log_file};
use super::schema::arrow_schema;
use super::snapshot::{PinnedTable, Reader};
use crate::env::store::Location;
use crate::types::error::{Error, Result};
use crate::types::table_log::{LogBase, LogCommit, LogFile, TableLog};
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use futures::{StreamExt, TryStreamExt};
use parquet::arrow::ProjectionMask;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Listings of a log that is cleaned while it is read; cleaning happens every hundred commits at most.
const LISTINGS_MAX: u32 = 3;

/// The log of the table at `<sink>/<table>`; `None`: there is no table. `name`: as the user wrote it, for errors.
pub async fn read(sink: &Location, table: &str, name: &str) -> Result<Option<TableLog>> {
    let log = Log { table: sink.under(table), name: name.to_owned() };
    for _ in 0..LISTINGS_MAX {
        match told(&log).await? {
            Some(told) => return Ok(Some(told)),
            None if log.table.list("_delta_log").await?.is_empty() => return Ok(None),
            None => {}
        }
    }
    Err(Error::Unavailable(format!("table \"{name}\": its log is cleaned faster than it can be read; try again")))
}

/// The table as it is now, for reading with SQL; `None`: there is no table.
pub async fn newest(sink: &Location, table: &str, name: &str) -> Result<Option<Arc<dyn TableProvider>>> {
    let log = Log { table: sink.under(table), name: name.to_owned() };
    let Some(head) = log.load().await? else { return Ok(None) };
    let schema = arrow_schema(&head.metadata.schema)
        .map_err(|e| log.failed(format_args!("the table's schema cannot be read: {e}")))?;
    let reader = Arc::new(Reader::new(&log)?);
    Ok(Some(Arc::new(PinnedTable::new(reader, head.version, schema))))
}

/// The newest epoch that the table has under `app_id`; 0: none.
pub async fn applied(sink: &Location, table: &str, name: &str, app_id: &str) -> Result<u64> {
    let log = Log { table: sink.under(table), name: name.to_owned() };
    let head = log.load().await?;
    Ok(head.and_then(|head| head.transactions.get(app_id).copied()).map_or(0, |version| version.max(0) as u64))
}

/// Every data file there is under the table, by its path relative to it.
pub async fn stored_files(sink: &Location, table: &str) -> Result<BTreeSet<String>> {
    let table = sink.under(table);
    let depth = table.prefix.parts().count();
    let relative = |path: &object_store::path::Path| {
        path.parts().skip(depth).map(|part| part.as_ref().to_owned()).collect::<Vec<_>>().join("/")
    };
    let listed = table.list("").await?;
    Ok(listed.iter().map(|o| relative(&o.location)).filter(|path| !path.starts_with("_delta_log/")).collect())
}

/// `None`: there is no log, or a part of it vanished between listing and reading.
pub(super) async fn told(log: &Log) -> Result<Option<TableLog>> {
    let mut versions = Vec::new();
    let mut parts: BTreeMap<(u64, u64), u64> = BTreeMap::new();
    for object in log.table.list("_delta_log").await? {
        match object.location.filename().and_then(log_file) {
            Some(Name::Commit(v)) => versions.push(v),
            Some(Name::Checkpoint(v, _, of)) => *parts.entry((v, of)).or_default() += 1,
            Some(Name::Unknown(_)) | None => {}
        }
    }
    if versions.is_empty() && parts.is_empty() {
        return Ok(None);
    }
    versions.sort_unstable();
    let whole: Vec<(u64, u64)> = parts.iter().filter(|((_, of), found)| of == *found).map(|(k, _)| *k).collect();
    let Some(begin) = begin(&versions, &whole) else {
        return Err(log.failed("its log has a hole behind the newest checkpoint that can be read"));
    };
    let mut table_id = String::new();
    let mut base = None;
    if let Some((version, parts)) = begin {
        let mut state = LogBase { version, ..LogBase::default() };
        for key in log.checkpoint_keys(version, parts) {
            let Some(bytes) = log.table.get(&key).await? else { return Ok(None) };
            read_checkpoint(bytes, &mut state, &mut table_id)
                .map_err(|e| log.failed(format_args!("checkpoint \"{key}\" cannot be read: {e}")))?;
        }
        base = Some(state);
    }
    let mut commits = Vec::with_capacity(versions.len());
    let mut texts = futures::stream::iter(versions)
        .map(|v| async move { Ok::<_, Error>((v, log.read(v).await?)) })
        .buffered(COMMITS_IN_FLIGHT_MAX);
    while let Some((version, text)) = texts.try_next().await? {
        let Some(text) = text else { return Ok(None) };
        let commit = read_commit(version, &text, &mut table_id)
            .map_err(|e| log.failed(format_args!("version {version} is not a commit: {e}")))?;
        commits.push(commit);
    }
    Ok(Some(TableLog { table_id, base, commits }))
}

/// From where commits follow each other without a hole: `Some(None)` from the table's beginning, or the oldest such
/// checkpoint (version, parts).
fn begin(versions: &[u64], checkpoints: &[(u64, u64)]) -> Option<Option<(u64, u64)>> {
    let mut run = versions.len();
    while run > 0 && (run == versions.len() || versions[run - 1] + 1 == versions[run]) {
        run -= 1;
    }
    let Some(oldest) = versions.get(run) else { return checkpoints.last().map(|c| Some(*c)) };
    if *oldest == 0 {
        return Some(None);
    }
    checkpoints.iter().find(|(v, _)| *v + 1 >= *oldest).map(|c| Some(*c))
}

fn read_commit(version: u64, text: &[u8], table_id: &mut String) -> Result<LogCommit, String> {
    let mut commit = LogCommit { version, ..LogCommit::default() };
    for line in text.split(|b| *b == b'\n').filter(|l| !l.trim_ascii().is_empty()) {
        let action: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
        if !action["add"].is_null() {
            commit.adds.push(LogFile::of_action(&action["add"])?);
        }
        if !action["remove"].is_null() {
            commit.removes.push(LogFile::of_action(&action["remove"])?);
        }
        commit.transactions.extend(transaction(&action["txn"]));
        if let Some(info) = action.get("commitInfo") {
            let text = |key: &str| info[key].as_str().unwrap_or_default().to_owned();
            (commit.operation, commit.writer) = (text("operation"), text("engineInfo"));
        }
        note_id(&action, table_id);
    }
    Ok(commit)
}

fn read_checkpoint(bytes: Bytes, base: &mut LogBase, table_id: &mut String) -> Result<(), String> {
    let builder = ParquetRecordBatchReaderBuilder::try_new(bytes).map_err(|e| e.to_string())?;
    // Bounds of columns are most of a checkpoint, and nobody asked for them.
    let wanted = ["add.path", "add.stats", "add.stats_parsed.numRecords", "add.deletionVector", "txn", "metaData.id"];
    let mask = ProjectionMask::columns(builder.parquet_schema(), wanted);
    let reader = builder.with_projection(mask).build().map_err(|e| e.to_string())?;
    for batch in reader {
        let mut lines = Vec::new();
        let mut writer = arrow::json::LineDelimitedWriter::new(&mut lines);
        writer.write(&batch.map_err(|e| e.to_string())?).map_err(|e| e.to_string())?;
        writer.finish().map_err(|e| e.to_string())?;
        drop(writer);
        for line in lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
            let action: Value = serde_json::from_slice(line).map_err(|e| e.to_string())?;
            if action["add"]["path"].is_string() {
                base.files.push(LogFile::of_action(&action["add"])?);
            }
            base.transactions.extend(transaction(&action["txn"]));
            note_id(&action, table_id);
        }
    }
    Ok(())
}

fn transaction(txn: &Value) -> Option<(String, i64)> {
    Some((txn["appId"].as_str()?.to_owned(), txn["version"].as_i64()?))
}

fn note_id(action: &Value, table_id: &mut String) {
    if let Some(id) = action["metaData"]["id"].as_str() {
        id.clone_into(table_id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sinks::delta::config::FloatEncoding;
    use crate::sinks::delta::sink::DeltaSink;
    use crate::sinks::delta::table::{Landing, Table, TableSpec};
    use crate::types::epoch::Epoch;
    use arrow::array::{ArrayRef, Int64Array, StringArray};
    use arrow::record_batch::RecordBatch;

    /// Rows of three partitions whose names no store takes as they are.
    async fn land(table: &Table, epoch: u64) {
        let names: ArrayRef = Arc::new(StringArray::from(vec!["a b", "é%", "x/y:z"]));
        let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2, 3]));
        let mut writer = table.writer().unwrap();
        writer.write(&RecordBatch::try_from_iter([("name", names), ("id", ids)]).unwrap()).await.unwrap();
        let adds = writer.finish().await.unwrap().adds;
        table.apply(Epoch(epoch), &Landing { app_id: "app".into(), adds, schema_action: None }).await.unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_log_tells_the_same_from_a_checkpoint_and_from_its_commits() {
        let dir = tempfile::tempdir().unwrap();
        let on_disk = crate::env::store::open(&dir.path().to_string_lossy(), &BTreeMap::new()).unwrap();
        for location in [Location::in_memory(), on_disk] {
            tells_the_same(location).await;
        }
    }

    async fn tells_the_same(location: Location) {
        assert_eq!(read(&location, "t", "lake.t").await.unwrap(), None);
        let schema = arrow::datatypes::Schema::new(vec![
            arrow::datatypes::Field::new("name", arrow::datatypes::DataType::Utf8, true),
            arrow::datatypes::Field::new("id", arrow::datatypes::DataType::Int64, true),
        ]);
        let spec = TableSpec { name: "t".into(), schema: Arc::new(schema), partition_by: vec!["name".into()] };
        let sink = DeltaSink::at("lake", location.clone(), FloatEncoding::Plain).await.unwrap();
        let table = sink.open_table(spec, "app").await.unwrap();
        for epoch in 1..=3 {
            land(&table, epoch).await;
        }
        let whole = read(&location, "t", "lake.t").await.unwrap().expect("a table");
        assert_eq!((whole.base.is_none(), whole.table_id.clone()), (true, table.id()));
        let epochs: Vec<_> = whole.commits.iter().map(|c| (c.version, c.epoch_of("app"), c.adds.len())).collect();
        assert_eq!(epochs, [(0, None, 0), (1, Some(1), 3), (2, Some(2), 3), (3, Some(3), 3)]);
        assert!(whole.commits[1].adds.iter().all(|f| f.rows == Some(1) && f.data_change));

        let mut delta = deltalake::DeltaTable::new(table.reader().log_store.clone());
        delta.load().await.unwrap();
        deltalake::checkpoints::create_checkpoint(&delta, None).await.unwrap();
        for version in 0..=2 {
            location.delete(&format!("t/_delta_log/{version:020}.json")).await.unwrap();
        }
        land(&table, 4).await;
        let told = read(&location, "t", "lake.t").await.unwrap().expect("a table");
        let base = told.base.expect("it begins with the checkpoint");
        assert_eq!((base.version, base.transactions), (3, [("app".to_owned(), 3)].into()));
        let paths = |files: &[LogFile]| files.iter().map(|f| (f.path.clone(), f.rows)).collect::<BTreeSet<_>>();
        let before: Vec<LogFile> = whole.commits.iter().flat_map(|c| c.adds.clone()).collect();
        assert_eq!(paths(&base.files), paths(&before));
        assert_eq!(told.commits.iter().map(|c| c.version).collect::<Vec<_>>(), [3, 4]);

        let named = base.files.iter().chain(&told.commits[1].adds).map(|f| f.path.clone()).collect();
        assert_eq!(stored_files(&location, "t").await.unwrap(), named);
        let newest = newest(&location, "t", "lake.t").await.unwrap().expect("a table");
        let session = datafusion::prelude::SessionContext::new();
        assert_eq!(session.read_table(newest).unwrap().count().await.unwrap(), 12);
    }

    #[test]
    fn the_commits_begin_where_no_hole_follows() {
        let check = |versions: &[u64], checkpoints: &[u64], expected: Option<Option<u64>>| {
            let checkpoints: Vec<(u64, u64)> = checkpoints.iter().map(|v| (*v, 1)).collect();
            let found = begin(versions, &checkpoints).map(|b| b.map(|(v, _)| v));
            assert_eq!(found, expected, "{versions:?} {checkpoints:?}");
        };
        check(&[0, 1, 2], &[], Some(None));
        check(&[0, 1, 2], &[1], Some(None));
        check(&[5, 6, 7], &[5], Some(Some(5)));
        check(&[6, 7], &[5], Some(Some(5)));
        check(&[3, 4, 5, 6], &[5], Some(Some(5)));
        check(&[3, 4, 5, 6], &[2, 5], Some(Some(2)));
        check(&[0, 1, 5, 6], &[4], Some(Some(4)));
        check(&[], &[5], Some(Some(5)));
        check(&[4, 5], &[5], Some(Some(5)));
        check(&[1, 2], &[], None);
        check(&[0, 1, 5], &[2], None);
    }
}
