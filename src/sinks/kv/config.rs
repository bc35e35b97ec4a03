//! `[sink.x] type = "kv"`.

use crate::config::section::Section;
use crate::config::value::FilePath;
use crate::types::fault::Fault;
use schemars::JsonSchema;
use serde::Deserialize;
use std::path::{Path, PathBuf};

#[derive(Clone, Debug, Default, PartialEq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct KvConfig {
    /// Where the store lives, relative to this file. Default: `kv` in the pipeline's data_dir. One store per sink.
    pub path: Option<FilePath>,
}

impl KvConfig {
    pub fn directory(&self, data_dir: &Path) -> PathBuf {
        self.path.as_ref().map_or_else(|| data_dir.join("kv"), |path| path.0.clone())
    }
}

/// Every path can be a store's until it is opened.
pub fn validate(section: &Section) -> Result<KvConfig, Vec<Fault>> {
    section.read()
}
