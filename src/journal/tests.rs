//! The journal on a real disk: what a crash leaves, what damage does, and who may read on.

use super::*;
use bytes::Bytes;
use std::sync::Mutex;
use std::sync::mpsc;
use std::time::Duration;

fn chain() -> ChainId {
    ChainId("chain-1".to_string())
}

fn entry(n: u64) -> Entry {
    Entry {
        received_at_us: n as i64,
        topic: format!("fleet/v{}/kinematic", n % 3).into(),
        flags: 1,
        headers: (n % 2 == 1).then(|| Arc::new(vec![("a".into(), Some(Bytes::from_static(b"1"))), ("b".into(), None)])),
        payload: Bytes::from(vec![b'x'; (n % 7) as usize * 10]),
    }
}

/// Says that it has synced. Quick, for what does not depend on it.
struct Unsynced;

impl Disk for Unsynced {
    fn create(&self, path: &Path) -> std::io::Result<File> {
        RealDisk.create(path)
    }

    fn append(&self, file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
        RealDisk.append(file, bytes)
    }

    fn sync(&self, _: &File) -> std::io::Result<()> {
        Ok(())
    }
}

fn small() -> JournalOptions {
    JournalOptions {
        bytes_max: 1 << 20,
        segment_bytes: 1 << 10,
        queue_bytes_max: 1 << 20,
        recent_bytes_max: 1 << 20,
        sync: Sync::Group,
        quarantine: false,
    }
}

fn open(dir: &Path) -> Journal {
    open_from(dir, 0)
}

fn open_from(dir: &Path, begin: u64) -> Journal {
    Journal::open(dir, &chain(), Position(begin), small()).expect("the journal opens")
}

/// Appends and waits until it is durable: one group.
fn append(journal: &Journal, numbers: impl IntoIterator<Item = u64>) {
    let appender = journal.appender();
    let (done, wait) = mpsc::channel();
    for n in numbers {
        let done = done.clone();
        let acknowledge = Box::new(move || done.send(()).expect("the test waits"));
        appender.try_append(entry(n), Some(acknowledge)).expect("the queue has room");
    }
    drop(done);
    while wait.recv_timeout(Duration::from_secs(30)).is_ok() {}
    assert_eq!(journal.durable().borrow().to, appender.next());
}

fn read_all(journal: &Journal, from: u64) -> Vec<Entry> {
    let mut reader = journal.reader(Position(from));
    let mut all = Vec::new();
    loop {
        let some = reader.read(1 << 20, 1_000).expect("reads");
        if some.is_empty() {
            assert_eq!(reader.position().0, from + all.len() as u64);
            return all;
        }
        all.extend(some);
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir).expect("lists").map(|e| e.expect("lists").path());
    let mut paths: Vec<PathBuf> = entries.filter(|p| p.extension().is_some_and(|e| e == "segment")).collect();
    paths.sort();
    paths
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("lists");
        if entry.path().is_dir() {
            continue;
        }
        std::fs::copy(entry.path(), to.join(entry.file_name())).expect("copies");
    }
}

#[track_caller]
fn refused(opened: Result<Journal>, expected: &str) {
    match opened {
        Err(Error::Refused { what, .. }) => assert!(what.contains(expected), "{what}"),
        Err(e) => panic!("not refused: {e}"),
        Ok(_) => panic!("not refused: {expected}"),
    }
}

#[test]
fn a_write_cut_off_anywhere_loses_only_what_was_not_synced() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = dir.path().join("live");
    let journal = open(&live);
    let file = segments(&live).remove(0);
    let mut ends = vec![0];
    for group in 0..3 {
        append(&journal, group * 3..group * 3 + 3);
        // Groups are whole: three messages queued one by one may be one, two or three of them.
        ends.push(std::fs::metadata(&file).expect("is there").len());
    }
    let whole = std::fs::read(&file).expect("reads");
    let expected: Vec<Entry> = (0..9).map(entry).collect();
    for length in (ends[2] + 1..whole.len() as u64).chain([0, 1, ends[1]]) {
        let crashed = dir.path().join(format!("cut-{length}"));
        copy(&live, &crashed);
        let cut = OpenOptions::new().write(true).open(crashed.join(file.file_name().expect("a name"))).expect("opens");
        cut.set_len(length).expect("cuts");
        let journal = open(&crashed);
        let kept = read_all(&journal, 0);
        assert_eq!(kept, expected[..kept.len()], "cut at {length}");
        let synced = ends.iter().filter(|end| **end > 0 && **end <= length).count() * 3;
        assert!(kept.len() >= synced, "cut at {length}: {} of {synced} synced messages", kept.len());
        append(&journal, [100]);
        drop(journal);
        let kept_and_new = read_all(&open(&crashed), 0);
        assert_eq!((kept_and_new.len(), kept_and_new.last()), (kept.len() + 1, Some(&entry(100))), "cut at {length}");
    }
}

