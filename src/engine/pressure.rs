//! What happens when a share of the memory budget is used up: the epoch is sealed early, slots pause, and it is said why.
//!
//! Rows: those no applied epoch holds yet, and the files being written from them. Above half of the share the epoch is
//! sealed early; above all of it slots take nothing until the lake has caught up. State: above the share slots take
//! nothing; there is room again when compaction or a larger limit makes some. Queues in front of slots then fill to
//! their own bound, and sources pause. Nothing is ever dropped (I9).
//!
//! Slots stop at three quarters, because what a slot has begun it finishes: the last quarter is for the batches in hand,
//! which are bounded by the share as well. A slot below the bound takes at least one handover, however large, so a share
//! smaller than a message cannot stop a pipeline; it is exceeded by that message.

use crate::types::limit::BATCH_BYTES_MAX;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use tokio::sync::Notify;

/// Between two ERRORs about a state that is full: it can come and go with every compaction.
const STATE_ERROR_INTERVAL_US: i64 = 60_000_000;

/// Why a slot takes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Cause {
    /// The lake is behind.
    Rows,
    /// Hot state is as large as it may be.
    State,
}

impl Cause {
    pub const ALL: [Cause; 2] = [Cause::Rows, Cause::State];

    pub fn name(self) -> &'static str {
        match self {
            Cause::Rows => "rows",
            Cause::State => "state",
        }
    }
}

/// Bounds in bytes.
#[derive(Clone, Copy, Debug)]
pub struct Shares {
    pub rows_max: u64,
    pub state_max: u64,
}

/// One view over all slots.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ViewUse {
    pub name: Arc<str>,
    pub keys: u64,
    pub bytes: u64,
}

#[derive(Clone, Debug)]
pub struct Paused {
    pub slot: u32,
    pub cause: Cause,
    pub since_us: i64,
}

#[derive(Default)]
struct Book {
    /// By slot, then by index in `Plan::views`: keys and bytes.
    state: Vec<Vec<(u64, u64)>>,
    /// By slot.
    paused: Vec<Option<(Cause, i64)>>,
    /// Slots' pauses that are over, in all.
    paused_us: BTreeMap<Cause, u64>,
    state_error_at_us: Option<i64>,
    /// By table: what its files wait for.
    table_trouble: BTreeMap<Arc<str>, String>,
}

/// Shared by slots, the deliver threads, the checkpointer and those who show it.
pub struct Pressure {
    rows: AtomicU64,
    files: AtomicU64,
    shares: Shares,
    /// Full state ends the pipeline instead of pausing it: `--once` has nobody who waits for room.
    ends_when_full: bool,
    views: Vec<Arc<str>>,
    /// More than half of the rows' share is used: the checkpointer is to cut now.
    pub seal_early: Notify,
    /// Rows were given back.
    pub room: Notify,
    early_seals: AtomicU64,
    /// A std mutex: taken once per batch and slot, nothing awaits while it is held.
    book: Mutex<Book>,
}

impl Pressure {
    pub fn new(shares: Shares, slots: usize, views: Vec<Arc<str>>, ends_when_full: bool) -> Pressure {
        let state = vec![vec![(0, 0); views.len()]; slots];
        let book = Book { state, paused: vec![None; slots], ..Book::default() };
        Pressure {
            rows: AtomicU64::new(0),
            files: AtomicU64::new(0),
            shares,
            ends_when_full,
            views,
            seal_early: Notify::new(),
            room: Notify::new(),
            early_seals: AtomicU64::new(0),
            book: Mutex::new(book),
        }
    }

    pub fn shares(&self) -> Shares {
        self.shares
    }

    pub fn hold_rows(&self, bytes: u64) {
        self.rows.fetch_add(bytes, Ordering::Relaxed);
        self.ask_for_seal();
    }

    pub fn free_rows(&self, bytes: u64) {
        self.rows.fetch_sub(bytes, Ordering::Relaxed);
        self.room.notify_waiters();
    }

