//! What outlives a process: records, tables, topics, time, what is still under way, and what ought to become of it all.

use crate::checkpoint::record::Record;
use crate::config::section::Section;
use crate::engine::simulation::broker::Broker;
use crate::engine::simulation::check;
use crate::engine::simulation::dice::Dice;
use crate::engine::simulation::expect::{Expected, Sent, message};
use crate::engine::simulation::lake::Logs;
use crate::engine::simulation::trace::Trace;
use crate::engine::simulation::turns::pause;
use crate::env::clock::{Clock, ManualClock};
use crate::env::uuids::Uuids;
use crate::sinks::delta::config::{DeltaConfig, validate};
use crate::types::epoch::Epoch;
use crate::types::error::Error;
use crate::types::position::{PartitionId, Position};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::time::Duration;

/// Every run begins here; the date is of no importance.
const BEGIN_US: i64 = 1_800_000_000_000_000;

/// What no record, log, status or error may hold (I12). The lake's configuration does.
pub const SECRET: &str = "x7-simulated-secret-q9";

/// As a config file has it.
pub static LAKE: LazyLock<(Section, DeltaConfig)> = LazyLock::new(|| {
    let text = format!("uri = 's3://bucket/lake'\noptions = {{ aws_secret_access_key = '{SECRET}' }}");
    let section = Section::from_text("delta", "lake", &text).expect("a sound section");
    let config = validate(&section).expect("a sound config");
    (section, config)
});

pub struct World {
    pub dice: Dice,
    pub trace: Trace,
    pub time: Arc<ManualClock>,
    pub uuids: Uuids,
    /// Chance of a fault, in thousandths of what each place asks for.
    pub faults_permille: AtomicU64,
    /// No more faults: the end of a run.
    pub calm: AtomicBool,
    /// Listings that left something out: after one, a start may refuse.
    pub stale_lists: AtomicU64,
    /// Std mutexes: one thread holds them all in turn.
    pub expected: Mutex<Expected>,
    pub records: Mutex<BTreeMap<Epoch, Record>>,
    /// By the name under which they own records.
    pub authors: Mutex<BTreeMap<String, Author>>,
    /// By incarnation: views that began empty in the middle of the chain, and where their first message would be.
    pub begun: Mutex<BTreeMap<u64, BTreeMap<String, BTreeMap<PartitionId, Position>>>>,
    pub logs: Mutex<Logs>,
    /// First and next position of every partition that can be read again.
    pub topics: Mutex<BTreeMap<PartitionId, Topic>>,
    pub broker: Mutex<Broker>,
    /// Records of a process that stood still, under names that were cleaned up: written, and part of nothing.
    pub strays: Mutex<BTreeSet<Epoch>>,
    late: Mutex<Vec<Late>>,
    next_id: Mutex<i64>,
}

/// What a process does with messages.
#[derive(Clone, Copy, Debug)]
pub struct Author {
    /// Its SQL takes what is brittle.
    pub is_mended: bool,
    /// It reads dead letters, and no source.
    pub replays: bool,
}

#[derive(Clone, Debug)]
pub struct Topic {
    pub label: String,
    pub begin: u64,
    pub end: u64,
}

/// A write whose sender no longer waits for it.
struct Late {
    what: String,
    land: Box<dyn FnOnce() + Send>,
}

/// A write under way. Dropped on the way, it may still arrive: the sender crashed, the network did not.
pub struct Flight<T: Send + 'static> {
    world: Arc<World>,
    what: String,
    /// None: it has arrived, or never will.
    land: Option<Box<dyn FnOnce() -> T + Send>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// It fails and never happened.
    Before,
    /// It happens, and the answer is an error.
    After,
    /// The answer is an error, and it happens later, perhaps.
    Late,
}

impl World {
    pub fn new(seed: u64) -> Arc<World> {
        Arc::new(World {
            dice: Dice::new(seed),
            trace: Trace::default(),
            time: ManualClock::starting_at(BEGIN_US),
            uuids: Uuids::Counted(Arc::default()),
            faults_permille: AtomicU64::new(1000),
            calm: AtomicBool::new(false),
            stale_lists: AtomicU64::new(0),
            expected: Mutex::default(),
            records: Mutex::default(),
            authors: Mutex::default(),
            begun: Mutex::default(),
            logs: Mutex::default(),
            topics: Mutex::default(),
            broker: Mutex::default(),
            strays: Mutex::default(),
            late: Mutex::default(),
            next_id: Mutex::new(1),
        })
    }

    pub fn clock(&self) -> Clock {
        Clock::Manual(self.time.clone())
    }

    pub fn say(&self, what: std::fmt::Arguments<'_>) {
        check::is_told("a log line", self.trace.say(what).as_bytes());
    }

    /// A place where the process may crash, or be slow.
    pub async fn pause(&self) {
        for _ in 0..self.dice.below(3) {
            pause().await;
        }
        if self.happens(15) {
            self.clock().sleep(Duration::from_millis(self.dice.between(1, 400))).await;
        }
        pause().await;
    }

