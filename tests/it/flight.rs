//! The servers as clients meet them: Flight SQL and HTTP over a world of our own with hot state and a real Delta table.

mod http; // the HTTP side
mod python; // clients not written here
mod tls; // certificates and tokens on the wire
mod world; // a pipeline's outside without the pipeline

use arrow::array::{Array, Float64Array, Int32Array, Int64Array, StringArray};
use arrow::datatypes::{DataType, Field, Schema};
use arrow::record_batch::RecordBatch;
use arrow::util::display::{ArrayFormatter, FormatOptions};
use arrow_flight::error::FlightError;
use arrow_flight::sql::client::FlightSqlServiceClient;
use arrow_flight::sql::{
    Any, CommandGetDbSchemas, CommandGetExportedKeys, CommandGetPrimaryKeys, CommandGetTables, CommandGetXdbcTypeInfo,
    CommandStatementQuery, ProstMessageExt,
};
use arrow_flight::{
    Action, CancelFlightInfoRequest, CancelFlightInfoResult, CancelStatus, FlightDescriptor, FlightInfo, IpcMessage,
    Ticket,
};
use futures::TryStreamExt;
use pipe::serve::{self, Servers, Settings};
use prost::Message;
use std::sync::Arc;
use std::time::Duration;
use tonic::Code;
use tonic::transport::{Channel, Endpoint};
use world::{Outside, settings};

type Client = FlightSqlServiceClient<Channel>;

async fn connect(servers: &Servers) -> Client {
    let address = format!("http://{}", servers.flight_addr.expect("is served"));
    let channel = Endpoint::from_shared(address).expect("is an address").connect().await.expect("somebody listens");
    FlightSqlServiceClient::new(channel)
}

async fn started(outside: Outside, settings: Settings) -> Servers {
    serve::bind(settings).await.expect("the ports are free").serve(Arc::new(outside)).expect("serves")
}

async fn serving(outside: Outside) -> (Servers, Client) {
    let servers = started(outside, settings(&[])).await;
    let client = connect(&servers).await;
    (servers, client)
}

/// Rows as lines, values parted by blanks.
fn lines(batches: &[RecordBatch]) -> Vec<String> {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    for batch in batches {
        let columns: Vec<_> =
            batch.columns().iter().map(|c| ArrayFormatter::try_new(c, &options).expect("can be shown")).collect();
        for row in 0..batch.num_rows() {
            lines.push(columns.iter().map(|c| c.value(row).to_string()).collect::<Vec<_>>().join(" "));
        }
    }
    lines
}

/// Fetches what was announced, and holds the announcement to it.
async fn fetch(client: &mut Client, info: FlightInfo) -> Result<Vec<RecordBatch>, FlightError> {
    assert_eq!(info.endpoint.len(), 1, "one endpoint");
    assert!(info.endpoint[0].location.is_empty(), "without a location");
    let ticket = info.endpoint[0].ticket.clone().expect("has a ticket");
    let announced = info.try_decode_schema().expect("is a schema");
    let mut stream = client.do_get(ticket).await?;
    let mut batches = Vec::new();
    while let Some(batch) = stream.try_next().await? {
        assert_eq!(*batch.schema(), announced, "what comes is what was announced");
        batches.push(batch);
    }
    assert_eq!(**stream.schema().expect("a schema comes even without rows"), announced);
    Ok(batches)
}

async fn ask(client: &mut Client, sql: &str) -> Result<Vec<String>, FlightError> {
    let info = client.execute(sql.to_string(), None).await?;
    Ok(lines(&fetch(client, info).await?))
}

