//! Vacuum deletes what no version needs, and nothing when anything about the log is in doubt.

use super::compaction::{configure, epochs, stored, upkeep};
use super::hostile::{Fate, Request};
use super::*;
use crate::sinks::delta::vacuum::{ORPHAN_AGE_MIN, Report, vacuum};
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// Six epochs, compacted into one file, in a table that keeps removed files for no time at all; then a last epoch, whose
/// commit is younger than everything else.
async fn compacted(location: &Location) -> Arc<Table> {
    open(location, plain()).await.unwrap();
    configure(location, "delta.deletedFileRetentionDuration", "interval 0 seconds").await;
    let table = open(location, plain()).await.unwrap();
    epochs(&table, 1..=6).await;
    upkeep(&table).look(&CancellationToken::new()).await;
    // The store's clock is read in milliseconds.
    tokio::time::sleep(Duration::from_millis(5)).await;
    epochs(&table, 7..=7).await;
    assert_eq!((stored(location).await, count(&table).await), (8, "7 7 28".into()));
    table
}

async fn clean(table: &Table) -> Result<Report> {
    vacuum(table, Duration::ZERO).await
}

fn hostile() -> (Arc<LosesAnswers>, Location) {
    let hostile = LosesAnswers::new(Location::in_memory().store);
    let location = Location { store: hostile.clone(), ..Location::in_memory() };
    (hostile, location)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_cannot_be_read_whole_deletes_nothing() {
    let (hostile, location) = hostile();
    let table = compacted(&location).await;
    for (request, path) in [
        (Request::List, "_delta_log"),
        (Request::Get, "_delta_log/00000000000000000000.json"),
        (Request::Get, "_delta_log/00000000000000000005.json"),
        (Request::List, "points"),
    ] {
        hostile.fail(request, path, Fate::SlowDown, 1);
        clean(&table).await.unwrap_err();
        assert_eq!(hostile.faults_left(), 0, "{request:?} {path}");
        hostile.heal();
    }
    // Listings that leave something out.
    for hidden in ["00000000000000000000.json", "00000000000000000004.json"] {
        hostile.hide(hidden);
        let cleaned = clean(&table).await;
        assert!(cleaned.is_err() || cleaned.unwrap().files == 0 || hidden.contains("00000000.json"), "{hidden}");
        hostile.show_all();
        assert_eq!(count(&table).await, "7 7 28", "{hidden}");
    }
    let at = format!("{TABLE}/_delta_log/{:020}.json", 3);
    let whole = location.get(&at).await.unwrap().unwrap();
    location.put(&at, whole.slice(..whole.len() / 2)).await.unwrap();
    clean(&table).await.unwrap_err();
    location.put(&at, whole).await.unwrap();
    assert_eq!(count(&table).await, "7 7 28");
}

#[tokio::test(flavor = "multi_thread")]
async fn removed_files_go_when_their_time_is_over_and_not_before() {
    let location = Location::in_memory();
    let table = compacted(&location).await;
    configure(&location, "delta.deletedFileRetentionDuration", "interval 1 hour").await;
    assert_eq!(clean(&table).await.unwrap(), Report::default());
    assert_eq!(stored(&location).await, 8);
    configure(&location, "delta.deletedFileRetentionDuration", "interval 1 month").await;
    assert!(clean(&table).await.unwrap_err().to_string().contains("not an interval we understand"));
    configure(&location, "delta.deletedFileRetentionDuration", "interval 0 seconds").await;
    let report = clean(&table).await.unwrap();
    assert_eq!((report.files, report.orphans, report.failed), (6, 0, 0));
    assert_eq!((stored(&location).await, count(&table).await), (2, "7 7 28".into()));
    assert_eq!(clean(&table).await.unwrap(), Report::default());
    let again = open(&location, plain()).await.unwrap();
    assert_eq!((count(&again).await, again.snapshot().applied), ("7 7 28".into(), Epoch(7)));
}

/// Prepared files of an epoch that is not applied yet stay however old they are; those of a process that died go, once
/// they are old enough; other programs' files are theirs.
#[tokio::test(flavor = "multi_thread")]
async fn orphans_go_and_prepared_files_stay() {
    let location = Location::in_memory();
    let table = compacted(&location).await;
    let prepared = landing(&table, &[rows(8, 1)]).await;
    let died = open(&location, plain()).await.unwrap();
    landing(&died, &[rows(100, 1)]).await;
    let theirs = format!("{TABLE}/part-00000-{}-c000.zstd.parquet", uuid::Uuid::new_v4());
    location.put(&theirs, bytes::Bytes::from_static(b"PAR1 of another program")).await.unwrap();
    location.put(&format!("{TABLE}/notes.txt"), bytes::Bytes::from_static(b"keep")).await.unwrap();
    tokio::time::sleep(Duration::from_millis(5)).await;
    foreign_append(&location, 1000, 1).await;
    assert_eq!(stored(&location).await, 12);

    let report = vacuum(&table, ORPHAN_AGE_MIN).await.unwrap();
    assert_eq!((report.files, report.orphans), (6, 0), "an orphan may be somebody's file in the making");
    let report = clean(&table).await.unwrap();
    assert_eq!((report.files, report.orphans, report.failed), (1, 1, 0));
    assert!(location.get(&theirs).await.unwrap().is_some());
    table.apply(Epoch(8), &prepared).await.unwrap();
    assert_eq!(count(&table).await, "9 9 1036");
    tokio::time::sleep(Duration::from_millis(5)).await;
    epochs(&table, 9..=9).await;
    assert_eq!(clean(&table).await.unwrap().files, 0, "what is applied is active");
    assert_eq!(count(&table).await, "10 10 1045");
}

/// After a checkpoint has forgotten the removals and the log was cleaned, the files are found by being named nowhere.
#[tokio::test(flavor = "multi_thread")]
async fn files_whose_removal_is_forgotten_are_found_too() {
    let location = Location::in_memory();
    let table = compacted(&location).await;
    configure(&location, "delta.logRetentionDuration", "interval 0 seconds").await;
    configure(&location, "delta.checkpointInterval", "5").await;
    table.refresh().await.unwrap();
    let mut checkpoints = crate::sinks::delta::checkpoint::Checkpoints::default();
    for epoch in 8..=20 {
        epochs(&table, epoch..=epoch).await;
        checkpoints.after_commit(&table).await;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(location.get(&format!("{TABLE}/_delta_log/{:020}.json", 8)).await.unwrap().is_none());
    let report = clean(&table).await.unwrap();
    assert_eq!((report.files, stored(&location).await), (6, 15));
    assert_eq!(count(&table).await, "20 20 210");
}

#[tokio::test(flavor = "multi_thread")]
async fn deletes_that_fail_are_counted_and_tried_again() {
    let (hostile, location) = hostile();
    let table = compacted(&location).await;
    hostile.fail(Request::Delete, "zstd.parquet", Fate::SlowDown, 1);
    let report = clean(&table).await.unwrap();
    assert_eq!((report.files, report.failed, stored(&location).await), (5, 1, 3));
    hostile.fail(Request::Delete, "zstd.parquet", Fate::AnswerLost, 1);
    assert_eq!(clean(&table).await.unwrap().failed, 1);
    assert_eq!((clean(&table).await.unwrap().files, stored(&location).await), (0, 2));
    assert_eq!(count(&table).await, "7 7 28");
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_of_other_programs_are_not_cleaned() {
    let location = Location::in_memory();
    let table = compacted(&location).await;
    configure(&location, "pipe.keepsLog", "false").await;
    assert!(clean(&table).await.unwrap_err().to_string().contains("another program created the table"));
    configure(&location, "pipe.keepsLog", "true").await;
    configure(&location, "delta.enableDeletionVectors", "true").await;
    assert!(clean(&table).await.unwrap_err().to_string().contains("deletion vectors"));
    assert_eq!(stored(&location).await, 8);
}
