//! `pipe audit` over what a real run left: all equal, and then each thing that others can do to it.

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A pipeline in a directory of its own.
pub struct Pipeline(TempDir);

impl Pipeline {
    /// File source "t" into lake.t, run once over ten good messages and two bad ones, and once more over three.
    pub fn ran() -> Self {
        let pipeline = Self::new();
        pipeline.send(&(0..10).map(|n| format!("{{\"n\":{n}}}\n")).collect::<String>());
        pipeline.send("not json\n{\"n\":\"text\"}\n");
        pipeline.serve_once();
        pipeline.send("{\"n\":10}\n{\"n\":11}\n{\"n\":12}\n");
        pipeline.serve_once();
        pipeline
    }

    pub fn new() -> Self {
        let dir = tempfile::tempdir().expect("a temp dir");
        let config = "[pipeline]\nname = 'it'\nsql = ['it.sql']\ndata_dir = 'data'\nslots = 1\n[checkpoint]\ninterval = '100ms'\n\
            [server]\nhttp = 'off'\nflight = 'off'\n[source.t]\ntype = 'file'\npath = 't.jsonl'\n\
            [sink.lake]\ntype = 'delta'\nuri = 'lake'\n[sink.kv]\ntype = 'kv'\n";
        std::fs::write(dir.path().join("pipe.toml"), config).expect("writable");
        let sql = "CREATE TABLE t (n BIGINT NOT NULL); INSERT INTO lake.t SELECT n FROM t;
            CREATE MATERIALIZED VIEW v AS SELECT n, count(*) AS times FROM t GROUP BY n;
            INSERT INTO kv.v SELECT * FROM v;";
        std::fs::write(dir.path().join("it.sql"), sql).expect("writable");
        Pipeline(dir)
    }

    pub fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    pub fn send(&self, lines: &str) {
        use std::io::Write;
        let mut file = std::fs::File::options().create(true).append(true).open(self.path("t.jsonl")).expect("writable");
        file.write_all(lines.as_bytes()).expect("writable");
    }

    pub fn command(&self, verb: &str, more: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_pipe"));
        command.args(verb.split(' ')).args(["--config", "pipe.toml", "-q"]).args(more).current_dir(self.0.path());
        command
    }

    pub fn serve_once(&self) {
        let done = self.command("serve", &["--once"]).output().expect("the binary was built");
        assert!(done.status.success(), "{}", text(&done));
    }

    /// Exit code and report.
    #[track_caller]
    pub fn audit(&self, more: &[&str]) -> (i32, Value) {
        let done = self.command("audit", &[&["--json"], more].concat()).output().expect("the binary was built");
        let report = serde_json::from_slice(&done.stdout).unwrap_or_else(|e| panic!("{e}: {}", text(&done)));
        (done.status.code().expect("it was not killed"), report)
    }

    /// The one difference there is.
    #[track_caller]
    fn difference(&self) -> String {
        let (code, report) = self.audit(&[]);
        let found = report["differences"].as_array().expect("a list");
        assert_eq!((code, found.len()), (3, 1), "{report:#}");
        format!("{} {}: {}", found[0]["what"], found[0]["subject"], found[0]["text"]).replace('"', "")
    }

    /// Writes the next version of lake.t's log, as another program would.
    fn commit(&self, operation: &str, actions: &[Value]) -> u64 {
        let version = versions(&self.path("lake/t")).len() as u64;
        let info = json!({ "commitInfo": { "operation": operation, "engineInfo": "somebody" } });
        let lines: String = [info].iter().chain(actions).map(|a| format!("{a}\n")).collect();
        std::fs::write(self.path(&format!("lake/t/_delta_log/{version:020}.json")), lines).expect("writable");
        version
    }

    /// The first Add of lake.t.
    fn add(&self) -> Value {
        let log = versions(&self.path("lake/t")).into_iter().map(|p| std::fs::read_to_string(p).expect("readable"));
        let actions =
            log.flat_map(|t| t.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect::<Vec<Value>>());
        actions.map(|a| a["add"].clone()).find(|add| !add.is_null()).expect("the table has files")
    }
}

