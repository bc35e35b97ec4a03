//! One slot's share of one materialized view.
//!
//! `ViewState` is the writer: it folds batches, cuts, restores and compacts. `FrozenView` is what readers hold: the
//! segments and the version as of a batch boundary. A batch costs the rows it touches, freezing costs one pointer, and
//! no lock is shared between the two.

use crate::sql::plan::MaterializedView;
use crate::state::fold::{Folding, Rule};
use crate::state::index::{Found, Place};
use crate::state::keys::Groups;
use crate::state::log::{Arrival, Log, SEGMENT_ROWS_MAX};
use crate::state::lookup::Lookups;
use crate::state::segment::Segment;
use crate::types::error::{Error, Result};
use crate::types::lineage::Lineage;
use arrow::array::{Array, ArrayRef, AsArray, BinaryArray, BooleanArray, UInt32Array};
use arrow::compute::{concat, concat_batches, filter, filter_record_batch, take, take_record_batch};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use std::cmp::Ordering;
use std::sync::Arc;

/// One slot's share. Owned by the slot's worker; readers get `FrozenView`s.
pub struct ViewState {
    view: Arc<MaterializedView>,
    folding: Arc<Folding>,
    log: Log,
    lookups: Arc<Lookups>,
}

/// A consistent, immutable picture of one share: cheap to clone, valid for as long as it is held.
#[derive(Clone)]
pub struct FrozenView {
    pub(super) folding: Arc<Folding>,
    /// In order of birth.
    pub(super) segments: Arc<Vec<Arc<Segment>>>,
    pub(super) version: u64,
    pub(super) keys: u64,
    pub(super) lookups: Arc<Lookups>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Merge {
    Replace,
    Combine,
}

impl ViewState {
    /// Plans the view's fold once.
    pub async fn new(view: Arc<MaterializedView>) -> Result<Self> {
        let folding = Folding::plan(&view).map_err(|e| e.context(format!("materialized view \"{}\"", view.name)))?;
        let log = Log::new(Arc::clone(&folding.segment_schema), folding.hasher.clone(), folding.text_key());
        Ok(ViewState { view, folding: Arc::new(folding), log, lookups: Arc::default() })
    }

    /// Folds one batch (columns: `input_schema` then `__msg`). All or nothing: an error leaves the state as it was.
    /// Returns the touched keys (key columns of the fold, in key order, distinct), for upsert sinks: those whose row is
    /// new. A DISTINCT ON key that saw only older rows is not among them.
    pub fn apply(&mut self, rows: &[RecordBatch], lineage: &Lineage) -> Result<RecordBatch> {
        let name = Arc::clone(&self.view.name);
        self.fold(rows, lineage).map_err(|e| e.context(format!("materialized view \"{name}\"")))
    }

    pub fn freeze(&self) -> FrozenView {
        FrozenView {
            folding: Arc::clone(&self.folding),
            segments: Arc::clone(self.log.segments()),
            version: self.log.version(),
            keys: self.log.keys(),
            lookups: Arc::clone(&self.lookups),
        }
    }

    /// The live state rows born since the last cut, coalesced (schema `segment_schema`); starts the next epoch.
    /// None when nothing changed.
    pub fn cut(&mut self) -> Result<Option<RecordBatch>> {
        self.log.cut()
    }

    /// Key columns and partial state: the rows of segments, cuts and bases.
    pub fn segment_schema(&self) -> SchemaRef {
        Arc::clone(&self.folding.segment_schema)
    }

    /// Loads one segment (base first, then tail in order); a key seen again is replaced within one share
    /// (`Merge::Replace`) or merged when the segment comes from another slot's share (`Merge::Combine`). Combined rows
    /// belong to no segment yet, so they are part of the next cut.
    pub fn restore(&mut self, segment: &RecordBatch, merge: Merge) -> Result<()> {
        let schema = &self.folding.segment_schema;
        let types = |s: &SchemaRef| s.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
        if types(&segment.schema()) != types(schema) {
            return Err(Error::Failed(format!(
                "state segment of materialized view \"{}\" has columns {:?}, not {:?}",
                self.view.name,
                types(&segment.schema()),
                types(schema)
            )));
        }
        for from in (0..segment.num_rows()).step_by(SEGMENT_ROWS_MAX) {
            let rows = segment.slice(from, SEGMENT_ROWS_MAX.min(segment.num_rows() - from));
            match merge {
                Merge::Replace => self.load(&rows)?,
                Merge::Combine => self.combine(&rows)?,
            }
        }
        Ok(())
    }

