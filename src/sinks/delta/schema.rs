//! Arrow types and Delta types: what a column becomes in the lake, and how a table may grow without breaking.
//!
//! Pure. `lake_schema` says how our columns are stored (timestamps in microseconds UTC, everything nullable),
//! `schema_json` and `arrow_schema` translate to and from Delta's own notation. A statement's column against the table's:
//!
//! | the statement has                                    | then                                                       |
//! |------------------------------------------------------|------------------------------------------------------------|
//! | a column or a struct's field the table has not        | `merge` adds it, in the commit of the first rows that have it |
//! | not a column the table has                            | it is NULL in our rows                                     |
//! | the same type                                         | as it is                                                   |
//! | a narrower type, every value of which the wider holds | `settle`: stored in the table's type                       |
//! | a wider whole number of up to 32 bits                 | `merge` widens the table's: Parquet stores them alike      |
//! | any other type                                        | refused at the start, with the ways out                    |

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef, TimeUnit};
use deltalake::kernel::StructType;
use deltalake::kernel::engine::arrow_conversion::TryIntoArrow;
use serde_json::{Value, json};
use std::sync::Arc;

/// A column that cannot be stored, or cannot be stored in this table: what is wrong, and what to do.
#[derive(Debug, PartialEq)]
pub(super) struct Misfit {
    pub what: String,
    pub hint: String,
}

impl Misfit {
    fn new(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Misfit { what: what.into(), hint: hint.into() }
    }
}

/// Parquet files of a table without column mapping cannot hold these in a column name.
const FORBIDDEN_IN_NAMES: [char; 10] = [' ', ',', ';', '{', '}', '(', ')', '\n', '\t', '='];

/// How rows of `schema` are stored. Every column and nested field becomes nullable, so that a table can always grow.
pub(super) fn lake_schema(schema: &Schema) -> Result<SchemaRef, Misfit> {
    if schema.fields().is_empty() {
        return Err(Misfit::new("there are no columns", "Select at least one column."));
    }
    let fields = lake_fields(schema.fields(), "")?;
    Ok(Arc::new(Schema::new(fields)))
}

fn lake_fields(fields: &Fields, path: &str) -> Result<Fields, Misfit> {
    let mut seen: Vec<(String, &str)> = Vec::with_capacity(fields.len());
    let mut stored = Vec::with_capacity(fields.len());
    for field in fields {
        let name = field.name();
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if name.is_empty() || name.contains(FORBIDDEN_IN_NAMES) {
            return Err(Misfit::new(
                format!("column name \"{path}\" cannot be stored"),
                "Give it an alias (AS name) of letters, digits and underscores.",
            ));
        }
        let folded = name.to_lowercase();
        if let Some((_, other)) = seen.iter().find(|(f, _)| *f == folded) {
            return Err(Misfit::new(
                format!("columns \"{other}\" and \"{path}\" differ only in case"),
                "Delta column names ignore case; rename one with AS.",
            ));
        }
        seen.push((folded, name));
        stored.push(Field::new(name, lake_type(&path, field.data_type())?, true));
    }
    Ok(stored.into())
}

/// Names of list and map parts as Delta's own readers give them, so that files and readers agree.
pub(super) const LIST_ELEMENT: &str = "element";
const MAP_ENTRIES: &str = "key_value";

