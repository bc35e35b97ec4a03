//! What the journal costs beside the disk it is on: `cargo bench --bench journal`.
//!
//! Ratios within one run on one machine, interleaved pairs, median of seven. Writing: messages made durable in groups of
//! 1 MiB, against appending and syncing 1 MiB at a time. Reading back, as a start does it (every group checked, then every
//! message handed out), against reading the same files once: from the page cache, as after a kill (by processor time), and
//! from the disk, as after a power loss (by the clock).

use bytes::Bytes;
use pipe::journal::entry::Entry;
use pipe::journal::{Journal, JournalOptions};
use pipe::types::epoch::ChainId;
use pipe::types::position::Position;
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Instant;

/// As the binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const PAIRS: usize = 7;
const MIB: usize = 1 << 20;
const WRITTEN_MIB: usize = 48;
const READ_MIB: usize = 192;
/// Goals of the project, in percent of the disk's own rate.
const WRITE_GOAL: f64 = 60.0;
const READ_GOAL: f64 = 50.0;

fn options() -> JournalOptions {
    JournalOptions::with_budget(4 << 30, 40 << 20)
}

fn chain() -> ChainId {
    ChainId("bench".to_string())
}

/// A telemetry message of one KiB, a bundle of measurements.
fn message(n: u64, payload: &Bytes) -> Entry {
    let topics = ["fleet/v1/kinematic", "fleet/v2/kinematic", "fleet/v3/kinematic"];
    Entry {
        received_at_us: n as i64,
        topic: topics[n as usize % topics.len()].into(),
        flags: 1,
        headers: None,
        payload: payload.clone(),
    }
}

/// Appends until so many MiB are durable; MiB per second.
fn journal_writes(dir: &Path, mib: usize) -> f64 {
    let journal = Journal::open(dir, &chain(), Position(0), options()).expect("the journal opens");
    let (appender, payload) = (journal.appender(), Bytes::from(vec![b'x'; 1_024]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let start = Instant::now();
    runtime.block_on(async {
        let each = message(0, &payload).bytes();
        for n in 0..(mib * MIB / each) as u64 {
            let mut entry = message(n, &payload);
            while let Err(full) = appender.try_append(entry, None) {
                entry = full.0;
                appender.room().await;
            }
        }
        let end = appender.next();
        journal.durable().wait_for(|durable| durable.to >= end).await.expect("the journal is open");
    });
    let took = start.elapsed().as_secs_f64();
    journal.bytes() as f64 / MIB as f64 / took
}

fn disk_writes(path: &Path, mib: usize) -> f64 {
    let (mut file, block) = (File::options().append(true).create_new(true).open(path).expect("opens"), vec![b'x'; MIB]);
    let start = Instant::now();
    for _ in 0..mib {
        file.write_all(&block).expect("writes");
        file.sync_data().expect("syncs");
    }
    mib as f64 / start.elapsed().as_secs_f64()
}

fn segments(dir: &Path) -> Vec<std::path::PathBuf> {
    let all = std::fs::read_dir(dir).expect("lists").map(|e| e.expect("lists").path());
    all.filter(|p| p.extension().is_some_and(|e| e == "segment")).collect()
}

/// Seconds. By the clock where the disk is waited for; else by the processor time of this thread, which other work on the
/// machine disturbs less.
type Now = fn() -> f64;

fn wall() -> f64 {
    static START: LazyLock<Instant> = LazyLock::new(Instant::now);
    START.elapsed().as_secs_f64()
}

fn processor() -> f64 {
    let schedstat = std::fs::read_to_string("/proc/thread-self/schedstat").expect("Linux");
    let ns: f64 = schedstat.split(' ').next().and_then(|ns| ns.parse().ok()).expect("the first field");
    ns / 1e9
}

/// Every file once, MiB per second.
fn disk_reads(dir: &Path, now: Now) -> f64 {
    let (mut buffer, mut bytes) = (vec![0; MIB], 0);
    let start = now();
    for path in segments(dir) {
        let mut file = File::open(path).expect("opens");
        loop {
            match file.read(&mut buffer).expect("reads") {
                0 => break,
                read => bytes += read,
            }
        }
    }
    bytes as f64 / MIB as f64 / (now() - start)
}

/// Open and hand out everything, MiB of the files per second.
fn journal_reads(dir: &Path, now: Now) -> f64 {
    let start = now();
    let journal = Journal::open(dir, &chain(), Position(0), options()).expect("the journal opens");
    let (mut reader, mut messages) = (journal.reader(Position(0)), 0);
    loop {
        let entries = reader.read(MIB, 8_192).expect("reads");
        if entries.is_empty() {
            break;
        }
        messages += entries.len() as u64;
    }
    assert_eq!(messages, journal.durable().borrow().to.0);
    journal.bytes() as f64 / MIB as f64 / (now() - start)
}

/// Lets go of the page cache of the files. False: this machine has no `dd` that can.
fn forget(dir: &Path) -> bool {
    segments(dir).iter().all(|path| {
        let of = format!("if={}", path.display());
        Command::new("dd").arg(of).args(["iflag=nocache", "count=0", "status=none"]).status().is_ok_and(|s| s.success())
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Runs both in turns; percent of the one's rate that the other reaches, pair by pair.
fn compare(what: &str, goal: f64, mut disk: impl FnMut(usize) -> f64, mut journal: impl FnMut(usize) -> f64) {
    let (mut disks, mut journals, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    for pair in 0..PAIRS {
        let (of_disk, of_journal) = if pair % 2 == 0 {
            let of_disk = disk(pair);
            (of_disk, journal(pair))
        } else {
            let of_journal = journal(pair);
            (disk(pair), of_journal)
        };
        disks.push(of_disk);
        journals.push(of_journal);
        ratios.push(of_journal / of_disk * 100.0);
    }
    println!(
        "{what:<28} disk {:>6.0} MiB/s  journal {:>6.0} MiB/s  ratio {:>4.0} %  (goal {goal:.0} %)",
        median(disks),
        median(journals),
        median(ratios)
    );
}

fn main() {
    // Beside the repository's own files, not in a /tmp that may be memory.
    let dir = tempfile::tempdir_in(std::env::current_dir().expect("a directory")).expect("a directory");
    compare(
        "group sync, 1 MiB groups",
        WRITE_GOAL,
        |pair| {
            let path = dir.path().join(format!("disk-{pair}"));
            let rate = disk_writes(&path, WRITTEN_MIB);
            std::fs::remove_file(path).expect("deletes");
            rate
        },
        |pair| {
            let path = dir.path().join(format!("journal-{pair}"));
            let rate = journal_writes(&path, WRITTEN_MIB);
            std::fs::remove_dir_all(path).expect("deletes");
            rate
        },
    );
    let read = dir.path().join("read");
    journal_writes(&read, READ_MIB);
    let (disk, journal) = (|_| disk_reads(&read, processor), |_| journal_reads(&read, processor));
    compare("reading back, page cache", READ_GOAL, disk, journal);
    if forget(&read) {
        let cold = |rate: fn(&Path, Now) -> f64| {
            let read = &read;
            move |_: usize| {
                forget(read);
                rate(read, wall)
            }
        };
        compare("reading back, from the disk", READ_GOAL, cold(disk_reads), cold(journal_reads));
    } else {
        println!("reading back, from the disk: not measured, there is no dd with iflag=nocache");
    }
}
