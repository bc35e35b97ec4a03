//! What a config says: `Config` and its parts, as the rest of the house reads them.
//!
//! The doc comments are the reference: `pipe schema` hands them to editors.

use crate::config::section::Section;
use crate::config::value::{Address, FilePath, Period, Secret, Settings, Size};
use crate::types::catalog::{Catalog, SinkKind, SourceFacts, UnknownFields};
use crate::types::fault::Fault;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{self, Deserialize, Deserializer, Visitor};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

#[derive(Clone, Debug, Default)]
pub struct Config {
    pub file: PathBuf,
    pub pipeline: PipelineSpec,
    /// `[pipeline]` as it stands in the file, for faults that only the file system shows.
    pub pipeline_section: Option<Section>,
    pub checkpoint: CheckpointSpec,
    pub limits: LimitsSpec,
    pub server: ServerSpec,
    pub sources: BTreeMap<String, SourceSpec>,
    pub sinks: BTreeMap<String, SinkSpec>,
    /// The sink that holds the dead letters: named, or the only Delta sink.
    pub dead_letter_sink: String,
}

impl Config {
    /// What SQL may refer to.
    pub fn catalog(&self) -> Catalog {
        let source = |s: &SourceSpec| SourceFacts { unknown_fields: s.common.unknown_fields.into() };
        Catalog {
            sources: self.sources.iter().map(|(name, s)| (name.clone(), source(s))).collect(),
            sinks: self.sinks.iter().map(|(name, s)| (name.clone(), s.accepts)).collect(),
        }
    }
}

#[derive(Clone, Debug)]
pub struct SourceSpec {
    pub common: SourceCommon,
    pub section: Section,
}

#[derive(Clone, Debug)]
pub struct SinkSpec {
    pub accepts: SinkKind,
    pub section: Section,
    /// `[sink.x.table.y]` by y.
    pub tables: BTreeMap<String, Section>,
}

/// What a connector tells about itself, so that config can name and check it without knowing it.
#[derive(Clone, Copy)]
pub struct Connector {
    /// The value of `type`.
    pub kind: &'static str,
    pub check: fn(&Section) -> Vec<Fault>,
    /// JSON Schema of its section.
    pub schema: fn() -> serde_json::Value,
}

#[derive(Clone, Copy)]
pub struct SinkConnector {
    pub connector: Connector,
    pub accepts: SinkKind,
    /// Checks a `[sink.x.table.y]`.
    pub check_table: fn(&Section) -> Vec<Fault>,
    pub table_schema: fn() -> serde_json::Value,
}

/// Every connector of this build.
#[derive(Clone, Copy)]
pub struct Connectors<'a> {
    pub sources: &'a [Connector],
    pub sinks: &'a [SinkConnector],
}

/// The pipeline: its name, its SQL, and where it keeps what it needs on this machine.
#[derive(Clone, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PipelineSpec {
    /// Name of the pipeline, in metrics and in the application id of its Delta transactions.
    pub name: String,
    /// SQL files, or patterns such as "../sql/fleet/*.sql"; relative to this file, read in name order.
    pub sql: Vec<FilePath>,
    /// Directory for the journal, checkpoints and the embedded key-value store; locked by one process.
    pub data_dir: FilePath,
    /// Workers: "auto" (as many as cores and partitions allow) or a number.
    #[serde(default)]
    pub slots: Slots,
    /// Time for the last checkpoint after SIGTERM; after it the process ends with exit code 1, and nothing is lost.
    #[serde(default = "shutdown_timeout")]
    pub shutdown_timeout: Period,
}

fn shutdown_timeout() -> Period {
    Period::seconds(20)
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Slots {
    #[default]
    Auto,
    Count(usize),
}

/// More workers than any machine we run on has cores; a typing error beyond.
pub const SLOTS_MAX: usize = 1_024;

impl<'de> Deserialize<'de> for Slots {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SlotsVisitor;
        impl Visitor<'_> for SlotsVisitor {
            type Value = Slots;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("\"auto\" or a number of slots")
            }
            fn visit_str<E: de::Error>(self, text: &str) -> Result<Slots, E> {
                match (text, text.parse::<i64>()) {
                    ("auto", _) => Ok(Slots::Auto),
                    (_, Ok(n)) => self.visit_i64(n),
                    _ => Err(E::custom("must be \"auto\" or a number of slots")),
                }
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Slots, E> {
                match usize::try_from(n) {
                    Ok(n) if (1..=SLOTS_MAX).contains(&n) => Ok(Slots::Count(n)),
                    _ => Err(E::custom(format!("must be \"auto\" or a number from 1 to {SLOTS_MAX}"))),
                }
            }
        }
        deserializer.deserialize_any(SlotsVisitor)
    }
}

impl JsonSchema for Slots {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> Cow<'static, str> {
        "Slots".into()
    }
    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "const": "auto" }, { "type": "integer", "minimum": 1, "maximum": SLOTS_MAX }] })
    }
}

