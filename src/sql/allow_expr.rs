//! The expressions of the accepted grammar; `allow` walks queries and asks here.

use crate::sql::allow::{Allow, Purpose, UNNEST};
use crate::sql::function::{AggregateKind, aggregate_kind, is_clock, is_volatile};
use crate::sql::statement::{normal, tumble_hint};
use crate::types::fault::closest;
use crate::types::lineage::MSG_COLUMN;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, CeilFloorKind, DuplicateTreatment, Expr, Function, FunctionArg,
    FunctionArgExpr, FunctionArgumentClause, FunctionArguments, Ident, OrderByExpr, Spanned, Subscript, UnaryOperator,
    Value,
};
use datafusion::sql::sqlparser::tokenizer::Span;

/// Where an expression stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Clause {
    /// A list of columns: unnest may stand here.
    Select,
    Where,
    /// GROUP BY, DISTINCT ON and its ORDER BY.
    Key,
    /// The list of columns of a GROUP BY: aggregates may stand here.
    Fold,
    Having,
    /// The list of columns of a DISTINCT ON.
    DistinctOn,
    /// Inside an aggregate.
    Argument,
}

pub trait Expressions {
    fn expr(&mut self, expr: &Expr, clause: Clause);
}

impl Expressions for Allow<'_> {
    fn expr(&mut self, expr: &Expr, clause: Clause) {
        // unnest stands alone or inside an expression of the list; below a call it keeps that clause.
        match expr {
            Expr::Identifier(ident) => self.column(ident),
            Expr::CompoundIdentifier(parts) => parts.iter().for_each(|p| self.column(p)),
            Expr::CompoundFieldAccess { root, access_chain } => {
                self.expr(root, clause);
                for access in access_chain {
                    match access {
                        AccessExpr::Dot(e) => self.expr(e, clause),
                        AccessExpr::Subscript(Subscript::Index { index }) => self.expr(index, clause),
                        AccessExpr::Subscript(Subscript::Slice { lower_bound, upper_bound, stride }) => {
                            [lower_bound, upper_bound, stride].into_iter().flatten().for_each(|e| self.expr(e, clause));
                        }
                    }
                }
            }
            Expr::IsFalse(e)
            | Expr::IsNotFalse(e)
            | Expr::IsTrue(e)
            | Expr::IsNotTrue(e)
            | Expr::IsNull(e)
            | Expr::IsNotNull(e)
            | Expr::IsUnknown(e)
            | Expr::IsNotUnknown(e)
            | Expr::Nested(e) => self.expr(e, clause),
            Expr::IsDistinctFrom(a, b) | Expr::IsNotDistinctFrom(a, b) => self.exprs([a.as_ref(), b.as_ref()], clause),
            Expr::InList { expr, list, negated: _ } => {
                self.expr(expr, clause);
                self.exprs(list, clause);
            }
            Expr::Between { expr, negated: _, low, high } => {
                self.exprs([expr.as_ref(), low.as_ref(), high.as_ref()], clause);
            }
            Expr::BinaryOp { left, op, right } => {
                if !OPERATORS.contains(op) {
                    self.refuse(
                        expr.span(),
                        format!("operator {op} is not part of the language"),
                        "Write it with a function.",
                    );
                }
                self.exprs([left.as_ref(), right.as_ref()], clause);
            }
            Expr::Like { negated: _, any: false, expr, pattern, escape_char: _ }
            | Expr::ILike { negated: _, any: false, expr, pattern, escape_char: _ }
            | Expr::SimilarTo { negated: _, expr, pattern, escape_char: _ } => {
                self.exprs([expr.as_ref(), pattern.as_ref()], clause);
            }
            Expr::UnaryOp { op: UnaryOperator::Plus | UnaryOperator::Minus | UnaryOperator::Not, expr } => {
                self.expr(expr, clause);
            }
            Expr::Cast { kind, expr: inner, data_type: _, array, format } => {
                if *kind == CastKind::SafeCast || *array || format.is_some() {
                    self.refuse(
                        expr.span(),
                        format!("{expr} is not part of the language"),
                        "Write CAST(x AS type) or TRY_CAST(x AS type).",
                    );
                }
                self.expr(inner, clause);
            }
            Expr::AtTimeZone { timestamp, time_zone } => self.exprs([timestamp.as_ref(), time_zone.as_ref()], clause),
            Expr::Extract { field: _, syntax: _, expr } => self.expr(expr, clause),
            Expr::Ceil { expr: inner, field } | Expr::Floor { expr: inner, field } => {
                if matches!(field, CeilFloorKind::Scale(_)) {
                    self.refuse(expr.span(), format!("{expr} is not part of the language"), "Write round(x, digits).");
                }
                self.expr(inner, clause);
            }
            Expr::Position { expr, r#in } => self.exprs([expr.as_ref(), r#in.as_ref()], clause),
            Expr::Substring { expr, substring_from, substring_for, special: _, shorthand: _ } => {
                self.expr(expr, clause);
                [substring_from, substring_for].into_iter().flatten().for_each(|e| self.expr(e, clause));
            }
            Expr::Trim { trim_where: _, trim_what, expr, trim_characters } => {
                self.expr(expr, clause);
                trim_what.iter().for_each(|e| self.expr(e, clause));
                trim_characters.iter().flatten().for_each(|e| self.expr(e, clause));
            }
            Expr::Overlay { expr, overlay_what, overlay_from, overlay_for } => {
                self.exprs([expr.as_ref(), overlay_what.as_ref(), overlay_from.as_ref()], clause);
                overlay_for.iter().for_each(|e| self.expr(e, clause));
            }
            Expr::Value(value) => {
                if let Value::Placeholder(name) = &value.value {
                    self.refuse(value.span, format!("parameter {name} has no value here"), "Write the value itself.");
                }
            }
            Expr::TypedString(_) => {}
            Expr::Interval(interval) => self.expr(&interval.value, clause),
            Expr::Case { case_token: _, end_token: _, operand, conditions, else_result } => {
                operand.iter().for_each(|e| self.expr(e, clause));
                conditions.iter().for_each(|when| self.exprs([&when.condition, &when.result], clause));
                else_result.iter().for_each(|e| self.expr(e, clause));
            }
            Expr::Struct { values, fields } if fields.is_empty() => self.exprs(values, clause),
            Expr::Named { expr, name } => {
                self.expr(expr, clause);
                self.new_name(name);
            }
            Expr::Dictionary(fields) => fields.iter().for_each(|f| self.expr(&f.value, clause)),
            Expr::Map(map) => map.entries.iter().for_each(|e| self.exprs([e.key.as_ref(), e.value.as_ref()], clause)),
            Expr::Array(array) => self.exprs(&array.elem, clause),
            Expr::Function(function) => self.function(expr, function, clause),
            Expr::Subquery(_) | Expr::Exists { .. } | Expr::InSubquery { .. } => self.refuse(
                expr.span(),
                "subqueries in expressions are not part of the language",
                "A continuous statement reads one table or view. A list of values is IN ('a', 'b').",
            ),
            Expr::GroupingSets(_) | Expr::Cube(_) | Expr::Rollup(_) => self.refuse(
                expr.span(),
                "GROUPING SETS, CUBE and ROLLUP are not part of the language",
                "Write one materialized view for each grouping.",
            ),
            other => self.refuse(
                other.span(),
                format!("\"{other}\" is not part of the language"),
                "Write it with functions, operators and CASE.",
            ),
        }
    }
}