fn lake_type(path: &str, from: &DataType) -> Result<DataType, Misfit> {
    use DataType::*;
    Ok(match from {
        Boolean | Int8 | Int16 | Int32 | Int64 | Float32 | Float64 | Date32 | Utf8 | Binary => from.clone(),
        // Unsigned numbers have no Delta type: the next wider signed one, checked value by value for the widest.
        UInt8 => Int16,
        UInt16 => Int32,
        UInt32 | UInt64 => Int64,
        Float16 => Float32,
        LargeUtf8 | Utf8View => Utf8,
        LargeBinary | BinaryView | FixedSizeBinary(_) => Binary,
        Date64 => Date32,
        // Never timestampNtz: it would raise the table's protocol and lose readers. The session is UTC.
        Timestamp(_, _) => Timestamp(TimeUnit::Microsecond, Some("UTC".into())),
        Decimal32(p, s) | Decimal64(p, s) | Decimal128(p, s) | Decimal256(p, s) if *s >= 0 && *p <= 38 => {
            Decimal128(*p, *s)
        }
        Dictionary(_, value) => lake_type(path, value)?,
        RunEndEncoded(_, value) => lake_type(path, value.data_type())?,
        List(e) | LargeList(e) | ListView(e) | LargeListView(e) | FixedSizeList(e, _) => {
            List(Arc::new(Field::new(LIST_ELEMENT, lake_type(path, e.data_type())?, true)))
        }
        Struct(fields) if !fields.is_empty() => Struct(lake_fields(fields, path)?),
        Map(entries, _) => {
            let Struct(parts) = entries.data_type() else { unreachable!("a map's entries are a struct") };
            let key = Field::new("key", lake_type(path, parts[0].data_type())?, false);
            let value = Field::new("value", lake_type(path, parts[1].data_type())?, true);
            Map(Arc::new(Field::new(MAP_ENTRIES, Struct(vec![key, value].into()), false)), false)
        }
        Null => {
            return Err(Misfit::new(
                format!("column \"{path}\" is always NULL and has no type"),
                "Give it one: CAST(NULL AS TEXT).",
            ));
        }
        other => {
            return Err(Misfit::new(
                format!("column \"{path}\" has type {other}, which a Delta table cannot hold"),
                "CAST it, for instance to TEXT, BIGINT or DOUBLE.",
            ));
        }
    })
}

/// Delta's notation of a schema made by `lake_schema`.
pub(super) fn schema_json(schema: &Schema) -> Value {
    json!({ "type": "struct", "fields": fields_json(schema.fields()) })
}

fn fields_json(fields: &Fields) -> Vec<Value> {
    fields
        .iter()
        .map(|f| json!({ "name": f.name(), "type": type_json(f.data_type()), "nullable": true, "metadata": {} }))
        .collect()
}

fn type_json(t: &DataType) -> Value {
    use DataType::*;
    match t {
        Boolean => json!("boolean"),
        Int8 => json!("byte"),
        Int16 => json!("short"),
        Int32 => json!("integer"),
        Int64 => json!("long"),
        Float32 => json!("float"),
        Float64 => json!("double"),
        Date32 => json!("date"),
        Utf8 => json!("string"),
        Binary => json!("binary"),
        Timestamp(_, _) => json!("timestamp"),
        Decimal128(p, s) => json!(format!("decimal({p},{s})")),
        List(e) => json!({ "type": "array", "elementType": type_json(e.data_type()), "containsNull": true }),
        Struct(fields) => json!({ "type": "struct", "fields": fields_json(fields) }),
        Map(entries, _) => {
            let Struct(parts) = entries.data_type() else { unreachable!("a map's entries are a struct") };
            json!({
                "type": "map",
                "keyType": type_json(parts[0].data_type()),
                "valueType": type_json(parts[1].data_type()),
                "valueContainsNull": true,
            })
        }
        other => unreachable!("{other} does not come out of lake_type"),
    }
}

/// The Arrow schema under which a table is read: exactly what the scan gives.
pub(super) fn arrow_schema(schema: &Value) -> Result<SchemaRef, String> {
    let parsed: StructType = serde_json::from_value(schema.clone()).map_err(|e| e.to_string())?;
    let arrow: Schema = (&parsed).try_into_arrow().map_err(|e| e.to_string())?;
    Ok(Arc::new(arrow))
}

/// How our rows are stored in a table that is there: in the table's types where those hold every value of ours.
pub(super) fn settle(stored: &Schema, table: &Value) -> Result<SchemaRef, String> {
    let table = arrow_schema(table)?;
    Ok(Arc::new(Schema::new(settle_fields(stored.fields(), table.fields()))))
}

