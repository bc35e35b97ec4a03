//! What neighbouring tools failed at, through the whole binary: bad messages in a row, filters that leave nothing, late
//! fields, idle topics. The list, with the tests of the rest, stands in docs/guarantees.md.

use arrow::array::{Array, AsArray};
use arrow::datatypes::Int64Type;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use std::fs;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use url::Url;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(60);

/// Files in `in/`, tables in `lake/`.
struct Pipeline(TempDir);

impl Pipeline {
    fn new(sql: &str) -> Pipeline {
        let dir = tempfile::tempdir().expect("a temporary directory");
        fs::create_dir(dir.path().join("in")).expect("writable");
        fs::write(dir.path().join("p.sql"), sql).expect("writable");
        let config = "[pipeline]\nname = 'p'\nsql = ['p.sql']\ndata_dir = 'data'\nslots = 1\n\
                      [checkpoint]\ninterval = '100ms'\n[server]\nhttp = 'off'\nflight = 'off'\n\
                      [source.t]\ntype = 'file'\npath = 'in/t*.jsonl'\n[source.idle]\ntype = 'file'\npath = 'in/idle*.jsonl'\n\
                      [sink.lake]\ntype = 'delta'\nuri = 'lake'\n";
        fs::write(dir.path().join("p.toml"), config).expect("writable");
        Pipeline(dir)
    }

    /// Other settings of the sink, for the next start.
    fn set(&self, settings: &str) {
        let path = self.0.path().join("p.toml");
        let mut config = fs::read_to_string(&path).expect("written by new");
        config.push_str(settings);
        fs::write(path, config).expect("writable");
    }

    fn put(&self, name: &str, lines: impl IntoIterator<Item = impl AsRef<str>>) {
        let text: String = lines.into_iter().map(|line| format!("{}\n", line.as_ref())).collect();
        fs::write(self.0.path().join("in").join(name), text).expect("writable");
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipe"));
        command.args(["serve", "--config", "p.toml"]).current_dir(self.0.path());
        command
    }

