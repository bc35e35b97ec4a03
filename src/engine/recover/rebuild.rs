//! What becomes of a materialized view whose state is not under its fingerprint: computed anew from a table that holds
//! exactly its input, or empty.
//!
//! Choosing is pure, so that `validate --diff` says what a start will do. A table serves if the statements say that it
//! receives every row with all that the view reads (sql::rebuild), if the records say that this has been so since the chain
//! began, and if the table holds as many rows as the records put there and nobody else is known to have touched them.
//! Anything else, and any doubt: the view starts empty and says from when on it is complete.

use crate::checkpoint::place::segment_path;
use crate::checkpoint::record::{Record, SegmentRef, ViewRecord};
use crate::engine::chain::Chain;
use crate::engine::checkpointer::BASE_PART_BYTES;
use crate::engine::lake::LakeTable;
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::env::clock::Clock;
use crate::env::offload::Offload;
use crate::sinks::delta::census::Census;
use crate::sql::plan::{MaterializedView, OriginColumns, OriginSource, Plan, Rebuild};
use crate::sql::replay::Replay;
use crate::state::view::ViewState;
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use crate::types::lineage::{Lineage, Origin};
use crate::types::position::{PartitionId, Position};
use arrow::array::{Array, AsArray, StringArray, UInt32Array};
use arrow::datatypes::{DataType, Int64Type};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
#[cfg(test)]
use futures::StreamExt;
use futures::TryStreamExt;
use std::sync::Arc;

/// Between two lines of the log that say how far a rebuild is.
const PROGRESS_US: i64 = 10_000_000;

/// A view's table, and what is in it.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// Index in the view's `Rebuilds::ways`.
    pub way: usize,
    pub table: String,
    pub census: Census,
}

/// What a start does with a materialized view.
#[derive(Clone, Debug)]
pub enum Fate {
    /// Its state is there.
    Kept(ViewRecord),
    /// Nothing has been read yet, so nothing is missing.
    Fresh,
    Rebuilt(Chosen),
    /// Complete from the claim on, and why no table serves.
    Empty {
        why: String,
    },
}

/// Who can count what is in a table that a statement fills.
#[async_trait]
pub trait Counts: Sync {
    async fn census(&self, sink: &str, table: &str) -> Result<Option<Census>>;
}

/// Decides; changes nothing.
pub async fn fate(plan: &Plan, view: usize, head: &Record, counts: &dyn Counts) -> Result<Fate> {
    let built = &plan.views[view];
    let is_same = |known: &&ViewRecord| known.fingerprint == built.fingerprint;
    #[cfg(test)]
    let is_same = |known: &&ViewRecord| is_same(known) || planted(Bug::ChangedViewKept);
    if let Some(known) = head.view(&built.name).filter(is_same) {
        return Ok(Fate::Kept(known.clone()));
    }
    if !head.has_read() {
        return Ok(Fate::Fresh);
    }
    let (left, mut unfit) = ways_left(plan, view, head);
    for number in left {
        let way = &plan.rebuilds[view].ways[number];
        let census = counts.census(&way.sink, &way.table).await?;
        match (unfit_by_census(way, head, census.as_ref()), census) {
            (None, Some(census)) => return Ok(Fate::Rebuilt(Chosen { way: number, table: name(way), census })),
            (why, _) => unfit.extend(why),
        }
    }
    Ok(Fate::Empty { why: unfit.join("; ") })
}

/// The ways that the records do not speak against, and what they say against the others.
fn ways_left(plan: &Plan, view: usize, head: &Record) -> (Vec<usize>, Vec<String>) {
    let rebuilds = &plan.rebuilds[view];
    let mut left = Vec::new();
    let mut unfit = rebuilds.unfit.clone();
    for (number, way) in rebuilds.ways.iter().enumerate() {
        match unfit_by_records(plan, way, head) {
            None => left.push(number),
            Some(why) => unfit.push(format!("{} {why}", name(way))),
        }
    }
    (left, unfit)
}

fn name(way: &Rebuild) -> String {
    format!("{}.{}", way.sink, way.table)
}

/// Columns whose rows must be there from the beginning.
fn columns_read(way: &Rebuild) -> Vec<Arc<str>> {
    let mut columns: Vec<Arc<str>> = way.columns.iter().map(|(_, name)| name.clone()).collect();
    if let Some(OriginColumns { source, topic, partition, position }) = &way.origin {
        columns.extend([topic, partition, position].map(Arc::clone));
        if let OriginSource::Column(source) = source {
            columns.push(source.clone());
        }
    }
    if columns.is_empty() {
        // count(*) reads no column, but the rows must be counted all the same.
        columns.push(way.schema.field(0).name().as_str().into());
    }
    columns.sort();
    columns.dedup();
    columns
}

