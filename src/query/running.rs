//! The queries that run now: `system.queries`, and the way to cancel one.

use crate::env::clock::Clock;
use crate::types::table::timestamp_type;
use arrow::array::{Int64Array, StringArray, TimestampMicrosecondArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use tokio_util::sync::CancellationToken;

/// Queries at a time, over all clients. Each holds a little memory outside its share (plan, two batches); a client that
/// does not read its results holds a place. Full: refused with a clear text, never queued, so that nobody waits for a
/// reader who went for lunch.
pub const QUERIES_MAX: usize = 64;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    Planning,
    Running,
}

struct Query {
    sql: Arc<str>,
    tag: Option<u64>,
    state: State,
    started_at_us: i64,
    rows: Arc<AtomicU64>,
    cancel: CancellationToken,
}

pub struct Running {
    clock: Clock,
    next_id: AtomicU64,
    // A std mutex: nothing awaits while it is held. Guards the map only.
    queries: Mutex<BTreeMap<u64, Query>>,
}

/// A query's place in the list; dropping it takes the query off.
pub struct Entry {
    pub id: u64,
    pub cancel: CancellationToken,
    pub rows: Arc<AtomicU64>,
    started_at_us: i64,
    outcome: Outcome,
    running: Arc<Running>,
}

/// How a query ended, for the counters. One that nobody said anything about was left by its reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Answered,
    Failed,
    Cancelled,
}

static SCHEMA: LazyLock<SchemaRef> = LazyLock::new(|| {
    Arc::new(Schema::new(vec![
        Field::new("id", DataType::Int64, false),
        Field::new("sql", DataType::Utf8, false),
        Field::new("state", DataType::Utf8, false),
        Field::new("started_at", timestamp_type(), false),
        Field::new("rows", DataType::Int64, false),
    ]))
});

impl Running {
    pub fn new(clock: Clock) -> Self {
        Running { clock, next_id: AtomicU64::new(1), queries: Mutex::default() }
    }

    /// None when there are too many already.
    pub fn enter(self: &Arc<Self>, sql: &str, tag: Option<u64>) -> Option<Entry> {
        let mut queries = self.queries.lock().expect("no holder panics");
        if queries.len() >= QUERIES_MAX {
            return None;
        }
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let started_at_us = self.clock.now_us();
        let (cancel, rows) = (CancellationToken::new(), Arc::new(AtomicU64::new(0)));
        let query = Query {
            sql: sql.into(),
            tag,
            state: State::Planning,
            started_at_us,
            rows: rows.clone(),
            cancel: cancel.clone(),
        };
        queries.insert(id, query);
        Some(Entry { id, cancel, rows, started_at_us, outcome: Outcome::Cancelled, running: self.clone() })
    }

    /// False when there is no such query (any more).
    pub fn cancel(&self, id: u64) -> bool {
        let queries = self.queries.lock().expect("no holder panics");
        queries.get(&id).map(|query| query.cancel.cancel()).is_some()
    }

    /// Cancels every query that was started under this tag; the number of them.
    pub fn cancel_tag(&self, tag: u64) -> usize {
        self.cancel_where(|query| query.tag == Some(tag))
    }

    pub fn cancel_all(&self) {
        self.cancel_where(|_| true);
    }

    fn cancel_where(&self, which: impl Fn(&Query) -> bool) -> usize {
        let queries = self.queries.lock().expect("no holder panics");
        queries.values().filter(|query| which(query)).map(|query| query.cancel.cancel()).count()
    }

    pub fn count(&self) -> usize {
        self.queries.lock().expect("no holder panics").len()
    }

    pub fn rows(&self) -> RecordBatch {
        let queries = self.queries.lock().expect("no holder panics");
        let state = |state: State| match state {
            State::Planning => "planning",
            State::Running => "running",
        };
        let started = TimestampMicrosecondArray::from_iter_values(queries.values().map(|q| q.started_at_us));
        RecordBatch::try_new(
            SCHEMA.clone(),
            vec![
                Arc::new(Int64Array::from_iter_values(queries.keys().map(|id| *id as i64))),
                Arc::new(StringArray::from_iter_values(queries.values().map(|q| &q.sql))),
                Arc::new(StringArray::from_iter_values(queries.values().map(|q| state(q.state)))),
                Arc::new(started.with_timezone("UTC")),
                Arc::new(Int64Array::from_iter_values(queries.values().map(|q| q.rows.load(Ordering::Relaxed) as i64))),
            ],
        )
        .expect("the columns are built to the schema")
    }
}

impl Entry {
    pub fn is_running(&self) {
        let mut queries = self.running.queries.lock().expect("no holder panics");
        if let Some(query) = queries.get_mut(&self.id) {
            query.state = State::Running;
        }
    }

    pub fn ended(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let now = self.running.clock.now_us();
        self.running.queries.lock().expect("no holder panics").remove(&self.id);
        let outcome = match self.outcome {
            Outcome::Answered => "answered",
            Outcome::Failed => "failed",
            Outcome::Cancelled => "cancelled",
        };
        metrics::counter!("pipe_queries_total", "outcome" => outcome).increment(1);
        metrics::counter!("pipe_query_rows_total").increment(self.rows.load(Ordering::Relaxed));
        metrics::histogram!("pipe_query_seconds").record((now - self.started_at_us).max(0) as f64 / 1e6);
    }
}
