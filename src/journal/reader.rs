//! Messages from a position on: from memory while the reader is close behind the writer, else from the files.

use crate::journal::entry::{Entry, Topics};
use crate::journal::failed;
use crate::journal::group::{self, HEADER_BYTES, HEADER_BYTES_V1, Header, Tag};
use crate::journal::segment::{self, Segment};
use crate::journal::writer::Shared;
use crate::types::error::{Error, Result};
use crate::types::position::Position;
use bytes::{Buf, Bytes};
use std::collections::VecDeque;
use std::fs::File;
use std::io::Read;
use std::path::PathBuf;
use std::sync::Arc;

/// One read of a file brings at least this, so that a journal of small groups (an idle broker's) is not read one message at
/// a time; and at least one whole group.
const READ_BYTES_MIN: usize = 64 * 1024;

/// Reads forward; keeps its place in the file between calls. Only what is durable is read. Readers share nothing but short
/// locks: a slow one does not hold up another.
pub struct Reader {
    shared: Arc<Shared>,
    next: Position,
    place: Option<Place>,
    /// Read from the file and not handed out yet; the first one is at `next`.
    left: VecDeque<Entry>,
    topics: Topics,
}

/// Between two groups of a segment.
struct Place {
    path: PathBuf,
    file: File,
    /// What was read of the file and not decoded yet; messages share this memory. Begins at `offset`.
    ahead: Bytes,
    offset: u64,
    /// The first message of the group at `offset`.
    next: Position,
    /// Bytes of the last group, as a guess at the next.
    last_group: usize,
}

impl Reader {
    pub(super) fn new(shared: Arc<Shared>, next: Position) -> Reader {
        Reader { shared, next, place: None, left: VecDeque::new(), topics: Topics::default() }
    }

    /// The position of the next message that `read` gives.
    pub fn position(&self) -> Position {
        self.next
    }

    /// The next messages, in order and without holes between them, up to about `bytes_max` (at least one, if there is one)
    /// and `entries_max`; the last one is just below `position`. Messages that were given up are passed over in front of
    /// them. Empty: nothing more is durable. Blocks when it has to read a file.
    pub fn read(&mut self, bytes_max: usize, entries_max: usize) -> Result<Vec<Entry>> {
        let durable = self.shared.durable.borrow().to;
        let mut out = Vec::new();
        let mut bytes = 0;
        // Not filled up to the last byte with the beginning of a further group: the rest of that would wait here in memory of
        // its own, and together they would push each other out of the processor's cache.
        while self.next < durable && bytes <= bytes_max / 2 && out.len() < entries_max {
            if self.left.is_empty() && !self.take_recent(&mut out, &mut bytes, bytes_max, entries_max) {
                let place = self.shared.segments.lock().expect("no holder panics").at(self.next);
                match place {
                    segment::Place::Segment(segment) => self.read_file(segment)?,
                    segment::Place::Gap(_) if !out.is_empty() => break,
                    segment::Place::Gap(to) => self.next = to,
                    segment::Place::Nowhere => {
                        return Err(Error::Failed(format!(
                            "message {} is no longer in the journal \"{}\"",
                            self.next,
                            self.shared.dir.display()
                        )));
                    }
                }
            }
            if out.is_empty() && self.left.len() <= entries_max {
                let all: usize = self.left.iter().map(Entry::bytes).sum();
                if all <= bytes_max {
                    // The usual case, without moving every message.
                    bytes = all;
                    self.next = Position(self.next.0 + self.left.len() as u64);
                    out = std::mem::take(&mut self.left).into();
                }
            }
            while let Some(entry) = self.left.front()
                && (out.is_empty() || bytes + entry.bytes() <= bytes_max)
                && out.len() < entries_max
            {
                bytes += entry.bytes();
                out.extend(self.left.pop_front());
                self.next = Position(self.next.0 + 1);
            }
            if !self.left.is_empty() {
                break;
            }
        }
        Ok(out)
    }