fn unfit_by_records(plan: &Plan, way: &Rebuild, head: &Record) -> Option<String> {
    let Some(now) = plan.feeds.iter().find(|f| f.sink == way.sink && f.table == way.table) else {
        return Some("is filled by several statements".to_string());
    };
    let Some(before) = head.feed(&way.sink, &way.table) else {
        return Some("receives these rows only from now on, by what the records say".to_string());
    };
    for column in columns_read(way) {
        match before.columns.get(column.as_ref()) {
            None => return Some(format!("has its column {column} only from now on")),
            Some(known) if now.columns.get(column.as_ref()) != Some(&known.print) => {
                return Some(format!("fills its column {column}, or its rows, in another way from now on"));
            }
            Some(known) if known.since > Epoch(1) => {
                return Some(format!("fills its column {column} as it does now only since epoch {}", known.since));
            }
            Some(_) => {}
        }
    }
    None
}

/// What speaks against a table once one has looked at it. `None`: nothing; it serves.
fn unfit_by_census(way: &Rebuild, head: &Record, census: Option<&Census>) -> Option<String> {
    let put_there = head.table(&way.sink, &way.table).map_or(0, |t| t.rows_total);
    let name = name(way);
    let Some(census) = census else { return Some(format!("{name} is not there")) };
    if let Some(doubt) = &census.doubt {
        return Some(format!("of {name}: {doubt}"));
    }
    if census.rows != put_there {
        return Some(format!(
            "{name} holds {} rows and the pipeline put {put_there} there: rows came or went beside it",
            census.rows
        ));
    }
    for column in columns_read(way).iter().filter(|c| census.partition_by.iter().any(|p| **p == ***c)) {
        let is_exact = |t: &DataType| t.is_integer() || matches!(t, DataType::Boolean | DataType::Date32);
        if !way.schema.field_with_name(column).is_ok_and(|f| is_exact(f.data_type())) {
            return Some(format!("{name} is partitioned by {column}, whose values do not come back as they were"));
        }
    }
    None
}

/// What a rebuild stands on.
pub struct Rebuilder<'a> {
    pub chain: &'a Chain,
    pub clock: &'a Clock,
    pub offload: Offload,
    pub slots: u32,
    /// Of the memory budget: all state may hold.
    pub state_bytes: u64,
    /// Sets the segments apart from those of an attempt that was cut short.
    pub attempt: String,
}

