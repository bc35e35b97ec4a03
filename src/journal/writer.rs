//! The thread that writes: block for the first message, take what else has arrived, write, sync, publish, acknowledge.
//!
//! The time a sync takes is what gathers the next group: no timer, small groups when idle, large ones when busy. With
//! another `Sync` than group the sync comes later or never, and acknowledgements follow the write.

use crate::journal::disk::Disk;
use crate::journal::entry::Entry;
use crate::journal::group::{self, Header, Tag};
use crate::journal::segment::Segments;
use crate::journal::{Durable, Full, JournalOptions, OnDurable, Sync, component, failed};
use crate::types::error::Result;
use crate::types::position::Position;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, watch};

/// A sync costs about the same for 4 KiB and for 1 MiB; beyond, the latency of the first message in the group grows.
const GROUP_BYTES_MAX: usize = 1024 * 1024;
const GROUP_ENTRIES_MAX: usize = 8_192;
/// How often a full disk is tried again when no trim frees anything of ours.
const DISK_FULL_RETRY: Duration = Duration::from_secs(1);

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

/// Groups kept in memory after they were written, oldest first, without holes between them.
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

/// What the writer, the appenders, the readers and the trimmers have in common. Std mutexes: nothing awaits while one is
/// held; only `take` holds two, the list's inside the queue's.
pub struct Shared {
    pub dir: PathBuf,
    pub options: JournalOptions,
    pub tag: Tag,
    pub disk: Arc<dyn Disk>,
    /// What is still to be written.
    pub queue: Mutex<Queue>,
    /// There is work, or room, or an end.
    pub work: Condvar,
    /// The writer has taken from the queue.
    pub taken: Notify,
    /// The list of files.
    pub segments: Mutex<Segments>,
    /// What consumers still need, by the number of their hold.
    pub holds: Mutex<BTreeMap<u64, Position>>,
    /// The written tail.
    pub recent: Mutex<Recent>,
    pub durable: watch::Sender<Durable>,
    /// Why appends wait.
    pub full: Mutex<Option<Full>>,
}

