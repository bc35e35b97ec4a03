//! From the path of a config file to everything a pipeline is made of: config, SQL files, catalog, plan.
//!
//! The only place that reads the user's files. Every fault of every file at once; `serve` and `validate` see the same.

use crate::config::parse;
use crate::config::spec::{Config, Connector, Connectors};
use crate::config::value::Lookups;
use crate::sql;
use crate::sql::plan::{Insert, Plan, SqlFile};
use crate::types::catalog::Catalog;
use crate::types::error::{Error, Result};
use crate::types::fault::{Fault, closest};
use crate::{sinks, sources};
use std::path::{Path, PathBuf};
use std::sync::{Arc, LazyLock};

/// The table of the dead letters in its sink; no statement inserts into it.
const DEAD_LETTER_TABLE: &str = "dead_letter";

/// A config and its SQL files, as they were read.
#[derive(Debug)]
pub struct Loaded {
    pub config: Config,
    pub sql_files: Vec<SqlFile>,
    pub catalog: Catalog,
    /// Odd, but nothing that stops.
    pub warnings: Vec<Fault>,
}

/// What loading found; with faults, the rest is what was understood in spite of them.
pub struct Findings {
    pub loaded: Loaded,
    /// Absent with faults.
    pub plan: Option<Plan>,
    pub faults: Vec<Fault>,
}

/// Config and SQL files, without compiling them.
pub fn load(path: &Path) -> Result<Loaded> {
    let (loaded, faults) = read(path)?;
    if faults.is_empty() { Ok(loaded) } else { Err(Error::Config(faults)) }
}

/// Config, SQL files and the plan they compile to.
pub async fn load_and_compile(path: &Path) -> Result<(Loaded, Plan)> {
    let Findings { loaded, plan, faults } = examine(path).await?;
    match plan {
        Some(plan) if faults.is_empty() => Ok((loaded, plan)),
        _ => Err(Error::Config(faults)),
    }
}

/// As far as one can get, with all faults of config and SQL together.
pub async fn examine(path: &Path) -> Result<Findings> {
    let (loaded, mut faults) = read(path)?;
    let mut plan = None;
    // Without SQL files there was a fault already. Statements are checked even if the config has faults: sources and sinks
    // are known by name all the same.
    if !loaded.sql_files.is_empty() {
        match sql::compile(&loaded.sql_files, &loaded.catalog).await {
            Ok(compiled) => {
                faults.extend(sources_without_table(&loaded.config, &compiled));
                faults.extend(tables_without_insert(&loaded.config, &compiled));
                faults.extend(partitions_without_column(&loaded.config, &compiled));
                faults.extend(tables_that_cannot_be(&loaded.config, &compiled));
                plan = Some(compiled).filter(|_| faults.is_empty());
            }
            Err(of_sql) => faults.extend(of_sql),
        }
    }
    // In the order of the file, those of the config before those of SQL.
    let of_config = |fault: &Fault| fault.file == loaded.config.file;
    faults.sort_by_key(|fault| if of_config(fault) { (0, fault.line, fault.column) } else { (1, 0, 0) });
    Ok(Findings { loaded, plan, faults })
}

/// The connectors of this build.
pub fn connectors() -> Connectors<'static> {
    static SOURCES: LazyLock<Vec<Connector>> =
        LazyLock::new(|| sources::KINDS.iter().map(|kind| kind.connector).collect());
    Connectors { sources: &SOURCES, sinks: sinks::CONNECTORS }
}

/// The real environment and file system.
pub fn lookups() -> Lookups {
    Lookups {
        // A variable that is not UTF-8 is of no use to a config; it reads as unset.
        env: Arc::new(|name| std::env::var(name).ok()),
        read_file: Arc::new(|path| std::fs::read_to_string(path)),
    }
}

fn read(path: &Path) -> Result<(Loaded, Vec<Fault>)> {
    let text = read_text(path).map_err(|fault| Error::Config(vec![fault]))?;
    let parsed = parse::parse(path, &text, &lookups(), &connectors());
    let mut faults = parsed.faults;
    let sql_files = sql_files(&parsed.config, &mut faults);
    let catalog = parsed.config.catalog();
    Ok((Loaded { config: parsed.config, sql_files, catalog, warnings: parsed.warnings }, faults))
}

/// The files the patterns of `[pipeline] sql` name: pattern by pattern, each in name order, none twice.
fn sql_files(config: &Config, faults: &mut Vec<Fault>) -> Vec<SqlFile> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for (i, pattern) in config.pipeline.sql.iter().enumerate() {
        let complain = |message: String, hint: &str| {
            let section = config.pipeline_section.as_ref().expect("the patterns were read out of it");
            section.fault_in(&["sql", &i.to_string()], message).with_hint(hint)
        };
        let shown = pattern.display();
        let Some(text) = pattern.to_str() else {
            faults.push(complain(format!("the path \"{shown}\" is not UTF-8"), "Rename the directory."));
            continue;
        };
        let found = match glob::glob(text) {
            Ok(found) => found,
            Err(e) => {
                let message = format!("\"{shown}\" is not a pattern: {}", e.msg);
                faults.push(complain(message, "* and ? stand for any text and one character."));
                continue;
            }
        };
        let mut matched = false;
        for path in found {
            match path {
                Ok(path) if path.is_dir() => {
                    let hint = "Name the files in it: add \"/*.sql\".";
                    faults.push(complain(format!("\"{}\" is a directory", path.display()), hint));
                    matched = true;
                }
                Ok(path) => {
                    matched = true;
                    if !paths.contains(&path) {
                        paths.push(path);
                    }
                }
                Err(e) => {
                    let message = format!("\"{}\" cannot be looked into: {}", e.path().display(), e.error());
                    faults.push(complain(message, "Check its permissions."));
                    matched = true;
                }
            }
        }
        if !matched {
            let hint = "Paths are relative to the file that holds them.";
            faults.push(complain(format!("no file matches \"{shown}\""), hint));
        }
    }
    let mut files = Vec::with_capacity(paths.len());
    for path in paths {
        match read_text(&path) {
            Ok(text) => files.push(SqlFile { path, text }),
            Err(fault) => faults.push(fault),
        }
    }
    files
}