    /// So many keys are about to be restored.
    pub fn expect(&mut self, keys: u64) {
        self.log.expect(keys as usize);
    }

    /// Rewrites segments when more than half of their rows are dead, and merges small ones. One bounded step (some
    /// milliseconds); called by the worker between batches. False: there was nothing to do.
    pub fn compact(&mut self) -> Result<bool> {
        self.lookups.forget(self.log.version());
        self.log.compact()
    }

    pub fn keys(&self) -> u64 {
        self.log.keys()
    }

    /// Bytes held, for the state budget: segments, indexes, and what only readers still hold.
    pub fn bytes(&self) -> u64 {
        self.log.bytes() + self.lookups.bytes()
    }

    fn fold(&mut self, rows: &[RecordBatch], lineage: &Lineage) -> Result<RecordBatch> {
        let batch = match rows {
            [] => return Ok(RecordBatch::new_empty(Arc::clone(&self.folding.key_schema))),
            [one] => one.clone(),
            many => concat_batches(&many[0].schema(), many)?,
        };
        if batch.num_rows() == 0 {
            return Ok(RecordBatch::new_empty(Arc::clone(&self.folding.key_schema)));
        }
        let folding = Arc::clone(&self.folding);
        let key_columns = folding.input_keys(&batch);
        let keys = folding.codec.encode(&key_columns)?;
        let arrival = match &folding.rule {
            Rule::GroupBy(rule) => {
                let groups = Groups::of(&keys, &folding.hasher);
                let found = self.log.index().find_all(&keys, &groups.first, &groups.hashes);
                let (known, new): (Vec<usize>, Vec<usize>) = (0..groups.len()).partition(|g| found[*g].is_some());
                let order = [known.as_slice(), &new].concat();
                let groups = groups.renumbered(&order);
                let found: Vec<Option<Found>> = order.iter().map(|g| found[*g]).collect();
                let (_, places) = old_places(&found);
                let old = match places.as_slice() {
                    [] => Vec::new(),
                    places => self.log.gather(places, &rule.state_columns())?,
                };
                let rows = rule.fold(&batch, &key_columns, &groups, &old)?;
                let keys = take(&keys, &UInt32Array::from(groups.first), None)?.as_binary::<i32>().clone();
                Arrival { rows, keys, hashes: groups.hashes, found }
            }
            Rule::DistinctOn(rule) => {
                let winners = rule.winners(&batch, &keys, lineage, &folding.hasher)?;
                self.challenge(winners.rows, winners.keys, winners.hashes)?
            }
        };
        let touched = folding.keys_of(&arrival.rows)?;
        self.log.append(arrival, true);
        Ok(touched)
    }

