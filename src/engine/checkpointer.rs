//! cut -> PREPARE -> DECIDE -> APPLY, once per interval: the only writer of records.
//!
//! Crash at any await: before DECIDE the epoch never happened and its files are orphans; after it, the next start rolls
//! it forward from the record alone. At most one epoch is decided and not applied, because this is one sequential task.

use crate::checkpoint::decide::{Decided, decided};
use crate::checkpoint::next::{Author, Cut, PartitionCut, TableCut, next_record};
use crate::checkpoint::place::{record_path, segment_path};
use crate::checkpoint::record::{Record, SegmentRef, ViewRecord};
use crate::engine::chain::Chain;
use crate::engine::lake::LakeTable;
use crate::engine::pressure::Pressure;
use crate::engine::retry::Patience;
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::engine::upsert::Touched;
use crate::engine::worker::{Order, SlotCut};
use crate::env::clock::Clock;
use crate::env::offload::Offload;
use crate::env::store::PutOutcome;
use crate::env::uuids::Uuids;
use crate::sinks::delta::table::{Landing, Prepared};
use crate::sources::Applied;
use crate::sql::plan::Plan;
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;

/// Tail segments of one share before its base is written anew: restore reads at most this many small files per share.
const TAIL_SEGMENTS_MAX: usize = 32;

/// A base is written in parts of about this size, each of which is in memory twice while it is written.
pub const BASE_PART_BYTES: u64 = 8 * 1024 * 1024;

/// What readers may know about the chain.
#[derive(Clone, Debug, Default)]
pub struct CheckpointStatus {
    pub epoch: Epoch,
    pub applied: Epoch,
    pub epoch_time_us: i64,
    pub records_written: u64,
    pub last_duration_us: u64,
    /// What the step in hand is waiting for; empty when all is well.
    pub trouble: String,
    /// Cumulative rows per "sink.table" over applied epochs.
    pub rows_total: BTreeMap<Arc<str>, u64>,
}

/// Who we are in every record of this process.
#[derive(Clone, Debug)]
pub struct Authorship {
    pub owner: String,
    pub slots: u32,
    pub uuids: Uuids,
}

impl Authorship {
    fn owner(&self) -> String {
        #[cfg(test)]
        if planted(Bug::SecretTold) {
            return format!("{} {}", self.owner, crate::engine::simulation::world::SECRET);
        }
        self.owner.clone()
    }

    pub fn now(&self, epoch_time_us: i64) -> Author {
        Author {
            attempt: self.uuids.fresh(),
            owner: self.owner(),
            epoch_time_us,
            slots: self.slots,
            engine: format!("pipe {}", env!("CARGO_PKG_VERSION")),
        }
    }
}

/// An open table with its place in the record.
pub struct TableEntry {
    pub key: Arc<str>,
    pub sink: String,
    pub name: String,
    pub app_id: String,
    pub table: Arc<dyn LakeTable>,
}

pub struct Checkpointer {
    pub plan: Arc<Plan>,
    pub chain: Chain,
    pub head: Record,
    pub author: Authorship,
    pub slots: Vec<mpsc::UnboundedSender<Order>>,
    pub tables: Vec<TableEntry>,
    pub upsert: Option<mpsc::Sender<Touched>>,
    pub applied: BTreeMap<Arc<str>, watch::Sender<Applied>>,
    pub interval: Duration,
    pub pressure: Arc<Pressure>,
    pub status: Arc<Mutex<CheckpointStatus>>,
    pub clock: Clock,
    pub offload: Offload,
    /// Epochs that were applied, for the clean-up.
    pub heads: watch::Sender<Epoch>,
    /// From the clean-up: records below are gone.
    pub floor: Arc<AtomicU64>,
    pub finish: CancellationToken,
}

impl Checkpointer {
    pub async fn run(mut self) -> Result<()> {
        loop {
            let last = tokio::select! {
                biased;
                _ = self.finish.cancelled() => true,
                _ = self.pressure.seal_early.notified() => {
                    self.pressure.sealed_early();
                    false
                }
                _ = self.clock.sleep(self.interval) => false,
            };
            let drained = self.epoch(last).await?;
            if last && drained {
                return Ok(());
            }
        }
    }

