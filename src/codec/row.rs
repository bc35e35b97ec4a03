//! One JSON object -> one row of builders: fields by name, missing fields NULL, unknown fields by the source's rule.

use crate::codec::column::ColumnBuilder;
use crate::codec::failure::{Failure, Outcome};
use crate::codec::skip::{compact, enter, skip};
use crate::codec::value;
use crate::types::catalog::UnknownFields;
use crate::types::table::{Column, ColumnType, EXTRA_COLUMN};
use arrow::array::ArrayRef;
use hashbrown::HashMap;
use jiter::{Jiter, Peek};
use std::sync::Arc;

/// What one message meets on its way besides its columns.
pub struct Context {
    pub unknown_fields: UnknownFields,
    /// Of this message so far.
    pub unknown: u64,
    /// The inside of `_extra` for this message so far, under `UnknownFields::Capture`.
    pub extra: Vec<u8>,
}

/// Columns of one object, in declaration order.
pub struct RowBuilder {
    fields: Vec<Slot>,
    by_name: HashMap<Arc<str>, usize>,
    /// The field that followed field i in the last object; the last entry is the one that came first. Devices write
    /// their fields in one order, so this guess saves the hash nearly always.
    following: Vec<usize>,
    rows: usize,
}

struct Slot {
    name: Arc<str>,
    holds: Holds,
}

enum Holds {
    Column(ColumnBuilder),
    /// A field that a route of the source reads and this table does not declare: known, and not kept. The count of
    /// rows in which it has been seen finds duplicates, as the length of a column does.
    Nothing {
        seen_rows: usize,
    },
    /// `_extra`, filled from the context.
    Extra(ColumnBuilder),
}

const NONE: usize = usize::MAX;

impl RowBuilder {
    /// `route_paths`: paths, from this object on, that routes read; fields among them are known even if not declared.
    /// `capture`: this is a message's top level and `_extra` takes its unknown fields.
    pub fn new(columns: &[Column], route_paths: &[&[Arc<str>]], capture: bool) -> Self {
        let mut fields = Vec::with_capacity(columns.len());
        for column in columns {
            let below: Vec<&[Arc<str>]> = route_paths
                .iter()
                .filter(|path| path.len() > 1 && path[0] == column.name)
                .map(|path| &path[1..])
                .collect();
            let builder = ColumnBuilder::new(column, &below);
            let is_extra = capture && column.name.as_ref() == EXTRA_COLUMN && column.kind == ColumnType::Json;
            let holds = if is_extra { Holds::Extra(builder) } else { Holds::Column(builder) };
            fields.push(Slot { name: column.name.clone(), holds });
        }
        for path in route_paths {
            if let Some(head) = path.first()
                && fields.iter().all(|f| f.name != *head)
            {
                fields.push(Slot { name: head.clone(), holds: Holds::Nothing { seen_rows: 0 } });
            }
        }
        let by_name = fields
            .iter()
            .enumerate()
            .filter(|(_, slot)| !matches!(slot.holds, Holds::Extra(_)))
            .map(|(i, slot)| (slot.name.clone(), i))
            .collect();
        RowBuilder { following: vec![NONE; fields.len() + 1], by_name, fields, rows: 0 }
    }

    pub fn len(&self) -> usize {
        self.rows
    }

    /// Reads an object whose `{` is next. On error the row is incomplete: the caller truncates, from the top.
    pub fn read(&mut self, j: &mut Jiter, depth: u8, context: &mut Context) -> Outcome {
        let inside = enter(depth)?;
        let is_message = depth == 0;
        let mut known = 0;
        let mut last = self.fields.len();
        let mut key_from = j.current_index();
        let mut key = j.known_object()?;
        while let Some(name) = key {
            match find(&self.fields, &self.by_name, self.following[last], name) {
                Some(field) => {
                    self.following[last] = field;
                    last = field;
                    known += 1;
                    let peek = j.peek()?;
                    self.fields[field].read(j, peek, self.rows, inside, context)?;
                }
                None => {
                    context.unknown += 1;
                    if context.unknown_fields == UnknownFields::Reject {
                        return Err(Failure::unknown_field().in_field(name));
                    }
                    let raw_key = j.slice_to_current(key_from);
                    let peek = j.peek()?;
                    let value_from = j.current_index();
                    skip(j, peek, inside)?;
                    if is_message && context.unknown_fields == UnknownFields::Capture {
                        capture(raw_key, j.slice_to_current(value_from), &mut context.extra);
                    }
                }
            }
            key_from = j.current_index();
            key = j.next_key()?;
        }
        if known < self.fields.len() {
            for slot in &mut self.fields {
                slot.complete(self.rows, context)?;
            }
        }
        self.rows += 1;
        Ok(())
    }

