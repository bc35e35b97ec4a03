//! `pipe serve`: runs a pipeline until it is told to stop, or once over what there is.

use std::process::ExitCode;

/// Run a pipeline
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe serve --config pipelines/fleet.toml
  pipe serve --config pipelines/fleet.toml --once --skip kinematic")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub config: std::path::PathBuf,
    /// Read every source up to the end it has now, commit, and end
    #[arg(long)]
    pub once: bool,
    /// Leave this source out (may be given several times)
    #[arg(long, value_name = "SOURCE")]
    pub skip: Vec<String>,
}

pub async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("\"pipe serve\" is not built yet")
}
