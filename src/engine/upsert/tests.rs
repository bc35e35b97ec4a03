//! I13 on two slots and a store without batches: whatever the interleaving, wherever it crashes, and however differently
//! the replay interleaves, a reader who looks after every single write never sees a value older than one it saw, and in
//! the end sees exactly what state says.
//!
//! A seed makes a run. `PIPE_SEEDS=1000` tries more of them, `PIPE_SEED=7` one.

use super::*;
use crate::checkpoint::next::{Author, first_record};
use crate::checkpoint::record::PartitionRecord;
use crate::engine::ingest::Ingest;
use crate::engine::published::PartitionProgress;
use crate::env::budget::Budget;
use crate::sinks::kv::row::KvRow;
use crate::sinks::kv::store::{KvStore, Writes};
use crate::sources::Handover;
use crate::sql::exec::Stateless;
use crate::sql::plan::SqlFile;
use crate::state::cut::SlotView;
use crate::state::view::{Merge, ViewState};
use crate::types::catalog::{Catalog, SinkKind, SourceFacts};
use crate::types::count::Counts;
use crate::types::message::{Message, Messages};
use crate::types::position::Span;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use std::collections::VecDeque;
use std::sync::Mutex;

const SQL: &str = "CREATE TABLE t (k TEXT NOT NULL, at BIGINT, v BIGINT);
    CREATE MATERIALIZED VIEW latest AS SELECT DISTINCT ON (k) k, at, v FROM t ORDER BY k, at DESC;
    CREATE MATERIALIZED VIEW counts AS SELECT k, count(*) AS n FROM t GROUP BY k;
    INSERT INTO kv.latest SELECT * FROM latest;
    INSERT INTO kv.counts SELECT * FROM counts;";
const SLOTS: usize = 2;
const PARTITIONS: usize = 4;
const MESSAGES: u64 = 30;
const KEYS: u64 = 6;

/// A store like Redis: every put, delete and marker is visible at once and by itself. Or, `atomic`, one with batches.
/// It is its own reader: every value that shows is compared with the one before.
#[derive(Default)]
struct Store(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    atomic: bool,
    rows: BTreeMap<String, BTreeMap<Vec<u8>, Vec<u8>>>,
    markers: BTreeMap<String, Marker>,
    /// Single writes until the process dies.
    steps_left: Option<u64>,
    steps: u64,
    /// By table and key: the order of the newest value that was ever seen.
    seen: BTreeMap<(String, Vec<u8>), i64>,
    wrong: Vec<String>,
}

impl Inner {
    fn step(&mut self) -> Result<()> {
        if self.steps_left == Some(0) {
            return Err(Error::Failed("crash".into()));
        }
        self.steps_left = self.steps_left.map(|n| n - 1);
        self.steps += 1;
        Ok(())
    }

    fn put(&mut self, table: &str, key: Vec<u8>, value: Vec<u8>) {
        let json: serde_json::Value = serde_json::from_str(&KvRow::decode(&value).expect("a row").json).expect("JSON");
        let order = json[if table == "latest" { "at" } else { "n" }].as_i64().expect("a number");
        let seen = self.seen.entry((table.into(), key.clone())).or_insert(i64::MIN);
        if order < *seen {
            self.wrong.push(format!("{table}: {json} after {seen}"));
        }
        *seen = order.max(*seen);
        self.rows.entry(table.into()).or_default().insert(key, value);
    }

    fn delete(&mut self, table: &str, key: &[u8]) {
        if self.rows.entry(table.into()).or_default().remove(key).is_some() {
            self.wrong.push(format!("{table}: a value vanished"));
        }
    }
}

impl KvStore for Store {
    fn create_table(&self, _: &str) -> Result<()> {
        Ok(())
    }

    fn write(&self, table: &str, writes: Writes) -> Result<()> {
        let mut inner = self.0.lock().expect("no holder panics");
        let atomic = inner.atomic;
        if atomic {
            inner.step()?;
        }
        if let Some(marker) = writes.marker {
            if !atomic {
                inner.step()?;
            }
            inner.markers.insert(table.into(), marker);
        }
        for (key, value) in writes.puts {
            if !atomic {
                inner.step()?;
            }
            inner.put(table, key, value);
        }
        for key in writes.deletes {
            if !atomic {
                inner.step()?;
            }
            inner.delete(table, &key);
        }
        Ok(())
    }

