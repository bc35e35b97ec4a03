//! Key columns -> bytes whose order is the order of the keys. Stored, so it never changes: Arrow's own row format makes
//! no such promise across versions.
//!
//! | type | bytes |
//! |---|---|
//! | BOOLEAN | 0 or 1 |
//! | integers, TIMESTAMP | 8, big endian, sign bit flipped (unsigned: as they are) |
//! | DATE | 4, the same way |
//! | DECIMAL | 16, the same way; the scale is the type's |
//! | REAL, DOUBLE | 8, IEEE total order: -NaN, -inf .. -0, 0 .. inf, NaN |
//! | TEXT, BYTEA | 00 becomes 00 FF, and 00 01 ends it |
//!
//! Every part is self-delimiting, so the bytes of the first parts are a prefix for `scan`. A NULL part makes no key.

use arrow::array::{Array, ArrayRef, AsArray, BinaryBuilder, BooleanBuilder, StringBuilder};
use arrow::datatypes::{
    ArrowPrimitiveType, DataType, Date32Type, Decimal128Type, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type,
    Int64Type, TimeUnit, TimestampMicrosecondType, TimestampMillisecondType, TimestampNanosecondType,
    TimestampSecondType, UInt8Type, UInt16Type, UInt32Type, UInt64Type,
};

/// Bytes fjall can hold as one key. Longer ones are left out and counted.
pub const KEY_BYTES_MAX: usize = u16::MAX as usize;

/// Can a column of this type be part of a key?
pub fn is_key_type(kind: &DataType) -> bool {
    matches!(
        kind,
        DataType::Boolean
            | DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64
            | DataType::Float32
            | DataType::Float64
            | DataType::Decimal128(_, _)
            | DataType::Utf8
            | DataType::LargeUtf8
            | DataType::Utf8View
            | DataType::Binary
            | DataType::LargeBinary
            | DataType::BinaryView
            | DataType::Date32
            | DataType::Timestamp(_, _)
    )
}

/// Appends column by column; one buffer per row. `None`: a part is NULL.
pub fn encode(columns: &[ArrayRef]) -> Vec<Option<Vec<u8>>> {
    let rows = columns.first().map_or(0, |c| c.len());
    let mut keys: Vec<Option<Vec<u8>>> = vec![Some(Vec::new()); rows];
    for column in columns {
        encode_column(column, &mut keys);
    }
    keys
}

fn encode_column(column: &ArrayRef, keys: &mut [Option<Vec<u8>>]) {
    for (row, key) in keys.iter_mut().enumerate() {
        if column.is_null(row) {
            *key = None;
        }
    }
    match column.data_type() {
        DataType::Boolean => {
            let values = column.as_boolean();
            fill(keys, |row, key| key.push(values.value(row) as u8));
        }
        DataType::Int8 => ints::<Int8Type>(column, keys),
        DataType::Int16 => ints::<Int16Type>(column, keys),
        DataType::Int32 => ints::<Int32Type>(column, keys),
        DataType::Int64 => ints::<Int64Type>(column, keys),
        DataType::UInt8 => unsigned::<UInt8Type>(column, keys),
        DataType::UInt16 => unsigned::<UInt16Type>(column, keys),
        DataType::UInt32 => unsigned::<UInt32Type>(column, keys),
        DataType::UInt64 => unsigned::<UInt64Type>(column, keys),
        DataType::Timestamp(TimeUnit::Second, _) => ints::<TimestampSecondType>(column, keys),
        DataType::Timestamp(TimeUnit::Millisecond, _) => ints::<TimestampMillisecondType>(column, keys),
        DataType::Timestamp(TimeUnit::Microsecond, _) => ints::<TimestampMicrosecondType>(column, keys),
        DataType::Timestamp(TimeUnit::Nanosecond, _) => ints::<TimestampNanosecondType>(column, keys),
        DataType::Date32 => {
            let values = column.as_primitive::<Date32Type>();
            fill(keys, |row, key| key.extend_from_slice(&date(values.value(row))));
        }
        DataType::Decimal128(_, _) => {
            let values = column.as_primitive::<Decimal128Type>();
            fill(keys, |row, key| key.extend_from_slice(&decimal(values.value(row))));
        }
        DataType::Float32 => {
            let values = column.as_primitive::<Float32Type>();
            fill(keys, |row, key| key.extend_from_slice(&float(values.value(row) as f64)));
        }
        DataType::Float64 => {
            let values = column.as_primitive::<Float64Type>();
            fill(keys, |row, key| key.extend_from_slice(&float(values.value(row))));
        }
        DataType::Utf8 => {
            let values = column.as_string::<i32>();
            fill(keys, |row, key| bytes(values.value(row).as_bytes(), key));
        }
        DataType::LargeUtf8 => {
            let values = column.as_string::<i64>();
            fill(keys, |row, key| bytes(values.value(row).as_bytes(), key));
        }
        DataType::Utf8View => {
            let values = column.as_string_view();
            fill(keys, |row, key| bytes(values.value(row).as_bytes(), key));
        }
        DataType::Binary => {
            let values = column.as_binary::<i32>();
            fill(keys, |row, key| bytes(values.value(row), key));
        }
        DataType::LargeBinary => {
            let values = column.as_binary::<i64>();
            fill(keys, |row, key| bytes(values.value(row), key));
        }
        DataType::BinaryView => {
            let values = column.as_binary_view();
            fill(keys, |row, key| bytes(values.value(row), key));
        }
        other => unreachable!("`KvTable::open` refuses keys of type {other}"),
    }
}

