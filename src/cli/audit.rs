//! `pipe audit`: do the records, the tables and everything else that remembers a pipeline tell one story?

use crate::checkpoint::audit::Known;
use crate::checkpoint::audit::report::{Check, Kind, Report};
use crate::cli::{EXIT_CHECK, EXIT_RUN, call_fault, count, print};
use crate::engine::audit::{AuditOptions, audit};
use crate::engine::{assemble, load};
use crate::types::fault::closest;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;
use std::process::ExitCode;

/// Findings of one kind and check on a screen; --json prints all.
const SHOWN_MAX: usize = 20;

/// Check that nothing was lost or doubled: records, tables, dead letters and ledger against each other
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pipe audit --config pipelines/fleet.toml
  pipe audit --config pipelines/fleet.toml --json | jq .differences
  pipe audit --config pipelines/fleet.toml --foreign lake.points=-120

It changes nothing, takes no lock, and may run beside the pipeline. Rows that others wrote or
deleted are named and accounted for as long as the table's log tells of them; later, --foreign does.

Exit codes: 0 all is equal, 1 something could not be looked at, 2 the config is wrong,
3 there is a difference.")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub config: std::path::PathBuf,
    /// Print the report as JSON
    #[arg(long)]
    pub json: bool,
    /// Rows that others added to a table (removed: negative) before its log begins (may be given several times)
    #[arg(long, value_name = "SINK.TABLE=ROWS")]
    pub foreign: Vec<String>,
    /// Rows written or deleted by others are differences too
    #[arg(long)]
    pub strict: bool,
    /// Look into the key-value stores too; only while the pipeline is stopped
    #[arg(long)]
    pub kv: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let mut known = Known { strict: args.strict, ..Known::default() };
    for given in &args.foreign {
        let parsed = given.split_once('=').and_then(|(table, rows)| Some((table.to_string(), rows.parse().ok()?)));
        let Some((table, rows)) = parsed else {
            let hint = "Write the table as in SQL and a whole number: --foreign lake.points=-120";
            return Err(call_fault(format!("--foreign \"{given}\" is not a table with a number of rows"), hint));
        };
        known.foreign_rows.insert(table, rows);
    }
    let accounted: Vec<String> = known.foreign_rows.keys().cloned().collect();
    let (loaded, plan) = load::load_and_compile(&args.config).await?;
    let assembled = assemble::assemble(loaded, plan, false, &BTreeSet::new())?;
    let report = audit(&assembled, &AuditOptions { known, kv: args.kv }).await?;
    let tables = || report.checks.iter().filter(|c| c.what == "table").map(|c| c.subject.as_str());
    if let Some(unknown) = accounted.iter().find(|name| tables().all(|table| table != *name)) {
        let hint = match closest(unknown, tables()) {
            Some(near) => format!("Did you mean \"{near}\"?"),
            None => format!("There are {}.", tables().collect::<Vec<_>>().join(", ")),
        };
        return Err(call_fault(format!("--foreign: there is no table \"{unknown}\""), &hint));
    }
    print(&if args.json { as_json(&report) } else { as_text(&report) })?;
    Ok(match (report.count(Kind::Difference), report.count(Kind::Unseen)) {
        (0, 0) => ExitCode::SUCCESS,
        (0, _) => ExitCode::from(EXIT_RUN),
        _ => ExitCode::from(EXIT_CHECK),
    })
}

fn as_json(report: &Report) -> String {
    let of = |kind: Kind| -> Vec<_> {
        let found = report.checks.iter().flat_map(|c| c.findings.iter().map(move |f| (c, f)));
        found
            .filter(|(_, f)| f.kind == kind)
            .map(|(c, f)| json!({ "what": c.what, "subject": c.subject, "text": f.text, "hint": f.hint }))
            .collect()
    };
    let json = json!({
        "ok": report.count(Kind::Difference) + report.count(Kind::Unseen) == 0,
        "pipeline": report.pipeline,
        "chain": report.chain,
        "records": { "first": report.first, "last": report.last, "applied_through": report.applied_through },
        "checks": report.checks.iter().map(|c| json!({
            "what": c.what,
            "subject": c.subject,
            "looked_at": c.looked_at.iter().copied().collect::<BTreeMap<_, _>>(),
            "result": result(c),
        })).collect::<Vec<_>>(),
        "differences": of(Kind::Difference),
        "unseen": of(Kind::Unseen),
        "notes": of(Kind::Note),
    });
    format!("{json:#}\n")
}

fn result(check: &Check) -> &'static str {
    match (check.has(Kind::Difference), check.has(Kind::Unseen)) {
        (true, _) => "difference",
        (false, true) => "unseen",
        (false, false) if check.looked_at.is_empty() && check.has(Kind::Note) => "not looked at",
        (false, false) => "ok",
    }
}

fn as_text(report: &Report) -> String {
    let mut text = format!("pipeline \"{}\", chain {}\n", report.pipeline, report.chain);
    let Report { first, last, applied_through, .. } = report;
    let line = format!("records {first} to {last}, applied through {applied_through}\n\n");
    text.push_str(&line);
    let wide = report.checks.iter().map(|c| c.subject.chars().count()).max().unwrap_or(0);
    for check in &report.checks {
        let counts: Vec<String> = check.looked_at.iter().map(|(thing, n)| counted(*n, thing)).collect();
        let (what, subject, counts) = (check.what, &check.subject, counts.join(", "));
        writeln!(text, "{what:<7} {subject:<wide$}  {:<13} {counts}", result(check)).expect("writes to a string");
    }
    for (kind, heading) in
        [(Kind::Difference, "differences"), (Kind::Unseen, "could not be looked at"), (Kind::Note, "notes")]
    {
        let findings = of_kind(report, kind);
        if !findings.is_empty() {
            write!(text, "\n{heading}\n{findings}").expect("writes to a string");
        }
    }
    let differences = report.count(Kind::Difference);
    match (differences, report.count(Kind::Unseen)) {
        (0, 0) => text.push_str("\nall equal\n"),
        (0, unseen) => {
            writeln!(text, "\nno difference, but {unseen} could not be looked at").expect("writes to a string")
        }
        (n, _) => writeln!(text, "\n{}", count(n, "difference")).expect("writes to a string"),
    }
    text
}

/// "1 record", "2 records"
fn counted(n: u64, things: &str) -> String {
    let one = things.strip_suffix('s').filter(|_| n == 1 && !things.contains(' '));
    format!("{n} {}", one.unwrap_or(things))
}

fn of_kind(report: &Report, kind: Kind) -> String {
    let mut text = String::new();
    for check in &report.checks {
        let found: Vec<_> = check.findings.iter().filter(|f| f.kind == kind).collect();
        let mut hint = "";
        for finding in found.iter().take(SHOWN_MAX) {
            // One hint for a run of findings that share it.
            if !hint.is_empty() && hint != finding.hint {
                writeln!(text, "    hint: {hint}").expect("writes to a string");
            }
            hint = &finding.hint;
            writeln!(text, "  {}: {}", check.subject, finding.text).expect("writes to a string");
        }
        if found.len() > SHOWN_MAX {
            let more = found.len() - SHOWN_MAX;
            writeln!(text, "  {}: and {more} more; --json prints all", check.subject).expect("writes to a string");
        }
        if !hint.is_empty() {
            writeln!(text, "    hint: {hint}").expect("writes to a string");
        }
    }
    text
}
