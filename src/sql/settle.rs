//! The types that leave a statement: microsecond UTC timestamps, plain text, signed integers. Nothing a sink cannot write.

use crate::types::table::timestamp_type;
use arrow::datatypes::{DataType, Field, FieldRef};
use std::sync::Arc;

/// The type that a column of this type is cast to when it leaves a statement; an error says why none fits, and what
/// to write instead.
pub fn settled(kind: &DataType) -> Result<DataType, (String, &'static str)> {
    use DataType as D;
    Ok(match kind {
        D::Boolean
        | D::Int8
        | D::Int16
        | D::Int32
        | D::Int64
        | D::Float32
        | D::Float64
        | D::Utf8
        | D::Binary
        | D::Date32 => kind.clone(),
        D::Decimal128(_, scale) if *scale >= 0 => kind.clone(),
        D::Decimal32(precision, scale) | D::Decimal64(precision, scale) if *scale >= 0 => {
            D::Decimal128(*precision, *scale)
        }
        D::UInt8 => D::Int16,
        D::UInt16 => D::Int32,
        D::UInt32 | D::UInt64 => D::Int64,
        D::Float16 => D::Float32,
        D::LargeUtf8 | D::Utf8View => D::Utf8,
        D::LargeBinary | D::BinaryView | D::FixedSizeBinary(_) => D::Binary,
        D::Date64 | D::Timestamp(_, _) => timestamp_type(),
        D::Dictionary(_, value) => settled(value)?,
        D::List(item) | D::LargeList(item) | D::FixedSizeList(item, _) | D::ListView(item) | D::LargeListView(item) => {
            D::List(settled_field(item)?)
        }
        D::Struct(fields) => D::Struct(fields.iter().map(settled_field).collect::<Result<_, _>>()?),
        D::Map(entries, sorted) => D::Map(settled_field(entries)?, *sorted),
        D::Null => return Err(("it is always NULL".into(), "Give the NULL a type: CAST(NULL AS TEXT).")),
        D::Union(..) => {
            return Err((
                "it is a JSON value of unknown type".into(),
                "Say the type: json_get_str, json_get_int, json_get_float, json_get_bool, or ->> for text.",
            ));
        }
        D::Time32(_) | D::Time64(_) => {
            return Err(("a time of day has no type in a table".into(), "Write CAST(x AS TEXT)."));
        }
        D::Interval(_) | D::Duration(_) => {
            return Err((
                "an interval has no type in a table".into(),
                "Write its seconds: date_part('epoch', a) - date_part('epoch', b).",
            ));
        }
        D::Decimal32(..) | D::Decimal64(..) | D::Decimal128(..) | D::Decimal256(..) => {
            return Err((
                format!("{kind} has no type in a table"),
                "Write CAST(x AS DECIMAL(38, s)) or CAST(x AS DOUBLE).",
            ));
        }
        D::RunEndEncoded(_, values) => settled(values.data_type())?,
    })
}

fn settled_field(field: &FieldRef) -> Result<FieldRef, (String, &'static str)> {
    let kind = settled(field.data_type())?;
    Ok(Arc::new(Field::new(field.name(), kind, field.is_nullable())))
}

/// A type as CREATE TABLE writes it.
pub fn type_name(kind: &DataType) -> String {
    match kind {
        DataType::Boolean => "BOOLEAN".into(),
        DataType::Int8 | DataType::Int16 | DataType::Int32 => "INT".into(),
        DataType::Int64 => "BIGINT".into(),
        DataType::Float32 => "REAL".into(),
        DataType::Float64 => "DOUBLE".into(),
        DataType::Utf8 => "TEXT".into(),
        DataType::Binary => "BYTEA".into(),
        DataType::Date32 => "DATE".into(),
        DataType::Timestamp(_, _) => "TIMESTAMP".into(),
        DataType::Decimal128(p, s) => format!("DECIMAL({p}, {s})"),
        DataType::List(item) => format!("{}[]", type_name(item.data_type())),
        DataType::Struct(fields) => {
            let fields: Vec<String> =
                fields.iter().map(|f| format!("{} {}", f.name(), type_name(f.data_type()))).collect();
            format!("STRUCT<{}>", fields.join(", "))
        }
        DataType::Map(entries, _) => match entries.data_type() {
            DataType::Struct(fields) if fields.len() == 2 => {
                format!("MAP<{}, {}>", type_name(fields[0].data_type()), type_name(fields[1].data_type()))
            }
            other => format!("MAP<{other}>"),
        },
        other => other.to_string(),
    }
}
