//! Views planned from SQL by DataFusion itself, random rows, and comparison with tolerance for floats.

use crate::sql::plan::{Aggregate, Fold, MaterializedView, OrderColumn, Place};
use crate::state::view::{FrozenView, Merge, ViewState};
use crate::types::lineage::{Lineage, MSG_COLUMN, Origin};
use crate::types::position::{PartitionId, Position};
use crate::types::table::timestamp_type;
use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::ipc::reader::StreamReader;
use arrow::ipc::writer::StreamWriter;
use arrow::record_batch::RecordBatch;
use datafusion::datasource::MemTable;
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::{Expr, LogicalPlan};
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::create_physical_expr;
use datafusion::physical_expr::expressions::Column;
use datafusion::prelude::{SessionConfig, SessionContext};
use datafusion::scalar::ScalarValue;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::sync::Arc;

pub fn seeded(seed: u64) -> SmallRng {
    SmallRng::seed_from_u64(seed)
}

/// The rows of all tests: three key columns, values of every kind, `u` unique and not in order of arrival.
pub fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("g1", DataType::Utf8, true),
        Field::new("g2", DataType::Int64, true),
        Field::new("g3", DataType::Float64, true),
        Field::new("i", DataType::Int64, true),
        Field::new("n", DataType::Int32, true),
        Field::new("d", DataType::Float64, true),
        Field::new("e", DataType::Float64, true),
        Field::new("m", DataType::Decimal128(10, 2), true),
        Field::new("s", DataType::Utf8, true),
        Field::new("b", DataType::Boolean, true),
        Field::new("at", timestamp_type(), true),
        Field::new("u", DataType::Int64, false),
    ]))
}

