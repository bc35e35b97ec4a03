//! The only start path: lock, open sinks, recover and claim the chain, restore state, then let sources connect.
//!
//! Order matters: the claim record fences a second process before anything is taken from a broker, and no source starts
//! before every slot stands where the record says.

use crate::checkpoint::record::Record;
use crate::config::spec::{Config, Slots};
use crate::engine::assemble::{Assembled, DeltaPart, SourcePart};
use crate::engine::chain::Chain;
use crate::engine::checkpointer::{Authorship, CheckpointStatus, Checkpointer};
use crate::engine::dead_letter;
use crate::engine::deliver;
use crate::engine::ingest::Ingest;
use crate::engine::load;
use crate::engine::published::Board;
use crate::engine::recover::{self, Recovered, Recovery};
use crate::engine::running::{Live, LiveSource, LiveTable, Running};
use crate::engine::upsert::{self, Upserter};
use crate::engine::worker::{PartitionStart, Pressure, Worker, WorkerParts};
use crate::env::budget::Budget;
use crate::env::clock::Clock;
use crate::env::store;
use crate::journal;
use crate::sinks::delta::table::{Table, TableSpec};
use crate::sinks::kv::KvSink;
use crate::sinks::kv::config::KvConfig;
use crate::sources::{Applied, Intake, OpenContext, SourceContext, SourceStatus, Start};
use crate::sql::exec::Stateless;
use crate::sql::plan::{InsertFrom, Plan};
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::limit::{SHARE_IN_FLIGHT_PERCENT, SLOT_QUEUE_ENTRIES_MAX};
use crate::types::position::PartitionId;
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Batches on their way to a slot's files; the budget bounds their bytes.
const DELIVERY_QUEUE_MAX: usize = 256;
const UPSERT_QUEUE_MAX: usize = 256;

#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// Read every replayable source up to the end it had at the start, then finish.
    pub once: bool,
}

