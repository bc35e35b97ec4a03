//! The accepted grammar: an allow-list over the AST. What is not listed here is refused, with the rewrite.
//!
//! Every struct is taken apart field by field, so that a new field of the parser does not compile until somebody has
//! decided about it: DataFusion ignores some clauses silently (TABLESAMPLE, FOR SYSTEM_TIME).

use crate::sql::allow_expr::{Clause, Expressions};
use crate::sql::statement::{normal, tumble_hint};
use crate::sql::text::Piece;
use crate::types::fault::Fault;
use crate::types::lineage::MSG_COLUMN;
use datafusion::execution::session_state::SessionState;
use datafusion::sql::sqlparser::ast::{
    Distinct, Expr, GroupByExpr, Ident, OrderBy, OrderByKind, Query, Select, SelectFlavor, SelectItem,
    SelectItemQualifiedWildcardKind, SetExpr, SetOperator, SetQuantifier, Spanned, TableAlias, TableFactor,
    TableWithJoins, WildcardAdditionalOptions,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// What a statement may do depends on what it feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    View,
    Materialized,
    Insert,
}

/// A relation that a statement reads, by its name and where it is named.
#[derive(Clone, Debug)]
pub struct Reference {
    pub name: String,
    pub span: Span,
}

/// Faults of the query against the grammar, and the relations it reads (names of its own CTEs left out).
pub fn check(
    piece: &Piece,
    functions: &SessionState,
    purpose: Purpose,
    named_by_list: bool,
    query: &Query,
) -> (Vec<Reference>, Vec<Fault>) {
    let mut allow = Allow { piece, functions, purpose, named_by_list, references: Vec::new(), faults: Vec::new() };
    allow.query(query, true, &[]);
    (allow.references, allow.faults)
}

pub(super) struct Allow<'a> {
    pub piece: &'a Piece,
    pub functions: &'a SessionState,
    pub purpose: Purpose,
    /// The statement has a column list, which names the columns.
    named_by_list: bool,
    references: Vec<Reference>,
    pub faults: Vec<Fault>,
}

const AD_HOC: &str = "It works in ad-hoc queries over Flight SQL and `pipe sql`, not in a continuous statement.";

