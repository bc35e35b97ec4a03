//! The thread that writes: block for the first message, take what else has arrived, write, sync, publish, acknowledge.
//!
//! The time a sync takes is what gathers the next group: no timer, small groups when idle, large ones when busy.

use crate::journal::entry::Entry;
use crate::journal::group::{self, Header};
use crate::journal::segment::Segments;
use crate::journal::{Durable, JournalOptions, OnDurable, failed};
use crate::types::error::{Error, Result};
use crate::types::position::Position;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::Instant;
use tokio::sync::{Notify, watch};

/// A sync costs about the same for 4 KiB and for 1 MiB; beyond, the latency of the first message in the group grows.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
const GROUP_ENTRIES_MAX: usize = 8_192;

pub struct Pending {
    pub entry: Entry,
    pub bytes: usize,
    pub on_durable: Option<OnDurable>,
}

pub struct Queue {
    pub pending: VecDeque<Pending>,
    pub bytes: usize,
    /// The position the next message gets.
    pub next: Position,
    pub closed: bool,
}

/// Synced groups kept in memory, oldest first, without holes between them.
#[derive(Default)]
pub struct Recent {
    pub groups: VecDeque<RecentGroup>,
    bytes: usize,
}

#[derive(Clone)]
pub struct RecentGroup {
    pub first: Position,
    pub entries: Arc<[Entry]>,
    bytes: usize,
}

/// What the writer, the appenders, the reader and the trimmer have in common. Std mutexes: nothing awaits while one is
/// held; only `take` holds two, the list's inside the queue's.
pub struct Shared {
    pub dir: PathBuf,
    pub options: JournalOptions,
    /// What is still to be written.
    pub queue: Mutex<Queue>,
    /// There is work, or room, or an end.
    pub work: Condvar,
    /// The writer has taken from the queue.
    pub taken: Notify,
    /// The list of files.
    pub segments: Mutex<Segments>,
    /// The synced tail.
    pub recent: Mutex<Recent>,
    pub durable: watch::Sender<Durable>,
}

impl Shared {
    pub fn new(dir: &Path, segments: Segments, options: JournalOptions) -> Shared {
        let end = segments.end();
        Shared {
            dir: dir.to_path_buf(),
            options,
            queue: Mutex::new(Queue::new(end)),
            work: Condvar::new(),
            taken: Notify::new(),
            segments: Mutex::new(segments),
            recent: Mutex::default(),
            durable: watch::Sender::new(Durable { to: end, failed: None }),
        }
    }

    /// Takes the queue's lock first: else the writer could look, miss the news and then sleep.
    pub fn wake_writer(&self) {
        drop(self.queue.lock().expect("no holder panics"));
        self.work.notify_one();
    }

    fn is_full(&self) -> bool {
        self.segments.lock().expect("no holder panics").bytes() >= self.options.bytes_max
    }
}

impl Recent {
    fn push(&mut self, first: Position, entries: Arc<[Entry]>, bytes: usize, bytes_max: usize) {
        self.bytes += bytes;
        self.groups.push_back(RecentGroup { first, entries, bytes });
        while self.bytes > bytes_max
            && let Some(oldest) = self.groups.pop_front()
        {
            self.bytes -= oldest.bytes;
        }
    }
}

/// Until the journal is closed, or a write fails.
pub fn run(shared: &Shared) {
    if let Err(e) = write_all(shared) {
        tracing::error!(journal = %shared.dir.display(), error = %e, "the journal cannot be written; nothing more is acknowledged");
        let why: Arc<str> = e.to_string().into();
        shared.durable.send_modify(|durable| durable.failed = Some(why));
    }
}

fn write_all(shared: &Shared) -> Result<()> {
    let mut file = open_last(shared)?;
    let mut buffer = Vec::new();
    let mut full_since = None;
    while let Some((first, group)) = take(shared, &mut full_since) {
        if shared.segments.lock().expect("no holder panics").last().bytes >= shared.options.segment_bytes {
            // Only this thread adds segments, and a file's name must be durable before bytes in it count.
            shared.segments.lock().expect("no holder panics").create()?;
            file = open_last(shared)?;
        }
        let bytes = group.iter().map(|p| p.bytes).sum();
        group::encode(first, group.iter().map(|p| &p.entry), &mut buffer);
        let header = Header::parse(buffer.first_chunk().expect("a header was written")).expect("we wrote it");
        write(shared, &mut file, &buffer)?;

        shared.segments.lock().expect("no holder panics").grown(&header);
        let (entries, acks): (Vec<Entry>, Vec<Option<OnDurable>>) =
            group.into_iter().map(|p| (p.entry, p.on_durable)).unzip();
        let mut recent = shared.recent.lock().expect("no holder panics");
        recent.push(first, entries.into(), bytes, shared.options.recent_bytes_max);
        drop(recent);
        shared.durable.send_modify(|durable| durable.to = header.end());
        // I1: only now, and in the order of arrival (MQTT-4.6.0-2).
        for acknowledge in acks.into_iter().flatten() {
            acknowledge();
        }
    }
    Ok(())
}

/// The next group: waits for the first message and for room. `None`: closed, and either empty or without room.
fn take(shared: &Shared, full_since: &mut Option<Instant>) -> Option<(Position, Vec<Pending>)> {
    let mut queue = shared.queue.lock().expect("no holder panics");
    loop {
        let full = shared.is_full();
        if !queue.pending.is_empty() && !full {
            break;
        }
        if queue.closed {
            return None;
        }
        if full && !queue.pending.is_empty() && full_since.is_none() {
            *full_since = Some(Instant::now());
            tracing::warn!(
                journal = %shared.dir.display(), bytes_max = shared.options.bytes_max,
                "the journal is full: acknowledgements wait until what it holds is applied"
            );
        }
        queue = shared.work.wait(queue).expect("no holder panics");
    }
    if let Some(since) = full_since.take() {
        tracing::info!(journal = %shared.dir.display(), seconds = since.elapsed().as_secs(), "the journal has room again");
    }
    let first = Position(queue.next.0 - queue.pending.len() as u64);
    let mut group = Vec::new();
    let mut bytes = 0;
    while let Some(pending) = queue.pending.front() {
        let fits = bytes + pending.bytes <= GROUP_BYTES_MAX && group.len() < GROUP_ENTRIES_MAX;
        if !group.is_empty() && !fits {
            break;
        }
        bytes += pending.bytes;
        group.extend(queue.pending.pop_front());
    }
    queue.bytes -= bytes;
    drop(queue);
    shared.taken.notify_waiters();
    Some((first, group))
}

fn open_last(shared: &Shared) -> Result<File> {
    let path = shared.segments.lock().expect("no holder panics").last().path.clone();
    OpenOptions::new().append(true).open(&path).map_err(|e| failed(&path, "cannot be opened", e))
}

fn write(shared: &Shared, file: &mut File, buffer: &[u8]) -> Result<(), Error> {
    file.write_all(buffer).map_err(|e| failed(&shared.dir, "cannot be written", e))?;
    let start = Instant::now();
    file.sync_data().map_err(|e| failed(&shared.dir, "cannot reach the disk", e))?;
    metrics::histogram!("pipe_journal_sync_seconds").record(start.elapsed().as_secs_f64());
    Ok(())
}
