//! What an audit finds: one sound world, and everything that can be wrong with it, planted one at a time.

use super::*;
use crate::checkpoint::audit::report::Kind;
use crate::checkpoint::next::{Cut, PartitionCut, TableCut, claim_record, first_record, next_record};
use crate::checkpoint::record::SegmentRef;
use crate::checkpoint::testing::{author, chain, empty_cut};
use crate::types::count::Counts;
use crate::types::message::REPLAY_SOURCE;
use crate::types::position::{PartitionId, Position, Span};
use crate::types::table_log::{LogBase, LogCommit};
use serde_json::{Value, json};

/// Records, logs and files as a pipeline leaves them.
struct World {
    records: Vec<(Epoch, Result<Record, Unreadable>)>,
    logs: BTreeMap<TableName, TableLog>,
    stored: BTreeMap<TableName, BTreeSet<String>>,
    known: Known,
}

fn name(table: &str) -> TableName {
    ("lake".to_string(), table.to_string())
}

fn add(path: &str, rows: u64) -> Value {
    json!({ "path": path, "dataChange": true, "stats": format!("{{\"numRecords\":{rows}}}") })
}

fn file(path: &str, rows: u64) -> LogFile {
    LogFile::of_action(&add(path, rows)).unwrap()
}

/// Messages of partition s:p, `rejected` of them set aside.
fn moved(from: u64, to: u64, rejected: u64) -> PartitionCut {
    let received = to - from;
    PartitionCut {
        partition: PartitionId::new("s", "p"),
        slot: 0,
        span: Span::new(Position(from), Position(to)),
        identity: None,
        counts: Counts { received, decoded: received - rejected, rejected, dropped: 0 },
    }
}

fn landed(table: &str, files: &[(&str, u64)]) -> TableCut {
    TableCut {
        sink: "lake".to_string(),
        table: table.to_string(),
        table_id: format!("id of {table}"),
        app_id: format!("pipe/a/lake.{table}"),
        adds: files.iter().map(|(path, rows)| add(path, *rows)).collect(),
        schema_action: None,
        rows: files.iter().map(|(_, rows)| rows).sum(),
    }
}

/// Two starts and three epochs with rows: 23 rows in points, 2 dead letters; the newest epoch not yet known as applied.
fn sound() -> World {
    let one = first_record(chain("a"), "fleet", author("1"));
    let cut = |n: u64, partition, tables| Cut { partitions: vec![partition], tables, ..empty_cut(n) };
    let letters = landed("dead_letter", &[("l1", 2)]);
    let two = next_record(
        &one,
        author("2"),
        cut(1, moved(0, 10, 2), vec![landed("points", &[("a1", 3), ("a2", 5)]), letters]),
    );
    let three = next_record(&two, author("3"), cut(2, moved(10, 20, 0), vec![landed("points", &[("b1", 10)])]));
    let mut again = author("4");
    again.owner = "host/2/0".to_string();
    let four = claim_record(&three, again.clone(), vec![]);
    again.attempt = "5".to_string();
    let five = next_record(&four, again, cut(4, moved(20, 25, 0), vec![landed("points", &[("c1", 5)])]));
    let records = vec![one, two, three, four, five];
    let mut world = World {
        logs: BTreeMap::new(),
        stored: BTreeMap::new(),
        known: Known::default(),
        records: records.iter().map(|r| (r.epoch, Ok(r.clone()))).collect(),
    };
    for table in ["points", "dead_letter"] {
        let create = LogCommit { operation: "CREATE TABLE".to_string(), ..LogCommit::default() };
        let mut log = TableLog { table_id: format!("id of {table}"), base: None, commits: vec![create] };
        for record in &records {
            for landing in record.landings().filter(|t| t.table == table) {
                log.commits.push(LogCommit {
                    version: log.commits.len() as u64,
                    operation: "STREAMING UPDATE".to_string(),
                    writer: "pipe".to_string(),
                    transactions: vec![(landing.app_id.clone(), record.epoch.0 as i64)],
                    adds: landing.adds.iter().map(|a| LogFile::of_action(a).unwrap()).collect(),
                    removes: vec![],
                });
            }
        }
        let files = log.commits.iter().flat_map(|c| &c.adds).map(|f| f.path.clone()).collect();
        world.stored.insert(name(table), files);
        world.logs.insert(name(table), log);
    }
    world
}

impl World {
    fn record(mut self, epoch: usize, change: impl FnOnce(&mut Record)) -> Self {
        change(self.records[epoch - 1].1.as_mut().expect("a sound record"));
        self
    }

