//! Files of lines: `.jsonl`, `.jsonl.gz`, `.jsonl.zst`; a path, a glob, or the same in an object store.
//!
//! Partition = path or URL, position = decompressed byte offset, identity = size, time and a hash of the first 4 KiB (of an
//! object: its etag). As many files at a time as there are slots, in name order; one slot reads strictly one after the
//! other. Everything here blocks, so it runs on a thread of the blocking pool; only handing over waits on the runtime.

pub mod config;
mod identity; // is this still the file that the record speaks of?
mod lines; // bytes -> blocks of lines -> messages
mod local; // files on disk
mod objects; // files in an object store
mod place; // what the two have in common

use crate::config::section::Section;
use crate::sources::file::config::FileConfig;
use crate::sources::file::identity::Identity;
use crate::sources::file::lines::{Common, Lines};
use crate::sources::file::local::Local;
use crate::sources::file::objects::{Objects, Pattern, Surroundings};
use crate::sources::file::place::{Found, Place, Version, Wanted, is_compressed};
use crate::sources::{Kind, Source, SourceContext};
use crate::types::error::{Error, Result};
use crate::types::message::Messages;
use crate::types::position::PartitionId;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::runtime::Handle;

pub const KIND: Kind = Kind {
    connector: config::CONNECTOR,
    replayable: true,
    open: |section, _| Ok(Box::new(FileSource::open(section)?)),
};

/// No Debug: options may be secrets (I12).
pub struct FileSource {
    name: Arc<str>,
    path: String,
    /// The directory that a path on disk is relative to.
    base: PathBuf,
    /// Of the object store.
    options: BTreeMap<String, String>,
}

impl FileSource {
    fn open(section: &Section) -> Result<Self> {
        let FileConfig { path, options } = config::validate(section).map_err(Error::Config)?;
        let options = section.reveal_settings("options", &options).map_err(Error::Config)?;
        let base = section.file().parent().unwrap_or(Path::new("")).to_path_buf();
        Ok(FileSource { name: section.name.as_str().into(), path, base, options })
    }

    fn place(&self, context: &SourceContext) -> Result<Box<dyn Place>> {
        Ok(match Pattern::of(&self.path) {
            None => Box::new(Local::new(&self.path, &self.base)?),
            Some(pattern) => Box::new(Objects::open(pattern, &self.options, surroundings(context))?),
        })
    }
}

fn surroundings(context: &SourceContext) -> Surroundings {
    Surroundings {
        runtime: Handle::current(),
        stop: context.stop.clone(),
        status: context.status.clone(),
        once: context.once,
    }
}

#[async_trait::async_trait]
impl Source for FileSource {
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let place = self.place(&context)?;
        read(self.name, place, context).await
    }
}

/// Until the end, or told to stop.
async fn read(name: Arc<str>, place: Box<dyn Place>, context: SourceContext) -> Result<()> {
    let reader = Reader { name, place, known: known(&context)?, context, runtime: Handle::current() };
    match tokio::task::spawn_blocking(move || reader.run()).await {
        Ok(done) => done,
        // The process is ending without having started fully; nothing was promised.
        Err(join) if join.is_cancelled() => Ok(()),
        Err(join) => std::panic::resume_unwind(join.into_panic()),
    }
}

fn known(context: &SourceContext) -> Result<BTreeMap<Arc<str>, Known>> {
    let mut known = BTreeMap::new();
    for (name, start) in context.start.iter() {
        let identity =
            match &start.identity {
                None => None,
                Some(json) => Some(Identity::deserialize(json.as_ref()).map_err(|e| {
                    Error::Failed(format!("the record's identity of file \"{name}\" cannot be read: {e}"))
                })?),
            };
        known.insert(name.clone(), Known { position: start.position.0, identity, read_to_end_of: None });
    }
    Ok(known)
}

/// What we know of a file between two looks.
#[derive(Default)]
struct Known {
    position: u64,
    identity: Option<Identity>,
    /// The end of this was reached: unchanged means nothing to do.
    read_to_end_of: Option<Version>,
}

/// A file that is being read.
struct Open {
    name: Arc<str>,
    version: Version,
    lines: Lines,
    common: Common,
    identity: Identity,
}

/// Why reading ended early.
enum Ended {
    /// Everything there was has been handed over.
    Read,
    /// Told to stop, or the engine is gone. What was not handed over will be read again.
    Stopped,
}

