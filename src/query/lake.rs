//! A lake table and the rows it does not have yet: one pinned snapshot UNION ALL what slots still hold in memory.
//!
//! Given as a logical plan rather than a scan, so that filters, projections and limits are pushed through the union
//! down to the Delta scan by the ordinary optimizer rules. `cut.rs` argues that no row is twice or missing.

use crate::query::cut::{Cut, Pinned};
use arrow::array::new_null_array;
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::{Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use datafusion::catalog::view::ViewTable;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::common::{Column, ScalarValue};
use datafusion::datasource::provider_as_source;
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, LogicalPlan, LogicalPlanBuilder, TableProviderFilterPushDown, TableType, lit};
use datafusion::physical_plan::ExecutionPlan;
use std::borrow::Cow;
use std::sync::Arc;

/// The columns a reader sees: the Delta table's own, then ours that it does not have yet (they come with the next
/// commit). Types are the Delta scan's, so that its columns stay bare and its statistics usable; memory rows are cast.
pub fn schema(pinned: &Pinned) -> SchemaRef {
    let lake = pinned.snapshot.provider.schema();
    let mut fields: Vec<Field> = lake.fields().iter().map(|f| plain(f)).collect();
    for field in pinned.schema.fields() {
        if lake.field_with_name(field.name()).is_err() {
            fields.push(plain(field));
        }
    }
    Arc::new(Schema::new(fields))
}

/// Nullable, without metadata: the two halves of the union must agree.
fn plain(field: &Field) -> Field {
    Field::new(field.name(), field.data_type().clone(), true)
}

pub fn table(pinned: &Pinned, cut: &Cut) -> Result<Arc<dyn TableProvider>> {
    Ok(Arc::new(LakeTable(Arc::new(ViewTable::new(plan(pinned, cut)?, None)))))
}

/// The table under a stream's name: what a continuous statement would see as `*`, and nothing that was added beside it.
pub fn stream_table(pinned: &Pinned, cut: &Cut, columns: &Schema) -> Result<Arc<dyn TableProvider>> {
    let named = columns.fields().iter().map(|f| Expr::Column(Column::new_unqualified(f.name())));
    let plan = LogicalPlanBuilder::from(plan(pinned, cut)?).project(named)?.build()?;
    Ok(Arc::new(LakeTable(Arc::new(ViewTable::new(plan, None)))))
}

fn plan(pinned: &Pinned, cut: &Cut) -> Result<LogicalPlan> {
    let schema = schema(pinned);
    let provider = &pinned.snapshot.provider;
    let lake_schema = provider.schema();
    let columns = schema.fields().iter().map(|field| match lake_schema.field_with_name(field.name()) {
        Ok(_) => Ok(Expr::Column(Column::new(Some("lake"), field.name())).alias(field.name())),
        Err(_) => Ok(lit(ScalarValue::try_new_null(field.data_type())?).alias(field.name())),
    });
    let lake = LogicalPlanBuilder::scan("lake", provider_as_source(provider.clone()), None)?
        .project(columns.collect::<Result<Vec<_>>>()?)?;

    let uncommitted = uncommitted(pinned, cut, &schema)?;
    if uncommitted.is_empty() {
        return lake.build();
    }
    let memory = MemTable::try_new(schema.clone(), vec![uncommitted])?;
    let columns =
        schema.fields().iter().map(|field| Expr::Column(Column::new(Some("memory"), field.name())).alias(field.name()));
    let memory = LogicalPlanBuilder::scan("memory", provider_as_source(Arc::new(memory)), None)?.project(columns)?;
    lake.union(memory.build()?)?.build()
}

/// Rows of epochs above the pinned snapshot, as the table's columns.
fn uncommitted(pinned: &Pinned, cut: &Cut, schema: &SchemaRef) -> Result<Vec<RecordBatch>> {
    let mut batches = Vec::new();
    for slot in &cut.slots {
        for rows in slot.uncommitted.get(pinned.key.as_str()).into_iter().flatten() {
            if rows.epoch > pinned.snapshot.applied {
                for batch in rows.batches.iter() {
                    batches.push(adapt(batch, schema)?);
                }
            }
        }
    }
    Ok(batches)
}

/// By name; a column the batch lacks is null. Casts share buffers where the types agree.
fn adapt(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = schema
        .fields()
        .iter()
        .map(|field| match batch.column_by_name(field.name()) {
            Some(column) if column.data_type() == field.data_type() => Ok(column.clone()),
            Some(column) => cast_with_options(column, field.data_type(), &strict),
            None => Ok(new_null_array(field.data_type(), batch.num_rows())),
        })
        .collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}

/// A view to the planner, a base table to those who list tables.
#[derive(Debug)]
struct LakeTable(Arc<dyn TableProvider>);

#[async_trait]
impl TableProvider for LakeTable {
    fn get_logical_plan(&'_ self) -> Option<Cow<'_, LogicalPlan>> {
        self.0.get_logical_plan()
    }

    fn schema(&self) -> SchemaRef {
        self.0.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        self.0.supports_filters_pushdown(filters)
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.0.scan(state, projection, filters, limit).await
    }
}

#[cfg(test)]
mod tests;
