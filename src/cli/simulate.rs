//! `pipe simulate`: a seeded fleet that sends messages to MQTT, Kafka, a file or standard output.

use std::process::ExitCode;

/// Send the messages of a simulated fleet
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe simulate --vehicles 100 --rate 500")]
pub struct Args {
    /// Same seed, same messages
    #[arg(long, default_value_t = 1)]
    pub seed: u64,
}

pub async fn run(_args: Args) -> anyhow::Result<ExitCode> {
    anyhow::bail!("\"pipe simulate\" is not built yet")
}
