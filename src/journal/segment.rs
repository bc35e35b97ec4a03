//! The journal's files: `<first position, 20 digits>.segment`, each a run of groups, and `<from>-<to>.gap` for messages that
//! were given up; together a run without holes.

use crate::journal::disk::{Disk, sync_directory};
use crate::journal::examine::{Depth, Listed, examine};
use crate::journal::group::{Header, Tag};
use crate::journal::{failed, repair};
use crate::types::error::{Error, Result};
use crate::types::position::{Position, Span};
use std::collections::VecDeque;
use std::fs::File;
use std::path::{Path, PathBuf};

/// What is on the disk. The last segment is the open one and is never deleted, so that the next position is never
/// forgotten.
#[derive(Debug)]
pub struct Segments {
    dir: PathBuf,
    list: VecDeque<Segment>,
    gaps: VecDeque<Gap>,
}

#[derive(Clone, Debug)]
pub struct Segment {
    pub span: Span,
    pub path: PathBuf,
    pub bytes: u64,
}

/// Messages that the journal no longer has: given up, or applied.
#[derive(Clone, Debug)]
pub struct Gap {
    pub span: Span,
    pub path: PathBuf,
}

/// Where a position lies.
pub enum Place {
    Segment(Segment),
    /// Nothing up to here.
    Gap(Position),
    /// Below everything: trimmed, or never there.
    Nowhere,
}

/// How a directory is opened.
#[derive(Clone, Copy, Debug)]
pub struct Opening {
    /// Where a journal without segments begins, and what is read on from in one that has some: a message below is applied,
    /// so that it cannot be missed.
    pub begin: Position,
    pub tag: Tag,
    /// Damage is moved aside and what it held is given up.
    pub quarantine: bool,
}

impl Segments {
    /// Lists and checks everything; mends a torn tail, and with `quarantine` the rest. A directory without segments gets
    /// one that starts at `begin`.
    pub fn open(dir: &Path, opening: Opening, disk: &dyn Disk) -> Result<Segments> {
        let mut listed = Listed::read(dir)?;
        let look = |listed: &Listed, depth| examine(listed, opening.begin, opening.tag, depth);
        let mut findings = look(&listed, if opening.quarantine { Depth::Everything } else { Depth::Headers })?;
        if !findings.is_sound() {
            findings = look(&listed, Depth::Everything)?;
            repair::repair(dir, &listed, &findings, &opening)?;
            listed = Listed::read(dir)?;
            findings = look(&listed, Depth::Headers)?;
            if !findings.is_sound() {
                // A fault of ours; no message may be taken on top of it.
                return Err(Error::Failed(format!(
                    "the journal \"{}\" could not be mended: {findings:?}",
                    dir.display()
                )));
            }
        }
        let list: VecDeque<Segment> = findings.into_segments(&listed).into();
        if let Some(segment) = list.back() {
            // A killed process may have left groups that are read here and are not on the disk yet.
            let synced = File::open(&segment.path).and_then(|file| file.sync_all());
            synced.map_err(|e| failed(&segment.path, "cannot reach the disk", e))?;
        }
        let mut segments = Segments { dir: dir.to_path_buf(), list, gaps: listed.gaps.into() };
        if segments.list.is_empty() {
            let end = segments.gaps.back().map_or(opening.begin, |gap| gap.span.to);
            segments.create(end, disk).map_err(|e| failed(dir, "cannot be begun", e))?;
        }
        Ok(segments)
    }

    pub fn begin(&self) -> Position {
        let first = self.list.front().expect("there is always a segment").span.from;
        self.gaps.front().map_or(first, |gap| gap.span.from.min(first))
    }

    /// The next position to be written.
    pub fn end(&self) -> Position {
        self.last().span.to
    }

    pub fn bytes(&self) -> u64 {
        self.list.iter().map(|s| s.bytes).sum()
    }

    pub fn last(&self) -> &Segment {
        self.list.back().expect("there is always a segment")
    }

    /// The segment that holds `position`, or will.
    pub fn at(&self, position: Position) -> Place {
        let after = self.list.partition_point(|s| s.span.from <= position);
        if let Some(segment) = after.checked_sub(1).map(|i| &self.list[i])
            && (position < segment.span.to || after == self.list.len())
        {
            return Place::Segment(segment.clone());
        }
        let gap = self.gaps.iter().find(|g| g.span.from <= position && position < g.span.to);
        gap.map_or(Place::Nowhere, |gap| Place::Gap(gap.span.to))
    }

