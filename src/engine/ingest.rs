//! Handovers -> one decoded batch: rows per table with their meta columns, rejects, and what became of every message.

use crate::codec::json::{JsonDecoder, JsonOptions};
use crate::engine::headers;
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::sources::Handover;
use crate::sql::plan::Plan;
use crate::types::invariant;
use crate::types::limit::MESSAGE_BYTES_MAX;
use crate::types::lineage::{Lineage, Origin};
use crate::types::message::{Message, Messages};
use crate::types::position::PartitionId;
use crate::types::reject::{Reject, RejectReason};
use crate::types::table::Table;
use arrow::array::{
    ArrayRef, BinaryBuilder, Int64Array, StringBuilder, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;

/// What became of a message; every message has exactly one (I3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Dropped,
    Decoded,
    Rejected,
}

/// One slot batch before SQL sees it.
pub struct Ingested {
    /// By index in `Plan::tables`, with `Table::leaf_schema`.
    pub tables: Vec<Option<RecordBatch>>,
    pub lineage: Lineage,
    /// `index` = `__msg`.
    pub rejects: Vec<Reject>,
    /// By `__msg`.
    pub outcomes: Vec<Outcome>,
    pub unknown_fields: BTreeMap<Arc<str>, u64>,
}

struct SourceDecoder {
    decoder: JsonDecoder,
    /// The decoder's tables, as indices into `Plan::tables`.
    tables: Vec<usize>,
}

/// Decoders of one slot, one per source, kept between batches.
pub struct Ingest {
    plan: Arc<Plan>,
    sources: BTreeMap<Arc<str>, SourceDecoder>,
}

impl Ingest {
    pub fn new(plan: Arc<Plan>, options: &BTreeMap<String, JsonOptions>) -> Self {
        let mut tables_of: BTreeMap<Arc<str>, Vec<usize>> = BTreeMap::new();
        for (i, table) in plan.tables.iter().enumerate() {
            tables_of.entry(table.source.clone()).or_default().push(i);
        }
        let sources = tables_of
            .into_iter()
            .map(|(source, tables)| {
                let declared = tables.iter().map(|i| plan.tables[*i].clone()).collect();
                let options = options.get(source.as_ref()).copied().unwrap_or_default();
                (source, SourceDecoder { decoder: JsonDecoder::new(declared, options), tables })
            })
            .collect();
        Ingest { plan, sources }
    }

    /// Decodes a batch. Infallible: a bad message is a reject, not an error.
    pub fn decode(&mut self, handovers: &[Handover]) -> Ingested {
        let mut lineage = Lineage::default();
        let mut rejects = Vec::new();
        for handover in handovers {
            let first = lineage.origins.len() as u32;
            let messages = &handover.messages;
            lineage.origins.extend(messages.items.iter().map(|m| origin(messages, m)));
            let mut at = first;
            for run in messages.items.chunk_by(have_one_source) {
                let source = run[0].replayed.as_ref().map_or(&messages.partition.source, |first| &first.source);
                match self.sources.get_mut(source) {
                    Some(source) => push_within_limit(&mut source.decoder, run, at, &mut rejects),
                    None => rejects.extend((0..run.len() as u32).map(|i| Reject {
                        index: at + i,
                        reason: RejectReason::NoRoute("no table reads this source".into()),
                    })),
                }
                at += run.len() as u32;
            }
        }
        self.collect(handovers, lineage, rejects)
    }

    fn collect(&mut self, handovers: &[Handover], lineage: Lineage, mut rejects: Vec<Reject>) -> Ingested {
        let mut outcomes = vec![Outcome::Dropped; lineage.origins.len()];
        let mut tables = vec![None; self.plan.tables.len()];
        let mut unknown_fields = BTreeMap::new();
        let mut dropped = 0;
        for (name, source) in &mut self.sources {
            let decoded = source.decoder.finish();
            dropped += decoded.dropped;
            if decoded.unknown_fields > 0 {
                unknown_fields.insert(name.clone(), decoded.unknown_fields);
            }
            rejects.extend(decoded.rejects);
            for rows in decoded.tables {
                for index in &rows.messages {
                    outcomes[*index as usize] = Outcome::Decoded;
                }
                if rows.rows.num_rows() > 0 {
                    let table = source.tables[rows.table];
                    let meta = &self.plan.meta_used[table];
                    tables[table] =
                        Some(leaf(&self.plan.tables[table], &rows.rows, &rows.messages, meta, &lineage, handovers));
                }
            }
        }
        for reject in &rejects {
            let outcome = &mut outcomes[reject.index as usize];
            invariant::check(&invariant::I3, *outcome == Outcome::Dropped, || {
                format!("message {} is both decoded and rejected", reject.index)
            });
            *outcome = Outcome::Rejected;
        }
        let left = outcomes.iter().filter(|o| **o == Outcome::Dropped).count() as u64;
        invariant::check(&invariant::I3, left == dropped, || {
            format!("{left} messages have no outcome, the decoder dropped {dropped}")
        });
        Ingested { tables, lineage, rejects, outcomes, unknown_fields }
    }
}

/// Where a message is from; of a replayed one, where it came from first.
fn origin(messages: &Messages, message: &Message) -> Origin {
    let topic = message.topic.clone();
    let replayed = message.replayed.as_ref();
    #[cfg(test)]
    let replayed = replayed.filter(|_| !planted(Bug::ReplayRenames));
    match replayed {
        None => Origin {
            partition: messages.partition.clone(),
            partition_label: messages.partition_label.clone(),
            topic,
            position: message.position,
        },
        Some(first) => Origin {
            partition: Arc::new(PartitionId { source: first.source.clone(), name: first.partition_label.clone() }),
            partition_label: first.partition_label.clone(),
            topic,
            position: first.position,
        },
    }
}

