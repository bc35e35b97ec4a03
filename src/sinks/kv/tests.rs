//! The key-value sink on a real store in a temporary directory.

use super::*;
use crate::sinks::kv::key;
use crate::sinks::kv::store::Version;
use crate::sinks::kv::table::{KvApplied, KvTableSpec};
use crate::types::change::Changes;
use crate::types::epoch::ChainId;
use crate::types::error::Error;
use crate::types::position::{PartitionId, Position};
use arrow::array::{
    Array, ArrayRef, BinaryArray, BinaryBuilder, BooleanArray, BooleanBuilder, Date32Array, Decimal128Array,
    Float32Array, Float64Array, Int32Array, Int64Array, ListArray, RecordBatch, StringArray, StringBuilder,
    StructArray, TimestampMicrosecondArray, UInt64Array,
};
use arrow::datatypes::{DataType, Field, Int32Type, Schema, SchemaRef};
use serde_json::json;

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("vehicle", DataType::Utf8, true),
        Field::new("n", DataType::Int64, true),
        Field::new("note", DataType::Utf8, true),
    ]))
}

fn spec(name: &str) -> KvTableSpec {
    KvTableSpec { name: name.into(), schema: schema(), key: vec![0, 1] }
}

fn rows(rows: &[(Option<&str>, i64, &str)]) -> RecordBatch {
    let vehicle: StringArray = rows.iter().map(|r| r.0).collect();
    let n: Int64Array = rows.iter().map(|r| Some(r.1)).collect();
    let note: StringArray = rows.iter().map(|r| Some(r.2)).collect();
    RecordBatch::try_new(schema(), vec![Arc::new(vehicle), Arc::new(n), Arc::new(note)]).expect("rows fit the schema")
}

fn changes(upserts: &[(Option<&str>, i64, &str)], deletes: &[(Option<&str>, i64)]) -> Changes {
    let keys: Vec<(Option<&str>, i64, &str)> = deletes.iter().map(|(v, n)| (*v, *n, "")).collect();
    Changes { upserts: rows(upserts), deletes: rows(&keys).project(&[0, 1]).expect("the key columns are there") }
}

fn marker(incarnation: u64, sequence: u64, at: u64) -> Marker {
    Marker {
        chain: ChainId("chain-1".into()),
        fingerprint: "f".into(),
        version: Version { incarnation, sequence },
        positions: [(PartitionId::new("s", "p/0"), Position(at))].into(),
        whole: true,
    }
}

fn open(dir: &Path) -> KvSink {
    KvSink::open("kv", &KvConfig::default(), dir).expect("the store opens")
}

