//! Column builders that can roll back: a message that fails in its last field leaves no trace in any of them.
//!
//! Arrow's own builders cannot be cut back, so these are plain vectors with a validity bitmap. `finish` copies out into
//! buffers of exactly the right size and keeps the vectors: rows may stay in memory until the lake shows them, and must
//! not hold the largest batch's capacity for it.

use crate::codec::row::RowBuilder;
use crate::types::table::{Column, ColumnType};
use arrow::array::{
    ArrayRef, ArrowPrimitiveType, BinaryArray, BooleanArray, BooleanBufferBuilder, Decimal128Array, ListArray,
    MapArray, NullBufferBuilder, PrimitiveArray, StringArray, StructArray,
};
use arrow::buffer::{Buffer, NullBuffer, OffsetBuffer, ScalarBuffer};
use arrow::datatypes::{
    DataType, Date32Type, Float32Type, Float64Type, Int32Type, Int64Type, TimestampMicrosecondType,
};
use std::sync::Arc;

pub struct ColumnBuilder {
    pub nullable: bool,
    pub kind: ColumnType,
    pub values: Values,
    valid: NullBufferBuilder,
}

/// One entry per row, NULL rows included; `push_valid` or `push_null` completes a row.
pub enum Values {
    Boolean(BooleanBufferBuilder),
    Int(Vec<i32>),
    BigInt(Vec<i64>),
    Real(Vec<f32>),
    Double(Vec<f64>),
    Decimal(Vec<i128>),
    Date(Vec<i32>),
    Timestamp(Vec<i64>),
    /// TEXT, JSON and BYTEA.
    Bytes(BytesBuilder),
    Struct(RowBuilder),
    Array {
        ends: Ends,
        element: Box<ColumnBuilder>,
    },
    Map {
        ends: Ends,
        keys: BytesBuilder,
        value: Box<ColumnBuilder>,
    },
}

impl ColumnBuilder {
    /// `route_paths`: fields below this column that only routes read (see `RowBuilder::new`).
    pub fn new(column: &Column, route_paths: &[&[Arc<str>]]) -> Self {
        let values = match &column.kind {
            ColumnType::Boolean => Values::Boolean(BooleanBufferBuilder::new(0)),
            ColumnType::Int => Values::Int(Vec::new()),
            ColumnType::BigInt => Values::BigInt(Vec::new()),
            ColumnType::Real => Values::Real(Vec::new()),
            ColumnType::Double => Values::Double(Vec::new()),
            ColumnType::Decimal(..) => Values::Decimal(Vec::new()),
            ColumnType::Date => Values::Date(Vec::new()),
            ColumnType::Timestamp(_) => Values::Timestamp(Vec::new()),
            ColumnType::Text | ColumnType::Json | ColumnType::Bytea => Values::Bytes(BytesBuilder::default()),
            ColumnType::Struct(columns) => Values::Struct(RowBuilder::new(columns, route_paths, false)),
            ColumnType::Array(element) => {
                Values::Array { ends: Ends::default(), element: Box::new(ColumnBuilder::new(element, &[])) }
            }
            ColumnType::Map(value) => Values::Map {
                ends: Ends::default(),
                keys: BytesBuilder::default(),
                value: Box::new(ColumnBuilder::new(value, &[])),
            },
        };
        ColumnBuilder { nullable: column.nullable, kind: column.kind.clone(), values, valid: NullBufferBuilder::new(0) }
    }

    pub fn len(&self) -> usize {
        self.valid.len()
    }

    /// Completes a row whose value has been put into `values`.
    pub fn push_valid(&mut self) {
        self.valid.append_non_null();
    }

    /// A NULL row. Also used below a NULL struct, where a NOT NULL column holds a value that the parent's NULL masks.
    pub fn push_null(&mut self) {
        match &mut self.values {
            Values::Boolean(v) => v.append(false),
            Values::Int(v) | Values::Date(v) => v.push(0),
            Values::BigInt(v) | Values::Timestamp(v) => v.push(0),
            Values::Real(v) => v.push(0.0),
            Values::Double(v) => v.push(0.0),
            Values::Decimal(v) => v.push(0),
            Values::Bytes(v) => v.end(),
            Values::Struct(row) => row.push_null(),
            Values::Array { ends, element } => ends.push(element.len()),
            Values::Map { ends, keys, .. } => ends.push(keys.len()),
        }
        self.valid.append_null();
    }

    /// Cuts back to `rows` rows, and drops what a failed message left of its next one.
    pub fn truncate(&mut self, rows: usize) {
        match &mut self.values {
            Values::Boolean(v) => v.truncate(rows),
            Values::Int(v) | Values::Date(v) => v.truncate(rows),
            Values::BigInt(v) | Values::Timestamp(v) => v.truncate(rows),
            Values::Real(v) => v.truncate(rows),
            Values::Double(v) => v.truncate(rows),
            Values::Decimal(v) => v.truncate(rows),
            Values::Bytes(v) => v.truncate(rows),
            Values::Struct(row) => row.truncate(rows),
            Values::Array { ends, element } => element.truncate(ends.truncate(rows)),
            Values::Map { ends, keys, value } => {
                let entries = ends.truncate(rows);
                keys.truncate(entries);
                value.truncate(entries);
            }
        }
        self.valid.truncate(rows);
    }

