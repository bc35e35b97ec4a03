//! A lake of tables that are logs of commits, each with adds and a transaction. Commits conflict, fail after landing,
//! land late. What is committed is checked where it is committed.

use crate::checkpoint::record::TableRecord;
use crate::engine::lake::{EpochFiles, Lake, LakeTable};
use crate::engine::simulation::expect::{OUTPUTS, Output, RowKey};
use crate::engine::simulation::planted::{Bug, planted};
use crate::engine::simulation::world::{LAKE, SECRET, World, unavailable};
use crate::env::uuids::Uuids;
use crate::sinks::delta::census::Census;
use crate::sinks::delta::table::{Landing, Prepared, TableSpec};
use crate::types::epoch::Epoch;
use crate::types::error::{Error, Result};
use crate::types::reject::REPLAYED;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int32Type, Int64Type};
use arrow::record_batch::RecordBatch;
use async_trait::async_trait;
use futures::stream::{self, BoxStream, StreamExt};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

#[derive(Default)]
pub struct Logs {
    /// By "sink.table".
    pub tables: BTreeMap<String, Log>,
    /// Complete and durable files: their rows.
    pub files: BTreeMap<String, Vec<RowKey>>,
    /// And the rows themselves, for those who read them back.
    batches: BTreeMap<String, Vec<RecordBatch>>,
    /// Counts changes.
    pub commits: u64,
}

#[derive(Default)]
pub struct Log {
    id: String,
    /// Commits so far: the next one's version.
    pub version: u64,
    transactions: BTreeMap<String, i64>,
    pub rows: BTreeSet<RowKey>,
    /// Files committed, in order.
    paths: Vec<String>,
}

impl Logs {
    /// The rows of a table as they are committed.
    pub fn batches(&self, table: &str) -> impl Iterator<Item = &RecordBatch> {
        self.tables[table].paths.iter().flat_map(|path| &self.batches[path])
    }

    pub fn transaction(&self, table: &str, app_id: &str) -> u64 {
        let log = self.tables.get(table);
        log.and_then(|log| log.transactions.get(app_id)).map_or(0, |version| *version as u64)
    }
}

pub struct ModelLake(pub Arc<World>);

#[async_trait]
impl Lake for ModelLake {
    async fn open(&self, sink: &str, spec: TableSpec, app_id: &str) -> Result<Arc<dyn LakeTable>> {
        let key = format!("{sink}.{}", spec.name);
        let (section, config) = &*LAKE;
        let options = section.reveal_settings("options", &config.options).map_err(Error::Config)?;
        assert!(options.values().any(|value| value == SECRET), "it is let in for its secret");
        self.0.pause().await;
        if self.0.happens(10) {
            return Err(unavailable(&key));
        }
        let mut logs = self.0.logs.lock().expect("no holder panics");
        let log = logs.tables.entry(key.clone()).or_default();
        if log.id.is_empty() {
            log.id = self.0.uuids.fresh();
        }
        let id = log.id.clone();
        drop(logs);
        Ok(Arc::new(ModelTable { world: self.0.clone(), app_id: app_id.into(), key, spec, id }))
    }
}

struct ModelTable {
    world: Arc<World>,
    key: String,
    spec: TableSpec,
    app_id: String,
    id: String,
}

#[async_trait]
impl LakeTable for ModelTable {
    fn spec(&self) -> &TableSpec {
        &self.spec
    }

    fn id(&self) -> String {
        self.id.clone()
    }

    fn pending_schema_action(&self) -> Option<Value> {
        None
    }

    fn writer(&self, _: u64) -> Result<Box<dyn EpochFiles>> {
        Ok(Box::new(ModelFiles {
            world: self.world.clone(),
            table: self.key.clone(),
            rows: Vec::new(),
            batches: Vec::new(),
        }))
    }

    async fn verify_files(&self, adds: &[Value]) -> Result<()> {
        self.world.pause().await;
        let logs = self.world.logs.lock().expect("no holder panics");
        match adds.iter().find(|add| !logs.files.contains_key(path_of(add))) {
            Some(missing) => Err(Error::refused(format!("file {missing} is missing"), "Restore it.")),
            None => Ok(()),
        }
    }

