//! Disks that fail on command: full, broken, slow. What is acknowledged then, and what is left.

use super::*;
use crate::journal::disk::{Disk, RealDisk};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

#[derive(Default)]
struct Faulty {
    /// Half of what is written arrives, then there is no space.
    is_full: AtomicBool,
    fails_to_sync: AtomicBool,
    /// A sync waits while this is set.
    is_stuck: AtomicBool,
    syncs: AtomicUsize,
}

impl Disk for Faulty {
    fn create(&self, path: &Path) -> std::io::Result<File> {
        if self.is_full.load(Ordering::SeqCst) {
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        RealDisk.create(path)
    }

    fn append(&self, file: &mut File, bytes: &[u8]) -> std::io::Result<()> {
        if self.is_full.load(Ordering::SeqCst) {
            RealDisk.append(file, &bytes[..bytes.len() / 2])?;
            return Err(std::io::ErrorKind::StorageFull.into());
        }
        RealDisk.append(file, bytes)
    }

    fn sync(&self, file: &File) -> std::io::Result<()> {
        while self.is_stuck.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.syncs.fetch_add(1, Ordering::SeqCst);
        if self.fails_to_sync.load(Ordering::SeqCst) {
            return Err(std::io::Error::from_raw_os_error(5));
        }
        RealDisk.sync(file)
    }
}

fn opened(disk: &Arc<Faulty>, dir: &Path, options: JournalOptions) -> Journal {
    Journal::open_on(disk.clone(), dir, &chain(), Position(0), options).expect("opens")
}

/// Appends one message; the receiver hears of its acknowledgement.
fn send(journal: &Journal, n: u64) -> mpsc::Receiver<u64> {
    let (acknowledged, heard) = mpsc::channel();
    // Nobody listens any more when the test gave the message up.
    let acknowledge = Box::new(move || acknowledged.send(n).unwrap_or_default());
    journal.appender().try_append(entry(n), Some(acknowledge)).expect("the queue has room");
    heard
}

const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn a_sync_error_is_final() {
    for sync in [Sync::Group, Sync::Interval(Duration::from_millis(1))] {
        let (dir, disk) = (tempfile::tempdir().expect("a directory"), Arc::new(Faulty::default()));
        let journal = opened(&disk, dir.path(), JournalOptions { sync, ..small() });
        append(&journal, [0]);
        eventually("the first is synced", || journal.durable().borrow().synced == Position(1));
        disk.fails_to_sync.store(true, Ordering::SeqCst);
        let before = disk.syncs.load(Ordering::SeqCst);
        let heard = send(&journal, 1);
        eventually("the journal fails", || journal.durable().borrow().failed.is_some());
        let failed = journal.durable().borrow().clone();
        assert!(failed.failed.is_some_and(|why| why.contains("cannot reach the disk")));
        assert_eq!(failed.synced, Position(1), "{sync:?}");
        // A second sync would succeed over the loss. It must not be asked for.
        disk.fails_to_sync.store(false, Ordering::SeqCst);
        let after = send(&journal, 2);
        drop(journal);
        assert_eq!(disk.syncs.load(Ordering::SeqCst), before + 1, "never retried");
        assert!(after.recv().is_err(), "nothing more is acknowledged");
        assert_eq!(heard.recv().is_ok(), sync != Sync::Group, "acknowledgements follow the mode");
    }
}

#[test]
fn a_full_disk_is_waited_for() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), Arc::new(Faulty::default()));
    let journal = opened(&disk, dir.path(), small());
    append(&journal, [0]);
    disk.is_full.store(true, Ordering::SeqCst);
    let heard = send(&journal, 1);
    eventually("it says so", || journal.full() == Some(Full::Disk));
    assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty));
    disk.is_full.store(false, Ordering::SeqCst);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(1), "nothing was dropped");
    assert_eq!(journal.full(), None);
    for n in 2..60 {
        append(&journal, [n]);
    }
    drop(journal);
    assert_eq!(read_all(&open(dir.path()), 0), (0..60).map(entry).collect::<Vec<_>>(), "nothing torn is in between");
}

