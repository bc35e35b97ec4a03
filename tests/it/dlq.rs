//! `pipe dlq list`, `show` and `replay` over the dead letters of a real run: told, killed, refused.

use crate::audit::{PATIENCE, Pipeline, text};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::Stdio;
use std::time::{Duration, Instant};

fn lines(pipeline: &Pipeline, verb: &str, args: &[&str]) -> Vec<Value> {
    let done = pipeline.command(verb, &[args, &["--json"]].concat()).output().expect("the binary was built");
    assert!(done.status.success(), "{}", text(&done));
    let said = String::from_utf8(done.stdout).expect("UTF-8");
    said.lines().map(|l| serde_json::from_str(l).unwrap_or_else(|e| panic!("{e}: {l}"))).collect()
}

#[test]
fn dead_letters_are_counted_and_shown() {
    let pipeline = Pipeline::ran();
    let counted = lines(&pipeline, "dlq list", &[]);
    let of = |l: &Value| (l["source"].to_string(), l["reason"].to_string(), l["messages"].to_string());
    let expected = |reason: &str| ("\"t\"".to_string(), format!("\"{reason}\""), "1".to_string());
    assert_eq!(counted.iter().map(of).collect::<Vec<_>>(), [expected("syntax"), expected("type")]);
    let shown = lines(&pipeline, "dlq show", &["--where", "code = 'type'"]);
    assert_eq!(shown.len(), 1, "{shown:?}");
    assert_eq!(shown[0]["payload"], "{\"n\":\"text\"}");
    assert!(shown[0]["reason"].as_str().is_some_and(|r| r.starts_with("type: n")), "{shown:?}");
    assert_eq!(lines(&pipeline, "dlq show", &["--limit", "1"]).len(), 1);
    let people = pipeline.command("dlq show", &[]).output().expect("runs");
    assert!(text(&people).contains("  not json\n") && text(&people).contains("(2 dead letters)"), "{}", text(&people));
}

#[test]
fn a_wrong_predicate_and_a_missing_table_are_told_apart() {
    let pipeline = Pipeline::ran();
    let wrong = pipeline.command("dlq list", &["--where", "reeson = 'x'"]).output().expect("runs");
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    assert!(text(&wrong).contains("reeson"), "{}", text(&wrong));
    let unknown = pipeline.command("dlq show", &["--source", "tt"]).output().expect("runs");
    assert!(text(&unknown).contains("(0 dead letters; the config has no source \"tt\")"), "{}", text(&unknown));
    let pipeline = Pipeline::new();
    let missing = pipeline.command("dlq list", &[]).output().expect("runs");
    assert_eq!(missing.status.code(), Some(1), "{}", text(&missing));
}

/// What the replay says of itself.
#[track_caller]
fn replayed(pipeline: &Pipeline, args: &[&str]) -> Value {
    let done = pipeline.command("dlq replay", &[args, &["--json"]].concat()).output().expect("the binary was built");
    assert!(done.status.success(), "{}", text(&done));
    serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&done)))
}

#[track_caller]
fn refused(pipeline: &Pipeline, args: &[&str], code: i32, says: &str) {
    let done = pipeline.command("dlq replay", args).output().expect("the binary was built");
    assert_eq!(done.status.code(), Some(code), "{}", text(&done));
    assert!(text(&done).contains(says), "{}", text(&done));
}

