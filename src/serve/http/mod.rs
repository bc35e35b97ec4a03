//! HTTP: liveness, readiness, metrics, status, SQL and key-value reads.

pub mod answer; // errors as JSON
pub mod format; // rows as JSON, NDJSON, CSV, Arrow
pub mod sql; // POST /api/v1/sql

use crate::query::run::Queries;
use crate::serve::access::{Access, REFUSED_TEXT};
use crate::serve::http::answer::Problem;
use crate::serve::tls::Identity;
use crate::serve::{Facade, metrics};
use axum::Router;
use axum::extract::{MatchedPath, Path, RawQuery, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Json, Response};
use axum::routing::{delete, get, post};
use serde_json::json;
use std::sync::Arc;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

#[derive(Clone)]
pub struct Shared {
    pub facade: Arc<dyn Facade>,
    pub queries: Queries,
    pub access: Arc<Access>,
}

const INDEX: &str = "\
pipe

GET    /livez                       the process is up
GET    /readyz                      every component is ready (503: which one is not)
GET    /metrics                     Prometheus
GET    /api/v1/status               sources, ledger, views, tables, last record
POST   /api/v1/sql                  SQL in the body; Accept: application/json, application/x-ndjson, text/csv,
                                    application/vnd.apache.arrow.stream
DELETE /api/v1/queries/{id}         cancels a query of system.queries
GET    /api/v1/kv/{sink}/{table}?key=...   one value; repeat key= for composite keys
";

pub async fn serve(listener: TcpListener, tls: Option<Identity>, shared: Shared, stop: CancellationToken) {
    let app = router(shared);
    let served = match tls {
        None => axum::serve(listener, app).with_graceful_shutdown(stop.cancelled_owned()).await,
        Some(tls) => axum::serve(tls.http(listener), app).with_graceful_shutdown(stop.cancelled_owned()).await,
    };
    if let Err(e) = served {
        tracing::error!(error = %e, "the HTTP server stopped");
    }
}

fn router(shared: Shared) -> Router {
    let guarded = Router::new()
        .route("/api/v1/status", get(status))
        .route("/api/v1/sql", post(sql::post))
        .route("/api/v1/queries/{id}", delete(cancel))
        .route("/api/v1/kv/{sink}/{table}", get(kv))
        .route_layer(middleware::from_fn_with_state(shared.clone(), guard));
    Router::new()
        .route("/", get(|| async { INDEX }))
        .route("/livez", get(|| async { "ok\n" }))
        .route("/readyz", get(readyz))
        .route("/metrics", get(render_metrics))
        .merge(guarded)
        .fallback(|| async {
            Problem::new(StatusCode::NOT_FOUND, "there is nothing here").hint("GET / lists what there is.")
        })
        .layer(middleware::from_fn(count))
        .with_state(shared)
}

/// Probes and scrapers carry no tokens; everything that shows data does.
async fn guard(State(shared): State<Shared>, headers: HeaderMap, request: Request, next: Next) -> Response {
    let header = headers.get(header::AUTHORIZATION).and_then(|v| v.to_str().ok());
    match shared.access.check(header) {
        Ok(()) => next.run(request).await,
        Err(_) => Problem::new(StatusCode::UNAUTHORIZED, REFUSED_TEXT).into_response(),
    }
}

async fn count(request: Request, next: Next) -> Response {
    let route = request.extensions().get::<MatchedPath>().map_or("other".to_string(), |p| p.as_str().to_string());
    let response = next.run(request).await;
    let status = response.status().as_u16().to_string();
    ::metrics::counter!("pipe_http_requests_total", "route" => route, "status" => status).increment(1);
    response
}

async fn readyz(State(shared): State<Shared>) -> Response {
    let components = shared.facade.ready();
    let ready = components.iter().all(|c| c.ready);
    let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ready": ready, "components": components }))).into_response()
}

async fn render_metrics(State(shared): State<Shared>) -> Response {
    for component in shared.facade.ready() {
        let value = if component.ready { 1.0 } else { 0.0 };
        ::metrics::gauge!("pipe_ready", "component" => component.component).set(value);
    }
    ::metrics::gauge!("pipe_queries_running").set(shared.queries.running().count() as f64);
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")], metrics::render()).into_response()
}

async fn status(State(shared): State<Shared>) -> Json<serde_json::Value> {
    Json(shared.facade.status())
}

async fn cancel(State(shared): State<Shared>, Path(id): Path<u64>) -> Response {
    match shared.queries.running().cancel(id) {
        true => StatusCode::NO_CONTENT.into_response(),
        false => Problem::new(StatusCode::NOT_FOUND, format!("query {id} does not run"))
            .hint("SELECT * FROM system.queries lists those that do.")
            .into_response(),
    }
}

async fn kv(
    State(shared): State<Shared>,
    Path((sink, table)): Path<(String, String)>,
    RawQuery(query): RawQuery,
) -> Result<Json<serde_json::Value>, Problem> {
    let query = query.unwrap_or_default();
    let pairs = url::form_urlencoded::parse(query.as_bytes());
    let key: Vec<String> = pairs.filter(|(name, _)| name == "key").map(|(_, value)| value.into_owned()).collect();
    if key.is_empty() {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "there is no key in the query string")
            .hint("write ?key=value, and repeat key= for composite keys."));
    }
    let place = format!("{sink}.{table}");
    // A store may read from disk, which must not hold up other requests.
    let facade = shared.facade.clone();
    let found = tokio::task::spawn_blocking(move || facade.kv(&sink, &table, &key)).await.map_err(|_| {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "the read stopped in the middle; the log says why")
    })??;
    found.map(Json).ok_or_else(|| Problem::new(StatusCode::NOT_FOUND, format!("{place} has no value under this key")))
}
