//! Decides what a clean-up deletes: records and state segments that nothing retained needs (I14).
//!
//! Pure: reads nothing, deletes nothing. `engine::cleanup` lists, asks `split` which records stay, reads those, asks
//! `deletions`, and deletes in the order it is told. What is deleted can be deleted at any time after, so a listing may be
//! old; what is not understood stops everything. The first row that fits is the answer:
//!
//! | observed | answer |
//! |---|---|
//! | an object whose name is not a record's or a segment's | refuse: not ours to judge |
//! | the head is not listed | refuse: the listing is not complete |
//! | a record below the oldest one is there, and was not listed | refuse: the listing is not complete |
//! | a hole between the oldest and the newest record | refuse: the chain is broken |
//! | a record that stays cannot be read, or is of another chain | refuse: what it references is not known |
//! | a record that stays references a segment that is not listed | refuse: one of both listings is wrong |
//! | sound | records older than the retained ones, oldest first; then segments at or below the head that none references |
//!
//! Oldest first, one after the other, so that at any crash point the chain is a run without holes. Segments go after the
//! records that reference them, so that no record is ever without its segments.

use crate::checkpoint::place::{record_epoch, record_path, segment_name};
use crate::checkpoint::record::{Record, Unreadable};
use crate::types::epoch::{ChainId, Epoch};
use std::collections::{BTreeMap, BTreeSet};

/// The head and its parent: the parent's presence is how a writer knows that its own record is not an old one's place.
pub const RECORDS_MIN: usize = 2;

/// Why nothing is deleted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    pub what: String,
    pub hint: String,
}

fn refuse<T>(what: impl Into<String>, hint: &str) -> Result<T, Refusal> {
    Err(Refusal { what: what.into(), hint: hint.to_string() })
}

/// The listed records in two parts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Split {
    /// Without holes, ascending; up to the newest there is.
    pub stay: Vec<Epoch>,
    /// The run below `stay`, oldest first.
    pub go: Vec<Epoch>,
}

impl Split {
    /// The record below the oldest one listed. If it exists, the listing was not complete.
    pub fn below(&self) -> Option<Epoch> {
        let oldest = self.go.first().or(self.stay.first())?;
        (oldest.0 > 1).then(|| Epoch(oldest.0 - 1))
    }
}

/// `listed`: everything under `records/`. `head`: the newest record this process has applied. `retain`: how many records
/// stay, the head included.
pub fn split(listed: &[String], head: Epoch, retain: usize) -> Result<Split, Refusal> {
    let mut epochs = BTreeSet::new();
    for path in listed {
        let Some(epoch) = record_epoch(path) else { return foreign(path) };
        epochs.insert(epoch);
    }
    if !epochs.contains(&head) {
        return refuse(
            format!("the listing of records lacks the newest one, {head}"),
            "A listing that is not complete says nothing about what may go.",
        );
    }
    let mut expected = None;
    for epoch in &epochs {
        if expected.is_some_and(|expected| expected != *epoch) {
            return refuse(
                format!("\"{}\" is missing, and there are older and newer records", record_path(Epoch(epoch.0 - 1))),
                "Restore it from a copy of the checkpoint location; the next start asks for it too.",
            );
        }
        expected = Some(epoch.next());
    }
    let first = Epoch(head.0.saturating_sub(retain.max(RECORDS_MIN) as u64 - 1));
    let (stay, go) = epochs.into_iter().partition(|epoch| *epoch >= first);
    Ok(Split { stay, go })
}

/// What a record that stays needs.
pub fn references(read: Option<Result<Record, Unreadable>>, chain: &ChainId) -> Result<BTreeSet<String>, String> {
    match read {
        Some(Ok(record)) if record.chain == *chain => {
            Ok(record.views.into_iter().flat_map(|v| v.segments).map(|s| s.path).collect())
        }
        Some(Ok(record)) => Err(format!("it belongs to chain {}", record.chain)),
        Some(Err(unreadable)) => Err(unreadable.to_string()),
        None => Err("it is listed and not there".to_string()),
    }
}

/// Everything that `deletions` looks at beside the split.
#[derive(Clone, Debug)]
pub struct Observed<'a> {
    pub split: &'a Split,
    /// Whether the record `Split::below` names exists.
    pub below_exists: bool,
    /// Of every record that stays.
    pub references: &'a BTreeMap<Epoch, Result<BTreeSet<String>, String>>,
    /// Everything under `state/`, listed after the records.
    pub segments: &'a [String],
    pub head: Epoch,
    /// The record with which this process claimed the chain.
    pub claim: Epoch,
}

/// What to delete: all of `records` in this order, then `segments` in any order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Deletions {
    pub records: Vec<Epoch>,
    pub segments: Vec<String>,
    /// Segments that nothing references and that stay all the same, because another process may have written them since
    /// the claim. They go when their epoch is older than the retained records.
    pub left: Vec<String>,
}

pub fn deletions(observed: &Observed) -> Result<Deletions, Refusal> {
    let Observed { split, below_exists, references, segments, head, claim } = observed;
    if let (true, Some(below)) = (below_exists, split.below()) {
        return refuse(
            format!("record {below} exists and was not listed"),
            "A listing that is not complete says nothing about what may go.",
        );
    }
    let mut needed: BTreeSet<&str> = BTreeSet::new();
    for epoch in &split.stay {
        match references.get(epoch) {
            Some(Ok(paths)) => needed.extend(paths.iter().map(String::as_str)),
            Some(Err(why)) => {
                return refuse(
                    format!("record {epoch} is retained and cannot be read: {why}"),
                    "Nothing is deleted while it is not known what it references. Restore it from a copy.",
                );
            }
            None => return refuse(format!("record {epoch} is retained and was not read"), "This is a fault of ours."),
        }
    }
    let oldest_that_stays = split.stay.first().copied().unwrap_or(*head);
    let mut found = Deletions { records: split.go.clone(), ..Deletions::default() };
    for path in *segments {
        let Some(name) = segment_name(path) else { return foreign(path) };
        if needed.remove(path.as_str()) || name.epoch > *head {
            continue;
        }
        // At or below the claim every other process is fenced. Above it, an attempt that no record names is not ours.
        if name.epoch <= *claim || name.epoch < oldest_that_stays {
            found.segments.push(path.clone());
        } else {
            found.left.push(path.clone());
        }
    }
    if let Some(missing) = needed.first() {
        return refuse(
            format!("\"{missing}\" is referenced by a retained record and was not listed"),
            "Restore it from a copy of the checkpoint location; a start would need it.",
        );
    }
    Ok(found)
}

fn foreign<T>(path: &str) -> Result<T, Refusal> {
    refuse(
        format!("\"{path}\" is not the name of a record or a state segment"),
        "Move it out of the checkpoint location: nothing is deleted beside what pipe did not write.",
    )
}

#[cfg(test)]
mod tests;
