//! DISTINCT ON: a state row is the winning input row and what broke the tie.
//!
//! The winner is the greatest of (order columns, each in its direction, NULLs last; source, topic, partition;
//! position; ordinal of the row in its message). That order is total, so arrival order, duplicates, replay and the way
//! partitions are shared out to slots cannot change the answer. Floats are ordered as in arrow: -0.0 < 0.0, NaN above
//! every number. A row whose first order column is NULL takes no part.

use crate::sql::plan::OrderColumn;
use crate::state::keys::Groups;
use crate::types::error::{Error, Result};
use crate::types::lineage::{Lineage, Origin};
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, StringBuilder, UInt32Array, UInt64Array};
use arrow::compute::{SortOptions, take};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef, UInt32Type};
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, Rows, SortField};
use hashbrown::DefaultHashBuilder;
use std::cmp::Ordering;
use std::sync::Arc;

#[derive(Debug)]
pub struct DistinctOn {
    /// The order columns, in the input and in a state row.
    pub order: Vec<usize>,
    /// Order columns alone: they decide most comparisons.
    by_order: Option<RowConverter>,
    /// Order columns and tie-break: between state rows. Greater bytes win.
    by_all: RowConverter,
    /// The order columns and the tie-break in a state row.
    pub ranking: Vec<usize>,
    input_columns: usize,
    segment_schema: SchemaRef,
    result_schema: SchemaRef,
}

/// One candidate row per key of a batch.
pub struct Winners {
    pub rows: RecordBatch,
    pub keys: BinaryArray,
    pub hashes: Vec<u64>,
}

impl DistinctOn {
    pub fn plan(input: &SchemaRef, order: &[OrderColumn], result_schema: SchemaRef) -> Result<(Self, SchemaRef)> {
        let input_columns = input.fields().len();
        let mut fields: Vec<Field> = input.fields().iter().map(|f| f.as_ref().clone()).collect();
        // Source, topic and partition in one column, NUL between them (none may contain it): compares as the three do,
        // and costs one string per key.
        fields.push(Field::new("__origin", DataType::Utf8, false));
        fields.push(Field::new("__position", DataType::UInt64, false));
        fields.push(Field::new("__ordinal", DataType::UInt32, false));
        let segment_schema: SchemaRef = Arc::new(Schema::new(fields));

        // Greater bytes are the better row: descending order means "greatest first", and NULL is the smallest.
        let mut sort_fields = Vec::new();
        for OrderColumn { column, descending } in order {
            let options = SortOptions { descending: !descending, nulls_first: true };
            sort_fields.push(SortField::new_with_options(input.field(*column).data_type().clone(), options));
        }
        if !RowConverter::supports_fields(&sort_fields) {
            return Err(Error::refused(
                "DISTINCT ON orders by a column that has no order",
                "Order by a scalar column.",
            ));
        }
        let by_order = if sort_fields.is_empty() { None } else { Some(RowConverter::new(sort_fields.clone())?) };
        sort_fields.extend([DataType::Utf8, DataType::UInt64, DataType::UInt32].map(SortField::new));
        let order: Vec<usize> = order.iter().map(|o| o.column).collect();
        let ranking = order.iter().copied().chain(input_columns..input_columns + 3).collect();
        let by_all = RowConverter::new(sort_fields)?;
        let rule = DistinctOn {
            order,
            by_order,
            by_all,
            ranking,
            input_columns,
            segment_schema: Arc::clone(&segment_schema),
            result_schema,
        };
        Ok((rule, segment_schema))
    }

    /// The best row of each key of a batch, as state rows. `key_columns`: of all rows; `on`: where they stand.
    pub fn winners(
        &self,
        batch: &RecordBatch,
        keys: &BinaryArray,
        lineage: &Lineage,
        hasher: &DefaultHashBuilder,
    ) -> Result<Winners> {
        let messages = messages(batch, lineage)?;
        let ordinals = ordinals(messages);
        let ranks = Ranks { order: self.order_rows(batch)?, messages, lineage };
        let first_order = self.order.first().map(|c| batch.column(*c));

        let groups = Groups::of(keys, hasher);
        let mut best: Vec<Option<u32>> = vec![None; groups.len()];
        for (row, group) in groups.of_row.iter().enumerate() {
            if first_order.is_some_and(|column| column.is_null(row)) {
                continue;
            }
            let best = &mut best[*group];
            if best.is_none_or(|b| ranks.compare(row, b as usize) != Ordering::Less) {
                *best = Some(row as u32);
            }
        }
        let hashes = groups.hashes.iter().zip(&best).filter(|(_, b)| b.is_some()).map(|(h, _)| *h).collect();
        let rows = UInt32Array::from(best.into_iter().flatten().collect::<Vec<_>>());
        let keys = take(keys, &rows, None)?.as_binary::<i32>().clone();
        let rows = self.state_rows(batch, &rows, messages, &ordinals, lineage)?;
        Ok(Winners { rows, keys, hashes })
    }

    /// How candidates compare with the old rows of their keys by the order columns alone; `old`: those columns, row n
    /// for candidate `against[n]`. Ties are settled by `beats`, which needs more columns and is rarely asked.
    pub fn compare(&self, candidates: &RecordBatch, old: &[ArrayRef], against: &[usize]) -> Result<Vec<Ordering>> {
        let (Some(by_order), Some(new)) = (&self.by_order, self.order_rows(candidates)?) else {
            return Ok(vec![Ordering::Equal; against.len()]);
        };
        let old = by_order.convert_columns(old)?;
        Ok(against.iter().enumerate().map(|(row, candidate)| new.row(*candidate).cmp(&old.row(row))).collect())
    }

