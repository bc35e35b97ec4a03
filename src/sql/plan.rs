//! What SQL files compile to: tables, stateless nodes in evaluation order, materialized views, inserts.
//!
//! Built once at start. `exec::Stateless` (one per slot) evaluates the nodes over a batch; `state` folds a view's input
//! node into its keyed state; the engine hands insert nodes to sinks.

use crate::types::table::Table;
use arrow::datatypes::SchemaRef;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_expr::PhysicalExpr;
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

/// One SQL file as it was read; `path` is what errors print.
#[derive(Clone, Debug)]
pub struct SqlFile {
    pub path: PathBuf,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Plan {
    pub tables: Vec<Arc<Table>>,
    /// In evaluation order: a node reads tables and earlier nodes only.
    pub nodes: Vec<Node>,
    pub views: Vec<Arc<MaterializedView>>,
    pub inserts: Vec<Arc<Insert>>,
    /// Stateless views by name and their schema (without `__msg`), for `explain`, `validate` and batch name resolution.
    pub stateless_views: Vec<StatelessView>,
    /// Per table (index as in `tables`): which of `META_COLUMNS` any statement reads. The engine builds only those
    /// and fills the others with nulls of no cost... except NOT NULL ones, which it always builds.
    pub meta_used: Vec<[bool; 9]>,
    /// What each append-only table receives; those that one statement alone fills.
    pub feeds: Vec<Feed>,
    /// By index in `views`.
    pub rebuilds: Vec<Rebuilds>,
}

#[derive(Clone, Debug)]
pub struct StatelessView {
    pub name: Arc<str>,
    pub schema: SchemaRef,
    pub sql: Arc<str>,
    pub place: Place,
}

/// Where a statement stands, for errors and `explain`.
#[derive(Clone, Debug)]
pub struct Place {
    pub file: PathBuf,
    pub line: u32,
    pub column: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Input {
    /// Index into `Plan::tables`; rows have `Table::leaf_schema`.
    Table(usize),
    /// Index into `Plan::nodes`; rows have that node's schema.
    Node(usize),
}

/// A stateless plan, evaluated once per batch however many statements read it.
#[derive(Clone, Debug)]
pub struct Node {
    /// What a reject names: `sql:<statement>`; the view's name, or "insert lake.points".
    pub statement: Arc<str>,
    pub role: NodeRole,
    /// Optimised. Its scans carry the names of what they read: a table, or the statement of a shared node.
    pub logical: LogicalPlan,
    pub reads: Vec<Input>,
    /// Output columns; the last one is `__msg` (UInt32, ascending).
    pub schema: SchemaRef,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NodeRole {
    /// Read by other nodes (a view with several readers).
    Shared,
    /// Feeds `Plan::views[i]`: columns as `MaterializedView::input_schema`, then `__msg`.
    ViewInput(usize),
    /// Feeds `Plan::inserts[i]`: columns as `Insert::schema`, then `__msg`.
    Insert(usize),
}

/// A `CREATE MATERIALIZED VIEW`: keyed hot state over the rows of its input node.
#[derive(Clone, Debug)]
pub struct MaterializedView {
    pub name: Arc<str>,
    pub sql: Arc<str>,
    pub place: Place,
    /// Index of the node whose rows are folded.
    pub input: usize,
    /// The input node's columns without `__msg`.
    pub input_schema: SchemaRef,
    pub fold: Fold,
    /// What readers see (after HAVING and the final projection).
    pub output_schema: SchemaRef,
    /// Indices into `output_schema` of the key, in key order. Every GROUP BY / DISTINCT ON expression is in the output.
    pub key: Vec<usize>,
    /// From the fold's result rows (`Fold::result_schema`) to the output: HAVING, then projection. Row by row.
    pub having: Option<Arc<dyn PhysicalExpr>>,
    pub projection: Vec<Arc<dyn PhysicalExpr>>,
    /// Hex digest over the canonical plan, schemas and DataFusion's version. State is loaded only under an equal one.
    pub fingerprint: String,
}

#[derive(Clone, Debug)]
pub enum Fold {
    GroupBy {
        /// Indices into `input_schema`: the input node computes group expressions as its first columns.
        groups: Vec<usize>,
        /// Mergeable, order-independent.
        aggregates: Vec<Aggregate>,
        /// Group columns then one column per aggregate.
        result_schema: SchemaRef,
    },
    DistinctOn {
        /// Indices into `input_schema`.
        on: Vec<usize>,
        /// Indices into `input_schema` with direction; NULLs always last. A key whose first order value is NULL is absent.
        order: Vec<OrderColumn>,
        /// = `input_schema`
        result_schema: SchemaRef,
    },
}

impl Fold {
    pub fn result_schema(&self) -> &SchemaRef {
        match self {
            Fold::GroupBy { result_schema, .. } | Fold::DistinctOn { result_schema, .. } => result_schema,
        }
    }
}

/// One aggregate over the input node's columns: arguments, filter and ORDER BY are expressions over `input_schema`.
/// DataFusion keeps the FILTER apart from the function (`LoweredAggregate`); so do we.
#[derive(Clone, Debug)]
pub struct Aggregate {
    pub function: Arc<AggregateFunctionExpr>,
    /// `FILTER (WHERE ...)`: only rows for which it is true count.
    pub filter: Option<Arc<dyn PhysicalExpr>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OrderColumn {
    pub column: usize,
    pub descending: bool,
}

/// An `INSERT INTO sink.table query`.
#[derive(Clone, Debug)]
pub struct Insert {
    pub sink: Arc<str>,
    pub table: Arc<str>,
    pub place: Place,
    pub sql: Arc<str>,
    /// Columns by name, as the sink table receives them. All nullable for append sinks.
    pub schema: SchemaRef,
    pub from: InsertFrom,
    /// The stream (table or stateless view) of which this is exactly `SELECT *`, if it is one: batch queries resolve
    /// that name to this table. Extra columns derived beside `*` are allowed.
    pub whole_of: Option<Arc<str>>,
}

#[derive(Clone, Debug)]
pub enum InsertFrom {
    /// Rows of a stateless node, once each.
    Node(usize),
    /// Changes of a materialized view: filter and projection over its `output_schema`, row by row.
    View {
        view: usize,
        filter: Option<Arc<dyn PhysicalExpr>>,
        projection: Vec<Arc<dyn PhysicalExpr>>,
        /// Indices into `Insert::schema` of the key, in the view's key order.
        key: Vec<usize>,
    },
}

/// What one statement puts into a table, column by column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Feed {
    pub sink: Arc<str>,
    pub table: Arc<str>,
    /// Of each column a digest over how it and the rows come about, from the messages on.
    pub columns: BTreeMap<String, String>,
}

/// From which tables a materialized view's state can be computed anew, as far as the statements can tell.
#[derive(Clone, Debug, Default)]
pub struct Rebuilds {
    pub ways: Vec<Rebuild>,
    /// What keeps other tables from serving, for people.
    pub unfit: Vec<String>,
}

/// A table that receives every row of a relation below a view, with all that the view reads of it.
#[derive(Clone, Debug)]
pub struct Rebuild {
    pub sink: Arc<str>,
    pub table: Arc<str>,
    /// As the statement fills it.
    pub schema: SchemaRef,
    pub relation: Arc<str>,
    /// What the view's plan scans; `__msg` last, everything nullable.
    pub leaf_schema: SchemaRef,
    /// Columns of `leaf_schema` that are read, and what the table calls them.
    pub columns: Vec<(usize, Arc<str>)>,
    /// The view's input rows over that relation, optimised.
    pub logical: LogicalPlan,
    /// Of DISTINCT ON: the table's columns that say where a row's message came from.
    pub origin: Option<OriginColumns>,
}

#[derive(Clone, Debug)]
pub struct OriginColumns {
    pub source: OriginSource,
    pub topic: Arc<str>,
    pub partition: Arc<str>,
    pub position: Arc<str>,
}

#[derive(Clone, Debug)]
pub enum OriginSource {
    Always(Arc<str>),
    Column(Arc<str>),
}
