//! The file source as the engine sees it: what is handed over, from where it goes on, what it refuses.

use crate::config::section::Section;
use crate::env::store::testing::{Fault, Hostile, Op, S3, inline_table};
use crate::env::store::{self, Location};
use crate::sources::file::config::validate;
use crate::sources::file::objects::{Objects, Pattern};
use crate::sources::file::{FileSource, read as read_from, surroundings};
use crate::sources::testing::{Starts, run, shown, starts};
use crate::sources::{Source, SourceContext};
use crate::types::error::{Error, Result};
use crate::types::message::Messages;
use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::sync::atomic::Ordering;
use tempfile::TempDir;

fn source(dir: &Path, path: &str) -> FileSource {
    FileSource { name: "recorded".into(), path: path.into(), base: dir.into(), options: BTreeMap::new() }
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
    assert!(check("path = 'a[.jsonl'").starts_with("\"path\" is not a glob: "), "{}", check("path = 'a[.jsonl'"));
    assert_eq!(check("path = '../data/**/*.jsonl.gz'"), "../data/**/*.jsonl.gz");
    assert_eq!(check("path = 's3://b/logs/*.jsonl'"), "s3://b/logs/*.jsonl");
    assert_eq!(check("path = 'file:///logs/*.jsonl'"), "file:///logs/*.jsonl");
    assert_eq!(check("path = 'file://host/*.jsonl'"), "\"path\" is not a path on this machine");
    assert_eq!(check("path = 's3://b'"), "\"path\" names a folder and no files");
    assert_eq!(check("path = 's3://b/logs/'"), "\"path\" names a folder and no files");
    let said = check("path = 'https://host/*.jsonl'");
    assert_eq!(said, "\"path\" begins with \"https://\", and the file source does not read from there");
    assert_eq!(check("path = 's3://me:word@b/*.jsonl'"), "the address in \"path\" holds credentials");
    let said = check("path = 's3://b/*.jsonl'\noptions = { aws_regoin = 'x' }");
    assert_eq!(said, "unknown store option \"aws_regoin\"");
    let said = check("path = '*.jsonl'\noptions = { aws_region = 'x' }");
    assert_eq!(said, "option \"aws_region\" has no meaning for a local directory");
}

/// The source over a store of the test's own.
struct Bucket {
    location: Location,
    keys: &'static str,
}

#[async_trait::async_trait]
impl Source for Bucket {
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let pattern = Pattern { root: "s3://b".into(), keys: self.keys.into() };
        let place = Objects::at(self.location, pattern, surroundings(&context))?;
        read_from("recorded".into(), Box::new(place), context).await
    }
}

async fn put(location: &Location, objects: &[(&str, &[u8])]) {
    for (key, bytes) in objects {
        location.put(key, bytes.to_vec().into()).await.expect("memory");
    }
}

async fn objects_once(location: &Location, keys: &'static str, start: Starts) -> (Vec<Messages>, Result<()>) {
    run(Bucket { location: location.clone(), keys }, start, true).finish().await
}

