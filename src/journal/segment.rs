//! The journal's files: `<first position, 20 digits>.segment`, each a run of groups, together a run without holes.

use crate::journal::failed;
use crate::journal::group::{HEADER_BYTES, Header};
use crate::types::error::{Error, Result};
use crate::types::position::Position;
use std::collections::VecDeque;
use std::fs::{File, OpenOptions};
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// What is on the disk. The last segment is the open one and is never deleted, so that the next position is never
/// forgotten.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    list: VecDeque<Segment>,
    end: Position,
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub first: Position,
    pub path: PathBuf,
    pub bytes: u64,
}

impl Segments {
    /// Lists and checks everything; mends a torn tail. A directory without segments gets one that starts at `begin`.
    pub fn open(dir: &Path, begin: Position) -> Result<Segments> {
        let mut segments = Segments { dir: dir.to_path_buf(), list: list(dir)?, end: begin };
        let Some(oldest) = segments.list.front() else {
            segments.create()?;
            return Ok(segments);
        };
        let mut expected = oldest.first;
        let count = segments.list.len();
        for (index, segment) in segments.list.iter_mut().enumerate() {
            if segment.first != expected {
                return Err(Error::refused(
                    format!(
                        "the journal \"{}\" has no messages from {expected} to {}: the segment before \"{}\" is missing \
                         or was cut short",
                        dir.display(),
                        segment.first,
                        name(&segment.path)
                    ),
                    "Restore the missing segment. Nothing was deleted.",
                ));
            }
            expected = check(segment, expected, index + 1 == count)?;
        }
        segments.end = expected;
        Ok(segments)
    }

    pub fn begin(&self) -> Position {
        self.list.front().expect("there is always a segment").first
    }

    /// The next position to be written.
    pub fn end(&self) -> Position {
        self.end
    }

    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|s| s.bytes).sum()
    }

    pub fn last(&self) -> &Segment {
        self.list.back().expect("there is always a segment")
    }

    /// The segment that holds `position`, or will.
    pub fn of(&self, position: Position) -> &Segment {
        let after = self.list.partition_point(|s| s.first <= position);
        &self.list[after.saturating_sub(1)]
    }

    /// A new, empty segment at the end; its name is durable when this returns.
    pub fn create(&mut self) -> Result<()> {
        let path = self.dir.join(format!("{:020}.segment", self.end.0));
        File::create_new(&path).map_err(|e| failed(&path, "cannot be made", e))?;
        sync_directory(&self.dir)?;
        self.list.push_back(Segment { first: self.end, path, bytes: 0 });
        Ok(())
    }

    /// A group was written and synced to the last segment.
    pub fn grown(&mut self, header: &Header) {
        self.end = header.end();
        self.list.back_mut().expect("there is always a segment").bytes += header.bytes();
    }

    /// Deletes segments whose every message lies below `position`. Returns the bytes freed.
    pub fn trim(&mut self, position: Position) -> Result<u64> {
        let mut freed = 0;
        while let [segment, next, ..] = self.list.make_contiguous()
            && next.first <= position
        {
            std::fs::remove_file(&segment.path).map_err(|e| failed(&segment.path, "cannot be deleted", e))?;
            freed += segment.bytes;
            self.list.pop_front();
        }
        // Deletes need no sync: a segment that comes back after a power cut is trimmed again.
        Ok(freed)
    }
}

fn list(dir: &Path) -> Result<VecDeque<Segment>> {
    let mut list = Vec::new();
    let unlisted = |e| failed(dir, "cannot be listed", e);
    for entry in std::fs::read_dir(dir).map_err(unlisted)? {
        let entry = entry.map_err(unlisted)?;
        let Some(first) = segment_name(&entry.file_name().to_string_lossy()) else { continue };
        let bytes = entry.metadata().map_err(unlisted)?.len();
        list.push(Segment { first, path: entry.path(), bytes });
    }
    list.sort_by_key(|s| s.first);
    Ok(list.into())
}

fn segment_name(name: &str) -> Option<Position> {
    let digits = name.strip_suffix(".segment")?;
    (digits.len() == 20).then_some(())?;
    digits.parse().ok().map(Position)
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Walks the groups of one segment and returns the position after its last message.
fn check(segment: &mut Segment, mut expected: Position, is_last: bool) -> Result<Position> {
    let unreadable = |e| failed(&segment.path, "cannot be read", e);
    let mut file = BufReader::with_capacity(1 << 20, File::open(&segment.path).map_err(unreadable)?);
    let mut offset = 0;
    let mut body = Vec::new();
    while offset < segment.bytes {
        match read_group(&mut file, segment.bytes - offset, &mut body).map_err(unreadable)? {
            Some(header) if header.first == expected => {
                offset += header.bytes();
                expected = header.end();
            }
            _ if is_last && !has_group_after(&segment.path, offset, expected).map_err(unreadable)? => {
                cut_tail(segment, offset)?;
                break;
            }
            _ => {
                return Err(Error::refused(
                    format!(
                        "the journal segment \"{}\" is damaged at byte {offset}, at message {expected}",
                        segment.path.display()
                    ),
                    "Its messages were acknowledged and may not be in any table. Restore the file, or move the journal's \
                     directory away to give them up. Nothing was deleted.",
                ));
            }
        }
    }
    Ok(expected)
}

/// The next group, its body in `body`. `None`: what is here is not a whole group.
pub fn read_group(file: &mut impl Read, left: u64, body: &mut Vec<u8>) -> std::io::Result<Option<Header>> {
    if left < HEADER_BYTES as u64 {
        return Ok(None);
    }
    let mut head = [0; HEADER_BYTES];
    file.read_exact(&mut head)?;
    let Some(header) = Header::parse(&head) else { return Ok(None) };
    if header.bytes() > left {
        return Ok(None);
    }
    body.resize(header.body_bytes as usize, 0);
    file.read_exact(body)?;
    Ok(header.fits(&head, body).then_some(header))
}

/// Is there a sound group behind the bad one? Then the bad one is damage and not the torn end of the last write: a group is
/// synced before the next is begun, so at most the last one can be torn.
fn has_group_after(path: &Path, offset: u64, expected: Position) -> std::io::Result<bool> {
    let mut file = File::open(path)?;
    file.seek(SeekFrom::Start(offset))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    for at in 1..rest.len().saturating_sub(HEADER_BYTES) {
        let Some(head) = rest[at..].first_chunk::<HEADER_BYTES>() else { break };
        let Some(header) = Header::parse(head) else { continue };
        let body = rest.get(at + HEADER_BYTES..at + header.bytes() as usize);
        // Only groups of this journal count: a payload may hold any bytes, a copy of a journal too.
        if header.first > expected && body.is_some_and(|body| header.fits(head, body)) {
            return Ok(true);
        }
    }
    Ok(false)
}

fn cut_tail(segment: &mut Segment, offset: u64) -> Result<()> {
    let cut = || -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).open(&segment.path)?;
        file.set_len(offset)?;
        file.sync_all()
    };
    cut().map_err(|e| failed(&segment.path, "cannot be mended", e))?;
    tracing::warn!(
        segment = %segment.path.display(), bytes = segment.bytes - offset,
        "the journal ended in a write that was cut off; it was never acknowledged and is dropped"
    );
    segment.bytes = offset;
    Ok(())
}

fn sync_directory(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).map_err(|e| failed(dir, "cannot reach the disk", e))
}
