//! Checks that the records, the tables and everything else that remembers the chain tell one story.
//!
//! Pure: `engine::audit` reads records and logs, hands them over oldest first, and prints the report. Nothing is asserted
//! here that the writer asserted already from the same numbers: what is compared are objects that were written apart.
//!
//! | what | is compared with |
//! |---|---|
//! | a record | the record before it: no hole, one chain, spans that follow on, counts and totals that add up |
//! | rows of a table in a record | the row counts of its Adds |
//! | rejected messages of an epoch | its rows for the dead letters |
//! | the Adds of a record | the Delta commit that carries its epoch, file by file |
//! | the total a record claims | the rows of the table's active files |
//! | active files | the files in the store |
//! | the state segments of the newest record | the objects in the checkpoint location |
//!
//! Records may have been cleaned away and a log too: what is left is checked, from the oldest of it on.

mod chain; // record after record
pub mod report; // what was looked at, and what did not fit
mod table; // records against a table's log

use crate::checkpoint::audit::chain::ChainCheck;
use crate::checkpoint::audit::report::{Check, Report};
use crate::checkpoint::record::{Record, Unreadable, ViewRecord};
use crate::types::epoch::{ChainId, Epoch};
use crate::types::table_log::{LogFile, TableLog};
use std::collections::{BTreeMap, BTreeSet};

/// (sink, table)
pub type TableName = (String, String);

pub struct Audit {
    chain: ChainCheck,
    checks: Vec<Check>,
}

/// What an auditor knows beside what it finds.
#[derive(Clone, Debug, Default)]
pub struct Known {
    /// Rows that others added to a table (or took: negative) before its log begins, by "sink.table".
    pub foreign_rows: BTreeMap<String, i64>,
    /// Rows written by others are differences too.
    pub strict: bool,
}

/// One epoch's rows for a table, as its record has them.
#[derive(Clone, Debug)]
pub struct Landing {
    pub epoch: Epoch,
    pub rows: u64,
    pub rows_total: u64,
    pub files: Vec<LogFile>,
}

/// What the records say about a table, to be held against its log.
#[derive(Clone, Debug)]
pub struct TableStory {
    pub sink: String,
    pub table: String,
    pub table_id: String,
    pub app_id: String,
    /// Rows that landed before the oldest record that names the table.
    pub rows_before: u64,
    /// Epochs with files, ascending.
    pub landings: Vec<Landing>,
}

impl Audit {
    /// `pipeline`: the config's `[pipeline] name`. `dead_letters`: the name of the tables of rejects; `statements`: the
    /// tables that statements write, whatever they are called.
    pub fn new(pipeline: &str, dead_letters: &str, statements: BTreeSet<TableName>) -> Self {
        Audit { chain: ChainCheck::new(pipeline, dead_letters, statements), checks: Vec::new() }
    }

    /// The retained records, oldest first.
    pub fn record(&mut self, epoch: Epoch, found: Result<Record, Unreadable>) {
        self.chain.record(epoch, found);
    }

    /// The newest record that could be read.
    pub fn head(&self) -> Option<&Record> {
        self.chain.head()
    }

    /// Every table that some record names.
    pub fn tables(&self) -> Vec<TableName> {
        self.chain.stories().keys().cloned().collect()
    }

    /// A table's log, read after the records; `stored`: the files in its folder, listed after the log.
    pub fn table(&mut self, name: &TableName, log: &TableLog, stored: &BTreeSet<String>, known: &Known) {
        let (Some(story), Some(head)) = (self.chain.stories().get(name), self.chain.head()) else { return };
        let (first, unread) = (self.chain.first(), self.chain.unread());
        let span = table::Span { first, applied: head.applied_through, head: head.epoch, unread };
        self.checks.push(table::check(story, span, log, stored, known));
    }

    /// A table that could not be looked at.
    pub fn table_unseen(&mut self, name: &TableName, why: &str, hint: &str) {
        let mut check = Check::new("table", format!("{}.{}", name.0, name.1));
        check.unseen(why, hint);
        self.checks.push(check);
    }

    /// A table that the records name and that is not there.
    pub fn table_gone(&mut self, name: &TableName, address: &str) {
        let mut check = Check::new("table", format!("{}.{}", name.0, name.1));
        check.differs(
            format!("there is no table at {address}"),
            "Restore it from a copy, or correct the sink's uri; the next start would make a new one and refuse it.",
        );
        self.checks.push(check);
    }

    /// A view's state as the newest record lists it; `flaws`: the path of a segment, and what is wrong with it.
    pub fn state(&mut self, view: &ViewRecord, flaws: &[(String, &'static str)]) {
        let mut check = Check::new("state", view.name.clone());
        check.counted("segments", view.segments.len() as u64);
        check.counted("rows", view.segments.iter().map(|s| s.rows).sum());
        for (path, flaw) in flaws {
            check.differs(
                format!("segment \"{path}\" {flaw}"),
                "Restore the object from a backup before the next start, which is refused without it; or move the view's SQL \
                 to a new name, so that it starts anew.",
            );
        }
        self.checks.push(check);
    }

    /// Something outside that belongs to a chain: a journal, a key-value table.
    pub fn mark(&mut self, what: &str, chain: &ChainId) {
        let mut check = Check::new("mark", what.to_string());
        if let Some(head) = self.chain.head().filter(|head| head.chain != *chain) {
            check.differs(
                format!("it belongs to chain {chain}, the records to chain {}", head.chain),
                "It is another pipeline's, or was kept when the checkpoint location was exchanged: the next start refuses it. \
                 Correct data_dir or the location, or move it away.",
            );
        }
        self.checks.push(check);
    }

    /// Something that would have been looked at, and why it was not.
    pub fn not_looked_at(&mut self, what: &str, why: &str) {
        let mut check = Check::new("mark", what.to_string());
        check.note(format!("not looked at: {why}"), "");
        self.checks.push(check);
    }

    pub fn finish(self) -> Report {
        let mut report = self.chain.finish();
        report.checks.extend(self.checks);
        report
    }
}

#[cfg(test)]
mod tests;