    fn clear(&self, table: &str) -> Result<()> {
        let mut inner = self.0.lock().expect("no holder panics");
        inner.step()?;
        inner.markers.remove(table);
        let keys: Vec<Vec<u8>> = inner.rows.get(table).map(|r| r.keys().cloned().collect()).unwrap_or_default();
        for key in keys {
            inner.step()?;
            inner.delete(table, &key);
        }
        Ok(())
    }

    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.lock().expect("no holder panics").rows.get(table).and_then(|rows| rows.get(key).cloned()))
    }

    fn scan(&self, table: &str, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let all = self.walk(table, None, usize::MAX)?;
        Ok(all.into_iter().filter(|(key, _)| key.starts_with(prefix)).take(limit).collect())
    }

    fn walk(&self, table: &str, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let inner = self.0.lock().expect("no holder panics");
        let rows = inner.rows.get(table).into_iter().flatten();
        let behind = rows.filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after));
        Ok(behind.take(limit).map(|(k, v)| (k.clone(), v.clone())).collect())
    }

    fn count(&self, table: &str) -> Result<u64> {
        Ok(self.walk(table, None, usize::MAX)?.len() as u64)
    }

    fn marker(&self, table: &str) -> Result<Option<Marker>> {
        Ok(self.0.lock().expect("no holder panics").markers.get(table).cloned())
    }

    fn markers(&self) -> Result<BTreeMap<String, Marker>> {
        Ok(self.0.lock().expect("no holder panics").markers.clone())
    }

    fn sync(&self) -> Result<()> {
        Ok(())
    }
}

/// What the chain remembers: per slot where its partitions stood, and per view the segments of its share.
#[derive(Clone, Default)]
struct Recorded {
    positions: BTreeMap<PartitionId, Position>,
    segments: [Vec<Vec<RecordBatch>>; SLOTS],
}

/// A slot frozen at its own batch boundary, waiting for the others.
struct SlotCut {
    positions: BTreeMap<PartitionId, Position>,
    segments: Vec<Option<RecordBatch>>,
}

struct Slot {
    views: Vec<ViewState>,
    ingest: Ingest,
    stateless: Stateless,
    board: Arc<Board>,
    positions: BTreeMap<PartitionId, Position>,
}

enum Notice {
    Keys(Vec<(usize, RecordBatch)>),
    Sync(Recorded),
}

fn partition(n: usize) -> PartitionId {
    PartitionId::new("t", format!("p{n}").as_str())
}

fn plan() -> Arc<Plan> {
    let mut catalog = Catalog::default();
    catalog.sources.insert("t".into(), SourceFacts::default());
    catalog.sinks.insert("kv".into(), SinkKind::Upsert);
    let file = SqlFile { path: "a.sql".into(), text: SQL.into() };
    Arc::new(futures::executor::block_on(crate::sql::compile(&[file], &catalog)).expect("the SQL is sound"))
}

/// Keys and orders of all messages: every `at` once, in no order.
fn messages(random: &mut SmallRng) -> Vec<Vec<(u64, i64)>> {
    let mut times: Vec<i64> = (0..PARTITIONS as i64 * MESSAGES as i64).collect();
    times.shuffle(random);
    let mut times = times.into_iter();
    let mut of_partition = || {
        let one = |_| (random.random_range(0..KEYS), times.next().expect("one each"));
        (0..MESSAGES).map(one).collect()
    };
    (0..PARTITIONS).map(|_| of_partition()).collect()
}

impl Slot {
    fn new(plan: &Arc<Plan>, recorded: &Recorded, slot: usize) -> Slot {
        let views = plan.views.iter().enumerate().map(|(i, view)| {
            let mut state = futures::executor::block_on(ViewState::new(view.clone())).expect("plans");
            for segment in recorded.segments[slot].get(i).into_iter().flatten() {
                state.restore(segment, Merge::Replace).expect("restores");
            }
            state
        });
        let own = (0..PARTITIONS).filter(|p| p % SLOTS == slot).map(partition);
        let at = |p: &PartitionId| recorded.positions.get(p).copied().unwrap_or_default();
        let slot = Slot {
            views: views.collect(),
            ingest: Ingest::new(plan.clone(), &BTreeMap::new()),
            stateless: futures::executor::block_on(Stateless::new(plan.clone())).expect("plans"),
            board: Arc::default(),
            positions: own.map(|p| (p.clone(), at(&p))).collect(),
        };
        slot.publish();
        slot
    }

    fn publish(&self) {
        let progress = |position| PartitionProgress { position, counts: Counts::default() };
        let views = self.views.iter().map(ViewState::freeze).collect();
        self.board.publish(Published {
            view: Arc::new(SlotView { views, ..SlotView::default() }),
            partitions: Arc::new(self.positions.iter().map(|(p, at)| (p.clone(), progress(*at))).collect()),
            ..Published::default()
        });
    }

