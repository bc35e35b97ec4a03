//! How many files an epoch makes: one per table, partition value and slot, however its rows come mixed.

use crate::engine::testing::started;
use std::fmt::Write;
use std::path::Path;

/// As `testing` has it.
const SLOTS: usize = 2;

/// `pipe serve --once` over two files of messages, which go to two slots.
async fn serve_once(folder: &Path, sql: &str, partition_by: &str, messages: &[String; SLOTS]) {
    std::fs::write(folder.join("pipe.sql"), sql).expect("writable");
    for (i, messages) in messages.iter().enumerate() {
        std::fs::write(folder.join(format!("{i}.jsonl")), messages).expect("writable");
    }
    let more = format!("[checkpoint]\ninterval = '1h'\n[sink.lake.table.points]\npartition_by = ['{partition_by}']\n");
    let mut running = started(folder, "data", true, &more).await;
    running.wait().await.expect("it comes to its end");
}

/// Of every commit with rows: how many files it adds, and how many rows they hold.
fn commits(folder: &Path) -> Vec<(usize, u64)> {
    let log = folder.join("lake/points/_delta_log");
    let mut commits = Vec::new();
    for version in 1.. {
        let Ok(text) = std::fs::read_to_string(log.join(format!("{version:020}.json"))) else { break };
        let actions = text.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).expect("JSON"));
        let adds: Vec<_> =
            actions.filter_map(|mut action| Some(action["add"].take()).filter(|a| !a.is_null())).collect();
        let rows = |add: &serde_json::Value| {
            let stats: serde_json::Value = serde_json::from_str(add["stats"].as_str()?).ok()?;
            stats["numRecords"].as_u64()
        };
        commits.push((adds.len(), adds.iter().filter_map(rows).sum()));
    }
    commits
}

/// What others answer with a file per flip, and a lag that only grows.
#[tokio::test(flavor = "multi_thread")]
async fn two_versions_of_a_message_in_turn_make_no_more_files_than_one() {
    let sql = "CREATE TABLE one (id BIGINT NOT NULL, day TEXT, speed BIGINT) WITH (source = 't', route = (version = 1));
        CREATE TABLE two (id BIGINT NOT NULL, day TEXT, speed DOUBLE, fuel DOUBLE) WITH (source = 't', route = (version = 2));
        INSERT INTO lake.points SELECT id, day, CAST(speed AS DOUBLE) AS speed FROM one;
        INSERT INTO lake.points SELECT fuel, speed, day, id FROM two;";
    let folder = tempfile::tempdir().expect("a temp dir");
    let messages = [0, 10_000].map(|first| {
        let mut lines = String::new();
        for id in first..first + 10_000 {
            let day = id / 3 % 2;
            let line = match id % 2 {
                0 => format!("{{\"version\":1,\"id\":{id},\"day\":\"d{day}\",\"speed\":{id}}}"),
                _ => format!(
                    "{{\"version\":2,\"id\":{id},\"day\":\"d{day}\",\"speed\":0.5,\"fuel\":1.5,\"new\":{{\"x\":1}}}}"
                ),
            };
            writeln!(lines, "{line}").expect("a string");
        }
        lines
    });
    serve_once(folder.path(), sql, "day", &messages).await;
    let commits = commits(folder.path());
    assert_eq!(commits.iter().map(|(_, rows)| rows).sum::<u64>(), 20_000);
    assert!(commits.iter().all(|(files, _)| *files <= 2 * SLOTS), "two days, two slots: {commits:?}");
}

/// A device that was offline for a month.
#[tokio::test(flavor = "multi_thread")]
async fn late_rows_over_many_partitions_make_a_file_per_partition() {
    let sql = "CREATE TABLE t (id BIGINT NOT NULL, day TEXT); INSERT INTO lake.points SELECT * FROM t;";
    let folder = tempfile::tempdir().expect("a temp dir");
    let messages = [0, 5_000].map(|first| {
        let mut lines = String::new();
        for id in first..first + 5_000 {
            // In no order: a neighbour is hardly ever of the same day.
            writeln!(lines, "{{\"id\":{id},\"day\":\"2026-10-{:02}\"}}", 1 + id * 7_919 % 30).expect("a string");
        }
        lines
    });
    serve_once(folder.path(), sql, "day", &messages).await;
    let commits = commits(folder.path());
    assert_eq!(commits.iter().map(|(_, rows)| rows).sum::<u64>(), 10_000);
    assert!(commits.iter().all(|(files, _)| *files <= 30 * SLOTS), "thirty days, two slots: {commits:?}");
}
