//! The simulated fleet against the decoder: sent = decoded + rejected, to the row.

use arrow::array::AsArray;
use pipe::codec::json::{JsonDecoder, JsonOptions, Unrouted};
use pipe::simulate::fleet::Fleet;
use pipe::simulate::options::{FleetOptions, Shares};
use pipe::simulate::sent::{Class, Kind, Sent, Stream};
use pipe::types::message::Message;
use pipe::types::position::Position;
use pipe::types::table::{Column, ColumnType, Route, RouteCondition, RouteSubject, RouteValue, Table};
use std::collections::BTreeMap;
use std::sync::Arc;

fn column(name: &str, kind: ColumnType) -> Column {
    Column { name: name.into(), kind, nullable: true }
}

/// As in sql/fleet.
fn kinematic() -> Table {
    use ColumnType::*;
    let number = |name| column(name, Double);
    let measurement = Struct(vec![
        column("t", Timestamp(None)),
        number("lat"),
        number("lon"),
        number("speed"),
        number("heading"),
        column("rpm", Int),
        number("fuel"),
    ]);
    let columns = vec![
        column("message_id", Text),
        Column { name: "vehicle_id".into(), kind: Text, nullable: false },
        column("fleet_id", Text),
        column("sent_at", Timestamp(None)),
        column("measurements", Array(Box::new(column("item", measurement)))),
    ];
    Table { name: "kinematic".into(), source: "kinematic".into(), route: None, columns }
}

fn ignition() -> Table {
    let is_ignition = RouteCondition {
        subject: RouteSubject::Field(vec!["type".into()]),
        values: vec![RouteValue::Text("ignition".into())],
    };
    let columns = vec![
        column("message_id", ColumnType::Text),
        Column { name: "vehicle_id".into(), kind: ColumnType::Text, nullable: false },
        column("at", ColumnType::Timestamp(None)),
        column("is_on", ColumnType::Boolean),
    ];
    let route = Some(Route { conditions: vec![is_ignition] });
    Table { name: "ignition".into(), source: "status".into(), route, columns }
}

fn message(sent: &Sent) -> Message {
    Message {
        position: Position(0),
        topic: Some(sent.topic.clone()),
        key: None,
        payload: Some(sent.payload.clone()),
        headers: None,
        timestamp_us: None,
        received_at_us: 0,
        replayed: None,
    }
}

#[test]
fn what_was_sent_is_decoded_or_rejected_to_the_row() {
    let shares = Shares { malformed: 0.05, duplicates: 0.03, late: 0.02, out_of_order: 0.02 };
    let mut reasons: BTreeMap<&str, u32> = BTreeMap::new();
    for seed in 0..4 {
        let options = FleetOptions { seed, vehicles: 100, shares, ..Default::default() };
        let sent: Vec<Sent> = Fleet::new(options).take(20_000).collect();
        let options = JsonOptions { unrouted: Unrouted::Drop, ..Default::default() };
        for (stream, table) in [(Stream::Kinematic, kinematic()), (Stream::Status, ignition())] {
            let sent: Vec<&Sent> = sent.iter().filter(|s| s.stream == stream).collect();
            let mut decoder = JsonDecoder::new(vec![Arc::new(table)], options);
            let messages: Vec<Message> = sent.iter().map(|s| message(s)).collect();
            decoder.push(&messages, 0);
            let decoded = decoder.finish();
            let rejected: Vec<u32> = decoded.rejects.iter().map(|r| r.index).collect();
            let malformed = (0..sent.len() as u32).filter(|i| sent[*i as usize].class == Class::Malformed);
            assert_eq!(rejected, malformed.collect::<Vec<_>>(), "seed {seed}: rejected is not what was malformed");
            for reject in &decoded.rejects {
                *reasons.entry(reject.reason.code()).or_default() += 1;
            }
            assert_eq!(decoded.unknown_fields, 0, "seed {seed}");
            let rows = &decoded.tables[0].rows;
            let dropped = match stream {
                Stream::Kinematic => {
                    let measured =
                        rows.column_by_name("measurements").expect("a column").as_list::<i32>().values().len();
                    assert_eq!(measured as u64, sent.iter().map(|s| u64::from(s.rows)).sum::<u64>(), "seed {seed}");
                    0
                }
                Stream::Status => sent.iter().filter(|s| s.kind != Kind::Ignition).count() as u64,
            };
            assert_eq!(decoded.dropped, dropped, "seed {seed}");
            assert_eq!(rows.num_rows() + rejected.len() + dropped as usize, sent.len(), "seed {seed}");
        }
    }
    assert_eq!(reasons.keys().copied().collect::<Vec<_>>(), ["null", "syntax", "type"]);
}
