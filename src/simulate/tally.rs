//! The account of what was sent, exact to the row: what a pipeline's own counts must agree with.

use crate::simulate::sent::{Class, Kind, Sent};
use serde::Serialize;
use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Tally {
    pub messages: u64,
    /// Of the payloads.
    pub bytes: u64,
    /// Measurements in all decodable messages, duplicates included: the rows a pipeline without dedup delivers.
    pub rows: u64,
    /// The same without duplicates.
    pub rows_distinct: u64,
    pub malformed: u64,
    /// Vehicles with at least one decodable kinematic message: the keys of hot state.
    pub vehicles: u64,
    /// Kind, then class.
    pub by_kind: BTreeMap<&'static str, BTreeMap<&'static str, Count>>,
    /// MQTT topics with the vehicle as `+`.
    pub by_topic: BTreeMap<String, TopicCount>,
    /// Published again after a lost connection: the broker may have had them already.
    pub republished: u64,
    pub elapsed_ms: u64,
    #[serde(skip)]
    seen: HashSet<Arc<str>>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Count {
    pub messages: u64,
    pub rows: u64,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct TopicCount {
    pub messages: u64,
    pub rows: u64,
    pub malformed: u64,
}

impl Tally {
    pub fn add(&mut self, sent: &Sent) {
        let rows = u64::from(sent.rows);
        let is_malformed = sent.class == Class::Malformed;
        self.messages += 1;
        self.bytes += sent.payload.len() as u64;
        self.rows += rows;
        self.malformed += u64::from(is_malformed);
        if sent.class != Class::Duplicate {
            self.rows_distinct += rows;
        }
        if sent.kind == Kind::Kinematic && !is_malformed && !self.seen.contains(&sent.key) {
            self.seen.insert(sent.key.clone());
            self.vehicles += 1;
        }
        let count = self.by_kind.entry(sent.kind.name()).or_default().entry(sent.class.name()).or_default();
        count.messages += 1;
        count.rows += rows;
        let topic = self.topic(sent);
        topic.messages += 1;
        topic.rows += rows;
        topic.malformed += u64::from(is_malformed);
    }

    fn topic(&mut self, sent: &Sent) -> &mut TopicCount {
        let pattern = if sent.topic.contains('/') && !sent.key.is_empty() {
            let levels = sent.topic.split('/').map(|level| if level == sent.key.as_ref() { "+" } else { level });
            levels.collect::<Vec<_>>().join("/")
        } else {
            sent.topic.to_string()
        };
        self.by_topic.entry(pattern).or_default()
    }

    /// Messages of a kind, all classes together.
    pub fn messages_of(&self, kind: Kind) -> u64 {
        self.by_kind.get(kind.name()).into_iter().flat_map(BTreeMap::values).map(|count| count.messages).sum()
    }
}
