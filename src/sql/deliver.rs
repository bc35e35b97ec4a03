//! INSERT INTO: what a sink receives. A stateless query is a node; a query over a materialized view is a filter and a
//! projection over its rows, so that the sink can follow single keys.

use crate::sql::fold::Reading;
use crate::sql::function::unsteady_expr;
use crate::sql::plan::{Insert, MaterializedView};
use crate::sql::query::{Planner, message_column};
use crate::sql::relation::LeafSource;
use crate::sql::statement::normal;
use crate::types::fault::Fault;
use crate::types::lineage::MSG_COLUMN;
use arrow::datatypes::{FieldRef, Schema};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DataFusionError, ScalarValue};
use datafusion::logical_expr::utils::conjunction;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, lit};
use datafusion::sql::sqlparser::ast::{
    GroupByExpr, Query, Select, SelectItem, SetExpr, TableFactor, WildcardAdditionalOptions,
};
use std::collections::BTreeMap;
use std::sync::Arc;

/// What reads a materialized view's rows for a key-value sink.
pub struct Changes {
    pub reading: Reading,
    /// Indices of the key among the columns, in the view's key order.
    pub key: Vec<usize>,
}

/// `plan`: the analysed query over a scan of the view.
pub fn changes(
    planner: &Planner,
    plan: &LogicalPlan,
    view: &MaterializedView,
    names: &[String],
) -> Result<Changes, Vec<Fault>> {
    let complain = |e: DataFusionError| vec![planner.complain(&e)];
    let own_names: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
    let names = planner.output_names(names, &own_names).map_err(|f| vec![f])?;
    let flat = flatten(planner, plan)?;
    for expr in flat.filters.iter().chain(&flat.outputs) {
        check_same_on_every_reading(planner, expr)?;
    }
    let scan = LogicalPlanBuilder::scan("result", Arc::new(LeafSource { schema: view.output_schema.clone() }), None);
    let scan = scan.map_err(complain)?;
    let scan = match conjunction(flat.filters) {
        Some(filter) => scan.filter(filter).map_err(complain)?,
        None => scan,
    };
    let named: Vec<Expr> = flat.outputs.iter().zip(&names).map(|(e, n)| e.clone().unalias().alias(n)).collect();
    let plan = scan.project(named).and_then(LogicalPlanBuilder::build).map_err(complain)?;
    let plan = planner.check_types(plan).map_err(|f| vec![f])?;
    let reading = Reading::of(planner, plan, &names)?;
    let mut key = Vec::new();
    let mut faults = Vec::new();
    for column in &view.key {
        let name = view.output_schema.field(*column).name();
        let wanted = Expr::Column(Column::from_name(name));
        match flat.outputs.iter().position(|o| o.clone().unalias() == wanted) {
            Some(position) => key.push(position),
            None => faults.push(planner.fault(
                format!("the key \"{name}\" of materialized view \"{}\" is not among the columns", view.name),
                format!("Add {name} to the list: a key-value sink upserts by it."),
            )),
        }
    }
    if faults.is_empty() { Ok(Changes { reading, key }) } else { Err(faults) }
}

/// Filters and outputs of a query, as expressions over the columns of the view that it scans.
struct Flat {
    filters: Vec<Expr>,
    outputs: Vec<Expr>,
}

fn flatten(planner: &Planner, plan: &LogicalPlan) -> Result<Flat, Vec<Fault>> {
    let complain = |e: DataFusionError| vec![planner.complain(&e)];
    match plan {
        LogicalPlan::TableScan(scan) => {
            let columns = scan.projected_schema.fields().iter();
            let outputs = columns.map(|f| Expr::Column(Column::from_name(f.name()))).collect();
            Ok(Flat { filters: Vec::new(), outputs })
        }
        LogicalPlan::SubqueryAlias(alias) => flatten(planner, &alias.input),
        LogicalPlan::Filter(filter) => {
            let mut flat = flatten(planner, &filter.input)?;
            let predicate = over_scan(&filter.predicate, &filter.input, &flat.outputs).map_err(complain)?;
            flat.filters.push(predicate);
            Ok(flat)
        }
        LogicalPlan::Projection(projection) => {
            let flat = flatten(planner, &projection.input)?;
            let outputs = projection.expr.iter().map(|e| over_scan(e, &projection.input, &flat.outputs));
            let outputs = outputs.collect::<Result<_, _>>().map_err(complain)?;
            Ok(Flat { filters: flat.filters, outputs })
        }
        other => Err(vec![planner.fault(
            format!("a key-value sink is fed by columns and WHERE, not by {}", other.display()),
            "Do the rest in the materialized view, or in a view below it.",
        )]),
    }
}

