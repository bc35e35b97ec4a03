//! The slot loop: one thread that takes what has arrived, decodes it, runs the plan, folds state and publishes.
//!
//! Promises: every message of a handover is in exactly one batch, in order per partition (I2); the ledger balances per
//! batch (I3); a cut falls between two batches. It leaves files to `deliver`, keys to `upsert`, and never does I/O.

use crate::checkpoint::next::PartitionCut;
use crate::engine::dead_letter::{self, Fate, Letter};
use crate::engine::deliver::Delivery;
use crate::engine::ingest::{Ingest, Ingested, Outcome, message_at};
use crate::engine::pressure::{Cause, Pressure};
use crate::engine::published::{Board, PartitionProgress, Published, Uncommitted};
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::engine::upsert::Touched;
use crate::sinks::delta::table::Prepared;
use crate::sources::Handover;
use crate::sql::exec::Stateless;
use crate::sql::plan::{InsertFrom, Plan};
use crate::state::cut::SlotView;
use crate::state::view::{FrozenView, ViewState};
use crate::types::count::Counts;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::error::{Error, Result};
use crate::types::invariant;
use crate::types::limit::BATCH_MESSAGES_MAX;
use crate::types::message::REPLAY_SOURCE;
use crate::types::position::{PartitionId, Position, Span};
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

/// What the checkpointer asks of a slot.
pub enum Order {
    /// Everything so far belongs to this epoch. `drain`: first take everything that is still in the queue, until the
    /// sources have let go of it (end of `--once`, clean stop).
    Cut { epoch: Epoch, drain: bool, reply: oneshot::Sender<SlotCut> },
    /// The lake has everything up to this epoch.
    Applied(Epoch),
}

/// A slot frozen between two batches.
pub struct SlotCut {
    pub slot: u32,
    pub partitions: Vec<PartitionCut>,
    /// By index in `Plan::views`: the state rows born in this epoch.
    pub segments: Vec<Option<RecordBatch>>,
    /// By index in `Plan::views`, for a new base.
    pub frozen: Vec<FrozenView>,
    /// The epoch's files, complete and durable, by "sink.table".
    pub prepared: oneshot::Receiver<Result<BTreeMap<Arc<str>, Prepared>>>,
    /// False: there was no room to take all that is queued; a further drain will take more of it.
    pub drained: bool,
}

pub struct WorkerParts {
    pub slot: u32,
    pub plan: Arc<Plan>,
    pub ingest: Ingest,
    pub stateless: Stateless,
    pub views: Vec<ViewState>,
    /// Where partitions of this slot stand, from the record.
    pub partitions: BTreeMap<PartitionId, PartitionStart>,
    pub inbox: mpsc::Receiver<Handover>,
    pub orders: mpsc::UnboundedReceiver<Order>,
    pub deliver: mpsc::Sender<Delivery>,
    pub upsert: Option<mpsc::Sender<Touched>>,
    pub board: Arc<Board>,
    pub pressure: Arc<Pressure>,
    /// "sink.dead_letter"
    pub dead_letter: Arc<str>,
    pub chain: ChainId,
    pub clock: crate::env::clock::Clock,
}

#[derive(Clone, Debug)]
pub struct PartitionStart {
    pub position: Position,
    pub identity: Option<Arc<serde_json::Value>>,
    pub counts: Counts,
}

struct Progress {
    span: Span,
    identity: Option<Arc<serde_json::Value>>,
    /// Since the chain began.
    counts: Counts,
    /// Since the last cut.
    epoch_counts: Counts,
}

pub struct Worker {
    parts: WorkerParts,
    progress: BTreeMap<PartitionId, Progress>,
    uncommitted: Uncommitted,
    /// By index in `Plan::inserts`: "sink.table".
    insert_tables: Vec<Arc<str>>,
    /// By index in `Plan::views`: whether an upsert sink wants its touched keys.
    wanted: Vec<bool>,
    rejects: BTreeMap<&'static str, u64>,
    unknown_fields: BTreeMap<Arc<str>, u64>,
    batches: u64,
    batch_bytes_max: usize,
    /// The sources have let go of the queue: only orders come.
    drained: bool,
}

/// What a slot turns to next.
pub enum Wake {
    Order(Order),
    Handover(Handover),
    /// All sources have let go of the queue.
    Drained,
    /// There may be room again.
    Look,
    /// The engine is gone.
    Closed,
    Failed(Error),
}

