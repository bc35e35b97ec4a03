//! Dead letters for people: counted and shown straight from their table, with a predicate. No pipeline needs to run.
//!
//! Beside the table's own columns there are `text` (the payload, where it is UTF-8) and `code` (the reason's first word).

use crate::query::boundary;
use crate::query::error::Result;
use arrow::datatypes::SchemaRef;
use arrow::record_batch::RecordBatch;
use datafusion::catalog::TableProvider;
use datafusion::prelude::{SessionConfig, SessionContext};
use std::sync::Arc;

/// What the table gives, with the two columns that a predicate is mostly about.
const LETTERS: &str = "SELECT *, TRY_CAST(payload AS VARCHAR) AS text, split_part(reason, ':', 1) AS code FROM stored";

const COUNTED: &str = "SELECT source, code AS reason, statement, count(*) AS messages, min(received_at) AS first_received, \
     max(received_at) AS last_received, min(reason) AS example \
     FROM letters GROUP BY source, code, statement ORDER BY messages DESC, source, code, statement";

const SHOWN: &str = "SELECT source, topic, partition, position, \
     coalesce(TRY_CAST(key AS VARCHAR), encode(key, 'hex')) AS key, received_at, attempt, statement, reason, \
     text AS payload, CASE WHEN text IS NULL THEN encode(payload, 'hex') END AS payload_hex \
     FROM letters ORDER BY received_at DESC, source, partition, position DESC, attempt DESC";

pub struct DeadLetters {
    session: SessionContext,
}

pub struct Answer {
    pub schema: SchemaRef,
    pub rows: Vec<RecordBatch>,
}

impl DeadLetters {
    /// `table`: the dead letters at one version. `predicate`: SQL over the columns; what is wrong with it is an error here.
    pub async fn new(table: Arc<dyn TableProvider>, predicate: Option<&str>) -> Result<Self> {
        let mut config = SessionConfig::new().with_target_partitions(1);
        let options = config.options_mut();
        options.execution.time_zone = Some("UTC".into());
        options.execution.parquet.schema_force_view_types = false;
        options.sql_parser.map_string_types_to_utf8view = false;
        let mut session = SessionContext::new_with_config(config);
        datafusion_functions_json::register_all(&mut session)?;
        session.register_table("stored", table)?;
        let mut letters = session.sql(LETTERS).await?;
        if let Some(predicate) = predicate {
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

    async fn ask(&self, sql: &str, limit: usize) -> Result<Answer> {
        let asked = self.session.sql(sql).await?.limit(0, Some(limit))?;
        let schema = boundary::schema(asked.schema().as_arrow());
        Ok(Answer { schema, rows: asked.collect().await? })
    }
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

    async fn lines(predicate: Option<&str>, show: bool) -> Vec<String> {
        let letters = DeadLetters::new(table(), predicate).await.unwrap();
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
            let error = DeadLetters::new(table(), Some(predicate)).await.err().expect("it is wrong");
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
                "b t 0 3 ff 1970-01-01T00:00:00.000003Z 1 v sql:v: divided by zero - fe01",
                "a - p 2 k 1970-01-01T00:00:00.000002Z 1 - syntax: b - -",
            ]
        );
        assert_eq!(
            lines(Some("text LIKE '{%'"), true).await,
            ["a - p 1 - 1970-01-01T00:00:00.000001Z 1 - syntax: a {x -"]
        );
    }
}