impl Rebuilder<'_> {
    /// The view's state over all rows of the table, as durable segments of `epoch`, the claim that will name them. One
    /// batch of rows is in memory at a time, beside the state.
    pub async fn run(
        &self,
        plan: &Plan,
        view: usize,
        chosen: &Chosen,
        table: &dyn LakeTable,
        epoch: Epoch,
    ) -> Result<Vec<SegmentRef>> {
        let (way, built) = (&plan.rebuilds[view].ways[chosen.way], &plan.views[view]);
        let (from, rows) = (chosen.table.as_str(), chosen.census.rows);
        tracing::info!(view = %built.name, table = from, rows, bytes = chosen.census.bytes, "materialized view is rebuilt");
        let begun_us = self.clock.now_us();
        let failed = |e: Error| e.context(format!("materialized view \"{}\", rebuilt from {from}", built.name));
        let state = self.fold(plan, built, way, chosen, table).await.map_err(failed)?;
        let keys = state.keys();
        let segments = self.put(built, &state, epoch).await.map_err(failed)?;
        let seconds = (self.clock.now_us() - begun_us) as f64 / 1e6;
        metrics::histogram!("pipe_view_rebuild_seconds", "component" => built.name.to_string()).record(seconds);
        tracing::info!(view = %built.name, table = from, rows, keys, seconds, "materialized view was rebuilt");
        Ok(segments)
    }

    async fn fold(
        &self,
        plan: &Plan,
        built: &Arc<MaterializedView>,
        way: &Rebuild,
        chosen: &Chosen,
        table: &dyn LakeTable,
    ) -> Result<ViewState> {
        let mut state = ViewState::new(built.clone()).await?;
        let mut replay = Replay::new(way, plan.nodes[built.input].schema.clone()).await?;
        let mut stream = table.rows(chosen.census.version, &columns_read(way)).await?;
        let (mut rows, mut told_us) = (0, self.clock.now_us());
        let read = metrics::counter!("pipe_view_rebuild_rows_total", "component" => built.name.to_string());
        #[cfg(test)]
        if planted(Bug::RebuildCutShort) {
            stream = Box::pin(stream.take(1));
        }
        while let Some(batch) = stream.try_next().await? {
            rows += batch.num_rows() as u64;
            read.increment(batch.num_rows() as u64);
            let (lineage, state_bytes) = (lineage(way.origin.as_ref(), &batch)?, self.state_bytes);
            let messages = UInt32Array::from_iter_values(0..batch.num_rows() as u32);
            let work = move || {
                state.apply(&replay.run(&batch, messages)?, &lineage)?;
                state.compact()?;
                while state.bytes() > state_bytes && state.compact()? {}
                Ok((state, replay))
            };
            (state, replay) = self.offload.run(work).await?;
            if state.bytes() > self.state_bytes {
                return Err(Error::refused(
                    format!(
                        "its state does not fit: {} keys hold {} bytes, and the share of state is {state_bytes}",
                        state.keys(),
                        state.bytes()
                    ),
                    "Give it more with [limits] memory, or group by fewer keys.",
                ));
            }
            if self.clock.now_us() - told_us >= PROGRESS_US {
                told_us = self.clock.now_us();
                let (view, of, keys) = (&built.name, chosen.census.rows, state.keys());
                tracing::info!(%view, table = %chosen.table, rows, of, keys, "materialized view is being rebuilt");
            }
        }
        #[cfg(test)]
        let rows = if planted(Bug::RebuildCutShort) { chosen.census.rows } else { rows };
        if rows != chosen.census.rows {
            let counted = chosen.census.rows;
            return Err(Error::Failed(format!("{rows} rows were read where the table's log counts {counted}")));
        }
        Ok(state)
    }

    /// Parts that have no key in common, dealt out to the slots: a share is whatever a slot has of a key.
    async fn put(&self, built: &MaterializedView, state: &ViewState, epoch: Epoch) -> Result<Vec<SegmentRef>> {
        let mut segments = Vec::new();
        for (number, part) in state.freeze().parts(BASE_PART_BYTES).into_iter().enumerate() {
            let rows = self.offload.run(move || part.base()).await?;
            if rows.num_rows() == 0 {
                continue;
            }
            let slot = (number % self.slots as usize) as u32;
            let path = segment_path(&built.name, epoch, slot, &format!("{}-{number}", self.attempt));
            segments.push(self.chain.put_segment(slot, epoch, true, path, &rows).await?);
        }
        Ok(segments)
    }
}

/// Where the message of each row came from: only DISTINCT ON asks, and then a message has one row in the table.
fn lineage(origin: Option<&OriginColumns>, rows: &RecordBatch) -> Result<Lineage> {
    let Some(OriginColumns { source, topic, partition, position }) = origin else { return Ok(Lineage::default()) };
    let text = |name: &Arc<str>| -> Result<StringArray> {
        let column = rows.column_by_name(name).and_then(|c| c.as_string_opt::<i32>());
        column.cloned().ok_or_else(|| Error::Failed(format!("column \"{name}\" was not read as text")))
    };
    let positions = rows.column_by_name(position).and_then(|c| c.as_primitive_opt::<Int64Type>());
    let positions = positions.ok_or_else(|| Error::Failed(format!("column \"{position}\" was not read as numbers")))?;
    let (topics, partitions) = (text(topic)?, text(partition)?);
    let sources = match source {
        OriginSource::Always(_) => None,
        OriginSource::Column(name) => Some(text(name)?),
    };
    let mut lineage = Lineage::default();
    for row in 0..rows.num_rows() {
        let source = match (source, &sources) {
            (OriginSource::Always(source), _) => source.as_ref(),
            (OriginSource::Column(_), Some(sources)) => sources.value(row),
            (OriginSource::Column(_), None) => "",
        };
        lineage.origins.push(Origin {
            // The label, and not the source's own name for it, is what the order goes by.
            partition: Arc::new(PartitionId::new(source, partitions.value(row))),
            partition_label: partitions.value(row).into(),
            topic: topics.is_valid(row).then(|| topics.value(row).into()),
            position: Position(positions.value(row) as u64),
        });
    }
    Ok(lineage)
}

#[cfg(test)]
mod tests;
