//! What a clean-up deletes: small listings in, paths out. Reads as the specification of `retain`.

use super::*;
use crate::checkpoint::decide::{self, Step};
use crate::checkpoint::place::segment_path;
use crate::checkpoint::record::{SegmentRef, ViewRecord};
use crate::checkpoint::testing::{chain, record};
use std::ops::RangeInclusive;

/// A location: records with the segments each references, and what lies under `state/`.
#[derive(Clone)]
struct There {
    records: Vec<String>,
    references: BTreeMap<Epoch, Result<BTreeSet<String>, String>>,
    segments: Vec<String>,
    below_exists: bool,
    head: u64,
    claim: u64,
    retain: usize,
}

/// Segment of view "v" at `epoch`, by the attempt of that epoch.
fn segment(epoch: u64) -> String {
    segment_path("v", Epoch(epoch), 0, &format!("own{epoch}"))
}

/// Every epoch wrote one segment; every third is a base, so record N references the base at or below it and the tail since.
fn there(epochs: RangeInclusive<u64>, retain: usize) -> There {
    let referenced = |epoch: u64| (epoch - epoch % 3..=epoch).filter(|e| *e > 0).map(segment).collect();
    There {
        records: epochs.clone().map(|e| record_path(Epoch(e))).collect(),
        references: epochs.clone().map(|e| (Epoch(e), Ok(referenced(e)))).collect(),
        segments: (1..=*epochs.end()).map(segment).collect(),
        below_exists: false,
        head: *epochs.end(),
        claim: 1,
        retain,
    }
}

impl There {
    fn with(mut self, change: impl FnOnce(&mut There)) -> Self {
        change(&mut self);
        self
    }

    fn decide(&self) -> Result<Deletions, Refusal> {
        let split = split(&self.records, Epoch(self.head), self.retain)?;
        deletions(&Observed {
            split: &split,
            below_exists: self.below_exists,
            references: &self.references,
            segments: &self.segments,
            head: Epoch(self.head),
            claim: Epoch(self.claim),
        })
    }
}

#[track_caller]
fn check(what: &str, there: There, expected: &str) {
    let shown = match there.decide() {
        Err(refusal) => format!("refuse: {}", refusal.what),
        Ok(Deletions { records, segments, left }) => {
            let records: Vec<String> = records.iter().map(Epoch::to_string).collect();
            let short = |paths: &[String]| -> String {
                let names: Vec<String> = paths
                    .iter()
                    .map(|p| {
                        let name = segment_name(p).expect("only segments are deleted");
                        format!(
                            "{}{}",
                            name.epoch,
                            name.attempt
                                .trim_start_matches(char::is_alphabetic)
                                .trim_start_matches(&name.epoch.to_string())
                        )
                    })
                    .collect();
                names.join(" ")
            };
            let left = if left.is_empty() { String::new() } else { format!(", left [{}]", short(&left)) };
            format!("records [{}], segments [{}]{left}", records.join(" "), short(&segments))
        }
    };
    assert!(shown.starts_with(expected), "{what}\n  expected {expected}\n  found    {shown}");
}

#[test]
fn what_is_not_understood_stops_everything() {
    let odd = |folder: &'static str| {
        move |t: &mut There| match folder {
            "records" => t.records.push("records/notes.txt".into()),
            _ => t.segments.push("state/v/notes.txt".into()),
        }
    };
    check(
        "a stranger beside the records",
        there(1..=9, 2).with(odd("records")),
        "refuse: \"records/notes.txt\" is not",
    );
    check("a stranger beside the segments", there(1..=9, 2).with(odd("state")), "refuse: \"state/v/notes.txt\" is not");
    check(
        "a copy of a record in a folder",
        there(1..=9, 2).with(|t| t.records.push("records/old/00000000000000000001.json".into())),
        "refuse: \"records/old/",
    );
    check(
        "a retained record cannot be read",
        there(1..=9, 2).with(|t| drop(t.references.insert(Epoch(8), Err("it is damaged: EOF".into())))),
        "refuse: record 8 is retained and cannot be read: it is damaged: EOF",
    );
    check(
        "a retained record was not read",
        there(1..=9, 2).with(|t| drop(t.references.remove(&Epoch(8)))),
        "refuse: record 8 is retained and was not read",
    );
}

