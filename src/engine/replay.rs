//! Dead letters as a source: what is still dead is handed over once more, under the identity it was first received with.
//!
//! It reads the table as it stands behind the claim of its own start: whatever was decided has been rolled forward, so a
//! message whose rows have landed has its row `replayed` there too (docs/decisions/0003-dead-letter-replay.md).

use crate::codec::json::JsonOptions;
use crate::engine::headers;
use crate::engine::ingest::Ingest;
#[cfg(test)]
use crate::engine::simulation::planted::{Bug, planted};
use crate::env::budget::Budget;
use crate::env::clock::Clock;
use crate::query::dead_letters::{DeadLetters, LeftBehind, Replayable, Why, Wish};
use crate::query::error::QueryError;
use crate::sources::{Handover, Source, SourceContext};
use crate::sql::exec::Stateless;
use crate::sql::plan::{InsertFrom, Plan};
use crate::types::error::{Error, Result};
use crate::types::message::{Message, Messages, REPLAY_PARTITION, REPLAY_SOURCE, Replayed};
use crate::types::position::{PartitionId, Position, Span};
use crate::types::table::timestamp_type;
use arrow::array::{Array, ArrayRef, AsArray};
use arrow::compute::cast;
use arrow::datatypes::{DataType, Int32Type, Int64Type, TimestampMicrosecondType};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use bytes::Bytes;
use datafusion::catalog::TableProvider;
use datafusion::execution::SendableRecordBatchStream;
use futures::StreamExt;
use futures::future::BoxFuture;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// What one handover holds at most, as of other sources.
pub const HANDOVER_MESSAGES_MAX: usize = 1_024;
const HANDOVER_BYTES_MAX: usize = 1024 * 1024;

/// What is to be replayed, and where one learns what was not.
#[derive(Clone, Debug)]
pub struct Replay {
    pub wish: Wish,
    /// The oldest so many.
    pub limit: Option<usize>,
    pub of: Replayable,
    /// For sorting them.
    pub memory_bytes: u64,
    pub left: Arc<Mutex<Vec<LeftBehind>>>,
}

/// The source of one replay.
pub struct DeadLetterSource {
    /// What is handed over, in order.
    pub letters: BoxFuture<'static, Result<SendableRecordBatchStream>>,
    /// What one handover holds at most.
    pub handover_messages: usize,
}

/// What a replay runs of a plan: key-value stores stay as they are. The next ordinary start writes them anew, before anyone
/// can read them.
pub fn plan(of: &Plan) -> Plan {
    let mut plan = of.clone();
    plan.inserts.retain(|insert| matches!(insert.from, InsertFrom::Node(_)));
    plan
}

/// What is to be replayed of a table as it stands, the oldest first; the rest is told of.
pub async fn letters(table: Arc<dyn TableProvider>, replay: Replay) -> Result<SendableRecordBatchStream> {
    let mut letters = DeadLetters::new(table, &replay.wish, replay.memory_bytes).await.map_err(unread)?;
    let left = letters.narrow(&replay.of).await.map_err(unread)?;
    left.iter().for_each(warn);
    *replay.left.lock().expect("no holder panics") = left;
    letters.in_order(replay.limit).await.map_err(unread)
}

fn unread(error: QueryError) -> Error {
    Error::Failed(format!("the dead letters cannot be read: {error}"))
}

#[async_trait]
impl Source for DeadLetterSource {
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let DeadLetterSource { letters, handover_messages } = *self;
        let mut rows = letters.await?;
        context.status.up();
        let mut hands = Hands {
            partition: Arc::new(PartitionId::new(REPLAY_SOURCE, REPLAY_PARTITION)),
            next: context.start.get(REPLAY_PARTITION).map_or(Position(0), |start| start.position),
            handover_messages,
            context,
        };
        #[cfg(test)]
        if planted(Bug::ReplayBeginsAnew) {
            hands.next = Position(0);
        }
        loop {
            let rows = tokio::select! {
                biased;
                () = hands.context.stop.cancelled() => return Ok(()),
                rows = rows.next() => rows,
            };
            let Some(rows) = rows else {
                let messages = hands.context.status.messages_in.load(Ordering::Relaxed);
                tracing::info!(messages, "dead letters handed over");
                return Ok(());
            };
            if !hands.over(messages(&rows.map_err(|e| unread(e.into()))?)?).await {
                return Ok(());
            }
        }
    }
}

/// What would become of dead letters.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tried {
    pub replayed: u64,
    /// Of those that would fail again, by the reason's first word.
    pub reasons: BTreeMap<&'static str, u64>,
}

/// Decodes letters and runs the stateless part of the plan over them, which is where a message can fail; state and sinks
/// are not touched. What only a table could refuse (a partition date beyond its range) is not seen here.
pub async fn try_out(
    mut letters: SendableRecordBatchStream,
    plan: Arc<Plan>,
    decoding: &BTreeMap<String, JsonOptions>,
    clock: &Clock,
) -> Result<Tried> {
    let mut ingest = Ingest::new(plan.clone(), decoding);
    let mut stateless = Stateless::new(plan).await?;
    let budget = Budget::new(HANDOVER_BYTES_MAX as u64);
    let mut tried = Tried::default();
    while let Some(rows) = letters.next().await {
        let mut items = messages(&rows?)?;
        (0..).zip(&mut items).for_each(|(at, message)| message.position = Position(at));
        let partition = Arc::new(PartitionId::new(REPLAY_SOURCE, REPLAY_PARTITION));
        let span = Span::new(Position(0), Position(items.len() as u64));
        let (count, partition_label) = (items.len() as u64, partition.name.clone());
        let messages = Messages { partition, partition_label, span, items, identity: None };
        let held = budget.acquire(messages.bytes() as u64).await;
        let mut ingested = ingest.decode(&[Handover { messages, held }]);
        let (_, guilty) = stateless.bisect(&std::mem::take(&mut ingested.tables), clock.now_us());
        let rejects = ingested.rejects.iter().chain(&guilty);
        let before: u64 = tried.reasons.values().sum();
        rejects.for_each(|reject| *tried.reasons.entry(reject.reason.code()).or_default() += 1);
        tried.replayed += count - (tried.reasons.values().sum::<u64>() - before);
    }
    Ok(tried)
}