#[test]
fn zeros_after_the_end_are_a_torn_tail_too() {
    let dir = tempfile::tempdir().expect("a directory");
    append(&open(dir.path()), [0, 1]);
    let file = OpenOptions::new().append(true).open(&segments(dir.path())[0]).expect("opens");
    file.set_len(file.metadata().expect("is there").len() + 4096).expect("grows");
    assert_eq!(read_all(&open(dir.path()), 0), [entry(0), entry(1)]);
}

#[test]
fn another_chain_and_another_process_are_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    assert_eq!(bound_chain(dir.path()).expect("reads"), None);
    let journal = open(dir.path());
    assert_eq!(bound_chain(dir.path()).expect("reads"), Some(chain()));
    let locked = Journal::open(dir.path(), &chain(), Position(0), small());
    let holder = format!("\"{}\" is open in another process (pid {})", dir.path().display(), std::process::id());
    refused(locked, &holder);
    append(&journal, [0]);
    drop(journal);
    let other = Journal::open(dir.path(), &ChainId("chain-2".to_string()), Position(0), small());
    refused(other, "belongs to chain chain-1, the records to chain chain-2");
    assert_eq!(read_all(&open(dir.path()), 0), [entry(0)]);
}

#[test]
fn acknowledgements_come_after_the_sync_and_in_order() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let (appender, durable) = (journal.appender(), journal.durable());
    let seen = Arc::new(Mutex::new(Vec::new()));
    for n in 0..500 {
        let (seen, durable) = (seen.clone(), durable.clone());
        let acknowledge = Box::new(move || {
            assert!(durable.borrow().to > Position(n), "acknowledged before it was durable");
            seen.lock().expect("no holder panics").push(n);
        });
        assert_eq!(appender.try_append(entry(n), Some(acknowledge)).expect("room"), Position(n));
    }
    drop(journal);
    assert_eq!(*seen.lock().expect("no holder panics"), (0..500).collect::<Vec<_>>());
    assert_eq!(read_all(&open(dir.path()), 0), (0..500).map(entry).collect::<Vec<_>>());
}

#[test]
fn a_trim_deletes_whole_segments_and_nothing_else() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    for n in 0..100 {
        append(&journal, [n]);
    }
    let firsts: Vec<u64> = segments(dir.path())
        .iter()
        .map(|p| p.file_stem().expect("a name").to_string_lossy().parse().expect("a number"))
        .collect();
    assert!(firsts.len() > 4);
    let consumer = journal.hold(Position(0));
    consumer.release(Position(firsts[2] - 1)).expect("trims");
    assert_eq!(journal.begin(), Position(firsts[1]));
    consumer.release(Position(firsts[2])).expect("trims");
    assert_eq!(journal.begin(), Position(firsts[2]));
    assert_eq!(read_all(&journal, firsts[2]), (firsts[2]..100).map(entry).collect::<Vec<_>>());
    consumer.release(Position(100)).expect("trims");
    assert_eq!(segments(dir.path()).len(), 1, "the open segment stays");
    assert!(journal.bytes() < 2 * small().segment_bytes, "back to its baseline: {} bytes", journal.bytes());
    drop((journal, consumer));
    let journal = open_from(dir.path(), 100);
    assert_eq!(journal.durable().borrow().to, Position(100), "the next position is not forgotten");
    append(&journal, [100]);
    assert_eq!(read_all(&journal, 100), [entry(100)]);
}

#[test]
fn a_full_journal_withholds_acknowledgements_until_it_is_trimmed() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = JournalOptions { bytes_max: 4 << 10, ..small() };
    let journal = Journal::open(dir.path(), &chain(), Position(0), options).expect("opens");
    let (appender, (acknowledged, acks)) = (journal.appender(), mpsc::channel());
    let big = |n| Entry { payload: Bytes::from(vec![b'x'; 1_000]), ..entry(n) };
    let send = |n| {
        let acknowledged = acknowledged.clone();
        let acknowledge = Box::new(move || acknowledged.send(n).expect("the test waits"));
        appender.try_append(big(n), Some(acknowledge)).expect("the queue has room");
    };
    let mut sent = 0;
    while journal.bytes() < options.bytes_max {
        send(sent);
        assert_eq!(acks.recv_timeout(Duration::from_secs(30)), Ok(sent));
        sent += 1;
    }
    send(sent);
    assert_eq!(journal.durable().borrow().to, Position(sent));
    assert_eq!(acks.try_recv(), Err(mpsc::TryRecvError::Empty));
    eventually("it says so", || journal.full() == Some(Full::Budget));
    journal.hold(Position(0)).release(Position(sent)).expect("trims");
    assert_eq!(acks.recv_timeout(Duration::from_secs(30)), Ok(sent), "nothing was dropped");
    assert_eq!(journal.full(), None);
}

