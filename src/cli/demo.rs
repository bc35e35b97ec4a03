//! `pipe demo`: broker, simulated fleet, pipeline and servers in one process, with live counters.

use std::process::ExitCode;

/// Run everything in one process: broker, simulated fleet, pipeline and servers
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe demo
  pipe demo --for 30s     # ends with a reconciled account")]
pub struct Args {
    /// Stop after this time and reconcile what was sent with what arrived
    #[arg(long = "for", value_name = "TIME")]
    pub duration: Option<humantime::Duration>,
}

pub async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("\"pipe demo\" is not built yet")
}
