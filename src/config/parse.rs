//! Text -> `Config`, with every fault at once.
//!
//! A fault in one place does not hide those in others: what cannot be read is left at its default, the rest is read on, and
//! the caller may go on to check SQL against the names that were understood. A config with faults is never run.

use crate::config::dom::{self, At, Entry, Node, Source, Table, Value};
use crate::config::read::read;
use crate::config::section::Section;
use crate::config::spec::{
    CheckpointSpec, Config, Connectors, DeadLetterSpec, LimitsSpec, PipelineSpec, ServerSpec, SinkSpec, SourceCommon,
    SourceSpec, is_loopback,
};
use crate::config::value::{Lookups, Size, names_a_secret};
use crate::types::catalog::SinkKind;
use crate::types::fault::{Fault, closest};
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

/// Faults and warnings stand in the order of the file.
pub struct Parsed {
    pub config: Config,
    pub faults: Vec<Fault>,
    /// Odd, but nothing that stops: a password written into the file.
    pub warnings: Vec<Fault>,
}

impl Parsed {
    pub fn into_result(self) -> Result<Config, Vec<Fault>> {
        if self.faults.is_empty() { Ok(self.config) } else { Err(self.faults) }
    }
}

const TOP: [&str; 7] = ["pipeline", "checkpoint", "limits", "server", "source", "sink", "dead_letter"];

/// Keys of every source, read here and not by its connector.
const SOURCE_COMMON: [&str; 3] = ["format", "unknown_fields", "unrouted"];
const SOURCE_TAKEN: &[&str] = &["type", "format", "unknown_fields", "unrouted"];
const SINK_TAKEN: &[&str] = &["type", "table"];

/// Names that mean something else in SQL.
const SINK_NAMES_REFUSED: [&str; 4] = ["hot", "system", "information_schema", "pipe"];

/// Connectors that are known by name and not in this build: the message says so instead of guessing at a typing error.
const SOURCES_ELSEWHERE: [&str; 4] = ["http", "kinesis", "nats", "pulsar"];
const SINKS_ELSEWHERE: [&str; 5] = ["redis", "dynamodb", "kafka", "iceberg", "postgres"];

/// Below: every batch would close an epoch early.
const MEMORY_MIN: Size = Size::mib(16);

/// Below: the checkpoint's own cost would be what the process does.
const INTERVAL_MIN: Duration = Duration::from_millis(10);

pub fn parse(file: &Path, text: &str, lookups: &Lookups, connectors: &Connectors) -> Parsed {
    let source = Source::new(file, lookups);
    let config = Config { file: file.to_path_buf(), ..Config::default() };
    let (mut top, faults) = match dom::parse(text, &source) {
        Ok(parsed) => parsed,
        Err(faults) => return Parsed { config, faults, warnings: Vec::new() },
    };
    let mut warnings = Vec::new();
    warn_of_literals(&top, &source, &mut warnings);
    let mut parser = Parser { source, connectors, config, faults, warnings };
    parser.pipeline(&mut top);
    parser.checkpoint(&mut top);
    parser.limits(&mut top);
    parser.server(&mut top);
    parser.sources(&mut top);
    parser.sinks(&mut top);
    parser.dead_letter(&mut top);
    parser.rest(&top);
    let Parser { config, mut faults, mut warnings, .. } = parser;
    warnings.sort_by_key(|warning| (warning.line, warning.column));
    faults.sort_by_key(|fault| (fault.line, fault.column));
    faults.dedup();
    Parsed { config, faults, warnings }
}

pub(super) fn lone_section(kind: &str, name: &str, text: &str, lookups: &Lookups) -> Result<Section, Vec<Fault>> {
    let source = Source::new(Path::new("pipeline.toml"), lookups);
    let (mut table, faults) = dom::parse(text, &source)?;
    if !faults.is_empty() {
        return Err(faults);
    }
    // A whole example stands under its header; what matters is below.
    for what in ["source", "sink"] {
        if let Some(Entry { node: Node { value: Value::Table(mut named), .. }, .. }) = table.take(what)
            && let Some(Entry { node: Node { value: Value::Table(inner), .. }, .. }) = named.entries.pop()
        {
            table = inner;
        }
    }
    for key in SOURCE_TAKEN {
        table.take(key);
    }
    let at = At { line: 1, column: 1 };
    Ok(Section::new((kind.to_string(), name.to_string()), name.to_string(), (at, table), &[], source))
}

