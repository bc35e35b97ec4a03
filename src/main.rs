//! The binary: sets up what a process has once (TLS, allocator, log, runtime) and hands over to the verb.

use clap::Parser;
use pipe::cli::{self, Cli};
use std::process::ExitCode;
use std::time::Duration;

/// Arrow's buffers come and go by the megabyte on several threads, which is what it is made for.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// For blocking calls that are still under way when a verb has ended; nothing that must be durable is among them.
const WIND_UP_MAX: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
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
