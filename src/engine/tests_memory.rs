//! Bounded memory, on the real slots, deliver threads and checkpointer over a store that stalls on command: a backlog of
//! twenty budgets passes, nothing is lost or doubled, and what is accounted stays within the shares.

use crate::checkpoint::record::Record;
use crate::engine::build::{Ground, build};
use crate::engine::chain::Chain;
use crate::engine::checkpointer::Authorship;
use crate::engine::dead_letter;
use crate::engine::lake::{Lake, LakeTable};
use crate::engine::pressure::{Cause, Pressure};
use crate::engine::published::Board;
use crate::env::budget::Budget;
use crate::env::clock::Clock;
use crate::env::offload::Offload;
use crate::env::store::Location;
use crate::env::uuids::Uuids;
use crate::sinks::delta::config::FloatEncoding;
use crate::sinks::delta::sink::DeltaSink;
use crate::sinks::delta::table::{Table, TableSpec};
use crate::sources::Intake;
use crate::sql::plan::{InsertFrom, Plan, SqlFile};
use crate::types::catalog::{Catalog, SinkKind, SourceFacts};
use crate::types::error::{Error, Result};
use crate::types::message::{Message, Messages};
use crate::types::position::{PartitionId, Position, Span};
use async_trait::async_trait;
use datafusion::prelude::SessionContext;
use futures::stream::BoxStream;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const SQL: &str = "CREATE TABLE t (id BIGINT NOT NULL, pad TEXT);
    CREATE MATERIALIZED VIEW latest AS SELECT DISTINCT ON (id) id, pad FROM t ORDER BY id, pad;
    INSERT INTO lake.t SELECT * FROM t;";
const SLOTS: usize = 2;
const HANDOVER_MESSAGES: u64 = 16;
const PAD_BYTES: usize = 1_000;

/// Half of this for rows, a third for messages, the rest for clients of sources.
const IN_FLIGHT_BYTES: u64 = 1024 * 1024;
const ROWS_MAX: u64 = IN_FLIGHT_BYTES / 2;

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mood {
    Works,
    /// Writes wait until the mood changes.
    Hangs,
    /// Writes fail at once, and a retry may help.
    Refuses,
}

#[derive(Debug)]
struct Moody {
    inner: InMemory,
    mood: watch::Sender<Mood>,
}

impl Moody {
    async fn write(&self) -> object_store::Result<()> {
        let mut mood = self.mood.subscribe();
        let now = *mood.wait_for(|m| *m != Mood::Hangs).await.expect("the store is alive");
        match now {
            Mood::Refuses => Err(object_store::Error::Generic { store: "moody", source: "503".into() }),
            _ => Ok(()),
        }
    }
}

impl fmt::Display for Moody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("moody")
    }
}

#[async_trait]
impl ObjectStore for Moody {
    async fn put_opts(&self, path: &Path, payload: PutPayload, opts: PutOptions) -> object_store::Result<PutResult> {
        self.write().await?;
        self.inner.put_opts(path, payload, opts).await
    }

    async fn put_multipart_opts(
        &self,
        path: &Path,
        opts: PutMultipartOptions,
    ) -> object_store::Result<Box<dyn MultipartUpload>> {
        self.write().await?;
        self.inner.put_multipart_opts(path, opts).await
    }

    async fn get_opts(&self, path: &Path, options: GetOptions) -> object_store::Result<GetResult> {
        self.inner.get_opts(path, options).await
    }

    fn delete_stream(
        &self,
        paths: BoxStream<'static, object_store::Result<Path>>,
    ) -> BoxStream<'static, object_store::Result<Path>> {
        self.inner.delete_stream(paths)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, object_store::Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> object_store::Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> object_store::Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

/// What outlives an engine: the store, and what is in it.
struct World {
    store: Arc<Moody>,
    location: Location,
    plan: Arc<Plan>,
    /// As the last engine opened it.
    table: Arc<Mutex<Option<Arc<Table>>>>,
}

/// The lake on the moody store.
struct MoodyLake {
    location: Location,
    table: Arc<Mutex<Option<Arc<Table>>>>,
}

#[async_trait]
impl Lake for MoodyLake {
    async fn open(&self, sink: &str, spec: TableSpec, app_id: &str) -> Result<Arc<dyn LakeTable>> {
        let is_rows = spec.name == "t";
        let sink = DeltaSink::at(sink, self.location.under("lake"), FloatEncoding::Plain).await?;
        let table = sink.open_table(spec, app_id).await?;
        if is_rows {
            *self.table.lock().expect("no holder panics") = Some(table.clone());
        }
        Ok(table)
    }
}

/// The parts of a pipeline, running as `start` runs them.
struct Engine {
    intake: Intake,
    budget: Budget,
    pressure: Arc<Pressure>,
    claim: Record,
    finish: CancellationToken,
    checkpoints: tokio::task::JoinHandle<Result<()>>,
    threads: Vec<JoinHandle<Result<()>>>,
    boards: Vec<Arc<Board>>,
}

impl World {
    async fn new() -> World {
        let store = Arc::new(Moody { inner: InMemory::new(), mood: watch::Sender::new(Mood::Works) });
        let location = Location { store: store.clone(), ..Location::in_memory() };
        let mut catalog = Catalog::default();
        catalog.sources.insert("t".into(), SourceFacts::default());
        catalog.sinks.insert("lake".into(), SinkKind::Append);
        let file = SqlFile { path: "a.sql".into(), text: SQL.into() };
        let plan = Arc::new(crate::sql::compile(&[file], &catalog).await.expect("the SQL is sound"));
        World { store, location, plan, table: Arc::default() }
    }

