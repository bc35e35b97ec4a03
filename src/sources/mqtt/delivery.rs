//! Journal -> slots: reads what is durable from a position on and hands it over, for as long as the source runs.

use crate::journal::Journal;
use crate::journal::entry::Entry;
use crate::journal::reader::Reader;
use crate::sources::SourceContext;
use crate::sources::mqtt::upkeep::HandedOver;
use crate::sources::mqtt::{PARTITION, blocking};
use crate::types::error::Result;
use crate::types::limit::{HANDOVER_BYTES_MAX, HANDOVER_MESSAGES_MAX};
use crate::types::message::Messages;
use crate::types::position::{PartitionId, Position, Span};
use std::sync::Arc;
use std::sync::atomic::Ordering;

pub struct Delivery {
    pub name: Arc<str>,
    pub journal: Arc<Journal>,
    pub context: SourceContext,
    pub handed_over: Arc<HandedOver>,
}

impl Delivery {
    /// Until `stop`, or the slots are gone.
    pub async fn run(self, mut from: Position) -> Result<()> {
        let partition = Arc::new(PartitionId::new(&self.name, PARTITION));
        let label: Arc<str> = PARTITION.into();
        let mut durable = self.journal.durable();
        let mut reader = self.journal.reader(from);
        let stop = self.context.stop.clone();
        while !stop.is_cancelled() {
            // Seen before reading: what becomes durable while we read is news afterwards.
            let durable_to = durable.borrow_and_update().to;
            let entries;
            (reader, entries) = read(reader).await?;
            let to = reader.position();
            let waiting = durable_to.0.saturating_sub(to.0);
            self.context.status.lag_messages.store(waiting as i64, Ordering::Relaxed);
            let Some(oldest) = entries.first() else {
                tokio::select! {
                    changed = durable.changed() => if changed.is_err() { return Ok(()) },
                    () = stop.cancelled() => return Ok(()),
                }
                continue;
            };
            self.handed_over.push(to, oldest.received_at_us);
            // What was given up lies in front of the first message, as a gap inside the span.
            let first = to.0 - entries.len() as u64;
            let messages = Messages {
                partition: partition.clone(),
                partition_label: label.clone(),
                span: Span::new(from, to),
                items: entries.into_iter().zip(first..).map(|(entry, at)| entry.into_message(Position(at))).collect(),
                identity: None,
            };
            from = to;
            tokio::select! {
                taken = self.context.intake.send(messages) => if !taken { return Ok(()) },
                // Not handed over: the next start reads them from the journal again.
                () = stop.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }
}

/// Off the runtime's threads: the tail comes from memory, but a backlog comes from the disk.
async fn read(mut reader: Reader) -> Result<(Reader, Vec<Entry>)> {
    blocking(move || {
        let entries = reader.read(HANDOVER_BYTES_MAX, HANDOVER_MESSAGES_MAX)?;
        Ok((reader, entries))
    })
    .await
}