impl Allow<'_> {
    pub fn refuse(&mut self, span: Span, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(self.piece.fault(span, message, hint.into()));
    }

    fn refuse_if(&mut self, present: bool, span: Span, clause: &str, hint: &str) {
        if present {
            self.refuse(span, format!("{clause} is not part of the language"), hint);
        }
    }

    /// `top`: the statement's own query, whose rows leave the statement.
    fn query(&mut self, query: &Query, top: bool, outer_ctes: &[String]) {
        let Query {
            with,
            body,
            order_by,
            limit_clause,
            fetch,
            locks,
            for_clause,
            settings,
            format_clause,
            pipe_operators,
        } = query;
        let span = body.span();
        let mut ctes = outer_ctes.to_vec();
        if let Some(with) = with {
            let recursive = "A continuous statement cannot be recursive.";
            self.refuse_if(with.recursive, with.with_token.0.span, "WITH RECURSIVE", recursive);
            for cte in &with.cte_tables {
                self.alias(&cte.alias);
                let odd = cte.from.is_some() || cte.materialized.is_some();
                self.refuse_if(odd, cte.alias.name.span, "MATERIALIZED in WITH", "Write WITH x AS (SELECT ...).");
                self.query(&cte.query, false, &ctes);
                ctes.push(normal(&cte.alias.name));
            }
        }
        self.refuse_if(limit_clause.is_some(), span, "LIMIT", AD_HOC);
        self.refuse_if(fetch.is_some(), span, "FETCH", AD_HOC);
        self.refuse_if(!locks.is_empty() || for_clause.is_some(), span, "FOR", "Remove the clause.");
        self.refuse_if(
            settings.is_some() || format_clause.is_some(),
            span,
            "SETTINGS and FORMAT",
            "Remove the clause.",
        );
        self.refuse_if(!pipe_operators.is_empty(), span, "|>", "Write the steps as views.");
        let distinct_on = matches!(body.as_ref(), SetExpr::Select(s) if matches!(s.distinct, Some(Distinct::On(_))));
        if let Some(order_by) = order_by {
            if distinct_on {
                self.distinct_order(order_by);
            } else {
                let hint = format!("Rows have no order in a stream. {AD_HOC}");
                self.refuse_if(true, order_by.span(), "ORDER BY", &hint);
            }
        } else if distinct_on {
            self.refuse(
                span,
                "DISTINCT ON without ORDER BY does not say which row is kept",
                "Write ORDER BY with the ON columns first, then the column that decides: ORDER BY vehicle_id, t DESC.",
            );
        }
        self.body(body, top, &ctes);
    }

    fn body(&mut self, body: &SetExpr, top: bool, ctes: &[String]) {
        match body {
            SetExpr::Select(select) => self.select(select, top, ctes),
            SetExpr::Query(query) => self.query(query, top, ctes),
            SetExpr::SetOperation { left, op, set_quantifier, right } => {
                let all = *op == SetOperator::Union && *set_quantifier == SetQuantifier::All;
                if !all {
                    let hint =
                        "UNION ALL is the one set operation of a stream: the others would have to remember every row.";
                    self.refuse(
                        body.span(),
                        format!("{op} {set_quantifier} is not part of the language").replace("  ", " "),
                        hint,
                    );
                }
                if self.purpose == Purpose::Materialized && top {
                    let hint = "Write the UNION ALL in a view, and the materialized view over it.";
                    self.refuse(body.span(), "a materialized view is not a UNION", hint);
                }
                self.body(left, top, ctes);
                // The first branch names the columns.
                self.body(right, false, ctes);
            }
            SetExpr::Values(_) => {
                self.refuse(body.span(), "VALUES is not part of the language", "A stream begins with a table.")
            }
            other => self.refuse(other.span(), format!("\"{other}\" is not a query"), "Write SELECT ... FROM ...."),
        }
    }

    fn select(&mut self, select: &Select, top: bool, ctes: &[String]) {
        let Select {
            select_token,
            optimizer_hints,
            distinct,
            select_modifiers,
            top: top_rows,
            top_before_distinct: _,
            projection,
            exclude,
            into,
            from,
            lateral_views,
            prewhere,
            selection,
            connect_by,
            group_by,
            cluster_by,
            distribute_by,
            sort_by,
            having,
            named_window,
            qualify,
            window_before_qualify: _,
            value_table_mode,
            flavor,
        } = select;
        let span = select_token.0.span;
        let folds = top && self.purpose == Purpose::Materialized;
        self.refuse_if(!optimizer_hints.is_empty() || select_modifiers.is_some(), span, "a hint", "Remove it.");
        self.refuse_if(top_rows.is_some(), span, "TOP", AD_HOC);
        self.refuse_if(exclude.is_some(), span, "EXCLUDE after the list", "Write SELECT * EXCLUDE (column).");
        self.refuse_if(into.is_some(), span, "SELECT INTO", "Write INSERT INTO sink.table SELECT ....");
        self.refuse_if(!lateral_views.is_empty(), span, "LATERAL VIEW", UNNEST);
        self.refuse_if(prewhere.is_some(), span, "PREWHERE", "Write WHERE.");
        self.refuse_if(!connect_by.is_empty(), span, "CONNECT BY", "A continuous statement cannot be recursive.");
        let by = !cluster_by.is_empty() || !distribute_by.is_empty() || !sort_by.is_empty();
        self.refuse_if(by, span, "CLUSTER BY, DISTRIBUTE BY and SORT BY", "Remove the clause.");
        self.refuse_if(value_table_mode.is_some(), span, "SELECT AS STRUCT", "Write struct(...) AS name.");
        self.refuse_if(*flavor != SelectFlavor::Standard, span, "FROM before SELECT", "Write SELECT ... FROM ....");
        let window = !named_window.is_empty() || qualify.is_some();
        self.refuse_if(window, span, "QUALIFY", LATEST);
        self.distinct(distinct.as_ref(), folds, span);
        let distinct_on = matches!(distinct, Some(Distinct::On(_)));
        if distinct_on && matches!(group_by, GroupByExpr::Expressions(exprs, _) if !exprs.is_empty()) {
            self.refuse(span, "DISTINCT ON and GROUP BY do not go together", "Write two materialized views.");
        }
        self.group_by(group_by, folds, span);
        if let Some(having) = having {
            if folds {
                self.expr(having, Clause::Having);
            } else {
                self.refuse_if(true, having.span(), "HAVING without GROUP BY", "Write WHERE.");
            }
        }
        if let Some(condition) = selection {
            self.expr(condition, Clause::Where);
        }
        let clause = match (folds, distinct_on) {
            (true, false) => Clause::Fold,
            (true, true) => Clause::DistinctOn,
            _ => Clause::Select,
        };
        projection.iter().for_each(|item| self.item(item, clause, top));
        if projection.is_empty() {
            self.refuse(span, "the list of columns is empty", "Write SELECT column, ....");
        }
        self.from(from, span, ctes);
    }

    fn distinct(&mut self, distinct: Option<&Distinct>, folds: bool, span: Span) {
        match distinct {
            None | Some(Distinct::All) => {}
            Some(Distinct::Distinct) => self.refuse(
                span,
                "SELECT DISTINCT would have to remember every row",
                "Write CREATE MATERIALIZED VIEW ... AS SELECT DISTINCT ON (key) ... ORDER BY key, t DESC, or GROUP BY the columns.",
            ),
            Some(Distinct::On(on)) if folds => on.iter().for_each(|e| self.expr(e, Clause::Key)),
            Some(Distinct::On(_)) => self.refuse(
                span,
                "DISTINCT ON keeps state, and a view is stateless",
                "Write CREATE MATERIALIZED VIEW name AS SELECT DISTINCT ON ....",
            ),
        }
    }

    fn group_by(&mut self, group_by: &GroupByExpr, folds: bool, span: Span) {
        let (exprs, modifiers) = match group_by {
            GroupByExpr::All(_) => {
                return self.refuse(span, "GROUP BY ALL is not part of the language", "Write the keys: GROUP BY a, b.");
            }
            GroupByExpr::Expressions(exprs, modifiers) => (exprs, modifiers),
        };
        self.refuse_if(
            !modifiers.is_empty(),
            span,
            "WITH ROLLUP, CUBE and TOTALS",
            "Write one materialized view for each grouping.",
        );
        if !exprs.is_empty() && !folds {
            let hint = match self.purpose {
                Purpose::Materialized => {
                    "Only the outermost query of a materialized view groups. Group in a materialized view of its own."
                }
                Purpose::View | Purpose::Insert => {
                    "Write CREATE MATERIALIZED VIEW name AS SELECT ... GROUP BY ..., and insert from it."
                }
            };
            return self.refuse(exprs[0].span(), "GROUP BY keeps state, and this query is stateless", hint);
        }
        exprs.iter().for_each(|e| self.expr(e, Clause::Key));
    }

    fn distinct_order(&mut self, order_by: &OrderBy) {
        let OrderBy { kind, interpolate } = order_by;
        self.refuse_if(interpolate.is_some(), order_by.span(), "INTERPOLATE", "Remove the clause.");
        let OrderByKind::Expressions(exprs) = kind else {
            return self.refuse(order_by.span(), "ORDER BY ALL is not part of the language", "Write the columns.");
        };
        for expr in exprs {
            if expr.options.nulls_first == Some(true) {
                self.refuse(
                    expr.expr.span(),
                    "NULLS FIRST would let a NULL win",
                    "NULLs are always last in DISTINCT ON: a row without a time never replaces one that has it.",
                );
            }
            self.refuse_if(expr.with_fill.is_some(), expr.expr.span(), "WITH FILL", "Remove the clause.");
            self.expr(&expr.expr, Clause::Key);
        }
    }

    fn item(&mut self, item: &SelectItem, clause: Clause, top: bool) {
        match item {
            SelectItem::UnnamedExpr(expr) => {
                self.expr(expr, clause);
                let named = matches!(expr, Expr::Identifier(_) | Expr::CompoundIdentifier(_));
                if top && !named && !self.named_by_list {
                    let hint = format!("Write {expr} AS name.");
                    self.refuse(expr.span(), format!("the column \"{expr}\" has no name"), hint);
                }
            }
            SelectItem::ExprWithAlias { expr, alias } => {
                self.expr(expr, clause);
                self.new_name(alias);
            }
            SelectItem::ExprWithAliases { expr, .. } => {
                self.refuse(expr.span(), "one expression has one name", "Write expression AS name.");
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(_), options)
            | SelectItem::Wildcard(options) => {
                if clause == Clause::Fold {
                    self.refuse(item.span(), "* cannot be grouped", "Write the keys and the aggregates.");
                }
                self.wildcard(options);
            }
            SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(expr), _) => {
                self.refuse(expr.span(), "(...).* is not part of the language", "Write the fields: m['t'] AS t.");
            }
        }
    }

    fn wildcard(&mut self, options: &WildcardAdditionalOptions) {
        let WildcardAdditionalOptions {
            wildcard_token,
            opt_ilike,
            opt_exclude: _,
            opt_except: _,
            opt_replace,
            opt_rename,
            opt_alias,
        } = options;
        let odd = opt_ilike.is_some() || opt_rename.is_some() || opt_alias.is_some();
        let hint = "* takes EXCLUDE, EXCEPT and REPLACE.";
        self.refuse_if(odd, wildcard_token.0.span, "* ILIKE, RENAME and AS", hint);
        if let Some(replace) = opt_replace {
            replace.items.iter().for_each(|item| self.expr(&item.expr, Clause::Where));
        }
    }

    fn from(&mut self, from: &[TableWithJoins], span: Span, ctes: &[String]) {
        let [TableWithJoins { relation, joins }] = from else {
            let (message, hint) = if from.is_empty() {
                ("a statement reads a table or a view", "Write FROM name.")
            } else {
                (JOINS, "Each statement reads one table or view for now.")
            };
            let second = from.get(1).map(|t| &t.relation);
            if matches!(second, Some(TableFactor::UNNEST { .. } | TableFactor::Derived { lateral: true, .. })) {
                return self.refuse(span, "UNNEST in FROM is not part of the language", UNNEST);
            }
            return self.refuse(second.map_or(span, |r| r.span()), message, hint);
        };
        if let Some(join) = joins.first() {
            let unnest = matches!(join.relation, TableFactor::UNNEST { .. });
            let (message, hint) = if unnest {
                ("UNNEST in FROM is not part of the language", UNNEST)
            } else {
                (JOINS, "Each statement reads one table or view for now; join in a batch query over the lake.")
            };
            self.refuse(join.relation.span(), message, hint);
        }
        self.relation(relation, ctes);
    }

    fn relation(&mut self, relation: &TableFactor, ctes: &[String]) {
        let span = relation.span();
        match relation {
            TableFactor::Table {
                name,
                alias,
                args,
                with_hints,
                version,
                with_ordinality,
                partitions,
                json_path,
                sample,
                index_hints,
            } => {
                self.refuse_if(version.is_some(), span, "FOR SYSTEM_TIME", AD_HOC);
                self.refuse_if(
                    sample.is_some(),
                    span,
                    "TABLESAMPLE",
                    "Write WHERE with a condition on a hash or a key.",
                );
                self.refuse_if(*with_ordinality, span, "WITH ORDINALITY", UNNEST);
                let odd =
                    !with_hints.is_empty() || !partitions.is_empty() || json_path.is_some() || !index_hints.is_empty();
                self.refuse_if(odd, span, "a hint of the table", "Remove it.");
                if let Some(alias) = alias {
                    self.alias(alias);
                }
                let parts: Vec<&Ident> = name.0.iter().filter_map(|p| p.as_ident()).collect();
                let bare = normal(parts.last().expect("a table has a name"));
                if args.is_some() {
                    return match bare.as_str() {
                        "tumble" => self.refuse(span, "TUMBLE is not part of the language", tumble_hint()),
                        "hop" | "session" => {
                            self.refuse(span, format!("{}(...) is not built yet", bare.to_uppercase()), tumble_hint());
                        }
                        "unnest" => self.refuse(span, "UNNEST in FROM is not part of the language", UNNEST),
                        _ => self.refuse(
                            span,
                            format!("table function \"{bare}\" is not part of the language"),
                            "Read a table or a view.",
                        ),
                    };
                }
                if parts.len() > 1 {
                    let hint = "A continuous statement reads tables and views of the SQL files, by their plain names.";
                    return self.refuse(span, format!("\"{name}\" cannot be read here"), hint);
                }
                if !ctes.contains(&bare) {
                    self.references.push(Reference { name: bare, span: parts[0].span });
                }
            }
            TableFactor::Derived { lateral, subquery, alias, sample } => {
                self.refuse_if(*lateral, span, "LATERAL", UNNEST);
                self.refuse_if(
                    sample.is_some(),
                    span,
                    "TABLESAMPLE",
                    "Write WHERE with a condition on a hash or a key.",
                );
                if let Some(alias) = alias {
                    self.alias(alias);
                }
                self.query(subquery, false, ctes);
            }
            TableFactor::NestedJoin { table_with_joins, alias: None } if table_with_joins.joins.is_empty() => {
                self.relation(&table_with_joins.relation, ctes);
            }
            TableFactor::NestedJoin { .. } => {
                self.refuse(span, JOINS, "Each statement reads one table or view for now.")
            }
            TableFactor::UNNEST { .. } => self.refuse(span, "UNNEST in FROM is not part of the language", UNNEST),
            other => {
                self.refuse(span, format!("\"{other}\" cannot be read here"), "Read a table or a view by its name.")
            }
        }
    }

    fn alias(&mut self, alias: &TableAlias) {
        let TableAlias { explicit: _, name, columns, at } = alias;
        let hint = "Name the columns in the query: SELECT a AS x.";
        self.refuse_if(!columns.is_empty() || at.is_some(), name.span, "a list of columns after an alias", hint);
        self.new_name(name);
    }

    pub fn new_name(&mut self, name: &Ident) {
        if normal(name).starts_with(MSG_COLUMN) {
            self.refuse(name.span, format!("the name \"{}\" is taken", name.value), "Choose another name.");
        }
    }
}

const JOINS: &str = "joins are not built yet";
const LATEST: &str =
    "The newest row per key is CREATE MATERIALIZED VIEW ... AS SELECT DISTINCT ON (key) ... ORDER BY key, t DESC.";
pub(super) const UNNEST: &str = "Write it in the list of columns: SELECT vehicle_id, m['t'] AS t FROM (SELECT vehicle_id, unnest(measurements) AS m FROM kinematic).";
