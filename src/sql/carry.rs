//! Makes a query carry `__msg` through every SELECT, and keeps hidden columns out of `*`.
//!
//! Done on the AST, before planning: DataFusion then builds filters, projections and unnests with the column in them.
//! The allow-list has run: one relation per FROM, no joins, no aggregates outside a fold.

use crate::sql::relation::Relations;
use crate::sql::statement::normal;
use crate::types::lineage::MSG_COLUMN;
use datafusion::sql::sqlparser::ast::{
    ExcludeSelectItem, Expr, Ident, ObjectName, Query, SelectItem, SetExpr, TableFactor, WildcardAdditionalOptions,
};

/// `folds`: the outermost SELECT is a GROUP BY or DISTINCT ON, which reads `__msg` and does not yield it.
pub fn carry_message(query: &mut Query, relations: &Relations, folds: bool) {
    let mut carry = Carry { relations, streams: true };
    carry.query(query, &[], folds);
}

/// Names the columns of the outermost SELECTs by the statement's own list. Left to itself, DataFusion calls both `t` and
/// `CAST(t AS DATE)` t, and refuses two columns of one name.
pub fn name_columns(body: &mut SetExpr, names: &[Ident]) {
    match body {
        SetExpr::Query(query) => name_columns(&mut query.body, names),
        SetExpr::SetOperation { left, right, .. } => {
            name_columns(left, names);
            name_columns(right, names);
        }
        SetExpr::Select(select) if select.projection.len() == names.len() => {
            for (item, name) in select.projection.iter_mut().zip(names) {
                if let SelectItem::UnnamedExpr(expr) = item {
                    *item = SelectItem::ExprWithAlias { expr: expr.clone(), alias: name.clone() };
                }
            }
        }
        _ => {} // another number of columns is told of when the names are given out
    }
}

/// A query over a materialized view has no `__msg`; only hidden columns are kept out of `*` (it has none).
pub fn hide_columns(query: &mut Query, relations: &Relations) {
    let mut carry = Carry { relations, streams: false };
    carry.query(query, &[], true);
}

struct Carry<'a> {
    relations: &'a Relations,
    streams: bool,
}

impl Carry<'_> {
    fn query(&mut self, query: &mut Query, outer_ctes: &[String], folds: bool) {
        let mut ctes = outer_ctes.to_vec();
        if let Some(with) = &mut query.with {
            for cte in &mut with.cte_tables {
                self.query(&mut cte.query, &ctes, false);
                ctes.push(normal(&cte.alias.name));
            }
        }
        self.body(&mut query.body, &ctes, folds);
    }

    fn body(&mut self, body: &mut SetExpr, ctes: &[String], folds: bool) {
        match body {
            SetExpr::Query(query) => self.query(query, ctes, folds),
            SetExpr::SetOperation { left, right, .. } => {
                self.body(left, ctes, folds);
                self.body(right, ctes, folds);
            }
            SetExpr::Select(select) => {
                let mut hidden = vec![MSG_COLUMN.to_string()];
                for from in &mut select.from {
                    self.relation(&mut from.relation, ctes, &mut hidden);
                }
                if !self.streams {
                    return;
                }
                for item in &mut select.projection {
                    if let SelectItem::Wildcard(options) | SelectItem::QualifiedWildcard(_, options) = item {
                        exclude(options, &hidden);
                    }
                }
                if !folds {
                    select.projection.push(SelectItem::UnnamedExpr(Expr::Identifier(Ident::new(MSG_COLUMN))));
                }
            }
            // Nothing else passes the allow-list.
            SetExpr::Values(_)
            | SetExpr::Insert(_)
            | SetExpr::Update(_)
            | SetExpr::Delete(_)
            | SetExpr::Merge(_)
            | SetExpr::Table(_) => {}
        }
    }

    fn relation(&mut self, relation: &mut TableFactor, ctes: &[String], hidden: &mut Vec<String>) {
        match relation {
            TableFactor::Derived { subquery, .. } => self.query(subquery, ctes, false),
            TableFactor::NestedJoin { table_with_joins, .. } => {
                self.relation(&mut table_with_joins.relation, ctes, hidden);
            }
            TableFactor::Table { name, .. } => {
                let bare = name.0.last().and_then(|p| p.as_ident()).map(normal).unwrap_or_default();
                if !ctes.contains(&bare)
                    && let Some(relation) = self.relations.get(&bare)
                {
                    hidden.clone_from(&relation.hidden);
                }
            }
            _ => {} // nothing else passes the allow-list
        }
    }
}

/// Adds names to what `*` leaves out; what the user left out already is not named twice.
fn exclude(options: &mut WildcardAdditionalOptions, hidden: &[String]) {
    let mut names: Vec<ObjectName> = match options.opt_exclude.take() {
        None => Vec::new(),
        Some(ExcludeSelectItem::Single(name)) => vec![name],
        Some(ExcludeSelectItem::Multiple(names)) => names,
    };
    let excepted: Vec<String> = options
        .opt_except
        .iter()
        .flat_map(|e| std::iter::once(&e.first_element).chain(&e.additional_elements))
        .map(|i| i.value.clone())
        .collect();
    let given: Vec<String> = names.iter().map(ToString::to_string).chain(excepted).collect();
    for name in hidden.iter().filter(|h| !given.contains(h)) {
        names.push(ObjectName::from(vec![Ident::new(name.clone())]));
    }
    options.opt_exclude = Some(ExcludeSelectItem::Multiple(names));
}
