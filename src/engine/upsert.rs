//! Touched keys -> the key-value store: one writer merges the frozen shares of all slots.
//!
//! It runs ahead of the record, at batch latency. After a restart changes are held back until every partition has passed
//! the store's marker; then every key touched since the record is written, so that no value goes back in time (I13).
//! An absent or foreign store is rebuilt from state before the pipeline is ready.

use crate::checkpoint::record::Record;
use crate::engine::published::{Board, Published};
use crate::sinks::kv::KvSink;
use crate::sinks::kv::hold::Hold;
use crate::sinks::kv::store::{Marker, Version};
use crate::sql::plan::{Insert, InsertFrom, MaterializedView, Plan};
use crate::state::view::FrozenView;
use crate::types::change::Changes;
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::position::{PartitionId, Position};
use arrow::array::{Array, AsArray, BooleanArray, UInt32Array};
use arrow::compute::{concat_batches, filter_record_batch, not, prep_null_mask_filter, take_record_batch};
use arrow::datatypes::Schema;
use arrow::record_batch::RecordBatch;
use arrow::row::{RowConverter, SortField};
use datafusion::physical_expr::PhysicalExpr;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use tokio::sync::{mpsc, oneshot};

/// What slots and the checkpointer send.
pub enum Touched {
    /// Keys touched by one batch, by index in `Plan::views`. Empty lists count too: positions moved.
    Keys(Vec<(usize, RecordBatch)>),
    /// Everything sent before is durable when this is answered.
    Sync(oneshot::Sender<()>),
}

/// Notices taken together into one write: under load keys touched again and again are written once.
const NOTICES_MAX: usize = 256;

/// One INSERT from a materialized view into a key-value table.
pub struct Target {
    view: usize,
    insert: Arc<Insert>,
    sink_name: String,
    sink: Arc<KvSink>,
}

pub fn plan_upserts(plan: &Plan, kv: &BTreeMap<String, Arc<KvSink>>) -> Option<Vec<Target>> {
    let targets: Vec<Target> = plan
        .inserts
        .iter()
        .filter_map(|insert| {
            let InsertFrom::View { view, .. } = insert.from else { return None };
            let sink = kv.get(insert.sink.as_ref())?.clone();
            Some(Target { view, insert: insert.clone(), sink_name: insert.sink.to_string(), sink })
        })
        .collect();
    (!targets.is_empty()).then_some(targets)
}

pub struct Upserter {
    plan: Arc<Plan>,
    targets: Vec<Target>,
    boards: Vec<Arc<Board>>,
    chain: ChainId,
    version: Version,
    /// By sink: positions that its marker says it may reflect. None: nothing is held back.
    hold: Option<Hold>,
    /// Keys touched while changes were held back, by view.
    held: BTreeMap<usize, Vec<RecordBatch>>,
    ready: Arc<AtomicBool>,
    claimed: BTreeMap<PartitionId, Position>,
}

impl Upserter {
    pub fn new(
        plan: Arc<Plan>,
        targets: Vec<Target>,
        boards: Vec<Arc<Board>>,
        claim: &Record,
        ready: Arc<AtomicBool>,
    ) -> Self {
        Upserter {
            plan,
            targets,
            boards,
            chain: claim.chain.clone(),
            version: Version { incarnation: claim.incarnation, sequence: 0 },
            hold: None,
            held: BTreeMap::new(),
            ready,
            claimed: claim.positions().map(|(id, position)| (id.clone(), position)).collect(),
        }
    }

    pub fn run(mut self, mut inbox: mpsc::Receiver<Touched>) -> Result<()> {
        self.begin()?;
        while let Some(first) = inbox.blocking_recv() {
            let mut touched: BTreeMap<usize, Vec<RecordBatch>> = BTreeMap::new();
            let mut syncs = Vec::new();
            let mut next = Some(first);
            let mut taken = 0;
            while let Some(notice) = next {
                match notice {
                    Touched::Keys(keys) => {
                        for (view, keys) in keys {
                            touched.entry(view).or_default().push(keys);
                        }
                    }
                    Touched::Sync(reply) => syncs.push(reply),
                }
                taken += 1;
                // What comes after a sync is a new epoch's and must not delay its answer.
                next = if syncs.is_empty() && taken < NOTICES_MAX { inbox.try_recv().ok() } else { None };
            }
            self.take(touched)?;
            for reply in syncs {
                self.sync()?;
                // The checkpointer is gone only when the pipeline is ending; durable is durable.
                reply.send(()).unwrap_or_else(|_| tracing::debug!("nobody waits for the sync any more"));
            }
        }
        self.sync()
    }

    /// Absent or foreign stores are rebuilt from the restored state; ours are held back until their marker is passed.
    fn begin(&mut self) -> Result<()> {
        let shown = self.load();
        let mut markers = Vec::new();
        let mut rebuild: HashSet<String> = HashSet::new();
        for (name, sink) in self.sinks() {
            match sink.marker()? {
                Some(marker) if marker.chain == self.chain => markers.push(marker),
                _ => drop(rebuild.insert(name)),
            }
        }
        for i in 0..self.targets.len() {
            let target = &self.targets[i];
            // A table the store has never seen (a new INSERT) is filled from state like a lost one.
            let fresh = !target.sink.has_table(&target.insert.table)?;
            if rebuild.contains(&target.sink_name) || fresh {
                let view = self.plan.views[target.view].clone();
                let rows = FrozenView::read(&view, &shares(&shown, target.view))?;
                target.sink.clear(&target.insert.table)?;
                tracing::info!(table = %format!("{}.{}", target.sink_name, target.insert.table), rows = rows.iter().map(RecordBatch::num_rows).sum::<usize>(), "key-value table filled from state");
                for rows in rows {
                    let gone = keys_of(&view, &rows.slice(0, 0));
                    self.write(i, &view, rows, gone, &positions(&shown))?;
                }
            }
        }
        self.hold = Hold::until(markers.iter(), &self.claimed);
        self.settle(&shown)
    }

