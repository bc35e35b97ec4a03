//! Starts with other SQL over a real Delta table: a view's new state is what a batch query gives, or it starts empty and
//! says why.

use super::*;
use crate::checkpoint::next::{Cut, PartitionCut, TableCut, next_record};
use crate::checkpoint::testing::{author, empty_cut, moved};
use crate::config::section::Section;
use crate::engine::assemble::DeltaPart;
use crate::engine::checkpointer::Authorship;
use crate::engine::lake::{DeltaLake, Lake};
use crate::engine::recover::{Recovery, restore_views};
use crate::engine::start::wanted_tables;
use crate::env::offload::Offload;
use crate::env::store::testing::{Fault, Hostile, Op};
use crate::env::uuids::Uuids;
use crate::sinks::delta::config::{DeltaTableConfig, validate};
use crate::sinks::delta::table::{Landing, TableSpec};
use crate::sql::plan::SqlFile;
use crate::state::view::FrozenView;
use crate::types::catalog::{Catalog, SinkKind, SourceFacts};
use arrow::array::{Int32Array, Int64Array};
use arrow::util::pretty::pretty_format_batches;
use std::collections::BTreeMap;

const TABLE: &str = "CREATE TABLE s (id TEXT NOT NULL, n INT, tags TEXT[]);\n";
const SUMS: &str = "CREATE MATERIALIZED VIEW v AS SELECT id, sum(n) AS s FROM s GROUP BY id;\n";
const LATEST: &str = "CREATE MATERIALIZED VIEW v AS SELECT DISTINCT ON (id) id, n, tags FROM s ORDER BY id, n DESC;\n";
const INSERT: &str = "INSERT INTO lake.raw SELECT *, _topic, _partition, _position FROM s;\n";

async fn plan(text: &str) -> Plan {
    let mut catalog = Catalog::default();
    catalog.sources.insert("s".into(), SourceFacts::default());
    catalog.sinks.insert("lake".into(), SinkKind::Append);
    let files = [SqlFile { path: "a.sql".into(), text: format!("{TABLE}{text}") }];
    crate::sql::compile(&files, &catalog).await.unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// One pipeline over its lives.
struct Pipeline {
    dir: tempfile::TempDir,
    store: Arc<Hostile>,
    chain: Chain,
    state_bytes: u64,
    partition_by: Vec<String>,
}

struct Started {
    claim: Record,
    lake: DeltaLake,
    plan: Plan,
    /// Of the first INSERT's table.
    spec: TableSpec,
}

/// (id, n, topic, partition, position)
type Row = (&'static str, Option<i32>, &'static str, &'static str, u64);

impl Pipeline {
    fn new() -> Pipeline {
        let (store, location) = Hostile::location();
        let dir = tempfile::tempdir().unwrap();
        Pipeline { dir, store, chain: Chain { location }, state_bytes: 1 << 20, partition_by: vec![] }
    }

    async fn start(&self, text: &str) -> Result<Started> {
        let plan = plan(text).await;
        let text = format!("uri = '{}'\nfloat_encoding = 'plain'", self.dir.path().display());
        let section = Section::from_text("delta", "lake", &text).unwrap();
        let table = DeltaTableConfig { partition_by: self.partition_by.clone(), ..Default::default() };
        let tables = BTreeMap::from([("raw".to_string(), table)]);
        let delta =
            BTreeMap::from([("lake".to_string(), DeltaPart { config: validate(&section).unwrap(), section, tables })]);
        let wanted = wanted_tables(&plan, "lake", &delta);
        let spec = wanted[0].1.clone();
        let lake = DeltaLake::new(delta);
        let author = Authorship { owner: "here/1/0".into(), slots: 2, uuids: Uuids::Random };
        let recovery = Recovery {
            chain: &self.chain,
            pipeline: "fleet",
            plan: &plan,
            author: &author,
            clock: &Clock::System,
            lake: &lake,
            wanted,
            kv: &BTreeMap::new(),
            journals: vec![],
            state_bytes: self.state_bytes,
            offload: Offload::Pool,
        };
        let claim = recovery.run().await?.claim;
        Ok(Started { claim, lake, plan, spec })
    }

    /// One epoch: its rows into the lake's files and its record written. Not applied: a start rolls it forward.
    async fn epoch(&self, started: &Started, head: &Record, rows: &[Row]) -> Record {
        let insert = &started.plan.inserts[0];
        let app_id = head.chain.app_id("lake", "raw");
        let table = started.lake.open("lake", started.spec.clone(), &app_id).await.unwrap();
        let mut writer = table.writer(1 << 20).unwrap();
        let columns = insert.schema.fields().iter().map(|field| -> arrow::array::ArrayRef {
            match field.name().as_str() {
                "id" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.0))),
                "n" => Arc::new(Int32Array::from_iter(rows.iter().map(|r| r.1))),
                "_topic" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.2))),
                "_partition" => Arc::new(StringArray::from_iter_values(rows.iter().map(|r| r.3))),
                "_position" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.4 as i64))),
                _ => arrow::array::new_null_array(field.data_type(), rows.len()),
            }
        });
        let batch = RecordBatch::try_new(insert.schema.clone(), columns.collect()).unwrap();
        writer.write(&batch).await.unwrap();
        let files = writer.finish().await.unwrap();
        let written = TableCut {
            sink: "lake".into(),
            table: "raw".into(),
            table_id: table.id(),
            app_id,
            adds: files.adds,
            schema_action: table.pending_schema_action(),
            rows: files.rows,
        };
        let at = head.partitions.first().map_or(0, |p| p.span.to.0);
        let partitions: Vec<PartitionCut> = vec![moved("p", at, at + rows.len() as u64)];
        let cut = Cut { partitions, tables: vec![written], views: head.views.clone(), ..empty_cut(head.epoch.0) };
        let record = next_record(head, author(&format!("e{}", head.epoch.0)), cut);
        self.chain.create(&record).await.unwrap();
        record
    }

    /// Two epochs of a pipeline without the view, or with another one.
    async fn fed(&self, text: &str, rows: &[Row]) -> Record {
        let started = self.start(text).await.unwrap();
        let (first, second) = rows.split_at(rows.len() / 2);
        let head = self.epoch(&started, &started.claim, first).await;
        started.apply(&head).await;
        self.epoch(&started, &head, second).await
    }

    /// What readers see after a start: the view's rows from all slots, sorted.
    async fn shown(&self, started: &Started) -> Vec<String> {
        let slots = restore_views(&self.chain, &started.plan, &started.claim, 2, Offload::Pool).await.unwrap();
        let shares: Vec<FrozenView> = slots.iter().map(|views| views[0].freeze()).collect();
        let rows = FrozenView::read(&started.plan.views[0], &shares).unwrap();
        let text = pretty_format_batches(&rows).unwrap().to_string();
        let mut lines: Vec<String> = text
            .lines()
            .filter(|l| l.starts_with('|'))
            .skip(1)
            .map(|l| l.split('|').map(str::trim).filter(|c| !c.is_empty()).collect::<Vec<_>>().join(" "))
            .collect();
        lines.sort();
        lines
    }
}

