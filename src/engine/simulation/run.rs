//! One seed: chance drives processes, crashes, faults and messages for a while; then the faults end, one process goes on
//! until everything is read, stops cleanly, and everything is counted.

use crate::engine::simulation::broker;
use crate::engine::simulation::check;
use crate::engine::simulation::expect::{VARIANTS, sql};
use crate::engine::simulation::kv::ModelKv;
use crate::engine::simulation::lake::foreign_commit;
use crate::engine::simulation::life::{Life, Place, Reads, STATE_BYTES_AMPLE, Traits, Turn};
use crate::engine::simulation::store::FaultyStore;
use crate::engine::simulation::world::World;
use crate::sql::compile;
use crate::sql::plan::{Plan, SqlFile};
use crate::types::catalog::{Catalog, SinkKind, SourceFacts};
use crate::types::error::panic_text;
use crate::types::position::PartitionId;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, LazyLock};

/// Turns after which a run without faults must have read everything.
const CALM_TURNS_MAX: usize = 60_000;

/// What a run was, for people and for the test that one seed is one run.
#[derive(Clone, Debug, PartialEq)]
pub struct Story {
    pub hash: u64,
    pub turns: usize,
    pub lives: usize,
    pub crashes: usize,
    pub records: usize,
}

/// A broken promise, with how to see it again.
pub struct Failure {
    pub seed: u64,
    pub why: String,
    pub last: Vec<String>,
}

impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Failure { seed, why, last } = self;
        writeln!(f, "seed {seed}: {why}\nthe last steps:\n{}", last.join("\n"))?;
        write!(f, "again: PIPE_SIM_SEED={seed} cargo test --lib engine::simulation::tests::seeds -- --nocapture")
    }
}

/// By variant, without and with a key-value store, not mended and mended.
static PLANS: LazyLock<Vec<[[Arc<Plan>; 2]; 2]>> = LazyLock::new(|| {
    let plans = |variant, kv| [false, true].map(|is_mended| plan(&sql(variant, kv, is_mended)));
    (0..VARIANTS).map(|variant| [false, true].map(|kv| plans(variant, kv))).collect()
});

fn plan(text: &str) -> Arc<Plan> {
    let mut catalog = Catalog::default();
    catalog.sources.extend(["a", "j"].map(|name| (name.to_string(), SourceFacts::default())));
    catalog.sinks.extend([("lake".to_string(), SinkKind::Append), ("kv".to_string(), SinkKind::Upsert)]);
    let file = SqlFile { path: "simulated.sql".into(), text: text.into() };
    let compiled = futures::executor::block_on(compile(&[file], &catalog));
    Arc::new(compiled.unwrap_or_else(|faults| panic!("{faults:?}")))
}

/// In memory where there is such a place: a journal syncs often, and here it is about the order of things.
fn directory() -> tempfile::TempDir {
    let memory = std::path::Path::new("/dev/shm");
    let made = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() };
    made.expect("a temporary directory")
}

pub fn run(seed: u64) -> Result<Story, Failure> {
    let world = World::new(seed);
    let ran = std::panic::catch_unwind(AssertUnwindSafe(|| Run::new(world.clone()).run()));
    ran.map_err(|panic| Failure { seed, why: panic_text(&*panic), last: world.trace.last() })
}

struct Run {
    world: Arc<World>,
    place: Place,
    /// The journal's, for as long as the run.
    _files: Option<tempfile::TempDir>,
    lives: Vec<Life>,
    /// What the last one had read, if it ended without an error.
    ended_well: Option<Reads>,
    /// Whether two processes may run at once.
    rivals: bool,
    partitions_max: usize,
    /// Of the SQL, now.
    variant: usize,
    is_mended: bool,
    /// Dead letters are replayed now and then.
    replays: bool,
    story: Story,
}