struct Reader {
    name: Arc<str>,
    place: Box<dyn Place>,
    known: BTreeMap<Arc<str>, Known>,
    context: SourceContext,
    runtime: Handle,
}

impl Reader {
    /// An error that a stop has brought about is none.
    fn run(mut self) -> Result<()> {
        let stop = self.context.stop.clone();
        self.read_all().or_else(|e| if stop.is_cancelled() { Ok(()) } else { Err(e) })
    }

    fn read_all(&mut self) -> Result<()> {
        let mut found = self.place.look()?;
        self.check_gone(&found)?;
        loop {
            if found.is_empty() {
                let (what, hint) = self.place.nothing_found();
                if self.context.once {
                    return Err(Error::refused(what, hint));
                }
                self.context.status.down(what);
            } else {
                self.context.status.up();
            }
            found.retain(|f| self.has_news(f));
            if let Ended::Stopped = self.read(found)? {
                return Ok(());
            }
            if self.context.once || self.stopped_while_waiting() {
                return Ok(());
            }
            found = self.place.look()?;
        }
    }

    /// What is in the record and gone must have been read to its end.
    fn check_gone(&self, found: &[Found]) -> Result<()> {
        for (name, known) in &self.known {
            if found.iter().any(|f| f.name == *name) {
                continue;
            }
            if self.place.exists(name)? {
                tracing::info!(source = %self.name, file = %name, "file is in the record and no longer matches the path");
                continue;
            }
            if let Some(identity) = &known.identity {
                identity.check_gone(name, known.position, is_compressed(name))?;
            }
        }
        Ok(())
    }

    fn has_news(&self, found: &Found) -> bool {
        self.known.get(&found.name).is_none_or(|k| k.read_to_end_of.as_ref() != Some(&found.version))
    }

    /// Reads files to their ends, as many at a time as there are slots, a block of each in turn.
    fn read(&mut self, found: Vec<Found>) -> Result<Ended> {
        let mut waiting = VecDeque::from(found);
        let mut open: VecDeque<Open> = VecDeque::new();
        loop {
            while open.len() < self.context.intake.slots()
                && let Some(next) = waiting.pop_front()
            {
                open.extend(self.open(next)?);
            }
            let Some(mut file) = open.pop_front() else { return Ok(Ended::Read) };
            let name = file.name.clone();
            let doing = |e: Error| e.context(format_args!("file \"{name}\""));
            if self.context.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let Some(block) = file.lines.next().map_err(doing)? else {
                let (position, identity) = (file.lines.position(), Some(file.identity));
                self.known.insert(name, Known { position, identity, read_to_end_of: Some(file.version) });
                continue;
            };
            file.common.received_at_us = self.context.clock.now_us();
            for messages in block.messages(&file.common) {
                if !self.hand_over(messages) {
                    return Ok(Ended::Stopped);
                }
            }
            open.push_back(file);
        }
    }

    /// None: it went away since it was found.
    fn open(&self, found: Found) -> Result<Option<Open>> {
        let known = self.known.get(&found.name);
        let position = known.map_or(0, |k| k.position);
        let identity = known.and_then(|k| k.identity.as_ref());
        let wanted = Wanted { name: &found.name, position, known: identity, once: self.context.once };
        let Some(opened) = self.place.open(wanted)? else { return Ok(None) };
        let json = serde_json::to_value(&opened.identity).expect("plain data is always JSON");
        let common = Common {
            partition: Arc::new(PartitionId { source: self.name.clone(), name: found.name.clone() }),
            identity: Arc::new(json),
            received_at_us: 0,
        };
        let lines = Lines::new(opened.input, position, opened.takes_last_line);
        Ok(Some(Open { name: found.name, version: opened.version, lines, common, identity: opened.identity }))
    }

    /// False: stop, the messages were not taken.
    fn hand_over(&self, messages: Messages) -> bool {
        let (count, bytes) = (messages.items.len() as u64, messages.span.to.0 - messages.span.from.0);
        let sent = self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.context.stop.cancelled() => false,
                sent = self.context.intake.send(messages) => sent,
            }
        });
        if sent {
            self.context.status.messages_in.fetch_add(count, Ordering::Relaxed);
            self.context.status.bytes_in.fetch_add(bytes, Ordering::Relaxed);
        }
        sent
    }

    fn stopped_while_waiting(&self) -> bool {
        let waited = async { tokio::time::timeout(self.place.look_interval(), self.context.stop.cancelled()).await };
        self.runtime.block_on(waited).is_ok()
    }
}

#[cfg(test)]
mod tests;
