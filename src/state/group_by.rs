//! GROUP BY: a state row is the key and the partial state of every aggregate, as DataFusion's `state()` gives it.
//!
//! Accumulators live for one batch: fresh ones take the old state of the touched keys, then the batch's rows in order
//! (so that a floating sum adds in arrival order), and are drained into new state rows. `state()` and `evaluate()`
//! drain, so accumulators that outlived a batch could be neither read nor cut.

use crate::sql::plan::Aggregate;
use crate::state::fold::holds;
use crate::state::keys::Groups;
use crate::types::error::Result;
use arrow::array::{Array, ArrayRef, UInt32Array};
use arrow::compute::take;
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::logical_expr::{EmitTo, GroupsAccumulator};
use datafusion::physical_expr::aggregate::AggregateFunctionExpr;
use datafusion::physical_expr::{GroupsAccumulatorAdapter, PhysicalExpr};
use std::ops::Range;
use std::sync::Arc;

#[derive(Debug)]
pub struct GroupBy {
    keys: usize,
    aggregates: Vec<Planned>,
    segment_schema: SchemaRef,
    result_schema: SchemaRef,
}

#[derive(Debug)]
struct Planned {
    function: Arc<AggregateFunctionExpr>,
    /// Arguments, then the ORDER BY columns: ordered accumulators take both.
    arguments: Vec<Arc<dyn PhysicalExpr>>,
    filter: Option<Arc<dyn PhysicalExpr>>,
    /// Its columns in a state row, counted from the first after the key.
    state: Range<usize>,
}

impl GroupBy {
    pub fn plan(
        input: &SchemaRef,
        groups: &[usize],
        aggregates: &[Aggregate],
        result_schema: SchemaRef,
    ) -> Result<(Self, SchemaRef)> {
        let mut fields: Vec<Field> = groups.iter().map(|c| input.field(*c).clone()).collect();
        let mut planned = Vec::with_capacity(aggregates.len());
        for (number, Aggregate { function, filter }) in aggregates.iter().enumerate() {
            let mut arguments = function.expressions();
            arguments.extend(function.order_bys().iter().map(|sort| Arc::clone(&sort.expr)));
            let from = fields.len() - groups.len();
            for (part, field) in function.state_fields()?.iter().enumerate() {
                // Names of our own: DataFusion's repeat when two ordered aggregates order by one column.
                fields.push(Field::new(format!("__state_{number}_{part}"), field.data_type().clone(), true));
            }
            let state = from..fields.len() - groups.len();
            planned.push(Planned { function: Arc::clone(function), arguments, filter: filter.clone(), state });
        }
        let segment_schema: SchemaRef = Arc::new(Schema::new(fields));
        let rule = GroupBy {
            keys: groups.len(),
            aggregates: planned,
            segment_schema: Arc::clone(&segment_schema),
            result_schema,
        };
        Ok((rule, segment_schema))
    }

    /// New state rows of the groups of a batch, in group order. `keys`: key columns of all rows. `old`: the columns
    /// after the key of the rows that groups 0, 1, ... have already; the groups after those are new.
    ///
    /// Known groups come first because accumulators count on it: a group number below the total they are told must
    /// have occurred by then, or a group of NULLs alone sums to 0 (DataFusion's `NullState`).
    pub fn fold(
        &self,
        batch: &RecordBatch,
        keys: &[ArrayRef],
        groups: &Groups,
        old: &[ArrayRef],
    ) -> Result<RecordBatch> {
        let count = groups.len();
        let known: Vec<usize> = (0..old.first().map_or(0, |c| c.len())).collect();
        let mut columns = first_rows(keys, &groups.first)?;
        for aggregate in &self.aggregates {
            let mut accumulator = aggregate.accumulator()?;
            if !known.is_empty() {
                accumulator.merge_batch(&old[aggregate.state.clone()], &known, known.len())?;
            }
            let values = aggregate.values(batch)?;
            let filter = aggregate.filter.as_ref().map(|f| holds(f, batch)).transpose()?;
            accumulator.update_batch(&values, &groups.of_row, filter.as_ref(), count)?;
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        self.state_rows(columns)
    }

    pub fn combine(&self, rows: &RecordBatch, groups: &[usize], count: usize) -> Result<RecordBatch> {
        let (keys, states) = rows.columns().split_at(self.keys);
        let mut columns = first_rows(keys, &first_of(groups, count))?;
        for aggregate in &self.aggregates {
            let mut accumulator = aggregate.accumulator()?;
            accumulator.merge_batch(&states[aggregate.state.clone()], groups, count)?;
            columns.extend(accumulator.state(EmitTo::All)?);
        }
        self.state_rows(columns)
    }

    /// The columns after the key.
    pub fn state_columns(&self) -> Vec<usize> {
        (self.keys..self.segment_schema.fields().len()).collect()
    }

    pub fn results(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let each: Vec<usize> = (0..rows.num_rows()).collect();
        let (keys, states) = rows.columns().split_at(self.keys);
        let mut columns: Vec<ArrayRef> = keys.to_vec();
        for aggregate in &self.aggregates {
            let mut accumulator = aggregate.accumulator()?;
            accumulator.merge_batch(&states[aggregate.state.clone()], &each, each.len())?;
            columns.push(accumulator.evaluate(EmitTo::All)?);
        }
        Ok(RecordBatch::try_new(Arc::clone(&self.result_schema), columns)?)
    }

    fn state_rows(&self, columns: Vec<ArrayRef>) -> Result<RecordBatch> {
        Ok(RecordBatch::try_new(Arc::clone(&self.segment_schema), columns)?)
    }
}

impl Planned {
    fn accumulator(&self) -> Result<Box<dyn GroupsAccumulator>> {
        if self.function.groups_accumulator_supported() {
            return Ok(self.function.create_groups_accumulator()?);
        }
        let function = Arc::clone(&self.function);
        Ok(Box::new(GroupsAccumulatorAdapter::new(move || function.create_accumulator())))
    }

    fn values(&self, batch: &RecordBatch) -> Result<Vec<ArrayRef>> {
        let mut values = Vec::with_capacity(self.arguments.len());
        for argument in &self.arguments {
            values.push(argument.evaluate(batch)?.into_array(batch.num_rows())?);
        }
        Ok(values)
    }
}

fn first_rows(keys: &[ArrayRef], first: &[u32]) -> Result<Vec<ArrayRef>> {
    let rows = UInt32Array::from(first.to_vec());
    Ok(keys.iter().map(|column| take(column, &rows, None)).collect::<Result<_, _>>()?)
}

/// First row of each group.
fn first_of(groups: &[usize], count: usize) -> Vec<u32> {
    let mut first = vec![u32::MAX; count];
    for (row, group) in groups.iter().enumerate() {
        if first[*group] == u32::MAX {
            first[*group] = row as u32;
        }
    }
    first
}
