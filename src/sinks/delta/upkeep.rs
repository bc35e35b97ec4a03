//! Beside the stream: when a table's log gets its checkpoint, small files are put together, and old files deleted.
//!
//! `Upkeep::run` wakes up after commits and never fails: what goes wrong is said, counted, and tried again later, after
//! a longer and longer pause. Compaction and vacuum take turns over all tables of the process, so that they need the
//! memory and the store's bandwidth of one; they stand still while a checkpoint of a log is written.

use super::bins::{Rule, next_bin};
use super::checkpoint::{Checkpoints, UnderWay};
use super::compact::{self, Memory, Outcome, Trouble, compact, obstacle};
use super::config::DeltaTableConfig;
use super::files::Files;
use super::table::Table;
use super::vacuum::{ORPHAN_AGE_MIN, vacuum};
use crate::types::error::{Error, Result};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

/// Without commits the files are looked at this often: what is left of a partition gone quiet, and vacuum.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// The first vacuum of a process: not in the rush of a start.
const VACUUM_AFTER: Duration = Duration::from_secs(600);

const RETRY_MIN: Duration = Duration::from_secs(30);
const RETRY_MAX: Duration = Duration::from_secs(3600);

/// A stop waits so long for a file in hand to be put aside.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Whose turn it is to compact or vacuum, and the memory that goes with it; one per process.
#[derive(Clone)]
pub struct Turn {
    permit: Arc<Semaphore>,
    pub(super) memory: Memory,
    pub(super) checkpoints: UnderWay,
}

pub fn turn(memory_bytes: u64) -> Turn {
    Turn { permit: Arc::new(Semaphore::new(1)), memory: Memory::within(memory_bytes), checkpoints: UnderWay::default() }
}

/// The upkeep of one table.
pub struct Upkeep {
    table: Arc<Table>,
    config: DeltaTableConfig,
    turn: Turn,
    files: Option<Files>,
    /// Files that could not be read; not tried again in this process.
    unfit: BTreeSet<String>,
    /// What keeps us from touching the files, once said.
    obstacle: Option<String>,
    failures: u32,
    retry_at: Option<Instant>,
    vacuum_at: Option<Instant>,
}

impl Upkeep {
    pub fn new(table: Arc<Table>, config: DeltaTableConfig, turn: Turn) -> Self {
        let interval = config.vacuum_interval.0;
        let vacuum_at = (!interval.is_zero()).then(|| Instant::now() + interval.min(VACUUM_AFTER));
        Upkeep {
            table,
            config,
            turn,
            files: None,
            unfit: BTreeSet::new(),
            obstacle: None,
            failures: 0,
            retry_at: None,
            vacuum_at,
        }
    }

