//! Epochs and the identity of a chain of records.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The interval between two cuts; record N decides epoch N. The first record of a chain is 1.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Epoch(pub u64);

impl Epoch {
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// The uuid of a chain; part of every application id, so that another chain's epochs are never mistaken for ours.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChainId(pub String);

impl ChainId {
    /// `pipe/<chain>/<sink>.<table>`: the application id under which this chain's epochs land in a table.
    pub fn app_id(&self, sink: &str, table: &str) -> String {
        format!("pipe/{self}/{sink}.{table}")
    }
}

impl fmt::Display for ChainId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
