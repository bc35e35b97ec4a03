//! Sources: one folder per connector. A source hands over bytes with positions; it never decodes.
//!
//! The life of a source: config is parsed and validated (pure), `connect` builds it, `run` moves messages until it is
//! told to stop. Back-pressure is `Intake::send` waiting: a source then stops fetching (Kafka) or acknowledging (MQTT),
//! never polling its connection.

pub mod file;
pub mod kafka;
pub mod mqtt;
#[cfg(test)]
pub mod testing; // runs a source in a test and shows what it handed over

use crate::config::section::Section;
use crate::config::spec::Connector;
use crate::env::budget::{Budget, Held};
use crate::env::clock::Clock;
use crate::types::epoch::ChainId;
use crate::types::error::Result;
use crate::types::message::Messages;
use crate::types::position::{PartitionId, Position};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

/// Where a partition starts, from the record.
#[derive(Clone, Debug)]
pub struct Start {
    pub position: Position,
    pub identity: Option<Arc<serde_json::Value>>,
}

/// Positions applied (record written, sinks committed), per partition of this source: acknowledge, trim, commit up to here.
pub type Applied = Arc<BTreeMap<PartitionId, Position>>;

/// Messages on their way to a slot, with the bytes they hold of the in-flight budget.
#[derive(Debug)]
pub struct Handover {
    pub messages: Messages,
    pub held: Held,
}

/// The way from sources to slots. A partition always goes to the same slot, so order inside it is kept.
#[derive(Clone)]
pub struct Intake {
    slots: Vec<mpsc::Sender<Handover>>,
    budget: Budget,
    /// Partition -> slot, filled round-robin in order of appearance.
    assigned: Arc<std::sync::Mutex<BTreeMap<PartitionId, usize>>>,
}

impl Intake {
    pub fn new(slots: Vec<mpsc::Sender<Handover>>, budget: Budget) -> Self {
        assert!(!slots.is_empty(), "an intake needs a slot");
        Intake { slots, budget, assigned: Arc::default() }
    }

    /// Hands messages to their slot; waits while the in-flight budget is used up. False: the engine has stopped and the
    /// messages were not taken (they will be read again). Not cancel-safe in the middle: on cancellation the source must
    /// treat the messages as not handed over and stop.
    pub async fn send(&self, messages: Messages) -> bool {
        let held = self.budget.acquire(messages.bytes() as u64).await;
        let slot = self.slot_of(&messages.partition);
        self.slots[slot].send(Handover { messages, held }).await.is_ok()
    }

    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Puts partitions where they were: the record's assignment, before any source runs.
    pub fn assign(&self, partitions: impl Iterator<Item = (PartitionId, usize)>) {
        self.assigned.lock().expect("no holder panics").extend(partitions);
    }

    pub fn slot_of(&self, partition: &PartitionId) -> usize {
        // A std mutex: nothing awaits while it is held. Guards the assignment only.
        let mut assigned = self.assigned.lock().expect("no holder panics");
        let next = assigned.len() % self.slots.len();
        *assigned.entry(partition.clone()).or_insert(next)
    }
}

/// What a source tells about itself; read by /readyz, metrics, `system.sources`.
#[derive(Debug, Default)]
pub struct SourceStatus {
    pub connected: AtomicBool,
    /// Messages known to be waiting at the source (Kafka lag, journal backlog); -1 unknown.
    pub lag_messages: AtomicI64,
    /// Taken from the wire, before any decision (MQTT redeliveries included).
    pub messages_in: AtomicU64,
    pub bytes_in: AtomicU64,
    pub reconnects: AtomicU64,
    /// What is wrong, for people: why it is not connected, or what holds it up while it is. Empty when all is well.
    pub trouble: std::sync::Mutex<String>,
}

impl SourceStatus {
    pub fn up(&self) {
        self.connected.store(true, Ordering::Relaxed);
        self.trouble.lock().expect("no holder panics").clear();
    }

    /// Connected or not, something holds it up.
    pub fn held_up(&self, why: impl Into<String>) {
        *self.trouble.lock().expect("no holder panics") = why.into();
    }

    pub fn down(&self, why: impl Into<String>) {
        self.connected.store(false, Ordering::Relaxed);
        *self.trouble.lock().expect("no holder panics") = why.into();
    }
}

/// Everything a source needs while it runs.
#[derive(Clone)]
pub struct SourceContext {
    pub intake: Intake,
    /// Per partition name; a partition that is not here starts where the config says.
    pub start: Arc<BTreeMap<Arc<str>, Start>>,
    /// `serve --once`: read up to the end there was at the start, then return.
    pub once: bool,
    pub applied: watch::Receiver<Applied>,
    /// Stop reading; return Ok soon. Nothing that was not handed over counts.
    pub stop: CancellationToken,
    pub status: Arc<SourceStatus>,
    pub clock: Clock,
}

/// What a source is given when it is opened, beside its own section.
#[derive(Clone, Debug)]
pub struct OpenContext {
    /// The pipeline's data directory; a source that keeps something there uses a folder under its own name.
    pub data_dir: PathBuf,
    /// The chain this process has claimed: what a source keeps on disk belongs to it, and another chain's is refused.
    pub chain: ChainId,
    /// Bytes that queues of the client library may hold: this source's share of the in-flight budget.
    pub queue_bytes: u64,
    /// A damaged journal may be mended at the price of the messages that cannot be read.
    pub quarantine_journal: bool,
    /// What a broker has purged before it was read may be given up.
    pub skip_purged: bool,
}

/// A connector of this build: how its section is checked (pure), described and opened. One static per folder; adding it
/// to `KINDS` is all the rest of the house needs.
#[derive(Clone, Copy)]
pub struct Kind {
    pub connector: Connector,
    /// Can be read again from a position (file, Kafka): `serve --once` takes only these.
    pub replayable: bool,
    /// Reads and validates the section once more and builds the source. Secrets are looked up here, not before.
    pub open: fn(&Section, OpenContext) -> Result<Box<dyn Source>>,
}

/// Every source connector of this build.
pub static KINDS: &[Kind] = &[file::KIND, kafka::KIND, mqtt::KIND];

/// A source, opened and about to connect.
#[async_trait::async_trait]
pub trait Source: Send {
    /// Runs until the end (`once`), `stop`, or an error that only a human can mend (`Refused`, `Config`, `Failed`).
    /// What a retry can mend (broker down) is retried inside, with backoff and `status.down`.
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()>;
}
