//! A materialized view's rows once more, from rows of a relation below it that a table kept: the view's plan, run batch by
//! batch outside the slots.

use crate::sql::complaint::bare_message;
use crate::sql::exec::{execute, physical_plan};
use crate::sql::function::session;
use crate::sql::leaf::{LeafTable, Refill};
use crate::sql::plan::Rebuild;
use crate::types::error::{Error, Result};
use crate::types::limit::PLAN_EXECUTIONS_MAX;
use arrow::array::{ArrayRef, UInt32Array, new_null_array};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::default_table_source::provider_as_source;
use datafusion::common::tree_node::{Transformed, TreeNode};
use datafusion::execution::TaskContext;
use datafusion::logical_expr::LogicalPlan;
use datafusion::physical_plan::ExecutionPlan;
use datafusion::physical_plan::execution_plan::reset_plan_states;
use std::sync::Arc;

pub struct Replay {
    rebuild: Rebuild,
    refill: Arc<Refill>,
    physical: Arc<dyn ExecutionPlan>,
    context: Arc<TaskContext>,
    /// Of the view's input node: its columns, then `__msg`.
    schema: SchemaRef,
    executions: u32,
}

impl Replay {
    /// `schema`: of the view's input node.
    pub async fn new(rebuild: &Rebuild, schema: SchemaRef) -> Result<Self> {
        let session = session()?;
        let refill = Arc::new(Refill::default());
        let filled = rebuild.logical.clone().transform_up(|node| {
            let LogicalPlan::TableScan(mut scan) = node else { return Ok(Transformed::no(node)) };
            let leaf = LeafTable { schema: scan.source.schema(), refill: refill.clone() };
            scan.source = provider_as_source(Arc::new(leaf));
            Ok(Transformed::yes(LogicalPlan::TableScan(scan)))
        })?;
        let physical = physical_plan(&filled.data, &session).await?;
        Ok(Replay { rebuild: rebuild.clone(), refill, physical, context: session.task_ctx(), schema, executions: 0 })
    }

    /// `rows`: of the table, by its column names; `messages`: ascending, one for each row. Yields the view's input rows.
    /// An error is the statement's, and says so.
    pub fn run(&mut self, rows: &RecordBatch, messages: UInt32Array) -> Result<Vec<RecordBatch>> {
        self.executions += 1;
        if self.executions == PLAN_EXECUTIONS_MAX {
            self.executions = 0;
            self.physical = reset_plan_states(self.physical.clone())?;
        }
        self.refill.set(vec![self.leaf(rows, messages)?]);
        let outputs = execute(&self.physical, &self.context, &self.schema);
        self.refill.set(Vec::new());
        outputs.map_err(|e| {
            Error::refused(
                format!("its query fails on a row that was taken in before: {}", bare_message(e.find_root())),
                "Make the query hold for every row (NULLIF, TRY_CAST, CASE), then start again.",
            )
        })
    }

    fn leaf(&self, rows: &RecordBatch, messages: UInt32Array) -> Result<RecordBatch> {
        let schema = &self.rebuild.leaf_schema;
        let mut columns: Vec<Option<ArrayRef>> = vec![None; schema.fields().len()];
        for (position, name) in &self.rebuild.columns {
            let column = rows
                .column_by_name(name)
                .ok_or_else(|| Error::Failed(format!("the rows that were read lack column \"{name}\"")))?;
            columns[*position] = Some(as_type(column, schema.field(*position).data_type())?);
        }
        if let Some(last) = columns.last_mut() {
            *last = Some(Arc::new(messages));
        }
        let filled = columns.into_iter().zip(schema.fields());
        let filled = filled.map(|(column, f)| column.unwrap_or_else(|| new_null_array(f.data_type(), rows.num_rows())));
        Ok(RecordBatch::try_new(schema.clone(), filled.collect())?)
    }
}

/// A table may hold a column in a wider type, and names the parts of lists and maps in its own way. No value may change.
fn as_type(column: &ArrayRef, kind: &DataType) -> Result<ArrayRef> {
    if column.data_type() == kind {
        return Ok(column.clone());
    }
    Ok(cast_with_options(column, kind, &CastOptions { safe: false, ..CastOptions::default() })?)
}
