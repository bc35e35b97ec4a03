//! What hot state costs: rows merged per second, memory per key, freezing, reading. Prints a table; asserts nothing.
//!
//!     cargo bench --bench state [-- recovery]
//!
//! With `recovery` only this: a snapshot of a million keys is restored as a start does it (read, checksum, decode, index),
//! by one slot and by two, against reading the same files into memory: from the disk, as after a power loss or on a new machine, and
//! from the page cache, as after a kill; interleaved pairs, median of seven.
//!
//! Every batch is applied, frozen (the previous frozen view is still held, as by a reader) and followed by one step of
//! compaction, as the engine does it. Keys are uniformly random: the worst case for locality. Throughput is by
//! processor time, so that a busy machine disturbs less; the short reads are by the clock.

use arrow::array::{
    ArrayRef, Float64Array, Int64Array, RecordBatch, StringArray, TimestampMicrosecondArray, UInt32Array,
};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use datafusion::functions_aggregate::{
    average::avg_udaf, count::count_udaf, min_max::max_udaf, min_max::min_udaf, sum::sum_udaf,
};
use datafusion::logical_expr::AggregateUDF;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, lit};
use futures::future::try_join_all;
use pipe::checkpoint::record::SegmentRef;
use pipe::engine::chain::Chain;
use pipe::engine::recover::load_share;
use pipe::env::offload::Offload;
use pipe::env::store;
use pipe::sql::plan::{Aggregate, Fold, MaterializedView, OrderColumn, Place};
use pipe::state::view::{FrozenView, ViewState};
use pipe::types::epoch::Epoch;
use pipe::types::lineage::{Lineage, Origin};
use pipe::types::position::{PartitionId, Position};
use pipe::types::table::timestamp_type;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const BATCH_ROWS: usize = 8_192;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(run());
}

async fn run() {
    if std::env::args().any(|a| a == "recovery") {
        return recoveries().await;
    }
    memory_of_vehicle_latest().await;
    println!("\n{:<12} {:>9} {:>9} {:>14} {:>11} {:>11}", "fold", "keys", "batch", "rows/s", "us/batch", "bytes/key");
    for (name, view) in [("group by", group_by()), ("distinct on", vehicle_latest())] {
        for keys in [20_000, 100_000, 1_000_000] {
            for rows in [BATCH_ROWS, 1_000] {
                throughput(name, &view, keys, rows).await;
            }
        }
    }
    println!(
        "\n{:<12} {:>9} {:>12} {:>14} {:>16} {:>14} {:>20}",
        "fold", "keys", "freeze ns", "read rows/s", "read 1k keys us", "base ms", "3 shares, rows/s"
    );
    for (name, view) in [("group by", group_by()), ("distinct on", vehicle_latest())] {
        for keys in [20_000, 1_000_000] {
            reads(name, &view, keys).await;
        }
    }
}

async fn memory_of_vehicle_latest() {
    let view = Arc::new(vehicle_latest());
    let keys = 100_000;
    // Warm the allocator and the code, so that the difference is the state.
    drop(loaded(&view, 1_000).await);
    let before = resident();
    let mut share = Share::new(&view, keys);
    share.load().await;
    let loaded_by = resident().saturating_sub(before);
    println!(
        "vehicle_latest, {keys} keys: loaded {:.1} MB resident, bytes() {:.1} MB",
        mb(loaded_by),
        mb(share.state.bytes())
    );
    for _ in 0..400 {
        share.batch(BATCH_ROWS);
    }
    println!(
        "  after {} updates {:.1} MB resident, bytes() {:.1} MB, {:.0} bytes per key",
        400 * BATCH_ROWS,
        mb(resident().saturating_sub(before)),
        mb(share.state.bytes()),
        share.state.bytes() as f64 / keys as f64
    );
}

async fn throughput(name: &str, view: &MaterializedView, keys: usize, rows: usize) {
    let view = Arc::new(view.clone());
    let mut share = Share::new(&view, keys);
    share.load().await;
    let batches = (4_000_000 / rows).min(2_000);
    for _ in 0..batches / 4 {
        share.batch(rows);
    }
    share.spent = Duration::ZERO;
    for _ in 0..batches {
        share.batch(rows);
    }
    let seconds = share.spent.as_secs_f64();
    println!(
        "{name:<12} {keys:>9} {rows:>9} {:>14.0} {:>11.0} {:>11.0}",
        (batches * rows) as f64 / seconds,
        seconds * 1e6 / batches as f64,
        share.state.bytes() as f64 / keys as f64
    );
}

