//! `pipe explain`: per statement, what it reads, what it keeps, and where its rows go.

use crate::cli::print;
use crate::engine::load;
use crate::sql;
use std::path::PathBuf;
use std::process::ExitCode;

/// Show what a pipeline does with a message, statement by statement
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe explain --config pipelines/fleet.toml")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (_, plan) = load::load_and_compile(&args.config).await?;
    print(&sql::explain(&plan))?;
    Ok(ExitCode::SUCCESS)
}
