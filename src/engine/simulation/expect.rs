//! Messages as the simulation sends them, and what every one of them should become: the model of the pipeline's SQL.

use crate::engine::simulation::dice::Dice;
use crate::types::count::Counts;
use crate::types::message::{REPLAY_PARTITION, REPLAY_SOURCE};
use crate::types::position::{PartitionId, Position, Span};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Small, and with everything that matters: a union, an unnest, two errors at run time, two shapes of state, two tables.
const SQL: &str = "
    CREATE TABLE a (k TEXT NOT NULL, v BIGINT NOT NULL, d BIGINT, h BIGINT, ids BIGINT[]);
    CREATE TABLE j (k TEXT NOT NULL, v BIGINT NOT NULL, d BIGINT, h BIGINT, ids BIGINT[]);
    CREATE VIEW every AS
        SELECT k, v, 100 / d AS q, h, ids, _source AS s, _partition AS p, _position AS pos FROM a WHERE v >= 0
        UNION ALL
        SELECT k, v, 100 / d AS q, h, ids, _source AS s, _partition AS p, _position AS pos FROM j WHERE v >= 0;
    CREATE VIEW points AS SELECT k, v, q, h, s, p, pos, unnest(ids) AS id FROM every;
    CREATE MATERIALIZED VIEW sums AS
        SELECT k, count(*) AS n, sum(v) AS total, max(id) AS newest FROM points GROUP BY k;
    CREATE MATERIALIZED VIEW latest AS
        SELECT DISTINCT ON (k) k, v, id FROM points ORDER BY k, v DESC;
    INSERT INTO lake.points SELECT id, s, p, pos, k, v, q FROM points;
    INSERT INTO lake.high SELECT id, s, p, pos, 100 / h AS r FROM points WHERE v >= 50;
";
const SQL_KV: &str = "INSERT INTO kv.sums SELECT * FROM sums;";
/// With the shape of `sums`.
const SQL_MORE: &str = "CREATE MATERIALIZED VIEW more AS SELECT k, count(*) AS n, sum(v) AS total, max(id) AS newest FROM points GROUP BY k;";

/// The one view whose rows no table can give back: equal ones are told apart by their order in a message.
pub const BEGINS_EMPTY: &str = "latest";

/// How many ways there are to write it.
pub const VARIANTS: usize = 4;

/// As it changes from process to process: other plans, and the same answers, but for messages that are rejected by SQL that
/// is not mended. What is mended feeds no view and not `points`: they are what they were.
pub fn sql(variant: usize, kv: bool, is_mended: bool) -> String {
    let mut text = SQL.to_string();
    if is_mended {
        text = text.replace("100 / h", "100 / NULLIF(h, 0)");
    }
    if variant == 1 || variant == 3 {
        text = text.replace("sum(v)", "sum(v * 2) / 2");
    }
    if variant == 2 {
        text = text.replace("FROM points ORDER BY", "FROM points WHERE v > -5 ORDER BY");
    }
    text + if variant == 3 { SQL_MORE } else { "" } + if kv { SQL_KV } else { "" }
}

/// What becomes of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Fate {
    /// A row per id: in `points`, and in `high` from 50 on.
    Rows {
        k: &'static str,
        v: i64,
        ids: Vec<i64>,
    },
    /// Decoded, and filtered out.
    Nothing,
    Rejected,
    Dropped,
}

#[derive(Clone, Debug)]
pub struct Sent {
    pub payload: Option<Bytes>,
    /// Fixed at first receipt, whoever reads it again.
    pub received_at_us: i64,
    pub fate: Fate,
    /// Rejected by SQL that is not mended, whatever its fate otherwise.
    pub is_brittle: bool,
}