#[test]
fn a_listing_that_is_not_complete_stops_everything() {
    let lose = |epochs: RangeInclusive<u64>| {
        move |t: &mut There| t.records.retain(|p| !epochs.contains(&record_epoch(p).expect("a record").0))
    };
    check(
        "nothing is listed",
        there(1..=9, 2).with(lose(1..=9)),
        "refuse: the listing of records lacks the newest one, 9",
    );
    check("the head", there(1..=9, 2).with(lose(9..=9)), "refuse: the listing of records lacks the newest one, 9");
    check(
        "a retained one",
        there(1..=9, 4).with(lose(7..=7)),
        "refuse: \"records/00000000000000000007.json\" is missing",
    );
    check(
        "one that would go",
        there(1..=9, 2).with(lose(4..=4)),
        "refuse: \"records/00000000000000000004.json\" is missing",
    );
    let first_page = there(1..=9, 2).with(lose(1..=3)).with(|t| t.below_exists = true);
    check("the first page", first_page, "refuse: record 3 exists and was not listed");
    check(
        "a segment of the head",
        there(1..=9, 2).with(|t| t.segments.retain(|p| *p != segment(9))),
        "refuse: \"state/v/00000000000000000009-0-own9.arrow\" is referenced",
    );
    check(
        "a segment of an older record that is retained",
        there(1..=9, 2).with(|t| t.segments.retain(|p| *p != segment(7))),
        "refuse: \"state/v/00000000000000000007-0-own7.arrow\" is referenced",
    );
}

#[test]
fn what_nothing_retained_needs_goes() {
    check("a new chain", there(1..=1, 2), "records [], segments []");
    check("fewer than are retained", there(1..=9, 100), "records [], segments []");
    check("exactly as many", there(1..=9, 9), "records [], segments []");
    check("record 8 needs its base, of epoch 6", there(1..=9, 2), "records [1 2 3 4 5 6 7], segments [1 2 3 4 5]");
    check("one more", there(1..=9, 8), "records [1], segments []");
    check("an older clean-up", there(5..=12, 4), "records [5 6 7 8], segments [1 2 3 4 5 6 7 8]");
    check("head and parent always stay", there(1..=9, 0), "records [1 2 3 4 5 6 7], segments [1 2 3 4 5]");
}

/// Another process has claimed the chain, or our own next epoch is on its way.
#[test]
fn nothing_newer_than_the_head_goes() {
    let newer = there(1..=9, 2).with(|t| {
        t.head = 7;
        t.segments.push(segment_path("v", Epoch(10), 0, "on_its_way"));
        t.segments.push(segment_path("v", Epoch(8), 0, "of_another"));
    });
    check("newer records stay, and what they need", newer.clone(), "records [1 2 3 4 5], segments [1 2 3 4 5]");
    let unread = newer.with(|t| drop(t.references.insert(Epoch(9), Err("it is damaged".into()))));
    check("a newer record that cannot be read", unread, "refuse: record 9 is retained and cannot be read");
}

