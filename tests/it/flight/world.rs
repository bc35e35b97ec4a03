//! A pipeline's outside without the pipeline: hot state, rows in memory and a real Delta table, set up by hand.

use arrow::array::{ArrayRef, BooleanArray};
use arrow::array::{Date32Array, Float64Array, StringArray, TimestampMicrosecondArray, UInt32Array};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use pipe::env::clock::Clock;
use pipe::query::World;
use pipe::query::run::QuerySettings;
use pipe::serve::{ComponentState, Facade, Settings};
use pipe::sinks::delta::config::FloatEncoding;
use pipe::sinks::delta::sink::DeltaSink;
use pipe::sinks::delta::table::{Landing, Table, TableSpec};
use pipe::sql::plan::{Fold, Insert, InsertFrom, MaterializedView, OrderColumn, Place, Plan, StatelessView};
use pipe::state::cut::{SlotView, UncommittedRows};
use pipe::state::view::ViewState;
use pipe::types::epoch::{ChainId, Epoch};
use pipe::types::error::{Error, Result};
use pipe::types::fault::Fault;
use pipe::types::lineage::{Lineage, MSG_COLUMN, Origin};
use pipe::types::position::{PartitionId, Position};
use pipe::types::table::{Column, ColumnType, Table as Stream, timestamp_type};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, LazyLock, Mutex};

/// The queries' own threads, as in the real process. Never dropped: tests end inside of other runtimes.
static QUERY_THREADS: LazyLock<tokio::runtime::Runtime> = LazyLock::new(|| {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("starts")
});

pub fn settings(tokens: &[&str]) -> Settings {
    Settings {
        http: Some("127.0.0.1:0".into()),
        flight: Some("127.0.0.1:0".into()),
        query: QuerySettings {
            memory_bytes: 64 * 1024 * 1024,
            partitions: 2,
            runtime: QUERY_THREADS.handle().clone(),
            clock: Clock::System,
        },
        tokens: tokens.iter().map(|t| t.to_string()).collect(),
        tls: None,
    }
}

/// Cheap to clone; clones show the same.
#[derive(Clone)]
pub struct Outside(Arc<Inner>);

struct Inner {
    plan: Plan,
    slots: Mutex<Vec<Arc<SlotView>>>,
    lake: Vec<(Arc<str>, Arc<Table>)>,
    ready: AtomicBool,
    _folder: tempfile::TempDir,
}

fn point_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("speed", DataType::Float64, true),
        Field::new("at", timestamp_type(), true),
    ]))
}

/// What the lake receives: `SELECT *, CAST(at AS DATE) AS event_date FROM points`.
fn lake_schema() -> SchemaRef {
    let mut fields: Vec<Field> =
        point_schema().fields().iter().map(|f| f.as_ref().clone().with_nullable(true)).collect();
    fields.push(Field::new("event_date", DataType::Date32, true));
    Arc::new(Schema::new(fields))
}

/// 2026-01-01, in seconds and in days.
const DAY_SECONDS: i64 = 1_767_225_600;
const DAY: i32 = 20_454;

/// Point n: at second n with speed n.
fn points(points: &[(&str, i64)]) -> RecordBatch {
    let ids = StringArray::from_iter_values(points.iter().map(|(id, _)| id));
    let speeds = Float64Array::from_iter_values(points.iter().map(|(_, n)| *n as f64));
    let at = TimestampMicrosecondArray::from_iter_values(points.iter().map(|(_, n)| (DAY_SECONDS + n) * 1_000_000));
    let columns: Vec<ArrayRef> = vec![Arc::new(ids), Arc::new(speeds), Arc::new(at.with_timezone("UTC"))];
    RecordBatch::try_new(point_schema(), columns).expect("fits")
}

fn lake_rows(rows: &[(&str, i64)]) -> RecordBatch {
    let mut columns = points(rows).columns().to_vec();
    columns.push(Arc::new(Date32Array::from(vec![DAY; rows.len()])));
    RecordBatch::try_new(lake_schema(), columns).expect("fits")
}

