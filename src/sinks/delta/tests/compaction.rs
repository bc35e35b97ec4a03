//! Small files become large ones and nothing else changes, whatever fails and whoever else writes.

use super::hostile::{Fate, Request};
use super::*;
use crate::sinks::delta::bins::{Bin, Rule, next_bin};
use crate::sinks::delta::compact::{Memory, Outcome, Trouble, compact, obstacle};
use crate::sinks::delta::config::DeltaTableConfig;
use crate::sinks::delta::files::Files;
use crate::sinks::delta::upkeep::{Upkeep, turn};
use deltalake::kernel::Remove;
use tokio_util::sync::CancellationToken;

const FILES_MIN: u32 = 4;

pub fn upkeep(table: &Arc<Table>) -> Upkeep {
    let config = DeltaTableConfig { compact_files_min: FILES_MIN, ..DeltaTableConfig::default() };
    Upkeep::new(table.clone(), config, turn(UPKEEP_BYTES_MIN))
}

async fn compact_all(table: &Arc<Table>) {
    upkeep(table).look(&CancellationToken::new()).await;
}

/// One row per epoch: ids = epochs.
pub async fn epochs(table: &Table, epochs: std::ops::RangeInclusive<u64>) {
    for epoch in epochs {
        let next = landing(table, &[rows(epoch as i64, 1)]).await;
        table.apply(Epoch(epoch), &next).await.unwrap();
    }
}

pub async fn active(table: &Table) -> Files {
    Files::load(&table.log).await.unwrap()
}

/// Parquet files in the table's folder, named by a version or not.
pub async fn stored(location: &Location) -> usize {
    let all = location.list(TABLE).await.unwrap();
    all.iter().filter(|o| o.location.as_ref().ends_with("c000.zstd.parquet")).count()
}

/// A table of so many epochs, its files as of now, and the bin that would be compacted next.
async fn planned(location: &Location, n: u64) -> (Arc<Table>, Files, Bin) {
    let table = open(location, plain()).await.unwrap();
    epochs(&table, 1..=n).await;
    let files = active(&table).await;
    let rule = Rule { target_bytes: 1 << 27, files_min: FILES_MIN as usize };
    let bin = next_bin(&files.active, &Default::default(), rule, 0).unwrap();
    assert_eq!(bin.inputs.len() as u64, n);
    (table, files, bin)
}

async fn run(table: &Table, files: &mut Files, bin: &Bin) -> Result<Outcome, Trouble> {
    compact(table, files, bin, &turn(UPKEEP_BYTES_MIN), &CancellationToken::new()).await
}

fn hostile() -> (Arc<LosesAnswers>, Location) {
    let hostile = LosesAnswers::new(Location::in_memory().store);
    let location = Location { store: hostile.clone(), ..Location::in_memory() };
    (hostile, location)
}

async fn foreign_remove(location: &Location, path: &str) {
    let remove = Remove { path: path.into(), data_change: true, deletion_timestamp: Some(1), ..Remove::default() };
    foreign_commit(location, vec![Action::Remove(remove)], vec![]).await;
}

