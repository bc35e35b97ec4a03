//! Messages as the simulation sends them, and what every one of them should become: the model of the pipeline's SQL.

use crate::engine::simulation::dice::Dice;
use crate::types::count::Counts;
use crate::types::position::{PartitionId, Position};
use bytes::Bytes;
use std::collections::BTreeMap;

/// Small, and with everything that matters: a union, an unnest, an error at run time, two shapes of state, two tables.
const SQL: &str = "
    CREATE TABLE a (k TEXT NOT NULL, v BIGINT NOT NULL, d BIGINT, ids BIGINT[]);
    CREATE TABLE j (k TEXT NOT NULL, v BIGINT NOT NULL, d BIGINT, ids BIGINT[]);
    CREATE VIEW every AS
        SELECT k, v, 100 / d AS q, ids, _source AS s, _partition AS p, _position AS pos FROM a WHERE v >= 0
        UNION ALL
        SELECT k, v, 100 / d AS q, ids, _source AS s, _partition AS p, _position AS pos FROM j WHERE v >= 0;
    CREATE VIEW points AS SELECT k, v, q, s, p, pos, unnest(ids) AS id FROM every;
    CREATE MATERIALIZED VIEW sums AS
        SELECT k, count(*) AS n, sum(v) AS total, max(id) AS newest FROM points GROUP BY k;
    CREATE MATERIALIZED VIEW latest AS
        SELECT DISTINCT ON (k) k, v, id FROM points ORDER BY k, v DESC;
    INSERT INTO lake.points SELECT id, s, p, pos, k, v, q FROM points;
    INSERT INTO lake.high SELECT id, s, p, pos FROM points WHERE v >= 50;
";
const SQL_KV: &str = "INSERT INTO kv.sums SELECT * FROM sums;";
/// With the shape of `sums`.
const SQL_MORE: &str = "CREATE MATERIALIZED VIEW more AS SELECT k, count(*) AS n, sum(v) AS total, max(id) AS newest FROM points GROUP BY k;";

/// The one view whose rows no table can give back: equal ones are told apart by their order in a message.
pub const BEGINS_EMPTY: &str = "latest";

/// How many ways there are to write it.
pub const VARIANTS: usize = 4;

/// As it changes from process to process: other plans, and the same answers.
pub fn sql(variant: usize, kv: bool) -> String {
    let mut text = SQL.to_string();
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
    pub fate: Fate,
}

