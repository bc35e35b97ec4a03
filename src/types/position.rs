//! Where in a partition: positions, spans and partition identities, the same for every source.

use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// The next message to read in a partition. Kafka: last offset + 1. File: decompressed byte. Journal: sequence number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Position(pub u64);

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A half-open range `[from, to)` of a partition; the next span's `from` is this span's `to`. Gaps inside are normal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Span {
    pub from: Position,
    pub to: Position,
}

impl Span {
    pub fn new(from: Position, to: Position) -> Self {
        assert!(from <= to, "a span never runs backwards: [{from}, {to})");
        Span { from, to }
    }

    pub fn is_empty(&self) -> bool {
        self.from == self.to
    }

    /// Extends this span by the one that follows it. I2: contiguous, in order.
    pub fn extend(&mut self, next: Span) {
        crate::types::invariant::check(crate::types::invariant::I2, self.to == next.from, || {
            format!("span {next} does not follow {self}")
        });
        self.to = next.to;
    }
}

impl fmt::Display for Span {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{}, {})", self.from, self.to)
    }
}

/// A partition of a source. `name` is unique within the source: Kafka "topic/3", file: its path, MQTT: "journal".
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PartitionId {
    pub source: Arc<str>,
    pub name: Arc<str>,
}

impl PartitionId {
    pub fn new(source: &str, name: &str) -> Self {
        PartitionId { source: source.into(), name: name.into() }
    }
}

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.source, self.name)
    }
}
