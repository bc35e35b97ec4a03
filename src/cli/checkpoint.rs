//! `pipe checkpoint`: the records of a pipeline, running or not: which there are, what is in one, what is wrong with them.

use crate::checkpoint::place::record_path;
use crate::checkpoint::record::{Record, RecordKind, ViewRecord};
use crate::cli::{EXIT_RUN, call_fault, count, print};
use crate::engine::chain::Chain;
use crate::engine::load;
use crate::engine::survey::{Survey, survey};
use crate::types::epoch::Epoch;
use clap::Subcommand;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

/// Look at the records of a pipeline: one per epoch, each a decided checkpoint
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe checkpoint list --config pipelines/fleet.toml
  pipe checkpoint show --config pipelines/fleet.toml --json

Takes no lock and changes nothing: the pipeline may be running.
Exit codes: 0 the chain is sound, 1 it is not (what is wrong is printed).")]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// All records that are kept, oldest first
    #[command(after_help = "Example:
  pipe checkpoint list --config pipelines/fleet.toml")]
    List(Which),
    /// One record: positions, counts, state, files
    #[command(after_help = "Example:
  pipe checkpoint show --config pipelines/fleet.toml
  pipe checkpoint show 41 --config pipelines/fleet.toml --json")]
    Show {
        /// Its epoch; the newest unless given
        epoch: Option<u64>,
        #[command(flatten)]
        which: Which,
    },
}

#[derive(Debug, clap::Args)]
struct Which {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    match args.verb {
        Verb::List(which) => {
            let (found, place) = look(&which.config).await?;
            print(&if which.json { format!("{:#}\n", list_json(&found, &place)) } else { list(&found, &place) })?;
            end(&found)
        }
        Verb::Show { epoch, which } => {
            let (found, place) = look(&which.config).await?;
            let record = match epoch {
                None => found.head(),
                Some(epoch) => found.records.iter().find(|r| r.epoch == Epoch(epoch)),
            };
            let Some(record) = record else {
                if !found.problems.is_empty() {
                    return end(&found);
                }
                let there = match (found.records.first(), found.head()) {
                    (Some(first), Some(last)) => format!("There are {} to {}.", first.epoch, last.epoch),
                    _ => "The pipeline has not been started yet, or its [checkpoint] location is another.".into(),
                };
                let which = epoch.map_or("no record".to_string(), |e| format!("no record {e}"));
                return Err(call_fault(format!("{which} in {place}"), &there));
            };
            print(&if which.json { format!("{:#}\n", show_json(&found, record)) } else { show(&found, record) })?;
            end(&found)
        }
    }
}

async fn look(config: &Path) -> anyhow::Result<(Survey, String)> {
    let loaded = load::load(config)?;
    match Chain::find(&loaded.config)? {
        Some(chain) => Ok((survey(&chain).await?, chain.location.display)),
        None => Ok((Survey::default(), loaded.config.pipeline.data_dir.0.join("checkpoint").display().to_string())),
    }
}

fn end(found: &Survey) -> anyhow::Result<ExitCode> {
    for problem in &found.problems {
        eprintln!("problem: {problem}");
    }
    if found.problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    eprintln!(
        "\n{}\n  hint: A record never changes once written. Restore what is missing or damaged from a copy of the location.",
        count(found.problems.len(), "problem")
    );
    Ok(ExitCode::from(EXIT_RUN))
}

fn list(found: &Survey, place: &str) -> String {
    let Some(head) = found.head() else { return format!("no records in {place}\n") };
    let mut text = format!("pipeline \"{}\", chain {}, in {place}\n", head.pipeline, head.chain);
    let heading = ["epoch", "time", "start", "messages", "state", "applied", "rows"].map(String::from);
    let rows = found.records.iter().map(|record| {
        let claim = if record.kind == RecordKind::Claim { "*" } else { "" };
        [
            record.epoch.to_string(),
            time(record.epoch_time_us),
            format!("{}{claim}", record.incarnation),
            found.messages(record).map_or("?".into(), |n| n.to_string()),
            size(state_bytes(record, false)),
            if found.is_applied(record) { "yes".into() } else { "unknown".into() },
            rows(record).map(|(table, n)| format!("{table} {n}")).collect::<Vec<_>>().join(", "),
        ]
    });
    let table: Vec<[String; 7]> = std::iter::once(heading).chain(rows).collect();
    for row in &table {
        for (i, cell) in row.iter().enumerate() {
            let width = table.iter().map(|r| r[i].len()).max().unwrap_or(0);
            // Text to the left, numbers to the right.
            let gap = " ".repeat(width - cell.len());
            let cell = if matches!(i, 1 | 5 | 6) { format!("{cell}{gap}") } else { format!("{gap}{cell}") };
            write!(text, "{}{cell}", if i == 0 { "" } else { "  " }).expect("writing to a string cannot fail");
        }
        text.truncate(text.trim_end().len());
        text.push('\n');
    }
    text.push_str("* a claim, written at every start. Whether the newest epoch is applied the next record tells.\n");
    text
}