    fn set(&self, mood: Mood) {
        self.store.mood.send_replace(mood);
    }

    async fn start(&self, state_bytes: u64, ends_when_full: bool) -> Engine {
        let insert = self.plan.inserts.iter().find(|i| matches!(i.from, InsertFrom::Node(_))).expect("there is one");
        let spec = |name: &str, schema| TableSpec { name: name.into(), schema, partition_by: vec![] };
        let wanted = [spec("t", insert.schema.clone()), spec(dead_letter::TABLE, dead_letter::schema())];
        let parts = build(Ground {
            pipeline: "p".into(),
            plan: self.plan.clone(),
            sources: vec!["t".into()],
            decoding: BTreeMap::new(),
            chain: Chain { location: self.location.under("checkpoint") },
            lake: Arc::new(MoodyLake { location: self.location.clone(), table: self.table.clone() }),
            wanted: wanted.into_iter().map(|spec| ("lake".to_string(), spec)).collect(),
            dead_letter: "lake.dead_letter".into(),
            kv: BTreeMap::new(),
            journals: vec![],
            author: Authorship { owner: "test".into(), slots: SLOTS as u32, uuids: Uuids::Random },
            in_flight_bytes: IN_FLIGHT_BYTES,
            state_bytes,
            ends_when_full,
            // Never by itself: only pressure and the end cut.
            interval: Duration::from_secs(86_400),
            retain: 100,
            clock: Clock::System,
            offload: Offload::Pool,
        });
        let parts = parts.await.expect("builds");
        let mut threads = Vec::new();
        for (worker, deliveries) in parts.workers.into_iter().zip(parts.deliveries) {
            let (io, deliver) = (tokio::runtime::Handle::current(), parts.deliver.clone());
            threads.push(std::thread::spawn(move || io.block_on(deliver.run(deliveries))));
            threads.push(std::thread::spawn(move || worker.run()));
        }
        Engine {
            intake: parts.intake,
            budget: parts.budget,
            pressure: parts.pressure,
            claim: parts.claim,
            finish: parts.finish,
            checkpoints: tokio::spawn(parts.checkpointer.run()),
            threads,
            boards: parts.boards,
        }
    }

    async fn lake(&self) -> (i64, i64) {
        let ctx = SessionContext::new();
        let table = self.table.lock().expect("no holder panics").clone().expect("an engine was started");
        ctx.register_table("t", table.snapshot().provider).expect("registers");
        let answer = ctx.sql("SELECT count(*), count(DISTINCT id) FROM t").await.expect("plans").collect().await;
        let rows = answer.expect("reads");
        let number = |column: usize| {
            use arrow::array::AsArray;
            rows[0].column(column).as_primitive::<arrow::datatypes::Int64Type>().value(0)
        };
        (number(0), number(1))
    }
}

impl Engine {
    /// Sources are done: the last cut, then everything ends.
    async fn end(self) -> Result<()> {
        drop(self.intake);
        self.finish.cancel();
        let ended = self.checkpoints.await.expect("no panic");
        for thread in self.threads {
            let thread = tokio::task::spawn_blocking(move || thread.join().expect("no panic"));
            thread.await.expect("no panic")?;
        }
        ended
    }

