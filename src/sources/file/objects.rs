//! Files in an object store: `s3://bucket/logs/*.jsonl.gz`, `gs://`, `az://`; read in ranges, so that memory is bounded and a
//! pause of the pipeline leaves no request open.
//!
//! An object is complete when it shows, so its last line counts without a newline, and one that changed is refused: every
//! range that is read tells the etag of what it belongs to.

use crate::env::store::{self, Location};
use crate::sources::SourceStatus;
use crate::sources::file::identity::{Identity, ObjectIdentity};
use crate::sources::file::place::{Found, Opened, Place, Version, Wanted, decompressed, is_compressed, pass_over};
use crate::types::error::{Error, Result};
use bytes::{Buf, Bytes};
use futures::TryStreamExt;
use object_store::path::Path;
use object_store::{GetOptions, GetRange, ObjectMeta, ObjectStoreExt};
use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;

/// How often the store is listed. A request each time, which stores charge for.
const LOOK_INTERVAL: Duration = Duration::from_secs(10);
/// One range. Smaller would be a request for every few milliseconds of decoding; this much is held per open object.
const RANGE_BYTES: u64 = 4 * 1024 * 1024;
const RETRY_MIN: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(30);

/// A URL with a glob in it, taken apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Scheme and bucket: `s3://bucket`.
    pub root: String,
    /// Of the keys below.
    pub keys: String,
}

impl Pattern {
    /// None: no URL of an object store; a path on disk, then.
    pub fn of(path: &str) -> Option<Pattern> {
        let (scheme, rest) = path.split_once("://")?;
        if scheme == "file" {
            return None;
        }
        let (bucket, keys) = rest.split_once('/').unwrap_or((rest, ""));
        Some(Pattern { root: format!("{scheme}://{bucket}"), keys: keys.to_string() })
    }

    /// The folder above the first part with a wildcard: what has to be listed. None: one object, by its name.
    fn folder(&self) -> Option<&str> {
        let wildcard = self.keys.find(['*', '?', '['])?;
        Some(self.keys[..wildcard].rsplit_once('/').map_or("", |(folder, _)| folder))
    }
}

/// What every request needs, beside the store.
#[derive(Clone)]
pub struct Surroundings {
    pub runtime: Handle,
    pub stop: CancellationToken,
    pub status: Arc<SourceStatus>,
    /// Do not try for ever: whoever called waits for the end.
    pub once: bool,
}

pub struct Objects {
    /// At the root of the bucket.
    location: Location,
    pattern: Pattern,
    glob: glob::Pattern,
    around: Surroundings,
}

impl Objects {
    pub fn open(pattern: Pattern, options: &BTreeMap<String, String>, around: Surroundings) -> Result<Objects> {
        let location = store::open(&pattern.root, options)?;
        Objects::at(location, pattern, around)
    }

    pub fn at(location: Location, pattern: Pattern, around: Surroundings) -> Result<Objects> {
        let glob = glob::Pattern::new(&pattern.keys)
            .map_err(|e| Error::Failed(format!("\"{}\" is not a glob: {e}", pattern.keys)))?;
        Ok(Objects { location, pattern, glob, around })
    }

    /// As the user would write it.
    fn name_of(&self, key: &Path) -> Arc<str> {
        format!("{}/{key}", self.pattern.root).into()
    }

    fn key_of(&self, name: &str) -> Result<Path> {
        let key = name.strip_prefix(&self.pattern.root).unwrap_or(name);
        Path::parse(key).map_err(|e| Error::Failed(format!("\"{name}\" is no name of an object: {e}")))
    }

    /// None: there is no such object.
    fn head(&self, key: &Path) -> Result<Option<ObjectMeta>> {
        self.around.patiently(async || match self.location.store.head(key).await {
            Ok(meta) => Ok(Some(meta)),
            Err(object_store::Error::NotFound { .. }) => Ok(None),
            Err(e) => Err(self.location.error(&format!("look at \"{key}\""), e)),
        })
    }

    fn list(&self, folder: &str) -> Result<Vec<ObjectMeta>> {
        let prefix = Path::parse(folder).map_err(|e| {
            let what = format!("\"{}/{}\" is no address of objects: {e}", self.pattern.root, self.pattern.keys);
            Error::refused(what, "Write s3://bucket/folder/*.jsonl.")
        })?;
        let prefix = Some(&prefix).filter(|p| !p.as_ref().is_empty());
        self.around.patiently(async || {
            let listed = self.location.store.list(prefix).try_collect::<Vec<_>>().await;
            listed.map_err(|e| self.location.error(&format!("list \"{folder}\""), e))
        })
    }
}

impl Place for Objects {
    fn look_interval(&self) -> Duration {
        LOOK_INTERVAL
    }

    fn nothing_found(&self) -> (String, &'static str) {
        let what = format!("no object matches \"{}/{}\"", self.pattern.root, self.pattern.keys);
        (what, "Is the address right? \"*\" does not reach over a \"/\", and \"**\" does.")
    }

    fn look(&self) -> Result<Vec<Found>> {
        let metas = match self.pattern.folder() {
            None => self.head(&self.key_of(&self.pattern.keys)?)?.into_iter().collect(),
            Some(folder) => self.list(folder)?,
        };
        // As on disk: a leading dot is how programs name what is not finished yet.
        let options = glob::MatchOptions {
            require_literal_separator: true,
            require_literal_leading_dot: true,
            ..Default::default()
        };
        let matches = |meta: &ObjectMeta| {
            self.pattern.folder().is_none() || self.glob.matches_with(meta.location.as_ref(), options)
        };
        let found = metas.iter().filter(|meta| matches(meta));
        let mut found: Vec<Found> =
            found.map(|meta| Found { name: self.name_of(&meta.location), version: version(meta) }).collect();
        found.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(found)
    }

