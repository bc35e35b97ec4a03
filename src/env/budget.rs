//! A share of the memory budget: bytes are acquired before data is held and given back when it is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Accounts in KiB, so that a semaphore's permits suffice for any budget.
#[derive(Clone)]
pub struct Budget {
    permits: Arc<Semaphore>,
    total_kib: u32,
    waited_us: Arc<AtomicU64>,
}

/// Held for as long as the bytes are; dropping it gives them back.
#[derive(Debug)]
pub struct Held(#[allow(dead_code)] Option<OwnedSemaphorePermit>);

impl Budget {
    pub fn new(bytes: u64) -> Self {
        let total_kib = (bytes / 1024).clamp(1, u32::MAX as u64 / 4) as u32;
        Budget { permits: Arc::new(Semaphore::new(total_kib as usize)), total_kib, waited_us: Arc::default() }
    }

    /// Waits until the bytes fit: this is back-pressure. One request larger than the whole budget is let through alone
    /// (it takes everything), so that a single large message cannot stop a pipeline. Cancel-safe.
    pub async fn acquire(&self, bytes: u64) -> Held {
        let kib = (bytes.div_ceil(1024)).clamp(1, self.total_kib as u64) as u32;
        if let Ok(at_once) = self.permits.clone().try_acquire_many_owned(kib) {
            return Held(Some(at_once));
        }
        let since = Instant::now();
        // The semaphore is never closed.
        let held = Held(self.permits.clone().acquire_many_owned(kib).await.ok());
        self.waited_us.fetch_add(since.elapsed().as_micros() as u64, Ordering::Relaxed);
        held
    }

    /// How long callers have waited, added up.
    pub fn waited_seconds(&self) -> f64 {
        self.waited_us.load(Ordering::Relaxed) as f64 / 1e6
    }

    pub fn used_bytes(&self) -> u64 {
        (self.total_kib as u64 - self.permits.available_permits() as u64) * 1024
    }

    pub fn total_bytes(&self) -> u64 {
        self.total_kib as u64 * 1024
    }
}
