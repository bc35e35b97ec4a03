//! The binary: sets up what a process has once (TLS, allocator, log, runtime) and hands over to the verb.

use clap::Parser;
use pipe::cli::{self, Cli};
use std::ffi::{c_int, c_long};
use std::process::ExitCode;
use std::time::Duration;

/// Arrow's buffers come and go by the megabyte on several threads, which is what it is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Milliseconds for which the allocator keeps what was freed before the system gets it back. Its own default, a second, is as
/// long as a busy pipeline needs to free and take its limit several times over.
const ALLOCATOR_KEEPS_MS: c_long = 10;

/// `mi_option_purge_delay` in mimalloc.h, of versions 2 and 3.
const ALLOCATOR_PURGE_DELAY: c_int = 15;

unsafe extern "C" {
    /// Of mimalloc, which is linked in as the allocator. What the environment says (`MIMALLOC_PURGE_DELAY`) is kept.
    fn mi_option_set_default(option: c_int, value: c_long);
}

/// For blocking calls that are still under way when a verb has ended; nothing that must be durable is among them.
const WIND_UP_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    // SAFETY: it stores a number, and no other thread runs yet.
    unsafe { mi_option_set_default(ALLOCATOR_PURGE_DELAY, ALLOCATOR_KEEPS_MS) };
    // Several crates bring rustls without a provider; all of them take this one.
    rustls::crypto::ring::default_provider().install_default().expect("nothing ran before main");
    let cli = Cli::parse();
    if let Err(e) = cli.log.install() {
        return cli::fail(&e);
    }
    cli::panics::install();
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(e) => return cli::fail(&anyhow::Error::from(e).context("the async runtime did not start")),
    };
    let code = match runtime.block_on(cli.verb.run()) {
        Ok(code) => code,
        Err(e) => cli::fail(&e),
    };
    runtime.shutdown_timeout(WIND_UP_MAX);
    code
}
