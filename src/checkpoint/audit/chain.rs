//! Record after record: one chain without holes, spans that follow on, a ledger that balances.

use super::report::{Check, Report};
use super::{Landing, TableName, TableStory};
use crate::checkpoint::place::record_path;
use crate::checkpoint::record::{PartitionRecord, Record, RecordKind, TableRecord, Unreadable};
use crate::types::count::Counts;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::message::REPLAY_SOURCE;
use crate::types::table_log::LogFile;
use std::collections::{BTreeMap, BTreeSet};

/// A record never changes once written, so an odd one was changed from outside, or this program is wrong.
const FROM_A_COPY: &str = "A record never changes once written. Compare it with a copy of the checkpoint location; if none \
                           explains it, keep the records and the tables as they are and report it.";

/// Missing epochs that are kept, so that their commits are not told of as well.
const UNREAD_MAX: usize = 1_000_000;

pub struct ChainCheck {
    pipeline: String,
    dead_letters: String,
    statements: BTreeSet<TableName>,
    /// The newest record that could be read.
    head: Option<Record>,
    first: Option<Epoch>,
    unread: BTreeSet<Epoch>,
    attempts: BTreeSet<String>,
    stories: BTreeMap<TableName, TableStory>,
    chain: Check,
    sources: BTreeMap<String, Check>,
    ledger: Check,
}

impl ChainCheck {
    pub fn new(pipeline: &str, dead_letters: &str, statements: BTreeSet<TableName>) -> Self {
        ChainCheck {
            pipeline: pipeline.to_string(),
            dead_letters: dead_letters.to_string(),
            statements,
            head: None,
            first: None,
            unread: BTreeSet::new(),
            attempts: BTreeSet::new(),
            stories: BTreeMap::new(),
            chain: Check::new("chain", "records"),
            sources: BTreeMap::new(),
            ledger: Check::new("ledger", dead_letters),
        }
    }

    pub fn head(&self) -> Option<&Record> {
        self.head.as_ref()
    }

    /// The oldest record that could be read.
    pub fn first(&self) -> Epoch {
        self.first.unwrap_or_default()
    }

    /// Epochs between the oldest and the newest record without a readable one of their own.
    pub fn unread(&self) -> &BTreeSet<Epoch> {
        &self.unread
    }

    pub fn stories(&self) -> &BTreeMap<TableName, TableStory> {
        &self.stories
    }

    pub fn record(&mut self, epoch: Epoch, found: Result<Record, Unreadable>) {
        self.chain.counted("records", 1);
        let record = match found {
            Ok(record) => record,
            Err(newer @ Unreadable::Format { .. }) => {
                let what = format!("record {epoch} (\"{}\") cannot be read: {newer}", record_path(epoch));
                return self.chain.unseen(what, "Audit with the build that wrote it, or a newer one.");
            }
            Err(why) => {
                let what = format!("record {epoch} (\"{}\") cannot be read: {why}", record_path(epoch));
                return self.chain.differs(what, "Restore this object from a copy of the checkpoint location.");
            }
        };
        self.chain.counted("starts", u64::from(record.kind == RecordKind::Claim));
        if !self.attempts.insert(record.attempt.clone()) {
            let what = format!("record {epoch} has the attempt {} of an earlier one", record.attempt);
            self.chain.differs(what, FROM_A_COPY);
        }
        if record.pipeline != self.pipeline {
            let what = format!("record {epoch} is of pipeline \"{}\", not of \"{}\"", record.pipeline, self.pipeline);
            self.chain.differs(what, "Audit with the config that wrote it.");
        }
        match self.head.take() {
            Some(before) => {
                self.follows(&before, &record);
                self.partitions(Some(&before), &record);
                self.tables(Some(&before), &record);
                self.rejects(Some(&before), &record);
            }
            None => {
                self.first = Some(epoch);
                self.partitions(None, &record);
                self.tables(None, &record);
                self.rejects(None, &record);
            }
        }
        self.head = Some(record);
    }

    /// I8 and the fence: numbers, chain, incarnation.
    fn follows(&mut self, before: &Record, record: &Record) {
        let epoch = record.epoch;
        if record.parent != before.epoch {
            // Bounded: a hole may be as wide as u64, and no log has more commits than this.
            self.unread.extend((before.epoch.0 + 1..epoch.0).take(UNREAD_MAX).map(Epoch));
            let what = match record.parent == before.epoch.next() {
                true => format!("record {} is missing or cannot be read", record.parent),
                false => format!("records {} to {} are missing or cannot be read", before.epoch.next(), record.parent),
            };
            self.chain.differs(what, format!("Restore \"{}\" from a copy.", record_path(before.epoch.next())));
        }
        if record.chain != before.chain {
            let what = format!("record {epoch} belongs to chain {}, the one before to {}", record.chain, before.chain);
            self.chain.differs(what, "Records of two chains share the checkpoint location. Keep one chain's.");
        }
        if record.applied_through < before.applied_through {
            let (now, then) = (record.applied_through, before.applied_through);
            self.chain.differs(format!("record {epoch}: applied through {now}, after {then}"), FROM_A_COPY);
        }
        let direct = record.parent == before.epoch;
        let starts = u64::from(record.kind == RecordKind::Claim);
        if direct && record.incarnation != before.incarnation + starts {
            let (now, then) = (record.incarnation, before.incarnation);
            self.chain.differs(format!("record {epoch} has incarnation {now}, the one before {then}"), FROM_A_COPY);
        }
        if record.incarnation == before.incarnation && record.owner != before.owner {
            let what = format!("records {} and {epoch} share an incarnation, but not the process", before.epoch);
            self.chain.differs(format!("{what}: {} and {}", before.owner, record.owner), FROM_A_COPY);
        }
    }

