//! Recovers and claims the chain, restores state, and builds every part of a pipeline. Runs none of them.
//!
//! `start` stands it on the real world and gives each part a thread or a task. The simulation stands it on models and
//! turns the same parts by hand.

use crate::checkpoint::record::Record;
use crate::codec::json::JsonOptions;
use crate::engine::chain::Chain;
use crate::engine::checkpointer::{Authorship, CheckpointStatus, Checkpointer, TableEntry};
use crate::engine::cleanup::{Cleaner, Cleanup};
use crate::engine::deliver::{Deliver, Delivery};
use crate::engine::ingest::Ingest;
use crate::engine::lake::Lake;
use crate::engine::pressure::{Pressure, Shares};
use crate::engine::published::Board;
use crate::engine::recover::{self, Recovered, Recovery};
use crate::engine::retry::for_a_minute;
use crate::engine::upsert::{self, Touched, Upserter};
use crate::engine::worker::{PartitionStart, Worker, WorkerParts};
use crate::env::budget::Budget;
use crate::env::clock::Clock;
use crate::env::offload::Offload;
use crate::sinks::delta::table::{TableSpec, row_check};
use crate::sinks::kv::KvSink;
use crate::sources::{Applied, Intake, SourceStatus, Start};
use crate::sql::exec::Stateless;
use crate::sql::plan::{InsertFrom, Plan};
use crate::types::epoch::ChainId;
use crate::types::error::Result;
use crate::types::limit::{IN_FLIGHT_MESSAGES_PERCENT, IN_FLIGHT_ROWS_PERCENT, SLOT_QUEUE_ENTRIES_MAX};
use crate::types::position::PartitionId;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Batches on their way to a slot's files; the budget bounds their bytes.
const DELIVERY_QUEUE_MAX: usize = 256;
const UPSERT_QUEUE_MAX: usize = 256;

/// What a pipeline stands on.
pub struct Ground {
    pub pipeline: String,
    pub plan: Arc<Plan>,
    /// Sources of this run, by name, in the order in which they will start.
    pub sources: Vec<String>,
    pub decoding: BTreeMap<String, JsonOptions>,
    pub chain: Chain,
    pub lake: Arc<dyn Lake>,
    /// Tables by sink that the plan writes, the dead letters among them.
    pub wanted: Vec<(String, TableSpec)>,
    /// "sink.dead_letter"
    pub dead_letter: Arc<str>,
    pub kv: BTreeMap<String, Arc<KvSink>>,
    /// Chains that journals are bound to, by source.
    pub journals: Vec<(String, ChainId)>,
    /// Its `slots` is how many there will be.
    pub author: Authorship,
    /// Shares of the memory budget.
    pub in_flight_bytes: u64,
    pub state_bytes: u64,
    /// A state that is full ends the pipeline instead of pausing it (`--once`).
    pub ends_when_full: bool,
    pub interval: Duration,
    /// Records that clean-up leaves.
    pub retain: usize,
    pub clock: Clock,
    pub offload: Offload,
}

/// Everything a pipeline is made of, standing where the claim record says.
pub struct Parts {
    pub claim: Record,
    /// One per slot, as `deliveries` and `boards`.
    pub workers: Vec<Worker>,
    pub deliveries: Vec<mpsc::Receiver<Delivery>>,
    pub boards: Vec<Arc<Board>>,
    /// Turns deliveries into files; one clone for each slot.
    pub deliver: Deliver,
    /// Cancelled at the very end: nothing is waited for any more.
    pub abandon: CancellationToken,
    pub upserter: Option<(Upserter, mpsc::Receiver<Touched>)>,
    pub kv_ready: Arc<AtomicBool>,
    pub checkpointer: Checkpointer,
    pub cleaner: Cleaner,
    /// Cancelled when all sources have let go: the next cut is the last.
    pub finish: CancellationToken,
    pub status: Arc<Mutex<CheckpointStatus>>,
    pub sources: Vec<SourceStart>,
    pub intake: Intake,
    pub budget: Budget,
    pub pressure: Arc<Pressure>,
}

