//! A checkpoint of the log says what the log says: to delta-rs, to other programs, and to the next checkpoint.

use super::compaction::{configure, epochs, upkeep};
use super::*;
use crate::sinks::delta::summarise::{Summary, Trouble, summarise};
use deltalake::kernel::Remove;
use futures::StreamExt;
use std::collections::BTreeMap;
use std::io::Write;
use tokio_util::sync::CancellationToken;

/// Partition values that make odd folder names, and NULL.
fn odd() -> (TableSpec, RecordBatch) {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..5));
    let names = vec![Some("a b/ü%20"), None, Some("x=1"), Some(""), Some("plain")];
    let batch = RecordBatch::try_new(plain().schema, vec![ids, Arc::new(StringArray::from(names))]).unwrap();
    (spec(&[("id", DataType::Int64), ("name", DataType::Utf8)], &["name"]), batch)
}

async fn checkpoint(table: &Table) -> Result<Summary, Trouble> {
    table.refresh().await.unwrap();
    let now_ms = table.clock.now_us() / 1000;
    summarise(&table.log, table.snapshot().version as u64, &table.metadata().configuration, now_ms).await
}

/// Files and removals as delta-rs reads them, with all it knows of them.
async fn seen_by_delta_rs(location: &Location) -> (BTreeMap<String, String>, Vec<String>) {
    let table = foreign(location).await;
    let snapshot = table.snapshot().unwrap();
    let data = snapshot.log_data();
    let files = data.iter().map(|f| {
        let values = format!("{:?}", f.partition_values());
        let said = (f.size(), f.modification_time(), f.num_records(), values, f.stats());
        (f.path().to_string(), format!("{said:?}"))
    });
    let mut removed: Vec<String> =
        snapshot.all_tombstones(table.log_store().as_ref()).map(|t| t.unwrap().path().to_string()).collect().await;
    removed.sort();
    (files.collect(), removed)
}

/// As if the log had been cleaned: what is left is the checkpoint.
async fn forget_commits(location: &Location, up_to: i64) -> Vec<(String, bytes::Bytes)> {
    let mut forgotten = Vec::new();
    for version in 0..=up_to {
        let key = format!("{TABLE}/_delta_log/{version:020}.json");
        if let Some(text) = location.get(&key).await.unwrap() {
            location.delete(&key).await.unwrap();
            forgotten.push((key, text));
        }
    }
    forgotten
}

#[tokio::test(flavor = "multi_thread")]
async fn delta_rs_reads_the_same_from_the_checkpoint_as_from_the_commits() {
    let location = Location::in_memory();
    let (spec, batch) = odd();
    open(&location, spec.clone()).await.unwrap();
    foreign_commit(&location, vec![], vec![Transaction::new("pipe/other/lake.points", 7)]).await;
    let table = open(&location, spec).await.unwrap();
    for epoch in 1..=6u64 {
        table.apply(Epoch(epoch), &landing(&table, std::slice::from_ref(&batch)).await).await.unwrap();
    }
    upkeep(&table).look(&CancellationToken::new()).await;
    let from_commits = seen_by_delta_rs(&location).await;
    assert_eq!((from_commits.0.len(), from_commits.1.len()), (4, 24), "an empty text is NULL");
    let everything = "SELECT count(*), sum(id), count(name), count(DISTINCT name) FROM t";
    let answer = ask(&table, everything).await;

    // The first from the commits alone, the second from ours, the third from one that delta-rs wrote.
    for round in 0..3u64 {
        let summary = checkpoint(&table).await.unwrap();
        let expected = seen_by_delta_rs(&location).await;
        // protocol, metadata, two transactions
        assert_eq!((summary.adds, summary.rows), (expected.0.len() as u64, (expected.0.len() + 24 + 4) as u64));
        let forgotten = forget_commits(&location, table.snapshot().version).await;
        assert_eq!(seen_by_delta_rs(&location).await, expected, "round {round}");
        let again = open(&location, odd().0).await.unwrap();
        assert_eq!(again.transactions().await.unwrap(), table.transactions().await.unwrap());
        assert_eq!(again.metadata(), table.metadata());
        if round == 0 {
            assert_eq!(expected, from_commits);
            assert_eq!(ask(&again, everything).await, answer);
        }
        for (key, text) in forgotten {
            location.put(&key, text).await.unwrap();
        }
        if round == 1 {
            foreign_commit(&location, vec![], vec![]).await;
            deltalake::checkpoints::create_checkpoint(&foreign(&location).await, None).await.unwrap();
        }
        table.refresh().await.unwrap();
        table.apply(Epoch(7 + round), &landing(&table, std::slice::from_ref(&batch)).await).await.unwrap();
    }
}

