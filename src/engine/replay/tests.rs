//! Replays of whole pipelines over files, in this process: exact however often they run and however they end.

use super::*;
use crate::engine::assemble::Assembled;
use crate::engine::audit::{AuditOptions, audit};
use crate::engine::dead_letter::{self, Fate, Letter};
use crate::engine::running::Running;
use crate::engine::start;
use crate::engine::testing::{assembled, started};
use crate::env::store;
use crate::query::dead_letters::Which;
use crate::sinks::delta::config::FloatEncoding;
use crate::sinks::delta::sink::DeltaSink;
use crate::sinks::delta::table::{Landing, TableSpec};
use crate::state::view::FrozenView;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::lineage::Origin;
use crate::types::reject::RejectReason;
use arrow::util::display::FormatOptions;
use arrow::util::pretty::pretty_format_batches_with_options;
use datafusion::prelude::SessionContext;
use std::collections::BTreeMap;
use tempfile::TempDir;

/// Rows carry who they are; the view that fails is one of two outputs.
const TABLES: &str = "CREATE TABLE t (n INT NOT NULL, text TEXT);
    CREATE MATERIALIZED VIEW total AS SELECT n % 2 AS odd, count(*) AS times, sum(n) AS added FROM t GROUP BY n % 2;
    INSERT INTO kv.total SELECT * FROM total;
    INSERT INTO lake.t SELECT n, v, _source AS source, _partition AS partition, _position AS position FROM parsed;";
const FAILING: &str = "CREATE VIEW parsed AS SELECT n, CAST(text AS INT) AS v, _source, _partition, _position FROM t;";
const MENDED: &str =
    "CREATE VIEW parsed AS SELECT n, CAST(NULLIF(text, 'bad') AS INT) AS v, _source, _partition, _position FROM t;";

const MORE: &str = "[checkpoint]\ninterval = '10ms'\nlocation = 'shared'\n[sink.kv]\ntype = 'kv'\n";

struct World {
    dir: TempDir,
}

impl World {
    /// `lines` are read under the SQL that fails on some of them.
    async fn over(lines: &str) -> World {
        let world = World::new(lines, FAILING);
        world.serve("one").await;
        world
    }

    fn new(lines: &str, parsed: &str) -> World {
        let world = World { dir: tempfile::tempdir().unwrap() };
        std::fs::write(world.dir.path().join("in.jsonl"), lines).unwrap();
        world.sql(parsed);
        world
    }

    fn sql(&self, parsed: &str) {
        std::fs::write(self.dir.path().join("t.sql"), format!("{TABLES}\n{parsed}")).unwrap();
    }

    async fn assembled(&self, data_dir: &str) -> Assembled {
        assembled(self.dir.path(), data_dir, false, MORE).await
    }

    /// `serve --once`; what it says of the key-value table in the end.
    async fn serve(&self, data_dir: &str) -> Vec<String> {
        let mut running = started(self.dir.path(), data_dir, true, MORE).await;
        running.wait().await.unwrap_or_else(|e| panic!("{e}"));
        let table = running.live.kv["kv"].table("total").expect("it is written");
        let mut rows: Vec<String> = Vec::new();
        for odd in [0, 1] {
            let key = table.key(&[odd.into()]).unwrap();
            rows.extend(table.get(&key).unwrap().map(|row| format!("{row:?}")));
        }
        closed(running).await;
        rows
    }

    async fn replaying(&self, data_dir: &str, older: bool, limit: Option<usize>) -> (Running, Replay) {
        let assembled = self.assembled(data_dir).await;
        let head = crate::engine::difference::head(&assembled.config).await.unwrap().expect("it has run");
        let replay = Replay {
            wish: Wish::default(),
            limit,
            of: Replayable { chain: head.chain.to_string(), sources: vec!["t".into()], older },
            memory_bytes: 64 << 20,
            left: Arc::default(),
        };
        let running = start::replay(assembled, replay.clone()).await.unwrap_or_else(|e| panic!("{e}"));
        (running, replay)
    }

    /// A dry run over all that is dead.
    async fn tried(&self) -> Tried {
        let assembled = self.assembled("one").await;
        let lake = store::open(self.dir.path().join("lake").to_str().unwrap(), &BTreeMap::new()).unwrap();
        let table = crate::sinks::delta::history::newest(&lake, dead_letter::TABLE, "").await.unwrap().unwrap();
        let letters = DeadLetters::new(table, &Wish::default(), 64 << 20).await.unwrap();
        let rows = letters.in_order(None).await.unwrap();
        try_out(rows, assembled.plan, &assembled.decoding, &Clock::System).await.unwrap()
    }