pub static OPERATORS: [BinaryOperator; 27] = [
    BinaryOperator::Plus,
    BinaryOperator::Minus,
    BinaryOperator::Multiply,
    BinaryOperator::Divide,
    BinaryOperator::Modulo,
    BinaryOperator::StringConcat,
    BinaryOperator::Gt,
    BinaryOperator::Lt,
    BinaryOperator::GtEq,
    BinaryOperator::LtEq,
    BinaryOperator::Eq,
    BinaryOperator::NotEq,
    BinaryOperator::And,
    BinaryOperator::Or,
    BinaryOperator::BitwiseAnd,
    BinaryOperator::BitwiseOr,
    BinaryOperator::BitwiseXor,
    BinaryOperator::PGBitwiseShiftLeft,
    BinaryOperator::PGBitwiseShiftRight,
    BinaryOperator::PGRegexMatch,
    BinaryOperator::PGRegexIMatch,
    BinaryOperator::PGRegexNotMatch,
    BinaryOperator::PGRegexNotIMatch,
    BinaryOperator::Arrow,
    BinaryOperator::LongArrow,
    BinaryOperator::AtArrow,
    BinaryOperator::ArrowAt,
];

impl Allow<'_> {
    fn exprs<'e>(&mut self, exprs: impl IntoIterator<Item = &'e Expr>, clause: Clause) {
        exprs.into_iter().for_each(|e| self.expr(e, clause));
    }

    fn column(&mut self, ident: &Ident) {
        if normal(ident).starts_with(MSG_COLUMN) {
            self.refuse(
                ident.span,
                format!("column \"{}\" cannot be read", ident.value),
                "Read _position for a message's place in its partition.",
            );
        }
    }

    fn function(&mut self, expr: &Expr, function: &Function, clause: Clause) {
        let Function { name, uses_odbc_syntax, parameters, args, filter, null_treatment: _, over, within_group } =
            function;
        let span = expr.span();
        let [part] = name.0.as_slice() else {
            return self.refuse(span, format!("unknown function \"{name}\""), "Functions have plain names.");
        };
        let Some(ident) = part.as_ident() else {
            return self.refuse(span, format!("unknown function \"{name}\""), "Functions have plain names.");
        };
        let word = normal(ident);
        if *uses_odbc_syntax || !matches!(parameters, FunctionArguments::None) {
            self.refuse(span, format!("{expr} is not part of the language"), "Write name(arguments).");
        }
        if over.is_some() {
            return self.refuse(
                span,
                format!("window functions are not part of the language: {word}(...) OVER"),
                "The newest row per key is SELECT DISTINCT ON (key) ... ORDER BY key, t DESC in a MATERIALIZED VIEW.",
            );
        }
        let inner = self.function_clause(&word, ident.span, function, clause);
        self.arguments(args, inner);
        filter.iter().for_each(|e| self.expr(e, Clause::Argument));
        self.order(within_group);
    }

    /// Checks the function itself; says in which clause its arguments stand.
    fn function_clause(&mut self, word: &str, span: Span, function: &Function, clause: Clause) -> Clause {
        if word == "unnest" {
            if clause != Clause::Select {
                let hint = match clause {
                    Clause::Fold | Clause::DistinctOn | Clause::Key | Clause::Having | Clause::Argument => {
                        "Unnest in a view, or in a query in FROM, and fold its rows."
                    }
                    Clause::Select | Clause::Where => UNNEST,
                };
                self.refuse(span, "unnest stands in the list of columns of a stateless query", hint);
            }
            return Clause::Where;
        }
        if ["tumble", "tumble_start", "tumble_end", "hop", "hop_start", "session", "session_start"].contains(&word) {
            self.refuse(span, format!("{word}(...) is not part of the language"), tumble_hint());
            return Clause::Where;
        }
        if let Some(known) = self.functions.scalar_functions().get(word).cloned() {
            let repeats = "The state of a materialized view must come out the same when messages are read again.";
            if self.purpose == Purpose::Materialized && is_clock(&known) {
                let hint = format!("{repeats} Use a time of the message, such as _received_at.");
                self.refuse(span, format!("{word}() cannot feed a materialized view"), hint);
            } else if self.purpose == Purpose::Materialized && is_volatile(&known) {
                self.refuse(span, format!("{word}() cannot feed a materialized view"), repeats);
            }
            return clause;
        }
        if self.functions.aggregate_functions().contains_key(word) {
            self.aggregate(word, span, function, clause);
            return Clause::Argument;
        }
        if self.functions.window_functions().contains_key(word) {
            self.refuse(
                span,
                format!("window functions are not part of the language: {word}"),
                "Use first_value or last_value with ORDER BY in a MATERIALIZED VIEW.",
            );
            return clause;
        }
        let (scalar, aggregate) = (self.functions.scalar_functions(), self.functions.aggregate_functions());
        let mut names: Vec<&str> = scalar.keys().chain(aggregate.keys()).map(String::as_str).collect();
        // Of two that are equally close the longer one is meant (a letter was forgotten), and always the same one.
        names.sort_by_key(|name| (std::cmp::Reverse(name.len()), *name));
        let close = closest(word, names).map(|c| format!("Did you mean \"{c}\"?"));
        self.faults.push(self.piece.fault(span, format!("unknown function \"{word}\""), close));
        clause
    }

    fn aggregate(&mut self, word: &str, span: Span, function: &Function, clause: Clause) {
        match clause {
            Clause::Fold | Clause::Having => {}
            Clause::Argument => {
                return self.refuse(
                    span,
                    format!("{word} cannot stand inside an aggregate"),
                    "Compute it in a materialized view of its own.",
                );
            }
            Clause::Select if self.purpose == Purpose::Materialized => {
                return self.refuse(
                    span,
                    format!("{word} belongs to the outermost query of a materialized view"),
                    "Group in the outermost query.",
                );
            }
            Clause::Select => {
                return self.refuse(
                    span,
                    format!("{word} keeps state, and this query is stateless"),
                    "Write CREATE MATERIALIZED VIEW name AS SELECT ... GROUP BY ....",
                );
            }
            Clause::Where | Clause::Key | Clause::DistinctOn => {
                return self.refuse(
                    span,
                    format!("{word} cannot stand here"),
                    "A condition on an aggregate is HAVING.",
                );
            }
        }
        let distinct = matches!(&function.args, FunctionArguments::List(l) if l.duplicate_treatment == Some(DuplicateTreatment::Distinct));
        if distinct {
            let hint = if word == "count" {
                "Its state is every value of the key. Use approx_distinct(x), whose state is small, or add x to GROUP BY."
            } else {
                "Its state is every value of the key. Group by the value in a materialized view of its own."
            };
            return self.refuse(span, format!("{word}(DISTINCT ...) has unbounded state"), hint);
        }
        let ordered = matches!(&function.args, FunctionArguments::List(l) if l.clauses.iter().any(|c| matches!(c, FunctionArgumentClause::OrderBy(_))));
        match aggregate_kind(word) {
            AggregateKind::Mergeable => {}
            AggregateKind::Ordered if ordered => {}
            AggregateKind::Ordered => {
                self.refuse(
                    span,
                    format!("{word} without ORDER BY depends on the order of rows"),
                    format!("Write {word}(x ORDER BY t)."),
                );
            }
            AggregateKind::Refused(hint) => {
                self.refuse(span, format!("{word} cannot be kept in a materialized view"), hint)
            }
        }
    }

    fn arguments(&mut self, args: &FunctionArguments, clause: Clause) {
        let list = match args {
            FunctionArguments::None => return,
            FunctionArguments::Subquery(query) => {
                return self.refuse(
                    query.span(),
                    "subqueries in expressions are not part of the language",
                    "Read one table or view in FROM.",
                );
            }
            FunctionArguments::List(list) => list,
        };
        for arg in &list.args {
            let (FunctionArg::Named { arg, .. } | FunctionArg::ExprNamed { arg, .. } | FunctionArg::Unnamed(arg)) = arg;
            match arg {
                FunctionArgExpr::Expr(e) => self.expr(e, clause),
                FunctionArgExpr::Wildcard => {} // count(*); for others the planner says so
                other => self.refuse(list.span(), format!("\"{other}\" cannot be an argument"), "Write columns or *."),
            }
        }
        for part in &list.clauses {
            match part {
                FunctionArgumentClause::OrderBy(order) => self.order(order),
                FunctionArgumentClause::IgnoreOrRespectNulls(_) => {}
                other => {
                    self.refuse(list.span(), format!("\"{other}\" is not part of the language"), "Remove the clause.")
                }
            }
        }
    }

    fn order(&mut self, order: &[OrderByExpr]) {
        for expr in order {
            if expr.with_fill.is_some() {
                self.refuse(expr.expr.span(), "WITH FILL is not part of the language", "Remove the clause.");
            }
            self.expr(&expr.expr, Clause::Argument);
        }
    }
}
