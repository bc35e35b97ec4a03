//! `[source.x] type = "file"`.

use crate::config::schema;
use crate::config::section::Section;
use crate::config::spec::Connector;
use crate::types::fault::Fault;
use schemars::JsonSchema;
use serde::Deserialize;

pub const CONNECTOR: Connector = Connector {
    kind: "file",
    check: |section| validate(section).err().unwrap_or_default(),
    schema: schema::of::<FileConfig>,
};

/// Recorded messages: files of lines.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A file or a glob (`*`, `?`, `[..]`, `**`), relative to the config file. One message per line; `.gz` and `.zst`
    /// are decompressed. Files that match later are picked up while running; names that begin with a dot are not.
    // Text and not a path that is joined already: partitions are named as the user wrote them.
    pub path: String,
}

/// Pure: whether a file is there shows when the source runs.
pub fn validate(section: &Section) -> Result<FileConfig, Vec<Fault>> {
    let config: FileConfig = section.read()?;
    let fault = |message: &str, hint: &str| Fault { hint: Some(hint.into()), ..section.fault("path", message) };
    let mut faults = Vec::new();
    if config.path.is_empty() {
        faults.push(fault("\"path\" is empty", "Name a file or a glob such as \"logs/*.jsonl\"."));
    } else if config.path.contains("://") {
        faults.push(fault(
            "\"path\" is a URL, and the file source reads local paths",
            "Copy or mount the objects, and name their local path.",
        ));
    } else if let Err(e) = glob::Pattern::new(&config.path) {
        faults.push(fault(
            &format!("\"path\" is not a glob: {} (after {} characters)", e.msg, e.pos),
            "A bracket in a file name is written in brackets: \"[[]1].jsonl\" names \"[1].jsonl\".",
        ));
    }
    section.judge(config, faults)
}
