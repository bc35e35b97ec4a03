//! Waiting before something is tried again that a store could not do yet.

use crate::env::clock::Clock;
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
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

/// A pipeline that runs retries for as long as it takes. A start that has not reached its store by then has more likely a
/// wrong address, and somebody waits for the answer.
const START_PATIENCE_US: i64 = 60_000_000;

/// One step of a start, made again after errors that a retry can mend. Every attempt begins from nothing, as after a crash
/// in the middle of the one before.
pub async fn for_a_minute<T, F>(step: &str, clock: &Clock, mut attempt: impl FnMut() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let begun_us = clock.now_us();
    let mut patience = Patience::new(clock);
    loop {
        let error = match attempt().await {
            Err(error) if is_worth_another(&error) && clock.now_us() - begun_us < START_PATIENCE_US => error,
            outcome => return outcome,
        };
        tracing::warn!(step, retry_in_ms = patience.next_ms(), "the start tries again: {error}");
        patience.sleep().await;
    }
}

/// A claim that came second, too: what came first may be the last record of a process that is dead, on its way since.
fn is_worth_another(error: &Error) -> bool {
    error.is_retriable() || matches!(error, Error::Fenced(_))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::env::clock::ManualClock;
    use std::sync::atomic::{AtomicU32, Ordering};

    /// `fails` attempts that end in `error`, then one that succeeds; the clock jumps to whatever is waited for.
    async fn check(fails: u32, error: fn() -> Error) -> (Result<()>, u32) {
        let manual = ManualClock::starting_at(0);
        let clock = Clock::Manual(manual.clone());
        let attempts = AtomicU32::new(0);
        let outcome = for_a_minute("a test", &clock, || async {
            if attempts.fetch_add(1, Ordering::Relaxed) < fails { Err(error()) } else { Ok(()) }
        });
        tokio::pin!(outcome);
        loop {
            tokio::select! {
                biased;
                outcome = &mut outcome => return (outcome, attempts.load(Ordering::Relaxed)),
                _ = std::future::ready(()) => {
                    manual.advance_to(manual.next_deadline_us().expect("it waits for time alone"));
                }
            }
        }
    }

    #[tokio::test]
    async fn a_store_that_never_answers_ends_the_start_after_a_minute() {
        let (outcome, attempts) = check(u32::MAX, || Error::Unavailable("no route".into())).await;
        assert!(outcome.is_err_and(|e| e.to_string().contains("no route")));
        assert!((8..30).contains(&attempts), "{attempts}");
    }

    #[tokio::test]
    async fn what_no_retry_can_mend_is_said_at_once() {
        let (outcome, attempts) = check(u32::MAX, || Error::refused("a wrong key", "")).await;
        assert!(outcome.is_err());
        assert_eq!(attempts, 1);
    }

    #[tokio::test]
    async fn a_store_that_comes_back_is_waited_for() {
        let (outcome, attempts) = check(3, || Error::Unavailable("503".into())).await;
        assert!(outcome.is_ok());
        assert_eq!(attempts, 4);
    }

    #[tokio::test]
    async fn a_claim_that_came_second_is_made_again() {
        let (outcome, attempts) = check(1, || Error::Fenced("record 7 was written by another".into())).await;
        assert!(outcome.is_ok());
        assert_eq!(attempts, 2);
    }
}
