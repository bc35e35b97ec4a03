//! Final rows from frozen shares: merge what several slots hold of a key, evaluate row by row, HAVING, projection.

use crate::sql::plan::MaterializedView;
use crate::state::fold::{Folding, holds};
use crate::state::keys::Groups;
use crate::state::segment::{Segment, gather};
use crate::state::view::FrozenView;
use crate::types::error::Result;
use arrow::array::{ArrayRef, BooleanArray, UInt32Array};
use arrow::buffer::BooleanBuffer;
use arrow::compute::{BatchCoalescer, concat_batches, filter_record_batch, take_record_batch};
use arrow::record_batch::RecordBatch;
use hashbrown::HashTable;
use std::hash::BuildHasher;
use std::sync::Arc;

/// State rows evaluated at a time: bounds the accumulators of a read, whatever the size of the view.
const READ_ROWS: usize = 8_192;

impl FrozenView {
    /// All live state rows, coalesced (schema `segment_schema`): the new base of a checkpoint.
    pub fn base(&self) -> Result<RecordBatch> {
        let mut parts = Vec::with_capacity(self.segments.len());
        for segment in self.segments.iter() {
            parts.push(filter_record_batch(&segment.rows, &segment.mask(self.version))?);
        }
        Ok(concat_batches(&self.folding.segment_schema, &parts)?)
    }

    /// The same rows in several views of at most about `bytes_max` each, so that a base can be written without holding all
    /// of state a second and a third time. No key is in two of them.
    pub fn parts(&self, bytes_max: u64) -> Vec<FrozenView> {
        let mut parts: Vec<(Vec<Arc<Segment>>, u64)> = vec![(Vec::new(), 0)];
        for segment in self.segments.iter() {
            if parts.last().is_some_and(|(some, bytes)| !some.is_empty() && bytes + segment.bytes() > bytes_max) {
                parts.push((Vec::new(), 0));
            }
            let (some, bytes) = parts.last_mut().expect("there is always one");
            some.push(segment.clone());
            *bytes += segment.bytes();
        }
        parts.into_iter().map(|(segments, _)| FrozenView { segments: Arc::new(segments), ..self.clone() }).collect()
    }

    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// Final rows (the view's `output_schema`) of the merged shares.
    pub fn read(view: &MaterializedView, shares: &[FrozenView]) -> Result<Vec<RecordBatch>> {
        let shares: Vec<&FrozenView> = shares.iter().filter(|s| s.keys > 0).collect();
        let mut out = Vec::new();
        let folding = match shares.as_slice() {
            [] => return Ok(out),
            [share, ..] => Arc::clone(&share.folding),
        };
        let mut emit = |rows: &RecordBatch| -> Result<()> {
            let (rows, _) = finish(view, &folding, rows)?;
            if rows.num_rows() > 0 {
                out.push(rows);
            }
            Ok(())
        };
        match shares.as_slice() {
            [share] => share.each_batch(|segment| segment.mask(share.version), &mut emit)?,
            several => {
                let overlap = Overlap::find(several, &folding);
                let mut shared = Vec::new();
                for (number, share) in several.iter().enumerate() {
                    share.each_batch(|s| overlap.mask(number, s, share.version, false), &mut emit)?;
                    share.each_batch(
                        |s| overlap.mask(number, s, share.version, true),
                        |rows| {
                            shared.push(rows.clone());
                            Ok(())
                        },
                    )?;
                }
                let shared = concat_batches(&folding.segment_schema, &shared)?;
                if shared.num_rows() > 0 {
                    let groups = Groups::of(&folding.state_keys(&shared)?, &folding.hasher);
                    let merged = folding.combine(&shared, &groups.of_row, groups.len())?;
                    for from in (0..merged.num_rows()).step_by(READ_ROWS) {
                        emit(&merged.slice(from, READ_ROWS.min(merged.num_rows() - from)))?;
                    }
                }
            }
        }
        Ok(out)
    }

    /// Final rows of the given keys (rows as `ViewState::apply` returns them), merged over the shares; keys that yield
    /// no row (HAVING, or unknown) are returned as the second batch (key columns only). Both keep the order of `keys`.
    pub fn read_keys(
        view: &MaterializedView,
        shares: &[FrozenView],
        keys: &RecordBatch,
    ) -> Result<(RecordBatch, RecordBatch)> {
        let nothing = RecordBatch::new_empty(Arc::clone(&view.output_schema));
        let Some(FrozenView { folding, .. }) = shares.first() else { return Ok((nothing, keys.clone())) };
        if keys.num_rows() == 0 {
            return Ok((nothing, keys.clone()));
        }
        let encoded = folding.codec.encode(keys.columns())?;
        let mut parts = Vec::new();
        let mut asked: Vec<usize> = Vec::new();
        for share in shares.iter().filter(|s| s.keys > 0) {
            let rows = share.lookups.rows(&share.segments, share.version, share.keys, &encoded, &share.folding.hasher);
            let (numbers, picks): (Vec<usize>, Vec<(usize, usize)>) =
                rows.into_iter().enumerate().filter_map(|(n, pick)| Some((n, pick?))).unzip();
            if picks.is_empty() {
                continue;
            }
            asked.extend(numbers);
            parts.push(share.pick(&picks)?);
        }
        let rows = concat_batches(&folding.segment_schema, &parts)?;

        // Groups in the order of `keys`: one per key that some share has.
        let mut group_of_key = vec![usize::MAX; keys.num_rows()];
        for key in &asked {
            group_of_key[*key] = 0;
        }
        let known: Vec<u32> = (0..keys.num_rows()).filter(|k| group_of_key[*k] == 0).map(|k| k as u32).collect();
        for (group, key) in known.iter().enumerate() {
            group_of_key[*key as usize] = group;
        }
        let groups: Vec<usize> = asked.iter().map(|key| group_of_key[*key]).collect();
        let in_order = groups.iter().enumerate().all(|(row, group)| row == *group);
        let merged = if in_order { rows } else { folding.combine(&rows, &groups, known.len())? };
        let (out, passes) = finish(view, folding, &merged)?;

        let mut absent = vec![true; keys.num_rows()];
        for (group, key) in known.iter().enumerate() {
            absent[*key as usize] = passes.as_ref().is_some_and(|p| !p.value(group));
        }
        let absent = UInt32Array::from_iter_values((0..keys.num_rows() as u32).filter(|k| absent[*k as usize]));
        Ok((out, take_record_batch(keys, &absent)?))
    }

