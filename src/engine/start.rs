//! The only start path: lock, open sinks, build all parts (which recovers and claims the chain), then put each on its
//! thread or task, sources last.
//!
//! Order matters: the claim record fences a second process before anything is taken from a broker, and no source starts
//! before every slot stands where the record says.

use crate::checkpoint::record::Record;
use crate::config::spec::{Config, Slots};
use crate::engine::assemble::{Assembled, DeltaPart, SourcePart};
use crate::engine::build::{Ground, SourceStart, build};
use crate::engine::chain::Chain;
use crate::engine::checkpointer::{Authorship, Checkpointer};
use crate::engine::dead_letter;
use crate::engine::fenced::{FencedSource, LeftBehind};
use crate::engine::lake::DeltaLake;
use crate::engine::recover;
use crate::engine::replay::{self, DeadLetterSource, HANDOVER_MESSAGES_MAX, Replay};
use crate::engine::retry::for_a_minute;
use crate::engine::running::{Live, LiveSource, Running};
use crate::engine::upkeep;
use crate::env::clock::Clock;
use crate::env::offload::Offload;
use crate::env::store;
use crate::env::uuids::Uuids;
use crate::journal;
use crate::sinks::delta::table::TableSpec;
use crate::sinks::kv::KvSink;
use crate::sinks::kv::config::KvConfig;
use crate::sources::{OpenContext, Source, SourceContext};
use crate::sql::plan::{InsertFrom, Plan};
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result, panic_text};
use crate::types::limit::{IN_FLIGHT_CLIENTS_PERCENT, SHARE_IN_FLIGHT_PERCENT, SHARE_STATE_PERCENT};
use crate::types::message::REPLAY_SOURCE;
use crate::types::position::{PartitionId, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

#[derive(Clone, Copy, Debug, Default)]
pub struct StartOptions {
    /// Read every replayable source up to the end it had at the start, then finish.
    pub once: bool,
    /// A damaged journal is mended by giving up what cannot be read.
    pub quarantine_journal: bool,
    /// Messages that a broker has purged before they were read are given up.
    pub skip_purged: bool,
}

/// Starts a pipeline. Returns when it runs; sources may still be connecting (`/readyz` tells).
pub async fn start(assembled: Assembled, options: StartOptions) -> Result<Running> {
    run(assembled, options, None).await
}

/// Starts a pipeline that reads nothing but its own dead letters, and ends when it has.
pub async fn replay(mut assembled: Assembled, replay: Replay) -> Result<Running> {
    assembled.plan = Arc::new(replay::plan(&assembled.plan));
    run(assembled, StartOptions { once: true, ..StartOptions::default() }, Some(replay)).await
}

async fn run(assembled: Assembled, options: StartOptions, replay: Option<Replay>) -> Result<Running> {
    let Assembled { config, plan, sources, decoding, delta, kv, dead_letter_sink } = assembled;
    let clock = Clock::System;
    let data_dir = config.pipeline.data_dir.0.clone();
    let in_flight_bytes = config.limits.memory.0 * SHARE_IN_FLIGHT_PERCENT / 100;
    let context = |chain: ChainId| OpenContext {
        data_dir: data_dir.clone(),
        chain,
        queue_bytes: in_flight_bytes * IN_FLIGHT_CLIENTS_PERCENT / 100 / sources.len().max(1) as u64,
        quarantine_journal: options.quarantine_journal,
        skip_purged: options.skip_purged,
    };
    if replay.is_none() {
        open_all(&sources, &context(ChainId(String::new())))?;
    }
    let lock = recover::lock_data_dir(&data_dir)?;
    let kv = open_kv(&kv, &data_dir)?;
    let chain = Chain::open(&config)?;
    for_a_minute("probe", &clock, || store::probe_create_if_absent(&chain.location)).await?;

    let wanted = wanted_tables(&plan, &dead_letter_sink, &delta);
    let lake = Arc::new(DeltaLake::new(delta));
    let slots = slot_count(&config.pipeline.slots) as u32;
    let dead_letters: Arc<str> = format!("{dead_letter_sink}.{}", dead_letter::TABLE).into();
    let names = match replay {
        Some(_) => vec![REPLAY_SOURCE.to_string()],
        None => sources.iter().map(|s| s.name.clone()).collect(),
    };
    let parts = build(Ground {
        pipeline: config.pipeline.name.clone(),
        plan: plan.clone(),
        sources: names,
        decoding,
        chain,
        lake: lake.clone(),
        wanted,
        dead_letter: dead_letters.clone(),
        kv: kv.clone(),
        journals: journals(&config, &data_dir)?,
        author: Authorship { owner: recover::owner(&clock), slots, uuids: Uuids::Random },
        in_flight_bytes,
        state_bytes: config.limits.memory.0 * SHARE_STATE_PERCENT / 100,
        ends_when_full: options.once,
        interval: config.checkpoint.interval.0,
        retain: config.checkpoint.retain,
        clock: clock.clone(),
        offload: Offload::Pool,
    });
    let parts = parts.await?;

    let mut crew = Crew::new();
    for (slot, (worker, deliveries)) in parts.workers.into_iter().zip(parts.deliveries).enumerate() {
        let io = tokio::runtime::Handle::current();
        let deliver = parts.deliver.clone();
        crew.thread(format!("deliver-{slot}"), move || io.block_on(deliver.run(deliveries)));
        crew.thread(format!("slot-{slot}"), move || worker.run());
    }
    if let Some((upserter, touched)) = parts.upserter {
        crew.thread("upsert", move || upserter.run(touched));
    }

    // Of a replay there is nothing to look up: nobody is shown its source.
    let kind = |name: &str| sources.iter().find(|s| s.name == name).map(|s| s.kind.connector.kind.to_string());
    let live_source = |s: &SourceStart| {
        let kind = kind(&s.name).unwrap_or_default();
        (s.name.clone(), LiveSource { kind, status: s.status.clone() })
    };
    let live = Arc::new(Live {
        pipeline: config.pipeline.name.clone(),
        plan,
        chain: parts.claim.chain.clone(),
        incarnation: parts.claim.incarnation,
        boards: parts.boards,
        tables: lake.take_tables().await,
        sources: parts.sources.iter().map(live_source).collect(),
        kv,
        checkpoint: parts.status,
        pressure: parts.pressure,
        in_flight: parts.budget,
        memory_bytes: config.limits.memory.0,
        started_at_us: clock.now_us(),
        kv_ready: parts.kv_ready,
        stopping: AtomicBool::new(false),
    });

    let stop = CancellationToken::new();
    let kept = live.tables.iter().map(|t| (t.table.clone(), lake.table_config(&t.sink, &t.table.spec().name)));
    crew.threads.push(upkeep::start(kept.collect(), in_flight_bytes, stop.child_token()));
    let left_behind = LeftBehind {
        boards: live.boards.clone(),
        sources: parts.sources.iter().map(|s| fenced_source(s, &data_dir)).collect(),
        idle: idle(&parts.sources, &parts.claim),
    };
    let opened: Vec<Box<dyn Source>> = match replay {
        Some(replay) => {
            let letters = live.tables.iter().find(|t| t.key == dead_letters);
            let letters = letters.ok_or_else(|| Error::Failed(format!("the table {dead_letters} is not open")))?;
            let table = letters.table.snapshot().provider;
            let letters = Box::pin(replay::letters(table, replay));
            vec![Box::new(DeadLetterSource { letters, handover_messages: HANDOVER_MESSAGES_MAX })]
        }
        None => open_all(&sources, &context(parts.claim.chain.clone()))?,
    };
    let mut running_sources = JoinSet::new();
    for (source, begin) in opened.into_iter().zip(parts.sources) {
        let context = SourceContext {
            intake: parts.intake.clone(),
            start: begin.start,
            once: options.once,
            applied: begin.applied,
            stop: stop.child_token(),
            status: begin.status,
            clock: clock.clone(),
        };
        running_sources.spawn(async move { (begin.name, source.run(context).await) });
    }
    drop(parts.intake);
    // Ends by itself with the checkpointer; nothing waits for it.
    tokio::spawn(parts.cleaner.run());
    let abandon = parts.abandon;
    let supervisor = Supervisor { crew, stop: stop.clone(), finish: parts.finish, abandon, left_behind, lock };
    let supervisor = tokio::spawn(supervisor.run(running_sources, parts.checkpointer));
    Ok(Running { live, stop, supervisor })
}

/// Opening connects to nothing. It is done once before the chain is claimed, and thrown away, so that a secret that is not
/// there is told before another process is fenced; and of all sources at once.
fn open_all(sources: &[SourcePart], context: &OpenContext) -> Result<Vec<Box<dyn Source>>> {
    let (mut opened, mut faults) = (Vec::new(), Vec::new());
    for part in sources {
        match (part.kind.open)(&part.section, context.clone()) {
            Ok(source) => opened.push(source),
            Err(Error::Config(found)) => faults.extend(found),
            Err(other) => return Err(other),
        }
    }
    if faults.is_empty() { Ok(opened) } else { Err(Error::Config(faults)) }
}

fn fenced_source(source: &SourceStart, data_dir: &Path) -> FencedSource {
    FencedSource {
        name: source.name.clone(),
        journal: journal::directory(data_dir, &source.name),
        applied: source.applied.clone(),
    }
}

/// Partitions whose source is not read in this run stand where the claim says.
fn idle(sources: &[SourceStart], claim: &Record) -> BTreeMap<PartitionId, Position> {
    let is_read = |partition: &PartitionId| sources.iter().any(|s| *s.name == *partition.source);
    claim.positions().filter(|(p, _)| !is_read(p)).map(|(p, at)| (p.clone(), at)).collect()
}

fn slot_count(slots: &Slots) -> usize {
    match slots {
        Slots::Count(n) => *n as usize,
        // One core is left to encoding, I/O and queries.
        Slots::Auto => std::thread::available_parallelism().map_or(1, |n| n.get()).saturating_sub(1).clamp(1, 8),
    }
}

/// Tables by append sink: what inserts write, and the dead letters.
pub fn wanted_tables(
    plan: &Plan,
    dead_letter_sink: &str,
    delta: &BTreeMap<String, DeltaPart>,
) -> Vec<(String, TableSpec)> {
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
                Err(panic) => Error::Failed(format!("thread \"{name}\" panicked: {}", panic_text(&*panic))),
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
    /// Lets threads that wait for a store go, once nothing of theirs counts any more.
    abandon: CancellationToken,
    left_behind: LeftBehind,
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
        if matches!(ended, Err(Error::Fenced(_))) {
            // Connections end in the middle: an orderly end would acknowledge what the other process is to get.
            sources.abort_all();
        }
        self.stop.cancel();
        checkpoints.abort();
        self.abandon.cancel();
        sources.shutdown().await;
        let ended = match ended {
            Err(e @ Error::Fenced(_)) => Err(self.left_behind.told_with(e)),
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

#[cfg(test)]
mod tests;
