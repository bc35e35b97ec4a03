//! Files of lines: `.jsonl`, `.jsonl.gz`, `.jsonl.zst`; a path or a glob.
//!
//! Partition = path, position = decompressed byte offset, identity = size, time and a hash of the first 4 KiB. As many
//! files at a time as there are slots, in name order; one slot reads strictly one after the other. Everything here
//! blocks, so it runs on a thread of the blocking pool; only handing over waits on the runtime.

pub mod config;
mod identity; // is this still the file that the record speaks of?
mod lines; // bytes -> blocks of lines -> messages

use crate::config::section::Section;
use crate::sources::file::config::FileConfig;
use crate::sources::file::identity::{HEAD_BYTES_MAX, Identity};
use crate::sources::file::lines::{Common, Lines};
use crate::sources::{Kind, Source, SourceContext};
use crate::types::error::{Error, Result};
use crate::types::message::Messages;
use crate::types::position::PartitionId;
use serde::Deserialize;
use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};
use tokio::runtime::Handle;

/// How often we look for new files and growth.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub const KIND: Kind = Kind {
    connector: config::CONNECTOR,
    replayable: true,
    open: |section, _| Ok(Box::new(FileSource::open(section)?)),
};

pub struct FileSource {
    name: Arc<str>,
    path: String,
    /// The directory of the config file; names in the record are relative to it, so that a pipeline can move.
    base: PathBuf,
}

impl FileSource {
    fn open(section: &Section) -> Result<Self> {
        let config = config::validate(section).map_err(Error::Config)?;
        FileSource::new(&section.name, &config, section.file().parent().unwrap_or(Path::new("")))
    }

    /// `base` is the directory that `path` is relative to.
    fn new(name: &str, config: &FileConfig, base: &Path) -> Result<Self> {
        let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
        let base = std::path::absolute(base)
            .map_err(|e| Error::Failed(format!("no absolute path for \"{}\": {e}", base.display())))?;
        Ok(FileSource { name: name.into(), path: config.path.clone(), base })
    }
}

