//! What must hold after every step: I1 to I10, I12 and I14 against the model. A broken promise panics with its number.

use crate::checkpoint::place::record_epoch;
use crate::checkpoint::record::{Record, RecordKind};
use crate::engine::pressure::Pressure;
use crate::engine::published::Published;
use crate::engine::simulation::expect::{BEGINS_EMPTY, Latest, OUTPUTS, Output, Sums};
use crate::engine::simulation::lake::{path_of, row_keys};
use crate::engine::simulation::store::FaultyStore;
use crate::engine::simulation::world::{Author, SECRET, World};
use crate::env::budget::Budget;
use crate::sources::Applied;
use crate::sql::plan::{MaterializedView, Plan};
use crate::state::view::FrozenView;
use crate::types::epoch::Epoch;
use crate::types::message::{REPLAY_PARTITION, REPLAY_SOURCE};
use crate::types::position::{PartitionId, Position};
use arrow::array::AsArray;
use arrow::datatypes::Int64Type;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// What the rows of one batch take at most in these runs: a slot finishes what it has begun, and takes one handover into a
/// share however small. Most of it is room that columns of a few values come with.
const BATCH_IN_HAND_BYTES: u64 = 256 << 10;

/// A record at the moment it lands.
pub fn record(world: &World, store: &FaultyStore, record: &Record) {
    let records = world.records.lock().expect("no holder panics");
    let epoch = record.epoch;
    let newest = records.keys().next_back().copied().unwrap_or_default();
    assert_eq!(newest.next(), epoch, "I8: record {epoch} lands after {newest}");
    let before = records.get(&newest).cloned();
    drop(records);
    world.say(format_args!(
        "record {epoch} {:?} of {}: {} partitions, {} segments",
        record.kind,
        record.owner,
        record.partitions.len(),
        record.views.iter().map(|v| v.segments.len()).sum::<usize>()
    ));
    if let Some(before) = &before {
        follows(world, before, record);
    }
    let oldest = world.records.lock().expect("no holder panics").keys().next().copied().unwrap_or(epoch);
    assert!(record.floor <= oldest, "I14: record {epoch} says that {} is gone, {oldest} is there", record.floor);
    let author = world.authors.lock().expect("no holder panics")[&record.owner];
    moves(author, record);
    ledger(world, before.as_ref(), record, author.is_mended);
    references(world, store, record);
    views(world, before.as_ref(), record);
    let mut expected = world.expected.lock().expect("no holder panics");
    for p in &record.partitions {
        expected.settle(&p.partition, p.span, author.is_mended);
    }
}

/// I12: what leaves the process, one way or another.
pub fn is_told(what: &str, bytes: &[u8]) {
    let secret = SECRET.as_bytes();
    // Most bytes are not the first one of it.
    let begins = bytes.iter().enumerate().filter(|(_, byte)| **byte == secret[0]).map(|(at, _)| at);
    let found = begins.into_iter().any(|at| bytes[at..].starts_with(secret));
    assert!(!found, "I12: {what} holds the secret: {}", String::from_utf8_lossy(bytes));
}

/// I9: what is accounted for stays within its share, but for the batch that each slot has in hand. (State that comes back
/// with a start may be above a smaller share: then no slot takes anything, which `Life` checks at every turn.)
pub fn bounded(pressure: &Pressure, budget: &Budget, slots: usize) {
    let (held, shares) = (pressure.rows_bytes() + pressure.files_bytes(), pressure.shares());
    let in_hand = slots as u64 * BATCH_IN_HAND_BYTES;
    assert!(held <= shares.rows_max + in_hand, "I9: rows and files hold {held} bytes of {}", shares.rows_max);
    let (used, total) = (budget.used_bytes(), budget.total_bytes());
    assert!(used <= total, "I9: messages hold {used} bytes of {total}");
}

