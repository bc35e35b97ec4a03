//! Rows of a statement as rows of the table: same columns, stored types. Strict: a value is never bent to fit.

use super::schema::{LIST_ELEMENT, lake_schema};
use crate::types::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, ListArray, MapArray, StructArray, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, Date32Type, Field, SchemaRef, TimeUnit, TimestampMicrosecondType};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use std::sync::Arc;

/// Brings a batch to `stored` (made by `lake_schema` from the batch's own schema, so columns are in the same order).
pub(super) fn conform(rows: &RecordBatch, stored: &SchemaRef) -> Result<RecordBatch> {
    let mut columns = Vec::with_capacity(stored.fields().len());
    for field in stored.fields() {
        let column = rows.column_by_name(field.name()).ok_or_else(|| {
            Error::Failed(format!("column \"{}\" is missing from the rows of the statement", field.name()))
        })?;
        columns.push(conform_array(column, field.data_type()).map_err(|e| {
            Error::refused(
                format!("column \"{}\" holds a value the table cannot: {e}", field.name()),
                "CAST the column to a type that holds all its values.",
            )
        })?);
    }
    Ok(RecordBatch::try_new_with_options(
        stored.clone(),
        columns,
        &arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows.num_rows())),
    )?)
}

/// Nested arrays are rebuilt around the same buffers, only their field names and nullability change; other types differ
/// from the stored one only where `lake_type` widened them.
fn conform_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, ArrowError> {
    if array.data_type() == to {
        return Ok(array.clone());
    }
    // safe = false: a value out of range is an error, not a NULL.
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    match (array.data_type(), to) {
        (DataType::List(_), DataType::List(element)) => {
            let list = array.as_list::<i32>();
            let values = conform_array(list.values(), element.data_type())?;
            Ok(Arc::new(ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned())?))
        }
        // Other kinds of lists become plain ones first.
        (
            DataType::LargeList(e) | DataType::ListView(e) | DataType::LargeListView(e) | DataType::FixedSizeList(e, _),
            DataType::List(_),
        ) => {
            let plain = DataType::List(Arc::new(Field::new(LIST_ELEMENT, e.data_type().clone(), true)));
            conform_array(&cast_with_options(array, &plain, &strict)?, to)
        }
        (DataType::Struct(_), DataType::Struct(fields)) => {
            let parts = array.as_struct();
            let columns = fields
                .iter()
                .map(|f| {
                    let part = parts
                        .column_by_name(f.name())
                        .ok_or_else(|| ArrowError::SchemaError(format!("field \"{}\" is missing", f.name())))?;
                    conform_array(part, f.data_type())
                })
                .collect::<Result<Vec<_>, ArrowError>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, parts.nulls().cloned())?))
        }
        (DataType::Map(_, _), DataType::Map(entries, ordered)) => {
            let map = array.as_map();
            let DataType::Struct(fields) = entries.data_type() else {
                return Err(ArrowError::SchemaError("a map's entries are a struct".into()));
            };
            // By place, not by name: writers call the parts key/value or keys/values.
            let parts = [map.keys(), map.values()];
            let columns = fields
                .iter()
                .zip(parts)
                .map(|(f, part)| conform_array(part, f.data_type()))
                .collect::<Result<Vec<_>, ArrowError>>()?;
            let inner = StructArray::try_new(fields.clone(), columns, None)?;
            Ok(Arc::new(MapArray::try_new(
                entries.clone(),
                map.offsets().clone(),
                inner,
                map.nulls().cloned(),
                *ordered,
            )?))
        }
        _ => cast_with_options(array, to, &strict),
    }
}

/// Says of a batch whether a table of this schema and partitioning could hold all its values. `None`: it always could,
/// because no column's type has values that the stored type has not.
pub fn row_check(schema: &SchemaRef, partition_by: &[String]) -> Option<RowCheck> {
    // What cannot be stored at all is refused when the table is opened.
    let stored = lake_schema(schema).ok()?;
    let checked = schema.fields().iter().zip(stored.fields()).filter_map(|(ours, stored)| {
        let partition = partition_by.contains(ours.name());
        let time = matches!(stored.data_type(), DataType::Date32 | DataType::Timestamp(_, _));
        (may_fail(ours.data_type()) || (partition && time)).then(|| (stored.clone(), partition))
    });
    let checked: Vec<(Arc<Field>, bool)> = checked.collect();
    if checked.is_empty() {
        return None;
    }
    Some(Arc::new(move |rows: &RecordBatch| {
        for (field, partition) in &checked {
            let Some(column) = rows.column_by_name(field.name()) else { continue };
            let stored = conform_array(column, field.data_type())
                .map_err(|e| format!("column \"{}\" holds a value the table cannot: {e}", field.name()))?;
            if *partition {
                has_a_name(field.name(), &stored)?;
            }
        }
        Ok(())
    }))
}

