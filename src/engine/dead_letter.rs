//! Rejects as rows of the dead-letter table: what, where it came from, why, and the bytes, so that it can be replayed.

use crate::types::lineage::Origin;
use crate::types::message::Message;
use crate::types::reject::{Reject, RejectReason};
use crate::types::table::timestamp_type;
use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::{Arc, LazyLock};

pub const TABLE: &str = "dead_letter";

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("source", DataType::Utf8, true),
        Field::new("topic", DataType::Utf8, true),
        Field::new("partition", DataType::Utf8, true),
        Field::new("position", DataType::Int64, true),
        Field::new("key", DataType::Binary, true),
        Field::new("received_at", timestamp_type(), true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("statement", DataType::Utf8, true),
        Field::new("attempt", DataType::Int32, true),
        Field::new("payload", DataType::Binary, true),
    ]))
});

pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

/// One row per reject. I11: no reject without reason, position and counter; the counters are the caller's ledger.
pub fn rows(rejects: &[(Reject, &Origin, &Message)]) -> RecordBatch {
    let text = |f: &dyn Fn(&(Reject, &Origin, &Message)) -> Option<String>| -> ArrayRef {
        Arc::new(rejects.iter().map(f).collect::<StringArray>())
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|(_, o, _)| Some(o.partition.source.to_string())),
        text(&|(_, o, _)| o.topic.as_ref().map(|t| t.to_string())),
        text(&|(_, o, _)| Some(o.partition_label.to_string())),
        Arc::new(rejects.iter().map(|(_, o, _)| Some(o.position.0 as i64)).collect::<Int64Array>()),
        Arc::new(rejects.iter().map(|(_, _, m)| m.key.as_deref()).collect::<BinaryArray>()),
        Arc::new(
            rejects
                .iter()
                .map(|(_, _, m)| Some(m.received_at_us))
                .collect::<TimestampMicrosecondArray>()
                .with_timezone("UTC"),
        ),
        text(&|(r, _, _)| Some(r.reason.to_string())),
        text(&|(r, _, _)| match &r.reason {
            RejectReason::Sql { statement, .. } => Some(statement.to_string()),
            _ => None,
        }),
        Arc::new(Int32Array::from(vec![1; rejects.len()])),
        Arc::new(rejects.iter().map(|(_, _, m)| m.payload.as_deref()).collect::<BinaryArray>()),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns follow the schema above")
}