#[test]
fn orphans_of_a_crash_go_when_no_process_can_miss_them() {
    let orphan = |epoch: u64| move |t: &mut There| t.segments.push(segment_path("v", Epoch(epoch), 0, "_lost"));
    check("below the claim", there(1..=9, 9).with(|t| t.claim = 6).with(orphan(4)), "records [], segments [4_lost]");
    check(
        "of the claim's own epoch",
        there(1..=9, 9).with(|t| t.claim = 6).with(orphan(6)),
        "records [], segments [6_lost]",
    );
    check(
        "of another process since",
        there(1..=9, 9).with(|t| t.claim = 6).with(orphan(7)),
        "records [], segments [], left [7_lost]",
    );
    check(
        "the same, out of retention",
        there(1..=9, 2).with(|t| t.claim = 2).with(orphan(7)),
        "records [1 2 3 4 5 6 7], segments [1 2 3 4 5 7_lost]",
    );
    check("not decided yet", there(1..=9, 9).with(|t| t.claim = 9).with(orphan(10)), "records [], segments []");
    let of_a_view_that_is_gone = there(1..=9, 9).with(|t| {
        t.claim = 9;
        t.segments.push(segment_path("gone", Epoch(2), 0, "x"));
    });
    check("of a view that no retained record knows", of_a_view_that_is_gone, "records [], segments [2]");
}

/// Crash points: after every single deletion the chain is sound for a start, the head has its segments, and the next
/// clean-up brings about the same end.
#[test]
fn a_clean_up_may_end_at_any_point() {
    for retain in 2..12 {
        let before = there(1..=20, retain);
        let all = before.decide().expect("a sound chain");
        let end = after(&before, &all, usize::MAX);
        for done in 0..=all.records.len() + all.segments.len() {
            let crashed = after(&before, &all, done);
            let epochs: Vec<Epoch> = crashed.records.iter().filter_map(|p| record_epoch(p)).collect();
            let observed = decide::Observed {
                pipeline: "fleet".into(),
                records: epochs.clone(),
                head: Some(Ok(record(20))),
                tables: vec![],
                kv: vec![],
                journals: vec![],
            };
            let Step::Continue { head, apply, .. } = decide::decide(&observed) else {
                panic!("retain {retain}, after {done} deletions: a start would refuse {epochs:?}");
            };
            assert_eq!((head.epoch, apply), (Epoch(20), vec![Epoch(20)]));
            for epoch in &epochs {
                let needed = crashed.references[epoch].as_ref().expect("readable");
                let is_there = |p: &String| crashed.segments.contains(p);
                assert!(needed.iter().all(is_there), "retain {retain}, after {done}: record {epoch} lacks segments");
            }
            let again = crashed.decide().expect("a chain whose first records are gone is sound");
            let healed = after(&crashed, &again, usize::MAX);
            assert_eq!((healed.records, healed.segments), (end.records.clone(), end.segments.clone()));
            assert_eq!(end.decide().expect("sound"), Deletions::default(), "a second clean-up has nothing to do");
        }
    }
}

/// `there` when the first `done` deletions have happened.
fn after(there: &There, deletions: &Deletions, done: usize) -> There {
    let order: Vec<String> =
        deletions.records.iter().map(|e| record_path(*e)).chain(deletions.segments.iter().cloned()).collect();
    let gone = &order[..done.min(order.len())];
    there.clone().with(|t| {
        t.records.retain(|p| !gone.contains(p));
        t.segments.retain(|p| !gone.contains(p));
    })
}

#[test]
fn what_a_record_needs() {
    let mut sound = record(4);
    let of = |path: &str| SegmentRef {
        slot: 0,
        epoch: Epoch(3),
        base: true,
        path: path.into(),
        rows: 1,
        bytes: 1,
        crc32: 1,
    };
    sound.views = vec![ViewRecord {
        name: "v".into(),
        fingerprint: "f".into(),
        segments: vec![of("state/v/b"), of("state/v/t")],
        complete_from: None,
    }];
    let both = ["state/v/b".to_string(), "state/v/t".to_string()];
    assert_eq!(references(Some(Ok(sound.clone())), &chain("a")), Ok(BTreeSet::from(both)));
    assert_eq!(references(Some(Ok(sound)), &chain("b")), Err("it belongs to chain a".into()));
    assert!(references(None, &chain("a")).is_err_and(|why| why.contains("not there")));
    let newer = Unreadable::Format { found: 2 };
    assert!(references(Some(Err(newer)), &chain("a")).is_err_and(|why| why.contains("format 2")));
}
