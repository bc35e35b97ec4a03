//! What a message looks like: the columns of a `CREATE TABLE`, as SQL declares them and as the codec decodes them.

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use std::sync::Arc;

/// Unit of a number that stands for a TIMESTAMP. Without one, a number in a TIMESTAMP column is a reject.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EpochUnit {
    Seconds,
    Millis,
    Micros,
    Nanos,
}

#[derive(Clone, Debug, PartialEq)]
pub enum ColumnType {
    Boolean,
    Int,
    BigInt,
    Real,
    Double,
    Decimal(u8, i8),
    Text,
    /// Base64 text in JSON.
    Bytea,
    Date,
    /// Microseconds UTC. `Option`: the unit in which numbers are read.
    Timestamp(Option<EpochUnit>),
    /// Any JSON value, kept as its compact text; read with the functions of datafusion-functions-json.
    Json,
    Struct(Vec<Column>),
    /// Element type; elements may be NULL unless declared NOT NULL.
    Array(Box<Column>),
    /// TEXT keys, values of this type (the column's name is "value").
    Map(Box<Column>),
}

#[derive(Clone, Debug, PartialEq)]
pub struct Column {
    pub name: Arc<str>,
    pub kind: ColumnType,
    pub nullable: bool,
}

/// Which messages of a source a table takes: all conditions must hold. A table without conditions takes the rest.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Route {
    pub conditions: Vec<RouteCondition>,
}

#[derive(Clone, Debug, PartialEq)]
pub struct RouteCondition {
    pub subject: RouteSubject,
    /// The subject equals one of these.
    pub values: Vec<RouteValue>,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RouteSubject {
    /// A field of the message, by path: `type`, or `header.kind` as ["header", "kind"].
    Field(Vec<Arc<str>>),
    /// `_topic`
    Topic,
}

#[derive(Clone, Debug, PartialEq)]
pub enum RouteValue {
    Text(Arc<str>),
    Int(i64),
    Bool(bool),
}

/// One `CREATE TABLE`: the shape of the messages of a source that its route selects.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    pub name: Arc<str>,
    pub source: Arc<str>,
    pub route: Option<Route>,
    pub columns: Vec<Column>,
}

/// Name of the column that keeps unknown fields under `unknown_fields = "capture"`.
pub const EXTRA_COLUMN: &str = "_extra";

/// Meta columns of every table, after its own columns and never part of `*`. Order matters: `Table::arrow_schema` and
/// the engine build them in this order, `__msg` last.
pub const META_COLUMNS: [&str; 9] =
    ["_source", "_topic", "_partition", "_position", "_key", "_headers", "_timestamp", "_received_at", "_payload"];

pub fn timestamp_type() -> DataType {
    DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
}

pub fn meta_fields() -> Vec<Field> {
    vec![
        Field::new("_source", DataType::Utf8, false),
        Field::new("_topic", DataType::Utf8, true),
        Field::new("_partition", DataType::Utf8, false),
        Field::new("_position", DataType::Int64, false),
        Field::new("_key", DataType::Binary, true),
        // JSON text: [["name","value"],...]; values that are not UTF-8 as base64 in {"base64": ...}
        Field::new("_headers", DataType::Utf8, true),
        Field::new("_timestamp", timestamp_type(), true),
        Field::new("_received_at", timestamp_type(), false),
        Field::new("_payload", DataType::Binary, true),
    ]
}

impl ColumnType {
    pub fn arrow(&self) -> DataType {
        match self {
            ColumnType::Boolean => DataType::Boolean,
            ColumnType::Int => DataType::Int32,
            ColumnType::BigInt => DataType::Int64,
            ColumnType::Real => DataType::Float32,
            ColumnType::Double => DataType::Float64,
            ColumnType::Decimal(p, s) => DataType::Decimal128(*p, *s),
            ColumnType::Text | ColumnType::Json => DataType::Utf8,
            ColumnType::Bytea => DataType::Binary,
            ColumnType::Date => DataType::Date32,
            ColumnType::Timestamp(_) => timestamp_type(),
            ColumnType::Struct(columns) => DataType::Struct(columns.iter().map(Column::field).collect::<Fields>()),
            ColumnType::Array(element) => {
                DataType::List(Arc::new(Field::new("item", element.kind.arrow(), element.nullable)))
            }
            ColumnType::Map(value) => DataType::Map(
                Arc::new(Field::new(
                    "entries",
                    DataType::Struct(Fields::from(vec![
                        Field::new("key", DataType::Utf8, false),
                        Field::new("value", value.kind.arrow(), value.nullable),
                    ])),
                    false,
                )),
                false,
            ),
        }
    }
}

impl Column {
    pub fn field(&self) -> Field {
        Field::new(self.name.as_ref(), self.kind.arrow(), self.nullable)
    }
}

impl Table {
    /// The declared columns alone: what the codec decodes.
    pub fn data_schema(&self) -> SchemaRef {
        Arc::new(Schema::new(self.columns.iter().map(Column::field).collect::<Vec<_>>()))
    }

    /// Declared columns, then meta columns, then `__msg`: the leaf that plans read.
    pub fn leaf_schema(&self) -> SchemaRef {
        let mut fields: Vec<Field> = self.columns.iter().map(Column::field).collect();
        fields.extend(meta_fields());
        fields.push(Field::new(crate::types::lineage::MSG_COLUMN, DataType::UInt32, false));
        Arc::new(Schema::new(fields))
    }
}
