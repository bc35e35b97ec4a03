//! What the Delta sink adds to writing Parquet, and what a commit costs: `cargo bench --bench sink`.
//!
//! Ratios within one run on one machine: rows per second of `EpochWriter` against a bare `ArrowWriter` with the same
//! settings, and milliseconds per `apply` at the beginning and at the end of 200 epochs.

use arrow::array::{ArrayRef, Float64Array, Int32Array, StringArray, TimestampMicrosecondArray};
use arrow::record_batch::RecordBatch;
use parquet::arrow::ArrowWriter;
use pipe::env::store::{self, Location};
use pipe::sinks::delta::config::FloatEncoding;
use pipe::sinks::delta::sink::DeltaSink;
use pipe::sinks::delta::table::{Landing, Table, TableSpec};
use pipe::types::epoch::{ChainId, Epoch};
use std::sync::Arc;
use std::time::{Duration, Instant};

const BATCH_ROWS: usize = 8_192;
const BATCHES: usize = 64;
const ROUNDS: usize = 5;
const EPOCHS: u64 = 200;

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
    Table::app_id(&ChainId("bench".into()), "lake", "points")
}

fn local(dir: &std::path::Path) -> Location {
    store::open(dir.to_str().expect("UTF-8"), &Default::default()).expect("a temporary directory")
}

#[tokio::main]
async fn main() {
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
        // Medians: the commits that also write a checkpoint of the log are named apart.
        let median = |part: &[f64]| {
            let mut part = part.to_vec();
            part.sort_by(f64::total_cmp);
            part[part.len() / 2]
        };
        let (first, last) = (median(&millis[..50]), median(&millis[millis.len() - 50..]));
        let checkpoint = millis[99].max(millis[199]);
        println!(
            "  apply, {name:<23} {first:.2} ms first 50, {last:.2} ms last 50: x{:.2}; with a checkpoint {checkpoint:.1} ms",
            last / first
        );
    }
}
