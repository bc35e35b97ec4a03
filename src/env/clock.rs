//! Wall clock as a value that can be handed around and replaced.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Microseconds UTC. Never used for safety, only for stamps, idleness and intervals.
#[derive(Clone)]
pub enum Clock {
    System,
    /// Stands still until moved; for tests and simulation.
    Manual(Arc<AtomicI64>),
}

impl Clock {
    pub fn now_us(&self) -> i64 {
        match self {
            Clock::System => {
                SystemTime::now().duration_since(UNIX_EPOCH).expect("the system clock is after 1970").as_micros() as i64
            }
            Clock::Manual(t) => t.load(Ordering::SeqCst),
        }
    }
}
