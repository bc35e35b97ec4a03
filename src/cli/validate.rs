//! `pipe validate`: everything that is wrong with a config and its SQL files, before anything starts; with `--diff`, what
//! a start would keep of what is recorded.

use crate::cli::{EXIT_CHECK, EXIT_CONFIG, count, print};
use crate::engine::assemble;
use crate::engine::difference::{Changed, Difference, Fate, difference};
use crate::engine::load::{self, Findings};
use crate::sql::plan::Plan;
use crate::types::error::Error;
use crate::types::fault::Fault;
use serde_json::{Value, json};
use std::fmt::Write;
use std::path::PathBuf;
use std::process::ExitCode;

/// Check a config and its SQL files, all faults at once, without connecting to anything
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:
  pipe validate --config pipelines/fleet.toml
  pipe validate --config pipelines/fleet.toml --diff   # before a restart with changed SQL

Exit codes: 0 nothing is wrong, and with --diff nothing is lost; 2 something is wrong;
3 with --diff: the state of a materialized view would be dropped.")]
pub struct Args {
    /// The config file
    #[arg(short, long, value_name = "FILE")]
    pub config: PathBuf,
    /// Print what was found as JSON
    #[arg(long)]
    pub json: bool,
    /// Compare with the newest record of the pipeline, running or not: what a start would keep, reset, add
    #[arg(long)]
    pub diff: bool,
}

pub async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let findings = match load::examine(&args.config).await {
        Ok(findings) => findings,
        // The config file itself cannot be read: one fault, told as the others are.
        Err(Error::Config(faults)) => return tell(&faults, &[], None, args.json),
        Err(other) => return Err(other.into()),
    };
    let Findings { loaded, plan, faults } = findings;
    if let (true, true, Some(plan)) = (args.diff, faults.is_empty(), &plan) {
        for warning in &loaded.warnings {
            eprintln!("{}", as_warning(warning));
        }
        let assembled = assemble::assemble(loaded, plan.clone(), false, &Default::default())?;
        return tell_difference(&difference(&assembled).await?, args.json);
    }
    let summary = plan.as_ref().map(|plan| Summary { loaded: &loaded, plan });
    tell(&faults, &loaded.warnings, summary, args.json)
}

fn tell(faults: &[Fault], warnings: &[Fault], summary: Option<Summary>, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let report = json!({
            "ok": faults.is_empty(),
            "faults": faults.iter().map(as_json).collect::<Vec<_>>(),
            "warnings": warnings.iter().map(as_json).collect::<Vec<_>>(),
            "pipeline": summary.map(|s| s.json()),
        });
        print(&format!("{report:#}\n"))?;
    } else {
        for warning in warnings {
            eprintln!("{}", as_warning(warning));
        }
        for fault in faults {
            eprintln!("{fault}");
        }
        if !faults.is_empty() {
            eprintln!("\n{}", count(faults.len(), "fault"));
        }
        if let Some(summary) = summary {
            print(&summary.text())?;
        }
    }
    Ok(if faults.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(EXIT_CONFIG) })
}

fn tell_difference(found: &Difference, json: bool) -> anyhow::Result<ExitCode> {
    if json {
        let report = json!({ "loses_state": found.loses_state(), "refused": found.is_refused(), "difference": found });
        print(&format!("{report:#}\n"))?;
    } else {
        print(&difference_text(found))?;
        for refusal in &found.refusals {
            eprintln!("a start would refuse: {refusal}");
        }
    }
    Ok(match (found.is_refused(), found.loses_state()) {
        (true, _) => ExitCode::from(EXIT_CONFIG),
        (false, true) => ExitCode::from(EXIT_CHECK),
        (false, false) => ExitCode::SUCCESS,
    })
}

fn difference_text(found: &Difference) -> String {
    let Some(head) = &found.head else { return "nothing is recorded yet: everything is new\n".to_string() };
    let mut text = format!("compared with record {} of chain {}\n", head.epoch, head.chain);
    let mut line = |what: &str, name: &str, fate: &str, why: &str| {
        let why = if why.is_empty() { String::new() } else { format!(": {why}") };
        writeln!(text, "  {what:<10} {name:<30} {fate}{why}").expect("writing to a string cannot fail");
    };
    let word = |changed: &Changed| match changed.fate {
        Fate::Kept => "kept",
        Fate::Rebuilt => "rebuilt",
        Fate::Reset => "RESET",
        Fate::New => "new",
        Fate::Grows => "grows",
        Fate::Gone => "gone",
        Fate::Incompatible => "INCOMPATIBLE",
    };
    for view in &found.views {
        line("view", &view.name, word(view), &view.why);
    }
    for table in &found.tables {
        line("table", &table.name, word(table), &table.why);
    }
    for p in &found.partitions {
        let fate = if p.is_read { "goes on at" } else { "its source is gone; stays at" };
        line("partition", &format!("{}:{}", p.source, p.partition), &format!("{fate} {}", p.position), "");
    }
    text
}

fn as_warning(fault: &Fault) -> Fault {
    Fault { message: format!("warning: {}", fault.message), ..fault.clone() }
}

fn as_json(fault: &Fault) -> Value {
    json!({
        "file": fault.file.display().to_string(),
        "line": fault.line,
        "column": fault.column,
        "message": fault.message,
        "hint": fault.hint,
    })
}

/// What a pipeline without faults is made of.
struct Summary<'a> {
    loaded: &'a load::Loaded,
    plan: &'a Plan,
}

impl Summary<'_> {
    fn parts(&self) -> Vec<(&'static str, Vec<String>)> {
        let (config, plan) = (&self.loaded.config, self.plan);
        vec![
            ("sources", config.sources.iter().map(|(name, s)| format!("{name} ({})", s.section.kind)).collect()),
            ("tables", plan.tables.iter().map(|t| t.name.to_string()).collect()),
            ("views", plan.stateless_views.iter().map(|v| v.name.to_string()).collect()),
            ("hot", plan.views.iter().map(|v| v.name.to_string()).collect()),
            ("inserts", plan.inserts.iter().map(|i| format!("{}.{}", i.sink, i.table)).collect()),
            ("sinks", config.sinks.iter().map(|(name, s)| format!("{name} ({})", s.section.kind)).collect()),
        ]
    }

    fn text(&self) -> String {
        let files = count(self.loaded.sql_files.len(), "SQL file");
        let config = &self.loaded.config;
        let mut text = format!("ok: pipeline \"{}\", {files}\n", config.pipeline.name);
        for (what, names) in self.parts() {
            let names = if names.is_empty() { "-".to_string() } else { names.join(", ") };
            writeln!(text, "  {what:<13} {names}").expect("writing to a string cannot fail");
        }
        writeln!(text, "  {:<13} {}.dead_letter", "dead letters", config.dead_letter_sink)
            .expect("writing to a string cannot fail");
        text
    }

    fn json(&self) -> Value {
        let mut json = json!({
            "name": self.loaded.config.pipeline.name,
            "sql_files": self.loaded.sql_files.iter().map(|f| f.path.display().to_string()).collect::<Vec<_>>(),
            "dead_letter_sink": self.loaded.config.dead_letter_sink,
        });
        for (what, names) in self.parts() {
            json[what] = json!(names);
        }
        json
    }
}
