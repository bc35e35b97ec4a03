//! What the rows of a view's state are, and how input rows become state rows and state rows become results.
//!
//! Planned once per share from `MaterializedView::fold`. Pure functions over Arrow columns: the log (log.rs) keeps
//! rows, a folding computes them, so an error never leaves a half-changed state.

use crate::sql::plan::{Fold, MaterializedView};
use crate::state::distinct_on::DistinctOn;
use crate::state::group_by::GroupBy;
use crate::state::keys::{KeyCodec, canonical};
use crate::types::error::{Error, Result};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray};
use arrow::compute::prep_null_mask_filter;
use arrow::datatypes::{Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::physical_expr::PhysicalExpr;
use hashbrown::DefaultHashBuilder;
use std::sync::Arc;

#[derive(Debug)]
pub struct Folding {
    pub rule: Rule,
    /// Key columns, then what the fold needs: the rows of segments and snapshots.
    pub segment_schema: SchemaRef,
    /// Where the key columns are in `segment_schema`, in key order.
    pub key: Vec<usize>,
    pub key_schema: SchemaRef,
    pub codec: KeyCodec,
    /// One per share: hashes of different shares do not compare.
    pub hasher: DefaultHashBuilder,
    /// The key columns in the view's input.
    input_key: Vec<usize>,
}

#[derive(Debug)]
pub enum Rule {
    GroupBy(GroupBy),
    DistinctOn(DistinctOn),
}

impl Folding {
    pub fn plan(view: &MaterializedView) -> Result<Self> {
        let input = &view.input_schema;
        let (rule, segment_schema, key, input_key) = match &view.fold {
            Fold::GroupBy { groups, aggregates, result_schema } => {
                let (rule, schema) = GroupBy::plan(input, groups, aggregates, Arc::clone(result_schema))?;
                (Rule::GroupBy(rule), schema, (0..groups.len()).collect(), groups.clone())
            }
            Fold::DistinctOn { on, order, result_schema } => {
                let (rule, schema) = DistinctOn::plan(input, order, Arc::clone(result_schema))?;
                (Rule::DistinctOn(rule), schema, on.clone(), on.clone())
            }
        };
        let key: Vec<usize> = key;
        let key_schema: SchemaRef =
            Arc::new(Schema::new(key.iter().map(|c| segment_schema.field(*c).clone()).collect::<Vec<_>>()));
        let codec = KeyCodec::new(key_schema.fields().iter().map(|f| f.as_ref()))?;
        Ok(Folding { rule, segment_schema, key, key_schema, codec, hasher: DefaultHashBuilder::default(), input_key })
    }

    /// The column of a state row that is its own key, if one is.
    pub fn text_key(&self) -> Option<usize> {
        self.codec.is_text().then(|| self.key[0])
    }

    /// Key columns of input rows.
    pub fn input_keys(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.input_key.iter().map(|c| canonical(rows.column(*c))).collect()
    }

    /// Encoded keys of state rows.
    pub fn state_keys(&self, rows: &RecordBatch) -> Result<BinaryArray> {
        let columns: Vec<ArrayRef> = self.key.iter().map(|c| Arc::clone(rows.column(*c))).collect();
        self.codec.encode(&columns)
    }

    /// The key columns of state rows.
    pub fn keys_of(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = self.key.iter().map(|c| Arc::clone(rows.column(*c))).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.key_schema), columns)?)
    }

    /// Merges state rows that share a key (rows of group g are one key, every group has one): one row per group.
    pub fn combine(&self, rows: &RecordBatch, groups: &[usize], count: usize) -> Result<RecordBatch> {
        match &self.rule {
            Rule::GroupBy(rule) => rule.combine(rows, groups, count),
            Rule::DistinctOn(rule) => rule.combine(rows, groups, count),
        }
    }

    /// State rows to result rows (`Fold::result_schema`), one to one. Takes no keys apart: live keys are unique, and
    /// a hash aggregate would cost ten times as much.
    pub fn results(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        match &self.rule {
            Rule::GroupBy(rule) => rule.results(rows),
            Rule::DistinctOn(rule) => rule.results(rows),
        }
    }
}

/// Where a condition (FILTER, HAVING) is true. NULL is not true, and who uses the mask may look at its bits alone.
pub fn holds(condition: &Arc<dyn PhysicalExpr>, rows: &RecordBatch) -> Result<BooleanArray> {
    let mask = condition.evaluate(rows)?.into_array(rows.num_rows())?;
    match mask.as_boolean_opt() {
        None => Err(Error::Failed(format!("\"{condition}\" is of type {}, not a condition", mask.data_type()))),
        Some(mask) if mask.null_count() > 0 => Ok(prep_null_mask_filter(mask)),
        Some(mask) => Ok(mask.clone()),
    }
}