/// Messages of one handover are of its source; those of a replay are of several.
fn have_one_source(a: &Message, b: &Message) -> bool {
    match (&a.replayed, &b.replayed) {
        (Some(a), Some(b)) => a.source == b.source,
        (a, b) => a.is_none() && b.is_none(),
    }
}

/// Messages above the limit are set aside before the decoder sees them.
fn push_within_limit(decoder: &mut JsonDecoder, items: &[Message], first: u32, rejects: &mut Vec<Reject>) {
    let mut from = 0;
    for (i, message) in items.iter().enumerate() {
        let bytes = message.payload.as_ref().map_or(0, |p| p.len());
        if bytes > MESSAGE_BYTES_MAX {
            decoder.push(&items[from..i], first + from as u32);
            let reason = RejectReason::TooLarge { bytes: bytes as u64, bytes_max: MESSAGE_BYTES_MAX as u64 };
            rejects.push(Reject { index: first + i as u32, reason });
            from = i + 1;
        }
    }
    decoder.push(&items[from..], first + from as u32);
}

/// Declared columns + meta columns + `__msg`. A meta column that no statement reads costs one allocation of zeros.
fn leaf(
    table: &Table,
    rows: &RecordBatch,
    messages: &[u32],
    used: &[bool; 9],
    lineage: &Lineage,
    handovers: &[Handover],
) -> RecordBatch {
    let schema = table.leaf_schema();
    let mut columns = rows.columns().to_vec();
    let meta = MetaRows { messages, lineage, handovers };
    for (i, used) in used.iter().enumerate() {
        let field = schema.field(rows.num_columns() + i);
        columns.push(match (used, field.is_nullable()) {
            (true, _) => meta.column(i),
            (false, true) => new_null_array(field.data_type(), messages.len()),
            (false, false) => zeros(field.data_type(), messages.len()),
        });
    }
    columns.push(Arc::new(UInt32Array::from(messages.to_vec())));
    RecordBatch::try_new(schema, columns).expect("the decoder keeps the declared schema")
}

fn zeros(data_type: &DataType, rows: usize) -> ArrayRef {
    match data_type {
        DataType::Int64 => Arc::new(Int64Array::from(vec![0; rows])),
        DataType::Timestamp(..) => Arc::new(TimestampMicrosecondArray::from(vec![0; rows]).with_timezone("UTC")),
        _ => {
            let mut text = StringBuilder::with_capacity(rows, 0);
            (0..rows).for_each(|_| text.append_value(""));
            Arc::new(text.finish())
        }
    }
}

struct MetaRows<'a> {
    messages: &'a [u32],
    lineage: &'a Lineage,
    handovers: &'a [Handover],
}

impl MetaRows<'_> {
    fn column(&self, meta: usize) -> ArrayRef {
        let origins = || self.messages.iter().map(|m| &self.lineage.origins[*m as usize]);
        match meta {
            0 => strings(origins().map(|o| Some(o.partition.source.as_ref()))),
            1 => strings(origins().map(|o| o.topic.as_deref())),
            2 => strings(origins().map(|o| Some(o.partition_label.as_ref()))),
            3 => Arc::new(origins().map(|o| Some(o.position.0 as i64)).collect::<Int64Array>()),
            4 => self.bytes(|m| m.key.as_deref()),
            5 => self.headers(),
            6 => self.stamps(|m| m.timestamp_us),
            7 => self.stamps(|m| Some(m.received_at_us)),
            8 => self.bytes(|m| m.payload.as_deref()),
            _ => unreachable!("META_COLUMNS has nine names"),
        }
    }

    /// The messages behind the rows, in row order: both ascend, so one walk over the handovers suffices.
    fn each(&self, mut take: impl FnMut(&Message)) {
        let mut first = 0;
        let mut handovers = self.handovers.iter();
        let mut items: &[Message] = &[];
        for index in self.messages {
            let index = *index as usize;
            while index >= first + items.len() {
                first += items.len();
                items = &handovers.next().expect("every index lies in a handover").messages.items;
            }
            take(&items[index - first]);
        }
    }

    fn bytes(&self, of: impl Fn(&Message) -> Option<&[u8]>) -> ArrayRef {
        let mut column = BinaryBuilder::new();
        self.each(|m| column.append_option(of(m)));
        Arc::new(column.finish())
    }

    fn stamps(&self, of: impl Fn(&Message) -> Option<i64>) -> ArrayRef {
        let mut column = Vec::with_capacity(self.messages.len());
        self.each(|m| column.push(of(m)));
        Arc::new(TimestampMicrosecondArray::from(column).with_timezone("UTC"))
    }

    fn headers(&self) -> ArrayRef {
        let mut column = StringBuilder::new();
        self.each(|m| column.append_option(m.headers.as_deref().map(headers::to_json)));
        Arc::new(column.finish())
    }
}

fn strings<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    let mut column = StringBuilder::new();
    values.for_each(|v| column.append_option(v));
    Arc::new(column.finish())
}

/// The message behind `__msg`.
pub fn message_at(handovers: &[Handover], index: u32) -> &Message {
    let mut index = index as usize;
    for handover in handovers {
        if index < handover.messages.items.len() {
            return &handover.messages.items[index];
        }
        index -= handover.messages.items.len();
    }
    unreachable!("__msg counts the batch's messages")
}
