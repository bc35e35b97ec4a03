//! POST /api/v1/sql: a statement in the body, rows in the form that Accept asks for.

use crate::serve::http::Shared;
use crate::serve::http::answer::Problem;
use crate::serve::http::format::{Encoder, Format};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use datafusion::common::ScalarValue;
use futures::StreamExt;
use serde::Deserialize;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Encoded pieces between the query's threads and the connection; a slow reader stops the query. See `query::rows`.
const BUFFERED_PIECES_MAX: usize = 2;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Sent {
    sql: String,
    #[serde(default)]
    params: Vec<serde_json::Value>,
}

pub async fn post(State(shared): State<Shared>, headers: HeaderMap, body: Bytes) -> Result<Response, Problem> {
    let format = Format::wanted(headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()))?;
    let (sql, values) = statement(&headers, &body)?;
    let mut rows = shared.queries.run(&sql, values, None).await?;
    let id = rows.id;
    // The first batch decides the status: most of what goes wrong while running does so before it.
    let mut first = rows.next().await.transpose()?;
    let mut encoder = Encoder::new(format, rows.schema.clone());
    let (sender, pieces) = mpsc::channel::<Result<Bytes, std::io::Error>>(BUFFERED_PIECES_MAX);
    // On the query threads: encoding a batch takes longer than a server's thread may be held.
    shared.queries.runtime().spawn(async move {
        loop {
            let batch = match first.take() {
                Some(batch) => Some(Ok(batch)),
                None => rows.next().await,
            };
            let (piece, last) = match batch {
                Some(Ok(batch)) => (encoder.batch(&batch), false),
                None => (encoder.end(), true),
                Some(Err(e)) => (Err(e), true),
            };
            // An error cuts the connection in the middle of the body: an incomplete answer must not look complete.
            let last = last || piece.is_err();
            if let Err(e) = &piece {
                tracing::warn!(query = rows.id, error = %e, "a query failed while its rows were sent");
            }
            if sender.send(piece.map_err(std::io::Error::other)).await.is_err() || last {
                return;
            }
        }
    });
    let head =
        [(header::CONTENT_TYPE.as_str(), format.content_type().to_string()), ("x-pipe-query-id", id.to_string())];
    Ok((StatusCode::OK, head, Body::from_stream(ReceiverStream::new(pieces))).into_response())
}

fn statement(headers: &HeaderMap, body: &Bytes) -> Result<(String, Vec<ScalarValue>), Problem> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
    if kind.split(';').next().is_some_and(|k| k.trim().eq_ignore_ascii_case("application/json")) {
        let body: Sent = serde_json::from_slice(body).map_err(|e| {
            Problem::bad_request(format!("the body is not the JSON asked for: {e}"))
                .hint("send {\"sql\": \"SELECT ...\", \"params\": [...]}, or the statement alone as text/plain.")
        })?;
        let values = body.params.iter().map(scalar).collect::<Result<_, _>>()?;
        return Ok((body.sql, values));
    }
    let sql = std::str::from_utf8(body).map_err(|_| Problem::bad_request("the statement is not UTF-8"))?;
    Ok((sql.to_string(), Vec::new()))
}

/// The query casts it to the type it expects, so text is fine for timestamps and decimals.
fn scalar(value: &serde_json::Value) -> Result<ScalarValue, Problem> {
    use serde_json::Value;
    Ok(match value {
        Value::Null => ScalarValue::Null,
        Value::Bool(b) => ScalarValue::Boolean(Some(*b)),
        Value::String(s) => ScalarValue::Utf8(Some(s.clone())),
        Value::Number(n) => match (n.as_i64(), n.as_u64()) {
            (Some(i), _) => ScalarValue::Int64(Some(i)),
            (None, Some(u)) => ScalarValue::UInt64(Some(u)),
            (None, None) => ScalarValue::Float64(n.as_f64()),
        },
        Value::Array(_) | Value::Object(_) => {
            return Err(Problem::bad_request("a parameter is an array or an object")
                .hint("parameters are null, true, false, numbers and strings."));
        }
    })
}