#[tokio::test]
async fn a_full_queue_hands_the_message_back() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = JournalOptions { queue_bytes_max: 500, ..small() };
    let journal = Journal::open(dir.path(), &chain(), Position(0), options).expect("opens");
    let appender = journal.appender();
    let mut position = 0;
    loop {
        match appender.try_append(entry(3), None) {
            Ok(at) => assert_eq!(at, Position(position)),
            Err(QueueFull(back)) => {
                assert_eq!(back, entry(3));
                break;
            }
        }
        position += 1;
    }
    tokio::time::timeout(Duration::from_secs(30), appender.room()).await.expect("the writer makes room");
    assert_eq!(appender.try_append(entry(4), None).expect("there is room"), Position(position));
}

#[test]
fn a_reader_starts_anywhere_in_memory_and_in_files() {
    let dir = tempfile::tempdir().expect("a directory");
    let from_files = JournalOptions { recent_bytes_max: 0, ..small() };
    let partly = JournalOptions { recent_bytes_max: 2_000, ..small() };
    for options in [from_files, partly, small()] {
        let dir = dir.path().join(options.recent_bytes_max.to_string());
        let journal = Journal::open(&dir, &chain(), Position(50), options).expect("opens");
        for n in 0..40 {
            append(&journal, [n * 2, n * 2 + 1]);
        }
        let expected: Vec<Entry> = (0..80).map(entry).collect();
        for from in 0..80 {
            assert_eq!(read_all(&journal, 50 + from), expected[from as usize..], "from {from}");
        }
        let mut reader = journal.reader(Position(50));
        assert_eq!(reader.read(1, 1_000).expect("reads").len(), 1, "one message, however large");
        assert_eq!(reader.read(1 << 20, 3).expect("reads"), expected[1..4]);
        assert_eq!(reader.read(500, 1_000).expect("reads").first(), Some(&expected[4]));
        assert!(reader.position() < Position(130));
    }
}

#[test]
fn a_reader_keeps_up_with_a_writer() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = JournalOptions { recent_bytes_max: 1_000, segment_bytes: 20_000, ..small() };
    let journal = Journal::open(dir.path(), &chain(), Position(0), options).expect("opens");
    std::thread::scope(|scope| {
        let appender = journal.appender();
        scope.spawn(move || {
            for n in 0..5_000 {
                while appender.try_append(entry(n), None).is_err() {
                    std::thread::yield_now();
                }
            }
        });
        let consumer = journal.hold(Position(0));
        let (mut reader, mut read) = (journal.reader(Position(0)), 0);
        while read < 5_000 {
            for found in reader.read(3_000, 100).expect("reads") {
                assert_eq!(found, entry(read));
                read += 1;
            }
            if read % 1_000 == 0 {
                consumer.release(Position(read)).expect("trims");
            }
        }
    });
}

/// The promise to every later build: what this one and those before write can be read.
#[test]
fn segments_of_every_version_can_be_read() {
    let entries: Vec<Entry> = (0..4).map(entry).collect();
    let mut written = Vec::new();
    group::encode(Tag::of(&chain()), Position(0), Position(0), entries.iter(), &mut written);
    for version in [1, 2] {
        let sample = format!("{}/testdata/compat/journal_v{version}.segment", env!("CARGO_MANIFEST_DIR"));
        let bytes = std::fs::read(sample).expect("the sample is there");
        assert_eq!(bytes == written, version == 2, "the sample of version 2 is what this build would write");
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("00000000000000000000.segment"), bytes).expect("writes");
        let journal = open(dir.path());
        assert_eq!(read_all(&journal, 0), entries);
        append(&journal, [4, 5]);
        drop(journal);
        assert_eq!(read_all(&open(dir.path()), 0), (0..6).map(entry).collect::<Vec<_>>(), "both versions in one file");
    }
}

fn eventually(what: &str, mut reached: impl FnMut() -> bool) {
    for _ in 0..6_000 {
        if reached() {
            return;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    panic!("waited in vain: {what}");
}

mod consumers;
mod crashes;
mod damage;
mod disks;
