//! `pipe explain`: what a pipeline does with a message, statement by statement.

use crate::engine::load;
use crate::sql;
use std::process::ExitCode;

/// Show what each statement reads, keeps and writes
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe explain --config pipelines/fleet.toml")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub config: std::path::PathBuf,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (_, plan) = load::load_and_compile(&args.config).await?;
    println!("{}", sql::explain(&plan).trim_end());
    Ok(ExitCode::SUCCESS)
}