/// Starts a pipeline. Returns when it runs; sources may still be connecting (`/readyz` tells).
pub async fn start(assembled: Assembled, options: StartOptions) -> Result<Running> {
    let Assembled { config, plan, sources, decoding, delta, kv, dead_letter_sink } = assembled;
    let clock = Clock::System;
    let data_dir = config.pipeline.data_dir.0.clone();
    let lock = recover::lock_data_dir(&data_dir)?;
    let kv = open_kv(&kv, &data_dir)?;
    let location = match &config.checkpoint.location {
        Some(address) => {
            store::open(&address.0, &config.checkpoint.options.reveal(&load::lookups()).map_err(Error::Failed)?)?
        }
        None => store::open(&data_dir.join("checkpoint").to_string_lossy(), &BTreeMap::new())?,
    };
    store::probe_create_if_absent(&location).await?;
    let chain = Chain { location };

    let slot_count = slot_count(&config.pipeline.slots, &plan);
    let author = Authorship { owner: recover::owner(&clock), slots: slot_count as u32 };
    let recovery = Recovery {
        chain: &chain,
        pipeline: &config.pipeline.name,
        plan: &plan,
        author: &author,
        clock: &clock,
        delta: &delta,
        wanted: wanted_tables(&plan, &dead_letter_sink, &delta),
        kv: &kv,
        journals: journals(&config, &data_dir)?,
    };
    let Recovered { claim, tables } = recovery.run().await?;

    let dead_letter: Arc<str> = format!("{dead_letter_sink}.{}", dead_letter::TABLE).into();
    let in_flight_bytes = config.limits.memory.0 * SHARE_IN_FLIGHT_PERCENT / 100;
    // Half of the in-flight share for what has not been decoded yet, half for rows that no epoch holds yet.
    let budget = Budget::new(in_flight_bytes / 2);
    let pressure = Arc::new(Pressure {
        held: AtomicU64::new(0),
        soft: in_flight_bytes / 4,
        hard: in_flight_bytes / 2,
        seal_early: Notify::new(),
    });
    let status = Arc::new(Mutex::new(CheckpointStatus {
        epoch: claim.epoch,
        applied: claim.epoch,
        epoch_time_us: claim.epoch_time_us,
        rows_total: claim.tables.iter().map(|t| (format!("{}.{}", t.sink, t.table).into(), t.rows_total)).collect(),
        ..Default::default()
    }));

    let views = recover::restore_views(&chain, &plan, &claim, slot_count).await?;
    let mut crew = Crew::new();
    let boards: Vec<Arc<Board>> = (0..slot_count).map(|_| Arc::default()).collect();
    let kv_ready = Arc::new(AtomicBool::new(false));
    let mut upserter_box = None;
    let upsert = match upsert::open_targets(&plan, &kv)? {
        None => {
            kv_ready.store(true, Ordering::Relaxed);
            None
        }
        Some(targets) => {
            let (sender, receiver) = mpsc::channel(UPSERT_QUEUE_MAX);
            let upserter = Upserter::new(plan.clone(), targets, boards.clone(), &claim, kv_ready.clone())?;
            upserter_box = Some((upserter, receiver));
            Some(sender)
        }
    };

    let open: BTreeMap<Arc<str>, Arc<Table>> = tables.iter().map(|t| (t.key.clone(), t.table.clone())).collect();
    let mut inlets = Vec::new();
    let mut orders = Vec::new();
    for (slot, views) in views.into_iter().enumerate() {
        let (inlet, inbox) = mpsc::channel(SLOT_QUEUE_ENTRIES_MAX);
        let (order, order_box) = mpsc::unbounded_channel();
        let (deliver, delivery_box) = mpsc::channel(DELIVERY_QUEUE_MAX);
        let worker = Worker::new(WorkerParts {
            slot: slot as u32,
            plan: plan.clone(),
            ingest: Ingest::new(plan.clone(), &decoding),
            stateless: Stateless::new(plan.clone()).await?,
            views,
            partitions: slot_partitions(&claim, slot, slot_count),
            inbox,
            orders: order_box,
            deliver,
            upsert: upsert.clone(),
            board: boards[slot].clone(),
            pressure: pressure.clone(),
            dead_letter: dead_letter.clone(),
            clock: clock.clone(),
        });
        let io = tokio::runtime::Handle::current();
        let open = open.clone();
        crew.thread(format!("deliver-{slot}"), move || io.block_on(deliver::run(open, delivery_box)));
        crew.thread(format!("slot-{slot}"), move || worker.run());
        inlets.push(inlet);
        orders.push(order);
    }

    // Only now do all slots show their restored state, which a rebuild reads.
    if let Some((upserter, receiver)) = upserter_box {
        crew.thread("upsert", move || upserter.run(receiver));
    }

    let intake = Intake::new(inlets, budget.clone());
    intake.assign(claim.partitions.iter().map(|p| (p.partition.clone(), p.slot as usize % slot_count)));
    let (applied, live_sources, ready) = prepare_sources(sources, &claim);
    let live = Arc::new(Live {
        pipeline: config.pipeline.name.clone(),
        plan: plan.clone(),
        chain: claim.chain.clone(),
        incarnation: claim.incarnation,
        boards: boards.clone(),
        tables: tables.iter().map(LiveTable::of).collect(),
        sources: live_sources,
        kv,
        checkpoint: status.clone(),
        pressure: pressure.clone(),
        in_flight: budget,
        memory_bytes: config.limits.memory.0,
        started_at_us: clock.now_us(),
        kv_ready,
        stopping: AtomicBool::new(false),
    });

    let finish = CancellationToken::new();
    let checkpointer = Checkpointer {
        plan,
        chain,
        head: claim.clone(),
        author,
        slots: orders,
        tables,
        upsert,
        applied,
        interval: config.checkpoint.interval.0,
        pressure,
        status,
        clock: clock.clone(),
        finish: finish.clone(),
    };
    let stop = CancellationToken::new();
    let supervisor = Supervisor { crew, stop: stop.clone(), finish, lock };
    let context = |part: &ReadySource| SourceContext {
        intake: intake.clone(),
        start: part.start.clone(),
        once: options.once,
        applied: part.applied.clone(),
        stop: stop.child_token(),
        status: part.status.clone(),
        clock: clock.clone(),
    };
    let mut running_sources = JoinSet::new();
    let queue_bytes = in_flight_bytes / 4 / ready.len().max(1) as u64;
    for part in ready {
        let open = OpenContext { data_dir: data_dir.clone(), chain: claim.chain.clone(), queue_bytes };
        let source = (part.part.kind.open)(&part.part.section, open)?;
        let context = context(&part);
        running_sources.spawn(async move { (part.part.name, source.run(context).await) });
    }
    drop(intake);
    let supervisor = tokio::spawn(supervisor.run(running_sources, checkpointer));
    Ok(Running { live, stop, supervisor })
}

