//! A loaded config and its compiled SQL -> the parts a pipeline is started from. No I/O beyond secrets.

use crate::codec::json::{JsonOptions, Unrouted};
use crate::config::section::Section;
use crate::config::spec::{Config, UnroutedRule};
use crate::engine::load::Loaded;
use crate::sinks;
use crate::sinks::delta::config::{DeltaConfig, DeltaTableConfig};
use crate::sinks::kv::config::KvConfig;
use crate::sources;
use crate::sql::plan::Plan;
use crate::types::error::{Error, Result};
use crate::types::fault::Fault;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

pub struct Assembled {
    pub config: Config,
    pub plan: Arc<Plan>,
    pub sources: Vec<SourcePart>,
    pub decoding: BTreeMap<String, JsonOptions>,
    pub delta: BTreeMap<String, DeltaPart>,
    pub kv: BTreeMap<String, KvConfig>,
    pub dead_letter_sink: String,
}

/// A source that the SQL reads, with what it is opened from.
pub struct SourcePart {
    pub name: String,
    pub kind: sources::Kind,
    pub section: Section,
}

pub struct DeltaPart {
    pub config: DeltaConfig,
    pub section: Section,
    pub tables: BTreeMap<String, DeltaTableConfig>,
}

/// Puts the parts together. `skip`: sources left out of this run. `once`: only sources that can be read again.
pub fn assemble(loaded: Loaded, plan: Plan, once: bool, skip: &BTreeSet<String>) -> Result<Assembled> {
    let config = loaded.config;
    let mut faults = Vec::new();
    for name in skip.iter().filter(|s| !config.sources.contains_key(*s)) {
        faults.push(whole_file(&config, format!("--skip names no source: \"{name}\"")));
    }
    let mut parts = Vec::new();
    let mut decoding = BTreeMap::new();
    for (name, spec) in config.sources.iter().filter(|(n, _)| !skip.contains(*n)) {
        let Some(kind) = sources::KINDS.iter().find(|k| k.connector.kind == spec.section.kind) else {
            faults.push(whole_file(&config, format!("source \"{name}\" has no connector in this build")));
            continue;
        };
        if once && !kind.replayable {
            let message = format!("source \"{name}\" has no end and cannot be read again, so --once cannot take it");
            let hint = format!("Run with --skip {name}, or without --once.");
            faults.push(spec.section.fault("type", message).with_hint(hint));
        }
        let unrouted = match spec.common.unrouted {
            UnroutedRule::Reject => Unrouted::Reject,
            UnroutedRule::Drop => Unrouted::Drop,
        };
        decoding.insert(name.clone(), JsonOptions { unknown_fields: spec.common.unknown_fields.into(), unrouted });
        parts.push(SourcePart { name: name.clone(), kind: *kind, section: spec.section.clone() });
    }
    if parts.is_empty() && faults.is_empty() {
        faults.push(whole_file(&config, "the pipeline has no source to read".into()));
    }
    let (mut delta, mut kv) = (BTreeMap::new(), BTreeMap::new());
    for (name, spec) in &config.sinks {
        match spec.section.kind.as_str() {
            "delta" => match delta_part(spec) {
                Ok(part) => drop(delta.insert(name.clone(), part)),
                Err(found) => faults.extend(found),
            },
            "kv" => match sinks::kv::config::validate(&spec.section) {
                Ok(config) => drop(kv.insert(name.clone(), config)),
                Err(found) => faults.extend(found),
            },
            other => faults.push(spec.section.fault("type", format!("sink type \"{other}\" is not in this build"))),
        }
    }
    if !faults.is_empty() {
        return Err(Error::Config(faults));
    }
    let dead_letter_sink = config.dead_letter_sink.clone();
    Ok(Assembled { config, plan: Arc::new(plan), sources: parts, decoding, delta, kv, dead_letter_sink })
}

fn delta_part(spec: &crate::config::spec::SinkSpec) -> Result<DeltaPart, Vec<Fault>> {
    let config = sinks::delta::config::validate(&spec.section)?;
    let mut tables = BTreeMap::new();
    let mut faults = Vec::new();
    for (table, section) in &spec.tables {
        match sinks::delta::config::validate_table(section) {
            Ok(table_config) => drop(tables.insert(table.clone(), table_config)),
            Err(found) => faults.extend(found),
        }
    }
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(DeltaPart { config, section: spec.section.clone(), tables })
}

fn whole_file(config: &Config, message: String) -> Fault {
    Fault { file: config.file.clone(), line: 0, column: 0, message, hint: None }
}