fn warn(left: &LeftBehind) {
    let LeftBehind { source, why, messages } = left;
    match why {
        Why::OtherChain => tracing::info!(%source, messages, "dead letters of another chain are left alone"),
        Why::Older => tracing::warn!(
            %source,
            messages,
            "dead letters that an older build wrote without chain, headers and the source's time stay; --older takes them"
        ),
        Why::Unread => tracing::warn!(%source, messages, "dead letters of a source that no table reads stay"),
    }
}

struct Hands {
    context: SourceContext,
    partition: Arc<PartitionId>,
    next: Position,
    handover_messages: usize,
}

impl Hands {
    /// False: stop; what was not handed over is dead as before.
    async fn over(&mut self, messages: Vec<Message>) -> bool {
        let (mut items, mut bytes) = (Vec::new(), 0);
        for mut message in messages {
            if items.len() == self.handover_messages
                || (!items.is_empty() && bytes + message.bytes() > HANDOVER_BYTES_MAX)
            {
                if !self.send(std::mem::take(&mut items)).await {
                    return false;
                }
                bytes = 0;
            }
            bytes += message.bytes();
            message.position = Position(self.next.0 + items.len() as u64);
            items.push(message);
        }
        items.is_empty() || self.send(items).await
    }

    async fn send(&mut self, items: Vec<Message>) -> bool {
        let count = items.len() as u64;
        let span = Span::new(self.next, Position(self.next.0 + count));
        let messages = Messages {
            partition: self.partition.clone(),
            partition_label: self.partition.name.clone(),
            span,
            items,
            identity: None,
        };
        let sent = tokio::select! {
            biased;
            () = self.context.stop.cancelled() => false,
            sent = self.context.intake.send(messages) => sent,
        };
        if sent {
            self.next = span.to;
            // Rows are turned into messages without waiting for anything: between two handovers others have their turn.
            tokio::task::yield_now().await;
            self.context.status.messages_in.fetch_add(count, Ordering::Relaxed);
        }
        sent
    }
}

/// The letters as they were received; positions are the replay's and come later.
fn messages(rows: &RecordBatch) -> Result<Vec<Message>> {
    let column = |name: &str, to: DataType| -> Result<ArrayRef> {
        let found = rows.column_by_name(name).ok_or_else(|| Error::Failed(format!("no column \"{name}\"")))?;
        Ok(cast(found, &to)?)
    };
    let text = |name: &str| column(name, DataType::Utf8);
    let (sources, topics, partitions) = (text("source")?, text("topic")?, text("partition")?);
    let (positions, attempts) = (column("position", DataType::Int64)?, column("attempt", DataType::Int32)?);
    let (keys, payloads) = (column("key", DataType::Binary)?, column("payload", DataType::Binary)?);
    let (received, stamps) = (column("received_at", timestamp_type())?, column("timestamp", timestamp_type())?);
    let headers = text("headers")?;
    for identity in [&sources, &partitions, &positions, &received, &attempts] {
        if identity.null_count() > 0 {
            let what = "a dead letter without source, partition, position, received_at or attempt was found";
            return Err(Error::refused(
                what,
                "It was not written by pipe, or changed since. Leave it out with --where, or delete it.",
            ));
        }
    }
    let mut known: BTreeSet<Arc<str>> = BTreeSet::new();
    let mut shared = |text: &str| -> Arc<str> {
        if let Some(known) = known.get(text) {
            return known.clone();
        }
        let new: Arc<str> = text.into();
        known.insert(new.clone());
        new
    };
    let text_at = |column: &ArrayRef, i: usize| -> Option<String> {
        column.is_valid(i).then(|| column.as_string::<i32>().value(i).to_string())
    };
    let bytes_at = |column: &ArrayRef, i: usize| -> Option<Bytes> {
        column.is_valid(i).then(|| Bytes::copy_from_slice(column.as_binary::<i32>().value(i)))
    };
    let time_at = |column: &ArrayRef, i: usize| -> Option<i64> {
        column.is_valid(i).then(|| column.as_primitive::<TimestampMicrosecondType>().value(i))
    };
    let mut messages = Vec::with_capacity(rows.num_rows());
    for i in 0..rows.num_rows() {
        let position = positions.as_primitive::<Int64Type>().value(i);
        let headers = match text_at(&headers, i) {
            None => None,
            Some(json) => {
                let read = headers::from_json(&json);
                Some(Arc::new(read.map_err(|why| {
                    Error::Failed(format!("the headers of the dead letter at {position} cannot be read: {why}"))
                })?))
            }
        };
        messages.push(Message {
            position: Position::default(),
            topic: text_at(&topics, i).map(|t| shared(&t)),
            key: bytes_at(&keys, i),
            payload: bytes_at(&payloads, i),
            headers,
            timestamp_us: time_at(&stamps, i),
            received_at_us: time_at(&received, i).expect("no nulls, as was checked above"),
            replayed: Some(Arc::new(Replayed {
                source: shared(sources.as_string::<i32>().value(i)),
                partition_label: shared(partitions.as_string::<i32>().value(i)),
                position: Position(position as u64),
                attempts: attempts.as_primitive::<Int32Type>().value(i).max(0) as u32,
            })),
        });
    }
    Ok(messages)
}

#[cfg(test)]
mod tests;