impl Run {
    fn new(world: Arc<World>) -> Run {
        let dice = &world.dice;
        world.faults_permille.store(*dice.pick(&[0, 300, 1000, 1000, 3000]), Ordering::Relaxed);
        // A key-value store is on one machine, so two processes cannot both have it.
        let rivals = dice.permille(300);
        let store = FaultyStore::new(world.clone());
        let kv = (!rivals).then(|| ModelKv::new(world.clone()));
        let plan = PLANS[0][usize::from(!rivals)][0].clone();
        let partitions_max = 1 + dice.below(4);
        // Nor can two have one journal.
        let files = (!rivals && dice.permille(500)).then(directory);
        let journal = files.as_ref().map(|dir| dir.path().join("journal"));
        let replays = dice.permille(250);
        let place = Place { world: world.clone(), store, plan, kv, journal };
        let story = Story { hash: 0, turns: 0, lives: 0, crashes: 0, records: 0 };
        Run {
            world,
            place,
            _files: files,
            lives: Vec::new(),
            ended_well: None,
            rivals,
            partitions_max,
            variant: 0,
            is_mended: false,
            replays,
            story,
        }
    }

    fn run(mut self) -> Story {
        let turns = self.world.dice.between(200, 1200);
        for _ in 0..turns {
            self.chance();
            self.turn();
        }
        self.calm();
        self.story.hash = self.world.trace.hash();
        self.story.records = self.world.records.lock().expect("no holder panics").len();
        self.story
    }

    /// What the world does of its own accord.
    fn chance(&mut self) {
        let dice = self.world.dice.clone();
        match dice.below(1000) {
            0..20 if self.place.journal.is_some() => self.world.send(),
            0..40 => self.world.publish("a", self.partitions_max),
            40..60 => self.world.something_late(),
            60..65 => foreign_commit(&self.world),
            65..75 => self.crash(),
            75..77 => {
                if let Some(life) = self.lives.last() {
                    life.stop();
                }
            }
            77..82 if self.rivals && self.lives.len() == 1 => self.begin(self.choose()),
            82..130 if self.lives.is_empty() => self.begin(self.choose()),
            130..330 => self.world.time.advance_to(self.world.time.now_us() + dice.between(1, 4_000) as i64),
            _ => {}
        }
    }

    /// What the next process reads. The first one has no dead letters, and the verb refuses.
    fn choose(&self) -> Reads {
        let dice = &self.world.dice;
        let has_run = !self.world.records.lock().expect("no holder panics").is_empty();
        if !self.replays || !has_run || dice.permille(600) {
            return Reads::Sources;
        }
        let limit = dice.permille(300).then(|| 1 + dice.below(4));
        Reads::DeadLetters { limit, handover_messages: 1 + dice.below(6) }
    }

    fn begin(&mut self, reads: Reads) {
        let dice = &self.world.dice;
        self.story.lives += 1;
        self.ended_well = None;
        // Somebody changes the SQL between two processes.
        if dice.permille(250) {
            self.variant = dice.below(VARIANTS);
        }
        // Or mends it. To undo that would take a value back that a key-value store has shown and no record had yet.
        if self.replays && dice.permille(250) {
            self.is_mended = self.place.kv.is_some() || !self.is_mended;
        }
        let is_calm = self.world.calm.load(Ordering::Relaxed);
        let narrow = !is_calm && dice.permille(80);
        let traits = Traits {
            name: format!("process-{}", self.story.lives),
            slots: dice.between(1, 3) as u32,
            interval_ms: *dice.pick(&[1, 5, 20, 100]),
            in_flight_bytes: *dice.pick(&[16 << 10, 64 << 10, 1 << 20]),
            state_bytes: if narrow { dice.between(4 << 10, 64 << 10) } else { STATE_BYTES_AMPLE },
            retain: *dice.pick(&[2, 5, 1000]),
            reads,
            is_mended: self.is_mended,
        };
        self.world.say(format_args!("variant {} of the SQL", self.variant));
        let plan = PLANS[self.variant][usize::from(self.place.kv.is_some())][usize::from(self.is_mended)].clone();
        self.lives.push(Life::begin(Place { plan, ..self.place.clone() }, traits));
    }

    fn crash(&mut self) {
        if self.lives.is_empty() {
            return;
        }
        let life = self.lives.remove(self.world.dice.below(self.lives.len()));
        self.world.say(format_args!("{} crashes", life.name));
        self.story.crashes += 1;
        drop(life);
        if let Some(kv) = self.place.kv.as_ref().filter(|_| self.world.dice.permille(500)) {
            kv.power_cut();
        }
        if let Some(dir) = self.place.journal.as_ref().filter(|_| self.world.dice.permille(200)) {
            broker::tear(&self.world, dir);
        }
    }