/// Reads objects once, changes them, reads again.
async fn objects_again(before: &[(&str, &[u8])], after: &[(&str, &[u8])], gone: &[&str]) -> String {
    let location = Location::in_memory();
    put(&location, before).await;
    let (taken, ended) = objects_once(&location, "**", Starts::new()).await;
    ended.expect("readable");
    put(&location, after).await;
    for key in gone {
        location.delete(key).await.expect("memory");
    }
    match objects_once(&location, "**", starts(&taken)).await {
        (taken, Ok(())) => shown(&taken).join("; "),
        (_, Err(e @ Error::Refused { .. })) => e.to_string().lines().next().unwrap_or_default().to_string(),
        (_, Err(e)) => panic!("a human must choose: {e:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_object_is_refused_even_if_it_only_grew() {
    for changed in [&b"1\n3\n"[..], b"1\n2\n3\n", b"1\n"] {
        let said = objects_again(&[("a.jsonl", b"1\n2\n")], &[("a.jsonl", changed)], &[]).await;
        assert!(said.starts_with("object \"s3://b/a.jsonl\" is not the one that was read: 4 bytes, etag "), "{said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn new_objects_are_read_and_old_ones_are_not_read_again() {
    let said = objects_again(&[("a.jsonl", b"1\n2")], &[("b.jsonl", b"3\n")], &[]).await;
    assert_eq!(said, "s3://b/b.jsonl: 0=3 |2");
    let two = [("a.jsonl", &b"1\n"[..]), ("b.jsonl", b"2\n")];
    assert_eq!(objects_again(&two, &[], &["a.jsonl"]).await, "", "it was read to its end");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_object_that_goes_before_it_was_read_is_refused() {
    let location = Location::in_memory();
    put(&location, &[("a.jsonl", b"1\n2\n"), ("b.jsonl", b"3\n")]).await;
    let (taken, _) = objects_once(&location, "*", Starts::new()).await;
    let mut start = starts(&taken);
    start.get_mut("s3://b/a.jsonl").expect("read").position.0 = 2;
    location.delete("a.jsonl").await.expect("memory");
    let said = objects_once(&location, "*", start).await.1.expect_err("a line was never read").to_string();
    assert!(said.contains("object \"s3://b/a.jsonl\" is gone, and its bytes [2, 4) were never read"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn objects_of_all_kinds_come_in_name_order_from_the_folders_that_match() {
    let location = Location::in_memory();
    let long = b"x".repeat(100);
    let mut large = Vec::new();
    for _ in 0..100_000 {
        large.extend_from_slice(&long);
        large.push(b'\n');
    }
    let (gzipped, zstandard) = (gz(b"4\n5"), zst(&large));
    let all: [(&str, &[u8]); 7] = [
        ("logs/b.jsonl", b"1\r\n\n2"),
        ("logs/a.jsonl.gz", &gzipped),
        ("logs/c.jsonl.zst", &zstandard),
        ("logs/.hidden.jsonl", b"no\n"),
        ("logs/below/d.jsonl", b"6\n"),
        ("logs/e.txt", b"no\n"),
        ("other/f.jsonl", b"no\n"),
    ];
    put(&location, &all).await;
    let (taken, ended) = objects_once(&location, "logs/*.jsonl*", Starts::new()).await;
    ended.expect("readable");
    let said = shown(&taken);
    assert_eq!(said[..2], ["s3://b/logs/a.jsonl.gz: 0=4 2=5 |3", "s3://b/logs/b.jsonl: 0=1 4=2 |5"]);
    let count: usize = taken.iter().filter(|m| m.partition.name.ends_with("zst")).map(|m| m.items.len()).sum();
    assert_eq!((said.len(), count), (3, 100_000), "more than two ranges of it");
    let order: Vec<&str> = taken.iter().map(|m| &*m.partition.name).collect();
    assert!(order.is_sorted(), "{order:?}");
    let (below, _) = objects_once(&location, "logs/**/*.jsonl", Starts::new()).await;
    assert_eq!(shown(&below), ["s3://b/logs/b.jsonl: 0=1 4=2 |5", "s3://b/logs/below/d.jsonl: 0=6 |2"]);
    let (one, _) = objects_once(&location, "other/f.jsonl", Starts::new()).await;
    assert_eq!(shown(&one), ["s3://b/other/f.jsonl: 0=no |3"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn reading_an_object_goes_on_in_the_middle() {
    let location = Location::in_memory();
    let zipped = gz(b"1\n2\n3\n");
    put(&location, &[("a.jsonl", b"1\n2\n3\n"), ("b.jsonl.gz", &zipped)]).await;
    let (taken, _) = objects_once(&location, "*", Starts::new()).await;
    let mut start = starts(&taken);
    start.values_mut().for_each(|s| s.position.0 = 2);
    let (taken, ended) = objects_once(&location, "*", start).await;
    ended.expect("readable");
    assert_eq!(shown(&taken), ["s3://b/a.jsonl: 2=2 4=3 |6", "s3://b/b.jsonl.gz: 2=2 4=3 |6"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_with_objects_is_said() {
    let location = Location::in_memory();
    let said = objects_once(&location, "logs/*.jsonl", Starts::new()).await.1.expect_err("nothing there").to_string();
    assert!(said.starts_with("no object matches \"s3://b/logs/*.jsonl\"\n  hint: Is the address right?"), "{said}");
    let mut cut = gz("a line that is long enough to be cut in two\n".repeat(50).as_bytes());
    cut.truncate(cut.len() / 2);
    put(&location, &[("a.jsonl.gz", &cut)]).await;
    let said = objects_once(&location, "*", Starts::new()).await.1.expect_err("it is cut").to_string();
    assert!(said.contains("file \"s3://b/a.jsonl.gz\": the compressed data ends in the middle"), "{said}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_is_away_is_waited_for_and_not_under_once() {
    let (store, location) = Hostile::location();
    put(&location, &[("a.jsonl", b"1\n2\n")]).await;
    store.strike(Op::List, "", Fault::Before);
    let said = objects_once(&location, "*", Starts::new()).await.1.expect_err("it is away").to_string();
    assert!(said.contains("could not list \"\": "), "{said}");

    store.strike(Op::List, "", Fault::Before);
    store.strike(Op::Get, "a.jsonl", Fault::Before);
    let mut running = run(Bucket { location, keys: "*" }, Starts::new(), false);
    running.wait_for_status("trouble", |s| s.trouble.lock().expect("ok").contains("trying again in 1 s")).await;
    assert_eq!(shown(&running.take(2).await), ["s3://b/a.jsonl: 0=1 2=2 |4"]);
    running.wait_for_status("it is up", |s| s.connected.load(Ordering::Relaxed)).await;
    running.stop().await.expect("a stop is no error");
    assert_eq!(store.waiting(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_objects_are_read_once_and_refused_when_they_change() {
    let Some(S3 { url: folder, options }) = S3::fresh("objects") else { return };
    let options = inline_table(&options);
    let section = Section::from_text("file", "recorded", &format!("path = '{folder}/*.jsonl*'\noptions = {options}"));
    let section = section.expect("TOML");
    let source = || FileSource::open(&section).expect("a good section");
    let location = store::open(&folder, &source().options).expect("an address");
    let lines =
        |from: usize| -> Vec<u8> { (from..from + 300_000).flat_map(|n| format!("{n:09}\n").into_bytes()).collect() };
    let zipped = gz(&lines(300_000));
    put(&location, &[("a.jsonl", &lines(0)), ("b.jsonl.gz", &zipped)]).await;
    let (taken, ended) = run(source(), Starts::new(), true).finish().await;
    ended.expect("readable");
    let payloads = taken.iter().flat_map(|m| &m.items).map(|m| m.payload.clone().expect("lines have payloads"));
    let expected = (0..600_000).map(|n| bytes::Bytes::from(format!("{n:09}")));
    assert!(payloads.eq(expected), "every line once, in order");
    let start = starts(&taken);
    let (again, ended) = run(source(), start.clone(), true).finish().await;
    ended.expect("readable");
    assert!(again.is_empty(), "nothing twice");
    put(&location, &[("a.jsonl", &lines(1))]).await;
    let said = run(source(), start, true).finish().await.1.expect_err("another object").to_string();
    assert!(said.contains("a.jsonl\" is not the one that was read: 3000000 bytes, etag "), "{said}");
}
