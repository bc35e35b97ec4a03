//! What the log of a lake table says about its files, commit by commit: between the sink that reads it and the audit.

use serde::Deserialize;
use serde_json::Value;
use std::collections::BTreeMap;

/// The log of one table from the oldest version that can still be told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct TableLog {
    /// The table's own id, as its newest metadata has it.
    pub table_id: String,
    /// What the table was when its commits begin to be told; `None`: they begin with the table.
    pub base: Option<LogBase>,
    /// Every commit that is still there, ascending. Those up to the base's version are part of it already.
    pub commits: Vec<LogCommit>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogBase {
    pub version: u64,
    pub files: Vec<LogFile>,
    /// Newest version per application id.
    pub transactions: BTreeMap<String, i64>,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct LogCommit {
    pub version: u64,
    /// As the writer named it; empty when it did not.
    pub operation: String,
    /// Which program wrote it; empty when it did not say.
    pub writer: String,
    pub transactions: Vec<(String, i64)>,
    pub adds: Vec<LogFile>,
    pub removes: Vec<LogFile>,
}

impl LogCommit {
    /// The epoch this commit carries for an application id.
    pub fn epoch_of(&self, app_id: &str) -> Option<i64> {
        self.transactions.iter().find(|(id, _)| id == app_id).map(|(_, epoch)| *epoch)
    }

    pub fn changes_files(&self) -> bool {
        !self.adds.is_empty() || !self.removes.is_empty()
    }

    /// Nothing but files put in the place of others: the rows stay what they were.
    pub fn is_neutral(&self) -> bool {
        self.changes_files() && self.adds.iter().chain(&self.removes).all(|f| !f.data_change)
    }
}

/// A file of the table, as an Add or a Remove names it.
#[derive(Clone, Debug, PartialEq)]
pub struct LogFile {
    /// Relative to the table, decoded: what the store calls it.
    pub path: String,
    /// Which rows of it count as deleted; the same file may come back with another.
    pub deletions: Option<String>,
    /// Rows that count. `None`: the action does not say.
    pub rows: Option<u64>,
    pub data_change: bool,
}

impl LogFile {
    /// Reads an `add` or `remove` action. An error says what is wrong with it.
    pub fn of_action(action: &Value) -> Result<LogFile, String> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Stats {
            num_records: Option<u64>,
        }
        let path = action["path"].as_str().ok_or("a file without a path")?;
        let rows = match action["stats"].as_str() {
            Some(stats) => {
                let stats: Stats = serde_json::from_str(stats)
                    .map_err(|e| format!("the statistics of \"{path}\" are not JSON: {e}"))?;
                stats.num_records
            }
            // A checkpoint may hold them as columns instead.
            None => action["stats_parsed"]["numRecords"].as_u64(),
        };
        let vector = &action["deletionVector"];
        let deleted = vector["cardinality"].as_u64().unwrap_or(0);
        let deletions = vector["pathOrInlineDv"]
            .as_str()
            .map(|at| format!("{}{at}@{}", vector["storageType"].as_str().unwrap_or(""), vector["offset"]));
        Ok(LogFile {
            path: decoded(path),
            deletions,
            rows: rows.map(|rows| rows.saturating_sub(deleted)),
            data_change: action["dataChange"].as_bool().unwrap_or(true),
        })
    }
}

/// Undoes the percent-encoding of paths in the log. What is not an escape stays.
fn decoded(path: &str) -> String {
    let bytes = path.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = path.get(at + 1..at + 3).filter(|_| bytes[at] == b'%');
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                at += 3;
            }
            None => {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    String::from_utf8(out).unwrap_or_else(|_| path.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_file_is_read_with_what_it_does_not_say() {
        let of = |action: Value| LogFile::of_action(&action);
        assert!(of(json!({ "size": 1 })).is_err());
        assert!(of(json!({ "path": "a", "stats": "{" })).unwrap_err().contains("\"a\""));
        let bare = of(json!({ "path": "d=a%20b/%C3%A9%2525.parquet" })).unwrap();
        assert_eq!((bare.path.as_str(), bare.rows, bare.data_change), ("d=a b/é%25.parquet", None, true));
        let full = of(json!({ "path": "a", "stats": "{\"numRecords\":7}", "dataChange": false })).unwrap();
        assert_eq!((full.rows, full.data_change), (Some(7), false));
        let parsed = of(json!({ "path": "a", "stats": null, "stats_parsed": { "numRecords": 7 } })).unwrap();
        assert_eq!(parsed.rows, Some(7));
        let vector = json!({ "storageType": "u", "pathOrInlineDv": "ab", "offset": 1, "cardinality": 2 });
        let deleted = of(json!({ "path": "a", "stats": "{\"numRecords\":7}", "deletionVector": vector })).unwrap();
        assert_eq!((deleted.rows, deleted.deletions.as_deref()), (Some(5), Some("uab@1")));
    }

    #[test]
    fn what_is_no_escape_stays() {
        for text in ["a%", "a%2", "a%zz", "%é1", "plain/x=1"] {
            assert_eq!(decoded(text), text);
        }
    }
}