    fn once(&self) {
        let output = self.command().arg("--once").output().expect("the binary was built with the test");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    fn serving(&self) -> Serving {
        let process = self.command().stdout(Stdio::null()).stderr(Stdio::null()).spawn();
        Serving(process.expect("the binary was built with the test"))
    }

    async fn wait_for(&self, table: &str, columns: &[&str], done: impl Fn(&[String]) -> bool) {
        let until = Instant::now() + PATIENCE;
        while !done(&self.rows(table, columns).await) {
            assert!(Instant::now() < until, "what was waited for has not landed in {table}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Column by column: the values of a row as text, sorted. What is not there has no rows.
    async fn rows(&self, table: &str, columns: &[&str]) -> Vec<String> {
        let url = Url::from_directory_path(self.0.path().join("lake").join(table)).expect("an absolute path");
        let Ok(table) = deltalake::open_table(url).await else { return Vec::new() };
        let mut rows = Vec::new();
        for uri in table.get_file_uris().expect("a loaded table") {
            let path = uri.strip_prefix("file://").unwrap_or(&uri);
            let file = fs::File::open(path).unwrap_or_else(|e| panic!("{path}: {e}"));
            for batch in ParquetRecordBatchReaderBuilder::try_new(file).expect("Parquet").build().expect("Parquet") {
                let batch = batch.expect("readable");
                for row in 0..batch.num_rows() {
                    let value = |name: &&str| {
                        let column = batch.column_by_name(name).expect("a column of the table");
                        match column.data_type() {
                            _ if column.is_null(row) => "-".to_string(),
                            arrow::datatypes::DataType::Int64 => {
                                column.as_primitive::<Int64Type>().value(row).to_string()
                            }
                            _ => column.as_string::<i32>().value(row).to_string(),
                        }
                    };
                    rows.push(columns.iter().map(value).collect::<Vec<_>>().join(" "));
                }
            }
        }
        rows.sort();
        rows
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

const DIVIDE: &str = "CREATE TABLE t (id BIGINT NOT NULL, d BIGINT);
    CREATE TABLE idle (id BIGINT);
    INSERT INTO lake.t SELECT id, 100 / d AS q FROM t;
    INSERT INTO lake.idle SELECT * FROM idle;";

#[tokio::test(flavor = "multi_thread")]
async fn errors_in_a_row_stop_nothing_and_skip_nothing() {
    let pipeline = Pipeline::new(DIVIDE);
    pipeline.put("idle.jsonl", [r#"{"id":1}"#]);
    // Eight that cannot be decoded, eight whose SQL fails, and good ones before, between and behind them.
    let bad = |n: usize| if n < 8 { format!("no JSON {n}") } else { format!(r#"{{"id":{n},"d":0}}"#) };
    let mut lines = vec![r#"{"id":100,"d":1}"#.to_string()];
    lines.extend((0..8).map(bad));
    lines.push(r#"{"id":101,"d":2}"#.to_string());
    lines.extend((8..16).map(bad));
    lines.push(r#"{"id":102,"d":4}"#.to_string());
    pipeline.put("t.jsonl", &lines);
    let positions: Vec<usize> =
        lines.iter().scan(0, |at, line| Some(std::mem::replace(at, *at + line.len() + 1))).collect();
    let mut expected: Vec<String> = (1..9).chain(10..18).map(|n| positions[n].to_string()).collect();
    expected.sort();
    // Started again: what was rejected is neither read again nor counted twice, and nothing behind it was skipped.
    for _ in 0..2 {
        pipeline.once();
        assert_eq!(pipeline.rows("t", &["id", "q"]).await, ["100 100", "101 50", "102 25"]);
        assert_eq!(pipeline.rows("dead_letter", &["position"]).await, expected);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_filter_that_removes_whole_batches_does_not_stall() {
    let pipeline = Pipeline::new(
        "CREATE TABLE t (id BIGINT NOT NULL);
         CREATE TABLE idle (id BIGINT);
         INSERT INTO lake.t SELECT id FROM t WHERE id < 0;
         INSERT INTO lake.idle SELECT * FROM idle;",
    );
    pipeline.put("idle.jsonl", [r#"{"id":1}"#]);
    // More than two batches, of which nothing is left.
    pipeline.put("t1.jsonl", (0..20_000).map(|n| format!(r#"{{"id":{n}}}"#)));
    pipeline.once();
    // It may go only if the record says that it was read to its end.
    fs::remove_file(pipeline.0.path().join("in/t1.jsonl")).expect("it is there");
    pipeline.put("t2.jsonl", [r#"{"id":-1}"#]);
    pipeline.once();
    assert_eq!(pipeline.rows("t", &["id"]).await, ["-1"]);
    assert_eq!(pipeline.rows("dead_letter", &["position"]).await, Vec::<String>::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_field_first_seen_in_the_second_message_is_kept() {
    let pipeline = Pipeline::new(
        "CREATE TABLE t (id BIGINT NOT NULL, late TEXT);
         CREATE TABLE idle (id BIGINT);
         INSERT INTO lake.t SELECT * FROM t;
         INSERT INTO lake.idle SELECT * FROM idle;",
    );
    pipeline.put("idle.jsonl", [r#"{"id":1}"#]);
    pipeline.put("t.jsonl", [r#"{"id":1}"#, r#"{"id":2,"late":"x"}"#, r#"{"id":3}"#]);
    pipeline.once();
    assert_eq!(pipeline.rows("t", &["id", "late"]).await, ["1 -", "2 x", "3 -"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_topic_still_flushes() {
    let pipeline = Pipeline::new(DIVIDE);
    // One message, and then nothing: not in this source, and never in the other.
    pipeline.put("t.jsonl", [r#"{"id":1,"d":1}"#]);
    let _serving = pipeline.serving();
    pipeline.wait_for("t", &["id", "q"], |rows| rows == ["1 100"]).await;
}

/// We have no reload: settings change with a restart, here with a SIGKILL in the middle of the work and no wait.
#[tokio::test(flavor = "multi_thread")]
async fn changed_settings_of_a_sink_lose_nothing_and_stall_nothing() {
    let pipeline = Pipeline::new(DIVIDE);
    pipeline.put("idle.jsonl", [r#"{"id":1}"#]);
    let settings = [
        "",
        "float_encoding = 'plain'\n[sink.lake.table.t]\ncompact_files_min = 2\n",
        "compact_target = '1MiB'\nvacuum_interval = '1h'\n",
    ];
    let id = |round: usize, n: usize| round * 10_000 + n;
    for (round, more) in settings.into_iter().enumerate() {
        pipeline.set(more);
        pipeline.put(&format!("t{round}.jsonl"), (0..10_000).map(|n| format!(r#"{{"id":{},"d":1}}"#, id(round, n))));
        // Killed as soon as a row of this round is there, wherever the others are.
        let serving = pipeline.serving();
        let begun = |rows: &[String]| rows.iter().any(|row| row.parse::<usize>().is_ok_and(|n| n >= id(round, 0)));
        pipeline.wait_for("t", &["id"], begun).await;
        drop(serving);
    }
    pipeline.set("[sink.lake.table.idle]\ncompact = false\n");
    pipeline.once();
    let mut expected: Vec<String> = (0..30_000).map(|n| n.to_string()).collect();
    expected.sort();
    assert_eq!(pipeline.rows("t", &["id"]).await, expected);
    assert_eq!(pipeline.rows("idle", &["id"]).await, ["1"]);
    assert_eq!(pipeline.rows("dead_letter", &["position"]).await, Vec::<String>::new());
}
