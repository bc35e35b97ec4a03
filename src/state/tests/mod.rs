//! What a share of a materialized view promises: equal to batch SQL, frozen reads, nothing lost at a cut.

mod aggregates; // GROUP BY against DataFusion's batch answer
mod distinct; // DISTINCT ON against a naive oracle
mod frozen;
mod support; // views from SQL, random rows, comparison // readers, errors, cuts, compaction
mod through_sql; // as users write them
