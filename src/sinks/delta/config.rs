//! `[sink.x] type = "delta"`: where the tables live, how they are reached, and what is said per table.

use crate::config::section::Section;
use crate::config::value::{Address, Period, Settings, Size};
use crate::env::store;
use crate::types::fault::Fault;
use schemars::JsonSchema;
use serde::Deserialize;

/// Delta tables below one address. A table of the SQL text, `lake.points`, lives at `<uri>/points`.
#[derive(Clone, Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeltaConfig {
    /// A directory, relative to this file, or `s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`.
    pub uri: Address,
    /// Options of the object store: `aws_region`, `aws_endpoint`, `aws_access_key_id`, ... What is left out comes from
    /// the environment (AWS_*, GOOGLE_*, AZURE_*).
    #[serde(default)]
    pub options: Settings,
    /// How REAL and DOUBLE columns are written. "byte_stream_split" is smaller and faster; "plain" is for readers that
    /// do not know it, such as Spark's vectorised reader up to 4.1.
    #[serde(default)]
    pub float_encoding: FloatEncoding,
}

/// One table of a Delta sink.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct DeltaTableConfig {
    /// Columns by whose values the files are split into folders. Few values per epoch: each is a file of its own.
    #[serde(default)]
    pub partition_by: Vec<String>,
    /// Small files are put together into larger ones beside the stream, keeping rows and their order. `false`: never.
    #[serde(default = "yes")]
    pub compact: bool,
    /// Files grow up to about this size.
    #[serde(default = "compact_target")]
    pub compact_target: Size,
    /// So many files of about one size and of one partition are put together at once.
    #[serde(default = "compact_files_min")]
    pub compact_files_min: u32,
    /// Files that no version needs any more are deleted this often, once the table's own
    /// `delta.deletedFileRetentionDuration` has passed. "0s": never.
    #[serde(default = "vacuum_interval")]
    pub vacuum_interval: Period,
}

fn yes() -> bool {
    true
}

fn compact_target() -> Size {
    Size::mib(128)
}

/// A row is rewritten once per size class, and there are five of them between an epoch's file and 128 MiB.
fn compact_files_min() -> u32 {
    16
}

fn vacuum_interval() -> Period {
    Period::seconds(24 * 3600)
}