fn fill(keys: &mut [Option<Vec<u8>>], append: impl Fn(usize, &mut Vec<u8>)) {
    for (row, key) in keys.iter_mut().enumerate() {
        if let Some(key) = key {
            append(row, key);
        }
    }
}

fn ints<T: ArrowPrimitiveType<Native: Into<i64>>>(column: &ArrayRef, keys: &mut [Option<Vec<u8>>]) {
    let values = column.as_primitive::<T>();
    fill(keys, |row, key| key.extend_from_slice(&int(values.value(row).into())));
}

fn unsigned<T: ArrowPrimitiveType<Native: Into<u64>>>(column: &ArrayRef, keys: &mut [Option<Vec<u8>>]) {
    let values = column.as_primitive::<T>();
    fill(keys, |row, key| key.extend_from_slice(&Into::<u64>::into(values.value(row)).to_be_bytes()));
}

fn int(value: i64) -> [u8; 8] {
    ((value as u64) ^ (1 << 63)).to_be_bytes()
}

fn date(value: i32) -> [u8; 4] {
    ((value as u32) ^ (1 << 31)).to_be_bytes()
}

fn decimal(value: i128) -> [u8; 16] {
    ((value as u128) ^ (1 << 127)).to_be_bytes()
}

fn float(value: f64) -> [u8; 8] {
    let bits = value.to_bits();
    let flipped = if bits >> 63 == 1 { !bits } else { bits ^ (1 << 63) };
    flipped.to_be_bytes()
}

fn bytes(value: &[u8], key: &mut Vec<u8>) {
    for byte in value {
        key.push(*byte);
        if *byte == 0 {
            key.push(0xFF);
        }
    }
    key.extend_from_slice(&[0, 1]);
}

/// Key parts as a caller gives them (JSON values, or text as in a query string) -> one-row columns of the key's types.
/// Fewer parts than columns: a prefix. The error says what is wrong with which part.
pub fn columns_of(parts: &[serde_json::Value], types: &[(String, DataType)]) -> Result<Vec<ArrayRef>, String> {
    if parts.len() > types.len() {
        return Err(format!("the key has {} parts, {} were given", types.len(), parts.len()));
    }
    let mut columns = Vec::with_capacity(parts.len());
    for (part, (name, kind)) in parts.iter().zip(types) {
        let column =
            column_of(part, kind).ok_or_else(|| format!("key part \"{name}\" is not a {}", kind_name(kind)))?;
        columns.push(column);
    }
    Ok(columns)
}

fn column_of(part: &serde_json::Value, kind: &DataType) -> Option<ArrayRef> {
    use serde_json::Value;
    let text = match part {
        Value::String(text) => text.clone(),
        Value::Number(n) => n.to_string(),
        Value::Bool(b) => b.to_string(),
        Value::Null | Value::Array(_) | Value::Object(_) => return None,
    };
    let column: ArrayRef = match kind {
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let decoded = base64::Engine::decode(&base64::engine::general_purpose::STANDARD, &text).ok()?;
            let mut builder = BinaryBuilder::new();
            builder.append_value(decoded);
            arrow::compute::cast(&(std::sync::Arc::new(builder.finish()) as ArrayRef), kind).ok()?
        }
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            builder.append_value(text.parse().ok()?);
            std::sync::Arc::new(builder.finish())
        }
        kind => {
            let mut builder = StringBuilder::new();
            builder.append_value(&text);
            let parsed = arrow::compute::cast(&(std::sync::Arc::new(builder.finish()) as ArrayRef), kind).ok()?;
            if parsed.is_null(0) {
                return None;
            }
            parsed
        }
    };
    Some(column)
}

fn kind_name(kind: &DataType) -> &'static str {
    match kind {
        DataType::Boolean => "boolean (true or false)",
        DataType::Float32 | DataType::Float64 | DataType::Decimal128(_, _) => "number",
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => "text",
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => "base64 text",
        DataType::Date32 => "date (2026-11-22)",
        DataType::Timestamp(_, _) => "timestamp (2026-11-22T07:00:00Z)",
        _ => "whole number",
    }
}