#[async_trait::async_trait]
impl Source for FileSource {
    async fn run(self: Box<Self>, context: SourceContext) -> Result<()> {
        let reader = Reader { source: *self, known: known(&context)?, context, runtime: Handle::current() };
        match tokio::task::spawn_blocking(move || reader.run()).await {
            Ok(done) => done,
            // The process is ending without having started fully; nothing was promised.
            Err(join) if join.is_cancelled() => Ok(()),
            Err(join) => std::panic::resume_unwind(join.into_panic()),
        }
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
    /// Size and time at which the end was reached: unchanged means nothing to do.
    read_to_end_of: Option<(u64, i64)>,
}

/// A file that matches now.
struct Found {
    name: Arc<str>,
    path: PathBuf,
    size: u64,
    mtime_us: i64,
}

/// A file that is being read.
struct Open {
    found: Found,
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
    source: FileSource,
    known: BTreeMap<Arc<str>, Known>,
    context: SourceContext,
    runtime: Handle,
}

impl Reader {
    fn run(mut self) -> Result<()> {
        let mut found = self.look()?;
        self.check_gone(&found)?;
        loop {
            if found.is_empty() {
                let what = format!("no file matches \"{}\" in {}", self.source.path, self.source.base.display());
                if self.context.once {
                    return Err(Error::refused(what, "Is the path right? It is relative to the config file."));
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
            found = self.look()?;
        }
    }

    /// The files that match now, in name order.
    fn look(&self) -> Result<Vec<Found>> {
        let pattern = match Path::new(&self.source.path).is_absolute() {
            true => self.source.path.clone(),
            false => {
                let base = self.source.base.to_str().ok_or_else(|| not_utf8(&self.source.base))?;
                format!("{}/{}", glob::Pattern::escape(base), self.source.path)
            }
        };
        // A leading dot is how programs name a file that is not finished yet.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(&pattern, options)
            .map_err(|e| Error::Failed(format!("\"{}\" is not a glob: {e}", self.source.path)))?;
        let mut found = Vec::new();
        for path in paths {
            let path = path.map_err(|e| Error::Failed(format!("cannot list {}: {}", e.path().display(), e.error())))?;
            match std::fs::metadata(&path) {
                Ok(meta) if meta.is_file() => {
                    found.push(Found { name: self.name_of(&path)?, size: meta.len(), mtime_us: mtime_us(&meta), path })
                }
                Ok(_directory) => {}
                // Removed between the listing and now: the next look decides.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::Failed(format!("cannot look at {}: {e}", path.display()))),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    /// As the user would write it in the config: relative to the config's directory where the pattern is.
    fn name_of(&self, path: &Path) -> Result<Arc<str>> {
        let short = path.strip_prefix(&self.source.base).unwrap_or(path);
        short.to_str().map(Arc::from).ok_or_else(|| not_utf8(path))
    }

    /// A file of the record that is gone must have been read to its end.
    fn check_gone(&self, found: &[Found]) -> Result<()> {
        for (name, known) in &self.known {
            let path = self.source.base.join(&**name);
            if found.iter().any(|f| f.name == *name) {
                continue;
            }
            if path.exists() {
                tracing::info!(source = %self.source.name, file = %name, "file is in the record and no longer matches the path");
                continue;
            }
            if let Some(identity) = &known.identity {
                identity.check_gone(name, known.position, is_compressed(&path))?;
            }
        }
        Ok(())
    }

    fn has_news(&self, found: &Found) -> bool {
        self.known.get(&found.name).is_none_or(|k| k.read_to_end_of != Some((found.size, found.mtime_us)))
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
            let name = file.found.name.clone();
            let doing = |e: Error| e.context(format_args!("file \"{name}\""));
            if self.context.stop.is_cancelled() {
                return Ok(Ended::Stopped);
            }
            let Some(block) = file.lines.next().map_err(doing)? else {
                let reached = Some((file.found.size, file.found.mtime_us));
                let position = file.lines.position();
                self.known.insert(name, Known { position, identity: Some(file.identity), read_to_end_of: reached });
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
    fn open(&self, mut found: Found) -> Result<Option<Open>> {
        let failed = |e: std::io::Error| Error::Failed(format!("cannot read {}: {e}", found.path.display()));
        let mut file = match File::open(&found.path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let meta = file.metadata().map_err(failed)?;
        let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
        file.by_ref().take(HEAD_BYTES_MAX as u64).read_to_end(&mut head).map_err(failed)?;
        let compressed = is_compressed(&found.path);
        let position = self.known.get(&found.name).map_or(0, |k| k.position);
        if let Some(identity) = self.known.get(&found.name).and_then(|k| k.identity.as_ref()) {
            identity.check(&found.name, position, compressed, meta.len(), &head)?;
        }
        file.seek(SeekFrom::Start(if compressed { 0 } else { position })).map_err(failed)?;
        let mut input = decompressed(&found.path, file, meta.len(), self.context.once).map_err(failed)?;
        if compressed {
            // Compressed bytes cannot be sought in; what was handed over is decompressed again and passed over.
            let passed = std::io::copy(&mut input.by_ref().take(position), &mut std::io::sink()).map_err(failed)?;
            if passed < position {
                return Err(Error::refused(
                    format!(
                        "file \"{}\" was read up to byte {position} of its content and now has {passed}",
                        found.name
                    ),
                    "Put the file back as it was, or give the new content a new name: a file may only grow.",
                ));
            }
        }
        (found.size, found.mtime_us) = (meta.len(), mtime_us(&meta));
        let identity = Identity::of(found.size, found.mtime_us, &head);
        let json = serde_json::to_value(&identity).expect("plain data is always JSON");
        let common = Common {
            partition: Arc::new(PartitionId { source: self.source.name.clone(), name: found.name.clone() }),
            identity: Arc::new(json),
            received_at_us: 0,
        };
        Ok(Some(Open { lines: Lines::new(input, position, self.context.once), found, common, identity }))
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
        let waited = async { tokio::time::timeout(LOOK_INTERVAL, self.context.stop.cancelled()).await };
        self.runtime.block_on(waited).is_ok()
    }
}

/// Under `once` the end is where it was when the file was opened, however it grows meanwhile.
fn decompressed(path: &Path, file: File, size: u64, once: bool) -> std::io::Result<Box<dyn Read + Send>> {
    // An empty file is no archive yet; it is opened anew when it has grown.
    let extension = path.extension().and_then(|e| e.to_str()).filter(|_| size > 0);
    let mut file = file;
    let at = file.stream_position()?;
    let raw = file.take(if once { size.saturating_sub(at) } else { u64::MAX });
    Ok(match extension {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(std::io::BufReader::new(raw))),
        Some("zst") => Box::new(zstd::Decoder::new(raw)?),
        _ => Box::new(raw),
    })
}

fn is_compressed(path: &Path) -> bool {
    matches!(path.extension().and_then(|e| e.to_str()), Some("gz" | "zst"))
}

fn mtime_us(meta: &Metadata) -> i64 {
    // A file system without modification times: growth still shows in the size.
    let Ok(modified) = meta.modified() else { return 0 };
    modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64)
}

fn not_utf8(path: &Path) -> Error {
    Error::refused(
        format!("the path {} is not UTF-8", path.display()),
        "Rename it: paths are names of partitions, in records and tables.",
    )
}

#[cfg(test)]
mod tests;
