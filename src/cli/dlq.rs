//! `pipe dlq`: the messages that were set aside, counted and shown, straight from their table.

use crate::cli::{call_fault, count, print};
use crate::engine::dead_letter;
use crate::engine::load;
use crate::env::store;
use crate::query::dead_letters::{Answer, DeadLetters};
use crate::query::error::{Kind, QueryError};
use crate::serve::http::format::{Encoder, Format};
use crate::sinks::delta::{config, history};
use crate::types::error::Error;
use arrow::util::pretty::pretty_format_batches_with_schema;
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The messages that were rejected: what they were, where they came from and why
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pipe dlq list --config pipelines/fleet.toml
  pipe dlq show --config pipelines/fleet.toml --where \"code = 'type'\" --limit 5
  pipe dlq show --config pipelines/fleet.toml --where \"source = 'status'\" --json

Columns for --where: source, topic, partition, position, key, received_at, reason, statement,
attempt, payload; and text (the payload, where it is UTF-8) and code (the reason's first word:
syntax, type, null, unknown_field, no_route, sql, too_large). Fields of the payload:
json_get_str(text, 'vehicle_id') = 'v17'.

The table is read as it is committed, whether a pipeline runs or not.
Exit codes: 0 ok, 1 it could not be read, 2 the config or the predicate is wrong.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Counts by source, reason and statement
    List(Which),
    /// One by one, the newest first, with their payload
    Show(Which),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Only those for which this SQL predicate holds
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: Option<String>,
    /// At most so many lines
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (which, is_list) = match &args.verb {
        Verb::List(which) => (which, true),
        Verb::Show(which) => (which, false),
    };
    let letters = open(which).await?;
    // One more than asked for tells whether there are more.
    let asked = which.limit.saturating_add(1);
    let answer = if is_list { letters.counted(asked).await } else { letters.shown(asked).await }.map_err(told)?;
    let (answer, more) = cut(answer, which.limit);
    match (which.json, is_list) {
        (true, _) => print(&ndjson(&answer)?)?,
        (false, true) => {
            print(&format!("{}\n", pretty_format_batches_with_schema(answer.schema.clone(), &answer.rows)?))?
        }
        (false, false) => print(&letters_as_text(&ndjson(&answer)?)?)?,
    }
    if !which.json {
        let rows: usize = answer.rows.iter().map(|r| r.num_rows()).sum();
        let note = if more { ", and more: --limit shows them" } else { "" };
        print(&format!("({}{note})\n", count(rows, if is_list { "line" } else { "dead letter" })))?;
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(which: &Which) -> anyhow::Result<DeadLetters> {
    let config = load::load(&which.config)?.config;
    let sink = &config.dead_letter_sink;
    let spec = config.sinks.get(sink).ok_or_else(|| Error::Failed(format!("the config has no sink \"{sink}\"")))?;
    let delta = config::validate(&spec.section).map_err(Error::Config)?;
    let options = spec.section.reveal_settings("options", &delta.options).map_err(Error::Config)?;
    let name = format!("{sink}.{}", dead_letter::TABLE);
    let location = store::open_existing(&delta.uri, &options).map_err(|e| e.context(format!("sink \"{sink}\"")))?;
    let Some(table) = history::newest(&location, dead_letter::TABLE, &name).await? else {
        let what = format!("there is no table \"{name}\" at {}", location.under(dead_letter::TABLE).display);
        return Err(Error::refused(what, "It is made at the first start of the pipeline.").into());
    };
    DeadLetters::new(table, which.predicate.as_deref()).await.map_err(told)
}

fn told(error: QueryError) -> anyhow::Error {
    match error.kind {
        Kind::Wrong => call_fault(
            format!("--where: {}", error.message),
            error.hint.as_deref().unwrap_or("It is what would stand behind WHERE; pipe dlq --help names the columns."),
        ),
        _ => anyhow::Error::new(error),
    }
}

/// The first `limit` rows, and whether there were more.
fn cut(answer: Answer, limit: usize) -> (Answer, bool) {
    let (mut room, mut more, mut rows) = (limit, false, Vec::new());
    for batch in answer.rows {
        let taken = batch.num_rows().min(room);
        more |= taken < batch.num_rows();
        room -= taken;
        rows.push(batch.slice(0, taken));
    }
    (Answer { schema: answer.schema, rows }, more)
}

fn ndjson(answer: &Answer) -> anyhow::Result<String> {
    let mut encoder = Encoder::new(Format::Ndjson, answer.schema.clone());
    let mut text = Vec::new();
    for batch in &answer.rows {
        text.extend_from_slice(&encoder.batch(batch)?);
    }
    text.extend_from_slice(&encoder.end()?);
    Ok(String::from_utf8(text)?)
}

/// A heading line and the reason, then the payload as it came.
fn letters_as_text(lines: &str) -> anyhow::Result<String> {
    let mut text = String::new();
    for line in lines.lines() {
        let letter: Value = serde_json::from_str(line)?;
        let of = |key: &str| match &letter[key] {
            Value::Null => None,
            Value::String(s) => Some(s.clone()),
            other => Some(other.to_string()),
        };
        let mut heading = of("source").unwrap_or_default();
        for (word, key) in [
            ("topic", "topic"),
            ("partition", "partition"),
            ("position", "position"),
            ("key", "key"),
            ("received", "received_at"),
        ] {
            if let Some(value) = of(key) {
                write!(heading, "  {word} {value}")?;
            }
        }
        writeln!(text, "{heading}\n  {}", of("reason").unwrap_or_default())?;
        match (of("payload"), of("payload_hex")) {
            (Some(payload), _) => writeln!(text, "  {}\n", payload.trim_end().replace('\n', "\n  "))?,
            (None, Some(hex)) => writeln!(text, "  not UTF-8, in hex: {hex}\n")?,
            (None, None) => writeln!(text, "  no payload\n")?,
        }
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_letter_reads_from_top_to_bottom() {
        let lines = "{\"source\":\"s\",\"topic\":null,\"position\":3,\"reason\":\"syntax: x\",\"payload\":\"a\\nb\\n\"}\n\
                     {\"source\":\"s\",\"reason\":\"type: y\",\"payload\":null,\"payload_hex\":\"ff\"}\n\
                     {\"source\":\"s\",\"reason\":\"null: z\"}\n";
        let expected = "s  position 3\n  syntax: x\n  a\n  b\n\ns\n  type: y\n  not UTF-8, in hex: ff\n\ns\n  null: z\n  no payload\n\n";
        assert_eq!(letters_as_text(lines).unwrap(), expected);
    }
}