fn read_text(path: &Path) -> Result<String, Fault> {
    let fault = |message: String, hint: &str| Fault {
        file: path.to_path_buf(),
        line: 0,
        column: 0,
        message,
        hint: Some(hint.to_string()),
    };
    match std::fs::read_to_string(path) {
        // Some editors begin a file with a byte order mark. It is no part of the text.
        Ok(text) => Ok(text.strip_prefix('\u{feff}').map(str::to_string).unwrap_or(text)),
        Err(_) if path.is_dir() => Err(fault("this is a directory".to_string(), "Name a file in it.")),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
            Err(fault("there is no such file".to_string(), "Check the path and the directory you are in."))
        }
        Err(e) if e.kind() == std::io::ErrorKind::InvalidData => {
            Err(fault("the file is not UTF-8 text".to_string(), "Save it as UTF-8."))
        }
        Err(e) => Err(fault(format!("the file cannot be read: {e}"), "Check its permissions.")),
    }
}

/// A source that no table reads would be connected for nothing, and its messages would have no shape.
fn sources_without_table(config: &Config, plan: &Plan) -> Vec<Fault> {
    let is_read = |name: &String| plan.tables.iter().any(|table| table.source.as_ref() == name);
    // Of a source without a known type a fault was told already.
    let unread = config.sources.iter().filter(|(name, spec)| !spec.section.kind.is_empty() && !is_read(name));
    unread
        .map(|(name, spec)| {
            let hint = format!("Add CREATE TABLE {name} (...) to the SQL files, or take [source.{name}] out.");
            spec.section.fault_here(format!("no table reads the source \"{name}\"")).with_hint(hint)
        })
        .collect()
}

/// `[sink.x.table.y]` that no statement writes to: nearly always a typing error, and its settings would be lost in silence.
fn tables_without_insert(config: &Config, plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for (sink, spec) in &config.sinks {
        let written: Vec<&str> =
            plan.inserts.iter().filter(|i| i.sink.as_ref() == sink).map(|i| i.table.as_ref()).collect();
        for (table, section) in &spec.tables {
            let is_dead_letter = *sink == config.dead_letter_sink && table == DEAD_LETTER_TABLE;
            if written.contains(&table.as_str()) || is_dead_letter {
                continue;
            }
            let hint = match closest(table, written.iter().copied()) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("Add the statement, or take [{}] out.", section.heading),
            };
            faults.push(section.fault_here(format!("no statement inserts into {sink}.{table}")).with_hint(hint));
        }
    }
    faults
}

/// Rows of statements among the dead letters would have another shape than these; a name that is a path would put the table
/// outside its sink, or inside another table.
fn tables_that_cannot_be(config: &Config, plan: &Plan) -> Vec<Fault> {
    let is_path = |name: &str| name.starts_with('.') || name.contains(['/', '\\']) || name.contains(char::is_control);
    let fault = |insert: &Insert, message: String, hint: &str| Fault {
        file: insert.place.file.clone(),
        line: insert.place.line,
        column: insert.place.column,
        message,
        hint: Some(hint.to_string()),
    };
    let judge = |insert: &Insert| {
        let (sink, table) = (&insert.sink, &insert.table);
        if **sink == *config.dead_letter_sink && **table == *DEAD_LETTER_TABLE {
            let message = format!("\"{sink}.{table}\" holds the messages that are rejected, and nothing else");
            return Some(fault(
                insert,
                message,
                "Choose another name for the table, or another sink under [dead_letter].",
            ));
        }
        let message = || format!("\"{table}\" cannot be the name of a table");
        is_path(table)
            .then(|| fault(insert, message(), "Its files lie in a folder of this name: no / or \\, no dot in front."))
    };
    plan.inserts.iter().filter_map(|insert| judge(insert)).collect()
}

/// `partition_by` names columns of the rows that statements insert; a table could not be created with others.
fn partitions_without_column(config: &Config, plan: &Plan) -> Vec<Fault> {
    let mut faults = Vec::new();
    for insert in &plan.inserts {
        let Some(spec) = config.sinks.get(insert.sink.as_ref()).filter(|spec| spec.section.kind == "delta") else {
            continue;
        };
        let Some(section) = spec.tables.get(insert.table.as_ref()) else { continue };
        // A section that cannot be read was told of when it was checked.
        let Ok(table) = sinks::delta::config::validate_table(section) else { continue };
        let columns: Vec<&str> = insert.schema.fields().iter().map(|field| field.name().as_str()).collect();
        for (i, column) in table.partition_by.iter().enumerate().filter(|(_, c)| !columns.contains(&c.as_str())) {
            let message = format!("no column \"{column}\" in the rows inserted into {}.{}", insert.sink, insert.table);
            let hint = match closest(column, columns.iter().copied()) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("They have {}.", columns.join(", ")),
            };
            faults.push(section.fault_in(&["partition_by", &i.to_string()], message).with_hint(hint));
        }
    }
    faults
}