    fn points(mut self, change: impl FnOnce(&mut TableLog)) -> Self {
        change(self.logs.get_mut(&name("points")).expect("the table"));
        self
    }

    /// A commit that is not the pipeline's, at the end.
    fn foreign(self, operation: &str, adds: Vec<LogFile>, removes: Vec<LogFile>) -> Self {
        let mut world = self.points(|log| {
            let version = log.commits.len() as u64;
            let (operation, writer) = (operation.to_string(), "spark".to_string());
            log.commits.push(LogCommit { version, operation, writer, adds, removes, ..LogCommit::default() });
        });
        let commits = &world.logs[&name("points")].commits;
        let files: Vec<String> = commits.last().unwrap().adds.iter().map(|f| f.path.clone()).collect();
        world.stored.get_mut(&name("points")).expect("the table").extend(files);
        world
    }

    /// The log up to this version has become a checkpoint.
    fn cleaned(self, version: u64) -> Self {
        self.points(|log| {
            let gone: Vec<LogCommit> = log.commits.drain(..=version as usize).collect();
            let files = gone.iter().flat_map(|c| c.adds.clone()).collect();
            let transactions = gone.into_iter().flat_map(|c| c.transactions).collect();
            log.base = Some(LogBase { version, files, transactions });
        })
    }

    fn report(&self) -> Report {
        let mut audit = Audit::new("fleet", "dead_letter", [name("points")].into());
        for (epoch, found) in self.records.clone() {
            audit.record(epoch, found);
        }
        for table in audit.tables() {
            audit.table(&table, &self.logs[&table], &self.stored[&table], &self.known);
        }
        audit.finish()
    }
}

/// Each finding holds its line of `expected` ("kind check subject: text"), and there is no other.
#[track_caller]
fn check(what: &str, world: World, expected: &[&str]) {
    let report = world.report();
    let found: Vec<String> = report
        .checks
        .iter()
        .flat_map(|c| c.findings.iter().map(move |f| format!("{:?} {} {}: {}", f.kind, c.what, c.subject, f.text)))
        .collect();
    let fits = found.len() == expected.len()
        && found.iter().zip(expected).all(|(f, e)| {
            let (begin, rest) = e.split_once('…').unwrap_or((e, ""));
            f.starts_with(begin) && rest.split('…').all(|part| f.contains(part))
        });
    assert!(fits, "{what}: {found:#?}");
    for finding in report.checks.iter().flat_map(|c| &c.findings) {
        assert!(
            finding.kind == Kind::Note
                || finding.hint.ends_with(['.', '0', '1', '2', '3', '4', '5', '6', '7', '8', '9'])
        );
    }
}

fn neutral(mut file: LogFile) -> LogFile {
    file.data_change = false;
    file
}

#[test]
fn a_sound_world_is_found_sound() {
    check("all of it", sound(), &[]);
    let report = sound().report();
    let of = |what: &str, subject: &str| {
        let check = report.checks.iter().find(|c| c.what == what && c.subject == subject).expect("looked at");
        check.looked_at.iter().map(|(thing, n)| format!("{n} {thing}")).collect::<Vec<_>>().join(", ")
    };
    assert_eq!(of("chain", "records"), "5 records, 2 starts");
    assert_eq!(of("source", "s"), "1 partitions, 25 messages");
    assert_eq!(of("ledger", "dead_letter"), "2 rejected");
    assert_eq!(of("table", "lake.points"), "3 epochs, 4 files, 4 commits, 23 rows");
    let mut retained = sound();
    retained.records.drain(..2);
    check("old records are cleaned away", retained, &[]);
    check("the log begins with a checkpoint", sound().cleaned(2), &[]);
    let mut both = sound().cleaned(2);
    both.records.drain(..2);
    check("both", both, &[]);
    check("the newest epoch is still to be applied", sound().points(|log| drop(log.commits.pop())), &[]);
    let later = |log: &mut TableLog| {
        let mut next = log.commits[3].clone();
        (next.version, next.transactions[0].1, next.adds[0].path) = (4, 6, "d1".to_string());
        log.commits.push(next);
    };
    check("the pipeline went on meanwhile", sound().points(later), &[]);
    let compacted = vec![neutral(file("a1", 3)), neutral(file("b1", 10))];
    check("compaction", sound().foreign("OPTIMIZE", vec![neutral(file("ab", 13))], compacted), &[]);
}