    /// (handed over, rejected again, hot state)
    async fn replay(&self, limit: Option<usize>) -> (u64, u64, Vec<String>) {
        let (mut running, _) = self.replaying("one", false, limit).await;
        running.wait().await.unwrap_or_else(|e| panic!("{e}"));
        let handed = running.live.sources[REPLAY_SOURCE].status.messages_in.load(Ordering::Relaxed);
        let rejected = running.live.published().iter().flat_map(|p| p.rejects.values()).sum();
        let hot = hot(&running);
        closed(running).await;
        (handed, rejected, hot)
    }

    /// Rows of an answer over the lake's tables as they are committed.
    async fn ask(&self, sql: &str) -> Vec<String> {
        let session = SessionContext::new();
        let lake = store::open(self.dir.path().join("lake").to_str().unwrap(), &BTreeMap::new()).unwrap();
        for table in ["t", "dead_letter"] {
            let newest = crate::sinks::delta::history::newest(&lake, table, table).await.unwrap().expect("the table");
            session.register_table(table, newest).unwrap();
        }
        lines(&session.sql(sql).await.unwrap().collect().await.unwrap())
    }

    /// (dead, replayed): positions and attempts.
    async fn letters(&self) -> (Vec<String>, Vec<String>) {
        let mut found = Vec::new();
        for which in [Which::Dead, Which::Replayed] {
            let lake = store::open(self.dir.path().join("lake").to_str().unwrap(), &BTreeMap::new()).unwrap();
            let table = crate::sinks::delta::history::newest(&lake, dead_letter::TABLE, "").await.unwrap().unwrap();
            let wish = Wish { which, ..Wish::default() };
            let letters = DeadLetters::new(table, &wish, 64 << 20).await.unwrap();
            let shown = letters.shown(10_000).await.unwrap();
            let kept = ["position", "attempt", "reason", "payload"].map(|c| shown.schema.index_of(c).unwrap());
            let mut rows: Vec<String> =
                lines(&shown.rows.iter().map(|r| r.project(&kept).unwrap()).collect::<Vec<_>>());
            rows.sort();
            found.push(rows);
        }
        let replayed = found.pop().unwrap();
        (found.pop().unwrap(), replayed)
    }

    /// Records, ledger, tables and files tell one story.
    async fn audited(&self) {
        let options = AuditOptions { kv: true, ..AuditOptions::default() };
        let report = audit(&self.assembled("one").await, &options).await.unwrap();
        let findings: Vec<_> = report.checks.iter().flat_map(|c| &c.findings).collect();
        assert!(findings.is_empty(), "{findings:?}");
    }
}

