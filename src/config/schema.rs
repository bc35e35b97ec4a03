//! JSON Schema of the config file for editors, from the structs that read it; connectors' parts are handed in.

use crate::config::spec::{
    CheckpointSpec, Connector, Connectors, DeadLetterSpec, LimitsSpec, PipelineSpec, ServerSpec, SourceCommon,
};
use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Schema of one connector's struct, all in one piece; for the `schema` function of a `Connector`.
pub fn of<T: JsonSchema>() -> Value {
    let settings = SchemaSettings::draft2019_09().for_deserialize().with(|s| {
        s.inline_subschemas = true;
        s.meta_schema = None;
    });
    settings.into_generator().into_root_schema_for::<T>().to_value()
}

pub fn schema(connectors: &Connectors) -> Value {
    let common = of::<SourceCommon>();
    let sources: Vec<Value> = connectors.sources.iter().map(|c| section(c, &common, None)).collect();
    let sinks: Vec<Value> = connectors
        .sinks
        .iter()
        .map(|s| {
            let tables = json!({
                "type": "object",
                "description": "Settings of single tables, by table name.",
                "additionalProperties": (s.table_schema)(),
            });
            section(&s.connector, &json!({}), Some(tables))
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2019-09/schema",
        "title": "pipe",
        "description": "A pipeline: connectors, addresses, secrets and limits. What it computes is in its SQL files.",
        "type": "object",
        "properties": {
            "pipeline": of::<PipelineSpec>(),
            "checkpoint": of::<CheckpointSpec>(),
            "limits": of::<LimitsSpec>(),
            "server": of::<ServerSpec>(),
            "source": named("Where messages come from, by name.", sources),
            "sink": named("Where rows go, by name.", sinks),
            "dead_letter": of::<DeadLetterSpec>(),
        },
        "required": ["pipeline", "source"],
        "additionalProperties": false,
    })
}

fn named(description: &str, shapes: Vec<Value>) -> Value {
    json!({ "type": "object", "description": description, "additionalProperties": { "oneOf": shapes } })
}

/// A connector's struct, with `type` and what every source has beside it.
fn section(connector: &Connector, common: &Value, tables: Option<Value>) -> Value {
    let mut schema = (connector.schema)();
    let mut properties = Map::new();
    properties.insert("type".into(), json!({ "const": connector.kind }));
    for part in [&schema, common] {
        if let Some(Value::Object(more)) = part.get("properties") {
            properties.extend(more.clone());
        }
    }
    if let Some(tables) = tables {
        properties.insert("table".into(), tables);
    }
    let mut required = vec![json!("type")];
    if let Some(Value::Array(more)) = schema.get("required") {
        required.extend(more.iter().cloned());
    }
    if let Value::Object(object) = &mut schema {
        object.insert("properties".into(), Value::Object(properties));
        object.insert("required".into(), Value::Array(required));
        object.insert("additionalProperties".into(), Value::Bool(false));
    }
    schema
}
