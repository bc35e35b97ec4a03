//! Key-value sink: the current row of every key of a materialized view, for readers that know the key.
//!
//! Derived data: what is here can always be written again from state, and is when it is absent or another chain's. It is
//! written at batch latency and so runs ahead of the record; `hold` keeps it from going back after a restart (I13).
//!
//! `KvSink` is one `[sink.x] type = "kv"`, `KvTable` one table of it. Calls block on the local disk (`apply` writes to the
//! operating system's cache, `sync` waits for the disk): they belong on a thread of their own, not on the async runtime.

pub mod config; // [sink.x] type = "kv"
pub mod embedded; // the store on local disk
pub mod hold; // what may be written after a restart
pub mod key; // key columns -> bytes in the key's order
pub mod row; // a row -> JSON text
pub mod store; // what a store must be able to do; version and marker
pub mod table; // one table: changes in, rows out

use crate::sinks::kv::config::KvConfig;
use crate::sinks::kv::embedded::Embedded;
use crate::sinks::kv::store::{KvStore, Marker};
use crate::sinks::kv::table::{KvTable, KvTableSpec};
use crate::types::error::Result;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

pub struct KvSink {
    pub name: Arc<str>,
    store: Arc<dyn KvStore>,
    /// A std mutex: nothing awaits or blocks while it is held. Guards the list of tables only.
    tables: Mutex<BTreeMap<Arc<str>, Arc<KvTable>>>,
}

impl KvSink {
    /// Opens or creates the store. `Refused` when another process has it open.
    pub fn open(name: &str, config: &KvConfig, data_dir: &Path) -> Result<KvSink> {
        let store = Embedded::open(&config.directory(data_dir))?;
        Ok(Self::over(name, Arc::new(store)))
    }

    /// As `open`, over a store that is open already.
    pub fn over(name: &str, store: Arc<dyn KvStore>) -> KvSink {
        KvSink { name: name.into(), store, tables: Mutex::default() }
    }

    /// The marks of all tables of the store, configured or not: what the recovery decision looks at.
    pub fn markers(&self) -> Result<BTreeMap<String, Marker>> {
        self.store.markers()
    }

    /// Opens or creates a table. `Config` when its key has a type that has no order here.
    pub fn open_table(&self, spec: KvTableSpec) -> Result<Arc<KvTable>> {
        let table = Arc::new(KvTable::open(self.store.clone(), &self.name, spec)?);
        self.tables.lock().expect("no holder panics").insert(table.spec().name.clone(), table.clone());
        Ok(table)
    }

    pub fn table(&self, name: &str) -> Option<Arc<KvTable>> {
        self.tables.lock().expect("no holder panics").get(name).cloned()
    }

    pub fn tables(&self) -> Vec<Arc<KvTable>> {
        self.tables.lock().expect("no holder panics").values().cloned().collect()
    }

    /// Everything applied before is durable afterwards (PREPARE).
    pub fn sync(&self) -> Result<()> {
        self.store.sync()
    }
}

#[cfg(test)]
mod tests;
