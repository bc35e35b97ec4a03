//! A row as it is stored: a format byte, the version it was written at, and the row as JSON text.
//!
//! JSON because that is what readers get: GET /api/v1/kv hands the stored text out without decoding it. Numbers are JSON
//! numbers; decimals, dates, timestamps (RFC 3339, UTC) are text, bytes are base64, and so are floats that JSON lacks
//! ("NaN", "Infinity", "-Infinity").

use crate::sinks::kv::store::Version;
use crate::types::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, RecordBatch};
use arrow::datatypes::{
    DataType, Float32Type, Float64Type, Int8Type, Int16Type, Int32Type, Int64Type, UInt8Type, UInt16Type, UInt32Type,
    UInt64Type,
};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use base64::Engine;
use std::fmt::Write;

/// Bump when the bytes before the JSON text change.
const FORMAT: u8 = 1;
const HEAD_BYTES: usize = 17;

/// One value of the store, as it comes out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KvRow {
    pub version: Version,
    /// A JSON object with every column of the table.
    pub json: String,
}

impl KvRow {
    pub fn decode(bytes: &[u8]) -> Result<KvRow> {
        let damaged = || {
            let hint = "The store is derived data: move its directory away and it is written again from state.";
            Error::refused("a KV value cannot be read", hint)
        };
        if bytes.first() != Some(&FORMAT) || bytes.len() < HEAD_BYTES {
            return Err(damaged());
        }
        let number = |at: usize| u64::from_be_bytes(std::array::from_fn(|i| bytes[at + i]));
        let json = String::from_utf8(bytes[HEAD_BYTES..].to_vec()).map_err(|_| damaged())?;
        Ok(KvRow { version: Version { incarnation: number(1), sequence: number(9) }, json })
    }
}

/// One stored value per row of `rows`.
pub fn encode(rows: &RecordBatch, version: Version) -> Result<Vec<Vec<u8>>> {
    let schema = rows.schema();
    let writers = schema
        .fields()
        .iter()
        .zip(rows.columns())
        .map(|(field, column)| Ok((json_text(field.name()), JsonColumn::new(column)?)))
        .collect::<Result<Vec<_>>>()?;
    let mut values = Vec::with_capacity(rows.num_rows());
    let mut text = String::new();
    for row in 0..rows.num_rows() {
        text.clear();
        for (index, (name, column)) in writers.iter().enumerate() {
            text.push(if index == 0 { '{' } else { ',' });
            text.push_str(name);
            text.push(':');
            column.write(row, &mut text)?;
        }
        text.push_str(if writers.is_empty() { "{}" } else { "}" });
        let mut value = Vec::with_capacity(HEAD_BYTES + text.len());
        value.push(FORMAT);
        value.extend_from_slice(&version.incarnation.to_be_bytes());
        value.extend_from_slice(&version.sequence.to_be_bytes());
        value.extend_from_slice(text.as_bytes());
        values.push(value);
    }
    Ok(values)
}

