//! The types that leave the house: what every client can read.
//!
//! String views would be multiplied on the wire (each slice of a batch carries all buffers of the whole) and are unknown
//! to JDBC, Grafana and Arrow for JavaScript; dictionaries and large offsets trip others. One transform feeds every
//! announced schema and every batch, because clients compare the two.

use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use std::sync::Arc;

/// Without metadata, in types that every client reads. Batches are cast to it where a query's rows are made.
pub fn schema(schema: &Schema) -> SchemaRef {
    Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>()))
}

fn field(f: &FieldRef) -> FieldRef {
    Arc::new(Field::new(f.name(), kind(f.data_type()), f.is_nullable()))
}

fn kind(t: &DataType) -> DataType {
    match t {
        DataType::Utf8View | DataType::LargeUtf8 => DataType::Utf8,
        DataType::BinaryView | DataType::LargeBinary => DataType::Binary,
        DataType::Dictionary(_, value) => kind(value),
        DataType::RunEndEncoded(_, value) => kind(value.data_type()),
        DataType::List(f) | DataType::LargeList(f) | DataType::ListView(f) | DataType::LargeListView(f) => {
            DataType::List(field(f))
        }
        DataType::FixedSizeList(f, n) => DataType::FixedSizeList(field(f), *n),
        DataType::Struct(fields) => DataType::Struct(fields.iter().map(field).collect()),
        DataType::Map(f, sorted) => DataType::Map(field(f), *sorted),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn views_large_offsets_and_dictionaries_do_not_leave_at_any_depth() {
        let text = || Arc::new(Field::new("item", DataType::Utf8View, true));
        let given = Schema::new(vec![
            Field::new("a", DataType::LargeUtf8, false),
            Field::new("b", DataType::BinaryView, true),
            Field::new("c", DataType::Dictionary(Box::new(DataType::Int32), Box::new(DataType::Utf8View)), true),
            Field::new("d", DataType::LargeList(text()), true),
            Field::new("e", DataType::Struct(vec![Field::new("x", DataType::List(text()), true)].into()), true),
        ]);
        let plain = || Arc::new(Field::new("item", DataType::Utf8, true));
        let expected = Schema::new(vec![
            Field::new("a", DataType::Utf8, false),
            Field::new("b", DataType::Binary, true),
            Field::new("c", DataType::Utf8, true),
            Field::new("d", DataType::List(plain()), true),
            Field::new("e", DataType::Struct(vec![Field::new("x", DataType::List(plain()), true)].into()), true),
        ]);
        assert_eq!(*schema(&given), expected);
    }
}
