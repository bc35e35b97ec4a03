//! The embedded store: fjall, a log-structured merge tree in Rust, in a directory of its own.
//!
//! One keyspace per table and one for markers; a write spans both in one atomic batch. fjall poisons itself when a sync
//! fails, because the kernel may have dropped the pages: so every error is fatal here, and nothing is retried.

use crate::sinks::kv::store::{KvStore, Marker, Writes};
use crate::types::error::{Error, Result};
use fjall::{Database, Keyspace, KeyspaceCreateOptions, PersistMode};
use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};

/// Block cache. Readers come by key and rarely; the rows themselves are in hot state already.
const CACHE_BYTES: u64 = 16 * 1024 * 1024;
/// Rows held in memory per table before they go to a file; one more may be on its way to the disk.
const MEMTABLE_BYTES: u64 = 8 * 1024 * 1024;
/// fjall's own journal is kept at most this long before tables are flushed.
const JOURNAL_BYTES_MAX: u64 = 128 * 1024 * 1024;

/// Holds a marker per table. Tables have a prefix of their own, so that no table can be called that.
const MARKERS: &str = "markers";
const TABLE_PREFIX: &str = "table.";

pub struct Embedded {
    path: PathBuf,
    database: Database,
    markers: Keyspace,
}

impl Embedded {
    pub fn open(path: &Path) -> Result<Embedded> {
        std::fs::create_dir_all(path)
            .map_err(|e| Error::Failed(format!("the KV directory \"{}\" cannot be made: {e}", path.display())))?;
        let opened = Database::builder(path)
            .cache_size(CACHE_BYTES)
            .max_journaling_size(JOURNAL_BYTES_MAX)
            .worker_threads(1)
            .open();
        let database = match opened {
            Ok(database) => database,
            Err(fjall::Error::Locked) => {
                return Err(Error::refused(
                    format!("the KV store \"{}\" is open in another process", path.display()),
                    "Stop the other process, or give this pipeline its own data_dir.",
                ));
            }
            Err(e) => return Err(failed(path, "cannot be opened", e)),
        };
        let markers =
            database.keyspace(MARKERS, options).map_err(|e| failed(path, "cannot make its marker table", e))?;
        Ok(Embedded { path: path.to_path_buf(), database, markers })
    }

    fn table(&self, table: &str) -> Result<Keyspace> {
        let name = format!("{TABLE_PREFIX}{table}");
        if name.len() > 255 {
            return Err(Error::Failed(format!("\"{table}\" is too long for the name of a KV table")));
        }
        self.database.keyspace(&name, options).map_err(|e| self.failed("cannot open a table", e))
    }

    fn failed(&self, doing: &str, e: fjall::Error) -> Error {
        failed(&self.path, doing, e)
    }
}

fn options() -> KeyspaceCreateOptions {
    KeyspaceCreateOptions::default().max_memtable_size(MEMTABLE_BYTES)
}

fn failed(path: &Path, doing: &str, e: fjall::Error) -> Error {
    let why = match &e {
        fjall::Error::Poisoned => "an earlier write to the disk failed".to_string(),
        fjall::Error::Io(e) => e.to_string(),
        e => e.to_string(),
    };
    Error::Failed(format!("the KV store \"{}\" {doing}: {why}", path.display()))
}

impl KvStore for Embedded {
    fn create_table(&self, table: &str) -> Result<()> {
        self.table(table).map(|_| ())
    }

    fn write(&self, table: &str, writes: Writes) -> Result<()> {
        let rows = self.table(table)?;
        let mut batch = self.database.batch();
        for (key, value) in writes.puts {
            batch.insert(&rows, key, value);
        }
        for key in writes.deletes {
            batch.remove(&rows, key);
        }
        if let Some(marker) = writes.marker {
            let text = serde_json::to_vec(&marker).expect("a marker holds only strings and integers");
            batch.insert(&self.markers, table.as_bytes(), text);
        }
        batch.commit().map_err(|e| self.failed("cannot write", e))
    }

    fn clear(&self, table: &str) -> Result<()> {
        self.markers.remove(table.as_bytes()).map_err(|e| self.failed("cannot remove a marker", e))?;
        self.sync()?;
        self.table(table)?.clear().map_err(|e| self.failed("cannot clear a table", e))
    }

    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let value = self.table(table)?.get(key).map_err(|e| self.failed("cannot read", e))?;
        Ok(value.map(|v| v.to_vec()))
    }

    fn scan(&self, table: &str, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let mut entries = Vec::new();
        for entry in self.table(table)?.prefix(prefix).take(limit) {
            let (key, value) = entry.into_inner().map_err(|e| self.failed("cannot read", e))?;
            entries.push((key.to_vec(), value.to_vec()));
        }
        Ok(entries)
    }

    fn walk(&self, table: &str, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut entries = Vec::new();
        for entry in self.table(table)?.range::<&[u8], _>((from, Bound::Unbounded)).take(limit) {
            let (key, value) = entry.into_inner().map_err(|e| self.failed("cannot read", e))?;
            entries.push((key.to_vec(), value.to_vec()));
        }
        Ok(entries)
    }

    fn count(&self, table: &str) -> Result<u64> {
        self.table(table)?.len().map(|n| n as u64).map_err(|e| self.failed("cannot read", e))
    }

    fn marker(&self, table: &str) -> Result<Option<Marker>> {
        match self.markers.get(table.as_bytes()).map_err(|e| self.failed("cannot read", e))? {
            Some(text) => self.read_marker(table, &text).map(Some),
            None => Ok(None),
        }
    }

    fn markers(&self) -> Result<BTreeMap<String, Marker>> {
        let mut markers = BTreeMap::new();
        for entry in self.markers.iter() {
            let (key, text) = entry.into_inner().map_err(|e| self.failed("cannot read", e))?;
            let table = String::from_utf8_lossy(&key).into_owned();
            let marker = self.read_marker(&table, &text)?;
            markers.insert(table, marker);
        }
        Ok(markers)
    }

    fn sync(&self) -> Result<()> {
        self.database.persist(PersistMode::SyncAll).map_err(|e| self.failed("cannot reach the disk", e))
    }
}

impl Embedded {
    fn read_marker(&self, table: &str, text: &[u8]) -> Result<Marker> {
        serde_json::from_slice(text).map_err(|e| {
            let hint = "The store is derived data: move the directory away and it is written again from state.";
            Error::refused(
                format!(
                    "the KV store \"{}\" has a marker for \"{table}\" that cannot be read: {e}",
                    self.path.display()
                ),
                hint,
            )
        })
    }
}
