//! The identity of a materialized view's state: a digest over everything that its meaning hangs on.
//!
//! It covers the view's plan before optimisation, the fingerprints of what it reads (down to the declared tables) and
//! DataFusion's version; not the file, the place or the white space of a statement.

use crate::types::table::Table;
use datafusion::logical_expr::LogicalPlan;
use sha2::{Digest, Sha256};

/// Raised when the layout of state changes in a way that no plan shows.
const STATE_FORMAT: u32 = 1;

pub fn of_table(table: &Table) -> String {
    digest(&[&format!("{table:?}")])
}

/// `reads`: the fingerprints of the relations that the plan scans, in the plan's order.
pub fn of_query(plan: &LogicalPlan, reads: &[&str]) -> String {
    let plan = plan.display_indent_schema().to_string();
    let version = format!("{} {STATE_FORMAT}", datafusion::DATAFUSION_VERSION);
    let mut parts = vec![plan.as_str(), version.as_str()];
    parts.extend(reads);
    digest(&parts)
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