    fn take(&mut self, touched: BTreeMap<usize, Vec<RecordBatch>>) -> Result<()> {
        for (view, keys) in touched {
            self.held.entry(view).or_default().extend(keys);
        }
        let shown = self.load();
        self.settle(&shown)
    }

    /// Writes what is held if nothing holds it back any more.
    fn settle(&mut self, shown: &[Arc<Published>]) -> Result<()> {
        let positions = positions(shown);
        if let Some(hold) = &self.hold {
            if !hold.is_passed(&positions) {
                return Ok(());
            }
            tracing::info!("every partition has passed the key-value store's marker: changes flow again");
            self.hold = None;
        }
        for (view, keys) in std::mem::take(&mut self.held) {
            let spec = self.plan.views[view].clone();
            let keys = distinct(&keys)?;
            let (rows, gone) = FrozenView::read_keys(&spec, &shares(shown, view), &keys)?;
            for i in 0..self.targets.len() {
                if self.targets[i].view == view {
                    self.write(i, &spec, rows.clone(), gone.clone(), &positions)?;
                }
            }
        }
        self.ready.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// One atomic batch: the changes and the marker of what they may reflect.
    fn write(
        &mut self,
        target: usize,
        view: &MaterializedView,
        rows: RecordBatch,
        gone: RecordBatch,
        positions: &BTreeMap<PartitionId, Position>,
    ) -> Result<()> {
        let target = &self.targets[target];
        let InsertFrom::View { filter, projection, .. } = &target.insert.from else {
            return Err(Error::Failed("an upsert target without a view".into()));
        };
        let (rows, filtered) = apply_filter(filter.as_ref(), rows)?;
        let deletes = match filtered {
            Some(out) if out.num_rows() > 0 => concat_batches(&gone.schema(), [&gone, &keys_of(view, &out)])?,
            _ => gone,
        };
        let columns = projection.iter().map(|e| e.evaluate(&rows).and_then(|v| v.into_array(rows.num_rows())));
        let upserts = RecordBatch::try_new(target.insert.schema.clone(), columns.collect::<Result<_, _>>()?)?;
        if upserts.num_rows() == 0 && deletes.num_rows() == 0 {
            return Ok(());
        }
        self.version.sequence += 1;
        let marker = Marker { chain: self.chain.clone(), positions: positions.clone() };
        let changes = Changes { upserts, deletes };
        let written = target.sink.apply(&target.insert.table, &changes, self.version, &marker)?;
        let table = format!("{}.{}", target.sink_name, target.insert.table);
        if written.null_keys > 0 {
            tracing::warn!(%table, rows = written.null_keys, "rows with a NULL key part cannot be kept in a key-value store");
            metrics::counter!("pipe_kv_null_keys_total", "component" => table.clone()).increment(written.null_keys);
        }
        metrics::counter!("pipe_kv_rows_written_total", "component" => table).increment(written.written);
        Ok(())
    }

    fn sync(&self) -> Result<()> {
        self.sinks().into_values().try_for_each(|sink| sink.sync())
    }

    fn sinks(&self) -> BTreeMap<String, Arc<KvSink>> {
        self.targets.iter().map(|t| (t.sink_name.clone(), t.sink.clone())).collect()
    }

    fn load(&self) -> Vec<Arc<Published>> {
        self.boards.iter().map(|b| b.load()).collect()
    }
}

fn shares(shown: &[Arc<Published>], view: usize) -> Vec<FrozenView> {
    shown.iter().map(|p| p.view.views[view].clone()).collect()
}

fn positions(shown: &[Arc<Published>]) -> BTreeMap<PartitionId, Position> {
    shown.iter().flat_map(|p| p.partitions.iter().map(|(id, progress)| (id.clone(), progress.position))).collect()
}

/// The key columns of a view's output rows.
fn keys_of(view: &MaterializedView, rows: &RecordBatch) -> RecordBatch {
    rows.project(&view.key).expect("the key is part of the output")
}

/// Rows that pass, and those that do not.
fn apply_filter(
    filter: Option<&Arc<dyn PhysicalExpr>>,
    rows: RecordBatch,
) -> Result<(RecordBatch, Option<RecordBatch>)> {
    let Some(filter) = filter else { return Ok((rows, None)) };
    let passes = filter.evaluate(&rows)?.into_array(rows.num_rows())?;
    let passes: BooleanArray = prep_null_mask_filter(passes.as_boolean());
    let out = filter_record_batch(&rows, &not(&passes)?)?;
    Ok((filter_record_batch(&rows, &passes)?, Some(out)))
}

/// Keys of several batches, each once.
fn distinct(keys: &[RecordBatch]) -> Result<RecordBatch> {
    let schema = keys.first().map_or_else(|| Arc::new(Schema::empty()), |k| k.schema());
    let all = concat_batches(&schema, keys)?;
    if keys.len() < 2 {
        return Ok(all);
    }
    let fields = schema.fields().iter().map(|f| SortField::new(f.data_type().clone())).collect();
    let rows = RowConverter::new(fields)?.convert_columns(all.columns())?;
    let mut seen = HashSet::with_capacity(all.num_rows());
    let firsts = (0..all.num_rows()).filter(|i| seen.insert(rows.row(*i)));
    let firsts: UInt32Array = firsts.map(|i| i as u32).collect();
    Ok(take_record_batch(&all, &firsts)?)
}
