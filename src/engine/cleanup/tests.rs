//! Clean-up against stores: what goes and what stays, failures in the middle, and the task that follows the epochs.

use super::*;
use crate::checkpoint::decide::{self, Step};
use crate::checkpoint::next::{Cut, first_record, next_record};
use crate::checkpoint::place::segment_path;
use crate::checkpoint::record::{Record, ViewRecord};
use crate::checkpoint::testing::{author, chain, empty_cut};
use crate::env::offload::Offload;
use crate::env::store::testing::{Fault, Hostile, Op};
use crate::env::store::{self, Location};
use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// A name that no object could have as it is.
const VIEW: &str = "speed/1m ~é";

/// A chain of `n` epochs over a view that writes a segment in each; every third is a base.
async fn written(location: &Location, n: u64) -> Chain {
    let records = Chain { location: location.clone() };
    let mut head = first_record(chain("a"), "fleet", author("1"));
    records.create(&head).await.unwrap();
    for epoch in 2..=n {
        let epoch = Epoch(epoch);
        let rows: ArrayRef = Arc::new(Int64Array::from(vec![epoch.0 as i64]));
        let rows = RecordBatch::try_from_iter([("n", rows)]).unwrap();
        let base = epoch.0.is_multiple_of(3);
        let path = segment_path(VIEW, epoch, 0, "x");
        let segment = records.put_segment(0, epoch, base, path, &rows).await.unwrap();
        let mut segments = head.views.first().map(|v| v.segments.clone()).filter(|_| !base).unwrap_or_default();
        segments.push(segment);
        let view = ViewRecord { name: VIEW.into(), fingerprint: "f".into(), segments, complete_from: None };
        head = next_record(&head, author("x"), Cut { views: vec![view], ..empty_cut(head.epoch.0) });
        records.create(&head).await.unwrap();
    }
    records
}

fn cleanup(chain_: &Chain, retain: usize) -> Cleanup {
    Cleanup::new(chain_.clone(), chain("a"), retain, Epoch(1))
}

async fn epochs(chain: &Chain) -> Vec<u64> {
    chain.epochs().await.unwrap().iter().map(|e| e.0).collect()
}

/// A start would go on from the newest record, and every segment that record names is there.
async fn is_sound(chain: &Chain) {
    let records = chain.epochs().await.unwrap();
    let head: Record = chain.read(*records.last().unwrap()).await.unwrap().unwrap().unwrap();
    for segment in head.views.iter().flat_map(|v| &v.segments) {
        chain.get_segment(segment, Offload::Pool).await.unwrap();
    }
    let observed = decide::Observed {
        pipeline: "fleet".into(),
        head: Some(Ok(head)),
        records,
        tables: vec![],
        kv: vec![],
        journals: vec![],
    };
    let step = decide::decide(&observed);
    assert!(matches!(step, Step::Continue { .. }), "{step:?}");
}

#[tokio::test]
async fn only_what_nothing_retained_needs_goes() {
    let dir = tempfile::tempdir().unwrap();
    let local = store::open(dir.path().to_str().unwrap(), &BTreeMap::new()).unwrap();
    for location in [Location::in_memory(), Location::in_memory().under("a b/checkpoint"), local] {
        let chain = written(&location, 20).await;
        let mut cleanup = cleanup(&chain, 4);
        // Record 17 needs the base of 15.
        assert_eq!(cleanup.pass(Epoch(20)).await.unwrap(), Done { records: 16, segments: 13 });
        assert_eq!(epochs(&chain).await, [17, 18, 19, 20]);
        assert_eq!(chain.list(STATE).await.unwrap().len(), 6);
        is_sound(&chain).await;
        assert_eq!(cleanup.pass(Epoch(20)).await.unwrap(), Done::default(), "the second time there is nothing to do");
    }
}

