//! Work that would hold a runtime thread for too long: on the pool for blocking work, or in place in a simulation.

use crate::types::error::{Error, Result};

#[derive(Clone, Copy, Debug)]
pub enum Offload {
    Pool,
    /// Where one thread does everything, and in the order it decides.
    InPlace,
}

impl Offload {
    pub async fn run<T: Send + 'static>(self, work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
        match self {
            Offload::InPlace => work(),
            Offload::Pool => match tokio::task::spawn_blocking(work).await {
                Ok(done) => done,
                Err(panicked) if panicked.is_panic() => std::panic::resume_unwind(panicked.into_panic()),
                Err(cancelled) => Err(Error::Failed(format!("the process is ending: {cancelled}"))),
            },
        }
    }
}
