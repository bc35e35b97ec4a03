//! One table of a key-value sink: changes in, rows out.

use crate::sinks::kv::key;
use crate::sinks::kv::row::{self, KvRow};
use crate::sinks::kv::store::{KvStore, Marker, Version, Writes};
use crate::types::change::Changes;
use crate::types::error::{Error, Result};
use crate::types::invariant;
use arrow::array::{Array, ArrayRef};
use arrow::datatypes::{DataType, SchemaRef};
use arrow::record_batch::RecordBatch;
use std::sync::{Arc, Mutex};

#[derive(Clone, Debug)]
pub struct KvTableSpec {
    pub name: Arc<str>,
    /// Columns of `Changes::upserts`.
    pub schema: SchemaRef,
    /// Indices into `schema`, in key order.
    pub key: Vec<usize>,
}

/// What `apply` did. Changes whose key has a NULL part, or is longer than a store can hold, are left out and counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvApplied {
    pub written: u64,
    pub deleted: u64,
    pub null_keys: u64,
    pub long_keys: u64,
}

pub struct KvTable {
    spec: KvTableSpec,
    /// "sink.table", for errors.
    full_name: String,
    key_types: Vec<(String, DataType)>,
    store: Arc<dyn KvStore>,
    /// The newest version written. The mutex also makes `apply` one at a time: check and write belong together.
    newest: Mutex<Option<Version>>,
}

/// A whole key, or the first parts of one, in the store's bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Key(Vec<u8>);

impl KvTable {
    pub(super) fn open(store: Arc<dyn KvStore>, sink: &str, spec: KvTableSpec) -> Result<KvTable> {
        let full_name = format!("{sink}.{}", spec.name);
        let mut key_types = Vec::with_capacity(spec.key.len());
        for index in &spec.key {
            let field = spec.schema.field(*index);
            if !key::is_key_type(field.data_type()) {
                return Err(Error::refused(
                    format!(
                        "key column \"{}\" of KV table \"{full_name}\" has type {}",
                        field.name(),
                        field.data_type()
                    ),
                    "Keys are made of BOOLEAN, numbers, DECIMAL, TEXT, BYTEA, DATE and TIMESTAMP; cast it to one of them.",
                ));
            }
            key_types.push((field.name().clone(), field.data_type().clone()));
        }
        store.create_table(&spec.name)?;
        let newest = store.marker(&spec.name)?.map(|marker| marker.version);
        Ok(KvTable { spec, full_name, key_types, store, newest: Mutex::new(newest) })
    }

    pub fn spec(&self) -> &KvTableSpec {
        &self.spec
    }

    /// What the rows may reflect; None: nothing is known, rebuild.
    pub fn marker(&self) -> Result<Option<Marker>> {
        self.store.marker(&self.spec.name)
    }

    /// One write: rows, deletes and the marker. No change at all is fine: the marker moves on, which it must have
    /// done to the cut's positions before `sync` makes them durable. `marker.version` must be newer than any before (I13).
    pub fn apply(&self, changes: &Changes, marker: &Marker) -> Result<KvApplied> {
        let mut newest = self.newest.lock().expect("nothing is written after a broken invariant");
        self.check_newer(*newest, marker.version);
        let (mut writes, applied) = self.writes(changes, marker.version)?;
        writes.marker = Some(marker.clone());
        self.store.write(&self.spec.name, writes)?;
        *newest = Some(marker.version);
        Ok(applied)
    }

    /// Brings the table to `rows` (all rows there are), which must be at least as new as what it shows. Rows of the same
    /// question are replaced in place, and only then the ones that are no more are deleted: a reader sees no value go
    /// back, nor vanish and return. Rows of another question, or of an unknown one, are removed first. The marker says
    /// from before the first row to after the last that the table is not whole: a crash on the way is rebuilt.
    pub fn rebuild(&self, rows: &[RecordBatch], marker: &Marker) -> Result<KvApplied> {
        let mut newest = self.newest.lock().expect("nothing is written after a broken invariant");
        let asked = |m: &Marker| (m.chain.clone(), m.fingerprint.clone());
        if self.store.marker(&self.spec.name)?.is_none_or(|found| asked(&found) != asked(marker)) {
            self.store.clear(&self.spec.name)?;
        }
        let put_marker = |whole| {
            let marker = Some(Marker { whole, ..marker.clone() });
            self.store.write(&self.spec.name, Writes { marker, ..Writes::default() })
        };
        put_marker(false)?;
        *newest = Some(marker.version);
        let mut total = KvApplied::default();
        for batch in rows {
            // Small batches: a batch is in memory twice while it is written.
            for from in (0..batch.num_rows()).step_by(REBUILD_ROWS) {
                let upserts = batch.slice(from, REBUILD_ROWS.min(batch.num_rows() - from));
                let deletes = RecordBatch::new_empty(upserts.schema());
                let (writes, applied) = self.writes(&Changes { upserts, deletes }, marker.version)?;
                self.store.write(&self.spec.name, writes)?;
                total.add(applied);
            }
        }
        total.deleted += self.delete_all_but(marker.version)?;
        // The rows first: a power cut must not keep the marker and lose them.
        self.store.sync()?;
        put_marker(true)?;
        Ok(total)
    }