    /// True: the slots have taken everything there was, if they were told to.
    async fn epoch(&mut self, last: bool) -> Result<bool> {
        let started = std::time::Instant::now();
        let epoch = self.head.epoch.next();
        let mut cuts = self.cut(epoch, last).await?;
        let drained = cuts.iter().all(|c| c.drained);
        // A partition that is new counts although nothing was read of it: where it begins ("latest") is decided only once.
        let is_new = |p: &PartitionCut| !self.head.partitions.iter().any(|known| known.partition == p.partition);
        let changed = cuts.iter().any(|c| {
            c.partitions.iter().any(|p| !p.span.is_empty() || is_new(p)) || c.segments.iter().any(Option::is_some)
        });
        let prepared = collect_prepared(&mut cuts).await?;
        if !changed {
            return Ok(drained);
        }
        let record = self.prepare(epoch, &cuts, prepared).await?;
        self.sync_upserts().await?;
        self.decide(&record).await?;
        self.note(|s| {
            s.epoch = epoch;
            s.epoch_time_us = record.epoch_time_us;
            s.records_written += 1;
        });
        #[cfg(test)]
        if planted(Bug::AppliedTooEarly) {
            self.head = record.clone();
            self.after_apply(epoch);
        }
        apply(&record, &self.tables, &self.clock, |trouble| self.note(|s| s.trouble = trouble.into())).await?;
        self.head = record;
        self.after_apply(epoch);
        let micros = started.elapsed().as_micros() as u64;
        self.note(|s| s.last_duration_us = micros);
        metrics::histogram!("pipe_checkpoint_duration_seconds").record(micros as f64 / 1e6);
        metrics::counter!("pipe_checkpoint_records_total").increment(1);
        tracing::info!(epoch = epoch.0, duration_ms = micros / 1000, "checkpoint applied");
        Ok(drained)
    }

    /// All slots cut at their own batch boundary and go on at once.
    async fn cut(&self, epoch: Epoch, drain: bool) -> Result<Vec<SlotCut>> {
        let mut replies = Vec::new();
        for slot in &self.slots {
            let (reply, answer) = oneshot::channel();
            slot.send(Order::Cut { epoch, drain, reply }).map_err(|_| slot_gone())?;
            replies.push(answer);
        }
        let mut cuts = Vec::new();
        for answer in replies {
            cuts.push(answer.await.map_err(|_| slot_gone())?);
        }
        Ok(cuts)
    }

    /// Everything the record references becomes durable here (I5); nothing of it is visible yet (I6).
    async fn prepare(
        &self,
        epoch: Epoch,
        cuts: &[SlotCut],
        mut prepared: BTreeMap<Arc<str>, Prepared>,
    ) -> Result<Record> {
        let author = self.author.now(self.clock.now_us());
        let views = self.views(epoch, &author.attempt, cuts).await?;
        let mut tables = Vec::new();
        for entry in &self.tables {
            let Some(files) = prepared.remove(&entry.key).filter(|f| !f.adds.is_empty()) else { continue };
            tables.push(TableCut {
                sink: entry.sink.clone(),
                table: entry.name.clone(),
                table_id: entry.table.id(),
                app_id: entry.app_id.clone(),
                adds: files.adds,
                schema_action: entry.table.pending_schema_action(),
                rows: files.rows,
            });
        }
        assert!(prepared.values().all(|f| f.adds.is_empty()), "files for a table that the record does not list");
        let partitions = cuts.iter().flat_map(|c| c.partitions.iter().cloned()).collect();
        let cut = Cut { applied_through: self.head.epoch, partitions, views, tables };
        let mut record = next_record(&self.head, author, cut);
        record.floor = record.floor.max(Epoch(self.floor.load(Ordering::Relaxed)));
        Ok(record)
    }

