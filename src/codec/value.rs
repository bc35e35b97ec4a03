//! One JSON value -> one row of a column, or the reason why not. No value is ever bent to fit.

use crate::codec::column::{BytesBuilder, ColumnBuilder, Values};
use crate::codec::failure::{Failure, Outcome};
use crate::codec::number::{self, Inexact};
use crate::codec::row::Context;
use crate::codec::skip::{compact, enter, skip};
use crate::codec::time;
use crate::types::table::ColumnType;
use base64::Engine;
use base64::engine::DecodePaddingMode;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use hashbrown::HashSet;
use jiter::{Jiter, Peek};

/// The standard alphabet; devices disagree about padding, and its absence is not ambiguous.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Reads the value that starts at `peek` (never null: nullability is the caller's) and completes one row.
pub fn read(j: &mut Jiter, peek: Peek, column: &mut ColumnBuilder, depth: u8, context: &mut Context) -> Outcome {
    let ColumnBuilder { kind, values, .. } = column;
    let from = j.current_index();
    match values {
        Values::Double(v) if peek.is_num() => {
            let value = j.known_float(peek)?;
            if !value.is_finite() {
                return Err(Failure::value(j.slice_to_current(from), kind, "out of range"));
            }
            v.push(value);
        }
        Values::Bytes(v) if peek == Peek::String && matches!(kind, ColumnType::Text) => {
            v.push(j.known_str()?.as_bytes());
        }
        Values::Timestamp(v) if peek == Peek::String => {
            let micros = time::timestamp(j.known_str()?);
            v.push(micros.map_err(|why| Failure::value(j.slice_to_current(from), kind, why))?);
        }
        Values::Timestamp(v) if peek.is_num() => {
            let text = number_text(j, peek, from)?;
            v.push(epoch(text, kind)?);
        }
        Values::Int(v) if peek.is_num() => {
            v.push(integer(number_text(j, peek, from)?, kind)?);
        }
        Values::BigInt(v) if peek.is_num() => {
            v.push(integer(number_text(j, peek, from)?, kind)?);
        }
        Values::Boolean(v) if peek == Peek::True || peek == Peek::False => v.append(j.known_bool(peek)?),
        Values::Real(v) if peek.is_num() => {
            let text = number_text(j, peek, from)?;
            v.push(real(text).ok_or_else(|| Failure::value(text, kind, "out of range"))?);
        }
        Values::Decimal(v) if peek.is_num() => {
            let text = number_text(j, peek, from)?;
            v.push(decimal(text, kind)?);
        }
        Values::Date(v) if peek == Peek::String => {
            let days = time::date(j.known_str()?);
            v.push(days.map_err(|why| Failure::value(j.slice_to_current(from), kind, why))?);
        }
        Values::Bytes(v) if matches!(kind, ColumnType::Json) => {
            skip(j, peek, depth)?;
            compact(j.slice_to_current(from), v.bytes());
            v.end();
        }
        Values::Bytes(v) if peek == Peek::String && matches!(kind, ColumnType::Bytea) => {
            let decoded = BASE64.decode_vec(j.known_str()?, v.bytes());
            decoded.map_err(|_| Failure::value(j.slice_to_current(from), kind, "not base64"))?;
            v.end();
        }
        Values::Struct(row) if peek == Peek::Object => row.read(j, depth, context)?,
        Values::Array { ends, element } if peek == Peek::Array => {
            array(j, element, depth, context)?;
            ends.push(element.len());
        }
        Values::Map { ends, keys, value } if peek == Peek::Object => {
            map(j, ends.last(), keys, value, depth, context)?;
            ends.push(keys.len());
        }
        _ => {
            // The whole value is read first: text that is no JSON at all is a syntax reject, not a wrong type.
            skip(j, peek, depth)?;
            return Err(Failure::mismatch(j.slice_to_current(from), kind));
        }
    }
    column.push_valid();
    Ok(())
}

/// The row of `_extra`: NULL when the message had no unknown field.
pub fn push_extra(column: &mut ColumnBuilder, inside: &[u8]) {
    let Values::Bytes(v) = &mut column.values else { unreachable!("_extra is a JSON column") };
    if inside.is_empty() {
        return column.push_null();
    }
    v.bytes().push(b'{');
    v.bytes().extend_from_slice(inside);
    v.bytes().push(b'}');
    v.end();
    column.push_valid();
}

