//! The file source as the engine sees it: what is handed over, from where it goes on, what it refuses.

use crate::config::section::Section;
use crate::sources::file::FileSource;
use crate::sources::file::config::{FileConfig, validate};
use crate::sources::testing::{Starts, run, shown, starts};
use crate::types::error::{Error, Result};
use crate::types::message::Messages;
use std::io::Write;
use std::path::Path;
use tempfile::TempDir;

fn source(dir: &Path, path: &str) -> FileSource {
    FileSource::new("recorded", &FileConfig { path: path.into() }, dir).expect("an absolute path")
}

fn dir(files: &[(&str, &[u8])]) -> TempDir {
    let dir = tempfile::tempdir().expect("a temp dir");
    for (name, content) in files {
        std::fs::write(dir.path().join(name), content).expect("writable");
    }
    dir
}

async fn once(dir: &Path, path: &str, start: Starts) -> (Vec<Messages>, Result<()>) {
    run(source(dir, path), start, true).finish().await
}

async fn read(dir: &Path, path: &str, start: Starts) -> Vec<Messages> {
    let (taken, ended) = once(dir, path, start).await;
    ended.expect("readable");
    taken
}

/// Reads once, changes the directory, reads again: the first line of what is said, or what was handed over.
async fn again(before: &[(&str, &[u8])], change: impl FnOnce(&Path)) -> String {
    let dir = dir(before);
    let start = starts(&read(dir.path(), "*.jsonl*", Starts::new()).await);
    change(dir.path());
    match once(dir.path(), "*.jsonl*", start).await {
        (taken, Ok(())) => shown(&taken).join("; "),
        (_, Err(e @ Error::Refused { .. })) => e.to_string().lines().next().unwrap_or_default().to_string(),
        (_, Err(e)) => panic!("a human must choose: {e:?}"),
    }
}

fn write(dir: &Path, name: &str, content: &[u8]) {
    std::fs::write(dir.join(name), content).expect("writable");
}

fn append(dir: &Path, name: &str, content: &[u8]) {
    let mut file = std::fs::File::options().append(true).open(dir.join(name)).expect("there");
    file.write_all(content).expect("writable");
}

fn gz(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).expect("memory");
    encoder.finish().expect("memory")
}

fn zst(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).expect("memory")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_file_is_refused_with_its_name() {
    let said = again(&[("a.jsonl", b"1\n2\n")], |d| write(d, "a.jsonl", b"1\n")).await;
    assert_eq!(said, "file \"a.jsonl\" was 4 bytes and is now 2");
    let said = again(&[("a.jsonl", b"1\n2\n")], |d| write(d, "a.jsonl", b"3\n2\n4\n")).await;
    assert_eq!(said, "file \"a.jsonl\" has another beginning than when it was read (first 4 bytes)");
    let two = || vec![("a.jsonl", &b"1\n"[..]), ("b.jsonl.gz", &b""[..])];
    let said = again(&two(), |d| write(d, "b.jsonl.gz", &gz(b"1\n"))).await;
    assert_eq!(said, "b.jsonl.gz: 0=1 |2", "an empty file may grow");
}

