//! The Delta sink on a real S3 API server: `eval "$(tests/e2e/s3.sh env PORT)"` names one. Without it this says so.

use arrow::array::{ArrayRef, Int64Array};
use arrow::record_batch::RecordBatch;
use datafusion::prelude::SessionContext;
use pipe::env::store::{self, Location, PutOutcome};
use pipe::sinks::delta::config::FloatEncoding;
use pipe::sinks::delta::sink::DeltaSink;
use pipe::sinks::delta::table::{Landing, TableSpec};
use pipe::types::epoch::{ChainId, Epoch};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::Once;

/// A fresh prefix on the server, or `None` with a word about it.
fn server(test: &str) -> Option<Location> {
    let Ok(endpoint) = std::env::var("PIPE_TEST_S3") else {
        println!("{test}: not run, PIPE_TEST_S3 is not set (tests/e2e/s3.sh)");
        return None;
    };
    static PROVIDER: Once = Once::new();
    PROVIDER.call_once(|| {
        // Another test of this process may have installed one already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
    });
    let options = [
        ("aws_endpoint", endpoint.as_str()),
        ("aws_allow_http", "true"),
        ("aws_access_key_id", "pipe-e2e"),
        ("aws_secret_access_key", "pipe-e2e-secret"),
        ("aws_region", "us-east-1"),
    ];
    let options: BTreeMap<String, String> = options.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect();
    let prefix = format!("s3://pipe/{test}-{}", uuid::Uuid::new_v4());
    Some(store::open(&prefix, &options).expect("the address is sound"))
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_creates_of_one_name_have_one_winner() {
    let Some(location) = server("creates") else { return };
    store::probe_create_if_absent(&location).await.expect("conditional puts are truthful");
    for name in 0..20 {
        let mut racing = tokio::task::JoinSet::new();
        for writer in 0..50 {
            let location = location.clone();
            racing.spawn(async move {
                let outcome = location.put_create(&format!("race/{name}"), format!("{writer}").into()).await;
                (writer, outcome.expect("the server answers"))
            });
        }
        let won: Vec<i32> =
            racing.join_all().await.into_iter().filter(|(_, o)| *o == PutOutcome::Created).map(|(w, _)| w).collect();
        let [winner] = won[..] else { panic!("name {name} was created by {won:?}") };
        let kept = location.get(&format!("race/{name}")).await.expect("readable").expect("there");
        assert_eq!(kept, format!("{winner}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_tables_take_every_epoch_once() {
    let Some(location) = server("epochs") else { return };
    let ids = |from: i64| {
        let column: ArrayRef = Arc::new(Int64Array::from_iter_values(from..from + 10));
        RecordBatch::try_from_iter([("id", column)]).expect("one column")
    };
    let app_id = ChainId("c1".into()).app_id("lake", "points");
    let sink = DeltaSink::at("lake", location.clone(), FloatEncoding::ByteStreamSplit).await.expect("connects");
    let spec = TableSpec { name: "points".into(), schema: ids(0).schema(), partition_by: vec![] };
    // Two processes with one chain, as after a start that came too early.
    let one = sink.open_table(spec.clone(), &app_id).await.expect("created");
    let two = sink.open_table(spec.clone(), &app_id).await.expect("opened");
    for epoch in 1..=10 {
        let mut landings = Vec::new();
        for table in [&one, &two] {
            let mut writer = table.writer().expect("a writer");
            writer.write(&ids(epoch * 10)).await.expect("writes");
            let adds = writer.finish().await.expect("finishes").adds;
            table.verify_files(&adds).await.expect("the files are there");
            landings.push(Landing { app_id: app_id.clone(), adds, schema_action: None });
        }
        let (a, b) =
            tokio::join!(one.apply(Epoch(epoch as u64), &landings[0]), two.apply(Epoch(epoch as u64), &landings[1]));
        a.and(b).expect("one lands, the other finds it");
    }
    let again = sink.open_table(spec, &app_id).await.expect("opened");
    let snapshot = again.snapshot();
    assert_eq!((snapshot.applied, snapshot.version), (Epoch(10), 10));
    let ctx = SessionContext::new();
    ctx.register_table("t", snapshot.provider).expect("a fresh session");
    let rows = ctx.sql("SELECT DISTINCT id FROM t").await.expect("plans").count().await.expect("reads");
    let all = ctx.sql("SELECT id FROM t").await.expect("plans").count().await.expect("reads");
    assert_eq!((rows, all), (100, 100));
}
