//! Starts that crash, again and again, over a model of the lake: what was decided lands once, and the chain stays whole.

use super::*;
use crate::checkpoint::next::{Cut, next_record};
use crate::checkpoint::testing::{author, chain, empty_cut, moved, written};
use crate::engine::lake::{EpochFiles, LakeTable};
use crate::engine::start::wanted_tables;
use crate::env::clock::ManualClock;
use crate::env::store::testing::{Fault, Hostile, Op};
use crate::env::uuids::Uuids;
use crate::sinks::delta::table::Landing;
use crate::sql::plan::SqlFile;
use crate::types::catalog::{Catalog, SinkKind, SourceFacts};
use arrow::record_batch::RecordBatch;
use futures::FutureExt;
use futures::stream::BoxStream;
use std::sync::Mutex;

/// Tables by name: the newest epoch each holds. `commits`: what really went in, in order.
#[derive(Default)]
struct Model {
    held: Mutex<BTreeMap<String, u64>>,
    commits: Mutex<Vec<String>>,
    /// Commits to this table fail.
    broken: Mutex<Option<&'static str>>,
}

struct ModelTable {
    lake: Arc<Model>,
    spec: TableSpec,
    app_id: String,
}

struct ModelLake(Arc<Model>);

#[async_trait]
impl Lake for ModelLake {
    async fn open(&self, _sink: &str, spec: TableSpec, app_id: &str) -> Result<Arc<dyn LakeTable>> {
        Ok(Arc::new(ModelTable { lake: self.0.clone(), spec, app_id: app_id.to_owned() }))
    }
}

#[async_trait]
impl LakeTable for ModelTable {
    fn spec(&self) -> &TableSpec {
        &self.spec
    }

    fn id(&self) -> String {
        "id-1".into()
    }

    fn pending_schema_action(&self) -> Option<serde_json::Value> {
        None
    }

    fn writer(&self, _memory_bytes_max: u64) -> Result<Box<dyn EpochFiles>> {
        Err(Error::Failed("a start writes no rows".into()))
    }

    async fn verify_files(&self, _adds: &[serde_json::Value]) -> Result<()> {
        Ok(())
    }

    async fn apply(&self, epoch: Epoch, _landing: &Landing) -> Result<()> {
        if *self.lake.broken.lock().unwrap() == Some(self.spec.name.as_str()) {
            return Err(Error::Failed("disk full".into()));
        }
        let mut held = self.lake.held.lock().unwrap();
        let held = held.entry(self.spec.name.clone()).or_default();
        if *held < epoch.0 {
            *held = epoch.0;
            self.lake.commits.lock().unwrap().push(format!("{}@{epoch}", self.spec.name));
        }
        Ok(())
    }

    async fn transactions(&self) -> Result<BTreeMap<String, i64>> {
        let held = self.lake.held.lock().unwrap().get(&self.spec.name).copied();
        Ok(held.map(|epoch| (self.app_id.clone(), epoch as i64)).into_iter().collect())
    }

    async fn census(&self) -> Result<Census> {
        Err(Error::Failed("no view asks".into()))
    }

    async fn rows(&self, _version: u64, _columns: &[Arc<str>]) -> Result<BoxStream<'static, Result<RecordBatch>>> {
        Err(Error::Failed("no view asks".into()))
    }
}

/// One start up to its claim, on a clock that stands still: None is a crash in the middle of a wait.
async fn start(chain: &Chain, lake: &Arc<Model>, plan: &Plan) -> Option<Result<Record>> {
    let clock = Clock::Manual(ManualClock::starting_at(0));
    let author = Authorship { owner: "here/1/0".into(), slots: 1, uuids: Uuids::Random };
    let recovery = Recovery {
        chain,
        pipeline: "fleet",
        plan,
        author: &author,
        clock: &clock,
        lake: &ModelLake(lake.clone()),
        wanted: wanted_tables(plan, "lake", &BTreeMap::new()),
        kv: &BTreeMap::new(),
        journals: vec![],
        state_bytes: 1 << 20,
        offload: Offload::InPlace,
    };
    recovery.run().now_or_never().map(|done| done.map(|recovered| recovered.claim))
}

#[tokio::test]
async fn roll_forward_survives_several_crashes_in_a_row() {
    let mut catalog = Catalog::default();
    catalog.sources.insert("s".into(), SourceFacts::default());
    catalog.sinks.insert("lake".into(), SinkKind::Append);
    let sql =
        "CREATE TABLE s (id TEXT); INSERT INTO lake.points SELECT id FROM s; INSERT INTO lake.more SELECT id FROM s;";
    let files = [SqlFile { path: "a.sql".into(), text: sql.into() }];
    let plan = crate::sql::compile(&files, &catalog).await.unwrap_or_else(|faults| panic!("{faults:?}"));

    let (store, location) = Hostile::location();
    let records = Chain { location };
    let first = first_record(chain("a"), "fleet", author("1"));
    let tables = vec![written("points", 7), written("more", 7)];
    let decided = next_record(&first, author("2"), Cut { partitions: vec![moved("p", 0, 7)], tables, ..empty_cut(1) });
    records.create(&first).await.unwrap();
    records.create(&decided).await.unwrap();
    let lake = Arc::new(Model::default());
    let epochs = async || records.epochs().await.unwrap().iter().map(|e| e.0).collect::<Vec<_>>();

    // In the middle of APPLY, three times: one table has the epoch, the other one does not.
    *lake.broken.lock().unwrap() = Some("more");
    for _ in 0..3 {
        let error = start(&records, &lake, &plan).await.expect("it does not wait").unwrap_err();
        assert!(error.to_string().contains("could not take epoch 2: disk full"), "{error}");
        assert_eq!(epochs().await, [1, 2], "nothing is claimed before everything decided is applied");
    }
    *lake.broken.lock().unwrap() = None;
    // Between APPLY and the claim, twice: the claim does not get through.
    for _ in 0..2 {
        store.strike(Op::Put, "00003.json", Fault::Before);
        assert!(start(&records, &lake, &plan).await.is_none());
        assert_eq!(epochs().await, [1, 2]);
    }
    // The claim landed, and nobody heard of it.
    store.strike(Op::Put, "00003.json", Fault::AfterLanding);
    store.strike(Op::Get, "00003.json", Fault::Before);
    assert!(start(&records, &lake, &plan).await.is_none());
    assert_eq!(epochs().await, [1, 2, 3]);

    let claim = start(&records, &lake, &plan).await.expect("it does not wait").unwrap();
    assert_eq!((claim.epoch, claim.incarnation, claim.applied_through), (Epoch(4), 3, Epoch(3)));
    assert_eq!(claim.partitions[0].span.to.0, 7);
    assert_eq!(*lake.commits.lock().unwrap(), ["points@2", "more@2"], "every table took the epoch once");
}