fn settle_fields(stored: &Fields, table: &Fields) -> Fields {
    let settle = |field: &Arc<Field>| match table.iter().find(|t| t.name() == field.name()) {
        Some(known) => Arc::new(Field::new(field.name(), settle_type(field.data_type(), known.data_type()), true)),
        None => field.clone(),
    };
    stored.iter().map(settle).collect()
}

fn settle_type(stored: &DataType, table: &DataType) -> DataType {
    use DataType::*;
    match (stored, table) {
        (Struct(ours), Struct(theirs)) => Struct(settle_fields(ours, theirs)),
        (List(ours), List(theirs)) => {
            List(Arc::new(Field::new(LIST_ELEMENT, settle_type(ours.data_type(), theirs.data_type()), true)))
        }
        (ours, theirs) if holds_all(theirs, ours) => theirs.clone(),
        (ours, _) => ours.clone(),
    }
}

/// Every value of `narrow` is, exactly, one of `wide`.
fn holds_all(wide: &DataType, narrow: &DataType) -> bool {
    use DataType::*;
    match (narrow, wide) {
        (Int8, Int16 | Int32 | Int64 | Float32 | Float64) => true,
        (Int16, Int32 | Int64 | Float32 | Float64) => true,
        (Int32, Int64 | Float64) => true,
        (Float32, Float64) => true,
        (Decimal128(p, s), Decimal128(wp, ws)) => ws >= s && *wp as i16 - *ws as i16 >= *p as i16 - *s as i16,
        _ => false,
    }
}

/// Whole numbers that Parquet stores in the same 32 bits, by how much they hold.
fn small_integer(t: &Value) -> Option<usize> {
    ["byte", "short", "integer"].iter().position(|name| t == name)
}

/// The table's schema with what `wanted` adds to it; `None`: the table already holds all of it.
pub(super) fn merge(table: &Value, wanted: &Value) -> Result<Option<Value>, Misfit> {
    let mut merged = table.clone();
    let grown = merge_fields(&mut merged, wanted, "")?;
    Ok(grown.then_some(merged))
}

fn merge_fields(table: &mut Value, wanted: &Value, path: &str) -> Result<bool, Misfit> {
    let (Some(table_fields), Some(wanted_fields)) = (table["fields"].as_array_mut(), wanted["fields"].as_array())
    else {
        return Err(Misfit::new("the table's schema has no fields", "The table's log is not one we can read."));
    };
    let mut grown = false;
    for field in wanted_fields {
        let name = field["name"].as_str().unwrap_or_default();
        let path = if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
        let folded = name.to_lowercase();
        let known = table_fields.iter_mut().find(|f| f["name"].as_str().is_some_and(|n| n.to_lowercase() == folded));
        match known {
            None => {
                table_fields.push(field.clone());
                grown = true;
            }
            Some(known) if known["name"] != field["name"] => {
                return Err(Misfit::new(
                    format!("column \"{path}\" is called \"{}\" in the table", known["name"].as_str().unwrap_or("")),
                    "Delta column names ignore case; use the table's spelling (AS).",
                ));
            }
            Some(known) => grown |= merge_types(&mut known["type"], &field["type"], &path)?,
        }
    }
    Ok(grown)
}

fn merge_types(table: &mut Value, wanted: &Value, path: &str) -> Result<bool, Misfit> {
    if table == wanted {
        return Ok(false);
    }
    if let (Some(held), Some(asked)) = (small_integer(table), small_integer(wanted)) {
        if asked > held {
            *table = wanted.clone();
        }
        return Ok(asked > held);
    }
    let kind = |t: &Value| t["type"].as_str().map(str::to_owned);
    match (kind(table).as_deref(), kind(wanted).as_deref()) {
        (Some("struct"), Some("struct")) => merge_fields(table, wanted, path),
        (Some("array"), Some("array")) => merge_types(&mut table["elementType"], &wanted["elementType"], path),
        (Some("map"), Some("map")) if table["keyType"] == wanted["keyType"] => {
            merge_types(&mut table["valueType"], &wanted["valueType"], path)
        }
        _ => Err(Misfit::new(
            format!(
                "column \"{path}\" is {} in the table and {} in the statement",
                type_name(table),
                type_name(wanted)
            ),
            "CAST the column to the table's type, give it another name (AS), or deliver into a new table.",
        )),
    }
}

