//! Dead letters for people and for a replay: straight from their table, with a predicate. No pipeline needs to run.
//!
//! A message has one row per attempt. It is dead while the row with its highest attempt says why; a row that says
//! `replayed` ends that. Beside the table's own columns there are `text` (the payload, where it is UTF-8) and `code` (the
//! reason's first word). A message is recognised by source, topic, partition, position and time of receipt: the first four
//! alone come again when a chain begins anew over the same source.

use crate::query::boundary;
use crate::query::error::{QueryError, Result};
use crate::types::reject::REPLAYED;
use arrow::array::{Array, AsArray};
use arrow::datatypes::{Int64Type, SchemaRef};
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::common::ScalarValue;
use datafusion::dataframe::DataFrame;
use datafusion::execution::SendableRecordBatchStream;
use datafusion::execution::memory_pool::FairSpillPool;
use datafusion::execution::runtime_env::RuntimeEnvBuilder;
use datafusion::prelude::{Expr, SessionConfig, SessionContext, col, lit};
use std::sync::Arc;

/// Columns that came later, and what stands for them in a table that has none of them yet.
const LATER: [(&str, &str); 3] = [
    ("headers", "CAST(NULL AS VARCHAR)"),
    ("timestamp", "arrow_cast(NULL, 'Timestamp(Microsecond, Some(\"UTC\"))')"),
    ("chain", "CAST(NULL AS VARCHAR)"),
];

/// What the table gives, with the two columns that a predicate is mostly about.
const TRIED: &str = "SELECT *, TRY_CAST(payload AS VARCHAR) AS text, split_part(reason, ':', 1) AS code FROM stored";

/// Messages with several attempts: few, so that they and not the payloads are what a join holds in memory.
const AGAIN: &str = "SELECT source, coalesce(topic, '') AS topic, partition, position, received_at, max(attempt) AS last \
     FROM tried WHERE attempt > 1 GROUP BY source, coalesce(topic, ''), partition, position, received_at";

const SAME: &str = "again.source = tried.source AND again.topic = coalesce(tried.topic, '') \
     AND again.partition = tried.partition AND again.position = tried.position \
     AND again.received_at = tried.received_at";

const COUNTED: &str = "SELECT source, code AS reason, statement, count(*) AS messages, min(received_at) AS first_received, \
     max(received_at) AS last_received, min(reason) AS example \
     FROM letters GROUP BY source, code, statement ORDER BY messages DESC, source, code, statement";

const SHOWN: &str = "SELECT source, topic, partition, position, \
     coalesce(TRY_CAST(key AS VARCHAR), encode(key, 'hex')) AS key, received_at, \"timestamp\", headers, attempt, statement, \
     reason, text AS payload, CASE WHEN text IS NULL THEN encode(payload, 'hex') END AS payload_hex \
     FROM letters ORDER BY received_at DESC, source, partition, position DESC, attempt DESC";

/// As they were received, the oldest first.
const IN_ORDER: &str = "SELECT source, topic, partition, position, key, received_at, attempt, payload, headers, \
     \"timestamp\" FROM letters ORDER BY received_at, source, topic, partition, position";

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Which {
    /// Still dead, each as it failed last.
    #[default]
    Dead,
    /// Replayed since, each as it failed last before that.
    Replayed,
}

/// Which letters are meant; all that is said must hold.
#[derive(Clone, Debug, Default)]
pub struct Wish {
    pub which: Which,
    pub source: Option<String>,
    /// The reason's first word.
    pub reason: Option<String>,
    /// Received then or later, microseconds UTC.
    pub since_us: Option<i64>,
    /// SQL over the columns.
    pub predicate: Option<String>,
}

/// What a pipeline can take back.
#[derive(Clone, Debug)]
pub struct Replayable {
    pub chain: String,
    /// Sources that its SQL reads.
    pub sources: Vec<String>,
    /// Take letters of builds that did not keep chain, headers and the source's own time.
    pub older: bool,
}

/// Letters that a replay leaves where they are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftBehind {
    pub source: String,
    pub why: Why,
    pub messages: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Why {
    /// They are of another chain: of another pipeline with the same table, or from before this one began anew.
    OtherChain,
    /// They are of a build that did not keep chain, headers and the source's own time.
    Older,
    /// No table reads their source.
    Unread,
}

pub struct DeadLetters {
    session: SessionContext,
}

