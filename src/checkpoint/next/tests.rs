//! A record follows from the one before: what is carried over, what is added, and what must never be written.

use super::*;
use crate::checkpoint::record::{SegmentRef, Unreadable};
use crate::checkpoint::testing::{author, chain, empty_cut, moved, record, table_record, written};
use crate::types::position::Position;

fn span(record: &Record, partition: &str) -> String {
    let partition = record.partition(&PartitionId::new("s", partition)).expect("the partition is in the record");
    format!("{} received={}", partition.span, partition.counts.received)
}

fn broken(cut: impl FnOnce(&Record) -> Cut + std::panic::UnwindSafe) -> String {
    let panic = std::panic::catch_unwind(|| {
        let mut head = record(5);
        head.partitions = next_partitions(&[], vec![moved("p", 0, 10)]);
        head.tables = vec![table_record("points", "id-1", 1)];
        let cut = cut(&head);
        next_record(&head, author("y"), cut)
    });
    let panic = panic.expect_err("the broken promise was noticed");
    panic.downcast_ref::<String>().expect("a text").clone()
}

#[test]
fn what_must_never_be_written() {
    let cut = |partition| Cut { partitions: vec![partition], ..empty_cut(5) };
    assert!(broken(|_| cut(moved("p", 11, 12))).starts_with("invariant I2"), "a gap between spans");
    assert!(broken(|_| cut(moved("p", 9, 12))).starts_with("invariant I2"), "a message twice");
    let twice = broken(|_| Cut { partitions: vec![moved("p", 10, 11), moved("p", 11, 12)], ..empty_cut(5) });
    assert!(twice.starts_with("invariant I2"), "{twice}");
    let unbalanced = broken(|_| {
        let mut p = moved("p", 10, 12);
        p.counts.rejected = 1;
        cut(p)
    });
    assert!(unbalanced.starts_with("invariant I3"), "{unbalanced}");
    assert!(broken(|_| empty_cut(6)).starts_with("invariant I8"), "applied what is not decided");
    assert!(broken(|_| empty_cut(3)).starts_with("invariant I8"), "evidence taken back");
    let swapped = broken(|_| {
        let mut table = written("points", 1);
        table.table_id = "id-2".to_string();
        Cut { tables: vec![table], ..empty_cut(5) }
    });
    assert!(swapped.starts_with("invariant I8"), "{swapped}");
    let early = broken(|_| {
        let segment =
            SegmentRef { slot: 0, epoch: Epoch(7), base: true, path: String::new(), rows: 0, bytes: 0, crc32: 0 };
        let view = ViewRecord {
            name: "v".to_string(),
            fingerprint: String::new(),
            segments: vec![segment],
            complete_from: None,
        };
        Cut { views: vec![view], ..empty_cut(5) }
    });
    assert!(early.starts_with("invariant I5"), "{early}");
}

#[test]
fn positions_and_counts_add_up_over_epochs_and_restarts() {
    let first = first_record(chain("a"), "fleet", author("1"));
    assert_eq!((first.epoch, first.parent, first.incarnation, first.kind), (Epoch(1), Epoch(0), 1, RecordKind::Claim));
    let cut = Cut { partitions: vec![moved("p", 0, 10), moved("q", 100, 103)], ..empty_cut(1) };
    let second = next_record(&first, author("2"), cut);
    assert_eq!((second.epoch, second.parent, second.kind), (Epoch(2), Epoch(1), RecordKind::Epoch));
    assert_eq!(
        (span(&second, "p"), span(&second, "q")),
        ("[0, 10) received=10".into(), "[100, 103) received=3".into())
    );

    let claim = claim_record(&second, author("3"), vec![]);
    assert_eq!((claim.epoch, claim.incarnation, claim.kind), (Epoch(3), 2, RecordKind::Claim));
    assert_eq!(claim.applied_through, Epoch(2));
    assert_eq!((span(&claim, "p"), span(&claim, "q")), ("[10, 10) received=10".into(), "[103, 103) received=3".into()));

    let cut = Cut { partitions: vec![moved("q", 103, 110)], ..empty_cut(3) };
    let fourth = next_record(&claim, author("4"), cut);
    assert_eq!(
        (span(&fourth, "p"), span(&fourth, "q")),
        ("[10, 10) received=10".into(), "[103, 110) received=10".into())
    );
    assert_eq!(fourth.incarnation, 2);
    let positions: Vec<Position> = fourth.positions().map(|(_, p)| p).collect();
    assert_eq!(positions, [Position(10), Position(110)]);
}