    /// A slot's open files held `before` and hold `now`.
    pub fn files_changed(&self, before: u64, now: u64) {
        if now > before {
            self.files.fetch_add(now - before, Ordering::Relaxed);
            self.ask_for_seal();
        } else {
            self.files.fetch_sub(before - now, Ordering::Relaxed);
            self.room.notify_waiters();
        }
    }

    fn ask_for_seal(&self) {
        if self.rows_bytes() + self.files_bytes() > self.shares.rows_max / 2 {
            self.seal_early.notify_one();
        }
    }

    pub fn rows_bytes(&self) -> u64 {
        self.rows.load(Ordering::Relaxed)
    }

    pub fn files_bytes(&self) -> u64 {
        self.files.load(Ordering::Relaxed)
    }

    /// Slots take nothing more until rows are given back.
    pub fn rows_are_full(&self) -> bool {
        self.rows_bytes() + self.files_bytes() > self.shares.rows_max / 4 * 3
    }

    /// Payload bytes of one batch: all slots together stay within the last quarter, also if rows need twice the memory
    /// of the messages they came in.
    pub fn batch_bytes_max(&self) -> usize {
        let slots = self.book().paused.len().max(1) as u64;
        (self.shares.rows_max / 8 / slots).min(BATCH_BYTES_MAX as u64) as usize
    }

    pub fn sealed_early(&self) {
        self.early_seals.fetch_add(1, Ordering::Relaxed);
    }

    pub fn early_seals(&self) -> u64 {
        self.early_seals.load(Ordering::Relaxed)
    }

    /// A slot's views now: keys and bytes, by index in `Plan::views`.
    pub fn state_is(&self, slot: u32, views: impl Iterator<Item = (u64, u64)>) {
        let mut book = self.book();
        for (place, found) in book.state[slot as usize].iter_mut().zip(views) {
            *place = found;
        }
    }

    pub fn state(&self) -> Vec<ViewUse> {
        let book = self.book();
        let sum = |view: usize| {
            let of_view = book.state.iter().map(|slot| slot[view]);
            of_view.fold((0, 0), |(keys, bytes), (k, b)| (keys + k, bytes + b))
        };
        let views = self.views.iter().enumerate();
        views
            .map(|(i, name)| (name, sum(i)))
            .map(|(name, (keys, bytes))| ViewUse { name: name.clone(), keys, bytes })
            .collect()
    }

    /// When the state share is used up: the largest view, and what to do.
    pub fn full_state(&self) -> Option<(ViewUse, String)> {
        let views = self.state();
        let used: u64 = views.iter().map(|v| v.bytes).sum();
        if used <= self.shares.state_max {
            return None;
        }
        let largest = views.into_iter().max_by_key(|v| v.bytes)?;
        let text = format!(
            "hot state holds {used} bytes of its share of {}: materialized view \"{}\" has {} keys of {} bytes each, {} bytes in all; \
             raise [limits] memory, or give the view fewer keys",
            self.shares.state_max,
            largest.name,
            largest.keys,
            largest.bytes / largest.keys.max(1),
            largest.bytes,
        );
        Some((largest, text))
    }

    pub fn ends_when_full(&self) -> bool {
        self.ends_when_full
    }

    /// What a slot waits for from now on, for those who look and for the log.
    pub fn pause(&self, slot: u32, cause: Option<Cause>, now_us: i64) {
        let mut book = self.book();
        let before = book.paused[slot as usize];
        if before.map(|(cause, _)| cause) == cause {
            return;
        }
        if let Some((cause, since)) = before {
            *book.paused_us.entry(cause).or_default() += (now_us - since).max(0) as u64;
        }
        book.paused[slot as usize] = cause.map(|cause| (cause, now_us));
        let error_is_due = book.state_error_at_us.is_none_or(|at| now_us - at >= STATE_ERROR_INTERVAL_US);
        if cause == Some(Cause::State) && error_is_due {
            book.state_error_at_us = Some(now_us);
        }
        drop(book);
        match cause {
            Some(Cause::Rows) => tracing::debug!(slot, "paused: the lake is behind"),
            Some(Cause::State) if error_is_due => {
                if let Some((view, text)) = self.full_state() {
                    tracing::error!(view = %view.name, keys = view.keys, bytes = view.bytes, "paused, nothing is lost: {text}");
                }
            }
            Some(Cause::State) => tracing::debug!(slot, "paused: hot state is full"),
            None => tracing::debug!(slot, "goes on"),
        }
    }

