//! What a share of a materialized view promises: equal to batch SQL, frozen reads, nothing lost at a cut.

mod aggregates; // GROUP BY against DataFusion's batch answer
mod distinct; // DISTINCT ON against a naive oracle
mod frozen; // readers, errors, cuts, compaction
mod restored; // loaded from segments
mod support; // views from SQL, random rows, comparison
mod through_sql; // as users write them
