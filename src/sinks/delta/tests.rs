//! The promises of a Delta table: an epoch lands once, whatever fails; others may write too; what does not fit is refused.

mod cleaning;
mod compaction;
mod hostile;
mod summaries;
mod values;

use super::checkpoint::Checkpoints;
use super::config::FloatEncoding;
use super::sink::DeltaSink;
use super::table::{Landing, Table, TableSpec};
use crate::env::store::Location;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::error::{Error, Result};
use crate::types::limit::UPKEEP_BYTES_MIN;
use arrow::array::{ArrayRef, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::prelude::SessionContext;
use deltalake::kernel::transaction::{CommitBuilder, CommitProperties};
use deltalake::kernel::{Action, Add, Transaction};
use deltalake::protocol::{DeltaOperation, SaveMode};
use hostile::LosesAnswers;
use std::sync::Arc;
use std::sync::atomic::Ordering;

const TABLE: &str = "points";

fn schema(columns: &[(&str, DataType)]) -> SchemaRef {
    Arc::new(Schema::new(columns.iter().map(|(n, t)| Field::new(*n, t.clone(), true)).collect::<Vec<_>>()))
}

fn spec(columns: &[(&str, DataType)], partition_by: &[&str]) -> TableSpec {
    let partition_by = partition_by.iter().map(|p| p.to_string()).collect();
    TableSpec { name: TABLE.into(), schema: schema(columns), partition_by }
}

/// id BIGINT, name TEXT
fn plain() -> TableSpec {
    spec(&[("id", DataType::Int64), ("name", DataType::Utf8)], &[])
}

fn rows(from: i64, n: i64) -> RecordBatch {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + n));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((from..from + n).map(|i| format!("v{}", i % 7))));
    RecordBatch::try_new(plain().schema, vec![ids, names]).unwrap()
}

fn app_id() -> String {
    ChainId("c1".into()).app_id("lake", TABLE)
}

async fn open(location: &Location, spec: TableSpec) -> Result<Arc<Table>> {
    let sink = DeltaSink::at("lake", location.clone(), FloatEncoding::ByteStreamSplit).await?;
    sink.open_table(spec, &app_id()).await
}

async fn landing(table: &Table, batches: &[RecordBatch]) -> Landing {
    let mut writer = table.writer().unwrap();
    for batch in batches {
        writer.write(batch).await.unwrap();
    }
    let prepared = writer.finish().await.unwrap();
    assert_eq!(prepared.rows, batches.iter().map(|b| b.num_rows() as u64).sum::<u64>());
    Landing { app_id: app_id(), adds: prepared.adds, schema_action: table.pending_schema_action() }
}