fn versions(table: &Path) -> Vec<PathBuf> {
    let listed = std::fs::read_dir(table.join("_delta_log")).expect("a log");
    let mut paths: Vec<PathBuf> = listed.map(|e| e.expect("readable").path()).collect();
    paths.retain(|p| p.extension().is_some_and(|e| e == "json"));
    paths.sort();
    paths
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() { files.extend(files_below(&path)) } else { files.push(path) }
    }
    files.sort();
    files
}

pub fn text(done: &Output) -> String {
    format!("{} {}", String::from_utf8_lossy(&done.stdout), String::from_utf8_lossy(&done.stderr))
}

#[test]
fn an_audit_finds_a_sound_pipeline_sound() {
    let pipeline = Pipeline::new();
    let never = pipeline.command("audit", &[]).output().expect("runs");
    assert_eq!(never.status.code(), Some(1), "nothing to look at yet: {}", text(&never));
    assert!(!pipeline.path("data").exists(), "an audit makes nothing");
    let pipeline = Pipeline::ran();
    let (code, report) = pipeline.audit(&["--kv"]);
    assert_eq!((code, &report["ok"]), (0, &json!(true)), "{report:#}");
    let of = |subject: &str| {
        let checks = report["checks"].as_array().expect("a list");
        checks.iter().find(|c| c["subject"] == subject).unwrap_or_else(|| panic!("{subject}: {report:#}")).clone()
    };
    assert_eq!(of("t")["looked_at"]["messages"], 15);
    assert_eq!(of("dead_letter")["looked_at"]["rejected"], 2);
    assert_eq!(of("lake.t")["looked_at"]["rows"], 13);
    assert_eq!(of("lake.t")["looked_at"]["epochs"], 2);
    assert_eq!(of("lake.dead_letter")["looked_at"]["rows"], 2);
    assert_eq!(of("v")["what"], "state");
    assert_eq!(of("v")["looked_at"]["rows"], 13);
    assert_eq!(of("key-value store kv, v")["result"], "ok");
    let people = pipeline.command("audit", &[]).output().expect("runs");
    assert!(text(&people).contains("all equal"), "{}", text(&people));
    let wrong = pipeline.command("audit", &["--foreign", "lake.t"]).output().expect("runs");
    assert_eq!(wrong.status.code(), Some(2), "{}", text(&wrong));
    let unknown = pipeline.command("audit", &["--foreign", "lake.tt=1"]).output().expect("runs");
    assert_eq!(unknown.status.code(), Some(2), "{}", text(&unknown));
    assert!(text(&unknown).contains("Did you mean \"lake.t\"?"), "{}", text(&unknown));
}

#[test]
fn an_audit_names_what_others_did() {
    let pipeline = Pipeline::ran();
    let mut theirs = pipeline.add();
    theirs["path"] = json!("theirs.parquet");
    std::fs::write(pipeline.path("lake/t/theirs.parquet"), "rows").expect("writable");
    let version = pipeline.commit("WRITE", &[json!({ "add": theirs })]);
    let (code, report) = pipeline.audit(&[]);
    let note = report["notes"][0]["text"].as_str().unwrap_or_default();
    assert!(code == 0 && note.contains(&format!("version {version} (WRITE by somebody)")), "{report:#}");
    assert_eq!(pipeline.audit(&["--strict"]).0, 3);

    let ours = pipeline.add()["path"].clone();
    let version = pipeline.commit("OPTIMIZE", &[json!({ "remove": { "path": ours, "dataChange": false } })]);
    let found = pipeline.difference();
    assert!(found.starts_with(&format!("table lake.t: version {version} (OPTIMIZE by somebody)")), "{found}");
    assert!(found.contains("-10 rows") && found.contains(ours.as_str().expect("a path")), "{found}");
}

