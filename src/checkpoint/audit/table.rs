//! What the records say about a table against what its log says: every epoch's files, and the rows in the end.
//!
//! The log is read up to the newest epoch the records know, and not one commit further, so a pipeline that goes on
//! meanwhile changes nothing. Each thing that does not fit is told once, where it is; the rows it explains are taken out
//! of the balance, so that only what nothing explains is left at the end.

use super::report::{Check, Kind};
use super::{Known, Landing, TableStory};
use crate::types::epoch::Epoch;
use crate::types::table_log::{LogCommit, LogFile, TableLog};
use std::collections::{BTreeMap, BTreeSet};

/// The epochs that are known about.
#[derive(Clone, Debug)]
pub struct Span<'a> {
    /// Of the oldest record that could be read.
    pub first: Epoch,
    /// Known to be applied.
    pub applied: Epoch,
    /// Decided; applied or about to be.
    pub head: Epoch,
    /// Between them, but missing or not readable.
    pub unread: &'a BTreeSet<Epoch>,
}

const LATER_COMMIT: &str = "Only a commit of our own adds what a record names. Restore the table from a copy, or deliver into \
                            a new one and replay.";

pub fn check(story: &TableStory, span: Span, log: &TableLog, stored: &BTreeSet<String>, known: &Known) -> Check {
    let mut check = Check::new("table", format!("{}.{}", story.sink, story.table));
    if log.table_id != story.table_id {
        check.differs(
            format!("its id is {}, the records were written for {}", log.table_id, story.table_id),
            "The table was deleted and made again, or the sink's uri names another one. Restore it.",
        );
        return check;
    }
    let newer = |c: &LogCommit| c.epoch_of(&story.app_id).is_some_and(|epoch| epoch > span.head.0 as i64);
    let end = log.commits.iter().position(newer).unwrap_or(log.commits.len());
    let mut walk = Walk { story, span, known, balance: 0, active: BTreeMap::new(), silent: false, newest: 0, check };
    walk.landings(log, &log.commits[..end]);
    walk.replay(log, &log.commits[..end]);
    walk.balance(log);
    walk.files_exist(stored);
    walk.check
}

type FileKey = (String, Option<String>);

fn key(file: &LogFile) -> FileKey {
    (file.path.clone(), file.deletions.clone())
}

struct Walk<'a> {
    story: &'a TableStory,
    span: Span<'a>,
    known: &'a Known,
    /// Rows that the table may have beyond the records' total, by everything that was told.
    balance: i64,
    active: BTreeMap<FileKey, Option<u64>>,
    /// Some commit of others does not say how many rows it adds or removes.
    silent: bool,
    /// The newest of our epochs that the log holds.
    newest: i64,
    check: Check,
}