struct Parser<'a> {
    source: Source,
    connectors: &'a Connectors<'a>,
    config: Config,
    faults: Vec<Fault>,
    warnings: Vec<Fault>,
}

/// A `[source.x]` or `[sink.x]`, as far as both are alike.
struct Connection {
    name: String,
    kind: String,
    heading: String,
    at: At,
    table: Table,
}

impl Parser<'_> {
    fn fault(&mut self, at: At, message: impl Into<String>, hint: impl Into<String>) {
        self.faults.push(self.source.fault(at, message).with_hint(hint));
    }

    /// Reads a table of fixed shape. Absent: read from nothing, so that what it needs is asked for.
    fn part<T: DeserializeOwned + Default>(&mut self, top: &mut Table, key: &str) -> (T, Option<Table>) {
        let (at, table) = match top.take(key) {
            None => (At::default(), Table::default()),
            Some(Entry { node: Node { at, value: Value::Table(table) }, .. }) => (at, table),
            Some(entry) => {
                self.wants_table(&entry, key);
                return (T::default(), None);
            }
        };
        let reading = read(&table, at, key, &[], &self.source);
        self.faults.extend(reading.faults);
        // With a stand-in in it, only what was read is of use; judging it would tell of faults that are none.
        let judged = (reading.value.is_some() && !table.is_faulty()).then_some(table);
        (reading.value.unwrap_or_default(), judged)
    }

    fn wants_table(&mut self, entry: &Entry, heading: &str) {
        if !matches!(entry.node.value, Value::Faulty) {
            let message = format!("\"{}\" must be a table, found {}", entry.key, entry.node.value.kind());
            self.fault(entry.key_at, message, format!("Write it as [{heading}]."));
        }
    }

    fn pipeline(&mut self, top: &mut Table) {
        if top.get("pipeline").is_none() {
            let hint = "It needs \"name\", \"sql\" and \"data_dir\".";
            self.fault(At::default(), "the table [pipeline] is missing", hint);
            return;
        }
        if let Some(Entry { node: Node { at, value: Value::Table(table) }, .. }) = top.get("pipeline") {
            let names = (String::new(), "pipeline".to_string());
            let place = (*at, table.clone());
            let section = Section::new(names, "pipeline".to_string(), place, &[], self.source.clone());
            self.config.pipeline_section = Some(section);
        }
        let (pipeline, judged) = self.part::<PipelineSpec>(top, "pipeline");
        if let Some(table) = judged {
            let name_is_good = !pipeline.name.is_empty()
                && pipeline.name.len() <= 64
                && pipeline.name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
            if let (false, Some(entry)) = (name_is_good, table.get("name")) {
                let hint = "Letters, digits, \"_\" and \"-\", at most 64: it is part of names in the Delta log.";
                self.fault(entry.node.at, "\"name\" is not a pipeline's name", hint);
            }
            if let Some(entry) = table.get("sql")
                && matches!(&entry.node.value, Value::Array(items) if items.is_empty())
            {
                self.fault(entry.node.at, "\"sql\" is empty", "Name the SQL files: sql = [\"../sql/*.sql\"].");
            }
        }
        self.config.pipeline = pipeline;
    }

    fn checkpoint(&mut self, top: &mut Table) {
        let (checkpoint, judged) = self.part::<CheckpointSpec>(top, "checkpoint");
        if let Some(entry) = judged.as_ref().and_then(|table| table.get("interval"))
            && checkpoint.interval.0 < INTERVAL_MIN
        {
            self.fault(entry.node.at, "\"interval\" is too short", "At least 10ms; 10s is the default.");
        }
        self.config.checkpoint = checkpoint;
    }

    fn limits(&mut self, top: &mut Table) {
        let (limits, judged) = self.part::<LimitsSpec>(top, "limits");
        if let Some(entry) = judged.as_ref().and_then(|table| table.get("memory"))
            && limits.memory < MEMORY_MIN
        {
            let message = format!("\"memory\" is too small: {}", limits.memory);
            self.fault(entry.node.at, message, format!("At least {MEMORY_MIN}; 512MiB is the default."));
        }
        self.config.limits = limits;
    }

    fn server(&mut self, top: &mut Table) {
        let (server, judged) = self.part::<ServerSpec>(top, "server");
        if let Some(table) = &judged {
            self.who_may_read(&server, table);
        }
        let any_port = |listen: &str| listen.ends_with(":0");
        if let (Some(table), Some(http), Some(flight)) = (judged, &server.http, &server.flight)
            && http == flight
            && !any_port(http)
        {
            let at = table.get("flight").or(table.get("http")).map_or(At::default(), |entry| entry.node.at);
            let message = format!("\"http\" and \"flight\" both want {http}");
            self.fault(at, message, "Give each its own port, or turn one \"off\".");
        }
        self.config.server = server;
    }

    /// An address that other machines reach wants a token, or the word that none is wanted.
    fn who_may_read(&mut self, server: &ServerSpec, table: &Table) {
        let is_guarded = server.all_tokens().next().is_some();
        for (key, listen) in [("http", &server.http), ("flight", &server.flight)] {
            let (Some(listen), Some(entry)) = (listen, table.get(key)) else { continue };
            if is_loopback(listen) {
                continue;
            }
            if !is_guarded && !server.open {
                let message = format!("\"{key}\" is reached from other machines, and nobody is asked for a token");
                let hint = "Set tokens = [{ env = \"PIPE_TOKEN\" }] under [server]; or open = true, if whoever reaches it may read.";
                self.fault(entry.node.at, message, hint);
            } else if is_guarded && server.tls.is_none() {
                let message =
                    format!("\"{key}\" is reached from other machines, and tokens cross the network in clear text");
                let hint = "Set tls = { cert = \"server.pem\", key = \"server.key\" } under [server], or put a proxy with TLS before it.";
                self.warnings.push(self.source.fault(entry.node.at, message).with_hint(hint));
            }
        }
    }

    fn sources(&mut self, top: &mut Table) {
        let kinds: Vec<&str> = self.connectors.sources.iter().map(|c| c.kind).collect();
        for connection in self.connections(top, "source", &kinds, &SOURCES_ELSEWHERE) {
            let Connection { name, kind, heading, at, mut table } = connection;
            let mut common = Table::default();
            for key in SOURCE_COMMON {
                common.entries.extend(table.take(key));
            }
            let reading = read::<SourceCommon>(&common, at, &heading, &[], &self.source);
            self.faults.extend(reading.faults);
            let connector = self.connectors.sources.iter().find(|c| c.kind == kind);
            let section = Section::new((kind, name.clone()), heading, (at, table), SOURCE_TAKEN, self.source.clone());
            if let Some(connector) = connector {
                self.faults.extend((connector.check)(&section));
            }
            let common = reading.value.unwrap_or_default();
            self.config.sources.insert(name, SourceSpec { common, section });
        }
    }

    fn sinks(&mut self, top: &mut Table) {
        let kinds: Vec<&str> = self.connectors.sinks.iter().map(|s| s.connector.kind).collect();
        for connection in self.connections(top, "sink", &kinds, &SINKS_ELSEWHERE) {
            let Connection { name, kind, heading, at, mut table } = connection;
            let tables = table.take("table");
            let connector = self.connectors.sinks.iter().find(|s| s.connector.kind == kind);
            let section =
                Section::new((kind, name.clone()), heading.clone(), (at, table), SINK_TAKEN, self.source.clone());
            let tables = tables.map_or(BTreeMap::new(), |entry| self.sink_tables(entry, &section));
            // The type is unknown, which has been told; for SQL it passes as the commoner kind.
            let mut accepts = SinkKind::Append;
            if let Some(sink) = connector {
                accepts = sink.accepts;
                self.faults.extend((sink.connector.check)(&section));
                for table in tables.values() {
                    self.faults.extend((sink.check_table)(table));
                }
            }
            self.config.sinks.insert(name, SinkSpec { accepts, section, tables });
        }
    }

    fn sink_tables(&mut self, entry: Entry, sink: &Section) -> BTreeMap<String, Section> {
        let heading = format!("{}.table", sink.heading);
        let Value::Table(tables) = entry.node.value else {
            self.wants_table(&entry, &format!("{heading}.NAME"));
            return BTreeMap::new();
        };
        let mut sections = BTreeMap::new();
        for entry in tables.entries {
            let heading = format!("{heading}.{}", entry.key);
            let Value::Table(table) = entry.node.value else {
                self.wants_table(&entry, &heading);
                continue;
            };
            let names = (sink.kind.clone(), entry.key.clone());
            let section = Section::new(names, heading, (entry.node.at, table), &[], self.source.clone());
            sections.insert(entry.key, section);
        }
        sections
    }

    /// The tables under `[source]` or `[sink]`.
    fn connections(&mut self, top: &mut Table, what: &str, kinds: &[&str], elsewhere: &[&str]) -> Vec<Connection> {
        let Some(entry) = top.take(what) else {
            if what == "source" {
                let hint = format!("Add a [source.NAME] with \"type\": {}.", kinds.join(", "));
                self.fault(At::default(), "there is no source", hint);
            }
            return Vec::new();
        };
        let Value::Table(named) = entry.node.value else {
            self.wants_table(&entry, &format!("{what}.NAME"));
            return Vec::new();
        };
        let mut found = Vec::new();
        for entry in named.entries {
            let heading = format!("{what}.{}", entry.key);
            let Value::Table(mut table) = entry.node.value else {
                // The commonest way to get here is [source] with the keys of one source right under it.
                let message = format!("\"{}\" stands in [{what}], which holds named {what}s", entry.key);
                self.fault(entry.key_at, message, format!("Give the {what} a name: [{what}.NAME]."));
                continue;
            };
            self.name(&entry.key, entry.key_at, what);
            let at = entry.node.at;
            let kind = self.kind(&mut table, at, &heading, (what, kinds, elsewhere));
            found.push(Connection { name: entry.key, kind, heading, at, table });
        }
        found
    }

    /// The name becomes part of SQL names, which fold to lower case.
    fn name(&mut self, name: &str, at: At, what: &str) {
        let good = name.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
            && name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if !good {
            let hint = "SQL refers to it: lower-case letters, digits and \"_\", not starting with a digit.";
            self.fault(at, format!("\"{name}\" cannot be the name of a {what}"), hint);
        }
        if what == "sink" && SINK_NAMES_REFUSED.contains(&name) {
            let hint = format!("SQL reads {name}.* as something else. Choose another name, such as \"lake\".");
            self.fault(at, format!("a sink cannot be called \"{name}\""), hint);
        }
    }

    /// Takes `type` out. Empty: no connector's, and the fault has been told.
    fn kind(
        &mut self,
        table: &mut Table,
        at: At,
        heading: &str,
        (what, kinds, elsewhere): (&str, &[&str], &[&str]),
    ) -> String {
        let all = kinds.join(", ");
        let Some(entry) = table.take("type") else {
            self.fault(at, format!("[{heading}] needs \"type\""), format!("This build has: {all}."));
            return String::new();
        };
        let kind = match entry.node.value {
            Value::Text { text, .. } => text,
            Value::Faulty => return String::new(),
            other => {
                let message = format!("\"type\" must be a string, found {}", other.kind());
                self.fault(entry.node.at, message, format!("This build has: {all}."));
                return String::new();
            }
        };
        if kinds.contains(&kind.as_str()) {
            return kind;
        }
        if elsewhere.contains(&kind.as_str()) {
            let message = format!("the {what} type \"{kind}\" is not in this build");
            self.fault(entry.node.at, message, format!("This build has: {all}."));
        } else {
            let hint = match closest(&kind, kinds.iter().copied()) {
                Some(near) => format!("Did you mean \"{near}\"?"),
                None => format!("This build has: {all}."),
            };
            self.fault(entry.node.at, format!("unknown {what} type \"{kind}\""), hint);
        }
        String::new()
    }

    /// A message that is set aside must have somewhere to go: without a Delta sink nothing starts.
    fn dead_letter(&mut self, top: &mut Table) {
        let (spec, judged) = self.part::<DeadLetterSpec>(top, "dead_letter");
        let append: Vec<&str> = self
            .config
            .sinks
            .iter()
            .filter(|(_, sink)| sink.accepts == SinkKind::Append && !sink.section.kind.is_empty())
            .map(|(name, _)| name.as_str())
            .collect();
        let at = judged.as_ref().and_then(|table| table.get("sink")).map(|entry| entry.node.at);
        let named = spec.sink.as_deref().unwrap_or_default();
        let (message, hint) = match (&spec.sink, append.as_slice()) {
            (Some(name), names) if names.contains(&name.as_str()) => {
                self.config.dead_letter_sink = name.clone();
                return;
            }
            (None, [only]) => {
                self.config.dead_letter_sink = only.to_string();
                return;
            }
            (Some(_), _) if self.config.sinks.contains_key(named) => {
                let message = format!("the sink \"{named}\" cannot hold the dead letters");
                (message, "They are a Delta table: name a sink of type \"delta\".".to_string())
            }
            (Some(_), names) => {
                let hint = match closest(named, names.iter().copied()) {
                    Some(near) => format!("Did you mean \"{near}\"?"),
                    None => "Name a sink of type \"delta\".".to_string(),
                };
                (format!("there is no sink \"{named}\" for the dead letters"), hint)
            }
            (None, []) => {
                let hint = "Messages that are set aside go to a Delta table. Add [sink.lake] with type = \"delta\".";
                ("there is no sink for the dead letters".to_string(), hint.to_string())
            }
            (None, several) => {
                let message = format!("which sink holds the dead letters? There are {}", several.join(", "));
                (message, format!("Choose one: [dead_letter] sink = \"{}\".", several[0]))
            }
        };
        // Of an unreadable [dead_letter] the fault has been told; a sink of unknown type may be the one that is meant.
        if judged.is_some() && self.config.sinks.values().all(|sink| !sink.section.kind.is_empty()) {
            self.fault(at.unwrap_or_default(), message, hint);
        }
    }

    /// What is left at the top of the file is unknown.
    fn rest(&mut self, top: &Table) {
        for entry in &top.entries {
            let what = if matches!(entry.node.value, Value::Table(_)) { "table" } else { "key" };
            let hint = match closest(&entry.key, TOP) {
                Some(near) => format!("Did you mean [{near}]?"),
                None => format!("The tables of a config: {}.", TOP.join(", ")),
            };
            self.fault(entry.key_at, format!("unknown {what} \"{}\"", entry.key), hint);
        }
    }
}

