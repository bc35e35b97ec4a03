//! What a statement's query is planned against: relations by name, each a leaf with a schema.
//!
//! Stream relations (tables, stateless views) carry `__msg`; materialized views do not. A leaf knows nothing of where
//! its rows come from: `assemble` puts an inlined view in its place, `exec` a refillable one.

use crate::types::fault::closest;
use arrow::datatypes::{DataType, SchemaRef};
use datafusion::common::{Result, TableReference, plan_datafusion_err};
use datafusion::config::ConfigOptions;
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::planner::{ContextProvider, ExprPlanner};
use datafusion::logical_expr::{AggregateUDF, HigherOrderUDF, LogicalPlan, ScalarUDF, TableSource, WindowUDF};
use std::collections::BTreeMap;
use std::sync::Arc;

#[derive(Clone, Debug)]
pub struct Relation {
    pub kind: RelationKind,
    /// What a scan of it yields; for streams with `__msg` last.
    pub schema: SchemaRef,
    /// Columns that `*` leaves out: meta columns and `__msg`.
    pub hidden: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RelationKind {
    Table,
    View,
    Materialized,
}

impl RelationKind {
    pub fn word(self) -> &'static str {
        match self {
            RelationKind::Table => "table",
            RelationKind::View => "view",
            RelationKind::Materialized => "materialized view",
        }
    }
}

pub type Relations = BTreeMap<String, Relation>;

/// The scan of a relation in a logical plan.
#[derive(Debug)]
pub struct LeafSource {
    pub schema: SchemaRef,
}

impl TableSource for LeafSource {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }
}

/// Names of the relations that the plan scans, each once, in the order of the plan.
pub fn scanned(plan: &LogicalPlan) -> Result<Vec<String>> {
    use datafusion::common::tree_node::{TreeNode, TreeNodeRecursion};
    let mut names: Vec<String> = Vec::new();
    plan.apply(|node| {
        if let LogicalPlan::TableScan(scan) = node
            && !names.iter().any(|n| n == scan.table_name.table())
        {
            names.push(scan.table_name.table().to_string());
        }
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(names)
}

/// Resolves names for DataFusion's planner.
pub struct Names<'a> {
    pub session: &'a SessionState,
    pub relations: &'a Relations,
}

impl ContextProvider for Names<'_> {
    fn get_table_source(&self, name: TableReference) -> Result<Arc<dyn TableSource>> {
        let relation = self.relations.get(name.table()).ok_or_else(|| {
            let close = closest(name.table(), self.relations.keys().map(String::as_str));
            plan_datafusion_err!("table \"{name}\" does not exist (closest: {close:?})")
        })?;
        Ok(Arc::new(LeafSource { schema: relation.schema.clone() }))
    }

    fn get_expr_planners(&self) -> &[Arc<dyn ExprPlanner>] {
        self.session.expr_planners()
    }

    fn get_function_meta(&self, name: &str) -> Option<Arc<ScalarUDF>> {
        self.session.scalar_functions().get(name).cloned()
    }

    fn get_higher_order_meta(&self, _name: &str) -> Option<Arc<HigherOrderUDF>> {
        None // lambdas are not part of the language
    }

    fn get_aggregate_meta(&self, name: &str) -> Option<Arc<AggregateUDF>> {
        self.session.aggregate_functions().get(name).cloned()
    }

    fn get_window_meta(&self, name: &str) -> Option<Arc<WindowUDF>> {
        self.session.window_functions().get(name).cloned()
    }

    fn get_variable_type(&self, _names: &[String]) -> Option<DataType> {
        None
    }

    fn options(&self) -> &ConfigOptions {
        self.session.config_options()
    }

    fn udf_names(&self) -> Vec<String> {
        self.session.scalar_functions().keys().cloned().collect()
    }

    fn higher_order_function_names(&self) -> Vec<String> {
        Vec::new()
    }

    fn udaf_names(&self) -> Vec<String> {
        self.session.aggregate_functions().keys().cloned().collect()
    }

    fn udwf_names(&self) -> Vec<String> {
        self.session.window_functions().keys().cloned().collect()
    }
}
