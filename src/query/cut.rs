//! What one query sees: one view per slot and one pinned snapshot per lake table (I10).
//!
//! Why no row is missing and none is twice. A slot keeps every row of an epoch in its view until the table's snapshot
//! shows that epoch, and a snapshot is never older than the last apply. The views are loaded first and the snapshots
//! pinned after, so take any row that a slot had produced when its view was loaded:
//! * it was in the view, with its epoch E: the pinned snapshot says through which epoch it holds our rows. If that is
//!   E or more, the row is in the snapshot and the view's copy is left out; if less, the row is in the view alone.
//! * it was no longer in the view: then a snapshot with E existed before the view was loaded, and the one pinned after
//!   it is not older. The row is in the snapshot.
//!
//! That alone lets the lake run ahead of the views by one epoch, if a commit lands between the two loads. So the tables'
//! epochs are read before as well, and all is loaded again if one of them moved: then nothing landed while the views
//! were loaded, every row in the lake had passed its slot by then, and lake + memory is exactly what the views have
//! folded. Commits are seconds apart and a load takes microseconds; when it moves every time, the first argument holds.

use crate::query::World;
use crate::sinks::delta::table::LakeSnapshot;
use crate::state::cut::SlotView;
use crate::types::epoch::Epoch;
use arrow::datatypes::SchemaRef;
use std::sync::Arc;

/// Loads before a cut is taken as it is. Two commits within one load are already unlikely.
const ATTEMPTS_MAX: usize = 4;

pub struct Cut {
    pub slots: Vec<Arc<SlotView>>,
    pub lake: Vec<Pinned>,
}

/// One lake table as this query sees it.
pub struct Pinned {
    pub sink: Arc<str>,
    pub table: String,
    /// "sink.table", as `SlotView::uncommitted` names it.
    pub key: String,
    /// What our rows have, whether or not the Delta table has these columns yet.
    pub schema: SchemaRef,
    pub snapshot: LakeSnapshot,
}

impl Cut {
    pub fn load(world: &dyn World) -> Cut {
        let tables = world.lake();
        let applied = || tables.iter().map(|(_, table)| table.snapshot().applied).collect::<Vec<Epoch>>();
        let mut attempt = 1;
        loop {
            let before = applied();
            let slots = world.slots();
            let lake: Vec<Pinned> = tables
                .iter()
                .map(|(sink, table)| {
                    let spec = table.spec();
                    Pinned {
                        sink: sink.clone(),
                        table: spec.name.clone(),
                        key: format!("{sink}.{}", spec.name),
                        schema: spec.schema.clone(),
                        snapshot: table.snapshot(),
                    }
                })
                .collect();
            let still = lake.iter().zip(&before).all(|(pinned, before)| pinned.snapshot.applied == *before);
            if still || attempt == ATTEMPTS_MAX {
                return Cut { slots, lake };
            }
            attempt += 1;
        }
    }
}