#[tokio::test]
async fn nothing_goes_while_something_retained_is_not_understood() {
    let retained = record_path(Epoch(19));
    for (path, bytes, expected) in [
        (retained.as_str(), "{\"format\":1,\"ch", "record 19 is retained and cannot be read: it is damaged"),
        (retained.as_str(), "{\"format\":99}", "record format 99"),
        ("records/19.json", "{}", "\"records/19.json\" is not the name of a record"),
        ("state/speed~2F1m~20~7E~C3~A9/.nfs0001", "", "is not the name of a record or a state segment"),
    ] {
        let (store, location) = Hostile::location();
        let chain = written(&location, 20).await;
        location.put(path, bytes.into()).await.unwrap();
        let error = cleanup(&chain, 4).pass(Epoch(20)).await.unwrap_err().to_string();
        assert!(error.contains("nothing was deleted") && error.contains(expected), "{error}");
        assert_eq!(store.deleted(), Vec::<String>::new());
    }
    let (store, location) = Hostile::location();
    let chain = written(&location, 20).await;
    let another = Cleanup::new(chain.clone(), ChainId("b".into()), 4, Epoch(1)).pass(Epoch(20)).await;
    assert!(another.unwrap_err().to_string().contains("it belongs to chain a"));
    assert_eq!(store.deleted(), Vec::<String>::new());
}

/// Whatever fails, and whether or not it landed: a start finds a sound chain, and the next clean-up finishes the work.
#[tokio::test]
async fn a_clean_up_that_fails_half_way_is_finished_by_the_next() {
    for fault in [Fault::Before, Fault::AfterLanding] {
        for victim in 1..=16 {
            let (store, location) = Hostile::location();
            let chain = written(&location, 20).await;
            store.strike(Op::Delete, &record_path(Epoch(victim)), fault);
            let mut cleanup = cleanup(&chain, 4);
            cleanup.pass(Epoch(20)).await.unwrap_err();
            let first = if fault == Fault::Before { victim } else { victim + 1 };
            assert_eq!(epochs(&chain).await, (first..=20).collect::<Vec<_>>());
            is_sound(&chain).await;
            let done = cleanup.pass(Epoch(20)).await.unwrap();
            assert_eq!((done.records as u64, done.segments), (17 - first, 13));
            assert_eq!(epochs(&chain).await, [17, 18, 19, 20]);
        }
    }
    let (store, location) = Hostile::location();
    let chain = written(&location, 20).await;
    for (op, path) in [(Op::List, RECORDS), (Op::List, STATE), (Op::Get, RECORDS)] {
        store.strike(op, path, Fault::Before);
        cleanup(&chain, 4).pass(Epoch(20)).await.unwrap_err();
        assert_eq!((store.waiting(), store.deleted().len()), (0, 0), "{op:?} {path}");
    }
}

#[tokio::test]
async fn a_long_backlog_goes_in_bounded_steps_records_first() {
    let mut found = Deletions {
        records: (1..=5).map(Epoch).collect(),
        segments: (1..=5).map(|e| segment_path("v", Epoch(e), 0, "x")).collect(),
        left: vec![],
    };
    let size = |d: &Deletions| (d.records.len(), d.segments.len());
    let mut bounded = found.clone();
    bound(&mut bounded, 3);
    assert_eq!((size(&bounded), bounded.records[0]), ((3, 0), Epoch(1)));
    bounded = found.clone();
    bound(&mut bounded, 5);
    assert_eq!(size(&bounded), (5, 0));
    bounded = found.clone();
    bound(&mut bounded, 7);
    assert_eq!(size(&bounded), (5, 2));
    bound(&mut found, 10);
    assert_eq!(size(&found), (5, 5));
}

#[tokio::test]
async fn the_cleaner_follows_the_epochs_and_outlives_failures() {
    let (store, location) = Hostile::location();
    let records = written(&location, 20).await;
    store.strike(Op::List, RECORDS, Fault::Before);
    let (applied, heads) = watch::channel(Epoch(5));
    let cleaner = Cleaner { cleanup: Cleanup::new(records.clone(), chain("a"), 2, Epoch(1)), heads };
    let cleaner = tokio::spawn(cleaner.run());
    // The first pass fails; the next one is due two epochs later.
    while store.waiting() > 0 {
        tokio::task::yield_now().await;
    }
    applied.send_replace(Epoch(6));
    tokio::task::yield_now().await;
    assert_eq!(store.deleted(), Vec::<String>::new());
    applied.send_replace(Epoch(20));
    while epochs(&records).await != [19, 20] {
        tokio::task::yield_now().await;
    }
    drop(applied);
    cleaner.await.expect("it ends with the pipeline, and without a panic");
    is_sound(&records).await;
}
