//! An object store that fails: before, after landing, later; that answers conflicts nobody made; that lists too little.

use crate::checkpoint::place::{RECORDS, record_path};
use crate::checkpoint::record::Record;
use crate::engine::simulation::check;
use crate::engine::simulation::world::World;
use crate::env::store::Location;
use crate::types::epoch::Epoch;
use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{FutureExt, StreamExt, TryStreamExt};
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMode, PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

#[derive(Clone)]
pub struct FaultyStore {
    world: Arc<World>,
    inner: Arc<InMemory>,
}

impl FaultyStore {
    pub fn new(world: Arc<World>) -> Self {
        FaultyStore { world, inner: Arc::default() }
    }

    pub fn location(&self) -> Location {
        Location { store: Arc::new(self.clone()), ..Location::in_memory() }
    }

    /// What is there, without the faults.
    pub fn peek(&self, key: &str) -> Option<Bytes> {
        let got = self.inner.get(&Path::from(key)).now_or_never().expect("memory answers at once").ok()?;
        got.bytes().now_or_never().expect("memory answers at once").ok()
    }

    /// What a human does about a record that stands below a hole, if no record says that its name was cleaned up.
    pub fn remove_strays(&self, floor: Epoch) -> bool {
        let mut left = self.world.strays.lock().expect("no holder panics");
        let strays = left.split_off(&floor);
        drop(left);
        for epoch in &strays {
            self.world.say(format_args!("record {epoch} is removed by hand"));
            let removed = self.inner.delete(&Path::from(record_path(*epoch))).now_or_never();
            removed.expect("memory answers at once").expect("memory deletes");
        }
        !strays.is_empty()
    }

    fn land(&self, path: &Path, bytes: Bytes, mode: PutMode) -> Result<PutResult> {
        let key = path.to_string();
        check::is_told(&key, &bytes);
        if let Some(name) = key.strip_prefix(RECORDS) {
            let is_there = self.peek(&key).is_some();
            assert!(mode == PutMode::Create, "I8: record {key} is written without the condition that it is new");
            if !is_there {
                let number = name.trim_matches(|c: char| !c.is_ascii_digit());
                let epoch = Epoch(number.parse().expect("a record's name holds its epoch"));
                let record = Record::decode(&bytes, epoch, None).expect("a record that can be read");
                let oldest = self.world.records.lock().expect("no holder panics").keys().next().copied();
                if oldest.is_some_and(|oldest| epoch < oldest) {
                    self.world.say(format_args!("record {epoch} of {} under a name cleaned up", record.owner));
                    self.world.strays.lock().expect("no holder panics").insert(epoch);
                } else {
                    check::record(&self.world, self, &record);
                    self.world.records.lock().expect("no holder panics").insert(epoch, record);
                }
            }
        }
        let put = self.inner.put_opts(path, bytes.into(), PutOptions { mode, ..PutOptions::default() });
        put.now_or_never().expect("memory answers at once")
    }
}

fn no_answer(what: &str) -> Error {
    Error::Generic { store: "simulated", source: format!("503 for {what}").into() }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FaultyStore")
    }
}

impl fmt::Display for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a store that fails")
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let what = format!("put {location}");
        let bytes: Bytes = payload.into();
        let (store, path, mode) = (self.clone(), location.clone(), opts.mode.clone());
        let flight = self.world.depart(what.clone(), move || store.land(&path, bytes, mode));
        self.world.pause().await;
        if opts.mode == PutMode::Create && self.world.happens(10) {
            self.world.say(format_args!("409: {what}"));
            flight.lose();
            let source = "409 ConditionalRequestConflict".into();
            return Err(Error::AlreadyExists { path: location.to_string(), source });
        }
        flight.end(Result::is_ok).await.unwrap_or_else(|| Err(no_answer(&what)))
    }

    async fn put_multipart_opts(&self, _: &Path, _: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        Err(Error::NotImplemented { operation: "multipart".into(), implementer: "FaultyStore".into() })
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.world.pause().await;
        if self.world.happens(20) {
            self.world.say(format_args!("503: get {location}"));
            return Err(no_answer("get"));
        }
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        let this = self.clone();
        let checked = locations.and_then(move |path| {
            let this = this.clone();
            async move {
                this.world.pause().await;
                check::deleted(&this.world, path.as_ref());
                this.world.say(format_args!("delete {path}"));
                Ok(path)
            }
        });
        self.inner.delete_stream(checked.boxed())
    }

    /// Objects may be missing from it, the newest among them.
    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        let (this, prefix) = (self.clone(), prefix.cloned());
        let listing = async move {
            this.world.pause().await;
            if this.world.happens(20) {
                this.world.say(format_args!("503: list"));
                return Err(no_answer("list"));
            }
            let mut all: Vec<ObjectMeta> = this.inner.list(prefix.as_ref()).try_collect().await?;
            if !all.is_empty() && this.world.happens(20) {
                this.world.stale_lists.fetch_add(1, Ordering::Relaxed);
                let keep = this.world.dice.below(all.len());
                if this.world.dice.permille(700) {
                    all.truncate(keep)
                } else {
                    drop(all.remove(keep))
                }
                this.world.say(format_args!("a listing shows {} objects only", all.len()));
            }
            Ok(futures::stream::iter(all.into_iter().map(Ok)))
        };
        futures::stream::once(listing).try_flatten().boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
