//! One process from start to end: the parts that `build` made, each turned by hand. Dropping it is a crash.

use crate::checkpoint::record::Record;
use crate::engine::build::{Ground, Parts, build};
use crate::engine::chain::Chain;
use crate::engine::checkpointer::{Authorship, CheckpointStatus};
use crate::engine::dead_letter;
use crate::engine::pressure::Pressure;
use crate::engine::published::{Board, Published};
use crate::engine::replay::{self, DeadLetterSource, Replay};
use crate::engine::simulation::broker::Journaled;
use crate::engine::simulation::check;
use crate::engine::simulation::kv::ModelKv;
use crate::engine::simulation::lake::ModelLake;
use crate::engine::simulation::letters;
use crate::engine::simulation::store::FaultyStore;
use crate::engine::simulation::topics::Topics;
use crate::engine::simulation::turns::Task;
use crate::engine::simulation::world::{Author, LAKE, World};
use crate::engine::upsert::{Touched, Upserter};
use crate::engine::worker::{Wake, Worker};
use crate::env::budget::Budget;
use crate::env::offload::Offload;
use crate::journal;
use crate::query::dead_letters::{Replayable, Wish};
use crate::sinks::delta::table::TableSpec;
use crate::sinks::kv::KvSink;
use crate::sources::{Applied, Source, SourceContext};
use crate::sql::plan::{InsertFrom, Plan};
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use crate::types::message::{REPLAY_PARTITION, REPLAY_SOURCE};
use crate::types::position::{PartitionId, Position};
use futures::FutureExt;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// More than the state of any run.
pub const STATE_BYTES_AMPLE: u64 = 1 << 30;

