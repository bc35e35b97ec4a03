//! Several consumers of one journal: each at its own place, none in another's way.

use super::*;

#[test]
fn a_trim_waits_for_the_slowest_consumer() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    let (fast, slow) = (journal.hold(Position(0)), journal.hold(Position(0)));
    for n in 0..100 {
        append(&journal, [n]);
    }
    fast.release(Position(100)).expect("trims");
    assert_eq!(journal.begin(), Position(0), "the slow one still needs it");
    slow.release(Position(40)).expect("trims");
    let begin = journal.begin();
    assert!(begin > Position(0) && begin <= Position(40));
    assert_eq!(read_all(&journal, 40), (40..100).map(entry).collect::<Vec<_>>());
    slow.release(Position(10)).expect("trims");
    assert_eq!(journal.begin(), begin, "never back");
    drop(slow);
    fast.release(Position(100)).expect("trims");
    assert_eq!(segments(dir.path()).len(), 1, "who is gone needs nothing");
}

#[test]
fn a_reader_that_stands_still_holds_up_nobody() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = JournalOptions { recent_bytes_max: 1_000, ..small() };
    let journal = Journal::open(dir.path(), &chain(), Position(0), options).expect("opens");
    let held = journal.hold(Position(0));
    let mut still = journal.reader(Position(0));
    append(&journal, [0]);
    assert_eq!(still.read(1, 1).expect("reads"), [entry(0)]);
    let mut quick = journal.reader(Position(0));
    for n in 1..200 {
        append(&journal, [n]);
        quick.read(1 << 20, 1_000).expect("reads");
    }
    assert_eq!(quick.position(), Position(200));
    // And it finds everything when it goes on, from files that memory has long let go of.
    let mut rest = Vec::new();
    while still.position() < Position(200) {
        rest.extend(still.read(500, 10).expect("reads"));
    }
    assert_eq!(rest, (1..200).map(entry).collect::<Vec<_>>());
    drop(held);
}

#[test]
fn a_reader_below_the_beginning_is_told_so() {
    let dir = tempfile::tempdir().expect("a directory");
    let journal = open(dir.path());
    for n in 0..60 {
        append(&journal, [n]);
    }
    journal.hold(Position(0)).release(Position(60)).expect("trims");
    let options = JournalOptions { recent_bytes_max: 0, ..small() };
    drop(journal);
    let journal = Journal::open(dir.path(), &chain(), Position(60), options).expect("opens");
    let error = journal.reader(Position(0)).read(1 << 20, 10).expect_err("it is gone");
    assert!(error.to_string().contains("message 0 is no longer in the journal"), "{error}");
}
