//! Planned statements -> nodes in evaluation order: a view with one reader is inlined, one with several is shared.
//!
//! The optimizer's rules are named one by one. Left out on purpose: those that rewrite DISTINCT ON and count(distinct)
//! (folds are ours), those for joins and subqueries (not in the language), and whatever would fold `now()`.

use crate::sql::plan::{Input, Node, NodeRole};
use crate::sql::query::stream_schema;
use crate::sql::relation::scanned;
use crate::types::table::{META_COLUMNS, Table};
use arrow::datatypes::SchemaRef;
use datafusion::common::tree_node::{Transformed, TreeNode, TreeNodeRecursion};
use datafusion::common::{DataFusionError, Result};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{LogicalPlan, LogicalPlanBuilder};
use datafusion::optimizer::common_subexpr_eliminate::CommonSubexprEliminate;
use datafusion::optimizer::optimize_projections::OptimizeProjections;
use datafusion::optimizer::push_down_filter::PushDownFilter;
use datafusion::optimizer::simplify_expressions::SimplifyExpressions;
use datafusion::optimizer::{Optimizer, OptimizerContext, OptimizerRule};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub fn optimize(session: &SessionState, plan: LogicalPlan) -> Result<LogicalPlan> {
    let rules: Vec<Arc<dyn OptimizerRule + Send + Sync>> = vec![
        Arc::new(SimplifyExpressions::new()),
        Arc::new(PushDownFilter::new()),
        Arc::new(CommonSubexprEliminate::new()),
        Arc::new(OptimizeProjections::new()),
    ];
    // Without a start time, nothing that asks for the time is evaluated here.
    let config = OptimizerContext::new_with_config_options(session.config().options().clone())
        .without_query_execution_start_time();
    Optimizer::with_rules(rules).optimize(plan, &config, |_, _| {})
}

pub struct Assembly<'a> {
    session: &'a SessionState,
    tables: BTreeMap<String, usize>,
    /// Views that stand in their readers' plans, already without further views to inline.
    inlined: BTreeMap<String, LogicalPlan>,
    shared: BTreeMap<String, usize>,
    pub nodes: Vec<Node>,
}

impl<'a> Assembly<'a> {
    pub fn new(session: &'a SessionState, tables: &[Arc<Table>]) -> Self {
        Assembly {
            session,
            tables: tables.iter().enumerate().map(|(i, t)| (t.name.to_string(), i)).collect(),
            inlined: BTreeMap::new(),
            shared: BTreeMap::new(),
            nodes: Vec::new(),
        }
    }

    /// A view: a node of its own where several read it, else a part of its reader.
    pub fn add_view(&mut self, name: &str, plan: &LogicalPlan, readers: usize) -> Result<()> {
        if readers > 1 {
            let node = self.add_node(name.into(), NodeRole::Shared, plan, None)?;
            self.shared.insert(name.to_string(), node);
        } else {
            let plan = self.inline(plan)?;
            self.inlined.insert(name.to_string(), plan);
        }
        Ok(())
    }

    /// `schema`: what the reader was promised, where that says more than the plan.
    pub fn add_node(
        &mut self,
        statement: Arc<str>,
        role: NodeRole,
        plan: &LogicalPlan,
        schema: Option<SchemaRef>,
    ) -> Result<usize> {
        let plan = self.inline(plan)?;
        let schema = schema.unwrap_or_else(|| stream_schema(&plan));
        let logical = optimize(self.session, plan)?;
        let mut reads = Vec::new();
        for name in scanned(&logical)? {
            reads.push(self.input(&name).ok_or_else(|| {
                DataFusionError::Internal(format!("\"{statement}\" reads \"{name}\", which has no rows of its own"))
            })?);
        }
        self.nodes.push(Node { statement, role, logical, reads, schema });
        Ok(self.nodes.len() - 1)
    }

    fn input(&self, name: &str) -> Option<Input> {
        let table = self.tables.get(name).map(|i| Input::Table(*i));
        table.or_else(|| self.shared.get(name).map(|i| Input::Node(*i)))
    }

    /// Puts the plans of inlined views in the place of their scans.
    fn inline(&self, plan: &LogicalPlan) -> Result<LogicalPlan> {
        let replaced = plan.clone().transform_up(|node| {
            let LogicalPlan::TableScan(scan) = &node else { return Ok(Transformed::no(node)) };
            let Some(view) = self.inlined.get(scan.table_name.table()) else { return Ok(Transformed::no(node)) };
            let alias = scan.table_name.clone();
            Ok(Transformed::yes(LogicalPlanBuilder::from(view.clone()).alias(alias)?.build()?))
        })?;
        Ok(replaced.data)
    }
}

/// How many scans of each view the given plans and the views they live on contain; views that nothing reads are absent.
pub fn count_readers(views: &BTreeMap<String, LogicalPlan>, live: &[&LogicalPlan]) -> Result<BTreeMap<String, usize>> {
    let mut readers: BTreeMap<String, usize> = BTreeMap::new();
    let mut visited: BTreeSet<String> = BTreeSet::new();
    let mut to_visit: Vec<&LogicalPlan> = live.to_vec();
    while let Some(plan) = to_visit.pop() {
        for name in all_scans(plan)? {
            let Some(view) = views.get(&name) else { continue };
            *readers.entry(name.clone()).or_default() += 1;
            if visited.insert(name) {
                to_visit.push(view);
            }
        }
    }
    Ok(readers)
}

fn all_scans(plan: &LogicalPlan) -> Result<Vec<String>> {
    let mut names = Vec::new();
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node {
            names.push(scan.table_name.table().to_string());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(names)
}

/// Per table: which meta columns the nodes read.
pub fn meta_used(tables: &[Arc<Table>], nodes: &[Node]) -> Result<Vec<[bool; 9]>> {
    let mut used = vec![[false; META_COLUMNS.len()]; tables.len()];
    for node in nodes {
        node.logical.apply(|plan| {
            if let LogicalPlan::TableScan(scan) = plan
                && let Some(table) = tables.iter().position(|t| t.name.as_ref() == scan.table_name.table())
            {
                for field in scan.projected_schema.fields() {
                    if let Some(meta) = META_COLUMNS.iter().position(|m| m == field.name()) {
                        used[table][meta] = true;
                    }
                }
            }
            Ok(TreeNodeRecursion::Continue)
        })?;
    }
    Ok(used)
}
