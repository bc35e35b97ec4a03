//! A materialized view's query, split in three: the stateless input node, the fold over its rows, and what is read of
//! the fold's result (HAVING and the projection).
//!
//!     SELECT fleet_id, avg(speed) + 1 AS a FROM points GROUP BY fleet_id HAVING count(*) > 3
//!     input:  fleet_id, speed, __msg        fold: key fleet_id; avg(speed), count(*)
//!     result: fleet_id, avg, count          read: count > 3; fleet_id, avg + 1 AS a

use crate::sql::plan::{Aggregate, Fold, OrderColumn};
use crate::sql::query::{Planner, message_column, nullable, stream_schema, without_message};
use crate::sql::relation::LeafSource;
use crate::sql::settle::settled;
use crate::types::fault::Fault;
use crate::types::lineage::MSG_COLUMN;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::common::{Column, DFSchema, DFSchemaRef, DataFusionError};
use datafusion::logical_expr::execution_props::ExecutionProps;
use datafusion::logical_expr::expr::AggregateFunction;
use datafusion::logical_expr::physical_planning_context::PhysicalPlanningContext;
use datafusion::logical_expr::simplify::SimplifyContext;
use datafusion::logical_expr::{
    self, Distinct, DistinctOn, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Projection, cast,
};
use datafusion::optimizer::simplify_expressions::ExprSimplifier;
use datafusion::physical_expr::aggregate::LoweredAggregateBuilder;
use datafusion::physical_expr::expressions::Column as PhysicalColumn;
use datafusion::physical_expr::{PhysicalExpr, create_physical_expr};
use std::sync::Arc;

/// Everything of `MaterializedView` that follows from its query.
pub struct Folded {
    /// Rows of the input node, `__msg` last.
    pub input: LogicalPlan,
    pub input_schema: SchemaRef,
    pub fold: Fold,
    pub having: Option<Arc<dyn PhysicalExpr>>,
    pub projection: Vec<Arc<dyn PhysicalExpr>>,
    pub output_schema: SchemaRef,
    pub key: Vec<usize>,
}

/// `names`: the view's column list, or empty.
pub fn split(planner: &Planner, plan: LogicalPlan, names: &[String]) -> Result<Folded, Vec<Fault>> {
    match plan {
        LogicalPlan::Distinct(Distinct::On(distinct)) => distinct_on(planner, distinct, names),
        LogicalPlan::Projection(read) => {
            let (having, below) = match read.input.as_ref() {
                LogicalPlan::Filter(filter) => (Some(filter.predicate.clone()), filter.input.as_ref()),
                other => (None, other),
            };
            match below {
                LogicalPlan::Aggregate(aggregate) if !aggregate.group_expr.is_empty() => {
                    group_by(planner, aggregate, &read, having, names)
                }
                _ => Err(vec![no_key(planner)]),
            }
        }
        _ => Err(vec![no_key(planner)]),
    }
}

fn no_key(planner: &Planner) -> Fault {
    planner.fault(
        "a materialized view needs a key, and this one has none",
        "Write GROUP BY key, or SELECT DISTINCT ON (key) ... ORDER BY key, t DESC. Without state it is a CREATE VIEW.",
    )
}