/// Until nothing of it is open any more: the next start takes the same directory.
async fn closed(running: Running) {
    let live = running.live.clone();
    drop(running);
    while Arc::strong_count(&live) > 1 {
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

fn lines(rows: &[RecordBatch]) -> Vec<String> {
    let text = pretty_format_batches_with_options(rows, &FormatOptions::new().with_null("-")).unwrap().to_string();
    let rows = text.lines().skip(3).filter(|l| !l.starts_with('+'));
    rows.map(|l| l.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ")).collect()
}

fn hot(running: &Running) -> Vec<String> {
    let shares: Vec<FrozenView> = running.live.published().iter().map(|p| p.view.views[0].clone()).collect();
    let mut rows = lines(&FrozenView::read(&running.live.plan.views[0], &shares).unwrap());
    rows.sort();
    rows
}

/// What a file has not: topic, key, headers, a time of the source's own.
#[test]
fn a_message_comes_out_of_its_row_as_it_went_in() {
    let first = Message {
        position: Position(41),
        topic: Some("fleet/7/status".into()),
        key: Some(Bytes::from_static(b"\xffk")),
        payload: Some(Bytes::from_static(b"{\"n\":\xfe}")),
        headers: Some(Arc::new(vec![("h".into(), Some(Bytes::from_static(b"\xfe"))), ("h".into(), None)])),
        timestamp_us: Some(-1),
        received_at_us: 1_767_323_045_000_001,
        replayed: None,
    };
    let origin = |position: u64, topic: Option<&str>| Origin {
        partition: Arc::new(PartitionId::new("status", "vehicle.status/3")),
        partition_label: "3".into(),
        topic: topic.map(Into::into),
        position: Position(position),
    };
    let reason = RejectReason::Syntax("x".into());
    let bare = Message { topic: None, key: None, payload: None, headers: None, timestamp_us: None, ..first.clone() };
    let (of_first, of_bare) = (origin(41, Some("fleet/7/status")), origin(u32::MAX.into(), None));
    let letters = [
        Letter { origin: &of_first, message: &first, fate: Fate::Rejected(&reason) },
        Letter { origin: &of_bare, message: &bare, fate: Fate::Rejected(&reason) },
    ];
    let again = messages(&dead_letter::rows(&ChainId("c".into()), &letters)).unwrap();
    for (sent, again, position) in [(&first, &again[0], 41), (&bare, &again[1], u32::MAX.into())] {
        let replayed = Replayed {
            source: "status".into(),
            partition_label: "3".into(),
            position: Position(position),
            attempts: 1,
        };
        let expected = Message { position: Position(0), replayed: Some(Arc::new(replayed)), ..sent.clone() };
        assert_eq!(format!("{again:?}"), format!("{expected:?}"));
    }
    // It fails again; and then a rule drops it.
    let again = &again[0];
    let letters = [
        Letter { origin: &of_first, message: again, fate: Fate::Rejected(&reason) },
        Letter { origin: &of_first, message: again, fate: Fate::Dropped },
    ];
    let rows = dead_letter::rows(&ChainId("c".into()), &letters);
    let kept = ["attempt", "reason", "payload"].map(|c| rows.schema().index_of(c).unwrap());
    let text = lines(&[rows.project(&kept).unwrap()]);
    assert_eq!(text, ["2 syntax: x 7b226e223afe7d", "2 replayed: dropped by a rule of the config -"]);
}

const LINES: &str = "{\"n\":1,\"text\":\"10\"}\n{\"n\":2,\"text\":\"bad\"}\nnot json\n{\"n\":3,\"text\":\"worse\"}\n\
                     {\"n\":5,\"text\":\"bad\"}\n";

#[tokio::test(flavor = "multi_thread")]
async fn what_was_mended_lands_once_and_what_fails_again_stays() {
    let world = World::over(LINES).await;
    let (dead, _) = world.letters().await;
    assert_eq!(dead.len(), 4, "{dead:?}");
    let received = world.ask("SELECT received_at FROM dead_letter GROUP BY received_at").await;
    // Under the same SQL all fail again.
    assert_eq!(world.tried().await, Tried { replayed: 0, reasons: [("sql", 3), ("syntax", 1)].into() });
    assert_eq!(world.replay(None).await, (4, 4, vec!["1 1 1".to_string()]));

    world.sql(MENDED);
    assert_eq!(world.tried().await, Tried { replayed: 2, reasons: [("sql", 1), ("syntax", 1)].into() });
    let (handed, rejected, hot) = world.replay(None).await;
    assert_eq!((handed, rejected), (4, 2));
    assert_eq!(hot, ["0 1 2", "1 2 6"]);
    let rows = ["1 10 t in.jsonl 0", "2 - t in.jsonl 20", "5 - t in.jsonl 73"];
    assert_eq!(world.ask("SELECT * FROM t ORDER BY n").await, rows);
    let (dead, replayed) = world.letters().await;
    assert!(dead[0].starts_with("41 3 syntax:") && dead[0].ends_with("not json"), "{dead:?}");
    assert!(dead[1].starts_with("50 3 sql:insert lake.t:") && dead[1].contains("worse") && dead.len() == 2, "{dead:?}");
    assert!(replayed[0].starts_with("20 2 sql:insert lake.t:") && replayed[0].contains("\"bad\""), "{replayed:?}");
    assert!(replayed[1].starts_with("73 2 sql:insert lake.t:") && replayed.len() == 2, "{replayed:?}");
    world.audited().await;

    let (handed, rejected, again) = world.replay(None).await;
    assert_eq!((handed, rejected, again), (2, 2, hot), "only what is dead comes again");
    assert_eq!(world.ask("SELECT * FROM t ORDER BY n").await, rows);
    assert_eq!(world.ask("SELECT received_at FROM dead_letter GROUP BY received_at").await, received);
    assert_eq!(world.ask("SELECT max(attempt) FROM dead_letter").await, ["4"]);
    let kv = world.serve("one").await;
    assert!(kv.len() == 2 && kv[0].contains('2') && kv[1].contains('6'), "written anew from state: {kv:?}");
    assert_eq!(world.ask("SELECT * FROM t ORDER BY n").await, rows);
    world.audited().await;
}

/// The later start has the chain; of the earlier only what was decided counts.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_cut_short_neither_loses_nor_doubles() {
    const BAD: i64 = 4_000;
    let lines: String = (0..BAD).map(|n| format!("{{\"n\":{n},\"text\":\"bad\"}}\n")).collect();
    let world = World::over(&lines).await;
    assert_eq!(world.ask("SELECT count(*) FROM t").await, ["0"]);
    world.sql(MENDED);
    let (mut fenced, mut ended) = (0, Vec::new());
    for data_dir in ["one", "two", "three", "four"] {
        let (running, _) = world.replaying(data_dir, false, None).await;
        ended.push(running);
        // Some epochs later, in the middle of one.
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    for mut running in ended {
        match running.wait().await {
            Ok(()) => {}
            Err(Error::Fenced(_)) => fenced += 1,
            Err(e) => panic!("{e}"),
        }
        closed(running).await;
    }
    // Told to stop in the middle, and a few at a time.
    let (mut running, _) = world.replaying("one", false, None).await;
    running.stop();
    running.wait().await.unwrap_or_else(|e| panic!("{e}"));
    closed(running).await;
    world.replay(Some(7)).await;
    let (_, rejected, hot) = world.replay(None).await;
    assert_eq!(rejected, 0, "{fenced} replays were fenced");
    let added = |odd: i64| (0..BAD).filter(|n| n % 2 == odd).sum::<i64>();
    assert_eq!(hot, [format!("0 {} {}", BAD / 2, added(0)), format!("1 {} {}", BAD / 2, added(1))]);
    let counts = "SELECT count(*), count(DISTINCT n), count(DISTINCT position) FROM t";
    assert_eq!(world.ask(counts).await, [format!("{BAD} {BAD} {BAD}")]);
    let replayed = "SELECT count(*) FROM dead_letter WHERE reason = 'replayed' AND attempt = 2 AND payload IS NULL";
    assert_eq!(world.ask(replayed).await, [BAD.to_string()]);
    assert!(world.letters().await.0.is_empty());
    assert_eq!(world.replay(None).await.0, 0, "nothing is left");
    world.audited().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_of_an_older_build_are_left_alone_unless_asked_for() {
    let world = World::new("{\"n\":1,\"text\":\"1\"}\n", MENDED);
    let lake = store::open(world.dir.path().join("lake").to_str().unwrap(), &BTreeMap::new()).unwrap();
    let sink = DeltaSink::at("lake", lake, FloatEncoding::Plain).await.unwrap();
    let schema = Arc::new(dead_letter::schema().project(&(0..10).collect::<Vec<_>>()).unwrap());
    let spec = TableSpec { name: dead_letter::TABLE.into(), schema: schema.clone(), partition_by: vec![] };
    let table = sink.open_table(spec, "somebody").await.unwrap();
    let session = SessionContext::new();
    let letter = "SELECT 't' AS source, CAST(NULL AS TEXT) AS topic, 'old.jsonl' AS partition, CAST(7 AS BIGINT) AS position, \
        arrow_cast('k', 'Binary') AS key, arrow_cast('2026-01-02T03:04:05Z', 'Timestamp(Microsecond, Some(\"UTC\"))') \
        AS received_at, 'type: n: x' AS reason, CAST(NULL AS TEXT) AS statement, CAST(1 AS INT) AS attempt, \
        arrow_cast('{\"n\":40,\"text\":\"4\"}', 'Binary') AS payload";
    let rows = session.sql(letter).await.unwrap().collect().await.unwrap();
    let columns = rows[0].columns().iter().zip(schema.fields()).map(|(c, f)| cast(c, f.data_type()).unwrap());
    let rows = RecordBatch::try_new(schema.clone(), columns.collect()).unwrap();
    let mut writer = table.writer().unwrap();
    writer.write(&rows).await.unwrap();
    let adds = writer.finish().await.unwrap().adds;
    table.apply(Epoch(1), &Landing { app_id: "somebody".into(), adds, schema_action: None }).await.unwrap();

    world.serve("one").await;
    let (mut running, replay) = world.replaying("one", false, None).await;
    running.wait().await.unwrap_or_else(|e| panic!("{e}"));
    closed(running).await;
    let left = LeftBehind { source: "t".into(), why: Why::Older, messages: 1 };
    assert_eq!(*replay.left.lock().unwrap(), [left]);
    assert_eq!(world.ask("SELECT n FROM t").await, ["1"]);
    for _ in 0..2 {
        let (mut running, replay) = world.replaying("one", true, None).await;
        running.wait().await.unwrap_or_else(|e| panic!("{e}"));
        closed(running).await;
        assert!(replay.left.lock().unwrap().is_empty());
        assert_eq!(world.ask("SELECT * FROM t ORDER BY n").await, ["1 1 t in.jsonl 0", "40 4 t old.jsonl 7"]);
        assert_eq!(world.letters().await.0, [""; 0]);
    }
    // The table has grown by what it lacked.
    assert_eq!(world.ask("SELECT count(chain), count(*) FROM dead_letter").await, ["1 2"]);
}
