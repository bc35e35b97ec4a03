//! Consumers of one journal: each holds what it may still need, and a trim waits for the slowest.

use crate::journal::writer::Shared;
use crate::types::error::Result;
use crate::types::position::Position;
use std::sync::Arc;

/// Keeps the messages from a position on. Dropping it lets go of them; the next `release` of another hold deletes them.
pub struct Hold {
    shared: Arc<Shared>,
    number: u64,
}

impl Hold {
    pub(super) fn new(shared: Arc<Shared>, from: Position) -> Hold {
        let mut holds = shared.holds.lock().expect("no holder panics");
        let number = holds.last_key_value().map_or(0, |(last, _)| last + 1);
        holds.insert(number, from);
        drop(holds);
        Hold { shared, number }
    }

    /// Messages below `to` are not needed here any more; what nobody needs is deleted, in whole segments. Call with what is
    /// applied, never with less certain news. Never goes back. Blocks.
    pub fn release(&self, to: Position) -> Result<()> {
        let least = {
            let mut holds = self.shared.holds.lock().expect("no holder panics");
            let own = holds.get_mut(&self.number).expect("a hold is there until it is dropped");
            *own = to.max(*own);
            *holds.values().min().expect("at least our own")
        };
        let freed = self.shared.segments.lock().expect("no holder panics").trim(least);
        self.shared.wake_writer();
        freed.map(|_| ())
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        self.shared.holds.lock().expect("no holder panics").remove(&self.number);
    }
}
