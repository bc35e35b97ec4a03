//! What a start does: small listings in, one step out. Reads as the specification of `decide`.

use super::*;
use crate::checkpoint::testing::{chain, record, table_record};

/// What is there, by its parts; `check` prints the step as one line.
fn there(records: &[u64]) -> Observed {
    let head = records.iter().max().map(|newest| Ok(record(*newest)));
    Observed {
        pipeline: "fleet".to_string(),
        records: records.iter().map(|e| Epoch(*e)).collect(),
        head,
        tables: vec![],
        kv: vec![],
        journals: vec![],
    }
}

impl Observed {
    fn head(mut self, change: impl FnOnce(&mut Record)) -> Self {
        let Some(Ok(head)) = &mut self.head else { panic!("no head to change") };
        change(head);
        self
    }

    fn unreadable(mut self, unreadable: Unreadable) -> Self {
        self.head = Some(Err(unreadable));
        self
    }

    fn table(mut self, name: &str, id: &str, transactions: &[(&str, i64)]) -> Self {
        self.tables.push(ObservedTable {
            sink: "lake".to_string(),
            table: name.to_string(),
            table_id: id.to_string(),
            transactions: transactions.iter().map(|(app, v)| (app.to_string(), *v)).collect(),
        });
        self
    }

    fn kv(mut self, of: &str) -> Self {
        self.kv.push(("kv".to_string(), chain(of)));
        self
    }

    fn journal(mut self, of: &str) -> Self {
        self.journals.push(("fleet_mqtt".to_string(), chain(of)));
        self
    }
}

#[track_caller]
fn check(what: &str, observed: Observed, expected: &str) {
    let step = match decide(&observed) {
        Step::Fresh => "fresh".to_string(),
        Step::Continue { head, apply, claim } => {
            let apply: Vec<String> = apply.iter().map(Epoch::to_string).collect();
            format!("continue {}, apply [{}], claim {}/{}", head.epoch, apply.join(" "), claim.epoch, claim.incarnation)
        }
        Step::Refuse { what, hint } => {
            assert!(hint.ends_with('.'), "a hint is a sentence: {hint}");
            assert!(!what.ends_with('.') && what.chars().next().is_some_and(|c| c.is_lowercase()), "{what}");
            format!("refuse: {what}")
        }
    };
    if let Some(part) = expected.strip_prefix("refuse…") {
        assert!(step.starts_with("refuse") && step.contains(part.trim()), "{what}: {step}");
    } else {
        assert_eq!(step, expected, "{what}");
    }
}

#[test]
fn what_is_below_the_floor_is_not_part_of_the_chain() {
    let floor = |records: &[u64], floor: u64| there(records).head(|head| head.floor = Epoch(floor));
    check("left over", floor(&[3, 7, 8, 9], 7), "continue 9, apply [9], claim 10/2");
    check("two of them, and the floor lags", floor(&[2, 3, 7, 8, 9], 6), "continue 9, apply [9], claim 10/2");
    check("it may be the chain's", floor(&[6, 8, 9], 6), "refuse… record 7 is missing");
    check("no floor is known", floor(&[3, 7, 8, 9], 0), "refuse… records 4 to 6 are missing");
    assert_eq!(left_over(&floor(&[2, 3, 7, 8, 9], 7)), [Epoch(2), Epoch(3)]);
    assert_eq!(left_over(&floor(&[7, 8, 9], 7)), []);
}