async fn answer(client: &mut Client, sql: &str) -> Vec<String> {
    ask(client, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"))
}

async fn complaint(client: &mut Client, sql: &str) -> (Code, String) {
    match ask(client, sql).await {
        Err(FlightError::Tonic(status)) => (status.code(), status.message().to_string()),
        other => panic!("{sql}: expected a complaint, got {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_sql_is_told_with_its_place_and_a_hint() {
    let (servers, mut client) = serving(Outside::new().await).await;
    for (sql, expected) in [
        ("SELEC 1", "1:1: "),
        ("", "there is no statement"),
        ("SELECT 1; SELECT 2", "2 statements were sent at once"),
        ("SELECT id,\n  speeed FROM latest", "2:3: column \"speeed\" does not exist\n  hint: did you mean \"speed\"?"),
        ("SELECT * FROM lates", "1:15: table \"lates\" does not exist\n  hint: did you mean \"latest\"?"),
        ("SELECT * FROM hot.lates", "1:15: table \"hot.lates\" does not exist\n  hint: did you mean \"latest\"?"),
        ("SELECT * FROM hott.latest", "1:15: schema \"hott\" does not exist\n  hint: did you mean \"hot\"?"),
        ("SELECT * FROM other.hot.latest", "catalog \"other\" does not exist"),
        ("SELECT * FROM queries", "hint: there is \"system.queries\"."),
        ("SELECT * FROM unkept", "stream \"unkept\" is not kept: no table receives SELECT * of it"),
        (
            "SELECT * FROM twice",
            "stream \"twice\" is kept in 2 tables\n  hint: write one of lake.twice_a, lake.twice_b.",
        ),
        ("CREATE TABLE t (a INT)", "1:1: CREATE is not a query"),
        ("INSERT INTO lake.points VALUES (1)", "1:1: INSERT is not a query"),
        ("COPY (SELECT 1) TO '/tmp/x'", "1:1: COPY is not a query"),
        ("SET datafusion.execution.batch_size = 1", "1:1: SET is not a query"),
        ("EXPLAIN DROP TABLE latest", "is not a query"),
        ("SELECT * FROM latest TABLESAMPLE (10 ROWS)", "1:15: TABLESAMPLE is not known here"),
        ("SELECT lowwer(id) FROM latest", "hint: did you mean 'lower'"),
        ("SELECT count(*) FROM latest WHERE id = $1", "the query has 1 parameter, no parameters given"),
        ("SELECT $1, ?", "both as ? and as $n"),
        ("SELECT CAST('x' AS BIGINT) FROM latest", "x"),
        ("SELECT 1 / 0 FROM latest", "ivide by zero"),
    ] {
        let (code, text) = complaint(&mut client, sql).await;
        assert!(text.contains(expected), "{sql}\n  said: {text}\n  expected: {expected}");
        assert_eq!(code, Code::InvalidArgument, "{sql}: {text}");
        for debug in ["Some(", "None", "DataFusion", "{ ", "Error:"] {
            assert!(!text.contains(debug), "{sql}: {text}");
        }
    }
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_is_found_by_its_name_and_by_the_stream_it_keeps() {
    let (servers, mut client) = serving(Outside::new().await).await;
    for (sql, expected) in [
        ("SELECT id, speed FROM hot.latest ORDER BY id", vec!["a 3.0", "b 2.0"]),
        ("SELECT id, speed FROM latest ORDER BY id", vec!["a 3.0", "b 2.0"]),
        ("SELECT id FROM pipe.hot.latest WHERE speed > 2.5", vec!["a"]),
        // The stream: its own columns. The table: also what was added beside them.
        ("SELECT * FROM points ORDER BY at LIMIT 1", vec!["a 1.0 2026-01-01T00:00:01Z"]),
        ("SELECT * FROM lake.points ORDER BY at LIMIT 1", vec!["a 1.0 2026-01-01T00:00:01Z 2026-01-01"]),
        ("SELECT name, connected FROM system.sources", vec!["fleet true"]),
        ("WITH latest AS (SELECT 1 AS one) SELECT one FROM latest", vec!["1"]),
        ("SELECT json_get_int('{\"a\": 7}', 'a')", vec!["7"]),
        ("SELECT x FROM (VALUES (1, NULL), (2, 5)) AS t(x, y) ORDER BY y DESC", vec!["2", "1"]),
        ("DESCRIBE latest", vec!["id Utf8 NO", "speed Float64 YES", "at Timestamp(µs, \"UTC\") YES"]),
    ] {
        assert_eq!(answer(&mut client, sql).await, expected, "{sql}");
    }
    let listed = answer(
        &mut client,
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_schema <> 'information_schema' \
         ORDER BY 1, 2",
    )
    .await;
    let expected = ["hot latest", "lake points", "lake twice_a", "lake twice_b", "system queries", "system sources"];
    assert_eq!(listed, expected);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_in_memory_and_in_the_lake_are_read_once_each() {
    let outside = Outside::new().await;
    // Epoch 1 is in the lake and still held by its slot, epoch 2 is only held, by two slots; 3 has begun.
    let (servers, mut client) = serving(outside.clone()).await;
    let count = "SELECT count(*), count(DISTINCT at), sum(speed) FROM lake.points";
    assert_eq!(answer(&mut client, count).await, ["6 6 21.0"]);
    // The same rows whichever way they are asked for, with filters and projections on the way down.
    for (sql, expected) in [
        ("SELECT count(*) FROM points WHERE speed >= 3", "4"),
        ("SELECT count(*) FROM points WHERE event_date = DATE '2026-01-01'", ""),
        ("SELECT count(*) FROM lake.points WHERE event_date = DATE '2026-01-01'", "6"),
        ("SELECT max(speed) FROM points WHERE id = 'a'", "6.0"),
        ("SELECT count(*) FROM points p JOIN latest l ON p.id = l.id AND p.speed = l.speed", "2"),
    ] {
        match expected {
            "" => assert!(complaint(&mut client, sql).await.1.contains("event_date"), "{sql}"),
            expected => assert_eq!(answer(&mut client, sql).await, [expected], "{sql}"),
        }
    }
    // The filter goes down to the files.
    let plan = answer(&mut client, "EXPLAIN SELECT speed FROM lake.points WHERE id = 'a'").await.join("\n");
    assert!(plan.contains("id@"), "{plan}");

    // Epoch 2 lands: nothing changes for a reader, before or after the slots let go of it.
    outside.land(2).await;
    assert_eq!(answer(&mut client, count).await, ["6 6 21.0"]);
    outside.let_go(2);
    assert_eq!(answer(&mut client, count).await, ["6 6 21.0"]);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_types_that_every_client_reads_leave() {
    let (servers, mut client) = serving(Outside::new().await).await;
    let sql = "SELECT arrow_cast('t', 'Utf8View') AS a, arrow_cast('t', 'LargeUtf8') AS b, \
               arrow_cast(x'01', 'BinaryView') AS c, arrow_cast('t', 'Dictionary(Int32, Utf8)') AS d, \
               [arrow_cast('t', 'Utf8View')] AS e, named_struct('f', arrow_cast('t', 'Utf8View')) AS f \
               FROM latest WHERE id = 'a'";
    let info = client.execute(sql.to_string(), None).await.expect("plans");
    let batches = fetch(&mut client, info).await.expect("runs");
    let schema = batches[0].schema();
    let kinds: Vec<String> = schema.fields().iter().map(|f| f.data_type().to_string()).collect();
    assert!(
        kinds.iter().all(|k| !k.contains("View") && !k.contains("Large") && !k.contains("Dictionary")),
        "{kinds:?}"
    );
    assert_eq!(*schema.field(0).data_type(), DataType::Utf8);
    assert_eq!(*schema.field(2).data_type(), DataType::Binary);
    assert_eq!(lines(&batches), ["t t 01 t [t] {f: t}"]);
    servers.shutdown().await;
}

/// Binds one row and runs.
async fn prepared(client: &mut Client, sql: &str, row: Option<RecordBatch>) -> Result<Vec<String>, FlightError> {
    let mut statement = client.prepare(sql.to_string(), None).await?;
    let promised = statement.dataset_schema()?.clone();
    if let Some(row) = row {
        statement.set_parameters(row)?;
    }
    let info = statement.execute().await?;
    let kinds = |s: &Schema| s.fields().iter().map(|f| f.data_type().clone()).collect::<Vec<_>>();
    let announced = info.clone().try_decode_schema()?;
    if !kinds(&promised).contains(&DataType::Null) {
        assert_eq!(kinds(&promised), kinds(&announced), "{sql}");
    }
    let batches = fetch(client, info).await?;
    statement.close().await?;
    Ok(lines(&batches))
}

fn row(columns: Vec<Arc<dyn Array>>) -> Option<RecordBatch> {
    let fields: Vec<Field> =
        columns.iter().enumerate().map(|(i, c)| Field::new(i.to_string(), c.data_type().clone(), true)).collect();
    Some(RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("one row"))
}

#[tokio::test(flavor = "multi_thread")]
async fn prepared_statements_take_no_one_and_twelve_parameters() {
    let (servers, mut client) = serving(Outside::new().await).await;
    let client = &mut client;
    let none = prepared(client, "SELECT id FROM latest ORDER BY id", None).await.expect("runs");
    assert_eq!(none, ["a", "b"]);

    let text = |v: &str| Arc::new(StringArray::from(vec![v])) as Arc<dyn Array>;
    let by_id = "SELECT speed FROM latest WHERE id = $1";
    assert_eq!(prepared(client, by_id, row(vec![text("b")])).await.expect("runs"), ["2.0"]);
    // Cast to what the query expects.
    let int = Arc::new(Int32Array::from(vec![3])) as Arc<dyn Array>;
    assert_eq!(prepared(client, "SELECT id FROM latest WHERE speed = ?", row(vec![int])).await.expect("runs"), ["a"]);
    let when = row(vec![text("2026-01-01T00:00:03Z")]);
    assert_eq!(prepared(client, "SELECT id FROM latest WHERE at = $1", when).await.expect("runs"), ["a"]);
    // Marks are counted where they are marks.
    let two = row(vec![text("x"), Arc::new(Int64Array::from(vec![2]))]);
    assert_eq!(prepared(client, "SELECT ? AS a, '?' AS b, ? + 1 AS c -- ?", two).await.expect("runs"), ["x ? 3"]);

    let places: Vec<String> = (1..=12).map(|i| format!("${i} * 1.0")).collect();
    let sum = format!("SELECT {}, $12 * 1.0 - $10 * 1.0 AS last", places.join(", "));
    let values = (1..=12).map(|i| Arc::new(Float64Array::from(vec![f64::from(i)])) as Arc<dyn Array>).collect();
    let twelve = prepared(client, &sum, row(values)).await.expect("runs");
    assert_eq!(twelve, ["1.0 2.0 3.0 4.0 5.0 6.0 7.0 8.0 9.0 10.0 11.0 12.0 2.0"]);
    let twelve = client.prepare(sum, None).await.expect("prepares");
    let names: Vec<&str> =
        twelve.parameter_schema().expect("has one").fields().iter().map(|f| f.name().as_str()).collect();
    assert_eq!(names, ["$1", "$2", "$3", "$4", "$5", "$6", "$7", "$8", "$9", "$10", "$11", "$12"]);

    for (values, expected) in [
        (row(vec![text("a"), text("b")]), "the query has 1 parameter, 2 parameters given"),
        (row(vec![Arc::new(StringArray::from(vec!["a", "b"]))]), "2 rows of parameters were bound"),
        (None, "the query has 1 parameter, no parameters given"),
    ] {
        let e = prepared(client, by_id, values).await.expect_err("is refused");
        assert!(e.to_string().contains(expected), "{e}");
    }
    let wrong = prepared(client, "SELECT id FROM latest WHERE speed = $1", row(vec![text("fast")])).await;
    assert!(wrong.expect_err("is refused").to_string().contains("parameter $1 is not a Float64"));
    let known = client.prepare(by_id.to_string(), None).await.expect("prepares");
    assert_eq!(*known.parameter_schema().expect("has one").field(0).data_type(), DataType::Utf8);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_is_complete_without_any_filter() {
    let (servers, mut client) = serving(Outside::new().await).await;
    let client = &mut client;
    let info = client.get_catalogs().await.expect("answers");
    assert_eq!(lines(&fetch(client, info).await.expect("answers")), ["pipe"]);
    let everything = CommandGetDbSchemas { catalog: None, db_schema_filter_pattern: None };
    let info = client.get_db_schemas(everything).await.expect("answers");
    assert_eq!(lines(&fetch(client, info).await.expect("answers")), ["pipe hot", "pipe lake", "pipe system"]);
    let info = client.get_table_types().await.expect("answers");
    assert_eq!(lines(&fetch(client, info).await.expect("answers")), ["BASE TABLE", "SYSTEM TABLE"]);

    let all = CommandGetTables { include_schema: true, ..CommandGetTables::default() };
    let info = client.get_tables(all).await.expect("answers");
    let tables = fetch(client, info).await.expect("answers");
    let names: Vec<String> = lines(&[tables[0].project(&[0, 1, 2, 3]).expect("has four")]);
    assert_eq!(names[..2], ["pipe hot latest BASE TABLE", "pipe lake points BASE TABLE"]);
    assert!(names.contains(&"pipe system queries SYSTEM TABLE".to_string()), "{names:?}");
    let schemas = arrow::array::AsArray::as_binary::<i32>(tables[0].column(4));
    let latest = Schema::try_from(IpcMessage(bytes::Bytes::copy_from_slice(schemas.value(0)))).expect("is a schema");
    assert_eq!(latest.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["id", "speed", "at"]);
    let base = CommandGetTables { table_types: vec!["BASE TABLE".into()], ..CommandGetTables::default() };
    let info = client.get_tables(base).await.expect("answers");
    assert_eq!(fetch(client, info).await.expect("answers")[0].num_rows(), 4);

    let key = CommandGetPrimaryKeys { catalog: None, db_schema: Some("hot".into()), table: "latest".into() };
    let info = client.get_primary_keys(key).await.expect("answers");
    assert_eq!(lines(&fetch(client, info).await.expect("answers")), ["pipe hot latest id latest_key 1"]);
    let exported = CommandGetExportedKeys { catalog: None, db_schema: None, table: "latest".into() };
    let info = client.get_exported_keys(exported).await.expect("answers");
    assert_eq!(lines(&fetch(client, info).await.expect("answers")), Vec::<String>::new());
    let info = client.get_xdbc_type_info(CommandGetXdbcTypeInfo { data_type: None }).await.expect("answers");
    assert!(fetch(client, info).await.expect("answers")[0].num_rows() > 10);
    let info = client.get_sql_info(Vec::new()).await.expect("answers");
    assert!(fetch(client, info).await.expect("answers")[0].num_rows() > 80);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_told_without_running_anything() {
    let (servers, client) = serving(Outside::new().await).await;
    let mut raw = client.into_inner();
    let command = CommandStatementQuery { query: "SELECT id, speed FROM latest".into(), transaction_id: None };
    for descriptor in [
        FlightDescriptor::new_cmd(command.as_any().encode_to_vec()),
        // What hand-written clients send.
        FlightDescriptor::new_cmd("SELECT id, speed FROM latest"),
    ] {
        let told = raw.get_schema(descriptor.clone()).await.expect("answers").into_inner();
        let schema = Schema::try_from(&told).expect("is a schema");
        assert_eq!(schema.fields().iter().map(|f| f.name().as_str()).collect::<Vec<_>>(), ["id", "speed"]);
        let polled = raw.poll_flight_info(descriptor).await.expect("answers").into_inner();
        assert_eq!(polled.progress, Some(1.0));
        assert!(polled.flight_descriptor.is_none(), "it is complete");
        assert_eq!(polled.info.expect("has one").schema, told.schema);
    }
    let flights: Vec<FlightInfo> = raw
        .list_flights(arrow_flight::Criteria::default())
        .await
        .expect("answers")
        .into_inner()
        .try_collect()
        .await
        .expect("lists");
    let paths: Vec<String> =
        flights.iter().filter_map(|f| f.flight_descriptor.as_ref()).map(|d| d.path.join(".")).collect();
    assert!(paths.contains(&"hot.latest".to_string()), "{paths:?}");
    let mut client = FlightSqlServiceClient::new_from_inner(raw);
    let ticket = Ticket::new("SELECT count(*) FROM latest");
    let rows: Vec<RecordBatch> = client.do_get(ticket).await.expect("answers").try_collect().await.expect("runs");
    assert_eq!(lines(&rows), ["2"]);
    servers.shutdown().await;
}

const ENDLESS: &str = "SELECT value FROM generate_series(1, 1000000000000)";

async fn until_nothing_endless_runs(client: &mut Client) {
    let running = "SELECT count(*) FROM system.queries WHERE sql LIKE '%1000000000000%' AND sql NOT LIKE '%system%'";
    for _ in 0..200 {
        if answer(client, running).await == ["0"] {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("the query still runs: {:?}", answer(client, "SELECT * FROM system.queries").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_when_its_reader_leaves_or_cancels() {
    let (servers, mut client) = serving(Outside::new().await).await;
    let running =
        "SELECT state, rows > 0 FROM system.queries WHERE sql LIKE '%1000000000000%' AND sql NOT LIKE '%system%'";

    let info = client.execute(ENDLESS.to_string(), None).await.expect("plans");
    assert_eq!(answer(&mut client, running).await, Vec::<String>::new(), "announced is not yet running");
    let ticket = info.endpoint[0].ticket.clone().expect("has a ticket");
    let mut stream = client.do_get(ticket.clone()).await.expect("starts");
    stream.try_next().await.expect("runs").expect("has rows");
    assert_eq!(answer(&mut client, running).await, ["running true"]);
    drop(stream);
    until_nothing_endless_runs(&mut client).await;

    let mut stream = client.do_get(ticket).await.expect("starts");
    stream.try_next().await.expect("runs").expect("has rows");
    let cancel = Action::new("CancelFlightInfo", CancelFlightInfoRequest::new(info.clone()).encode_to_vec());
    let answers: Vec<arrow_flight::Result> =
        client.do_action(cancel.clone()).await.expect("answers").try_collect().await.expect("answers");
    let result = CancelFlightInfoResult::decode(answers[0].body.clone()).expect("is the result");
    assert_eq!(result.status(), CancelStatus::Cancelled);
    let ended = loop {
        match stream.try_next().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a cancelled query must not look complete"),
            Err(e) => break e,
        }
    };
    assert!(matches!(&ended, FlightError::Tonic(s) if s.code() == Code::Cancelled), "{ended}");
    until_nothing_endless_runs(&mut client).await;
    let again = client.do_action(cancel).await.expect_err("nothing runs");
    assert!(matches!(&again, FlightError::Tonic(s) if s.code() == Code::NotFound), "{again}");
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn only_those_with_a_token_are_answered() {
    let servers = started(Outside::new().await, settings(&["s3cret"])).await;
    let mut client = connect(&servers).await;
    let (code, text) = complaint(&mut client, "SELECT 1").await;
    assert_eq!(code, Code::Unauthenticated);
    assert!(!text.contains("s3cret"));
    client.handshake("me", "wrong").await.expect_err("is refused");
    client.handshake("me", "s3cret").await.expect("is let in");
    assert_eq!(answer(&mut client, "SELECT 1").await, ["1"], "with the token of the handshake");
    let mut client = connect(&servers).await;
    client.set_token("s3cret".into());
    assert_eq!(answer(&mut client, "SELECT 1").await, ["1"]);
    servers.shutdown().await;

    let (servers, mut client) = serving(Outside::new().await).await;
    client.handshake("anyone", "anything").await.expect("is let in when nothing is configured");
    assert_eq!(answer(&mut client, "SELECT 1").await, ["1"]);
    servers.shutdown().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_in_use_is_said_with_what_to_change() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
    let address = taken.local_addr().expect("has one").to_string();
    let mut settings = settings(&[]);
    settings.flight = Some(address.clone());
    let e = serve::bind(settings).await.err().expect("is refused").to_string();
    assert!(e.contains(&address) && e.contains("in use") && e.contains("[server]"), "{e}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_limit_of_memory_holds_and_is_said() {
    let mut settings = settings(&[]);
    settings.query.memory_bytes = 1024 * 1024;
    let servers = started(Outside::new().await, settings).await;
    let mut client = connect(&servers).await;
    let hungry = "SELECT count(*) FROM (SELECT DISTINCT a.value AS v, repeat('x', 1000) || CAST(a.value AS TEXT) AS t \
                  FROM generate_series(1, 200000) AS a) AS d JOIN generate_series(1, 200000) AS b ON d.v = b.value";
    let (code, text) = complaint(&mut client, hungry).await;
    assert_eq!(code, Code::ResourceExhausted, "{text}");
    assert!(text.contains("[limits] memory"), "{text}");
    assert_eq!(answer(&mut client, "SELECT 1").await, ["1"], "others go on");
    servers.shutdown().await;
}

#[test]
fn an_any_without_a_known_type_is_no_command() {
    // Guards the way raw SQL is told from commands: text that happens to decode as an Any has no type of ours.
    let decoded = Any::decode(&b"SELECT 1"[..]);
    assert!(decoded.is_err() || !decoded.expect("decodes").type_url.starts_with("type.googleapis.com/"));
}
