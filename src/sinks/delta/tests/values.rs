//! Values that often go wrong between a file, its statistics and a reader: every one comes back, and no filter loses it.

use super::*;
use arrow::array::{
    BinaryArray, BooleanArray, Date32Array, Decimal128Array, Float64Array, Int32Array, ListBuilder, MapBuilder,
    StringBuilder, StringViewArray, StructArray, TimestampMicrosecondArray, TimestampNanosecondArray,
    TimestampSecondArray, UInt64Array,
};
use arrow::datatypes::{Fields, TimeUnit};

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, a)| (n, a, true))).unwrap()
}

/// A table of this one batch, each batch in an epoch of its own.
async fn lake(partition_by: &[&str], batches: &[RecordBatch]) -> (Location, Arc<Table>) {
    let location = Location::in_memory();
    let partition_by = partition_by.iter().map(|p| p.to_string()).collect();
    let spec = TableSpec { name: TABLE.into(), schema: batches[0].schema(), partition_by };
    let table = open(&location, spec).await.unwrap();
    for (i, batch) in batches.iter().enumerate() {
        let next = landing(&table, std::slice::from_ref(batch)).await;
        table.apply(Epoch(i as u64 + 1), &next).await.unwrap();
    }
    (location, table)
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_partition_values_come_back_and_can_be_asked_for() {
    let odd = ["a b", "a/b", "ä=ö&%20", "😀", "..", "", "null", "'quoted'", "x#1", "2026-01-01 00:00:00"];
    let names: ArrayRef =
        Arc::new(StringArray::from_iter(odd.iter().map(|s| Some(*s)).chain([None]).collect::<Vec<_>>()));
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..odd.len() as i64 + 1));
    let (location, table) = lake(&["name"], &[batch(vec![("id", ids), ("name", names)])]).await;
    for (i, value) in odd.iter().enumerate() {
        // Delta writes an empty partition value like NULL.
        if value.is_empty() {
            continue;
        }
        let sql = format!("SELECT id FROM t WHERE name = '{}'", value.replace('\'', "''"));
        assert_eq!(ask(&table, &sql).await, format!("{i}"), "{value:?}");
    }
    assert_eq!(ask(&table, "SELECT id FROM t WHERE name IS NULL ORDER BY id").await, "5; 10");
    assert_eq!(ask(&table, "SELECT count(*), sum(id) FROM t").await, "11 55");
    assert_eq!(foreign(&location).await.get_file_uris().unwrap().count(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_of_every_plain_type() {
    let columns = || {
        vec![
            ("id", Arc::new(Int64Array::from(vec![1, 2])) as ArrayRef),
            ("d", Arc::new(Date32Array::from(vec![Some(20_000), None])) as ArrayRef),
            ("n", Arc::new(Int32Array::from(vec![-7, 8])) as ArrayRef),
            ("b", Arc::new(BooleanArray::from(vec![true, false])) as ArrayRef),
            (
                "x",
                Arc::new(Decimal128Array::from(vec![12345, -5]).with_precision_and_scale(10, 2).unwrap()) as ArrayRef,
            ),
            (
                "t",
                Arc::new(TimestampMicrosecondArray::from(vec![1_700_000_000_123_456, 0]).with_timezone("UTC"))
                    as ArrayRef,
            ),
        ]
    };
    let (_, table) = lake(&["d", "n", "b", "x", "t"], &[batch(columns())]).await;
    assert_eq!(
        ask(&table, "SELECT id, d, n, b, x, t FROM t ORDER BY id").await,
        "1 2024-10-04 -7 true 123.45 2023-11-14T22:13:20.123456Z; 2 NULL 8 false -0.05 1970-01-01T00:00:00Z"
    );
    assert_eq!(ask(&table, "SELECT id FROM t WHERE t > '2023-11-14T22:13:20.123455Z'").await, "1");
    assert_eq!(ask(&table, "SELECT id FROM t WHERE d = '2024-10-04' AND x = 123.45 AND b").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn absurd_times_are_stored_but_not_as_partitions() {
    let columns = || {
        vec![
            ("id", Arc::new(Int64Array::from(vec![1])) as ArrayRef),
            ("d", Arc::new(Date32Array::from(vec![i32::MAX])) as ArrayRef),
            ("t", Arc::new(TimestampMicrosecondArray::from(vec![i64::MAX]).with_timezone("UTC")) as ArrayRef),
        ]
    };
    let (_, table) = lake(&[], &[batch(columns())]).await;
    assert_eq!(ask(&table, "SELECT id FROM t WHERE t > now()").await, "1");
    for partition in ["d", "t"] {
        let spec = TableSpec {
            name: TABLE.into(),
            schema: batch(columns()).schema(),
            partition_by: vec![partition.to_owned()],
        };
        let table = open(&Location::in_memory(), spec).await.unwrap();
        let text = refusal(table.writer().unwrap().write(&batch(columns())).await);
        assert!(text.contains(&format!("partition column \"{partition}\" holds a time")), "{text}");
    }
}

/// What the table could not hold is said before a sink sees it, of the guilty rows and of no others; where nothing can
/// go wrong nothing is looked at.
#[test]
fn rows_that_would_lose_something_are_told_from_the_others() {
    use crate::sinks::delta::table::row_check;
    let columns = || {
        vec![
            ("big", Arc::new(UInt64Array::from(vec![1, u64::MAX, 2, 3])) as ArrayRef),
            ("d", Arc::new(Date32Array::from(vec![0, 0, i32::MAX, 0])) as ArrayRef),
            ("t", Arc::new(TimestampSecondArray::from(vec![0, 0, 0, i64::MAX / 1000])) as ArrayRef),
        ]
    };
    let all = batch(columns());
    let check = row_check(&all.schema(), &["d".into()]).unwrap();
    let said: Vec<String> = (0..4).map(|i| check(&all.slice(i, 1)).err().unwrap_or_default()).collect();
    assert_eq!(said[0], "");
    assert!(said[1].starts_with("column \"big\" holds a value the table cannot"), "{said:?}");
    assert_eq!(said[2], "partition column \"d\" holds a time before the year -9999 or after 9999");
    assert!(said[3].starts_with("column \"t\" holds a value the table cannot"), "{said:?}");
    let plain = batch(vec![columns().remove(1), ("s", Arc::new(StringArray::from(vec!["x"; 4])))]);
    assert!(row_check(&plain.schema(), &[]).is_none());
}

/// Bounds in the log are cut: times to milliseconds, text to 64 bytes. What lies beyond the cut must still be found.
#[tokio::test(flavor = "multi_thread")]
async fn cut_bounds_hide_no_row() {
    let long = format!("{}{}", "z".repeat(70), "end");
    let t: ArrayRef = Arc::new(TimestampMicrosecondArray::from(vec![1_999_999, 1_999_500]).with_timezone("UTC"));
    let s: ArrayRef = Arc::new(StringArray::from(vec![long.clone(), "\u{10FFFF}".repeat(40)]));
    let f: ArrayRef = Arc::new(Float64Array::from(vec![f64::NAN, -0.0]));
    let x: ArrayRef = Arc::new(
        Decimal128Array::from(vec![12345678901234567890123456789012345678, -1])
            .with_precision_and_scale(38, 10)
            .unwrap(),
    );
    let n: ArrayRef = Arc::new(Int64Array::from(vec![i64::MAX, i64::MIN]));
    let columns = vec![("t", t), ("s", s), ("f", f), ("x", x), ("n", n)];
    let (_, table) = lake(&[], &[batch(columns)]).await;
    for filter in [
        "t > '1970-01-01T00:00:01.999998Z'".to_owned(),
        "t = '1970-01-01T00:00:01.999999Z'".to_owned(),
        format!("s = '{long}'"),
        format!("s > '{}' AND s < 'zzzzzzzzzz{}'", "z".repeat(70), "~"),
        "x = CAST('1234567890123456789012345678.9012345678' AS DECIMAL(38,10))".to_owned(),
        "x > CAST('1234567890123456789012345678.9012345677' AS DECIMAL(38,10))".to_owned(),
        format!("n >= {}", i64::MAX),
    ] {
        assert_eq!(ask(&table, &format!("SELECT count(*) FROM t WHERE {filter}")).await, "1", "{filter}");
    }
    assert_eq!(ask(&table, "SELECT count(*) FROM t WHERE f <= 0").await, "1");
    assert_eq!(
        ask(&table, "SELECT max(t), min(t) FROM t").await,
        "1970-01-01T00:00:01.999999Z 1970-01-01T00:00:01.999500Z"
    );
    assert_eq!(ask(&table, "SELECT min(s) FROM t").await, long);
    assert_eq!(
        ask(&table, "SELECT max(n), min(n), max(x) FROM t").await,
        format!("{} {} 1234567890123456789012345678.9012345678", i64::MAX, i64::MIN)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nested_and_odd_types_survive() {
    let mut list = ListBuilder::new(StringBuilder::new());
    list.append_value([Some("a"), None, Some("")]);
    list.append_null();
    list.append_value(Vec::<Option<&str>>::new());
    let mut map = MapBuilder::new(None, StringBuilder::new(), ListBuilder::new(StringBuilder::new()));
    for key in ["k", "q"] {
        map.keys().append_value(key);
        map.values().append_value([Some("v")]);
        map.append(true).unwrap();
    }
    map.append(false).unwrap();
    let point = StructArray::try_new(
        Fields::from(vec![Field::new("x", DataType::Int32, true), Field::new("label", DataType::Utf8, true)]),
        vec![Arc::new(Int32Array::from(vec![1, 2, 3])), Arc::new(StringArray::from(vec![Some("p"), None, Some("r")]))],
        Some(vec![true, true, false].into()),
    )
    .unwrap();
    let columns = || {
        vec![
            ("list", Arc::new(list.finish_cloned()) as ArrayRef),
            ("map", Arc::new(map.finish_cloned()) as ArrayRef),
            ("point", Arc::new(point.clone()) as ArrayRef),
            ("bytes", Arc::new(BinaryArray::from(vec![Some(&b"\x00\xff"[..]), None, Some(b"")])) as ArrayRef),
            ("view", Arc::new(StringViewArray::from(vec![Some("a text longer than twelve bytes"), None, Some("")]))),
            ("big", Arc::new(UInt64Array::from(vec![Some(i64::MAX as u64), None, Some(0)]))),
            ("ns", Arc::new(TimestampNanosecondArray::from(vec![Some(1_999), None, Some(0)]))),
        ]
    };
    let mut columns = columns();
    columns.sort_by_key(|(name, _)| *name);
    let (_, table) = lake(&[], &[batch(columns)]).await;
    assert_eq!(
        ask(&table, "SELECT list, map, point, big, ns FROM t").await,
        "[a, NULL, ] {k: [v]} {x: 1, label: p} 9223372036854775807 1970-01-01T00:00:00.000001Z; \
         NULL {q: [v]} {x: 2, label: NULL} NULL NULL; [] NULL NULL 0 1970-01-01T00:00:00Z"
    );
    assert_eq!(
        ask(&table, "SELECT view, bytes FROM t WHERE view IS NOT NULL AND view <> ''").await,
        "a text longer than twelve bytes 00ff"
    );
    assert_eq!(ask(&table, "SELECT point['x'] FROM t WHERE point['label'] = 'p'").await, "1");
    assert_eq!(
        table.snapshot().provider.schema().field_with_name("ns").unwrap().data_type(),
        &DataType::Timestamp(TimeUnit::Microsecond, Some("UTC".into()))
    );
}

/// A field added inside a struct reads as NULL in files that do not have it.
#[tokio::test(flavor = "multi_thread")]
async fn structs_may_gain_fields() {
    let location = Location::in_memory();
    let point = |fields: &[&str]| {
        let fields: Vec<Field> = fields.iter().map(|f| Field::new(*f, DataType::Int32, true)).collect();
        let columns = (0..fields.len()).map(|i| Arc::new(Int32Array::from(vec![i as i32 + 1])) as ArrayRef).collect();
        batch(vec![("p", Arc::new(StructArray::try_new(fields.into(), columns, None).unwrap()))])
    };
    for (epoch, fields) in [(1, &["x"][..]), (2, &["x", "y"]), (3, &["x"])] {
        let batch = point(fields);
        let spec = TableSpec { name: TABLE.into(), schema: batch.schema(), partition_by: vec![] };
        let table = open(&location, spec).await.unwrap();
        let next = landing(&table, &[batch]).await;
        table.apply(Epoch(epoch), &next).await.unwrap();
        if epoch == 3 {
            assert_eq!(ask(&table, "SELECT p['x'], p['y'] FROM t ORDER BY 2").await, "1 2; 1 NULL; 1 NULL");
        }
    }
}

/// More partitions in one epoch than are kept open.
#[tokio::test(flavor = "multi_thread")]
async fn many_partitions_at_once() {
    let ids: ArrayRef = Arc::new(Int64Array::from_iter_values(0..900));
    let names: ArrayRef = Arc::new(StringArray::from_iter_values((0..900).map(|i| format!("p{}", i / 2))));
    let all = batch(vec![("id", ids), ("name", names)]);
    let location = Location::in_memory();
    let spec = TableSpec { name: TABLE.into(), schema: all.schema(), partition_by: vec!["name".into()] };
    let table = open(&location, spec).await.unwrap();
    let batches: Vec<RecordBatch> = (0..9).map(|i| all.slice(i * 100, 100)).collect();
    let next = landing(&table, &batches).await;
    table.apply(Epoch(1), &next).await.unwrap();
    assert_eq!(count(&table).await, "900 900 404550");
    assert_eq!(ask(&table, "SELECT count(DISTINCT name) FROM t").await, "450");
}