/// A view that a table can give back is whole; another one says from where it is. Views change with a claim alone.
fn views(world: &World, before: Option<&Record>, record: &Record) {
    let complete_from =
        |r: &Record| r.views.iter().filter_map(|v| Some((v.name.clone(), v.complete_from?))).collect::<Vec<_>>();
    let mut all = world.begun.lock().expect("no holder panics");
    if record.kind == RecordKind::Epoch {
        assert_eq!(before.map(complete_from), Some(complete_from(record)), "epoch {} changes views", record.epoch);
        return;
    }
    let mut begun = before.and_then(|before| all.get(&before.incarnation)).cloned().unwrap_or_default();
    begun.retain(|name, _| record.view(name).is_some());
    for view in &record.views {
        match view.complete_from {
            None => drop(begun.remove(&view.name)),
            Some(from) if from == record.epoch => {
                assert_eq!(view.name, BEGINS_EMPTY, "a table has every row of a view that starts empty");
                let positions = record.positions().map(|(partition, at)| (partition.clone(), at));
                begun.insert(view.name.clone(), positions.collect());
            }
            Some(from) => assert!(begun.contains_key(&view.name), "{} is said to begin at {from}", view.name),
        }
    }
    all.insert(record.incarnation, begun);
}

fn follows(world: &World, before: &Record, record: &Record) {
    let epoch = record.epoch;
    assert_eq!(record.chain, before.chain, "I8: record {epoch} is of another chain");
    match record.kind {
        RecordKind::Claim => assert_eq!(record.incarnation, before.incarnation + 1, "a claim raises the incarnation"),
        RecordKind::Epoch => {
            assert_eq!(record.owner, before.owner, "I8: epoch {epoch} is written by who has not claimed the chain");
            assert_eq!(record.incarnation, before.incarnation);
        }
    }
    let applied = world.applied();
    assert!(
        record.applied_through <= applied,
        "I7: record {epoch} says {} is applied, the tables have {applied}",
        record.applied_through
    );
}

/// A replay moves no source, and what reads sources replays nothing.
fn moves(author: Author, record: &Record) {
    for p in record.partitions.iter().filter(|p| p.span.from < p.span.to) {
        let is_replay = &*p.partition.source == REPLAY_SOURCE;
        assert_eq!(is_replay, author.replays, "{} moves {} in record {}", record.owner, p.partition, record.epoch);
    }
}

/// I2 and I3: spans follow each other, and the counts are the truth.
fn ledger(world: &World, before: Option<&Record>, record: &Record, is_mended: bool) {
    let expected = world.expected.lock().expect("no holder panics");
    let expected = expected.under(is_mended);
    for p in &record.partitions {
        let known = before.and_then(|b| b.partition(&p.partition));
        if let Some(known) = known {
            assert_eq!(p.span.from, known.span.to, "I2: {} in record {}", p.partition, record.epoch);
        }
        let truth = expected.counts(&p.partition, p.span.to);
        assert_eq!(p.counts, truth, "I3: {} below {} in record {}", p.partition, p.span.to, record.epoch);
    }
    for partition in before.iter().flat_map(|b| &b.partitions) {
        assert!(record.partition(&partition.partition).is_some(), "I2: {} is forgotten", partition.partition);
    }
    for (name, output) in OUTPUTS {
        let truth: u64 = record.partitions.iter().map(|p| expected.rows(output, &p.partition, p.span.to)).sum();
        let said = record.tables.iter().find(|t| format!("{}.{}", t.sink, t.table) == name).map_or(0, |t| t.rows_total);
        assert_eq!(said, truth, "I3: rows of {name} up to record {}", record.epoch);
    }
}

/// I5: everything it references is there, whole.
fn references(world: &World, store: &FaultyStore, record: &Record) {
    for segment in record.views.iter().flat_map(|v| &v.segments) {
        let bytes = store.peek(&segment.path).unwrap_or_else(|| panic!("I5: {} is not there", segment.path));
        assert_eq!(crc32fast::hash(&bytes), segment.crc32, "I5: {} is another one", segment.path);
    }
    let logs = world.logs.lock().expect("no holder panics");
    for table in record.landings() {
        let found = |add| logs.files.get(path_of(add)).unwrap_or_else(|| panic!("I5: {add} is not there")).len() as u64;
        assert_eq!(
            table.adds.iter().map(found).sum::<u64>(),
            table.rows,
            "rows of {} in {}",
            table.table,
            record.epoch
        );
    }
}

