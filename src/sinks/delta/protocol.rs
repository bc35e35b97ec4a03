//! Which tables we may append to: decided on the protocol and metadata actions of the log, by what is actually in use.
//!
//! Pure. Our commits hold Adds and a transaction and nothing else; a table that asks more of its writers (checked
//! constraints, generated columns, column mapping, row ids) is refused instead of broken.

use super::log::Metadata;
use super::schema::Misfit;
use serde_json::Value;

/// Writer features that a blind append satisfies by itself.
const WRITER_FEATURES: [&str; 7] = [
    "appendOnly",
    "invariants",
    "changeDataFeed",
    "deletionVectors",
    "vacuumProtocolCheck",
    "domainMetadata",
    "timestampNtz",
];
/// Reader features that our reader understands.
const READER_FEATURES: [&str; 3] = ["deletionVectors", "vacuumProtocolCheck", "timestampNtz"];

const HINT: &str = "Deliver into a table of our own: a new name, or another folder.";

fn misfit(what: impl Into<String>) -> Misfit {
    Misfit { what: what.into(), hint: HINT.into() }
}

pub(super) fn check_protocol(protocol: &Value) -> Result<(), Misfit> {
    let version = |key: &str| protocol[key].as_u64().unwrap_or(0);
    let (reader, writer) = (version("minReaderVersion"), version("minWriterVersion"));
    if reader > 3 || writer > 7 {
        return Err(misfit(format!("the table needs reader version {reader} and writer version {writer}")));
    }
    for (key, known) in [("readerFeatures", &READER_FEATURES[..]), ("writerFeatures", &WRITER_FEATURES[..])] {
        let features = protocol[key].as_array().into_iter().flatten();
        if let Some(unknown) = features.filter_map(Value::as_str).find(|f| !known.contains(f)) {
            return Err(misfit(format!("the table uses the feature \"{unknown}\", which we do not write")));
        }
    }
    Ok(())
}

pub(super) fn check_metadata(metadata: &Metadata) -> Result<(), Misfit> {
    let setting = |key: &str| metadata.configuration.get(key).map(String::as_str);
    if setting("delta.columnMapping.mode").is_some_and(|mode| mode != "none") {
        return Err(misfit("the table uses column mapping, which we do not write"));
    }
    if let Some(value) = setting("delta.setTransactionRetentionDuration") {
        return Err(Misfit {
            what: format!("the table sets delta.setTransactionRetentionDuration = \"{value}\""),
            hint: "Exactly-once rests on transactions that never expire; unset the property.".into(),
        });
    }
    if let Some(key) = metadata.configuration.keys().find(|k| k.starts_with("delta.constraints.")) {
        return Err(misfit(format!("the table has the constraint \"{key}\", which we do not check")));
    }
    for flag in ["delta.enableRowTracking", "delta.enableInCommitTimestamps", "delta.enableTypeWidening"] {
        if setting(flag) == Some("true") {
            return Err(misfit(format!("the table sets {flag}, which we do not write")));
        }
    }
    check_fields(&metadata.schema, "")
}

fn check_fields(schema: &Value, path: &str) -> Result<(), Misfit> {
    for field in schema["fields"].as_array().into_iter().flatten() {
        let path = format!("{path}{}", field["name"].as_str().unwrap_or("?"));
        let rules = field["metadata"].as_object().into_iter().flatten();
        if let Some((rule, _)) = rules.into_iter().find(|(k, _)| {
            k.starts_with("delta.invariants")
                || k.starts_with("delta.generationExpression")
                || k.starts_with("delta.identity")
        }) {
            return Err(misfit(format!("column \"{path}\" of the table has \"{rule}\", which we do not write")));
        }
        if field["nullable"] == Value::Bool(false) {
            return Err(not_null(format!("column \"{path}\" of the table")));
        }
        check_type(&field["type"], &path)?;
    }
    Ok(())
}

fn check_type(t: &Value, path: &str) -> Result<(), Misfit> {
    if t["containsNull"] == Value::Bool(false) || t["valueContainsNull"] == Value::Bool(false) {
        return Err(not_null(format!("what \"{path}\" of the table holds")));
    }
    for inner in ["elementType", "keyType", "valueType"] {
        if !t[inner].is_null() {
            check_type(&t[inner], path)?;
        }
    }
    check_fields(t, &format!("{path}."))
}

fn not_null(column: String) -> Misfit {
    Misfit {
        what: format!("{column} is NOT NULL"),
        hint: "Lake columns are nullable; relax it in the table, or deliver into a new one.".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tables_that_ask_more_of_their_writers_are_refused() {
        let refused = |protocol: Value| check_protocol(&protocol).unwrap_err().what;
        assert_eq!(
            refused(json!({ "minReaderVersion": 4, "minWriterVersion": 7 })),
            "the table needs reader version 4 and writer version 7"
        );
        assert_eq!(
            refused(json!({ "minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["v2Checkpoint"] })),
            "the table uses the feature \"v2Checkpoint\", which we do not write"
        );
        assert_eq!(
            refused(
                json!({ "minReaderVersion": 1, "minWriterVersion": 7, "writerFeatures": ["appendOnly", "rowTracking"] })
            ),
            "the table uses the feature \"rowTracking\", which we do not write"
        );
        assert_eq!(check_protocol(&json!({ "minReaderVersion": 1, "minWriterVersion": 2 })), Ok(()));
    }

    #[test]
    fn settings_and_columns_we_cannot_honour_are_named() {
        let check = |configuration: Value, field: Value| {
            let action = json!({
                "id": "1",
                "schemaString": json!({ "type": "struct", "fields": [field] }).to_string(),
                "partitionColumns": [],
                "configuration": configuration,
            });
            check_metadata(&Metadata::parse(action).unwrap()).map_err(|m| m.what)
        };
        let plain = || json!({ "name": "a", "type": "long", "nullable": true, "metadata": {} });
        assert_eq!(check(json!({}), plain()), Ok(()));
        for (configuration, expected) in [
            (json!({ "delta.columnMapping.mode": "name" }), "the table uses column mapping, which we do not write"),
            (
                json!({ "delta.setTransactionRetentionDuration": "interval 1 day" }),
                "the table sets delta.setTransactionRetentionDuration = \"interval 1 day\"",
            ),
            (
                json!({ "delta.constraints.positive": "a > 0" }),
                "the table has the constraint \"delta.constraints.positive\", which we do not check",
            ),
        ] {
            assert_eq!(check(configuration, plain()), Err(expected.into()));
        }
        assert_eq!(
            check(json!({}), json!({ "name": "a", "type": "long", "nullable": false, "metadata": {} })),
            Err("column \"a\" of the table is NOT NULL".into())
        );
        assert_eq!(
            check(
                json!({}),
                json!({ "name": "a", "type": "long", "nullable": true, "metadata": { "delta.identity.start": 1 } })
            ),
            Err("column \"a\" of the table has \"delta.identity.start\", which we do not write".into())
        );
    }
}