/// Another writer sets a property of the table.
pub async fn configure(location: &Location, key: &str, value: &str) {
    let table = foreign(location).await;
    let mut metadata = serde_json::to_value(table.snapshot().unwrap().metadata()).unwrap();
    metadata["configuration"][key] = value.into();
    foreign_commit(location, vec![Action::Metadata(serde_json::from_value(metadata).unwrap())], vec![]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_cannot_be_read_leaves_everything_as_it_was() {
    let (hostile, location) = hostile();
    let (table, mut files, bin) = planned(&location, 6).await;
    for (request, fate) in [
        (Request::Get, Fate::Lost),
        (Request::Get, Fate::SlowDown),
        (Request::Put, Fate::Lost),
        (Request::Put, Fate::SlowDown),
    ] {
        hostile.fail(request, "zstd.parquet", fate, 1);
        let Err(Trouble::Failed(error)) = run(&table, &mut files, &bin).await else { panic!("{request:?} {fate:?}") };
        assert!(error.is_retriable(), "{error:?}");
        assert_eq!((table.snapshot().version, hostile.faults_left()), (6, 0));
        assert_eq!(stored(&location).await, 6, "nothing is left of it");
    }
    assert!(matches!(run(&table, &mut files, &bin).await, Ok(Outcome::Compacted(_))));
    assert_eq!(count(&table).await, "6 6 21");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_fails_in_any_way_lands_once() {
    for (fate, times) in [
        (Fate::Lost, 1),
        (Fate::Lost, 4),
        (Fate::AnswerLost, 1),
        (Fate::Conflict, 2),
        (Fate::Precondition, 1),
        (Fate::SlowDown, 2),
        (Fate::Late, 1),
    ] {
        let (hostile, location) = hostile();
        let (table, mut files, bin) = planned(&location, 5).await;
        hostile.fail(Request::Put, "_delta_log/00000000000000000006.json", fate, times);
        let done = run(&table, &mut files, &bin).await;
        assert!(matches!(done, Ok(Outcome::Compacted(_))), "{fate:?}: {done:?}");
        assert_eq!((table.snapshot().version, hostile.faults_left()), (6, 0), "{fate:?}");
        assert_eq!(hostile.deliver().await, 0, "{fate:?}: the version is taken, nothing lands twice");
        assert_eq!((files.version, files.active.len(), active(&table).await.active.len()), (6, 1, 1), "{fate:?}");
        assert_eq!((count(&table).await, stored(&location).await), ("5 5 15".into(), 6), "{fate:?}");
        epochs(&table, 6..=6).await;
        assert_eq!((count(&table).await, table.snapshot().version), ("6 6 21".into(), 7), "{fate:?}");
    }
}

/// Every attempt stays without an answer, and one arrives after we have given up: what it names is still there.
#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_may_still_be_committed_is_not_deleted() {
    let (hostile, location) = hostile();
    let (table, mut files, bin) = planned(&location, 5).await;
    hostile.fail(Request::Put, "_delta_log/", Fate::Late, 1_000);
    let Err(Trouble::Failed(error)) = run(&table, &mut files, &bin).await else { panic!("no attempt can succeed") };
    assert!(error.is_retriable() && error.to_string().contains("could not be committed"), "{error}");
    assert_eq!((count(&table).await, stored(&location).await), ("5 5 15".into(), 6));
    hostile.heal();
    assert_eq!(hostile.deliver().await, 1, "all attempts were for one version");
    table.refresh().await.unwrap();
    assert_eq!((count(&table).await, table.snapshot().version), ("5 5 15".into(), 6));
    assert_eq!(active(&table).await.active.len(), 1);
    epochs(&table, 6..=6).await;
    assert_eq!(count(&table).await, "6 6 21");
}

/// An attempt is on its way, then another writer takes the version and one of our inputs: the output can be deleted,
/// because the attempt can no longer land.
#[tokio::test(flavor = "multi_thread")]
async fn an_overtaken_attempt_leaves_nothing_behind() {
    let (hostile, location) = hostile();
    let (table, mut files, bin) = planned(&location, 5).await;
    hostile.fail(Request::Put, "_delta_log/00000000000000000006.json", Fate::Late, 1);
    let path = bin.inputs[2].0.clone();
    let other = async {
        while hostile.faults_left() > 0 {
            tokio::time::sleep(std::time::Duration::from_millis(1)).await;
        }
        foreign_remove(&location, &path).await;
    };
    let (done, ()) = tokio::join!(run(&table, &mut files, &bin), other);
    // The next attempt may come before the other writer; then it is the other that is overtaken.
    if matches!(done, Ok(Outcome::Overtaken(_))) {
        assert_eq!(hostile.deliver().await, 0);
        assert_eq!(stored(&location).await, 5);
        table.refresh().await.unwrap();
        // Which epoch went with it depends on the order of inputs that are equally old.
        let left = count(&table).await;
        assert!(left.starts_with("4 4 "), "{left}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_overtaken_by_a_delete_is_given_up() {
    let location = Location::in_memory();
    let (table, mut files, bin) = planned(&location, 5).await;
    foreign_remove(&location, &bin.inputs[0].0).await;
    assert!(matches!(run(&table, &mut files, &bin).await, Ok(Outcome::Overtaken(why)) if why.contains("was removed")));
    let left = count(&table).await;
    assert!(left.starts_with("4 4 ") && stored(&location).await == 5, "the row stays deleted: {left}");
    assert_eq!(table.snapshot().version, 6, "what others committed is seen");
    epochs(&table, 6..=6).await;
    compact_all(&table).await;
    let left = count(&table).await;
    assert!(left.starts_with("5 5 ") && active(&table).await.active.len() == 1, "{left}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_compaction_overtaken_by_other_settings_or_columns_is_given_up() {
    let location = Location::in_memory();
    let (table, mut files, bin) = planned(&location, 5).await;
    configure(&location, "delta.appendOnly", "true").await;
    assert!(matches!(run(&table, &mut files, &bin).await, Ok(Outcome::Overtaken(why)) if why.contains("settings")));
    assert_eq!(stored(&location).await, 5);
    // Append-only tables may be compacted: no row is removed.
    compact_all(&table).await;
    assert_eq!((count(&table).await, active(&table).await.active.len()), ("5 5 15".into(), 1));
}

/// Two processes compact the same files from what each knew: the rows are there once.
#[tokio::test(flavor = "multi_thread")]
async fn two_compactors_do_not_double_rows() {
    let location = Location::in_memory();
    let (table, mut files, bin) = planned(&location, 6).await;
    let other = open(&location, plain()).await.unwrap();
    let mut others = files.clone();
    assert!(matches!(run(&other, &mut others, &bin).await, Ok(Outcome::Compacted(_))));
    assert!(matches!(run(&table, &mut files, &bin).await, Ok(Outcome::Overtaken(_))));
    assert_eq!((count(&table).await, count(&other).await), ("6 6 21".into(), "6 6 21".into()));
    assert_eq!(stored(&location).await, 7);
}

/// The epochs that commit between reading and committing stay, and so does the transaction.
#[tokio::test(flavor = "multi_thread")]
async fn epochs_go_on_during_a_compaction() {
    let location = Location::in_memory();
    let (table, mut files, bin) = planned(&location, 6).await;
    let pinned = table.snapshot();
    epochs(&table, 7..=9).await;
    foreign_append(&location, 1000, 1).await;
    assert!(matches!(run(&table, &mut files, &bin).await, Ok(Outcome::Compacted(_))));
    assert_eq!((table.snapshot().version, table.snapshot().applied), (11, Epoch(9)));
    assert_eq!((count(&table).await, active(&table).await.active.len()), ("10 10 1045".into(), 5));
    // Who reads the older version goes on reading it.
    let ctx = SessionContext::new();
    ctx.register_table("t", pinned.provider).unwrap();
    assert_eq!(ctx.sql("SELECT * FROM t").await.unwrap().count().await.unwrap(), 6);
    let again = open(&location, plain()).await.unwrap();
    assert_eq!(again.transactions().await.unwrap(), [(app_id(), 9)].into());
    again.apply(Epoch(9), &landing(&again, &[rows(9, 1)]).await).await.unwrap();
    assert_eq!(count(&again).await, "10 10 1045", "an epoch applied before is skipped after a compaction too");
}

/// Partitions of odd values, a column and a field that came later, NULLs: every value comes back, from one file each.
#[tokio::test(flavor = "multi_thread")]
async fn values_partitions_and_statistics_survive() {
    let location = Location::in_memory();
    let names = ["a b/ü%20", "plain", ""];
    let batch = |epoch: i64, grown: bool| {
        let name: ArrayRef = Arc::new(StringArray::from_iter_values(names));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values((0..3).map(|i| epoch * 10 + i)));
        let x: ArrayRef = Arc::new(Int64Array::from(vec![epoch; 3]));
        let mut fields = vec![(Arc::new(Field::new("x", DataType::Int64, true)), x)];
        let mut columns = vec![("id", ids), ("name", name)];
        if grown {
            let y: ArrayRef = Arc::new(StringArray::from(vec![Some("y"), None, Some("é")]));
            fields.push((Arc::new(Field::new("y", DataType::Utf8, true)), y));
        }
        columns.push(("s", Arc::new(arrow::array::StructArray::from(fields))));
        if grown {
            columns.push(("late", Arc::new(arrow::array::Float64Array::from(vec![Some(0.5), None, Some(-1.0)]))));
        }
        RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
    };
    let mut last = None;
    for epoch in 1..=6 {
        let rows = batch(epoch, epoch > 3);
        let spec = TableSpec { name: TABLE.into(), schema: rows.schema(), partition_by: vec!["name".into()] };
        let table = open(&location, spec).await.unwrap();
        table.apply(Epoch(epoch as u64), &landing(&table, &[rows]).await).await.unwrap();
        last = Some(table);
    }
    let table = last.unwrap();
    let everything = "SELECT id, name, s['x'], s['y'], late FROM t ORDER BY id";
    let before = ask(&table, everything).await;
    assert_eq!(active(&table).await.active.len(), 18);
    compact_all(&table).await;
    let files = active(&table).await;
    assert_eq!((files.version, files.active.len()), (9, 3));
    assert_eq!(ask(&table, everything).await, before);
    for (path, file) in &files.active {
        assert_eq!(file.rows, Some(6), "{path}");
        assert!(path.starts_with("name="), "it stays in its folder: {path}");
    }
    assert_eq!(ask(&table, "SELECT id FROM t WHERE name = 'a b/ü%20' AND id > 45").await, "50; 60", "in their order");
    assert_eq!(ask(&table, "SELECT count(*) FROM t WHERE name IS NULL").await, "6");
    // The same to a program that knows nothing of us, through a checkpoint as well.
    for checkpoint in [false, true] {
        let other = foreign(&location).await;
        if checkpoint {
            deltalake::checkpoints::create_checkpoint(&other, None).await.unwrap();
        }
        assert_eq!(other.snapshot().unwrap().log_data().iter().filter_map(|f| f.num_records()).sum::<usize>(), 18);
        assert_eq!(active(&table).await.active, files.active);
    }
    compact_all(&table).await;
    assert_eq!(table.snapshot().version, 9, "nothing is left to do");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_we_do_not_fully_understand_are_left_alone() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    epochs(&table, 1..=5).await;
    configure(&location, "delta.enableDeletionVectors", "true").await;
    assert_eq!(obstacle(&active(&table).await).as_deref(), Some("the table uses deletion vectors"));
    compact_all(&table).await;
    assert_eq!(active(&table).await.active.len(), 5);
    configure(&location, "delta.enableDeletionVectors", "false").await;
    compact_all(&table).await;
    assert_eq!(active(&table).await.active.len(), 1);

    let mut files = active(&table).await;
    let mut features = |list: serde_json::Value| {
        files.protocol = serde_json::json!({ "minReaderVersion": 3, "minWriterVersion": 7, "writerFeatures": list });
        obstacle(&files)
    };
    assert_eq!(features(serde_json::json!(["appendOnly", "changeDataFeed"])), None);
    assert_eq!(
        features(serde_json::json!(["domainMetadata"])).unwrap(),
        "the table uses the feature \"domainMetadata\""
    );
    assert!(features(serde_json::json!(["columnMapping"])).unwrap().contains("columnMapping"));
}

/// A file that is not what its table says stays where it is, and does not keep the others from being compacted.
#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_another_shape_is_left_as_it_is() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    epochs(&table, 1..=2).await;
    let elsewhere = Location::in_memory();
    let columns = [("id", DataType::Int64), ("name", DataType::Utf8), ("more", DataType::Utf8)];
    let odd = open(&elsewhere, spec(&columns, &[])).await.unwrap();
    let more: ArrayRef = Arc::new(StringArray::from(vec!["m"]));
    let old = rows(3, 1);
    let wide =
        RecordBatch::try_new(odd.spec().schema.clone(), vec![old.column(0).clone(), old.column(1).clone(), more]);
    let adds = landing(&odd, &[wide.unwrap()]).await.adds;
    let add: Add = serde_json::from_value(adds[0].clone()).unwrap();
    let bytes = odd.log.table.get(&add.path).await.unwrap().unwrap();
    location.put(&format!("{TABLE}/{}", add.path), bytes).await.unwrap();
    foreign_commit(&location, vec![Action::Add(add.clone())], vec![]).await;
    table.refresh().await.unwrap();
    for epoch in 4..=6u64 {
        table.apply(Epoch(epoch), &landing(&table, &[rows(epoch as i64, 1)]).await).await.unwrap();
    }
    compact_all(&table).await;
    let files = active(&table).await;
    assert_eq!((files.active.len(), files.active.contains_key(&add.path)), (2, true));
    assert_eq!(count(&table).await, "6 6 21");
}

/// Compaction, checkpoints and a log cleaned behind them, while epochs go on: as the engine runs it.
#[tokio::test(flavor = "multi_thread")]
async fn upkeep_beside_the_stream_keeps_a_table_small() {
    let dir = tempfile::tempdir().unwrap();
    let location = crate::env::store::open(dir.path().to_str().unwrap(), &Default::default()).unwrap();
    open(&location, plain()).await.unwrap();
    configure(&location, "delta.logRetentionDuration", "interval 0 seconds").await;
    configure(&location, "delta.checkpointInterval", "20").await;
    let table = open(&location, plain()).await.unwrap();
    let stop = CancellationToken::new();
    let beside = {
        let (upkeep, stop, io) = (upkeep(&table), stop.clone(), tokio::runtime::Handle::current());
        std::thread::spawn(move || io.block_on(upkeep.run(stop)))
    };
    epochs(&table, 1..=120).await;
    // It comes to rest by itself: fewer files than make a bin, in each of the sizes there are.
    let rest = 3 * FILES_MIN as usize;
    // A log cleaned while it is read is read again.
    while Files::load(&table.log).await.map_or(true, |files| files.active.len() > rest) {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    stop.cancel();
    tokio::task::spawn_blocking(|| beside.join().unwrap()).await.unwrap();
    for table in [table.clone(), open(&location, plain()).await.unwrap()] {
        assert_eq!(count(&table).await, "120 120 7260");
        assert_eq!(table.snapshot().applied, Epoch(120));
    }
    let log = location.list(&format!("{TABLE}/_delta_log")).await.unwrap();
    assert!(log.iter().any(|o| o.location.as_ref().ends_with("checkpoint.parquet")));
    assert!(!log.iter().any(|o| o.location.as_ref().ends_with("00000000000000000003.json")), "the log was cleaned");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_leaves_the_table_as_it_was() {
    let location = Location::in_memory();
    let (table, mut files, bin) = planned(&location, 5).await;
    let stop = CancellationToken::new();
    stop.cancel();
    assert!(matches!(compact(&table, &mut files, &bin, &turn(UPKEEP_BYTES_MIN), &stop).await, Ok(Outcome::Stopped)));
    assert_eq!((stored(&location).await, table.snapshot().version), (5, 5));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_checkpoint_of_the_log_goes_first() {
    let location = Location::in_memory();
    let (table, mut files, bin) = planned(&location, 5).await;
    let (turn, stop) = (turn(UPKEEP_BYTES_MIN), CancellationToken::new());
    let checkpoint = turn.checkpoints.begin();
    let mut compaction = Box::pin(compact(&table, &mut files, &bin, &turn, &stop));
    // One that nothing holds up has far less to do than all this.
    let others = async {
        for _ in 0..3 {
            let (table, mut files, bin) = planned(&Location::in_memory(), 5).await;
            assert!(matches!(run(&table, &mut files, &bin).await, Ok(Outcome::Compacted(_))));
        }
    };
    tokio::select! {
        _ = &mut compaction => panic!("it did not wait for the checkpoint"),
        () = others => {}
    }
    drop(checkpoint);
    assert!(matches!(compaction.await, Ok(Outcome::Compacted(_))));
    assert_eq!(count(&table).await, "5 5 15");
}

/// A checkpoint that fails in any way costs nothing but a longer log, and the next one succeeds.
#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_that_fail_are_tried_again() {
    for (request, path, fate) in [
        (Request::Put, "checkpoint.parquet", Fate::Lost),
        (Request::Put, "checkpoint.parquet", Fate::AnswerLost),
        (Request::Put, "_last_checkpoint", Fate::SlowDown),
        (Request::Get, "checkpoint.parquet", Fate::Lost),
        (Request::List, "_delta_log", Fate::SlowDown),
        (Request::Delete, "_delta_log", Fate::Lost),
    ] {
        let (hostile, location) = hostile();
        open(&location, plain()).await.unwrap();
        configure(&location, "delta.checkpointInterval", "10").await;
        configure(&location, "delta.logRetentionDuration", "interval 0 seconds").await;
        let table = open(&location, plain()).await.unwrap();
        let mut checkpoints = crate::sinks::delta::checkpoint::Checkpoints::default();
        for epoch in 1..=40 {
            epochs(&table, epoch..=epoch).await;
            if epoch == 8 {
                hostile.fail(request, path, fate, 1);
            }
            checkpoints.after_commit(&table).await;
        }
        hostile.heal();
        let again = open(&location, plain()).await.unwrap();
        assert_eq!(count(&again).await, "40 40 820", "{request:?} {path} {fate:?}");
        assert_eq!(again.snapshot().applied, Epoch(40), "{request:?} {path} {fate:?}");
        let log = location.list(&format!("{TABLE}/_delta_log")).await.unwrap();
        assert!(log.len() < 40, "{request:?} {path} {fate:?}: {} objects are left in the log", log.len());
    }
}

/// Rows that come late, again and again, over a month of partitions: each commit adds a file to each of them, and
/// compaction takes those together.
#[tokio::test(flavor = "multi_thread")]
async fn late_rows_over_many_partitions_are_put_together() {
    let location = Location::in_memory();
    let table = open(&location, spec(&[("id", DataType::Int64), ("name", DataType::Utf8)], &["name"])).await.unwrap();
    const DAYS: i64 = 30;
    let (late, total) = (500, 20 * 500);
    for epoch in 0..20 {
        let ids = epoch * late..(epoch + 1) * late;
        let names = StringArray::from_iter_values(ids.clone().map(|id| format!("d{}", id * 7_919 % DAYS)));
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(ids));
        let rows = RecordBatch::try_new(plain().schema, vec![ids, Arc::new(names)]).unwrap();
        // In many small batches, as they arrive.
        let batches: Vec<_> = (0..late as usize / 10).map(|i| rows.slice(i * 10, 10)).collect();
        let next = landing(&table, &batches).await;
        assert_eq!(next.adds.len(), DAYS as usize, "one file per partition");
        table.apply(Epoch(epoch as u64 + 1), &next).await.unwrap();
    }
    assert_eq!(active(&table).await.active.len(), 20 * DAYS as usize);
    compact_all(&table).await;
    let files = active(&table).await.active;
    assert_eq!((files.len(), files.values().filter_map(|f| f.rows).sum::<u64>()), (DAYS as usize, total as u64));
    assert_eq!(count(&table).await, format!("{total} {total} {}", total * (total - 1) / 2));
}

/// What a compaction may hold follows from its share of `[limits] memory`: a file whose row groups are too large for it
/// stays, others are put together.
#[tokio::test(flavor = "multi_thread")]
async fn files_too_large_for_the_memory_are_left_alone() {
    let location = Location::in_memory();
    let table = open(&location, plain()).await.unwrap();
    for epoch in 1..=8 {
        let n = if epoch % 2 == 0 { 1 } else { 2_000 };
        let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..n));
        let names = StringArray::from_iter_values((0..n).map(|_| uuid::Uuid::new_v4().to_string()));
        let rows = RecordBatch::try_new(plain().schema, vec![ids, Arc::new(names)]).unwrap();
        table.apply(Epoch(epoch), &landing(&table, &[rows]).await).await.unwrap();
    }
    let sizes = async || {
        let files = active(&table).await.active;
        (files.len(), files.values().filter(|f| f.bytes > 20 * 1024).count())
    };
    assert_eq!(sizes().await, (8, 4));
    let config = DeltaTableConfig { compact_files_min: FILES_MIN, ..DeltaTableConfig::default() };
    let upkeep = |memory| Upkeep::new(table.clone(), config.clone(), turn(memory));
    upkeep(60 * 1024).look(&CancellationToken::new()).await;
    assert_eq!(sizes().await, (5, 4));
    upkeep(UPKEEP_BYTES_MIN).look(&CancellationToken::new()).await;
    assert_eq!(sizes().await, (2, 1));
    assert_eq!(ask(&table, "SELECT count(*) FROM t").await, "8004");
}

#[test]
fn a_bin_never_needs_more_than_the_share() {
    for share in [UPKEEP_BYTES_MIN, 2 * UPKEEP_BYTES_MIN, 1 << 30] {
        for bytes in [1 << 10, 1 << 20, 10 << 20, 64 << 20, 4 << 30] {
            let file = crate::sinks::delta::files::DataFile {
                written_as: None,
                partition: vec![],
                bytes,
                modified_ms: 0,
                rows: None,
                has_deletions: false,
            };
            let bin = Bin { partition: vec![], inputs: vec![("a".into(), file.clone()), ("b".into(), file)] };
            let held = Memory::within(share).of(&bin);
            assert!(held <= share && held <= 7 * bytes, "{held} of {share} for two files of {bytes}");
        }
    }
}
