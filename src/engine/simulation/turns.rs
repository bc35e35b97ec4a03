//! Tasks of one process, polled one at a time by whoever holds them. A task is ready when it has been woken.

use crate::types::error::Result;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

type Work = Pin<Box<dyn Future<Output = Result<()>> + Send>>;

pub struct Task {
    pub name: String,
    /// None: it has ended.
    work: Option<Work>,
    woken: Arc<Woken>,
}

struct Woken(AtomicBool);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Task {
    pub fn new(name: impl Into<String>, work: impl Future<Output = Result<()>> + Send + 'static) -> Self {
        Task { name: name.into(), work: Some(Box::pin(work)), woken: Arc::new(Woken(AtomicBool::new(true))) }
    }

    pub fn is_ready(&self) -> bool {
        self.work.is_some() && self.woken.0.load(Ordering::Relaxed)
    }

    pub fn has_ended(&self) -> bool {
        self.work.is_none()
    }

    /// Some: it has just ended.
    pub fn turn(&mut self) -> Option<Result<()>> {
        let work = self.work.as_mut()?;
        self.woken.0.store(false, Ordering::Relaxed);
        let waker = Waker::from(self.woken.clone());
        match work.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Pending => None,
            Poll::Ready(ended) => {
                self.work = None;
                Some(ended)
            }
        }
    }
}

/// Lets others go first: a place where the process may crash.
pub async fn pause() {
    let mut paused = false;
    std::future::poll_fn(|context| {
        if std::mem::replace(&mut paused, true) {
            return Poll::Ready(());
        }
        context.waker().wake_by_ref();
        Poll::Pending
    })
    .await
}
