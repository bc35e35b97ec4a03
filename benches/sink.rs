//! What the Delta sink adds to writing Parquet, and what a commit costs after thousands: `cargo bench --bench sink`.
//!
//! Ratios within one run on one machine: rows per second of `EpochWriter` against a bare `ArrowWriter` with the same
//! settings, milliseconds per `apply` at the beginning and at the end of 200 epochs; then 2,000 small epochs with
//! checkpoints, log clean-up and compaction beside them, and what is left of files and memory. With a number as argument
//! only that last part, with so many epochs: `cargo bench --bench sink -- 20000`.

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
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

const BATCH_ROWS: usize = 8_192;
const BATCHES: usize = 64;
const ROUNDS: usize = 5;
const EPOCHS: u64 = 200;

/// Rows of an epoch of the long run.
const SMALL_ROWS: usize = 500;
const SMALL_EPOCHS: u64 = 2_000;
/// How long the long run's table keeps its log: weeks in fast motion.
const LOG_RETENTION_S: f64 = 10.0;

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

/// Small epochs as fast as they go, with the upkeep of a running pipeline beside them.
async fn long_run(dir: &std::path::Path, epochs: u64) {
    let location = local(dir);
    let rows = points(0).slice(0, SMALL_ROWS);
    let table = table(&location, &rows).await;
    keep_log_for(&location, &table, LOG_RETENTION_S).await;
    let stop = CancellationToken::new();
    let config = DeltaTableConfig::default();
    let files_min = config.compact_files_min as u64;
    let upkeep = {
        let (upkeep, stop) = (Upkeep::new(table.clone(), config, turn()), stop.clone());
        let io = tokio::runtime::Handle::current();
        std::thread::spawn(move || io.block_on(upkeep.run(stop)))
    };
    let (mut apply_ms, mut epoch_ms, mut most_files) = (Vec::new(), Vec::new(), 0);
    let mut warm_mb = f64::NAN;
    let started = Instant::now();
    for epoch in 1..=epochs {
        let begun = Instant::now();
        let mut writer = table.writer().expect("a writer");
        writer.write(&rows).await.expect("writes");
        let adds = writer.finish().await.expect("finishes").adds;
        let landing = Landing { app_id: app_id(), adds, schema_action: None };
        let prepared = Instant::now();
        table.apply(Epoch(epoch), &landing).await.expect("lands");
        apply_ms.push(prepared.elapsed().as_secs_f64() * 1e3);
        epoch_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        most_files = most_files.max(table.active_files().unwrap_or_default());
        if epoch == epochs / 5 {
            warm_mb = resident_mb();
        }
    }
    let seconds = started.elapsed().as_secs_f64();
    let end_mb = resident_mb();
    stop.cancel();
    upkeep.join().expect("upkeep does not panic");
    println!("  {epochs} epochs of {SMALL_ROWS} rows with upkeep beside them, disk with fsync, in {seconds:.0} s:");
    for (name, millis) in [("apply", &apply_ms), ("write and apply", &epoch_ms)] {
        let (first, last) = (median(&millis[..200]), median(&millis[millis.len() - 200..]));
        println!("    {name:<16} {first:.2} ms first 200, {last:.2} ms last 200: x{:.2} (goal 1.5)", last / first);
    }
    println!("    resident         {warm_mb:.0} MB after a fifth, {end_mb:.0} MB at the end: x{:.2}", end_mb / warm_mb);
    let log = location.list("points/_delta_log").await.expect("listable").len() as f64;
    // What was written within the retention, twice the checkpoint interval, and the checkpoints among them.
    let log_bound = epochs as f64 / seconds * LOG_RETENTION_S * 1.2 + 210.0;
    println!("    log              {log} files, bound {log_bound:.0}");
    // Less than a bin in each of five size classes, and what arrives while a bin is put together.
    println!("    active files     {most_files} at most, bound {}", 5 * files_min + 64);
    let context = SessionContext::new();
    context.register_table("t", table.snapshot().provider).expect("a new name");
    let count = context.sql("SELECT * FROM t").await.expect("a plan").count().await.expect("readable");
    assert_eq!(count as u64, epochs * SMALL_ROWS as u64, "every row once");
}

#[tokio::main]
async fn main() {
    if let Some(epochs) = std::env::args().nth(1).and_then(|n| n.parse().ok()) {
        let dir = tempfile::tempdir().expect("a temporary directory");
        return long_run(dir.path(), epochs).await;
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
    long_run(&dir.path().join("long"), SMALL_EPOCHS).await;
}
