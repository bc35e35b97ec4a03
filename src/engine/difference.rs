//! What a start under this config and SQL would keep of what the head record holds: told before it happens.
//!
//! Reads the head and the logs of the tables; takes no lock, changes nothing.

use crate::checkpoint::place::record_path;
use crate::checkpoint::record::Record;
use crate::config::spec::Config;
use crate::engine::assemble::Assembled;
use crate::engine::chain::Chain;
use crate::engine::recover::rebuild::{self, Counts, Fate as Fated};
use crate::engine::start::wanted_tables;
use crate::sinks::delta::census::Census;
use crate::sinks::delta::look::{Fit, Looked, count, look};
use crate::sql::plan::Plan;
use crate::sql::why_changed;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::error::{Error, Result};
use crate::types::message::REPLAY_SOURCE;
use async_trait::async_trait;
use serde::Serialize;

#[derive(Clone, Debug, Serialize)]
pub struct Difference {
    /// None: there is no record; everything is new.
    pub head: Option<Head>,
    pub views: Vec<Changed>,
    pub tables: Vec<Changed>,
    pub partitions: Vec<Standing>,
    /// What a start would refuse.
    pub refusals: Vec<String>,
}

#[derive(Clone, Debug, Serialize)]
pub struct Head {
    pub chain: ChainId,
    pub epoch: Epoch,
    pub epoch_time_us: i64,
}

/// A view or a table, and what becomes of it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Changed {
    pub name: String,
    pub fate: Fate,
    /// For people; empty when the fate says all.
    pub why: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Fate {
    Kept,
    /// Of a view: its state is dropped, and computed anew from a table.
    Rebuilt,
    /// Of a view: its state is dropped, it starts empty.
    Reset,
    New,
    /// Of a table: it gets more columns.
    Grows,
    /// Not in the config any more. Of a view: its state is dropped.
    Gone,
    /// Of a table: a start would refuse.
    Incompatible,
}

/// Where a source partition goes on.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Standing {
    pub source: String,
    pub partition: String,
    pub position: u64,
    /// False: the config has no such source any more; the position stays in the record.
    pub is_read: bool,
}

impl Difference {
    /// State that readers see now and would not see after the start.
    pub fn loses_state(&self) -> bool {
        self.views.iter().any(|v| matches!(v.fate, Fate::Reset | Fate::Gone))
    }

    pub fn is_refused(&self) -> bool {
        !self.refusals.is_empty()
    }
}

pub async fn difference(assembled: &Assembled) -> Result<Difference> {
    let head = head(&assembled.config).await?;
    let mut looked = Vec::new();
    for (sink, spec) in wanted_tables(&assembled.plan, &assembled.dead_letter_sink, &assembled.delta) {
        let part = assembled
            .delta
            .get(&sink)
            .ok_or_else(|| Error::Failed(format!("sink \"{sink}\" takes rows, and only Delta sinks do")))?;
        let found = look(&sink, &part.config, &part.section, &spec).await?;
        looked.push((sink, spec.name, found));
    }
    let mut fates = Vec::new();
    for view in 0..assembled.plan.views.len() {
        fates.push(match &head {
            Some(head) => Some(rebuild::fate(&assembled.plan, view, head, &Looking { assembled, head }).await?),
            None => None,
        });
    }
    Ok(compare(head.as_ref(), &assembled.config, &assembled.plan, looked, &fates))
}

struct Looking<'a> {
    assembled: &'a Assembled,
    head: &'a Record,
}

#[async_trait]
impl Counts for Looking<'_> {
    async fn census(&self, sink: &str, table: &str) -> Result<Option<Census>> {
        let Some(part) = self.assembled.delta.get(sink) else { return Ok(None) };
        count(sink, &part.config, &part.section, table, &self.head.chain.app_id(sink, table)).await
    }
}

/// The newest record, as far as there is one. Reads only.
pub async fn head(config: &Config) -> Result<Option<Record>> {
    let Some(chain) = Chain::find(config)? else { return Ok(None) };
    let Some(newest) = chain.epochs().await?.pop() else { return Ok(None) };
    let unreadable = |why: String| {
        Error::refused(
            format!("the newest record \"{}\" cannot be read: {why}", record_path(newest)),
            "See `pipe checkpoint list`.",
        )
    };
    match chain.read(newest).await? {
        Some(Ok(record)) => Ok(Some(record)),
        Some(Err(why)) => Err(unreadable(why.to_string())),
        None => Err(unreadable("it is listed and not there".into())),
    }
}