pub fn random_rows(rng: &mut SmallRng, rows: usize, first_u: i64) -> RecordBatch {
    let mut null = SmallRng::seed_from_u64(rng.random());
    let mut opt = |p: f64| null.random::<f64>() >= p;
    let columns: Vec<ArrayRef> = vec![
        Arc::new((0..rows).map(|_| opt(0.1).then(|| format!("k{}", rng.random_range(0..5)))).collect::<StringArray>()),
        Arc::new((0..rows).map(|_| opt(0.2).then(|| rng.random_range(-2..2))).collect::<Int64Array>()),
        Arc::new(
            (0..rows).map(|_| opt(0.2).then(|| [0.0, -0.0, 1.5][rng.random_range(0..3)])).collect::<Float64Array>(),
        ),
        Arc::new((0..rows).map(|_| opt(0.1).then(|| rng.random_range(-1000..1000))).collect::<Int64Array>()),
        Arc::new((0..rows).map(|_| opt(0.3).then(|| rng.random_range(-9..9))).collect::<Int32Array>()),
        Arc::new((0..rows).map(|_| opt(0.1).then(|| rng.random_range(-50.0..50.0))).collect::<Float64Array>()),
        Arc::new((0..rows).map(|_| opt(0.2).then(|| rng.random_range(0.0..9.0))).collect::<Float64Array>()),
        Arc::new(
            (0..rows)
                .map(|_| opt(0.1).then(|| rng.random_range(-99_999..99_999)))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(10, 2)
                .expect("fits"),
        ),
        Arc::new((0..rows).map(|_| opt(0.2).then(|| format!("v{}", rng.random_range(0..99)))).collect::<StringArray>()),
        Arc::new((0..rows).map(|_| opt(0.4).then(|| rng.random_bool(0.7))).collect::<BooleanArray>()),
        Arc::new(
            (0..rows)
                .map(|_| opt(0.1).then(|| rng.random_range(0..1_000_000_000)))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        // Unique, and shuffled by an odd multiplier.
        Arc::new((0..rows as i64).map(|r| ((first_u + r) * 7_919) % 1_000_003).map(Some).collect::<Int64Array>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns fit the schema")
}

/// Adds `__msg`: one message for each row.
pub fn with_messages(rows: &RecordBatch) -> RecordBatch {
    let numbers: Vec<u32> = (0..rows.num_rows() as u32).collect();
    with_message_numbers(rows, numbers)
}

pub fn with_message_numbers(rows: &RecordBatch, numbers: Vec<u32>) -> RecordBatch {
    let mut fields: Vec<Field> = rows.schema().fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new(MSG_COLUMN, DataType::UInt32, false));
    let mut columns = rows.columns().to_vec();
    columns.push(Arc::new(UInt32Array::from(numbers)));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("one number for each row")
}

pub fn lineage(partition: &str, first: u64, messages: usize) -> Lineage {
    let id = Arc::new(PartitionId::new("fleet", partition));
    let origin = |n: usize| Origin {
        partition: Arc::clone(&id),
        partition_label: Arc::clone(&id.name),
        topic: Some("topic".into()),
        position: Position(first + n as u64),
    };
    Lineage { origins: (0..messages).map(origin).collect() }
}

pub async fn state(view: &Arc<MaterializedView>) -> ViewState {
    ViewState::new(Arc::clone(view)).await.expect("the view can be planned")
}

pub fn apply(state: &mut ViewState, rows: &RecordBatch) -> RecordBatch {
    state.apply(&[with_messages(rows)], &lineage("p", 0, rows.num_rows())).expect("applies")
}

/// A GROUP BY over `t`, as DataFusion plans it: groups are columns of `t`.
pub async fn group_by(sql: &str) -> Arc<MaterializedView> {
    let schema = schema();
    let context = context(vec![]);
    let state = context.state();
    let plan = state.create_logical_plan(sql).await.expect("SQL is right");
    let plan = state.analyzer().execute_and_check(plan, state.config_options(), |_, _| {}).expect("analyses");
    let (props, planning) = (ExecutionProps::new(), PhysicalPlanningContext::default());

    let LogicalPlan::Projection(projection) = &plan else { panic!("no projection: {plan}") };
    let (having, aggregate) = match projection.input.as_ref() {
        LogicalPlan::Filter(filter) => (Some(&filter.predicate), filter.input.as_ref()),
        other => (None, other),
    };
    let LogicalPlan::Aggregate(aggregate) = aggregate else { panic!("no aggregate: {plan}") };
    let groups = aggregate.group_expr.iter().map(|g| match g {
        Expr::Column(c) => schema.index_of(&c.name).expect("a column of t"),
        other => panic!("{other} is not a column"),
    });
    let groups: Vec<usize> = groups.collect();
    let lowered = aggregate.aggr_expr.iter().map(|expr| {
        let lowered = LoweredAggregateBuilder::new(expr, aggregate.input.schema(), &schema, &props, &planning);
        let lowered = lowered.build().expect("lowers");
        Aggregate { function: lowered.aggregate, filter: lowered.filter }
    });
    let aggregates: Vec<Aggregate> = lowered.collect();
    let physical = |e: &Expr| create_physical_expr(e, &aggregate.schema, &props, &planning).expect("plans");
    Arc::new(MaterializedView {
        name: "v".into(),
        sql: sql.into(),
        place: Place { file: "test.sql".into(), line: 1, column: 1 },
        input: 0,
        input_schema: schema,
        key: (0..groups.len()).collect(),
        fold: Fold::GroupBy { groups, aggregates, result_schema: Arc::new(aggregate.schema.as_arrow().clone()) },
        output_schema: Arc::new(projection.schema.as_arrow().clone()),
        having: having.map(physical),
        projection: projection.expr.iter().map(physical).collect(),
        fingerprint: "f".into(),
    })
}

/// `SELECT DISTINCT ON (on) * FROM t ORDER BY on, order`.
pub fn distinct_on(schema: SchemaRef, on: &[usize], order: &[(usize, bool)]) -> Arc<MaterializedView> {
    let order = order.iter().map(|(column, descending)| OrderColumn { column: *column, descending: *descending });
    Arc::new(MaterializedView {
        name: "v".into(),
        sql: "".into(),
        place: Place { file: "test.sql".into(), line: 1, column: 1 },
        input: 0,
        input_schema: Arc::clone(&schema),
        fold: Fold::DistinctOn { on: on.to_vec(), order: order.collect(), result_schema: Arc::clone(&schema) },
        output_schema: Arc::clone(&schema),
        key: on.to_vec(),
        having: None,
        projection: schema.fields().iter().enumerate().map(|(i, f)| Arc::new(Column::new(f.name(), i)) as _).collect(),
        fingerprint: "f".into(),
    })
}

pub async fn batch_sql(sql: &str, rows: &[RecordBatch]) -> Vec<RecordBatch> {
    let frame = context(rows.to_vec()).sql(sql).await.expect("plans");
    frame.collect().await.expect("runs")
}

fn context(rows: Vec<RecordBatch>) -> SessionContext {
    let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
    let table = MemTable::try_new(schema(), vec![rows]).expect("rows by the schema");
    context.register_table("t", Arc::new(table)).expect("first of its name");
    context
}

/// Several shares of one view, cut and restored as the engine does it.
pub struct Shares {
    pub view: Arc<MaterializedView>,
    pub states: Vec<ViewState>,
    /// Per share what its cuts gave, after a round trip through IPC.
    pub saved: Vec<Vec<RecordBatch>>,
}

impl Shares {
    pub async fn new(view: Arc<MaterializedView>, count: usize) -> Self {
        let mut states = Vec::new();
        for _ in 0..count {
            states.push(state(&view).await);
        }
        Shares { view, states, saved: vec![Vec::new(); count] }
    }

    pub fn cut(&mut self, share: usize) {
        if let Some(segment) = self.states[share].cut().expect("cuts") {
            self.saved[share].push(through_ipc(&segment));
        }
    }

    /// Loses the share's memory and loads what was saved; the tail of its saves becomes a base now and then.
    pub async fn restart(&mut self, share: usize, rebase: bool) {
        self.cut(share);
        if rebase {
            // Small parts, so that there are several.
            let parts = self.states[share].freeze().parts(4_096);
            self.saved[share] = parts.iter().map(|part| through_ipc(&part.base().expect("reads"))).collect();
        }
        let mut again = state(&self.view).await;
        for segment in &self.saved[share] {
            again.restore(segment, Merge::Replace).expect("restores");
        }
        assert_eq!(again.keys(), self.states[share].keys(), "keys after a restart");
        self.states[share] = again;
    }

    /// Folds the last share into the first, as when a pipeline starts again with fewer slots.
    pub fn merge_last_into_first(&mut self) {
        let Some(last) = self.states.pop() else { return };
        self.saved.pop();
        let base = through_ipc(&last.freeze().base().expect("reads"));
        self.states[0].restore(&base, Merge::Combine).expect("restores");
    }

    pub fn frozen(&self) -> Vec<FrozenView> {
        self.states.iter().map(ViewState::freeze).collect()
    }

    pub fn read(&self) -> Vec<RecordBatch> {
        FrozenView::read(&self.view, &self.frozen()).expect("reads")
    }
}

pub fn through_ipc(batch: &RecordBatch) -> RecordBatch {
    let mut bytes = Vec::new();
    let mut writer = StreamWriter::try_new(&mut bytes, &batch.schema()).expect("writes");
    writer.write(batch).expect("writes");
    writer.finish().expect("writes");
    drop(writer);
    let mut batches = StreamReader::try_new(bytes.as_slice(), None).expect("reads");
    let again = batches.next().expect("one batch").expect("reads");
    assert_eq!(&again, batch, "IPC is lossless");
    again
}

/// Rows by their key columns (the first `keys` of them), as text.
pub fn by_key(batches: &[RecordBatch], keys: usize) -> BTreeMap<String, Vec<ScalarValue>> {
    let mut rows = BTreeMap::new();
    for batch in batches {
        for row in 0..batch.num_rows() {
            let values: Vec<ScalarValue> =
                batch.columns().iter().map(|c| ScalarValue::try_from_array(c, row).expect("in bounds")).collect();
            let key = format!("{:?}", &values[..keys]);
            assert!(rows.insert(key.clone(), values).is_none(), "key {key} appears twice");
        }
    }
    rows
}

/// Equal, with floats within 1e-9 relative (1e-9 absolute below one).
#[track_caller]
pub fn assert_same(what: &str, keys: usize, got: &[RecordBatch], want: &[RecordBatch]) {
    let (got, want) = (by_key(got, keys), by_key(want, keys));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>(), "{what}: keys");
    for (key, want) in &want {
        for (column, (g, w)) in got[key].iter().zip(want).enumerate() {
            let same = match (g, w) {
                (ScalarValue::Float64(Some(g)), ScalarValue::Float64(Some(w))) => {
                    (g.is_nan() && w.is_nan()) || (g - w).abs() <= 1e-9 * g.abs().max(w.abs()).max(1.0)
                }
                _ => g == w,
            };
            assert!(same, "{what}: key {key}, column {column}: {g:?}, batch SQL says {w:?}");
        }
    }
}
