//! A plan as text: what `pipe explain` prints.

use crate::sql::plan::{Fold, Input, Insert, InsertFrom, MaterializedView, Node, NodeRole, Plan, Rebuild};
use crate::sql::settle::type_name;
use crate::types::table::{META_COLUMNS, RouteCondition, RouteSubject, RouteValue, Table};
use arrow::datatypes::{DataType, Schema};
use std::fmt::Write;

/// Index entry, row address and segment bookkeeping of a key. See benches/state.rs.
const KEY_OVERHEAD_BYTES: usize = 64;

/// A text of unknown length.
const TEXT_BYTES: usize = 24;

pub fn explain(plan: &Plan) -> String {
    let mut text = String::new();
    for (index, table) in plan.tables.iter().enumerate() {
        write_table(&mut text, plan, index, table).expect("writing to a string");
    }
    for view in &plan.stateless_views {
        let node = plan.nodes.iter().find(|n| n.role == NodeRole::Shared && n.statement == view.name);
        let how = match node {
            Some(_) => "evaluated once per batch",
            None if is_read(plan, &view.name) => "part of the statement that reads it",
            None => "nothing reads it",
        };
        writeln!(text, "view {} ({how})", view.name).expect("writing to a string");
        write_columns(&mut text, &view.schema).expect("writing to a string");
        if let Some(node) = node {
            write_node(&mut text, plan, node).expect("writing to a string");
        }
        text.push('\n');
    }
    for view in &plan.views {
        write_view(&mut text, plan, view).expect("writing to a string");
    }
    for insert in &plan.inserts {
        write_insert(&mut text, plan, insert).expect("writing to a string");
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// An inlined view leaves its alias in the plan of its reader.
fn is_read(plan: &Plan, name: &str) -> bool {
    plan.nodes.iter().any(|n| n.logical.display_indent().to_string().contains(&format!("SubqueryAlias: {name}\n")))
}

fn write_table(text: &mut String, plan: &Plan, index: usize, table: &Table) -> std::fmt::Result {
    writeln!(text, "table {}", table.name)?;
    let route = match &table.route {
        None => "every message that no other table takes".to_string(),
        Some(route) => route.conditions.iter().map(condition).collect::<Vec<_>>().join(" AND "),
    };
    writeln!(text, "  source:  {}", table.source)?;
    writeln!(text, "  route:   {route}")?;
    write_columns(text, &table.data_schema())?;
    let used = META_COLUMNS.iter().zip(plan.meta_used[index]).filter(|(_, used)| *used).map(|(name, _)| *name);
    let used: Vec<&str> = used.collect();
    if !used.is_empty() {
        writeln!(text, "  meta:    {}", used.join(", "))?;
    }
    writeln!(text)
}

fn condition(condition: &RouteCondition) -> String {
    let subject = match &condition.subject {
        RouteSubject::Topic => "_topic".to_string(),
        RouteSubject::Field(path) => path.join("."),
    };
    let values: Vec<String> = condition
        .values
        .iter()
        .map(|value| match value {
            RouteValue::Text(t) => format!("'{t}'"),
            RouteValue::Int(n) => n.to_string(),
            RouteValue::Bool(b) => b.to_string(),
        })
        .collect();
    match values.as_slice() {
        [one] => format!("{subject} = {one}"),
        _ => format!("{subject} IN ({})", values.join(", ")),
    }
}

fn write_columns(text: &mut String, schema: &Schema) -> std::fmt::Result {
    for (i, field) in schema.fields().iter().enumerate() {
        let label = if i == 0 { "columns:" } else { "" };
        let null = if field.is_nullable() { "" } else { " NOT NULL" };
        writeln!(text, "  {label:<8} {} {}{null}", field.name(), type_name(field.data_type()))?;
    }
    Ok(())
}

fn write_node(text: &mut String, plan: &Plan, node: &Node) -> std::fmt::Result {
    let reads: Vec<&str> = node
        .reads
        .iter()
        .map(|input| match input {
            Input::Table(i) => plan.tables[*i].name.as_ref(),
            Input::Node(i) => plan.nodes[*i].statement.as_ref(),
        })
        .collect();
    writeln!(text, "  reads:   {}", reads.join(", "))?;
    for (i, line) in node.logical.display_indent().to_string().lines().enumerate() {
        let label = if i == 0 { "plan:" } else { "" };
        writeln!(text, "  {label:<8} {line}")?;
    }
    Ok(())
}

fn write_view(text: &mut String, plan: &Plan, view: &MaterializedView) -> std::fmt::Result {
    writeln!(text, "materialized view {}", view.name)?;
    let names = |schema: &Schema, columns: &[usize]| {
        columns.iter().map(|c| schema.field(*c).name().as_str()).collect::<Vec<_>>().join(", ")
    };
    writeln!(text, "  key:     {}", names(&view.output_schema, &view.key))?;
    match &view.fold {
        Fold::GroupBy { aggregates, .. } => {
            let functions: Vec<&str> = aggregates.iter().map(|a| a.function.name()).collect();
            writeln!(text, "  keeps:   {}", functions.join(", "))?;
        }
        Fold::DistinctOn { order, .. } => {
            let order: Vec<String> = order
                .iter()
                .map(|o| {
                    let direction = if o.descending { "greatest" } else { "smallest" };
                    format!("{direction} {}", view.input_schema.field(o.column).name())
                })
                .collect();
            writeln!(text, "  keeps:   the row with the {}", order.join(", then the "))?;
        }
    }
    writeln!(text, "  state:   about {} bytes for each key", key_bytes(view))?;
    writeln!(text, "  print:   {}", &view.fingerprint[..16])?;
    write_rebuilds(text, plan, view)?;
    write_columns(text, &view.output_schema)?;
    write_node(text, plan, &plan.nodes[view.input])?;
    writeln!(text)
}

/// Where state would come from if the view changed.
fn write_rebuilds(text: &mut String, plan: &Plan, view: &MaterializedView) -> std::fmt::Result {
    let number = plan.views.iter().position(|v| v.name == view.name);
    let Some(rebuilds) = number.and_then(|number| plan.rebuilds.get(number)) else { return Ok(()) };
    let table = |way: &Rebuild| format!("{}.{}", way.sink, way.table);
    let mut tables: Vec<String> = rebuilds.ways.iter().map(table).collect();
    tables.dedup();
    match tables.as_slice() {
        [] => writeln!(text, "  rebuild: starts empty when it changes: {}", rebuilds.unfit.join("; ")),
        _ => writeln!(
            text,
            "  rebuild: from {} when it changes, if that has every row since the beginning",
            tables.join(" or ")
        ),
    }
}

fn write_insert(text: &mut String, plan: &Plan, insert: &Insert) -> std::fmt::Result {
    writeln!(text, "insert {}.{}", insert.sink, insert.table)?;
    match &insert.from {
        InsertFrom::Node(node) => {
            writeln!(text, "  emits:   every row once")?;
            if let Some(stream) = &insert.whole_of {
                writeln!(text, "  answers: batch queries that name {stream}")?;
            }
            write_columns(text, &insert.schema)?;
            write_node(text, plan, &plan.nodes[*node])?;
        }
        InsertFrom::View { view, filter, key, .. } => {
            let key: Vec<&str> = key.iter().map(|k| insert.schema.field(*k).name().as_str()).collect();
            writeln!(text, "  emits:   changes of {}, upserted by {}", plan.views[*view].name, key.join(", "))?;
            if let Some(filter) = filter {
                writeln!(text, "  where:   {filter}")?;
            }
            write_columns(text, &insert.schema)?;
        }
    }
    writeln!(text)
}

/// State of one key: its columns and the state of its aggregates, with texts at a guess.
fn key_bytes(view: &MaterializedView) -> usize {
    let columns: usize = match &view.fold {
        Fold::GroupBy { groups, aggregates, .. } => {
            let keys: usize = groups.iter().map(|g| width(view.input_schema.field(*g).data_type())).sum();
            let states = aggregates.iter().flat_map(|a| a.function.state_fields().unwrap_or_default());
            keys + states.map(|f| width(f.data_type())).sum::<usize>()
        }
        Fold::DistinctOn { result_schema, .. } => result_schema.fields().iter().map(|f| width(f.data_type())).sum(),
    };
    columns + KEY_OVERHEAD_BYTES
}

fn width(kind: &DataType) -> usize {
    match kind {
        DataType::Struct(fields) => fields.iter().map(|f| width(f.data_type())).sum(),
        DataType::List(item) => TEXT_BYTES + width(item.data_type()),
        DataType::Map(..) => 4 * TEXT_BYTES,
        other => other.primitive_width().unwrap_or(TEXT_BYTES),
    }
}
