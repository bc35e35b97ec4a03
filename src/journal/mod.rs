//! The local durable log in front of sources that cannot be re-read: messages are acknowledged once they are here.
//!
//! Brokers cap unacknowledged messages, so waiting for a Delta commit would cap a connection at a few messages per second.
//! The journal syncs in groups: whatever has arrived while the disk was busy goes into the next write, then it is synced,
//! then it is acknowledged, in the order of arrival (I1). Position = sequence number of a message.
//!
//! `<data_dir>/journal/<source>/`: `LOCK` (held for the life of the process), `chain` (which chain it belongs to), segments
//! of groups, `.gap` files for messages that were given up, and `quarantine/` for what was damaged.
//!
//! | found at start | done |
//! |---|---|
//! | a bad group at the very end of the last segment | cut off and logged: it was never synced, so never acknowledged |
//! | a bad group anywhere else, a missing, doubled or foreign segment | refused with file, offset and messages; see `repair` |
//! | another chain's, or open in another process | refused |
//! | a sync, or a write for another reason than space, that fails while running | fatal: never retried, because the kernel may have dropped the pages |
//! | the byte budget is reached while running, or the disk is full | appends wait, so acknowledgements are withheld; nothing is dropped |

pub mod disk; // the calls that may fail while running
pub mod entry; // one message as it is kept
mod examine; // what the files hold, and what is wrong with them
mod group; // the unit of writing: header, checksum, entries
pub mod hold;
pub mod reader; // messages from a position on
mod repair; // torn tails, quarantine, gaps
pub mod segment; // the files: listing, growing, trimming
mod writer; // the thread that writes // consumers, and what they still need

use crate::journal::disk::{Disk, RealDisk, sync_directory};
use crate::journal::entry::Entry;
use crate::journal::group::Tag;
use crate::journal::hold::Hold;
use crate::journal::reader::Reader;
use crate::journal::segment::{Opening, Segments};
use crate::journal::writer::{Pending, Shared};
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::position::{Position, Span};
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// What differs between journals. Bounds in bytes.
#[derive(Clone, Copy, Debug)]
pub struct JournalOptions {
    /// Of all segments. Reached: appends wait until a trim makes room.
    pub bytes_max: u64,
    /// A segment is closed when it is this large; whole segments are what a trim deletes.
    pub segment_bytes: u64,
    /// Messages waiting to be written. Reached: `try_append` says full.
    pub queue_bytes_max: usize,
    /// Written messages kept in memory for readers that are close behind.
    pub recent_bytes_max: usize,
    pub sync: Sync,
    /// What is damaged is moved aside when the journal is opened, and what it held is given up.
    pub quarantine: bool,
}

/// When what was written is made safe from a power loss. Whatever the mode, a killed process loses nothing that was
/// acknowledged, and an orderly end syncs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sync {
    /// Every group, before it is acknowledged.
    Group,
    /// Acknowledged when written; synced when the oldest of it is so old.
    Interval(Duration),
    /// Acknowledged when written; the operating system decides.
    None,
}

/// The smallest budget with which a trim can always make room: a trim deletes closed segments only.
pub const JOURNAL_BYTES_MIN: u64 = 16 * 1024 * 1024;
const SEGMENT_BYTES_MAX: u64 = 64 * 1024 * 1024;
/// Less would close connections all the time; more than a few seconds of the disk is of no use.
const MEMORY_BYTES_MIN: u64 = 1024 * 1024;
const MEMORY_BYTES_MAX: u64 = 40 * 1024 * 1024;

impl JournalOptions {
    /// A segment is at most a quarter of the disk budget, so that at most half of it (the open one, the one being read)
    /// cannot be freed. Of the memory, three quarters are for the queue.
    pub fn with_budget(bytes_max: u64, memory_bytes: u64) -> Self {
        let memory_bytes = memory_bytes.clamp(MEMORY_BYTES_MIN, MEMORY_BYTES_MAX) as usize;
        JournalOptions {
            bytes_max,
            segment_bytes: (bytes_max / 4).min(SEGMENT_BYTES_MAX),
            queue_bytes_max: memory_bytes / 4 * 3,
            recent_bytes_max: memory_bytes / 4,
            sync: Sync::Group,
            quarantine: false,
        }
    }
}

/// How far the journal is, as it changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Durable {
    /// Everything below is written, and acknowledged; with `Sync::Group` it is on the disk.
    pub to: Position,
    /// Everything below is on the disk.
    pub synced: Position,
    /// Writing has failed; nothing more will become durable.
    pub failed: Option<Arc<str>>,
}

/// Why appends wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    Budget,
    Disk,
}