fn list_json(found: &Survey, place: &str) -> Value {
    let records: Vec<Value> = found.records.iter().map(|record| summary(found, record)).collect();
    json!({
        "location": place,
        "pipeline": found.head().map(|h| &h.pipeline),
        "chain": found.head().map(|h| &h.chain),
        "records": records,
        "problems": found.problems,
    })
}

fn summary(found: &Survey, record: &Record) -> Value {
    json!({
        "epoch": record.epoch,
        "time": time(record.epoch_time_us),
        "kind": record.kind,
        "incarnation": record.incarnation,
        "owner": record.owner,
        "messages": found.messages(record),
        "rows": rows(record).collect::<serde_json::Map<String, Value>>(),
        "state_bytes": state_bytes(record, false),
        "state_bytes_written": state_bytes(record, true),
        "applied": if found.is_applied(record) { "yes" } else { "unknown" },
    })
}

fn show(found: &Survey, record: &Record) -> String {
    let mut text = String::new();
    let mut line = |indent: usize, what: String| {
        writeln!(text, "{:indent$}{what}", "").expect("writing to a string cannot fail");
    };
    let kind = if record.kind == RecordKind::Claim { " (a claim: a start, nothing read yet)" } else { "" };
    line(0, format!("{}{kind}", record_path(record.epoch)));
    line(2, format!("pipeline   \"{}\", chain {}", record.pipeline, record.chain));
    line(2, format!("written    {} by {} ({})", time(record.epoch_time_us), record.owner, record.engine));
    line(2, format!("start      {}, {}", record.incarnation, count(record.slots as usize, "slot")));
    let applied = if found.is_applied(record) { "yes" } else { "unknown: the next record tells" };
    line(2, format!("applied    {applied}"));
    let messages = found.messages(record).map_or("unknown: the record before is gone".into(), |n| n.to_string());
    line(2, format!("messages   {messages}"));
    line(0, "partitions".into());
    for p in &record.partitions {
        let c = &p.counts;
        line(2, format!("{}  {}  slot {}", p.partition, p.span, p.slot));
        let all = format!("{} = {} decoded + {} rejected + {} dropped", c.received, c.decoded, c.rejected, c.dropped);
        line(4, format!("received since the chain began: {all}"));
    }
    line(0, "materialized views".into());
    for view in &record.views {
        line(2, format!("{}  {}", view.name, state(view)));
        if let Some(epoch) = view.complete_from {
            line(4, format!("started empty: complete from epoch {epoch}"));
        }
    }
    line(0, "tables".into());
    for t in &record.tables {
        let files = count(t.adds.len(), "file");
        let evolved = if t.schema_action.is_some() { ", new columns" } else { "" };
        line(2, format!("{}.{}  {} rows in {files}{evolved}, {} rows in all", t.sink, t.table, t.rows, t.rows_total));
    }
    text
}

fn show_json(found: &Survey, record: &Record) -> Value {
    json!({ "summary": summary(found, record), "record": record, "problems": found.problems })
}

fn state(view: &ViewRecord) -> String {
    let rows: u64 = view.segments.iter().map(|s| s.rows).sum();
    let bytes: u64 = view.segments.iter().map(|s| s.bytes).sum();
    let bases = view.segments.iter().filter(|s| s.base).count();
    let tail = view.segments.len() - bases;
    let segments = format!("{} and {}", count(bases, "base"), count(tail, "tail segment"));
    format!("{rows} rows, {} in {segments}, fingerprint {}", size(bytes), view.fingerprint)
}

/// Rows of this epoch by table; tables that received none are left out.
fn rows(record: &Record) -> impl Iterator<Item = (String, Value)> {
    record.tables.iter().filter(|t| t.rows > 0).map(|t| (format!("{}.{}", t.sink, t.table), json!(t.rows)))
}

/// Bytes of the segments the record restores from; `own`: only those that its epoch wrote.
fn state_bytes(record: &Record, own: bool) -> u64 {
    let segments = record.views.iter().flat_map(|v| &v.segments);
    segments.filter(|s| !own || s.epoch == record.epoch).map(|s| s.bytes).sum()
}

fn time(micros: i64) -> String {
    let at = chrono::DateTime::from_timestamp_micros(micros);
    at.map_or(format!("{micros} us"), |at| at.format("%Y-%m-%dT%H:%M:%S%.3fZ").to_string())
}

fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit < UNITS.len() - 1 {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 { format!("{bytes} B") } else { format!("{value:.1} {}", UNITS[unit]) }
}
