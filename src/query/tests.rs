//! Queries over an empty world: what is understood, what is refused, what is promised before anything runs.

use crate::env::clock::Clock;
use crate::query::World;
use crate::query::error::{Kind, QueryError};
use crate::query::run::{Queries, QuerySettings};
use crate::query::running::QUERIES_MAX;
use crate::sinks::delta::table::Table;
use crate::sql::plan::Plan;
use crate::state::cut::SlotView;
use arrow::datatypes::DataType;
use arrow::record_batch::RecordBatch;
use datafusion::common::ScalarValue;
use futures::{StreamExt, TryStreamExt};
use std::sync::Arc;

struct Empty(Plan);

impl World for Empty {
    fn plan(&self) -> &Plan {
        &self.0
    }

    fn slots(&self) -> Vec<Arc<SlotView>> {
        Vec::new()
    }

    fn lake(&self) -> Vec<(Arc<str>, Arc<Table>)> {
        Vec::new()
    }

    fn system(&self, _: &str) -> Option<RecordBatch> {
        None
    }
}

fn queries() -> Queries {
    let plan = Plan {
        tables: vec![],
        nodes: vec![],
        views: vec![],
        inserts: vec![],
        stateless_views: vec![],
        meta_used: vec![],
        feeds: vec![],
        rebuilds: vec![],
    };
    let runtime = tokio::runtime::Handle::current();
    let settings = QuerySettings { memory_bytes: 16 << 20, partitions: 1, runtime, clock: Clock::System };
    Queries::new(Arc::new(Empty(plan)), settings).expect("builds")
}

