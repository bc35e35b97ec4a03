//! Views as users write them: compiled by the SQL floor, fed by its stateless plans, equal to the same SQL in batch.

use super::support::{Shares, assert_same, seeded};
use crate::sql::exec::Stateless;
use crate::sql::plan::{Plan, SqlFile};
use crate::state::view::FrozenView;
use crate::types::catalog::{Catalog, SourceFacts};
use crate::types::lineage::{Lineage, Origin};
use crate::types::position::{PartitionId, Position};
use arrow::array::*;
use arrow::compute::cast;
use datafusion::datasource::MemTable;
use datafusion::prelude::{SessionConfig, SessionContext};
use rand::Rng;
use rand::rngs::SmallRng;
use std::sync::Arc;

const TABLE: &str = "CREATE TABLE p (vehicle TEXT NOT NULL, fleet TEXT, t TIMESTAMP, speed DOUBLE, rpm INT, \
                     cost DECIMAL(12,2), is_on BOOLEAN, day DATE);\n";

async fn compile(query: &str) -> Plan {
    let text = format!("{TABLE}CREATE MATERIALIZED VIEW v AS {query};");
    let mut catalog = Catalog::default();
    catalog.sources.insert("p".into(), SourceFacts::default());
    let file = SqlFile { path: "view.sql".into(), text };
    crate::sql::compile(&[file], &catalog)
        .await
        .unwrap_or_else(|faults| panic!("{}", faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n")))
}

/// Rows of `p` as its leaf has them; times are unique, so that ordered aggregates have one answer.
fn leaf(plan: &Plan, rng: &mut SmallRng, rows: usize, first: i64) -> RecordBatch {
    let schema = plan.tables[0].leaf_schema();
    let mut some = |p: f64| rng.random_bool(p).then(|| rng.random_range(0..1_000i64));
    let time = |row: usize| Some((first + row as i64) * 7_919 % 1_000_003 * 1_000);
    let data: Vec<ArrayRef> = vec![
        Arc::new((0..rows).map(|_| Some(format!("v{}", some(1.0).unwrap_or(0) % 6))).collect::<StringArray>()),
        Arc::new((0..rows).map(|_| some(0.8).map(|v| format!("f{}", v % 3))).collect::<StringArray>()),
        Arc::new((0..rows).map(time).collect::<TimestampMicrosecondArray>().with_timezone("UTC")),
        Arc::new((0..rows).map(|_| some(0.9).map(|v| v as f64 / 7.0)).collect::<Float64Array>()),
        Arc::new((0..rows).map(|_| some(0.9).map(|v| v as i32)).collect::<Int32Array>()),
        Arc::new(
            (0..rows)
                .map(|_| some(0.9).map(i128::from))
                .collect::<Decimal128Array>()
                .with_precision_and_scale(12, 2)
                .expect("fits"),
        ),
        Arc::new((0..rows).map(|_| some(0.9).map(|v| v > 300)).collect::<BooleanArray>()),
        Arc::new((0..rows).map(|_| some(0.9).map(|v| v as i32 % 9)).collect::<Date32Array>()),
    ];
    let mut columns = data;
    for field in schema.fields().iter().skip(columns.len()) {
        columns.push(match field.name().as_str() {
            "__msg" => Arc::new(UInt32Array::from_iter_values(0..rows as u32)),
            "_source" | "_partition" => Arc::new(StringArray::from(vec!["p"; rows])),
            "_position" => Arc::new(Int64Array::from_iter_values(first..first + rows as i64)),
            "_received_at" => Arc::new(TimestampMicrosecondArray::from(vec![0; rows]).with_timezone("UTC")),
            _ => new_null_array(field.data_type(), rows),
        });
    }
    RecordBatch::try_new(schema, columns).expect("a leaf batch")
}

fn lineage(first: i64, rows: usize) -> Lineage {
    let partition = Arc::new(PartitionId::new("p", "0"));
    let origin = |row: u64| Origin {
        partition: Arc::clone(&partition),
        partition_label: "0".into(),
        topic: None,
        position: Position(first as u64 + row),
    };
    Lineage { origins: (0..rows as u64).map(origin).collect() }
}

/// Streams random rows through the view over two shares and compares with the query in batch. `keys`: how many of the
/// output's first columns are its key.
async fn check(query: &str, keys: usize) {
    let plan = compile(query).await;
    let view = Arc::clone(&plan.views[0]);
    for seed in 0..4 {
        let mut rng = seeded(seed);
        let mut stateless = Stateless::new(Arc::new(plan.clone())).await.expect("physical plans");
        let mut shares = Shares::new(Arc::clone(&view), 2).await;
        let mut all = Vec::new();
        let mut first = 0;
        for round in 0..12 {
            let rows = rng.random_range(1..60);
            let batch = leaf(&plan, &mut rng, rows, first);
            let outputs = stateless.run(&[Some(batch.clone())], 0).expect("no row is guilty");
            let share = rng.random_range(0..2);
            let touched =
                shares.states[share].apply(&outputs.nodes[view.input], &lineage(first, rows)).expect("applies");
            shares.states[share].compact().expect("compacts");
            let (some, absent) = FrozenView::read_keys(&view, &shares.frozen(), &touched).expect("reads");
            assert_eq!(some.num_rows() + absent.num_rows(), touched.num_rows(), "{query}");
            if round % 5 == 4 {
                shares.restart(share, round == 9).await;
            }
            first += rows as i64;
            let data: Vec<usize> = (0..8).collect();
            all.push(batch.project(&data).expect("the declared columns"));
        }
        let context = SessionContext::new_with_config(SessionConfig::new().with_target_partitions(1));
        let table = MemTable::try_new(all[0].schema(), vec![all]).expect("one schema");
        context.register_table("p", Arc::new(table)).expect("the first");
        let want = context.sql(query).await.expect("plans").collect().await.expect("runs");
        // A view's columns have the types of tables (microseconds, TEXT); plain DataFusion answers with its own.
        let settled = |batch: &RecordBatch| {
            let fields = view.output_schema.fields().iter();
            let columns = fields.zip(batch.columns()).map(|(f, c)| cast(c, f.data_type()).expect("casts")).collect();
            RecordBatch::try_new(Arc::clone(&view.output_schema), columns).expect("by the schema")
        };
        let want: Vec<RecordBatch> = want.iter().map(settled).collect();
        assert_same(&format!("{query}, seed {seed}"), keys, &shares.read(), &want);
    }
}

#[tokio::test]
async fn windows_and_expressions_as_keys() {
    check(
        "SELECT fleet, date_bin(INTERVAL '1 minute', t) AS minute, count(*) AS n, avg(speed) AS mean, max(speed) AS top \
         FROM p GROUP BY fleet, date_bin(INTERVAL '1 minute', t)",
        2,
    )
    .await;
    check("SELECT date_trunc('hour', t) AS hour, sum(cost) AS cost, avg(cost) AS mean FROM p GROUP BY 1", 1).await;
    check("SELECT day, is_on, upper(fleet) AS fleet, count(*) AS n FROM p GROUP BY day, is_on, upper(fleet)", 3).await;
}

#[tokio::test]
async fn expressions_over_aggregates_filters_and_having() {
    check(
        "SELECT vehicle, sum(speed * 2 + rpm) / count(*) AS x, count(*) FILTER (WHERE is_on) AS on_count, \
         max(rpm) - min(rpm) AS spread, stddev(speed) AS dev, bool_or(is_on) AS ever \
         FROM p WHERE speed IS NOT NULL GROUP BY vehicle HAVING count(*) > 20 AND max(rpm) > 10",
        1,
    )
    .await;
}

#[tokio::test]
async fn ordered_aggregates() {
    check(
        "SELECT fleet, last_value(speed ORDER BY t) AS speed, first_value(vehicle ORDER BY t) AS vehicle, \
         array_agg(rpm ORDER BY t) AS rpms, string_agg(vehicle, ',' ORDER BY t DESC) AS path, \
         last_value(rpm ORDER BY t) FILTER (WHERE is_on) AS rpm_on \
         FROM p GROUP BY fleet",
        1,
    )
    .await;
}

/// Sketches are close, not equal (tests/aggregates.rs says how close): the median of values spread over 0..143.
#[tokio::test]
async fn sketches() {
    check(
        "SELECT is_on, approx_percentile_cont(speed, 0.5) BETWEEN 40 AND 110 AS p, approx_distinct(vehicle) AS vehicles \
         FROM p WHERE is_on IS NULL OR rpm > 0 GROUP BY is_on",
        1,
    )
    .await;
}

#[tokio::test]
async fn distinct_on_with_filter_and_expressions() {
    check(
        "SELECT DISTINCT ON (vehicle) vehicle, fleet, t, speed * 3.6 AS kmh, rpm FROM p WHERE rpm > 100 \
         ORDER BY vehicle, t DESC",
        1,
    )
    .await;
    check(
        "SELECT DISTINCT ON (fleet, vehicle) fleet, vehicle, t, speed FROM p ORDER BY fleet, vehicle, t ASC NULLS LAST",
        2,
    )
    .await;
}
