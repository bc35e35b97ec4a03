//! `pipe sql`: asks a running pipeline over Flight SQL; one statement, or a prompt.

use std::process::ExitCode;

/// Ask a running pipeline
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe sql \"SELECT * FROM hot.vehicle_latest LIMIT 5\"")]
pub struct Args {
    /// The statement; without one, a prompt opens
    pub statement: Option<String>,
}

pub async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("\"pipe sql\" is not built yet")
}
