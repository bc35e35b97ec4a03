//! Observe, decide, roll forward, claim, restore: everything before a source may connect.

pub mod rebuild; // state computed anew from a table

use crate::checkpoint::decide::{Observed, ObservedTable, Step, decide, left_over};
use crate::checkpoint::feeds::{Feeding, first_feeds, next_feeds};
use crate::checkpoint::next::{claim_record, first_record};
use crate::checkpoint::record::{Record, SegmentRef, ViewRecord};
use crate::engine::chain::Chain;
use crate::engine::checkpointer::{Authorship, TableEntry, apply, write_record};
use crate::engine::lake::Lake;
use crate::engine::recover::rebuild::{Counts, Fate, Rebuilder};
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::env::clock::Clock;
use crate::env::offload::Offload;
use crate::sinks::delta::census::Census;
use crate::sinks::delta::table::TableSpec;
use crate::sinks::kv::KvSink;
use crate::sql::plan::{MaterializedView, Plan};
use crate::sql::why_changed;
use crate::state::view::{Merge, ViewState};
use crate::types::epoch::{ChainId, Epoch};
use crate::types::error::{Error, Result};
use async_trait::async_trait;
use futures::future::{try_join, try_join_all};
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

pub struct Recovered {
    /// The claim record just written: where everything starts.
    pub claim: Record,
    pub tables: Vec<TableEntry>,
}

/// One process per data directory; held for the life of the process, freed by the system when it dies.
pub fn lock_data_dir(data_dir: &Path) -> Result<File> {
    let failed = |e: std::io::Error| {
        Error::refused(
            format!("data_dir \"{}\" cannot be used: {e}", data_dir.display()),
            "Make the directory writable for this user, or set [pipeline] data_dir to one that is.",
        )
    };
    std::fs::create_dir_all(data_dir).map_err(failed)?;
    let path = data_dir.join("lock");
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            return Err(Error::refused(
                format!("data_dir \"{}\" is in use by another process ({})", data_dir.display(), holder.trim()),
                "Stop that process first, or give this pipeline its own data_dir.",
            ));
        }
        Err(TryLockError::Error(e)) => return Err(failed(e)),
    }
    file.set_len(0).and_then(|_| writeln!(file, "pid {}", std::process::id())).map_err(failed)?;
    Ok(file)
}

/// host/pid/start, for people who read a record.
pub fn owner(clock: &Clock) -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_else(|_| "host".into());
    format!("{}/{}/{}", host.trim(), std::process::id(), clock.now_us())
}

/// The evidence, the decision, and its consequences up to the claim record.
pub struct Recovery<'a> {
    pub chain: &'a Chain,
    pub pipeline: &'a str,
    pub plan: &'a Plan,
    pub author: &'a Authorship,
    pub clock: &'a Clock,
    pub lake: &'a dyn Lake,
    /// Tables by sink that the plan writes.
    pub wanted: Vec<(String, TableSpec)>,
    pub kv: &'a BTreeMap<String, Arc<KvSink>>,
    pub journals: Vec<(String, ChainId)>,
    /// The share of the memory budget that state has.
    pub state_bytes: u64,
    pub offload: Offload,
}