impl Worker {
    pub fn new(parts: WorkerParts) -> Self {
        let insert_tables = parts.plan.inserts.iter().map(|i| format!("{}.{}", i.sink, i.table).into()).collect();
        let mut wanted = vec![false; parts.plan.views.len()];
        for insert in &parts.plan.inserts {
            if let InsertFrom::View { view, .. } = &insert.from {
                wanted[*view] = true;
            }
        }
        let progress = parts
            .partitions
            .iter()
            .map(|(id, start)| {
                let span = Span::new(start.position, start.position);
                let identity = start.identity.clone();
                (id.clone(), Progress { span, identity, counts: start.counts, epoch_counts: Counts::default() })
            })
            .collect();
        let worker = Worker {
            batch_bytes_max: parts.pressure.batch_bytes_max(),
            parts,
            progress,
            uncommitted: Uncommitted::default(),
            insert_tables,
            wanted,
            rejects: BTreeMap::new(),
            unknown_fields: BTreeMap::new(),
            batches: 0,
            drained: false,
        };
        worker.publish();
        worker
    }

    /// Runs until the engine lets go of the orders channel. Blocks its thread; call it on one of its own.
    pub fn run(mut self) -> Result<()> {
        loop {
            let wake = futures::executor::block_on(self.next());
            if !self.turn(wake)? {
                return Ok(());
            }
        }
    }

    /// One turn of the loop: a batch, or an order carried out. False: the engine is gone.
    pub fn turn(&mut self, wake: Wake) -> Result<bool> {
        match wake {
            Wake::Closed => return Ok(false),
            Wake::Failed(error) => return Err(error),
            Wake::Look => {}
            Wake::Drained => self.drained = true,
            Wake::Handover(first) => self.batch(first)?,
            Wake::Order(Order::Applied(epoch)) => {
                let freed = self.uncommitted.applied(epoch);
                self.parts.pressure.free_rows(freed);
                self.publish();
            }
            Wake::Order(Order::Cut { epoch, drain, reply }) => {
                if drain && !self.drained {
                    self.drained = self.drain()?;
                }
                let cut = self.cut(epoch)?;
                // The checkpointer may have given up in the meantime; then nothing was promised to anyone.
                return Ok(reply.send(cut).is_ok());
            }
        }
        Ok(true)
    }

    /// Would a turn have to wait for those it feeds?
    #[cfg(test)]
    pub fn is_behind(&self) -> bool {
        let full = |capacity: usize, max: usize| capacity < max / 2;
        full(self.parts.deliver.capacity(), self.parts.deliver.max_capacity())
            || self.parts.upsert.as_ref().is_some_and(|u| full(u.capacity(), u.max_capacity()))
    }

    /// What comes next; orders first. Cancel-safe.
    pub async fn next(&mut self) -> Wake {
        let pressure = self.parts.pressure.clone();
        // Made before looking, so that room made in between is not missed.
        let room = pressure.room.notified();
        let full = if self.drained { Ok(None) } else { self.full() };
        let cause = match full {
            Ok(cause) => cause,
            Err(error) => return Wake::Failed(error),
        };
        pressure.pause(self.parts.slot, cause, self.parts.clock.now_us());
        let (orders, inbox) = (&mut self.parts.orders, &mut self.parts.inbox);
        if self.drained {
            return orders.recv().await.map_or(Wake::Closed, Wake::Order);
        }
        tokio::select! {
            biased;
            order = orders.recv() => order.map_or(Wake::Closed, Wake::Order),
            () = room, if cause.is_some() => Wake::Look,
            handover = inbox.recv(), if cause.is_none() => handover.map_or(Wake::Drained, Wake::Handover),
        }
    }

    /// Takes what is still queued. False: there is no room for the rest before this epoch has landed. With a full state
    /// there will be none: what is left is read again at the next start.
    fn drain(&mut self) -> Result<bool> {
        loop {
            match self.full()? {
                Some(Cause::Rows) => return Ok(false),
                Some(Cause::State) => return Ok(true),
                None => {}
            }
            let Some(first) = self.parts.inbox.blocking_recv() else { return Ok(true) };
            self.batch(first)?;
        }
    }

    /// Why nothing more may be taken.
    fn full(&mut self) -> Result<Option<Cause>> {
        #[cfg(test)]
        if planted(Bug::BudgetIgnored) {
            return Ok(None);
        }
        if self.parts.pressure.rows_are_full() {
            return Ok(Some(Cause::Rows));
        }
        if self.parts.pressure.full_state().is_none() {
            return Ok(None);
        }
        // Rows that were replaced and not compacted away yet are the first to go.
        for view in &mut self.parts.views {
            while view.compact()? {}
        }
        self.show_state();
        match self.parts.pressure.full_state() {
            Some((_, text)) if self.parts.pressure.ends_when_full() && !self.parts.inbox.is_empty() => {
                Err(Error::refused(text, "Run it again with the larger limit: it goes on where it stopped."))
            }
            Some(_) if self.parts.pressure.ends_when_full() => Ok(None),
            Some(_) => Ok(Some(Cause::State)),
            None => Ok(None),
        }
    }