async fn reads(name: &str, view: &MaterializedView, keys: usize) {
    let view = Arc::new(view.clone());
    let mut share = Share::new(&view, keys);
    share.load().await;
    for _ in 0..50 {
        share.batch(BATCH_ROWS);
    }
    let start = Instant::now();
    for _ in 0..1_000 {
        std::hint::black_box(share.state.freeze());
    }
    let freeze_ns = start.elapsed().as_nanos() as f64 / 1_000.0;
    let frozen = share.state.freeze();
    let start = Instant::now();
    let rows: usize =
        FrozenView::read(&view, &[frozen.clone()]).expect("reads").iter().map(RecordBatch::num_rows).sum();
    let read = rows as f64 / start.elapsed().as_secs_f64();
    let start = Instant::now();
    std::hint::black_box(frozen.base().expect("reads"));
    let base_ms = start.elapsed().as_secs_f64() * 1e3;
    let mut spent = Duration::ZERO;
    for round in 0..101 {
        let touched = share.batch(1_000);
        let frozen = [share.state.freeze()];
        let start = Instant::now();
        std::hint::black_box(FrozenView::read_keys(&view, &frozen, &touched).expect("reads"));
        // The first one builds the readers' index.
        if round > 0 {
            spent += start.elapsed();
        }
    }
    // Two more shares with keys of their own, as when keys follow partitions.
    let mut shares = vec![share.state.freeze()];
    for number in 1..3 {
        let mut other = Share::new(&view, keys);
        other.first_key = number * keys;
        other.load().await;
        shares.push(other.state.freeze());
    }
    let start = Instant::now();
    let rows: usize = FrozenView::read(&view, &shares).expect("reads").iter().map(RecordBatch::num_rows).sum();
    let read_3 = rows as f64 / start.elapsed().as_secs_f64();
    println!(
        "{name:<12} {keys:>9} {freeze_ns:>12.0} {read:>14.0} {:>16.0} {base_ms:>14.1} {read_3:>20.0}",
        spent.as_secs_f64() * 1e4
    );
}

/// A share under load, and what it cost.
struct Share {
    view: Arc<MaterializedView>,
    state: ViewState,
    keys: usize,
    first_key: usize,
    time: i64,
    random: SmallRng,
    lineage: Lineage,
    held: Option<FrozenView>,
    spent: Duration,
}

impl Share {
    fn new(view: &Arc<MaterializedView>, keys: usize) -> Self {
        let id = Arc::new(PartitionId::new("kinematic", "telemetry/0"));
        let origin = |n: usize| Origin {
            partition: Arc::clone(&id),
            partition_label: Arc::clone(&id.name),
            topic: Some("telemetry".into()),
            position: Position(n as u64),
        };
        let state = futures::executor::block_on(ViewState::new(Arc::clone(view))).expect("plans");
        Share {
            view: Arc::clone(view),
            state,
            keys,
            first_key: 0,
            time: 0,
            random: SmallRng::seed_from_u64(1),
            lineage: Lineage { origins: (0..BATCH_ROWS).map(origin).collect() },
            held: None,
            spent: Duration::ZERO,
        }
    }

    async fn load(&mut self) {
        for from in (0..self.keys).step_by(BATCH_ROWS) {
            let numbers: Vec<usize> = (from..(from + BATCH_ROWS).min(self.keys)).collect();
            self.apply(&numbers);
        }
        assert_eq!(self.state.keys(), self.keys as u64);
    }

    fn batch(&mut self, rows: usize) -> RecordBatch {
        let numbers: Vec<usize> = (0..rows).map(|_| self.random.random_range(0..self.keys)).collect();
        self.apply(&numbers)
    }

    fn apply(&mut self, numbers: &[usize]) -> RecordBatch {
        self.time += 1;
        let numbers: Vec<usize> = numbers.iter().map(|n| self.first_key + n).collect();
        let batch = rows(&self.view.input_schema, &numbers, self.time);
        let start = processor_time();
        let touched = self.state.apply(&[batch], &self.lineage).expect("applies");
        let frozen = self.state.freeze();
        self.state.compact().expect("compacts");
        self.spent += processor_time() - start;
        self.held = Some(frozen);
        touched
    }
}

const RECOVERED_KEYS: usize = 1_000_000;
const PAIRS: usize = 7;
/// As the checkpointer writes a base.
const PART_BYTES: u64 = 8 * 1024 * 1024;
/// Goal of the project, in percent of the rate of reading the files.
const RECOVERY_GOAL: f64 = 50.0;

