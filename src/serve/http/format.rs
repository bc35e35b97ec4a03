//! Rows as JSON, NDJSON, CSV or an Arrow stream, batch by batch.

use crate::query::error::QueryError;
use crate::serve::http::answer::Problem;
use arrow::array::{ArrayRef, StringArray};
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use arrow::error::ArrowError;
use arrow::ipc::writer::StreamWriter;
use arrow::json::writer::{LineDelimited, WriterBuilder};
use arrow::record_batch::RecordBatch;
use axum::body::Bytes;
use axum::http::StatusCode;
use std::sync::Arc;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Format {
    /// An array of objects.
    Json,
    Ndjson,
    Csv,
    Arrow,
}

impl Format {
    /// The first of `Accept` that we speak; its weights are ignored, as every client that sends them lists by preference.
    pub fn wanted(accept: Option<&str>) -> Result<Format, Problem> {
        let Some(accept) = accept.filter(|a| !a.trim().is_empty()) else { return Ok(Format::Json) };
        let known = accept.split(',').find_map(|one| {
            let kind = one.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
            match kind.as_str() {
                "application/json" | "application/*" | "*/*" => Some(Format::Json),
                "application/x-ndjson" | "application/jsonl" | "application/ndjson" => Some(Format::Ndjson),
                "text/csv" | "text/*" => Some(Format::Csv),
                "application/vnd.apache.arrow.stream" => Some(Format::Arrow),
                _ => None,
            }
        });
        known.ok_or_else(|| {
            Problem::new(StatusCode::NOT_ACCEPTABLE, format!("rows cannot be sent as {accept}")).hint(
                "there is application/json, application/x-ndjson, text/csv and application/vnd.apache.arrow.stream.",
            )
        })
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson => "application/x-ndjson",
            Format::Csv => "text/csv; charset=utf-8; header=present",
            Format::Arrow => "application/vnd.apache.arrow.stream",
        }
    }
}

/// Turns batches into pieces of a body.
pub struct Encoder {
    format: Format,
    schema: SchemaRef,
    /// Arrow: keeps what the stream has told already.
    arrow: Option<StreamWriter<Vec<u8>>>,
    begun: bool,
}

type Piece = Result<Bytes, QueryError>;

impl Encoder {
    pub fn new(format: Format, schema: SchemaRef) -> Self {
        Encoder { format, schema, arrow: None, begun: false }
    }

    pub fn batch(&mut self, batch: &RecordBatch) -> Piece {
        self.piece(Some(batch)).map_err(|e| QueryError::failed(format!("rows could not be written: {e}")))
    }

    pub fn end(&mut self) -> Piece {
        self.piece(None).map_err(|e| QueryError::failed(format!("rows could not be written: {e}")))
    }

    fn piece(&mut self, batch: Option<&RecordBatch>) -> Result<Bytes, ArrowError> {
        let first = !self.begun;
        // JSON begins with its first row, which need not be in the first batch; CSV with its header.
        self.begun |= self.format == Format::Csv || batch.is_some_and(|b| b.num_rows() > 0);
        match self.format {
            Format::Ndjson => batch.map_or(Ok(Bytes::new()), |b| lines(b).map(Bytes::from)),
            Format::Json => json(batch, first),
            Format::Csv => csv(batch, &self.schema, first),
            Format::Arrow => self.arrow(batch),
        }
    }

    fn arrow(&mut self, batch: Option<&RecordBatch>) -> Result<Bytes, ArrowError> {
        let writer = match &mut self.arrow {
            Some(writer) => writer,
            none => none.insert(StreamWriter::try_new(Vec::new(), &self.schema)?),
        };
        match batch {
            Some(batch) => writer.write(batch)?,
            None => writer.finish()?,
        }
        Ok(std::mem::take(writer.get_mut()).into())
    }
}

/// One object per line; nulls are written, so that every row has every column.
fn lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(Vec::new());
    writer.write(batch)?;
    writer.finish()?;
    Ok(writer.into_inner())
}

/// Lines joined by commas: no line break occurs inside of one, JSON escapes them.
fn json(batch: Option<&RecordBatch>, first: bool) -> Result<Bytes, ArrowError> {
    let Some(batch) = batch else { return Ok(if first { "[]\n".into() } else { "\n]\n".into() }) };
    let mut piece = Vec::new();
    let mut open = first;
    for line in lines(batch)?.split(|b| *b == b'\n').filter(|l| !l.is_empty()) {
        piece.extend_from_slice(if open { b"[\n" } else { b",\n" });
        piece.extend_from_slice(line);
        open = false;
    }
    Ok(piece.into())
}

fn csv(batch: Option<&RecordBatch>, schema: &SchemaRef, first: bool) -> Result<Bytes, ArrowError> {
    let batch = match batch {
        Some(batch) => flat(batch)?,
        // A result without rows still has a header.
        None if first => flat(&RecordBatch::new_empty(schema.clone()))?,
        None => return Ok(Bytes::new()),
    };
    let mut writer = arrow::csv::WriterBuilder::new().with_header(first).build(Vec::new());
    writer.write(&batch)?;
    Ok(writer.into_inner().into())
}

/// Nested columns as JSON text, since CSV has no other way.
fn flat(batch: &RecordBatch) -> Result<RecordBatch, ArrowError> {
    let (mut fields, mut columns) = (Vec::new(), Vec::new());
    for (field, column) in batch.schema().fields().iter().zip(batch.columns()) {
        if field.data_type().is_nested() {
            fields.push(Field::new(field.name(), DataType::Utf8, true));
            columns.push(as_json(column)?);
        } else {
            fields.push(field.as_ref().clone());
            columns.push(column.clone());
        }
    }
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns)
}

fn as_json(column: &ArrayRef) -> Result<ArrayRef, ArrowError> {
    let schema = Schema::new(vec![Field::new("v", column.data_type().clone(), true)]);
    let lines = lines(&RecordBatch::try_new(Arc::new(schema), vec![column.clone()])?)?;
    // Each line is {"v":...}.
    let values = lines.split(|b| *b == b'\n').filter(|l| !l.is_empty()).map(|line| {
        let value = line.strip_prefix(b"{\"v\":").and_then(|l| l.strip_suffix(b"}")).unwrap_or(line);
        (value != b"null").then(|| String::from_utf8_lossy(value).into_owned())
    });
    Ok(Arc::new(StringArray::from_iter(values)))
}