    fn show_state(&self) {
        self.parts.pressure.state_is(self.parts.slot, self.parts.views.iter().map(|v| (v.keys(), v.bytes())));
    }

    /// One batch: what has arrived, up to the bounds. All of it or nothing reaches state and sinks.
    fn batch(&mut self, first: Handover) -> Result<()> {
        let mut bytes = first.messages.bytes();
        let mut count = first.messages.items.len();
        let mut handovers = vec![first];
        while count < BATCH_MESSAGES_MAX && bytes < self.batch_bytes_max {
            let Ok(next) = self.parts.inbox.try_recv() else { break };
            bytes += next.messages.bytes();
            count += next.messages.items.len();
            handovers.push(next);
        }
        let now_us = self.parts.clock.now_us();
        let mut ingested = self.parts.ingest.decode(&handovers);
        let tables = std::mem::take(&mut ingested.tables);
        let (outputs, guilty) = self.parts.stateless.bisect(&tables, now_us);
        for reject in guilty {
            ingested.outcomes[reject.index as usize] = Outcome::Rejected;
            ingested.rejects.push(reject);
        }
        self.account(&handovers, &ingested)?;

        let plan = self.parts.plan.clone();
        let mut touched = Vec::new();
        for (i, view) in plan.views.iter().enumerate() {
            let rows = &outputs.nodes[view.input];
            if rows.iter().any(|b| b.num_rows() > 0) {
                let keys = self.parts.views[i]
                    .apply(rows, &ingested.lineage)
                    .map_err(|e| e.context(format!("materialized view \"{}\" could not fold a batch", view.name)))?;
                if self.wanted[i] {
                    touched.push((i, keys));
                }
                self.parts.views[i].compact()?;
            }
        }
        for (i, insert) in plan.inserts.iter().enumerate() {
            let InsertFrom::Node(node) = insert.from else { continue };
            let table = self.insert_tables[i].clone();
            for rows in outputs.nodes[node].iter().filter(|b| b.num_rows() > 0) {
                let rows = without_msg(rows, &insert.schema)?;
                self.deliver(&table, rows)?;
            }
        }
        self.deliver_letters(&handovers, &ingested)?;
        self.batches += 1;
        self.publish();
        self.notify_upsert(touched)
    }

    fn deliver(&mut self, table: &Arc<str>, rows: RecordBatch) -> Result<()> {
        let bytes = self.uncommitted.push(table, rows.clone());
        self.parts.pressure.hold_rows(bytes);
        self.send_delivery(Delivery::Rows { table: table.clone(), rows })
    }

    fn send_delivery(&self, delivery: Delivery) -> Result<()> {
        let stopped = |_| Error::Failed(format!("slot {}: the deliver thread has stopped", self.parts.slot));
        self.parts.deliver.blocking_send(delivery).map_err(stopped)
    }

    /// One row per rejected message, and per replayed one: what became of it.
    fn deliver_letters(&mut self, handovers: &[Handover], ingested: &Ingested) -> Result<()> {
        let mut fates: Vec<(u32, Fate)> = Vec::new();
        for reject in &ingested.rejects {
            *self.rejects.entry(reject.reason.code()).or_default() += 1;
            fates.push((reject.index, Fate::Rejected(&reject.reason)));
        }
        if handovers.iter().any(|h| *h.messages.partition.source == *REPLAY_SOURCE) {
            fates.extend((0..).zip(&ingested.outcomes).filter_map(|(index, outcome)| match outcome {
                Outcome::Rejected => None,
                #[cfg(test)]
                _ if planted(Bug::ReplayNotMarked) => None,
                _ if message_at(handovers, index).replayed.is_none() => None,
                Outcome::Decoded => Some((index, Fate::Replayed)),
                Outcome::Dropped => Some((index, Fate::Dropped)),
            }));
        }
        if fates.is_empty() {
            return Ok(());
        }
        fates.sort_by_key(|(index, _)| *index);
        let mut letters = Vec::with_capacity(fates.len());
        for (index, fate) in fates {
            let origin = &ingested.lineage.origins[index as usize];
            tracing::debug!(partition = %origin.partition, position = origin.position.0, %fate, "dead letter");
            letters.push(Letter { origin, message: message_at(handovers, index), fate });
        }
        let table = self.parts.dead_letter.clone();
        self.deliver(&table, dead_letter::rows(&self.parts.chain, &letters))
    }