/// Where a source begins, and what it hears and tells.
pub struct SourceStart {
    pub name: String,
    pub start: Arc<BTreeMap<Arc<str>, Start>>,
    pub applied: watch::Receiver<Applied>,
    pub status: Arc<SourceStatus>,
}

/// Returns once the chain is claimed: no source may connect before.
pub async fn build(ground: Ground) -> Result<Parts> {
    let Ground { pipeline, plan, chain, author, clock, .. } = ground;
    let slot_count = author.slots as usize;
    let recovery = Recovery {
        chain: &chain,
        pipeline: &pipeline,
        plan: &plan,
        author: &author,
        clock: &clock,
        lake: ground.lake.as_ref(),
        wanted: ground.wanted,
        kv: &ground.kv,
        journals: ground.journals,
        state_bytes: ground.state_bytes,
        offload: ground.offload,
    };
    let Recovered { claim, tables } = for_a_minute("recovery", &clock, || recovery.run()).await?;

    let budget = Budget::new(ground.in_flight_bytes * IN_FLIGHT_MESSAGES_PERCENT / 100);
    let shares =
        Shares { rows_max: ground.in_flight_bytes * IN_FLIGHT_ROWS_PERCENT / 100, state_max: ground.state_bytes };
    let view_names = plan.views.iter().map(|v| v.name.clone()).collect();
    let pressure = Arc::new(Pressure::new(shares, slot_count, view_names, ground.ends_when_full));
    let status = Arc::new(Mutex::new(CheckpointStatus {
        epoch: claim.epoch,
        applied: claim.epoch,
        epoch_time_us: claim.epoch_time_us,
        rows_total: claim.tables.iter().map(|t| (format!("{}.{}", t.sink, t.table).into(), t.rows_total)).collect(),
        ..Default::default()
    }));

    let restore = || recover::restore_views(&chain, &plan, &claim, slot_count, ground.offload);
    let views = for_a_minute("restore", &clock, restore).await?;
    let boards: Vec<Arc<Board>> = (0..slot_count).map(|_| Arc::default()).collect();
    let kv_ready = Arc::new(AtomicBool::new(false));
    let mut upserter = None;
    let upsert = match upsert::open_targets(&plan, &ground.kv)? {
        None => {
            kv_ready.store(true, Ordering::Relaxed);
            None
        }
        Some(targets) => {
            let (sender, receiver) = mpsc::channel(UPSERT_QUEUE_MAX);
            upserter =
                Some((Upserter::new(plan.clone(), targets, boards.clone(), &claim, kv_ready.clone())?, receiver));
            Some(sender)
        }
    };

    let mut inlets = Vec::new();
    let mut orders = Vec::new();
    let mut workers = Vec::new();
    let mut deliveries = Vec::new();
    for (slot, views) in views.into_iter().enumerate() {
        let (inlet, inbox) = mpsc::channel(SLOT_QUEUE_ENTRIES_MAX);
        let (order, order_box) = mpsc::unbounded_channel();
        let (deliver, delivery_box) = mpsc::channel(DELIVERY_QUEUE_MAX);
        let mut stateless = Stateless::new(plan.clone()).await?;
        check_rows(&mut stateless, &plan, &tables);
        workers.push(Worker::new(WorkerParts {
            slot: slot as u32,
            plan: plan.clone(),
            ingest: Ingest::new(plan.clone(), &ground.decoding),
            stateless,
            views,
            partitions: slot_partitions(&claim, slot, slot_count),
            inbox,
            orders: order_box,
            deliver,
            upsert: upsert.clone(),
            board: boards[slot].clone(),
            pressure: pressure.clone(),
            dead_letter: ground.dead_letter.clone(),
            chain: claim.chain.clone(),
            clock: clock.clone(),
        }));
        deliveries.push(delivery_box);
        inlets.push(inlet);
        orders.push(order);
    }

    let intake = Intake::new(inlets, budget.clone());
    intake.assign(claim.partitions.iter().map(|p| (p.partition.clone(), p.slot as usize % slot_count)));
    let (applied, sources) = source_starts(ground.sources, &claim);
    let finish = CancellationToken::new();
    let (heads, applied_heads) = watch::channel(claim.epoch);
    let cleanup = Cleanup::new(chain.clone(), claim.chain.clone(), ground.retain, claim.epoch);
    cleanup.floor.store(claim.floor.0, Ordering::Relaxed);
    let floor = cleanup.floor.clone();
    let abandon = CancellationToken::new();
    let deliver = Deliver {
        tables: tables.iter().map(|t| (t.key.clone(), t.table.clone())).collect(),
        pressure: pressure.clone(),
        // A quarter of the rows' share for open files, over all slots: they hold less than the rows they are made of.
        writer_bytes_max: shares.rows_max / 4 / slot_count as u64,
        clock: clock.clone(),
        abandon: abandon.clone(),
    };
    let checkpointer = Checkpointer {
        plan,
        chain,
        head: claim.clone(),
        author,
        slots: orders,
        tables,
        upsert,
        applied,
        interval: ground.interval,
        pressure: pressure.clone(),
        status: status.clone(),
        clock,
        offload: ground.offload,
        heads,
        floor,
        finish: finish.clone(),
    };
    Ok(Parts {
        claim,
        workers,
        deliveries,
        boards,
        deliver,
        abandon,
        upserter,
        kv_ready,
        checkpointer,
        cleaner: Cleaner { cleanup, heads: applied_heads },
        finish,
        status,
        sources,
        intake,
        budget,
        pressure,
    })
}

