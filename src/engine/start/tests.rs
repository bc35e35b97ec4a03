//! Whole pipelines over files, in this process: two of them on one checkpoint location, and one that runs for many epochs.

use super::*;
use crate::engine::checkpointer::write_record;
use crate::engine::testing::started;
use crate::env::store::testing::{S3, inline_table};
use crate::types::epoch::Epoch;
use datafusion::prelude::SessionContext;
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// Long enough for a loaded machine; a test that waits this long has failed.
const PATIENCE: Duration = Duration::from_secs(120);

struct World {
    dir: TempDir,
    files: u32,
    lines: u32,
    /// Of the records, with what opens it.
    location: String,
    options: BTreeMap<String, String>,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sql = "CREATE TABLE t (n INT NOT NULL);
                   CREATE MATERIALIZED VIEW counted AS SELECT n % 7 AS k, count(*) AS c FROM t GROUP BY n % 7;
                   INSERT INTO lake.t SELECT n FROM t;";
        std::fs::write(dir.path().join("t.sql"), sql).unwrap();
        let location = dir.path().join("shared").to_string_lossy().into_owned();
        World { dir, files: 0, lines: 0, location, options: BTreeMap::new() }
    }

    /// The records on an S3 server, if there is one.
    fn on_s3(test: &str) -> Option<Self> {
        S3::fresh(test).map(|S3 { url, options }| World { location: url, options, ..World::new() })
    }

    /// A file of ten lines.
    fn add(&mut self) {
        let lines: String = (self.lines..self.lines + 10).map(|n| format!("{{\"n\":{n}}}\n")).collect();
        std::fs::write(self.dir.path().join(format!("{:03}.jsonl", self.files)), lines).unwrap();
        self.files += 1;
        self.lines += 10;
    }

    async fn start(&self, data_dir: &str, retain: usize, once: bool) -> Running {
        let location = &self.location;
        let options = inline_table(&self.options);
        let records = format!(
            "[checkpoint]\ninterval = '20ms'\nlocation = '{location}'\noptions = {options}\nretain = {retain}\n"
        );
        started(self.dir.path(), data_dir, once, &records).await
    }

    fn chain(&self) -> Chain {
        Chain { location: store::open(&self.location, &self.options).unwrap() }
    }
}

/// Until the pipeline has recorded that many rows of lake.t.
async fn wait_for_rows(running: &mut Running, rows: u32) {
    let until = Instant::now() + PATIENCE;
    loop {
        let status = running.live.checkpoint_status();
        if status.rows_total.get("lake.t").copied().unwrap_or(0) >= rows as u64 {
            return;
        }
        assert!(Instant::now() < until, "{status:?}");
        tokio::select! {
            ended = running.wait() => panic!("it ended: {ended:?}"),
            _ = tokio::time::sleep(Duration::from_millis(20)) => {}
        }
    }
}

/// (rows, distinct n) of lake.t as the Delta log has them.
async fn landed(running: &Running) -> (usize, usize) {
    let table = running.live.tables.iter().find(|t| t.key.as_ref() == "lake.t").expect("the table").table.clone();
    table.refresh().await.unwrap();
    let session = SessionContext::new();
    session.register_table("t", table.snapshot().provider).unwrap();
    let count = async |sql: &str| session.sql(sql).await.unwrap().count().await.unwrap();
    (count("SELECT n FROM t").await, count("SELECT DISTINCT n FROM t").await)
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_processes_on_one_location_one_goes_on_and_the_other_says_what_it_had_taken() {
    one_goes_on(World::new()).await;
    if let Some(world) = World::on_s3("two-processes") {
        one_goes_on(world).await;
    }
}

async fn one_goes_on(mut world: World) {
    world.add();
    let mut first = world.start("one", 100, false).await;
    wait_for_rows(&mut first, 10).await;
    // Another machine, as far as the first can tell: its own data_dir, the same checkpoint location.
    let mut second = world.start("two", 100, true).await;
    second.wait().await.expect("the later one has the chain");
    world.add();
    let fenced = tokio::time::timeout(PATIENCE, first.wait()).await.expect("it ends").unwrap_err();
    let text = fenced.to_string();
    assert!(matches!(fenced, Error::Fenced(_)) && text.contains("was written by"), "{text}");
    assert!(text.contains("taken by this process and not recorded: t:") && text.contains("001.jsonl [0, "), "{text}");
    let mut third = world.start("two", 100, true).await;
    third.wait().await.expect("nothing stands in its way");
    assert_eq!(landed(&third).await, (20, 20), "what the fenced one had taken is there once");
}

/// Weeks in small: records and segments stay bounded, and a start copes with a chain whose first records are gone.
#[tokio::test(flavor = "multi_thread")]
async fn a_chain_does_not_grow_and_starts_from_what_is_left() {
    does_not_grow(World::new()).await;
    if let Some(world) = World::on_s3("retention") {
        does_not_grow(world).await;
    }
}

async fn does_not_grow(mut world: World) {
    let chain = world.chain();
    let mut running = world.start("one", 2, false).await;
    for _ in 0..6 {
        world.add();
        wait_for_rows(&mut running, world.lines).await;
    }
    let until = Instant::now() + PATIENCE;
    while chain.epochs().await.unwrap().len() > 4 {
        assert!(Instant::now() < until, "{:?}", chain.epochs().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(chain.epochs().await.unwrap()[0].0 > 1);
    running.stop();
    running.wait().await.expect("a clean stop");
    for _ in 0..3 {
        world.add();
        let mut again = world.start("one", 2, true).await;
        again.wait().await.expect("it goes on from what is left");
        assert_eq!(landed(&again).await, (world.lines as usize, world.lines as usize));
        let published = again.live.published();
        let keys: u64 = published.iter().map(|p| p.view_keys[0]).sum();
        assert!(keys >= 7, "state was restored: {keys} keys");
    }
}

/// A record whose PUT was answered by nobody is found to be ours; one that another process has the name of fences us.
#[tokio::test(flavor = "multi_thread")]
async fn the_lost_answer_of_a_conditional_put_is_resolved_on_s3() {
    use crate::checkpoint::testing::{author, chain};
    use crate::env::store::testing::{Fault, Hostile, Op};
    let Some(world) = World::on_s3("lost-answers") else { return };
    let (store, location) = Hostile::over(world.chain().location);
    let records = Chain { location };
    let first = crate::checkpoint::next::first_record(chain("a"), "fleet", author("1"));
    let second = crate::checkpoint::next::claim_record(&first, author("2"), vec![]);
    for (record, fault) in [(&first, Fault::AfterLanding), (&second, Fault::Before)] {
        store.strike(Op::Put, "records/", fault);
        store.strike(Op::Get, "records/", Fault::Before);
        write_record(&records, record, &Clock::System, |_| {}).await.unwrap();
        assert_eq!(store.waiting(), 0, "the faults struck");
        let there = records.read(record.epoch).await.unwrap().unwrap().unwrap();
        assert_eq!(there, *record);
    }
    store.strike(Op::Put, "records/", Fault::AfterLanding);
    let theirs = crate::checkpoint::next::claim_record(&first, author("theirs"), vec![]);
    let error = write_record(&records, &theirs, &Clock::System, |_| {}).await.unwrap_err();
    assert!(matches!(error, Error::Fenced(_)), "{error}");
    assert_eq!(records.read(Epoch(2)).await.unwrap().unwrap().unwrap().attempt, "2");
}
