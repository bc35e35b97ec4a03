//! Reads the files of a journal and says what is there, what is missing and what is damaged. Changes nothing.
//!
//! A start reads the headers of all files, and whole what may not have been synced: a second reading of the rest would double
//! the time of a recovery, and whoever reads a message checks its group anyway. When something is wrong all is read whole.
//! The walk goes group by group. Where a group is bad it looks further in the same file for the next sound one of this
//! chain, so that damage costs what it hit and nothing else.

use crate::journal::failed;
use crate::journal::group::{HEADER_BYTES, HEADER_BYTES_V1, Header, Tag};
use crate::journal::segment::{Gap, Segment};
use crate::types::error::Result;
use crate::types::position::{Position, Span};
use std::fs::File;
use std::io::{BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Of one read when bodies are passed over. More would read what is not looked at: a group has up to 1 MiB.
const READ_BYTES: usize = 8 * 1024;

/// The files of a journal, by their names, in order.
#[derive(Debug)]
pub struct Listed {
    pub segments: Vec<ListedSegment>,
    pub gaps: Vec<Gap>,
}

#[derive(Clone, Debug)]
pub struct ListedSegment {
    pub first: Position,
    pub path: PathBuf,
    pub bytes: u64,
}

/// What all segments hold together; `files` runs beside `Listed::segments`.
#[derive(Debug)]
pub struct Findings {
    pub files: Vec<Contents>,
    /// Messages that should be there and are in no file and no gap.
    pub holes: Vec<Hole>,
    /// The last file ends in something that is no group.
    pub tail: Option<Tail>,
    /// Everything below was synced, as the sound groups say.
    pub synced: Position,
}

#[derive(Debug, Default)]
pub struct Contents {
    /// Sound groups next to each other. In a sound file there is one run, from byte 0 to the end, or none at all.
    pub runs: Vec<Run>,
    /// The first byte that belongs to no sound group.
    pub wrong_at: Option<u64>,
    /// What stands there is a sound group of another chain.
    pub is_foreign: bool,
    /// Messages of it are in the file before.
    pub is_twice: bool,
}

#[derive(Clone, Debug)]
pub struct Run {
    pub at: u64,
    pub bytes: u64,
    pub span: Span,
}

#[derive(Clone, Debug)]
pub struct Hole {
    pub span: Span,
    /// The file that is damaged, or the one before which there should be another.
    pub file: usize,
    pub kind: HoleKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoleKind {
    Damaged,
    Missing,
}

#[derive(Clone, Copy, Debug)]
pub struct Tail {
    pub at: u64,
    /// It is as long as its header says: cut off by a power loss, or damaged.
    pub is_whole: bool,
}

impl Listed {
    pub fn read(dir: &Path) -> Result<Listed> {
        let mut listed = Listed { segments: Vec::new(), gaps: Vec::new() };
        let unlisted = |e| failed(dir, "cannot be listed", e);
        for entry in std::fs::read_dir(dir).map_err(unlisted)? {
            let entry = entry.map_err(unlisted)?;
            let (name, path) = (entry.file_name().to_string_lossy().into_owned(), entry.path());
            if let Some(first) = name.strip_suffix(".segment").and_then(position) {
                let bytes = entry.metadata().map_err(unlisted)?.len();
                listed.segments.push(ListedSegment { first, path, bytes });
            } else if let Some((from, to)) = name.strip_suffix(".gap").and_then(|n| n.split_once('-'))
                && let Some((from, to)) = position(from).zip(position(to)).filter(|(from, to)| from < to)
            {
                listed.gaps.push(Gap { span: Span::new(from, to), path });
            }
        }
        listed.segments.sort_by_key(|s| s.first);
        listed.gaps.sort_by_key(|g| g.span.from);
        Ok(listed)
    }
}

/// Exactly 20 digits: `u64::from_str` would take "+7" too.
fn position(digits: &str) -> Option<Position> {
    let is_ours = digits.len() == 20 && digits.bytes().all(|b| b.is_ascii_digit());
    is_ours.then_some(())?;
    digits.parse().ok().map(Position)
}

impl Findings {
    pub fn is_sound(&self) -> bool {
        self.holes.is_empty() && self.tail.is_none() && self.files.iter().all(|f| f.wrong_at.is_none() && !f.is_twice)
    }

    /// Of a sound directory.
    pub fn into_segments(self, listed: &Listed) -> Vec<Segment> {
        let of = |(file, contents): (&ListedSegment, Contents)| Segment {
            span: contents.runs.first().map_or(Span::new(file.first, file.first), |run| run.span),
            path: file.path.clone(),
            bytes: file.bytes,
        };
        listed.segments.iter().zip(self.files).map(of).collect()
    }
}

/// How closely groups are looked at that had been synced. Others are always read whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Depth {
    Headers,
    Everything,
}

/// Walks all files in the order of their positions. Messages from `begin` on should be there.
pub fn examine(listed: &Listed, begin: Position, tag: Tag, depth: Depth) -> Result<Findings> {
    let mut findings = Findings { files: Vec::new(), holes: Vec::new(), tail: None, synced: Position(0) };
    let Some(oldest) = listed.segments.first() else { return Ok(findings) };
    let over_gaps = |mut expected: Position| {
        for gap in &listed.gaps {
            if gap.span.from <= expected && expected < gap.span.to {
                expected = gap.span.to;
            }
        }
        expected
    };
    let oldest_gap = listed.gaps.first().map_or(oldest.first, |g| g.span.from);
    let mut expected = over_gaps(oldest.first.min(oldest_gap).min(begin));
    // The file whose end is damaged: how much is missing shows at the next one.
    let mut damaged_end = None;
    for (index, file) in listed.segments.iter().enumerate() {
        expected = over_gaps(expected);
        if file.first > expected {
            let kind = if damaged_end.is_some() { HoleKind::Damaged } else { HoleKind::Missing };
            let span = Span::new(expected, file.first);
            findings.holes.push(Hole { span, file: damaged_end.unwrap_or(index), kind });
            expected = file.first;
        }
        let until = listed.segments.get(index + 1).map(|next| next.first);
        let (mut contents, synced) = match (depth, until) {
            (Depth::Headers, None) => read_last(file, expected, tag)?,
            (depth, until) => read_file(file, expected, until, tag, depth)?,
        };
        // An empty file holds nothing twice, even where its first message was given up.
        contents.is_twice = file.first < expected && file.bytes > 0;
        // A segment is synced in every mode before the next gets its name.
        findings.synced = findings.synced.max(synced).max(file.first);
        for run in &contents.runs {
            expected = over_gaps(expected);
            if run.span.from > expected {
                let span = Span::new(expected, run.span.from);
                findings.holes.push(Hole { span, file: index, kind: HoleKind::Damaged });
            }
            expected = run.span.to;
        }
        let sound_to = contents.runs.last().map_or(0, |run| run.at + run.bytes);
        damaged_end = (sound_to < file.bytes && !contents.is_twice).then_some(index);
        if damaged_end.is_some() && until.is_none() && contents.wrong_at == Some(sound_to) {
            let is_whole = is_whole_group(&file.path, sound_to, file.bytes)?;
            findings.tail = Some(Tail { at: sound_to, is_whole });
        }
        findings.files.push(contents);
    }
    Ok(findings)
}

/// The open segment: its headers, and the groups that may be torn.
fn read_last(file: &ListedSegment, expected: Position, tag: Tag) -> Result<(Contents, Position)> {
    let (contents, synced) = read_file(file, expected, None, tag, Depth::Headers)?;
    if contents.wrong_at.is_none()
        && is_tail_sound(file, synced, tag).map_err(|e| failed(&file.path, "cannot be read", e))?
    {
        return Ok((contents, synced));
    }
    read_file(file, expected, None, tag, Depth::Everything)
}

/// Of a file whose headers look sound: are the groups whole that end above `synced`? The one that claimed `synced` is among
/// them, since none claims more than its own first message; so a false claim is found out.
fn is_tail_sound(file: &ListedSegment, synced: Position, tag: Tag) -> std::io::Result<bool> {
    let mut input = BufReader::with_capacity(READ_BYTES, File::open(&file.path)?);
    let (mut offset, mut body) = (0, Vec::new());
    while offset < file.bytes {
        let left = file.bytes - offset;
        let Found::Group(header) = skip_group(&mut input, left, tag)? else { return Ok(false) };
        if header.end() > synced {
            input.seek(SeekFrom::Start(offset))?;
            let Found::Group(_) = read_group(&mut input, left, tag, &mut body)? else { return Ok(false) };
        }
        offset += header.bytes();
    }
    Ok(true)
}

/// What is in one file, and how far its groups say that the journal was synced.
fn read_file(
    file: &ListedSegment,
    expected: Position,
    until: Option<Position>,
    tag: Tag,
    depth: Depth,
) -> Result<(Contents, Position)> {
    let unreadable = |e| failed(&file.path, "cannot be read", e);
    let mut contents = Contents::default();
    let (mut offset, mut next, mut synced) = (0, expected, Position(0));
    let mut input = BufReader::with_capacity(READ_BYTES, File::open(&file.path).map_err(unreadable)?);
    let mut body = Vec::new();
    while offset < file.bytes {
        let left = file.bytes - offset;
        let found = match depth {
            Depth::Headers => skip_group(&mut input, left, tag).map_err(unreadable)?,
            Depth::Everything => read_group(&mut input, left, tag, &mut body).map_err(unreadable)?,
        };
        if let Found::Group(header) = &found
            && header.first == next
        {
            match contents.runs.last_mut().filter(|run| run.at + run.bytes == offset && run.span.to == header.first) {
                Some(run) => {
                    run.bytes += header.bytes();
                    run.span.to = header.end();
                }
                None => contents.runs.push(Run {
                    at: offset,
                    bytes: header.bytes(),
                    span: Span::new(header.first, header.end()),
                }),
            }
            offset += header.bytes();
            next = header.end();
            synced = synced.max(header.synced);
            continue;
        }
        if contents.wrong_at.is_none() {
            contents.wrong_at = Some(offset);
            contents.is_foreign = matches!(found, Found::Foreign);
        }
        // Somebody will have to read it all, and then find what is sound behind this.
        if depth == Depth::Headers {
            break;
        }
        let Some((at, first)) = find_group(&file.path, offset, next, until, tag).map_err(unreadable)? else { break };
        (offset, next) = (at, first);
        input.seek(SeekFrom::Start(offset)).map_err(unreadable)?;
    }
    Ok((contents, synced))
}

pub enum Found {
    Group(Header),
    /// Sound, and of another chain.
    Foreign,
    Bad,
}

/// The next group, its body in `body`.
pub fn read_group(file: &mut impl Read, left: u64, tag: Tag, body: &mut Vec<u8>) -> std::io::Result<Found> {
    let mut head = [0; HEADER_BYTES];
    let Some(header) = read_header(file, left, &mut head)?.filter(|h| h.bytes() <= left) else { return Ok(Found::Bad) };
    // Not `read_exact`: that would first fill the buffer with zeros.
    body.clear();
    body.reserve_exact(header.body_bytes as usize);
    file.take(header.body_bytes as u64).read_to_end(body)?;
    Ok(match header.fits(&head, body) {
        true if header.is_of(tag) => Found::Group(header),
        true => Found::Foreign,
        false => Found::Bad,
    })
}

/// The next group by its header alone; the body is passed over.
fn skip_group(file: &mut BufReader<File>, left: u64, tag: Tag) -> std::io::Result<Found> {
    let header = read_header(file, left, &mut [0; HEADER_BYTES])?.filter(|h| h.bytes() <= left && h.is_of(tag));
    let Some(header) = header else { return Ok(Found::Bad) };
    file.seek_relative(header.body_bytes as i64)?;
    Ok(Found::Group(header))
}

fn read_header(file: &mut impl Read, left: u64, head: &mut [u8; HEADER_BYTES]) -> std::io::Result<Option<Header>> {
    if left < HEADER_BYTES_V1 as u64 {
        return Ok(None);
    }
    file.read_exact(&mut head[..HEADER_BYTES_V1])?;
    if let Some(header) = Header::parse(&head[..HEADER_BYTES_V1]) {
        return Ok(Some(header));
    }
    if left < HEADER_BYTES as u64 {
        return Ok(None);
    }
    file.read_exact(&mut head[HEADER_BYTES_V1..])?;
    Ok(Header::parse(head))
}

/// The next sound group of this chain from byte `from` on, with messages from `next` and below `until` only.
fn find_group(
    path: &Path,
    from: u64,
    next: Position,
    until: Option<Position>,
    tag: Tag,
) -> std::io::Result<Option<(u64, Position)>> {
    let mut file = File::open(path)?;
    let mut magic = [0; 4];
    // A payload may pretend to be a group of version 1, which knows no tag; so these count only in a file of that version.
    let knows_v1 = file.read_exact(&mut magic).is_ok() && magic == *b"pjg\x01";
    file.seek(SeekFrom::Start(from))?;
    let mut rest = Vec::new();
    file.read_to_end(&mut rest)?;
    for at in 0..rest.len().saturating_sub(HEADER_BYTES_V1) {
        if rest[at] != b'p' {
            continue;
        }
        let Some(header) = Header::parse(&rest[at..]) else { continue };
        let is_ours = header.is_of(tag) && (header.header_bytes() == HEADER_BYTES || knows_v1);
        if !is_ours || header.first < next || until.is_some_and(|until| header.end() > until) {
            continue;
        }
        let body = rest.get(at + header.header_bytes()..at + header.bytes() as usize);
        if body.is_some_and(|body| header.fits(&rest[at..], body)) {
            return Ok(Some((from + at as u64, header.first)));
        }
    }
    Ok(None)
}

fn is_whole_group(path: &Path, at: u64, bytes: u64) -> Result<bool> {
    let read = || -> std::io::Result<Option<Header>> {
        let mut file = File::open(path)?;
        file.seek(SeekFrom::Start(at))?;
        read_header(&mut file, bytes - at, &mut [0; HEADER_BYTES])
    };
    let header = read().map_err(|e| failed(path, "cannot be read", e))?;
    Ok(header.is_some_and(|header| header.bytes() <= bytes - at))
}

/// The position after the last group, by the headers alone.
pub fn walk_headers(mut file: File, first: Position) -> std::io::Result<Position> {
    let bytes = file.metadata()?.len();
    let (mut offset, mut end) = (0, first);
    while let Some(header) = read_header(&mut file, bytes - offset, &mut [0; HEADER_BYTES])? {
        if header.first != end || header.bytes() > bytes - offset {
            break;
        }
        offset += header.bytes();
        end = header.end();
        file.seek(SeekFrom::Start(offset))?;
    }
    Ok(end)
}