#[test]
fn no_space_for_a_new_segment_is_waited_for_too() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), Arc::new(Faulty::default()));
    let journal = opened(&disk, dir.path(), JournalOptions { segment_bytes: 1, ..small() });
    append(&journal, [0]);
    disk.is_full.store(true, Ordering::SeqCst);
    let heard = send(&journal, 1);
    eventually("it says so", || journal.full() == Some(Full::Disk));
    disk.is_full.store(false, Ordering::SeqCst);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(1));
    assert_eq!(read_all(&journal, 0), [entry(0), entry(1)]);
}

#[test]
fn a_full_disk_does_not_hold_up_the_end() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), Arc::new(Faulty::default()));
    let journal = opened(&disk, dir.path(), small());
    append(&journal, [0]);
    disk.is_full.store(true, Ordering::SeqCst);
    let heard = send(&journal, 1);
    eventually("it says so", || journal.full() == Some(Full::Disk));
    drop(journal);
    assert!(heard.recv().is_err(), "not acknowledged: the broker sends it again");
    assert_eq!(read_all(&open(dir.path()), 0), [entry(0)]);
}

#[test]
fn acknowledgements_follow_the_mode() {
    for (sync, acknowledged) in
        [(Sync::Group, false), (Sync::Interval(Duration::from_secs(3600)), true), (Sync::None, true)]
    {
        let (dir, disk) = (tempfile::tempdir().expect("a directory"), Arc::new(Faulty::default()));
        let journal = opened(&disk, dir.path(), JournalOptions { sync, ..small() });
        disk.is_stuck.store(true, Ordering::SeqCst);
        let heard = send(&journal, 0);
        if acknowledged {
            assert_eq!(heard.recv_timeout(PATIENCE), Ok(0), "{sync:?}");
            assert_eq!(journal.durable().borrow().synced, Position(0), "{sync:?}");
            assert_eq!(read_all(&journal, 0), [entry(0)], "readers follow the mode as well");
        } else {
            eventually("it was written", || journal.shared.queue.lock().expect("no holder panics").pending.is_empty());
            assert_eq!(heard.try_recv(), Err(mpsc::TryRecvError::Empty), "{sync:?}");
            assert!(read_all(&journal, 0).is_empty());
        }
        disk.is_stuck.store(false, Ordering::SeqCst);
        drop(journal);
        assert_eq!(disk.syncs.load(Ordering::SeqCst), 1, "{sync:?}: an orderly end syncs");
    }
}

#[test]
fn an_interval_syncs_when_nothing_more_comes() {
    let (dir, disk) = (tempfile::tempdir().expect("a directory"), Arc::new(Faulty::default()));
    let options = JournalOptions { sync: Sync::Interval(Duration::from_millis(20)), ..small() };
    let journal = opened(&disk, dir.path(), options);
    append(&journal, [0]);
    eventually("it is synced", || journal.durable().borrow().synced == Position(1));
    assert_eq!(disk.syncs.load(Ordering::SeqCst), 1);
}

#[test]
fn a_disk_that_fails_ends_the_journal_and_acknowledges_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let options = JournalOptions { segment_bytes: 0, ..small() };
    let journal = Journal::open(dir.path(), &chain(), Position(0), options).expect("opens");
    std::fs::remove_dir_all(dir.path()).expect("deletes");
    let acknowledge = Box::new(|| panic!("acknowledged what is not on the disk"));
    journal.appender().try_append(entry(0), Some(acknowledge)).expect("the queue has room");
    let mut durable = journal.durable();
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let failed = runtime
        .block_on(async { durable.wait_for(|d| d.failed.is_some()).await.expect("the journal is open").clone() });
    assert_eq!(failed.to, Position(0));
    assert!(failed.failed.is_some_and(|why| why.contains("cannot be made")));
}