    /// The rows so far as an array of `ColumnType::arrow`'s type; the builder is empty afterwards.
    pub fn finish(&mut self) -> ArrayRef {
        let nulls = self.valid.finish().filter(|n| n.null_count() > 0);
        match (&mut self.values, self.kind.arrow()) {
            (Values::Boolean(v), _) => Arc::new(BooleanArray::new(v.finish(), nulls)),
            (Values::Int(v), _) => primitive::<Int32Type>(v, nulls),
            (Values::BigInt(v), _) => primitive::<Int64Type>(v, nulls),
            (Values::Real(v), _) => primitive::<Float32Type>(v, nulls),
            (Values::Double(v), _) => primitive::<Float64Type>(v, nulls),
            (Values::Date(v), _) => primitive::<Date32Type>(v, nulls),
            (Values::Decimal(v), data_type) => Arc::new(Decimal128Array::new(take(v), nulls).with_data_type(data_type)),
            (Values::Timestamp(v), data_type) => {
                Arc::new(PrimitiveArray::<TimestampMicrosecondType>::new(take(v), nulls).with_data_type(data_type))
            }
            (Values::Bytes(v), DataType::Binary) => {
                let (offsets, bytes) = v.finish();
                Arc::new(BinaryArray::new(offsets, bytes, nulls))
            }
            (Values::Bytes(v), _) => v.finish_text(nulls),
            (Values::Struct(row), DataType::Struct(fields)) => {
                let rows = row.len();
                Arc::new(
                    StructArray::try_new_with_length(fields, row.finish(), nulls, rows)
                        .expect("every field has been completed for every row"),
                )
            }
            (Values::Array { ends, element }, DataType::List(field)) => {
                Arc::new(ListArray::new(field, ends.finish(), element.finish(), nulls))
            }
            (Values::Map { ends, keys, value }, DataType::Map(entries, sorted)) => {
                let DataType::Struct(fields) = entries.data_type() else {
                    unreachable!("ColumnType::arrow builds the entries of a map as a struct")
                };
                let entries_array =
                    StructArray::new(fields.clone(), vec![keys.finish_text(None), value.finish()], None);
                Arc::new(MapArray::new(entries, ends.finish(), entries_array, nulls, sorted))
            }
            (_, other) => unreachable!("`new` chose the values by the same type that is {other} here"),
        }
    }
}

fn primitive<T: ArrowPrimitiveType>(values: &mut Vec<T::Native>, nulls: Option<NullBuffer>) -> ArrayRef {
    Arc::new(PrimitiveArray::<T>::new(take(values), nulls))
}

fn take<T: arrow::datatypes::ArrowNativeType>(values: &mut Vec<T>) -> ScalarBuffer<T> {
    let buffer = ScalarBuffer::from(values.as_slice().to_vec());
    values.clear();
    buffer
}

/// Variable-length values: bytes, and where each row ends.
#[derive(Default)]
pub struct BytesBuilder {
    bytes: Vec<u8>,
    ends: Ends,
}

impl BytesBuilder {
    /// Where the current row's bytes are appended; `end` completes it.
    pub fn bytes(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    pub fn end(&mut self) {
        self.ends.push(self.bytes.len());
    }

    pub fn push(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.end();
    }

    pub fn len(&self) -> usize {
        self.ends.0.len()
    }

    pub fn text(&self, row: usize) -> &str {
        let bytes = &self.bytes[self.ends.start(row)..self.ends.start(row + 1)];
        std::str::from_utf8(bytes).expect("only text is pushed where text is read back")
    }

    pub fn truncate(&mut self, rows: usize) {
        let bytes = self.ends.truncate(rows);
        self.bytes.truncate(bytes);
    }

    fn finish(&mut self) -> (OffsetBuffer<i32>, Buffer) {
        let bytes = Buffer::from(self.bytes.as_slice());
        self.bytes.clear();
        (self.ends.finish(), bytes)
    }

    /// Checks UTF-8 once more for the whole column. It cannot fail, it costs little, and it keeps `unsafe` out.
    fn finish_text(&mut self, nulls: Option<NullBuffer>) -> ArrayRef {
        let (offsets, bytes) = self.finish();
        Arc::new(StringArray::new(offsets, bytes, nulls))
    }
}

/// Where each row of a variable-length column ends. Arrow's offsets are these with a 0 in front.
#[derive(Default)]
pub struct Ends(Vec<i32>);

impl Ends {
    pub fn push(&mut self, end: usize) {
        self.0.push(i32::try_from(end).expect("BATCH_BYTES_MAX and MESSAGE_BYTES_MAX keep a batch far below 2 GiB"));
    }

    /// Where the next row starts.
    pub fn last(&self) -> usize {
        self.start(self.0.len())
    }

    /// Where the row starts, which is where the one before it ends.
    fn start(&self, row: usize) -> usize {
        if row == 0 { 0 } else { self.0[row - 1] as usize }
    }

    /// Cuts back to `rows` rows and says where they end.
    fn truncate(&mut self, rows: usize) -> usize {
        self.0.truncate(rows);
        self.last()
    }

    fn finish(&mut self) -> OffsetBuffer<i32> {
        let mut offsets = Vec::with_capacity(self.0.len() + 1);
        offsets.push(0);
        offsets.append(&mut self.0);
        OffsetBuffer::new(ScalarBuffer::from(offsets))
    }
}