fn over_scan(expr: &Expr, input: &LogicalPlan, outputs: &[Expr]) -> Result<Expr, DataFusionError> {
    let replaced = expr.clone().transform_up(|expr| match expr {
        Expr::Column(column) => {
            let position = input.schema().index_of_column(&column)?;
            Ok(Transformed::yes(outputs[position].clone().unalias()))
        }
        other => Ok(Transformed::no(other)),
    })?;
    Ok(replaced.data)
}

/// A key may be written again at any time (after a restart, when it is touched), so its row must come out the same.
fn check_same_on_every_reading(planner: &Planner, expr: &Expr) -> Result<(), Vec<Fault>> {
    match unsteady_expr(expr).map_err(|e| vec![planner.complain(&e)])? {
        None => Ok(()),
        Some(name) => Err(vec![planner.fault(
            format!("{name}() cannot feed a key-value sink"),
            "A key is written again whenever it is touched. Use a column of the materialized view.",
        )]),
    }
}

/// Statements that fill one table yield the same columns in the same order: those of all of them, NULL where a statement
/// has none. Sinks put the rows of several statements together by position, which means something only then.
pub fn align(inserts: &mut [(Insert, Option<LogicalPlan>)]) -> Result<(), DataFusionError> {
    let mut tables: BTreeMap<(Arc<str>, Arc<str>), Vec<FieldRef>> = BTreeMap::new();
    for (insert, _) in inserts.iter().filter(|(_, plan)| plan.is_some()) {
        let columns = tables.entry((insert.sink.clone(), insert.table.clone())).or_default();
        for field in insert.schema.fields() {
            if columns.iter().all(|c| c.name() != field.name()) {
                columns.push(field.clone());
            }
        }
    }
    for (insert, plan) in inserts {
        let Some(stream) = plan else { continue };
        let columns = &tables[&(insert.sink.clone(), insert.table.clone())];
        if insert.schema.fields()[..] == columns[..] {
            continue;
        }
        let mut outputs = Vec::new();
        for column in columns {
            outputs.push(match insert.schema.index_of(column.name()) {
                Ok(position) => Expr::Column(Column::from(stream.schema().qualified_field(position))),
                Err(_) => lit(ScalarValue::try_from(column.data_type())?).alias(column.name()),
            });
        }
        let message = message_column(stream)
            .ok_or_else(|| DataFusionError::Internal(format!("the rows of an insert lost {MSG_COLUMN}")))?;
        outputs.push(message.alias(MSG_COLUMN));
        *plan = Some(LogicalPlanBuilder::from(stream.clone()).project(outputs)?.build()?);
        insert.schema = Arc::new(Schema::new(columns.clone()));
    }
    Ok(())
}

/// The relation of which the query is `SELECT *`, with columns derived beside it or without.
pub fn whole_of(query: &Query) -> Option<String> {
    let Query { with: None, body, order_by: None, limit_clause: None, .. } = query else { return None };
    let SetExpr::Select(select) = body.as_ref() else { return None };
    let Select { distinct: None, projection, from, selection: None, group_by, .. } = select.as_ref() else {
        return None;
    };
    let GroupByExpr::Expressions(keys, _) = group_by else { return None };
    let [from] = from.as_slice() else { return None };
    let TableFactor::Table { name, .. } = &from.relation else { return None };
    let mut wildcards = 0;
    for item in projection {
        match item {
            SelectItem::Wildcard(options) if is_plain(options) => wildcards += 1,
            SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => return None,
            // unnest changes the number of rows, however deep it stands: whole rows of the stream no longer.
            SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. }
                if !e.to_string().to_lowercase().contains("unnest(") => {}
            _ => return None,
        }
    }
    let plain = keys.is_empty() && from.joins.is_empty() && wildcards == 1;
    let [name] = name.0.as_slice() else { return None };
    name.as_ident().filter(|_| plain).map(normal)
}

fn is_plain(options: &WildcardAdditionalOptions) -> bool {
    let WildcardAdditionalOptions {
        wildcard_token: _,
        opt_ilike,
        opt_exclude,
        opt_except,
        opt_replace,
        opt_rename,
        opt_alias,
    } = options;
    opt_ilike.is_none()
        && opt_exclude.is_none()
        && opt_except.is_none()
        && opt_replace.is_none()
        && opt_rename.is_none()
        && opt_alias.is_none()
}