    /// State rows that a mask selects, in batches of about `READ_ROWS`.
    fn each_batch(
        &self,
        mask: impl Fn(&Segment) -> BooleanArray,
        mut each: impl FnMut(&RecordBatch) -> Result<()>,
    ) -> Result<()> {
        let mut coalescer = BatchCoalescer::new(Arc::clone(&self.folding.segment_schema), READ_ROWS);
        for segment in self.segments.iter() {
            let mask = mask(segment);
            match mask.true_count() {
                0 => continue,
                all if all == segment.len() && all >= READ_ROWS / 2 => {
                    for from in (0..all).step_by(READ_ROWS) {
                        each(&segment.rows.slice(from, READ_ROWS.min(all - from)))?;
                    }
                }
                _ => coalescer.push_batch_with_filter(segment.rows.clone(), &mask)?,
            }
            while let Some(rows) = coalescer.next_completed_batch() {
                each(&rows)?;
            }
        }
        coalescer.finish_buffered_batch()?;
        while let Some(rows) = coalescer.next_completed_batch() {
            each(&rows)?;
        }
        Ok(())
    }

    fn pick(&self, picks: &[(usize, usize)]) -> Result<RecordBatch> {
        let segments: Vec<&Segment> = self.segments.iter().map(|s| s.as_ref()).collect();
        let columns: Vec<usize> = (0..self.folding.segment_schema.fields().len()).collect();
        Ok(RecordBatch::try_new(Arc::clone(&self.folding.segment_schema), gather(&segments, picks, &columns)?)?)
    }
}

/// State rows to the view's output, and which of them passed HAVING (None: there is none).
fn finish(
    view: &MaterializedView,
    folding: &Folding,
    rows: &RecordBatch,
) -> Result<(RecordBatch, Option<BooleanArray>)> {
    let mut results = folding.results(rows)?;
    let mut passes = None;
    if let Some(having) = &view.having {
        let mask = holds(having, &results)?;
        results = filter_record_batch(&results, &mask)?;
        passes = Some(mask);
    }
    let mut columns: Vec<ArrayRef> = Vec::with_capacity(view.projection.len());
    for expression in &view.projection {
        columns.push(expression.evaluate(&results)?.into_array(results.num_rows())?);
    }
    Ok((RecordBatch::try_new(Arc::clone(&view.output_schema), columns)?, passes))
}

/// Which live rows have a key that more than one share holds. Few, as a rule: keys follow partitions. Only these are
/// merged, the others are evaluated where they are.
struct Overlap {
    /// Per share, by birth of the segment: rows whose key another share holds too.
    shared: Vec<Vec<(u64, BooleanBuffer)>>,
}

impl Overlap {
    fn find(shares: &[&FrozenView], folding: &Folding) -> Overlap {
        struct Seen {
            hash: u64,
            at: (u32, u32, u32),
            count: u32,
        }
        let live: u64 = shares.iter().map(|s| s.keys).sum();
        let mut table: HashTable<Seen> = HashTable::with_capacity(live as usize);
        let key_at = |(share, segment, row): (u32, u32, u32)| {
            shares[share as usize].segments[segment as usize].keys.value(row as usize)
        };
        for (share_number, share) in shares.iter().enumerate() {
            for (number, segment) in share.segments.iter().enumerate() {
                for row in (0..segment.len()).filter(|row| segment.alive_at(*row, share.version)) {
                    let key = segment.keys.value(row);
                    let hash = folding.hasher.hash_one(key);
                    match table.find_mut(hash, |seen| seen.hash == hash && key_at(seen.at) == key) {
                        Some(seen) => seen.count += 1,
                        None => {
                            let at = (share_number as u32, number as u32, row as u32);
                            table.insert_unique(hash, Seen { hash, at, count: 1 }, |seen| seen.hash);
                        }
                    }
                }
            }
        }
        let is_shared = |segment: &Segment, row: usize| {
            let key = segment.keys.value(row);
            let hash = folding.hasher.hash_one(key);
            table.find(hash, |seen| seen.hash == hash && key_at(seen.at) == key).is_some_and(|seen| seen.count > 1)
        };
        let mut shared = Vec::with_capacity(shares.len());
        for share in shares {
            let bits = |s: &Arc<Segment>| {
                (
                    s.born,
                    BooleanBuffer::collect_bool(s.len(), |row| s.alive_at(row, share.version) && is_shared(s, row)),
                )
            };
            shared.push(share.segments.iter().map(bits).collect());
        }
        Overlap { shared }
    }

    /// Live rows of a segment whose key other shares hold (`shared`) or do not hold.
    fn mask(&self, share: usize, segment: &Segment, version: u64, shared: bool) -> BooleanArray {
        let of_share = &self.shared[share];
        let at = of_share.binary_search_by_key(&segment.born, |(born, _)| *born).expect("a segment of this share");
        let bits = &of_share[at].1;
        let bits = if shared { bits.clone() } else { segment.mask(version).values() & &!bits };
        BooleanArray::new(bits, None)
    }
}
