//! Messages from a position on: from memory while the reader is close behind the writer, else from the files.

use crate::journal::entry::{Entry, Topics};
use crate::journal::examine::{Found, read_group};
use crate::journal::segment::{self, Segment};
use crate::journal::writer::Shared;
use crate::journal::{failed, group};
use crate::types::error::{Error, Result};
use crate::types::position::Position;
use bytes::Bytes;
use std::collections::VecDeque;
use std::fs::File;
use std::io::{BufReader, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::Arc;

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
    file: BufReader<File>,
    offset: u64,
    /// The first message of the group at `offset`.
    next: Position,
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
        while self.next < durable && bytes < bytes_max && out.len() < entries_max {
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
                Place { path: segment.path.clone(), file: BufReader::new(file), offset: 0, next: segment.span.from }
            }
        };
        loop {
            let mut body = Vec::new();
            let at = place.offset;
            let damaged = || {
                segment::refused_damage(
                    format!(
                        "the journal segment \"{}\" is damaged at byte {at}, at message {}",
                        segment.path.display(),
                        place.next
                    ),
                    &self.shared.dir,
                    "the messages that cannot be read are",
                )
            };
            // The writer may be behind us in this file with its next group: only whole, durable groups are in `bytes`.
            let left = segment.bytes.saturating_sub(place.offset);
            let read = read_group(&mut place.file, left, self.shared.tag, &mut body);
            let Found::Group(header) = read.map_err(|e| failed(&segment.path, "cannot be read", e))? else {
                return Err(damaged());
            };
            if header.first != place.next {
                return Err(damaged());
            }
            if header.end() > self.next {
                let entries = group::decode(&header, Bytes::from(body), &mut self.topics).ok_or_else(damaged)?;
                self.left = entries.into();
                self.left.drain(..(self.next.0 - header.first.0) as usize);
            }
            place.offset += header.bytes();
            place.next = header.end();
            if !self.left.is_empty() {
                break;
            }
        }
        // BufReader may hold bytes beyond the durable end that the writer was still writing: read them again next time.
        let offset = place.offset;
        place.file.seek(SeekFrom::Start(offset)).map_err(|e| failed(&segment.path, "cannot be read", e))?;
        self.place = Some(place);
        Ok(())
    }
}
