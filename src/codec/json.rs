//! The strict JSON decoder: messages of one source -> one batch per table, and rejects.
//!
//! A message is one JSON object of UTF-8 text. What its table declares must be there as declared: a value of another
//! type, out of range, or NULL in a NOT NULL column rejects the whole message, and a rejected message leaves no trace
//! in the rows. A missing field is NULL. Text is never read as a number nor a number as text; whole numbers may be
//! written 5.0 or 5e0; a field given twice is refused, because taking either would lose the other in silence.
//! Numbers pass through no float unless the column is one. Meta columns are added by the engine.

use crate::codec::failure::{Failure, Outcome, found};
use crate::codec::route::Router;
use crate::codec::row::{Context, RowBuilder};
use crate::codec::skip::skip;
use crate::types::catalog::UnknownFields;
use crate::types::message::Message;
use crate::types::reject::{Reject, RejectReason};
use crate::types::table::Table;
use arrow::array::RecordBatchOptions;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use jiter::{Jiter, Peek};
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
    router: Router,
    tables: Vec<TableBuilder>,
    options: JsonOptions,
    context: Context,
    rejects: Vec<Reject>,
    dropped: u64,
    unknown_fields: u64,
}

struct TableBuilder {
    schema: SchemaRef,
    row: RowBuilder,
    messages: Vec<u32>,
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
    /// Tables that received rows, in the order given to `new`.
    pub tables: Vec<TableRows>,
    /// Ascending by index.
    pub rejects: Vec<Reject>,
    /// Tombstones, and messages without a route under `Unrouted::Drop`.
    pub dropped: u64,
    /// Fields that no table declares, counted once per occurrence in decoded messages. A field that a route reads is
    /// known.
    pub unknown_fields: u64,
}

impl JsonDecoder {
    pub fn new(tables: Vec<Arc<Table>>, options: JsonOptions) -> Self {
        let router = Router::new(&tables);
        let route_paths: Vec<&[Arc<str>]> = router.paths().iter().map(Vec::as_slice).collect();
        let capture = options.unknown_fields == UnknownFields::Capture;
        let tables = tables
            .iter()
            .map(|table| TableBuilder {
                schema: table.data_schema(),
                row: RowBuilder::new(&table.columns, &route_paths, capture),
                messages: Vec::new(),
            })
            .collect();
        JsonDecoder {
            router,
            tables,
            options,
            context: Context { unknown_fields: options.unknown_fields, unknown: 0, extra: Vec::new() },
            rejects: Vec::new(),
            dropped: 0,
            unknown_fields: 0,
        }
    }

    /// Decodes all messages. May be called several times for one slot batch (once per handover) with growing
    /// `first_index`; rows pile up until `finish`.
    pub fn push(&mut self, messages: &[Message], first_index: u32) {
        for (place, message) in messages.iter().enumerate() {
            let index = first_index + place as u32;
            let Some(payload) = &message.payload else {
                self.dropped += 1;
                continue;
            };
            match self.decode(payload, message.topic.as_deref()) {
                Ok(table) => {
                    self.tables[table].messages.push(index);
                    self.unknown_fields += self.context.unknown;
                }
                Err(failure) => match failure.into_reason() {
                    RejectReason::NoRoute(_) if self.options.unrouted == Unrouted::Drop => self.dropped += 1,
                    reason => self.rejects.push(Reject { index, reason }),
                },
            }
        }
    }

    /// What has piled up since the last `finish`.
    pub fn finish(&mut self) -> Decoded {
        let tables = self
            .tables
            .iter_mut()
            .enumerate()
            .filter(|(_, builder)| !builder.messages.is_empty())
            .map(|(table, builder)| {
                let messages = std::mem::take(&mut builder.messages);
                let options = RecordBatchOptions::new().with_row_count(Some(messages.len()));
                let rows = RecordBatch::try_new_with_options(builder.schema.clone(), builder.row.finish(), &options)
                    .expect("each decoded message completed one row of every column");
                TableRows { table, rows, messages }
            })
            .collect();
        Decoded {
            tables,
            rejects: std::mem::take(&mut self.rejects),
            dropped: std::mem::take(&mut self.dropped),
            unknown_fields: std::mem::take(&mut self.unknown_fields),
        }
    }

    /// One message into one row of the table that takes it, or into no row at all.
    fn decode(&mut self, payload: &[u8], topic: Option<&str>) -> Outcome<usize> {
        check_text(payload)?;
        let table = match self.router.choose(payload, topic) {
            Ok(table) => table,
            Err(no_route) => {
                // Broken text is a reject also where messages without a route are dropped.
                check_object(payload)?;
                return Err(no_route);
            }
        };
        self.context.unknown = 0;
        self.context.extra.clear();
        let row = &mut self.tables[table].row;
        let rows = row.len();
        let read = read_message(payload, row, &mut self.context);
        if read.is_err() {
            row.truncate(rows);
        }
        read.map(|()| table)
    }
}

fn read_message(payload: &[u8], row: &mut RowBuilder, context: &mut Context) -> Outcome {
    let mut j = Jiter::new(payload);
    if j.peek()? != Peek::Object {
        return check_object(payload);
    }
    row.read(&mut j, 0, context)?;
    j.finish()?;
    Ok(())
}

fn check_text(payload: &[u8]) -> Outcome {
    if payload.is_empty() {
        return Err(Failure::syntax("empty payload"));
    }
    match std::str::from_utf8(payload) {
        Ok(_) => Ok(()),
        Err(e) => Err(Failure::syntax(format!("invalid UTF-8 at byte {}", e.valid_up_to()))),
    }
}

/// Checks a message without decoding it.
fn check_object(payload: &[u8]) -> Outcome {
    let (peek, raw) = check_value(payload)?;
    if peek != Peek::Object {
        return Err(Failure::syntax(format!("a message is one JSON object, found {}", found(raw))));
    }
    Ok(())
}

/// Checks that `payload` is one JSON value and nothing else.
pub fn check_value(payload: &[u8]) -> Outcome<(Peek, &[u8])> {
    let mut j = Jiter::new(payload);
    let peek = j.peek()?;
    let from = j.current_index();
    skip(&mut j, peek, 0)?;
    let raw = j.slice_to_current(from);
    j.finish()?;
    Ok((peek, raw))
}