fn group_by(
    planner: &Planner,
    aggregate: &logical_expr::Aggregate,
    read: &Projection,
    having: Option<Expr>,
    names: &[String],
) -> Result<Folded, Vec<Fault>> {
    let complain = |e: DataFusionError| vec![planner.complain(&e)];
    let mut input = InputColumns::over(&aggregate.input);
    for (position, group) in aggregate.group_expr.iter().enumerate() {
        // A key is known by its name in the list of columns, where it has one.
        let in_result = Expr::Column(Column::from(aggregate.schema.qualified_field(position)));
        let alias = read.expr.iter().find(|e| (*e).clone().unalias() == in_result);
        input.add_settled(planner, group, alias.unwrap_or(group)).map_err(|f| vec![f])?;
    }
    let groups: Vec<usize> = (0..aggregate.group_expr.len()).collect();
    let mut over_input = Vec::new();
    for function in &aggregate.aggr_expr {
        over_input.push(input.read_by(function.clone().unalias()).map_err(complain)?);
    }
    let (input_plan, input_schema) = input.project().map_err(complain)?;
    planner.check_constants(&input_plan).map_err(|f| vec![f])?;

    let input_df = Arc::new(DFSchema::try_from(input_schema.as_ref().clone()).map_err(complain)?);
    let props = ExecutionProps::new();
    let context = PhysicalPlanningContext::default();
    let mut aggregates = Vec::new();
    let mut result_fields: Vec<FieldRef> = groups.iter().map(|i| input_schema.fields()[*i].clone()).collect();
    for (position, function) in over_input.iter().enumerate() {
        let name = aggregate.schema.field(groups.len() + position).name();
        let lowered = LoweredAggregateBuilder::new(function, &input_df, &input_schema, &props, &context)
            .with_name(name)
            .build()
            .map_err(complain)?;
        // Some functions learn only here that they cannot take the type: better now than at the start.
        lowered.aggregate.create_accumulator().map_err(complain)?;
        result_fields.push(nullable(&lowered.aggregate.field(), true));
        aggregates.push(Aggregate { function: lowered.aggregate, filter: lowered.filter });
    }
    let result_schema: SchemaRef = Arc::new(Schema::new(result_fields));

    // HAVING and the projection, over the result's columns; analysed anew because settled keys may have other types.
    let result = ResultColumns { of: &aggregate.schema, schema: &result_schema };
    let scan = LogicalPlanBuilder::scan("result", Arc::new(LeafSource { schema: result_schema.clone() }), None)
        .map_err(complain)?;
    let scan = match having {
        Some(having) => scan.filter(result.rename(having).map_err(complain)?).map_err(complain)?,
        None => scan,
    };
    let outputs: Vec<Expr> =
        read.expr.iter().map(|e| result.rename(e.clone())).collect::<Result<_, _>>().map_err(complain)?;
    let own_names: Vec<String> = read.schema.fields().iter().map(|f| f.name().clone()).collect();
    let names = planner.output_names(names, &own_names).map_err(|f| vec![f])?;
    let named: Vec<Expr> = outputs.iter().zip(&names).map(|(e, n)| e.clone().unalias().alias(n)).collect();
    let plan = scan.project(named).and_then(LogicalPlanBuilder::build).map_err(complain)?;
    let plan = planner.check_types(plan).map_err(|f| vec![f])?;
    let read_plan = Reading::of(planner, plan, &names)?;

    let mut key = Vec::new();
    let mut faults = Vec::new();
    for (group, expr) in groups.iter().zip(&aggregate.group_expr) {
        let column = Expr::Column(Column::from_name(result_schema.field(*group).name()));
        match outputs.iter().position(|o| o.clone().unalias() == column) {
            Some(position) => key.push(position),
            None => faults.push(missing_key(planner, expr)),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(Folded {
        input: input_plan,
        input_schema,
        fold: Fold::GroupBy { groups, aggregates, result_schema },
        having: read_plan.filter,
        projection: read_plan.projection,
        output_schema: read_plan.schema,
        key,
    })
}

fn missing_key(planner: &Planner, expr: &Expr) -> Fault {
    let name = short(expr);
    planner.fault_at(
        name.trim_matches('"'),
        format!("the key {name} is not among the columns"),
        format!("Add {name} to the list: every key of a materialized view is one of its columns."),
    )
}

/// An expression without the relation's name before its columns.
fn short(expr: &Expr) -> String {
    match expr {
        Expr::Column(column) => format!("\"{}\"", column.name),
        other => format!("\"{other}\""),
    }
}

fn distinct_on(planner: &Planner, distinct: DistinctOn, names: &[String]) -> Result<Folded, Vec<Fault>> {
    let complain = |e: DataFusionError| vec![planner.complain(&e)];
    let own_names: Vec<String> = distinct.schema.fields().iter().map(|f| f.name().clone()).collect();
    let names = planner.output_names(names, &own_names).map_err(|f| vec![f])?;
    let mut input = InputColumns::over(&distinct.input);
    let mut faults = Vec::new();
    for (expr, name) in distinct.select_expr.iter().zip(&names) {
        if let Err(fault) = input.add_named(planner, expr, name) {
            faults.push(fault);
        }
    }
    let find = |expr: &Expr| distinct.select_expr.iter().position(|s| s.clone().unalias() == expr.clone().unalias());
    let mut on = Vec::new();
    for expr in &distinct.on_expr {
        match find(expr) {
            Some(position) => on.push(position),
            None => faults.push(missing_key(planner, expr)),
        }
    }
    let sorts = distinct.sort_expr.as_deref().unwrap_or_default();
    let mut order = Vec::new();
    for sort in sorts.iter().skip(distinct.on_expr.len()) {
        let column = match find(&sort.expr) {
            Some(position) => position,
            None => match input.add_settled(planner, &sort.expr, &sort.expr) {
                Ok(position) => position,
                Err(fault) => {
                    faults.push(fault);
                    continue;
                }
            },
        };
        order.push(OrderColumn { column, descending: !sort.asc });
    }
    if order.is_empty() && faults.is_empty() {
        faults.push(planner.fault(
            "ORDER BY does not say which row of a key is kept",
            "Add the column that decides after the key: ORDER BY vehicle_id, t DESC.",
        ));
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    let (input_plan, input_schema) = input.project().map_err(complain)?;
    planner.check_constants(&input_plan).map_err(|f| vec![f])?;
    for sort in &order {
        let field = input_schema.field(sort.column);
        if field.data_type().is_nested() {
            let message = format!("rows cannot be ordered by \"{}\"", field.name());
            return Err(vec![planner.fault(message, "Order by a number, a time or a text.")]);
        }
    }
    let output_schema: SchemaRef = Arc::new(Schema::new(input_schema.fields()[..names.len()].to_vec()));
    let projection = output_schema.fields().iter().enumerate();
    let projection = projection.map(|(i, f)| Arc::new(PhysicalColumn::new(f.name(), i)) as Arc<dyn PhysicalExpr>);
    Ok(Folded {
        input: input_plan,
        fold: Fold::DistinctOn { on: on.clone(), order, result_schema: input_schema.clone() },
        input_schema,
        having: None,
        projection: projection.collect(),
        output_schema,
        key: on,
    })
}

/// The columns of the input node as they are collected.
struct InputColumns<'a> {
    from: &'a Arc<LogicalPlan>,
    /// As the statement has them, to find one again; and as the node computes them.
    asked: Vec<Expr>,
    computed: Vec<Expr>,
    names: Vec<String>,
}

impl<'a> InputColumns<'a> {
    fn over(from: &'a Arc<LogicalPlan>) -> Self {
        InputColumns { from, asked: Vec::new(), computed: Vec::new(), names: Vec::new() }
    }

    /// A column of its own for `expr`, in the type that leaves a statement: two keys that differ only in nanoseconds
    /// would otherwise be two rows of one key.
    fn add_settled(&mut self, planner: &Planner, expr: &Expr, named_by: &Expr) -> Result<usize, Fault> {
        let name = self.free_name(named_by);
        self.add_named(planner, expr, &name)
    }

    fn add_named(&mut self, planner: &Planner, expr: &Expr, name: &str) -> Result<usize, Fault> {
        let bare = expr.clone().unalias();
        let kind = bare.get_type(self.from.schema()).map_err(|e| planner.complain(&e))?;
        let settled = settled(&kind).map_err(|(why, hint)| {
            planner.fault(format!("column \"{name}\" cannot leave the statement: {why}"), hint)
        })?;
        let computed = if settled == kind { bare.clone() } else { cast(bare.clone(), settled) };
        self.push(bare, computed, name.to_string());
        Ok(self.names.len() - 1)
    }

    fn push(&mut self, asked: Expr, computed: Expr, name: String) {
        self.asked.push(asked);
        self.computed.push(computed);
        self.names.push(name);
    }

    /// The name of a column, or the text of an expression; with a number where it is taken.
    fn free_name(&self, expr: &Expr) -> String {
        let name = match expr {
            Expr::Column(column) => column.name.clone(),
            Expr::Alias(alias) => alias.name.clone(),
            other => other.schema_name().to_string(),
        };
        let taken = |n: &str| n == MSG_COLUMN || self.names.iter().any(|m| m == n);
        (1..).map(|i| if i == 1 { name.clone() } else { format!("{name}_{i}") }).find(|n| !taken(n)).expect("endless")
    }

    /// The aggregate with its arguments, filter and order replaced by columns of the input node; constants stay.
    fn read_by(&mut self, function: Expr) -> Result<Expr, DataFusionError> {
        let Expr::AggregateFunction(AggregateFunction { func, mut params }) = function else {
            return Err(DataFusionError::Internal(format!("{function} is not an aggregate")));
        };
        let simplifier =
            ExprSimplifier::new(SimplifyContext::builder().with_schema(self.from.schema().clone()).build());
        for arg in &mut params.args {
            let simple = simplifier.simplify(arg.clone())?;
            *arg = if simple.column_refs().is_empty() { simple } else { self.column(arg.clone()) };
        }
        if let Some(filter) = &mut params.filter {
            **filter = self.column(filter.as_ref().clone());
        }
        for sort in &mut params.order_by {
            sort.expr = self.column(sort.expr.clone());
        }
        Ok(Expr::AggregateFunction(AggregateFunction { func, params }))
    }

    fn column(&mut self, expr: Expr) -> Expr {
        let found =
            self.asked.iter().zip(&self.computed).position(|(asked, computed)| *asked == expr && *computed == expr);
        let position = found.unwrap_or_else(|| {
            let name = self.free_name(&expr);
            self.push(expr.clone(), expr, name);
            self.names.len() - 1
        });
        Expr::Column(Column::new_unqualified(self.names[position].clone()))
    }

    fn project(self) -> Result<(LogicalPlan, SchemaRef), DataFusionError> {
        let message = message_column(self.from)
            .ok_or_else(|| DataFusionError::Internal(format!("the input of the fold lost {MSG_COLUMN}")))?;
        let mut outputs: Vec<Expr> = self.computed.into_iter().zip(&self.names).map(|(e, n)| e.alias(n)).collect();
        outputs.push(message.alias(MSG_COLUMN));
        let plan = LogicalPlanBuilder::from(self.from.as_ref().clone()).project(outputs)?.build()?;
        let schema = without_message(&stream_schema(&plan));
        Ok((plan, schema))
    }
}

/// Columns of an Aggregate node, under their names in the fold's result.
struct ResultColumns<'a> {
    of: &'a DFSchemaRef,
    schema: &'a SchemaRef,
}

impl ResultColumns<'_> {
    fn rename(&self, expr: Expr) -> Result<Expr, DataFusionError> {
        let renamed = expr.transform_up(|expr| match expr {
            Expr::Column(column) => {
                let position = self.of.index_of_column(&column)?;
                Ok(Transformed::yes(Expr::Column(Column::from_name(self.schema.field(position).name()))))
            }
            other => Ok(Transformed::no(other)),
        })?;
        Ok(renamed.data)
    }
}

