//! Files on this machine's disks: a path or a glob, relative to the config file.

use crate::sources::file::identity::{FileIdentity, HEAD_BYTES_MAX, Identity};
use crate::sources::file::place::{Found, Opened, Place, Version, Wanted, decompressed, is_compressed, pass_over};
use crate::types::error::{Error, Result};
use std::fs::{File, Metadata};
use std::io::{ErrorKind, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

/// How often we look for new files and growth.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

pub struct Local {
    path: String,
    /// The directory of the config file; names in the record are relative to it, so that a pipeline can move.
    base: PathBuf,
}

impl Local {
    /// `base` is the directory that `path` is relative to.
    pub fn new(path: &str, base: &Path) -> Result<Self> {
        let base = if base.as_os_str().is_empty() { Path::new(".") } else { base };
        let base = std::path::absolute(base)
            .map_err(|e| Error::Failed(format!("no absolute path for \"{}\": {e}", base.display())))?;
        Ok(Local { path: path.strip_prefix("file://").unwrap_or(path).to_string(), base })
    }

    /// As the user would write it in the config: relative to the config's directory where the pattern is.
    fn name_of(&self, path: &Path) -> Result<Arc<str>> {
        let short = path.strip_prefix(&self.base).unwrap_or(path);
        short.to_str().map(Arc::from).ok_or_else(|| not_utf8(path))
    }
}

impl Place for Local {
    fn look_interval(&self) -> Duration {
        LOOK_INTERVAL
    }

    fn nothing_found(&self) -> (String, &'static str) {
        let what = format!("no file matches \"{}\" in {}", self.path, self.base.display());
        (what, "Is the path right? It is relative to the config file.")
    }

    fn look(&self) -> Result<Vec<Found>> {
        let pattern = match Path::new(&self.path).is_absolute() {
            true => self.path.clone(),
            false => {
                let base = self.base.to_str().ok_or_else(|| not_utf8(&self.base))?;
                format!("{}/{}", glob::Pattern::escape(base), self.path)
            }
        };
        // A leading dot is how programs name a file that is not finished yet.
        let options = glob::MatchOptions { require_literal_leading_dot: true, ..Default::default() };
        let paths = glob::glob_with(&pattern, options)
            .map_err(|e| Error::Failed(format!("\"{}\" is not a glob: {e}", self.path)))?;
        let mut found = Vec::new();
        for path in paths {
            let path = path.map_err(|e| Error::Failed(format!("cannot list {}: {}", e.path().display(), e.error())))?;
            match std::fs::metadata(&path) {
                Ok(meta) if meta.is_file() => found.push(Found { name: self.name_of(&path)?, version: version(&meta) }),
                Ok(_directory) => {}
                // Removed between the listing and now: the next look decides.
                Err(e) if e.kind() == ErrorKind::NotFound => {}
                Err(e) => return Err(Error::Failed(format!("cannot look at {}: {e}", path.display()))),
            }
        }
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn exists(&self, name: &str) -> Result<bool> {
        // An object's name, of before: not ours to look for.
        Ok(name.contains("://") || self.base.join(name).exists())
    }

    fn open(&self, wanted: Wanted<'_>) -> Result<Option<Opened>> {
        let Wanted { name, position, known, once } = wanted;
        let path = self.base.join(name);
        let failed = |e: std::io::Error| Error::Failed(format!("cannot read {}: {e}", path.display()));
        let mut file = match File::open(&path) {
            Ok(file) => file,
            Err(e) if e.kind() == ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(failed(e)),
        };
        let version = version(&file.metadata().map_err(failed)?);
        let mut head = Vec::with_capacity(HEAD_BYTES_MAX);
        file.by_ref().take(HEAD_BYTES_MAX as u64).read_to_end(&mut head).map_err(failed)?;
        let compressed = is_compressed(name);
        match known {
            Some(Identity::File(known)) => known.check(name, position, compressed, version.size, &head)?,
            Some(Identity::Object(_)) => return Err(Error::Failed(format!("the record's \"{name}\" is an object"))),
            None => {}
        }
        file.seek(SeekFrom::Start(if compressed { 0 } else { position })).map_err(failed)?;
        // Under `once` the end is where it was when the file was opened, however it grows meanwhile.
        let at = file.stream_position().map_err(failed)?;
        let raw = file.take(if once { version.size.saturating_sub(at) } else { u64::MAX });
        let mut input = decompressed(name, raw, version.size == 0).map_err(failed)?;
        if compressed {
            pass_over(&mut input, position, name)?;
        }
        let identity = Identity::File(FileIdentity::of(version.size, version.mtime_us, &head));
        Ok(Some(Opened { input, version, identity, takes_last_line: once }))
    }
}

fn version(meta: &Metadata) -> Version {
    let mtime_us = match meta.modified() {
        Ok(modified) => modified.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_micros() as i64),
        // A file system without modification times: growth still shows in the size.
        Err(_) => 0,
    };
    Version { size: meta.len(), mtime_us, etag: None }
}

fn not_utf8(path: &Path) -> Error {
    Error::refused(
        format!("the path {} is not UTF-8", path.display()),
        "Rename it: paths are names of partitions, in records and tables.",
    )
}