/// What differs between processes of one run.
#[derive(Clone, Debug)]
pub struct Traits {
    pub name: String,
    pub slots: u32,
    pub interval_ms: u64,
    pub in_flight_bytes: u64,
    pub state_bytes: u64,
    pub retain: usize,
    pub reads: Reads,
    /// Its SQL takes what is brittle.
    pub is_mended: bool,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reads {
    Sources,
    /// `pipe dlq replay`, perhaps with a limit.
    DeadLetters {
        limit: Option<usize>,
        handover_messages: usize,
    },
}

/// What a process stands on.
#[derive(Clone)]
pub struct Place {
    pub world: Arc<World>,
    pub store: FaultyStore,
    pub plan: Arc<Plan>,
    /// None: the plan has no upserts.
    pub kv: Option<Arc<ModelKv>>,
    /// Where the journal is; None: there is no source that needs one.
    pub journal: Option<PathBuf>,
}

pub struct Life {
    pub name: String,
    place: Place,
    /// Of the claim; 0 until there is one.
    pub incarnation: u64,
    stale_lists: u64,
    /// Of the newest record at its beginning.
    floor: Epoch,
    built: Arc<Mutex<Option<Parts>>>,
    /// State that may fill up: then it waits for ever.
    pub is_narrow: bool,
    pub reads: Reads,
    is_mended: bool,
    /// Where a replay must come to.
    due: Option<Position>,
    tasks: Vec<Task>,
    workers: Vec<Worker>,
    shares: Option<(Arc<Pressure>, Budget)>,
    status: Option<Arc<Mutex<CheckpointStatus>>>,
    upserter: Option<(Upserter, mpsc::Receiver<Touched>)>,
    pub boards: Vec<Arc<Board>>,
    told: Vec<watch::Receiver<Applied>>,
    app_ids: BTreeMap<String, String>,
    stop: CancellationToken,
    finish: CancellationToken,
    /// What was last looked at: the boards, and how many commits there were.
    looked_at: (Vec<Arc<Published>>, u64),
}

/// What came of a turn.
pub enum Turn {
    /// Something happened.
    Moved,
    /// Everything waits.
    Idle,
    Ended(Result<()>),
}

impl Life {
    pub fn begin(place: Place, traits: Traits) -> Life {
        let world = &place.world;
        world.say(format_args!("{} begins: {traits:?}, {:?}", traits.name, LAKE.1));
        let kv = place.kv.iter().map(|kv| ("kv".to_string(), Arc::new(KvSink::over("kv", kv.clone()))));
        let replays = traits.reads != Reads::Sources;
        let author = Author { is_mended: traits.is_mended, replays };
        world.authors.lock().expect("no holder panics").insert(traits.name.clone(), author);
        let (plan, sources) = match replays {
            true => (Arc::new(replay::plan(&place.plan)), vec![REPLAY_SOURCE.to_string()]),
            false => {
                let journaled = place.journal.iter().map(|_| "j".to_string());
                (place.plan.clone(), ["a".to_string()].into_iter().chain(journaled).collect())
            }
        };
        let bound = place.journal.iter().filter_map(|dir| journal::bound_chain(dir).expect("a readable journal"));
        let ground = Ground {
            pipeline: "simulated".into(),
            plan,
            decoding: BTreeMap::new(),
            sources,
            chain: Chain { location: place.store.location() },
            lake: Arc::new(ModelLake(world.clone())),
            wanted: wanted(&place.plan),
            dead_letter: format!("lake.{}", dead_letter::TABLE).into(),
            kv: kv.collect(),
            journals: bound.map(|chain| ("j".to_string(), chain)).collect(),
            author: Authorship { owner: traits.name.clone(), slots: traits.slots, uuids: world.uuids.clone() },
            in_flight_bytes: traits.in_flight_bytes,
            state_bytes: traits.state_bytes,
            ends_when_full: replays,
            interval: Duration::from_millis(traits.interval_ms),
            retain: traits.retain,
            clock: world.clock(),
            offload: Offload::InPlace,
        };
        let floor = world.records.lock().expect("no holder panics").values().next_back().map_or(Epoch(0), |r| r.floor);
        let built = Arc::new(Mutex::new(None));
        let slot = built.clone();
        let start = async move {
            let parts = build(ground).await?;
            *slot.lock().expect("no holder panics") = Some(parts);
            Ok(())
        };
        Life {
            is_narrow: traits.state_bytes < STATE_BYTES_AMPLE,
            reads: traits.reads,
            is_mended: traits.is_mended,
            due: None,
            name: traits.name,
            incarnation: 0,
            stale_lists: world.stale_lists.load(Ordering::Relaxed),
            floor,
            built,
            tasks: vec![Task::new("start", start)],
            workers: Vec::new(),
            shares: None,
            status: None,
            upserter: None,
            boards: Vec::new(),
            told: Vec::new(),
            app_ids: BTreeMap::new(),
            stop: CancellationToken::new(),
            finish: CancellationToken::new(),
            looked_at: (Vec::new(), 0),
            place,
        }
    }

    /// SIGTERM.
    pub fn stop(&self) {
        self.place.world.say(format_args!("{} is asked to stop", self.name));
        self.stop.cancel();
    }

    pub fn is_running(&self) -> bool {
        !self.boards.is_empty()
    }

    pub fn shown(&self) -> Vec<Arc<Published>> {
        self.boards.iter().map(|b| b.load()).collect()
    }

    /// One part that can move moves; which one, chance decides.
    pub fn turn(&mut self) -> Turn {
        let dice = self.place.world.dice.clone();
        let mut parts: Vec<usize> = (0..self.tasks.len() + self.workers.len() + 1).collect();
        while !parts.is_empty() {
            let part = parts.swap_remove(dice.below(parts.len()));
            match self.part(part) {
                Ok(false) => {}
                Ok(true) => {
                    self.look();
                    return Turn::Moved;
                }
                Err(ended) => return Turn::Ended(ended),
            }
        }
        Turn::Idle
    }