/// `looked`: (sink, table, what is there) of every table that statements write. `fates`: of the plan's views; `None` where
/// nothing is recorded.
fn compare(
    head: Option<&Record>,
    config: &Config,
    plan: &Plan,
    looked: Vec<(String, String, Looked)>,
    fates: &[Option<Fated>],
) -> Difference {
    let mut refusals = Vec::new();
    if let Some(head) = head
        && head.pipeline != config.pipeline.name
    {
        let (theirs, ours) = (&head.pipeline, &config.pipeline.name);
        refusals.push(format!("the checkpoint location belongs to pipeline \"{theirs}\", this one is \"{ours}\""));
    }
    let tables = tables(head, looked, &mut refusals);
    let standing = |head: &Record| -> Vec<Standing> {
        head.positions()
            // What was replayed is no place to read on from.
            .filter(|(partition, _)| *partition.source != *REPLAY_SOURCE)
            .map(|(partition, position)| Standing {
                source: partition.source.to_string(),
                partition: partition.name.to_string(),
                position: position.0,
                is_read: config.sources.contains_key(partition.source.as_ref()),
            })
            .collect()
    };
    Difference {
        head: head.map(|h| Head { chain: h.chain.clone(), epoch: h.epoch, epoch_time_us: h.epoch_time_us }),
        views: views(head, plan, fates),
        tables,
        partitions: head.map(standing).unwrap_or_default(),
        refusals,
    }
}

fn views(head: Option<&Record>, plan: &Plan, fates: &[Option<Fated>]) -> Vec<Changed> {
    let mut found: Vec<Changed> = Vec::new();
    for (view, fated) in plan.views.iter().zip(fates) {
        let known = head.and_then(|h| h.view(&view.name));
        let changed = known.map(|k| why_changed(&k.fingerprint, &view.fingerprint));
        let (fate, why) = match (fated, changed) {
            (Some(Fated::Kept(_)), _) => (Fate::Kept, String::new()),
            (None | Some(Fated::Fresh), None) => (Fate::New, String::new()),
            // Nothing was read, so nothing is dropped.
            (None | Some(Fated::Fresh), Some(changed)) => {
                (Fate::Rebuilt, format!("from nothing, which was all; {changed}"))
            }
            (Some(Fated::Rebuilt(from)), changed) => {
                let megabytes = from.census.bytes as f64 / 1e6;
                let from = format!("rebuilt from {} ({} rows, {megabytes:.1} MB)", from.table, from.census.rows);
                match changed {
                    Some(changed) => (Fate::Rebuilt, format!("{from}; {changed}")),
                    None => (Fate::New, from),
                }
            }
            (Some(Fated::Empty { why }), changed) => {
                let empty = format!("starts empty, complete from the next epoch on, because {why}");
                match changed {
                    Some(changed) => (Fate::Reset, format!("{changed}; {empty}")),
                    None => (Fate::New, empty),
                }
            }
        };
        found.push(Changed { name: view.name.to_string(), fate, why });
    }
    for known in head.into_iter().flat_map(|h| &h.views).filter(|v| !plan.views.iter().any(|p| *p.name == v.name)) {
        found.push(Changed { name: known.name.clone(), fate: Fate::Gone, why: "its state is dropped".to_string() });
    }
    found
}

fn tables(head: Option<&Record>, looked: Vec<(String, String, Looked)>, refusals: &mut Vec<String>) -> Vec<Changed> {
    let mut found = Vec::new();
    for (sink, table, looked) in &looked {
        let name = format!("{sink}.{table}");
        let known = head.and_then(|h| h.tables.iter().find(|t| t.sink == *sink && t.table == *table));
        let starts = if head.is_some() && known.is_none() { "its rows start at the cut" } else { "" };
        let swapped = known.is_some_and(|k| looked.id.as_ref() != Some(&k.table_id));
        let (fate, why) = match &looked.fit {
            _ if swapped => (Fate::Incompatible, "it is not the table that the records were written for".to_string()),
            Fit::Misfit { what, hint } => (Fate::Incompatible, format!("{what}. {hint}")),
            Fit::Grows(columns) => (Fate::Grows, format!("columns added: {}", columns.join(", "))),
            Fit::New => (Fate::New, starts.to_string()),
            Fit::Same if known.is_none() && head.is_some() => (Fate::Kept, format!("no record names it yet: {starts}")),
            Fit::Same => (Fate::Kept, String::new()),
        };
        if fate == Fate::Incompatible {
            refusals.push(format!("table \"{name}\": {why}"));
        }
        found.push(Changed { name, fate, why });
    }
    let is_written = |sink: &str, table: &str| looked.iter().any(|(s, t, _)| s == sink && t == table);
    for known in head.into_iter().flat_map(|h| &h.tables).filter(|t| !is_written(&t.sink, &t.table)) {
        let why = "no statement writes it any more; it stays as it is".to_string();
        found.push(Changed { name: format!("{}.{}", known.sink, known.table), fate: Fate::Gone, why });
    }
    found
}

#[cfg(test)]
mod tests;
