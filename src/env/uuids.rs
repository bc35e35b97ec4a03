//! Names nobody else has: for chains and for the attempts of a PUT.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

#[derive(Clone, Debug)]
pub enum Uuids {
    Random,
    /// Counts, so that a simulated run repeats itself. Everybody in it shares the counter.
    Counted(Arc<AtomicU64>),
}

impl Uuids {
    pub fn fresh(&self) -> String {
        match self {
            Uuids::Random => uuid::Uuid::new_v4().to_string(),
            Uuids::Counted(next) => format!("uuid-{:06}", next.fetch_add(1, Ordering::Relaxed)),
        }
    }
}