    /// The commit loop in small: look for our transaction, try the next version, and after any doubt look again.
    async fn apply(&self, epoch: Epoch, landing: &Landing) -> Result<()> {
        assert_eq!(self.app_id, landing.app_id, "{}: the transaction it was opened under", self.key);
        for _ in 0..3 {
            self.world.pause().await;
            let version = {
                let logs = self.world.logs.lock().expect("no holder panics");
                if logs.transaction(&self.key, &landing.app_id) >= epoch.0 && !planted(Bug::TransactionUnchecked) {
                    return Ok(());
                }
                logs.tables[&self.key].version
            };
            let what = format!("commit {} epoch {epoch}", self.key);
            let (world, key, landing) = (self.world.clone(), self.key.clone(), landing.clone());
            let land = move || commit(&world, &key, version, epoch, &landing);
            let flight = self.world.depart(what.clone(), land);
            self.world.pause().await;
            if flight.end(|landed| *landed).await == Some(true) {
                return Ok(());
            }
            if self.world.dice.permille(300) {
                return Err(unavailable(&what));
            }
        }
        Err(unavailable(&self.key))
    }

    async fn transactions(&self) -> Result<BTreeMap<String, i64>> {
        self.world.pause().await;
        Ok(self.world.logs.lock().expect("no holder panics").tables[&self.key].transactions.clone())
    }

    async fn census(&self) -> Result<Census> {
        self.world.pause().await;
        let logs = self.world.logs.lock().expect("no holder panics");
        let log = &logs.tables[&self.key];
        Ok(Census { version: log.version, rows: log.rows.len() as u64, ..Census::default() })
    }

    async fn rows(&self, version: u64, columns: &[Arc<str>]) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        let batches: Vec<RecordBatch> = {
            let logs = self.world.logs.lock().expect("no holder panics");
            assert!(version <= logs.tables[&self.key].version, "{}: version {version} is yet to come", self.key);
            logs.batches(&self.key).cloned().collect()
        };
        let (world, key, columns) = (self.world.clone(), self.key.clone(), columns.to_vec());
        let read = move |batch: RecordBatch| {
            let (world, key, columns) = (world.clone(), key.clone(), columns.clone());
            async move {
                world.pause().await;
                if world.happens(10) {
                    return Err(unavailable(&key));
                }
                let picked = columns.iter().map(|name| batch.schema().index_of(name)).collect::<Result<Vec<_>, _>>()?;
                Ok(batch.project(&picked)?)
            }
        };
        Ok(stream::iter(batches).then(read).boxed())
    }
}

/// One more version, if that is the next one. False: it is taken.
fn commit(world: &World, table: &str, version: u64, epoch: Epoch, landing: &Landing) -> bool {
    let mut logs = world.logs.lock().expect("no holder panics");
    let Logs { tables, files, commits, .. } = &mut *logs;
    let log = tables.get_mut(table).expect("an open table");
    if log.version != version {
        return false;
    }
    let records = world.records.lock().expect("no holder panics");
    let of_table = |t: &&TableRecord| format!("{}.{}", t.sink, t.table) == table;
    let decided = records.get(&epoch).and_then(|r| r.landings().find(of_table).map(|t| &t.adds));
    assert_eq!(decided, Some(&landing.adds), "I6: {table} gets what no record of epoch {epoch} says");
    let before = log.transactions.insert(landing.app_id.clone(), epoch.0 as i64).unwrap_or(0);
    assert!(before < epoch.0 as i64, "I7: {table} gets epoch {epoch} after epoch {before}");
    let expected = world.expected.lock().expect("no holder panics");
    // The record stands, so what its messages became does too.
    let expected = expected.under(false);
    let output = OUTPUTS.iter().find(|(name, _)| *name == table).expect("a table of the plan").1;
    for add in &landing.adds {
        let rows = files.get(path_of(add)).unwrap_or_else(|| panic!("I5: {table} gets {add}, which is not there"));
        for row in rows {
            assert!(expected.has(output, row), "{table} gets a row that no message makes: {row:?}");
            assert!(log.rows.insert(row.clone()), "I7: {table} gets a row twice: {row:?}");
        }
        log.paths.push(path_of(add).to_string());
    }
    log.version += 1;
    *commits += 1;
    true
}

