//! The union of a snapshot and of rows in memory: once each, whatever the columns, with filters down to the snapshot.

use super::{schema, stream_table, table};
use crate::query::cut::{Cut, Pinned};
use crate::sinks::delta::table::LakeSnapshot;
use crate::state::cut::{SlotView, UncommittedRows};
use crate::types::epoch::Epoch;
use arrow::array::{ArrayRef, Int32Array, Int64Array, LargeStringArray, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches;
use async_trait::async_trait;
use datafusion::catalog::{MemTable, Session, TableProvider};
use datafusion::error::Result;
use datafusion::logical_expr::{Expr, TableProviderFilterPushDown, TableType};
use datafusion::physical_plan::ExecutionPlan;
use datafusion::prelude::SessionContext;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

/// Id and name, as the Delta table has them.
fn lake_batch(rows: &[(i64, &str)]) -> RecordBatch {
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(id, _)| *id))),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(_, name)| name))),
    ];
    let fields = vec![Field::new("id", DataType::Int64, true), Field::new("name", DataType::Utf8, true)];
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("fits")
}

fn pinned(provider: Arc<dyn TableProvider>, ours: SchemaRef, applied: u64) -> Pinned {
    Pinned {
        sink: "lake".into(),
        table: "t".into(),
        key: "lake.t".into(),
        schema: ours,
        snapshot: LakeSnapshot { provider, applied: Epoch(applied), version: 3 },
    }
}

fn slot(held: Vec<(u64, RecordBatch)>) -> Arc<SlotView> {
    let held =
        held.into_iter().map(|(epoch, batch)| UncommittedRows { epoch: Epoch(epoch), batches: Arc::new(vec![batch]) });
    Arc::new(SlotView { views: vec![], uncommitted: BTreeMap::from([("lake.t".into(), held.collect())]) })
}

fn memory(batch: RecordBatch) -> Arc<dyn TableProvider> {
    Arc::new(MemTable::try_new(batch.schema(), vec![vec![batch]]).expect("fits"))
}

async fn ask(table: Arc<dyn TableProvider>, sql: &str) -> String {
    let context = SessionContext::new();
    context.register_table("t", table).expect("is the first");
    let batches = context.sql(sql).await.expect("plans").collect().await.expect("runs");
    let text = pretty_format_batches(&batches).expect("can be shown").to_string();
    let rows = text.lines().skip(3).filter(|l| !l.starts_with('+'));
    rows.map(|l| l.split('|').map(str::trim).filter(|v| !v.is_empty()).collect::<Vec<_>>().join(" "))
        .collect::<Vec<_>>()
        .join("; ")
}

#[tokio::test]
async fn rows_of_epochs_above_the_snapshot_are_added_and_no_others() {
    let lake = lake_batch(&[(1, "a"), (2, "b")]);
    let slots = vec![
        slot(vec![(1, lake_batch(&[(1, "a")])), (2, lake_batch(&[(2, "b")])), (3, lake_batch(&[(3, "c")]))]),
        slot(vec![(3, lake_batch(&[(4, "d")])), (4, lake_batch(&[(5, "e")]))]),
        Arc::new(SlotView::default()),
    ];
    for (applied, expected) in [(2, "1 2 3 4 5"), (3, "1 2 5"), (4, "1 2")] {
        let pinned = pinned(memory(lake.clone()), lake.schema(), applied);
        let cut = Cut { slots: slots.clone(), lake: vec![] };
        let ids = ask(table(&pinned, &cut).expect("plans"), "SELECT id FROM t ORDER BY id").await;
        assert_eq!(ids.replace(';', ""), expected, "applied {applied}");
    }
}

#[tokio::test]
async fn columns_are_matched_by_name_and_missing_ones_are_null() {
    // The table has a column of another writer; our rows have one that the table does not have yet, and other types.
    let lake = lake_batch(&[(1, "a")]);
    let fields = vec![
        Field::new("new", DataType::Int64, true),
        Field::new("id", DataType::Int32, false),
        Field::new("name", DataType::LargeUtf8, true),
    ];
    let ours = Arc::new(Schema::new(fields));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![7])),
        Arc::new(Int32Array::from(vec![2])),
        Arc::new(LargeStringArray::from(vec!["b"])),
    ];
    let held = RecordBatch::try_new(ours.clone(), columns).expect("fits");
    let foreign = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, true),
        Field::new("theirs", DataType::Utf8, true),
        Field::new("name", DataType::Utf8, true),
    ]));
    let columns =
        vec![lake.column(0).clone(), Arc::new(StringArray::from(vec!["x"])) as ArrayRef, lake.column(1).clone()];
    let pinned = pinned(memory(RecordBatch::try_new(foreign, columns).expect("fits")), ours, 0);
    let names: Vec<String> =
        schema(&pinned).fields().iter().map(|f| format!("{} {}", f.name(), f.data_type())).collect();
    assert_eq!(names, ["id Int64", "theirs Utf8", "name Utf8", "new Int64"]);
    let cut = Cut { slots: vec![slot(vec![(1, held)])], lake: vec![] };
    let sql = "SELECT id, coalesce(theirs, '-'), name, coalesce(new, 0) FROM t ORDER BY id";
    assert_eq!(ask(table(&pinned, &cut).expect("plans"), sql).await, "1 x a 0; 2 - b 7");
    // Nothing held: the columns are the same.
    let empty = Cut { slots: vec![], lake: vec![] };
    assert_eq!(ask(table(&pinned, &empty).expect("plans"), sql).await, "1 x a 0");
}

#[tokio::test]
async fn a_stream_shows_its_own_columns() {
    let lake = lake_batch(&[(1, "a")]);
    let pinned = pinned(memory(lake.clone()), lake.schema(), 1);
    let cut = Cut { slots: vec![slot(vec![(2, lake_batch(&[(2, "b")]))])], lake: vec![] };
    let columns = Schema::new(vec![Field::new("name", DataType::Utf8, true)]);
    let stream = stream_table(&pinned, &cut, &columns).expect("plans");
    assert_eq!(stream.schema().fields().len(), 1);
    assert_eq!(ask(stream, "SELECT * FROM t WHERE name >= 'b'").await, "b");
}

/// Notes what reaches the scan.
#[derive(Debug)]
struct Noting {
    rows: MemTable,
    seen: Mutex<Vec<String>>,
}

#[async_trait]
impl TableProvider for Noting {
    fn schema(&self) -> SchemaRef {
        self.rows.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        state: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let filters: Vec<String> = filters.iter().map(|f| f.to_string()).collect();
        self.seen.lock().expect("no holder panics").push(format!("{projection:?} {}", filters.join(" AND ")));
        self.rows.scan(state, projection, &[], None).await
    }
}

#[tokio::test]
async fn filters_and_columns_reach_the_snapshot() {
    let lake = lake_batch(&[(1, "a"), (2, "b")]);
    let rows = MemTable::try_new(lake.schema(), vec![vec![lake.clone()]]).expect("fits");
    let noting = Arc::new(Noting { rows, seen: Mutex::default() });
    let pinned = pinned(noting.clone(), lake.schema(), 1);
    let cut = Cut { slots: vec![slot(vec![(2, lake_batch(&[(3, "b")]))])], lake: vec![] };
    let table = table(&pinned, &cut).expect("plans");
    assert_eq!(ask(table, "SELECT name FROM t WHERE name = 'b'").await, "b; b");
    let seen = noting.seen.lock().expect("no holder panics").clone();
    assert_eq!(seen, ["Some([1]) name = Utf8(\"b\")"]);
}