    /// I2 over epochs, I3 over all time.
    fn partitions(&mut self, before: Option<&Record>, record: &Record) {
        let epoch = record.epoch;
        for partition in &record.partitions {
            let check = source(&mut self.sources, &partition.partition.source);
            let known = before.and_then(|b| b.partition(&partition.partition));
            if known.is_none() {
                check.counted("partitions", 1);
            }
            let counts = partition.counts;
            if counts.received != counts.decoded + counts.rejected + counts.dropped {
                let name = &partition.partition.name;
                let what =
                    format!("partition \"{name}\", record {epoch}: the ledger does not balance: {}", shown(counts));
                check.differs(what, FROM_A_COPY);
            }
            let follows = before.is_some_and(|b| b.epoch == record.parent);
            if let Some(known) = known {
                check.counted("messages", counts.received.saturating_sub(known.counts.received));
                if follows {
                    moved(check, record, known, partition);
                }
            } else {
                check.counted("messages", counts.received);
            }
        }
        for known in before.into_iter().flat_map(|b| &b.partitions) {
            if record.partition(&known.partition).is_none() {
                let what = format!("partition \"{}\" is no longer in record {epoch}", known.partition.name);
                source(&mut self.sources, &known.partition.source).differs(what, FROM_A_COPY);
            }
        }
    }

    fn tables(&mut self, before: Option<&Record>, record: &Record) {
        let follows = before.is_some_and(|b| b.epoch == record.parent);
        for table in &record.tables {
            let name = (table.sink.clone(), table.table.clone());
            let label = format!("{}.{}", table.sink, table.table);
            let known = before.and_then(|b| b.tables.iter().find(|t| t.sink == table.sink && t.table == table.table));
            table_follows(&mut self.chain, record, &label, known.filter(|_| follows), table);
            let mut files = Vec::new();
            for add in &table.adds {
                match LogFile::of_action(add) {
                    Ok(file) => files.push(file),
                    Err(why) => self.chain.differs(format!("record {}, {label}: {why}", record.epoch), FROM_A_COPY),
                }
            }
            rows_of_adds(&mut self.chain, record.epoch, &label, table.rows, &files);
            let story = self.stories.entry(name).or_insert_with(|| TableStory {
                sink: table.sink.clone(),
                table: table.table.clone(),
                table_id: table.table_id.clone(),
                app_id: table.app_id.clone(),
                rows_before: table.rows_total.saturating_sub(table.rows),
                landings: Vec::new(),
            });
            if !files.is_empty() {
                let (epoch, rows, rows_total) = (record.epoch, table.rows, table.rows_total);
                story.landings.push(Landing { epoch, rows, rows_total, files });
            }
        }
        for known in before.into_iter().flat_map(|b| &b.tables) {
            if !record.tables.iter().any(|t| t.sink == known.sink && t.table == known.table) {
                let what = format!("table \"{}.{}\" is no longer in record {}", known.sink, known.table, record.epoch);
                self.chain.differs(what, FROM_A_COPY);
            }
        }
    }

    /// Every rejected message is one row of the dead letters, in the same epoch; and every replayed one, whatever became
    /// of it.
    fn rejects(&mut self, before: Option<&Record>, record: &Record) {
        let is_replay = |p: &&PartitionRecord| *p.partition.source == *REPLAY_SOURCE;
        let replayed = |r: &Record| r.partitions.iter().filter(is_replay).map(|p| p.counts.received).sum::<u64>();
        let rejected =
            |r: &Record| r.partitions.iter().filter(|p| !is_replay(p)).map(|p| p.counts.rejected).sum::<u64>();
        // Of any sink: which one takes them may have changed.
        let is_of_rejects = |t: &TableRecord| {
            t.table == self.dead_letters && !self.statements.contains(&(t.sink.clone(), t.table.clone()))
        };
        let letters = |r: &Record| r.tables.iter().filter(|t| is_of_rejects(t)).map(|t| t.rows_total).sum::<u64>();
        let due = |r: &Record| rejected(r) + replayed(r);
        let (epoch, now) = (record.epoch, (due(record), letters(record)));
        let then = before.map_or((0, 0), |b| (due(b), letters(b)));
        self.ledger.counted("rejected", rejected(record).saturating_sub(before.map_or(0, rejected)));
        let replayed = replayed(record).saturating_sub(before.map_or(0, replayed));
        if replayed > 0 {
            self.ledger.counted("replayed", replayed);
        }
        // As far apart as before is the same difference, told already.
        let apart = |(due, letters): (u64, u64)| due as i64 - letters as i64;
        if apart(now) != apart(then) {
            let since = match before {
                Some(b) => format!("since record {}", b.epoch),
                None => "since the chain began".to_string(),
            };
            let (messages, rows) = (now.0 as i64 - then.0 as i64, now.1 as i64 - then.1 as i64);
            let again = if replayed > 0 { " or replayed" } else { "" };
            let what =
                format!("record {epoch}: {messages} messages rejected{again} {since}, but {rows} rows of dead letters");
            self.ledger.differs(what, FROM_A_COPY);
        }
    }