#[test]
fn records_that_do_not_follow() {
    let mut hole = sound();
    hole.records.retain(|(epoch, _)| epoch.0 != 3);
    check("a record is missing", hole, &["Difference chain records: record 3 is missing or cannot be read"]);
    let mut damaged = sound();
    damaged.records[3].1 = Err(Unreadable::Damaged { why: "EOF".to_string() });
    check(
        "a claim is damaged",
        damaged,
        &[
            "Difference chain records: record 4 (…damaged: EOF",
            "Difference chain records: record 4 is missing or cannot be read",
        ],
    );
    let mut newer = sound();
    newer.records[4].1 = Err(Unreadable::Format { found: 9 });
    check("a newer build wrote on", newer, &["Unseen chain records: record 5…format 9"]);
    let other = sound().record(5, |r| r.chain = chain("b"));
    check(
        "another chain",
        other,
        &[
            "Difference chain records: record 5 belongs to chain b",
            "Difference chain records: record 5, lake.points: its application id",
            "Difference chain records: record 5, lake.dead_letter: its application id",
        ],
    );
    check(
        "a copy of a record",
        sound().record(3, |r| r.attempt = "2".to_string()),
        &["Difference chain records: record 3 has the attempt 2"],
    );
    check(
        "evidence taken back",
        sound().record(3, |r| r.applied_through = Epoch(0)),
        &["Difference chain records: record 3: applied through 0, after 1"],
    );
    check(
        "two processes at once",
        sound().record(3, |r| r.owner = "host/9/0".to_string()),
        &["Difference chain records: records 2 and 3 share an incarnation…host/9/0"],
    );
    check(
        "a start that was none",
        sound().record(4, |r| r.incarnation = 1),
        &[
            "Difference chain records: record 4 has incarnation 1",
            "Difference chain records: records 3 and 4 share an incarnation",
            "Difference chain records: record 5 has incarnation 2",
        ],
    );
}

#[test]
fn spans_and_the_ledger() {
    let edited = |from, to| sound().record(3, move |r| r.partitions[0].span = Span::new(Position(from), Position(to)));
    check(
        "a span was edited",
        edited(12, 20),
        &[
            "Difference source s: partition \"p\", record 3: its span [12, 20) does not follow [0, 10)",
            "Difference source s: partition \"p\", record 3: 10 messages received from [12, 20)",
        ],
    );
    check(
        "its end",
        edited(10, 21),
        &["Difference source s: partition \"p\", record 4: its span [20, 20) does not follow [10, 21)"],
    );
    check(
        "a start that read",
        sound().record(4, |r| r.partitions[0].span.from = Position(19)),
        &[
            "Difference source s: partition \"p\", record 4: its span [19, 20) does not follow",
            "Difference source s: partition \"p\", record 4: a start has read nothing",
        ],
    );
    let counts = |change: fn(&mut Counts)| sound().record(5, move |r| change(&mut r.partitions[0].counts));
    check(
        "unbalanced",
        counts(|c| c.decoded += 1),
        &[
            "Difference source s: partition \"p\", record 5: the ledger does not balance: received 25, decoded 24, rejected 2, dropped 0",
        ],
    );
    check(
        "counted twice",
        counts(|c| {
            c.received += 1;
            c.decoded += 1
        }),
        &["Difference source s: partition \"p\", record 5: 6 messages received from [20, 25)"],
    );
    check(
        "counts fell",
        counts(|c| {
            c.received -= 6;
            c.decoded -= 6
        }),
        &["Difference source s: partition \"p\", record 5: counts fell"],
    );
    check(
        "a partition vanished",
        sound().record(5, |r| r.partitions.clear()),
        &[
            "Difference source s: partition \"p\" is no longer in record 5",
            "Difference ledger dead_letter: record 5: -2 messages rejected since record 4, but 0 rows",
        ],
    );
}

#[test]
fn dead_letters_that_are_missing() {
    let fewer = |r: &mut Record| {
        let letters = r.tables.iter_mut().find(|t| t.table == "dead_letter").expect("the table");
        (letters.rows, letters.rows_total, letters.adds) = (1, 1, vec![add("l1", 1)]);
    };
    let mut world = sound().record(2, fewer);
    for epoch in 3..=5 {
        world = world
            .record(epoch, |r| r.tables.iter_mut().filter(|t| t.table == "dead_letter").for_each(|t| t.rows_total = 1));
    }
    let log = world.logs.get_mut(&name("dead_letter")).expect("the table");
    log.commits[1].adds = vec![file("l1", 1)];
    check(
        "one was never written",
        world,
        &["Difference ledger dead_letter: record 2: 2 messages rejected since record 1, but 1 rows of dead letters"],
    );
}

