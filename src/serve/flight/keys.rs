//! Keys of tables: the primary keys of materialized views; there are no foreign keys.

use crate::query::catalog::{CATALOG, TableFacts};
use arrow::array::{Int32Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::record_batch::RecordBatch;
use arrow_flight::sql::CommandGetPrimaryKeys;
use std::sync::Arc;

pub fn primary_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("catalog_name", DataType::Utf8, true),
        Field::new("db_schema_name", DataType::Utf8, true),
        Field::new("table_name", DataType::Utf8, false),
        Field::new("column_name", DataType::Utf8, false),
        Field::new("key_name", DataType::Utf8, true),
        Field::new("key_sequence", DataType::Int32, false),
    ]))
}

pub fn primary(command: &CommandGetPrimaryKeys, tables: &[TableFacts]) -> Result<RecordBatch, ArrowError> {
    let catalog = command.catalog.as_deref().is_none_or(|c| c == CATALOG);
    let asked = |t: &&TableFacts| {
        catalog && t.name == command.table && command.db_schema.as_deref().is_none_or(|s| s == t.schema)
    };
    let keys: Vec<(&TableFacts, i32, &String)> = tables
        .iter()
        .filter(asked)
        .flat_map(|t| t.key.iter().zip(1..).map(move |(column, sequence)| (t, sequence, column)))
        .collect();
    RecordBatch::try_new(
        primary_schema(),
        vec![
            Arc::new(StringArray::from_iter_values(keys.iter().map(|_| CATALOG))),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(t, _, _)| &t.schema))),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(t, _, _)| &t.name))),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(_, _, column)| column))),
            Arc::new(StringArray::from_iter_values(keys.iter().map(|(t, _, _)| format!("{}_key", t.name)))),
            Arc::new(Int32Array::from_iter_values(keys.iter().map(|(_, sequence, _)| *sequence))),
        ],
    )
}

/// Of imported and exported keys and of cross references alike.
pub fn foreign_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("pk_catalog_name", DataType::Utf8, true),
        Field::new("pk_db_schema_name", DataType::Utf8, true),
        Field::new("pk_table_name", DataType::Utf8, false),
        Field::new("pk_column_name", DataType::Utf8, false),
        Field::new("fk_catalog_name", DataType::Utf8, true),
        Field::new("fk_db_schema_name", DataType::Utf8, true),
        Field::new("fk_table_name", DataType::Utf8, false),
        Field::new("fk_column_name", DataType::Utf8, false),
        Field::new("key_sequence", DataType::Int32, false),
        Field::new("fk_key_name", DataType::Utf8, true),
        Field::new("pk_key_name", DataType::Utf8, true),
        Field::new("update_rule", DataType::UInt8, false),
        Field::new("delete_rule", DataType::UInt8, false),
    ]))
}
