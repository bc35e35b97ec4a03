//! The bench of this module's tests: compile SQL, feed JSON lines, print the rows that leave.

use crate::sql::exec::{NodeOutputs, Stateless};
use crate::sql::plan::{NodeRole, Plan, SqlFile};
use crate::types::catalog::{Catalog, SinkKind, SourceFacts, UnknownFields};
use crate::types::lineage::MSG_COLUMN;
use crate::types::table::{Table, meta_fields};
use arrow::array::{
    ArrayRef, BinaryArray, Int64Array, StringArray, TimestampMicrosecondArray, UInt32Array, new_null_array,
};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use std::path::PathBuf;
use std::sync::Arc;

/// Sources t, u, kinematic, status and captured; sinks lake (append) and kv (upsert).
pub fn catalog() -> Catalog {
    let mut catalog = Catalog::default();
    for name in ["t", "u", "kinematic", "status"] {
        catalog.sources.insert(name.into(), SourceFacts::default());
    }
    catalog.sources.insert("captured".into(), SourceFacts { unknown_fields: UnknownFields::Capture });
    catalog.sinks.insert("lake".into(), SinkKind::Append);
    catalog.sinks.insert("kv".into(), SinkKind::Upsert);
    catalog
}

/// The table that most tests read.
pub const T: &str = "CREATE TABLE t (id TEXT NOT NULL, n INT, x DOUBLE, at TIMESTAMP, tags TEXT[], \
                     p STRUCT<lat DOUBLE, lon DOUBLE>, ms STRUCT<t TIMESTAMP, v DOUBLE>[], j JSON);\n";

pub fn file(name: &str, text: &str) -> SqlFile {
    SqlFile { path: PathBuf::from(name), text: text.into() }
}

pub fn compile_text(text: &str) -> Result<Plan, String> {
    compile_files(&[file("a.sql", text)])
}

pub fn compile_files(files: &[SqlFile]) -> Result<Plan, String> {
    let compiled = futures::executor::block_on(crate::sql::compile(files, &catalog()));
    compiled.map_err(|faults| faults.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))
}

/// The faults of `T` and `text`, with lines counted in `text`.
pub fn faults(text: &str) -> String {
    match compile_files(&[file("t.sql", T), file("a.sql", text)]) {
        Ok(_) => "no fault".into(),
        Err(faults) => faults,
    }
}

/// A leaf batch of one table from JSON lines: line i is message i, at position 100 + i.
pub fn leaf(table: &Table, lines: &str) -> RecordBatch {
    let lines: Vec<&str> = lines.lines().map(str::trim).filter(|l| !l.is_empty()).collect();
    let mut decoder = arrow_json::ReaderBuilder::new(table.data_schema()).build_decoder().expect("a schema");
    let mut columns: Vec<ArrayRef> = Vec::new();
    if lines.is_empty() {
        columns.extend(table.data_schema().fields().iter().map(|f| arrow::array::new_empty_array(f.data_type())));
    } else {
        decoder.decode(lines.join("\n").as_bytes()).expect("JSON lines");
        columns
            .extend(decoder.flush().expect("rows of the schema").expect("one line at least").columns().iter().cloned());
    }
    let rows = lines.len();
    for field in meta_fields() {
        let column: ArrayRef = match field.name().as_str() {
            "_source" => Arc::new(StringArray::from(vec![table.source.as_ref(); rows])),
            "_topic" => Arc::new(StringArray::from(vec!["topic"; rows])),
            "_partition" => Arc::new(StringArray::from(vec!["0"; rows])),
            "_position" => Arc::new(Int64Array::from_iter_values((0..rows as i64).map(|i| 100 + i))),
            "_received_at" => Arc::new(TimestampMicrosecondArray::from(vec![1_000_000; rows]).with_timezone("UTC")),
            "_payload" => Arc::new(BinaryArray::from_iter_values(&lines)),
            _ => new_null_array(field.data_type(), rows),
        };
        columns.push(column);
    }
    columns.push(Arc::new(UInt32Array::from_iter_values(0..rows as u32)));
    RecordBatch::try_new(table.leaf_schema(), columns).expect("a leaf batch")
}

pub fn stateless(plan: &Plan) -> Stateless {
    futures::executor::block_on(Stateless::new(Arc::new(plan.clone()))).expect("physical plans")
}

/// 2026-11-22T00:00:00Z
pub const NOW_US: i64 = 1_795_305_600_000_000;

/// Runs `T` and `text` over rows of t; prints what the first insert or view input receives, `__msg` last.
pub fn check(text: &str, lines: &str, expected: &str) {
    let plan = compile_text(&format!("{T}{text}")).unwrap_or_else(|e| panic!("{e}"));
    let batch = leaf(&plan.tables[0], lines);
    let outputs = stateless(&plan).run(&[Some(batch)], NOW_US).expect("no statement fails");
    let found = print(&plan, &outputs);
    assert_eq!(found.trim(), trim(expected), "\n--- found ---\n{found}");
}

pub fn print(plan: &Plan, outputs: &NodeOutputs) -> String {
    let node = plan.nodes.iter().position(|n| n.role != NodeRole::Shared).expect("a node that leaves");
    let rows = &outputs.nodes[node];
    assert!(rows.iter().all(|b| b.schema().fields().last().is_some_and(|f| f.name() == MSG_COLUMN)));
    if rows.is_empty() {
        return "no rows".into();
    }
    pretty_format_batches(rows).expect("printable").to_string()
}

pub fn trim(table: &str) -> String {
    table.trim().lines().map(str::trim).collect::<Vec<_>>().join("\n")
}
