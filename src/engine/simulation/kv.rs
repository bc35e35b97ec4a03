//! A key-value store in memory that may lose what was not synced, from the end (I13), and that checks every value.

use crate::engine::simulation::world::World;
use crate::sinks::kv::row::KvRow;
use crate::sinks::kv::store::{KvStore, Marker, Writes};
use crate::types::error::Result;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

pub struct ModelKv {
    world: Arc<World>,
    contents: Mutex<Contents>,
}

#[derive(Default)]
struct Contents {
    now: Tables,
    synced: Tables,
    /// Every state since the sync, oldest first: a power cut goes back to one of them.
    since: Vec<Tables>,
    /// What readers have seen of a key: it only grows.
    seen: BTreeMap<Vec<u8>, (i64, i64)>,
}

type Tables = BTreeMap<String, Table>;

#[derive(Clone, Default)]
struct Table {
    rows: BTreeMap<Vec<u8>, Vec<u8>>,
    marker: Option<Marker>,
}

impl ModelKv {
    pub fn new(world: Arc<World>) -> Arc<Self> {
        Arc::new(ModelKv { world, contents: Mutex::default() })
    }

    /// The machine loses power: back to the last sync, or to anything after it.
    pub fn power_cut(&self) {
        let mut contents = self.contents.lock().expect("no holder panics");
        let kept = self.world.dice.below(contents.since.len() + 1);
        if kept < contents.since.len() {
            self.world.say(format_args!("the store loses {} writes", contents.since.len() - kept));
            contents.now = if kept == 0 { contents.synced.clone() } else { contents.since[kept - 1].clone() };
        }
        contents.synced = contents.now.clone();
        contents.since.clear();
        let rows = contents.now.values().flat_map(|t| t.rows.iter());
        contents.seen = rows.map(|(key, value)| (key.clone(), values(value))).collect();
    }

    /// key -> (n, total, newest) as readers get them.
    pub fn sums(&self) -> BTreeMap<String, (i64, i64, i64)> {
        let contents = self.contents.lock().expect("no holder panics");
        let rows = contents.now.get("sums").map(|t| t.rows.values()).into_iter().flatten();
        rows.map(|value| {
            let row = json(value);
            let number = |name: &str| row[name].as_i64().expect("a number");
            (row["k"].as_str().expect("a key").to_string(), (number("n"), number("total"), number("newest")))
        })
        .collect()
    }

    fn change(&self, contents: &mut Contents) {
        let now = contents.now.clone();
        contents.since.push(now);
    }
}

fn json(value: &[u8]) -> serde_json::Value {
    let row = KvRow::decode(value).expect("a row");
    serde_json::from_str(&row.json).expect("JSON")
}

fn values(value: &[u8]) -> (i64, i64) {
    let row = json(value);
    (row["n"].as_i64().expect("a number"), row["newest"].as_i64().expect("a number"))
}

impl KvStore for ModelKv {
    fn create_table(&self, table: &str) -> Result<()> {
        self.contents.lock().expect("no holder panics").now.entry(table.to_string()).or_default();
        Ok(())
    }

    fn write(&self, table: &str, writes: Writes) -> Result<()> {
        let mut contents = self.contents.lock().expect("no holder panics");
        for (key, value) in &writes.puts {
            let (n, newest) = values(value);
            let seen = contents.seen.entry(key.clone()).or_default();
            assert!(n >= seen.0 && newest >= seen.1, "I13: {:?} after n, newest = {seen:?}", json(value));
            *seen = (n, newest);
        }
        let target = contents.now.entry(table.to_string()).or_default();
        target.rows.extend(writes.puts);
        for key in &writes.deletes {
            target.rows.remove(key);
        }
        if let Some(marker) = writes.marker {
            // What it says is in the rows is in them, and what is in them it says: with mended SQL at most.
            let expected = self.world.expected.lock().expect("no holder panics");
            let truth = expected.under(true).state(&marker.positions, None).0;
            drop(expected);
            let rows: Vec<_> = target.rows.values().map(|v| json(v)).collect();
            for row in rows {
                let most = truth.get(row["k"].as_str().expect("a key")).copied().unwrap_or_default();
                assert!(row["n"].as_i64() <= Some(most.0), "I13: {row} is ahead of its marker: {most:?}");
            }
            target.marker = Some(marker);
        }
        self.change(&mut contents);
        Ok(())
    }

    fn clear(&self, table: &str) -> Result<()> {
        let mut contents = self.contents.lock().expect("no holder panics");
        contents.now.entry(table.to_string()).or_default().marker = None;
        contents.synced = contents.now.clone();
        contents.since.clear();
        contents.now.entry(table.to_string()).or_default().rows.clear();
        self.change(&mut contents);
        Ok(())
    }

    fn get(&self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>> {
        let contents = self.contents.lock().expect("no holder panics");
        Ok(contents.now.get(table).and_then(|t| t.rows.get(key)).cloned())
    }

    fn scan(&self, table: &str, prefix: &[u8], limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let contents = self.contents.lock().expect("no holder panics");
        let rows = contents.now.get(table).into_iter().flat_map(|t| t.rows.iter());
        let found = rows.filter(|(key, _)| key.starts_with(prefix)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn walk(&self, table: &str, after: Option<&[u8]>, limit: usize) -> Result<Vec<(Vec<u8>, Vec<u8>)>> {
        let contents = self.contents.lock().expect("no holder panics");
        let rows = contents.now.get(table).into_iter().flat_map(|t| t.rows.iter());
        let found = rows.filter(|(key, _)| after.is_none_or(|after| key.as_slice() > after)).take(limit);
        Ok(found.map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn count(&self, table: &str) -> Result<u64> {
        Ok(self.contents.lock().expect("no holder panics").now.get(table).map_or(0, |t| t.rows.len() as u64))
    }

    fn marker(&self, table: &str) -> Result<Option<Marker>> {
        Ok(self.contents.lock().expect("no holder panics").now.get(table).and_then(|t| t.marker.clone()))
    }

    fn markers(&self) -> Result<BTreeMap<String, Marker>> {
        let contents = self.contents.lock().expect("no holder panics");
        Ok(contents.now.iter().filter_map(|(name, t)| Some((name.clone(), t.marker.clone()?))).collect())
    }

    fn sync(&self) -> Result<()> {
        let mut contents = self.contents.lock().expect("no holder panics");
        contents.synced = contents.now.clone();
        contents.since.clear();
        Ok(())
    }
}
