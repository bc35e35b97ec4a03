//! `[sink.x] type = "kv"`.

use crate::config::schema;
use crate::config::section::Section;
use crate::config::spec::{Connector, SinkConnector};
use crate::config::value::FilePath;
use crate::types::catalog::SinkKind;
use crate::types::fault::Fault;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Path, PathBuf};

pub const CONNECTOR: SinkConnector = SinkConnector {
    connector: Connector {
        kind: "kv",
        check: |section| validate(section).err().unwrap_or_default(),
        schema: schema::of::<KvConfig>,
    },
    accepts: SinkKind::Upsert,
    check_table: |section| section.read::<KvTableConfig>().err().unwrap_or_default(),
    table_schema: schema::of::<KvTableConfig>,
};

/// The current row of every key, embedded in the process.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvConfig {
    /// Where the store lives, relative to this file. Default: `kv` in the pipeline's data_dir. One store per sink.
    pub path: Option<FilePath>,
}

/// A table has nothing to set: its columns and its key are the view's.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct KvTableConfig {}

impl KvConfig {
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        self.path.as_ref().map_or_else(|| data_dir.join("kv"), |path| path.0.clone())
    }
}

/// Every path can be a store's until it is opened.
pub fn validate(section: &Section) -> Result<KvConfig, Vec<Fault>> {
    section.read()
}
