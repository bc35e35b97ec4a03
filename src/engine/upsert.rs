//! Touched keys -> the key-value store: one writer merges the frozen shares of all slots.
//!
//! Keys touched while waiting are kept without repetition, so they are bounded by the keys of hot state.
//!
//! It runs ahead of the record, at batch latency. After a restart changes are held back until every partition has passed
//! the store's marker; then every key touched since the record is written, so that no value goes back in time (I13).
//! An absent or foreign store is rebuilt from state before the pipeline is ready.

use crate::checkpoint::record::Record;
use crate::engine::published::{Board, Published};
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::sinks::kv::KvSink;
use crate::sinks::kv::hold::{self, Known};
use crate::sinks::kv::store::{Marker, Version};
use crate::sinks::kv::table::{KvApplied, KvTable, KvTableSpec};
use crate::sql::plan::{Insert, InsertFrom, MaterializedView, Plan};
use crate::state::view::FrozenView;
use crate::types::change::Changes;
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::position::{PartitionId, Position};
use arrow::array::{AsArray, BooleanArray, UInt32Array};
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

/// Keys held back before repetitions are taken out again: at least these, and twice what was left the last time.
const HELD_ROWS_MIN: usize = 65_536;

/// One INSERT from a materialized view into a key-value table.
pub struct Target {
    view: usize,
    insert: Arc<Insert>,
    name: String,
    sink: Arc<KvSink>,
    table: Arc<KvTable>,
    /// Of what makes the rows: the view, and what the INSERT does to its rows.
    fingerprint: String,
    /// What waits after the start: `hold`'s answer, until it has been carried out.
    waiting: Option<hold::Start>,
    /// Keys touched while waiting.
    held: Vec<RecordBatch>,
    held_rows: usize,
    /// `held_rows` at which repetitions are taken out.
    held_rows_max: usize,
}

/// Opens the tables that INSERTs from materialized views write. None: nothing upserts.
pub fn open_targets(plan: &Plan, kv: &BTreeMap<String, Arc<KvSink>>) -> Result<Option<Vec<Target>>> {
    let mut targets = Vec::new();
    for insert in &plan.inserts {
        let InsertFrom::View { view, filter, projection, key } = &insert.from else { continue };
        let sink = kv.get(insert.sink.as_ref()).ok_or_else(|| {
            Error::Failed(format!("sink \"{}\" takes changes, and only key-value sinks do", insert.sink))
        })?;
        let spec = KvTableSpec { name: insert.table.clone(), schema: insert.schema.clone(), key: key.clone() };
        targets.push(Target {
            view: *view,
            name: format!("{}.{}", insert.sink, insert.table),
            table: sink.open_table(spec)?,
            sink: sink.clone(),
            fingerprint: format!("{} {filter:?} {projection:?}", plan.views[*view].fingerprint),
            insert: insert.clone(),
            waiting: None,
            held: Vec::new(),
            held_rows: 0,
            held_rows_max: HELD_ROWS_MIN,
        });
    }
    Ok((!targets.is_empty()).then_some(targets))
}

pub struct Upserter {
    plan: Arc<Plan>,
    targets: Vec<Target>,
    boards: Vec<Arc<Board>>,
    chain: ChainId,
    version: Version,
    ready: Arc<AtomicBool>,
}

impl Upserter {
    /// `claim`: where state stands. Decides per table what must be waited for, and whether it is written anew.
    pub fn new(
        plan: Arc<Plan>,
        mut targets: Vec<Target>,
        boards: Vec<Arc<Board>>,
        claim: &Record,
        ready: Arc<AtomicBool>,
    ) -> Result<Self> {
        let positions: BTreeMap<_, _> = claim.positions().map(|(id, position)| (id.clone(), position)).collect();
        let is_read = |source: &str| plan.tables.iter().any(|t| *t.source == *source);
        for target in &mut targets {
            let known = Known {
                chain: &claim.chain,
                fingerprint: &target.fingerprint,
                positions: &positions,
                is_read: &is_read,
            };
            let start = hold::start(target.table.marker()?.as_ref(), &known);
            if let Some(why) = start.rebuild {
                tracing::info!(table = %target.name, ?why, "key-value table will be written anew from state");
            }
            target.waiting = Some(start);
        }
        let version = Version { incarnation: claim.incarnation, sequence: 0 };
        Ok(Upserter { plan, targets, boards, chain: claim.chain.clone(), version, ready })
    }

