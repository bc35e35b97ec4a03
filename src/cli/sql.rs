//! `pipe sql`: asks a running pipeline over Flight SQL, once or in a dialogue.

mod client; // the connection, and errors in words
mod output; // rows as a table, CSV, JSON, NDJSON
mod shell; // the dialogue: history, multi-line statements, \d and its like
mod split; // several statements in one text

use crate::cli::sql::client::{Client, Trouble};
use crate::cli::sql::output::{Printed, Style};
use std::io::{IsTerminal, Read};
use std::path::PathBuf;
use std::process::ExitCode;

/// Ask a running pipeline
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pipe sql \"SELECT * FROM hot.vehicle_latest LIMIT 5\"
  pipe sql --format csv -f report.sql > report.csv
  echo 'SELECT count(*) FROM lake.points' | pipe sql
  pipe sql --url grpc+tls://lake.example:50051 --ca ca.pem --token \"$TOKEN\" \"SHOW TABLES\"
  pipe sql                  # a dialogue; \\? says what it understands")]
pub struct Args {
    /// Where the pipeline serves Flight SQL
    #[arg(long, env = "PIPE_URL", default_value = "grpc://127.0.0.1:50051")]
    pub url: String,
    /// Bearer token, when the pipeline asks for one
    #[arg(long, env = "PIPE_TOKEN", hide_env_values = true)]
    pub token: Option<String>,
    /// PEM file with the authority (or the certificate itself) to trust, for a pipeline that speaks TLS (grpc+tls://...)
    #[arg(long, env = "PIPE_CA", value_name = "FILE")]
    pub ca: Option<PathBuf>,
    #[arg(long, value_enum, default_value_t = Style::Table)]
    pub format: Style,
    /// Print results as JSON: short for --format json
    #[arg(long)]
    pub json: bool,
    /// Read statements from a file, separated by semicolons
    #[arg(short, long, value_name = "FILE", conflicts_with = "statement")]
    pub file: Option<PathBuf>,
    /// The statement; without it statements come from standard input
    #[arg(value_name = "SQL")]
    pub statement: Option<String>,
}

/// 0: answered. 1: the pipeline is not there, or failed. 2: the statement or the call is wrong.
pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let style = if args.json { Style::Json } else { args.format };
    let dialogue = args.statement.is_none() && args.file.is_none() && std::io::stdin().is_terminal();
    let text = match (&args.statement, &args.file) {
        (Some(text), _) => Ok(text.clone()),
        (None, Some(path)) => std::fs::read_to_string(path).map_err(|e| format!("cannot read {}: {e}", path.display())),
        (None, None) if dialogue => Ok(String::new()),
        (None, None) => {
            let mut text = String::new();
            let read = std::io::stdin().read_to_string(&mut text);
            read.map(|_| text).map_err(|e| format!("cannot read standard input: {e}"))
        }
    };
    let text = match text {
        Ok(text) => text,
        Err(message) => return Ok(complain(&Trouble::call(message))),
    };
    let mut client = match Client::connect(&args.url, args.token.as_deref(), args.ca.as_deref()).await {
        Ok(client) => client,
        Err(trouble) => return Ok(complain(&trouble)),
    };
    if dialogue {
        return Ok(shell::run(client, style).await);
    }
    let statements = split::statements(&text);
    if statements.is_empty() {
        return Ok(complain(&Trouble::call("there is no statement; pipe sql --help shows how to give one")));
    }
    for statement in statements {
        match output::print(&mut client, &statement, style, &mut std::io::stdout()).await {
            Ok(Printed::All) => {}
            // `pipe sql ... | head`: the reader has what it wanted.
            Ok(Printed::ReaderLeft) => return Ok(ExitCode::SUCCESS),
            Err(trouble) => return Ok(complain(&trouble)),
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn complain(trouble: &Trouble) -> ExitCode {
    eprintln!("{trouble}");
    ExitCode::from(trouble.exit_code)
}