/// Of a replayed message there is one row of dead letters, whether it failed again or not.
#[test]
fn replayed_messages_are_rows_of_dead_letters_too() {
    let replayed = |rows: u64| {
        let mut world = sound();
        let mut five = world.records[4].1.clone().expect("a sound record");
        five.applied_through = Epoch(5);
        let (id, span) = (PartitionId::new(REPLAY_SOURCE, "replay"), Span::new(Position(0), Position(2)));
        let counts = Counts { received: 2, decoded: 1, rejected: 1, dropped: 0 };
        let replay = PartitionCut { partition: id, slot: 0, span, identity: None, counts };
        let cut =
            Cut { partitions: vec![replay], tables: vec![landed("dead_letter", &[("r1", rows)])], ..empty_cut(5) };
        let mut of = author("6");
        of.owner = five.owner.clone();
        let six = next_record(&five, of, cut);
        world.records.push((Epoch(6), Ok(six)));
        world
    };
    let report = replayed(2).report();
    let ledger = report.checks.iter().find(|c| c.what == "ledger").expect("it is checked");
    assert_eq!(
        (ledger.looked_at.as_slice(), &ledger.findings),
        ([("rejected", 2), ("replayed", 2)].as_slice(), &vec![])
    );
    let report = replayed(1).report();
    let ledger = report.checks.iter().find(|c| c.what == "ledger").expect("it is checked");
    let expected = "record 6: 2 messages rejected or replayed since record 5, but 1 rows of dead letters";
    assert_eq!(ledger.findings[0].text, expected);
}

#[test]
fn rows_of_records_files_and_commits() {
    let rows = |r: &mut Record| r.tables[0].rows += 1;
    check(
        "rows emitted, not written",
        sound().record(3, rows),
        &[
            "Difference chain records: record 3, lake.points: 18 rows in all, after 8 and 11 more",
            "Difference chain records: record 3, lake.points: 11 rows were emitted, its files hold 10",
        ],
    );
    check(
        "an Add that cannot be read",
        sound().record(3, |r| r.tables[0].adds.push(json!({}))),
        &["Difference chain records: record 3, lake.points: a file without a path"],
    );
    check(
        "a file never reached the log",
        sound().points(|log| drop(log.commits[1].adds.pop())),
        &["Difference table lake.points: file \"a2\" of epoch 2 (5 rows) is not in version 1"],
    );
    check(
        "a file of nobody's",
        sound().points(|log| log.commits[1].adds.push(file("x", 1))),
        &[
            "Difference table lake.points: version 1 adds \"x\" (1 rows), which is not of epoch 2",
            "Difference table lake.points: file \"x\" (1 rows) is in the table, but not in the store",
        ],
    );
    check(
        "other rows in the log",
        sound().points(|log| log.commits[1].adds[1].rows = Some(6)),
        &["Difference table lake.points: file \"a2\" of epoch 2 has 5 rows, in version 1 it has 6"],
    );
    check(
        "an epoch is lost",
        sound().points(|log| drop(log.commits.remove(2))),
        &["Difference table lake.points: epoch 3 with 10 rows is applied"],
    );
    let twice = |log: &mut TableLog| {
        let mut again = log.commits[3].clone();
        (again.version, again.adds[0].path) = (4, "c2".to_string());
        log.commits.push(again);
    };
    check(
        "an epoch is there twice",
        sound().points(twice),
        &[
            "Difference table lake.points: epoch 5 is in the table twice: versions 3 and 4",
            "Difference table lake.points: file \"c2\" (5 rows) is in the table, but not in the store",
        ],
    );
    let unknown = |log: &mut TableLog| {
        let mut commit = log.commits[3].clone();
        (commit.transactions[0].1, commit.adds[0].path) = (4, "x".to_string());
        log.commits.insert(3, commit);
        (log.commits[3].version, log.commits[4].version) = (3, 4);
    };
    check(
        "an epoch whose record has no rows",
        sound().points(unknown),
        &[
            "Difference table lake.points: version 3 carries epoch 4 with 5 rows, but record 4 has no files",
            "Difference table lake.points: file \"x\" (5 rows) is in the table, but not in the store",
        ],
    );
    check(
        "another table",
        sound().points(|log| log.table_id = "other".to_string()),
        &["Difference table lake.points: its id is other"],
    );
    let mut lost = sound();
    lost.stored.get_mut(&name("points")).unwrap().remove("b1");
    check(
        "a file is gone from the store",
        lost,
        &["Difference table lake.points: file \"b1\" (10 rows) is in the table, but not in the store"],
    );
}