type RowCheck = Arc<dyn Fn(&RecordBatch) -> Result<(), String> + Send + Sync>;

/// Has the type values that `lake_schema`'s type for it has not?
fn may_fail(t: &DataType) -> bool {
    use DataType::*;
    match t {
        UInt64 | Date64 | Decimal256(_, _) | Timestamp(TimeUnit::Second | TimeUnit::Millisecond, _) => true,
        List(e) | LargeList(e) | ListView(e) | LargeListView(e) | FixedSizeList(e, _) | Map(e, _) => {
            may_fail(e.data_type())
        }
        Struct(fields) => fields.iter().any(|f| may_fail(f.data_type())),
        Dictionary(_, value) => may_fail(value),
        RunEndEncoded(_, value) => may_fail(value.data_type()),
        _ => false,
    }
}

/// delta-rs panics when it writes down a partition value beyond its calendar.
pub(super) fn has_a_name(column: &str, values: &ArrayRef) -> Result<(), String> {
    // The years -9999 to 9999, which every reader knows.
    const DAYS: std::ops::RangeInclusive<i64> = -4_371_952..=2_932_896;
    const US_PER_DAY: i64 = 86_400_000_000;
    let bounds = match values.data_type() {
        DataType::Date32 => {
            let days = values.as_primitive::<Date32Type>();
            [arrow::compute::min(days), arrow::compute::max(days)].map(|day| day.map(i64::from))
        }
        DataType::Timestamp(_, _) => {
            let us = values.as_primitive::<TimestampMicrosecondType>();
            [arrow::compute::min(us), arrow::compute::max(us)].map(|us| us.map(|us| us.div_euclid(US_PER_DAY)))
        }
        _ => return Ok(()),
    };
    match bounds.into_iter().flatten().all(|day| DAYS.contains(&day)) {
        true => Ok(()),
        false => Err(format!("partition column \"{column}\" holds a time before the year -9999 or after 9999")),
    }
}

/// Rows of one of the table's files under the table's columns of today: what the file does not have is NULL, narrower
/// whole numbers and other layouts of the same values are brought over, anything else is an error.
pub(super) fn align(rows: &RecordBatch, table: &SchemaRef, partition_by: &[String]) -> Result<RecordBatch, String> {
    let file = rows.schema();
    let unknown = |name: &String| table.field_with_name(name).is_err() && !partition_by.contains(name);
    if let Some(field) = file.fields().iter().find(|f| unknown(f.name())) {
        return Err(format!("it has a column \"{}\" that the table has not", field.name()));
    }
    let columns = table.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        None => Ok(new_null_array(field.data_type(), rows.num_rows())),
        Some(column) => align_array(column, field.data_type()).map_err(|e| format!("column \"{}\": {e}", field.name())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    let rows = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(rows.num_rows()));
    RecordBatch::try_new_with_options(table.clone(), columns, &rows).map_err(|e| e.to_string())
}

