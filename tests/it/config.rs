//! The files we hand out are good: pipelines/*.toml load, every connector's example passes, and the JSON Schema agrees.

use pipe::config::parse::parse;
use pipe::config::schema::schema;
use pipe::config::value::Lookups;
use pipe::engine::load;
use serde_json::Value;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

#[tokio::test(flavor = "multi_thread")]
async fn the_pipelines_of_the_house_load() {
    for path in files("pipelines", "toml") {
        let findings = load::examine(&path).await.expect("the file can be read");
        assert!(findings.faults.is_empty(), "{}", shown(&findings.faults));
        assert!(findings.loaded.warnings.is_empty(), "{}", shown(&findings.loaded.warnings));
        conforms(&path, &fs::read_to_string(&path).expect("was read before"));
    }
}

#[test]
fn every_example_passes_and_conforms() {
    let mut examples = 0;
    for path in ["src/sources", "src/sinks"].iter().flat_map(|dir| folders(dir)) {
        let path = path.join("example.toml");
        let example = fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let whole = completed(&example);
        let lookups = Lookups { env: Arc::new(|_| Some("value".into())), read_file: Arc::new(|_| Ok("value".into())) };
        let parsed = parse(&path, &whole, &lookups, &load::connectors());
        assert!(parsed.faults.is_empty(), "{}\nof\n{whole}", shown(&parsed.faults));
        conforms(&path, &whole);
        examples += 1;
    }
    assert!(examples >= 3, "only {examples} examples were found");
}

/// An example shows one connector; the rest of a pipeline is put around it.
fn completed(example: &str) -> String {
    let mut whole = format!("{example}\n[pipeline]\nname = 'example'\nsql = ['*.sql']\ndata_dir = 'data'\n");
    if !example.contains("[source.") {
        whole.push_str("[source.other]\ntype = 'file'\npath = '*.jsonl'\n");
    }
    if !example.contains("type = \"delta\"") {
        whole.push_str("[sink.other]\ntype = 'delta'\nuri = 'lake'\n");
    }
    whole
}

/// The schema is strict enough to be of use in an editor.
#[test]
fn the_schema_refuses_what_the_config_refuses() {
    let schema = schema(&load::connectors());
    let good = completed("");
    let refused = |text: &str| {
        let value: Value = toml::from_str::<toml::Value>(text).map(json).expect("TOML");
        !violations(&schema, &value, "").is_empty()
    };
    assert!(!refused(&good));
    for (from, to) in [
        ("name = 'example'", "nmae = 'example'"),
        ("sql = ['*.sql']", "sql = '*.sql'"),
        ("data_dir = 'data'", ""),
        ("type = 'file'", "type = 'flie'"),
        ("path = '*.jsonl'", "paths = '*.jsonl'"),
        ("[pipeline]", "[pipelines]"),
    ] {
        let broken = good.replace(from, to);
        assert_ne!(broken, good, "\"{from}\" is not in the file");
        assert!(refused(&broken), "the schema accepts {to}");
    }
}

#[track_caller]
fn conforms(path: &Path, text: &str) {
    let value: Value = toml::from_str::<toml::Value>(text).map(json).expect("TOML");
    let found = violations(&schema(&load::connectors()), &value, "");
    assert!(found.is_empty(), "{} and the schema disagree:\n{}", path.display(), found.join("\n"));
}

fn json(value: toml::Value) -> Value {
    serde_json::to_value(value).expect("TOML without dates is JSON")
}

/// The part of JSON Schema that our schema uses.
fn violations(schema: &Value, value: &Value, at: &str) -> Vec<String> {
    let mut found = Vec::new();
    let Some(schema) = schema.as_object() else { return found };
    for (keyword, rule) in schema {
        match keyword.as_str() {
            "type" if !types(rule).iter().any(|t| is_of(value, t)) => {
                found.push(format!("{at}: is not of type {rule}"))
            }
            "const" if value != rule => found.push(format!("{at}: is not {rule}")),
            "enum" if !rule.as_array().is_some_and(|allowed| allowed.contains(value)) => {
                found.push(format!("{at}: is none of {rule}"));
            }
            "oneOf" | "anyOf" => {
                let shapes = rule.as_array().expect("a list of schemas");
                let fitting = shapes.iter().filter(|shape| violations(shape, value, at).is_empty()).count();
                if fitting == 0 || (keyword == "oneOf" && fitting > 1) {
                    found.push(format!("{at}: {fitting} of {} shapes fit", shapes.len()));
                }
            }
            "required" => {
                for name in types(rule) {
                    if value.as_object().is_some_and(|object| !object.contains_key(name)) {
                        found.push(format!("{at}: needs {name}"));
                    }
                }
            }
            "items" => {
                for (i, item) in value.as_array().into_iter().flatten().enumerate() {
                    found.extend(violations(rule, item, &format!("{at}[{i}]")));
                }
            }
            "properties" | "additionalProperties" => found.extend(of_object(schema, keyword, value, at)),
            _ => {}
        }
    }
    found
}

fn of_object(schema: &serde_json::Map<String, Value>, keyword: &str, value: &Value, at: &str) -> Vec<String> {
    let declared = schema.get("properties").and_then(Value::as_object);
    let mut found = Vec::new();
    for (name, inner) in value.as_object().into_iter().flatten() {
        let at = format!("{at}.{name}");
        match (declared.and_then(|d| d.get(name)), keyword) {
            (Some(rule), "properties") => found.extend(violations(rule, inner, &at)),
            (None, "additionalProperties") if schema[keyword] == false => found.push(format!("{at}: is not known")),
            (None, "additionalProperties") => found.extend(violations(&schema[keyword], inner, &at)),
            _ => {}
        }
    }
    found
}

fn types(rule: &Value) -> Vec<&str> {
    match rule {
        Value::Array(several) => several.iter().filter_map(Value::as_str).collect(),
        one => one.as_str().into_iter().collect(),
    }
}

fn is_of(value: &Value, name: &str) -> bool {
    match name {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => value.is_null(),
    }
}

fn shown(faults: &[pipe::types::fault::Fault]) -> String {
    faults.iter().map(|fault| fault.to_string()).collect::<Vec<_>>().join("\n")
}

fn folders(dir: &str) -> Vec<PathBuf> {
    entries(dir).into_iter().filter(|path| path.is_dir()).collect()
}

fn files(dir: &str, extension: &str) -> Vec<PathBuf> {
    entries(dir).into_iter().filter(|path| path.extension().is_some_and(|e| e == extension)).collect()
}

fn entries(dir: &str) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(dir);
    let listed = fs::read_dir(&dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
    let mut paths: Vec<PathBuf> = listed.map(|entry| entry.expect("the folder can be listed").path()).collect();
    paths.sort();
    paths
}