/// The next message; ids are dense over the whole run.
pub fn message(dice: &Dice, next_id: &mut i64, received_at_us: i64) -> Sent {
    let k = *dice.pick(&["x", "y", "z", "w"]);
    let v = dice.between(0, 99) as i64;
    let text = |v: i64, d: u8, h: u8, ids: &[i64]| -> Option<Bytes> {
        Some(format!(r#"{{"k":"{k}","v":{v},"d":{d},"h":{h},"ids":{ids:?}}}"#).into())
    };
    let mut rows = |v: i64, h: u8, most: usize| {
        let ids: Vec<i64> = (0..dice.below(most) as i64 + i64::from(h == 0)).map(|i| *next_id + i).collect();
        *next_id += ids.len() as i64;
        (text(v, 7, h, &ids), Fate::Rows { k, v, ids })
    };
    let kind = dice.below(20);
    let (payload, fate) = match kind {
        0 => (text(-1 - v, 5, 1, &[1]), Fate::Nothing),
        1 => (Some(Bytes::from_static(b"{\"k\":\"x\",\"v\"")), Fate::Rejected),
        2 => (Some(Bytes::from_static(b"{\"k\":\"x\",\"v\":\"12\"}")), Fate::Rejected),
        3 if v < 50 => (text(v, 0, 1, &[2]), Fate::Rejected),
        3 => rows(v, 0, 3),
        4 => (None, Fate::Dropped),
        _ => rows(v, 4, 4),
    };
    Sent { payload, received_at_us, fate, is_brittle: kind == 3 && v >= 50 }
}

/// A row where it must be, once: (source, partition label, position, id). Of a dead letter: its attempt, and negative if it
/// says that the message was replayed.
pub type RowKey = (String, String, i64, i64);

/// What a source has handed out under which position, whoever read it.
#[derive(Default)]
pub struct Expected {
    partitions: BTreeMap<PartitionId, Log>,
}

#[derive(Default)]
struct Log {
    label: String,
    entries: BTreeMap<u64, Entry>,
}

/// A message at a position.
struct Entry {
    sent: Sent,
    /// It is in a record: whether the SQL was mended then.
    settled: Option<bool>,
    /// It came out of the dead letters.
    again: Option<Again>,
}

/// Who a replayed message is, and how often it has been tried then.
#[derive(Clone)]
struct Again {
    partition: PartitionId,
    label: String,
    position: u64,
    attempt: i64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    Points,
    High,
    DeadLetter,
}

pub const OUTPUTS: [(&str, Output); 3] =
    [("lake.points", Output::Points), ("lake.high", Output::High), ("lake.dead_letter", Output::DeadLetter)];

/// key -> (n, total, newest)
pub type Sums = BTreeMap<String, (i64, i64, i64)>;
/// key -> (v, id)
pub type Latest = BTreeMap<String, (i64, i64)>;

impl Expected {
    pub fn add(&mut self, partition: &PartitionId, label: &str, position: u64, sent: Sent) {
        let log = self.partitions.entry(partition.clone()).or_default();
        log.label = label.to_string();
        let before = log.entries.insert(position, Entry { sent, settled: None, again: None });
        assert!(before.is_none(), "{partition}: two messages at position {position}");
    }

    /// A record has the span: what became of its messages stands.
    pub fn settle(&mut self, partition: &PartitionId, span: Span, is_mended: bool) {
        let Some(log) = self.partitions.get_mut(partition) else { return };
        for (position, entry) in log.entries.range_mut(span.from.0..span.to.0) {
            let before = entry.settled.replace(is_mended);
            assert!(before.is_none(), "I2: {partition} {position} is in a record again");
        }
    }

    /// A replay begins: it hands over what records say is dead, the oldest first. What another one handed over behind `from`
    /// is in no record, and was for nothing. Returns where it ends.
    pub fn begin_replay(&mut self, from: Position, limit: Option<usize>) -> Position {
        let replay = PartitionId::new(REPLAY_SOURCE, REPLAY_PARTITION);
        let mut log = self.partitions.remove(&replay).unwrap_or_default();
        log.label = REPLAY_PARTITION.into();
        log.entries.retain(|position, _| *position < from.0);
        let mut tried: BTreeMap<(&PartitionId, u64), (i64, bool)> = BTreeMap::new();
        for entry in log.entries.values() {
            let again = entry.again.as_ref().expect("all of them come again");
            tried.insert((&again.partition, again.position), (again.attempt, entry.is_dead()));
        }
        let mut dead = Vec::new();
        for (partition, log) in &self.partitions {
            for (position, entry) in log.entries.iter().filter(|(_, entry)| entry.is_dead()) {
                let (attempts, is_dead) = tried.get(&(partition, *position)).copied().unwrap_or((1, true));
                if is_dead {
                    let (partition, label) = (partition.clone(), log.label.clone());
                    let again = Again { partition, label, position: *position, attempt: attempts + 1 };
                    dead.push((entry.sent.clone(), again));
                }
            }
        }
        dead.sort_by(|(a, again_a), (b, again_b)| {
            let rank = |sent: &Sent, again: &Again| {
                (sent.received_at_us, again.partition.source.clone(), again.label.clone(), again.position)
            };
            rank(a, again_a).cmp(&rank(b, again_b))
        });
        dead.truncate(limit.unwrap_or(usize::MAX));
        let to = Position(from.0 + dead.len() as u64);
        let entries = dead.into_iter().map(|(sent, again)| Entry { sent, settled: None, again: Some(again) });
        log.entries.extend((from.0..).zip(entries));
        self.partitions.insert(replay, log);
        to
    }

    pub fn partitions(&self) -> impl Iterator<Item = &PartitionId> {
        self.partitions.keys()
    }

    /// The messages of a span.
    pub fn between(&self, partition: &PartitionId, from: u64, to: u64) -> Vec<(u64, Sent)> {
        let log = self.partitions.get(partition);
        let entries = log.into_iter().flat_map(|log| log.entries.range(from..to));
        entries.map(|(at, entry)| (*at, entry.sent.clone())).collect()
    }

    /// The partition behind a row.
    pub fn partition(&self, source: &str, label: &str) -> Option<&PartitionId> {
        self.partitions.iter().find(|(p, log)| *p.source == *source && log.label == label).map(|(p, _)| p)
    }

    /// As a process has it whose SQL is mended, or not: what is in no record yet becomes what that makes of it.
    pub fn under(&self, is_mended: bool) -> Under<'_> {
        Under { expected: self, is_mended }
    }
}

#[derive(Clone, Copy)]
pub struct Under<'a> {
    expected: &'a Expected,
    is_mended: bool,
}