    fn keys(&self) -> u64 {
        self.boards.iter().map(|b| b.load().view_keys[0]).sum()
    }
}

/// Message n of a partition; ids of partitions do not meet.
fn messages(partition: usize, from: u64, to: u64, pad: usize) -> Messages {
    let item = |n: u64| Message {
        position: Position(n),
        topic: None,
        key: None,
        payload: Some(format!(r#"{{"id":{},"pad":"{}"}}"#, n * 10 + partition as u64, "x".repeat(pad)).into()),
        headers: None,
        timestamp_us: None,
        received_at_us: 0,
        replayed: None,
    };
    let name = format!("p{partition}");
    Messages {
        partition: Arc::new(PartitionId::new("t", name.as_str())),
        partition_label: name.into(),
        span: Span::new(Position(from), Position(to)),
        items: (from..to).map(item).collect(),
        identity: None,
    }
}

/// Hands over `count` messages of each partition, from where the record stands.
fn feed(intake: Intake, head: &Record, count: u64) -> tokio::task::JoinHandle<()> {
    let at = |p: usize| {
        let id = PartitionId::new("t", format!("p{p}").as_str());
        head.partition(&id).map_or(0, |known| known.span.to.0)
    };
    let mut at: Vec<u64> = (0..SLOTS).map(at).collect();
    tokio::spawn(async move {
        while at.iter().any(|n| *n < count) {
            for (p, from) in at.iter_mut().enumerate().filter(|(_, n)| **n < count) {
                let to = (*from + HANDOVER_MESSAGES).min(count);
                if !intake.send(messages(p, *from, to, PAD_BYTES)).await {
                    return;
                }
                *from = to;
            }
        }
    })
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(120), waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lake_that_stalls_holds_back_twenty_budgets_and_gets_every_row_once() {
    let world = World::new().await;
    let engine = world.start(u64::MAX, false).await;
    let count = 20 * IN_FLIGHT_BYTES / PAD_BYTES as u64 / SLOTS as u64;
    world.set(Mood::Hangs);
    let feeding = feed(engine.intake.clone(), &engine.claim, count);

    let (peak, over) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let sampler = {
        let (pressure, budget, peak, over) =
            (engine.pressure.clone(), engine.budget.clone(), peak.clone(), over.clone());
        std::thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                let rows = pressure.rows_bytes() + pressure.files_bytes();
                assert!(rows <= ROWS_MAX, "I9: {rows} bytes of rows and files");
                peak.fetch_max(rows + budget.used_bytes(), Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        })
    };
    let stuck = || engine.pressure.paused().len() == SLOTS && engine.budget.waited_seconds() >= 0.0;
    until("both slots are paused", stuck).await;
    assert!(engine.pressure.paused().iter().all(|p| p.cause == Cause::Rows));
    until("the queues are full", || engine.budget.used_bytes() > engine.budget.total_bytes() / 2).await;
    assert!(!feeding.is_finished(), "the source waits");
    assert_eq!(world.lake().await, (0, 0));

    // From hanging to refusing: what was half written is given up and written anew.
    world.set(Mood::Refuses);
    until("the trouble shows", || !engine.pressure.table_trouble().is_empty()).await;
    assert!(!feeding.is_finished(), "the source still waits");
    world.set(Mood::Works);
    feeding.await.expect("no panic");
    let (pressure, early) = (engine.pressure.clone(), engine.pressure.early_seals());
    engine.end().await.expect("ends well");
    over.store(true, Ordering::Relaxed);
    sampler.join().expect("never over the bound");

    let all = (count * SLOTS as u64) as i64;
    assert_eq!(world.lake().await, (all, all));
    assert!(pressure.table_trouble().is_empty());
    assert_eq!((pressure.rows_bytes(), pressure.files_bytes()), (0, 0), "everything was given back");
    assert!(early > 10, "{early} epochs were sealed early");
    assert!(peak.load(Ordering::Relaxed) <= IN_FLIGHT_BYTES);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_larger_than_every_share_passes() {
    let world = World::new().await;
    let engine = world.start(u64::MAX, false).await;
    for n in 0..3 {
        assert!(engine.intake.send(messages(0, n, n + 1, 4 * IN_FLIGHT_BYTES as usize)).await);
    }
    engine.end().await.expect("ends well");
    assert_eq!(world.lake().await, (3, 3));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_state_pauses_names_its_view_and_goes_on_under_a_larger_limit() {
    let world = World::new().await;
    let (count, state_max) = (1_000, 300_000);
    let engine = world.start(state_max, false).await;
    let feeding = feed(engine.intake.clone(), &engine.claim, count);
    until("a slot is paused", || engine.pressure.paused().iter().any(|p| p.cause == Cause::State)).await;
    let (view, text) = engine.pressure.full_state().expect("it is full");
    assert_eq!(&*view.name, "latest");
    assert!(text.contains("[limits] memory") && text.contains("bytes each"), "{text}");
    until("every slot is paused", || engine.pressure.paused().len() == SLOTS).await;
    let used = engine.pressure.state()[0].bytes;
    assert!(used < 2 * state_max, "{used} bytes of state: no more than a batch per slot above the share");
    let paused_keys = engine.keys();
    assert!(!feeding.is_finished() && paused_keys < 2 * count);
    feeding.abort();
    engine.end().await.expect("a full state can be stopped");

    let engine = world.start(u64::MAX, false).await;
    assert_eq!(engine.keys(), paused_keys, "state is what it was");
    feed(engine.intake.clone(), &engine.claim, count).await.expect("no panic");
    until("all keys are there", || engine.keys() == 2 * count).await;
    engine.end().await.expect("ends well");
    assert_eq!(world.lake().await, (2 * count as i64, 2 * count as i64));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_run_over_what_there_is_ends_when_state_is_full() {
    let world = World::new().await;
    let engine = world.start(10_000, true).await;
    let feeding = feed(engine.intake.clone(), &engine.claim, 1_000);
    until("a slot has ended", || engine.threads.iter().any(|t| t.is_finished())).await;
    feeding.abort();
    let Err(Error::Refused { what, .. }) = engine.end().await else { panic!("it went on") };
    assert!(what.contains("\"latest\""), "{what}");
}
