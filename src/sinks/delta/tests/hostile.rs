//! A store that fails as told: before a request lands, after it landed, or so that it lands later; and lists too little.

use async_trait::async_trait;
use futures::stream::BoxStream;
use futures::{StreamExt, TryStreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, ObjectStoreExt,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::fmt;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    Put,
    Get,
    List,
    Delete,
}

/// What becomes of a request that fails.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The connection breaks before anything happens.
    Lost,
    /// The answer is lost, what was asked for happened.
    AnswerLost,
    /// Neither: it happens when `deliver` is called.
    Late,
    /// 409: another request is in flight. object_store says that the object exists, although nothing landed.
    Conflict,
    /// 412, without anything having landed.
    Precondition,
    /// 503, after object_store's own retries.
    SlowDown,
}

#[derive(Debug)]
struct Fault {
    request: Request,
    /// Part of the key.
    path: &'static str,
    fate: Fate,
    times: u32,
}

#[derive(Debug)]
pub struct LosesAnswers {
    inner: Arc<dyn ObjectStore>,
    /// Puts into `_delta_log/` still to fail, without or after landing.
    pub before: AtomicU32,
    pub after: AtomicU32,
    /// All requests so far.
    pub requests: AtomicU32,
    faults: Arc<Mutex<Vec<Fault>>>,
    late: Mutex<Vec<(Path, PutPayload, PutOptions)>>,
    /// Keys that listings leave out.
    hidden: Mutex<Vec<String>>,
}

fn next_fate(faults: &Mutex<Vec<Fault>>, request: Request, location: &Path) -> Option<Fate> {
    let mut faults = faults.lock().unwrap();
    let fault =
        faults.iter_mut().find(|f| f.times > 0 && f.request == request && location.as_ref().contains(f.path))?;
    fault.times -= 1;
    Some(fault.fate)
}

impl LosesAnswers {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(LosesAnswers {
            inner,
            before: 0.into(),
            after: 0.into(),
            requests: 0.into(),
            faults: Arc::default(),
            late: Mutex::default(),
            hidden: Mutex::default(),
        })
    }

    /// The next `times` requests of this kind to keys with `path` in them.
    pub fn fail(&self, request: Request, path: &'static str, fate: Fate, times: u32) {
        self.faults.lock().unwrap().push(Fault { request, path, fate, times });
    }

    /// How many of the faults asked for have not happened yet.
    pub fn faults_left(&self) -> u32 {
        self.faults.lock().unwrap().iter().map(|f| f.times).sum()
    }

    pub fn heal(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub fn hide(&self, key: impl Into<String>) {
        self.hidden.lock().unwrap().push(key.into());
    }

    pub fn show_all(&self) {
        self.hidden.lock().unwrap().clear();
    }

    /// The requests that were on their way arrive now; says how many still found their name free.
    pub async fn deliver(&self) -> usize {
        let late = std::mem::take(&mut *self.late.lock().unwrap());
        let mut landed = 0;
        for (path, payload, options) in late {
            landed += self.inner.put_opts(&path, payload, options).await.is_ok() as usize;
        }
        landed
    }

    fn take(counter: &AtomicU32) -> bool {
        counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok()
    }

    fn count(&self) {
        self.requests.fetch_add(1, Ordering::SeqCst);
    }

    fn listed(&self, object: &ObjectMeta) -> bool {
        !self.hidden.lock().unwrap().iter().any(|key| object.location.as_ref().contains(key))
    }
}

fn lost() -> Error {
    Error::Generic { store: "hostile", source: "connection reset".into() }
}

fn answer(fate: Fate, location: &Path) -> Error {
    let path = location.to_string();
    match fate {
        Fate::Lost | Fate::AnswerLost | Fate::Late => lost(),
        Fate::Conflict => Error::AlreadyExists { path, source: "409".into() },
        Fate::Precondition => Error::Precondition { path, source: "412".into() },
        Fate::SlowDown => Error::Generic { store: "hostile", source: "503 slow down".into() },
    }
}

impl fmt::Display for LosesAnswers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("loses answers")
    }
}

#[async_trait]
impl ObjectStore for LosesAnswers {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        self.count();
        let log = location.as_ref().contains("_delta_log/");
        if log && Self::take(&self.before) {
            return Err(lost());
        }
        let fate = next_fate(&self.faults, Request::Put, location);
        if fate == Some(Fate::Late) {
            self.late.lock().unwrap().push((location.clone(), payload.clone(), opts.clone()));
        }
        if let Some(fate) = fate.filter(|fate| *fate != Fate::AnswerLost) {
            return Err(answer(fate, location));
        }
        let done = self.inner.put_opts(location, payload, opts).await?;
        if fate.is_some() || (log && Self::take(&self.after)) {
            return Err(lost());
        }
        Ok(done)
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.count();
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.count();
        match next_fate(&self.faults, Request::Get, location) {
            Some(fate) => Err(answer(fate, location)),
            None => self.inner.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // One by one, so that each may fail: what came before is gone.
        let (inner, faults) = (self.inner.clone(), self.faults.clone());
        let delete = move |path: Path| {
            let (inner, fate) = (inner.clone(), next_fate(&faults, Request::Delete, &path));
            async move {
                if let Some(fate) = fate.filter(|fate| *fate != Fate::AnswerLost) {
                    return Err(answer(fate, &path));
                }
                inner.delete(&path).await?;
                match fate {
                    Some(_) => Err(lost()),
                    None => Ok(path),
                }
            }
        };
        locations.and_then(delete).boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.count();
        let at = prefix.cloned().unwrap_or_default();
        if let Some(fate) = next_fate(&self.faults, Request::List, &at) {
            return futures::stream::once(async move { Err(answer(fate, &at)) }).boxed();
        }
        let hidden = self.hidden.lock().unwrap().clone();
        let shown = move |object: &ObjectMeta| !hidden.iter().any(|key| object.location.as_ref().contains(key));
        self.inner.list(prefix).try_filter(move |object| futures::future::ready(shown(object))).boxed()
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.count();
        let mut listed = self.inner.list_with_delimiter(prefix).await?;
        listed.objects.retain(|object| self.listed(object));
        Ok(listed)
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