/// What DataFusion answers over the table's newest snapshot, as text.
async fn ask(table: &Table, sql: &str) -> String {
    let ctx = SessionContext::new();
    ctx.register_table("t", table.snapshot().provider).unwrap();
    let answer = ctx.sql(sql).await.unwrap().collect().await.unwrap();
    pretty_format_batches_with_options(&answer, &FormatOptions::new().with_null("NULL"))
        .unwrap()
        .to_string()
        .lines()
        .skip(3)
        .filter(|line| !line.starts_with('+'))
        .map(|line| line.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("; ")
}

async fn count(table: &Table) -> String {
    ask(table, "SELECT count(*), count(DISTINCT id), sum(id) FROM t").await
}

/// The table as any other program sees it: delta-rs alone, from the store.
async fn foreign(location: &Location) -> deltalake::DeltaTable {
    let at = location.under(TABLE);
    let prefixed = Arc::new(object_store::prefix::PrefixStore::new(at.store.clone(), at.prefix.clone()));
    let log_store = deltalake::logstore::default_logstore(prefixed, at.store.clone(), &at.url(), &Default::default());
    let mut table = deltalake::DeltaTable::new(log_store);
    table.load().await.unwrap();
    table
}

async fn foreign_commit(location: &Location, actions: Vec<Action>, transactions: Vec<Transaction>) {
    let table = foreign(location).await;
    let operation = DeltaOperation::Write { mode: SaveMode::Append, partition_by: None, predicate: None };
    CommitBuilder::from(CommitProperties::default().with_application_transactions(transactions))
        .with_actions(actions)
        .build(Some(table.snapshot().unwrap()), table.log_store(), operation)
        .await
        .unwrap();
}

async fn foreign_append(location: &Location, from: i64, n: i64) {
    let other = open(location, plain()).await.unwrap();
    let adds = landing(&other, &[rows(from, n)]).await.adds;
    let adds = adds.into_iter().map(|a| Action::Add(serde_json::from_value::<Add>(a).unwrap())).collect();
    foreign_commit(location, adds, vec![]).await;
}

fn refusal<T>(result: Result<T>) -> String {
    match result {
        Err(e @ Error::Refused { .. }) => e.to_string(),
        Err(e) => panic!("expected a refusal, got {e:?}"),
        Ok(_) => panic!("expected a refusal"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_was_lost_is_not_repeated() {
    let hostile = LosesAnswers::new(Location::in_memory().store);
    let location = Location { store: hostile.clone(), ..Location::in_memory() };
    let table = open(&location, plain()).await.unwrap();
    let first = landing(&table, &[rows(0, 10)]).await;
    hostile.after.store(1, Ordering::SeqCst);
    table.apply(Epoch(1), &first).await.unwrap();
    assert_eq!(count(&table).await, "10 10 45");
    assert_eq!(table.snapshot().version, 1);

    // The process dies with the answer: the next one applies the same record.
    let second = landing(&table, &[rows(10, 10)]).await;
    let reopened = open(&location, plain()).await.unwrap();
    reopened.apply(Epoch(2), &second).await.unwrap();
    table.apply(Epoch(2), &second).await.unwrap();
    assert_eq!(count(&table).await, "20 20 190");
    assert_eq!((table.snapshot().version, table.snapshot().applied), (2, Epoch(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_unavailable_and_nothing_lands() {
    let hostile = LosesAnswers::new(Location::in_memory().store);
    let location = Location { store: hostile.clone(), ..Location::in_memory() };
    let table = open(&location, plain()).await.unwrap();
    let first = landing(&table, &[rows(0, 10)]).await;
    // Fewer than it tries: it comes through in the end.
    hostile.before.store(3, Ordering::SeqCst);
    table.apply(Epoch(1), &first).await.unwrap();
    assert_eq!(count(&table).await, "10 10 45");

    let second = landing(&table, &[rows(10, 10)]).await;
    hostile.before.store(1_000, Ordering::SeqCst);
    let error = table.apply(Epoch(2), &second).await.unwrap_err();
    assert!(error.is_retriable() && error.to_string().contains("connection reset"), "{error}");
    assert_eq!(count(&table).await, "10 10 45");
    hostile.before.store(0, Ordering::SeqCst);
    table.apply(Epoch(2), &second).await.unwrap();
    assert_eq!(count(&table).await, "20 20 190");
}

#[tokio::test(flavor = "multi_thread")]
async fn apply_twice_equals_once() {
    let dir = tempfile::tempdir().unwrap();
    let location = crate::env::store::open(dir.path().to_str().unwrap(), &Default::default()).unwrap();
    let table = open(&location, plain()).await.unwrap();
    assert_eq!((table.snapshot().version, table.snapshot().applied), (0, Epoch(0)));
    let first = landing(&table, &[rows(0, 5), rows(5, 5)]).await;
    assert_eq!(count(&table).await, "0 0 NULL", "prepared files are invisible");
    for _ in 0..3 {
        table.apply(Epoch(1), &first).await.unwrap();
    }
    // An epoch without rows for this table commits nothing.
    table.apply(Epoch(2), &Landing { adds: vec![], ..first.clone() }).await.unwrap();
    assert_eq!((table.snapshot().version, table.snapshot().applied), (1, Epoch(1)));
    assert_eq!(count(&table).await, "10 10 45");

    let again = open(&location, plain()).await.unwrap();
    assert_eq!(again.id(), table.id());
    assert_eq!(again.transactions().await.unwrap(), [(app_id(), 1)].into());
    again.apply(Epoch(1), &first).await.unwrap();
    assert_eq!((again.snapshot().version, count(&again).await), (1, "10 10 45".into()));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_writers_of_one_chain_land_one_epoch() {
    let location = Location::in_memory();
    let (a, b) = (open(&location, plain()).await.unwrap(), open(&location, plain()).await.unwrap());
    for epoch in 1..=10 {
        let (mine, theirs) = (landing(&a, &[rows(epoch, 1)]).await, landing(&b, &[rows(epoch, 1)]).await);
        let (x, y) = tokio::join!(a.apply(Epoch(epoch as u64), &mine), b.apply(Epoch(epoch as u64), &theirs));
        x.and(y).unwrap();
    }
    assert_eq!(count(&a).await, "10 10 55");
    assert_eq!(a.snapshot().version, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn commits_of_others_in_between_are_passed_by() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    let first = landing(&table, &[rows(0, 10)]).await;
    foreign_append(&location, 1000, 1).await;
    foreign_append(&location, 1001, 1).await;
    table.apply(Epoch(1), &first).await.unwrap();
    assert_eq!(table.snapshot().version, 3);
    assert_eq!(count(&table).await, "12 12 2046");

    let pinned = table.snapshot();
    foreign_append(&location, 1002, 1).await;
    table.refresh().await.unwrap();
    assert_eq!((pinned.version, table.snapshot().version), (3, 4));
    assert_eq!(count(&table).await, "13 13 3048");
    // A pinned snapshot stays what it was, also after a newer one was read.
    let ctx = SessionContext::new();
    ctx.register_table("t", pinned.provider).unwrap();
    let answer = ctx.sql("SELECT * FROM t").await.unwrap().count().await.unwrap();
    assert_eq!(answer, 12);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_column_lands_with_the_first_rows_that_have_it() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    assert_eq!(table.pending_schema_action(), None);
    table.apply(Epoch(1), &landing(&table, &[rows(0, 2)]).await).await.unwrap();

    let wider = spec(&[("id", DataType::Int64), ("name", DataType::Utf8), ("speed", DataType::Float64)], &[]);
    let table = open(&location, wider.clone()).await.unwrap();
    assert_eq!(table.snapshot().version, 1, "opening changes nothing");
    let speed: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![1.5]));
    let old = rows(2, 1);
    let batch =
        RecordBatch::try_new(wider.schema.clone(), vec![old.column(0).clone(), old.column(1).clone(), speed]).unwrap();
    let second = landing(&table, &[batch]).await;
    assert!(second.schema_action.is_some());
    table.apply(Epoch(2), &second).await.unwrap();
    assert_eq!(table.snapshot().version, 2, "one commit holds the column and the rows");
    assert_eq!(table.pending_schema_action(), None);
    assert_eq!(ask(&table, "SELECT id, speed FROM t ORDER BY id").await, "0 NULL; 1 NULL; 2 1.5");
    // The older statement still fits, and a record that asks for the column again changes nothing.
    let older = open(&location, plain()).await.unwrap();
    let third = Landing { schema_action: second.schema_action, ..landing(&older, &[rows(3, 1)]).await };
    older.apply(Epoch(3), &third).await.unwrap();
    assert_eq!(ask(&older, "SELECT id, speed FROM t ORDER BY id").await, "0 NULL; 1 NULL; 2 1.5; 3 NULL");
}

/// A narrower statement stores in the table's types, a wider small number widens the table in the same commit, and files
/// of before and after are read, filtered and compacted together.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_find_room_without_losing_anything() {
    use arrow::array::{Float32Array, Int8Array, Int16Array, Int32Array};
    let location = Location::in_memory();
    let row = |n: ArrayRef, m: ArrayRef, x: ArrayRef| {
        RecordBatch::try_from_iter_with_nullable([("n", n, true), ("m", m, true), ("x", x, true)]).unwrap()
    };
    let batches = [
        row(
            Arc::new(Int8Array::from(vec![-7])),
            Arc::new(Int64Array::from(vec![1 << 40])),
            Arc::new(arrow::array::Float64Array::from(vec![0.1])),
        ),
        row(
            Arc::new(Int32Array::from(vec![1 << 20])),
            Arc::new(Int32Array::from(vec![-5])),
            Arc::new(Float32Array::from(vec![0.5])),
        ),
        row(
            Arc::new(Int16Array::from(vec![300])),
            Arc::new(Int16Array::from(vec![9])),
            Arc::new(Int32Array::from(vec![3])),
        ),
    ];
    let mut last = None;
    for (i, batch) in batches.iter().enumerate() {
        let spec = TableSpec { name: TABLE.into(), schema: batch.schema(), partition_by: vec![] };
        let table = open(&location, spec).await.unwrap();
        let next = landing(&table, std::slice::from_ref(batch)).await;
        assert_eq!(next.schema_action.is_some(), i == 1, "only the second widens a column of the table");
        table.apply(Epoch(i as u64 + 1), &next).await.unwrap();
        // The same again, as after a crash: also when the table has been widened since.
        table.apply(Epoch(i as u64 + 1), &next).await.unwrap();
        last = Some(table);
    }
    let table = last.unwrap();
    assert_eq!(table.snapshot().version, 3);
    assert_eq!(table.snapshot().provider.schema().field_with_name("n").unwrap().data_type(), &DataType::Int32);
    let rows = "-7 1099511627776 0.1; 300 9 3.0; 1048576 -5 0.5";
    assert_eq!(ask(&table, "SELECT n, m, x FROM t ORDER BY n").await, rows);
    assert_eq!(ask(&table, "SELECT m FROM t WHERE n = -7").await, "1099511627776");
    assert_eq!(ask(&table, "SELECT m FROM t WHERE n > 299 AND x = 0.5").await, "-5");
    let config = super::config::DeltaTableConfig { compact_files_min: 2, ..Default::default() };
    let mut upkeep = super::upkeep::Upkeep::new(table.clone(), config, super::upkeep::turn(UPKEEP_BYTES_MIN));
    upkeep.look(&Default::default()).await;
    assert_eq!(table.snapshot().version, 4);
    assert_eq!(ask(&table, "SELECT n, m, x FROM t ORDER BY n").await, rows);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_whose_creation_was_not_answered_is_there() {
    let hostile = LosesAnswers::new(Location::in_memory().store);
    let location = Location { store: hostile.clone(), ..Location::in_memory() };
    hostile.after.store(1, Ordering::SeqCst);
    let table = open(&location, plain()).await.unwrap();
    assert_eq!(table.snapshot().version, 0);
    let other = Location { store: LosesAnswers::new(Location::in_memory().store), ..Location::in_memory() };
    let away = LosesAnswers::new(other.store.clone());
    away.before.store(1, Ordering::SeqCst);
    let location = Location { store: away, ..other };
    assert!(open(&location, plain()).await.err().unwrap().is_retriable());
    open(&location, plain()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_the_table_is_refused_with_the_ways_out() {
    let location = Location::in_memory();
    open(&location, spec(&[("id", DataType::Int64), ("d", DataType::Date32)], &["d"])).await.unwrap();
    for (wanted, expected) in [
        (
            spec(&[("id", DataType::Float64), ("d", DataType::Date32)], &["d"]),
            "table \"lake.points\" (memory/points): column \"id\" is long in the table and double in the statement\n  \
             hint: CAST the column to the table's type, give it another name (AS), or deliver into a new table.",
        ),
        (
            spec(&[("id", DataType::Int64), ("d", DataType::Date32)], &[]),
            "table \"lake.points\" (memory/points): the table is partitioned by d, the config says not partitioned\n  \
             hint: Set partition_by to what the table has, or deliver into a new table.",
        ),
        (
            spec(&[("id", DataType::Int64)], &["day"]),
            "table \"lake.points\" (memory/points): partition column \"day\" is not a column of the statement\n  \
             hint: Select it, or take it out of partition_by.",
        ),
        (
            spec(&[("d", DataType::Date32)], &["d"]),
            "table \"lake.points\" (memory/points): every column is a partition column\n  \
             hint: Leave at least one column in the files.",
        ),
        (
            spec(&[("id", DataType::Int64), ("x", DataType::Float64)], &["x"]),
            "table \"lake.points\" (memory/points): partition column \"x\" is of type Float64\n  \
             hint: Partition by text, whole numbers, decimals, dates, timestamps or booleans.",
        ),
    ] {
        assert_eq!(refusal(open(&location, wanted).await), expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_changed_by_others_is_followed_or_refused() {
    let change = |location: Location, edit: fn(&mut serde_json::Value)| async move {
        let table = foreign(&location).await;
        let mut metadata = serde_json::to_value(table.snapshot().unwrap().metadata()).unwrap();
        let mut schema = serde_json::from_str(metadata["schemaString"].as_str().unwrap()).unwrap();
        edit(&mut schema);
        metadata["schemaString"] = schema.to_string().into();
        foreign_commit(&location, vec![Action::Metadata(serde_json::from_value(metadata).unwrap())], vec![]).await;
    };
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    let first = landing(&table, &[rows(0, 1)]).await;
    change(location.clone(), |schema| {
        let mut column = schema["fields"][0].clone();
        column["name"] = "note".into();
        schema["fields"].as_array_mut().unwrap().push(column);
    })
    .await;
    table.apply(Epoch(1), &first).await.unwrap();
    assert_eq!(ask(&table, "SELECT * FROM t").await, "0 v0 NULL");
    assert_eq!(table.snapshot().provider.schema().fields().len(), 3);

    let second = landing(&table, &[rows(1, 1)]).await;
    change(location.clone(), |schema| schema["fields"][0]["type"] = "string".into()).await;
    let text = refusal(table.apply(Epoch(2), &second).await);
    assert!(text.contains("column \"id\" is string in the table and long in the statement"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_forgets_transactions_is_refused() {
    let location = Location::in_memory();
    open(&location, plain()).await.unwrap();
    let table = foreign(&location).await;
    let mut metadata = serde_json::to_value(table.snapshot().unwrap().metadata()).unwrap();
    metadata["configuration"]["delta.setTransactionRetentionDuration"] = "interval 1 day".into();
    foreign_commit(&location, vec![Action::Metadata(serde_json::from_value(metadata).unwrap())], vec![]).await;
    assert!(refusal(open(&location, plain()).await).contains("transactions that never expire"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_file_of_a_decided_epoch_is_named() {
    let location = Location::in_memory();
    let table = open(&location, spec(&[("id", DataType::Int64), ("name", DataType::Utf8)], &["name"])).await.unwrap();
    let names: ArrayRef = Arc::new(StringArray::from(vec!["a b/ü", "plain"]));
    let batch = RecordBatch::try_new(plain().schema, vec![Arc::new(Int64Array::from(vec![1, 2])), names]).unwrap();
    let adds = landing(&table, &[batch]).await.adds;
    table.verify_files(&adds).await.unwrap();
    for file in location.list(TABLE).await.unwrap() {
        if file.location.as_ref().contains("plain") {
            object_store::ObjectStoreExt::delete(&location.store, &file.location).await.unwrap();
        }
    }
    let text = refusal(table.verify_files(&adds).await);
    assert!(text.contains("name=plain/part-") && text.contains("Restore the file"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_writer_leaves_nothing_to_read() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    let mut writer = table.writer().unwrap();
    writer.write(&rows(0, 10)).await.unwrap();
    writer.abort().await;
    let left = location.list(TABLE).await.unwrap();
    assert_eq!(left.len(), 1, "only version 0 of the log: {left:?}");
    let nothing = table.writer().unwrap().finish().await.unwrap();
    assert_eq!((nothing.adds.len(), nothing.rows, nothing.bytes), (0, 0, 0));
}

/// 300 commits: the log gets its checkpoints, a new process reads little, transactions survive in checkpoints, and a
/// commit costs a bounded number of requests from first to last.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_commits_stay_cheap() {
    let hostile = LosesAnswers::new(Location::in_memory().store);
    let location = Location { store: hostile.clone(), ..Location::in_memory() };
    foreign_transaction(&location).await;
    let table = open(&location, plain()).await.unwrap();
    let requests = || hostile.requests.load(Ordering::SeqCst);
    let mut costs = Vec::new();
    let mut checkpoints = Checkpoints::default();
    for epoch in 1..=300 {
        let next = landing(&table, &[rows(epoch, 1)]).await;
        let before = requests();
        table.apply(Epoch(epoch as u64), &next).await.unwrap();
        costs.push(requests() - before);
        checkpoints.after_commit(&table).await;
        if epoch % 10 == 0 {
            assert_eq!(ask(&table, "SELECT count(*) FROM t").await, format!("{epoch}"));
        }
    }
    assert!(costs.iter().all(|c| *c == 1), "a commit is one put, and waits for nothing else: {costs:?}");
    assert!(table.reader().steps().await.unwrap() <= 10, "the file list was loaded anew after the checkpoint");
    let checkpoints: Vec<String> = location
        .list(&format!("{TABLE}/_delta_log"))
        .await
        .unwrap()
        .iter()
        .filter_map(|o| o.location.filename().map(str::to_owned))
        .filter(|name| name.contains("checkpoint.parquet"))
        .collect();
    assert_eq!(checkpoints.len(), 3, "{checkpoints:?}");

    let before = requests();
    let again = open(&location, plain()).await.unwrap();
    assert!(requests() - before < 30, "opening reads the checkpoint and what follows it");
    assert_eq!(again.transactions().await.unwrap(), [(app_id(), 300), ("pipe/other/lake.points".into(), 7)].into());
    assert_eq!(again.snapshot().applied, Epoch(300));
    assert_eq!(count(&again).await, "300 300 45150");
    // delta-rs reads the same from the same log.
    let other = foreign(&location).await;
    let version = other.snapshot().unwrap().transaction_version(other.log_store().as_ref(), app_id()).await.unwrap();
    assert_eq!(version, Some(300));
}

async fn foreign_transaction(location: &Location) {
    open(location, plain()).await.unwrap();
    let transactions = vec![Transaction::new("pipe/other/lake.points", 7), Transaction::new("spark", 3)];
    foreign_commit(location, vec![], transactions).await;
}

/// Others commit, checkpoint and clean the log while we do not look: the version after ours is free again.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_cleaned_beyond_us_is_read_anew() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    let first = landing(&table, &[rows(0, 1)]).await;
    for n in 1..=3 {
        foreign_append(&location, 1000 * n, 1).await;
    }
    let delta = foreign(&location).await;
    deltalake::checkpoints::create_checkpoint(&delta, None).await.unwrap();
    for version in 0..=2 {
        location.delete(&format!("{TABLE}/_delta_log/{version:020}.json")).await.unwrap();
    }
    assert!(table.log.has_hole_after(0).await.unwrap());
    assert!(!table.log.has_hole_after(3).await.unwrap());
    assert!(table.log.has_hole_after(1).await.unwrap(), "the version itself is gone");
    super::commit::catch_up(&table).await.unwrap();
    table.apply(Epoch(1), &first).await.unwrap();
    assert_eq!(table.snapshot().version, 4);
    assert_eq!(count(&table).await, "4 4 6000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_vanished_is_refused() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    location.delete(&format!("{TABLE}/_delta_log/{:020}.json", 0)).await.unwrap();
    assert!(refusal(super::commit::catch_up(&table).await).contains("is gone"));
}

/// A filter opens only the files that may hold its rows: the others are taken away first.
#[tokio::test(flavor = "multi_thread")]
async fn filters_open_only_the_files_they_need() {
    let location = Location::in_memory();
    let columns = [("id", DataType::Int64), ("name", DataType::Utf8)];
    let table = open(&location, spec(&columns, &["name"])).await.unwrap();
    table.apply(Epoch(1), &landing(&table, &[rows(0, 7)]).await).await.unwrap();
    table.apply(Epoch(2), &landing(&table, &[rows(700, 7)]).await).await.unwrap();
    let keep = location.list(&format!("{TABLE}/name=v3")).await.unwrap();
    assert_eq!(keep.len(), 2);
    for file in location.list(TABLE).await.unwrap() {
        if file.location.as_ref().contains("/name=") && !keep.iter().any(|k| k.location == file.location) {
            object_store::ObjectStoreExt::delete(&location.store, &file.location).await.unwrap();
        }
    }
    assert_eq!(ask(&table, "SELECT id, name FROM t WHERE name = 'v3' ORDER BY id").await, "3 v3; 703 v3");
    // Bounds of the columns choose between the two that are left; one of those goes as well.
    object_store::ObjectStoreExt::delete(&location.store, &keep[0].location).await.unwrap();
    let mut found = Vec::new();
    for id in [3, 703] {
        let ctx = SessionContext::new();
        ctx.register_table("t", table.snapshot().provider).unwrap();
        let frame = ctx.sql(&format!("SELECT id FROM t WHERE name = 'v3' AND id >= {id} AND id < {}", id + 1)).await;
        found.push(frame.unwrap().count().await.is_ok_and(|n| n == 1));
    }
    assert_eq!(found.iter().filter(|ok| **ok).count(), 1, "the file that is left answers alone: {found:?}");
}

/// What we write into the properties is what delta-rs reads out of them.
#[tokio::test(flavor = "multi_thread")]
async fn properties_are_understood() {
    let location = Location::in_memory();
    let columns =
        [("order", DataType::Int64), ("a.b", DataType::Utf8), ("9`", DataType::Float64), ("d", DataType::Date32)];
    let table = open(&location, spec(&columns, &[])).await.unwrap();
    let ids: ArrayRef = Arc::new(Int64Array::from(vec![1, 2]));
    let text: ArrayRef = Arc::new(StringArray::from(vec!["x", "y"]));
    let float: ArrayRef = Arc::new(arrow::array::Float64Array::from(vec![0.5, 1.5]));
    let date: ArrayRef = Arc::new(arrow::array::Date32Array::from(vec![1, 2]));
    let batch = RecordBatch::try_new(table.spec().schema.clone(), vec![ids, text, float, date]).unwrap();
    let first = landing(&table, &[batch]).await;
    let stats: serde_json::Value = serde_json::from_str(first.adds[0]["stats"].as_str().unwrap()).unwrap();
    assert_eq!(
        stats["minValues"],
        serde_json::json!({ "order": 1, "a.b": "x", "9`": 0.5 }),
        "bounds of every column but the date: {stats}"
    );
    table.apply(Epoch(1), &first).await.unwrap();
    let delta = foreign(&location).await;
    let config = delta.snapshot().unwrap().table_config();
    let columns: Vec<String> =
        config.data_skipping_stats_columns.iter().flatten().map(|c| c.path().join("|")).collect();
    assert_eq!(columns, ["a.b", "order", "9`"]);
    assert_eq!(config.checkpoint_interval.map(|n| n.get()), Some(100));
    assert_eq!(config.log_retention_duration, Some(std::time::Duration::from_secs(24 * 3600)));
    assert_eq!(config.enable_expired_log_cleanup, Some(false));
    assert!(format!("{:?}", config.isolation_level).contains("WriteSerializable"));
    assert_eq!(ask(&table, "SELECT \"a.b\", \"order\" FROM t WHERE \"9`\" > 1").await, "y 2");
}

/// The log is cleaned behind a checkpoint while commits go on: nothing that is still needed goes with it (I14).
#[tokio::test(flavor = "multi_thread")]
async fn a_cleaned_log_still_holds_everything() {
    let location = Location::in_memory();
    open(&location, plain()).await.unwrap();
    let delta = foreign(&location).await;
    let mut metadata = serde_json::to_value(delta.snapshot().unwrap().metadata()).unwrap();
    metadata["configuration"]["delta.logRetentionDuration"] = "interval 0 seconds".into();
    foreign_commit(&location, vec![Action::Metadata(serde_json::from_value(metadata).unwrap())], vec![]).await;
    let table = open(&location, plain()).await.unwrap();
    let mut checkpoints = Checkpoints::default();
    for epoch in 1..=230 {
        let next = landing(&table, &[rows(epoch, 1)]).await;
        table.apply(Epoch(epoch as u64), &next).await.unwrap();
        checkpoints.after_commit(&table).await;
    }
    let log = location.list(&format!("{TABLE}/_delta_log")).await.unwrap();
    assert!(log.len() < 150, "{} objects are left in the log", log.len());
    assert!(!log.iter().any(|o| o.location.as_ref().ends_with("00000000000000000001.json")));
    for table in [table, open(&location, plain()).await.unwrap()] {
        assert_eq!(count(&table).await, "230 230 26565");
        assert_eq!(
            (table.snapshot().applied, table.transactions().await.unwrap()),
            (Epoch(230), [(app_id(), 230)].into())
        );
    }
}
