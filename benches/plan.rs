//! What the stateless plans of the fleet cost: rows a second at several batch sizes, microseconds of one execution, and
//! the ratio to the same work written by hand with Arrow's kernels, in one run.
//!
//!     cargo bench --bench plan

use arrow::array::{
    Array, ArrayRef, AsArray, BinaryArray, BooleanArray, Float64Array, Int32Array, Int64Array, ListArray, StringArray,
    StructArray, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::buffer::OffsetBuffer;
use arrow::compute::kernels::cmp::{gt_eq, lt_eq};
use arrow::compute::{and, filter, take};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use pipe::sql;
use pipe::sql::exec::Stateless;
use pipe::sql::plan::{Plan, SqlFile};
use pipe::types::catalog::{Catalog, SinkKind, SourceFacts};
use pipe::types::table::{Table, meta_fields};
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Measurements in a message: what a device reports every ten seconds.
const MEASUREMENTS: usize = 10;

/// Long enough that a figure does not hang on one scheduling of the machine.
const SPAN: Duration = Duration::from_millis(1_500);

const POINTS_ONLY: &str = "INSERT INTO lake.points SELECT * FROM points;";

fn main() {
    let fleet = compile(&read_fleet());
    let mut files = read_fleet();
    files.truncate(2); // tables and the view of points
    files.push(SqlFile { path: "points.sql".into(), text: POINTS_ONLY.into() });
    let points = compile(&files);
    println!("{:>8}  {:<34} {:>12} {:>14}", "messages", "what", "us a batch", "rows a second");
    for messages in [10, 1_000, 8_000] {
        let rows = messages * MEASUREMENTS;
        let fleet_us = plan_us(&fleet, messages);
        let points_us = plan_us(&points, messages);
        let by_hand_us = by_hand_us(&points, messages);
        for (what, us) in [
            ("the fleet: 8 statements", fleet_us),
            ("points alone: unnest and filter", points_us),
            ("the same by hand", by_hand_us),
        ] {
            println!("{messages:>8}  {what:<34} {us:>12.1} {:>14.0}", rows as f64 / us * 1e6);
        }
        println!("{messages:>8}  points / by hand: {:.2} times its time", points_us / by_hand_us);
    }
}

fn read_fleet() -> Vec<SqlFile> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/sql/fleet");
    let names = ["10_sources.sql", "20_points.sql", "30_hot.sql", "40_deliver.sql"];
    let read = |name: &str| std::fs::read_to_string(format!("{folder}/{name}")).expect("the fleet's SQL");
    names.iter().map(|name| SqlFile { path: name.into(), text: read(name) }).collect()
}

fn compile(files: &[SqlFile]) -> Plan {
    let mut catalog = Catalog::default();
    for source in ["kinematic", "status"] {
        catalog.sources.insert(source.into(), SourceFacts::default());
    }
    catalog.sinks.insert("lake".into(), SinkKind::Append);
    catalog.sinks.insert("kv".into(), SinkKind::Upsert);
    futures::executor::block_on(sql::compile(files, &catalog)).expect("the fleet's SQL is sound")
}

/// Microseconds of one execution of all nodes over a batch of kinematic messages.
fn plan_us(plan: &Plan, messages: usize) -> f64 {
    let table = plan.tables.iter().position(|t| t.name.as_ref() == "kinematic").expect("the fleet's table");
    let mut tables = vec![None; plan.tables.len()];
    tables[table] = Some(kinematic(&plan.tables[table], messages));
    let mut slot = futures::executor::block_on(Stateless::new(Arc::new(plan.clone()))).expect("physical plans");
    measure_us(|| {
        black_box(slot.run(black_box(&tables), 0).expect("no statement fails"));
    })
}

/// Unnest and filter as one would write them for this one shape.
fn by_hand_us(plan: &Plan, messages: usize) -> f64 {
    let table = plan.tables.iter().find(|t| t.name.as_ref() == "kinematic").expect("the fleet's table");
    let batch = kinematic(table, messages);
    measure_us(|| {
        black_box(by_hand(black_box(&batch)));
    })
}