impl Started {
    async fn apply(&self, record: &Record) {
        for landing in record.landings() {
            let table = self.lake.open("lake", self.spec.clone(), &landing.app_id).await.unwrap();
            let action = Landing {
                app_id: landing.app_id.clone(),
                adds: landing.adds.clone(),
                schema_action: landing.schema_action.clone(),
            };
            table.apply(record.epoch, &action).await.unwrap();
        }
    }

    fn complete_from(&self) -> Option<u64> {
        self.claim.views[0].complete_from.map(|epoch| epoch.0)
    }
}

const ROWS: [Row; 6] = [
    ("x", Some(1), "t", "0", 0),
    ("y", Some(9), "t", "0", 1),
    ("x", Some(5), "t", "1", 7),
    ("z", None, "t", "0", 2),
    ("x", Some(3), "t", "0", 3),
    ("y", Some(-4), "t", "1", 8),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_view_is_what_a_batch_query_gives() {
    let pipeline = Pipeline::new();
    let head = pipeline.fed(&format!("{SUMS}{INSERT}"), &ROWS).await;
    for (view, expected) in [
        ("SELECT id, max(n) AS s FROM s GROUP BY id", ["x 5", "y 9", "z"].as_slice()),
        ("SELECT id, count(*) AS c FROM s WHERE n > 0 GROUP BY id", &["x 3", "y 1"]),
        ("SELECT n % 2 AS odd, sum(n) AS s FROM s WHERE n IS NOT NULL GROUP BY n % 2", &["0 -4", "1 18"]),
        ("SELECT id, count(*) AS c FROM s WHERE n > 100 GROUP BY id", &[]),
    ] {
        let text = format!("CREATE MATERIALIZED VIEW v AS {view};\n{INSERT}");
        let started = pipeline.start(&text).await.unwrap();
        assert_eq!(
            (pipeline.shown(&started).await.as_slice(), started.complete_from()),
            (expected_of(expected).as_slice(), None),
            "{view}"
        );
        // One claim before the rebuild and one with its state.
        assert!(
            started.claim.epoch >= Epoch(head.epoch.0 + 2) && started.claim.views[0].segments.iter().all(|s| s.base)
        );
    }
    let again = pipeline.start(&format!("{SUMS}{INSERT}")).await.unwrap();
    assert_eq!(pipeline.shown(&again).await, ["x 9", "y 5", "z"]);
    // What was not changed is restored, under one claim.
    let same = pipeline.start(&format!("{SUMS}{INSERT}")).await.unwrap();
    assert_eq!(
        (pipeline.shown(&same).await, same.claim.epoch),
        (pipeline.shown(&again).await, again.claim.epoch.next())
    );
}

fn expected_of(lines: &[&str]) -> Vec<String> {
    lines.iter().map(ToString::to_string).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn ties_of_distinct_on_fall_as_they_did_live() {
    let pipeline = Pipeline::new();
    // By partition, then position; not by when they were written.
    let rows: [Row; 6] = [
        ("x", Some(5), "t", "1", 2),
        ("x", Some(5), "t", "0", 90),
        ("y", Some(7), "b", "0", 1),
        ("y", Some(7), "a", "9", 9),
        ("z", Some(1), "t", "0", 12),
        ("z", Some(1), "t", "0", 11),
    ];
    pipeline.fed(INSERT, &rows).await;
    let with_position = LATEST.replace("id, n, tags FROM", "id, n, _topic, _partition, _position FROM");
    let started = pipeline.start(&format!("{with_position}{INSERT}")).await.unwrap();
    assert_eq!(started.complete_from(), None);
    assert_eq!(pipeline.shown(&started).await, ["x 5 t 1 2", "y 7 b 0 1", "z 1 t 0 12"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_cut_short_begins_again() {
    let pipeline = Pipeline::new();
    let head = pipeline.fed(&format!("{SUMS}{INSERT}"), &ROWS).await;
    let changed = format!("{}{INSERT}", SUMS.replace("sum(n)", "min(n)"));
    for fault in [Fault::Before, Fault::AfterLanding] {
        pipeline.store.strike(Op::Put, "state/v", fault);
        assert!(pipeline.start(&changed).await.is_err());
        let newest = *pipeline.chain.epochs().await.unwrap().last().unwrap();
        let record = pipeline.chain.read(newest).await.unwrap().unwrap().unwrap();
        assert_eq!(record.views, head.views, "the view's old state stays in the record until there is a new one");
    }
    pipeline.store.strike(Op::Put, &format!("{:020}.json", head.epoch.0 + 4), Fault::Before);
    pipeline.store.strike(Op::Get, &format!("{:020}.json", head.epoch.0 + 4), Fault::Before);
    let started = pipeline.start(&changed).await.unwrap();
    assert_eq!((pipeline.shown(&started).await, started.complete_from()), (expected_of(&["x 1", "y -4", "z"]), None));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_does_not_fit_and_a_query_that_fails_stop_the_start() {
    let mut pipeline = Pipeline::new();
    pipeline.fed(INSERT, &ROWS).await;
    let failing = "CREATE MATERIALIZED VIEW v AS SELECT id, sum(10 / (n - 9)) AS s FROM s GROUP BY id;\n";
    let error = pipeline.start(&format!("{failing}{INSERT}")).await.err().unwrap().to_string();
    assert!(
        error.contains("\"v\", rebuilt from lake.raw: its query fails on a row") && error.contains("NULLIF"),
        "{error}"
    );
    pipeline.state_bytes = 100;
    let error = pipeline.start(&format!("{SUMS}{INSERT}")).await.err().unwrap().to_string();
    assert!(error.contains("its state does not fit: 3 keys") && error.contains("[limits] memory"), "{error}");
    pipeline.state_bytes = 1 << 20;
    assert_eq!(pipeline.start(&format!("{SUMS}{INSERT}")).await.unwrap().complete_from(), None);
}

/// The reason for which the view starts empty: what `validate --diff` says too.
async fn why_empty(pipeline: &Pipeline, text: &str, head: &Record) -> String {
    struct Opened<'a>(&'a Started, String);
    #[async_trait]
    impl Counts for Opened<'_> {
        async fn census(&self, sink: &str, _: &str) -> Result<Option<Census>> {
            self.0.lake.open(sink, self.0.spec.clone(), &self.1).await?.census().await.map(Some)
        }
    }
    let started = pipeline.start(text).await.unwrap();
    let opened = Opened(&started, head.chain.app_id("lake", "raw"));
    let Fate::Empty { why } = fate(&started.plan, 0, head, &opened).await.unwrap() else {
        panic!("it does not start empty");
    };
    assert_eq!(started.claim.views[0].complete_from, Some(started.claim.epoch));
    assert!(started.claim.views[0].segments.is_empty());
    why
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_without_all_rows_does_not_serve() {
    let sums = format!("{SUMS}{INSERT}");
    // The INSERT came later.
    let pipeline = Pipeline::new();
    let head = pipeline.fed("INSERT INTO lake.raw SELECT id FROM s;", &ROWS).await;
    let why = why_empty(&pipeline, &sums, &head).await;
    assert_eq!(why, "lake.raw has its column n only from now on");
    let later = pipeline.start(&sums).await.unwrap();
    let head = pipeline.epoch(&later, &later.claim, &ROWS).await;
    let since = later.claim.feed("lake", "raw").unwrap().columns["n"].since;
    let why = why_empty(&pipeline, &sums.replace("sum(n)", "max(n)"), &head).await;
    assert_eq!(why, format!("lake.raw fills its column n as it does now only since epoch {since}"));
    // Its rows are others from now on.
    let pipeline = Pipeline::new();
    let head = pipeline.fed(&INSERT.replace("FROM s", "FROM s WHERE n > 0"), &ROWS).await;
    let why = why_empty(&pipeline, &sums, &head).await;
    assert_eq!(why, "lake.raw fills its column id, or its rows, in another way from now on");
    // It was not there at all.
    let pipeline = Pipeline::new();
    let mut head = pipeline.fed(INSERT, &ROWS).await;
    pipeline.start(INSERT).await.unwrap();
    let started = pipeline.start("").await.unwrap();
    assert!(started.claim.feeds.is_empty());
    head.feeds.clear();
    let why = why_empty(&pipeline, &sums, &head).await;
    assert_eq!(why, "lake.raw receives these rows only from now on, by what the records say");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_others_touched_does_not_serve() {
    let sums = format!("{SUMS}{INSERT}");
    let pipeline = Pipeline::new();
    let head = pipeline.fed(INSERT, &ROWS).await;
    pipeline.start(INSERT).await.unwrap();
    let log = pipeline.dir.path().join("raw/_delta_log");
    let newest = std::fs::read_dir(&log).unwrap().count() as u64;
    // Another tool deletes a file.
    let first = head.landings().next().unwrap().adds[0]["path"].as_str().unwrap().to_string();
    let remove = format!(
        "{{\"commitInfo\":{{\"operation\":\"DELETE\",\"engineInfo\":\"Spark\"}}}}\n{{\"remove\":{{\"path\":\"{first}\",\"deletionTimestamp\":1,\"dataChange\":true}}}}\n"
    );
    std::fs::write(log.join(format!("{newest:020}.json")), remove).unwrap();
    let why = why_empty(&pipeline, &sums, &head).await;
    assert_eq!(why, format!("of lake.raw: version {newest} (DELETE, by Spark) changed its rows beside the pipeline"));
    // Partitioned by a text that the view reads: an empty one would come back as NULL.
    let mut pipeline = Pipeline::new();
    pipeline.partition_by = vec!["id".into()];
    let head = pipeline.fed(INSERT, &ROWS).await;
    let why = why_empty(&pipeline, &sums, &head).await;
    assert_eq!(why, "lake.raw is partitioned by id, whose values do not come back as they were");
}

#[test]
fn a_count_that_is_not_the_records_is_no_evidence() {
    futures::executor::block_on(async {
        let plan = plan(&format!("{SUMS}{INSERT}")).await;
        let way = &plan.rebuilds[0].ways[0];
        let mut head = crate::checkpoint::testing::record(3);
        head.tables.push(crate::checkpoint::testing::table_record("raw", "id-1", 2));
        let census = |rows| Census { rows, ..Census::default() };
        assert_eq!(unfit_by_census(way, &head, Some(&census(20))), None);
        let why = unfit_by_census(way, &head, Some(&census(19))).unwrap();
        assert_eq!(why, "lake.raw holds 19 rows and the pipeline put 20 there: rows came or went beside it");
        assert!(unfit_by_census(way, &head, None).unwrap().contains("is not there"));
    });
}