#[test]
fn what_others_wrote_is_named_and_balanced() {
    let append = || sound().foreign("WRITE", vec![file("x", 7)], vec![]);
    let noted =
        "Note table lake.points: version 4 (WRITE by spark): written by others: +7 rows, 0 files removed, 1 added";
    check("an append", append(), &[noted]);
    let mut strict = append();
    strict.known.strict = true;
    check(
        "an append, and only the pipeline writes here",
        strict,
        &["Difference table lake.points: version 4 (WRITE by spark)"],
    );
    let delete = sound().foreign("DELETE", vec![file("a3", 2)], vec![file("a2", 5)]);
    check(
        "a delete",
        delete,
        &["Note table lake.points: version 4 (DELETE by spark)…-3 rows, 1 files removed, 1 added, among them \"a2\""],
    );
    let gone = sound().foreign("OPTIMIZE", vec![], vec![neutral(file("a2", 5))]);
    check(
        "a file is removed as if it were compaction",
        gone,
        &["Difference table lake.points: version 4 (OPTIMIZE by spark): says that no data changed…-5 rows…\"a2\""],
    );
    let mut silent = file("x", 7);
    silent.rows = None;
    let silent = sound().foreign("WRITE", vec![silent], vec![]);
    check(
        "a writer without statistics",
        silent,
        &[
            "Note table lake.points: version 4",
            "Unseen table lake.points: 1 active files do not say how many rows they have, among them \"x\"",
        ],
    );
    let before = || sound().points(|log| log.commits[2].adds.push(file("x", 4)));
    let cleaned = |mut world: World| {
        world.stored.get_mut(&name("points")).unwrap().insert("x".to_string());
        world.cleaned(2)
    };
    check(
        "others wrote before the log begins",
        cleaned(before()),
        &["Difference table lake.points: 23 rows landed by the records, the table has 27: +4"],
    );
    let mut accounted = cleaned(before());
    accounted.known.foreign_rows.insert("lake.points".to_string(), 4);
    check("and somebody knows", accounted, &[]);
}

#[test]
fn marks_of_another_chain() {
    let mut audit = Audit::new("logs", "dead_letter", BTreeSet::new());
    audit.record(Epoch(1), Ok(first_record(chain("a"), "fleet", author("1"))));
    audit.mark("journal of fleet", &chain("b"));
    audit.mark("journal of other", &chain("a"));
    audit.not_looked_at("key-value store kv", "no");
    audit.table_unseen(&name("points"), "no sink", "Put it back.");
    let report = audit.finish();
    let found: Vec<&str> = report.checks.iter().flat_map(|c| &c.findings).map(|f| f.text.as_str()).collect();
    assert_eq!(found.len(), 4, "{found:?}");
    assert!(found[0].contains("of pipeline \"fleet\", not of \"logs\"") && found[1].contains("belongs to chain b"));
    assert_eq!((report.count(Kind::Difference), report.count(Kind::Unseen), report.count(Kind::Note)), (2, 1, 1));
}

#[test]
fn state_that_a_start_could_not_restore() {
    let segment = |n: u64| SegmentRef {
        slot: 0,
        epoch: Epoch(n),
        base: n == 2,
        path: format!("state/v/{n}"),
        rows: n,
        bytes: 1,
        crc32: 0,
    };
    let segments = vec![segment(2), segment(3)];
    let view = ViewRecord { name: "v".into(), fingerprint: "f".into(), segments, complete_from: None };
    let mut audit = Audit::new("fleet", "dead_letter", BTreeSet::new());
    audit.record(Epoch(1), Ok(first_record(chain("a"), "fleet", author("1"))));
    audit.state(&view, &[("state/v/3".into(), "is missing")]);
    let report = audit.finish();
    let check = report.checks.last().expect("the state was looked at");
    assert_eq!((check.what, check.looked_at.as_slice()), ("state", [("segments", 2), ("rows", 5)].as_slice()));
    assert_eq!(check.findings.len(), 1);
    assert_eq!(check.findings[0].text, "segment \"state/v/3\" is missing");
    assert_eq!(report.count(Kind::Difference), 1);
}