fn by_hand(batch: &RecordBatch) -> Vec<ArrayRef> {
    let bundles = batch.column_by_name("measurements").expect("a column").as_list::<i32>();
    let mut message_of = Vec::with_capacity(bundles.values().len());
    for (row, length) in bundles.offsets().lengths().enumerate() {
        message_of.extend(std::iter::repeat_n(row as u32, length));
    }
    let message_of = UInt32Array::from(message_of);
    let points = bundles.values().as_struct();
    let lat = points.column_by_name("lat").expect("a field");
    let lon = points.column_by_name("lon").expect("a field");
    let within = |values: &ArrayRef, bound: f64| {
        let low = gt_eq(values, &Float64Array::new_scalar(-bound)).expect("comparable");
        let high = lt_eq(values, &Float64Array::new_scalar(bound)).expect("comparable");
        and(&low, &high).expect("of one length")
    };
    let keep: BooleanArray = and(&within(lat, 90.0), &within(lon, 180.0)).expect("of one length");
    let kept_message = filter(&message_of, &keep).expect("of one length");
    let mut columns: Vec<ArrayRef> = ["vehicle_id", "fleet_id", "__msg"]
        .iter()
        .map(|name| take(batch.column_by_name(name).expect("a column"), &kept_message, None).expect("in range"))
        .collect();
    columns.extend(points.columns().iter().map(|c| filter(c, &keep).expect("of one length")));
    columns
}

fn measure_us(mut once: impl FnMut()) -> f64 {
    for _ in 0..3 {
        once();
    }
    let start = Instant::now();
    let mut runs = 0u32;
    while start.elapsed() < SPAN {
        once();
        runs += 1;
    }
    start.elapsed().as_secs_f64() * 1e6 / f64::from(runs)
}

/// A decoded batch as a slot would hand it over.
fn kinematic(table: &Table, messages: usize) -> RecordBatch {
    let rows = messages * MEASUREMENTS;
    let DataType::List(item) = table.data_schema().field(3).data_type().clone() else { panic!("measurements") };
    let DataType::Struct(fields) = item.data_type().clone() else { panic!("structs") };
    let number = |i: usize, modulo: usize| ((i * 7_919) % modulo) as f64;
    let values = |f: &dyn Fn(usize) -> f64| Arc::new(Float64Array::from_iter_values((0..rows).map(f))) as ArrayRef;
    let start_us = 1_795_305_600_000_000i64;
    let times = (0..rows).map(|i| start_us + i as i64 * 1_000_000);
    let points = StructArray::new(
        fields,
        vec![
            Arc::new(TimestampMicrosecondArray::from_iter_values(times).with_timezone("UTC")),
            // One fix in fifty is impossible.
            values(&|i| if i % 50 == 0 { 1_000.0 } else { number(i, 90) }),
            values(&|i| number(i, 180)),
            values(&|i| number(i, 130)),
            values(&|i| number(i, 360)),
            Arc::new(Int32Array::from_iter_values((0..rows).map(|i| (i % 6_000) as i32))),
            values(&|i| number(i, 100)),
        ],
        None,
    );
    let bundles = ListArray::new(
        item,
        OffsetBuffer::from_lengths(std::iter::repeat_n(MEASUREMENTS, messages)),
        Arc::new(points),
        None,
    );
    let sent = (0..messages).map(|i| start_us + i as i64 * 10_000_000);
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values((0..messages).map(|i| format!("V{:06}", i % 5_000)))),
        Arc::new(StringArray::from_iter_values((0..messages).map(|i| format!("fleet-{}", i % 20)))),
        Arc::new(TimestampMicrosecondArray::from_iter_values(sent).with_timezone("UTC")),
        Arc::new(bundles),
    ];
    for field in meta_fields() {
        columns.push(match field.name().as_str() {
            "_source" | "_partition" => Arc::new(StringArray::from(vec!["kinematic"; messages])),
            "_position" => Arc::new(Int64Array::from_iter_values(0..messages as i64)),
            "_received_at" => Arc::new(TimestampMicrosecondArray::from(vec![start_us; messages]).with_timezone("UTC")),
            "_payload" => Arc::new(BinaryArray::from_iter_values(vec![b"{}"; messages])),
            _ => new_null_array(field.data_type(), messages),
        });
    }
    columns.push(Arc::new(UInt32Array::from_iter_values(0..messages as u32)));
    RecordBatch::try_new(table.leaf_schema(), columns).expect("a leaf batch")
}
