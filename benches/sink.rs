//! What the Delta sink adds to writing Parquet, and what a commit costs after thousands: `cargo bench --bench sink`.
//!
//! Ratios within one run on one machine: rows per second of `EpochWriter` against a bare `ArrowWriter` with the same
//! settings, milliseconds per `apply` at the beginning and at the end of 200 epochs; then 2,000 small epochs with
//! checkpoints, log clean-up and compaction beside them, and what is left of files and memory: exit 1 if one of the
//! bounds in docs/guarantees.md is broken. With a number as argument only that last part, with so many epochs:
//! `cargo bench --bench sink -- 20000`, or `cargo test --bench sink -- 2000` with the everyday build.

use arrow::array::{ArrayRef, Float64Array, Int32Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use parquet::arrow::ArrowWriter;
use pipe::env::store::{self, Location};
use pipe::sinks::delta::config::{DeltaTableConfig, FloatEncoding};
use pipe::sinks::delta::sink::DeltaSink;
use pipe::sinks::delta::table::{Landing, Table, TableSpec};
use pipe::sinks::delta::upkeep::{Upkeep, turn};
use pipe::types::epoch::{ChainId, Epoch};
use pipe::types::limit::UPKEEP_BYTES_MIN;
use std::fmt::Debug;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;
use tracing::Subscriber;
use tracing::field::Field;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;

const BATCH_ROWS: usize = 8_192;
const BATCHES: usize = 64;
const ROUNDS: usize = 5;
const EPOCHS: u64 = 200;

/// Rows of an epoch of the long run.
const SMALL_ROWS: usize = 200;
const SMALL_EPOCHS: u64 = 2_000;
/// How long the long run's table keeps its log. Ours keep 24 hours of it; this is so many commits as a table at an epoch
/// every 10 s has in some hours, and lets a run of minutes clean its log again and again.
const LOG_RETENTION_S: f64 = 10.0;
/// Between two checkpoints of the log, as our tables say.
const CHECKPOINT_COMMITS: f64 = 100.0;
/// Commits at the end that are compared with those of a new table.
const COMPARED: u64 = 200;
/// By how much resident memory may grow after the first fifth, however many commits there are: what comes and goes with
/// a checkpoint and a compaction. With the system's allocator: the binary's, mimalloc, keeps pages per thread and size,
/// 100 MB more for the thirty threads of local disk, which hides a slope. `tests/e2e/stall.py` measures the binary.
const MEMORY_GROWTH_MB_MAX: f64 = 16.0;

/// A fleet's points: 500 vehicles reporting in turn.
fn points(batch: usize) -> RecordBatch {
    let rows = || (0..BATCH_ROWS).map(|i| batch * BATCH_ROWS + i);
    // Scattered like measurements, the same in every run (splitmix64).
    let noise = |i: usize, salt: u64| {
        let mut z = (i as u64 ^ (salt << 32)).wrapping_mul(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        ((z ^ (z >> 31)) % 1_000_000) as f64 / 1e6
    };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("vehicle_id", Arc::new(StringArray::from_iter_values(rows().map(|i| format!("vehicle-{:05}", i % 500))))),
        ("fleet_id", Arc::new(StringArray::from_iter_values(rows().map(|i| format!("fleet-{}", i % 7))))),
        (
            "t",
            Arc::new(
                TimestampMicrosecondArray::from_iter_values(rows().map(|i| 1_700_000_000_000_000 + i as i64 * 2_000))
                    .with_timezone("UTC"),
            ),
        ),
        ("lat", Arc::new(Float64Array::from_iter_values(rows().map(|i| 48.0 + noise(i, 1))))),
        ("lon", Arc::new(Float64Array::from_iter_values(rows().map(|i| 11.0 + noise(i, 2))))),
        ("speed", Arc::new(Float64Array::from_iter_values(rows().map(|i| (noise(i, 3) * 130.0).round())))),
        ("rpm", Arc::new(Int32Array::from_iter_values(rows().map(|i| 800 + (noise(i, 4) * 3_000.0) as i32)))),
        ("fuel", Arc::new(Float64Array::from_iter_values(rows().map(|i| 100.0 - (i % 5_000) as f64 / 50.0)))),
    ];
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).expect("equal lengths")
}

