//! Where files of lines lie: on disk (`local.rs`) or in an object store (`objects.rs`); what both have in common.

use crate::sources::file::identity::Identity;
use crate::types::error::{Error, Result};
use std::io::{BufReader, Read};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// Everything blocks: it is called on a thread of the blocking pool. What only a retry can mend is retried inside.
pub trait Place: Send {
    /// How often to look for what is new.
    fn look_interval(&self) -> Duration;

    /// What to say when nothing matches, and a hint.
    fn nothing_found(&self) -> (String, &'static str);

    /// What matches now, in name order.
    fn look(&self) -> Result<Vec<Found>>;

    /// Whether it is there, whether it matches or not.
    fn exists(&self, name: &str) -> Result<bool>;

    /// None: it went away since it was found.
    fn open(&self, wanted: Wanted<'_>) -> Result<Option<Opened>>;
}

/// A file that matches now. Its name is its partition's.
pub struct Found {
    pub name: Arc<str>,
    pub version: Version,
}

/// Unchanged: there is nothing new in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Version {
    pub size: u64,
    pub mtime_us: i64,
    pub etag: Option<String>,
}

/// What is to be opened, and what is known of it.
pub struct Wanted<'a> {
    pub name: &'a str,
    /// Of the content: decompressed bytes.
    pub position: u64,
    pub known: Option<&'a Identity>,
    pub once: bool,
}

pub struct Opened {
    /// The content from the wanted position on.
    pub input: Box<dyn Read + Send>,
    pub version: Version,
    pub identity: Identity,
    /// What follows the last newline is a line too: nothing can be added to it.
    pub takes_last_line: bool,
}

/// The content of a file by its name. An empty one is no archive yet.
pub fn decompressed(
    name: &str,
    raw: impl Read + Send + 'static,
    is_empty: bool,
) -> std::io::Result<Box<dyn Read + Send>> {
    Ok(match extension(name).filter(|_| !is_empty) {
        Some("gz") => Box::new(flate2::read::MultiGzDecoder::new(BufReader::new(raw))),
        Some("zst") => Box::new(zstd::Decoder::new(raw)?),
        _ => Box::new(raw),
    })
}

pub fn is_compressed(name: &str) -> bool {
    matches!(extension(name), Some("gz" | "zst"))
}

fn extension(name: &str) -> Option<&str> {
    Path::new(name).extension().and_then(|e| e.to_str())
}

/// Compressed bytes cannot be sought in; what was handed over is decompressed again and passed over.
pub fn pass_over(input: &mut impl Read, position: u64, name: &str) -> Result<()> {
    let passed = std::io::copy(&mut input.by_ref().take(position), &mut std::io::sink()).map_err(|e| {
        let e = e.downcast::<Error>().unwrap_or_else(|e| Error::Failed(e.to_string()));
        e.context(format_args!("cannot read \"{name}\""))
    })?;
    if passed < position {
        return Err(Error::refused(
            format!("file \"{name}\" was read up to byte {position} of its content and now has {passed}"),
            "Put the file back as it was, or give the new content a new name: a file may only grow.",
        ));
    }
    Ok(())
}