#[test]
fn a_replay_that_cannot_be_says_whose_move_it_is() {
    refused(&Pipeline::new(), &[], 1, "it has never run");
    let pipeline = Pipeline::ran();
    refused(&pipeline, &["--source", "tt"], 2, "the config has no source \"tt\"\n  hint: Did you mean \"t\"?");
    refused(&pipeline, &["--reason", "typ"], 2, "Did you mean \"type\"?");
    refused(&pipeline, &["--since", "yesterday"], 2, "is neither a time nor a length of time");
    refused(&pipeline, &["--where", "reeson = 'x'"], 2, "reeson");

    let mut serving = pipeline.command("serve", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
    let lock = pipeline.path("data/lock");
    let until = Instant::now() + PATIENCE;
    while !std::fs::read_to_string(&lock).is_ok_and(|held| held == format!("pid {}\n", serving.id())) {
        assert!(Instant::now() < until && serving.try_wait().expect("a child").is_none(), "it does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    refused(&pipeline, &[], 1, "is in use by another process");
    assert_eq!(replayed(&pipeline, &["--dry-run"])["would_fail"], 2, "beside a running pipeline");
    serving.kill().expect("it runs");
    serving.wait().expect("a child that was killed ends");

    // As if the newest record were another machine's.
    let records = pipeline.path("data/checkpoint/records");
    let newest = std::fs::read_dir(records).expect("records").map(|e| e.expect("readable").path()).max().expect("one");
    let mut record: Value = serde_json::from_slice(&std::fs::read(&newest).expect("readable")).expect("JSON");
    record["owner"] = "elsewhere/1/0".into();
    std::fs::write(&newest, record.to_string()).expect("writable");
    refused(&pipeline, &[], 1, "was written on \"elsewhere\"");
    assert_eq!(replayed(&pipeline, &["--take-over"])["rejected_again"], 2);
}

#[test]
fn what_is_replayed_is_listed_no_longer() {
    let pipeline = Pipeline::ran();
    let tried = replayed(&pipeline, &["--dry-run", "--reason", "type"]);
    assert_eq!((&tried["would_replay"], &tried["would_fail"]), (&0.into(), &1.into()), "nothing is mended yet");
    let sql = std::fs::read_to_string(pipeline.path("it.sql")).expect("readable");
    std::fs::write(pipeline.path("it.sql"), sql.replace("n BIGINT NOT NULL", "n TEXT NOT NULL")).expect("writable");
    // The table in the lake has a number there: a start with the SQL as it is now is refused, and so is a replay.
    refused(&pipeline, &[], 1, "lake.t");
    std::fs::write(
        pipeline.path("it.sql"),
        sql.replace("n BIGINT NOT NULL", "n JSON NOT NULL").replace(
            "SELECT n FROM t",
            "SELECT CAST(CASE WHEN n = '\"text\"' THEN '77' ELSE n END AS BIGINT) AS n FROM t",
        ),
    )
    .expect("writable");
    let tried = replayed(&pipeline, &["--dry-run"]);
    assert_eq!((&tried["would_replay"], &tried["reasons"]["syntax"]), (&1.into(), &1.into()));
    let done = replayed(&pipeline, &[]);
    assert_eq!(
        (&done["replayed"], &done["rejected_again"], &done["reasons"]["syntax"]),
        (&1.into(), &1.into(), &1.into())
    );
    let dead = lines(&pipeline, "dlq show", &[]);
    assert_eq!((dead.len(), &dead[0]["payload"], &dead[0]["attempt"]), (1, &"not json".into(), &2.into()), "{dead:?}");
    let past = lines(&pipeline, "dlq show", &["--replayed"]);
    assert_eq!((past.len(), &past[0]["payload"], &past[0]["attempt"]), (1, &"{\"n\":\"text\"}".into(), &1.into()));
    let people = pipeline.command("dlq replay", &["--reason", "type"]).output().expect("runs");
    assert!(text(&people).contains("nothing to replay"), "{}", text(&people));
    assert_eq!(pipeline.audit(&[]).0, 0);
}

/// Nothing is claimed, and no view is reset for a replay of nothing. What a kill left between a record and its commit is not
/// nothing.
#[test]
fn a_replay_of_nothing_changes_nothing() {
    let pipeline = Pipeline::ran();
    let records = || {
        let listed = std::fs::read_dir(pipeline.path("data/checkpoint/records")).expect("records");
        listed.map(|entry| entry.expect("readable").file_name()).collect::<BTreeSet<_>>()
    };
    // A start would have to reset or rebuild views that changed.
    let sql = std::fs::read_to_string(pipeline.path("it.sql")).expect("readable");
    let more = format!("{sql}\nCREATE MATERIALIZED VIEW more AS SELECT n, min(n) AS least FROM t GROUP BY n;");
    std::fs::write(pipeline.path("it.sql"), more).expect("writable");
    let before = records();
    let done = replayed(&pipeline, &["--reason", "null"]);
    assert_eq!((&done["replayed"], &done["rejected_again"]), (&0.into(), &0.into()), "{done}");
    let people = pipeline.command("dlq replay", &["--where", "position > 1000000"]).output().expect("runs");
    assert!(people.status.success() && text(&people).contains("nothing to replay\n"), "{}", text(&people));
    assert_eq!(records(), before, "nothing was started");

    let pipeline = Pipeline::new();
    pipeline.send("{\"n\":1}\nnot json\n{\"n\":\"text\"}\n");
    pipeline.serve_once();
    let log = pipeline.path("lake/dead_letter/_delta_log");
    let commits = std::fs::read_dir(&log).expect("a table").map(|entry| entry.expect("readable").path());
    let newest = commits.filter(|path| path.extension().is_some_and(|e| e == "json")).max().expect("a commit");
    std::fs::remove_file(newest).expect("writable");
    assert_eq!(lines(&pipeline, "dlq show", &[]).len(), 0, "they have not landed");
    assert_eq!(replayed(&pipeline, &[])["rejected_again"], 2, "a start brings them to the table");
    assert_eq!(pipeline.audit(&[]).0, 0);
}

/// SIGKILL at whatever it is doing, until one comes through.
#[test]
fn a_replay_that_is_killed_again_and_again_is_exact() {
    const BAD: usize = 20_000;
    let pipeline = Pipeline::new();
    let sql = "CREATE TABLE t (n BIGINT NOT NULL, d BIGINT); INSERT INTO lake.t SELECT n, 10 / d AS q FROM t;
        CREATE MATERIALIZED VIEW v AS SELECT n % 3 AS n, count(*) AS times FROM t GROUP BY n % 3; INSERT INTO kv.v SELECT * FROM v;";
    std::fs::write(pipeline.path("it.sql"), sql).expect("writable");
    pipeline.send(&(0..BAD).map(|n| format!("{{\"n\":{n},\"d\":0}}\n")).collect::<String>());
    pipeline.serve_once();
    std::fs::write(pipeline.path("it.sql"), sql.replace("10 / d", "10 / NULLIF(d, 0)")).expect("writable");
    let mut kills = 0;
    for after in (0..).map(|n| Duration::from_millis(200 + 40 * n)) {
        let mut replay =
            pipeline.command("dlq replay", &[]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        std::thread::sleep(after);
        if let Some(status) = replay.try_wait().expect("a child") {
            assert!(status.success(), "it ended by itself: {status}");
            break;
        }
        replay.kill().expect("it runs");
        replay.wait().expect("a child that was killed ends");
        kills += 1;
    }
    assert!(kills > 0, "it was faster than the first kill");
    let left = replayed(&pipeline, &[]);
    assert_eq!((&left["replayed"], &left["rejected_again"]), (&0.into(), &0.into()), "after {kills} kills: {left}");
    pipeline.serve_once();
    let (code, report) = pipeline.audit(&["--kv"]);
    assert_eq!(code, 0, "after {kills} kills: {report:#}");
    let checks = report["checks"].as_array().expect("a list");
    let of = |subject: &str| checks.iter().find(|c| c["subject"] == subject).unwrap_or_else(|| panic!("{report:#}"));
    assert_eq!(of("lake.t")["looked_at"]["rows"], BAD, "after {kills} kills");
    assert_eq!(of("dead_letter")["looked_at"]["replayed"], BAD);
    assert_eq!(of("lake.dead_letter")["looked_at"]["rows"], 2 * BAD);
}