/// An open journal. Dropping it stops the writer after what is queued, unless the budget is reached.
pub struct Journal {
    dir: PathBuf,
    shared: Arc<Shared>,
    writer: Option<JoinHandle<()>>,
    /// Held, not used: the lock is given back when the file closes.
    _lock: File,
}

/// The queue in front of the writer is full; the message is handed back.
#[derive(Debug)]
pub struct QueueFull(pub Entry);

/// Called once, on the writer's thread, when the message is durable. Must not block.
pub type OnDurable = Box<dyn FnOnce() + Send>;

pub fn directory(data_dir: &Path, source: &str) -> PathBuf {
    data_dir.join("journal").join(source)
}

/// The chain a journal belongs to, without opening it. None: there is no journal, or none that was ever bound.
pub fn bound_chain(dir: &Path) -> Result<Option<ChainId>> {
    match std::fs::read_to_string(dir.join("chain")) {
        Ok(text) => Ok(Some(ChainId(text.trim_end().to_string()))),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(e) => Err(failed(dir, "cannot be read", e)),
    }
}

impl Journal {
    /// Opens or creates the journal of `chain`, checking every group. `begin`: everything below is applied; where a new one
    /// starts. Blocks: reads all there is.
    pub fn open(dir: &Path, chain: &ChainId, begin: Position, options: JournalOptions) -> Result<Journal> {
        Journal::open_on(Arc::new(RealDisk), dir, chain, begin, options)
    }

    /// On a disk that may fail on command.
    pub fn open_on(
        disk: Arc<dyn Disk>,
        dir: &Path,
        chain: &ChainId,
        begin: Position,
        options: JournalOptions,
    ) -> Result<Journal> {
        make_directory(dir).map_err(|e| failed(dir, "cannot be made", e))?;
        let lock = lock(dir)?;
        bind(dir, chain)?;
        let tag = Tag::of(chain);
        let segments = Segments::open(dir, Opening { begin, tag, quarantine: options.quarantine }, &*disk)?;
        let shared = Arc::new(Shared::new(dir, segments, tag, options, disk));
        let file = writer::open_last(&shared)?;
        let writer = {
            let shared = shared.clone();
            std::thread::Builder::new()
                .name("journal".to_string())
                .spawn(move || writer::run(&shared, file))
                .map_err(|e| failed(dir, "cannot start its thread", e))?
        };
        Ok(Journal { dir: dir.to_path_buf(), shared, writer: Some(writer), _lock: lock })
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The oldest message that is still there.
    pub fn begin(&self) -> Position {
        self.shared.segments.lock().expect("no holder panics").begin()
    }

    /// What is durable, and a way to wait for more.
    pub fn durable(&self) -> watch::Receiver<Durable> {
        self.shared.durable.subscribe()
    }

    pub fn bytes(&self) -> u64 {
        self.shared.segments.lock().expect("no holder panics").bytes()
    }

    pub fn appender(&self) -> Appender {
        Appender { shared: self.shared.clone() }
    }

    /// Reads from `position` on. Below `begin` or above what was ever written is a mistake of the caller's.
    pub fn reader(&self, position: Position) -> Reader {
        Reader::new(self.shared.clone(), position)
    }

    /// One more consumer: what lies at `from` and above stays until it says otherwise.
    pub fn hold(&self, from: Position) -> Hold {
        Hold::new(self.shared.clone(), from)
    }

    /// Why appends wait now, if they do.
    pub fn full(&self) -> Option<Full> {
        *self.shared.full.lock().expect("no holder panics")
    }

    pub fn options(&self) -> &JournalOptions {
        &self.shared.options
    }
}

/// The messages in the files of a journal, whoever has it open. None: there is no journal.
pub fn peek(dir: &Path) -> Result<Option<Span>> {
    segment::peek(dir)
}

/// Gives up messages of a journal that nobody has open, from its end up to `to`: they were applied, or are lost, and their
/// positions will not be given again. Returns what was skipped.
pub fn skip(dir: &Path, chain: &ChainId, to: Position, why: &str) -> Result<Span> {
    let _lock = lock(dir)?;
    let opening = Opening { begin: to, tag: Tag::of(chain), quarantine: false };
    Segments::open(dir, opening, &RealDisk)?.skip(to, why, &RealDisk)
}

impl Drop for Journal {
    fn drop(&mut self) {
        self.shared.queue.lock().expect("no holder panics").closed = true;
        self.shared.wake_writer();
        if let Some(writer) = self.writer.take()
            && writer.join().is_err()
        {
            tracing::error!(journal = %self.dir.display(), "the journal's thread has panicked");
        }
    }
}

/// The way in; one per connection, all in one order.
#[derive(Clone)]
pub struct Appender {
    shared: Arc<Shared>,
}

impl Appender {
    /// Queues a message without waiting. Its position is fixed now; `on_durable` is called when it is on the disk, after
    /// those of all earlier messages.
    pub fn try_append(&self, entry: Entry, on_durable: Option<OnDurable>) -> Result<Position, QueueFull> {
        let mut queue = self.shared.queue.lock().expect("no holder panics");
        let bytes = entry.bytes();
        // An empty queue takes any message, so that one larger than the bound cannot stop the journal.
        if !queue.pending.is_empty() && queue.bytes + bytes > self.shared.options.queue_bytes_max {
            return Err(QueueFull(entry));
        }
        let position = queue.next;
        queue.next = Position(position.0 + 1);
        queue.bytes += bytes;
        queue.pending.push_back(Pending { entry, bytes, on_durable });
        drop(queue);
        self.shared.work.notify_one();
        Ok(position)
    }