async fn table(location: &Location, batch: &RecordBatch) -> Arc<Table> {
    let sink =
        DeltaSink::at("lake", location.clone(), FloatEncoding::ByteStreamSplit).await.expect("the store is sound");
    let spec = TableSpec { name: "points".into(), schema: batch.schema(), partition_by: vec![] };
    sink.open_table(spec, &app_id()).await.expect("a new table")
}

fn app_id() -> String {
    ChainId("bench".into()).app_id("lake", "points")
}

fn local(dir: &std::path::Path) -> Location {
    store::open(dir.to_str().expect("UTF-8"), &Default::default()).expect("a temporary directory")
}

fn median(part: &[f64]) -> f64 {
    let mut part = part.to_vec();
    part.sort_by(f64::total_cmp);
    part[part.len() / 2]
}

fn resident_mb() -> f64 {
    let pages = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    pages.split(' ').nth(1).and_then(|n| n.parse::<f64>().ok()).unwrap_or(f64::NAN) * 4096.0 / 1e6
}

/// The table forgets its log soon: a commit of version 1 with another retention.
async fn keep_log_for(location: &Location, table: &Table, seconds: f64) {
    let log = location.under("points/_delta_log");
    let first = log.get(&format!("{:020}.json", 0)).await.expect("readable").expect("version 0");
    let text = String::from_utf8(first.to_vec()).expect("JSON");
    let metadata = text.lines().find(|line| line.starts_with("{\"metaData\"")).expect("metadata");
    let edited = metadata.replace("\"interval 24 hours\"", &format!("\"interval {seconds} seconds\""));
    assert_ne!(edited, metadata, "the retention was there to be changed");
    log.put_create(&format!("{:020}.json", 1), edited.into()).await.expect("writable");
    table.refresh().await.expect("a log that can be read");
}

/// Of all compactions, as the upkeep says it.
static LONGEST_COMPACTION_MS: AtomicU64 = AtomicU64::new(0);

/// Hears how long compactions take.
struct Durations;

impl<S: Subscriber> Layer<S> for Durations {
    fn on_event(&self, event: &tracing::Event<'_>, _: Context<'_, S>) {
        let mut duration = |field: &Field, value: &dyn Debug| {
            if field.name() == "duration_ms" && event.fields().any(|f| f.name() == "files_in") {
                let ms = format!("{value:?}").parse().expect("a number");
                LONGEST_COMPACTION_MS.fetch_max(ms, Ordering::Relaxed);
            }
        };
        event.record(&mut duration);
    }
}

/// The long run's table, what is counted while it grows, and what of it breaks a bound.
#[derive(Default)]
struct LongRun {
    epochs: u64,
    /// Of every commit: seconds since the start.
    at_s: Vec<f64>,
    apply_ms: Vec<f64>,
    most_active: u64,
    most_log: usize,
    /// Commits so far and resident memory, often.
    memory: Vec<(f64, f64)>,
    broken: Vec<String>,
}

impl LongRun {
    fn judge(&mut self, what: &str, found: f64, bound: f64, detail: &str) {
        println!("    {what:<16} {found:.1}, bound {bound:.1}{detail}");
        // Not a number is broken as well.
        if !(found <= bound) {
            self.broken.push(what.to_owned());
        }
    }

    /// Commits of the busiest stretch of so many seconds.
    fn busiest(&self, seconds: f64) -> f64 {
        let mut busiest = 0;
        let mut from = 0;
        for (to, at) in self.at_s.iter().enumerate() {
            while at - self.at_s[from] > seconds {
                from += 1;
            }
            busiest = busiest.max(to + 1 - from);
        }
        busiest as f64
    }

    /// Versions the log holds at most: those of the busiest stretch as long as the retention, with one compaction for
    /// every `files_min` commits; back to the checkpoint before it; until the next checkpoint is due, and while it is
    /// written, for which half an interval is allowed. Besides them a checkpoint per interval, and `_last_checkpoint`.
    fn log_bound(&self, files_min: u64) -> f64 {
        let versions = self.busiest(LOG_RETENTION_S) * (1.0 + 2.0 / files_min as f64) + 2.5 * CHECKPOINT_COMMITS;
        versions + versions / CHECKPOINT_COMMITS + 2.0
    }

