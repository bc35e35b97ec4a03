//! What happens to a file on the disk, and what the next start makes of it: refused, mended, and never more lost than was hit.

use super::*;
use crate::journal::group::{HEADER_BYTES, Header};

const MESSAGES: u64 = 60;

/// A journal of 60 messages, each a group of its own, in several segments.
fn written(dir: &Path, chain: &ChainId, sync: Sync) -> Vec<PathBuf> {
    let options = JournalOptions { sync, ..small() };
    let journal = Journal::open_on(Arc::new(Unsynced), dir, chain, Position(0), options).expect("opens");
    for n in 0..MESSAGES {
        append(&journal, [n]);
    }
    drop(journal);
    let files = segments(dir);
    assert!(files.len() >= 5, "the test needs several segments");
    files
}

fn first(file: &Path) -> u64 {
    file.file_stem().expect("a name").to_string_lossy().parse().expect("a number")
}

/// Byte, position and header of every group.
fn groups(bytes: &[u8]) -> Vec<(usize, Header)> {
    let (mut at, mut groups) = (0, Vec::new());
    while at < bytes.len() {
        let header = Header::parse(&bytes[at..]).expect("a sound file");
        groups.push((at, header));
        at += header.bytes() as usize;
    }
    groups
}

fn quarantining() -> JournalOptions {
    JournalOptions { quarantine: true, ..small() }
}

/// Everything from a position on, gaps left out.
fn numbers(journal: &Journal, from: u64) -> Vec<u64> {
    let (mut reader, mut numbers) = (journal.reader(Position(from)), Vec::new());
    loop {
        let before = reader.position().0;
        let entries = reader.read(1 << 20, 7).expect("reads");
        if entries.is_empty() {
            return numbers;
        }
        let first = reader.position().0 - entries.len() as u64;
        assert!(first >= before, "never backwards");
        for (found, n) in entries.into_iter().zip(first..) {
            assert_eq!(found, entry(n), "at {n}");
            numbers.push(n);
        }
    }
}

fn snapshot(dir: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all: Vec<_> = std::fs::read_dir(dir)
        .expect("lists")
        .map(|e| e.expect("lists").path())
        .filter(|p| p.is_file() && p.file_name().is_some_and(|n| n != "LOCK"))
        .map(|p| (p.clone(), std::fs::read(&p).expect("reads")))
        .collect();
    all.sort();
    all
}

fn text(error: Error) -> String {
    match error {
        Error::Refused { what, hint } => format!("{what} | {hint}"),
        other => panic!("not refused: {other}"),
    }
}

/// A journal that is damaged is refused when it is opened, or where the damage is in the body of a group that a start does not
/// read, when that group is read: never is anything behind it handed out.
fn refusal_of(dir: &Path, lost: u64) -> Option<String> {
    let journal = match Journal::open(dir, &chain(), Position(0), small()) {
        Ok(journal) => journal,
        Err(refused) => return Some(text(refused)),
    };
    let mut reader = journal.reader(Position(0));
    loop {
        match reader.read(1 << 20, 7) {
            Err(refused) => return Some(text(refused)),
            Ok(entries) if entries.is_empty() => return None,
            Ok(_) => assert!(reader.position().0 <= lost, "handed out over the damage"),
        }
    }
}

/// Damages a journal: refused as it is, with nothing changed; opened with the flag, with exactly `lost` missing; and sound
/// from then on.
fn check(what: &str, damage: impl Fn(&[PathBuf]), refusal: &str, lost: impl Fn(&[PathBuf]) -> std::ops::Range<u64>) {
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = temporary.path();
    let files = written(dir, &chain(), Sync::Group);
    let lost = lost(&files);
    let before: Vec<_> = files.iter().map(|f| std::fs::read(f).expect("reads")).collect();
    damage(&files);
    let damaged = snapshot(dir);
    let refused = refusal_of(dir, lost.start).unwrap_or_else(|| panic!("{what}: not refused"));
    assert!(refused.contains(refusal), "{what}: {refused}");
    assert!(refused.contains("--quarantine-journal"), "{what}: {refused}");
    let at_read = refused.contains("the messages that cannot be read are given up");
    if !lost.is_empty() && !at_read {
        let span = segment::people(Span::new(Position(lost.start), Position(lost.end)));
        assert!(refused.contains(&format!("messages {span} are given up")), "{what}: {refused}");
    }
    assert_eq!(snapshot(dir), damaged, "{what}: nothing was changed");

    let journal = Journal::open(dir, &chain(), Position(0), quarantining()).expect(what);
    let expected: Vec<u64> = (0..MESSAGES).filter(|n| !lost.contains(n)).collect();
    assert_eq!(numbers(&journal, 0), expected, "{what}");
    append(&journal, [MESSAGES]);
    drop(journal);
    let journal = Journal::open(dir, &chain(), Position(0), small()).expect("sound again without the flag");
    let expected: Vec<u64> = expected.into_iter().chain([MESSAGES]).collect();
    assert_eq!(numbers(&journal, 0), expected, "{what}, opened again");
    for from in [lost.start, lost.start + 1, lost.end] {
        let rest: Vec<u64> = expected.iter().copied().filter(|n| *n >= from).collect();
        assert_eq!(numbers(&journal, from), rest, "{what}, from {from}");
    }
    for (path, bytes) in &damaged {
        let is_damaged = refused.contains("is damaged at byte") && path.extension().is_some_and(|e| e == "segment");
        if is_damaged && !before.contains(bytes) {
            let aside = dir.join("quarantine").join(path.file_name().expect("a name"));
            assert_eq!(&std::fs::read(aside).expect("it was moved aside"), bytes, "{what}");
        }
    }
    let hold = journal.hold(Position(0));
    hold.release(Position(MESSAGES)).expect("trims");
    assert!(journal.begin() > Position(lost.end.min(MESSAGES - 10)), "{what}: gaps are trimmed too");
}