    /// A row that is NULL as a whole.
    pub fn push_null(&mut self) {
        for slot in &mut self.fields {
            match &mut slot.holds {
                Holds::Column(column) | Holds::Extra(column) => column.push_null(),
                Holds::Nothing { .. } => {}
            }
        }
        self.rows += 1;
    }

    pub fn truncate(&mut self, rows: usize) {
        for slot in &mut self.fields {
            match &mut slot.holds {
                Holds::Column(column) | Holds::Extra(column) => column.truncate(rows),
                Holds::Nothing { seen_rows } => *seen_rows = (*seen_rows).min(rows),
            }
        }
        self.rows = self.rows.min(rows);
    }

    /// The declared columns; the builder is empty afterwards.
    pub fn finish(&mut self) -> Vec<ArrayRef> {
        let mut arrays = Vec::with_capacity(self.fields.len());
        for slot in &mut self.fields {
            match &mut slot.holds {
                Holds::Column(column) | Holds::Extra(column) => arrays.push(column.finish()),
                Holds::Nothing { seen_rows } => *seen_rows = 0,
            }
        }
        self.rows = 0;
        arrays
    }
}

fn find(fields: &[Slot], by_name: &HashMap<Arc<str>, usize>, guess: usize, name: &str) -> Option<usize> {
    if let Some(slot) = fields.get(guess)
        && slot.name.as_ref() == name
    {
        return Some(guess);
    }
    by_name.get(name).copied()
}

impl Slot {
    fn read(&mut self, j: &mut Jiter, peek: Peek, rows: usize, depth: u8, context: &mut Context) -> Outcome {
        match &mut self.holds {
            Holds::Column(column) => {
                if column.len() > rows {
                    return Err(duplicate(&self.name));
                }
                if peek == Peek::Null {
                    j.known_null()?;
                    if !column.nullable {
                        return Err(Failure::null().in_field(&self.name));
                    }
                    column.push_null();
                    return Ok(());
                }
                value::read(j, peek, column, depth, context).map_err(|f| f.in_field(&self.name))
            }
            Holds::Nothing { seen_rows } => {
                if *seen_rows > rows {
                    return Err(duplicate(&self.name));
                }
                *seen_rows = rows + 1;
                skip(j, peek, depth)
            }
            Holds::Extra(_) => unreachable!("the name of the captured fields' column is never looked up"),
        }
    }

    /// After the object's end: NULL for what was missing.
    fn complete(&mut self, rows: usize, context: &mut Context) -> Outcome {
        match &mut self.holds {
            Holds::Column(column) if column.len() == rows => {
                if !column.nullable {
                    return Err(Failure::null().in_field(&self.name));
                }
                column.push_null();
            }
            Holds::Extra(column) => value::push_extra(column, &context.extra),
            Holds::Column(_) | Holds::Nothing { .. } => {}
        }
        Ok(())
    }
}

/// Two values for one field: taking the last, as is common, would lose one in silence.
fn duplicate(name: &str) -> Box<Failure> {
    Failure::syntax(format!("duplicate field \"{name}\""))
}

/// Appends `"key":value` in the sender's own text. `raw_key` runs from the `{` or `,` before the key to its colon.
fn capture(raw_key: &[u8], raw_value: &[u8], extra: &mut Vec<u8>) {
    if !extra.is_empty() {
        extra.push(b',');
    }
    let key_from = raw_key.iter().position(|b| *b == b'"').expect("a key that was read starts with a quote");
    compact(&raw_key[key_from..], extra);
    compact(raw_value, extra);
}