fn latest_view() -> Arc<MaterializedView> {
    let schema = point_schema();
    let column = |(i, f): (usize, &Arc<Field>)| Arc::new(PhysicalColumn::new(f.name(), i)) as Arc<dyn PhysicalExpr>;
    Arc::new(MaterializedView {
        name: "latest".into(),
        sql: "SELECT DISTINCT ON (id) id, speed, at FROM points ORDER BY id, at DESC".into(),
        place: place(),
        input: 0,
        input_schema: schema.clone(),
        fold: Fold::DistinctOn {
            on: vec![0],
            order: vec![OrderColumn { column: 2, descending: true }],
            result_schema: schema.clone(),
        },
        output_schema: schema.clone(),
        key: vec![0],
        having: None,
        projection: schema.fields().iter().enumerate().map(column).collect(),
        fingerprint: "f".into(),
    })
}

fn place() -> Place {
    Place { file: "test.sql".into(), line: 1, column: 1 }
}

fn plan() -> Plan {
    let stream = |name: &str| {
        let column = |name: &str, kind, nullable| Column { name: name.into(), kind, nullable };
        let columns = vec![
            column("id", ColumnType::Text, false),
            column("speed", ColumnType::Double, true),
            column("at", ColumnType::Timestamp(None), true),
        ];
        Arc::new(Stream { name: name.into(), source: "fleet".into(), route: None, columns })
    };
    let insert = |table: &str, whole_of: &str| {
        Arc::new(Insert {
            sink: "lake".into(),
            table: table.into(),
            place: place(),
            sql: "".into(),
            schema: lake_schema(),
            from: InsertFrom::Node(0),
            whole_of: Some(whole_of.into()),
        })
    };
    let unkept = StatelessView {
        name: "unkept".into(),
        schema: point_schema(),
        sql: "SELECT * FROM points".into(),
        place: place(),
    };
    Plan {
        tables: vec![stream("points"), stream("twice")],
        nodes: Vec::new(),
        views: vec![latest_view()],
        inserts: vec![insert("points", "points"), insert("twice_a", "twice"), insert("twice_b", "twice")],
        stateless_views: vec![unkept],
        meta_used: vec![[false; 9]; 2],
        feeds: Vec::new(),
        rebuilds: Vec::new(),
    }
}

fn app_id(table: &str) -> String {
    ChainId("c".into()).app_id("lake", table)
}

async fn land(table: &Table, epoch: u64, rows: &[RecordBatch]) {
    let mut writer = table.writer().expect("opens");
    for batch in rows {
        writer.write(batch).await.expect("writes");
    }
    let prepared = writer.finish().await.expect("finishes");
    let landing = Landing {
        app_id: app_id(&table.spec().name),
        adds: prepared.adds,
        schema_action: table.pending_schema_action(),
    };
    table.apply(Epoch(epoch), &landing).await.expect("lands");
}

/// One slot after some batches: what it folded, and the rows it still holds by epoch.
async fn slot(folded: &[(&str, i64)], held: &[(u64, &[(&str, i64)])]) -> Arc<SlotView> {
    let mut state = ViewState::new(latest_view()).await.expect("plans");
    let rows = points(folded);
    let mut fields: Vec<Field> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new(MSG_COLUMN, DataType::UInt32, false));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(UInt32Array::from_iter_values(0..folded.len() as u32)));
    let rows = RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits");
    let partition = Arc::new(PartitionId::new("fleet", "p"));
    let origin = |n: usize| Origin {
        partition: partition.clone(),
        partition_label: partition.name.clone(),
        topic: None,
        position: Position(n as u64),
    };
    let lineage = Lineage { origins: (0..folded.len()).map(origin).collect() };
    state.apply(&[rows], &lineage).expect("folds");
    let held = held
        .iter()
        .map(|(epoch, rows)| UncommittedRows { epoch: Epoch(*epoch), batches: Arc::new(vec![lake_rows(rows)]) })
        .collect();
    Arc::new(SlotView { views: vec![state.freeze()], uncommitted: BTreeMap::from([("lake.points".into(), held)]) })
}

/// Six points in all, 1 to 6: epoch 1 has 1 and 2, epoch 2 has 3 and 4, epoch 3 has begun with 5 and 6.
const EPOCH_1: &[(&str, i64)] = &[("a", 1), ("b", 2)];
const EPOCH_2_HERE: &[(&str, i64)] = &[("a", 3)];
const EPOCH_2_THERE: &[(&str, i64)] = &[("c", 4)];
const EPOCH_3: &[(&str, i64)] = &[("c", 5), ("a", 6)];

