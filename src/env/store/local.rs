//! Local disk as an object store whose every finished write survives a power cut: data, directory entry, parents.
//!
//! `object_store`'s own `LocalFileSystem` never calls fsync. A record or a Delta commit that is visible but not on disk
//! would break I5, so puts are written here (temporary file, fsync, link or rename, fsync of the directories), and
//! multipart uploads and deletes are synced after they complete. Reads and lists are `LocalFileSystem`'s.

use async_trait::async_trait;
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyMode, CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, RenameTargetMode, Result, UploadPart,
};
use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, ErrorKind, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex};

/// Directories whose own entry is known to be on disk. Full: forgotten, which only costs syncing them again.
const DURABLE_DIRS_MAX: usize = 10_000;

#[derive(Clone, Debug)]
pub struct DurableLocal {
    inner: Arc<LocalFileSystem>,
    /// A std mutex, because nothing awaits while it is held.
    durable_dirs: Arc<Mutex<HashSet<PathBuf>>>,
}

impl DurableLocal {
    /// Rooted at "/": paths are absolute paths without the leading slash.
    pub fn new() -> Self {
        DurableLocal { inner: Arc::new(LocalFileSystem::new()), durable_dirs: Arc::default() }
    }

    /// Runs file work where it may block.
    async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        tokio::task::spawn_blocking(work).await?
    }

    /// Makes the entry of `path` durable: its directory, and every directory above it not yet known to be.
    fn sync_parents(&self, path: &FsPath) -> io::Result<()> {
        let Some(mut dir) = path.parent() else { return Ok(()) };
        File::open(dir)?.sync_all()?;
        while let Some(parent) = dir.parent() {
            if self.durable_dirs.lock().expect("no panic while held").contains(dir) {
                return Ok(());
            }
            match File::open(parent).and_then(|d| d.sync_all()) {
                Ok(()) => {}
                // Above the directories we may write to there are some we may not even open; they were there before us.
                Err(e) if e.kind() == ErrorKind::PermissionDenied => return Ok(()),
                Err(e) => return Err(e),
            }
            let mut known = self.durable_dirs.lock().expect("no panic while held");
            if known.len() >= DURABLE_DIRS_MAX {
                known.clear();
            }
            known.insert(dir.to_path_buf());
            dir = parent;
        }
        Ok(())
    }

    fn put(&self, path: &FsPath, payload: &PutPayload, create: bool) -> io::Result<()> {
        // A trailing "#<digits>" is what LocalFileSystem leaves out of listings: an interrupted put is never seen.
        let mut staged = path.as_os_str().to_owned();
        staged.push(format!("#{}", rand::random::<u64>()));
        let staged = PathBuf::from(staged);
        let mut file = match File::create_new(&staged) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(path.parent().unwrap_or(FsPath::new("/")))?;
                File::create_new(&staged)?
            }
            other => other?,
        };
        let written = (|| {
            for chunk in payload.iter() {
                file.write_all(chunk)?;
            }
            file.sync_all()?;
            // Linking fails when the name is taken, atomically; renaming replaces, atomically.
            if create { fs::hard_link(&staged, path) } else { fs::rename(&staged, path) }
        })();
        if create || written.is_err() {
            // Left behind it is invisible; the outcome of the put does not depend on it.
            if let Err(e) = fs::remove_file(&staged) {
                tracing::debug!(path = %staged.display(), error = %e, "could not remove a staged file");
            }
        }
        written?;
        self.sync_parents(path)
    }

    async fn sync_object(&self, location: &Path) -> Result<()> {
        let (this, path, key) = (self.clone(), self.inner.path_to_filesystem(location)?, location.to_string());
        Self::blocking(move || {
            File::open(&path)
                .and_then(|f| f.sync_all())
                .and_then(|()| this.sync_parents(&path))
                .map_err(|e| io_error(e, &key))
        })
        .await
    }
}

impl Default for DurableLocal {
    fn default() -> Self {
        Self::new()
    }
}

fn io_error(e: io::Error, key: &str) -> Error {
    let (path, source) = (key.to_string(), Box::new(e));
    match source.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists { path, source },
        ErrorKind::NotFound => Error::NotFound { path, source },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path, source },
        _ => Error::Generic { store: "local disk", source },
    }
}

impl fmt::Display for DurableLocal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("local disk")
    }
}

#[async_trait]
impl ObjectStore for DurableLocal {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let create = match opts.mode {
            PutMode::Create => true,
            PutMode::Overwrite => false,
            PutMode::Update(_) => return self.inner.put_opts(location, payload, opts).await,
        };
        let (this, path, key) = (self.clone(), self.inner.path_to_filesystem(location)?, location.to_string());
        Self::blocking(move || this.put(&path, &payload, create).map_err(|e| io_error(e, &key))).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, opts).await?;
        Ok(Box::new(DurableUpload { inner, store: self.clone(), location: location.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // Synced one by one: records are deleted oldest first, and if a power cut undid an older deletion and kept a
        // newer one, the chain would have a hole.
        let this = self.clone();
        let deleted = self.inner.delete_stream(locations);
        let synced = deleted.and_then(move |location| {
            let this = this.clone();
            async move {
                let (path, key) = (this.inner.path_to_filesystem(&location)?, location.to_string());
                let dir = path.parent().map(FsPath::to_path_buf);
                Self::blocking(move || match dir.map(File::open) {
                    Some(Ok(dir)) => dir.sync_all().map_err(|e| io_error(e, &key)),
                    // Whoever deleted the directory has deleted the object too.
                    _ => Ok(()),
                })
                .await?;
                Ok(location)
            }
        });
        synced.boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.sync_object(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        let RenameOptions { target_mode, extensions } = options;
        let mode = match target_mode {
            RenameTargetMode::Overwrite => CopyMode::Overwrite,
            RenameTargetMode::Create => CopyMode::Create,
        };
        // Copy, sync, delete: a power cut in between leaves both names, never none.
        self.copy_opts(from, to, CopyOptions { mode, extensions }).await?;
        object_store::ObjectStoreExt::delete(self.inner.as_ref(), from).await
    }
}

struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    store: DurableLocal,
    location: Path,
}

impl fmt::Debug for DurableUpload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DurableUpload({})", self.location)
    }
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        self.store.sync_object(&self.location).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}