    /// A new, empty segment at the end; its name is durable when this returns.
    pub fn create(&mut self, first: Position, disk: &dyn Disk) -> std::io::Result<File> {
        let path = self.dir.join(segment_name(first));
        let file = disk.create(&path)?;
        sync_directory(&self.dir)?;
        self.list.push_back(Segment { span: Span::new(first, first), path, bytes: 0 });
        Ok(file)
    }

    /// Messages up to `to` will never be written: the next one gets that position.
    pub fn skip(&mut self, to: Position, why: &str, disk: &dyn Disk) -> Result<Span> {
        let span = Span::new(self.end(), to);
        let gap = write_gap(&self.dir, span, why)?;
        if self.gaps.back().is_none_or(|last| last.span != span) {
            self.gaps.push_back(gap);
        }
        if self.last().span.is_empty() {
            // Its name would say that it holds the gap.
            let empty = self.list.pop_back().expect("there is always a segment");
            std::fs::remove_file(&empty.path).map_err(|e| failed(&empty.path, "cannot be deleted", e))?;
        }
        self.create(to, disk).map_err(|e| failed(&self.dir, "cannot be begun", e))?;
        Ok(span)
    }

    /// A group was written to the last segment.
    pub fn grown(&mut self, header: &Header) {
        let last = self.list.back_mut().expect("there is always a segment");
        assert!(last.span.to == header.first, "positions are dense: {} after {}", header.first, last.span);
        last.span.to = header.end();
        last.bytes += header.bytes();
    }

    /// Deletes segments whose every message lies below `position`, oldest first. Returns the bytes freed.
    pub fn trim(&mut self, position: Position) -> Result<u64> {
        let mut freed = 0;
        loop {
            let gap = self.gaps.front().filter(|g| g.span.to <= position).cloned();
            let segment = self.list.front().filter(|s| s.span.to <= position && self.list.len() > 1).cloned();
            let from = |span: &Span| span.from;
            let gap_is_older = match (&gap, &segment) {
                (None, None) => return Ok(freed),
                (gap, segment) => {
                    let (gap, segment) = (gap.as_ref().map(|g| from(&g.span)), segment.as_ref().map(|s| from(&s.span)));
                    segment.is_none_or(|s| gap.is_some_and(|g| g < s))
                }
            };
            // Deletes need no sync: what comes back after a power cut is trimmed again.
            if let Some(gap) = gap.filter(|_| gap_is_older) {
                std::fs::remove_file(&gap.path).map_err(|e| failed(&gap.path, "cannot be deleted", e))?;
                self.gaps.pop_front();
            } else if let Some(segment) = segment {
                std::fs::remove_file(&segment.path).map_err(|e| failed(&segment.path, "cannot be deleted", e))?;
                freed += segment.bytes;
                self.list.pop_front();
            }
        }
    }
}

pub fn segment_name(first: Position) -> String {
    format!("{:020}.segment", first.0)
}

/// Durable when this returns. The name says it all; the text is for people.
pub fn write_gap(dir: &Path, span: Span, why: &str) -> Result<Gap> {
    let path = dir.join(format!("{:020}-{:020}.gap", span.from.0, span.to.0));
    let write = || -> std::io::Result<()> {
        std::fs::write(&path, format!("messages {} were given up: {why}\n", people(span)))?;
        File::open(&path)?.sync_all()?;
        sync_directory(dir)
    };
    write().map_err(|e| failed(&path, "cannot be written", e))?;
    Ok(Gap { span, path })
}

/// "57 to 62": the first and the last, as people count.
pub fn people(span: Span) -> String {
    match span.to.0.saturating_sub(span.from.0) {
        0 | 1 => span.from.to_string(),
        _ => format!("{} to {}", span.from, span.to.0 - 1),
    }
}

/// The positions that the files of a journal name, without opening or checking it. None: there are none.
pub fn peek(dir: &Path) -> Result<Option<Span>> {
    if !dir.exists() {
        return Ok(None);
    }
    let listed = Listed::read(dir)?;
    let Some(last) = listed.segments.last() else { return Ok(None) };
    let unreadable = |e| failed(&last.path, "cannot be read", e);
    let file = File::open(&last.path).map_err(unreadable)?;
    let end = crate::journal::examine::walk_headers(file, last.first).map_err(unreadable)?;
    let first = listed.segments.first().map_or(end, |s| s.first);
    Ok(Some(Span::new(first.min(end), end)))
}

pub fn refused_damage(what: String, dir: &Path, lost: &str) -> Error {
    Error::refused(
        what,
        format!(
            "Its messages were acknowledged and may not be in any table. Restore the file from a copy; or start once with \
             --quarantine-journal: {lost} given up, everything else is kept, and what is damaged is moved to \"{}\". \
             Nothing was changed.",
            dir.join(repair::QUARANTINE).display()
        ),
    )
}