    /// From memory, if the tail there reaches back far enough. False: it does not.
    fn take_recent(&mut self, out: &mut Vec<Entry>, bytes: &mut usize, bytes_max: usize, entries_max: usize) -> bool {
        let recent = self.shared.recent.lock().expect("no holder panics");
        let after = recent.groups.partition_point(|g| g.first <= self.next);
        let Some(group) = after.checked_sub(1).and_then(|i| recent.groups.get(i)).cloned() else { return false };
        drop(recent);
        let skip = (self.next.0 - group.first.0) as usize;
        if skip >= group.entries.len() {
            return false;
        }
        for entry in &group.entries[skip..] {
            if (*bytes >= bytes_max && !out.is_empty()) || out.len() >= entries_max {
                break;
            }
            *bytes += entry.bytes();
            out.push(entry.clone());
            self.next = Position(self.next.0 + 1);
        }
        self.place = None;
        true
    }

    /// The group that holds `next`, into `left`.
    fn read_file(&mut self, segment: Segment) -> Result<()> {
        let mut place = match self.place.take() {
            Some(place) if place.path == segment.path && place.next <= self.next => place,
            _ => {
                let file = File::open(&segment.path).map_err(|e| failed(&segment.path, "cannot be read", e))?;
                Place::new(segment.path.clone(), file, segment.span.from)
            }
        };
        while self.left.is_empty() {
            let (at, message) = (place.offset, place.next);
            let damaged = || {
                segment::refused_damage(
                    format!(
                        "the journal segment \"{}\" is damaged at byte {at}, at message {message}",
                        segment.path.display(),
                    ),
                    &self.shared.dir,
                    "the messages that cannot be read are",
                )
            };
            // The writer may be behind us in this file with its next group: only whole, durable groups are in `bytes`.
            let group = place.group(segment.bytes.saturating_sub(at), self.shared.tag);
            let group = group.map_err(|e| failed(&segment.path, "cannot be read", e))?;
            let (header, body) = group.filter(|(header, _)| header.first == message).ok_or_else(damaged)?;
            if header.end() > self.next {
                let entries = group::decode(&header, body, &mut self.topics).ok_or_else(damaged)?;
                self.left = entries.into();
                self.left.drain(..(self.next.0 - header.first.0) as usize);
            }
            place.next = header.end();
        }
        self.place = Some(place);
        Ok(())
    }
}

impl Place {
    fn new(path: PathBuf, file: File, first: Position) -> Place {
        Place { path, file, ahead: Bytes::new(), offset: 0, next: first, last_group: 0 }
    }

    /// The next group, moving behind it; `left` bytes of the file are whole groups. `None`: what stands there is none of ours.
    fn group(&mut self, left: u64, tag: Tag) -> std::io::Result<Option<(Header, Bytes)>> {
        if left < HEADER_BYTES_V1 as u64 {
            return Ok(None);
        }
        self.read_ahead(HEADER_BYTES.min(left as usize), left)?;
        let Some(header) = Header::parse(&self.ahead).filter(|h| h.bytes() <= left && h.is_of(tag)) else {
            return Ok(None);
        };
        let bytes = header.bytes() as usize;
        self.read_ahead(bytes, left)?;
        let body = self.ahead.slice(header.header_bytes()..bytes);
        if !header.fits(&self.ahead, &body) {
            return Ok(None);
        }
        self.ahead.advance(bytes);
        if self.ahead.len() <= HEADER_BYTES {
            // A slice of some bytes would hold the whole group in memory until the next read.
            self.ahead = Bytes::copy_from_slice(&self.ahead);
        }
        self.offset += bytes as u64;
        self.last_group = bytes;
        Ok(Some((header, body)))
    }

    /// Until so many bytes are there. With a group comes the header of the next, so that groups of one size take one read
    /// each, and next to nothing of them is copied.
    fn read_ahead(&mut self, bytes: usize, left: u64) -> std::io::Result<()> {
        let has = self.ahead.len();
        if has >= bytes {
            return Ok(());
        }
        let guess = bytes.max(self.last_group).saturating_add(HEADER_BYTES).max(READ_BYTES_MIN);
        let wanted = guess.min(usize::try_from(left).unwrap_or(usize::MAX));
        let mut more = Vec::with_capacity(wanted);
        more.extend_from_slice(&self.ahead);
        // Not `read_exact`: that would first fill the memory with zeros.
        (&self.file).take((wanted - has) as u64).read_to_end(&mut more)?;
        if more.len() < bytes {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        self.ahead = more.into();
        Ok(())
    }
}