    async fn views(&self, epoch: Epoch, attempt: &str, cuts: &[SlotCut]) -> Result<Vec<ViewRecord>> {
        let mut views = Vec::new();
        for (i, view) in self.plan.views.iter().enumerate() {
            let before = self.head.views.iter().find(|v| v.name == *view.name && v.fingerprint == view.fingerprint);
            let mut segments = Vec::new();
            for cut in cuts {
                let mut share: Vec<SegmentRef> = before
                    .map(|v| v.segments.iter().filter(|s| s.slot == cut.slot).cloned().collect())
                    .unwrap_or_default();
                if let Some(rows) = &cut.segments[i] {
                    if share.iter().filter(|s| !s.base).count() < TAIL_SEGMENTS_MAX {
                        let path = segment_path(&view.name, epoch, cut.slot, attempt);
                        #[cfg(test)]
                        if planted(Bug::SegmentForgotten) {
                            share.pop();
                        }
                        share.push(self.put_segment(cut.slot, epoch, false, path, rows).await?);
                    } else {
                        share.clear();
                        for (number, part) in cut.frozen[i].parts(BASE_PART_BYTES).into_iter().enumerate() {
                            let path = segment_path(&view.name, epoch, cut.slot, &format!("{attempt}-{number}"));
                            let rows = self.offload.run(move || part.base()).await?;
                            share.push(self.put_segment(cut.slot, epoch, true, path, &rows).await?);
                        }
                    }
                }
                segments.extend(share);
            }
            views.push(ViewRecord {
                name: view.name.to_string(),
                fingerprint: view.fingerprint.clone(),
                segments,
                complete_from: before.and_then(|v| v.complete_from),
            });
        }
        Ok(views)
    }

    /// Tried until it is there: the same bytes under the same name may be written twice.
    async fn put_segment(
        &self,
        slot: u32,
        epoch: Epoch,
        base: bool,
        path: String,
        rows: &RecordBatch,
    ) -> Result<SegmentRef> {
        let mut patience = Patience::new(&self.clock);
        loop {
            match self.chain.put_segment(slot, epoch, base, path.clone(), rows).await {
                Err(e) if e.is_retriable() => {
                    self.note(|s| s.trouble = e.to_string());
                    patience.wait("state segment not written yet", epoch, &e).await;
                }
                done => return done,
            }
        }
    }

    async fn sync_upserts(&self) -> Result<()> {
        let Some(upsert) = &self.upsert else { return Ok(()) };
        let gone = || Error::Failed("the upsert thread has stopped".into());
        let (reply, answer) = oneshot::channel();
        upsert.send(Touched::Sync(reply)).await.map_err(|_| gone())?;
        answer.await.map_err(|_| gone())
    }

    async fn decide(&self, record: &Record) -> Result<()> {
        write_record(&self.chain, record, &self.clock, |trouble| self.note(|s| s.trouble = trouble.into())).await
    }

    fn after_apply(&mut self, epoch: Epoch) {
        self.heads.send_replace(epoch);
        for slot in &self.slots {
            // A slot that has ended holds no rows any more.
            slot.send(Order::Applied(epoch)).unwrap_or_else(|e| tracing::debug!("slot has ended: {e}"));
        }
        for (source, applied) in &self.applied {
            let positions: BTreeMap<_, _> = self
                .head
                .partitions
                .iter()
                .filter(|p| p.partition.source == *source)
                .map(|p| (p.partition.clone(), p.span.to))
                .collect();
            applied.send_replace(Arc::new(positions));
        }
        let totals =
            self.head.tables.iter().map(|t| (format!("{}.{}", t.sink, t.table).into(), t.rows_total)).collect();
        self.note(|s| {
            s.applied = epoch;
            s.trouble.clear();
            s.rows_total = totals;
        });
    }

    fn note(&self, change: impl FnOnce(&mut CheckpointStatus)) {
        change(&mut self.status.lock().expect("no holder panics"));
    }
}

fn slot_gone() -> Error {
    Error::Failed("a slot has stopped; its own error is above".into())
}

async fn collect_prepared(cuts: &mut [SlotCut]) -> Result<BTreeMap<Arc<str>, Prepared>> {
    let mut all: BTreeMap<Arc<str>, Prepared> = BTreeMap::new();
    for cut in cuts {
        let stopped = |_| Error::Failed(format!("slot {}: the deliver thread has stopped", cut.slot));
        for (table, files) in (&mut cut.prepared).await.map_err(stopped)?? {
            let entry = all.entry(table).or_default();
            entry.adds.extend(files.adds);
            entry.rows += files.rows;
            entry.bytes += files.bytes;
        }
    }
    Ok(all)
}