#[test]
fn an_empty_location() {
    check("nothing anywhere", there(&[]), "fresh");
    check("tables, never written by pipe", there(&[]).table("points", "id-1", &[]), "fresh");
    check("a table of Spark's", there(&[]).table("points", "id-1", &[("spark-query-7", 12)]), "fresh");
    check("another table's transactions", there(&[]).table("points", "id-1", &[("pipe/a/lake.status", 12)]), "fresh");
    check("a name that only begins alike", there(&[]).table("points", "id-1", &[("pipe/a/lake.points2", 3)]), "fresh");
    check("an id that is not a chain's", there(&[]).table("points", "id-1", &[("pipe/lake.points", 3)]), "fresh");
    check(
        "a table remembers",
        there(&[]).table("points", "id-1", &[("pipe/a/lake.points", 12)]),
        "refuse: the checkpoint location holds no records, but table \"lake.points\" carries epoch 12 of \
         \"pipe/a/lake.points\"",
    );
    check(
        "the second table remembers",
        there(&[]).table("status", "id-2", &[]).table("points", "id-1", &[("pipe/a/lake.points", 1)]),
        "refuse… lake.points",
    );
    check(
        "a KV store remembers",
        there(&[]).kv("a"),
        "refuse: the checkpoint location holds no records, but the KV store of sink \"kv\" belongs to chain a",
    );
    check(
        "a journal remembers",
        there(&[]).journal("a"),
        "refuse: the checkpoint location holds no records, but the journal of source \"fleet_mqtt\" belongs to chain a",
    );
}

#[test]
fn a_sound_chain_goes_on() {
    check("the first claim alone", there(&[1]), "continue 1, apply [1], claim 2/2");
    check("several records", there(&[1, 2, 3]), "continue 3, apply [3], claim 4/2");
    check("the listing's order is not trusted", there(&[3, 1, 2]), "continue 3, apply [3], claim 4/2");
    check("a listing may repeat itself", there(&[1, 2, 2, 3]), "continue 3, apply [3], claim 4/2");
    check("old records were cleaned up", there(&[7, 8, 9]), "continue 9, apply [9], claim 10/2");
    check("only the newest is retained", there(&[9]), "continue 9, apply [9], claim 10/2");
    check("the incarnation rises", there(&[9]).head(|h| h.incarnation = 41), "continue 9, apply [9], claim 10/42");
    check(
        "apply is repeated from the evidence on",
        there(&[7, 8, 9]).head(|h| h.applied_through = Epoch(7)),
        "continue 9, apply [8 9], claim 10/2",
    );
    check(
        "several records still to apply, all retained",
        there(&[8, 9]).head(|h| h.applied_through = Epoch(7)),
        "continue 9, apply [8 9], claim 10/2",
    );
}

#[test]
fn records_that_cannot_be_read() {
    let newer = Unreadable::Format { found: 3 };
    check(
        "a newer format",
        there(&[4]).unreadable(newer.clone()),
        "refuse: the newest record \"records/00000000000000000004.json\" cannot be read: it has record format 3, this \
         build reads formats up to 2",
    );
    check("a newer format, whatever else is wrong", there(&[1, 4]).unreadable(newer), "refuse… record format 3");
    check(
        "half a record",
        there(&[4]).unreadable(Unreadable::Damaged { why: "EOF".to_string() }),
        "refuse… it is damaged: EOF",
    );
    check(
        "a record under another's name",
        there(&[4]).unreadable(Unreadable::Misplaced { why: "it is named 4 but says it is epoch 3".to_string() }),
        "refuse… it is named 4 but says it is epoch 3",
    );
    let mut vanished = there(&[4]);
    vanished.head = None;
    check("listed, then gone", vanished, "refuse… is listed but not there");
    check("not the newest was read", there(&[4]).head(|h| h.epoch = Epoch(3)), "refuse… the one read is 3");
}

#[test]
fn records_that_are_missing() {
    check(
        "one in the middle",
        there(&[1, 3]),
        "refuse: record 2 is missing from the checkpoint location, which has records up to 3",
    );
    check("several in the middle", there(&[1, 2, 6, 7]), "refuse… records 3 to 5 are missing");
    check("the first hole is named", there(&[1, 3, 5]), "refuse… record 2 is missing");
    check("a hole as wide as can be", there(&[1, u64::MAX - 1]), "refuse… records 2 to 18446744073709551613 are");
    check(
        "one that is still to apply",
        there(&[9]).head(|h| h.applied_through = Epoch(7)),
        "refuse… record 8 is missing",
    );
    check(
        "the last ones: a table is ahead",
        there(&[1, 2, 3]).table("points", "id-1", &[("pipe/a/lake.points", 5)]),
        "refuse: table \"lake.points\" holds epoch 5 of this chain, but the newest record is 3",
    );
}

