//! Decides what a start does, given what is in the store. There is no other start path: a clean stop, a kill and a first
//! start differ only in what is observed.
//!
//! Pure: reads nothing, writes nothing. `engine` lists the records, reads the newest, asks every table, KV store and
//! journal for its marks, asks here, and does as told. The first row that fits is the answer:
//!
//! | records | other evidence | step |
//! |---|---|---|
//! | none | a table carries transactions of `pipe/<chain>/<sink>.<table>` | refuse: the location is lost |
//! | none | a KV store or a journal belongs to a chain | refuse: the location is lost |
//! | none | none | fresh: a new chain, record 1 is its first claim |
//! | newest has a newer format | any | refuse: start the newer build |
//! | newest is damaged, misplaced or gone | any | refuse: restore it |
//! | another pipeline's | any | refuse: two pipelines share a location |
//! | a hole between the oldest and the newest | any | refuse: restore the missing ones |
//! | oldest is younger than one still to apply | any | refuse: restore the missing ones |
//! | sound | a table's id is not the record's | refuse: the table was swapped |
//! | sound | a table holds a newer epoch of this chain than the newest record | refuse: records are lost at the end |
//! | sound, newest not applied | a table it has files for is not configured | refuse: put the table back |
//! | sound | a KV store or a journal belongs to another chain | refuse: not ours to overwrite |
//! | sound | none | continue: apply again what may be missing, then claim |
//!
//! Records below the head's `floor` count as not there (`left_over`).
//!
//! Every refusal leaves everything as it is. Applying again is harmless (I7), so doubt about the newest epoch means
//! "apply", never "skip".

use crate::checkpoint::place::record_path;
use crate::checkpoint::record::{Record, Unreadable};
use crate::types::epoch::{ChainId, Epoch};
use std::collections::{BTreeMap, BTreeSet};

/// What is there. Built by `engine`; nothing in it is interpreted on the way.
#[derive(Clone, Debug)]
pub struct Observed {
    /// The config's `[pipeline] name`.
    pub pipeline: String,
    /// Epochs that have a record object, in any order.
    pub records: Vec<Epoch>,
    /// The newest of them, decoded. None only if there is none, or if it vanished between listing and reading.
    pub head: Option<Result<Record, Unreadable>>,
    /// The tables of the config that exist.
    pub tables: Vec<ObservedTable>,
    /// Marks of KV stores: (sink, chain).
    pub kv: Vec<(String, ChainId)>,
    /// Journals that are bound: (source, chain).
    pub journals: Vec<(String, ChainId)>,
}

#[derive(Clone, Debug)]
pub struct ObservedTable {
    pub sink: String,
    pub table: String,
    pub table_id: String,
    /// Application id -> version, as the Delta log has them.
    pub transactions: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// Start a new chain: write `next::first_record` with create-if-absent.
    Fresh,
    /// Apply the epochs in `apply` in order, restore state, then write `next::claim_record` with create-if-absent.
    Continue {
        head: Box<Record>,
        apply: Vec<Epoch>,
        claim: Claim,
    },
    Refuse {
        what: String,
        hint: String,
    },
}

/// What the claim record will be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Claim {
    pub epoch: Epoch,
    pub incarnation: u64,
}

pub fn decide(observed: &Observed) -> Step {
    match chosen(observed) {
        Ok(step) => step,
        Err(Refusal { what, hint }) => Step::Refuse { what, hint },
    }
}

/// Records under names that the head knows to have been cleaned up. A process that stood still for so long wrote them, and
/// died before it took them back: its epoch was another's before, so nothing of them counts, and whatever they say is in
/// their place.
pub fn left_over(observed: &Observed) -> Vec<Epoch> {
    let Some(Ok(head)) = &observed.head else { return Vec::new() };
    observed.records.iter().copied().filter(|epoch| *epoch < head.floor).collect()
}

/// What the object under the record's name says after a PUT whose answer was lost.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Decided {
    /// Our PUT landed: the epoch is decided.
    Ours,
    /// Somebody else's landed: we are fenced and stop.
    Fenced { by: String },
    /// Nothing is there: the PUT may be sent again. (A late one of ours has the same attempt, so it stays ours.)
    Absent,
}