    /// Until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let (table, checkpoints) = (self.table.clone(), Checkpoints::new(self.turn.checkpoints.clone()));
        let work = async { tokio::join!(keep_log(&table, checkpoints, &stop), self.keep_files(&stop)) };
        tokio::select! {
            _ = work => {}
            // What a dropped compaction leaves is named by no version; vacuum finds it.
            _ = async { stop.cancelled().await; tokio::time::sleep(STOP_GRACE).await } => {
                tracing::debug!(table = %table.log.name, "upkeep was interrupted");
            }
        }
    }

    async fn keep_files(&mut self, stop: &CancellationToken) {
        let mut versions = self.table.versions();
        let mut looked_at = *versions.borrow_and_update();
        // A quarter of what a bin needs: the files in waiting stay few.
        let commits = (self.config.compact_files_min / 4).max(1) as u64;
        let mut next_look = Instant::now() + LOOK_INTERVAL;
        loop {
            tokio::select! {
                _ = stop.cancelled() => return,
                changed = versions.changed() => if changed.is_err() { return },
                _ = tokio::time::sleep_until(next_look.into()) => {}
            }
            let version = *versions.borrow_and_update();
            let now = Instant::now();
            let due = version >= looked_at + commits || now >= next_look;
            if !due || self.retry_at.is_some_and(|at| now < at) {
                continue;
            }
            let turn = self.turn.permit.clone();
            let Ok(_turn) = turn.acquire().await else { return };
            self.look(stop).await;
            looked_at = *versions.borrow_and_update();
            next_look = Instant::now() + LOOK_INTERVAL;
            // Not before: a look that may not be taken yet would be due all the time.
            next_look = next_look.max(self.retry_at.unwrap_or(next_look));
        }
    }

    /// Compacts while there is something to compact, then vacuums if that is due.
    pub(super) async fn look(&mut self, stop: &CancellationToken) {
        let mut done = Ok(());
        if self.config.compact {
            done = self.compact_all(stop).await;
        }
        if done.is_ok() && self.vacuum_at.is_some_and(|at| Instant::now() >= at) && !stop.is_cancelled() {
            let interval = self.config.vacuum_interval.0;
            let pause = if self.vacuum().await { interval } else { interval.min(RETRY_MAX) };
            self.vacuum_at = Some(Instant::now() + pause);
        }
        let name = self.table.log.name.clone();
        match done {
            Ok(()) => (self.failures, self.retry_at) = (0, None),
            Err(error) => {
                let pause = (RETRY_MIN * 2u32.pow(self.failures.min(10))).min(RETRY_MAX);
                self.failures += 1;
                self.retry_at = Some(Instant::now() + pause);
                // What the log says may have moved on under a failed attempt.
                self.files = None;
                metrics::counter!("pipe_table_compaction_failures_total", "component" => name.clone()).increment(1);
                tracing::warn!(table = %name, %error, retry_in_s = pause.as_secs(), "could not compact");
            }
        }
    }

    async fn compact_all(&mut self, stop: &CancellationToken) -> Result<()> {
        loop {
            let mut files = self.current().await?;
            if !self.may_touch(&files) {
                self.files = Some(files);
                return Ok(());
            }
            let rule =
                Rule { target_bytes: self.config.compact_target.0, files_min: self.config.compact_files_min as usize };
            let now_ms = self.table.clock.now_us() / 1000;
            let bin = next_bin(&files.active, &self.unfit, rule, now_ms).filter(|_| !stop.is_cancelled());
            self.table.count_active(files.active.len());
            let Some(bin) = bin else {
                self.files = Some(files);
                return Ok(());
            };
            let started = Instant::now();
            let used = metrics::gauge!("pipe_budget_used_bytes", "share" => "upkeep");
            used.set(self.turn.memory.of(&bin) as f64);
            let done = compact(&self.table, &mut files, &bin, &self.turn, stop).await;
            used.set(0.0);
            match done {
                Ok(outcome) => self.note(outcome, started.elapsed()),
                Err(Trouble::Unfit { path, why }) => {
                    tracing::warn!(table = %self.table.log.name, file = path, why, "this file is left as it is");
                    self.unfit.insert(path);
                }
                Err(Trouble::Failed(error)) => return Err(error),
            }
            self.files = Some(files);
        }
    }

    /// The files as of the newest version.
    async fn current(&mut self) -> Result<Files> {
        let seen = self.table.last_seen().head.version;
        if let Some(mut files) = self.files.take() {
            files.follow(&self.table.log).await?;
            if files.version >= seen {
                return Ok(files);
            }
        }
        match Files::load(&self.table.log).await {
            Ok(files) => Ok(files),
            // The log may have been cleaned between listing and reading it.
            Err(_) => Files::load(&self.table.log).await,
        }
    }

    fn may_touch(&mut self, files: &Files) -> bool {
        let obstacle = obstacle(files);
        if obstacle != self.obstacle {
            match &obstacle {
                Some(why) => tracing::warn!(table = %self.table.log.name, why, "its files are not compacted"),
                None => tracing::info!(table = %self.table.log.name, "its files are compacted again"),
            }
            self.obstacle = obstacle;
        }
        self.obstacle.is_none()
    }

    fn note(&self, outcome: Outcome, took: Duration) {
        let name = self.table.log.name.clone();
        match outcome {
            Outcome::Compacted(report) => {
                let compact::Report { files_in, files_out, bytes_in, bytes_out, rows } = report;
                let count = |metric: &'static str, n: u64| {
                    metrics::counter!(metric, "component" => name.clone()).increment(n);
                };
                count("pipe_table_compactions_total", 1);
                count("pipe_table_compaction_files_in_total", files_in);
                count("pipe_table_compaction_files_out_total", files_out);
                count("pipe_table_compaction_bytes_in_total", bytes_in);
                count("pipe_table_compaction_bytes_out_total", bytes_out);
                metrics::gauge!("pipe_table_compaction_last_duration_seconds", "component" => name.clone())
                    .set(took.as_secs_f64());
                let duration_ms = took.as_millis() as u64;
                tracing::debug!(table = %name, files_in, files_out, bytes_in, bytes_out, rows, duration_ms, "compacted");
            }
            Outcome::Overtaken(why) => {
                metrics::counter!("pipe_table_compaction_conflicts_total", "component" => name.clone()).increment(1);
                tracing::info!(table = %name, why, "a compaction was overtaken by another writer");
            }
            Outcome::Stopped => {}
        }
    }

    /// False: it is to be tried again before long.
    async fn vacuum(&self) -> bool {
        let name = self.table.log.name.clone();
        let started = Instant::now();
        match vacuum(&self.table, ORPHAN_AGE_MIN).await {
            Ok(report) => {
                let count = |metric: &'static str, n: u64| {
                    metrics::counter!(metric, "component" => name.clone()).increment(n);
                };
                count("pipe_table_vacuumed_files_total", report.files);
                count("pipe_table_vacuumed_bytes_total", report.bytes);
                count("pipe_table_vacuum_failures_total", report.failed);
                metrics::gauge!("pipe_table_vacuum_last_duration_seconds", "component" => name.clone())
                    .set(started.elapsed().as_secs_f64());
                let super::vacuum::Report { files, bytes, orphans, failed } = report;
                tracing::info!(table = %name, files, bytes, orphans, failed, "vacuumed");
                true
            }
            Err(error @ Error::Refused { .. }) => {
                tracing::info!(table = %name, %error, "not vacuumed");
                true
            }
            Err(error) => {
                metrics::counter!("pipe_table_vacuum_failures_total", "component" => name.clone()).increment(1);
                tracing::warn!(table = %name, %error, "nothing was vacuumed");
                false
            }
        }
    }
}

async fn keep_log(table: &Table, mut checkpoints: Checkpoints, stop: &CancellationToken) {
    let mut versions = table.versions();
    loop {
        checkpoints.after_commit(table).await;
        tokio::select! {
            _ = stop.cancelled() => return,
            changed = versions.changed() => if changed.is_err() { return },
        }
    }
}
