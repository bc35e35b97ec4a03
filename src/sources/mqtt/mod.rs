//! MQTT: messages go to the journal, are acknowledged when it has synced them, and are read from it by the pipeline.
//!
//! broker -> connection (`connection`, one per session) -> journal -> reader here -> slots. Partition = "journal",
//! position = the journal's; a redelivery after a lost acknowledgement is a new message here. QoS 0 is not protected.

mod client; // MQTT 3.1.1 and 5 behind one face
pub mod config;
mod connection; // connect, subscribe, journal, acknowledge, again
mod delivery; // journal -> slots
mod upkeep; // trims what is applied, shows how the journal stands

use crate::config::section::Section;
use crate::journal::disk::{Disk, RealDisk};
use crate::journal::{self, Journal, JournalOptions, Sync};
use crate::sources::mqtt::client::{Options, TlsFiles};
use crate::sources::mqtt::config::{JournalLost, MqttConfig};
use crate::sources::mqtt::connection::Common;
use crate::sources::mqtt::delivery::Delivery;
use crate::sources::mqtt::upkeep::Upkeep;
use crate::sources::{Kind, OpenContext, Source, SourceContext};
use crate::types::epoch::ChainId;
use crate::types::error::{Error, Result};
use crate::types::position::Position;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicUsize;

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
    disk: Arc<dyn Disk>,
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
            journal_options: JournalOptions {
                sync: config.sync(),
                quarantine: context.quarantine_journal,
                ..JournalOptions::with_budget(config.journal_bytes_max.0, context.queue_bytes)
            },
            disk: Arc::new(RealDisk),
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
        let journal = self.open_as_is(begin)?;
        let end = journal.durable().borrow().to;
        if begin <= end {
            return Ok(journal);
        }
        if self.journal_options.sync != Sync::Group {
            drop(journal);
            return self.go_on_behind(begin);
        }
        if self.config.journal_lost == JournalLost::Begin {
            return self.begin_again(journal, begin);
        }
        Err(Error::refused(
            format!(
                "the journal \"{}\" of source \"{}\" ends at message {end}, and the records read on at {begin}",
                self.journal_dir.display(),
                self.name
            ),
            LOST_HINT,
        ))
    }

    fn open_as_is(&self, begin: Position) -> Result<Journal> {
        Journal::open_on(self.disk.clone(), &self.journal_dir, &self.chain, begin, self.journal_options)
    }

    /// Without a sync per group a power loss may take what was applied already. Its positions are not given again.
    fn go_on_behind(&self, begin: Position) -> Result<Journal> {
        let why = "they were applied, and a power loss took them before the disk had them";
        let skipped = journal::skip(&self.journal_dir, &self.chain, begin, why)?;
        tracing::error!(
            source = %self.name, sync = ?self.journal_options.sync, from = skipped.from.0, to = skipped.to.0,
            "the journal ends before what is applied: the end of it was not synced when the power went, and messages \
             that came after may be lost, as sync says"
        );
        self.open_as_is(begin)
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
        self.open_as_is(begin)
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
            // Who has a journal with something in it was here before, and the broker should remember.
            was_here: journal.durable().borrow().to > Position(0),
        };
        let connections = futures::future::join_all(source.sessions.iter().map(|s| connection::run(&common, s)));
        let upkeep = Upkeep::new(source.name.clone(), journal.clone(), from, context.clone());
        let delivery = Delivery {
            name: source.name.clone(),
            journal: journal.clone(),
            context: context.clone(),
            handed_over: upkeep.handed_over(),
        };
        let connections = async { Ok(connections.await).map(drop) };
        let ended = tokio::select! {
            // Both end with `stop`; a failure of the one does not wait for the other.
            ended = async { tokio::try_join!(connections, delivery.run(from)).map(drop) } => ended,
            trimmed = upkeep.run() => trimmed,
            failed = failure(&journal) => Err(failed),
        };
        context.status.down("stopped");
        drop(common);
        // Dropping the journal waits for its thread. The handles of delivery and upkeep went with their futures.
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

#[cfg(test)]
mod testing; // a broker that misbehaves on command
#[cfg(test)]
mod tests;