#[test]
fn an_audit_names_what_was_changed_underneath() {
    let pipeline = Pipeline::ran();
    // One more start: until then nobody knows that the newest epoch was applied.
    pipeline.serve_once();
    let file = pipeline.path("lake/t").join(pipeline.add()["path"].as_str().expect("a path"));
    let kept = std::fs::read(&file).expect("readable");
    std::fs::remove_file(&file).expect("it was there");
    assert!(pipeline.difference().contains("is in the table, but not in the store"));
    std::fs::write(&file, kept).expect("writable");

    let newest = versions(&pipeline.path("lake/t")).pop().expect("a version");
    let kept = std::fs::read(&newest).expect("readable");
    std::fs::remove_file(&newest).expect("it was there");
    assert!(pipeline.difference().contains("with 3 rows is applied by the records"), "its commit was undone");
    std::fs::write(&newest, kept).expect("writable");

    let segment = files_below(&pipeline.path("data/checkpoint/state")).pop().expect("the view has state");
    let kept = std::fs::read(&segment).expect("readable");
    let mut flipped = kept.clone();
    flipped[kept.len() / 2] ^= 1;
    std::fs::write(&segment, flipped).expect("writable");
    let found = pipeline.difference();
    assert!(found.starts_with("state v: segment ") && found.contains("checksum differ"), "{found}");
    std::fs::remove_file(&segment).expect("it was there");
    let found = pipeline.difference();
    assert!(found.starts_with("state v: segment ") && found.contains("is missing"), "{found}");
    // A start is refused before it claims the chain.
    let records = pipeline.path("data/checkpoint/records");
    let before = files_below(&records);
    let refused = pipeline.command("serve", &["--once"]).output().expect("runs");
    assert!(refused.status.code() == Some(1) && text(&refused).contains("is missing"), "{}", text(&refused));
    assert_eq!(files_below(&records), before, "nobody is fenced");
    std::fs::write(&segment, kept).expect("writable");

    let mut named: Vec<PathBuf> =
        std::fs::read_dir(&records).expect("records").map(|e| e.expect("readable").path()).collect();
    named.sort();
    let mut edited: Value = serde_json::from_slice(&std::fs::read(&named[3]).expect("readable")).expect("JSON");
    edited["partitions"][0]["span"]["from"] = json!(1);
    std::fs::write(&named[3], edited.to_string()).expect("writable");
    let (code, report) = pipeline.audit(&[]);
    let found = report["differences"].as_array().expect("a list");
    let first = found.first().map(|f| f["text"].as_str().unwrap_or_default()).unwrap_or_default();
    assert!(code == 3 && first.contains("its span [1, ") && first.contains("does not follow"), "{report:#}");
    std::fs::remove_file(&named[1]).expect("it was there");
    let (code, report) = pipeline.audit(&[]);
    assert!(code == 3 && report["differences"][0]["text"].as_str().is_some_and(|t| t.contains("record 2 is missing")));
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

#[test]
fn an_audit_runs_beside_the_pipeline_and_after_a_kill() {
    let pipeline = Pipeline::ran();
    let config = std::fs::read_to_string(pipeline.path("pipe.toml")).expect("readable");
    let config = format!("{config}[sink.lake.table.t]\ncompact_files_min = 2\n");
    std::fs::write(pipeline.path("pipe.toml"), config).expect("writable");
    let log = std::fs::File::create(pipeline.path("log")).expect("writable");
    let serving = pipeline.command("serve", &[]).stdout(Stdio::null()).stderr(log).spawn().expect("runs");
    let serving = Serving(serving);
    let until = Instant::now() + PATIENCE;
    let mut sent = 15;
    loop {
        pipeline.send(&format!("{{\"n\":{sent}}}\n"));
        sent += 1;
        let (code, report) = pipeline.audit(&[]);
        assert_eq!(code, 0, "{report:#}");
        let messages = report["checks"][1]["looked_at"]["messages"].as_u64().expect("a count");
        let checks = report["checks"].as_array().expect("a list");
        let table = checks.iter().find(|c| c["subject"] == "lake.t").expect("it was looked at");
        // Some of what was sent while we looked has been recorded, and files were put together under our hands.
        if messages > 18 && table["looked_at"]["compactions"].as_u64() > Some(0) {
            break;
        }
        assert!(Instant::now() < until, "{}", std::fs::read_to_string(pipeline.path("log")).unwrap_or_default());
    }
    drop(serving);
    let (code, report) = pipeline.audit(&[]);
    assert_eq!(code, 0, "{report:#}");
}