    /// Waits until half of the queue is free again: what to do after `QueueFull`.
    pub async fn room(&self) {
        loop {
            let changed = self.shared.taken.notified();
            if !self.is_half_full() {
                return;
            }
            changed.await;
        }
    }

    /// For messages that cannot be held back: they leave half of the queue to those that can.
    pub fn is_half_full(&self) -> bool {
        self.shared.queue.lock().expect("no holder panics").bytes > self.shared.options.queue_bytes_max / 2
    }

    /// The position the next message will get: everything queued so far lies below.
    pub fn next(&self) -> Position {
        self.shared.queue.lock().expect("no holder panics").next
    }
}

/// The label of this journal's metrics: its source.
fn component(dir: &Path) -> String {
    dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// With the names on the way to it durable: a sync of a file does not make its directory's own name durable.
fn make_directory(dir: &Path) -> std::io::Result<()> {
    if dir.exists() {
        return Ok(());
    }
    if let Some(parent) = dir.parent().filter(|p| !p.as_os_str().is_empty()) {
        make_directory(parent)?;
    }
    std::fs::create_dir(dir).or_else(|e| if dir.is_dir() { Ok(()) } else { Err(e) })?;
    sync_directory(dir.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")))
}

fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("LOCK");
    let file = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(&path);
    let mut file = file.map_err(|e| failed(dir, "cannot be locked", e))?;
    match file.try_lock() {
        Ok(()) => {
            let told = file.set_len(0).and_then(|()| writeln!(file, "pid {}", std::process::id()));
            told.map_err(|e| failed(dir, "cannot be locked", e))?;
            Ok(file)
        }
        Err(std::fs::TryLockError::WouldBlock) => {
            let mut holder = String::new();
            let holder = match file.read_to_string(&mut holder) {
                Ok(_) if !holder.trim().is_empty() => holder.trim().to_string(),
                Ok(_) | Err(_) => "it has not said which".to_string(),
            };
            Err(Error::refused(
                format!("the journal \"{}\" is open in another process ({holder})", dir.display()),
                "Stop the other process, or give this pipeline its own data_dir.",
            ))
        }
        Err(std::fs::TryLockError::Error(e)) => Err(failed(dir, "cannot be locked", e)),
    }
}

/// A journal belongs to the chain that made it: its positions mean nothing to another one.
fn bind(dir: &Path, chain: &ChainId) -> Result<()> {
    match bound_chain(dir)? {
        Some(bound) if bound == *chain => Ok(()),
        Some(bound) => Err(Error::refused(
            format!("the journal \"{}\" belongs to chain {bound}, the records to chain {chain}", dir.display()),
            "It holds messages that were acknowledged and may not be in any table. Correct `[pipeline] data_dir` or \
             `[checkpoint] location`; or move the journal away to give those messages up.",
        )),
        None => {
            let write = || -> std::io::Result<()> {
                let temporary = dir.join("chain.new");
                let mut file = File::create(&temporary)?;
                writeln!(file, "{chain}")?;
                file.sync_all()?;
                std::fs::rename(&temporary, dir.join("chain"))?;
                File::open(dir)?.sync_all()
            };
            write().map_err(|e| failed(dir, "cannot be bound to its chain", e))
        }
    }
}

fn failed(path: &Path, doing: &str, e: std::io::Error) -> Error {
    let hint = if e.kind() == std::io::ErrorKind::StorageFull { "; free some space and start again" } else { "" };
    Error::Failed(format!("the journal \"{}\" {doing}: {e}{hint}", path.display()))
}

#[cfg(test)]
mod tests;