async fn recoveries() {
    for slots in [1, 2] {
        for (name, view) in [("group by", group_by()), ("distinct on", vehicle_latest())] {
            recovery(name, &Arc::new(view), slots).await;
        }
    }
}

async fn recovery(name: &str, view: &Arc<MaterializedView>, slots: u32) {
    // Beside the repository's own files, not in a /tmp that may be memory.
    let dir = tempfile::tempdir_in(std::env::current_dir().expect("a directory")).expect("a directory");
    let address = dir.path().to_string_lossy();
    let chain = Chain { location: store::open(&address, &BTreeMap::new()).expect("a directory") };
    let mut segments = Vec::new();
    for (number, part) in loaded(view, RECOVERED_KEYS).await.state.freeze().parts(PART_BYTES).into_iter().enumerate() {
        let rows = part.base().expect("reads");
        let path = format!("part-{number}");
        segments.push(
            chain.put_segment(number as u32 % slots, Epoch(1), true, path, &rows).await.expect("the disk takes it"),
        );
    }
    let bytes: u64 = segments.iter().map(|s| s.bytes).sum();
    println!(
        "{name}, {RECOVERED_KEYS} keys in {slots} slot(s), {:.0} MB in {} files (goal {RECOVERY_GOAL:.0} %)",
        mb(bytes),
        segments.len()
    );
    let what = Restored { chain: &chain, view, segments: &segments, slots };
    if forget(dir.path()) {
        what.compare("disk", dir.path(), true).await;
    } else {
        println!("  from the disk: not measured, there is no dd with iflag=nocache");
    }
    what.compare("page cache", dir.path(), false).await;
}

struct Restored<'a> {
    chain: &'a Chain,
    view: &'a Arc<MaterializedView>,
    segments: &'a [SegmentRef],
    slots: u32,
}

impl Restored<'_> {
    async fn compare(&self, from: &str, dir: &Path, forgets: bool) {
        let ready = || assert!(!forgets || forget(dir), "the files are in the page cache");
        let (mut files, mut restores, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
        for pair in 0..PAIRS {
            ready();
            let first = if pair % 2 == 0 { files_read(dir) } else { self.rate().await };
            ready();
            let second = if pair % 2 == 0 { self.rate().await } else { files_read(dir) };
            let (file, restore) = if pair % 2 == 0 { (first, second) } else { (second, first) };
            files.push(file);
            restores.push(restore);
            ratios.push(restore / file * 100.0);
        }
        println!(
            "  from the {from:<10}  files {:>5.0} MB/s  restore {:>5.0} MB/s ({:.0} ms)  ratio {:.0} %",
            median(files),
            median(restores.clone()),
            self.mb() / median(restores) * 1e3,
            median(ratios)
        );
    }

    fn mb(&self) -> f64 {
        mb(self.segments.iter().map(|s| s.bytes).sum())
    }

    /// MB of the segments per second.
    async fn rate(&self) -> f64 {
        let start = Instant::now();
        let share = |slot| load_share(self.chain, self.view, self.segments, slot, Offload::Pool);
        let shares = try_join_all((0..self.slots).map(share)).await.expect("restores");
        let took = start.elapsed().as_secs_f64();
        assert_eq!(shares.iter().map(ViewState::keys).sum::<u64>(), RECOVERED_KEYS as u64);
        self.mb() / took
    }
}

/// MB of all files per second, read into memory that is kept, as state is.
fn files_read(dir: &Path) -> f64 {
    let start = Instant::now();
    let paths = std::fs::read_dir(dir).expect("lists").map(|entry| entry.expect("lists").path());
    let files: Vec<Vec<u8>> = paths.map(|path| std::fs::read(path).expect("reads")).collect();
    mb(files.iter().map(|f| f.len() as u64).sum()) / start.elapsed().as_secs_f64()
}

/// Asks the system to drop the files from the page cache. False: it could not be asked.
fn forget(dir: &Path) -> bool {
    std::fs::read_dir(dir).expect("lists").all(|entry| {
        let of = format!("if={}", entry.expect("lists").path().display());
        Command::new("dd").arg(of).args(["iflag=nocache", "count=0", "status=none"]).status().is_ok_and(|s| s.success())
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

async fn loaded(view: &Arc<MaterializedView>, keys: usize) -> Share {
    let mut share = Share::new(view, keys);
    share.load().await;
    share
}

fn input_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("vehicle_id", DataType::Utf8, false),
        Field::new("fleet_id", DataType::Utf8, true),
        Field::new("t", timestamp_type(), true),
        Field::new("lat", DataType::Float64, true),
        Field::new("lon", DataType::Float64, true),
        Field::new("speed", DataType::Float64, true),
        Field::new("fuel", DataType::Float64, true),
        Field::new("rpm", DataType::Int64, true),
    ]))
}

