//! Statements -> `Plan`: parse, allow-list, check against the catalog, plan with DataFusion; every fault at once.

pub mod plan; // what the rest of the house sees of SQL
pub mod exec; // runs a plan's nodes over one batch after the other

use crate::sql::plan::{Plan, SqlFile};
use crate::types::catalog::Catalog;
use crate::types::fault::Fault;

/// All files of a pipeline, in the order in which they were read. Every fault of every statement at once.
pub async fn compile(_files: &[SqlFile], _catalog: &Catalog) -> Result<Plan, Vec<Fault>> {
    unimplemented!()
}

/// What `pipe explain` prints: per statement what it reads, its key, columns, plan, and where it goes.
pub fn explain(_plan: &Plan) -> String {
    unimplemented!()
}
