//! Clean-up of the checkpoint location: lists, asks `checkpoint::retain`, deletes. Off the hot path.
//!
//! A task of its own that follows the applied epochs. It never ends the pipeline and never holds up an epoch: a failure is
//! logged and counted, and a later epoch tries again. It may be cut off at any await (order of deletion: `retain`).

use crate::checkpoint::place::{RECORDS, STATE, record_epoch, record_path};
use crate::checkpoint::retain::{Deletions, Observed, Refusal, deletions, references, split};
use crate::engine::chain::Chain;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::error::{Error, Result};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::sync::watch;

/// Epochs between two clean-ups, unless fewer records are retained: listing costs more than a few small objects do.
const EPOCHS_BETWEEN: u64 = 10;

/// Objects deleted at once; the rest goes next time. Bounds what a clean-up after a long time without one does in a row.
const DELETIONS_MAX: usize = 1_000;

/// The clean-up of a running pipeline.
pub struct Cleaner {
    pub cleanup: Cleanup,
    /// Epochs as they are applied. When the other end is dropped, the pipeline has ended.
    pub heads: watch::Receiver<Epoch>,
}

impl Cleaner {
    pub async fn run(mut self) {
        let between = EPOCHS_BETWEEN.min(self.cleanup.retain as u64);
        let mut due = Epoch(0);
        loop {
            let head = *self.heads.borrow_and_update();
            if head >= due {
                due = Epoch(head.0 + between);
                match self.cleanup.pass(head).await {
                    Ok(Done { records: 0, segments: 0 }) => {}
                    Ok(Done { records, segments }) => {
                        tracing::debug!(records, segments, "checkpoint location cleaned up");
                    }
                    Err(error) => {
                        metrics::counter!("pipe_checkpoint_cleanup_failures_total").increment(1);
                        tracing::warn!(next_try_at_epoch = due.0, "checkpoint location not cleaned up: {error}");
                    }
                }
            }
            if self.heads.changed().await.is_err() {
                return;
            }
        }
    }
}

/// What a pass deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Done {
    pub records: usize,
    pub segments: usize,
}

pub struct Cleanup {
    chain: Chain,
    id: ChainId,
    retain: usize,
    claim: Epoch,
    /// Of records read before: a record never changes (I8), so it is read once.
    known: BTreeMap<Epoch, BTreeSet<String>>,
    /// Segments left over that were told of.
    told: usize,
    /// Records below are gone. Records to come say so.
    pub floor: Arc<AtomicU64>,
}

impl Cleanup {
    pub fn new(chain: Chain, id: ChainId, retain: usize, claim: Epoch) -> Self {
        Cleanup { chain, id, retain, claim, known: BTreeMap::new(), told: 0, floor: Arc::default() }
    }

    /// One clean-up under the head that was applied last.
    pub async fn pass(&mut self, head: Epoch) -> Result<Done> {
        let mut records = self.chain.list(RECORDS).await?;
        let floor = Epoch(self.floor.load(Ordering::Relaxed));
        for epoch in records.iter().filter_map(|path| record_epoch(path)).filter(|epoch| *epoch < floor) {
            self.chain.set_aside(epoch).await?;
        }
        records.retain(|path| record_epoch(path).is_none_or(|epoch| epoch >= floor));
        let split = split(&records, head, self.retain).map_err(refused)?;
        let below_exists = match split.below() {
            Some(below) => self.chain.exists(below).await?,
            None => false,
        };
        let read = self.references(&split.stay).await?;
        // After the records: every segment that a listed record references existed before it.
        let segments = self.chain.list(STATE).await?;
        let observed =
            Observed { split: &split, below_exists, references: &read, segments: &segments, head, claim: self.claim };
        let mut found = deletions(&observed).map_err(refused)?;
        metrics::gauge!("pipe_checkpoint_records").set((split.stay.len() + split.go.len()) as f64);
        if found.left.len() > self.told {
            tracing::info!(segments = found.left.len(), first = %found.left[0], "state segments of an attempt that is not ours stay until their epoch is no longer retained");
        }
        self.told = found.left.len();
        bound(&mut found, DELETIONS_MAX);
        self.delete(found).await
    }

    async fn references(&mut self, stay: &[Epoch]) -> Result<BTreeMap<Epoch, Result<BTreeSet<String>, String>>> {
        self.known.retain(|epoch, _| stay.contains(epoch));
        let mut all = BTreeMap::new();
        for epoch in stay {
            let found = match self.known.get(epoch) {
                Some(known) => Ok(known.clone()),
                None => references(self.chain.read(*epoch).await?, &self.id),
            };
            if let Ok(paths) = &found {
                self.known.entry(*epoch).or_insert_with(|| paths.clone());
            }
            all.insert(*epoch, found);
        }
        Ok(all)
    }

    /// One after the other: the next record goes only when the one before is known to be gone.
    async fn delete(&self, found: Deletions) -> Result<Done> {
        let mut done = Done::default();
        for epoch in &found.records {
            self.chain.delete(&record_path(*epoch)).await?;
            self.floor.fetch_max(epoch.next().0, Ordering::Relaxed);
            done.records += 1;
            metrics::counter!("pipe_checkpoint_cleanup_deleted_total", "object" => "record").increment(1);
        }
        for path in &found.segments {
            self.chain.delete(path).await?;
            done.segments += 1;
            metrics::counter!("pipe_checkpoint_cleanup_deleted_total", "object" => "segment").increment(1);
        }
        Ok(done)
    }
}

/// The oldest records; segments only when no record that goes is left.
fn bound(found: &mut Deletions, max: usize) {
    if found.records.len() >= max {
        found.records.truncate(max);
        found.segments.clear();
    } else {
        found.segments.truncate(max - found.records.len());
    }
}

fn refused(refusal: Refusal) -> Error {
    Error::refused(format!("nothing was deleted: {}", refusal.what), refusal.hint)
}

#[cfg(test)]
mod tests;