pub fn decided(read_back: Option<&Result<Record, Unreadable>>, our_attempt: &str) -> Decided {
    match read_back {
        None => Decided::Absent,
        Some(Ok(record)) if record.attempt == our_attempt => Decided::Ours,
        Some(Ok(record)) => Decided::Fenced { by: format!("{} (incarnation {})", record.owner, record.incarnation) },
        // Create-if-absent writes whole objects: what we cannot read, we did not write.
        Some(Err(unreadable)) => Decided::Fenced { by: format!("a record we cannot read: {unreadable}") },
    }
}

struct Refusal {
    what: String,
    hint: String,
}

fn refuse<T>(what: impl Into<String>, hint: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { what: what.into(), hint: hint.into() })
}

fn chosen(observed: &Observed) -> Result<Step, Refusal> {
    let Some(newest) = observed.records.iter().copied().max() else {
        nothing_remembers(observed)?;
        return Ok(Step::Fresh);
    };
    let head = readable_head(observed, newest)?;
    same_pipeline(observed, head)?;
    let apply: Vec<Epoch> = (head.applied_through.0 + 1..=head.epoch.0).map(Epoch).collect();
    no_holes(observed, &apply, head.floor)?;
    for table in &observed.tables {
        table_fits(table, head)?;
    }
    landings_have_tables(observed, head)?;
    same_chain("KV store of sink", "KV data", &observed.kv, head)?;
    same_chain("journal of source", "journal", &observed.journals, head)?;
    Ok(Step::Continue {
        head: Box::new(head.clone()),
        apply,
        claim: Claim { epoch: head.epoch.next(), incarnation: head.incarnation + 1 },
    })
}

const LOST_LOCATION: &str = "Restore the checkpoint location (or correct `[checkpoint] location`) so that the chain can \
                             go on. To begin again from nothing, give the sinks a new uri and the pipeline a new data_dir.";

/// An empty location is a fresh start only if nothing else remembers a chain.
fn nothing_remembers(observed: &Observed) -> Result<(), Refusal> {
    for table in &observed.tables {
        if let Some((app, version)) = table.transactions.iter().find(|(app, _)| chain_of(app, table).is_some()) {
            return refuse(
                format!(
                    "the checkpoint location holds no records, but table \"{}.{}\" carries epoch {version} of \"{app}\"",
                    table.sink, table.table
                ),
                LOST_LOCATION,
            );
        }
    }
    let marks = observed.kv.iter().map(|(sink, chain)| (format!("the KV store of sink \"{sink}\""), chain));
    let journals =
        observed.journals.iter().map(|(source, chain)| (format!("the journal of source \"{source}\""), chain));
    if let Some((who, chain)) = marks.chain(journals).next() {
        return refuse(
            format!("the checkpoint location holds no records, but {who} belongs to chain {chain}"),
            LOST_LOCATION,
        );
    }
    Ok(())
}

/// The chain of an application id, if it is one of ours for this very table.
fn chain_of<'a>(app: &'a str, table: &ObservedTable) -> Option<&'a str> {
    let (chain, name) = app.strip_prefix("pipe/")?.split_once('/')?;
    (name == format!("{}.{}", table.sink, table.table)).then_some(chain)
}

fn readable_head(observed: &Observed, newest: Epoch) -> Result<&Record, Refusal> {
    let object = record_path(newest);
    match &observed.head {
        Some(Ok(head)) if head.epoch == newest => Ok(head),
        Some(Ok(head)) => refuse(
            format!("the newest record is {newest}, but the one read is {}", head.epoch),
            "The listing moved while it was read: another process may be running. Start again.",
        ),
        Some(Err(unreadable @ Unreadable::Format { .. })) => refuse(
            format!("the newest record \"{object}\" cannot be read: {unreadable}"),
            "Start the build that wrote it, or a newer one.",
        ),
        Some(Err(unreadable)) => refuse(
            format!("the newest record \"{object}\" cannot be read: {unreadable}"),
            "A record never changes once written. Restore this object from a copy of the checkpoint location.",
        ),
        None => refuse(
            format!("the newest record \"{object}\" is listed but not there"),
            "Something deletes records: records are deleted by pipe alone. Restore it and start again.",
        ),
    }
}

