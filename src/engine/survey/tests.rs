//! What a survey says of sound and of broken chains.

use super::*;
use crate::checkpoint::next::{Cut, first_record, next_record};
use crate::checkpoint::record::{SegmentRef, ViewRecord};
use crate::checkpoint::testing::{author, chain, empty_cut, moved, written};
use crate::env::store::Location;

/// Three records: a claim, and two epochs of 10 and 5 messages; the last lists a segment.
async fn three() -> Chain {
    let records = Chain { location: Location::in_memory() };
    let first = first_record(chain("a"), "fleet", author("1"));
    let cut = Cut { partitions: vec![moved("p", 0, 10)], tables: vec![written("points", 7)], ..empty_cut(1) };
    let second = next_record(&first, author("2"), cut);
    let path = "state/v/00000000000000000003-0-x.arrow".to_string();
    records.location.put(&path, "rows".into()).await.unwrap();
    let segment = SegmentRef { slot: 0, epoch: Epoch(3), base: true, path, rows: 1, bytes: 4, crc32: 0 };
    let view = ViewRecord { name: "v".into(), fingerprint: "f".into(), segments: vec![segment], complete_from: None };
    let cut = Cut {
        partitions: vec![moved("p", 10, 15)],
        views: vec![view],
        tables: vec![written("points", 2)],
        ..empty_cut(2)
    };
    let third = next_record(&second, author("3"), cut);
    for record in [first, second, third] {
        records.create(&record).await.unwrap();
    }
    records
}

#[tokio::test]
async fn a_broken_chain_is_told_of_and_read_as_far_as_it_goes() {
    let check = async |problem: &str, readable: &[u64], chain: &Chain| {
        let found = survey(chain).await.unwrap();
        let epochs: Vec<u64> = found.records.iter().map(|r| r.epoch.0).collect();
        assert_eq!(epochs, readable, "{problem}");
        assert!(found.problems.len() == 1 && found.problems[0].contains(problem), "{problem}: {:?}", found.problems);
    };
    let chain = three().await;
    chain.delete("records/00000000000000000002.json").await.unwrap();
    check("\"records/00000000000000000002.json\" is missing", &[1, 3], &chain).await;
    let chain = three().await;
    chain.location.put("records/00000000000000000002.json", "{\"format\":1".into()).await.unwrap();
    check("it is damaged: EOF", &[1, 3], &chain).await;
    chain.location.put("records/00000000000000000002.json", "{\"format\":9}".into()).await.unwrap();
    check("record format 9", &[1, 3], &chain).await;
    let chain = three().await;
    chain.location.put("records/2.json", "{}".into()).await.unwrap();
    check("\"records/2.json\" is not the name of a record", &[1, 2, 3], &chain).await;
    let chain = three().await;
    chain.delete("state/v/00000000000000000003-0-x.arrow").await.unwrap();
    check("is referenced by record 3 and missing", &[1, 2, 3], &chain).await;
}

#[tokio::test]
async fn messages_and_evidence_of_each_epoch() {
    let chain = three().await;
    let found = survey(&chain).await.unwrap();
    assert_eq!(found.problems, Vec::<String>::new());
    let told: Vec<_> = found.records.iter().map(|r| (found.messages(r), found.is_applied(r))).collect();
    assert_eq!(told, [(Some(0), true), (Some(10), true), (Some(5), false)]);
    chain.delete("records/00000000000000000001.json").await.unwrap();
    let found = survey(&chain).await.unwrap();
    assert_eq!(found.problems, Vec::<String>::new(), "older records may be gone");
    assert_eq!(found.messages(&found.records[0]), None, "what came before the oldest is not known");
    let empty = survey(&Chain { location: Location::in_memory() }).await.unwrap();
    assert!(empty.head().is_none() && empty.problems.is_empty());
}
