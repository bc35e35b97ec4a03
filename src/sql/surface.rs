//! Every construct of the language by the word a user writes, so that docs/sql.md can be held to show each of them.
//!
//! Types, options, aggregates, operators and JSON functions come from the lists that the grammar itself reads: what is
//! added there fails the page's test until the page has an example. Statements and forms of expressions stand in the
//! grammar as `match` arms, and are repeated here.

use crate::sql::allow_expr::OPERATORS;
use crate::sql::create_table::{TABLE_OPTIONS, TYPES};
use crate::sql::function::{MERGEABLE, MERGEABLE_ORDERED, session};
use crate::sql::statement::VIEW_OPTIONS_TO_COME;
use crate::types::table::META_COLUMNS;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Statement,
    /// In CREATE TABLE.
    Type,
    TableOption,
    EpochUnit,
    MetaColumn,
    Clause,
    /// A form of expression, by its words.
    Expression,
    Operator,
    Aggregate,
    JsonFunction,
    /// Recognised and refused: the page says what to write instead.
    RefusedViewOption,
}

const STATEMENTS: [&str; 4] = ["CREATE TABLE", "CREATE VIEW", "CREATE MATERIALIZED VIEW", "INSERT INTO"];

const CLAUSES: [&str; 11] = [
    "* EXCLUDE",
    "* EXCEPT",
    "REPLACE (",
    "WITH",
    "UNION ALL",
    "WHERE",
    "GROUP BY",
    "HAVING",
    "FILTER (",
    "DISTINCT ON",
    "unnest (",
];

const EXPRESSIONS: [&str; 30] = [
    "AND",
    "OR",
    "NOT",
    "BETWEEN",
    "NOT BETWEEN",
    "IN (",
    "NOT IN (",
    "LIKE",
    "ILIKE",
    "SIMILAR TO",
    "IS NULL",
    "IS NOT NULL",
    "IS TRUE",
    "IS FALSE",
    "IS UNKNOWN",
    "IS DISTINCT FROM",
    "IS NOT DISTINCT FROM",
    "CASE WHEN",
    "CAST (",
    "TRY_CAST (",
    "AT TIME ZONE",
    "EXTRACT (",
    "INTERVAL",
    "CEIL (",
    "FLOOR (",
    "POSITION (",
    "SUBSTRING (",
    "TRIM (",
    "OVERLAY (",
    "now (",
];

const EPOCH_UNITS: [&str; 4] = ["'s'", "'ms'", "'us'", "'ns'"];

/// Every construct: its kind and its word.
pub fn surface() -> Vec<(Kind, String)> {
    let mut all = Vec::new();
    let mut add = |kind, words: &[&str]| all.extend(words.iter().map(|w| (kind, w.to_string())));
    add(Kind::Statement, &STATEMENTS);
    add(Kind::Type, &TYPES);
    add(Kind::TableOption, &TABLE_OPTIONS);
    add(Kind::EpochUnit, &EPOCH_UNITS);
    add(Kind::MetaColumn, &META_COLUMNS);
    add(Kind::Clause, &CLAUSES);
    add(Kind::Expression, &EXPRESSIONS);
    add(Kind::Aggregate, &MERGEABLE);
    add(Kind::Aggregate, &MERGEABLE_ORDERED);
    add(Kind::RefusedViewOption, &VIEW_OPTIONS_TO_COME);
    all.extend(OPERATORS.iter().map(|o| (Kind::Operator, o.to_string())));
    let session = session().expect("the same functions as for every pipeline");
    let mut json: Vec<&String> = session.scalar_functions().keys().filter(|name| name.contains("json")).collect();
    json.sort();
    all.extend(json.into_iter().map(|name| (Kind::JsonFunction, name.clone())));
    all
}