    /// As the worker's batch: decode, fold, publish. None: this partition is at its end.
    fn batch(&mut self, plan: &Plan, number: usize, all: &[(u64, i64)], count: u64) -> Option<Notice> {
        let id = partition(number);
        let from = self.positions[&id];
        let to = Position((from.0 + count).min(all.len() as u64));
        if from == to {
            return None;
        }
        let item = |at: u64| {
            let (key, order) = all[at as usize];
            Message {
                position: Position(at),
                topic: None,
                key: None,
                payload: Some(format!(r#"{{"k":"k{key}","at":{order},"v":{at}}}"#).into()),
                headers: None,
                timestamp_us: None,
                received_at_us: 0,
                replayed: None,
            }
        };
        let messages = Messages {
            partition: Arc::new(id.clone()),
            partition_label: id.name.clone(),
            span: Span::new(from, to),
            items: (from.0..to.0).map(item).collect(),
            identity: None,
        };
        let held = futures::executor::block_on(Budget::new(1 << 20).acquire(1));
        let mut ingested = self.ingest.decode(&[Handover { messages, held }]);
        let tables = std::mem::take(&mut ingested.tables);
        let (outputs, guilty) = self.stateless.bisect(&tables, 0);
        assert!(guilty.is_empty() && ingested.rejects.is_empty());
        let fold = |(i, view): (usize, &crate::sql::plan::MaterializedView)| {
            (i, self.views[i].apply(&outputs.nodes[view.input], &ingested.lineage).expect("folds"))
        };
        let touched = plan.views.iter().map(|v| v.as_ref()).enumerate().map(fold).collect();
        self.positions.insert(id, to);
        self.publish();
        Some(Notice::Keys(touched))
    }
}

/// One life of the process: until it crashes, or everything is read and recorded. True: it is done.
fn live(
    random: &mut SmallRng,
    plan: &Arc<Plan>,
    store: &Arc<Store>,
    all: &[Vec<(u64, i64)>],
    recorded: &mut Recorded,
    incarnation: u64,
) -> bool {
    let mut slots: Vec<Slot> = (0..SLOTS).map(|slot| Slot::new(plan, recorded, slot)).collect();
    let author =
        Author { attempt: "a".into(), owner: "o".into(), epoch_time_us: 0, slots: SLOTS as u32, engine: "test".into() };
    let mut claim = first_record(ChainId("c".into()), "p", author);
    claim.incarnation = incarnation;
    let stands = |(partition, position): (&PartitionId, &Position)| PartitionRecord {
        partition: partition.clone(),
        slot: 0,
        span: Span::new(*position, *position),
        identity: None,
        counts: Counts::default(),
    };
    claim.partitions = recorded.positions.iter().map(stands).collect();
    let sink: Arc<dyn KvStore> = store.clone();
    let kv = BTreeMap::from([("kv".to_string(), Arc::new(KvSink::over("kv", sink)))]);
    let targets = open_targets(plan, &kv).expect("opens").expect("there are some");
    let boards = slots.iter().map(|s| s.board.clone()).collect();
    let mut upserter = Upserter::new(plan.clone(), targets, boards, &claim, Arc::default()).expect("begins");

    let mut queue: VecDeque<Notice> = VecDeque::new();
    let mut cuts: Vec<Option<SlotCut>> = (0..SLOTS).map(|_| None).collect();
    let mut syncing = false;
    // Lives that lean to one slot are what makes replays differ.
    let (lean, dies_at_once) = (random.random_range(0.1..0.9), random.random_bool(0.05));
    if upserter.take(BTreeMap::new()).is_err() || dies_at_once {
        return false;
    }
    loop {
        match random.random_range(0..10) {
            0..=4 => {
                let slot = usize::from(random.random_bool(lean));
                let number = slot + SLOTS * random.random_range(0..PARTITIONS / SLOTS);
                queue.extend(slots[slot].batch(plan, number, &all[number], random.random_range(1..6)));
            }
            5 | 6 => {
                let mut touched: BTreeMap<usize, Vec<RecordBatch>> = BTreeMap::new();
                let mut sync = None;
                for _ in 0..random.random_range(1..5) {
                    match queue.pop_front() {
                        Some(Notice::Keys(keys)) => {
                            keys.into_iter().for_each(|(i, k)| touched.entry(i).or_default().push(k))
                        }
                        Some(Notice::Sync(record)) => sync = Some(record),
                        None => break,
                    }
                    if sync.is_some() {
                        break;
                    }
                }
                if upserter.take(touched).is_err() {
                    return false;
                }
                if let Some(record) = sync {
                    if upserter.sync().is_err() || random.random_bool(0.1) {
                        return false;
                    }
                    *recorded = record;
                    syncing = false;
                    let ends = |p: usize| recorded.positions.get(&partition(p)) == Some(&Position(MESSAGES));
                    if queue.is_empty()
                        && (0..PARTITIONS).all(ends)
                        && upserter.targets.iter().all(|t| t.waiting.is_none())
                    {
                        return true;
                    }
                }
            }
            // Every slot cuts at a batch boundary of its own; when all have, the upserts are to sync.
            7 | 8 if !syncing => {
                let slot = random.random_range(0..SLOTS);
                if cuts[slot].is_none() {
                    let segments = slots[slot].views.iter_mut().map(|v| v.cut().expect("cuts")).collect();
                    cuts[slot] = Some(SlotCut { positions: slots[slot].positions.clone(), segments });
                }
                if cuts.iter().all(Option::is_some) {
                    let mut next = recorded.clone();
                    for (slot, cut) in cuts.iter_mut().enumerate() {
                        let cut = cut.take().expect("all are there");
                        next.positions.extend(cut.positions);
                        next.segments[slot].resize(plan.views.len(), Vec::new());
                        for (share, segment) in next.segments[slot].iter_mut().zip(cut.segments) {
                            share.extend(segment);
                        }
                    }
                    syncing = true;
                    queue.push_back(Notice::Sync(next));
                }
            }
            _ if random.random_bool(0.03) => return false,
            _ => {}
        }
    }
}

/// What the store must show in the end, computed from the messages.
fn expected(all: &[Vec<(u64, i64)>]) -> BTreeMap<u64, (i64, i64)> {
    let mut out: BTreeMap<u64, (i64, i64)> = BTreeMap::new();
    for (key, at) in all.iter().flatten() {
        let entry = out.entry(*key).or_insert((i64::MIN, 0));
        *entry = (entry.0.max(*at), entry.1 + 1);
    }
    out
}

fn run(seed: u64, atomic: bool) -> u64 {
    let mut random = SmallRng::seed_from_u64(seed);
    let plan = plan();
    let all = messages(&mut random);
    let store = Arc::new(Store(Mutex::new(Inner { atomic, ..Inner::default() })));
    let mut recorded = Recorded::default();
    let mut lives = 0;
    loop {
        lives += 1;
        // Sometimes the process dies between two writes of the store, and the last lives are allowed to end.
        let dies = lives < 12 && random.random_bool(0.7);
        store.0.lock().expect("no holder panics").steps_left = dies.then(|| random.random_range(0..40));
        let done = live(&mut random, &plan, &store, &all, &mut recorded, lives);
        let wrong = store.0.lock().expect("no holder panics").wrong.clone();
        assert!(wrong.is_empty(), "seed {seed}, atomic {atomic}, life {lives}: {wrong:?}");
        if done {
            break;
        }
    }
    let shown = |table: &str, column: &str| -> BTreeMap<u64, i64> {
        let rows = store.walk(table, None, usize::MAX).expect("reads");
        let parsed = rows.iter().map(|(_, value)| {
            let json = KvRow::decode(value).expect("a row").json;
            let json: serde_json::Value = serde_json::from_str(&json).expect("JSON");
            let key = json["k"].as_str().and_then(|k| k[1..].parse().ok()).expect("a key");
            (key, json[column].as_i64().expect("a number"))
        });
        parsed.collect()
    };
    let expected = expected(&all);
    let told = format!("seed {seed}, atomic {atomic}, {lives} lives");
    assert_eq!(shown("latest", "at"), expected.iter().map(|(k, (at, _))| (*k, *at)).collect(), "{told}");
    assert_eq!(shown("counts", "n"), expected.iter().map(|(k, (_, n))| (*k, *n)).collect(), "{told}");
    lives
}

#[test]
fn a_reader_never_sees_a_value_go_back_and_in_the_end_sees_state() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("PIPE_SEED") {
        Some(one) => one..one + 1,
        None => 0..number("PIPE_SEEDS").unwrap_or(30),
    };
    let (mut runs, mut lives) = (0, 0);
    for seed in seeds {
        for atomic in [false, true] {
            lives += run(seed, atomic);
            runs += 1;
        }
    }
    println!("{runs} runs, {lives} lives");
    assert!(lives >= runs);
}