impl Shared {
    pub fn new(dir: &Path, segments: Segments, tag: Tag, options: JournalOptions, disk: Arc<dyn Disk>) -> Shared {
        let end = segments.end();
        Shared {
            dir: dir.to_path_buf(),
            options,
            tag,
            disk,
            queue: Mutex::new(Queue { pending: VecDeque::new(), bytes: 0, next: end, closed: false }),
            work: Condvar::new(),
            taken: Notify::new(),
            segments: Mutex::new(segments),
            holds: Mutex::default(),
            recent: Mutex::default(),
            durable: watch::Sender::new(Durable { to: end, synced: end, failed: None }),
            full: Mutex::new(None),
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

    /// Says once that appends wait, and once that they go on.
    fn set_full(&self, now: Option<Full>) {
        let before = std::mem::replace(&mut *self.full.lock().expect("no holder panics"), now);
        let journal = self.dir.display();
        match (before, now) {
            (None, Some(Full::Budget)) => tracing::warn!(
                %journal, bytes_max = self.options.bytes_max,
                "the journal is full: acknowledgements wait until what it holds is applied"
            ),
            (None, Some(Full::Disk)) => tracing::error!(
                %journal, "the disk of the journal is full: acknowledgements wait until there is space"
            ),
            (Some(_), None) => tracing::info!(%journal, "the journal has room again"),
            (Some(_), Some(_)) | (None, None) => {}
        }
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

/// The open segment, for `run`.
pub fn open_last(shared: &Shared) -> Result<File> {
    let path = shared.segments.lock().expect("no holder panics").last().path.clone();
    OpenOptions::new().append(true).open(&path).map_err(|e| failed(&path, "cannot be opened", e))
}

/// Until the journal is closed, or a write fails.
pub fn run(shared: &Shared, file: File) {
    if let Err(e) = Writer::new(shared, file).run() {
        tracing::error!(journal = %shared.dir.display(), error = %e, "the journal cannot be written; nothing more is acknowledged");
        let why: Arc<str> = e.to_string().into();
        shared.durable.send_modify(|durable| durable.failed = Some(why));
    }
}

struct Writer<'a> {
    shared: &'a Shared,
    file: File,
    buffer: Vec<u8>,
    /// When the oldest bytes were written that are not synced yet.
    unsynced_since: Option<Instant>,
    sync_seconds: metrics::Histogram,
    group_bytes: metrics::Histogram,
    group_messages: metrics::Histogram,
}

enum Taken {
    Group(Position, Vec<Pending>),
    /// Nothing to write, and what was written has waited long enough.
    SyncDue,
    /// And either nothing is queued or there is no room for it.
    Closed,
}

/// A step that a full disk made impossible while the journal was closed.
struct GaveUp;

impl<'a> Writer<'a> {
    fn new(shared: &'a Shared, file: File) -> Writer<'a> {
        let component = component(&shared.dir);
        Writer {
            shared,
            file,
            buffer: Vec::new(),
            unsynced_since: None,
            sync_seconds: metrics::histogram!("pipe_journal_sync_seconds", "component" => component.clone()),
            group_bytes: metrics::histogram!("pipe_journal_group_bytes", "component" => component.clone()),
            group_messages: metrics::histogram!("pipe_journal_group_messages", "component" => component),
        }
    }

    fn run(mut self) -> Result<()> {
        loop {
            match self.take() {
                Taken::Group(first, group) => {
                    if self.write(first, group)?.is_err() {
                        return Ok(());
                    }
                }
                Taken::SyncDue => self.sync()?,
                // Whatever the mode: an orderly end leaves nothing to chance.
                Taken::Closed => return self.sync(),
            }
        }
    }

    /// The next group: waits for the first message and for room.
    fn take(&self) -> Taken {
        let shared = self.shared;
        let mut queue = shared.queue.lock().expect("no holder panics");
        loop {
            let full = shared.is_full();
            if !queue.pending.is_empty() && !full {
                break;
            }
            if queue.closed {
                return Taken::Closed;
            }
            if full && !queue.pending.is_empty() {
                shared.set_full(Some(Full::Budget));
            }
            queue = match (shared.options.sync, self.unsynced_since) {
                (Sync::Interval(interval), Some(since)) => {
                    let left = interval.saturating_sub(since.elapsed());
                    if left.is_zero() {
                        return Taken::SyncDue;
                    }
                    shared.work.wait_timeout(queue, left).expect("no holder panics").0
                }
                _ => shared.work.wait(queue).expect("no holder panics"),
            };
        }
        shared.set_full(None);
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
        Taken::Group(first, group)
    }

    /// Writes a group and, as the mode says, syncs it; then readers see it and it is acknowledged.
    fn write(&mut self, first: Position, group: Vec<Pending>) -> Result<Result<(), GaveUp>> {
        let shared = self.shared;
        let is_long = shared.segments.lock().expect("no holder panics").last().bytes >= shared.options.segment_bytes;
        if is_long && self.next_segment(first)?.is_err() {
            return Ok(Err(GaveUp));
        }
        let bytes = group.iter().map(|p| p.bytes).sum();
        let synced = shared.durable.borrow().synced;
        group::encode(shared.tag, synced, first, group.iter().map(|p| &p.entry), &mut self.buffer);
        let header = Header::parse(&self.buffer).expect("we wrote it");
        if self.append()?.is_err() {
            return Ok(Err(GaveUp));
        }
        self.unsynced_since.get_or_insert_with(Instant::now);
        if shared.options.sync == Sync::Group {
            self.sync_file()?;
        }
        self.group_bytes.record(self.buffer.len() as f64);
        self.group_messages.record(group.len() as f64);

        shared.segments.lock().expect("no holder panics").grown(&header);
        let (entries, acks): (Vec<Entry>, Vec<Option<OnDurable>>) =
            group.into_iter().map(|p| (p.entry, p.on_durable)).unzip();
        let mut recent = shared.recent.lock().expect("no holder panics");
        recent.push(first, entries.into(), bytes, shared.options.recent_bytes_max);
        drop(recent);
        let is_synced = self.unsynced_since.is_none();
        shared.durable.send_modify(|durable| {
            durable.to = header.end();
            if is_synced {
                durable.synced = header.end();
            }
        });
        // I1: only now, and in the order of arrival (MQTT-4.6.0-2).
        for acknowledge in acks.into_iter().flatten() {
            acknowledge();
        }
        if let (Sync::Interval(interval), Some(since)) = (shared.options.sync, self.unsynced_since)
            && since.elapsed() >= interval
        {
            self.sync()?;
        }
        Ok(Ok(()))
    }

    /// Only this thread adds segments, and a file's name must be durable before bytes in it count. The one before is synced
    /// in every mode, so that there is only one file to think of.
    fn next_segment(&mut self, first: Position) -> Result<Result<(), GaveUp>> {
        self.sync()?;
        loop {
            let created = self.shared.segments.lock().expect("no holder panics").create(first, &*self.shared.disk);
            match created {
                Ok(file) => {
                    self.file = file;
                    return Ok(Ok(()));
                }
                Err(e) if is_disk_full(&e) => {
                    if self.wait_for_space().is_err() {
                        return Ok(Err(GaveUp));
                    }
                }
                Err(e) => return Err(failed(&self.shared.dir, "cannot be made", e)),
            }
        }
    }

    /// The buffer, at the end of the file. What does not fit on the disk is taken back, so that nothing torn stays in front
    /// of what is written later.
    fn append(&mut self) -> Result<Result<(), GaveUp>> {
        let shared = self.shared;
        loop {
            match shared.disk.append(&mut self.file, &self.buffer) {
                Ok(()) => {
                    shared.set_full(None);
                    return Ok(Ok(()));
                }
                Err(e) if is_disk_full(&e) => {
                    let whole = shared.segments.lock().expect("no holder panics").last().bytes;
                    self.file.set_len(whole).map_err(|e| failed(&shared.dir, "cannot be written", e))?;
                    if self.wait_for_space().is_err() {
                        return Ok(Err(GaveUp));
                    }
                }
                Err(e) => return Err(failed(&shared.dir, "cannot be written", e)),
            }
        }
    }

    /// Until a trim, or a moment. `GaveUp`: the journal was closed meanwhile.
    fn wait_for_space(&self) -> Result<(), GaveUp> {
        self.shared.set_full(Some(Full::Disk));
        let queue = self.shared.queue.lock().expect("no holder panics");
        if queue.closed {
            return Err(GaveUp);
        }
        let waited = self.shared.work.wait_timeout(queue, DISK_FULL_RETRY).expect("no holder panics");
        if waited.0.closed { Err(GaveUp) } else { Ok(()) }
    }

    fn sync(&mut self) -> Result<()> {
        if self.unsynced_since.is_some() {
            self.sync_file()?;
            self.shared.durable.send_modify(|durable| durable.synced = durable.to);
        }
        Ok(())
    }

    fn sync_file(&mut self) -> Result<()> {
        let start = Instant::now();
        self.shared.disk.sync(&self.file).map_err(|e| failed(&self.shared.dir, "cannot reach the disk", e))?;
        self.sync_seconds.record(start.elapsed().as_secs_f64());
        self.unsynced_since = None;
        Ok(())
    }
}

fn is_disk_full(e: &std::io::Error) -> bool {
    matches!(e.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded)
}
