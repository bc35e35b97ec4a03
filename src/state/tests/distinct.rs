//! DISTINCT ON keeps the same rows as a naive search for the greatest, whatever the order of arrival.

use super::support::*;
use crate::sql::plan::MaterializedView;
use crate::state::view::{FrozenView, Merge, ViewState};
use crate::types::lineage::{Lineage, Origin};
use crate::types::position::{PartitionId, Position};
use arrow::array::*;
use arrow::datatypes::{DataType, Field, Schema, SchemaRef};
use rand::Rng;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom;
use std::collections::BTreeMap;
use std::sync::Arc;

/// A row as the test thinks of it.
#[derive(Clone, Debug, PartialEq)]
struct Row {
    key: Option<i64>,
    t: Option<i64>,
    x: Option<f64>,
    topic: Option<String>,
    partition: String,
    position: u64,
    ordinal: u32,
    id: i64,
}

fn schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("key", DataType::Int64, true),
        Field::new("t", DataType::Int64, true),
        Field::new("x", DataType::Float64, true),
        Field::new("id", DataType::Int64, false),
    ]))
}

/// Messages of one to three rows, few values so that ties are common.
fn random_messages(rng: &mut SmallRng, messages: usize) -> Vec<Vec<Row>> {
    let mut out = Vec::new();
    for number in 0..messages {
        let partition = format!("p{}", rng.random_range(0..3));
        let topic = rng.random_bool(0.5).then(|| format!("topic{}", rng.random_range(0..2)));
        let row = |ordinal: u32, rng: &mut SmallRng| Row {
            key: rng.random_bool(0.9).then(|| rng.random_range(0..12)),
            t: rng.random_bool(0.8).then(|| rng.random_range(0..4)),
            x: rng.random_bool(0.7).then(|| [1.0, -0.0, 0.0, f64::NAN][rng.random_range(0..4)]),
            topic: topic.clone(),
            partition: partition.clone(),
            position: number as u64 / 2,
            ordinal,
            id: (number * 8) as i64 + ordinal as i64,
        };
        let rows = rng.random_range(1..=3);
        out.push((0..rows).map(|ordinal| row(ordinal, rng)).collect());
    }
    out
}

/// The greatest row per key: t DESC or ASC, then x DESC, NULLs last, then where it came from.
fn oracle(messages: &[Vec<Row>], t_descending: bool) -> BTreeMap<String, i64> {
    let better = |a: &Row, b: &Row| {
        let null_last = |x: Option<i64>| x.map(|x| if t_descending { x } else { -x }).unwrap_or(i64::MIN);
        let total = |x: Option<f64>| {
            x.map(|x| {
                if x.is_nan() {
                    9
                } else if x == 1.0 {
                    5
                } else if x.is_sign_negative() {
                    1
                } else {
                    2
                }
            })
        };
        let rank = |r: &Row| {
            (
                null_last(r.t),
                total(r.x),
                r.topic.clone().unwrap_or_default(),
                r.partition.clone(),
                r.position,
                r.ordinal,
                r.id,
            )
        };
        rank(a) > rank(b)
    };
    let mut best: BTreeMap<String, &Row> = BTreeMap::new();
    for row in messages.iter().flatten().filter(|r| r.t.is_some()) {
        let slot = best.entry(format!("{:?}", row.key)).or_insert(row);
        if better(row, slot) {
            *slot = row;
        }
    }
    best.into_iter().map(|(key, row)| (key, row.id)).collect()
}

fn batch(messages: &[Vec<Row>]) -> (RecordBatch, Lineage) {
    let rows: Vec<&Row> = messages.iter().flatten().collect();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|r| r.key).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.t).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|r| r.x).collect::<Float64Array>()),
        Arc::new(rows.iter().map(|r| Some(r.id)).collect::<Int64Array>()),
    ];
    let rows = RecordBatch::try_new(schema(), columns).expect("by the schema");
    let numbers = messages.iter().enumerate().flat_map(|(n, m)| std::iter::repeat_n(n as u32, m.len())).collect();
    let origins = messages.iter().map(|m| Origin {
        partition: Arc::new(PartitionId::new("s", &m[0].partition)),
        partition_label: m[0].partition.as_str().into(),
        topic: m[0].topic.as_deref().map(Into::into),
        position: Position(m[0].position),
    });
    (with_message_numbers(&rows, numbers), Lineage { origins: origins.collect() })
}