fn array(j: &mut Jiter, element: &mut ColumnBuilder, depth: u8, context: &mut Context) -> Outcome {
    let inside = enter(depth)?;
    let mut index = 0;
    let mut next = j.known_array()?;
    while let Some(peek) = next {
        nullable(j, peek, element, inside, context).map_err(|f| f.at_index(index))?;
        index += 1;
        next = j.array_step()?;
    }
    Ok(())
}

/// Keys up to which a duplicate is looked for one by one; above, a set keeps hostile maps from costing their square.
const KEYS_COMPARED_MAX: usize = 32;

/// `first`: the entry with which this map begins.
fn map(
    j: &mut Jiter,
    first: usize,
    keys: &mut BytesBuilder,
    value: &mut ColumnBuilder,
    depth: u8,
    context: &mut Context,
) -> Outcome {
    let inside = enter(depth)?;
    let mut seen: HashSet<Box<str>> = HashSet::new();
    let mut key = j.known_object()?;
    while let Some(name) = key {
        let entry = keys.len();
        let is_new = if entry - first < KEYS_COMPARED_MAX {
            (first..entry).all(|e| keys.text(e) != name)
        } else {
            if seen.is_empty() {
                seen.extend((first..entry).map(|e| keys.text(e).into()));
            }
            seen.insert(name.into())
        };
        if !is_new {
            return Err(Failure::syntax(format!("duplicate field \"{name}\"")));
        }
        keys.push(name.as_bytes());
        let peek = j.peek()?;
        nullable(j, peek, value, inside, context).map_err(|f| f.in_field(keys.text(entry)))?;
        key = j.next_key()?;
    }
    Ok(())
}

/// A value that may be null: an element of an array or a value of a map.
fn nullable(j: &mut Jiter, peek: Peek, column: &mut ColumnBuilder, depth: u8, context: &mut Context) -> Outcome {
    if peek != Peek::Null {
        return read(j, peek, column, depth, context);
    }
    j.known_null()?;
    if !column.nullable {
        return Err(Failure::null());
    }
    column.push_null();
    Ok(())
}

/// The number's own text, so that nothing exact passes through a float.
fn number_text<'j>(j: &mut Jiter<'j>, peek: Peek, from: usize) -> Outcome<&'j [u8]> {
    j.known_number_bytes(peek)?;
    Ok(j.slice_to_current(from))
}

fn integer<T: TryFrom<i128>>(text: &[u8], kind: &ColumnType) -> Outcome<T> {
    match number::integer(text, 0) {
        Ok(value) => T::try_from(value).map_err(|_| Failure::value(text, kind, "out of range")),
        Err(Inexact::Fraction) => Err(Failure::value(text, kind, "it has a fraction")),
        Err(Inexact::TooLarge) => Err(Failure::value(text, kind, "out of range")),
    }
}

/// Straight from the text: by way of f64 it would be rounded twice.
fn real(text: &[u8]) -> Option<f32> {
    let value: f32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    value.is_finite().then_some(value)
}

fn decimal(text: &[u8], kind: &ColumnType) -> Outcome<i128> {
    let ColumnType::Decimal(precision, scale) = kind else { unreachable!("decimal values belong to a DECIMAL") };
    match number::integer(text, i64::from(*scale)) {
        Ok(value) if value.unsigned_abs() < 10u128.pow(u32::from(*precision)) => Ok(value),
        Ok(_) | Err(Inexact::TooLarge) => Err(Failure::value(text, kind, "out of range")),
        Err(Inexact::Fraction) => Err(Failure::value(text, kind, "too many fractional digits")),
    }
}

fn epoch(text: &[u8], kind: &ColumnType) -> Outcome<i64> {
    match kind {
        ColumnType::Timestamp(Some(unit)) => time::epoch(text, *unit).map_err(|why| Failure::value(text, kind, why)),
        _ => Err(Failure::value(text, kind, "a number needs an epoch_unit")),
    }
}