    /// False: it waits. Err: the process has ended, well or badly.
    fn part(&mut self, part: usize) -> Result<bool, Result<()>> {
        let tasks = self.tasks.len();
        if part < tasks {
            return self.task(part);
        }
        match self.workers.get_mut(part - tasks) {
            Some(worker) => {
                // A full queue would block the thread; the other end has to go first.
                if worker.is_behind() {
                    return Ok(false);
                }
                let Some(wake) = worker.next().now_or_never() else { return Ok(false) };
                self.place.world.say(format_args!("{}: slot {} turns", self.name, part - tasks));
                let (pressure, _) = self.shares.as_ref().expect("a worker has a share");
                let is_full = pressure.rows_are_full() || pressure.full_state().is_some();
                assert!(
                    !is_full || !matches!(wake, Wake::Handover(_)),
                    "I9: a slot takes more, and a share is used up"
                );
                worker.turn(wake).map_err(Err)
            }
            None => {
                let Some((upserter, inbox)) = &mut self.upserter else { return Ok(false) };
                let Ok(first) = inbox.try_recv() else { return Ok(false) };
                self.place.world.say(format_args!("{}: upserts", self.name));
                upserter.turn(first, inbox).map_err(Err)?;
                Ok(true)
            }
        }
    }

    fn task(&mut self, index: usize) -> Result<bool, Result<()>> {
        let task = &mut self.tasks[index];
        if !task.is_ready() {
            return Ok(false);
        }
        let Some(ended) = task.turn() else { return Ok(true) };
        let name = task.name.clone();
        self.place.world.say(format_args!("{}: {name} ends: {}", self.name, shown(&ended)));
        ended.map_err(Err)?;
        if name == "start" {
            self.assemble().map_err(Err)?;
        } else if name == "checkpointer" {
            if let Some(to) = self.due.filter(|_| !self.stop.is_cancelled()) {
                check::replayed(&self.place.world, to);
            }
            return Err(Ok(()));
        } else if name.starts_with("source")
            && self.tasks.iter().filter(|t| t.name.starts_with("source")).all(Task::has_ended)
        {
            self.finish.cancel();
        }
        Ok(true)
    }

    /// As `start` does it, but on this thread.
    fn assemble(&mut self) -> Result<()> {
        let parts = self.built.lock().expect("no holder panics").take().expect("it was built");
        let world = &self.place.world;
        self.incarnation = parts.claim.incarnation;
        self.finish = parts.finish;
        self.shares = Some((parts.pressure, parts.budget));
        self.status = Some(parts.status);
        for (slot, deliveries) in parts.deliveries.into_iter().enumerate() {
            self.tasks.push(Task::new(format!("deliver-{slot}"), parts.deliver.clone().run(deliveries)));
        }
        for entry in &parts.checkpointer.tables {
            self.app_ids.insert(entry.key.to_string(), entry.app_id.clone());
        }
        self.tasks.push(Task::new("checkpointer", parts.checkpointer.run()));
        self.tasks.push(Task::new("cleaner", parts.cleaner.run().map(Ok)));
        for begin in parts.sources {
            self.told.push(begin.applied.clone());
            let (world, name) = (world.clone(), begin.name.as_str().into());
            let source: Box<dyn Source> = match (self.reads, self.place.journal.clone().filter(|_| begin.name == "j")) {
                (Reads::DeadLetters { limit, handover_messages }, _) => {
                    self.due = due(&world, &parts.claim, limit);
                    let chain = parts.claim.chain.to_string();
                    Box::new(dead_letters_source(&world, chain, limit, handover_messages))
                }
                (Reads::Sources, Some(dir)) => {
                    Box::new(Journaled { world, name, dir, chain: parts.claim.chain.clone() })
                }
                (Reads::Sources, None) => Box::new(Topics { world, name }),
            };
            let context = SourceContext {
                intake: parts.intake.clone(),
                start: begin.start,
                once: self.reads != Reads::Sources,
                applied: begin.applied,
                stop: self.stop.child_token(),
                status: begin.status,
                clock: self.place.world.clock(),
            };
            self.tasks.push(Task::new(format!("source-{}", begin.name), source.run(context)));
        }
        self.workers = parts.workers;
        self.boards = parts.boards;
        if let Some((mut upserter, inbox)) = parts.upserter {
            upserter.begin()?;
            self.upserter = Some((upserter, inbox));
        }
        self.check_state();
        Ok(())
    }

    pub fn check_state(&self) {
        check::state(&self.place.world, self.is_mended, &self.place.plan, &self.shown(), self.incarnation);
    }