    /// Call once every slot shows its restored state, which a rebuild reads.
    pub fn run(mut self, mut inbox: mpsc::Receiver<Touched>) -> Result<()> {
        self.begin()?;
        while let Some(first) = inbox.blocking_recv() {
            self.turn(first, &mut inbox)?;
        }
        self.sync()
    }

    /// What can be written before anything was touched.
    pub fn begin(&mut self) -> Result<()> {
        self.take(BTreeMap::new())
    }

    /// One write: `first` and what else has arrived.
    pub fn turn(&mut self, first: Touched, inbox: &mut mpsc::Receiver<Touched>) -> Result<()> {
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
        Ok(())
    }

    fn take(&mut self, touched: BTreeMap<usize, Vec<RecordBatch>>) -> Result<()> {
        let shown: Vec<Arc<Published>> = self.boards.iter().map(|b| b.load()).collect();
        let marker = |version| Marker {
            chain: self.chain.clone(),
            fingerprint: String::new(),
            version,
            positions: positions(&shown),
            whole: true,
        };
        let mut all_flow = true;
        for target in &mut self.targets {
            target.hold(touched.get(&target.view).into_iter().flatten())?;
            let view = &self.plan.views[target.view];
            self.version.sequence += 1;
            let marker = Marker { fingerprint: target.fingerprint.clone(), ..marker(self.version) };
            let Some(start) = &target.waiting else {
                if let Some(keys) = target.take_held()? {
                    let (rows, gone) = FrozenView::read_keys(view, &shares(&shown, target.view), &keys)?;
                    target.write(view, rows, gone, &marker)?;
                }
                continue;
            };
            let passed = start.hold.is_passed(&marker.positions);
            #[cfg(test)]
            let passed = passed || planted(Bug::HoldBackSkipped);
            if !passed {
                all_flow = false;
                continue;
            }
            if start.rebuild.is_some() {
                target.rebuild(view, &shares(&shown, target.view), &marker)?;
                target.take_held()?;
            } else if let Some(keys) = target.take_held()? {
                // Records may have been written while these keys were held back, so a replay need not bring them again:
                // until all of them are written, the table says that it is not whole.
                let (rows, gone) = FrozenView::read_keys(view, &shares(&shown, target.view), &keys)?;
                target.write(view, rows, gone, &Marker { whole: false, ..marker.clone() })?;
                self.version.sequence += 1;
                target.mark(&Marker { version: self.version, ..marker })?;
            }
            target.waiting = None;
        }
        if all_flow {
            self.ready.store(true, Ordering::Relaxed);
        }
        Ok(())
    }

    /// Markers move to where state stands, then everything becomes durable. A table that waits keeps its own positions; but
    /// the record that follows will no longer bring back the keys it holds, so from here on it is not whole.
    fn sync(&mut self) -> Result<()> {
        let shown: Vec<Arc<Published>> = self.boards.iter().map(|b| b.load()).collect();
        for target in self.targets.iter().filter(|t| t.waiting.is_some() && t.held_rows > 0) {
            if let Some(found) = target.table.marker()?.filter(|found| found.whole) {
                self.version.sequence += 1;
                target.mark(&Marker { version: self.version, whole: false, ..found })?;
            }
        }
        for target in self.targets.iter().filter(|t| t.waiting.is_none()) {
            self.version.sequence += 1;
            let marker = Marker {
                chain: self.chain.clone(),
                fingerprint: target.fingerprint.clone(),
                version: self.version,
                positions: positions(&shown),
                whole: true,
            };
            target.mark(&marker)?;
        }
        self.targets.iter().try_for_each(|target| target.sink.sync())
    }
}