#[tokio::test(flavor = "multi_thread")]
async fn growth_is_read_on_from_the_position() {
    assert_eq!(again(&[("a.jsonl", b"1\n2\n")], |d| append(d, "a.jsonl", b"3\n4")).await, "a.jsonl: 4=3 6=4 |7");
    let gzipped = gz(b"1\n2\n");
    let said = again(&[("a.jsonl.gz", &gzipped)], |d| append(d, "a.jsonl.gz", &gz(b"3\n"))).await;
    assert_eq!(said, "a.jsonl.gz: 4=3 |6");
    let zstandard = zst(b"1\n2\n");
    let said = again(&[("a.jsonl.zst", &zstandard)], |d| append(d, "a.jsonl.zst", &zst(b"3\n"))).await;
    assert_eq!(said, "a.jsonl.zst: 4=3 |6");
    assert_eq!(again(&[("a.jsonl", b"1\n")], |d| write(d, "b.jsonl", b"2\n")).await, "b.jsonl: 0=2 |2");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_was_read_may_go() {
    let said = again(&[("a.jsonl", b"1\n"), ("b.jsonl", b"2\n")], |d| {
        std::fs::remove_file(d.join("a.jsonl")).expect("there");
    });
    assert_eq!(said.await, "");

    let dir = dir(&[("a.jsonl", b"1\n2\n"), ("b.jsonl", b"2\n")]);
    let mut start = starts(&read(dir.path(), "*.jsonl", Starts::new()).await);
    start.get_mut("a.jsonl").expect("read").position.0 = 2;
    std::fs::remove_file(dir.path().join("a.jsonl")).expect("there");
    let (_, ended) = once(dir.path(), "*.jsonl", start).await;
    let said = ended.expect_err("a line was never read").to_string();
    assert!(said.contains("file \"a.jsonl\" is gone, and its bytes [2, 4) were never read"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_to_read_is_said_under_once() {
    let dir = dir(&[(".hidden.jsonl", b"1\n")]);
    for path in ["*.jsonl", "none.jsonl", "no_such_dir/*.jsonl"] {
        let (_, ended) = once(dir.path(), path, Starts::new()).await;
        let said = ended.expect_err("nothing matches").to_string();
        assert!(said.starts_with(&format!("no file matches \"{path}\" in /")), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_archive_is_refused_under_once() {
    let mut cut = gz("a line that is long enough to be cut in two\n".repeat(50).as_bytes());
    cut.truncate(cut.len() / 2);
    let dir = dir(&[("a.jsonl.gz", &cut)]);
    let (_, ended) = once(dir.path(), "a.jsonl.gz", Starts::new()).await;
    let said = ended.expect_err("it is cut").to_string();
    assert!(said.contains("file \"a.jsonl.gz\": the compressed data ends in the middle"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn all_kinds_of_files_in_name_order() {
    let dir = dir(&[("b.jsonl", b"1\r\n\n2"), ("c.jsonl.zst", &zst(b"3\n")), ("a.jsonl.gz", &gz(b"4\n5"))]);
    std::fs::create_dir(dir.path().join("d.jsonl")).expect("a directory that matches is no file");
    let taken = read(dir.path(), "*", Starts::new()).await;
    let order: Vec<&str> = taken.iter().map(|m| &*m.partition.name).collect();
    assert_eq!(order, ["a.jsonl.gz", "a.jsonl.gz", "b.jsonl", "b.jsonl", "c.jsonl.zst"]);
    assert_eq!(shown(&taken), ["a.jsonl.gz: 0=4 2=5 |3", "b.jsonl: 0=1 4=2 |5", "c.jsonl.zst: 0=3 |2"]);
    assert_eq!(&*taken[0].partition_label, "a.jsonl.gz");
    assert!(read(dir.path(), "*", starts(&taken)).await.is_empty(), "nothing twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn names_do_not_depend_on_where_the_pipeline_lies() {
    let outer = dir(&[("a.jsonl", b"1\n")]);
    let inner = outer.path().join("pipelines");
    std::fs::create_dir(&inner).expect("a directory");
    let taken = read(&inner, "../*.jsonl", Starts::new()).await;
    assert_eq!(shown(&taken), ["../a.jsonl: 0=1 |2"]);
    let whole = outer.path().join("a.jsonl");
    let taken = read(&inner, whole.to_str().expect("UTF-8"), Starts::new()).await;
    assert_eq!(shown(&taken), [format!("{}: 0=1 |2", whole.display())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn new_files_and_new_lines_are_picked_up_while_running() {
    let dir = dir(&[]);
    let mut running = run(source(dir.path(), "*.jsonl"), Starts::new(), false);
    running.wait_for_status("a word about the missing files", |s| !s.trouble.lock().expect("ok").is_empty()).await;
    write(dir.path(), "a.jsonl", b"1\n2");
    let mut taken = running.take(1).await;
    append(dir.path(), "a.jsonl", b"2\n");
    taken.extend(running.take(1).await);
    write(dir.path(), "b.jsonl", b"3\n");
    taken.extend(running.take(1).await);
    assert_eq!(shown(&taken), ["a.jsonl: 0=1 2=22 |5", "b.jsonl: 0=3 |2"]);
    running.stop().await.expect("a stop is no error");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_a_source_that_waits_for_its_slot() {
    let dir = dir(&[("a.jsonl", &b"0123456789abcdef\n".repeat(100_000))]);
    let running = run(source(dir.path(), "*.jsonl"), Starts::new(), false);
    running.wait_for_status("a full queue", |s| s.messages_in.load(std::sync::atomic::Ordering::Relaxed) > 0).await;
    running.stop.cancel();
    running.task.await.expect("no panic").expect("a stop is no error");
}

#[test]
fn a_path_is_validated() {
    let check = |text: &str| {
        let section = Section::from_text("file", "recorded", text).expect("TOML");
        match validate(&section) {
            Ok(config) => config.path,
            Err(faults) => faults.iter().map(|f| f.message.clone()).collect::<Vec<_>>().join("; "),
        }
    };
    assert_eq!(check("path = ''"), "\"path\" is empty");
    assert_eq!(check("path = 's3://b/*.jsonl'"), "\"path\" is a URL, and the file source reads local paths");
    assert!(check("path = 'a[.jsonl'").starts_with("\"path\" is not a glob: "), "{}", check("path = 'a[.jsonl'"));
    assert_eq!(check("path = '../data/**/*.jsonl.gz'"), "../data/**/*.jsonl.gz");
}