fn align_array(array: &ArrayRef, to: &DataType) -> Result<ArrayRef, String> {
    use DataType::*;
    let from = array.data_type();
    if from == to {
        return Ok(array.clone());
    }
    let failed = |e: ArrowError| e.to_string();
    match (from, to) {
        (List(_), List(element)) => {
            let list = array.as_list::<i32>();
            let values = align_array(list.values(), element.data_type())?;
            let list = ListArray::try_new(element.clone(), list.offsets().clone(), values, list.nulls().cloned());
            Ok(Arc::new(list.map_err(failed)?))
        }
        (Struct(held), Struct(fields)) => {
            if let Some(unknown) = held.iter().find(|h| !fields.iter().any(|f| f.name() == h.name())) {
                return Err(format!("it has a field \"{}\" that the table has not", unknown.name()));
            }
            let parts = array.as_struct();
            let columns = fields.iter().map(|f| match parts.column_by_name(f.name()) {
                Some(part) => align_array(part, f.data_type()),
                None => Ok(new_null_array(f.data_type(), parts.len())),
            });
            let columns = columns.collect::<Result<Vec<_>, _>>()?;
            Ok(Arc::new(StructArray::try_new(fields.clone(), columns, parts.nulls().cloned()).map_err(failed)?))
        }
        (Map(_, _), Map(entries, ordered)) => {
            let map = array.as_map();
            let Struct(fields) = entries.data_type() else { return Err("a map's entries are a struct".into()) };
            let (keys, values) = (map.keys(), map.values());
            let columns = vec![align_array(keys, fields[0].data_type())?, align_array(values, fields[1].data_type())?];
            let inner = StructArray::try_new(fields.clone(), columns, None).map_err(failed)?;
            let (offsets, nulls) = (map.offsets().clone(), map.nulls().cloned());
            Ok(Arc::new(MapArray::try_new(entries.clone(), offsets, inner, nulls, *ordered).map_err(failed)?))
        }
        (LargeUtf8 | Utf8View | Dictionary(_, _), Utf8)
        | (LargeBinary | BinaryView, Binary)
        | (Int8, Int16 | Int32 | Int64)
        | (Int16, Int32 | Int64)
        | (Int32, Int64)
        | (Float32, Float64) => {
            let strict = CastOptions { safe: false, ..CastOptions::default() };
            cast_with_options(array, to, &strict).map_err(failed)
        }
        _ => Err(format!("it holds {from}, the table {to}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{Int32Array, MapBuilder, StringArray, StringBuilder, TimestampNanosecondArray, UInt64Array};
    use arrow::util::pretty::pretty_format_batches;

    fn stored(columns: Vec<(&str, ArrayRef)>) -> Result<RecordBatch> {
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        conform(&batch, &lake_schema(&batch.schema()).unwrap())
    }

    #[test]
    fn a_number_that_does_not_fit_is_an_error_and_never_null() {
        let text = stored(vec![("n", Arc::new(UInt64Array::from(vec![1, u64::MAX])))]).unwrap_err().to_string();
        assert!(text.starts_with("column \"n\" holds a value the table cannot"), "{text}");
    }

    #[test]
    fn nested_rows_keep_their_values() {
        let inner = StructArray::from(vec![
            (Arc::new(Field::new("a", DataType::Int32, false)), Arc::new(Int32Array::from(vec![1, 2, 3])) as ArrayRef),
            (
                Arc::new(Field::new("b", DataType::Utf8, true)),
                Arc::new(StringArray::from(vec![Some("x"), None, Some("z")])),
            ),
        ]);
        let list = ListArray::try_new(
            Arc::new(Field::new("item", inner.data_type().clone(), true)),
            arrow::buffer::OffsetBuffer::new(vec![0, 2, 2, 3].into()),
            Arc::new(inner),
            Some(vec![true, false, true].into()),
        )
        .unwrap();
        let mut map = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        for row in [Some(("k", "v")), None, Some(("q", "w"))] {
            if let Some((k, v)) = row {
                map.keys().append_value(k);
                map.values().append_value(v);
            }
            map.append(row.is_some()).unwrap();
        }
        let times = TimestampNanosecondArray::from(vec![Some(1_700_000_000_123_456_789), None, Some(0)]);
        let got =
            stored(vec![("list", Arc::new(list)), ("map", Arc::new(map.finish())), ("t", Arc::new(times))]).unwrap();
        assert_eq!(
            pretty_format_batches(&[got]).unwrap().to_string(),
            "\
+-----------------------------+--------+-----------------------------+
| list                        | map    | t                           |
+-----------------------------+--------+-----------------------------+
| [{a: 1, b: x}, {a: 2, b: }] | {k: v} | 2023-11-14T22:13:20.123456Z |
|                             |        |                             |
| [{a: 3, b: z}]              | {q: w} | 1970-01-01T00:00:00Z        |
+-----------------------------+--------+-----------------------------+"
        );
    }
}
