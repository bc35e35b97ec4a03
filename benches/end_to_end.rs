//! Main job against a hand-written pass over the same bytes: file source, fleet SQL, hot state, Delta sink, checkpoints
//! every 10 s, one slot; the yardstick only decodes with arrow-json, unnests with kernels and writes Parquet.
//!
//!     cargo bench --bench end_to_end [-- MESSAGES ROUNDS]
//!     cargo bench --bench end_to_end -- checkpoints [MESSAGES PAIRS]
//!
//! Runs both in turn, ROUNDS times, and prints the median of each and their ratio: cores are shared, ratios hold.
//!
//! With `checkpoints` it says what they cost: the same input with one every 10 s, and with none before the end, in turns;
//! the median over PAIRS of how much more processor time in user mode the process took (all its threads; this machine
//! counts no instructions). Give it so many messages that a run takes half a minute: a run without a cut says nothing.

use arrow::array::{Array, AsArray, RecordBatch, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{DataType, Field, Schema, TimeUnit};
use parquet::arrow::ArrowWriter;
use parquet::basic::{Compression, ZstdLevel};
use parquet::file::properties::WriterProperties;
use std::fmt::Write as _;
use std::fs::File;
use std::io::{BufReader, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const SQL: &str = "
CREATE TABLE kinematic (
  vehicle_id TEXT NOT NULL, fleet_id TEXT, sent_at TIMESTAMP,
  measurements STRUCT<t TIMESTAMP, lat DOUBLE, lon DOUBLE, speed DOUBLE, heading DOUBLE, rpm INT, fuel DOUBLE>[]
);
CREATE VIEW points AS
SELECT vehicle_id, fleet_id, m['t'] AS t, m['lat'] AS lat, m['lon'] AS lon, m['speed'] AS speed, m['heading'] AS heading,
       m['rpm'] AS rpm, m['fuel'] AS fuel
FROM (SELECT vehicle_id, fleet_id, unnest(measurements) AS m FROM kinematic)
WHERE m['lat'] BETWEEN -90 AND 90;
CREATE MATERIALIZED VIEW vehicle_latest AS
SELECT DISTINCT ON (vehicle_id) vehicle_id, fleet_id, t, lat, lon, speed, fuel FROM points ORDER BY vehicle_id, t DESC;
CREATE MATERIALIZED VIEW fleet_stats AS
SELECT fleet_id, count(*) AS n, avg(speed) AS avg_speed, max(speed) AS max_speed FROM points GROUP BY fleet_id;
INSERT INTO lake.points SELECT * FROM points;
";

/// The project's goal: checkpoints every 10 s cost at most this, percent.
const CHECKPOINTS_GOAL: f64 = 8.0;
const EVERY_10S: Settings = Settings { interval: "10s", memory: "16GiB", once: false };
/// No checkpoint before the end, and none that is made because memory is short.
const NEVER: Settings = Settings { interval: "24h", memory: "16GiB", once: false };

#[derive(Clone, Copy)]
struct Settings {
    interval: &'static str,
    memory: &'static str,
    /// Ends by itself, as soon as the source has handed over everything. Else it is stopped when all is processed, so that
    /// what waits in memory is not left to the last checkpoint.
    once: bool,
}

fn main() {
    let args: Vec<usize> = std::env::args().skip(1).filter_map(|a| a.parse().ok()).collect();
    let of_checkpoints = std::env::args().any(|a| a == "checkpoints");
    let (messages, rounds) = if of_checkpoints { (1_000_000, 7) } else { (200_000, 5) };
    let messages = args.first().copied().unwrap_or(messages);
    let rounds = args.get(1).copied().unwrap_or(rounds);
    let dir = tempfile::tempdir().expect("a temporary directory");
    let input = dir.path().join("kinematic.jsonl");
    let bytes = generate(&input, messages);
    println!("{messages} messages, {:.1} MB, 10 measurements each; {rounds} rounds", bytes as f64 / 1e6);

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    if of_checkpoints {
        return cost_of_checkpoints(&runtime, dir.path(), rounds, messages * 10);
    }
    let usual = Settings { interval: "10s", memory: "512MiB", once: true };
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        theirs.push(by_hand(&input, &dir.path().join(format!("hand-{round}.parquet")), messages * 10));
        ours.push(pipeline(&runtime, dir.path(), &format!("pipe-{round}"), usual, messages * 10).took);
    }
    let (a, b) = (median(&mut ours), median(&mut theirs));
    let rate = |d: Duration| messages as f64 / d.as_secs_f64();
    println!(
        "by hand (arrow-json, kernels, Parquet)  {:>9.0} messages/s  {:>6.1} MB/s",
        rate(b),
        bytes as f64 / 1e6 / b.as_secs_f64()
    );
    println!(
        "pipe (SQL, hot state, Delta, checkpoint){:>9.0} messages/s  {:>6.1} MB/s",
        rate(a),
        bytes as f64 / 1e6 / a.as_secs_f64()
    );
    println!("ratio pipe / by hand: {:.2}", b.as_secs_f64() / a.as_secs_f64());
}

fn cost_of_checkpoints(runtime: &tokio::runtime::Runtime, dir: &Path, pairs: usize, rows_expected: usize) {
    let run = |pair: usize, settings: Settings| {
        let home = format!("{}-{pair}", settings.interval);
        let ran = pipeline(runtime, dir, &home, settings, rows_expected);
        std::fs::remove_dir_all(dir.join(home)).expect("deletes");
        ran
    };
    let (mut costs, mut records) = (Vec::new(), Vec::new());
    for pair in 0..pairs {
        let (with, without) = if pair % 2 == 0 {
            let with = run(pair, EVERY_10S);
            (with, run(pair, NEVER))
        } else {
            let without = run(pair, NEVER);
            (run(pair, EVERY_10S), without)
        };
        // Beside the claim there is the record at the end, in both.
        let cuts = with.records.saturating_sub(without.records);
        let cost = (with.user_ticks as f64 / without.user_ticks as f64 - 1.0) * 100.0;
        println!(
            "pair {pair}: {cuts} checkpoints on the way in {:.0} s, user {} ticks; none in {:.0} s, {} ticks; {cost:+.1} %",
            with.took.as_secs_f64(),
            with.user_ticks,
            without.took.as_secs_f64(),
            without.user_ticks
        );
        costs.push(cost);
        records.push(cuts);
    }
    costs.sort_by(f64::total_cmp);
    records.sort();
    println!(
        "checkpoints every 10 s ({} a run) cost {:+.1} % of the user time, median of {pairs} pairs  (goal: at most {CHECKPOINTS_GOAL:.0} %)",
        records[pairs / 2],
        costs[pairs / 2]
    );
}

fn median(times: &mut [Duration]) -> Duration {
    times.sort();
    times[times.len() / 2]
}

/// A fleet's bundles: deterministic, 500 vehicles in 10 fleets.
fn generate(path: &Path, messages: usize) -> u64 {
    let mut out = std::io::BufWriter::new(File::create(path).expect("the file can be created"));
    let mut line = String::new();
    let mut seed = 42u64;
    let mut random = move || {
        seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (seed >> 33) as f64 / (1u64 << 31) as f64
    };
    let mut bytes = 0;
    for i in 0..messages {
        let vehicle = (random() * 500.0) as u32;
        let second = i / 50;
        line.clear();
        write!(
            line,
            r#"{{"vehicle_id":"v-{vehicle:05}","fleet_id":"f-{:02}","sent_at":"{}","measurements":["#,
            vehicle % 10,
            stamp(second, 0)
        )
        .expect("text");
        for m in 0..10 {
            let comma = if m == 0 { "" } else { "," };
            write!(
                line,
                r#"{comma}{{"t":"{}","lat":{:.6},"lon":{:.6},"speed":{:.1},"heading":{:.1},"rpm":{},"fuel":{:.2}}}"#,
                stamp(second, m * 100),
                48.0 + random(),
                11.0 + random(),
                random() * 130.0,
                random() * 360.0,
                (800.0 + random() * 3000.0) as u32,
                random() * 60.0
            )
            .expect("text");
        }
        line.push_str("]}\n");
        bytes += line.len() as u64;
        out.write_all(line.as_bytes()).expect("the disk takes it");
    }
    out.flush().expect("the disk takes it");
    bytes
}

fn stamp(second: usize, millis: usize) -> String {
    let (h, m, s) = (second / 3600 % 24, second / 60 % 60, second % 60);
    format!("2026-11-22T{h:02}:{m:02}:{s:02}.{millis:03}Z")
}

fn schema() -> Arc<Schema> {
    let stamp = DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
    let measurement = DataType::Struct(
        vec![
            Field::new("t", stamp.clone(), true),
            Field::new("lat", DataType::Float64, true),
            Field::new("lon", DataType::Float64, true),
            Field::new("speed", DataType::Float64, true),
            Field::new("heading", DataType::Float64, true),
            Field::new("rpm", DataType::Int32, true),
            Field::new("fuel", DataType::Float64, true),
        ]
        .into(),
    );
    Arc::new(Schema::new(vec![
        Field::new("vehicle_id", DataType::Utf8, false),
        Field::new("fleet_id", DataType::Utf8, true),
        Field::new("sent_at", stamp, true),
        Field::new("measurements", DataType::List(Arc::new(Field::new("item", measurement, true))), true),
    ]))
}

fn by_hand(input: &Path, output: &Path, rows_expected: usize) -> Duration {
    let started = Instant::now();
    let reader = BufReader::with_capacity(1 << 20, File::open(input).expect("the input is there"));
    let batches = arrow_json::ReaderBuilder::new(schema()).with_batch_size(8192).build(reader).expect("a reader");
    let mut writer: Option<ArrowWriter<File>> = None;
    let mut rows = 0;
    for batch in batches {
        let points = unnest(&batch.expect("good input"));
        rows += points.num_rows();
        let writer = writer.get_or_insert_with(|| {
            let properties = WriterProperties::builder()
                .set_compression(Compression::ZSTD(ZstdLevel::try_new(1).expect("level 1")))
                .build();
            ArrowWriter::try_new(File::create(output).expect("a file"), points.schema(), Some(properties))
                .expect("a writer")
        });
        writer.write(&points).expect("the disk takes it");
    }
    writer.expect("there were rows").close().expect("the disk takes it");
    assert_eq!(rows, rows_expected);
    started.elapsed()
}

fn unnest(batch: &RecordBatch) -> RecordBatch {
    let list = batch.column(3).as_list::<i32>();
    let mut parent = Vec::with_capacity(list.values().len());
    for row in 0..list.len() {
        parent.extend(std::iter::repeat_n(row as u32, list.value_length(row) as usize));
    }
    let parent = UInt32Array::from(parent);
    let items = list.values().as_struct();
    let mut columns = vec![
        ("vehicle_id", take(batch.column(0), &parent, None).expect("in range")),
        ("fleet_id", take(batch.column(1), &parent, None).expect("in range")),
    ];
    for (i, name) in ["t", "lat", "lon", "speed", "heading", "rpm", "fuel"].into_iter().enumerate() {
        columns.push((name, items.column(i).clone()));
    }
    RecordBatch::try_from_iter(columns).expect("columns of one length")
}

/// What a run of the pipeline took.
struct Ran {
    took: Duration,
    /// Of this process in user mode, in the clock ticks of the system (10 ms).
    user_ticks: u64,
    records: u64,
}

fn pipeline(
    runtime: &tokio::runtime::Runtime,
    dir: &Path,
    home: &str,
    settings: Settings,
    rows_expected: usize,
) -> Ran {
    let home = dir.join(home);
    std::fs::create_dir_all(&home).expect("a directory");
    std::fs::write(home.join("a.sql"), SQL).expect("a file");
    let config = home.join("p.toml");
    let Settings { interval, memory, once } = settings;
    let text = format!(
        r#"
[pipeline]
name = "bench"
sql = ["a.sql"]
data_dir = "data"
slots = 1
[checkpoint]
interval = "{interval}"
[limits]
memory = "{memory}"
[source.kinematic]
type = "file"
path = "../kinematic.jsonl"
[sink.lake]
type = "delta"
uri = "lake"
"#
    );
    std::fs::write(&config, text).expect("a file");
    runtime.block_on(async {
        let (loaded, plan) = pipe::engine::load::load_and_compile(&config).await.expect("the config is right");
        let assembled = pipe::engine::assemble::assemble(loaded, plan, once, &Default::default()).expect("complete");
        let (started, ticks) = (Instant::now(), user_ticks());
        let options = pipe::engine::start::StartOptions { once, ..Default::default() };
        let mut running = pipe::engine::start::start(assembled, options).await.expect("starts");
        if !once {
            while (running.live.counts().decoded as usize) < rows_expected / 10 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            running.stop();
        }
        running.wait().await.expect("ends well");
        let (took, user_ticks) = (started.elapsed(), user_ticks() - ticks);
        let status = running.live.checkpoint_status();
        assert_eq!(status.rows_total["lake.points"] as usize, rows_expected, "every row once");
        Ran { took, user_ticks, records: status.records_written }
    })
}

fn user_ticks() -> u64 {
    let stat = std::fs::read_to_string("/proc/self/stat").expect("Linux");
    // The name in brackets may hold spaces; of what follows it the twelfth field is utime.
    let fields = stat.rsplit(')').next().expect("a name in brackets");
    fields.split_whitespace().nth(11).and_then(|ticks| ticks.parse().ok()).expect("a number")
}
