//! Statements -> `Plan`: parse, allow-list, check against the catalog, plan with DataFusion; every fault at once.

mod allow; // the accepted grammar: queries
mod allow_expr; // the accepted grammar: expressions
mod assemble; // nodes in evaluation order
mod carry; // __msg through every SELECT
mod compile; // all statements, in order
mod complaint; // what the planner objects to, in our words
mod create_table; // CREATE TABLE, our own grammar
mod deliver; // what a sink receives
pub mod exec; // runs a plan's nodes over one batch after the other
mod explain; // a plan as text
mod fingerprint; // the identity of a view's state
mod fold; // a materialized view, split in three
mod function; // what may be called; now() per batch
mod leaf; // the refillable scan under exec's plans
mod names; // who defines what
pub mod plan; // what the rest of the house sees of SQL
mod query; // a query, planned and its outputs settled
mod rebuild; // which tables hold the rows that a view folds
mod relation; // what a query is planned against
pub mod replay; // a view's rows once more, from a table that kept them
mod settle; // the types that leave a statement
mod statement; // one statement: which of the four
pub mod surface; // every construct by its word, for the documentation's test
mod table_options; // its route and epoch_unit
mod text; // files cut into statements

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;
#[cfg(test)]
mod tests_bisect;
#[cfg(test)]
mod tests_faults;

use crate::sql::plan::{Plan, SqlFile};
use crate::types::catalog::Catalog;
use crate::types::fault::Fault;

/// All files of a pipeline, in the order in which they were read. Every fault of every statement at once.
pub async fn compile(files: &[SqlFile], catalog: &Catalog) -> Result<Plan, Vec<Fault>> {
    compile::compile(files, catalog)
}

/// What `pipe explain` prints: per statement what it reads, its key, columns, plan, and where it goes.
pub fn explain(plan: &Plan) -> String {
    explain::explain(plan)
}

/// Why state recorded under the fingerprint `before` does not serve a view whose fingerprint is `now`, as far as it can
/// be told.
pub fn why_changed(before: &str, now: &str) -> String {
    fingerprint::why_changed(before, now)
}
