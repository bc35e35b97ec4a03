//! What the decoder takes and what it sets aside, as tables: payload -> rows or reasons.

use crate::codec::json::{Decoded, JsonDecoder, JsonOptions, Unrouted};
use crate::types::catalog::UnknownFields;
use crate::types::message::Message;
use crate::types::position::Position;
use crate::types::table::{
    Column, ColumnType, EXTRA_COLUMN, EpochUnit, Route, RouteCondition, RouteSubject, RouteValue, Table,
};
use arrow::array::{Array, AsArray, RecordBatch};
use arrow::util::display::{ArrayFormatter, FormatOptions};
use bytes::Bytes;
use proptest::prelude::*;
use std::sync::Arc;

pub fn column(name: &str, kind: ColumnType) -> Column {
    Column { name: name.into(), kind, nullable: true }
}

fn not_null(name: &str, kind: ColumnType) -> Column {
    Column { name: name.into(), kind, nullable: false }
}

pub fn table(name: &str, columns: Vec<Column>) -> Table {
    Table { name: name.into(), source: "s".into(), route: None, columns }
}

pub fn message(payload: &[u8]) -> Message {
    Message {
        position: Position(0),
        topic: None,
        key: None,
        payload: Some(Bytes::copy_from_slice(payload)),
        headers: None,
        timestamp_us: None,
        received_at_us: 0,
        replayed: None,
    }
}

fn fleet() -> Table {
    table(
        "kinematic",
        vec![
            not_null("vehicle_id", ColumnType::Text),
            column("sent_at", ColumnType::Timestamp(None)),
            column(
                "measurements",
                ColumnType::Array(Box::new(column(
                    "item",
                    ColumnType::Struct(vec![
                        not_null("t", ColumnType::Timestamp(None)),
                        column("speed", ColumnType::Double),
                        column("rpm", ColumnType::Int),
                    ]),
                ))),
            ),
        ],
    )
}

/// Rows as `name=value` joined by spaces, one line per row.
fn show(rows: &RecordBatch) -> String {
    let options = FormatOptions::default().with_null("NULL");
    let mut lines = Vec::new();
    let schema = rows.schema();
    for row in 0..rows.num_rows() {
        let values = schema.fields().iter().zip(rows.columns()).map(|(field, values)| {
            let text = ArrayFormatter::try_new(values, &options).expect("a formatter").value(row).to_string();
            format!("{}={text}", field.name())
        });
        lines.push(values.collect::<Vec<_>>().join(" "));
    }
    lines.join("\n")
}

fn outcome(decoded: &Decoded) -> String {
    let rows = decoded.tables.iter().map(|t| show(&t.rows));
    let rejects = decoded.rejects.iter().map(|r| r.reason.to_string());
    rows.chain(rejects).collect::<Vec<_>>().join("\n")
}

fn decode(table: Table, options: JsonOptions, payload: &[u8]) -> Decoded {
    let mut decoder = JsonDecoder::new(vec![Arc::new(table)], options);
    decoder.push(&[message(payload)], 0);
    decoder.finish()
}

#[track_caller]
fn check(kind: ColumnType, value: &str, want: &str) {
    let payload = format!("{{\"c\":{value}}}");
    let got = outcome(&decode(table("t", vec![column("c", kind.clone())]), JsonOptions::default(), payload.as_bytes()));
    assert_eq!(got, want, "{kind:?} from {value}");
}

#[test]
fn a_message_that_is_not_one_object_is_a_syntax_reject() {
    let cases: &[(&[u8], &str)] = &[
        (b"", "syntax: empty payload"),
        (b"  ", "syntax: EOF while parsing a value at byte 2"),
        (b"[1]", "syntax: a message is one JSON object, found array [1]"),
        (b"null", "syntax: a message is one JSON object, found null"),
        (b" \"x\" ", "syntax: a message is one JSON object, found text \"x\""),
        (b"{} {}", "syntax: trailing characters at byte 3"),
        (b"{\"c\":1", "syntax: EOF while parsing an object at byte 6"),
        (b"{\"c\":nul}", "syntax: expected ident at byte 8"),
        (b"{\"c\":NaN}", "syntax: expected value at byte 5"),
        (b"{\"c\":-Infinity}", "syntax: invalid number at byte 6"),
        (b"{\"c\":01}", "syntax: invalid number at byte 6"),
        (b"{\"\xff\":1}", "syntax: invalid UTF-8 at byte 2"),
        (b"{\"c\":1,\"c\":1}", "syntax: duplicate field \"c\""),
        (b"{\"c\":1,\"\\u0063\":1}", "syntax: duplicate field \"c\""),
        (b"\xef\xbb\xbf{}", "syntax: expected value at byte 0"),
    ];
    for (payload, want) in cases {
        let decoded = decode(table("t", vec![column("c", ColumnType::Double)]), JsonOptions::default(), payload);
        assert_eq!(outcome(&decoded), *want, "{}", String::from_utf8_lossy(payload));
    }
}

