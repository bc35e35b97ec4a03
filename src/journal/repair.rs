//! Mends what `examine` found: cuts a torn tail; moves damage aside and records what is missing as a gap, if that is allowed.
//!
//! | found | without --quarantine-journal | with it |
//! |---|---|---|
//! | a torn tail in the last file | cut off | cut off |
//! | damage that no message is missing for, or none that is not applied yet | moved aside | moved aside |
//! | a hole above what was ever synced (`sync` other than "group", power loss) | moved aside, ERROR | moved aside, ERROR |
//! | any other hole | refused, nothing changed | moved aside, a gap, ERROR, counted |
//! | a file whose messages another one holds | refused, nothing changed | moved aside |
//!
//! A crash at any point leaves files that are found and repaired the same way at the next start: a damaged file is copied
//! before anything, its sound parts get files of their own, then gaps are written, and only then is it cut.

use crate::journal::disk::sync_directory;
use crate::journal::examine::{Contents, Findings, Hole, HoleKind, Listed, ListedSegment, Run};
use crate::journal::segment::{Opening, people, refused_damage, segment_name, write_gap};
use crate::journal::{component, failed};
use crate::types::error::Result;
use crate::types::position::Span;
use std::fs::{File, OpenOptions};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

/// Where damaged files go, inside the journal's directory. Nothing here is ever read or deleted by us.
pub const QUARANTINE: &str = "quarantine";

pub fn repair(dir: &Path, listed: &Listed, findings: &Findings, opening: &Opening) -> Result<()> {
    // What lies below is applied, so nobody misses it.
    let missed = |hole: &&Hole| hole.span.to > opening.begin;
    let was_synced = |hole: &&Hole| hole.span.from < findings.synced;
    let twice: Vec<&ListedSegment> =
        listed.segments.iter().zip(&findings.files).filter(|(_, f)| f.is_twice).map(|(file, _)| file).collect();
    let refused: Vec<&Hole> = findings.holes.iter().filter(missed).filter(was_synced).collect();
    if !opening.quarantine && !(refused.is_empty() && twice.is_empty()) {
        return refuse(dir, listed, findings, opening, &refused, &twice);
    }
    for hole in findings.holes.iter().filter(missed) {
        let span = missing(hole, opening);
        let messages = span.to.0 - span.from.0;
        metrics::counter!("pipe_journal_lost_messages_total", "component" => component(dir)).increment(messages);
        tracing::error!(
            journal = %dir.display(), from = span.from.0, to = span.to.0, messages,
            "messages of the journal are given up: {}", told(hole, listed, findings, opening)
        );
    }

    let damaged = || listed.segments.iter().zip(&findings.files).filter(|(_, c)| is_to_be_rewritten(c, findings));
    for (file, contents) in damaged() {
        let aside = set_aside(dir, file)?;
        tracing::warn!(segment = %file.path.display(), aside = %aside.display(), "a damaged segment was copied aside");
        split(dir, file, contents)?;
    }
    for hole in &findings.holes {
        write_gap(dir, hole.span, &told(hole, listed, findings, opening))?;
    }
    for (file, contents) in damaged() {
        shorten(dir, file, contents)?;
    }
    match findings.tail {
        Some(tail) if !findings.files.last().is_some_and(|last| is_to_be_rewritten(last, findings)) => {
            let last = listed.segments.last().expect("the tail is in a file");
            cut_tail(dir, last, tail.at, tail.is_whole)
        }
        _ => Ok(()),
    }
}

/// The last file's torn tail is cut in place.
fn is_to_be_rewritten(contents: &Contents, findings: &Findings) -> bool {
    let is_torn_tail = findings.tail.is_some_and(|tail| contents.wrong_at == Some(tail.at))
        && findings.files.last().is_some_and(|last| std::ptr::eq(last, contents));
    contents.is_twice || contents.wrong_at.is_some() && !is_torn_tail
}

fn missing(hole: &Hole, opening: &Opening) -> Span {
    Span::new(hole.span.from.max(opening.begin), hole.span.to)
}

fn told(hole: &Hole, listed: &Listed, findings: &Findings, opening: &Opening) -> String {
    let (file, contents) = (&listed.segments[hole.file], &findings.files[hole.file]);
    let messages = people(missing(hole, opening));
    match hole.kind {
        HoleKind::Damaged => {
            let foreign = if contents.is_foreign { " (it holds messages of another chain)" } else { "" };
            let at = contents.wrong_at.unwrap_or_default();
            format!(
                "the journal segment \"{}\" is damaged at byte {at}{foreign}, which costs messages {messages}",
                file.path.display()
            )
        }
        HoleKind::Missing => format!(
            "the journal has no messages {messages}: the segment before \"{}\" is missing or was cut short",
            file.path.file_name().unwrap_or_default().to_string_lossy()
        ),
    }
}