impl Target {
    fn hold<'a>(&mut self, touched: impl Iterator<Item = &'a RecordBatch>) -> Result<()> {
        for keys in touched {
            self.held_rows += keys.num_rows();
            self.held.push(keys.clone());
        }
        if self.held_rows > self.held_rows_max {
            let keys = distinct(&std::mem::take(&mut self.held))?;
            self.held_rows = keys.num_rows();
            self.held_rows_max = (2 * self.held_rows).max(HELD_ROWS_MIN);
            self.held.push(keys);
        }
        Ok(())
    }

    /// None: nothing was touched.
    fn take_held(&mut self) -> Result<Option<RecordBatch>> {
        self.held_rows = 0;
        let held = std::mem::take(&mut self.held);
        if held.is_empty() { Ok(None) } else { distinct(&held).map(Some) }
    }

    /// The marker alone.
    fn mark(&self, marker: &Marker) -> Result<()> {
        let none = RecordBatch::new_empty(self.insert.schema.clone());
        let changes = Changes { deletes: none.project(&self.table.spec().key)?, upserts: none };
        self.table.apply(&changes, marker).map(|_| ())
    }

    fn rebuild(&self, view: &MaterializedView, shares: &[FrozenView], marker: &Marker) -> Result<()> {
        let mut upserts = Vec::new();
        for rows in FrozenView::read(view, shares)? {
            upserts.push(self.project(rows)?.0);
        }
        let applied = self.table.rebuild(&upserts, marker)?;
        tracing::info!(table = %self.name, rows = applied.written, "key-value table written anew from state");
        self.count(applied);
        Ok(())
    }

    /// The changes and the marker of what they may reflect.
    fn write(&self, view: &MaterializedView, rows: RecordBatch, gone: RecordBatch, marker: &Marker) -> Result<()> {
        let (upserts, filtered) = self.project(rows)?;
        let deletes = match filtered {
            Some(out) if out.num_rows() > 0 => {
                let out = out.project(&view.key)?;
                concat_batches(&gone.schema(), [&gone, &out])?
            }
            _ => gone,
        };
        let applied = self.table.apply(&Changes { upserts, deletes }, marker)?;
        self.count(applied);
        Ok(())
    }

    /// The INSERT's rows, and the view's rows that its WHERE leaves out.
    fn project(&self, rows: RecordBatch) -> Result<(RecordBatch, Option<RecordBatch>)> {
        let InsertFrom::View { filter, projection, .. } = &self.insert.from else {
            return Err(Error::Failed(format!("\"{}\" is not fed by a materialized view", self.name)));
        };
        let (rows, filtered) = apply_filter(filter.as_ref(), rows)?;
        let columns = projection.iter().map(|e| e.evaluate(&rows).and_then(|v| v.into_array(rows.num_rows())));
        let columns = columns.collect::<Result<Vec<_>, _>>()?;
        Ok((RecordBatch::try_new(self.insert.schema.clone(), columns)?, filtered))
    }

    fn count(&self, applied: KvApplied) {
        metrics::counter!("pipe_kv_rows_written_total", "component" => self.name.clone()).increment(applied.written);
        metrics::counter!("pipe_kv_rows_deleted_total", "component" => self.name.clone()).increment(applied.deleted);
        let left_out = applied.null_keys + applied.long_keys;
        if left_out > 0 {
            tracing::warn!(table = %self.name, rows = left_out, "rows without a usable key (NULL, or too long) are not kept");
            metrics::counter!("pipe_kv_rows_left_out_total", "component" => self.name.clone()).increment(left_out);
        }
    }
}

fn shares(shown: &[Arc<Published>], view: usize) -> Vec<FrozenView> {
    shown.iter().map(|p| p.view.views[view].clone()).collect()
}

fn positions(shown: &[Arc<Published>]) -> BTreeMap<PartitionId, Position> {
    shown.iter().flat_map(|p| p.partitions.iter().map(|(id, progress)| (id.clone(), progress.position))).collect()
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

#[cfg(test)]
mod tests;