impl Recovery<'_> {
    /// May be called again after an error: what was done by then is seen.
    pub async fn run(&self) -> Result<Recovered> {
        let records = self.chain.epochs().await?;
        let head = match records.last() {
            Some(newest) => self.chain.read(*newest).await?,
            None => None,
        };
        // A fresh chain gets its id here, so that tables can be opened under it; it exists once record 1 does.
        let chain_id = match &head {
            Some(Ok(record)) => record.chain.clone(),
            _ => ChainId(self.author.uuids.fresh()),
        };
        let (tables, observed_tables) = self.open_tables(&chain_id).await?;
        let mut kv = Vec::new();
        for (name, sink) in self.kv {
            kv.extend(sink.markers()?.into_values().map(|marker| (name.clone(), marker.chain)));
        }
        let observed = Observed {
            pipeline: self.pipeline.to_string(),
            records,
            head,
            tables: observed_tables,
            kv,
            journals: self.journals.clone(),
        };
        let claim = match decide(&observed) {
            Step::Refuse { what, hint } => {
                // The tables are asked after the listing. Records written or cleaned up in between would make a chain that
                // goes on look like one that has lost its end.
                if self.chain.epochs().await? != observed.records {
                    let what = "the chain went on while the start looked at it: another process is running";
                    return Err(Error::Unavailable(what.into()));
                }
                return Err(Error::Refused { what, hint });
            }
            Step::Fresh => {
                tracing::info!(chain = %chain_id, "new chain: nothing was recorded before");
                let mut first = first_record(chain_id, self.pipeline, self.author.now(self.clock.now_us()));
                first.feeds = first_feeds(&feedings(self.plan));
                first
            }
            Step::Continue { head, apply: missing, .. } => {
                for epoch in left_over(&observed) {
                    self.chain.set_aside(epoch).await?;
                }
                self.roll_forward(&head, missing, &tables).await?;
                self.claim_after(*head, &tables).await?
            }
        };
        #[cfg(test)]
        if planted(Bug::ClaimSkipped) {
            return Ok(Recovered { claim, tables });
        }
        write_record(self.chain, &claim, self.clock, |_| {}).await?;
        tracing::info!(chain = %claim.chain, epoch = claim.epoch.0, incarnation = claim.incarnation, "chain claimed");
        Ok(Recovered { claim, tables })
    }

    async fn open_tables(&self, chain: &ChainId) -> Result<(Vec<TableEntry>, Vec<ObservedTable>)> {
        let mut entries = Vec::new();
        let mut observed = Vec::new();
        for (sink_name, spec) in &self.wanted {
            let app_id = chain.app_id(sink_name, &spec.name);
            let table = self.lake.open(sink_name, spec.clone(), &app_id).await?;
            observed.push(ObservedTable {
                sink: sink_name.clone(),
                table: spec.name.clone(),
                table_id: table.id(),
                transactions: table.transactions().await?,
            });
            entries.push(TableEntry {
                key: format!("{sink_name}.{}", spec.name).into(),
                sink: sink_name.clone(),
                name: spec.name.clone(),
                app_id,
                table,
            });
        }
        Ok((entries, observed))
    }

    /// What is decided and may not be in the tables yet.
    async fn roll_forward(&self, head: &Record, missing: Vec<Epoch>, tables: &[TableEntry]) -> Result<()> {
        #[cfg(test)]
        let missing = if planted(Bug::RecoverySkipsApply) { Vec::new() } else { missing };
        for epoch in missing {
            let record = if epoch == head.epoch {
                head.clone()
            } else {
                let read = self.chain.read(epoch).await?.transpose().map_err(|why| {
                    Error::refused(
                        format!("record {epoch} cannot be read: {why}"),
                        "Restore it from a copy of the checkpoint location.",
                    )
                })?;
                read.ok_or_else(|| {
                    Error::refused(
                        format!("record {epoch} is missing"),
                        "Restore it from a copy of the checkpoint location.",
                    )
                })?
            };
            let lacking = lacking(&record, tables).await?;
            if lacking > 0 {
                let rows: u64 = record.landings().map(|t| t.rows).sum();
                tracing::info!(
                    epoch = epoch.0,
                    rows,
                    tables = lacking,
                    "rolling forward: tables lack an epoch that is decided"
                );
            }
            for landing in record.landings() {
                let entry = tables.iter().find(|e| e.sink == landing.sink && e.name == landing.table);
                let Some(entry) = entry else { continue };
                let applied = entry.table.transactions().await?.get(&landing.app_id).copied();
                // What the table holds may have been compacted and vacuumed since.
                if applied.is_none_or(|version| version < record.epoch.0 as i64) {
                    entry.table.verify_files(&landing.adds).await?;
                }
            }
            apply(&record, tables, self.clock, |_| {}).await?;
        }
        Ok(())
    }

    /// What the claim carries on: positions as they stand, state that is there, and state computed anew.
    async fn claim_after(&self, head: Record, tables: &[TableEntry]) -> Result<Record> {
        let mut fates = Vec::new();
        for view in 0..self.plan.views.len() {
            let fate = rebuild::fate(self.plan, view, &head, &Opened(tables)).await?;
            // Before the claim, which fences a process that may be doing well.
            if let Fate::Kept(kept) = &fate {
                self.chain.check_segments(&kept.segments).await?;
            }
            fates.push(fate);
        }
        // A rebuild may take long. With a claim before it the tables stand still, and another process is fenced now and
        // not at the end; what the record says of views stays, so that after a crash all of this begins again.
        let head = match fates.iter().any(|f| matches!(f, Fate::Rebuilt(_))) {
            true => {
                let claim = self.claim(&head, head.views.clone());
                write_record(self.chain, &claim, self.clock, |_| {}).await?;
                claim
            }
            false => head,
        };
        let epoch = head.epoch.next();
        let rebuilder = Rebuilder {
            chain: self.chain,
            clock: self.clock,
            offload: self.offload,
            slots: self.author.slots,
            state_bytes: self.state_bytes,
            attempt: self.author.uuids.fresh(),
        };
        let mut views = Vec::new();
        for (index, fate) in fates.into_iter().enumerate() {
            let view = &self.plan.views[index];
            let known = head.view(&view.name);
            let changed = || known.map_or("it is new".to_string(), |k| why_changed(&k.fingerprint, &view.fingerprint));
            let (segments, complete_from) = match fate {
                Fate::Kept(known) => {
                    views.push(known);
                    continue;
                }
                Fate::Fresh => (Vec::new(), None),
                Fate::Rebuilt(chosen) => {
                    tracing::info!(view = %view.name, table = %chosen.table, "state is not there: {}", changed());
                    let table = tables.iter().find(|t| *t.key == *chosen.table);
                    let table = table.ok_or_else(|| Error::Failed(format!("table {} is not open", chosen.table)))?;
                    (rebuilder.run(self.plan, index, &chosen, table.table.as_ref(), epoch).await?, None)
                }
                Fate::Empty { why } => {
                    let changed = changed();
                    tracing::warn!(
                        view = %view.name,
                        complete_from = epoch.0,
                        "materialized view starts empty: {changed}; and no table can give its rows back: {why}"
                    );
                    (Vec::new(), Some(epoch))
                }
            };
            let (name, fingerprint) = (view.name.to_string(), view.fingerprint.clone());
            views.push(ViewRecord { name, fingerprint, segments, complete_from });
        }
        Ok(self.claim(&head, views))
    }

    fn claim(&self, head: &Record, views: Vec<ViewRecord>) -> Record {
        let mut claim = claim_record(head, self.author.now(self.clock.now_us()), views);
        claim.feeds = next_feeds(head, &feedings(self.plan));
        claim
    }
}

