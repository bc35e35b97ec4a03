//! What a source hands over: bytes with positions and metadata, never decoded.

use crate::types::position::{PartitionId, Position, Span};
use bytes::Bytes;
use std::sync::Arc;

/// Headers of a message in their order; a key may repeat and a value may be absent.
pub type Headers = Vec<(Arc<str>, Option<Bytes>)>;

#[derive(Clone, Debug)]
pub struct Message {
    /// In the partition that hands it over.
    pub position: Position,
    /// `_topic`: Kafka and MQTT: the topic. File: none.
    pub topic: Option<Arc<str>>,
    pub key: Option<Bytes>,
    /// `None` is a tombstone: counted as dropped, by the rule that a tombstone is no row.
    pub payload: Option<Bytes>,
    pub headers: Option<Arc<Headers>>,
    /// `_timestamp`: the source's own, microseconds UTC.
    pub timestamp_us: Option<i64>,
    /// `_received_at`: fixed at first durable receipt, microseconds UTC.
    pub received_at_us: i64,
    /// It comes again, out of the dead letters: who it was when it came first.
    pub replayed: Option<Arc<Replayed>>,
}

/// The source that dead letters come again from, as a record names it. No `[source.x]` can have a hyphen.
pub const REPLAY_SOURCE: &str = "dead-letters";
/// Its one partition; positions count replayed messages.
pub const REPLAY_PARTITION: &str = "replay";

/// Who a replayed message is: `_source`, `_partition` and `_position` of it. The message's own position is its place in
/// the replay; all else of it is as it was first received.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    pub source: Arc<str>,
    pub partition_label: Arc<str>,
    pub position: Position,
    /// How often it has been tried before.
    pub attempts: u32,
}

impl Message {
    /// Bytes this message holds in memory, for the in-flight budget.
    pub fn bytes(&self) -> usize {
        // 128: the struct and its share of the vector; headers are rare and counted roughly.
        128 + self.key.as_ref().map_or(0, |k| k.len())
            + self.payload.as_ref().map_or(0, |p| p.len())
            + self.headers.as_ref().map_or(0, |h| h.len() * 64)
    }
}

/// Messages of one partition in order, with the span they cover. `items` may be empty: a span of gaps, or `end` alone.
#[derive(Clone, Debug)]
pub struct Messages {
    pub partition: Arc<PartitionId>,
    /// `_partition` of these messages: Kafka "3", file: its path, MQTT "journal".
    pub partition_label: Arc<str>,
    pub span: Span,
    pub items: Vec<Message>,
    /// What the source needs to recognise this partition after a restart (file: size, etag, head hash; Kafka: cluster
    /// and topic id). Kept in the record beside the position and handed back at the next start.
    pub identity: Option<Arc<serde_json::Value>>,
}

impl Messages {
    pub fn bytes(&self) -> usize {
        self.items.iter().map(Message::bytes).sum()
    }
}