impl Walk<'_> {
    /// Every epoch of the records is one commit, with the record's files; every commit of ours is an epoch.
    fn landings(&mut self, log: &TableLog, commits: &[LogCommit]) {
        let app_id = &self.story.app_id;
        let base = log.base.as_ref().and_then(|b| b.transactions.get(app_id)).copied().unwrap_or(0);
        let mut landed: BTreeMap<i64, &LogCommit> = BTreeMap::new();
        for commit in commits {
            let Some(epoch) = commit.epoch_of(app_id) else { continue };
            if let Some((before, first)) = landed.last_key_value().filter(|(before, _)| **before >= epoch) {
                let (version, other) = (commit.version, first.version);
                if landed.contains_key(&epoch) {
                    self.balance += rows_of(&commit.adds).unwrap_or(0) as i64;
                }
                let what = match *before == epoch {
                    true => format!("epoch {epoch} is in the table twice: versions {other} and {version}"),
                    false => format!("version {version} carries epoch {epoch}, after {before} in version {other}"),
                };
                self.check
                    .differs(what, "Two processes wrote under one application id. Restore the table from a copy.");
            }
            landed.entry(epoch).or_insert(commit);
        }
        self.newest = landed.last_key_value().map_or(base, |(epoch, _)| (*epoch).max(base));
        let mut files = 0;
        for landing in &self.story.landings {
            match landed.get(&(landing.epoch.0 as i64)) {
                Some(commit) => {
                    self.check.counted("epochs", 1);
                    files += landing.files.len() as u64;
                    self.same_files(landing, commit);
                }
                None if landing.epoch.0 as i64 <= base => self.check.counted("epochs before the log", 1),
                None if landing.epoch > self.span.applied && landing.epoch.0 as i64 > self.newest => {
                    self.check.counted("epochs to apply", 1);
                }
                None => self.lost(landing),
            }
        }
        self.check.counted("files", files);
        for (epoch, commit) in landed {
            if epoch < self.span.first.0 as i64 || self.story.landings.iter().any(|l| l.epoch.0 as i64 == epoch) {
                continue;
            }
            let rows = rows_of(&commit.adds);
            if self.span.unread.contains(&Epoch(epoch as u64)) {
                // That the record is missing was told; totals of later records count its rows.
                let is_in_total = self.story.landings.iter().any(|l| l.epoch.0 as i64 > epoch);
                self.balance += if is_in_total { 0 } else { rows.unwrap_or(0) as i64 };
                self.check.counted("epochs without a record", 1);
                continue;
            }
            self.balance += rows.unwrap_or(0) as i64;
            let (version, rows) = (commit.version, shown(rows));
            let what = format!(
                "version {version} carries epoch {epoch} with {rows} rows, but record {epoch} has no files for the table"
            );
            self.check.differs(what, "Another process wrote under this application id, or a record was exchanged.");
        }
    }

    fn lost(&mut self, landing: &Landing) {
        // An epoch above the newest is not in the total that the balance starts from.
        if landing.epoch.0 as i64 <= self.newest {
            self.balance -= landing.rows as i64;
        }
        let what = format!(
            "epoch {} with {} rows is applied by the records, but no commit of the log carries it",
            landing.epoch, landing.rows
        );
        self.check.differs(what, "Its files may still be in the store: record and files together are its rows.");
    }

    fn same_files(&mut self, landing: &Landing, commit: &LogCommit) {
        let (epoch, version) = (landing.epoch, commit.version);
        let ours: BTreeMap<&str, Option<u64>> = landing.files.iter().map(|f| (f.path.as_str(), f.rows)).collect();
        let theirs: BTreeMap<&str, Option<u64>> = commit.adds.iter().map(|f| (f.path.as_str(), f.rows)).collect();
        for (path, rows) in &ours {
            match theirs.get(path) {
                None => {
                    self.balance -= rows.unwrap_or(0) as i64;
                    let rows = shown(*rows);
                    let what = format!("file \"{path}\" of epoch {epoch} ({rows} rows) is not in version {version}");
                    self.check.differs(what, LATER_COMMIT);
                }
                Some(found) if found != rows => {
                    self.balance += found.unwrap_or(0) as i64 - rows.unwrap_or(0) as i64;
                    let (rows, found) = (shown(*rows), shown(*found));
                    let what = format!(
                        "file \"{path}\" of epoch {epoch} has {rows} rows, in version {version} it has {found}"
                    );
                    self.check.differs(what, LATER_COMMIT);
                }
                Some(_) => {}
            }
        }
        for (path, rows) in theirs.iter().filter(|(path, _)| !ours.contains_key(*path)) {
            self.balance += rows.unwrap_or(0) as i64;
            let rows = shown(*rows);
            let what = format!("version {version} adds \"{path}\" ({rows} rows), which is not of epoch {epoch}");
            self.check.differs(what, LATER_COMMIT);
        }
    }

    /// The table as its readers see it, and what others did to it.
    fn replay(&mut self, log: &TableLog, commits: &[LogCommit]) {
        let base = log.base.as_ref();
        if let Some(base) = base {
            self.active.extend(base.files.iter().map(|f| (key(f), f.rows)));
        }
        let after = base.map_or(0, |b| b.version + 1);
        for commit in commits.iter().filter(|c| c.version >= after) {
            let is_ours = commit.epoch_of(&self.story.app_id).is_some();
            let mut removed = Sum::default();
            for file in &commit.removes {
                match self.active.remove(&key(file)) {
                    Some(rows) => removed.add(rows),
                    // Removing what is not there changes no row.
                    None => removed.files += 1,
                }
            }
            let mut added = Sum::default();
            for file in &commit.adds {
                added.add(file.rows);
                // The same file again replaces itself: new statistics, the same rows.
                if let Some(before) = self.active.insert(key(file), file.rows) {
                    removed.add(before);
                }
            }
            self.check.counted("commits", 1);
            match (is_ours, commit.is_neutral()) {
                (true, _) if removed.rows == 0 => {}
                (true, _) => {
                    self.told(commit, removed, added, "our own commit removes rows", Kind::Difference, added.rows)
                }
                (false, true) if removed.rows == added.rows && removed.silent + added.silent == 0 => {
                    self.check.counted("compactions", 1);
                }
                (false, true) if removed.silent + added.silent > 0 => {
                    let what = "says that no data changed, but not how many rows its files have";
                    self.told(commit, removed, added, what, Kind::Unseen, 0);
                }
                (false, true) => {
                    let what = "says that no data changed, but does not keep the rows";
                    self.told(commit, removed, added, what, Kind::Difference, 0);
                }
                (false, false) if commit.changes_files() => {
                    let kind = if self.known.strict { Kind::Difference } else { Kind::Note };
                    self.told(commit, removed, added, "written by others", kind, 0);
                }
                (false, false) => {}
            }
        }
    }

    /// `landed`: of the added rows, those that an epoch accounts for.
    fn told(&mut self, commit: &LogCommit, removed: Sum, added: Sum, what: &str, kind: Kind, landed: i64) {
        let change = added.rows - removed.rows;
        self.balance += change - landed;
        self.silent |= removed.silent + added.silent > 0;
        let operation = if commit.operation.is_empty() { "a commit" } else { commit.operation.as_str() };
        let writer = if commit.writer.is_empty() { String::new() } else { format!(" by {}", commit.writer) };
        let mut text = format!("version {} ({operation}{writer}): {what}: {change:+} rows", commit.version);
        text.push_str(&format!(", {} files removed, {} added", removed.files, added.files));
        if let Some(file) = commit.removes.first() {
            text.push_str(&format!(", among them \"{}\"", file.path));
        }
        match kind {
            Kind::Difference => self.check.differs(
                text,
                "Rows entered or left the table beside the pipeline. If that was not meant, restore the version before it with \
                 the writer's own tool, or from a copy.",
            ),
            Kind::Unseen => self.check.unseen(text, "Count the rows of the files themselves."),
            Kind::Note => self.check.note(text, ""),
        }
    }

    /// Cumulative rows landed = active rows, up to what was told.
    fn balance(&mut self, log: &TableLog) {
        let silent: Vec<&FileKey> = self.active.iter().filter(|(_, rows)| rows.is_none()).map(|(k, _)| k).collect();
        if let Some((path, _)) = silent.first() {
            let what =
                format!("{} active files do not say how many rows they have, among them \"{path}\"", silent.len());
            self.check.unseen(what, "Count them with SQL; the records' total cannot be compared.");
            return;
        }
        let active: u64 = self.active.values().flatten().sum();
        let landings = self.story.landings.iter().rev();
        let total = landings
            .map(|l| (l.epoch.0 as i64, l.rows_total))
            .find(|(epoch, _)| *epoch <= self.newest)
            .map_or(self.story.rows_before, |(_, total)| total);
        self.check.counted("rows", active);
        let name = format!("{}.{}", self.story.sink, self.story.table);
        let foreign = self.known.foreign_rows.get(&name).copied().unwrap_or(0);
        let unexplained = active as i64 - total as i64 - self.balance - foreign;
        if unexplained == 0 {
            return;
        }
        if self.silent {
            let what = format!("{total} rows landed by the records, the table has {active}: {unexplained:+}");
            self.check.unseen(what, "A commit named above does not say how many rows it changed, so nobody can say.");
            return;
        }
        let told = self.balance + foreign;
        let mut text = format!("{total} rows landed by the records, the table has {active}: {unexplained:+}");
        if told != 0 {
            text.push_str(&format!(" beside the {told:+} accounted for"));
        }
        let hint = match &log.base {
            None => LATER_COMMIT.to_string(),
            Some(base) => format!(
                "The log begins at version {}; no commit since explains it. If others changed rows before that, account for \
                 them: --foreign {name}={}",
                base.version,
                unexplained + foreign
            ),
        };
        self.check.differs(text, hint);
    }

    fn files_exist(&mut self, stored: &BTreeSet<String>) {
        // A shallow clone names files of another table by their whole address.
        let missing: Vec<(&FileKey, &Option<u64>)> =
            self.active.iter().filter(|((path, _), _)| !path.contains("://") && !stored.contains(path)).collect();
        for ((path, _), rows) in missing {
            let what = format!("file \"{path}\" ({} rows) is in the table, but not in the store", shown(*rows));
            self.check.differs(
                what,
                "Every reader of the table fails on it. Restore the file from a copy; if VACUUM of another tool took it, give \
                 that tool a longer retention.",
            );
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    files: u64,
    rows: i64,
    /// Files that do not say how many rows they have.
    silent: u64,
}

impl Sum {
    fn add(&mut self, rows: Option<u64>) {
        self.files += 1;
        self.rows += rows.unwrap_or(0) as i64;
        self.silent += u64::from(rows.is_none());
    }
}

fn rows_of(files: &[LogFile]) -> Option<u64> {
    files.iter().map(|f| f.rows).sum()
}

fn shown(rows: Option<u64>) -> String {
    rows.map_or_else(|| "an unknown number of".to_string(), |rows| rows.to_string())
}
