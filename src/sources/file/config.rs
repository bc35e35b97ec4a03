//! `[source.x] type = "file"`.

use crate::config::schema;
use crate::config::section::Section;
use crate::config::spec::Connector;
use crate::config::value::Settings;
use crate::env::store;
use crate::sources::file::objects::Pattern;
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
    /// A file or a glob (`*`, `?`, `[..]`, `**`), relative to the config file; or the same in an object store:
    /// `s3://bucket/folder/*.jsonl.gz`, `gs://`, `az://`. One message per line; `.gz` and `.zst` are decompressed. What
    /// matches later is picked up while running; names that begin with a dot are not. A file may grow; an object may not
    /// change.
    // Text and not a path that is joined already: partitions are named as the user wrote them.
    pub path: String,
    /// Options of the object store: `aws_region`, `aws_endpoint`, `aws_access_key_id`, ... What is left out comes from
    /// the environment (AWS_*, GOOGLE_*, AZURE_*).
    #[serde(default)]
    pub options: Settings,
}

const SCHEMES: [&str; 8] = ["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"];

/// Pure: whether a file is there shows when the source runs.
pub fn validate(section: &Section) -> Result<FileConfig, Vec<Fault>> {
    let config: FileConfig = section.read()?;
    let fault = |message: &str, hint: &str| section.fault("path", message).with_hint(hint);
    let mut faults = Vec::new();
    let scheme = config.path.split_once("://").map(|(scheme, _)| scheme);
    let pattern = Pattern::of(&config.path);
    let keys = pattern.as_ref().map_or(config.path.as_str(), |p| p.keys.as_str());
    if config.path.is_empty() {
        faults.push(fault("\"path\" is empty", "Name a file or a glob such as \"logs/*.jsonl\"."));
    } else if let Some(scheme) = scheme.filter(|scheme| !SCHEMES.contains(scheme)) {
        faults.push(fault(
            &format!("\"path\" begins with \"{scheme}://\", and the file source does not read from there"),
            "It reads paths on disk, s3://bucket/folder/*.jsonl, gs:// and az://.",
        ));
    } else if scheme == Some("file") && !config.path.starts_with("file:///") {
        faults.push(fault("\"path\" is not a path on this machine", "Write file:///absolute/path, or just the path."));
    } else if keys.is_empty() || keys.ends_with('/') {
        faults.push(fault(
            "\"path\" names a folder and no files",
            "Say which: \"*.jsonl\", or \"**/*.jsonl.gz\" for folders below too.",
        ));
    } else if let Err(e) = glob::Pattern::new(keys) {
        faults.push(fault(
            &format!("\"path\" is not a glob: {} (after {} characters)", e.msg, e.pos),
            "A bracket in a file name is written in brackets: \"[[]1].jsonl\" names \"[1].jsonl\".",
        ));
    }
    if pattern.is_some_and(|p| p.root.contains('@') && !p.root.starts_with("abfs")) {
        // Not repeated: it may hold a password (I12).
        faults.push(fault(
            "the address in \"path\" holds credentials",
            "Give them as options, as { env = \"NAME\" } or { file = \"PATH\" }.",
        ));
    }
    for option in config.options.keys() {
        if let Some((message, hint)) = store::option_fault(&config.path, option) {
            faults.push(section.fault_in(&["options", option], message).with_hint(hint));
        }
    }
    section.judge(config, faults)
}