fn rows(schema: &SchemaRef, numbers: &[usize], time: i64) -> RecordBatch {
    let floats =
        |f: f64| -> ArrayRef { Arc::new(Float64Array::from_iter_values(numbers.iter().map(|n| *n as f64 * f))) };
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| format!("vehicle-{n:07}")))),
        Arc::new(StringArray::from_iter_values(numbers.iter().map(|n| format!("fleet-{:02}", n % 40)))),
        Arc::new(
            TimestampMicrosecondArray::from_iter_values(numbers.iter().map(|_| time * 1_000_000)).with_timezone("UTC"),
        ),
        floats(0.1),
        floats(0.2),
        floats(0.3),
        floats(0.4),
        Arc::new(Int64Array::from_iter_values(numbers.iter().map(|n| *n as i64))),
    ];
    columns.push(Arc::new(UInt32Array::from_iter_values(0..numbers.len() as u32)));
    let mut fields: Vec<Field> = schema.fields().iter().map(|f| f.as_ref().clone()).collect();
    fields.push(Field::new("__msg", DataType::UInt32, false));
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("by the schema")
}

fn view(name: &str, fold: Fold, output: SchemaRef, key: Vec<usize>) -> MaterializedView {
    let project = |(i, f): (usize, &Arc<Field>)| Arc::new(Column::new(f.name(), i)) as Arc<dyn PhysicalExpr>;
    MaterializedView {
        name: name.into(),
        sql: "".into(),
        place: Place { file: "bench.sql".into(), line: 1, column: 1 },
        input: 0,
        input_schema: input_schema(),
        fold,
        key,
        having: None,
        projection: output.fields().iter().enumerate().map(project).collect(),
        output_schema: output,
        fingerprint: "bench".into(),
    }
}

/// SELECT DISTINCT ON (vehicle_id) * ... ORDER BY vehicle_id, t DESC
fn vehicle_latest() -> MaterializedView {
    let schema = input_schema();
    let order = vec![OrderColumn { column: 2, descending: true }];
    view("vehicle_latest", Fold::DistinctOn { on: vec![0], order, result_schema: Arc::clone(&schema) }, schema, vec![0])
}

/// SELECT vehicle_id, count(*), sum(speed), avg(fuel), min(lat), max(rpm) ... GROUP BY vehicle_id
fn group_by() -> MaterializedView {
    let schema = input_schema();
    let column = |name: &str| -> Arc<dyn PhysicalExpr> {
        Arc::new(Column::new(name, schema.index_of(name).expect("a column of the bench")))
    };
    let aggregate = |udaf: Arc<AggregateUDF>, argument: Arc<dyn PhysicalExpr>, name: &str| Aggregate {
        function: Arc::new(
            AggregateExprBuilder::new(udaf, vec![argument])
                .schema(Arc::clone(&schema))
                .alias(name)
                .build()
                .expect("builds"),
        ),
        filter: None,
    };
    let aggregates = vec![
        aggregate(count_udaf(), lit(1i64), "n"),
        aggregate(sum_udaf(), column("speed"), "speed"),
        aggregate(avg_udaf(), column("fuel"), "fuel"),
        aggregate(min_udaf(), column("lat"), "lat"),
        aggregate(max_udaf(), column("rpm"), "rpm"),
    ];
    let mut fields = vec![schema.field(0).clone()];
    fields.extend(aggregates.iter().map(|a| a.function.field().as_ref().clone()));
    let result: SchemaRef = Arc::new(Schema::new(fields));
    let fold = Fold::GroupBy { groups: vec![0], aggregates, result_schema: Arc::clone(&result) };
    view("by_vehicle", fold, result, vec![0])
}

/// What this thread has used of a processor.
fn processor_time() -> Duration {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    Duration::from_nanos(schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first field"))
}

/// Resident bytes of this process.
fn resident() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("Linux");
    let pages: u64 = statm.split(' ').nth(1).and_then(|p| p.parse().ok()).expect("the second field");
    pages * 4_096
}

fn mb(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
