//! Keys as bytes: group columns encoded so that equal keys are equal bytes, and rows of a batch grouped by them.
//!
//! A key of one text column is that text's bytes; every other key is in Arrow's row format, which is the same for every
//! converter of equal types. So shares of several slots compare their keys by bytes. NULL is a value of its own: NULL keys are groups.

use crate::types::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringArray};
use arrow::datatypes::{DataType, Field, Float32Type, Float64Type};
use arrow::row::{RowConverter, SortField};
use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;
use std::sync::Arc;

#[derive(Debug)]
pub struct KeyCodec {
    converter: RowConverter,
    /// The key is one text column.
    text: bool,
}

/// The key of NULL where a text is its own key: no text is these bytes.
const NULL_TEXT: &[u8] = &[0xFF];

impl KeyCodec {
    pub fn new<'a>(fields: impl Iterator<Item = &'a Field>) -> Result<Self> {
        let mut sort_fields: Vec<SortField> = Vec::new();
        let mut types = Vec::new();
        for field in fields {
            types.push(field.data_type().clone());
            let sort_field = SortField::new(field.data_type().clone());
            if !RowConverter::supports_fields(std::slice::from_ref(&sort_field)) {
                return Err(Error::refused(
                    format!("column \"{}\" of type {} cannot be part of a key", field.name(), field.data_type()),
                    "Group by a scalar part of it.",
                ));
            }
            sort_fields.push(sort_field);
        }
        if sort_fields.is_empty() {
            return Err(Error::refused(
                "a materialized view without a key cannot be kept",
                "Group by at least one column.",
            ));
        }
        Ok(KeyCodec { converter: RowConverter::new(sort_fields)?, text: types == [DataType::Utf8] })
    }

    /// Whether a key is one text and therefore its own encoding, so that no copy of it is kept.
    pub fn is_text(&self) -> bool {
        self.text
    }

    pub fn encode(&self, columns: &[ArrayRef]) -> Result<BinaryArray> {
        if self.text {
            let texts = columns[0].as_string_opt();
            let unlike = || Error::Failed(format!("a key column came as {} and not as text", columns[0].data_type()));
            return Ok(text_keys(texts.ok_or_else(unlike)?));
        }
        let columns: Vec<ArrayRef> = columns.iter().map(canonical).collect();
        Ok(self.converter.convert_columns(&columns)?.try_into_binary()?)
    }
}

/// Copies nothing, unless a NULL is among them.
pub fn text_keys(texts: &StringArray) -> BinaryArray {
    match texts.null_count() {
        0 => BinaryArray::from(texts.clone()),
        _ => BinaryArray::from_iter_values(texts.iter().map(|t| t.map_or(NULL_TEXT, str::as_bytes))),
    }
}

/// -0.0 and 0.0 are one key, as in DataFusion's GROUP BY; the key is shown as 0.0. NaNs of equal bits are one key.
pub fn canonical(column: &ArrayRef) -> ArrayRef {
    match column.data_type() {
        DataType::Float64 => {
            Arc::new(column.as_primitive::<Float64Type>().unary::<_, Float64Type>(|v| if v == 0.0 { 0.0 } else { v }))
        }
        DataType::Float32 => {
            Arc::new(column.as_primitive::<Float32Type>().unary::<_, Float32Type>(|v| if v == 0.0 { 0.0 } else { v }))
        }
        _ => Arc::clone(column),
    }
}

/// The distinct keys of some rows, numbered in order of first appearance (so that state does not depend on hash seeds).
pub struct Groups {
    /// Group of each row.
    pub of_row: Vec<usize>,
    /// First row of each group.
    pub first: Vec<u32>,
    /// Hash of each group's key.
    pub hashes: Vec<u64>,
}

impl Groups {
    pub fn of(keys: &BinaryArray, hasher: &DefaultHashBuilder) -> Groups {
        let mut table: HashTable<u32> = HashTable::new();
        let mut groups = Groups { of_row: Vec::with_capacity(keys.len()), first: Vec::new(), hashes: Vec::new() };
        for row in 0..keys.len() {
            let key = keys.value(row);
            let hash = hasher.hash_one(key);
            let Groups { first, hashes, .. } = &groups;
            let same = |g: &u32| hashes[*g as usize] == hash && keys.value(first[*g as usize] as usize) == key;
            if let Some(g) = table.find(hash, same) {
                groups.of_row.push(*g as usize);
                continue;
            }
            let group = groups.first.len();
            groups.of_row.push(group);
            groups.first.push(row as u32);
            groups.hashes.push(hash);
            table.insert_unique(hash, group as u32, |g| groups.hashes[*g as usize]);
        }
        groups
    }

    pub fn len(&self) -> usize {
        self.first.len()
    }

    /// The same groups under new numbers: `order` lists the old numbers.
    pub fn renumbered(self, order: &[usize]) -> Groups {
        let mut number_of = vec![0; order.len()];
        for (new, old) in order.iter().enumerate() {
            number_of[*old] = new;
        }
        Groups {
            of_row: self.of_row.into_iter().map(|old| number_of[old]).collect(),
            first: order.iter().map(|old| self.first[*old]).collect(),
            hashes: order.iter().map(|old| self.hashes[*old]).collect(),
        }
    }

    /// Whether every row is a group of its own.
    pub fn all_distinct(&self) -> bool {
        self.first.len() == self.of_row.len()
    }
}