    /// Deletes the rows that were not written at this version.
    fn delete_all_but(&self, version: Version) -> Result<u64> {
        let (mut deleted, mut after) = (0, None);
        loop {
            let page = self.store.walk(&self.spec.name, after.as_deref(), REBUILD_ROWS)?;
            let Some((last, _)) = page.last() else { return Ok(deleted) };
            after = Some(last.clone());
            let mut deletes = Vec::new();
            for (key, value) in page {
                if KvRow::decode(&value)?.version != version {
                    deletes.push(key);
                }
            }
            deleted += deletes.len() as u64;
            if !deletes.is_empty() {
                self.store.write(&self.spec.name, Writes { deletes, ..Writes::default() })?;
            }
        }
    }

    /// Key parts as JSON values or text, in key order. The error is for the caller: what is wrong with which part.
    pub fn key(&self, parts: &[serde_json::Value]) -> Result<Key, String> {
        if parts.len() < self.key_types.len() {
            let names: Vec<&str> = self.key_types.iter().map(|(name, _)| name.as_str()).collect();
            return Err(format!("the key of \"{}\" is ({})", self.full_name, names.join(", ")));
        }
        self.prefix(parts)
    }

    /// As `key`, with as many leading parts as are known: all of them, some, or none.
    pub fn prefix(&self, parts: &[serde_json::Value]) -> Result<Key, String> {
        let columns = key::columns_of(parts, &self.key_types)?;
        let encoded = key::encode(&columns).pop().unwrap_or(Some(Vec::new()));
        encoded.map(Key).ok_or_else(|| "a key has no NULL parts".to_string())
    }

    pub fn get(&self, key: &Key) -> Result<Option<KvRow>> {
        match self.store.get(&self.spec.name, &key.0)? {
            Some(value) => KvRow::decode(&value).map(Some),
            None => Ok(None),
        }
    }

    /// Up to `limit` rows whose key begins so, in key order.
    pub fn scan(&self, prefix: &Key, limit: usize) -> Result<Vec<KvRow>> {
        let entries = self.store.scan(&self.spec.name, &prefix.0, limit)?;
        entries.iter().map(|(_, value)| KvRow::decode(value)).collect()
    }

    pub fn count(&self) -> Result<u64> {
        self.store.count(&self.spec.name)
    }

    fn check_newer(&self, newest: Option<Version>, version: Version) {
        invariant::check(invariant::I13, newest.is_none_or(|newest| version > newest), || {
            format!("KV table \"{}\": {version:?} after {newest:?}", self.full_name)
        });
    }

    fn writes(&self, changes: &Changes, version: Version) -> Result<(Writes, KvApplied)> {
        let mut applied = KvApplied::default();
        let mut writes = Writes::default();
        let columns: Vec<ArrayRef> = self.spec.key.iter().map(|i| changes.upserts.column(*i).clone()).collect();
        let values = row::encode(&changes.upserts, version)?;
        for (key, value) in self.keys(&columns, changes.upserts.num_rows(), &mut applied).into_iter().zip(values) {
            if let Some(key) = key {
                writes.puts.push((key, value));
                applied.written += 1;
            }
        }
        let columns = changes.deletes.columns();
        if changes.deletes.num_rows() > 0 {
            for key in self.keys(columns, changes.deletes.num_rows(), &mut applied).into_iter().flatten() {
                writes.deletes.push(key);
                applied.deleted += 1;
            }
        }
        Ok((writes, applied))
    }

    fn keys(&self, columns: &[ArrayRef], rows: usize, applied: &mut KvApplied) -> Vec<Option<Vec<u8>>> {
        assert_eq!(columns.len(), self.key_types.len(), "changes of \"{}\" carry the key columns", self.full_name);
        for (column, (name, kind)) in columns.iter().zip(&self.key_types) {
            assert_eq!(column.data_type(), kind, "key column {name} of \"{}\"", self.full_name);
        }
        // A view without GROUP BY columns has one row, under the empty key.
        let mut keys = if columns.is_empty() { vec![Some(Vec::new()); rows] } else { key::encode(columns) };
        for key in &mut keys {
            match key {
                None => applied.null_keys += 1,
                Some(bytes) if bytes.len() > key::KEY_BYTES_MAX => {
                    applied.long_keys += 1;
                    *key = None;
                }
                Some(_) => {}
            }
        }
        keys
    }
}

/// Rows per batch while rebuilding.
const REBUILD_ROWS: usize = 4_096;

impl KvApplied {
    pub fn add(&mut self, other: KvApplied) {
        self.written += other.written;
        self.deleted += other.deleted;
        self.null_keys += other.null_keys;
        self.long_keys += other.long_keys;
    }
}