#[test]
fn tables_and_their_transactions() {
    let points = |files| move |h: &mut Record| h.tables = vec![table_record("points", "id-1", files)];
    check(
        "the newest epoch is in the table: applying again is harmless",
        there(&[3]).head(points(1)).table("points", "id-1", &[("pipe/a/lake.points", 3)]),
        "continue 3, apply [3], claim 4/2",
    );
    check(
        "the newest epoch is not yet in the table",
        there(&[3]).head(points(1)).table("points", "id-1", &[("pipe/a/lake.points", 2)]),
        "continue 3, apply [3], claim 4/2",
    );
    check(
        "the table has not been written yet",
        there(&[3]).head(points(1)).table("points", "id-1", &[]),
        "continue 3, apply [3], claim 4/2",
    );
    check("a table no record knows", there(&[3]).table("new", "id-9", &[]), "continue 3, apply [3], claim 4/2");
    check(
        "another chain wrote the table too, further than we are",
        there(&[3]).head(points(0)).table("points", "id-1", &[("pipe/b/lake.points", 90)]),
        "continue 3, apply [3], claim 4/2",
    );
    check(
        "the table was made again",
        there(&[3]).head(points(0)).table("points", "id-2", &[]),
        "refuse: table \"lake.points\" has id id-2, the records were written for id-1",
    );
    check(
        "the table was made again in the middle of an apply",
        there(&[3]).head(points(2)).table("points", "id-2", &[]),
        "refuse… has id id-2",
    );
    check("an idle table may leave the config", there(&[3]).head(points(0)), "continue 3, apply [3], claim 4/2");
    check(
        "a table with decided rows may not",
        there(&[3]).head(points(1)),
        "refuse: epoch 3 has 10 rows for table \"lake.points\", which is not configured or does not exist",
    );
    check(
        "nor one whose schema is decided",
        there(&[3]).head(|h| {
            h.tables = vec![table_record("points", "id-1", 0)];
            h.tables[0].schema_action = Some(serde_json::json!({}));
        }),
        "refuse… lake.points",
    );
}

#[test]
fn things_of_another_pipeline() {
    check(
        "another pipeline's location",
        there(&[3]).head(|h| h.pipeline = "logs".to_string()),
        "refuse: the checkpoint location belongs to pipeline \"logs\", this one is \"fleet\"",
    );
    check("our KV store", there(&[3]).kv("a"), "continue 3, apply [3], claim 4/2");
    check("our journal", there(&[3]).journal("a"), "continue 3, apply [3], claim 4/2");
    check(
        "a foreign KV store",
        there(&[3]).kv("b"),
        "refuse: the KV store of sink \"kv\" belongs to chain b, the records to chain a",
    );
    check(
        "a foreign journal beside ours",
        there(&[3]).journal("a").journal("b"),
        "refuse: the journal of source \"fleet_mqtt\" belongs to chain b, the records to chain a",
    );
}

#[test]
fn after_a_put_whose_answer_was_lost() {
    let theirs = {
        let mut r = record(4);
        r.attempt = "theirs".to_string();
        r
    };
    assert_eq!(decided(None, "x"), Decided::Absent);
    assert_eq!(decided(Some(&Ok(record(4))), "x"), Decided::Ours);
    assert_eq!(decided(Some(&Ok(theirs)), "x"), Decided::Fenced { by: "host/1/0 (incarnation 1)".to_string() });
    let newer = Err(Unreadable::Format { found: 3 });
    assert!(matches!(decided(Some(&newer), "x"), Decided::Fenced { by } if by.contains("format 3")));
}