const KEEP_OUTSIDE: &str = "Keep it outside: { env = \"NAME\" } or { file = \"/run/secrets/name\" }.";

/// Warns of passwords in the file, wherever they stand: by the key's name, and in the user part of a URL.
fn warn_of_literals(table: &Table, source: &Source, warnings: &mut Vec<Fault>) {
    for entry in &table.entries {
        match &entry.node.value {
            Value::Table(inner) => warn_of_literals(inner, source, warnings),
            Value::Array(items) if names_a_secret(&entry.key) => {
                let is_literal = |item: &&Node| matches!(&item.value, Value::Text { expanded: false, .. });
                if let Some(literal) = items.iter().find(is_literal) {
                    let message = format!("\"{}\" is written into the file", entry.key);
                    warnings.push(source.fault(literal.at, message).with_hint(KEEP_OUTSIDE));
                }
            }
            Value::Text { text, expanded: false } if !text.is_empty() => {
                if names_a_secret(&entry.key) {
                    let message = format!("\"{}\" is written into the file", entry.key);
                    warnings.push(source.fault(entry.node.at, message).with_hint(KEEP_OUTSIDE));
                } else if holds_password(text) {
                    let message = format!("\"{}\" holds a password in its address", entry.key);
                    let hint =
                        "Take it out of the address: it shows in logs of other programs. Connectors have keys for it.";
                    warnings.push(source.fault(entry.node.at, message).with_hint(hint));
                }
            }
            _ => {}
        }
    }
}

/// `scheme://user:password@host`
fn holds_password(text: &str) -> bool {
    let Some((_, rest)) = text.split_once("://") else { return false };
    let authority = rest.split(['/', '?', '#']).next().unwrap_or(rest);
    matches!(authority.rsplit_once('@'), Some((user, _)) if user.split_once(':').is_some_and(|(_, p)| !p.is_empty()))
}
