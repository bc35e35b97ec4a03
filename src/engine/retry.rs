//! Waiting before something is tried again that a store could not do yet.

use crate::env::clock::Clock;
use crate::types::epoch::Epoch;
use std::time::Duration;

/// First wait after a failed attempt, doubled up to the maximum.
const RETRY_MS_FIRST: u64 = 200;
const RETRY_MS_MAX: u64 = 10_000;

/// Waits between attempts, longer and longer.
pub struct Patience<'a> {
    clock: &'a Clock,
    wait_ms: u64,
}

impl<'a> Patience<'a> {
    pub fn new(clock: &'a Clock) -> Self {
        Patience { clock, wait_ms: RETRY_MS_FIRST }
    }

    /// How long it will wait next.
    pub fn next_ms(&self) -> u64 {
        self.wait_ms
    }

    pub async fn wait(&mut self, what: &str, epoch: Epoch, why: &(dyn std::fmt::Display + Sync)) {
        tracing::warn!(epoch = epoch.0, retry_in_ms = self.wait_ms, "{what}: {why}");
        self.sleep().await;
    }

    pub async fn sleep(&mut self) {
        let wait_ms = self.wait_ms;
        self.wait_ms = (wait_ms * 2).min(RETRY_MS_MAX);
        self.clock.sleep(Duration::from_millis(wait_ms)).await;
    }
}