    /// The ledger of a batch: positions move on, counts add up (I2, I3).
    fn account(&mut self, handovers: &[Handover], ingested: &Ingested) -> Result<()> {
        let mut outcomes = ingested.outcomes.iter();
        for handover in handovers {
            let messages = &handover.messages;
            let mut counts = Counts::default();
            for outcome in outcomes.by_ref().take(messages.items.len()) {
                counts.received += 1;
                match outcome {
                    Outcome::Decoded => counts.decoded += 1,
                    Outcome::Rejected => counts.rejected += 1,
                    Outcome::Dropped => counts.dropped += 1,
                }
            }
            counts.check();
            let mut floor = messages.span.from;
            for message in &messages.items {
                let position = message.position;
                invariant::check(&invariant::I2, floor <= position && position < messages.span.to, || {
                    format!("{}: message at {position} outside its place in {}", messages.partition, messages.span)
                });
                floor = Position(position.0 + 1);
            }
            let progress = self.progress.entry(messages.partition.as_ref().clone()).or_insert_with(|| Progress {
                span: Span::new(messages.span.from, messages.span.from),
                identity: None,
                counts: Counts::default(),
                epoch_counts: Counts::default(),
            });
            progress.span.extend(messages.span);
            progress.counts.add(&counts);
            progress.epoch_counts.add(&counts);
            if messages.identity.is_some() {
                progress.identity = messages.identity.clone();
            }
        }
        for (source, n) in &ingested.unknown_fields {
            *self.unknown_fields.entry(source.clone()).or_default() += n;
        }
        Ok(())
    }

    fn cut(&mut self, epoch: Epoch) -> Result<SlotCut> {
        let slot = self.parts.slot;
        let partitions = self
            .progress
            .iter_mut()
            .map(|(id, p)| {
                let span = p.span;
                p.span = Span::new(span.to, span.to);
                let counts = std::mem::take(&mut p.epoch_counts);
                PartitionCut { partition: id.clone(), slot, span, identity: p.identity.as_deref().cloned(), counts }
            })
            .collect();
        let mut segments = Vec::with_capacity(self.parts.views.len());
        for view in &mut self.parts.views {
            segments.push(view.cut()?);
        }
        let frozen = self.parts.views.iter().map(ViewState::freeze).collect();
        self.uncommitted.seal(epoch);
        #[cfg(test)]
        if planted(Bug::RowsDroppedAtCut) {
            self.uncommitted.applied(epoch);
        }
        let (reply, prepared) = oneshot::channel();
        self.send_delivery(Delivery::Seal { reply })?;
        self.publish();
        Ok(SlotCut { slot, partitions, segments, frozen, prepared, drained: self.drained })
    }

    fn publish(&self) {
        self.show_state();
        let view = SlotView {
            views: self.parts.views.iter().map(ViewState::freeze).collect(),
            uncommitted: self.uncommitted.tables().clone(),
        };
        let partitions = self
            .progress
            .iter()
            .map(|(id, p)| (id.clone(), PartitionProgress { position: p.span.to, counts: p.counts }))
            .collect();
        self.parts.board.publish(Published {
            view: Arc::new(view),
            partitions: Arc::new(partitions),
            rejects: self.rejects.clone(),
            unknown_fields: self.unknown_fields.clone(),
            view_keys: self.parts.views.iter().map(ViewState::keys).collect(),
            view_bytes: self.parts.views.iter().map(ViewState::bytes).collect(),
            batches: self.batches,
        });
    }

    fn notify_upsert(&mut self, touched: Vec<(usize, RecordBatch)>) -> Result<()> {
        let Some(upsert) = &self.parts.upsert else { return Ok(()) };
        // Also without touched keys: the hold-back after a restart counts positions.
        upsert
            .blocking_send(Touched::Keys(touched))
            .map_err(|_| Error::Failed(format!("slot {}: the upsert thread has stopped", self.parts.slot)))
    }
}

/// Drops `__msg` and takes the sink's schema (same types; nullability relaxed).
fn without_msg(rows: &RecordBatch, schema: &arrow::datatypes::SchemaRef) -> Result<RecordBatch> {
    let columns = rows.columns()[..rows.num_columns() - 1].to_vec();
    Ok(RecordBatch::try_new(schema.clone(), columns)?)
}
