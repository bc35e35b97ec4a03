//! What is in a checkpoint location, read beside a pipeline that may be running: takes no lock, changes nothing.
//!
//! What is wrong is told and not stumbled over: a broken chain is when somebody looks here.

use crate::checkpoint::place::{RECORDS, STATE, record_epoch, record_path};
use crate::checkpoint::record::Record;
use crate::engine::chain::Chain;
use crate::types::epoch::Epoch;
use crate::types::error::Result;
use futures::stream::{self, StreamExt, TryStreamExt};
use std::collections::BTreeSet;

/// Records read at a time.
const READS_AT_ONCE: usize = 16;

/// Listings until what is missing counts as missing: the clean-up of a running pipeline deletes while we read.
const LISTINGS_MAX: usize = 3;

#[derive(Clone, Debug, Default)]
pub struct Survey {
    /// Those that can be read, oldest first.
    pub records: Vec<Record>,
    pub problems: Vec<String>,
}

impl Survey {
    pub fn head(&self) -> Option<&Record> {
        self.records.last()
    }

    /// Whether epoch N is known to be applied. A claim has nothing to apply; of the newest epoch only the next record
    /// will tell.
    pub fn is_applied(&self, record: &Record) -> bool {
        let through = self.head().map_or(Epoch(0), |head| head.applied_through);
        record.epoch <= through || record.landings().next().is_none()
    }

    /// Messages of this epoch: counts are cumulative. None: the record before is no longer there.
    pub fn messages(&self, record: &Record) -> Option<u64> {
        let total = |r: &Record| r.partitions.iter().map(|p| p.counts.received).sum::<u64>();
        if record.parent == Epoch(0) || record.partitions.iter().all(|p| p.span.is_empty()) {
            return Some(0);
        }
        let before = self.records.iter().find(|r| r.epoch == record.parent)?;
        Some(total(record).saturating_sub(total(before)))
    }
}

pub async fn survey(chain: &Chain) -> Result<Survey> {
    let mut listings = 0;
    loop {
        listings += 1;
        let (found, settled) = look(chain).await?;
        if settled || listings == LISTINGS_MAX {
            return Ok(found);
        }
    }
}

/// False: something is missing that may have been deleted while we looked.
async fn look(chain: &Chain) -> Result<(Survey, bool)> {
    let mut found = Survey::default();
    let mut epochs = BTreeSet::new();
    for path in chain.list(RECORDS).await? {
        match record_epoch(&path) {
            Some(epoch) => drop(epochs.insert(epoch)),
            None => found.problems.push(format!("\"{path}\" is not the name of a record")),
        }
    }
    let read = |epoch: Epoch| async move { chain.read(epoch).await.map(|read| (epoch, read)) };
    let read: Vec<_> = stream::iter(epochs).map(read).buffered(READS_AT_ONCE).try_collect().await?;
    let mut missing = false;
    let mut expected = None;
    let floor = match read.last() {
        Some((_, Some(Ok(head)))) => head.floor,
        _ => Epoch(0),
    };
    for (epoch, read) in read {
        if epoch < floor {
            let path = record_path(epoch);
            found.problems.push(format!(
                "\"{path}\" is left over: a process that stood still wrote it under a name that was cleaned up; the next \
                 start sets it aside"
            ));
            continue;
        }
        if let Some(expected) = expected.filter(|expected| *expected != epoch) {
            missing = true;
            let last = Epoch(epoch.0 - 1);
            let paths = if expected == last {
                format!("\"{}\" is missing", record_path(expected))
            } else {
                format!("\"{}\" to \"{}\" are missing", record_path(expected), record_path(last))
            };
            found.problems.push(paths);
        }
        expected = Some(epoch.next());
        match read {
            Some(Ok(record)) => found.records.push(record),
            Some(Err(why)) => found.problems.push(format!("\"{}\": {why}", record_path(epoch))),
            None => {
                missing = true;
                found.problems.push(format!("\"{}\" is listed and not there", record_path(epoch)));
            }
        }
    }
    let Some(head) = found.records.last().cloned() else { return Ok((found, !missing)) };
    for record in found.records.iter().filter(|r| r.chain != head.chain) {
        let path = record_path(record.epoch);
        found.problems.push(format!("\"{path}\" belongs to chain {}, not to chain {}", record.chain, head.chain));
    }
    // Of the head alone: those of older records may go at any moment.
    let segments: BTreeSet<String> = chain.list(STATE).await?.into_iter().collect();
    for segment in head.views.iter().flat_map(|v| &v.segments).filter(|s| !segments.contains(&s.path)) {
        missing = true;
        found.problems.push(format!("\"{}\" is referenced by record {} and missing", segment.path, head.epoch));
    }
    Ok((found, !missing))
}

#[cfg(test)]
mod tests;