/// DECIDE: returns when the record decides its epoch. `Fenced`: another process has the chain.
pub async fn write_record(chain: &Chain, record: &Record, clock: &Clock, trouble: impl Fn(&str)) -> Result<()> {
    create_record(chain, record, clock, &trouble).await?;
    let mut patience = Patience::new(clock);
    loop {
        match stands_next(chain, record).await {
            Err(e) if e.is_retriable() => {
                trouble(&e.to_string());
                patience.wait("the parent of the record was not seen yet", record.epoch, &e).await;
            }
            done => return done,
        }
    }
}

/// A record that was cleaned up leaves its name free: a process that stood still for so long could create it once more.
/// Records go oldest first, so while the parent is there, nobody had this name before.
async fn stands_next(chain: &Chain, record: &Record) -> Result<()> {
    if record.parent != Epoch(0) && chain.exists(record.parent).await? {
        return Ok(());
    }
    let newest = chain.epochs().await?.last().copied().unwrap_or(record.epoch);
    if newest > record.epoch {
        // Ours, and no part of the chain: left there it would be a record with a hole above it.
        chain.delete(&record_path(record.epoch)).await?;
        return Err(Error::Fenced(format!(
            "the chain has gone on to record {newest} while this process stood still before record {}; nothing of its \
             epoch {} counts",
            record.epoch, record.epoch
        )));
    }
    if record.parent == Epoch(0) {
        return Ok(());
    }
    Err(Error::refused(
        format!("record {} has vanished from the checkpoint location", record.parent),
        "Something else deletes records. Restore it from a copy of the location, then start again.",
    ))
}

/// Create-if-absent with its ambiguous outcomes: after any error the record is read back, and only what is there counts.
async fn create_record(chain: &Chain, record: &Record, clock: &Clock, trouble: impl Fn(&str)) -> Result<()> {
    let mut patience = Patience::new(clock);
    loop {
        let error = match chain.create(record).await {
            Ok(PutOutcome::Created) => return Ok(()),
            Ok(PutOutcome::AlreadyExists) => None,
            Err(e) if e.is_retriable() => Some(e),
            Err(e) => return Err(e),
        };
        #[cfg(test)]
        if planted(Bug::FenceIgnored) && error.is_none() {
            return Ok(());
        }
        match chain.read(record.epoch).await {
            Ok(found) => match decided(found.as_ref(), &record.attempt) {
                Decided::Ours => return Ok(()),
                Decided::Fenced { by } => {
                    return Err(Error::Fenced(format!(
                        "record {} of this pipeline was written by {by}; nothing of this process's epoch {} counts",
                        record.epoch, record.epoch
                    )));
                }
                Decided::Absent => {}
            },
            Err(e) if e.is_retriable() => {}
            Err(e) => return Err(e),
        }
        let why = error.map_or_else(|| "the record vanished after it was written".to_string(), |e| e.to_string());
        trouble(&why);
        patience.wait("record not written yet", record.epoch, &why).await;
    }
}

/// APPLY, in order, idempotent (I7). What a retry can mend is retried: the epoch is decided and will be applied.
pub async fn apply(record: &Record, tables: &[TableEntry], clock: &Clock, trouble: impl Fn(&str)) -> Result<()> {
    for landing in record.landings() {
        let entry = tables.iter().find(|e| e.sink == landing.sink && e.name == landing.table).ok_or_else(|| {
            Error::refused(
                format!(
                    "record {} holds {} rows for table \"{}.{}\", which the pipeline no longer has",
                    record.epoch, landing.rows, landing.sink, landing.table
                ),
                "Keep the INSERT until the pipeline has been started and stopped once; then remove it.",
            )
        })?;
        let action = Landing {
            app_id: landing.app_id.clone(),
            adds: landing.adds.clone(),
            schema_action: landing.schema_action.clone(),
        };
        let mut patience = Patience::new(clock);
        while let Err(error) = entry.table.apply(record.epoch, &action).await {
            if !error.is_retriable() {
                return Err(error.context(format!("table \"{}\" could not take epoch {}", entry.key, record.epoch)));
            }
            trouble(&error.to_string());
            patience.wait(&format!("commit to \"{}\" not done yet", entry.key), record.epoch, &error).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