impl Outside {
    /// Epoch 1 is in the lake and still held, as between an apply and the slots hearing of it. The view stays at what
    /// one slot folded of epochs 1 and 2, so that tests of hot state have two rows to look at.
    pub async fn new() -> Outside {
        let folder = tempfile::tempdir().expect("a folder");
        let location = pipe::env::store::open(&folder.path().to_string_lossy(), &BTreeMap::new()).expect("opens");
        let sink = DeltaSink::at("lake", location, FloatEncoding::ByteStreamSplit).await.expect("connects");
        let mut lake = Vec::new();
        for name in ["points", "twice_a", "twice_b"] {
            let spec =
                TableSpec { name: name.into(), schema: lake_schema(), partition_by: vec!["event_date".to_string()] };
            lake.push((Arc::from("lake"), sink.open_table(spec, &app_id(name)).await.expect("opens")));
        }
        land(&lake[0].1, 1, &[lake_rows(EPOCH_1)]).await;
        let folded: Vec<(&str, i64)> = [EPOCH_1, EPOCH_2_HERE].concat();
        let here = slot(&folded, &[(1, EPOCH_1), (2, EPOCH_2_HERE), (3, EPOCH_3)]).await;
        let there = slot(&[], &[(2, EPOCH_2_THERE)]).await;
        let slots = Mutex::new(vec![here, there]);
        Outside(Arc::new(Inner { plan: plan(), slots, lake, ready: AtomicBool::new(true), _folder: folder }))
    }

    /// Lands what the slots hold of an epoch.
    pub async fn land(&self, epoch: u64) {
        let held: Vec<RecordBatch> = self
            .slots()
            .iter()
            .flat_map(|slot| slot.uncommitted["lake.points"].clone())
            .filter(|rows| rows.epoch == Epoch(epoch))
            .flat_map(|rows| rows.batches.to_vec())
            .collect();
        land(&self.0.lake[0].1, epoch, &held).await;
    }

    /// The slots forget rows of epochs up to this one.
    pub fn let_go(&self, epoch: u64) {
        for slot in self.0.slots.lock().expect("no holder panics").iter_mut() {
            let mut view = (**slot).clone();
            for rows in view.uncommitted.values_mut() {
                rows.retain(|r| r.epoch > Epoch(epoch));
            }
            *slot = Arc::new(view);
        }
    }

    pub fn set_ready(&self, ready: bool) {
        self.0.ready.store(ready, Ordering::SeqCst);
    }
}

impl World for Outside {
    fn plan(&self) -> &Plan {
        &self.0.plan
    }

    fn slots(&self) -> Vec<Arc<SlotView>> {
        self.0.slots.lock().expect("no holder panics").clone()
    }

    fn lake(&self) -> Vec<(Arc<str>, Arc<Table>)> {
        self.0.lake.clone()
    }

    fn system(&self, name: &str) -> Option<RecordBatch> {
        if name != "sources" {
            return None;
        }
        let fields = vec![Field::new("name", DataType::Utf8, false), Field::new("connected", DataType::Boolean, false)];
        let columns: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from(vec!["fleet"])), Arc::new(BooleanArray::from(vec![true]))];
        Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits"))
    }
}

impl Facade for Outside {
    fn ready(&self) -> Vec<ComponentState> {
        let ready = self.0.ready.load(Ordering::SeqCst);
        let detail = if ready { "" } else { "broker down" };
        vec![ComponentState { component: "source fleet".into(), ready, detail: detail.into() }]
    }

    fn status(&self) -> Value {
        json!({ "pipeline": "test" })
    }

    fn kv(&self, sink: &str, table: &str, key: &[String]) -> Result<Option<Value>> {
        if (sink, table) != ("kv", "latest") {
            let message = format!("table \"{sink}.{table}\" does not exist");
            let fault = Fault { file: "pipe".into(), line: 0, column: 0, message, hint: None };
            return Err(Error::Config(vec![fault]));
        }
        Ok((key == ["a", "b c"]).then(|| json!({ "id": "a", "speed": 3.0 })))
    }
}
