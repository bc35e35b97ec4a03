//! Uploads at the pace of the store: who writes a large file waits here until the parts under way are few enough.
//!
//! delta-rs' writer hands over up to ten parts of 5 MiB before it waits by itself, which is more than a compaction's whole
//! share of a small memory limit.

use async_trait::async_trait;
use futures::FutureExt;
use futures::stream::BoxStream;
use object_store::path::Path;
use object_store::{
    CopyOptions, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMultipartOptions,
    PutOptions, PutPayload, PutResult, Result, UploadPart,
};
use std::fmt;
use std::sync::Arc;
use tokio::sync::watch;

/// A store that counts the bytes of its multipart uploads that are under way.
#[derive(Debug)]
pub(super) struct Paced {
    inner: Arc<dyn ObjectStore>,
    under_way: Arc<watch::Sender<u64>>,
}

/// Gives the bytes of a part back, whatever becomes of it.
struct Part(Arc<watch::Sender<u64>>, u64);

impl Drop for Part {
    fn drop(&mut self) {
        self.0.send_modify(|bytes| *bytes -= self.1);
    }
}

impl Paced {
    pub fn new(inner: Arc<dyn ObjectStore>) -> Arc<Self> {
        Arc::new(Paced { inner, under_way: Arc::new(watch::Sender::new(0)) })
    }

    /// Waits until at most so many bytes are under way.
    pub async fn at_most(&self, bytes: u64) {
        let mut under_way = self.under_way.subscribe();
        // The sender lives as long as we.
        let waited = under_way.wait_for(|now| *now <= bytes).await;
        debug_assert!(waited.is_ok());
    }
}

impl fmt::Display for Paced {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at its own pace", self.inner)
    }
}

#[derive(Debug)]
struct PacedUpload {
    inner: Box<dyn MultipartUpload>,
    under_way: Arc<watch::Sender<u64>>,
}

#[async_trait]
impl MultipartUpload for PacedUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        let bytes = data.content_length() as u64;
        self.under_way.send_modify(|now| *now += bytes);
        let part = Part(self.under_way.clone(), bytes);
        let upload = self.inner.put_part(data);
        async move {
            let _held = part;
            upload.await
        }
        .boxed()
    }

    async fn complete(&mut self) -> Result<PutResult> {
        self.inner.complete().await
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[async_trait]
impl ObjectStore for Paced {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        self.inner.put_opts(location, payload, options).await
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(PacedUpload { inner, under_way: self.under_way.clone() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::poll;
    use object_store::ObjectStoreExt;
    use object_store::memory::InMemory;
    use std::pin::pin;

    #[tokio::test]
    async fn who_writes_waits_until_the_store_has_taken_enough() {
        let store = Paced::new(Arc::new(InMemory::new()));
        let mut upload = store.put_multipart(&Path::from("a")).await.unwrap();
        let (first, second) = (upload.put_part(vec![0; 100].into()), upload.put_part(vec![0; 50].into()));
        let mut waits = pin!(store.at_most(99));
        assert!(poll!(&mut waits).is_pending());
        assert!(poll!(pin!(store.at_most(150))).is_ready());
        first.await.unwrap();
        assert!(poll!(&mut waits).is_ready());
        // Given up, as when an upload is aborted.
        assert!(poll!(pin!(store.at_most(0))).is_pending());
        drop(second);
        assert!(poll!(pin!(store.at_most(0))).is_ready());
    }
}
