//! One query -> an analysed logical plan over leaf scans, with the columns that leave the statement named and settled.

use crate::sql::assemble::optimize;
use crate::sql::complaint;
use crate::sql::relation::{Names, Relations};
use crate::sql::settle::settled;
use crate::sql::text::Piece;
use crate::types::fault::Fault;
use crate::types::lineage::MSG_COLUMN;
use arrow::datatypes::{DataType, Field, FieldRef, Schema, SchemaRef};
use datafusion::common::{Column, DataFusionError};
use datafusion::execution::session_state::SessionState;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, cast};
use datafusion::sql::planner::SqlToRel;
use datafusion::sql::sqlparser::ast;
use datafusion::sql::sqlparser::tokenizer::Span;
use std::sync::Arc;

/// What planning one statement needs.
pub struct Planner<'a> {
    pub session: &'a SessionState,
    pub relations: &'a Relations,
    pub piece: &'a Piece,
    /// The relations that the statement reads, for error texts.
    pub reads: &'a [String],
}

impl Planner<'_> {
    /// Planned and type-checked; nothing is optimised yet, so that the text of the plan is that of the statement.
    pub fn analyze(&self, query: ast::Query) -> Result<LogicalPlan, Fault> {
        let names = Names { session: self.session, relations: self.relations };
        let planned = SqlToRel::new(&names).sql_statement_to_plan(ast::Statement::Query(Box::new(query)));
        let plan = planned.map_err(|e| self.complain(&e))?;
        self.check_types(plan)
    }

    /// DataFusion's analyzer: function rewrites, type coercion.
    pub fn check_types(&self, plan: LogicalPlan) -> Result<LogicalPlan, Fault> {
        let analyzed = self.session.analyzer().execute_and_check(plan, self.session.config_options(), |_, _| {});
        analyzed.map_err(|e| self.complain(&e))
    }

    pub fn complain(&self, error: &DataFusionError) -> Fault {
        complaint::fault(self.piece, error, self.relations, self.reads)
    }

    pub fn fault(&self, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        self.piece.fault(Span::empty(), message, hint.into())
    }

    /// As `fault`, where the statement writes `word`.
    pub fn fault_at(&self, word: &str, message: impl Into<String>, hint: impl Into<String>) -> Fault {
        self.piece.fault(self.piece.find(word), message, hint.into())
    }

    /// Tries the optimizer: a constant that cannot be computed is the statement's fault, and is said before the start.
    pub fn check_constants(&self, plan: &LogicalPlan) -> Result<(), Fault> {
        optimize(self.session, plan.clone()).map(|_| ()).map_err(|e| self.complain(&e))
    }

    /// A stateless plan's outputs: named by `names` where given, settled types, `__msg` last.
    pub fn settle_stream(&self, plan: LogicalPlan, names: &[String]) -> Result<LogicalPlan, Vec<Fault>> {
        let columns: Vec<Expr> = plan.schema().columns().into_iter().map(Expr::Column).collect();
        let (message, columns) = columns.split_last().expect("the plan carries __msg");
        let types: Vec<DataType> = plan.schema().fields().iter().map(|f| f.data_type().clone()).collect();
        let own_names: Vec<String> = plan.schema().fields().iter().map(|f| f.name().clone()).collect();
        let names = self.output_names(names, &own_names[..columns.len()]).map_err(|f| vec![f])?;
        let mut outputs = self.settle(columns, &types[..columns.len()], &names)?;
        outputs.push(message.clone().alias(MSG_COLUMN));
        let settled = LogicalPlanBuilder::from(plan).project(outputs).and_then(LogicalPlanBuilder::build);
        let settled = settled.map_err(|e| vec![self.complain(&e)])?;
        self.check_constants(&settled).map_err(|f| vec![f])?;
        Ok(settled)
    }

    /// The names of the columns that leave the statement: those of its column list, or the query's own; each once.
    pub fn output_names(&self, given: &[String], own: &[String]) -> Result<Vec<String>, Fault> {
        if !given.is_empty() && given.len() != own.len() {
            let message = format!("{} columns are named, the query has {}", given.len(), own.len());
            return Err(self.fault(message, format!("The query yields {}.", own.join(", "))));
        }
        let names = if given.is_empty() { own } else { given };
        for (i, name) in names.iter().enumerate() {
            if names[..i].contains(name) {
                let message = format!("two columns are named \"{name}\"");
                return Err(self.fault(message, "Give one of them another name with AS."));
            }
        }
        Ok(names.to_vec())
    }

    /// Each expression cast to its settled type and given its name.
    pub fn settle(&self, exprs: &[Expr], types: &[DataType], names: &[String]) -> Result<Vec<Expr>, Vec<Fault>> {
        let mut faults = Vec::new();
        let mut outputs = Vec::new();
        for ((expr, kind), name) in exprs.iter().zip(types).zip(names) {
            match settled(kind) {
                Ok(settled) if settled == *kind => outputs.push(expr.clone().unalias().alias(name)),
                Ok(settled) => outputs.push(cast(expr.clone().unalias(), settled).alias(name)),
                Err((why, hint)) => {
                    faults.push(self.fault_at(
                        name,
                        format!("column \"{name}\" cannot leave the statement: {why}"),
                        hint,
                    ));
                }
            }
        }
        if faults.is_empty() { Ok(outputs) } else { Err(faults) }
    }
}

/// The schema of a stream's rows: nullable throughout, because a claim of DataFusion's that a column is never NULL
/// would stop a whole batch if it were wrong; `__msg`, which every plan carries last, is ours and never NULL.
pub fn stream_schema(plan: &LogicalPlan) -> SchemaRef {
    let fields = plan.schema().fields();
    let fields: Vec<FieldRef> = fields.iter().map(|f| nullable(f, f.name() != MSG_COLUMN)).collect();
    Arc::new(Schema::new(fields))
}

pub fn nullable(field: &Field, nullable: bool) -> FieldRef {
    // Field metadata is left behind: it is DataFusion's business and would reach the files we write.
    Arc::new(Field::new(field.name(), field.data_type().clone(), nullable))
}

/// The schema without its last column, `__msg`.
pub fn without_message(schema: &SchemaRef) -> SchemaRef {
    let fields = &schema.fields()[..schema.fields().len() - 1];
    Arc::new(Schema::new(fields.to_vec()))
}

/// `__msg` of a plan's rows, as its parents name it.
pub fn message_column(plan: &LogicalPlan) -> Option<Expr> {
    let position = plan.schema().fields().iter().position(|f| f.name() == MSG_COLUMN)?;
    Some(Expr::Column(Column::from(plan.schema().qualified_field(position))))
}
