//! Rejects as rows of the dead-letter table: what, where it came from, why, and the bytes, so that it can be replayed.
//!
//! A message that is replayed gets one more row under the same identity, with the next attempt: its new reason, or that it
//! is dead no longer. `query::dead_letters` reads which is which.

use crate::engine::headers;
use crate::types::epoch::ChainId;
use crate::types::lineage::Origin;
use crate::types::message::Message;
use crate::types::reject::{REPLAYED, RejectReason};
use crate::types::table::timestamp_type;
use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::fmt;
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
        // Tables made before there was a replay lack these until their next row.
        Field::new("headers", DataType::Utf8, true),
        Field::new("timestamp", timestamp_type(), true),
        Field::new("chain", DataType::Utf8, true),
    ]))
});

pub fn schema() -> SchemaRef {
    SCHEMA.clone()
}

/// What became of a message.
#[derive(Clone, Copy, Debug)]
pub enum Fate<'a> {
    Rejected(&'a RejectReason),
    /// It was dead, and has given its rows now.
    Replayed,
    /// It was dead, and a rule of the config drops it now.
    Dropped,
}

impl fmt::Display for Fate<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fate::Rejected(reason) => write!(f, "{reason}"),
            Fate::Replayed => f.write_str(REPLAYED),
            Fate::Dropped => write!(f, "{REPLAYED}: dropped by a rule of the config"),
        }
    }
}

pub struct Letter<'a> {
    pub origin: &'a Origin,
    pub message: &'a Message,
    pub fate: Fate<'a>,
}

impl Letter<'_> {
    fn statement(&self) -> Option<&str> {
        match self.fate {
            Fate::Rejected(RejectReason::Sql { statement, .. }) => Some(statement),
            _ => None,
        }
    }

    fn attempt(&self) -> i32 {
        let before = self.message.replayed.as_ref().map_or(0, |first| first.attempts);
        i32::try_from(before).unwrap_or(i32::MAX).saturating_add(1)
    }

    /// Only what is dead can be needed again; the row of a replayed message says no more than that.
    fn is_dead(&self) -> bool {
        matches!(self.fate, Fate::Rejected(_))
    }
}

/// One row per letter. I11: no reject without reason, position and counter; the counters are the caller's ledger.
pub fn rows(chain: &ChainId, letters: &[Letter]) -> RecordBatch {
    let text = |of: &dyn Fn(&Letter) -> Option<String>| -> ArrayRef {
        Arc::new(letters.iter().map(of).collect::<StringArray>())
    };
    let bytes = |of: &dyn for<'b> Fn(&'b Letter) -> Option<&'b [u8]>| -> ArrayRef {
        Arc::new(letters.iter().map(of).collect::<BinaryArray>())
    };
    let time = |of: &dyn Fn(&Letter) -> Option<i64>| -> ArrayRef {
        Arc::new(letters.iter().map(of).collect::<TimestampMicrosecondArray>().with_timezone("UTC"))
    };
    let columns: Vec<ArrayRef> = vec![
        text(&|l| Some(l.origin.partition.source.to_string())),
        text(&|l| l.origin.topic.as_ref().map(|t| t.to_string())),
        text(&|l| Some(l.origin.partition_label.to_string())),
        Arc::new(letters.iter().map(|l| Some(l.origin.position.0 as i64)).collect::<Int64Array>()),
        bytes(&|l| l.message.key.as_deref()),
        time(&|l| Some(l.message.received_at_us)),
        text(&|l| Some(l.fate.to_string())),
        text(&|l| l.statement().map(str::to_string)),
        Arc::new(letters.iter().map(|l| Some(l.attempt())).collect::<Int32Array>()),
        bytes(&|l| l.message.payload.as_deref().filter(|_| l.is_dead())),
        text(&|l| l.message.headers.as_deref().filter(|_| l.is_dead()).map(headers::to_json)),
        time(&|l| l.message.timestamp_us),
        text(&|_| Some(chain.to_string())),
    ];
    RecordBatch::try_new(schema(), columns).expect("columns follow the schema above")
}
