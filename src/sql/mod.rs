//! Statements -> `Plan`: parse, allow-list, check against the catalog, plan with DataFusion; every fault at once.

pub mod plan; // what the rest of the house sees of SQL
