//! What becomes of state, tables and positions under a changed config: one line per thing.

use super::*;
use crate::checkpoint::feeds::first_feeds;
use crate::checkpoint::next::{Cut, first_record, next_record};
use crate::checkpoint::record::ViewRecord;
use crate::checkpoint::testing::{author, chain, empty_cut, moved, written};
use crate::config::section::Section;
use crate::config::spec::PipelineSpec;
use crate::engine::recover::feedings;
use crate::sinks::delta::config::FloatEncoding;
use crate::sinks::delta::sink::DeltaSink;
use crate::sinks::delta::table::TableSpec;
use crate::sql::plan::SqlFile;
use crate::types::catalog::{Catalog, SinkKind, SourceFacts};
use arrow::datatypes::{DataType, Field, Schema};
use std::sync::Arc;

const BASE: &str = "CREATE TABLE s (id TEXT NOT NULL, n INT);
CREATE MATERIALIZED VIEW sums AS SELECT id, sum(n) AS s FROM s GROUP BY id;
INSERT INTO lake.points SELECT id, n FROM s;";

async fn plan(text: &str) -> Plan {
    let mut catalog = Catalog::default();
    catalog.sources.insert("s".into(), SourceFacts::default());
    catalog.sinks.insert("lake".into(), SinkKind::Append);
    let files = [SqlFile { path: "a.sql".into(), text: text.into() }];
    crate::sql::compile(&files, &catalog).await.unwrap_or_else(|faults| panic!("{faults:?}"))
}

/// The record of a pipeline that ran `BASE` over ten messages.
async fn head() -> Record {
    let views = plan(BASE).await.views;
    let view = |v: &Arc<crate::sql::plan::MaterializedView>| ViewRecord {
        name: v.name.to_string(),
        fingerprint: v.fingerprint.clone(),
        segments: vec![],
        complete_from: None,
    };
    let first = first_record(chain("a"), "fleet", author("1"));
    let cut = Cut {
        partitions: vec![moved("p", 0, 10)],
        views: views.iter().map(view).collect(),
        tables: vec![written("points", 7)],
        ..empty_cut(1)
    };
    let mut head = next_record(&first, author("2"), cut);
    head.feeds = first_feeds(&feedings(&plan(BASE).await));
    head
}

/// The table as the records have it, in two megabytes.
struct Whole;

#[async_trait]
impl Counts for Whole {
    async fn census(&self, _: &str, _: &str) -> Result<Option<Census>> {
        Ok(Some(Census { rows: 7, bytes: 2_000_000, ..Census::default() }))
    }
}

async fn fates(plan: &Plan, head: &Record) -> Vec<Option<Fated>> {
    let mut fates = Vec::new();
    for view in 0..plan.views.len() {
        fates.push(Some(rebuild::fate(plan, view, head, &Whole).await.unwrap()));
    }
    fates
}

fn looked(id: Option<&str>, fit: Fit) -> Vec<(String, String, Looked)> {
    vec![("lake".into(), "points".into(), Looked { id: id.map(str::to_owned), fit })]
}

fn config() -> Config {
    Config { pipeline: PipelineSpec { name: "fleet".into(), ..Default::default() }, ..Default::default() }
}

async fn check(text: &str, looked: Vec<(String, String, Looked)>, expected: &[&str]) {
    let (plan, head) = (plan(text).await, head().await);
    let found = compare(Some(&head), &config(), &plan, looked, &fates(&plan, &head).await);
    let shown = |c: &Changed| format!("{} {:?} {}", c.name, c.fate, c.why).trim().to_string();
    let lines: Vec<String> = found.views.iter().chain(&found.tables).map(shown).collect();
    assert_eq!(lines.len(), expected.len(), "{lines:?}");
    for (line, expected) in lines.iter().zip(expected) {
        assert!(line.starts_with(expected), "expected {expected}\nfound    {line}");
    }
    assert_eq!(
        found.loses_state(),
        lines.iter().any(|l| l.contains("sums Reset") || l.contains("sums Gone")),
        "{text}"
    );
    assert_eq!(found.is_refused(), lines.iter().any(|l| l.contains("Incompatible")), "{text}");
}