/// I14: nothing goes that a record still names, and of records only the oldest.
pub fn deleted(world: &World, path: &str) {
    let mut records = world.records.lock().expect("no holder panics");
    if let Some(epoch) = record_epoch(path) {
        if world.strays.lock().expect("no holder panics").remove(&epoch) {
            return;
        }
        let oldest = records.keys().next().copied();
        if oldest.is_some_and(|oldest| epoch < oldest) {
            // Gone already: two processes clean up.
            return;
        }
        assert!(records.len() > 1 && oldest == Some(epoch), "I14: record {epoch} goes, the oldest is {oldest:?}");
        records.remove(&epoch);
        return;
    }
    for record in records.values() {
        let named = record.views.iter().flat_map(|v| &v.segments).any(|s| s.path == path);
        assert!(!named, "I14: {path} goes, and record {} names it", record.epoch);
    }
}

/// I1: what a source is told is applied is applied.
pub fn told(world: &World, applied: &Applied) {
    let through = world.applied();
    let records = world.records.lock().expect("no holder panics");
    let Some(record) = records.get(&through) else {
        assert!(applied.is_empty(), "I1: told of {applied:?}, and nothing is applied");
        return;
    };
    for (partition, to) in applied.iter() {
        let safe = record.partition(partition).map_or(Position(0), |p| p.span.to);
        assert!(*to <= safe, "I1: {partition} is told {to}, applied is {safe} (epoch {through})");
    }
}

pub fn positions(shown: &[Arc<Published>]) -> BTreeMap<PartitionId, Position> {
    shown.iter().flat_map(|s| s.partitions.iter().map(|(id, p)| (id.clone(), p.position))).collect()
}

/// I10, and I4 for rows: what a reader sees, lake and memory, is each row below the positions shown, once.
pub fn visible(world: &World, is_mended: bool, shown: &[Arc<Published>], app_id: &dyn Fn(&str) -> String) {
    let positions = positions(shown);
    let all = world.expected.lock().expect("no holder panics");
    let expected = all.under(is_mended);
    let logs = world.logs.lock().expect("no holder panics");
    for (partition, progress) in shown.iter().flat_map(|s| s.partitions.iter()) {
        let truth = expected.counts(partition, progress.position);
        assert_eq!(progress.counts, truth, "I3: {partition} as shown");
    }
    for (name, output) in OUTPUTS {
        let Some(log) = logs.tables.get(name) else { continue };
        let in_lake = Epoch(logs.transaction(name, &app_id(name)));
        let mut in_memory = BTreeSet::new();
        for rows in shown.iter().filter_map(|s| s.view.uncommitted.get(name)).flatten().filter(|r| r.epoch > in_lake) {
            for key in rows.batches.iter().flat_map(|batch| row_keys(name, batch)) {
                assert!(!log.rows.contains(&key), "I10: {key:?} of {name} in lake and memory");
                assert!(expected.has(output, &key), "{name} shows a row that no message makes: {key:?}");
                assert!(in_memory.insert(key.clone()), "I10: {key:?} of {name} twice in memory");
                let partition = all.partition(&key.0, &key.1).expect("a known partition");
                assert!(positions.get(partition).is_some_and(|to| key.2 < to.0 as i64), "I10: {key:?} is ahead");
            }
        }
        let truth: u64 = positions.iter().map(|(p, to)| expected.rows(output, p, *to)).sum();
        let seen = log.rows.len() as u64 + in_memory.len() as u64;
        assert_eq!(seen, truth, "I10: rows of {name}, {} in the lake, {} in memory", log.rows.len(), in_memory.len());
    }
}