pub struct Answer {
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

impl DeadLetters {
    /// `table`: the dead letters at one version. What is wrong with the wish's predicate is an error here. `memory_bytes`:
    /// what sorting and counting may hold before they spill.
    pub async fn new(table: Arc<dyn TableProvider>, wish: &Wish, memory_bytes: u64) -> Result<Self> {
        let mut config = SessionConfig::new().with_target_partitions(1);
        let options = config.options_mut();
        options.execution.time_zone = Some("UTC".into());
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        // The side of a join that is held in memory is the one that AGAIN makes.
        options.optimizer.join_reordering = false;
        let pool = FairSpillPool::new(usize::try_from(memory_bytes).unwrap_or(usize::MAX));
        let environment = RuntimeEnvBuilder::new().with_memory_pool(Arc::new(pool)).build_arc()?;
        let mut session = SessionContext::new_with_config_rt(config, environment);
        datafusion_functions_json::register_all(&mut session)?;
        let columns = table.schema();
        session.register_table("stored", table)?;
        let mut tried = TRIED.to_string();
        for (name, absent) in LATER.iter().filter(|(name, _)| columns.field_with_name(name).is_err()) {
            tried = tried.replacen("*,", &format!("*, {absent} AS \"{name}\","), 1);
        }
        session.register_table("tried", session.sql(&tried).await?.into_view())?;
        let letters = match wish.which {
            Which::Dead => format!(
                "SELECT tried.* FROM ({AGAIN}) AS again RIGHT ANTI JOIN tried ON {SAME} AND tried.attempt < again.last \
                 WHERE tried.code IS DISTINCT FROM '{REPLAYED}'"
            ),
            Which::Replayed => format!(
                "SELECT tried.* FROM ({AGAIN} HAVING max(CASE WHEN code = '{REPLAYED}' THEN attempt END) = max(attempt)) \
                 AS again RIGHT SEMI JOIN tried ON {SAME} AND tried.attempt = again.last - 1"
            ),
        };
        let mut letters = session.sql(&letters).await?;
        let text = |value: &str| lit(ScalarValue::from(value));
        let time = |us: i64| lit(ScalarValue::TimestampMicrosecond(Some(us), Some("UTC".into())));
        let said = [
            wish.source.as_ref().map(|source| col("source").eq(text(source))),
            wish.reason.as_ref().map(|code| col("code").eq(text(code))),
            wish.since_us.map(|us| col("received_at").gt_eq(time(us))),
        ];
        for filter in said.into_iter().flatten() {
            letters = letters.filter(filter)?;
        }
        if let Some(predicate) = &wish.predicate {
            let predicate = session.parse_sql_expr(predicate, letters.schema())?;
            letters = letters.filter(predicate)?;
        }
        session.register_table("letters", letters.into_view())?;
        Ok(DeadLetters { session })
    }

    /// By source, reason and statement, the most first.
    pub async fn counted(&self, limit: usize) -> Result<Answer> {
        self.ask(COUNTED, limit).await
    }

    /// One by one, the newest first.
    pub async fn shown(&self, limit: usize) -> Result<Answer> {
        self.ask(SHOWN, limit).await
    }

    /// Only what can be replayed from here on; the rest is told.
    pub async fn narrow(&mut self, to: &Replayable) -> Result<Vec<LeftBehind>> {
        let letters = self.session.table("letters").await?;
        let sources: Vec<Expr> = to.sources.iter().map(|s| lit(s.as_str())).collect();
        let of_chain = col("chain").eq(lit(to.chain.as_str()));
        let is_older = col("chain").is_null();
        let is_read = col("source").in_list(sources, false);
        let may_be_older = if to.older { is_older.clone() } else { lit(false) };
        let taken = of_chain.clone().or(may_be_older.clone()).and(is_read.clone());
        let mut left = Vec::new();
        for (why, are) in [
            (Why::OtherChain, is_older.clone().is_false().and(of_chain.clone().is_not_true())),
            (Why::Older, is_older.and(may_be_older.clone().is_not_true())),
            (Why::Unread, of_chain.or(may_be_older).is_true().and(is_read.is_not_true())),
        ] {
            left.extend(count_by_source(letters.clone().filter(are)?, why).await?);
        }
        let taken = letters.filter(taken)?.into_view();
        self.session.deregister_table("letters")?;
        self.session.register_table("letters", taken)?;
        Ok(left)
    }

    pub async fn is_empty(&self) -> Result<bool> {
        let one = self.session.table("letters").await?.limit(0, Some(1))?;
        Ok(one.count().await? == 0)
    }

    /// The oldest first, as `IN_ORDER` names their columns.
    pub async fn in_order(&self, limit: Option<usize>) -> Result<SendableRecordBatchStream> {
        let letters = self.session.sql(IN_ORDER).await?.limit(0, limit)?;
        Ok(letters.execute_stream().await?)
    }