#[test]
fn nesting_is_bounded_in_declared_and_undeclared_values() {
    // The message itself is one level.
    for (levels, fine) in [(127, true), (128, false), (100_000, false)] {
        for (field, kind) in [("c", ColumnType::Json), ("unknown", ColumnType::Json), ("c", ColumnType::Int)] {
            let payload = format!("{{\"{field}\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
            let decoded =
                decode(table("t", vec![column("c", kind.clone())]), JsonOptions::default(), payload.as_bytes());
            let too_deep = outcome(&decoded) == "syntax: nested deeper than 128";
            assert_eq!(too_deep, !fine, "{levels} levels in {field} {kind:?}");
        }
    }
}

#[test]
fn a_value_of_another_type_is_refused() {
    use ColumnType::*;
    let long = format!("\"{}\"", "x".repeat(100));
    let cases = [
        (Int, "\"12\"", "found text \"12\", declared INT"),
        (Int, "1.7", "found 1.7, declared INT: it has a fraction"),
        (Int, "2147483648", "found 2147483648, declared INT: out of range"),
        (Int, "true", "found boolean true, declared INT"),
        (Int, "[1]", "found array [1], declared INT"),
        (Int, &long, &format!("found text \"{}…, declared INT", "x".repeat(59))),
        (BigInt, "9223372036854775808", "found 9223372036854775808, declared BIGINT: out of range"),
        (BigInt, "1e19", "found 1e19, declared BIGINT: out of range"),
        (Double, "\"1.5\"", "found text \"1.5\", declared DOUBLE"),
        (Double, "1e999", "found 1e999, declared DOUBLE: out of range"),
        (Real, "1e39", "found 1e39, declared REAL: out of range"),
        (Boolean, "1", "found 1, declared BOOLEAN"),
        (Boolean, "\"true\"", "found text \"true\", declared BOOLEAN"),
        (Text, "12", "found 12, declared TEXT"),
        (Text, "true", "found boolean true, declared TEXT"),
        (Text, "{\"a\": 1}", "found object {\"a\": 1}, declared TEXT"),
        (Decimal(5, 2), "1.234", "found 1.234, declared DECIMAL(5,2): too many fractional digits"),
        (Decimal(5, 2), "1000", "found 1000, declared DECIMAL(5,2): out of range"),
        (Decimal(5, 2), "\"1.2\"", "found text \"1.2\", declared DECIMAL(5,2)"),
        (Date, "\"2026-02-30\"", "found text \"2026-02-30\", declared DATE: there is no such day"),
        (Date, "20260230", "found 20260230, declared DATE"),
        (
            Timestamp(None),
            "\"2026-11-22\"",
            "found text \"2026-11-22\", declared TIMESTAMP: a timestamp is written YYYY-MM-DDThh:mm:ss[.fraction][Z|±hh:mm]",
        ),
        (Timestamp(None), "1795342500", "found 1795342500, declared TIMESTAMP: a number needs an epoch_unit"),
        (
            Timestamp(Some(EpochUnit::Seconds)),
            "1795342500000",
            "found 1795342500000, declared TIMESTAMP: outside the years 1 to 9999 (is the unit right?)",
        ),
        (Bytea, "\"a!b\"", "found text \"a!b\", declared BYTEA: not base64"),
        (Bytea, "[1,2]", "found array [1,2], declared BYTEA"),
        (Struct(vec![column("a", Int)]), "[]", "found array [], declared STRUCT"),
        (Array(Box::new(column("item", Int))), "{}", "found object {}, declared INT[]"),
        (Map(Box::new(column("value", Int))), "[]", "found array [], declared MAP<TEXT, INT>"),
    ];
    for (kind, value, why) in cases {
        check(kind, value, &format!("type: c: {why}"));
    }
}

#[test]
fn a_value_as_declared_is_taken_exactly() {
    use ColumnType::*;
    let cases = [
        (Int, "5.0", "5"),
        (Int, "1e2", "100"),
        (Int, "-0", "0"),
        (Int, "-2147483648", "-2147483648"),
        (BigInt, "-9223372036854775808", "-9223372036854775808"),
        (BigInt, "9007199254740993", "9007199254740993"),
        (Double, "7", "7.0"),
        (Double, "-0.1", "-0.1"),
        (Double, "1e-400", "0.0"),
        (Real, "16777217", "16777216.0"),
        (Boolean, "false", "false"),
        (Text, "\"\"", ""),
        (Text, "\"a\\u00e9\\n\\ud83d\\ude00\"", "aé\n😀"),
        (Decimal(38, 2), "123456789012345678901234567890.12", "123456789012345678901234567890.12"),
        (Decimal(5, 2), "-1.5e0", "-1.50"),
        (Date, "\"2026-11-22\"", "2026-11-22"),
        (Timestamp(None), "\"2026-11-22T12:15:00.1234567+02:00\"", "2026-11-22T10:15:00.123456Z"),
        (Timestamp(Some(EpochUnit::Millis)), "1795342500123.5", "2026-11-22T10:15:00.123500Z"),
        (Timestamp(Some(EpochUnit::Millis)), "\"2026-11-22T10:15:00Z\"", "2026-11-22T10:15:00Z"),
        (Bytea, "\"aGk=\"", "6869"),
        (Bytea, "\"aGk\"", "6869"),
        (Json, " { \"a b\" : [ 1.50 , \"x\\\" y\" ] } ", "{\"a b\":[1.50,\"x\\\" y\"]}"),
        (Json, "12345678901234567890.10", "12345678901234567890.10"),
        (Json, "null", "NULL"),
        (Int, "null", "NULL"),
        (Struct(vec![column("a", Int), column("b", Text)]), "{\"b\":\"x\"}", "{a: NULL, b: x}"),
        (Struct(vec![not_null("a", Int)]), "null", "NULL"),
        (Array(Box::new(column("item", Int))), "[1,null,3]", "[1, NULL, 3]"),
        (Array(Box::new(column("item", Int))), "[]", "[]"),
        (Array(Box::new(column("item", Array(Box::new(column("item", Int)))))), "[[1],[],null]", "[[1], [], NULL]"),
        (Map(Box::new(column("value", Int))), "{\"k\":1,\"\":null}", "{k: 1, : NULL}"),
    ];
    for (kind, value, want) in cases {
        check(kind, value, &format!("c={want}"));
    }
}

#[test]
fn null_where_it_may_not_be_names_the_path() {
    let cases = [
        ("{}", "null: vehicle_id is NOT NULL"),
        ("{\"vehicle_id\":null}", "null: vehicle_id is NOT NULL"),
        (
            "{\"vehicle_id\":\"v\",\"measurements\":[{\"t\":\"2026-11-22T10:15:00Z\"},{}]}",
            "null: measurements[1].t is NOT NULL",
        ),
        ("{\"vehicle_id\":\"v\",\"measurements\":[{\"t\":null}]}", "null: measurements[0].t is NOT NULL"),
        (
            "{\"vehicle_id\":\"v\",\"measurements\":[null,{\"t\":\"2026-11-22T10:15:00Z\",\"rpm\":\"high\"}]}",
            "type: measurements[1].rpm: found text \"high\", declared INT",
        ),
        ("{\"VEHICLE_ID\":\"v\"}", "null: vehicle_id is NOT NULL"),
    ];
    for (payload, want) in cases {
        assert_eq!(outcome(&decode(fleet(), JsonOptions::default(), payload.as_bytes())), want, "{payload}");
    }
    let inner = column(
        "c",
        ColumnType::Map(Box::new(not_null("value", ColumnType::Array(Box::new(not_null("item", ColumnType::Int)))))),
    );
    for (payload, want) in [
        ("{\"c\":{\"k\":null}}", "null: c.k is NOT NULL"),
        ("{\"c\":{\"k\":[1],\"l\":[1,null]}}", "null: c.l[1] is NOT NULL"),
    ] {
        let decoded = decode(table("t", vec![inner.clone()]), JsonOptions::default(), payload.as_bytes());
        assert_eq!(outcome(&decoded), want, "{payload}");
    }
}

#[test]
fn a_missing_field_is_null_and_never_a_zero() {
    let got = outcome(&decode(
        fleet(),
        JsonOptions::default(),
        b"{\"vehicle_id\":\"v\",\"measurements\":[{\"t\":\"2026-11-22T10:15:00Z\"}]}",
    ));
    assert_eq!(got, "vehicle_id=v sent_at=NULL measurements=[{t: 2026-11-22T10:15:00Z, speed: NULL, rpm: NULL}]");
}

#[test]
fn a_rejected_message_leaves_no_trace() {
    let good = b"{\"vehicle_id\":\"v\",\"measurements\":[{\"t\":\"2026-11-22T10:15:00Z\",\"speed\":1}]}".as_slice();
    let bad: &[&[u8]] = &[
        b"{\"vehicle_id\":\"w\",\"sent_at\":\"2026-11-22T10:15:00Z\",\"measurements\":[{\"t\":\"2026-11-22T10:15:00Z\",\"speed\":2},{\"speed\":3,\"t\":7}]}",
        b"{\"vehicle_id\":\"w\",\"measurements\":[{\"t\":\"2026-11-22T10:15:00Z\"},",
        b"{\"measurements\":[{\"t\":\"2026-11-22T10:15:00Z\"},{\"t\":\"2026-11-22T10:15:00Z\"}]}",
        b"{\"vehicle_id\":\"w\",\"measurements\":null} x",
        b"{\"vehicle_id\":\"w\",\"vehicle_id\":\"w\"}",
    ];
    for bad in bad {
        let mut decoder = JsonDecoder::new(vec![Arc::new(fleet())], JsonOptions::default());
        decoder.push(&[message(good), message(bad), message(good)], 10);
        let decoded = decoder.finish();
        assert_eq!(decoded.rejects.len(), 1);
        assert_eq!(decoded.rejects[0].index, 11);
        assert_eq!(decoded.tables[0].messages, [10, 12]);
        let row = show(&decode(fleet(), JsonOptions::default(), good).tables[0].rows);
        assert_eq!(show(&decoded.tables[0].rows), format!("{row}\n{row}"), "{}", String::from_utf8_lossy(bad));
    }
}

#[test]
fn unknown_fields_are_counted_refused_or_captured() {
    let nested = column("c", ColumnType::Struct(vec![column("a", ColumnType::Int)]));
    let payload = b"{\"x\" : [1, 2.50], \"c\":{\"a\":1,\"y\":{\"z\":1}}, \"\\u00fc \\\"q\\\"\": null, \"_extra\": 1}";
    let with = |unknown_fields, columns| {
        decode(table("t", columns), JsonOptions { unknown_fields, ..Default::default() }, payload)
    };
    let ignored = with(UnknownFields::Ignore, vec![nested.clone()]);
    assert_eq!((outcome(&ignored).as_str(), ignored.unknown_fields), ("c={a: 1}", 4));
    let refused = with(UnknownFields::Reject, vec![nested.clone()]);
    assert_eq!((outcome(&refused).as_str(), refused.unknown_fields), ("unknown_field: x", 0));
    let all = vec![nested.clone(), column("x", ColumnType::Json)];
    assert_eq!(outcome(&with(UnknownFields::Reject, all)), "unknown_field: c.y");
    let captured = with(UnknownFields::Capture, vec![nested, column(EXTRA_COLUMN, ColumnType::Json)]);
    let want = "c={a: 1} _extra={\"x\":[1,2.50],\"\\u00fc \\\"q\\\"\":null,\"_extra\":1}";
    assert_eq!((outcome(&captured).as_str(), captured.unknown_fields), (want, 4));
}

#[test]
fn nothing_unknown_captures_null() {
    let columns = vec![column("c", ColumnType::Int), column(EXTRA_COLUMN, ColumnType::Json)];
    let options = JsonOptions { unknown_fields: UnknownFields::Capture, ..Default::default() };
    let mut decoder = JsonDecoder::new(vec![Arc::new(table("t", columns))], options);
    decoder.push(&[message(b"{\"z\":1}"), message(b"{\"c\":\"\"}"), message(b"{\"c\":1}")], 0);
    assert_eq!(
        outcome(&decoder.finish()),
        "c=NULL _extra={\"z\":1}\nc=1 _extra=NULL\ntype: c: found text \"\", declared INT"
    );
}

fn routed(name: &str, conditions: Vec<(RouteSubject, Vec<RouteValue>)>) -> Arc<Table> {
    let conditions = conditions.into_iter().map(|(subject, values)| RouteCondition { subject, values }).collect();
    let columns = vec![column("id", ColumnType::Int)];
    Arc::new(Table { route: Some(Route { conditions }), ..table(name, columns) })
}

fn field(path: &str) -> RouteSubject {
    RouteSubject::Field(path.split('.').map(Into::into).collect())
}

fn text(value: &str) -> RouteValue {
    RouteValue::Text(value.into())
}

fn sources() -> Vec<Arc<Table>> {
    vec![
        routed("ignition", vec![(field("type"), vec![text("ignition"), text("ig\"n")])]),
        routed(
            "v2",
            vec![
                (field("header.version"), vec![RouteValue::Int(2)]),
                (field("header.test"), vec![RouteValue::Bool(false)]),
            ],
        ),
        routed("alarms", vec![(RouteSubject::Topic, vec![text("a/alarm")])]),
    ]
}

fn route(tables: Vec<Arc<Table>>, unrouted: Unrouted, topic: Option<&str>, payload: &str) -> String {
    let names: Vec<Arc<str>> = tables.iter().map(|t| t.name.clone()).collect();
    let options = JsonOptions { unrouted, unknown_fields: UnknownFields::Reject };
    let mut decoder = JsonDecoder::new(tables, options);
    decoder.push(&[Message { topic: topic.map(Into::into), ..message(payload.as_bytes()) }], 0);
    let decoded = decoder.finish();
    let taken = decoded.tables.iter().map(|t| names[t.table].to_string());
    let rejects = decoded.rejects.iter().map(|r| r.reason.to_string());
    let dropped = (0..decoded.dropped).map(|_| "dropped".to_owned());
    taken.chain(rejects).chain(dropped).collect::<Vec<_>>().join(" ")
}

#[test]
fn messages_without_a_route_are_rejected_or_dropped() {
    let none = "no_route: no table of the source takes it, _topic is absent, type is ";
    let rest = ", header.version is absent, header.test is absent";
    let cases = [
        ("{\"id\":1}", format!("{none}absent{rest}")),
        ("{\"type\":\"Ignition\"}", format!("{none}text \"Ignition\"{rest}")),
        ("{\"type\":1}", format!("{none}1{rest}")),
        ("{\"type\":{\"a\":1}}", format!("{none}object {{\"a\":1}}{rest}")),
        (
            "{\"header\":{\"version\":\"2\",\"test\":false}}",
            format!("{none}absent, header.version is text \"2\", header.test is boolean false"),
        ),
        ("{\"header\":{\"version\":2}}", format!("{none}absent, header.version is 2, header.test is absent")),
        ("{\"header\":2}", format!("{none}absent{rest}")),
    ];
    for (payload, want) in cases {
        assert_eq!(route(sources(), Unrouted::Reject, None, payload), want, "{payload}");
        assert_eq!(route(sources(), Unrouted::Drop, None, payload), "dropped", "{payload}");
    }
    for unrouted in [Unrouted::Reject, Unrouted::Drop] {
        assert_eq!(route(sources(), unrouted, None, "{\"type\":\"x\",\"id\":}"), "syntax: expected value at byte 17");
        assert_eq!(route(sources(), unrouted, None, "[]"), "syntax: a message is one JSON object, found array []");
    }
}

#[test]
fn the_first_table_whose_conditions_hold_takes_the_message() {
    let cases = [
        (None, "{\"id\":1,\"type\":\"ignition\"}", "ignition"),
        (None, "{\"type\":\"\\u0069gnition\"}", "ignition"),
        (None, "{\"type\":\"ig\\\"n\"}", "ignition"),
        (None, "{\"header\":{\"test\":false,\"version\":2.0},\"id\":1}", "v2"),
        (Some("a/alarm"), "{\"id\":1}", "alarms"),
        (Some("a/alarm"), "{\"type\":\"ignition\"}", "ignition"),
        (None, "{\"type\":\"ignition\",\"type\":\"other\"}", "syntax: duplicate field \"type\""),
        (None, "{\"type\":\"ignition\",\"id\":\"x\"}", "type: id: found text \"x\", declared INT"),
    ];
    for (topic, payload, want) in cases {
        assert_eq!(route(sources(), Unrouted::Reject, topic, payload), want, "{payload}");
    }
    let mut with_rest = sources();
    with_rest.insert(0, Arc::new(table("rest", vec![column("id", ColumnType::Int)])));
    assert_eq!(route(with_rest.clone(), Unrouted::Reject, None, "{\"id\":1}"), "rest");
    assert_eq!(route(with_rest, Unrouted::Reject, None, "{\"type\":\"ignition\"}"), "ignition");
}

#[test]
fn a_tombstone_is_dropped() {
    let mut decoder = JsonDecoder::new(vec![Arc::new(fleet())], JsonOptions::default());
    decoder.push(&[Message { payload: None, ..message(b"") }], 0);
    let decoded = decoder.finish();
    assert_eq!((decoded.dropped, decoded.tables.len(), decoded.rejects.len()), (1, 0, 0));
}

#[test]
fn rows_pile_up_over_pushes_and_start_anew_after_finish() {
    let mut decoder = JsonDecoder::new(vec![Arc::new(fleet())], JsonOptions::default());
    decoder.push(&[message(b"{\"vehicle_id\":\"a\"}"), message(b"{")], 0);
    decoder.push(&[message(b"{\"vehicle_id\":\"b\"}")], 2);
    let first = decoder.finish();
    assert_eq!(first.tables[0].messages, [0, 2]);
    assert_eq!(first.tables[0].rows.schema(), fleet().data_schema());
    decoder.push(&[message(b"{\"vehicle_id\":\"c\"}")], 0);
    let second = decoder.finish();
    assert_eq!(show(&second.tables[0].rows), "vehicle_id=c sent_at=NULL measurements=NULL");
    assert_eq!((second.tables[0].messages.as_slice(), second.rejects.len()), ([0].as_slice(), 0));
}

#[test]
fn a_large_map_finds_its_duplicates() {
    let kind = ColumnType::Map(Box::new(column("value", ColumnType::Int)));
    let entries: Vec<String> = (0..1000).map(|i| format!("\"k{i}\":{i}")).collect();
    let all = format!("{{\"c\":{{{}}}}}", entries.join(","));
    let decoded = decode(table("t", vec![column("c", kind.clone())]), JsonOptions::default(), all.as_bytes());
    assert_eq!(decoded.tables[0].rows.column(0).as_map().keys().len(), 1000);
    for again in [0, 20, 500] {
        let twice = format!("{{\"c\":{{{},\"k{again}\":0}}}}", entries.join(","));
        let decoded = decode(table("t", vec![column("c", kind.clone())]), JsonOptions::default(), twice.as_bytes());
        assert_eq!(outcome(&decoded), format!("syntax: duplicate field \"k{again}\""));
    }
}

// What goes in comes out: rows of every type, written as JSON by another writer.

#[derive(Clone, Debug, PartialEq)]
struct Row {
    flag: Option<bool>,
    small: Option<i32>,
    big: Option<i64>,
    real: Option<f64>,
    text: Option<String>,
    list: Option<Vec<Option<i32>>>,
    inner: Option<(i32, Option<String>)>,
}

fn any_row() -> impl Strategy<Value = Row> {
    let real = any::<f64>().prop_filter("JSON has no infinities", |f| f.is_finite());
    (
        any::<Option<bool>>(),
        any::<Option<i32>>(),
        any::<Option<i64>>(),
        proptest::option::of(real),
        any::<Option<String>>(),
        proptest::option::of(proptest::collection::vec(any::<Option<i32>>(), 0..4)),
        any::<Option<(i32, Option<String>)>>(),
    )
        .prop_map(|(flag, small, big, real, text, list, inner)| Row { flag, small, big, real, text, list, inner })
}

fn row_table() -> Table {
    use ColumnType::*;
    let inner = Struct(vec![not_null("n", Int), column("s", Text)]);
    table(
        "t",
        vec![
            column("flag", Boolean),
            column("small", Int),
            column("big", BigInt),
            column("real", Double),
            column("text", Text),
            column("list", Array(Box::new(column("item", Int)))),
            column("inner", inner),
        ],
    )
}

/// NULL fields are left out in every other row.
fn write(row: &Row, leave_out: bool) -> Vec<u8> {
    let inner = row.inner.as_ref().map(|(n, s)| serde_json::json!({"s": s, "n": n}));
    let mut value = serde_json::json!({
        "inner": inner, "flag": row.flag, "small": row.small, "big": row.big, "real": row.real, "text": row.text,
        "list": row.list,
    });
    if leave_out {
        value.as_object_mut().expect("an object").retain(|_, v| !v.is_null());
    }
    serde_json::to_vec(&value).expect("JSON")
}

fn read_back(rows: &RecordBatch) -> Vec<Row> {
    use arrow::datatypes::{Float64Type, Int32Type, Int64Type};
    let some = |c: usize, i: usize| rows.column(c).is_valid(i);
    let inner = rows.column(6).as_struct();
    (0..rows.num_rows())
        .map(|i| Row {
            flag: some(0, i).then(|| rows.column(0).as_boolean().value(i)),
            small: some(1, i).then(|| rows.column(1).as_primitive::<Int32Type>().value(i)),
            big: some(2, i).then(|| rows.column(2).as_primitive::<Int64Type>().value(i)),
            real: some(3, i).then(|| rows.column(3).as_primitive::<Float64Type>().value(i)),
            text: some(4, i).then(|| rows.column(4).as_string::<i32>().value(i).to_owned()),
            list: some(5, i)
                .then(|| rows.column(5).as_list::<i32>().value(i).as_primitive::<Int32Type>().iter().collect()),
            inner: some(6, i).then(|| {
                let text = inner.column(1).as_string::<i32>();
                let text = text.is_valid(i).then(|| text.value(i).to_owned());
                (inner.column(0).as_primitive::<Int32Type>().value(i), text)
            }),
        })
        .collect()
}

proptest! {
    #[test]
    fn rows_survive_the_way_through_json(rows in proptest::collection::vec(any_row(), 1..8)) {
        let mut decoder = JsonDecoder::new(vec![Arc::new(row_table())], JsonOptions::default());
        let messages: Vec<Message> = rows.iter().enumerate().map(|(i, r)| message(&write(r, i % 2 == 1))).collect();
        decoder.push(&messages, 0);
        let decoded = decoder.finish();
        prop_assert_eq!(&decoded.rejects, &vec![]);
        prop_assert_eq!(read_back(&decoded.tables[0].rows), rows);
    }

    #[test]
    fn broken_bytes_never_panic_and_never_leave_half_a_row(
        row in any_row(),
        changes in proptest::collection::vec((any::<proptest::sample::Index>(), any::<u8>(), 0..3u8), 1..4),
    ) {
        let good = write(&row, false);
        let mut bad = good.clone();
        for (place, byte, how) in changes {
            let place = place.index(bad.len().max(1));
            match how {
                0 if place < bad.len() => bad[place] = byte,
                1 if place < bad.len() => drop(bad.remove(place)),
                _ => bad.insert(place, b"{}[]\",:0-e\\ntu"[byte as usize % 14]),
            }
        }
        let mut decoder = JsonDecoder::new(vec![Arc::new(row_table())], JsonOptions::default());
        decoder.push(&[message(&good), message(&bad), message(&good)], 0);
        let decoded = decoder.finish();
        let taken = decoded.tables[0].messages.len();
        prop_assert_eq!(taken + decoded.rejects.len(), 3);
        let rows = read_back(&decoded.tables[0].rows);
        prop_assert_eq!(&rows[0], &row);
        prop_assert_eq!(&rows[taken - 1], &row);
    }
}