#[tokio::test]
async fn what_a_change_keeps_and_what_it_resets() {
    let same = || looked(Some("id-1"), Fit::Same);
    check(BASE, same(), &["sums Kept", "lake.points Kept"]).await;
    let other = BASE.replace("sum(n)", "max(n)");
    let rebuilt = "sums Rebuilt rebuilt from lake.points (7 rows, 2.0 MB); its query, a view below it";
    check(&other, same(), &[rebuilt, "lake.points Kept"]).await;
    let lacking = other.replace("SELECT id, n FROM", "SELECT id FROM");
    let reset = "sums Reset its query, a view below it, or a column, source or route that it reads has changed; starts empty, \
                 complete from the next epoch on, because lake.points lacks what is read of \"s\": n";
    check(&lacking, same(), &[reset, "lake.points Kept"]).await;
    let added = BASE.replace("n INT", "n INT, more TEXT").replace("id, n FROM", "id, n, more FROM");
    let grows = looked(Some("id-1"), Fit::Grows(vec!["more".into()]));
    check(&added, grows, &["sums Kept", "lake.points Grows columns added: more"]).await;
    let renamed = BASE.replace("sums", "totals");
    let both =
        ["totals New rebuilt from lake.points (7 rows, 2.0 MB)", "sums Gone its state is dropped", "lake.points Kept"];
    check(&renamed, same(), &both).await;
    let without_insert = BASE.split("INSERT").next().unwrap();
    check(without_insert, vec![], &["sums Kept", "lake.points Gone no statement writes it any more"]).await;
}

#[tokio::test]
async fn what_a_start_would_refuse() {
    let misfit = Fit::Misfit { what: "column \"n\" is long".into(), hint: "CAST it.".into() };
    let expected = ["sums Kept", "lake.points Incompatible column \"n\" is long. CAST it."];
    check(BASE, looked(Some("id-1"), misfit), &expected).await;
    let swapped = ["sums Kept", "lake.points Incompatible it is not the table that the records were written for"];
    check(BASE, looked(Some("id-2"), Fit::Same), &swapped).await;
    check(BASE, looked(None, Fit::New), &swapped).await;
    let mut renamed = config();
    renamed.pipeline.name = "other".into();
    let (plan, head) = (plan(BASE).await, head().await);
    let fates = fates(&plan, &head).await;
    let found = compare(Some(&head), &renamed, &plan, looked(Some("id-1"), Fit::Same), &fates);
    assert!(found.refusals[0].contains("belongs to pipeline \"fleet\", this one is \"other\""), "{:?}", found.refusals);
}

#[tokio::test]
async fn positions_and_new_statements() {
    let text = format!("{BASE}\nINSERT INTO lake.more SELECT id FROM s;");
    let mut tables = looked(Some("id-1"), Fit::Same);
    tables.push(("lake".into(), "more".into(), Looked { id: None, fit: Fit::New }));
    let (other, head) = (plan(&text).await, head().await);
    let found = compare(Some(&head), &config(), &other, tables, &fates(&other, &head).await);
    assert_eq!(found.tables[1].why, "its rows start at the cut");
    let standing = Standing { source: "s".into(), partition: "p".into(), position: 10, is_read: false };
    assert_eq!(found.partitions, [standing], "the config has no source");
    let nothing = compare(None, &config(), &plan(BASE).await, looked(None, Fit::New), &[None]);
    assert!(nothing.head.is_none() && !nothing.loses_state() && !nothing.is_refused());
    assert_eq!((nothing.views[0].fate, nothing.tables[0].fate), (Fate::New, Fate::New));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_looked_at_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    let uri = dir.path().join("lake");
    let text = format!("uri = '{}'\nfloat_encoding = 'plain'", uri.display());
    let section = Section::from_text("delta", "lake", &text).unwrap();
    let config = crate::sinks::delta::config::validate(&section).unwrap();
    let spec = |columns: &[(&str, DataType)]| TableSpec {
        name: "points".into(),
        schema: Arc::new(Schema::new(
            columns.iter().map(|(name, of)| Field::new(*name, of.clone(), true)).collect::<Vec<_>>(),
        )),
        partition_by: vec![],
    };
    let one = spec(&[("id", DataType::Utf8)]);
    let found = look("lake", &config, &section, &one).await.unwrap();
    assert_eq!((found.id, found.fit, uri.exists()), (None, Fit::New, false));
    let location = crate::env::store::open(uri.to_str().unwrap(), &Default::default()).unwrap();
    let sink = DeltaSink::at("lake", location, FloatEncoding::Plain).await.unwrap();
    let table = sink.open_table(one.clone(), "pipe/a/lake.points").await.unwrap();
    let found = look("lake", &config, &section, &one).await.unwrap();
    assert_eq!((found.id, found.fit), (Some(table.id()), Fit::Same));
    let two = spec(&[("id", DataType::Utf8), ("n", DataType::Int32)]);
    assert_eq!(look("lake", &config, &section, &two).await.unwrap().fit, Fit::Grows(vec!["n".into()]));
    let other = spec(&[("id", DataType::Int32)]);
    let misfit = look("lake", &config, &section, &other).await.unwrap().fit;
    assert!(matches!(&misfit, Fit::Misfit { what, .. } if what.contains("\"id\"")), "{misfit:?}");
    let by = TableSpec { partition_by: vec!["id".into()], ..two };
    assert!(matches!(look("lake", &config, &section, &by).await.unwrap().fit, Fit::Misfit { .. }));
    assert_eq!(table.snapshot().version, 0, "nothing was written");
}