fn refuse(
    dir: &Path,
    listed: &Listed,
    findings: &Findings,
    opening: &Opening,
    holes: &[&Hole],
    twice: &[&ListedSegment],
) -> Result<()> {
    let mut what: Vec<String> = holes.iter().map(|hole| told(hole, listed, findings, opening)).collect();
    what.extend(twice.iter().map(|file| {
        format!("the journal segment \"{}\" has messages that the one before it holds already", file.path.display())
    }));
    let lost: Vec<String> = holes.iter().map(|hole| people(missing(hole, opening))).collect();
    let lost = if lost.is_empty() { "no message is".to_string() } else { format!("messages {} are", lost.join(", ")) };
    Err(refused_damage(what.join("; "), dir, &lost))
}

/// A copy of the whole file in the quarantine, under a name that is free there.
fn set_aside(dir: &Path, file: &ListedSegment) -> Result<PathBuf> {
    let quarantine = dir.join(QUARANTINE);
    let name = file.path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let copy = || -> std::io::Result<PathBuf> {
        std::fs::create_dir_all(&quarantine)?;
        let mut number = 1;
        loop {
            let to = quarantine.join(if number == 1 { name.clone() } else { format!("{name}.{number}") });
            match OpenOptions::new().write(true).create_new(true).open(&to) {
                Ok(mut copy) => {
                    std::io::copy(&mut File::open(&file.path)?, &mut copy)?;
                    copy.sync_all()?;
                    sync_directory(&quarantine)?;
                    sync_directory(dir)?;
                    return Ok(to);
                }
                Err(e) if e.kind() == std::io::ErrorKind::AlreadyExists => number += 1,
                Err(e) => return Err(e),
            }
        }
    };
    copy().map_err(|e| failed(&quarantine, "cannot take a damaged segment", e))
}

/// The run that may stay where it is.
fn stays(file: &ListedSegment, contents: &Contents) -> Option<Run> {
    contents.runs.first().filter(|run| run.at == 0 && run.span.from == file.first).cloned()
}

/// Sound parts behind the first get files of their own.
fn split(dir: &Path, file: &ListedSegment, contents: &Contents) -> Result<()> {
    let stays = stays(file, contents).is_some() as usize;
    let part = |run: &Run| -> std::io::Result<(PathBuf, PathBuf)> {
        let path = dir.join(segment_name(run.span.from));
        let temporary = path.with_extension("segment.new");
        let mut source = File::open(&file.path)?;
        source.seek(SeekFrom::Start(run.at))?;
        let mut target = File::create(&temporary)?;
        std::io::copy(&mut source.take(run.bytes), &mut target)?;
        target.sync_all()?;
        Ok((temporary, path))
    };
    let split = || -> std::io::Result<()> {
        let parts = contents.runs[stays..].iter().map(part).collect::<std::io::Result<Vec<_>>>()?;
        // The damaged file's own name may be among them, as the first: it goes last.
        for (temporary, path) in parts.iter().rev() {
            std::fs::rename(temporary, path)?;
        }
        sync_directory(dir)
    };
    split().map_err(|e| failed(&file.path, "cannot be split", e))
}

/// The damaged file itself, of which there is a copy: down to its first part, or away.
fn shorten(dir: &Path, file: &ListedSegment, contents: &Contents) -> Result<()> {
    let shorten = || -> std::io::Result<()> {
        if let Some(run) = stays(file, contents) {
            let file = OpenOptions::new().write(true).open(&file.path)?;
            file.set_len(run.bytes)?;
            return file.sync_all();
        }
        if contents.runs.first().is_none_or(|run| run.span.from != file.first) {
            std::fs::remove_file(&file.path)?;
        }
        sync_directory(dir)
    };
    shorten().map_err(|e| failed(&file.path, "cannot be mended", e))
}

fn cut_tail(dir: &Path, file: &ListedSegment, at: u64, is_whole: bool) -> Result<()> {
    if is_whole {
        let aside = set_aside(dir, file)?;
        tracing::error!(
            segment = %file.path.display(), byte = at, aside = %aside.display(),
            "the last group of the journal has its full length and a wrong checksum: written during a power loss, or \
             damaged since; it is cut off, and a copy was kept"
        );
    }
    let cut = || -> std::io::Result<()> {
        let file = OpenOptions::new().write(true).open(&file.path)?;
        file.set_len(at)?;
        file.sync_all()
    };
    cut().map_err(|e| failed(&file.path, "cannot be mended", e))?;
    tracing::warn!(
        segment = %file.path.display(), bytes = file.bytes - at,
        "the journal ended in a write that was cut off; what was not synced is dropped"
    );
    Ok(())
}