/// A column with its way to JSON chosen once, so that rows cost no dispatch on Arrow types.
enum JsonColumn<'a> {
    Null,
    Boolean(&'a ArrayRef),
    /// Integers and other values whose display text is a JSON number.
    Number(ArrayFormatter<'a>, &'a ArrayRef),
    Float(Vec<Option<f64>>),
    Float32(Vec<Option<f32>>),
    Text(&'a ArrayRef),
    Bytes(ArrayRef),
    Struct(Vec<(String, JsonColumn<'a>)>, &'a ArrayRef),
    List(Vec<(usize, usize)>, Box<JsonColumn<'a>>, &'a ArrayRef),
    Map(Vec<(usize, usize)>, Box<JsonColumn<'a>>, Box<JsonColumn<'a>>, &'a ArrayRef),
    /// Everything else: the display text, quoted.
    Display(ArrayFormatter<'a>, &'a ArrayRef),
}

impl<'a> JsonColumn<'a> {
    fn new(column: &'a ArrayRef) -> Result<JsonColumn<'a>> {
        Ok(match column.data_type() {
            DataType::Null => JsonColumn::Null,
            DataType::Boolean => JsonColumn::Boolean(column),
            DataType::Int8
            | DataType::Int16
            | DataType::Int32
            | DataType::Int64
            | DataType::UInt8
            | DataType::UInt16
            | DataType::UInt32
            | DataType::UInt64 => JsonColumn::Number(formatter(column)?, column),
            DataType::Float32 => JsonColumn::Float32(column.as_primitive::<Float32Type>().iter().collect()),
            DataType::Float64 => JsonColumn::Float(column.as_primitive::<Float64Type>().iter().collect()),
            DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => JsonColumn::Text(column),
            DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
                JsonColumn::Bytes(arrow::compute::cast(column, &DataType::Binary)?)
            }
            DataType::Struct(fields) => {
                let parts = fields.iter().zip(column.as_struct().columns());
                let parts = parts.map(|(f, c)| Ok((json_text(f.name()), JsonColumn::new(c)?)));
                JsonColumn::Struct(parts.collect::<Result<_>>()?, column)
            }
            DataType::List(_) => {
                let list = column.as_list::<i32>();
                JsonColumn::List(ranges(list.value_offsets()), Box::new(JsonColumn::new(list.values())?), column)
            }
            DataType::Map(_, _) => {
                let map = column.as_map();
                let (keys, values) = (JsonColumn::new(map.keys())?, JsonColumn::new(map.values())?);
                JsonColumn::Map(ranges(map.value_offsets()), Box::new(keys), Box::new(values), column)
            }
            _ => JsonColumn::Display(formatter(column)?, column),
        })
    }

    fn write(&self, row: usize, out: &mut String) -> Result<()> {
        match self {
            JsonColumn::Null => out.push_str("null"),
            JsonColumn::Float(values) => match values[row] {
                None => out.push_str("null"),
                Some(value) => write_float(value, value, out),
            },
            JsonColumn::Float32(values) => match values[row] {
                None => out.push_str("null"),
                Some(value) => write_float(value as f64, value, out),
            },
            JsonColumn::Bytes(column) if column.is_null(row) => out.push_str("null"),
            JsonColumn::Boolean(column)
            | JsonColumn::Number(_, column)
            | JsonColumn::Text(column)
            | JsonColumn::Struct(_, column)
            | JsonColumn::List(_, _, column)
            | JsonColumn::Map(_, _, _, column)
            | JsonColumn::Display(_, column)
                if column.is_null(row) =>
            {
                out.push_str("null")
            }
            JsonColumn::Boolean(column) => out.push_str(if column.as_boolean().value(row) { "true" } else { "false" }),
            JsonColumn::Number(formatter, column) => write_integer(formatter, column, row, out),
            JsonColumn::Text(column) => write_text(text_of(column, row), out),
            JsonColumn::Bytes(column) => {
                out.push('"');
                base64::engine::general_purpose::STANDARD.encode_string(column.as_binary::<i32>().value(row), out);
                out.push('"');
            }
            JsonColumn::Struct(parts, _) => {
                out.push('{');
                for (index, (name, part)) in parts.iter().enumerate() {
                    if index > 0 {
                        out.push(',');
                    }
                    out.push_str(name);
                    out.push(':');
                    part.write(row, out)?;
                }
                out.push('}');
            }
            JsonColumn::List(ranges, values, _) => {
                out.push('[');
                for at in ranges[row].0..ranges[row].1 {
                    if at > ranges[row].0 {
                        out.push(',');
                    }
                    values.write(at, out)?;
                }
                out.push(']');
            }
            JsonColumn::Map(ranges, keys, values, _) => {
                out.push('{');
                for at in ranges[row].0..ranges[row].1 {
                    if at > ranges[row].0 {
                        out.push(',');
                    }
                    keys.write_as_text(at, out)?;
                    out.push(':');
                    values.write(at, out)?;
                }
                out.push('}');
            }
            JsonColumn::Display(formatter, _) => write_text(&formatter.value(row).to_string(), out),
        }
        Ok(())
    }

    /// JSON wants text for the keys of an object, whatever their type.
    fn write_as_text(&self, row: usize, out: &mut String) -> Result<()> {
        let mut value = String::new();
        self.write(row, &mut value)?;
        if value.starts_with('"') {
            out.push_str(&value);
        } else {
            write_text(&value, out);
        }
        Ok(())
    }
}

fn formatter(column: &ArrayRef) -> Result<ArrayFormatter<'_>> {
    // The options live as long as the process: ArrayFormatter borrows them.
    static OPTIONS: std::sync::LazyLock<FormatOptions<'static>> = std::sync::LazyLock::new(FormatOptions::new);
    Ok(ArrayFormatter::try_new(column.as_ref(), &OPTIONS)?)
}

fn ranges(offsets: &[i32]) -> Vec<(usize, usize)> {
    offsets.windows(2).map(|w| (w[0] as usize, w[1] as usize)).collect()
}

fn write_integer(formatter: &ArrayFormatter<'_>, column: &ArrayRef, row: usize, out: &mut String) {
    macro_rules! number {
        ($($kind:pat => $type:ty),*) => {
            match column.data_type() {
                $($kind => write!(out, "{}", column.as_primitive::<$type>().value(row)),)*
                _ => write!(out, "{}", formatter.value(row)),
            }
        };
    }
    number!(
        DataType::Int8 => Int8Type, DataType::Int16 => Int16Type, DataType::Int32 => Int32Type,
        DataType::Int64 => Int64Type, DataType::UInt8 => UInt8Type, DataType::UInt16 => UInt16Type,
        DataType::UInt32 => UInt32Type, DataType::UInt64 => UInt64Type
    )
    .expect("writing to a String cannot fail");
}

/// `shown` has the shortest text of its own width: 0.1 as REAL is 0.1, not 0.10000000149011612.
fn write_float(value: f64, shown: impl std::fmt::Debug, out: &mut String) {
    if value.is_nan() {
        out.push_str("\"NaN\"");
    } else if value.is_infinite() {
        out.push_str(if value > 0.0 { "\"Infinity\"" } else { "\"-Infinity\"" });
    } else {
        // Debug writes 1e300 and 1.0: JSON numbers that read back as the same float.
        write!(out, "{shown:?}").expect("writing to a String cannot fail");
    }
}

fn text_of(column: &ArrayRef, row: usize) -> &str {
    match column.data_type() {
        DataType::LargeUtf8 => column.as_string::<i64>().value(row),
        DataType::Utf8View => column.as_string_view().value(row),
        _ => column.as_string::<i32>().value(row),
    }
}

fn write_text(text: &str, out: &mut String) {
    out.push_str(&json_text(text));
}

fn json_text(text: &str) -> String {
    serde_json::to_string(text).expect("text is JSON")
}
