//! One `[source.x]`, `[sink.x]` or `[sink.x.table.y]`: what its connector reads its own struct out of.
//!
//! ```ignore
//! #[derive(Deserialize, JsonSchema)]
//! #[serde(deny_unknown_fields, default)]
//! pub struct KafkaConfig { /* ... */ }
//!
//! pub fn validate(section: &Section) -> Result<KafkaConfig, Vec<Fault>> {
//!     let config: KafkaConfig = section.read()?;
//!     let mut faults = Vec::new();
//!     if config.brokers.is_empty() {
//!         faults.push(section.fault("brokers", "\"brokers\" is empty").with_hint("Name at least one."));
//!     }
//!     section.judge(config, faults)
//! }
//! ```

use crate::config::dom::{At, Node, Source, Table, Value};
use crate::config::parse;
use crate::config::read;
use crate::config::value::{Lookups, Secret, Settings};
use crate::types::fault::Fault;
use serde::de::DeserializeOwned;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;

const SECRET_HINT: &str =
    "It is looked up when the pipeline starts: set the variable, or write the file, for the user that runs pipe.";

#[derive(Clone)]
pub struct Section {
    /// `x` in `[source.x]`; the table's name in `[sink.x.table.y]`.
    pub name: String,
    /// The value of `type`; of a table: its sink's.
    pub kind: String,
    /// What stands in the brackets: `source.x`.
    pub heading: String,
    at: At,
    /// Without `type` and what every source or sink has.
    table: Table,
    /// Keys taken out of `table`, for hints.
    taken: &'static [&'static str],
    source: Source,
}

impl Section {
    pub(super) fn new(
        (kind, name): (String, String),
        heading: String,
        (at, table): (At, Table),
        taken: &'static [&'static str],
        source: Source,
    ) -> Self {
        Section { name, kind, heading, at, table, taken, source }
    }

    /// A section of its own, for tests: `text` is what stands under the header, or an example with its header; what every
    /// source has is left out of it.
    pub fn from_text(kind: &str, name: &str, text: &str) -> Result<Section, Vec<Fault>> {
        parse::lone_section(kind, name, text, &Lookups::none())
    }

    /// The connector's struct: all unknown keys, wrong types and missing keys at once, with their places.
    pub fn read<T: DeserializeOwned>(&self) -> Result<T, Vec<Fault>> {
        let reading = self.read_despite_faults();
        match reading.value {
            // With a stand-in inside, a fault has been told already and the value is not to be judged any further.
            Some(value) if reading.faults.is_empty() && !self.table.is_faulty() => Ok(value),
            _ => Err(reading.faults),
        }
    }

    pub(super) fn read_despite_faults<T: DeserializeOwned>(&self) -> read::Reading<T> {
        read::read(&self.table, self.at, &self.heading, self.taken, &self.source)
    }

    /// `config` if there are no faults: the last line of a connector's `validate`.
    pub fn judge<T>(&self, config: T, faults: Vec<Fault>) -> Result<T, Vec<Fault>> {
        if faults.is_empty() { Ok(config) } else { Err(faults) }
    }

    /// A fault at the value of `key`; at the header if the key is not there.
    pub fn fault(&self, key: &str, message: impl Into<String>) -> Fault {
        self.fault_in(&[key], message)
    }

    /// A fault at a value further in: `&["properties", "group.id"]`; a step into an array is its index as text.
    pub fn fault_in(&self, path: &[&str], message: impl Into<String>) -> Fault {
        let mut at = self.at;
        let mut table = Some(&self.table);
        let mut items: &[Node] = &[];
        for step in path {
            let node = match table {
                Some(table) => table.get(step).map(|entry| &entry.node),
                None => step.parse::<usize>().ok().and_then(|i| items.get(i)),
            };
            let Some(node) = node else { break };
            at = node.at;
            (table, items) = match &node.value {
                Value::Table(inner) => (Some(inner), &[][..]),
                Value::Array(inner) => (None, inner.as_slice()),
                _ => (None, &[][..]),
            };
        }
        self.source.fault(at, message)
    }

    /// A fault at the header.
    pub fn fault_here(&self, message: impl Into<String>) -> Fault {
        self.source.fault(self.at, message)
    }

    /// Does the file give this key? Tells a default from a value that happens to equal it.
    pub fn has(&self, key: &str) -> bool {
        self.table.get(key).is_some()
    }

    /// The secret at `key`. Looked up now, not when the file was parsed: `validate` must not need production's secrets.
    pub fn reveal(&self, key: &str, secret: &Secret) -> Result<String, Fault> {
        let fault = |why| self.fault(key, format!("\"{key}\": {why}")).with_hint(SECRET_HINT);
        secret.reveal(&self.source.lookups).map_err(fault)
    }

    /// The settings at `key`, with every secret among them looked up.
    pub fn reveal_settings(&self, key: &str, settings: &Settings) -> Result<BTreeMap<String, String>, Vec<Fault>> {
        let mut revealed = BTreeMap::new();
        let mut faults = Vec::new();
        for (name, secret) in &settings.0 {
            match secret.reveal(&self.source.lookups) {
                Ok(text) => {
                    revealed.insert(name.clone(), text);
                }
                Err(why) => {
                    let fault = self.fault_in(&[key, name], format!("\"{key}.{name}\": {why}"));
                    faults.push(fault.with_hint(SECRET_HINT));
                }
            }
        }
        self.judge(revealed, faults)
    }

    pub fn file(&self) -> &Path {
        &self.source.file
    }

    /// The directory that relative paths start from.
    pub fn base(&self) -> &Path {
        &self.source.base
    }

    pub fn lookups(&self) -> &Lookups {
        &self.source.lookups
    }
}

/// Names and keys only: values may be secrets (I12).
impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let keys: Vec<&str> = self.table.entries.iter().map(|e| e.key.as_str()).collect();
        f.debug_struct("Section")
            .field("heading", &self.heading)
            .field("kind", &self.kind)
            .field("keys", &keys)
            .finish()
    }
}
