//! `pipe dlq`: the messages that were set aside, counted and shown straight from their table, and replayed.

mod replay; // through the pipeline once more

use crate::cli::{call_fault, count, print};
use crate::config::spec::Config;
use crate::engine::{dead_letter, load};
use crate::env::clock::Clock;
use crate::env::store::{self, Location};
use crate::query::dead_letters::{Answer, DeadLetters, Which, Wish};
use crate::query::error::{Kind, QueryError};
use crate::serve::http::format::{Encoder, Format};
use crate::sinks::delta::config::validate;
use crate::sinks::delta::history;
use crate::types::error::Error;
use crate::types::fault::closest;
use crate::types::limit::SHARE_QUERY_PERCENT;
use crate::types::reject::RejectReason;
use arrow::compute::kernels::cast_utils::string_to_timestamp_nanos;
use arrow::util::pretty::pretty_format_batches_with_schema;
use clap::Subcommand;
use serde_json::Value;
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// The messages that were rejected: what they were, where they came from and why; and replaying them
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pipe dlq list --config pipelines/fleet.toml
  pipe dlq show --config pipelines/fleet.toml --where \"code = 'type'\" --limit 5
  pipe dlq show --config pipelines/fleet.toml --source status --since 2h --json
  pipe dlq list --config pipelines/fleet.toml --replayed
  pipe dlq replay --config pipelines/fleet.toml --reason sql

Columns for --where: source, topic, partition, position, key, received_at, timestamp, headers,
reason, statement, attempt, payload, chain; and text (the payload, where it is UTF-8) and code (the
reason's first word: syntax, type, null, unknown_field, no_route, sql, too_large). Fields of the
payload: json_get_str(text, 'vehicle_id') = 'v17'.

list and show read the table as it is committed, whether a pipeline runs or not.
Exit codes: 0 ok, 1 it could not be read, 2 the config or the predicate is wrong.")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Counts by source, reason and statement
    #[command(after_help = "\
Examples:
  pipe dlq list --config pipelines/fleet.toml
  pipe dlq list --config pipelines/fleet.toml --source status --since 2h
  pipe dlq list --config pipelines/fleet.toml --replayed --json

Columns for --where: see pipe dlq --help.")]
    List(ListArgs),
    /// One by one, the newest first, with their payload
    #[command(after_help = "\
Examples:
  pipe dlq show --config pipelines/fleet.toml --where \"code = 'type'\" --limit 5
  pipe dlq show --config pipelines/fleet.toml --source status --since 2h --json

Columns for --where: see pipe dlq --help.")]
    Show(ListArgs),
    Replay(replay::Args),
}

#[derive(Debug, clap::Args)]
struct ListArgs {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// Those that were dead and have been replayed, instead of those that are dead
    #[arg(long)]
    replayed: bool,
    /// At most so many lines
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: usize,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Which dead letters are meant.
#[derive(Debug, clap::Args)]
pub struct Filter {
    /// Only those of this source
    #[arg(long, value_name = "SOURCE")]
    source: Option<String>,
    /// Only those with this first word of their reason
    #[arg(long, value_name = "WORD")]
    reason: Option<String>,
    /// Only those received since then: a time ("2026-11-22T08:00:00Z") or how long ago ("2h")
    #[arg(long, value_name = "WHEN")]
    since: Option<String>,
    /// Only those for which this SQL predicate holds
    #[arg(long = "where", value_name = "PREDICATE")]
    predicate: Option<String>,
}

impl Filter {
    fn wish(self, which: Which) -> anyhow::Result<Wish> {
        if let Some(word) = self.reason.as_deref().filter(|word| !RejectReason::CODES.contains(word)) {
            let hint = match closest(word, RejectReason::CODES) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("They begin with {}.", RejectReason::CODES.join(", ")),
            };
            return Err(call_fault(format!("--reason: no reason begins with \"{word}\""), &hint));
        }
        let since_us = self.since.as_deref().map(|text| since(text, Clock::System.now_us())).transpose()?;
        Ok(Wish { which, source: self.source, reason: self.reason, since_us, predicate: self.predicate })
    }
}