/// For people: `long`, `array<string>`, `struct<a: long, b: string>`.
pub(super) fn type_name(t: &Value) -> String {
    match (t.as_str(), t["type"].as_str()) {
        (Some(primitive), _) => primitive.to_owned(),
        (_, Some("array")) => format!("array<{}>", type_name(&t["elementType"])),
        (_, Some("map")) => format!("map<{}, {}>", type_name(&t["keyType"]), type_name(&t["valueType"])),
        (_, Some("struct")) => {
            let fields: Vec<String> = t["fields"]
                .as_array()
                .into_iter()
                .flatten()
                .map(|f| format!("{}: {}", f["name"].as_str().unwrap_or("?"), type_name(&f["type"])))
                .collect();
            format!("struct<{}>", fields.join(", "))
        }
        _ => t.to_string(),
    }
}

/// A table that another writer changed while we were writing to it must still hold all it held: our files are prepared.
pub(super) fn still_holds(before: &Value, now: &Value) -> Result<(), Misfit> {
    match merge(now, before)? {
        None => Ok(()),
        Some(_) => Err(Misfit::new(
            "another writer removed columns from the table",
            "Restore the columns, or deliver into a new table.",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(name: &str, t: DataType) -> Field {
        Field::new(name, t, false)
    }

    fn stored(t: DataType) -> String {
        match lake_schema(&Schema::new(vec![field("c", t)])) {
            Ok(s) => type_name(&schema_json(&s)["fields"][0]["type"]),
            Err(m) => format!("{} | {}", m.what, m.hint),
        }
    }

    #[test]
    fn what_cannot_be_stored_is_named() {
        assert_eq!(
            stored(DataType::Null),
            "column \"c\" is always NULL and has no type | Give it one: CAST(NULL AS TEXT)."
        );
        assert!(stored(DataType::Duration(TimeUnit::Second)).contains("a Delta table cannot hold"));
        assert!(stored(DataType::Decimal256(50, 2)).contains("a Delta table cannot hold"));
        for (names, expected) in [
            (vec!["speed km/h"], "column name \"speed km/h\" cannot be stored"),
            (vec!["Id", "id"], "columns \"Id\" and \"id\" differ only in case"),
        ] {
            let fields: Vec<Field> = names.iter().map(|n| field(n, DataType::Utf8)).collect();
            assert_eq!(lake_schema(&Schema::new(fields)).unwrap_err().what, expected);
        }
        assert_eq!(lake_schema(&Schema::empty()).unwrap_err().what, "there are no columns");
    }

    #[test]
    fn types_become_delta_types() {
        use DataType::*;
        for (from, to) in [
            (Utf8View, "string"),
            (Dictionary(Box::new(Int32), Box::new(Utf8)), "string"),
            (UInt64, "long"),
            (UInt8, "short"),
            (Timestamp(TimeUnit::Nanosecond, None), "timestamp"),
            (Date64, "date"),
            (Decimal128(12, 3), "decimal(12,3)"),
            (List(Arc::new(field("item", LargeUtf8))), "array<string>"),
            (Struct(vec![field("a", Int64), field("b", Float32)].into()), "struct<a: long, b: float>"),
        ] {
            assert_eq!(stored(from), to);
        }
    }

    #[test]
    fn notation_survives_the_round_trip() {
        let map = DataType::Map(
            Arc::new(field(
                "entries",
                DataType::Struct(vec![field("keys", DataType::Utf8), field("values", DataType::Int32)].into()),
            )),
            false,
        );
        let schema = lake_schema(&Schema::new(vec![
            field("id", DataType::Int64),
            field("t", DataType::Timestamp(TimeUnit::Millisecond, None)),
            field("m", map),
            field(
                "l",
                DataType::List(Arc::new(field("x", DataType::Struct(vec![field("y", DataType::Date32)].into())))),
            ),
        ]))
        .unwrap();
        assert_eq!(arrow_schema(&schema_json(&schema)).unwrap(), schema);
    }

    fn delta(fields: &[(&str, Value)]) -> Value {
        let fields: Vec<Value> =
            fields.iter().map(|(n, t)| json!({ "name": n, "type": t, "nullable": true, "metadata": {} })).collect();
        json!({ "type": "struct", "fields": fields })
    }

    #[test]
    fn incompatible_columns_are_refused_with_both_types() {
        let table = delta(&[("a", json!("integer")), ("s", delta(&[("x", json!("long"))]))]);
        for (wanted, expected) in [
            (delta(&[("a", json!("long"))]), "column \"a\" is integer in the table and long in the statement"),
            (delta(&[("a", json!("double"))]), "column \"a\" is integer in the table and double in the statement"),
            (delta(&[("A", json!("integer"))]), "column \"A\" is called \"a\" in the table"),
            (
                delta(&[("s", delta(&[("x", json!("string"))]))]),
                "column \"s.x\" is long in the table and string in the statement",
            ),
            (
                delta(&[("s", json!("string"))]),
                "column \"s\" is struct<x: long> in the table and string in the statement",
            ),
        ] {
            assert_eq!(merge(&table, &wanted).unwrap_err().what, expected);
        }
    }

    /// The whole lattice of plain types: what becomes of a statement's column in a table's.
    #[test]
    fn every_pair_of_types_has_one_answer() {
        use DataType::*;
        let utc = || Timestamp(TimeUnit::Microsecond, Some("UTC".into()));
        let decimal = |p, s| Decimal128(p, s);
        let types = [
            Boolean,
            Int8,
            Int16,
            Int32,
            Int64,
            Float32,
            Float64,
            decimal(9, 2),
            decimal(12, 2),
            decimal(12, 4),
            Utf8,
            Binary,
            Date32,
            utc(),
        ];
        let mut found = Vec::new();
        for ours in &types {
            for theirs in types.iter().filter(|t| *t != ours) {
                let table = schema_json(&Schema::new(vec![field("c", theirs.clone())]));
                let stored = settle(&Schema::new(vec![field("c", ours.clone())]), &table).unwrap();
                let settled = stored.field(0).data_type() != ours;
                let name = |t: &DataType| type_name(&type_json(t));
                match merge(&table, &schema_json(&stored)) {
                    Ok(None) if settled => found.push(format!("{} in {}", name(ours), name(theirs))),
                    Ok(Some(grown)) => {
                        let now = type_name(&grown["fields"][0]["type"]);
                        found.push(format!("{} makes {} {now}", name(ours), name(theirs)));
                    }
                    Ok(None) => panic!("{ours} would be written as it is into {theirs}"),
                    Err(misfit) => assert!(misfit.hint.contains("CAST the column"), "{misfit:?}"),
                }
            }
        }
        assert_eq!(
            found,
            [
                "byte in short",
                "byte in integer",
                "byte in long",
                "byte in float",
                "byte in double",
                "short makes byte short",
                "short in integer",
                "short in long",
                "short in float",
                "short in double",
                "integer makes byte integer",
                "integer makes short integer",
                "integer in long",
                "integer in double",
                "float in double",
                "decimal(9,2) in decimal(12,2)",
                "decimal(9,2) in decimal(12,4)",
            ],
            "all others are refused; never a float in a whole number"
        );
    }

    #[test]
    fn tables_grow_by_columns_and_nested_fields_and_keep_their_own() {
        let table = delta(&[("a", json!("integer")), ("s", delta(&[("x", json!("long"))]))]);
        assert_eq!(merge(&table, &delta(&[("a", json!("integer"))])), Ok(None));
        let grown = merge(&table, &delta(&[("s", delta(&[("y", json!("date"))])), ("b", json!("string"))])).unwrap();
        assert_eq!(type_name(&grown.unwrap()), "struct<a: integer, s: struct<x: long, y: date>, b: string>");
    }
}