fn all(table: &KvTable) -> String {
    let everything = table.prefix(&[]).expect("no parts");
    let rows = table.scan(&everything, 1_000).expect("the store reads");
    rows.iter().map(|row| row.json.clone()).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_older_version_never_overwrites_a_newer_one() {
    let dir = tempfile::tempdir().expect("a directory");
    let sink = open(dir.path());
    let table = sink.open_table(spec("t")).expect("opens");
    table.apply(&changes(&[(Some("a"), 1, "new")], &[]), &marker(2, 5, 10)).expect("applies");
    for (incarnation, sequence) in [(2, 5), (2, 4), (1, 9)] {
        // A table of its own: after a broken promise nothing more is written through it.
        let table = sink.open_table(spec("t")).expect("opens");
        let older = std::panic::AssertUnwindSafe(|| {
            table.apply(&changes(&[(Some("a"), 1, "old")], &[]), &marker(incarnation, sequence, 11))
        });
        let panic = std::panic::catch_unwind(older).expect_err("the broken promise was noticed");
        let text = panic.downcast_ref::<String>().expect("a text");
        assert!(text.starts_with("invariant I13"), "{text}");
        assert_eq!(all(&table), r#"{"vehicle":"a","n":1,"note":"new"}"#);
    }
    drop((table, sink));
    // The newest version is remembered across starts.
    let sink = open(dir.path());
    let table = sink.open_table(spec("t")).expect("opens");
    let older = std::panic::AssertUnwindSafe(|| table.apply(&changes(&[], &[]), &marker(2, 5, 11)));
    assert!(std::panic::catch_unwind(older).is_err());
}

#[test]
fn null_key_parts_are_left_out_and_counted() {
    let dir = tempfile::tempdir().expect("a directory");
    let table = open(dir.path()).open_table(spec("t")).expect("opens");
    let long = "x".repeat(key::KEY_BYTES_MAX);
    let upserts = [(Some("a"), 1, "x"), (None, 2, "y"), (Some(long.as_str()), 3, "z")];
    let applied = table.apply(&changes(&upserts, &[(None, 4), (Some("b"), 5)]), &marker(1, 1, 1)).expect("applies");
    assert_eq!(applied, KvApplied { written: 1, deleted: 1, null_keys: 2, long_keys: 1 });
    assert_eq!(all(&table), r#"{"vehicle":"a","n":1,"note":"x"}"#);
}

#[test]
fn upserts_replace_deletes_remove_and_reads_find() {
    let dir = tempfile::tempdir().expect("a directory");
    let sink = open(dir.path());
    let table = sink.open_table(spec("t")).expect("opens");
    assert_eq!(table.marker().expect("reads"), None);
    let first = [(Some("a"), -1, "x"), (Some("a"), 2, "y"), (Some("b"), 1, "z"), (Some(""), 0, "empty")];
    table.apply(&changes(&first, &[]), &marker(1, 1, 4)).expect("applies");
    table
        .apply(&changes(&[(Some("a"), 2, "y2")], &[(Some("b"), 1), (Some("never"), 1)]), &marker(1, 2, 7))
        .expect("applies");
    assert_eq!(
        all(&table),
        "{\"vehicle\":\"\",\"n\":0,\"note\":\"empty\"}\n{\"vehicle\":\"a\",\"n\":-1,\"note\":\"x\"}\n\
         {\"vehicle\":\"a\",\"n\":2,\"note\":\"y2\"}"
    );
    assert_eq!(table.count().expect("reads"), 3);
    assert_eq!(table.marker().expect("reads"), Some(marker(1, 2, 7)));

    let get = |parts: &[serde_json::Value]| table.get(&table.key(parts).expect("a key")).expect("reads");
    let row = get(&[json!("a"), json!(2)]).expect("the row is there");
    assert_eq!(
        (row.json.as_str(), row.version),
        (r#"{"vehicle":"a","n":2,"note":"y2"}"#, Version { incarnation: 1, sequence: 2 })
    );
    assert_eq!(get(&[json!("a"), json!("2")]), Some(row), "a query string has only text");
    assert_eq!(get(&[json!("b"), json!(1)]), None);
    let prefix = table.prefix(&[json!("a")]).expect("a prefix");
    assert_eq!(table.scan(&prefix, 10).expect("reads").len(), 2);
    assert_eq!(table.scan(&prefix, 1).expect("reads").len(), 1);

    assert_eq!(table.key(&[json!("a")]).expect_err("short"), "the key of \"kv.t\" is (vehicle, n)");
    assert_eq!(table.key(&[json!("a"), json!("x")]).expect_err("text"), "key part \"n\" is not a whole number");
    assert_eq!(table.key(&[json!("a"), json!(null)]).expect_err("null"), "key part \"n\" is not a whole number");
    assert_eq!(table.key(&[json!("a"), json!(1), json!(1)]).expect_err("long"), "the key has 2 parts, 3 were given");
}

#[test]
fn two_tables_do_not_see_each_other() {
    let dir = tempfile::tempdir().expect("a directory");
    let sink = open(dir.path());
    let (one, two) = (sink.open_table(spec("one")).expect("opens"), sink.open_table(spec("two")).expect("opens"));
    one.apply(&changes(&[(Some("a"), 1, "x")], &[]), &marker(1, 1, 1)).expect("applies");
    two.apply(&changes(&[(Some("a"), 1, "y")], &[]), &marker(1, 1, 2)).expect("applies");
    two.rebuild(&[], &marker(1, 2, 3)).expect("rebuilds");
    assert_eq!((all(&one).as_str(), all(&two).as_str()), (r#"{"vehicle":"a","n":1,"note":"x"}"#, ""));
    let markers = sink.markers().expect("reads");
    assert_eq!(markers.keys().collect::<Vec<_>>(), ["one", "two"]);
    assert_eq!(markers["two"], marker(1, 2, 3));
    assert_eq!(sink.tables().len(), 2);
    assert!(sink.table("three").is_none());
}

#[test]
fn a_rebuild_replaces_everything_and_survives_a_restart() {
    let dir = tempfile::tempdir().expect("a directory");
    let sink = open(dir.path());
    let table = sink.open_table(spec("t")).expect("opens");
    table.apply(&changes(&[(Some("old"), 1, "x"), (Some("both"), 1, "x")], &[]), &marker(1, 9, 4)).expect("applies");
    let many: Vec<(Option<&str>, i64, &str)> = (0..10_000).map(|n| (Some("new"), n, "y")).collect();
    let rebuilt = table.rebuild(&[rows(&many), rows(&[(Some("both"), 1, "y")])], &marker(2, 1, 3)).expect("rebuilds");
    assert_eq!(rebuilt.written, 10_001);
    drop((table, sink));
    let table = open(dir.path()).open_table(spec("t")).expect("opens again");
    assert_eq!(table.count().expect("reads"), 10_001);
    assert_eq!(table.marker().expect("reads"), Some(marker(2, 1, 3)));
    let key = table.key(&[json!("old"), json!(1)]).expect("a key");
    assert_eq!(table.get(&key).expect("reads"), None);
}

/// What a crash leaves is a copy of the directory at that moment.
fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("lists") {
        let entry = entry.expect("lists");
        let target = to.join(entry.file_name());
        if entry.file_type().expect("has a type").is_dir() {
            copy(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).expect("copies");
        }
    }
}

#[test]
fn after_a_crash_rows_and_marker_belong_together() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = dir.path().join("live");
    let sink = open(&live);
    let table = sink.open_table(spec("t")).expect("opens");
    for n in 1..=20u64 {
        table.apply(&changes(&[(Some("a"), n as i64, "x")], &[]), &marker(1, n, n)).expect("applies");
        if n == 10 {
            sink.sync().expect("syncs");
        }
        if n % 5 == 0 {
            let crashed = dir.path().join(format!("crash-{n}"));
            copy(&live, &crashed);
            let again = open(&crashed).open_table(spec("t")).expect("opens after the crash");
            let marked = again.marker().expect("reads").map_or(0, |m| m.positions[&PartitionId::new("s", "p/0")].0);
            assert_eq!(again.count().expect("reads"), marked, "crash after {n}");
            assert!(n < 10 || marked >= 10, "what was synced is there");
        }
    }
}

#[test]
fn a_torn_write_is_dropped_as_a_whole() {
    let dir = tempfile::tempdir().expect("a directory");
    let live = dir.path().join("live");
    let sink = open(&live);
    let table = sink.open_table(spec("t")).expect("opens");
    table.apply(&changes(&[(Some("a"), 1, "x")], &[]), &marker(1, 1, 1)).expect("applies");
    table.apply(&changes(&[(Some("a"), 2, "x"), (Some("a"), 3, "x")], &[]), &marker(1, 2, 3)).expect("applies");
    let crashed = dir.path().join("crashed");
    copy(&live, &crashed);
    // fjall's journal is the only *.jnl file; it is created longer than it is written.
    let journal = std::fs::read_dir(crashed.join("kv")).expect("lists").map(|e| e.expect("lists").path());
    let journal = journal.into_iter().find(|p| p.extension().is_some_and(|e| e == "jnl")).expect("a journal");
    let bytes = std::fs::read(&journal).expect("reads");
    let written = bytes.iter().rposition(|b| *b != 0).expect("something was written") + 1;
    let file = std::fs::OpenOptions::new().write(true).open(&journal).expect("opens");
    file.set_len(written as u64 - 3).expect("cuts");
    let again = open(&crashed).open_table(spec("t")).expect("opens after the crash");
    assert_eq!(all(&again), r#"{"vehicle":"a","n":1,"note":"x"}"#);
    assert_eq!(again.marker().expect("reads"), Some(marker(1, 1, 1)));
}

#[test]
fn a_second_process_is_refused_with_the_path() {
    let dir = tempfile::tempdir().expect("a directory");
    let _first = open(dir.path());
    let Err(Error::Refused { what, .. }) = KvSink::open("kv", &KvConfig::default(), dir.path()) else {
        panic!("two processes had the store")
    };
    assert!(what.ends_with("kv\" is open in another process"), "{what}");
}

#[test]
fn a_key_without_an_order_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let list = DataType::List(Arc::new(Field::new("item", DataType::Int64, true)));
    let schema = Arc::new(Schema::new(vec![Field::new("tags", list, true)]));
    let opened = open(dir.path()).open_table(KvTableSpec { name: "t".into(), schema, key: vec![0] });
    let Err(Error::Refused { what, .. }) = opened else { panic!("a list became a key") };
    assert!(what.starts_with("key column \"tags\" of KV table \"kv.t\" has type List"), "{what}");
}

/// Values in their order; every key type keeps it.
fn ordered() -> Vec<ArrayRef> {
    vec![
        Arc::new(BooleanArray::from(vec![false, true])),
        Arc::new(Int32Array::from(vec![i32::MIN, -1, 0, 1, i32::MAX])),
        Arc::new(Int64Array::from(vec![i64::MIN, -256, -255, -1, 0, 1, 255, 256, i64::MAX])),
        Arc::new(UInt64Array::from(vec![0, 1, 255, 256, u64::MAX])),
        Arc::new(Float32Array::from(vec![f32::NEG_INFINITY, -1.5, -0.0, 0.0, 1e-40, 1.5, f32::INFINITY, f32::NAN])),
        Arc::new(Float64Array::from(vec![
            f64::NEG_INFINITY,
            f64::MIN,
            -1.0,
            -f64::MIN_POSITIVE,
            -0.0,
            0.0,
            1e-308,
            1.0,
            f64::MAX,
            f64::INFINITY,
            f64::NAN,
        ])),
        Arc::new(Decimal128Array::from(vec![-99_999, -1, 0, 1, 99_999]).with_precision_and_scale(5, 2).expect("fits")),
        Arc::new(StringArray::from(vec!["", "\0", "\0\0", "\0a", "a", "a\0", "a\0b", "aa", "b", "ä", "\u{10FFFF}"])),
        Arc::new(BinaryArray::from_vec(vec![b"", b"\0", b"\0\x01", b"\0\xFF", b"\x01", b"\xFF", b"\xFF\xFF"])),
        Arc::new(Date32Array::from(vec![i32::MIN, -1, 0, 20_000])),
        Arc::new(TimestampMicrosecondArray::from(vec![i64::MIN, -1, 0, 1_795_330_800_000_000]).with_timezone("UTC")),
    ]
}

#[test]
fn every_key_type_keeps_its_order_and_comes_back() {
    for column in ordered() {
        let keys = key::encode(&[column.clone()]);
        let keys: Vec<Vec<u8>> = keys.into_iter().map(|k| k.expect("no NULLs")).collect();
        assert!(keys.is_sorted_by(|a, b| a < b), "{:?}: {keys:?}", column.data_type());
        for (row, key) in keys.iter().enumerate() {
            let back = decode_key(key, &[column.data_type().clone()]).expect("it is a key");
            assert_eq!(back[0].to_data(), column.slice(row, 1).to_data(), "{:?}", column.data_type());
        }
    }
}

#[test]
fn parts_do_not_run_into_each_other() {
    let left: ArrayRef = Arc::new(StringArray::from(vec!["", "", "a", "a", "ab", "b"]));
    let right: ArrayRef = Arc::new(StringArray::from(vec!["", "ab", "", "b", "", ""]));
    let keys: Vec<Vec<u8>> = key::encode(&[left, right]).into_iter().flatten().collect();
    assert_eq!(keys.len(), 6);
    assert!(keys.is_sorted_by(|a, b| a < b), "{keys:?}");
}

/// The stored bytes of a key never change: a store written by an earlier build must still be found.
#[test]
fn key_bytes_of_today_are_those_of_tomorrow() {
    let hex = |columns: &[ArrayRef]| {
        let key = key::encode(columns).remove(0).expect("no NULLs");
        key.iter().map(|b| format!("{b:02x}")).collect::<String>()
    };
    let text: ArrayRef = Arc::new(StringArray::from(vec!["v\0"]));
    let int: ArrayRef = Arc::new(Int32Array::from(vec![-2]));
    let bigint: ArrayRef = Arc::new(Int64Array::from(vec![-2]));
    let real: ArrayRef = Arc::new(Float64Array::from(vec![1.0]));
    let date: ArrayRef = Arc::new(Date32Array::from(vec![1]));
    assert_eq!(hex(&[text]), "7600ff0001");
    assert_eq!(hex(&[int]), "7ffffffffffffffe");
    assert_eq!(hex(&[bigint]), "7ffffffffffffffe");
    assert_eq!(hex(&[real]), "bff0000000000000");
    assert_eq!(hex(&[date]), "80000001");
}

#[test]
fn a_row_of_any_type_is_json() {
    let point = StructArray::from(vec![
        (
            Arc::new(Field::new("lat", DataType::Float64, true)),
            Arc::new(Float64Array::from(vec![1.5, f64::NAN])) as ArrayRef,
        ),
        (
            Arc::new(Field::new("note \"n\"", DataType::Utf8, true)),
            Arc::new(StringArray::from(vec![Some("é\n"), None])),
        ),
    ]);
    let list = ListArray::from_iter_primitive::<Int32Type, _, _>(vec![Some(vec![Some(1), None]), None]);
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("b", Arc::new(BooleanArray::from(vec![Some(true), None]))),
        ("i", Arc::new(Int32Array::from(vec![Some(-7), None]))),
        ("u", Arc::new(UInt64Array::from(vec![u64::MAX, 0]))),
        ("r", Arc::new(Float32Array::from(vec![0.1, f32::NEG_INFINITY]))),
        ("d", Arc::new(Float64Array::from(vec![Some(1e300), None]))),
        ("m", Arc::new(Decimal128Array::from(vec![12345, -1]).with_precision_and_scale(5, 2).expect("fits"))),
        ("x", Arc::new(BinaryArray::from_vec(vec![b"\0\xFF", b""]))),
        ("day", Arc::new(Date32Array::from(vec![20_000, 0]))),
        ("at", Arc::new(TimestampMicrosecondArray::from(vec![1_795_330_800_000_001, 0]).with_timezone("UTC"))),
        ("p", Arc::new(point)),
        ("l", Arc::new(list)),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns fit");
    let values = row::encode(&batch, Version { incarnation: 1, sequence: 2 }).expect("encodes");
    let text: Vec<String> = values.iter().map(|v| row::KvRow::decode(v).expect("decodes").json).collect();
    assert_eq!(
        text[0],
        "{\"b\":true,\"i\":-7,\"u\":18446744073709551615,\"r\":0.1,\"d\":1e300,\"m\":\"123.45\",\"x\":\"AP8=\",\
         \"day\":\"2024-10-04\",\"at\":\"2026-11-22T07:00:00.000001Z\",\
         \"p\":{\"lat\":1.5,\"note \\\"n\\\"\":\"é\\n\"},\"l\":[1,null]}"
    );
    assert_eq!(
        text[1],
        "{\"b\":null,\"i\":null,\"u\":0,\"r\":\"-Infinity\",\"d\":null,\"m\":\"-0.01\",\"x\":\"\",\
         \"day\":\"1970-01-01\",\"at\":\"1970-01-01T00:00:00Z\",\"p\":{\"lat\":\"NaN\",\"note \\\"n\\\"\":null},\"l\":null}"
    );
    for line in text {
        serde_json::from_str::<serde_json::Value>(&line).expect("it is JSON");
    }
}

#[test]
fn a_damaged_value_is_an_error_not_a_row() {
    for bytes in [&b""[..], b"\x01short", b"\x02aaaaaaaabbbbbbbb{}"] {
        assert!(row::KvRow::decode(bytes).is_err());
    }
}

/// The way back from the bytes of a key: what makes the encoding a bijection.
fn decode_key(key: &[u8], types: &[DataType]) -> Option<Vec<ArrayRef>> {
    let mut rest = key;
    let mut columns = Vec::with_capacity(types.len());
    for kind in types {
        columns.push(decode_part(&mut rest, kind)?);
    }
    rest.is_empty().then_some(columns)
}

fn decode_part(rest: &mut &[u8], kind: &DataType) -> Option<ArrayRef> {
    let column: ArrayRef = match kind {
        DataType::Boolean => {
            let mut builder = BooleanBuilder::new();
            builder.append_value(take::<1>(rest)? != [0]);
            Arc::new(builder.finish())
        }
        DataType::UInt8 | DataType::UInt16 | DataType::UInt32 | DataType::UInt64 => {
            let value = u64::from_be_bytes(take(rest)?);
            arrow::compute::cast(&(Arc::new(UInt64Array::from(vec![value])) as ArrayRef), kind).ok()?
        }
        DataType::Date32 => Arc::new(Date32Array::from(vec![(u32::from_be_bytes(take(rest)?) ^ (1 << 31)) as i32])),
        DataType::Decimal128(precision, scale) => {
            let value = (u128::from_be_bytes(take(rest)?) ^ (1 << 127)) as i128;
            Arc::new(Decimal128Array::from(vec![value]).with_precision_and_scale(*precision, *scale).ok()?)
        }
        DataType::Float32 | DataType::Float64 => {
            let flipped = u64::from_be_bytes(take(rest)?);
            let bits = if flipped >> 63 == 1 { flipped ^ (1 << 63) } else { !flipped };
            let value = Float64Array::from(vec![f64::from_bits(bits)]);
            arrow::compute::cast(&(Arc::new(value) as ArrayRef), kind).ok()?
        }
        DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View => {
            let mut builder = StringBuilder::new();
            builder.append_value(String::from_utf8(take_bytes(rest)?).ok()?);
            arrow::compute::cast(&(Arc::new(builder.finish()) as ArrayRef), kind).ok()?
        }
        DataType::Binary | DataType::LargeBinary | DataType::BinaryView => {
            let mut builder = BinaryBuilder::new();
            builder.append_value(take_bytes(rest)?);
            arrow::compute::cast(&(Arc::new(builder.finish()) as ArrayRef), kind).ok()?
        }
        kind if key::is_key_type(kind) => {
            let value = (u64::from_be_bytes(take(rest)?) ^ (1 << 63)) as i64;
            arrow::compute::cast(&(Arc::new(Int64Array::from(vec![value])) as ArrayRef), kind).ok()?
        }
        _ => return None,
    };
    Some(column)
}

fn take<const N: usize>(rest: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = rest.split_first_chunk::<N>()?;
    *rest = tail;
    Some(*head)
}

fn take_bytes(rest: &mut &[u8]) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    loop {
        match take::<1>(rest)? {
            [0] => match take::<1>(rest)? {
                [0xFF] => out.push(0),
                [1] => return Some(out),
                _ => return None,
            },
            [byte] => out.push(byte),
        }
    }
}