    fn exists(&self, name: &str) -> Result<bool> {
        // Of another bucket, or a path of before: not ours to look for.
        let is_ours = name.strip_prefix(&self.pattern.root).is_some_and(|key| key.starts_with('/'));
        Ok(!is_ours || self.head(&self.key_of(name)?)?.is_some())
    }

    fn open(&self, wanted: Wanted<'_>) -> Result<Option<Opened>> {
        let Wanted { name, position, known, once: _ } = wanted;
        let key = self.key_of(name)?;
        let Some(meta) = self.head(&key)? else { return Ok(None) };
        let identity = identity(&meta);
        match known {
            Some(Identity::Object(known)) => known.check(name, &identity)?,
            Some(Identity::File(_)) => return Err(Error::Failed(format!("the record's \"{name}\" is a file"))),
            None => {}
        }
        let compressed = is_compressed(name);
        let ranges = Ranges {
            location: self.location.clone(),
            key,
            name: name.to_string(),
            identity: identity.clone(),
            next: if compressed { 0 } else { position },
            bytes: Bytes::new(),
            around: self.around.clone(),
        };
        let doing = |e| Error::Failed(format!("cannot read \"{name}\": {e}"));
        let mut input = decompressed(name, ranges, meta.size == 0).map_err(doing)?;
        if compressed {
            pass_over(&mut input, position, name)?;
        }
        let version = version(&meta);
        Ok(Some(Opened { input, version, identity: Identity::Object(identity), takes_last_line: true }))
    }
}

/// The bytes of an object, a range at a time.
struct Ranges {
    location: Location,
    key: Path,
    name: String,
    identity: ObjectIdentity,
    next: u64,
    bytes: Bytes,
    around: Surroundings,
}

impl Ranges {
    fn fetch(&self) -> Result<Bytes> {
        let range = self.next..(self.next + RANGE_BYTES).min(self.identity.size);
        let wanted = range.end - range.start;
        let bytes = self.around.patiently(async || {
            let options = GetOptions { range: Some(GetRange::Bounded(range.clone())), ..Default::default() };
            let failed = |e| self.location.error(&format!("read \"{}\"", self.key), e);
            let got = match self.location.store.get_opts(&self.key, options).await {
                Ok(got) => got,
                Err(object_store::Error::NotFound { .. }) => {
                    let known = Identity::Object(self.identity.clone());
                    known.check_gone(&self.name, self.next, false)?;
                    return Err(Error::Failed(format!("object \"{}\" is gone", self.name)));
                }
                // A shorter object of the same name has no such range; which object it is, its head tells.
                Err(e) => match self.location.store.head(&self.key).await {
                    Ok(meta) => {
                        self.identity.check(&self.name, &identity(&meta))?;
                        return Err(failed(e));
                    }
                    Err(_) => return Err(failed(e)),
                },
            };
            self.identity.check(&self.name, &identity(&got.meta))?;
            got.bytes().await.map_err(failed)
        })?;
        if bytes.len() as u64 != wanted {
            let what = format!("the store gave {} bytes of \"{}\" for {wanted}", bytes.len(), self.name);
            return Err(Error::Failed(what));
        }
        Ok(bytes)
    }
}

impl Read for Ranges {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        if self.bytes.is_empty() {
            if self.next >= self.identity.size {
                return Ok(0);
            }
            self.bytes = self.fetch().map_err(std::io::Error::other)?;
            self.next += self.bytes.len() as u64;
        }
        let given = self.bytes.len().min(into.len());
        self.bytes.copy_to_slice(&mut into[..given]);
        Ok(given)
    }
}

impl Surroundings {
    /// Does it again, after growing pauses, while the store is away. Under `once` the library's own retries must do.
    fn patiently<T>(&self, step: impl AsyncFn() -> Result<T>) -> Result<T> {
        let mut pause = RETRY_MIN;
        let mut was_away = false;
        let trying = async {
            loop {
                match step().await {
                    Err(e) if e.is_retriable() && !self.once => {
                        if !was_away {
                            tracing::warn!(error = %e, "an object store is away, retrying");
                        }
                        was_away = true;
                        self.status.down(format!("{e}; trying again in {} s", pause.as_secs()));
                        tokio::time::sleep(pause).await;
                        pause = (pause * 2).min(RETRY_MAX);
                    }
                    done => {
                        if was_away && done.is_ok() {
                            self.status.up();
                        }
                        return done;
                    }
                }
            }
        };
        self.runtime.block_on(async {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => Err(Error::Unavailable("told to stop".into())),
                done = trying => done,
            }
        })
    }
}

fn identity(meta: &ObjectMeta) -> ObjectIdentity {
    let Version { size, mtime_us, etag } = version(meta);
    ObjectIdentity { size, etag, modified_us: mtime_us }
}

/// Listings and heads must agree: one has fractions of a second, and quotes around an etag, that the other may lack.
fn version(meta: &ObjectMeta) -> Version {
    let etag = meta.e_tag.as_deref().map(|etag| etag.trim_matches('"').to_string());
    Version { size: meta.size, mtime_us: meta.last_modified.timestamp() * 1_000_000, etag }
}
