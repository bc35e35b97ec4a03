//! What a key-value store must be able to do, and the two marks every write carries: version and marker.

use crate::types::epoch::ChainId;
use crate::types::error::Result;
use crate::types::position::{PartitionId, Position};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// When a value was written: a later process is newer than an earlier one, a later write newer than an earlier one.
/// Within a table it only rises (I13).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    /// From the claim record.
    pub incarnation: u64,
    /// Counts writes since the start.
    pub sequence: u64,
}

/// What the rows of a table may reflect. Stored in the same atomic batch as the rows it speaks of, or before them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Marker {
    pub chain: ChainId,
    /// Of the view (and the projection) that made the rows. Another one: the rows answer another question.
    pub fingerprint: String,
    pub version: Version,
    /// Per partition: rows may reflect messages below this position, and reflect none at or above it.
    #[serde(with = "as_list")]
    pub positions: BTreeMap<PartitionId, Position>,
    /// False while changes are caught up that no replay will bring again (a rebuild; keys held back over a record): what a
    /// crash leaves then is not only ahead, it also lacks rows, and is rebuilt.
    #[serde(default = "whole")]
    pub whole: bool,
}

/// Of markers written before there was the distinction.
fn whole() -> bool {
    true
}

/// One write. Atomic where the store can; else the marker first, so that no row is ever ahead of it.
#[derive(Clone, Debug, Default)]
pub struct Writes {
    pub puts: Vec<(Vec<u8>, Vec<u8>)>,
    pub deletes: Vec<Vec<u8>>,
    pub marker: Option<Marker>,
}

/// A store of ordered bytes. Errors are `Failed` (going on could lose writes) unless the store is elsewhere and away.
pub trait KvStore: Send + Sync {
    fn create_table(&self, table: &str) -> Result<()>;

    /// All or nothing if the store has such batches. If not (Redis, DynamoDB): the marker, then the rows in any order,
    /// each visible at once; a crash may leave any part of them. Durable after `sync`, and never reordered before an
    /// earlier write, in either case.
    fn write(&self, table: &str, writes: Writes) -> Result<()>;

    /// Empties a table and removes its marker, the marker first: a crash in between leaves a table that is rebuilt.
    fn clear(&self, table: &str) -> Result<()>;

    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// Up to `limit` entries whose key begins with `prefix`, in key order.
    fn scan(&self, table: &str, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Up to `limit` entries behind the key `after` (None: from the first), in key order.
    fn walk(&self, table: &str, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>>;

    /// Keys in the table; walks it, so it is for people and tests.
    fn count(&self, table: &str) -> Result<u64>;

    fn marker(&self, table: &str) -> Result<Option<Marker>>;

    /// Of every table that has one, whether it was opened or not.
    fn markers(&self) -> Result<BTreeMap<String, Marker>>;

    fn sync(&self) -> Result<()>;
}

/// JSON has no maps with structs as keys.
mod as_list {
    use crate::types::position::{PartitionId, Position};
    use serde::{Deserialize, Deserializer, Serializer};
    use std::collections::BTreeMap;

    pub fn serialize<S: Serializer>(map: &BTreeMap<PartitionId, Position>, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(map)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<PartitionId, Position>, D::Error> {
        Ok(Vec::<(PartitionId, Position)>::deserialize(deserializer)?.into_iter().collect())
    }
}