fn answer(view: &MaterializedView, shares: &[FrozenView]) -> BTreeMap<String, i64> {
    let mut rows = BTreeMap::new();
    for batch in FrozenView::read(view, shares).expect("reads") {
        for (key, id) in ids(&batch) {
            assert!(rows.insert(key.clone(), id).is_none(), "key {key} twice");
        }
    }
    rows
}

fn ids(batch: &RecordBatch) -> Vec<(String, i64)> {
    let keys = batch.column(0).as_primitive::<arrow::datatypes::Int64Type>();
    let ids = batch.column(3).as_primitive::<arrow::datatypes::Int64Type>();
    let key = |row: usize| keys.is_valid(row).then(|| keys.value(row));
    (0..batch.num_rows()).map(|row| (format!("{:?}", key(row)), ids.value(row))).collect()
}

#[tokio::test]
async fn the_greatest_row_wins_in_any_order_of_arrival_and_however_often_it_comes() {
    for seed in 0..60 {
        let mut rng = seeded(seed);
        let descending = seed % 2 == 0;
        let view = distinct_on(schema(), &[0], &[(1, descending), (2, true)]);
        let mut shares = Shares::new(Arc::clone(&view), 1 + seed as usize % 3).await;
        let messages = random_messages(&mut rng, 60);
        let want = oracle(&messages, descending);
        // Out of order, some twice, each occurrence in any share.
        let mut arrivals = messages.clone();
        arrivals.extend(messages.iter().filter(|_| rng.random_bool(0.3)).cloned());
        arrivals.shuffle(&mut rng);
        let mut rest = arrivals.as_slice();
        while !rest.is_empty() {
            let (now, later) = rest.split_at(rng.random_range(1..=9).min(rest.len()));
            let share = rng.random_range(0..shares.states.len());
            let (rows, lineage) = batch(now);
            let touched = shares.states[share].apply(&[rows], &lineage).expect("applies");
            let frozen = shares.frozen();
            let (some, absent) = FrozenView::read_keys(&view, &frozen, &touched).expect("reads");
            assert_eq!(absent.num_rows(), 0, "a touched key has a row");
            let all = answer(&view, &frozen);
            assert!(ids(&some).iter().all(|(key, id)| all[key] == *id), "seed {seed}");
            assert_eq!(some.num_rows(), touched.num_rows());
            shares.states[share].compact().expect("compacts");
            match rng.random_range(0..8) {
                0 => shares.cut(share),
                1 => shares.restart(share, true).await,
                2 => shares.restart(share, false).await,
                3 if shares.states.len() > 1 && rng.random_bool(0.5) => shares.merge_last_into_first(),
                _ => {}
            }
            rest = later;
        }
        assert_eq!(answer(&view, &shares.frozen()), want, "seed {seed}");
    }
}

#[tokio::test]
async fn a_key_whose_order_value_is_null_is_absent() {
    let view = distinct_on(schema(), &[0], &[(1, true)]);
    let mut state = state(&view).await;
    let row = |key, t, position| Row {
        key: Some(key),
        t,
        x: None,
        topic: None,
        partition: "p".into(),
        position,
        ordinal: 0,
        id: position as i64,
    };
    let (rows, lineage) = batch(&[vec![row(1, None, 0)], vec![row(2, Some(5), 1)], vec![row(2, None, 2)]]);
    let touched = state.apply(&[rows], &lineage).expect("applies");
    assert_eq!(touched.num_rows(), 1, "only key 2 is new");
    assert_eq!(answer(&view, &[state.freeze()]), BTreeMap::from([("Some(2)".to_string(), 1)]));
    let (rows, lineage) = batch(&[vec![row(2, Some(4), 7)], vec![row(2, None, 8)]]);
    let touched = state.apply(&[rows], &lineage).expect("applies");
    assert_eq!(touched.num_rows(), 0, "an older row touches nothing");
}

#[tokio::test]
async fn shares_of_other_slots_are_combined_on_restore() {
    let view = distinct_on(schema(), &[0], &[(1, true), (2, true)]);
    let messages = random_messages(&mut seeded(7), 80);
    let (left, right) = messages.split_at(40);
    let mut states: Vec<ViewState> = vec![state(&view).await, state(&view).await];
    for (state, part) in states.iter_mut().zip([left, right]) {
        let (rows, lineage) = batch(part);
        state.apply(&[rows], &lineage).expect("applies");
    }
    let mut one = state(&view).await;
    for state in &states {
        one.restore(&state.freeze().base().expect("reads"), Merge::Combine).expect("restores");
    }
    assert_eq!(answer(&view, &[one.freeze()]), oracle(&messages, true));
    assert!(one.cut().expect("cuts").is_some(), "combined rows are in no segment yet");
}