struct ReadySource {
    part: SourcePart,
    start: Arc<BTreeMap<Arc<str>, Start>>,
    applied: watch::Receiver<Applied>,
    status: Arc<SourceStatus>,
}

type Prepared = (BTreeMap<Arc<str>, watch::Sender<Applied>>, BTreeMap<String, LiveSource>, Vec<ReadySource>);

/// Where every source starts, from the claim: a partition the record knows stands at its position.
fn prepare_sources(sources: Vec<SourcePart>, claim: &Record) -> Prepared {
    let mut applied = BTreeMap::new();
    let mut live = BTreeMap::new();
    let mut ready = Vec::new();
    for part in sources {
        let own = claim.partitions.iter().filter(|p| *p.partition.source == *part.name);
        let start: BTreeMap<Arc<str>, Start> = own
            .clone()
            .map(|p| {
                let identity = p.identity.clone().map(Arc::new);
                (p.partition.name.clone(), Start { position: p.span.to, identity })
            })
            .collect();
        let positions: BTreeMap<PartitionId, _> = own.map(|p| (p.partition.clone(), p.span.to)).collect();
        let (sender, receiver) = watch::channel(Arc::new(positions));
        applied.insert(part.name.as_str().into(), sender);
        let status = Arc::new(SourceStatus::default());
        status.lag_messages.store(-1, Ordering::Relaxed);
        live.insert(
            part.name.clone(),
            LiveSource { kind: part.kind.connector.kind.to_string(), status: status.clone() },
        );
        ready.push(ReadySource { part, start: Arc::new(start), applied: receiver, status });
    }
    (applied, live, ready)
}

