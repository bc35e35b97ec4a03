//! MQTT: messages go to the journal, are acknowledged when it has synced them, and are read from it by the pipeline.
//!
//! broker -> connection (`connection`, one per session) -> journal -> reader here -> slots. Partition = "journal",
//! position = the journal's; a redelivery after a lost acknowledgement is a new message here. QoS 0 is not protected.

mod client; // MQTT 3.1.1 and 5 behind one face
pub mod config;
mod connection; // connect, subscribe, journal, acknowledge, again

use crate::config::section::Section;
use crate::journal::entry::Entry;
use crate::journal::reader::Reader;
use crate::journal::{self, Journal, JournalOptions};
use crate::sources::mqtt::client::{Options, TlsFiles};
use crate::sources::mqtt::config::{JournalLost, MqttConfig};
use crate::sources::mqtt::connection::Common;
use crate::sources::{Kind, OpenContext, Source, SourceContext};
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::limit::{HANDOVER_BYTES_MAX, HANDOVER_MESSAGES_MAX};
use crate::types::message::{Message, Messages};
use crate::types::position::{PartitionId, Position, Span};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// The one partition of the source, and its label in `_partition`.
pub const PARTITION: &str = "journal";

pub const KIND: Kind = Kind {
    connector: config::CONNECTOR,
    replayable: false,
    open: |section, context| Ok(Box::new(MqttSource::open(section, &context)?)),
};

pub struct MqttSource {
    name: Arc<str>,
    config: Arc<MqttConfig>,
    chain: ChainId,
    journal_dir: PathBuf,
    journal_options: JournalOptions,
    /// One per connection.
    sessions: Vec<Options>,
}

impl MqttSource {
    /// Looks up secrets and reads certificates; connects to nothing and opens nothing yet.
    pub fn open(section: &Section, context: &OpenContext) -> Result<MqttSource> {
        let config = Arc::new(config::validate(section).map_err(Error::Config)?);
        let password = match &config.password {
            Some(secret) => Some(section.reveal("password", secret).map_err(|fault| Error::Config(vec![fault]))?),
            None => None,
        };
        let tls = if config.address().tls { Some(tls_files(section, &config)?) } else { None };
        let session = |client_id| Options {
            config: config.clone(),
            client_id,
            filters: config.filters(),
            password: password.clone(),
            tls: tls.clone(),
        };
        Ok(MqttSource {
            name: section.name.as_str().into(),
            sessions: config.client_ids().into_iter().map(session).collect(),
            chain: context.chain.clone(),
            journal_dir: journal::directory(&context.data_dir, &section.name),
            journal_options: JournalOptions::with_budget(config.journal_bytes_max.0, context.queue_bytes),
            config,
        })
    }

    /// Opens the journal and sees to it that it still holds what the record counts on.
    fn open_journal(&self, start: Option<Position>) -> Result<Journal> {
        let begin = start.unwrap_or_default();
        let is_there = self.journal_dir.join("chain").exists();
        if !is_there && begin > Position(0) && self.config.journal_lost == JournalLost::Refuse {
            return Err(Error::refused(
                format!(
                    "the journal \"{}\" of source \"{}\" is gone, and the records read on at message {begin}",
                    self.journal_dir.display(),
                    self.name
                ),
                LOST_HINT,
            ));
        }
        if !is_there && begin > Position(0) {
            tracing::error!(
                source = %self.name, position = %begin,
                "the journal is gone; a new one is begun and what the old one held is given up, as journal_lost says"
            );
        }
        let journal = Journal::open(&self.journal_dir, &self.chain, begin, self.journal_options)?;
        let (first, end) = (journal.begin(), journal.durable().borrow().to);
        if (first..=end).contains(&begin) || start.is_none() {
            return Ok(journal);
        }
        if begin > end && self.config.journal_lost == JournalLost::Begin {
            return self.begin_again(journal, begin);
        }
        Err(Error::refused(
            format!(
                "the journal \"{}\" of source \"{}\" holds messages {first} to {end}, and the records read on at {begin}",
                self.journal_dir.display(),
                self.name
            ),
            LOST_HINT,
        ))
    }

    /// The journal ends before the record's position: its segments are of no use, and its numbers would be given twice.
    fn begin_again(&self, journal: Journal, begin: Position) -> Result<Journal> {
        drop(journal);
        let mut aside = self.journal_dir.clone().into_os_string();
        aside.push(format!(".before-{begin}"));
        let aside = PathBuf::from(aside);
        std::fs::rename(&self.journal_dir, &aside).map_err(|e| {
            Error::Failed(format!("the journal \"{}\" cannot be moved: {e}", self.journal_dir.display()))
        })?;
        tracing::error!(
            source = %self.name, aside = %aside.display(), position = %begin,
            "the journal was shorter than the records say; it was moved aside and a new one begun, as journal_lost says"
        );
        Journal::open(&self.journal_dir, &self.chain, begin, self.journal_options)
    }
}

const LOST_HINT: &str = "Messages that were acknowledged may be lost. Restore the journal's directory, or set \
                         journal_lost = \"begin\" to give them up.";