    /// Keeps the candidates (DISTINCT ON state rows, one per key) that beat the row their key has.
    fn challenge(&self, rows: RecordBatch, keys: BinaryArray, hashes: Vec<u64>) -> Result<Arrival> {
        let Rule::DistinctOn(rule) = &self.folding.rule else {
            return Err(Error::Failed("only DISTINCT ON rows challenge each other".to_string()));
        };
        let all: Vec<u32> = (0..keys.len() as u32).collect();
        let found = self.log.index().find_all(&keys, &all, &hashes);
        let (candidates, places) = old_places(&found);
        if places.is_empty() {
            return Ok(Arrival { rows, keys, hashes, found });
        }
        let by_order = rule.compare(&rows, &self.log.gather(&places, &rule.order)?, &candidates)?;
        let mut wins = vec![true; rows.num_rows()];
        let mut ties = Vec::new();
        for (nth, ordering) in by_order.into_iter().enumerate() {
            wins[candidates[nth]] = ordering == Ordering::Greater;
            if ordering == Ordering::Equal {
                ties.push(nth);
            }
        }
        if !ties.is_empty() {
            let tied = UInt32Array::from_iter_values(ties.iter().map(|nth| candidates[*nth] as u32));
            let old_places: Vec<Place> = ties.iter().map(|nth| places[*nth]).collect();
            let old = self.log.gather(&old_places, &rule.ranking)?;
            for (nth, win) in rule.beats(&take_record_batch(&rows, &tied)?, &old)?.into_iter().enumerate() {
                wins[tied.value(nth) as usize] = win;
            }
        }
        if wins.iter().all(|w| *w) {
            return Ok(Arrival { rows, keys, hashes, found });
        }
        let mask = BooleanArray::from(wins);
        Ok(Arrival {
            rows: filter_record_batch(&rows, &mask)?,
            keys: filter(&keys, &mask)?.as_binary::<i32>().clone(),
            hashes: hashes.into_iter().zip(mask.values()).filter(|(_, win)| *win).map(|(h, _)| h).collect(),
            found: found.into_iter().zip(mask.values()).filter(|(_, win)| *win).map(|(f, _)| f).collect(),
        })
    }

    fn load(&mut self, segment: &RecordBatch) -> Result<()> {
        let columns = segment.columns().iter().map(copied).collect::<Result<_>>()?;
        let rows = RecordBatch::try_new(Arc::clone(&self.folding.segment_schema), columns)?;
        let keys = self.folding.state_keys(&rows)?;
        self.log.load(rows, keys);
        Ok(())
    }

    fn combine(&mut self, segment: &RecordBatch) -> Result<()> {
        let folding = Arc::clone(&self.folding);
        let keys = folding.state_keys(segment)?;
        let groups = Groups::of(&keys, &folding.hasher);
        // Copied in any case: a slice of a file's rows would hold on to the whole file.
        let first = UInt32Array::from(groups.first.clone());
        let rows = match groups.all_distinct() {
            false => folding.combine(segment, &groups.of_row, groups.len())?,
            true => {
                let rows = take_record_batch(segment, &first)?;
                RecordBatch::try_new(Arc::clone(&folding.segment_schema), rows.columns().to_vec())?
            }
        };
        let keys = take(&keys, &first, None)?.as_binary::<i32>().clone();
        match &folding.rule {
            Rule::DistinctOn(_) => {
                let arrival = self.challenge(rows, keys, groups.hashes)?;
                self.log.append(arrival, true);
            }
            Rule::GroupBy(_) => {
                let all: Vec<u32> = (0..keys.len() as u32).collect();
                let found = self.log.index().find_all(&keys, &all, &groups.hashes);
                let (old_groups, places) = old_places(&found);
                let columns: Vec<usize> = (0..folding.segment_schema.fields().len()).collect();
                let old = match places.as_slice() {
                    [] => RecordBatch::new_empty(Arc::clone(&folding.segment_schema)),
                    _ => {
                        RecordBatch::try_new(Arc::clone(&folding.segment_schema), self.log.gather(&places, &columns)?)?
                    }
                };
                let both = concat_batches(&folding.segment_schema, [&rows, &old])?;
                let of_row: Vec<usize> = (0..rows.num_rows()).chain(old_groups).collect();
                let rows = folding.combine(&both, &of_row, rows.num_rows())?;
                self.log.append(Arrival { rows, keys, hashes: groups.hashes, found }, true);
            }
        }
        Ok(())
    }
}

/// In memory of its own and of the right size. Columns that were read from one file share its memory: a row would hold on to
/// all of it, and a query that reads the column would be charged for the whole file.
fn copied(column: &ArrayRef) -> Result<ArrayRef> {
    // One array alone would be handed back as it is.
    Ok(concat(&[column.as_ref(), column.slice(0, 0).as_ref()])?)
}

/// The groups whose key was found, and where.
fn old_places(found: &[Option<Found>]) -> (Vec<usize>, Vec<Place>) {
    found.iter().enumerate().filter_map(|(group, f)| f.map(|f| (group, f.place))).unzip()
}