/// The next message; ids are dense over the whole run.
pub fn message(dice: &Dice, next_id: &mut i64) -> Sent {
    let k = *dice.pick(&["x", "y", "z", "w"]);
    let v = dice.between(0, 99) as i64;
    let text = |v: i64, d: &str, ids: &[i64]| Some(format!(r#"{{"k":"{k}","v":{v},"d":{d},"ids":{ids:?}}}"#).into());
    match dice.below(20) {
        0 => Sent { payload: text(-1 - v, "5", &[1]), fate: Fate::Nothing },
        1 => Sent { payload: Some(Bytes::from_static(b"{\"k\":\"x\",\"v\"")), fate: Fate::Rejected },
        2 => Sent { payload: Some(Bytes::from_static(b"{\"k\":\"x\",\"v\":\"12\"}")), fate: Fate::Rejected },
        3 => Sent { payload: text(v, "0", &[2]), fate: Fate::Rejected },
        4 => Sent { payload: None, fate: Fate::Dropped },
        _ => {
            let ids: Vec<i64> = (0..dice.below(4) as i64).map(|i| *next_id + i).collect();
            *next_id += ids.len() as i64;
            Sent { payload: text(v, "7", &ids), fate: Fate::Rows { k, v, ids } }
        }
    }
}

/// A row where it must be, once: (source, partition label, position, id). A dead letter's id is 0.
pub type RowKey = (String, String, i64, i64);

/// What a source has handed out under which position, whoever read it.
#[derive(Default)]
pub struct Expected {
    partitions: BTreeMap<PartitionId, Log>,
}

#[derive(Default)]
pub struct Log {
    label: String,
    sent: BTreeMap<u64, Sent>,
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
        let before = log.sent.insert(position, sent);
        assert!(before.is_none(), "{partition}: two messages at position {position}");
    }

    fn below(&self, partition: &PartitionId, to: Position) -> impl Iterator<Item = (&u64, &Sent)> {
        self.partitions.get(partition).into_iter().flat_map(move |log| log.sent.range(..to.0))
    }

    pub fn counts(&self, partition: &PartitionId, to: Position) -> Counts {
        let mut counts = Counts::default();
        for (_, sent) in self.below(partition, to) {
            counts.received += 1;
            match sent.fate {
                Fate::Rows { .. } | Fate::Nothing => counts.decoded += 1,
                Fate::Rejected => counts.rejected += 1,
                Fate::Dropped => counts.dropped += 1,
            }
        }
        counts
    }

    pub fn rows(&self, output: Output, partition: &PartitionId, to: Position) -> u64 {
        self.below(partition, to).map(|(_, sent)| ids(output, sent).len() as u64).sum()
    }

    pub fn partitions(&self) -> impl Iterator<Item = &PartitionId> {
        self.partitions.keys()
    }

    /// The messages of a span.
    pub fn between(&self, partition: &PartitionId, from: u64, to: u64) -> Vec<(u64, Sent)> {
        let log = self.partitions.get(partition);
        log.into_iter().flat_map(|log| log.sent.range(from..to)).map(|(at, sent)| (*at, sent.clone())).collect()
    }

    /// Is this a row that some message makes?
    pub fn has(&self, output: Output, (source, label, position, id): &RowKey) -> bool {
        let of = |(p, log): (&PartitionId, &Log)| {
            *p.source == **source
                && log.label == *label
                && log.sent.get(&(*position as u64)).is_some_and(|sent| ids(output, sent).contains(id))
        };
        self.partitions.iter().any(of)
    }

    /// The partition behind a row.
    pub fn partition(&self, source: &str, label: &str) -> Option<&PartitionId> {
        self.partitions.iter().find(|(p, log)| *p.source == *source && log.label == label).map(|(p, _)| p)
    }

    /// GROUP BY over everything below the positions, and DISTINCT ON over what comes after those where it began.
    pub fn state(
        &self,
        positions: &BTreeMap<PartitionId, Position>,
        begun: Option<&BTreeMap<PartitionId, Position>>,
    ) -> (Sums, Latest) {
        let mut sums = Sums::new();
        let mut best: BTreeMap<&str, (i64, &str, &str, u64, usize, i64)> = BTreeMap::new();
        for (partition, to) in positions {
            let Some(log) = self.partitions.get(partition) else { continue };
            let begun = begun.and_then(|b| b.get(partition)).map_or(0, |at| at.0);
            for (position, sent) in log.sent.range(..to.0) {
                let Fate::Rows { k, v, ids } = &sent.fate else { continue };
                for (ordinal, id) in ids.iter().enumerate() {
                    let sum = sums.entry(k.to_string()).or_insert((0, 0, i64::MIN));
                    *sum = (sum.0 + 1, sum.1 + v, sum.2.max(*id));
                    if *position < begun {
                        continue;
                    }
                    let rank = (*v, &*partition.source, log.label.as_str(), *position, ordinal, *id);
                    let top = best.entry(k).or_insert(rank);
                    *top = rank.max(*top);
                }
            }
        }
        (sums, best.into_iter().map(|(k, top)| (k.to_string(), (top.0, top.5))).collect())
    }
}

/// Ids of the rows that a message makes there.
fn ids(output: Output, sent: &Sent) -> Vec<i64> {
    match (output, &sent.fate) {
        (Output::Points, Fate::Rows { ids, .. }) => ids.clone(),
        (Output::High, Fate::Rows { v, ids, .. }) if *v >= 50 => ids.clone(),
        (Output::DeadLetter, Fate::Rejected) => vec![0],
        _ => Vec::new(),
    }
}