#[test]
fn an_idle_table_keeps_its_total_and_has_nothing_to_apply() {
    let first = first_record(chain("a"), "fleet", author("1"));
    let second = next_record(&first, author("2"), Cut { tables: vec![written("points", 7)], ..empty_cut(1) });
    assert_eq!(second.landings().count(), 1);
    let third = next_record(&second, author("3"), empty_cut(2));
    assert_eq!((third.landings().count(), third.tables[0].rows, third.tables[0].rows_total), (0, 0, 7));
    let fourth = next_record(&third, author("4"), Cut { tables: vec![written("points", 5)], ..empty_cut(3) });
    assert_eq!((fourth.landings().count(), fourth.tables[0].rows, fourth.tables[0].rows_total), (1, 5, 12));
}

#[test]
fn a_partition_keeps_what_its_source_said_of_it() {
    let first = first_record(chain("a"), "fleet", author("1"));
    let mut told = moved("p", 0, 1);
    told.identity = Some(serde_json::json!({"size": 9}));
    let second = next_record(&first, author("2"), Cut { partitions: vec![told], ..empty_cut(1) });
    let third = next_record(&second, author("3"), Cut { partitions: vec![moved("p", 1, 2)], ..empty_cut(2) });
    assert_eq!(third.partitions[0].identity, Some(serde_json::json!({"size": 9})));
}

#[test]
fn a_record_comes_back_as_it_was_written() {
    let first = first_record(chain("a"), "fleet", author("1"));
    let cut = Cut { partitions: vec![moved("p", 0, 10)], tables: vec![written("points", 7)], ..empty_cut(1) };
    let record = next_record(&first, author("2"), cut);
    let bytes = record.encode();
    assert_eq!(Record::decode(&bytes, Epoch(2), Some(&chain("a"))), Ok(record.clone()));
    assert_eq!(Record::decode(&bytes, Epoch(2), None), Ok(record));
}

#[test]
fn what_is_not_a_record_is_told_apart() {
    let good = String::from_utf8(record(4).encode()).expect("JSON is text");
    let check = |bytes: &str, expected: &str| {
        let unreadable = Record::decode(bytes.as_bytes(), Epoch(4), Some(&chain("a"))).expect_err(expected);
        assert!(unreadable.to_string().contains(expected), "{unreadable} / {expected}");
    };
    check("", "it is damaged: EOF");
    check(&good[..good.len() / 2], "it is damaged: EOF");
    check("{}", "missing field `format`");
    check(&good.replace("\"epoch\":4", "\"epoch\":5"), "it is named 4 but says it is epoch 5");
    check(&good.replace("\"chain\":\"a\"", "\"chain\":\"b\""), "it belongs to chain b, not to chain a");
    check(&good.replace("\"parent\":3", "\"parent\":2"), "parent 2 and applied_through 3 do not fit");
    check(&good.replace("\"applied_through\":3", "\"applied_through\":4"), "parent 3 and applied_through 4 do not fit");
    check(&good.replace("\"slots\"", "\"slotz\""), "unknown field `slotz`");
    check("{\"format\":3,\"all\":\"new\"}", "it has record format 3, this build reads formats up to 2");
    let newer = Record::decode(b"{\"format\":3}", Epoch(4), None);
    assert_eq!(newer, Err(Unreadable::Format { found: 3 }));
}

/// The promise to every later build: what this one writes can be read.
#[test]
fn records_of_format_1_can_be_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/compat/record_v1.json");
    let sample = std::fs::read(path).expect("the sample is there");
    let record = Record::decode(&sample, Epoch(42), None).expect("format 1 can be read");
    assert_eq!((record.pipeline.as_str(), record.incarnation, record.slots), ("fleet", 3, 2));
    assert_eq!(record.partitions[0].partition, PartitionId::new("kinematic", "journal"));
    assert_eq!(record.partitions[0].counts.received, 1_000);
    assert_eq!(record.partitions[1].identity.as_ref().map(|i| i["topic_id"].clone()), Some("abc".into()));
    assert_eq!(record.views[0].segments.len(), 2);
    assert_eq!(record.landings().map(|t| t.rows_total).collect::<Vec<_>>(), [990]);
    let again: serde_json::Value = serde_json::from_slice(&record.encode()).expect("JSON");
    let written: serde_json::Value = serde_json::from_slice(&sample).expect("JSON");
    assert_eq!(again, written, "nothing of it is lost");
}

#[test]
fn records_of_format_2_can_be_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/compat/record_v2.json");
    let sample = std::fs::read(path).expect("the sample is there");
    let record = Record::decode(&sample, Epoch(42), None).expect("format 2 can be read");
    let since: Vec<u64> = record.feeds[0].columns.values().map(|c| c.since.0).collect();
    assert_eq!((record.feeds[0].table.as_str(), since), ("points", vec![17, 1]));
    let again: serde_json::Value = serde_json::from_slice(&record.encode()).expect("JSON");
    let written: serde_json::Value = serde_json::from_slice(&sample).expect("JSON");
    assert_eq!(again, written, "the sample is what this build would write");
}