    /// One turn of some process. Where all wait, time goes on. False: nothing can happen any more.
    fn turn(&mut self) -> bool {
        self.story.turns += 1;
        let mut order: Vec<usize> = (0..self.lives.len()).collect();
        while !order.is_empty() {
            let index = order.swap_remove(self.world.dice.below(order.len()));
            match self.lives[index].turn() {
                Turn::Idle => {}
                Turn::Moved => return true,
                Turn::Ended(ended) => {
                    let life = self.lives.remove(index);
                    self.ended_well = ended.is_ok().then_some(life.reads);
                    if let Err(error) = ended {
                        assert!(life.explains(&error), "{} ended for no reason outside: {error}", life.name);
                    }
                    return true;
                }
            }
        }
        let Some(deadline) = self.world.time.next_deadline_us() else { return false };
        self.world.time.advance_to(deadline);
        true
    }

    fn calm(&mut self) {
        self.world.calm.store(true, Ordering::Relaxed);
        self.world.say(format_args!("calm"));
        // One whose state is full would wait for ever.
        while self.lives.len() > 1 || self.lives.iter().any(|life| life.is_narrow) {
            self.crash();
        }
        self.world.publish("a", self.partitions_max);
        if self.place.journal.is_some() {
            self.world.send();
        }
        // Perhaps what is dead is replayed once more; a key-value store learns of it from the next process that reads sources.
        let replay = Reads::DeadLetters { limit: None, handover_messages: 100 };
        let mut ahead = vec![Reads::Sources];
        if self.replays && self.world.dice.permille(500) {
            ahead.push(replay);
            ahead.extend(self.place.kv.is_some().then_some(Reads::Sources));
        }
        let (mut ahead, mut stopping) = (ahead.into_iter().peekable(), false);
        for _ in 0..CALM_TURNS_MAX {
            if self.world.dice.permille(20) {
                self.world.something_late();
            }
            match self.lives.last() {
                // One that a rival had fenced before it died ends badly, and another one goes on.
                None => {
                    if self.ended_well == ahead.peek().copied() && (stopping || self.ended_well == Some(replay)) {
                        ahead.next();
                    }
                    stopping = false;
                    match ahead.peek().copied() {
                        Some(reads) => self.begin(reads),
                        None => break,
                    }
                }
                Some(life) if !stopping && life.reads == Reads::Sources && life.is_running() && self.is_all_read() => {
                    life.check_state();
                    life.stop();
                    stopping = true;
                }
                Some(_) => {}
            }
            if !self.turn() {
                let names: Vec<&str> = self.lives.iter().map(|l| l.name.as_str()).collect();
                panic!("nothing can happen any more, and {names:?} have not ended");
            }
        }
        assert!(self.lives.is_empty(), "not at the end after {CALM_TURNS_MAX} calm turns");
        check::complete(&self.world);
        if let Some(kv) = &self.place.kv {
            let records = self.world.records.lock().expect("no holder panics");
            let positions = records.values().next_back().expect("a claim at least").positions();
            let positions = positions.map(|(p, to)| (p.clone(), to)).collect();
            let truth = self.world.expected.lock().expect("no holder panics").under(false).state(&positions, None).0;
            assert_eq!(kv.sums(), truth, "the key-value store at the end");
        }
    }

    /// Do the slots stand at the end of every partition?
    fn is_all_read(&self) -> bool {
        let Some(life) = self.lives.last() else { return false };
        let positions = check::positions(&life.shown());
        let broker = self.world.broker.lock().expect("no holder panics");
        let journal = PartitionId::new("j", broker::PARTITION);
        if !broker.is_idle() || broker.journal_end > positions.get(&journal).map_or(0, |at| at.0) {
            return false;
        }
        let topics = self.world.topics.lock().expect("no holder panics");
        topics.iter().all(|(id, topic)| positions.get(id).is_some_and(|at| at.0 == topic.end))
    }
}