fn tls_files(section: &Section, config: &MqttConfig) -> Result<TlsFiles> {
    let mut faults = Vec::new();
    let mut read = |key: &str, path: &Option<crate::config::value::FilePath>| -> Option<Vec<u8>> {
        let path = path.as_ref()?;
        match std::fs::read(&path.0) {
            Ok(pem) => Some(pem),
            Err(e) => {
                faults.push(section.fault(key, format!("\"{key}\" cannot be read: {e}: {}", path.display())));
                None
            }
        }
    };
    let (ca, cert, key) = (read("ca", &config.ca), read("cert", &config.cert), read("key", &config.key));
    if faults.is_empty() { Ok(TlsFiles { ca, own: cert.zip(key) }) } else { Err(Error::Config(faults)) }
}

#[async_trait::async_trait]
impl Source for MqttSource {
    /// Endless: `once` is the engine's to refuse.
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let source = Arc::new(*self);
        let start = context.start.get(PARTITION).map(|s| s.position);
        let opening = source.clone();
        let journal = Arc::new(blocking(move || opening.open_journal(start)).await?);
        let from = start.unwrap_or(journal.begin());

        let common = Common {
            name: source.name.clone(),
            appender: journal.appender(),
            status: context.status.clone(),
            stop: context.stop.clone(),
            clock: context.clock.clone(),
            up: AtomicUsize::new(0),
            sessions: source.sessions.len(),
        };
        let connections = futures::future::join_all(source.sessions.iter().map(|s| connection::run(&common, s)));
        let delivery = Delivery { name: source.name.clone(), journal: journal.clone(), context: context.clone() };
        let connections = async { Ok(connections.await).map(drop) };
        let ended = tokio::select! {
            // Both end with `stop`; a failure of the one does not wait for the other.
            ended = async { tokio::try_join!(connections, delivery.run(from)).map(drop) } => ended,
            trimmed = trim(&source.name, journal.clone(), context.clone()) => trimmed,
            failed = failure(&journal) => Err(failed),
        };
        context.status.down("stopped");
        drop(common);
        // Dropping the journal waits for its thread. The delivery's handle went with its future.
        blocking(move || {
            drop(journal);
            Ok(())
        })
        .await?;
        ended
    }
}

async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

/// Resolves when the journal can no longer be written.
async fn failure(journal: &Journal) -> Error {
    let mut durable = journal.durable();
    let failed = durable.wait_for(|d| d.failed.is_some()).await.map(|d| d.failed.clone());
    match failed {
        Ok(why) => Error::Failed(why.as_deref().unwrap_or("the journal failed").to_string()),
        // It cannot fail any more: it is closed.
        Err(_) => std::future::pending().await,
    }
}

/// Deletes what is applied. Ends only with an error.
async fn trim(name: &Arc<str>, journal: Arc<Journal>, mut context: SourceContext) -> Result<()> {
    let partition = PartitionId::new(name, PARTITION);
    loop {
        let applied = context.applied.borrow_and_update().get(&partition).copied();
        if let Some(position) = applied {
            let journal = journal.clone();
            blocking(move || journal.trim(position)).await?;
        }
        if context.applied.changed().await.is_err() {
            // Nobody will apply anything more: the engine is ending.
            return std::future::pending().await;
        }
    }
}

/// Journal -> slots.
struct Delivery {
    name: Arc<str>,
    journal: Arc<Journal>,
    context: SourceContext,
}

impl Delivery {
    /// Until `stop`, or the slots are gone.
    async fn run(self, from: Position) -> Result<()> {
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
            self.show_backlog(durable_to, to);
            if entries.is_empty() {
                tokio::select! {
                    changed = durable.changed() => if changed.is_err() { return Ok(()) },
                    () = stop.cancelled() => return Ok(()),
                }
                continue;
            }
            let from = Position(to.0 - entries.len() as u64);
            let messages = Messages {
                partition: partition.clone(),
                partition_label: label.clone(),
                span: Span::new(from, to),
                items: entries.into_iter().zip(from.0..).map(|(entry, at)| message(entry, at)).collect(),
                identity: None,
            };
            tokio::select! {
                taken = self.context.intake.send(messages) => if !taken { return Ok(()) },
                // Not handed over: the next start reads them from the journal again.
                () = stop.cancelled() => return Ok(()),
            }
        }
        Ok(())
    }

    fn show_backlog(&self, durable: Position, handed_over: Position) {
        let waiting = durable.0.saturating_sub(handed_over.0);
        self.context.status.lag_messages.store(waiting as i64, Ordering::Relaxed);
        metrics::gauge!("pipe_journal_bytes", "component" => self.name.to_string()).set(self.journal.bytes() as f64);
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

fn message(entry: Entry, position: u64) -> Message {
    Message {
        position: Position(position),
        topic: Some(entry.topic),
        key: None,
        payload: Some(entry.payload),
        headers: entry.headers,
        timestamp_us: None,
        received_at_us: entry.received_at_us,
    }
}

#[cfg(test)]
mod testing; // a broker that misbehaves on command
#[cfg(test)]
mod tests;
