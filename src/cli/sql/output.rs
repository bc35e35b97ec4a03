//! Rows as people and programs read them.

use crate::cli::sql::client::{Client, Trouble};
use crate::serve::http::format::{Encoder, Format};
use arrow::record_batch::RecordBatch;
use arrow::util::pretty::pretty_format_batches_with_schema;
use futures::TryStreamExt;
use std::io::{self, Write};

/// Rows of a table on a terminal: its columns' widths are known only when all are there.
const TABLE_ROWS_MAX: usize = 10_000;

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Style {
    /// For people
    Table,
    Csv,
    /// An array of objects
    Json,
    /// One object per line
    Ndjson,
}

#[derive(Debug)]
pub enum Printed {
    All,
    ReaderLeft,
}

pub async fn print(client: &mut Client, sql: &str, style: Style, out: &mut impl Write) -> Result<Printed, Trouble> {
    let (schema, mut rows) = client.query(sql).await?;
    let format = match style {
        Style::Csv => Format::Csv,
        Style::Json => Format::Json,
        Style::Ndjson => Format::Ndjson,
        Style::Table => {
            let mut batches: Vec<RecordBatch> = Vec::new();
            let (mut count, mut more) = (0, false);
            while let Some(batch) = rows.try_next().await? {
                let room = TABLE_ROWS_MAX - count;
                more = batch.num_rows() > room;
                count += batch.num_rows().min(room);
                batches.push(batch.slice(0, batch.num_rows().min(room)));
                if more {
                    break;
                }
            }
            let table = pretty_format_batches_with_schema(schema, &batches).map_err(|e| Trouble::run(e.to_string()))?;
            let plural = if count == 1 { "" } else { "s" };
            let note = if more { ", and more: --format csv prints all" } else { "" };
            return written(writeln!(out, "{table}\n({count} row{plural}{note})"));
        }
    };
    let mut encoder = Encoder::new(format, schema);
    let failed = |e: crate::query::error::QueryError| Trouble::run(e.to_string());
    while let Some(batch) = rows.try_next().await? {
        let piece = encoder.batch(&batch).map_err(failed)?;
        if let Printed::ReaderLeft = written(out.write_all(&piece))? {
            return Ok(Printed::ReaderLeft);
        }
    }
    let piece = encoder.end().map_err(failed)?;
    written(out.write_all(&piece).and_then(|()| out.flush()))
}

fn written(result: io::Result<()>) -> Result<Printed, Trouble> {
    match result {
        Ok(()) => Ok(Printed::All),
        Err(e) if e.kind() == io::ErrorKind::BrokenPipe => Ok(Printed::ReaderLeft),
        Err(e) => Err(Trouble::run(format!("cannot write the result: {e}"))),
    }
}
