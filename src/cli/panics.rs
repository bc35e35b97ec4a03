//! How a panic is told: as Rust does it, but for one that a library plans for and catches, which is a line of the log.
//!
//! When the last step of an upload fails, delta-rs aborts the upload, though it cannot be aborted in that state any more;
//! `object_store` panics, delta-rs catches it and returns the upload's own error, which is told and tried again like any
//! other. Only the backtrace on stderr would remain of it, and that looks like a fault of ours.

use std::panic::PanicHookInfo;

type Hook = Box<dyn Fn(&PanicHookInfo<'_>) + Send + Sync>;

/// For the life of the process, and after the log.
pub fn install() {
    std::panic::set_hook(beside(std::panic::take_hook()));
}

fn beside(tell: Hook) -> Hook {
    Box::new(move |panic| {
        let at = panic.location().map(|at| at.to_string()).unwrap_or_default();
        match panic.payload_as_str() {
            Some("Already shut down") if at.contains("object_store") && at.contains("buffered.rs") => tracing::warn!(
                at,
                "an upload failed in its last step and cannot be aborted any more; its parts are the object store's to clean up"
            ),
            _ => tell(panic),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures::FutureExt;
    use object_store::buffered::BufWriter;
    use object_store::memory::InMemory;
    use std::panic::AssertUnwindSafe;
    use std::sync::{Arc, Mutex};
    use tokio::io::AsyncWriteExt;

    /// The library's own panic, so that a new version of it that panics elsewhere shows here.
    #[tokio::test]
    async fn only_the_panic_of_an_upload_that_cannot_be_aborted_is_not_told() {
        let told = Arc::new(Mutex::new(Vec::new()));
        let (this, tells) = (std::thread::current().id(), told.clone());
        let before = Arc::new(std::panic::take_hook());
        let others = before.clone();
        // Other tests may panic beside this one.
        std::panic::set_hook(beside(Box::new(move |panic| match std::thread::current().id() == this {
            true => tells.lock().expect("no holder panics").push(panic.payload_as_str().map(str::to_owned)),
            false => others(panic),
        })));
        let mut upload = BufWriter::new(Arc::new(InMemory::new()), "a".into());
        upload.shutdown().await.expect("memory takes it");
        let aborted = AssertUnwindSafe(upload.abort()).catch_unwind().await;
        let ours = std::panic::catch_unwind(|| panic!("Already shut down"));
        std::panic::set_hook(Box::new(move |panic| before(panic)));
        assert!(aborted.is_err() && ours.is_err());
        assert_eq!(*told.lock().expect("no holder panics"), [Some("Already shut down".to_owned())], "ours alone");
    }
}
