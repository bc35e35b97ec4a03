//! `pipe serve` on Kafka, killed and started again. The broker is librdkafka's double inside this process, so it outlives
//! what is killed; transactions, new partitions and a real broker's disk are left to tests/e2e.

use arrow::array::{AsArray, RecordBatchReader};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use url::Url;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

struct Pipeline {
    dir: TempDir,
    _cluster: MockCluster<'static, DefaultProducerContext>,
    producer: ThreadedProducer<DefaultProducerContext>,
    sent: i64,
}

impl Pipeline {
    /// Topic "t" with two partitions into the table lake.t.
    fn new(start: &str) -> Self {
        let cluster = MockCluster::new(1).expect("a mock cluster");
        cluster.create_topic("t", 2, 1).expect("a topic");
        let brokers = cluster.bootstrap_servers();
        let producer = ClientConfig::new().set("bootstrap.servers", &brokers).create().expect("a producer");
        let dir = tempfile::tempdir().expect("a temp dir");
        let config = format!(
            r#"
            [pipeline]
            name = "it"
            sql = ["it.sql"]
            data_dir = "data"
            [checkpoint]
            interval = "200ms"
            [server]
            http = "off"
            flight = "off"
            [source.t]
            type = "kafka"
            brokers = ["{brokers}"]
            topics = ["t"]
            start = "{start}"
            [sink.lake]
            type = "delta"
            uri = "lake"
            "#
        );
        std::fs::write(dir.path().join("pipe.toml"), config).expect("writable");
        let sql = "CREATE TABLE t (n BIGINT NOT NULL); INSERT INTO lake.t SELECT n FROM t;";
        std::fs::write(dir.path().join("it.sql"), sql).expect("writable");
        Pipeline { dir, _cluster: cluster, producer, sent: 0 }
    }

    fn send(&mut self, count: i64) {
        for n in self.sent..self.sent + count {
            let payload = format!("{{\"n\":{n}}}");
            let record: BaseRecord<'_, str, str> = BaseRecord::to("t").partition((n % 2) as i32).payload(&payload);
            self.producer.send(record).map_err(|(e, _)| e).expect("queued");
        }
        self.producer.flush(PATIENCE).expect("sent");
        self.sent += count;
    }

    fn serve(&self, once: bool) -> Serving {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipe"));
        command.args(["serve", "--config", "pipe.toml"]).current_dir(self.dir.path());
        if once {
            command.arg("--once");
        }
        let log = std::fs::File::create(self.log()).expect("writable");
        let log_too = log.try_clone().expect("a second handle");
        Serving(command.stdout(Stdio::from(log)).stderr(Stdio::from(log_too)).spawn().expect("the binary was built"))
    }

    fn serve_once(&self) {
        let status = self.serve(true).0.wait().expect("a child");
        assert!(status.success(), "{status}\n{}", self.said());
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("log")
    }

    fn said(&self) -> String {
        std::fs::read_to_string(self.log()).unwrap_or_default()
    }

    async fn wait_for_rows(&self, more_than: usize) -> usize {
        let until = Instant::now() + PATIENCE;
        loop {
            let rows = rows(self.dir.path()).await.len();
            if rows > more_than {
                return rows;
            }
            assert!(Instant::now() < until, "{rows} rows\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Until some record names both partitions.
    async fn wait_for_record(&self) {
        let until = Instant::now() + PATIENCE;
        while !holds(&self.dir.path().join("data"), &["t/0", "t/1"]) {
            assert!(Instant::now() < until, "no record names the partitions\n{}", self.said());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Killed (SIGKILL) when dropped.
struct Serving(Child);

impl Drop for Serving {
    fn drop(&mut self) {
        // An error means that it has ended already.
        if self.0.kill().is_ok() {
            self.0.wait().expect("a child that was killed ends");
        }
    }
}

fn holds(dir: &Path, words: &[&str]) -> bool {
    let Ok(entries) = std::fs::read_dir(dir) else { return false };
    entries.filter_map(|e| e.ok()).map(|e| e.path()).any(|path| match path.is_dir() {
        true => holds(&path, words),
        // Only what has its name counts: a record that is still being written may never be one.
        false if path.extension().is_none_or(|e| e != "json") => false,
        false => std::fs::read_to_string(&path).is_ok_and(|text| words.iter().all(|w| text.contains(w))),
    })
}

/// `n` of every row of lake.t, in order; read from the files its Delta log names.
async fn rows(dir: &Path) -> Vec<i64> {
    let url = Url::from_directory_path(dir.join("lake/t")).expect("an absolute path");
    let Ok(table) = deltalake::open_table(url).await else { return Vec::new() };
    let mut rows = Vec::new();
    for uri in table.get_file_uris().expect("a loaded table") {
        let path = uri.strip_prefix("file://").unwrap_or(&uri).to_string();
        let file = std::fs::File::open(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("Parquet");
        let n = reader.schema().index_of("n").expect("a column");
        for batch in reader {
            rows.extend(batch.expect("readable").column(n).as_primitive::<Int64Type>().values());
        }
    }
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_rows_are_exact_after_kills() {
    let mut pipeline = Pipeline::new("earliest");
    let mut seen = 0;
    for _ in 0..3 {
        pipeline.send(3_000);
        let serving = pipeline.serve(false);
        seen = pipeline.wait_for_rows(seen).await;
        // More arrives while it runs, so that the kill falls into work.
        pipeline.send(3_000);
        drop(serving);
    }
    pipeline.serve_once();
    let expected: Vec<i64> = (0..pipeline.sent).collect();
    assert_eq!(rows(pipeline.dir.path()).await, expected);
    pipeline.serve_once();
    assert_eq!(rows(pipeline.dir.path()).await.len(), expected.len(), "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_latest_holds_over_a_kill_before_the_first_message() {
    let mut pipeline = Pipeline::new("latest");
    pipeline.send(10);
    let serving = pipeline.serve(false);
    pipeline.wait_for_record().await;
    drop(serving);
    pipeline.send(10);
    pipeline.serve_once();
    assert_eq!(rows(pipeline.dir.path()).await, (10..20).collect::<Vec<i64>>());
}
