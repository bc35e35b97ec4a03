//! Runs a source in a test and shows what it handed over, partition by partition.

use crate::env::budget::Budget;
use crate::env::clock::Clock;
use crate::sources::{Applied, Handover, Intake, Source, SourceContext, SourceStatus, Start};
use crate::types::error::Result;
use crate::types::message::Messages;
use crate::types::position::{PartitionId, Position};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Long enough for a loaded machine; a test that waits this long has failed.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// A running source and the far end of its intake.
pub struct Running {
    pub taken: mpsc::Receiver<Handover>,
    pub applied: watch::Sender<Applied>,
    pub stop: CancellationToken,
    pub status: Arc<SourceStatus>,
    pub task: JoinHandle<Result<()>>,
}

/// What the record would hold of a partition after what was taken.
pub type Starts = BTreeMap<Arc<str>, Start>;

pub fn run(source: impl Source + 'static, start: Starts, once: bool) -> Running {
    let (to_slot, taken) = mpsc::channel(4);
    // As the engine does: what the record knows is applied.
    let known: BTreeMap<_, _> = start.iter().map(|(name, at)| (PartitionId::new("k", name), at.position)).collect();
    let (applied, applied_receiver) = watch::channel(Arc::new(known));
    let (stop, status) = (CancellationToken::new(), Arc::new(SourceStatus::default()));
    let context = SourceContext {
        intake: Intake::new(vec![to_slot], Budget::new(64 * 1024 * 1024)),
        start: Arc::new(start),
        once,
        applied: applied_receiver,
        stop: stop.clone(),
        status: status.clone(),
        clock: Clock::System,
    };
    let task = tokio::spawn(Box::new(source).run(context));
    Running { taken, applied, stop, status, task }
}

impl Running {
    pub async fn next(&mut self) -> Option<Messages> {
        let taken = tokio::time::timeout(PATIENCE, self.taken.recv()).await.expect("the source hands something over");
        taken.map(|h| h.messages)
    }

    /// Takes until so many messages have come.
    pub async fn take(&mut self, messages: usize) -> Vec<Messages> {
        let (mut out, mut count) = (Vec::new(), 0);
        while count < messages {
            let next = self.next().await.expect("the source ended early");
            count += next.items.len();
            out.push(next);
        }
        assert_eq!(count, messages, "more came than was expected");
        out
    }

    /// Takes everything until the source returns.
    pub async fn finish(mut self) -> (Vec<Messages>, Result<()>) {
        let mut out = Vec::new();
        while let Some(messages) = self.next().await {
            out.push(messages);
        }
        (out, self.task.await.expect("the source does not panic"))
    }

    pub async fn stop(self) -> Result<()> {
        self.stop.cancel();
        let (_, ended) = self.finish().await;
        ended
    }

    pub async fn wait_for_status(&self, what: &str, reached: impl Fn(&SourceStatus) -> bool) {
        let wait = async {
            while !reached(&self.status) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| panic!("waited in vain for {what}"));
    }
}

/// Checks I2 (contiguous spans per partition, messages inside and in order) and gives the payloads: "partition:
/// position=payload ..", `-` for a tombstone.
pub fn shown(taken: &[Messages]) -> Vec<String> {
    let mut ends: BTreeMap<&PartitionId, Position> = BTreeMap::new();
    let mut lines: BTreeMap<&PartitionId, String> = BTreeMap::new();
    for messages in taken {
        let from = messages.span.from;
        assert_eq!(*ends.get(&*messages.partition).unwrap_or(&from), from, "spans follow each other");
        let mut least = from;
        let line = lines.entry(&messages.partition).or_insert_with(|| format!("{}:", messages.partition.name));
        for m in &messages.items {
            assert!(m.position >= least && m.position < messages.span.to, "{} in {}", m.position, messages.span);
            least = Position(m.position.0 + 1);
            let payload = m.payload.as_ref().map_or("-".into(), |p| String::from_utf8_lossy(p).into_owned());
            line.push_str(&format!(" {}={payload}", m.position));
        }
        ends.insert(&messages.partition, messages.span.to);
    }
    lines.into_iter().map(|(partition, line)| format!("{line} |{}", ends[partition])).collect()
}

/// Where the next start goes on after what was taken.
pub fn starts(taken: &[Messages]) -> Starts {
    let mut starts = Starts::new();
    for m in taken {
        starts.insert(m.partition.name.clone(), Start { position: m.span.to, identity: m.identity.clone() });
    }
    starts
}