fn same_pipeline(observed: &Observed, head: &Record) -> Result<(), Refusal> {
    if head.pipeline == observed.pipeline {
        return Ok(());
    }
    refuse(
        format!(
            "the checkpoint location belongs to pipeline \"{}\", this one is \"{}\"",
            head.pipeline, observed.pipeline
        ),
        "Give every pipeline its own data_dir and checkpoint location, or set `[pipeline] name` back to what it was.",
    )
}

/// I8: retained records are a run without holes, and it reaches back to everything that may need applying.
fn no_holes(observed: &Observed, apply: &[Epoch], floor: Epoch) -> Result<(), Refusal> {
    let listed: BTreeSet<Epoch> = observed.records.iter().copied().filter(|epoch| *epoch >= floor).collect();
    let (Some(oldest), Some(newest)) = (listed.first().copied(), listed.last().copied()) else {
        return Ok(());
    };
    let from = apply.first().copied().map_or(oldest, |first| first.min(oldest));
    // Walks the listing, not the numbers: a hole may be as wide as u64.
    let mut expected = from;
    for epoch in &listed {
        if *epoch > expected {
            let last = Epoch(epoch.0 - 1);
            let missing = if expected == last {
                format!("record {expected} is")
            } else {
                format!("records {expected} to {last} are")
            };
            return refuse(
                format!("{missing} missing from the checkpoint location, which has records up to {newest}"),
                format!("Restore \"{}\" and those that follow it from a copy of the location.", record_path(expected)),
            );
        }
        expected = epoch.next();
    }
    Ok(())
}

fn table_fits(table: &ObservedTable, head: &Record) -> Result<(), Refusal> {
    let name = format!("{}.{}", table.sink, table.table);
    let known = head.tables.iter().find(|t| t.sink == table.sink && t.table == table.table);
    if let Some(known) = known
        && known.table_id != table.table_id
    {
        return refuse(
            format!("table \"{name}\" has id {}, the records were written for {}", table.table_id, known.table_id),
            "The table was deleted and made again, or the sink's uri now names another one. Restore the table, or give \
             the sink a new uri and the pipeline a new data_dir and checkpoint location.",
        );
    }
    let held = table.transactions.get(&head.chain.app_id(&table.sink, &table.table)).copied().unwrap_or(0);
    if held > 0 && held as u64 > head.epoch.0 {
        return refuse(
            format!("table \"{name}\" holds epoch {held} of this chain, but the newest record is {}", head.epoch),
            format!(
                "Records were lost at the end: going on would write epochs {} to {held} a second time, and the table \
                 would skip them. Restore the records from a copy of the location.",
                head.epoch.next()
            ),
        );
    }
    Ok(())
}

/// What is decided must be applied, also when the statement that wrote it is gone.
fn landings_have_tables(observed: &Observed, head: &Record) -> Result<(), Refusal> {
    if head.applied_through == head.epoch {
        return Ok(());
    }
    for landing in head.landings() {
        if !observed.tables.iter().any(|t| t.sink == landing.sink && t.table == landing.table) {
            return refuse(
                format!(
                    "epoch {} has {} rows for table \"{}.{}\", which is not configured or does not exist",
                    head.epoch, landing.rows, landing.sink, landing.table
                ),
                "Put the table back, start once so that the epoch is applied, stop, and then remove it.",
            );
        }
    }
    Ok(())
}

fn same_chain(who: &str, thing: &str, marks: &[(String, ChainId)], head: &Record) -> Result<(), Refusal> {
    for (name, chain) in marks {
        if *chain != head.chain {
            return refuse(
                format!("the {who} \"{name}\" belongs to chain {chain}, the records to chain {}", head.chain),
                format!(
                    "The {thing} is another pipeline's, or was kept when the checkpoint location was exchanged. Correct \
                     `[pipeline] data_dir` or `[checkpoint] location`; or move the {thing} away."
                ),
            );
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