async fn rows(queries: &Queries, sql: &str, values: Vec<ScalarValue>) -> Result<usize, QueryError> {
    let batches: Vec<RecordBatch> = queries.run(sql, values, None).await?.try_collect().await?;
    Ok(batches.iter().map(RecordBatch::num_rows).sum())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_statement_says_what_is_wrong_where_and_what_instead() {
    let queries = queries();
    for (sql, expected) in [
        ("", "there is no statement\n  hint: send one, such as SELECT 1."),
        (" -- nothing", "there is no statement\n  hint: send one, such as SELECT 1."),
        ("SELECT 'open", "1:8: unterminated string literal"),
        ("SELECT (1", "expected: ), found: EOF"),
        ("SELECT * FROM generate_series", ""),
        ("SELECT 1;\n\nDELETE FROM t", "2 statements were sent at once\n  hint: send them one by one."),
        ("SELECT\n  abss(1)", "2:3: invalid function 'abss'\n  hint: did you mean 'abs'?"),
        ("SELECT wom FROM (SELECT 1 AS won)", "1:8: column \"wom\" does not exist\n  hint: did you mean \"won\"?"),
        (
            "SELECT t.b FROM (SELECT 1 AS a) AS t",
            "1:8: column \"b\" does not exist in \"t\"\n  hint: did you mean \"a\"?",
        ),
        ("SELECT * FROM queries", "1:15: table \"queries\" does not exist\n  hint: there is \"system.queries\"."),
        (
            "SELECT * FROM system.querie",
            "1:15: table \"system.querie\" does not exist\n  hint: did you mean \"queries\"?",
        ),
        ("SELECT * FROM sytem.queries", "1:15: schema \"sytem\" does not exist\n  hint: did you mean \"system\"?"),
        ("SELECT * FROM a.b.c", "1:15: catalog \"a\" does not exist\n  hint: the only catalog is \"pipe\"."),
        ("SELECT $x", "1:8: parameter \"$x\" has no number\n  hint: parameters are $1, $2, ... or ? in their order."),
        ("SELECT $0", "1:8: parameter \"$0\" has no number\n  hint: parameters are $1, $2, ... or ? in their order."),
        ("SELECT ?, $1", "1:11: parameters are written both as ? and as $n\n  hint: choose one way."),
        ("SELECT $1, $3", "the query has 3 parameters, no parameters given"),
        ("SELECT * FROM system.queries FOR SYSTEM_TIME AS OF 1", ""),
    ] {
        let e = queries.run(sql, Vec::new(), None).await.err().unwrap_or_else(|| panic!("{sql}: was taken"));
        assert_eq!(e.kind, Kind::Wrong, "{sql}: {e}");
        if !expected.is_empty() {
            assert_eq!(e.to_string(), expected, "{sql}");
        }
    }
    assert_eq!(queries.running().count(), 0, "what was refused does not run");
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_but_queries_is_taken() {
    let queries = queries();
    for sql in [
        "CREATE TABLE t (a INT)",
        "CREATE VIEW v AS SELECT 1",
        "CREATE EXTERNAL TABLE t STORED AS CSV LOCATION '/etc/passwd'",
        "CREATE FUNCTION f() RETURNS INT RETURN 1",
        "INSERT INTO t VALUES (1)",
        "DELETE FROM t",
        "UPDATE t SET a = 1",
        "COPY (SELECT 1) TO 'x.csv'",
        "DROP TABLE t",
        "SET datafusion.execution.batch_size = 1",
        "RESET datafusion.execution.batch_size",
        "BEGIN",
        "PREPARE p AS SELECT 1",
        "EXECUTE p",
        "EXPLAIN CREATE TABLE t (a INT)",
        "EXPLAIN ANALYZE COPY (SELECT 1) TO 'x.csv'",
        "SELECT 1 AS a INTO t",
    ] {
        let refused = rows(&queries, sql, Vec::new()).await;
        assert!(matches!(&refused, Err(e) if e.kind == Kind::Wrong), "{sql}: {refused:?}");
    }
    for sql in ["SELECT 1", "VALUES (1)", "EXPLAIN SELECT 1", "SHOW TABLES", "DESCRIBE system.queries"] {
        rows(&queries, sql, Vec::new()).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_file_of_the_machine_can_be_read() {
    let queries = queries();
    for sql in ["SELECT * FROM '/etc/passwd'", "SELECT * FROM 'x.csv'", "SELECT * FROM \"/etc/passwd\""] {
        let refused = rows(&queries, sql, Vec::new()).await;
        assert!(matches!(&refused, Err(e) if e.kind == Kind::Wrong), "{sql}: {refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_keeps_its_word() {
    let queries = queries();
    for sql in [
        "SELECT 1 AS a UNION ALL SELECT 2.5",
        "SELECT arrow_cast('x', 'Utf8View') AS v",
        "SELECT count(*) AS n, sum(a) AS s FROM (VALUES (1), (NULL)) AS t(a)",
        "SELECT a.sql, b.id FROM system.queries a LEFT JOIN system.queries b ON a.id = b.id + 1",
        "EXPLAIN SELECT 1",
        "SHOW TABLES",
    ] {
        let told = queries.describe(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}")).schema;
        let stream = queries.run(sql, Vec::new(), None).await.expect("runs");
        assert_eq!(stream.schema, told, "{sql}");
        let batches: Vec<RecordBatch> = stream.try_collect().await.unwrap_or_else(|e| panic!("{sql}: {e}"));
        assert!(batches.iter().all(|b| b.schema() == told), "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_are_in_the_order_of_their_numbers_with_the_types_they_are_compared_to() {
    let queries = queries();
    let sql =
        "SELECT id FROM system.queries WHERE id = $2 AND sql LIKE $10 AND rows BETWEEN $1 AND $11 AND started_at > $3";
    let described = queries.describe(sql).await.expect("plans").parameters;
    let schema = described.schema();
    let told: Vec<(&str, &DataType)> = schema.fields().iter().map(|f| (f.name().as_str(), f.data_type())).collect();
    assert_eq!(told.len(), 11);
    assert_eq!(told[0], ("$1", &DataType::Int64));
    assert_eq!(told[3], ("$4", &DataType::Null), "a number nobody uses");
    assert_eq!(told[9], ("$10", &DataType::Utf8));
    assert!(matches!(told[2].1, DataType::Timestamp(..)));

    let text = ScalarValue::from("7");
    assert_eq!(rows(&queries, "SELECT 1 WHERE CAST($1 AS BIGINT) = 7", vec![text.clone()]).await, Ok(1));
    assert_eq!(rows(&queries, "SELECT id FROM system.queries WHERE id = ?", vec![text]).await, Ok(0));
    let wrong = rows(&queries, "SELECT id FROM system.queries WHERE id = $1", vec![ScalarValue::from("x")]).await;
    assert!(wrong.expect_err("is refused").to_string().contains("is not a Int64"));
}

#[tokio::test(flavor = "multi_thread")]
async fn nulls_come_last_as_in_materialized_views() {
    let queries = queries();
    let sql = "SELECT y FROM (VALUES (1), (NULL), (3)) AS t(y) ORDER BY y DESC LIMIT 1";
    let batches: Vec<RecordBatch> =
        queries.run(sql, Vec::new(), None).await.expect("runs").try_collect().await.expect("runs");
    assert!(!batches[0].column(0).is_null(0));
}

const ENDLESS: &str = "SELECT value FROM generate_series(1, 1000000000000)";

async fn until_none_runs(queries: &Queries) {
    for _ in 0..500 {
        if queries.running().count() == 0 {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
    panic!("{} queries still run", queries.running().count());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_listed_while_it_runs_and_gone_when_its_stream_is() {
    let queries = queries();
    let mut stream = queries.run(ENDLESS, Vec::new(), None).await.expect("starts");
    stream.next().await.expect("has rows").expect("runs");
    assert_eq!(queries.running().rows().num_rows(), 1);
    drop(stream);
    until_none_runs(&queries).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancelled_query_ends_with_an_error_not_with_an_end() {
    let queries = queries();
    for by_tag in [true, false] {
        let mut stream = queries.run(ENDLESS, Vec::new(), Some(7)).await.expect("starts");
        stream.next().await.expect("has rows").expect("runs");
        match by_tag {
            true => assert_eq!(queries.running().cancel_tag(7), 1),
            false => assert!(queries.running().cancel(stream.id)),
        }
        let last = loop {
            match stream.next().await {
                Some(Ok(_)) => {}
                Some(Err(e)) => break e,
                None => panic!("a cancelled query must not look complete"),
            }
        };
        assert_eq!(last.kind, Kind::Cancelled);
        assert!(stream.next().await.is_none());
        until_none_runs(&queries).await;
    }
    assert!(!queries.running().cancel(1) && queries.running().cancel_tag(7) == 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn too_many_queries_at_a_time_are_refused_until_one_ends() {
    let queries = queries();
    let mut open = Vec::new();
    for _ in 0..QUERIES_MAX {
        open.push(queries.run("SELECT 1", Vec::new(), None).await.expect("there is room"));
    }
    let refused = queries.run("SELECT 1", Vec::new(), None).await.err().expect("there is no room");
    assert_eq!(refused.kind, Kind::Exhausted);
    open.pop();
    queries.run("SELECT 1", Vec::new(), None).await.expect("there is room again");
}