    pub fn paused(&self) -> Vec<Paused> {
        let book = self.book();
        let slots = book.paused.iter().enumerate();
        slots.filter_map(|(slot, p)| p.map(|(cause, since_us)| Paused { slot: slot as u32, cause, since_us })).collect()
    }

    /// Slots' seconds of pause since the start, those under way included.
    pub fn paused_seconds(&self, cause: Cause, now_us: i64) -> f64 {
        let book = self.book();
        let over = book.paused_us.get(&cause).copied().unwrap_or(0);
        let under_way: i64 =
            book.paused.iter().flatten().filter(|p| p.0 == cause).map(|(_, since)| (now_us - since).max(0)).sum();
        (over + under_way as u64) as f64 / 1e6
    }

    /// What a table's files wait for; None when they are written again.
    pub fn table_waits(&self, table: &Arc<str>, why: Option<String>) {
        let mut book = self.book();
        match why {
            Some(why) => drop(book.table_trouble.insert(table.clone(), why)),
            None => drop(book.table_trouble.remove(table)),
        }
    }

    pub fn table_trouble(&self) -> BTreeMap<Arc<str>, String> {
        self.book().table_trouble.clone()
    }

    fn book(&self) -> std::sync::MutexGuard<'_, Book> {
        self.book.lock().expect("no holder panics")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pressure(rows_max: u64, state_max: u64) -> Pressure {
        Pressure::new(Shares { rows_max, state_max }, 2, vec!["a".into(), "b".into()], false)
    }

    #[test]
    fn files_count_with_rows_and_give_back() {
        let pressure = pressure(100, 0);
        pressure.hold_rows(35);
        pressure.files_changed(0, 40);
        assert!(!pressure.rows_are_full(), "exactly full is not over");
        pressure.files_changed(40, 41);
        assert!(pressure.rows_are_full());
        pressure.files_changed(41, 0);
        pressure.free_rows(35);
        assert_eq!((pressure.rows_bytes(), pressure.files_bytes()), (0, 0));
    }

    #[test]
    fn a_full_state_names_the_largest_view_and_the_setting() {
        let pressure = pressure(0, 1_000);
        pressure.state_is(0, [(10, 300), (4, 400)].into_iter());
        pressure.state_is(1, [(5, 300), (0, 0)].into_iter());
        assert_eq!(pressure.full_state(), None);
        pressure.state_is(1, [(6, 301), (0, 0)].into_iter());
        let (view, text) = pressure.full_state().expect("it is over");
        assert_eq!((&*view.name, view.keys, view.bytes), ("a", 16, 601));
        assert!(text.contains("\"a\" has 16 keys of 37 bytes each") && text.contains("[limits] memory"), "{text}");
    }

    #[test]
    fn pauses_add_up_per_cause() {
        let pressure = pressure(0, 0);
        pressure.pause(0, Some(Cause::Rows), 1_000_000);
        pressure.pause(0, Some(Cause::Rows), 2_000_000);
        pressure.pause(1, Some(Cause::State), 2_000_000);
        assert_eq!(pressure.paused_seconds(Cause::Rows, 4_000_000), 3.0);
        pressure.pause(0, None, 5_000_000);
        assert_eq!(pressure.paused_seconds(Cause::Rows, 9_000_000), 4.0);
        assert_eq!(pressure.paused_seconds(Cause::State, 9_000_000), 7.0);
        assert_eq!(pressure.paused().iter().map(|p| (p.slot, p.cause)).collect::<Vec<_>>(), [(1, Cause::State)]);
    }
}