/// Microseconds UTC.
fn since(text: &str, now_us: i64) -> anyhow::Result<i64> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(now_us.saturating_sub(i64::try_from(ago.as_micros()).unwrap_or(i64::MAX)));
    }
    match string_to_timestamp_nanos(text) {
        Ok(nanos) => Ok(nanos / 1_000),
        Err(_) => Err(call_fault(
            format!("--since: \"{text}\" is neither a time nor a length of time"),
            "For example 2026-11-22, 2026-11-22T08:00:00Z, 30m, 2h or 7d; without an offset a time is UTC.",
        )),
    }
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (args, is_list) = match args.verb {
        Verb::List(args) => (args, true),
        Verb::Show(args) => (args, false),
        Verb::Replay(args) => return replay::run(args).await,
    };
    let config = load::load(&args.config)?.config;
    let of_source = args.filter.source.clone();
    let wish = args.filter.wish(if args.replayed { Which::Replayed } else { Which::Dead })?;
    let letters = open(&config, &wish).await?;
    // One more than asked for tells whether there are more.
    let asked = args.limit.saturating_add(1);
    let answer = if is_list { letters.counted(asked).await } else { letters.shown(asked).await }.map_err(told)?;
    let (answer, more) = cut(answer, args.limit);
    match (args.json, is_list) {
        (true, _) => print(&ndjson(&answer)?)?,
        (false, true) => {
            print(&format!("{}\n", pretty_format_batches_with_schema(answer.schema.clone(), &answer.rows)?))?
        }
        (false, false) => print(&letters_as_text(&ndjson(&answer)?)?)?,
    }
    if !args.json {
        let rows: usize = answer.rows.iter().map(|r| r.num_rows()).sum();
        // Sources come and go, and their dead letters stay; but a typing error must not look like good news.
        let unknown = of_source.filter(|source| rows == 0 && !config.sources.contains_key(source));
        let note = match unknown {
            Some(source) => format!("; the config has no source \"{source}\""),
            None if more => ", and more: --limit shows them".to_string(),
            None => String::new(),
        };
        print(&format!("({}{note})\n", count(rows, if is_list { "line" } else { "dead letter" })))?;
    }
    Ok(ExitCode::SUCCESS)
}

/// The sink that has the table, and the table's name.
fn place(config: &Config) -> anyhow::Result<(Location, String)> {
    let sink = &config.dead_letter_sink;
    let spec = config.sinks.get(sink).ok_or_else(|| Error::Failed(format!("the config has no sink \"{sink}\"")))?;
    let delta = validate(&spec.section).map_err(Error::Config)?;
    let options = spec.section.reveal_settings("options", &delta.options).map_err(Error::Config)?;
    let name = format!("{sink}.{}", dead_letter::TABLE);
    let location = store::open_existing(&delta.uri, &options).map_err(|e| e.context(format!("sink \"{sink}\"")))?;
    Ok((location, name))
}

async fn open(config: &Config, wish: &Wish) -> anyhow::Result<DeadLetters> {
    let (location, name) = place(config)?;
    let Some(table) = history::newest(&location, dead_letter::TABLE, &name).await? else {
        let what = format!("there is no table \"{name}\" at {}", location.under(dead_letter::TABLE).display);
        return Err(Error::refused(what, "It is made at the first start of the pipeline.").into());
    };
    DeadLetters::new(table, wish, query_bytes(config)).await.map_err(told)
}

/// What of the limit is for queries: here nothing else needs it.
fn query_bytes(config: &Config) -> u64 {
    config.limits.memory.0 * SHARE_QUERY_PERCENT / 100
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
    fn since_takes_times_and_lengths_of_time() {
        let now_us = 1_000_000_000_000;
        let at = |text: &str| since(text, now_us).map_err(|e| e.to_string());
        assert_eq!(at("1970-01-02"), Ok(86_400_000_000));
        assert_eq!(at("1970-01-01T01:00:00+01:00"), Ok(0));
        assert_eq!(at("1h 30m"), Ok(now_us - 5_400_000_000));
        assert!(at("yesterday").unwrap_err().contains("--since: \"yesterday\" is neither"));
    }

    #[test]
    fn a_letter_reads_from_top_to_bottom() {
        let lines = "{\"source\":\"s\",\"topic\":null,\"position\":3,\"reason\":\"syntax: x\",\"payload\":\"a\\nb\\n\"}\n\
                     {\"source\":\"s\",\"reason\":\"type: y\",\"payload\":null,\"payload_hex\":\"ff\"}\n\
                     {\"source\":\"s\",\"reason\":\"null: z\"}\n";
        let expected = "s  position 3\n  syntax: x\n  a\n  b\n\ns\n  type: y\n  not UTF-8, in hex: ff\n\ns\n  null: z\n  no payload\n\n";
        assert_eq!(letters_as_text(lines).unwrap(), expected);
    }
}