fn slot_count(slots: &Slots, _plan: &Plan) -> usize {
    match slots {
        Slots::Count(n) => *n as usize,
        // One core is left to encoding, I/O and queries.
        Slots::Auto => std::thread::available_parallelism().map_or(1, |n| n.get()).saturating_sub(1).clamp(1, 8),
    }
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

/// Tables by append sink: what inserts write, and the dead letters.
fn wanted_tables(plan: &Plan, dead_letter_sink: &str, delta: &BTreeMap<String, DeltaPart>) -> Vec<(String, TableSpec)> {
    let mut wanted = Vec::new();
    let mut seen = BTreeSet::new();
    let partition_by = |sink: &str, table: &str| -> Vec<String> {
        delta.get(sink).and_then(|d| d.tables.get(table)).map(|t| t.partition_by.clone()).unwrap_or_default()
    };
    for insert in plan.inserts.iter().filter(|i| matches!(i.from, InsertFrom::Node(_))) {
        if seen.insert((insert.sink.clone(), insert.table.clone())) {
            let partition_by = partition_by(&insert.sink, &insert.table);
            let spec = TableSpec { name: insert.table.to_string(), schema: insert.schema.clone(), partition_by };
            wanted.push((insert.sink.to_string(), spec));
        }
    }
    let partition_by = partition_by(dead_letter_sink, dead_letter::TABLE);
    let spec = TableSpec { name: dead_letter::TABLE.into(), schema: dead_letter::schema(), partition_by };
    wanted.push((dead_letter_sink.to_string(), spec));
    wanted
}

/// Chains that journals of this data directory are bound to.
fn journals(config: &Config, data_dir: &Path) -> Result<Vec<(String, ChainId)>> {
    let mut bound = Vec::new();
    for name in config.sources.keys() {
        let chain = journal::bound_chain(&journal::directory(data_dir, name))?;
        bound.extend(chain.map(|chain| (name.clone(), chain)));
    }
    Ok(bound)
}

fn open_kv(kv: &BTreeMap<String, KvConfig>, data_dir: &Path) -> Result<BTreeMap<String, Arc<KvSink>>> {
    kv.iter().map(|(name, config)| Ok((name.clone(), Arc::new(KvSink::open(name, config, data_dir)?)))).collect()
}

/// Threads of the pipeline and the first thing that went wrong in one of them.
struct Crew {
    failures: mpsc::UnboundedSender<Error>,
    failed: mpsc::UnboundedReceiver<Error>,
    threads: Vec<std::thread::JoinHandle<()>>,
}

impl Crew {
    fn new() -> Self {
        let (failures, failed) = mpsc::unbounded_channel();
        Crew { failures, failed, threads: Vec::new() }
    }

    /// A thread whose error or panic ends the pipeline.
    fn thread(&mut self, name: impl Into<String>, work: impl FnOnce() -> Result<()> + Send + 'static) {
        let name = name.into();
        let failures = self.failures.clone();
        let thread = std::thread::Builder::new().name(name.clone()).spawn(move || {
            let error = match std::panic::catch_unwind(AssertUnwindSafe(work)) {
                Ok(Ok(())) => return,
                Ok(Err(e)) => e,
                Err(panic) => {
                    let text = panic.downcast_ref::<String>().cloned();
                    let text = text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string()));
                    Error::Failed(format!("thread \"{name}\" panicked: {}", text.unwrap_or_default()))
                }
            };
            // The supervisor is gone only when the pipeline has already ended with an earlier error.
            failures.send(error).unwrap_or_else(|e| tracing::debug!("after the end: {}", e.0));
        });
        self.threads.push(thread.expect("the system can start a thread"));
    }
}

struct Supervisor {
    crew: Crew,
    stop: CancellationToken,
    finish: CancellationToken,
    /// Held to the very end: no second process before the last record.
    lock: std::fs::File,
}

impl Supervisor {
    /// Sources end first (by themselves or by `stop`), then the last epoch, then threads. The first error ends all.
    async fn run(mut self, mut sources: JoinSet<(String, Result<()>)>, checkpointer: Checkpointer) -> Result<()> {
        let mut checkpoints = tokio::spawn(checkpointer.run());
        let mut reading = !sources.is_empty();
        let ended = loop {
            tokio::select! {
                biased;
                Some(error) = self.crew.failed.recv() => break Err(error),
                source = sources.join_next(), if reading => match source {
                    None => {
                        // Every source has let go of the queues: the next cut drains them and is the last.
                        reading = false;
                        self.finish.cancel();
                    }
                    Some(Ok((_, Ok(())))) => {}
                    Some(Ok((name, Err(e)))) => break Err(e.context(format!("source \"{name}\""))),
                    Some(Err(e)) => break Err(Error::Failed(format!("a source task panicked: {e}"))),
                },
                done = &mut checkpoints => break match done {
                    Ok(done) => done,
                    Err(e) => Err(Error::Failed(format!("the checkpointer panicked: {e}"))),
                },
            }
        };
        self.stop.cancel();
        checkpoints.abort();
        sources.shutdown().await;
        let ended = match ended {
            // A worker's own error says more than "a slot has stopped".
            Err(e) => Err(self.crew.failed.try_recv().ok().unwrap_or(e)),
            Ok(()) => Ok(()),
        };
        let threads = std::mem::take(&mut self.crew.threads);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                // Panics were caught and reported by the thread itself.
                thread.join().unwrap_or_else(|_| tracing::error!("a thread ended without a report"));
            }
        });
        if joined.await.is_err() {
            tracing::error!("the threads could not be joined");
        }
        drop(self.lock);
        ended
    }
}
