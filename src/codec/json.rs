//! The strict JSON decoder: messages of one source -> one batch per table, and rejects.

use crate::types::catalog::UnknownFields;
use crate::types::message::Message;
use crate::types::reject::Reject;
use crate::types::table::Table;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// What to do with a message that no table of the source takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Unrouted {
    #[default]
    Reject,
    Drop,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct JsonOptions {
    pub unknown_fields: UnknownFields,
    pub unrouted: Unrouted,
}

/// Decodes the messages of ONE source into the rows of ITS tables. Builders are kept between calls.
pub struct JsonDecoder {
    _tables: Vec<Arc<Table>>,
}

/// Rows of one table: `rows` has `Table::data_schema`; `messages[i]` is the index (into the call's messages, plus
/// `first_index`) of the message row i came from, ascending.
pub struct TableRows {
    /// Index into the tables given to `new`.
    pub table: usize,
    pub rows: RecordBatch,
    pub messages: Vec<u32>,
}

/// `tables` rows + `rejects` + `dropped` = messages given (I3).
pub struct Decoded {
    pub tables: Vec<TableRows>,
    pub rejects: Vec<Reject>,
    /// Tombstones, and messages without a route under `Unrouted::Drop`.
    pub dropped: u64,
    /// Fields that no table declares, counted once per occurrence.
    pub unknown_fields: u64,
}

impl JsonDecoder {
    pub fn new(tables: Vec<Arc<Table>>, _options: JsonOptions) -> Self {
        JsonDecoder { _tables: tables }
    }

    /// Decodes all messages. May be called several times for one slot batch (once per handover) with growing
    /// `first_index`; rows pile up until `finish`.
    pub fn push(&mut self, _messages: &[Message], _first_index: u32) {
        unimplemented!()
    }

    /// What has piled up since the last `finish`.
    pub fn finish(&mut self) -> Decoded {
        unimplemented!()
    }
}