    async fn ask(&self, sql: &str, limit: usize) -> Result<Answer> {
        let asked = self.session.sql(sql).await?.limit(0, Some(limit))?;
        let schema = boundary::schema(asked.schema().as_arrow());
        Ok(Answer { schema, rows: asked.collect().await? })
    }
}

async fn count_by_source(letters: DataFrame, why: Why) -> Result<Vec<LeftBehind>> {
    let count = datafusion::functions_aggregate::expr_fn::count(lit(1)).alias("messages");
    let counted = letters.aggregate(vec![col("source")], vec![count])?.sort_by(vec![col("source")])?;
    let mut left = Vec::new();
    for rows in counted.collect().await? {
        let (Some(sources), Some(messages)) =
            (rows.column(0).as_string_opt::<i32>(), rows.column(1).as_primitive_opt::<Int64Type>())
        else {
            return Err(QueryError::failed("sources of dead letters are not text"));
        };
        left.extend((0..rows.num_rows()).map(|i| LeftBehind {
            source: if sources.is_valid(i) { sources.value(i).to_string() } else { String::new() },
            why,
            messages: messages.value(i) as u64,
        }));
    }
    Ok(left)
}

#[cfg(test)]
mod tests {
    use super::*;
    use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, TimestampMicrosecondArray};
    use arrow::util::display::FormatOptions;
    use arrow::util::pretty::pretty_format_batches_with_options;
    use datafusion::catalog::MemTable;