impl Default for DeltaTableConfig {
    fn default() -> Self {
        DeltaTableConfig {
            partition_by: Vec::new(),
            compact: yes(),
            compact_target: compact_target(),
            compact_files_min: compact_files_min(),
            vacuum_interval: vacuum_interval(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum FloatEncoding {
    #[default]
    ByteStreamSplit,
    Plain,
}

/// Pure: nothing is opened, no secret is looked up.
pub fn validate(section: &Section) -> Result<DeltaConfig, Vec<Fault>> {
    let config: DeltaConfig = section.read()?;
    let mut faults = Vec::new();
    if config.uri.trim().is_empty() {
        let fault = section.fault("uri", "the address of the lake is empty");
        faults.push(fault.with_hint("Write a directory or s3://bucket/prefix."));
    }
    if let Some((scheme, rest)) = config.uri.split_once("://") {
        if !["s3", "s3a", "gs", "az", "azure", "abfs", "abfss", "file"].contains(&scheme) {
            let fault = section.fault("uri", format!("\"{scheme}\" is not a kind of store we write to"));
            faults.push(fault.with_hint("Write a directory, s3://, gs:// or az://."));
        }
        let host = rest.split('/').next().unwrap_or_default();
        if rest.contains('?') || (host.contains(':') && host.contains('@')) {
            let fault = section.fault("uri", "the address holds credentials");
            faults.push(fault.with_hint("Give them as options, as { env = \"NAME\" } or { file = \"PATH\" }."));
        }
    }
    // "s3:/bucket" would be a directory of this machine.
    let is_cut = |part: &str| ["s3:", "s3a:", "gs:", "az:", "azure:", "abfs:", "abfss:", "file:"].contains(&part);
    if !config.uri.is_url() && config.uri.split('/').any(is_cut) {
        let fault = section.fault("uri", "the address has one slash after the kind of store");
        faults.push(fault.with_hint("Two make an address: s3://bucket/prefix."));
    }
    for option in config.options.keys() {
        if let Some((message, hint)) = store::option_fault(&config.uri, option) {
            faults.push(section.fault_in(&["options", option], message).with_hint(hint));
        }
    }
    section.judge(config, faults)
}

pub fn validate_table(section: &Section) -> Result<DeltaTableConfig, Vec<Fault>> {
    let config: DeltaTableConfig = section.read()?;
    let mut faults = Vec::new();
    for (i, column) in config.partition_by.iter().enumerate() {
        if config.partition_by[..i].contains(column) {
            let message = format!("partition column \"{column}\" is named twice");
            faults.push(section.fault_in(&["partition_by", &i.to_string()], message).with_hint("Name it once."));
        }
    }
    if config.compact_files_min < 2 {
        let fault = section.fault("compact_files_min", "one file alone cannot be put together");
        faults.push(fault.with_hint("Write 2 or more, or compact = false."));
    }
    if config.compact_target < Size::mib(1) || config.compact_target > Size::mib(4096) {
        let fault = section.fault("compact_target", "files are compacted to between 1MiB and 4GiB");
        faults.push(fault.with_hint("128MiB suits most readers; compact = false turns it off."));
    }
    section.judge(config, faults)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> Vec<String> {
        let section = Section::from_text("sink.lake", "delta", text).unwrap();
        validate(&section).err().unwrap_or_default().into_iter().map(|f| format!("{}:{}", f.line, f.message)).collect()
    }

    #[test]
    fn faults_are_said_with_their_line() {
        assert_eq!(faults("uri = ' '"), ["1:the address of the lake is empty"]);
        assert_eq!(faults("uri = 'ftp://host/lake'"), ["1:\"ftp\" is not a kind of store we write to"]);
        assert_eq!(faults("uri = 's3://key:secret@bucket/x'"), ["1:the address holds credentials"]);
        assert_eq!(
            faults("uri = 'lake'\noptions = { aws_region = 'x' }"),
            ["2:option \"aws_region\" has no meaning for a local directory"]
        );
        assert_eq!(
            faults("uri = 's3://bucket/lake'\n[options]\naws_region = 'x'\naws_key = 'y'"),
            ["4:unknown store option \"aws_key\""]
        );
        assert_eq!(faults("uri = 'lake'\nfloat_encoding = 'rle'").len(), 1);
        assert_eq!(faults("uri = 'lake'\npartition = ['x']").len(), 1);
    }

    #[test]
    fn a_partition_column_is_named_once() {
        let section = Section::from_text("sink.lake.table.points", "delta", "partition_by = ['d', 'e', 'd']").unwrap();
        let faults = validate_table(&section).unwrap_err();
        assert_eq!(faults[0].message, "partition column \"d\" is named twice");
    }

    #[test]
    fn the_example_is_valid() {
        let example = include_str!("example.toml");
        let below = |heading: &str| example.split("\n[").find_map(|part| part.strip_prefix(heading)).unwrap();
        let sink = Section::from_text("sink.lake", "delta", below("sink.lake]")).unwrap();
        assert_eq!(validate(&sink).unwrap().float_encoding, FloatEncoding::ByteStreamSplit);
        let table = Section::from_text("sink.lake.table.points", "delta", below("sink.lake.table.points]")).unwrap();
        let config = validate_table(&table).unwrap();
        assert_eq!(config.partition_by, ["event_date"]);
        assert_eq!(DeltaTableConfig { partition_by: vec![], ..config }, DeltaTableConfig::default());
    }

    #[test]
    fn compaction_that_could_not_end_is_refused() {
        let faults = |text: &str| -> Vec<String> {
            let section = Section::from_text("sink.lake.table.points", "delta", text).unwrap();
            validate_table(&section).err().unwrap_or_default().into_iter().map(|f| f.message).collect()
        };
        assert_eq!(faults("compact_files_min = 1"), ["one file alone cannot be put together"]);
        assert_eq!(faults("compact_target = '1KiB'"), ["files are compacted to between 1MiB and 4GiB"]);
        assert_eq!(faults("compact = 3").len(), 1);
        assert_eq!(faults("compact = false\nvacuum_interval = '0s'"), Vec::<String>::new());
    }
}
