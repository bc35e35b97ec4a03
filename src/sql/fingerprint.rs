//! The identity of a materialized view's state: a digest over everything that its meaning hangs on, and nothing else.
//!
//! It covers the rows that are folded (the plan below the fold, with every view in its place, pruned to what is read), the
//! fold and what is read of it, the declarations of the columns that are read, the sources and routes of their tables, and
//! DataFusion's version. Not the file, the place or the white space of a statement, and no column that nothing reads.

use crate::sql::fold::Folded;
use crate::sql::plan::{Aggregate, Fold};
use crate::types::table::Table;
use arrow::datatypes::Schema;
use datafusion::common::Result;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use sha2::{Digest, Sha256};
use std::collections::BTreeMap;
use std::fmt::Write;
use std::sync::Arc;

/// Raised when what is covered changes, or the layout of state in a way that no plan shows. 1 covered whole tables, and
/// was the bare digest.
const FORMAT: u32 = 2;

/// `<format>-<DataFusion's version>-<digest>`. `input`: the rows that are folded, as `whole` and the optimizer leave them.
pub fn of_view(input: &LogicalPlan, folded: &Folded, tables: &[Arc<Table>]) -> Result<String> {
    let read = read_of_tables(input, tables)?;
    let fold = fold(folded);
    let digest = digest(&[&input.display_indent_schema().to_string(), &read, &fold]);
    Ok(format!("{FORMAT}-{}-{digest}", datafusion::DATAFUSION_VERSION))
}

/// A digest over what makes a table's rows: the plan down to the tables, as `whole` and the optimizer leave it. Short,
/// because every record carries one for each column; an accident is all it must tell apart. Without DataFusion's version:
/// values that are stored stay what they are.
pub fn of_rows(rows: &LogicalPlan, tables: &[Arc<Table>]) -> Result<String> {
    let mut digest = digest(&[&rows.display_indent_schema().to_string(), &read_of_tables(rows, tables)?]);
    digest.truncate(16);
    Ok(digest)
}

/// The plan with the views it reads in the place of their scans, down to the tables.
pub fn whole(plan: &LogicalPlan, views: &BTreeMap<String, LogicalPlan>) -> Result<LogicalPlan> {
    let replaced = plan.clone().transform_up(|node| {
        let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
        let Some(view) = views.get(scan.table_name.table()) else { return Ok(Transformed::no(node)) };
        let alias = scan.table_name.clone();
        Ok(Transformed::yes(LogicalPlanBuilder::from(whole(view, views)?).alias(alias)?.build()?))
    })?;
    Ok(replaced.data)
}

/// What can be told of why state under `before` does not serve a view whose fingerprint is `now`.
pub fn why_changed(before: &str, now: &str) -> String {
    fn parts(print: &str) -> (&str, &str) {
        let mut parts = print.splitn(3, '-');
        match (parts.next(), parts.next(), parts.next()) {
            (Some(format), Some(version), Some(_)) => (format, version),
            _ => ("1", ""),
        }
    }
    let ((format, version), (format_now, version_now)) = (parts(before), parts(now));
    if format != format_now {
        return format!(
            "it was recorded by another build of pipe, whose fingerprints have format {format} and not {format_now}"
        );
    }
    if version != version_now {
        return format!("DataFusion went from {version} to {version_now}");
    }
    "its query, a view below it, or a column, source or route that it reads has changed".to_string()
}

/// Per table, in order of name: source, route, and the declarations of the columns that are scanned.
fn read_of_tables(input: &LogicalPlan, tables: &[Arc<Table>]) -> Result<String> {
    let mut read: BTreeMap<String, String> = BTreeMap::new();
    input.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && let Some(table) = tables.iter().find(|t| t.name.as_ref() == scan.table_name.table())
        {
            let is_scanned = |name: &str| scan.projected_schema.fields().iter().any(|f| f.name() == name);
            let columns: Vec<_> = table.columns.iter().filter(|c| is_scanned(&c.name)).collect();
            read.entry(table.name.to_string())
                .or_default()
                .push_str(&format!("{} {:?} {:?} {columns:?}\n", table.name, table.source, table.route));
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(read.into_values().collect())
}

/// What becomes of the rows: no part of it knows the tables.
fn fold(folded: &Folded) -> String {
    let mut text = match &folded.fold {
        Fold::GroupBy { groups, aggregates, .. } => {
            let aggregates: Vec<String> = aggregates.iter().map(aggregate).collect();
            format!("group by {groups:?}\n{}\n", aggregates.join("\n"))
        }
        Fold::DistinctOn { on, order, .. } => format!("distinct on {on:?} {order:?}\n"),
    };
    let having = folded.having.as_ref().map(ToString::to_string);
    let projection: Vec<String> = folded.projection.iter().map(ToString::to_string).collect();
    write!(text, "having {having:?}\nprojection {projection:?}\nkey {:?}\n", folded.key)
        .expect("writing to a string cannot fail");
    text + &columns(&folded.input_schema) + &columns(folded.fold.result_schema()) + &columns(&folded.output_schema)
}

fn aggregate(aggregate: &Aggregate) -> String {
    let function = &aggregate.function;
    let arguments: Vec<String> = function.expressions().iter().map(ToString::to_string).collect();
    let order: Vec<String> = function.order_bys().iter().map(ToString::to_string).collect();
    format!(
        "{}({arguments:?}) distinct {} ignoring nulls {} order {order:?} filter {:?}",
        function.fun().name(),
        function.is_distinct(),
        function.ignore_nulls(),
        aggregate.filter.as_ref().map(ToString::to_string),
    )
}

fn columns(schema: &Schema) -> String {
    let column = |f: &Arc<arrow::datatypes::Field>| format!("{:?} {:?} {}", f.name(), f.data_type(), f.is_nullable());
    schema.fields().iter().map(column).collect::<Vec<_>>().join(", ") + "\n"
}

fn digest(parts: &[&str]) -> String {
    let mut hasher = Sha256::new();
    for part in parts {
        // The length in front keeps two parts from running into each other.
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part.as_bytes());
    }
    hasher.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests;
