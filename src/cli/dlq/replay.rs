//! `pipe dlq replay`: dead letters through the pipeline once more, as if they came for the first time.

use super::{Filter, open, place, query_bytes, told};
use crate::checkpoint::record::Record;
use crate::cli::serve::until_end;
use crate::cli::{call_fault, count, print};
use crate::config::spec::Config;
use crate::engine::replay::{Replay, Tried, try_out};
use crate::engine::running::Live;
use crate::engine::{assemble, dead_letter, difference, load, recover, start};
use crate::env::clock::Clock;
use crate::query::dead_letters::{LeftBehind, Replayable, Which, Why};
use crate::sinks::delta::history;
use crate::types::epoch::Epoch;
use crate::types::error::Error;
use crate::types::fault::closest;
use crate::types::message::REPLAY_SOURCE;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

/// Feed dead letters through the pipeline once more, after the SQL or the config was mended
///
/// They come as they were first received: _source, _topic, _partition, _position, _key, _headers,
/// _timestamp and _received_at are what they were. What succeeds is in the lake and in hot state once, however often this
/// runs or is killed; what fails again stays a dead letter with the next attempt.
///
/// It is a start of the pipeline that reads nothing else: stop `pipe serve` first. A key-value store shows the outcome from
/// the next `pipe serve` on. Where no dead letter matches, nothing is started and nothing changes.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pipe dlq replay --config pipelines/fleet.toml --dry-run
  pipe dlq replay --config pipelines/fleet.toml
  pipe dlq replay --config pipelines/fleet.toml --source status --reason sql --since 2h
  pipe dlq replay --config pipelines/fleet.toml --where \"statement = 'points'\" --limit 1000

Columns for --where: see pipe dlq --help.
Exit codes: 0 ok (also if there was nothing, or if some failed again, which is printed), 1 it failed or a
pipeline runs, 2 the config or the call is wrong.")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    config: PathBuf,
    #[command(flatten)]
    filter: Filter,
    /// At most so many, the oldest first
    #[arg(long, value_name = "N")]
    limit: Option<usize>,
    /// Decode them and run the SQL over them as it is now, say what would become of them, and change nothing; a pipeline
    /// may be running
    #[arg(long)]
    dry_run: bool,
    /// Take also those that an older build wrote, which did not keep headers and the source's own time (they are NULL) nor
    /// the chain: if several pipelines share the table, name the source with --source
    #[arg(long)]
    older: bool,
    /// The newest record was written by another machine, and no pipeline runs there any more
    #[arg(long)]
    take_over: bool,
    /// Print the outcome as one JSON object
    #[arg(long)]
    json: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let (loaded, plan) = load::load_and_compile(&args.config).await?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let config = &loaded.config;
    if let Some(source) = args.filter.source.as_ref().filter(|s| !config.sources.contains_key(*s)) {
        return Err(unknown(source, config));
    }
    let Some(head) = difference::head(config).await? else {
        let what = format!("the pipeline \"{}\" has no record: it has never run", config.pipeline.name);
        return Err(Error::refused(what, "Its dead letters come with its first run.").into());
    };
    let sources: BTreeSet<String> = plan.tables.iter().map(|t| t.source.to_string()).collect();
    let replay = Replay {
        wish: args.filter.wish(Which::Dead)?,
        limit: args.limit,
        of: Replayable { chain: head.chain.to_string(), sources: sources.into_iter().collect(), older: args.older },
        memory_bytes: query_bytes(config),
        left: Arc::new(Mutex::new(Vec::new())),
    };
    // Opened in any case: what is wrong with the predicate is said before anything is claimed.
    let mut letters = open(config, &replay.wish).await?;
    let left = letters.narrow(&replay.of).await.map_err(told)?;
    if args.dry_run {
        let rows = letters.in_order(replay.limit).await.map_err(told)?;
        let assembled = assemble::assemble(loaded, plan, false, &BTreeSet::new())?;
        let tried = try_out(rows, assembled.plan, &assembled.decoding, &Clock::System).await?;
        print(&trial(&tried, &left, args.json))?;
        return Ok(ExitCode::SUCCESS);
    }
    // What is decided and has not landed is not in the table yet: only a start brings it there.
    if letters.is_empty().await.map_err(told)? && has_landed(config, &head).await? {
        print(&outcome(0, &BTreeMap::new(), head.epoch, &left, args.json))?;
        return Ok(ExitCode::SUCCESS);
    }
    drop(letters);
    if !args.take_over {
        refuse_elsewhere(&head)?;
    }
    let grace = config.pipeline.shutdown_timeout.0;
    let assembled = assemble::assemble(loaded, plan, false, &BTreeSet::new())?;
    let left = replay.left.clone();
    let mut running = start::replay(assembled, replay).await?;
    if let Err(error) = until_end(&mut running, grace).await? {
        tracing::error!("{error}");
        // Threads of a pipeline that was given up may still be at work; nothing of theirs counts any more.
        std::process::exit(error.exit_code().into());
    }
    let left = left.lock().expect("no holder panics").clone();
    let live = &running.live;
    let (handed, reasons) = handed(live);
    print(&outcome(handed, &reasons, live.checkpoint_status().epoch, &left, args.json))?;
    Ok(ExitCode::SUCCESS)
}

