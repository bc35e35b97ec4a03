//! The command line: one file per verb, and what all verbs share: exit codes and the log.
//!
//! Exit codes: 0 ok, 1 failed at run time, 2 the config or the call is wrong, 3 a check or test failed.

pub mod audit; // do records and tables tell one story
pub mod checkpoint; // the records of a pipeline
pub mod demo; // everything in one process: broker, simulated fleet, pipeline
pub mod dlq; // the messages that were set aside
pub mod explain; // what a pipeline does with a message
pub mod panics; // no verb: which panic of a library is no fault of ours
pub mod schema; // JSON Schema of the config, for editors
pub mod serve; // run a pipeline
pub mod simulate; // a simulated fleet, to MQTT, Kafka, a file or standard output
pub mod sql; // ask a running pipeline
pub mod validate; // what is wrong with a config and its SQL

use crate::types::error::Error;
use clap::{ArgAction, Args, Parser, Subcommand, ValueEnum};
use futures::FutureExt;
use futures::future::LocalBoxFuture;
use std::io::{ErrorKind, IsTerminal, Write};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// MQTT and Kafka messages through plain SQL into hot state, Delta tables and a key-value store.
#[derive(Debug, Parser)]
#[command(name = "pipe", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Start here:
  pipe demo
  pipe serve --config pipelines/fleet.toml
  pipe sql \"SELECT * FROM hot.vehicle_latest LIMIT 5\"")]
pub struct Cli {
    #[command(flatten)]
    pub log: Log,
    #[command(subcommand)]
    pub verb: Verb,
}

#[derive(Debug, Subcommand)]
pub enum Verb {
    Demo(demo::Args),
    Serve(serve::Args),
    Validate(validate::Args),
    Explain(explain::Args),
    Simulate(simulate::Args),
    Sql(sql::Args),
    Audit(audit::Args),
    Dlq(dlq::Args),
    Checkpoint(checkpoint::Args),
    Schema(schema::Args),
}

impl Verb {
    /// Boxed: whoever polls a future compiles all of it, and that should be the library, once, not each binary.
    pub fn run(self) -> LocalBoxFuture<'static, anyhow::Result<ExitCode>> {
        let verb = async move {
            match self {
                Verb::Demo(args) => demo::run(args).await,
                Verb::Serve(args) => serve::run(args).await,
                Verb::Validate(args) => validate::run(args).await,
                Verb::Explain(args) => explain::run(args).await,
                Verb::Simulate(args) => simulate::run(args).await,
                Verb::Sql(args) => sql::run(args).await,
                Verb::Audit(args) => audit::run(args).await,
                Verb::Dlq(args) => dlq::run(args).await,
                Verb::Checkpoint(args) => checkpoint::run(args).await,
                Verb::Schema(args) => schema::run(args).await,
            }
        };
        verb.boxed_local()
    }
}

/// 1: failed at run time.
pub const EXIT_RUN: u8 = 1;
/// 2: the config or the call is wrong.
pub const EXIT_CONFIG: u8 = 2;
/// 3: a check or test failed.
pub const EXIT_CHECK: u8 = 3;

#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Args, Debug)]
pub struct Log {
    /// How log lines are written, on standard error
    #[arg(long, global = true, value_enum, default_value = "text", value_name = "FORMAT")]
    pub log_format: LogFormat,
    /// Log more (-v: debug, -vv: trace, and other crates at debug); RUST_LOG decides if it is set
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub verbose: u8,
    /// Log only errors
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub quiet: bool,
}

impl Log {
    /// Sends log lines to standard error from here on.
    pub fn install(&self) -> anyhow::Result<()> {
        let filter = match std::env::var("RUST_LOG") {
            Ok(directives) if !directives.is_empty() => EnvFilter::try_new(&directives).map_err(|e| {
                let hint = "For example \"warn,pipe=debug\".";
                call_fault(format!("the environment variable RUST_LOG cannot be read: {e}"), hint)
            })?,
            _ => EnvFilter::new(match (self.quiet, self.verbose) {
                (true, _) => "error",
                (false, 0) => "warn,pipe=info",
                (false, 1) => "warn,pipe=debug",
                (false, _) => "debug,pipe=trace",
            }),
        };
        let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
        let installed = match self.log_format {
            LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).with_target(false).try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        };
        installed.map_err(|e| anyhow::anyhow!("the log did not start: {e}"))
    }
}

/// The call is wrong: exit code 2.
pub fn call_fault(message: impl Into<String>, hint: &str) -> anyhow::Error {
    anyhow::Error::new(CallFault { message: message.into(), hint: hint.to_string() })
}

#[derive(Debug, thiserror::Error)]
#[error("{message}\n  hint: {hint}")]
struct CallFault {
    message: String,
    hint: String,
}

/// Tells of an error on standard error and gives the exit code that belongs to it.
pub fn fail(error: &anyhow::Error) -> ExitCode {
    // The reader of our output has gone (`pipe explain | head`): what it wanted it has.
    let is_broken_pipe = |e: &std::io::Error| e.kind() == ErrorKind::BrokenPipe;
    if error.chain().any(|e| e.downcast_ref::<std::io::Error>().is_some_and(is_broken_pipe)) {
        return ExitCode::SUCCESS;
    }
    let (text, code) = match error.downcast_ref::<Error>() {
        Some(Error::Config(faults)) => {
            (format!("{}\n\n{}\n", Error::Config(faults.clone()), count(faults.len(), "fault")), EXIT_CONFIG)
        }
        Some(other) => (format!("error: {error:#}\n"), other.exit_code()),
        None if error.downcast_ref::<CallFault>().is_some() => (format!("error: {error}\n"), EXIT_CONFIG),
        None => (format!("error: {error:#}\n"), 1),
    };
    // With standard error gone there is nobody left to tell; the exit code still says it.
    let told = std::io::stderr().write_all(text.as_bytes());
    ExitCode::from(if told.is_ok() { code } else { code.max(1) })
}

/// "1 fault", "2 faults"
pub fn count(n: usize, thing: &str) -> String {
    format!("{n} {thing}{}", if n == 1 { "" } else { "s" })
}

/// Writes to standard output; a reader that has gone is an error here and a success in `fail`.
pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}