fn change(file: &Path, change: impl FnOnce(&mut Vec<u8>)) {
    let mut bytes = std::fs::read(file).expect("reads");
    change(&mut bytes);
    std::fs::write(file, bytes).expect("writes");
}

/// The third group of the file loses a bit, at so many bytes from its beginning.
fn flip(file: &Path, at: usize) {
    change(file, |bytes| {
        let group = groups(bytes)[2].0;
        bytes[group + at] ^= 0x10;
    });
}

fn third(files: &[PathBuf]) -> std::ops::Range<u64> {
    let n = first(&files[1]) + 2;
    n..n + 1
}

fn whole_second(files: &[PathBuf]) -> std::ops::Range<u64> {
    first(&files[1])..first(&files[2])
}

#[test]
fn a_flipped_bit_costs_its_group() {
    for at in [0, 3, 4, 8, 15, 16, 19, 20, 24, 32, 39, HEADER_BYTES, HEADER_BYTES + 25] {
        check(&format!("bit flip at byte {at} of a group"), |f| flip(&f[1], at), "segment\" is damaged at byte", third);
    }
    let first_group = |files: &[PathBuf]| first(&files[0])..first(&files[0]) + 1;
    check("the very first byte", |f| change(&f[0], |b| b[0] ^= 1), "is damaged at byte 0", first_group);
}

#[test]
fn a_cut_or_emptied_segment_in_the_middle_costs_what_was_cut() {
    let last_of_second = |files: &[PathBuf]| first(&files[2]) - 1..first(&files[2]);
    check("one byte short", |f| change(&f[1], |b| b.truncate(b.len() - 1)), "is damaged at byte", last_of_second);
    let by_a_group = |f: &[PathBuf]| change(&f[1], |b| b.truncate(groups(b).last().expect("groups").0));
    check("a group short", by_a_group, "has no messages", last_of_second);
    check("empty", |f| change(&f[1], Vec::clear), "has no messages", whole_second);
    check("zeros", |f| change(&f[1], |b| b.fill(0)), "is damaged at byte 0", whole_second);
    check(
        "zeros in it",
        |f| {
            change(&f[1], |b| {
                let group = groups(b)[2].0;
                b[group..group + 30].fill(0);
            })
        },
        "is damaged at byte",
        third,
    );
}

#[test]
fn a_missing_segment_costs_its_messages() {
    let remove = |i: usize| move |f: &[PathBuf]| std::fs::remove_file(&f[i]).expect("deletes");
    check("the second", remove(1), "is missing", whole_second);
    check("the first", remove(0), "is missing", |f| 0..first(&f[1]));
}

#[test]
fn a_doubled_segment_is_noticed() {
    let over = |f: &[PathBuf]| assert!(std::fs::copy(&f[0], &f[1]).expect("copies") > 0);
    check("the first over the second", over, "is damaged at byte 0", whole_second);
    let beside = |f: &[PathBuf]| {
        let name = format!("{:020}.segment", first(&f[1]) - 2);
        std::fs::copy(&f[0], f[0].with_file_name(name)).expect("copies");
    };
    check("the first beside the second", beside, "has messages that the one before it holds already", |_| 5..5);
}

#[test]
fn a_segment_of_another_chain_is_noticed() {
    let other = tempfile::tempdir().expect("a directory");
    let others = written(other.path(), &ChainId("chain-2".to_string()), Sync::Group);
    let over = |f: &[PathBuf]| assert!(std::fs::copy(&others[1], &f[1]).expect("copies") > 0);
    check("of another chain", over, "(it holds messages of another chain)", whole_second);
}

#[test]
fn what_is_applied_is_not_missed() {
    let dir = tempfile::tempdir().expect("a directory");
    let files = written(dir.path(), &chain(), Sync::Group);
    flip(&files[1], 3);
    std::fs::remove_file(&files[0]).expect("deletes");
    let begin = third(&files).end;
    let journal = Journal::open(dir.path(), &chain(), Position(begin), small()).expect("opens without the flag");
    assert_eq!(numbers(&journal, begin), (begin..MESSAGES).collect::<Vec<_>>());
}