    /// What must hold whenever something has moved.
    fn look(&mut self) {
        let world = &self.place.world;
        if let Some((pressure, budget)) = &self.shares {
            check::bounded(pressure, budget, self.boards.len());
        }
        for told in &mut self.told {
            if told.has_changed().unwrap_or(false) {
                check::told(world, &told.borrow_and_update());
            }
        }
        // A process that has been fenced shows what it had; only the newest claim speaks for the pipeline.
        let newest = world.records.lock().expect("no holder panics").values().next_back().map(|r| r.incarnation);
        let now = (self.shown(), world.logs.lock().expect("no holder panics").commits);
        let same = self.looked_at.1 == now.1
            && self.looked_at.0.len() == now.0.len()
            && self.looked_at.0.iter().zip(&now.0).all(|(a, b)| Arc::ptr_eq(a, b));
        if self.is_running() && newest == Some(self.incarnation) && !same {
            self.looked_at = now;
            if let Some(status) = &self.status {
                check::is_told("a status", format!("{:?}", status.lock().expect("no holder panics")).as_bytes());
            }
            check::visible(world, self.is_mended, &self.shown(), &|table| self.app_ids[table].clone());
        }
    }

    /// Is this an end that the world's faults explain?
    pub fn explains(&self, error: &Error) -> bool {
        match error {
            Error::Unavailable(_) | Error::Fenced(_) => true,
            Error::Refused { what, .. } if what.contains("its state does not fit") => self.is_narrow,
            // A replay ends where others wait.
            Error::Refused { what, .. } if what.contains("hot state holds") => {
                self.is_narrow && self.reads != Reads::Sources
            }
            // What a start sees of a listing that is not whole.
            Error::Refused { .. } => {
                self.place.world.stale_lists.load(Ordering::Relaxed) > self.stale_lists
                    || self.place.store.remove_strays(self.floor)
            }
            // A slot that could not write its files says so in these words, wherever it is heard.
            Error::Failed(what) => what.contains("no answer"),
            Error::Config(_) => false,
        }
    }
}

fn shown(ended: &Result<()>) -> String {
    ended.as_ref().err().map_or_else(|| "well".into(), ToString::to_string)
}

/// Where a replay that begins behind this claim must end; None: it has been fenced already, and decides nothing.
fn due(world: &World, claim: &Record, limit: Option<usize>) -> Option<Position> {
    let newest = world.records.lock().expect("no holder panics").values().next_back().map(|r| r.incarnation);
    if newest != Some(claim.incarnation) {
        return None;
    }
    let from = claim.partition(&PartitionId::new(REPLAY_SOURCE, REPLAY_PARTITION)).map_or(Position(0), |p| p.span.to);
    let to = world.expected.lock().expect("no holder panics").begin_replay(from, limit);
    world.say(format_args!("dead letters are replayed as {from} to {to}"));
    Some(to)
}

/// `pipe dlq replay` over all that is dead now.
fn dead_letters_source(
    world: &Arc<World>,
    chain: String,
    limit: Option<usize>,
    handover_messages: usize,
) -> DeadLetterSource {
    let sources = ["a", "j"].map(str::to_string).into();
    let replay = Replay {
        wish: Wish::default(),
        limit,
        of: Replayable { chain, sources, older: false },
        memory_bytes: 64 << 20,
        left: Arc::default(),
    };
    // To plan the SQL takes about as long as everything else in a run.
    let letters = match world.dice.permille(60) {
        true => replay::letters(letters::table(world), replay).boxed(),
        false => std::future::ready(Ok(letters::in_order(world, limit))).boxed(),
    };
    DeadLetterSource { letters, handover_messages }
}

/// Every append table of the plan, and the dead letters.
fn wanted(plan: &Plan) -> Vec<(String, TableSpec)> {
    let inserts = plan.inserts.iter().filter(|i| matches!(i.from, InsertFrom::Node(_)));
    let tables = inserts.map(|i| (i.sink.to_string(), i.table.to_string(), i.schema.clone()));
    let dead = ("lake".to_string(), dead_letter::TABLE.to_string(), dead_letter::schema());
    let spec = |(sink, name, schema)| (sink, TableSpec { name, schema, partition_by: Vec::new() });
    tables.chain([dead]).map(spec).collect()
}