/// When and where the pipeline's progress is made durable.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSpec {
    /// Time between two checkpoints: how soon rows show in Delta tables, and how much is read again after a crash.
    pub interval: Period,
    /// Records that are kept, the newest included; older ones are deleted, with the state segments that none of those
    /// kept needs. At least 2. More: `pipe checkpoint` looks further back, at the price of more state in the location.
    #[serde(deserialize_with = "retain")]
    #[schemars(range(min = 2, max = 1_000_000))]
    pub retain: usize,
    /// Directory or object-store URL of the records; default: inside data_dir. On an object store the pipeline can be
    /// started on another machine.
    pub location: Option<Address>,
    /// Options of the object store, by its own names, such as aws_region.
    pub options: Settings,
}

impl Default for CheckpointSpec {
    fn default() -> Self {
        CheckpointSpec { interval: Period::seconds(10), retain: 100, location: None, options: Settings::default() }
    }
}

/// The newest record and the one before it always stay.
const RETAIN_MIN: usize = 2;
/// What `pipe checkpoint list` may still be asked to read.
const RETAIN_MAX: usize = 1_000_000;

fn retain<'de, D: Deserializer<'de>>(deserializer: D) -> Result<usize, D::Error> {
    match usize::try_from(i64::deserialize(deserializer)?) {
        Ok(records) if (RETAIN_MIN..=RETAIN_MAX).contains(&records) => Ok(records),
        _ => Err(de::Error::custom(format!("must be a number of records from {RETAIN_MIN} to {RETAIN_MAX}"))),
    }
}

/// Bounds of what the process takes.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSpec {
    /// Memory for data: messages in flight, hot state and queries share it. When it is reached, sources pause.
    pub memory: Size,
}

impl Default for LimitsSpec {
    fn default() -> Self {
        LimitsSpec { memory: Size::mib(512) }
    }
}

/// Where the process listens, and who may ask.
#[derive(Clone, Debug, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ServerSpec {
    /// host:port of the HTTP server (health, metrics, SQL, UI), or "off". Port 0: any free port.
    #[serde(deserialize_with = "listen")]
    #[schemars(with = "String")]
    pub http: Option<String>,
    /// host:port of the Arrow Flight SQL server, or "off". Port 0: any free port.
    #[serde(deserialize_with = "listen")]
    #[schemars(with = "String")]
    pub flight: Option<String>,
    /// Bearer tokens, any of which opens what shows data: [{ env = "PIPE_TOKEN" }, { file = "/run/secrets/pipe" }].
    pub tokens: Vec<Secret>,
    /// Short for one token: { env = "PIPE_TOKEN" }.
    pub token: Option<Secret>,
    /// Certificate and key; both servers then speak TLS and nothing else. Read at the start.
    pub tls: Option<TlsSpec>,
    /// Whoever reaches the address may read: allows an address that other machines reach without a token.
    pub open: bool,
}

impl Default for ServerSpec {
    fn default() -> Self {
        ServerSpec {
            http: Some("127.0.0.1:8080".into()),
            flight: Some("127.0.0.1:50051".into()),
            tokens: Vec::new(),
            token: None,
            tls: None,
            open: false,
        }
    }
}

impl ServerSpec {
    pub fn all_tokens(&self) -> impl Iterator<Item = &Secret> {
        self.tokens.iter().chain(&self.token)
    }
}

/// PEM files.
#[derive(Clone, Debug, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct TlsSpec {
    /// The certificate, and the chain up to its authority after it.
    pub cert: FilePath,
    /// Its private key.
    pub key: FilePath,
}

/// Only this machine reaches it. A name is not looked up: any but localhost counts as reached by others.
pub fn is_loopback(listen: &str) -> bool {
    let host = listen.rsplit_once(':').map_or(listen, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn listen<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let text = String::deserialize(deserializer)?;
    if text == "off" {
        return Ok(None);
    }
    match text.rsplit_once(':') {
        Some((host, port)) if !host.is_empty() && port.parse::<u16>().is_ok() => Ok(Some(text)),
        _ => Err(de::Error::custom("is not host:port\nFor example \"127.0.0.1:8080\", \"0.0.0.0:8080\", or \"off\".")),
    }
}

/// Where messages go that were set aside.
#[derive(Clone, Debug, Default, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct DeadLetterSpec {
    /// Name of the Delta sink that holds the table dead_letter; default: the only Delta sink.
    pub sink: Option<String>,
}

/// What every source has beside its connector's own keys.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct SourceCommon {
    /// How the bytes of a message are read.
    pub format: Format,
    /// What to do with fields that no table declares: ignore (and count), reject the message, or capture them as JSON text
    /// in the column _extra.
    pub unknown_fields: UnknownFieldsRule,
    /// What to do with a message that no table's route takes: reject it into the dead letters, or drop (and count) it.
    pub unrouted: UnroutedRule,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Json,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnknownFieldsRule {
    #[default]
    Ignore,
    Reject,
    Capture,
}

impl From<UnknownFieldsRule> for UnknownFields {
    fn from(rule: UnknownFieldsRule) -> Self {
        match rule {
            UnknownFieldsRule::Ignore => UnknownFields::Ignore,
            UnknownFieldsRule::Reject => UnknownFields::Reject,
            UnknownFieldsRule::Capture => UnknownFields::Capture,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum UnroutedRule {
    #[default]
    Reject,
    Drop,
}
