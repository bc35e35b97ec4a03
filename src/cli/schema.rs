//! `pipe schema`: the JSON Schema of the config file, for completion and checks in editors.

use crate::cli::print;
use crate::config::schema;
use crate::engine::load;
use std::process::ExitCode;

/// Print the JSON Schema of the config file, for editors
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe schema > pipe.schema.json
and as the first line of the config, for editors that know Taplo:
  #:schema ./pipe.schema.json")]
pub struct Args {}

pub async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    print(&format!("{:#}\n", schema::schema(&load::connectors())))?;
    Ok(ExitCode::SUCCESS)
}