#[test]
fn a_repair_that_was_cut_off_is_done_again() {
    let temporary = tempfile::tempdir().expect("a directory");
    let dir = temporary.path().join("live");
    let files = written(&dir, &chain(), Sync::Group);
    flip(&files[1], 3);
    let damaged = std::fs::read(&files[1]).expect("reads");
    let lost = third(&files);
    drop(Journal::open(&dir, &chain(), Position(0), quarantining()).expect("opens"));
    let gap = std::fs::read_dir(&dir)
        .expect("lists")
        .map(|e| e.expect("lists").path())
        .find(|p| p.extension().is_some_and(|e| e == "gap"))
        .expect("a gap");
    // As it is before the damaged file is cut: with the gap, and before that without.
    for has_gap in [true, false] {
        let again = temporary.path().join(format!("again-{has_gap}"));
        copy(&dir, &again);
        std::fs::write(again.join(files[1].file_name().expect("a name")), &damaged).expect("writes");
        if !has_gap {
            std::fs::remove_file(again.join(gap.file_name().expect("a name"))).expect("deletes");
        }
        // With the gap on record the loss is accepted: no flag is needed to go on.
        let options = if has_gap { small() } else { quarantining() };
        let journal = Journal::open(&again, &chain(), Position(0), options).expect("opens");
        assert_eq!(numbers(&journal, 0), (0..MESSAGES).filter(|n| !lost.contains(n)).collect::<Vec<_>>());
    }
}

/// Without a sync per group, a power loss may take groups in the middle of what was written last and leave later ones.
#[test]
fn what_was_never_synced_may_have_holes() {
    for (sync, is_refused) in
        [(Sync::None, false), (Sync::Interval(Duration::from_secs(3600)), false), (Sync::Group, true)]
    {
        let dir = tempfile::tempdir().expect("a directory");
        let options = JournalOptions { sync, segment_bytes: 1 << 20, ..small() };
        let journal = Journal::open(dir.path(), &chain(), Position(0), options).expect("opens");
        for n in 0..10 {
            append(&journal, [n]);
        }
        assert_eq!(journal.durable().borrow().synced.0, if is_refused { 10 } else { 0 });
        drop(journal);
        change(&segments(dir.path())[0], |bytes| {
            let group = groups(bytes)[4].0;
            bytes[group..group + 50].fill(0);
        });
        match Journal::open(dir.path(), &chain(), Position(0), options) {
            Err(e) => assert!(is_refused && text(e).contains("messages 4 are given up"), "{sync:?}"),
            Ok(journal) => {
                assert!(!is_refused);
                assert_eq!(numbers(&journal, 0), [0, 1, 2, 3, 5, 6, 7, 8, 9]);
            }
        }
    }
}

/// A device may send anything, a copy of a journal too; in a damaged group it must not pass for messages of ours.
#[test]
fn a_payload_that_looks_like_a_group_is_no_group() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    append(&journal, [0]);
    let mut forged = Vec::new();
    let other = Tag::of(&ChainId("a guess".to_string()));
    group::encode(other, Position(5), Position(5), [entry(5)].iter(), &mut forged);
    let sample = concat!(env!("CARGO_MANIFEST_DIR"), "/testdata/compat/journal_v1.segment");
    forged.extend(std::fs::read(sample).expect("the sample is there"));
    let appender = journal.appender();
    appender.try_append(Entry { payload: forged.into(), ..entry(1) }, None).expect("room");
    drop((journal, appender));
    change(&segments(dir.path())[0], |bytes| {
        let second = groups(bytes)[1].0;
        bytes[second + HEADER_BYTES] ^= 1;
    });
    let journal = open(dir.path());
    assert_eq!(numbers(&journal, 0), [0], "a torn tail like any other");
    assert_eq!(journal.durable().borrow().to, Position(1));
}

#[test]
fn an_end_before_what_is_applied_is_skipped_on_demand() {
    let dir = tempfile::tempdir().expect("a directory");
    written(dir.path(), &chain(), Sync::Group);
    let skipped = skip(dir.path(), &chain(), Position(70), "for the test").expect("skips");
    assert_eq!(skipped, Span::new(Position(MESSAGES), Position(70)));
    let journal = open(dir.path());
    assert_eq!(numbers(&journal, 0), (0..MESSAGES).collect::<Vec<_>>());
    assert_eq!(journal.durable().borrow().to, Position(70));
    drop(journal);
    let journal = open(dir.path());
    append(&journal, [70]);
    assert_eq!(numbers(&journal, 65), [70]);
    assert_eq!(peek(dir.path()).expect("reads"), Some(Span::new(Position(0), Position(71))));
}
