//! The ledger of messages: received = decoded + rejected + dropped, per partition, cumulative in the record.

use crate::types::invariant;
use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// Handed to a slot.
    pub received: u64,
    /// Parsed, even into no rows.
    pub decoded: u64,
    /// In the dead-letter table.
    pub rejected: u64,
    /// By a rule the user wrote: no route, tombstone.
    pub dropped: u64,
}

impl Counts {
    pub fn add(&mut self, other: &Counts) {
        self.received += other.received;
        self.decoded += other.decoded;
        self.rejected += other.rejected;
        self.dropped += other.dropped;
    }

    /// I3, asserted for every batch.
    pub fn check(&self) {
        invariant::check(invariant::I3, self.received == self.decoded + self.rejected + self.dropped, || {
            format!("the ledger does not balance: {self:?}")
        });
    }
}