/// Rows that their table could not hold are found before state or a sink sees them, so that they cost their message.
fn check_rows(stateless: &mut Stateless, plan: &Plan, tables: &[TableEntry]) {
    for insert in &plan.inserts {
        let InsertFrom::Node(node) = insert.from else { continue };
        let entry = tables.iter().find(|t| *t.sink == *insert.sink && *t.name == *insert.table);
        let check = entry.and_then(|t| row_check(&insert.schema, &t.table.spec().partition_by));
        if let Some(check) = check {
            stateless.check_rows(node, check);
        }
    }
}

/// Where every source starts, from the claim: a partition the record knows stands at its position.
fn source_starts(names: Vec<String>, claim: &Record) -> (BTreeMap<Arc<str>, watch::Sender<Applied>>, Vec<SourceStart>) {
    let mut applied = BTreeMap::new();
    let mut starts = Vec::new();
    for name in names {
        let own = claim.partitions.iter().filter(|p| *p.partition.source == *name);
        let start: BTreeMap<Arc<str>, Start> = own
            .clone()
            .map(|p| {
                let identity = p.identity.clone().map(Arc::new);
                (p.partition.name.clone(), Start { position: p.span.to, identity })
            })
            .collect();
        let positions: BTreeMap<PartitionId, _> = own.map(|p| (p.partition.clone(), p.span.to)).collect();
        let (sender, receiver) = watch::channel(Arc::new(positions));
        applied.insert(name.as_str().into(), sender);
        let status = Arc::new(SourceStatus::default());
        status.lag_messages.store(-1, Ordering::Relaxed);
        starts.push(SourceStart { name, start: Arc::new(start), applied: receiver, status });
    }
    (applied, starts)
}

fn slot_partitions(claim: &Record, slot: usize, slots: usize) -> BTreeMap<PartitionId, PartitionStart> {
    claim
        .partitions
        .iter()
        .filter(|p| p.slot as usize % slots == slot)
        .map(|p| {
            let identity = p.identity.clone().map(Arc::new);
            (p.partition.clone(), PartitionStart { position: p.span.to, identity, counts: p.counts })
        })
        .collect()
}