/// I4: hot state is the fold of everything below the positions shown. `incarnation`: whose it is.
pub fn state(world: &World, is_mended: bool, plan: &Plan, shown: &[Arc<Published>], incarnation: u64) {
    let begun = world.begun.lock().expect("no holder panics");
    let begun = begun.get(&incarnation).and_then(|views| views.get(BEGINS_EMPTY)).cloned();
    let expected = world.expected.lock().expect("no holder panics");
    let (sums, latest) = expected.under(is_mended).state(&positions(shown), begun.as_ref());
    for (index, view) in plan.views.iter().enumerate() {
        match &*view.name {
            BEGINS_EMPTY => assert_eq!(read_latest(view, index, shown), latest, "I4: {}", view.name),
            _ => assert_eq!(read_sums(view, index, shown), sums, "I4: {}", view.name),
        }
    }
}

fn read_sums(view: &MaterializedView, index: usize, shown: &[Arc<Published>]) -> Sums {
    let mut sums = Sums::new();
    rows(view, index, shown, |key, numbers| sums.insert(key, (numbers[0], numbers[1], numbers[2])).is_some());
    sums
}

fn read_latest(view: &MaterializedView, index: usize, shown: &[Arc<Published>]) -> Latest {
    let mut latest = Latest::new();
    rows(view, index, shown, |key, numbers| latest.insert(key, (numbers[0], numbers[1])).is_some());
    latest
}

/// `keep`: a key and the numbers beside it; true if it was there before.
fn rows(
    view: &MaterializedView,
    index: usize,
    shown: &[Arc<Published>],
    mut keep: impl FnMut(String, Vec<i64>) -> bool,
) {
    let shares: Vec<FrozenView> = shown.iter().filter_map(|s| s.view.views.get(index).cloned()).collect();
    for rows in FrozenView::read(view, &shares).expect("state can be read") {
        let keys = rows.column(0).as_string::<i32>();
        for row in 0..rows.num_rows() {
            let numbers = rows.columns()[1..].iter().map(|c| c.as_primitive::<Int64Type>().value(row));
            assert!(!keep(keys.value(row).to_string(), numbers.collect()), "I4: a key twice in {}", view.name);
        }
    }
}

/// A replay that came to its end has handed over everything up to `to`, and a record has it.
pub fn replayed(world: &World, to: Position) {
    let records = world.records.lock().expect("no holder panics");
    let head = records.values().next_back().expect("its own claim at least");
    let partition = PartitionId::new(REPLAY_SOURCE, REPLAY_PARTITION);
    let at = head.partition(&partition).map_or(Position(0), |p| p.span.to);
    // Another replay may have begun since.
    assert!(at >= to, "a replay ends at {at}, and dead letters go to {to}");
}

/// The end: the broker has nothing left, every table has every row once, and the newest record says so.
pub fn complete(world: &World) {
    world.broker.lock().expect("no holder panics").check_complete();
    let records = world.records.lock().expect("no holder panics");
    let head = records.values().next_back().expect("a claim at least").clone();
    drop(records);
    assert_eq!(world.applied(), head.epoch, "the newest epoch is applied");
    let all = world.expected.lock().expect("no holder panics");
    // Everything is in a record.
    let expected = all.under(false);
    let logs = world.logs.lock().expect("no holder panics");
    // Dead letters that were to come again, had their replay not been cut short, count for nothing.
    let ends = |p: &PartitionId| match &*p.source == REPLAY_SOURCE {
        true => head.partition(p).map_or(Position(0), |known| known.span.to),
        false => Position(u64::MAX),
    };
    for (name, output) in OUTPUTS {
        let truth: u64 = all.partitions().map(|p| expected.rows(output, p, ends(p))).sum();
        let rows = &logs.tables[name].rows;
        // Each of them was checked when it was committed: expected, and not there before.
        assert_eq!(rows.len() as u64, truth, "{name} is complete");
        if output == Output::DeadLetter {
            let is_replay = |p: &PartitionId| &*p.source == REPLAY_SOURCE;
            let letters = head.partitions.iter().map(|p| match is_replay(&p.partition) {
                true => p.counts.received,
                false => p.counts.rejected,
            });
            assert_eq!(truth, letters.sum::<u64>(), "I11: dead letters as counted");
        }
    }
    for partition in all.partitions() {
        let truth = expected.counts(partition, ends(partition));
        let counts = head.partition(partition).map(|p| p.counts).unwrap_or_default();
        assert_eq!(counts, truth, "I3: {partition} at the end");
    }
}
