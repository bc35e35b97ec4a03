//! The stream of a running query. Dropping it cancels the query.

use crate::query::error::{Kind, QueryError};
use crate::query::running::{Entry, Outcome};
use arrow::compute::{CastOptions, cast_with_options};
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::execution::SendableRecordBatchStream;
use futures::{Stream, StreamExt};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll, ready};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Batches between the query's threads and a client that reads slowly. One is being sent, one is ready; more would only
/// be memory outside the query budget. Full: the query waits.
const BUFFERED_BATCHES_MAX: usize = 2;

/// A task that does not outlive its owner.
pub struct Owned<T>(pub JoinHandle<T>);

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        self.0.abort();
    }
}

enum Step {
    Batch(RecordBatch),
    Wrong(QueryError),
    /// Told apart from a task that died: an early end must never look like a complete answer.
    End,
}

pub struct Rows {
    pub id: u64,
    pub schema: SchemaRef,
    steps: mpsc::Receiver<Step>,
    _task: Owned<()>,
    /// None: the query is over.
    entry: Option<Entry>,
}

impl Rows {
    /// Runs `open` and streams what it gives on `runtime`, as batches of exactly `schema`.
    pub fn start<F>(runtime: &Handle, entry: Entry, schema: SchemaRef, open: F) -> Rows
    where
        F: Future<Output = Result<SendableRecordBatchStream, QueryError>> + Send + 'static,
    {
        let (sender, steps) = mpsc::channel(BUFFERED_BATCHES_MAX);
        let (cancel, declared) = (entry.cancel.clone(), schema.clone());
        entry.is_running();
        let work = async move {
            let last = tokio::select! {
                () = cancel.cancelled() => Step::Wrong(QueryError::new(Kind::Cancelled, "the query was cancelled")),
                last = pump(open, &sender, &declared) => last,
            };
            // An error here says that nobody listens any more, which is fine at the end.
            if sender.send(last).await.is_err() {
                tracing::debug!("a query's reader went away");
            }
        };
        Rows { id: entry.id, schema, steps, _task: Owned(runtime.spawn(work)), entry: Some(entry) }
    }
}

async fn pump<F>(open: F, sender: &mpsc::Sender<Step>, schema: &SchemaRef) -> Step
where
    F: Future<Output = Result<SendableRecordBatchStream, QueryError>>,
{
    let mut stream = match open.await {
        Ok(stream) => stream,
        Err(e) => return Step::Wrong(e),
    };
    while let Some(batch) = stream.next().await {
        let step = match batch.map_err(QueryError::from).and_then(|batch| declared(&batch, schema)) {
            Ok(batch) => Step::Batch(batch),
            Err(e) => return Step::Wrong(e),
        };
        if sender.send(step).await.is_err() {
            return Step::End;
        }
    }
    Step::End
}

/// The batch under the schema that was announced. The physical plan may differ in nullability and metadata, and clients
/// compare what they were told with what they get.
fn declared(batch: &RecordBatch, schema: &SchemaRef) -> Result<RecordBatch, QueryError> {
    let strict = CastOptions { safe: false, ..CastOptions::default() };
    let columns = batch
        .columns()
        .iter()
        .zip(schema.fields())
        .map(|(column, field)| match column.data_type() == field.data_type() {
            true => Ok(column.clone()),
            false => cast_with_options(column, field.data_type(), &strict),
        })
        .collect::<Result<Vec<_>, _>>();
    let rows = arrow::record_batch::RecordBatchOptions::new().with_row_count(Some(batch.num_rows()));
    columns
        .and_then(|columns| RecordBatch::try_new_with_options(schema.clone(), columns, &rows))
        .map_err(|e| QueryError::failed(format!("the result does not fit its schema: {e}")))
}

impl Stream for Rows {
    type Item = Result<RecordBatch, QueryError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(entry) = &self.entry else { return Poll::Ready(None) };
        let rows = Arc::clone(&entry.rows);
        let step = ready!(self.steps.poll_recv(cx));
        if let Some(Step::Batch(batch)) = step {
            rows.fetch_add(batch.num_rows() as u64, Ordering::Relaxed);
            return Poll::Ready(Some(Ok(batch)));
        }
        let outcome = match &step {
            Some(Step::End) => Outcome::Answered,
            Some(Step::Wrong(e)) if e.kind == Kind::Cancelled => Outcome::Cancelled,
            _ => Outcome::Failed,
        };
        if let Some(mut entry) = self.entry.take() {
            entry.ended(outcome);
        }
        Poll::Ready(match step {
            Some(Step::Wrong(e)) => Some(Err(e)),
            Some(Step::End) => None,
            Some(Step::Batch(_)) => unreachable!("returned above"),
            None => Some(Err(QueryError::failed("the query stopped in the middle; the log says why"))),
        })
    }
}