/// A removal is kept as long as the table keeps removed files, because a vacuum of others asks for it; a path that was
/// added again is a file.
#[tokio::test(flavor = "multi_thread")]
async fn removals_are_forgotten_when_their_time_is_over() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    let mut files: Vec<Add> = Vec::new();
    for epoch in 1..=4 {
        let next = landing(&table, &[rows(epoch, 1)]).await;
        files.extend(next.adds.iter().map(|add| serde_json::from_value::<Add>(add.clone()).unwrap()));
        table.apply(Epoch(epoch as u64), &next).await.unwrap();
    }
    let remove = |i: usize, ms: i64| {
        let deletion_timestamp = Some(ms);
        let path = files[i].path.clone();
        Action::Remove(Remove { path, data_change: true, deletion_timestamp, ..Remove::default() })
    };
    let now_ms = table.clock.now_us() / 1000;
    let hour = 3_600_000;
    foreign_commit(&location, vec![remove(0, now_ms - 49 * hour)], vec![]).await;
    foreign_commit(&location, vec![remove(1, now_ms - 47 * hour)], vec![]).await;
    foreign_commit(&location, vec![remove(2, now_ms)], vec![]).await;
    foreign_commit(&location, vec![Action::Add(files[2].clone())], vec![]).await;
    let kept = |summary: Summary| (summary.adds, summary.rows - summary.adds - 3);
    assert_eq!(kept(checkpoint(&table).await.unwrap()), (2, 1), "48 hours are what our tables say");
    configure(&location, "delta.deletedFileRetentionDuration", "interval 1 month").await;
    // Not understood: nothing more is forgotten.
    assert_eq!(kept(checkpoint(&table).await.unwrap()), (2, 1));
    configure(&location, "delta.deletedFileRetentionDuration", "interval 0 seconds").await;
    epochs(&table, 5..=5).await;
    tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    assert_eq!(kept(checkpoint(&table).await.unwrap()), (3, 0));
    forget_commits(&location, table.snapshot().version).await;
    let again = open(&location, plain()).await.unwrap();
    assert_eq!(ask(&again, "SELECT count(*) FROM t").await, "3");
}

/// What we do not know we do not write down; delta-rs does.
#[tokio::test(flavor = "multi_thread")]
async fn tables_with_more_than_we_know_are_left_to_delta_rs() {
    let unknown = |found: Result<Summary, Trouble>| match found {
        Err(Trouble::Unknown(what)) => what,
        other => panic!("{other:?}"),
    };
    let append = async |location: &Location, line: &str| {
        let version = foreign(location).await.snapshot().unwrap().version() + 1;
        location.put(&format!("{TABLE}/_delta_log/{version:020}.json"), format!("{line}\n").into()).await.unwrap();
    };
    let features = r#"{"protocol":{"minReaderVersion":1,"minWriterVersion":7,"writerFeatures":["domainMetadata"]}}"#;
    let deletions = r#"{"add":{"path":"x.parquet","partitionValues":{},"size":1,"modificationTime":1,"dataChange":true,
        "deletionVector":{"storageType":"i","pathOrInlineDv":"x","sizeInBytes":1,"cardinality":1}}}"#;
    for (line, what) in [
        (features, "the feature \"domainMetadata\""),
        (r#"{"domainMetadata":{"domain":"d","configuration":"","removed":false}}"#, "the action \"domainMetadata\""),
        (&deletions.replace('\n', ""), "the field \"deletionVector\" of \"add\""),
    ] {
        let location = Location::in_memory();
        let table = open(&location, plain()).await.unwrap();
        epochs(&table, 1..=3).await;
        append(&location, line).await;
        assert_eq!(unknown(checkpoint(&table).await), what);
        let log = location.list(&format!("{TABLE}/_delta_log")).await.unwrap();
        assert_eq!(log.len(), 5, "nothing was written");
    }
    let location = Location::in_memory();
    open(&location, plain()).await.unwrap();
    configure(&location, "delta.checkpointInterval", "5").await;
    append(&location, features).await;
    let table = open(&location, plain()).await.unwrap();
    let mut checkpoints = Checkpoints::default();
    for epoch in 1..=4 {
        epochs(&table, epoch..=epoch).await;
        checkpoints.after_commit(&table).await;
    }
    let written = format!("{TABLE}/_delta_log/{:020}.checkpoint.parquet", 5);
    assert!(location.exists(&written).await.unwrap());
    assert_eq!(count(&table).await, "4 4 10");
}

/// deltalake for Python and ClickHouse, which have readers of their own, when PIPE_TEST_PYTHON names a Python that has
/// them: from the checkpoint, because the commits below it are gone.
#[tokio::test(flavor = "multi_thread")]
async fn other_programs_read_our_checkpoints() {
    let Ok(python) = std::env::var("PIPE_TEST_PYTHON") else {
        println!("PIPE_TEST_PYTHON is not set: deltalake and chdb were not tried");
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let location = crate::env::store::open(dir.path().to_str().unwrap(), &Default::default()).unwrap();
    let (spec, batch) = odd();
    let table = open(&location, spec).await.unwrap();
    for epoch in 1..=9u64 {
        table.apply(Epoch(epoch), &landing(&table, std::slice::from_ref(&batch)).await).await.unwrap();
        if epoch == 6 {
            upkeep(&table).look(&CancellationToken::new()).await;
        }
        if epoch == 8 {
            checkpoint(&table).await.unwrap();
            forget_commits(&location, table.snapshot().version).await;
        }
    }
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/e2e/read_table.py");
    let at = dir.path().join(TABLE);
    // chdb reads files below the working directory only.
    let ran =
        tokio::process::Command::new(&python).arg(script).arg(&at).current_dir(dir.path()).output().await.unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}\n{err}");
    let expected = ["deltalake", "chdb"].map(|reader| format!("{reader}: 45 rows, ids 90, 27 names, 3 different"));
    assert_eq!(out.lines().collect::<Vec<_>>(), expected);
    writeln!(std::io::stderr(), "other_programs_read_our_checkpoints: ran with {python}").unwrap();
}