/// What the plan puts into tables, as records know it.
pub fn feedings(plan: &Plan) -> Vec<Feeding<'_>> {
    plan.feeds.iter().map(|f| Feeding { sink: &f.sink, table: &f.table, columns: &f.columns }).collect()
}

struct Opened<'a>(&'a [TableEntry]);

#[async_trait]
impl Counts for Opened<'_> {
    async fn census(&self, sink: &str, table: &str) -> Result<Option<Census>> {
        match self.0.iter().find(|e| e.sink == sink && e.name == table) {
            Some(entry) => entry.table.census().await.map(Some),
            None => Ok(None),
        }
    }
}

/// Tables the record has files for and whose log does not show its epoch.
async fn lacking(record: &Record, tables: &[TableEntry]) -> Result<usize> {
    let mut lacking = 0;
    for landing in record.landings() {
        if let Some(entry) = tables.iter().find(|e| e.sink == landing.sink && e.name == landing.table) {
            let applied = entry.table.transactions().await?.get(&landing.app_id).copied().unwrap_or(0);
            lacking += usize::from(applied < record.epoch.0 as i64);
        }
    }
    Ok(lacking)
}

/// Per slot the plan's views, loaded from the segments the claim lists. A share of a slot that no longer exists is merged
/// into another one's. Slots are loaded beside each other.
pub async fn restore_views(
    chain: &Chain,
    plan: &Plan,
    claim: &Record,
    slots: usize,
    offload: Offload,
) -> Result<Vec<Vec<ViewState>>> {
    let slots = (0..slots).map(async |slot| {
        let mut views = Vec::new();
        for view in &plan.views {
            let segments = claim.view(&view.name).map_or(&[][..], |v| v.segments.as_slice());
            // The slot's own share, which comes first, is in segments that the next record goes on listing. What was
            // another slot's is combined, even if it is all there is: only so is it part of the next cut.
            let mut state = load_share(chain, view, segments, slot as u32, offload).await?;
            let mut others: Vec<u32> = segments.iter().map(|s| s.slot).collect();
            others.sort_unstable();
            others.dedup();
            others.retain(|share| *share as usize != slot && *share as usize % slots == slot);
            for share in others {
                let other = load_share(chain, view, segments, share, offload).await?;
                state.restore(&other.freeze().base()?, Merge::Combine)?;
            }
            views.push(state);
        }
        Ok(views)
    });
    try_join_all(slots).await
}

/// One slot's share of a view: base first, then tail. While the rows of one file get their index, the next file is read.
pub async fn load_share(
    chain: &Chain,
    view: &Arc<MaterializedView>,
    segments: &[SegmentRef],
    slot: u32,
    offload: Offload,
) -> Result<ViewState> {
    let segments: Vec<&SegmentRef> = segments.iter().filter(|s| s.slot == slot).collect();
    #[cfg(test)]
    let segments = if planted(Bug::TailNotRestored) { segments.into_iter().take(1).collect() } else { segments };
    let mut state = ViewState::new(view.clone()).await?;
    // Keys of the tail are most likely in the base.
    state.expect(segments.iter().filter(|s| s.base).map(|s| s.rows).sum());
    let mut batches = Vec::new();
    for segment in segments.into_iter().map(Some).chain([None]) {
        let next = async {
            match segment {
                Some(segment) => chain.get_segment(segment, offload).await,
                None => Ok(Vec::new()),
            }
        };
        let load = offload.run(move || {
            for rows in batches {
                state.restore(&rows, Merge::Replace)?;
            }
            Ok(state)
        });
        (state, batches) = try_join(load, next).await?;
    }
    Ok(state)
}

#[cfg(test)]
mod tests;