    fn table() -> Arc<dyn TableProvider> {
        let text = |v: Vec<Option<&str>>| Arc::new(StringArray::from(v)) as ArrayRef;
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("source", text(vec![Some("a"), Some("a"), Some("b")])),
            ("topic", text(vec![None, None, Some("t")])),
            ("partition", text(vec![Some("p"), Some("p"), Some("0")])),
            ("position", Arc::new(Int64Array::from(vec![1, 2, 3]))),
            ("key", Arc::new(BinaryArray::from_opt_vec(vec![None, Some(b"k"), Some(b"\xff")]))),
            ("received_at", Arc::new(TimestampMicrosecondArray::from(vec![1, 2, 3]).with_timezone("UTC"))),
            ("reason", text(vec![Some("syntax: a"), Some("syntax: b"), Some("sql:v: divided by zero")])),
            ("statement", text(vec![None, None, Some("v")])),
            ("attempt", Arc::new(Int32Array::from(vec![1, 1, 1]))),
            ("payload", Arc::new(BinaryArray::from_opt_vec(vec![Some(b"{x"), None, Some(b"\xfe\x01")]))),
        ];
        let rows = RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true))).unwrap();
        Arc::new(MemTable::try_new(rows.schema(), vec![vec![rows]]).unwrap())
    }

    const MEMORY: u64 = 64 << 20;

    async fn open(table: Arc<dyn TableProvider>, which: Which, predicate: Option<&str>) -> Result<DeadLetters> {
        let wish = Wish { which, predicate: predicate.map(str::to_string), ..Wish::default() };
        DeadLetters::new(table, &wish, MEMORY).await
    }

    async fn lines(predicate: Option<&str>, show: bool) -> Vec<String> {
        let letters = open(table(), Which::Dead, predicate).await.unwrap();
        let answer = if show { letters.shown(2).await } else { letters.counted(10).await }.unwrap();
        let text = pretty_format_batches_with_options(&answer.rows, &FormatOptions::new().with_null("-")).unwrap();
        let rows = text.to_string();
        let rows = rows.lines().skip(3).filter(|l| !l.starts_with('+'));
        rows.map(|l| l.trim_matches('|').split('|').map(str::trim).collect::<Vec<_>>().join(" ")).collect()
    }

    #[tokio::test]
    async fn a_predicate_that_is_wrong_is_the_callers_fault() {
        for (predicate, says) in
            [("sorce = 'a'", "sorce"), ("source =", "expected"), ("source = 'a') UNION (SELECT 1", "")]
        {
            let error = open(table(), Which::Dead, Some(predicate)).await.err().expect("it is wrong");
            assert!(error.to_string().to_lowercase().contains(says), "{predicate}: {error}");
        }
    }

    #[tokio::test]
    async fn letters_are_counted() {
        assert_eq!(
            lines(None, false).await,
            [
                "a syntax - 2 1970-01-01T00:00:00.000001Z 1970-01-01T00:00:00.000002Z syntax: a",
                "b sql v 1 1970-01-01T00:00:00.000003Z 1970-01-01T00:00:00.000003Z sql:v: divided by zero",
            ]
        );
        assert_eq!(lines(Some("code = 'sql' AND text IS NULL"), false).await.len(), 1);
        assert_eq!(lines(Some("position > 100"), false).await.len(), 0);
    }

    #[tokio::test]
    async fn letters_are_shown_as_text_or_hex() {
        assert_eq!(
            lines(None, true).await,
            [
                "b t 0 3 ff 1970-01-01T00:00:00.000003Z - - 1 v sql:v: divided by zero - fe01",
                "a - p 2 k 1970-01-01T00:00:00.000002Z - - 1 - syntax: b - -",
            ]
        );
        assert_eq!(
            lines(Some("text LIKE '{%'"), true).await,
            ["a - p 1 - 1970-01-01T00:00:00.000001Z - - 1 - syntax: a {x -"]
        );
    }

    /// Over the table above, with the columns that came later: rows as (position, attempt, reason).
    async fn tried(rows: &str) -> Arc<dyn TableProvider> {
        let session = SessionContext::new();
        let values: Vec<String> = rows
            .split_whitespace()
            .map(|row| {
                let [position, attempt, reason] = row.split('/').collect::<Vec<_>>()[..] else { panic!("{row}") };
                let chain = if reason == "old" { "NULL" } else { "'c'" };
                format!(
                    "('s', NULL, 'p', {position}, NULL, TIMESTAMP '1970-01-01', '{reason}', {attempt}, 'x', {chain})"
                )
            })
            .collect();
        let sql = format!(
            "SELECT column1 AS source, CAST(column2 AS VARCHAR) AS topic, column3 AS partition, column4 AS position, \
             CAST(column5 AS BYTEA) AS key, column6 AS received_at, column7 AS reason, CAST(NULL AS VARCHAR) AS statement, \
             column8 AS attempt, CAST(column9 AS BYTEA) AS payload, column10 AS chain FROM (VALUES {})",
            values.join(", ")
        );
        session.sql(&sql).await.unwrap().into_view()
    }

    async fn found(table: Arc<dyn TableProvider>, which: Which) -> String {
        let letters = open(table, which, None).await.unwrap();
        let sql = "SELECT concat(position, '/', attempt, '/', reason) FROM letters ORDER BY position, attempt, reason";
        let rows = letters.ask(sql, 100).await.unwrap().rows;
        let of =
            |r: &RecordBatch| r.column(0).as_string::<i32>().iter().flatten().map(str::to_string).collect::<Vec<_>>();
        rows.iter().flat_map(of).collect::<Vec<_>>().join(" ")
    }

    #[tokio::test]
    async fn a_message_is_as_dead_as_its_last_attempt() {
        for (rows, dead, replayed) in [
            ("1/1/a", "1/1/a", ""),
            ("1/1/a 1/2/b 2/1/c", "1/2/b 2/1/c", ""),
            ("1/1/a 1/2/replayed 2/1/c", "2/1/c", "1/1/a"),
            ("1/1/a 1/3/replayed 1/2/b 2/1/c 2/2/d", "2/2/d", "1/2/b"),
            ("1/1/a 1/2/replayed:dropped", "", "1/1/a"),
            // What was never written twice is not hidden.
            ("1/1/a 1/1/b", "1/1/a 1/1/b", ""),
        ] {
            assert_eq!(found(tried(rows).await, Which::Dead).await, dead, "{rows}");
            assert_eq!(found(tried(rows).await, Which::Replayed).await, replayed, "{rows}");
        }
    }

    #[tokio::test]
    async fn a_replay_takes_its_own_and_tells_what_it_leaves() {
        let of =
            |chain: &str, source: &str, older| Replayable { chain: chain.into(), sources: vec![source.into()], older };
        for (of, taken, left) in [
            (of("c", "s", false), 2, vec![(Why::Older, 1)]),
            (of("c", "s", true), 3, vec![]),
            (of("d", "s", true), 1, vec![(Why::OtherChain, 2)]),
            (of("c", "other", false), 0, vec![(Why::Older, 1), (Why::Unread, 2)]),
            (of("c", "other", true), 0, vec![(Why::Unread, 3)]),
        ] {
            let mut letters = open(tried("1/1/a 2/1/old 3/1/b").await, Which::Dead, None).await.unwrap();
            let told = letters.narrow(&of).await.unwrap();
            assert_eq!(told.iter().map(|l| (l.why, l.messages)).collect::<Vec<_>>(), left, "{of:?}");
            assert_eq!(letters.is_empty().await.unwrap(), taken == 0, "{of:?}");
            let rows = datafusion::physical_plan::common::collect(letters.in_order(None).await.unwrap()).await.unwrap();
            assert_eq!(rows.iter().map(|r| r.num_rows()).sum::<usize>(), taken, "{of:?}");
        }
    }
}
