//! How fast messages become Arrow rows: our decoder, arrow-json and a bare pass of the parser over the same bytes.
//!
//! The passes take turns in one run and each reports its median, so that a busy machine slows them alike. arrow-json is
//! not strict (it reads "12" as an INT and loses the whole batch to one bad value); it is here as the yardstick. The
//! bare pass checks the syntax and builds nothing: what no decoder on this parser can beat.

use arrow::array::{Array, AsArray};
use pipe::codec::json::{JsonDecoder, JsonOptions};
use pipe::simulate::fleet::Fleet;
use pipe::simulate::options::FleetOptions;
use pipe::simulate::sent::{Sent, Stream};
use pipe::types::limit::{BATCH_MESSAGES_MAX, HANDOVER_MESSAGES_MAX};
use pipe::types::message::Message;
use pipe::types::position::Position;
use pipe::types::table::{Column, ColumnType, Table};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

const ROUNDS: usize = 7;

fn main() {
    // `cargo bench` passes --bench; a number is the count of messages.
    let count = std::env::args().skip(1).find_map(|arg| arg.parse().ok()).unwrap_or(40_000);
    let fleet = Fleet::new(FleetOptions { vehicles: 500, ..Default::default() });
    let messages: Vec<Message> =
        fleet.filter(|sent| sent.stream == Stream::Kinematic).take(count).map(message).collect();
    let megabytes = messages.iter().filter_map(|m| m.payload.as_ref()).map(|p| p.len()).sum::<usize>() as f64 / 1e6;
    let table = Arc::new(kinematic());
    let mut decoder = JsonDecoder::new(vec![table.clone()], JsonOptions::default());
    let mut passes: Vec<(&str, Box<dyn FnMut() -> usize>)> = vec![
        ("jiter, syntax only", Box::new(|| skim(&messages))),
        ("arrow-json", Box::new(|| arrow_json(&messages, &table))),
        ("pipe", Box::new(|| ours(&messages, &mut decoder))),
    ];
    let mut seconds = vec![Vec::new(); passes.len()];
    let mut rows = vec![0; passes.len()];
    for _ in 0..ROUNDS {
        for (place, (_, pass)) in passes.iter_mut().enumerate() {
            let started = Instant::now();
            rows[place] = black_box(pass());
            seconds[place].push(started.elapsed().as_secs_f64());
        }
    }
    assert_eq!(rows[1], rows[2], "both decoders found the same measurements");
    let medians: Vec<f64> = seconds.iter_mut().map(|s| median(s)).collect();
    println!("decode: {count} kinematic messages, {megabytes:.1} MB, {} measurements, median of {ROUNDS}", rows[2]);
    println!("{:<20} {:>8} {:>14} {:>14}", "", "MB/s", "rows/s", "of arrow-json");
    for (place, (name, _)) in passes.iter().enumerate() {
        let rows_per_second = rows[place] as f64 / medians[place];
        println!(
            "{name:<20} {:>8.0} {rows_per_second:>14.0} {:>13.2}x",
            megabytes / medians[place],
            medians[1] / medians[place]
        );
    }
    println!("command: cargo bench --bench decode -- {count}");
}

fn message(sent: Sent) -> Message {
    Message {
        position: Position(0),
        topic: None,
        key: None,
        payload: Some(sent.payload),
        headers: None,
        timestamp_us: None,
        received_at_us: 0,
        replayed: None,
    }
}

/// Measurements decoded.
fn ours(messages: &[Message], decoder: &mut JsonDecoder) -> usize {
    let mut rows = 0;
    for batch in messages.chunks(BATCH_MESSAGES_MAX) {
        for (handover, part) in batch.chunks(HANDOVER_MESSAGES_MAX).enumerate() {
            decoder.push(part, (handover * HANDOVER_MESSAGES_MAX) as u32);
        }
        let decoded = decoder.finish();
        assert!(decoded.rejects.is_empty(), "{:?}", decoded.rejects[0]);
        rows += measurements(&decoded.tables[0].rows);
    }
    rows
}

fn arrow_json(messages: &[Message], table: &Table) -> usize {
    let mut decoder = arrow_json::ReaderBuilder::new(table.data_schema())
        .with_batch_size(BATCH_MESSAGES_MAX)
        .build_decoder()
        .expect("a decoder");
    let mut rows = 0;
    for batch in messages.chunks(BATCH_MESSAGES_MAX) {
        for message in batch {
            let payload = message.payload.as_ref().expect("a payload");
            assert_eq!(decoder.decode(payload).expect("decoded"), payload.len());
        }
        rows += measurements(&decoder.flush().expect("flushed").expect("rows"));
    }
    rows
}

fn skim(messages: &[Message]) -> usize {
    for message in messages {
        let mut jiter = jiter::Jiter::new(message.payload.as_ref().expect("a payload"));
        jiter.next_skip().and_then(|()| jiter.finish()).expect("JSON");
    }
    0
}

fn measurements(rows: &arrow::record_batch::RecordBatch) -> usize {
    rows.column_by_name("measurements").expect("a column").as_list::<i32>().values().len()
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// As in sql/fleet.
fn kinematic() -> Table {
    let column = |name: &str, kind| Column { name: name.into(), kind, nullable: true };
    let measurement = ColumnType::Struct(vec![
        column("t", ColumnType::Timestamp(None)),
        column("lat", ColumnType::Double),
        column("lon", ColumnType::Double),
        column("speed", ColumnType::Double),
        column("heading", ColumnType::Double),
        column("rpm", ColumnType::Int),
        column("fuel", ColumnType::Double),
    ]);
    let columns = vec![
        column("message_id", ColumnType::Text),
        Column { nullable: false, ..column("vehicle_id", ColumnType::Text) },
        column("fleet_id", ColumnType::Text),
        column("sent_at", ColumnType::Timestamp(None)),
        column("measurements", ColumnType::Array(Box::new(column("item", measurement)))),
    ];
    Table { name: "kinematic".into(), source: "kinematic".into(), route: None, columns }
}