impl<'a> Under<'a> {
    fn below(self, partition: &PartitionId, to: Position) -> impl Iterator<Item = &'a Entry> {
        self.expected
            .partitions
            .get(partition)
            .into_iter()
            .flat_map(move |log| log.entries.range(..to.0))
            .map(|(_, e)| e)
    }

    pub fn counts(self, partition: &PartitionId, to: Position) -> Counts {
        let mut counts = Counts::default();
        for entry in self.below(partition, to) {
            counts.received += 1;
            match entry.fate(self.is_mended) {
                Fate::Rows { .. } | Fate::Nothing => counts.decoded += 1,
                Fate::Rejected => counts.rejected += 1,
                Fate::Dropped => counts.dropped += 1,
            }
        }
        counts
    }

    pub fn rows(self, output: Output, partition: &PartitionId, to: Position) -> u64 {
        self.below(partition, to).map(|entry| entry.ids(output, self.is_mended).len() as u64).sum()
    }

    /// Is this a row that some message makes, now or when it comes again?
    pub fn has(self, output: Output, (source, label, position, id): &RowKey) -> bool {
        let is_of = |entry: &Entry| entry.ids(output, self.is_mended).contains(id);
        let position = *position as u64;
        self.expected.partitions.iter().any(|(partition, log)| {
            if &*partition.source == REPLAY_SOURCE {
                let again = |a: &Again| *a.partition.source == **source && a.label == *label && a.position == position;
                return log.entries.values().any(|entry| entry.again.as_ref().is_some_and(again) && is_of(entry));
            }
            *partition.source == **source && log.label == *label && log.entries.get(&position).is_some_and(is_of)
        })
    }

    /// GROUP BY over everything below the positions, and DISTINCT ON over what comes after those where it began.
    pub fn state(
        self,
        positions: &BTreeMap<PartitionId, Position>,
        begun: Option<&BTreeMap<PartitionId, Position>>,
    ) -> (Sums, Latest) {
        let mut sums = Sums::new();
        let mut best: BTreeMap<&str, (i64, &str, &str, u64, usize, i64)> = BTreeMap::new();
        for (partition, to) in positions {
            let Some(log) = self.expected.partitions.get(partition) else { continue };
            let begun = begun.and_then(|b| b.get(partition)).map_or(0, |at| at.0);
            for (position, entry) in log.entries.range(..to.0) {
                let Fate::Rows { k, v, ids } = entry.fate(self.is_mended) else { continue };
                let (source, label, place) = match &entry.again {
                    None => (&*partition.source, log.label.as_str(), *position),
                    Some(again) => (&*again.partition.source, again.label.as_str(), again.position),
                };
                for (ordinal, id) in ids.iter().enumerate() {
                    let sum = sums.entry(k.to_string()).or_insert((0, 0, i64::MIN));
                    *sum = (sum.0 + 1, sum.1 + v, sum.2.max(*id));
                    if *position < begun {
                        continue;
                    }
                    let rank = (*v, source, label, place, ordinal, *id);
                    let top = best.entry(k).or_insert(rank);
                    *top = rank.max(*top);
                }
            }
        }
        (sums, best.into_iter().map(|(k, top)| (k.to_string(), (top.0, top.5))).collect())
    }
}

impl Entry {
    fn fate(&self, is_mended: bool) -> &Fate {
        match self.sent.is_brittle && !self.settled.unwrap_or(is_mended) {
            true => &Fate::Rejected,
            false => &self.sent.fate,
        }
    }

    /// A record has it, and it was rejected.
    fn is_dead(&self) -> bool {
        self.settled.is_some_and(|is_mended| *self.fate(is_mended) == Fate::Rejected)
    }

    /// Ids of the rows that it makes there.
    fn ids(&self, output: Output, is_mended: bool) -> Vec<i64> {
        let attempt = self.again.as_ref().map_or(1, |again| again.attempt);
        match (output, self.fate(is_mended)) {
            (Output::Points, Fate::Rows { ids, .. }) => ids.clone(),
            (Output::High, Fate::Rows { v, ids, .. }) if *v >= 50 => ids.clone(),
            (Output::DeadLetter, Fate::Rejected) => vec![attempt],
            (Output::DeadLetter, _) if self.again.is_some() => vec![-attempt],
            _ => Vec::new(),
        }
    }
}
