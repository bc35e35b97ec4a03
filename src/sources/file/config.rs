//! `[source.x] type = "file"`.

use schemars::JsonSchema;
use serde::Deserialize;

#[derive(Clone, Debug, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct FileConfig {
    /// A file or a glob (`*`, `?`, `[..]`, `**`), relative to the config file. One message per line; `.gz` and `.zst`
    /// are decompressed. Files that match later are picked up while running; names that begin with a dot are not.
    pub path: String,
}

impl FileConfig {
    /// What is wrong with it, as (key, message, hint). Pure: whether a file is there shows when the source runs.
    pub fn validate(&self) -> Vec<(&'static str, String, &'static str)> {
        if self.path.is_empty() {
            return vec![("path", "path is empty".into(), "Name a file or a glob such as \"logs/*.jsonl\".")];
        }
        if self.path.contains("://") {
            let message = format!("\"{}\" is an address, and the file source reads local paths", self.path);
            return vec![("path", message, "Copy or mount the objects, and name their local path.")];
        }
        if let Err(e) = glob::Pattern::new(&self.path) {
            let message = format!("\"{}\" is not a glob: {} at character {}", self.path, e.msg, e.pos + 1);
            return vec![(
                "path",
                message,
                "Put special characters into brackets: \"[[]1].jsonl\" names \"[1].jsonl\".",
            )];
        }
        Vec::new()
    }
}