/// Does the table have all dead letters that the newest record has? Those of earlier ones it has (`applied_through`).
async fn has_landed(config: &Config, head: &Record) -> anyhow::Result<bool> {
    let (sink, table) = (&config.dead_letter_sink, dead_letter::TABLE);
    let Some(landing) = head.landings().find(|l| l.sink == *sink && l.table == table) else { return Ok(true) };
    let (location, name) = place(config)?;
    Ok(history::applied(&location, table, &name, &landing.app_id).await? >= head.epoch.0)
}

fn unknown(source: &str, config: &Config) -> anyhow::Error {
    let hint = match closest(source, config.sources.keys().map(String::as_str)) {
        Some(near) => format!("Did you mean \"{near}\"?"),
        None => "What no source of the config reads cannot be replayed; pipe dlq show has its payloads.".to_string(),
    };
    call_fault(format!("--source: the config has no source \"{source}\""), &hint)
}

/// A process on this machine is found by the lock of its data directory; of another machine we know only that it wrote.
fn refuse_elsewhere(head: &Record) -> Result<(), Error> {
    let host = |owner: &str| owner.split('/').next().unwrap_or_default().to_string();
    let (theirs, ours) = (host(&head.owner), host(&recover::owner(&Clock::System)));
    if theirs == ours {
        return Ok(());
    }
    Err(Error::refused(
        format!("the newest record {} was written on \"{theirs}\", and this is \"{ours}\"", head.epoch),
        "A pipeline that runs there would be fenced. Replay there, or stop it and give --take-over.",
    ))
}

/// After the last record: how many were handed over, and why those failed that were rejected again.
fn handed(live: &Live) -> (u64, BTreeMap<&'static str, u64>) {
    let handed = live.sources.get(REPLAY_SOURCE).map_or(0, |s| s.status.messages_in.load(Ordering::Relaxed));
    let mut reasons: BTreeMap<&'static str, u64> = BTreeMap::new();
    for slot in live.published() {
        slot.rejects.iter().for_each(|(reason, n)| *reasons.entry(reason).or_default() += n);
    }
    (handed, reasons)
}

fn outcome(
    handed: u64,
    reasons: &BTreeMap<&'static str, u64>,
    epoch: Epoch,
    left: &[LeftBehind],
    json: bool,
) -> String {
    let rejected: u64 = reasons.values().sum();
    let replayed = handed - rejected;
    if json {
        let outcome = json!({
            "replayed": replayed, "rejected_again": rejected, "reasons": reasons, "left": left_as_json(left), "epoch": epoch
        });
        return format!("{outcome}\n");
    }
    as_text(replayed, reasons, ["replayed", "failed again and stayed"]) + &left_as_text(left)
}

/// After a dry run.
fn trial(tried: &Tried, left: &[LeftBehind], json: bool) -> String {
    let Tried { replayed, reasons } = tried;
    if json {
        let rejected: u64 = reasons.values().sum();
        let trial = json!({
            "would_replay": replayed, "would_fail": rejected, "reasons": reasons, "left": left_as_json(left)
        });
        return format!("{trial}\n");
    }
    as_text(*replayed, reasons, ["would be replayed", "would fail again"]) + &left_as_text(left)
}

fn as_text(replayed: u64, reasons: &BTreeMap<&'static str, u64>, [good, bad]: [&str; 2]) -> String {
    let rejected: u64 = reasons.values().sum();
    if replayed + rejected == 0 {
        return "nothing to replay\n".to_string();
    }
    let why: Vec<String> = reasons.iter().map(|(reason, n)| format!("{n} {reason}")).collect();
    let again = match rejected {
        0 => String::new(),
        n => format!("{} {bad}: {}\n", letters_of(n), why.join(", ")),
    };
    format!("{} {good}\n{again}", letters_of(replayed))
}

fn letters_of(n: u64) -> String {
    count(n as usize, "dead letter")
}

fn reason(why: Why) -> (&'static str, &'static str) {
    match why {
        Why::OtherChain => ("other_chain", "of another chain"),
        Why::Older => {
            ("older", "written by an older build, without headers and the source's time (--older takes them)")
        }
        Why::Unread => ("unread", "no table reads the source"),
    }
}

fn left_as_text(left: &[LeftBehind]) -> String {
    let line =
        |l: &LeftBehind| format!("{} of \"{}\" left alone: {}\n", letters_of(l.messages), l.source, reason(l.why).1);
    left.iter().map(line).collect()
}

fn left_as_json(left: &[LeftBehind]) -> Vec<serde_json::Value> {
    left.iter().map(|l| json!({ "source": l.source, "why": reason(l.why).0, "messages": l.messages })).collect()
}
