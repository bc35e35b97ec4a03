//! Reads what `checkpoint::audit` compares: records, logs of tables, state segments, marks. Takes no lock and writes nothing, so it may
//! run beside the pipeline.
//!
//! Order: records first, then each table's log, then the files in its folder. What the pipeline does meanwhile only adds
//! to what is read later, and the audit stops at the newest epoch it read a record of.

use crate::checkpoint::audit::report::Report;
use crate::checkpoint::audit::{Audit, Known, TableName};
use crate::checkpoint::record::Unreadable;
use crate::engine::assemble::{Assembled, DeltaPart};
use crate::engine::chain::Chain;
use crate::engine::dead_letter;
use crate::engine::load;
use crate::env::store::{self, Location};
use crate::journal;
use crate::sinks::delta::history;
use crate::sinks::kv::KvSink;
use crate::sinks::kv::config::KvConfig;
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use futures::{StreamExt, TryStreamExt};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// Records read at once; one after the other would cost a round trip each.
const RECORDS_IN_FLIGHT_MAX: usize = 16;

/// State segments read at once, of some MiB each.
const SEGMENTS_IN_FLIGHT_MAX: usize = 4;

#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    pub known: Known,
    /// Open the key-value stores too, which only one process can.
    pub kv: bool,
}

pub async fn audit(assembled: &Assembled, options: &AuditOptions) -> Result<Report> {
    let config = &assembled.config;
    let data_dir = &config.pipeline.data_dir.0;
    let location = match &config.checkpoint.location {
        Some(address) => store::open_existing(
            &address.0,
            &config.checkpoint.options.reveal(&load::lookups()).map_err(Error::Failed)?,
        ),
        None => store::open_existing(&data_dir.join("checkpoint").to_string_lossy(), &BTreeMap::new()),
    };
    let chain = Chain { location: location.map_err(|e| e.context("checkpoint location"))? };
    let statements: BTreeSet<TableName> =
        assembled.plan.inserts.iter().map(|i| (i.sink.to_string(), i.table.to_string())).collect();
    let mut audit = Audit::new(&config.pipeline.name, dead_letter::TABLE, statements);
    records(&chain, &mut audit).await?;
    tables(&assembled.delta, &mut audit, &options.known).await?;
    states(&chain, &mut audit).await?;
    for name in config.sources.keys() {
        if let Some(bound) = journal::bound_chain(&journal::directory(data_dir, name))? {
            audit.mark(&format!("journal of {name}"), &bound);
        }
    }
    for (name, kv) in &assembled.kv {
        key_values(name, kv, data_dir, options.kv, &mut audit)?;
    }
    Ok(audit.finish())
}

async fn records(chain: &Chain, audit: &mut Audit) -> Result<()> {
    let epochs = chain.epochs().await?;
    if epochs.is_empty() {
        return Err(Error::refused(
            format!("the checkpoint location {} holds no records", chain.location.display),
            "Before the first start there is nothing to look at. If there was one, restore the location from a copy.",
        ));
    }
    // What is left over below the floor is not part of the chain.
    let head = match epochs.last() {
        Some(newest) => chain.read(*newest).await?,
        None => None,
    };
    let floor = head.and_then(Result::ok).map_or(Epoch(0), |head| head.floor);
    let mut read = futures::stream::iter(epochs.into_iter().filter(move |epoch| *epoch >= floor))
        .map(|epoch| async move { Ok::<_, Error>((epoch, chain.read(epoch).await?)) })
        .buffered(RECORDS_IN_FLIGHT_MAX);
    while let Some((epoch, found)) = read.try_next().await? {
        match found {
            Some(found) => audit.record(epoch, found),
            // Cleaned away since it was listed, if those before it are gone too.
            None if chain.epochs().await?.first().is_some_and(|oldest| epoch < *oldest) => {}
            None => audit.record(epoch, Err(Unreadable::Damaged { why: "it is listed, but not there".to_string() })),
        }
    }
    Ok(())
}

async fn tables(delta: &BTreeMap<String, DeltaPart>, audit: &mut Audit, known: &Known) -> Result<()> {
    let mut sinks: BTreeMap<&str, Location> = BTreeMap::new();
    for name in audit.tables() {
        let (sink, table) = &name;
        let Some((sink, part)) = delta.get_key_value(sink) else {
            let why = format!("the config has no Delta sink \"{sink}\"");
            audit.table_unseen(&name, &why, "Put the sink back to audit its tables.");
            continue;
        };
        let location = match sinks.get(sink.as_str()) {
            Some(location) => location.clone(),
            None => {
                let options = part.section.reveal_settings("options", &part.config.options).map_err(Error::Config)?;
                let opened = store::open_existing(&part.config.uri, &options)
                    .map_err(|e| e.context(format!("sink \"{sink}\"")))?;
                sinks.insert(sink, opened.clone());
                opened
            }
        };
        match history::read(&location, table, &format!("{sink}.{table}")).await? {
            Some(log) => {
                let stored = history::stored_files(&location, table).await?;
                audit.table(&name, &log, &stored, known);
            }
            None => audit.table_gone(&name, &location.under(table).display),
        }
    }
    Ok(())
}

async fn states(chain: &Chain, audit: &mut Audit) -> Result<()> {
    let Some((newest, views)) = audit.head().map(|head| (head.epoch, head.views.clone())) else { return Ok(()) };
    for view in &views {
        let looked = futures::stream::iter(&view.segments)
            .map(|segment| async move { Ok::<_, Error>((segment.path.clone(), chain.segment_flaw(segment).await?)) })
            .buffered(SEGMENTS_IN_FLIGHT_MAX);
        let flaws: Vec<(String, &str)> =
            looked.try_filter_map(async |(path, flaw)| Ok(flaw.map(|flaw| (path, flaw)))).try_collect().await?;
        // So many epochs were written meanwhile that this one and its segments are cleaned away.
        if !flaws.is_empty() && chain.epochs().await?.first().is_some_and(|oldest| *oldest > newest) {
            return Ok(());
        }
        audit.state(view, &flaws);
    }
    Ok(())
}

fn key_values(name: &str, config: &KvConfig, data_dir: &Path, wanted: bool, audit: &mut Audit) -> Result<()> {
    let what = format!("key-value store {name}");
    if !config.directory(data_dir).is_dir() {
        audit.not_looked_at(&what, "there is none yet");
        return Ok(());
    }
    if !wanted {
        audit.not_looked_at(&what, "only one process can open it; give --kv while the pipeline is stopped");
        return Ok(());
    }
    for (table, marker) in KvSink::open(name, config, data_dir)?.markers()? {
        audit.mark(&format!("{what}, {table}"), &marker.chain);
    }
    Ok(())
}