    pub fn finish(self) -> Report {
        let (chain, applied_through, last) = match &self.head {
            Some(head) => (head.chain.clone(), head.applied_through, head.epoch),
            None => (ChainId(String::new()), Epoch(0), Epoch(0)),
        };
        let first = self.first.unwrap_or_default();
        let mut checks = vec![self.chain];
        checks.extend(self.sources.into_values());
        checks.push(self.ledger);
        Report { pipeline: self.pipeline, chain, first, last, applied_through, checks }
    }
}

fn source<'a>(sources: &'a mut BTreeMap<String, Check>, name: &str) -> &'a mut Check {
    sources.entry(name.to_string()).or_insert_with(|| Check::new("source", name))
}

/// One partition from one record to the next.
fn moved(check: &mut Check, record: &Record, before: &PartitionRecord, now: &PartitionRecord) {
    let at = format!("partition \"{}\", record {}", now.partition.name, record.epoch);
    if now.span.from != before.span.to {
        let what = format!("{at}: its span {} does not follow {}", now.span, before.span);
        check.differs(what, FROM_A_COPY);
    }
    if now.span.from > now.span.to {
        return check.differs(format!("{at}: its span {} runs backwards", now.span), FROM_A_COPY);
    }
    if record.kind == RecordKind::Claim && !now.span.is_empty() {
        check.differs(format!("{at}: a start has read nothing, but its span is {}", now.span), FROM_A_COPY);
    }
    let (then, counts) = (before.counts, now.counts);
    let fell = [
        (then.received, counts.received),
        (then.decoded, counts.decoded),
        (then.rejected, counts.rejected),
        (then.dropped, counts.dropped),
    ];
    if fell.iter().any(|(then, now)| now < then) {
        check.differs(format!("{at}: counts fell: {}, after {}", shown(counts), shown(then)), FROM_A_COPY);
        return;
    }
    // A position holds one message at most, so a span cannot hold more messages than positions.
    let (received, wide) = (counts.received - then.received, now.span.to.0 - now.span.from.0);
    if received > wide {
        check.differs(format!("{at}: {received} messages received from {}", now.span), FROM_A_COPY);
    }
}

fn shown(counts: Counts) -> String {
    let Counts { received, decoded, rejected, dropped } = counts;
    format!("received {received}, decoded {decoded}, rejected {rejected}, dropped {dropped}")
}

/// A table's line in a record against the line before it.
fn table_follows(check: &mut Check, record: &Record, label: &str, before: Option<&TableRecord>, now: &TableRecord) {
    let epoch = record.epoch;
    if now.app_id != record.chain.app_id(&now.sink, &now.table) {
        check.differs(format!("record {epoch}, {label}: its application id is \"{}\"", now.app_id), FROM_A_COPY);
    }
    if record.kind == RecordKind::Claim && (now.rows > 0 || !now.adds.is_empty()) {
        check.differs(format!("record {epoch}, {label}: a start has written nothing, but it has rows"), FROM_A_COPY);
    }
    let Some(before) = before else { return };
    if now.table_id != before.table_id {
        let what = format!("record {epoch}, {label}: its table id is {}, after {}", now.table_id, before.table_id);
        check.differs(what, FROM_A_COPY);
    }
    if now.rows_total != before.rows_total + now.rows {
        let (total, then, rows) = (now.rows_total, before.rows_total, now.rows);
        check.differs(
            format!("record {epoch}, {label}: {total} rows in all, after {then} and {rows} more"),
            FROM_A_COPY,
        );
    }
}

fn rows_of_adds(check: &mut Check, epoch: Epoch, label: &str, rows: u64, files: &[LogFile]) {
    if let Some(silent) = files.iter().find(|f| f.rows.is_none()) {
        let what = format!("record {epoch}, {label}: \"{}\" does not say how many rows it has", silent.path);
        return check.unseen(what, "Count the rows of the file itself.");
    }
    let of_files: u64 = files.iter().filter_map(|f| f.rows).sum();
    if of_files != rows {
        let what = format!("record {epoch}, {label}: {rows} rows were emitted, its files hold {of_files}");
        check.differs(what, FROM_A_COPY);
    }
}