/// A filter and a projection over the rows of one leaf, as physical expressions, evaluated row by row.
pub struct Reading {
    pub filter: Option<Arc<dyn PhysicalExpr>>,
    pub projection: Vec<Arc<dyn PhysicalExpr>>,
    pub schema: SchemaRef,
}

impl Reading {
    /// `plan` is a projection over an optional filter over a scan, analysed; outputs get their settled types here.
    pub fn of(planner: &Planner, plan: LogicalPlan, names: &[String]) -> Result<Reading, Vec<Fault>> {
        let complain = |e: DataFusionError| vec![planner.complain(&e)];
        let LogicalPlan::Projection(projection) = plan else {
            return Err(vec![
                planner.fault("the query is more than a filter and a projection", "Write it in two statements."),
            ]);
        };
        let (predicate, scan) = match projection.input.as_ref() {
            LogicalPlan::Filter(filter) => (Some(&filter.predicate), filter.input.as_ref()),
            other => (None, other),
        };
        let types: Vec<DataType> = projection.schema.fields().iter().map(|f| f.data_type().clone()).collect();
        let outputs = planner.settle(&projection.expr, &types, names)?;
        let schema = scan.schema();
        let props = ExecutionProps::new();
        let context = PhysicalPlanningContext::default();
        let simplifier = ExprSimplifier::new(SimplifyContext::builder().with_schema(schema.clone()).build());
        let physical = |expr: &Expr| {
            let simple = simplifier.simplify(expr.clone().unalias())?;
            create_physical_expr(&simple, schema, &props, &context)
        };
        let mut fields: Vec<FieldRef> = Vec::new();
        for (output, name) in outputs.iter().zip(names) {
            let kind = output.get_type(schema).map_err(complain)?;
            fields.push(Arc::new(Field::new(name, kind, true)));
        }
        Ok(Reading {
            filter: predicate.map(&physical).transpose().map_err(complain)?,
            projection: outputs.iter().map(physical).collect::<Result<_, _>>().map_err(complain)?,
            schema: Arc::new(Schema::new(fields)),
        })
    }
}
