//! From one record to the next: what a cut adds to the chain. Every promise of the record's shape is asserted here, once.

use crate::checkpoint::record::{PartitionRecord, RECORD_FORMAT, Record, RecordKind, TableRecord, ViewRecord};
use crate::types::count::Counts;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::invariant;
use crate::types::position::{PartitionId, Span};

/// Who writes a record, and when.
#[derive(Clone, Debug)]
pub struct Author {
    /// A fresh one for every PUT: it tells our PUT from another process's after an ambiguous answer.
    pub attempt: String,
    /// host/pid/start, for people.
    pub owner: String,
    pub epoch_time_us: i64,
    pub slots: u32,
    pub engine: String,
}

/// What one epoch covered, put together from all slots.
#[derive(Clone, Debug)]
pub struct Cut {
    pub applied_through: Epoch,
    /// Partitions that were assigned to a slot or moved since the last record. The others are carried over, idle.
    pub partitions: Vec<PartitionCut>,
    /// Every view, with all segments it is restored from.
    pub views: Vec<ViewRecord>,
    /// Tables that receive files. The others are carried over, without files.
    pub tables: Vec<TableCut>,
}

#[derive(Clone, Debug)]
pub struct PartitionCut {
    pub partition: PartitionId,
    pub slot: u32,
    pub span: Span,
    pub identity: Option<serde_json::Value>,
    /// Of this epoch alone.
    pub counts: Counts,
}

#[derive(Clone, Debug)]
pub struct TableCut {
    pub sink: String,
    pub table: String,
    pub table_id: String,
    pub app_id: String,
    pub adds: Vec<serde_json::Value>,
    pub schema_action: Option<serde_json::Value>,
    /// Of this epoch alone.
    pub rows: u64,
}

/// Record 1 of a new chain: a claim over nothing.
pub fn first_record(chain: ChainId, pipeline: &str, author: Author) -> Record {
    Record {
        format: RECORD_FORMAT,
        chain,
        pipeline: pipeline.to_string(),
        epoch: Epoch(1),
        parent: Epoch(0),
        kind: RecordKind::Claim,
        attempt: author.attempt,
        incarnation: 1,
        owner: author.owner,
        epoch_time_us: author.epoch_time_us,
        slots: author.slots,
        applied_through: Epoch(0),
        partitions: Vec::new(),
        views: Vec::new(),
        tables: Vec::new(),
        feeds: Vec::new(),
        floor: Epoch(0),
        engine: author.engine,
    }
}

/// The record every later start writes before a source connects: positions stand, the incarnation rises. The head must
/// have been applied. `views`: those whose state was restored, and new ones without segments.
pub fn claim_record(head: &Record, author: Author, views: Vec<ViewRecord>) -> Record {
    let cut = Cut { applied_through: head.epoch, partitions: Vec::new(), views, tables: Vec::new() };
    let mut record = next_record(head, author, cut);
    record.kind = RecordKind::Claim;
    record.incarnation = head.incarnation + 1;
    record
}

/// The record of one epoch. Panics on a broken promise: I2 spans follow on, I3 the ledger balances, I8 no holes.
pub fn next_record(head: &Record, author: Author, cut: Cut) -> Record {
    let epoch = head.epoch.next();
    invariant::check(invariant::I8, head.applied_through <= cut.applied_through && cut.applied_through < epoch, || {
        format!("epoch {epoch}: applied through {} after {}", cut.applied_through, head.applied_through)
    });
    Record {
        format: RECORD_FORMAT,
        chain: head.chain.clone(),
        pipeline: head.pipeline.clone(),
        epoch,
        parent: head.epoch,
        kind: RecordKind::Epoch,
        attempt: author.attempt,
        incarnation: head.incarnation,
        owner: author.owner,
        epoch_time_us: author.epoch_time_us,
        slots: author.slots,
        applied_through: cut.applied_through,
        partitions: next_partitions(&head.partitions, cut.partitions),
        views: check_views(epoch, cut.views),
        tables: next_tables(&head.tables, cut.tables),
        feeds: head.feeds.clone(),
        floor: head.floor,
        engine: author.engine,
    }
}

fn next_partitions(before: &[PartitionRecord], cut: Vec<PartitionCut>) -> Vec<PartitionRecord> {
    let mut after: Vec<PartitionRecord> = before.to_vec();
    for partition in &mut after {
        partition.span = Span::new(partition.span.to, partition.span.to);
    }
    let mut seen = std::collections::BTreeSet::new();
    for moved in cut {
        moved.counts.check();
        invariant::check(invariant::I2, seen.insert(moved.partition.clone()), || {
            format!("partition {} is in the cut twice", moved.partition)
        });
        let Some(known) = after.iter_mut().find(|p| p.partition == moved.partition) else {
            after.push(PartitionRecord {
                partition: moved.partition,
                slot: moved.slot,
                span: moved.span,
                identity: moved.identity,
                counts: moved.counts,
            });
            continue;
        };
        known.span.extend(moved.span); // I2: asserts that the span follows on
        known.slot = moved.slot;
        // A source that has nothing new to say about a partition does not erase what it said before.
        known.identity = moved.identity.or(known.identity.take());
        known.counts.add(&moved.counts);
    }
    after
}

fn next_tables(before: &[TableRecord], cut: Vec<TableCut>) -> Vec<TableRecord> {
    let mut after: Vec<TableRecord> = before.to_vec();
    for table in &mut after {
        table.adds = Vec::new();
        table.schema_action = None;
        table.rows = 0;
    }
    for written in cut {
        let known = after.iter_mut().find(|t| t.sink == written.sink && t.table == written.table);
        let Some(known) = known else {
            after.push(TableRecord {
                sink: written.sink,
                table: written.table,
                table_id: written.table_id,
                app_id: written.app_id,
                adds: written.adds,
                schema_action: written.schema_action,
                rows: written.rows,
                rows_total: written.rows,
            });
            continue;
        };
        let same = known.table_id == written.table_id && known.app_id == written.app_id && known.adds.is_empty();
        invariant::check(invariant::I8, same, || {
            format!("table {}.{} changed its identity or is in the cut twice", written.sink, written.table)
        });
        known.adds = written.adds;
        known.schema_action = written.schema_action;
        known.rows = written.rows;
        known.rows_total += written.rows;
    }
    after
}

/// A record references only what exists before it (I5), so no segment is younger than its record.
fn check_views(epoch: Epoch, views: Vec<ViewRecord>) -> Vec<ViewRecord> {
    for view in &views {
        invariant::check(invariant::I5, view.segments.iter().all(|s| s.epoch <= epoch), || {
            format!("view {} lists a segment younger than epoch {epoch}", view.name)
        });
    }
    views
}

#[cfg(test)]
mod tests;