/// Another writer's commit: no rows, a version gone.
pub fn foreign_commit(world: &World) {
    let mut logs = world.logs.lock().expect("no holder panics");
    let names: Vec<String> = logs.tables.keys().cloned().collect();
    if let Some(name) = names.get(world.dice.below(names.len())) {
        world.say(format_args!("somebody else commits to {name}"));
        logs.tables.get_mut(name).expect("listed").version += 1;
    }
}

pub fn path_of(add: &Value) -> &str {
    add["path"].as_str().expect("an add has a path")
}

struct ModelFiles {
    world: Arc<World>,
    table: String,
    rows: Vec<RowKey>,
    batches: Vec<RecordBatch>,
}

#[async_trait]
impl EpochFiles for ModelFiles {
    async fn write(&mut self, rows: &RecordBatch) -> Result<()> {
        self.world.pause().await;
        if self.world.happens(5) {
            return Err(unavailable(&self.table));
        }
        self.rows.extend(row_keys(&self.table, rows));
        self.batches.push(rows.clone());
        Ok(())
    }

    async fn finish(self: Box<Self>) -> Result<Prepared> {
        self.world.pause().await;
        if self.world.happens(10) {
            self.world.say(format_args!("503: finish a file of {}", self.table));
            return Err(unavailable(&self.table));
        }
        let path = format!("{}/{}.parquet", self.table, fresh(&self.world.uuids));
        let rows = self.rows.len() as u64;
        self.world.say(format_args!("file {path}: {rows} rows"));
        {
            let mut logs = self.world.logs.lock().expect("no holder panics");
            logs.files.insert(path.clone(), self.rows);
            logs.batches.insert(path.clone(), self.batches);
        }
        self.world.pause().await;
        Ok(Prepared { adds: vec![json!({ "path": path, "rows": rows })], rows, bytes: rows * 100 })
    }

    async fn abort(self: Box<Self>) {
        self.world.pause().await;
        self.world.say(format_args!("a file of {} is given up", self.table));
    }

    fn memory_bytes(&self) -> u64 {
        self.rows.len() as u64 * 100
    }
}

fn fresh(uuids: &Uuids) -> String {
    uuids.fresh()
}

/// What the rows of a batch are, by the table they go to.
pub fn row_keys(table: &str, rows: &RecordBatch) -> Vec<RowKey> {
    let output = OUTPUTS.iter().find(|(name, _)| *name == table).expect("a table of the plan").1;
    let (source, label, position) = match output {
        Output::Points | Output::High => ("s", "p", "pos"),
        Output::DeadLetter => ("source", "partition", "position"),
    };
    let text = |name: &str| rows.column_by_name(name).expect("a column of the plan").as_string::<i32>().clone();
    let number =
        |name: &str| rows.column_by_name(name).expect("a column of the plan").as_primitive::<Int64Type>().clone();
    let (source, label, position) = (text(source), text(label), number(position));
    let ids = match output {
        Output::DeadLetter => attempts(rows),
        Output::Points | Output::High => number("id").iter().map(|id| id.unwrap_or(-1)).collect(),
    };
    let key = |(row, id)| (source.value(row).to_string(), label.value(row).to_string(), position.value(row), id);
    ids.into_iter().enumerate().map(key).collect()
}

/// Of dead letters: negative where the message was replayed.
fn attempts(rows: &RecordBatch) -> Vec<i64> {
    let column = |name: &str| rows.column_by_name(name).expect("a column of the dead letters");
    let (attempts, reasons) = (column("attempt").as_primitive::<Int32Type>(), column("reason").as_string::<i32>());
    let payloads = column("payload");
    let attempt = |row| {
        let is_replayed = reasons.value(row).starts_with(REPLAYED);
        assert_eq!(payloads.is_null(row), is_replayed, "only what is dead keeps its bytes: {}", reasons.value(row));
        let attempt = i64::from(attempts.value(row));
        if is_replayed { -attempt } else { attempt }
    };
    (0..rows.num_rows()).map(attempt).collect()
}
