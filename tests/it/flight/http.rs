//! The same world over HTTP.

use super::world::{Outside, settings};
use super::{ENDLESS, connect, started, until_nothing_endless_runs};
use arrow::ipc::reader::StreamReader;
use pipe::serve::{Servers, metrics};
use reqwest::{Client, Response, StatusCode};
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Once;

async fn serving(outside: Outside) -> Servers {
    started(outside, settings(&[])).await
}

fn http(servers: &Servers) -> SocketAddr {
    servers.http_addr.expect("is served")
}

fn client() -> Client {
    static PROVIDER: Once = Once::new();
    // The client wants a TLS provider even for plain HTTP. Another test may have installed one already: as good.
    PROVIDER.call_once(|| drop(rustls::crypto::ring::default_provider().install_default()));
    Client::new()
}

async fn post(servers: &Servers, accept: &str, sql: &str) -> Response {
    let url = format!("http://{}/api/v1/sql", http(servers));
    client().post(url).header("accept", accept).body(sql.to_string()).send().await.expect("is answered")
}

async fn get(servers: &Servers, path: &str) -> (StatusCode, String) {
    let response = client().get(format!("http://{}{path}", http(servers))).send().await.expect("is answered");
    (response.status(), response.text().await.expect("is text"))
}

fn parsed(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_comes_as_json_with_its_place() {
    let servers = serving(Outside::new().await).await;
    let response = post(&servers, "*/*", "SELECT speeed FROM latest").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let expected = json!({ "error": {
        "message": "column \"speeed\" does not exist", "line": 1, "column": 8, "hint": "did you mean \"speed\"?"
    }});
    assert_eq!(response.json::<Value>().await.expect("is JSON"), expected);

    let response = post(&servers, "image/png", "SELECT 1").await;
    assert_eq!(response.status(), StatusCode::NOT_ACCEPTABLE);
    // While it runs, but before the first row.
    let response = post(&servers, "*/*", "SELECT 1 / (speed - speed)::INT FROM latest").await;
    assert_eq!(response.status(), StatusCode::BAD_REQUEST);
    let url = format!("http://{}/api/v1/sql", http(&servers));
    for body in [r#"{"sql": "SELECT 1", "parms": []}"#, r#"{"sql": "SELECT $1", "params": [[1]]}"#, "{"] {
        let request = client().post(&url).header("content-type", "application/json").body(body);
        assert_eq!(request.send().await.expect("is answered").status(), StatusCode::BAD_REQUEST, "{body}");
    }
    let (status, text) = get(&servers, "/nothing").await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert!(parsed(&text)["error"]["message"].is_string());
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_come_in_every_form() {
    let servers = serving(Outside::new().await).await;
    let sql = "SELECT id, speed, at, [speed, NULL] AS l, named_struct('a', id) AS s, NULL AS n FROM latest ORDER BY id";
    let a = json!({ "id": "a", "speed": 3.0, "at": "2026-01-01T00:00:03Z", "l": [3.0, null], "s": { "a": "a" }, "n": null });
    let b = json!({ "id": "b", "speed": 2.0, "at": "2026-01-01T00:00:02Z", "l": [2.0, null], "s": { "a": "b" }, "n": null });

    let response = post(&servers, "application/json", sql).await;
    assert_eq!(response.headers()["content-type"], "application/json");
    assert!(response.headers().contains_key("x-pipe-query-id"));
    assert_eq!(response.json::<Value>().await.expect("is JSON"), json!([a, b]));

    let text = post(&servers, "application/x-ndjson", sql).await.text().await.expect("is text");
    assert_eq!(text.lines().map(parsed).collect::<Vec<_>>(), [a, b]);

    let text = post(&servers, "text/csv", sql).await.text().await.expect("is text");
    let expected = "id,speed,at,l,s,n\n\
                    a,3.0,2026-01-01T00:00:03Z,\"[3.0,null]\",\"{\"\"a\"\":\"\"a\"\"}\",\n\
                    b,2.0,2026-01-01T00:00:02Z,\"[2.0,null]\",\"{\"\"a\"\":\"\"b\"\"}\",\n";
    assert_eq!(text, expected);

    let bytes = post(&servers, "application/vnd.apache.arrow.stream", sql).await.bytes().await.expect("has bytes");
    let reader = StreamReader::try_new(&*bytes, None).expect("is a stream");
    assert_eq!(reader.map(|b| b.expect("is a batch").num_rows()).sum::<usize>(), 2);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_rows_and_many_rows_are_well_formed() {
    let servers = serving(Outside::new().await).await;
    let none = "SELECT id, speed FROM latest WHERE speed < 0";
    for (accept, expected) in [("application/json", "[]\n"), ("application/x-ndjson", ""), ("text/csv", "id,speed\n")] {
        assert_eq!(post(&servers, accept, none).await.text().await.expect("is text"), expected, "{accept}");
    }
    let bytes = post(&servers, "application/vnd.apache.arrow.stream", none).await.bytes().await.expect("has bytes");
    assert_eq!(StreamReader::try_new(&*bytes, None).expect("is a stream").count(), 0);

    let many = "SELECT value AS v FROM generate_series(1, 50000)";
    let rows: Vec<Value> = post(&servers, "application/json", many).await.json().await.expect("is JSON");
    assert_eq!(rows.len(), 50_000);
    let text = post(&servers, "text/csv", many).await.text().await.expect("is text");
    assert_eq!(text.lines().count(), 50_001);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parameters_come_as_json() {
    let servers = serving(Outside::new().await).await;
    let url = format!("http://{}/api/v1/sql", http(&servers));
    let body = json!({
        "sql": "SELECT id FROM latest WHERE id = $1 AND speed > $2 AND at < $3 AND $4 IS NULL AND $5",
        "params": ["a", 1, "2027-01-01T00:00:00Z", null, true],
    });
    let response = client().post(url).json(&body).send().await.expect("is answered");
    assert_eq!(response.text().await.map(|t| parsed(&t)).expect("is text"), json!([{ "id": "a" }]));
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_query_is_cancelled_by_its_number() {
    let servers = serving(Outside::new().await).await;
    let response = post(&servers, "text/csv", ENDLESS).await;
    let id = response.headers()["x-pipe-query-id"].to_str().expect("is a number").to_string();
    let url = format!("http://{}/api/v1/queries/{id}", http(&servers));
    let cancelled = client().delete(&url).send().await.expect("is answered").status();
    assert_eq!(cancelled, StatusCode::NO_CONTENT);
    response.bytes().await.expect_err("a cancelled query must not look complete");
    until_nothing_endless_runs(&mut connect(&servers).await).await;
    assert_eq!(client().delete(&url).send().await.expect("is answered").status(), StatusCode::NOT_FOUND);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_value_is_read_by_all_parts_of_its_key() {
    let servers = serving(Outside::new().await).await;
    let (status, text) = get(&servers, "/api/v1/kv/kv/latest?key=a&key=b%20c").await;
    assert_eq!((status, parsed(&text)), (StatusCode::OK, json!({ "id": "a", "speed": 3.0 })));
    for (path, expected) in [
        ("/api/v1/kv/kv/latest?key=a", StatusCode::NOT_FOUND),
        ("/api/v1/kv/kv/latest", StatusCode::BAD_REQUEST),
        ("/api/v1/kv/kv/other?key=a", StatusCode::BAD_REQUEST),
    ] {
        let (status, text) = get(&servers, path).await;
        assert_eq!(status, expected, "{path}");
        assert!(parsed(&text)["error"]["message"].is_string(), "{text}");
    }
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn readiness_names_what_is_not_ready_and_metrics_follow() {
    metrics::install("test").expect("installs");
    let outside = Outside::new().await;
    let servers = serving(outside.clone()).await;
    assert_eq!(get(&servers, "/livez").await.0, StatusCode::OK);
    let (status, text) = get(&servers, "/readyz").await;
    assert_eq!((status, parsed(&text)["ready"].clone()), (StatusCode::OK, json!(true)));
    outside.set_ready(false);
    let (status, text) = get(&servers, "/readyz").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let expected = json!([{ "component": "source fleet", "ready": false, "detail": "broker down" }]);
    assert_eq!(parsed(&text)["components"], expected);
    assert_eq!(get(&servers, "/livez").await.0, StatusCode::OK, "alive, though not ready");
    assert_eq!(parsed(&get(&servers, "/api/v1/status").await.1)["pipeline"], "test");
    assert!(get(&servers, "/").await.1.contains("/api/v1/sql"));

    post(&servers, "text/csv", "SELECT 1").await.text().await.expect("is text");
    let (_, text) = get(&servers, "/metrics").await;
    for line in [
        "pipe_ready{pipeline=\"test\",component=\"source fleet\"} 0",
        "pipe_invariant_violations{pipeline=\"test\",invariant=\"I10\"} 0",
        "# HELP pipe_queries_total ",
        "# TYPE pipe_query_seconds histogram",
    ] {
        assert!(text.contains(line), "{line} is not in\n{text}");
    }
    promtool_agrees(&text);
    servers.shutdown().await;
}

/// Only where promtool is installed.
fn promtool_agrees(text: &str) {
    use std::io::Write;
    use std::process::{Command, Stdio};
    let spawned =
        Command::new("promtool").args(["check", "metrics"]).stdin(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let Ok(mut promtool) = spawned else { return };
    promtool.stdin.take().expect("is piped").write_all(text.as_bytes()).expect("reads");
    let output = promtool.wait_with_output().expect("ends");
    assert!(output.status.success(), "{}\n{text}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_guards_data_but_not_probes() {
    let servers = started(Outside::new().await, settings(&["s3cret"])).await;
    for path in ["/livez", "/readyz", "/metrics"] {
        assert_eq!(get(&servers, path).await.0, StatusCode::OK, "{path}");
    }
    for path in ["/api/v1/status", "/api/v1/kv/kv/latest?key=a&key=b%20c"] {
        let (status, text) = get(&servers, path).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        assert!(!text.contains("s3cret"));
        let url = format!("http://{}{path}", http(&servers));
        let wrong = client().get(&url).bearer_auth("s3cre").send().await.expect("is answered");
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED, "{path}");
        let with = client().get(url).bearer_auth("s3cret").send().await.expect("is answered");
        assert_eq!(with.status(), StatusCode::OK, "{path}");
    }
    servers.shutdown().await;
}