    /// Which candidates beat the old rows; `old`: columns by `ranking`, row n for candidate n. Equal means that the
    /// same row came again.
    pub fn beats(&self, candidates: &RecordBatch, old: &[ArrayRef]) -> Result<Vec<bool>> {
        let new = self.by_all.convert_columns(&self.rank_columns(candidates))?;
        let old = self.by_all.convert_columns(old)?;
        Ok((0..candidates.num_rows()).map(|row| new.row(row) > old.row(row)).collect())
    }

    pub fn combine(&self, rows: &RecordBatch, groups: &[usize], count: usize) -> Result<RecordBatch> {
        let ranks = self.by_all.convert_columns(&self.rank_columns(rows))?;
        let mut best = vec![u32::MAX; count];
        for (row, group) in groups.iter().enumerate() {
            if best[*group] == u32::MAX || ranks.row(row) > ranks.row(best[*group] as usize) {
                best[*group] = row as u32;
            }
        }
        let best = UInt32Array::from(best);
        let columns = rows.columns().iter().map(|c| take(c, &best, None)).collect::<Result<_, _>>()?;
        Ok(RecordBatch::try_new(Arc::clone(&self.segment_schema), columns)?)
    }

    pub fn results(&self, rows: &RecordBatch) -> Result<RecordBatch> {
        let columns = rows.columns()[..self.input_columns].to_vec();
        Ok(RecordBatch::try_new(Arc::clone(&self.result_schema), columns)?)
    }

    fn rank_columns(&self, rows: &RecordBatch) -> Vec<ArrayRef> {
        self.ranking.iter().map(|c| Arc::clone(rows.column(*c))).collect()
    }

    fn order_rows(&self, batch: &RecordBatch) -> Result<Option<Rows>> {
        let Some(by_order) = &self.by_order else { return Ok(None) };
        let columns: Vec<ArrayRef> = self.order.iter().map(|c| Arc::clone(batch.column(*c))).collect();
        Ok(Some(by_order.convert_columns(&columns)?))
    }

    fn state_rows(
        &self,
        batch: &RecordBatch,
        rows: &UInt32Array,
        messages: &UInt32Array,
        ordinals: &[u32],
        lineage: &Lineage,
    ) -> Result<RecordBatch> {
        let mut columns = Vec::with_capacity(self.segment_schema.fields().len());
        for column in &batch.columns()[..self.input_columns] {
            columns.push(take(column, rows, None)?);
        }
        let mut origins = StringBuilder::with_capacity(rows.len(), rows.len() * 32);
        let mut positions = Vec::with_capacity(rows.len());
        let mut text = String::new();
        for row in rows.values() {
            let origin = &lineage.origins[messages.value(*row as usize) as usize];
            let (source, topic, partition) = parts(origin);
            text.clear();
            for part in [source, "\0", topic, "\0", partition] {
                text.push_str(part);
            }
            origins.append_value(&text);
            positions.push(origin.position.0);
        }
        columns.push(Arc::new(origins.finish()));
        columns.push(Arc::new(UInt64Array::from(positions)));
        columns.push(Arc::new(UInt32Array::from_iter_values(rows.values().iter().map(|r| ordinals[*r as usize]))));
        Ok(RecordBatch::try_new(Arc::clone(&self.segment_schema), columns)?)
    }
}

/// How rows of one batch compare. Messages are looked at only when the order columns tie.
struct Ranks<'a> {
    order: Option<Rows>,
    messages: &'a UInt32Array,
    lineage: &'a Lineage,
}

impl Ranks<'_> {
    fn compare(&self, a: usize, b: usize) -> Ordering {
        let by_order = self.order.as_ref().map_or(Ordering::Equal, |order| order.row(a).cmp(&order.row(b)));
        by_order.then_with(|| self.compare_origins(a, b)).then_with(|| a.cmp(&b))
    }

    fn compare_origins(&self, a: usize, b: usize) -> Ordering {
        let (a, b) = (self.messages.value(a) as usize, self.messages.value(b) as usize);
        if a == b {
            return Ordering::Equal;
        }
        let (a, b) = (&self.lineage.origins[a], &self.lineage.origins[b]);
        parts(a).cmp(&parts(b)).then(a.position.cmp(&b.position))
    }
}

fn parts(origin: &Origin) -> (&str, &str, &str) {
    (&origin.partition.source, origin.topic.as_deref().unwrap_or(""), &origin.partition_label)
}

fn messages<'a>(batch: &'a RecordBatch, lineage: &Lineage) -> Result<&'a UInt32Array> {
    let column = batch.columns().last().and_then(|c| c.as_primitive_opt::<UInt32Type>());
    let Some(messages) = column.filter(|m| m.null_count() == 0) else {
        return Err(Error::Failed("rows for a DISTINCT ON view came without their message column".to_string()));
    };
    match messages.values().iter().max() {
        Some(max) if *max as usize >= lineage.origins.len() => {
            Err(Error::Failed(format!("message {max} of a batch of {}", lineage.origins.len())))
        }
        _ => Ok(messages),
    }
}

/// Number of each row among the rows of its message; rows of a message stand together.
fn ordinals(messages: &UInt32Array) -> Vec<u32> {
    let mut ordinals = Vec::with_capacity(messages.len());
    let mut next = 0;
    for row in 0..messages.len() {
        next = if row > 0 && messages.value(row) == messages.value(row - 1) { next + 1 } else { 0 };
        ordinals.push(next);
    }
    ordinals
}