    /// Megabytes per commit: the line that fits best through what was measured after the first fifth.
    fn memory_slope(&self) -> f64 {
        let part: Vec<_> = self.memory.iter().filter(|(n, _)| *n > self.epochs as f64 / 5.0).collect();
        let mean = |of: fn(&(f64, f64)) -> f64| part.iter().map(|p| of(p)).sum::<f64>() / part.len() as f64;
        let (x, y) = (mean(|p| p.0), mean(|p| p.1));
        let of = |f: &dyn Fn(f64, f64) -> f64| part.iter().map(|p| f(p.0 - x, p.1 - y)).sum::<f64>();
        of(&|dx, dy| dx * dy) / of(&|dx, _| dx * dx)
    }
}

/// One epoch of the same rows; milliseconds of its commit.
async fn epoch(table: &Table, epoch: u64, rows: &RecordBatch) -> f64 {
    let mut writer = table.writer().expect("a writer");
    writer.write(rows).await.expect("writes");
    let adds = writer.finish().await.expect("finishes").adds;
    let landing = Landing { app_id: app_id(), adds, schema_action: None };
    let prepared = Instant::now();
    table.apply(Epoch(epoch), &landing).await.expect("lands");
    prepared.elapsed().as_secs_f64() * 1e3
}

/// Small epochs as fast as they go, with the upkeep of a running pipeline beside them. False: a bound was broken.
async fn long_run(dir: &std::path::Path, epochs: u64) -> bool {
    let location = local(&dir.join("old"));
    // Other rows in every epoch: the same ones would compress to nothing when they are put together.
    let all = points(0);
    let rows = |n: u64| all.slice(n as usize * 37 % (BATCH_ROWS - SMALL_ROWS), SMALL_ROWS);
    let table = table(&location, &all).await;
    keep_log_for(&location, &table, LOG_RETENTION_S).await;
    let stop = CancellationToken::new();
    let config = DeltaTableConfig::default();
    let files_min = config.compact_files_min as u64;
    let upkeep = {
        let (upkeep, stop) = (Upkeep::new(table.clone(), config, turn(UPKEEP_BYTES_MIN)), stop.clone());
        let io = tokio::runtime::Handle::current();
        std::thread::spawn(move || io.block_on(upkeep.run(stop)))
    };
    // The same commits into a table without a past, at the same time: what else the machine does weighs on both.
    let young = self::table(&local(&dir.join("young")), &all).await;
    let mut young_ms = Vec::new();
    let mut run = LongRun { epochs, ..LongRun::default() };
    let started = Instant::now();
    for n in 1..=epochs {
        run.apply_ms.push(epoch(&table, n, &rows(n)).await);
        run.at_s.push(started.elapsed().as_secs_f64());
        run.most_active = run.most_active.max(table.active_files().unwrap_or_default());
        if n > epochs - COMPARED {
            young_ms.push(epoch(&young, n, &rows(n)).await);
        }
        if n % 20 == 0 {
            let log = location.list("points/_delta_log").await.expect("listable").len();
            run.most_log = run.most_log.max(log);
            run.memory.push((n as f64, resident_mb()));
        }
        if n % 500 == 0 {
            let (seconds, active) = (started.elapsed().as_secs(), table.active_files().unwrap_or_default());
            println!(
                "  {n:>6} commits, {seconds} s: {} log files, {active} active, {:.0} MB",
                run.most_log,
                resident_mb()
            );
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    stop.cancel();
    upkeep.join().expect("upkeep does not panic");
    println!("  {epochs} epochs of {SMALL_ROWS} rows with upkeep beside them, disk with fsync, in {seconds:.0} s:");
    let last = &run.apply_ms[run.apply_ms.len() - COMPARED as usize..];
    let (first, last, young) = (median(&run.apply_ms[..COMPARED as usize]), median(last), median(&young_ms));
    let detail = format!(" ({last:.1} ms, {young:.1} in a new table meanwhile; the first {COMPARED} took {first:.1})");
    run.judge("commit, times", last / young, 1.5, &detail);
    let growth_mb = run.memory_slope() * epochs as f64 * 0.8;
    let detail = format!(" from the first fifth on, by the line that fits best; {:.0} MB at the end", resident_mb());
    run.judge("memory, MB more", growth_mb, MEMORY_GROWTH_MB_MAX, &detail);
    run.judge("log files", run.most_log as f64, run.log_bound(files_min), " at most");
    // Less than a bin in each of five size classes, and what is committed while two bins are put together: the one that is
    // under way when the next is full, and that one.
    let longest_s = LONGEST_COMPACTION_MS.load(Ordering::Relaxed) as f64 / 1e3;
    let bound = (5 * files_min) as f64 + run.busiest(2.0 * longest_s);
    let detail = format!(" at most; the longest compaction took {longest_s:.2} s");
    run.judge("active files", run.most_active as f64, bound, &detail);
    let context = SessionContext::new();
    context.register_table("t", table.snapshot().provider).expect("a new name");
    let count = context.sql("SELECT * FROM t").await.expect("a plan").count().await.expect("readable");
    assert_eq!(count as u64, epochs * SMALL_ROWS as u64, "every row once");
    if !run.broken.is_empty() {
        println!("  broken: {}", run.broken.join(", "));
    }
    run.broken.is_empty()
}

#[tokio::main]
async fn main() -> ExitCode {
    let upkeep_alone = Targets::new().with_target("pipe::sinks::delta::upkeep", LevelFilter::DEBUG);
    tracing_subscriber::registry().with(Durations.with_filter(upkeep_alone)).init();
    if let Some(epochs) = std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        return if long_run(dir.path(), epochs).await { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let batches: Vec<RecordBatch> = (0..BATCHES).map(points).collect();
    let rows = (BATCHES * BATCH_ROWS) as f64;
    let memory_mb = batches.iter().map(|b| b.get_array_memory_size()).sum::<usize>() as f64 / 1e6;
    let dir = tempfile::tempdir().expect("a temporary directory");

    let mut best = [Duration::MAX; 3];
    let mut file_mb = 0.0;
    for round in 0..ROUNDS {
        let in_memory = table(&Location::in_memory(), &batches[0]).await;
        let on_disk = table(&local(&dir.path().join(format!("encode-{round}"))), &batches[0]).await;

        let writer = in_memory.writer().expect("a writer");
        let started = Instant::now();
        let mut bare =
            ArrowWriter::try_new(Vec::new(), batches[0].schema(), Some(writer.properties().clone())).expect("a writer");
        for batch in &batches {
            bare.write(batch).expect("encodes");
        }
        file_mb = bare.into_inner().expect("a footer").len() as f64 / 1e6;
        best[0] = best[0].min(started.elapsed());

        for (i, (table, mut writer)) in
            [(&in_memory, writer), (&on_disk, on_disk.writer().expect("a writer"))].into_iter().enumerate()
        {
            let started = Instant::now();
            for batch in &batches {
                writer.write(batch).await.expect("writes");
            }
            let prepared = writer.finish().await.expect("finishes");
            best[i + 1] = best[i + 1].min(started.elapsed());
            assert_eq!(prepared.rows as usize, BATCHES * BATCH_ROWS, "{}", table.id());
        }
    }
    println!("sink: {rows} rows, {memory_mb:.1} MB in memory, {file_mb:.1} MB in the file");
    for (name, time) in
        ["ArrowWriter, memory", "EpochWriter, memory", "EpochWriter, disk with fsync"].into_iter().zip(best)
    {
        let seconds = time.as_secs_f64();
        println!(
            "  {name:<30} {:>6.2} M rows/s  {:>7.1} MB/s  {:.2} of ArrowWriter",
            rows / seconds / 1e6,
            memory_mb / seconds,
            best[0].as_secs_f64() / seconds
        );
    }

    for (name, location) in [("memory", Location::in_memory()), ("disk with fsync", local(&dir.path().join("apply")))] {
        let table = table(&location, &batches[0]).await;
        let mut millis = Vec::new();
        for epoch in 1..=EPOCHS {
            let mut writer = table.writer().expect("a writer");
            writer.write(&batches[0].slice(0, 2_000)).await.expect("writes");
            let adds = writer.finish().await.expect("finishes").adds;
            let landing = Landing { app_id: app_id(), adds, schema_action: None };
            let started = Instant::now();
            table.apply(Epoch(epoch), &landing).await.expect("lands");
            millis.push(started.elapsed().as_secs_f64() * 1e3);
        }
        let (first, last) = (median(&millis[..50]), median(&millis[millis.len() - 50..]));
        println!("  apply, {name:<23} {first:.2} ms first 50, {last:.2} ms last 50: x{:.2}", last / first);
    }
    if long_run(&dir.path().join("long"), SMALL_EPOCHS).await { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