    /// A misfortune of this chance, unless the run is over.
    pub fn happens(&self, permille: u64) -> bool {
        !self.calm.load(Ordering::Relaxed)
            && self.dice.next() % 1_000_000 < permille * self.faults_permille.load(Ordering::Relaxed)
    }

    fn fault(&self, what: &str) -> Fault {
        if !self.happens(60) {
            return Fault::None;
        }
        let fault = *self.dice.pick(&[Fault::Before, Fault::After, Fault::Late]);
        self.say(format_args!("fault {fault:?}: {what}"));
        fault
    }

    /// `land` is what the write does where it arrives.
    pub fn depart<T: Send + 'static>(
        self: &Arc<World>,
        what: String,
        land: impl FnOnce() -> T + Send + 'static,
    ) -> Flight<T> {
        Flight { world: self.clone(), what, land: Some(Box::new(land)) }
    }

    /// One write that nobody waits for any more arrives, or is lost for good.
    pub fn something_late(&self) {
        let mut late = self.late.lock().expect("no holder panics");
        if late.is_empty() {
            return;
        }
        let index = self.dice.below(late.len());
        let Late { what, land } = late.remove(index);
        drop(late);
        if self.dice.permille(700) {
            self.say(format_args!("arrives late: {what}"));
            land();
        } else {
            self.say(format_args!("never arrives: {what}"));
        }
    }

    /// A message into a partition of a topic, which may be a new one.
    pub fn publish(&self, source: &str, partitions_max: usize) {
        let label = self.dice.below(partitions_max).to_string();
        let partition = PartitionId::new(source, &format!("t/{label}"));
        let mut topics = self.topics.lock().expect("no holder panics");
        let topic = topics.entry(partition.clone()).or_insert_with(|| {
            let begin = if self.dice.permille(300) { self.dice.between(1, 50) } else { 0 };
            Topic { label: label.clone(), begin, end: begin }
        });
        for _ in 0..self.dice.between(1, 4) {
            // Compaction and transaction marks leave gaps.
            let gap = if self.dice.permille(200) { self.dice.between(1, 3) } else { 0 };
            let position = topic.end + gap;
            let sent = self.new_message();
            self.expected.lock().expect("no holder panics").add(&partition, &label, position, sent);
            topic.end = position + 1;
        }
        if self.dice.permille(100) {
            topic.end += self.dice.between(1, 3);
        }
        self.say(format_args!("published {partition} to {}", topic.end));
    }

    /// A message to the broker.
    pub fn send(&self) {
        for _ in 0..self.dice.between(1, 4) {
            self.broker.lock().expect("no holder panics").publish(self);
        }
        self.say(format_args!("sent to the broker"));
    }

    pub fn new_message(&self) -> Sent {
        message(&self.dice, &mut self.next_id.lock().expect("no holder panics"), self.time.now_us())
    }

    /// The newest epoch that all tables have, with all before it.
    pub fn applied(&self) -> Epoch {
        let (records, logs) =
            (self.records.lock().expect("no holder panics"), self.logs.lock().expect("no holder panics"));
        let mut applied = Epoch(0);
        for (epoch, record) in records.iter() {
            if !record.landings().all(|t| logs.transaction(&format!("{}.{}", t.sink, t.table), &t.app_id) >= epoch.0) {
                break;
            }
            applied = *epoch;
        }
        applied
    }
}

impl<T: Send + 'static> Flight<T> {
    /// It arrives, unless a fault has it fail before, afterwards, or arrive later. `is_done`: did the place take it? None:
    /// the sender gets no answer, whatever became of it.
    pub async fn end(mut self, is_done: impl Fn(&T) -> bool) -> Option<T> {
        let fault = self.world.fault(&self.what);
        match fault {
            Fault::Before => self.lose(),
            Fault::Late => self.stay_out(),
            Fault::None | Fault::After => {
                let landed = self.land.take().expect("it is under way")();
                let became = if is_done(&landed) { "done" } else { "taken" };
                self.world.say(format_args!("{}: {became}", self.what));
                self.world.pause().await;
                return (fault == Fault::None).then_some(landed);
            }
        }
        None
    }

    /// It never will arrive.
    pub fn lose(mut self) {
        self.land = None;
    }

    /// Nobody waits for it any more, and it arrives all the same.
    fn stay_out(&mut self) {
        let Some(land) = self.land.take() else { return };
        // Too late to matter to anyone: taken or not, nobody hears.
        let late = Late { what: self.what.clone(), land: Box::new(move || drop(land())) };
        self.world.late.lock().expect("no holder panics").push(late);
    }
}

impl<T: Send + 'static> Drop for Flight<T> {
    fn drop(&mut self) {
        if self.land.is_some() && self.world.dice.permille(500) {
            self.world.say(format_args!("still under way: {}", self.what));
            self.stay_out();
        }
    }
}

pub fn unavailable(what: &str) -> Error {
    Error::Unavailable(format!("{what}: no answer"))
}
