//! Stores for tests: one that fails where a test says (before an operation reaches it, or after it has landed), and a
//! place on a real S3 server.

use crate::env::store::Location;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, Result,
};
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex};

/// A fresh place on the S3 server that PIPE_TEST_S3 names: `eval "$(tests/e2e/s3.sh env PORT)"`.
pub struct S3 {
    pub url: String,
    /// What opens it.
    pub options: BTreeMap<String, String>,
}

impl S3 {
    /// None, with a word about it: no server is named.
    pub fn fresh(test: &str) -> Option<S3> {
        let Ok(endpoint) = std::env::var("PIPE_TEST_S3") else {
            println!("{test}: not run, PIPE_TEST_S3 is not set (tests/e2e/s3.sh)");
            return None;
        };
        // Another test of this process may have installed one already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let options = [
            ("aws_endpoint", endpoint.as_str()),
            ("aws_allow_http", "true"),
            ("aws_access_key_id", "pipe-e2e"),
            ("aws_secret_access_key", "pipe-e2e-secret"),
            ("aws_region", "us-east-1"),
        ];
        let options = options.map(|(key, value)| (key.to_string(), value.to_string())).into();
        Some(S3 { url: format!("s3://pipe/{test}-{}", uuid::Uuid::new_v4()), options })
    }
}

/// Options as a config file has them.
pub fn inline_table(options: &BTreeMap<String, String>) -> String {
    let options: Vec<String> = options.iter().map(|(key, value)| format!("{key} = '{value}'")).collect();
    format!("{{ {} }}", options.join(", "))
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Put,
    Get,
    List,
    Delete,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The store never saw it.
    Before,
    /// It happened, and the answer was lost.
    AfterLanding,
}

#[derive(Debug)]
pub struct Hostile {
    inner: Arc<dyn ObjectStore>,
    /// Each strikes once, at the first operation of its kind on a path that contains its text.
    faults: Mutex<Vec<(Op, String, Fault)>>,
    deleted: Mutex<Vec<String>>,
}

impl Hostile {
    /// In memory.
    pub fn location() -> (Arc<Hostile>, Location) {
        Hostile::over(Location::in_memory())
    }

    pub fn over(location: Location) -> (Arc<Hostile>, Location) {
        let inner = location.store.clone();
        let store = Arc::new(Hostile { inner, faults: Mutex::default(), deleted: Mutex::default() });
        (store.clone(), Location { store, ..location })
    }

    pub fn strike(&self, op: Op, path: &str, fault: Fault) {
        self.faults.lock().unwrap().push((op, path.to_string(), fault));
    }

    /// Faults that have not struck yet.
    pub fn waiting(&self) -> usize {
        self.faults.lock().unwrap().len()
    }

    /// In the order in which it happened.
    pub fn deleted(&self) -> Vec<String> {
        self.deleted.lock().unwrap().clone()
    }

    fn fault(&self, op: Op, path: &str) -> Option<Fault> {
        let mut faults = self.faults.lock().unwrap();
        let found = faults.iter().position(|(o, text, _)| *o == op && path.contains(text.as_str()))?;
        Some(faults.remove(found).2)
    }
}

fn lost(op: Op) -> Error {
    Error::Generic { store: "hostile", source: format!("{op:?}: connection lost").into() }
}

impl fmt::Display for Hostile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("hostile")
    }
}

#[async_trait]
impl ObjectStore for Hostile {
    async fn put_opts(&self, location: &Path, payload: PutPayload, opts: PutOptions) -> Result<PutResult> {
        let fault = self.fault(Op::Put, location.as_ref());
        if fault == Some(Fault::Before) {
            return Err(lost(Op::Put));
        }
        let landed = self.inner.put_opts(location, payload, opts).await;
        if fault == Some(Fault::AfterLanding) { Err(lost(Op::Put)) } else { landed }
    }

    async fn put_multipart_opts(&self, location: &Path, opts: PutMultipartOptions) -> Result<Box<dyn MultipartUpload>> {
        self.inner.put_multipart_opts(location, opts).await
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        match self.fault(Op::Get, location.as_ref()) {
            Some(_) => Err(lost(Op::Get)),
            None => self.inner.get_opts(location, options).await,
        }
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        // The paths are known at once: one object at a time is deleted here.
        let paths: Vec<Result<Path>> = futures::executor::block_on(locations.collect());
        let mut answers: Vec<BoxStream<'static, Result<Path>>> = Vec::new();
        for path in paths {
            let path = path.expect("a path");
            let fault = self.fault(Op::Delete, path.as_ref());
            if fault != Some(Fault::Before) {
                self.deleted.lock().unwrap().push(path.to_string());
                let landed = self.inner.delete_stream(stream::iter([Ok(path)]).boxed());
                let landed: Vec<Result<Path>> = futures::executor::block_on(landed.collect());
                if fault.is_none() {
                    answers.push(stream::iter(landed).boxed());
                    continue;
                }
            }
            answers.push(stream::iter([Err(lost(Op::Delete))]).boxed());
        }
        stream::iter(answers).flatten().boxed()
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        match self.fault(Op::List, prefix.map_or("", |p| p.as_ref())) {
            Some(_) => stream::iter([Err(lost(Op::List))]).boxed(),
            None => self.inner.list(prefix),
        }
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}
