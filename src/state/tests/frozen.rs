//! Readers see one batch boundary; errors change nothing; a cut holds exactly what changed; memory stays bounded.

use super::support::*;
use crate::sql::plan::{Fold, MaterializedView};
use crate::state::log::SEGMENT_ROWS_MAX;
use crate::state::view::{FrozenView, Merge, ViewState};
use crate::types::lineage::Lineage;
use arrow::array::*;
use arrow::compute::concat_batches;
use datafusion::logical_expr::Operator;
use datafusion::physical_expr::aggregate::AggregateExprBuilder;
use datafusion::physical_expr::expressions::{Column, binary, lit};
use std::sync::Arc;

const SUMS: &str = "SELECT g1, g2, count(*) AS n, sum(i) AS s, last_value(s ORDER BY u) AS l FROM t GROUP BY g1, g2";

/// Rows with `i` as the key, each key once.
fn numbered(from: i64, rows: usize) -> RecordBatch {
    let mut columns = random_rows(&mut seeded(1), rows, from).columns().to_vec();
    columns[3] = Arc::new((from..from + rows as i64).map(Some).collect::<Int64Array>());
    RecordBatch::try_new(schema(), columns).expect("by the schema")
}

#[tokio::test]
async fn an_error_leaves_the_state_as_it_was() {
    // 10 / i fails for i = 0, after the first aggregate has taken the rows already.
    let mut view =
        MaterializedView::clone(&*group_by("SELECT g1, count(*) AS a, sum(i) AS b FROM t GROUP BY g1").await);
    let Fold::GroupBy { aggregates, .. } = &mut view.fold else { panic!("a GROUP BY") };
    let column = Arc::new(Column::new("i", 3));
    let division = binary(lit(10i64), Operator::Divide, column, &schema()).expect("plans");
    let sum = AggregateExprBuilder::new(datafusion::functions_aggregate::sum::sum_udaf(), vec![division]);
    aggregates[1].function = Arc::new(sum.schema(schema()).alias("b").build().expect("builds"));
    let view = Arc::new(view);

    let rows = random_rows(&mut seeded(2), 50, 0);
    let with_i = |i: i64| {
        let mut columns = rows.columns().to_vec();
        columns[3] = Arc::new(Int64Array::from_iter_values((0..50).map(|row| if row == 40 { i } else { 1 })));
        RecordBatch::try_new(schema(), columns).expect("by the schema")
    };
    let mut state = state(&view).await;
    apply(&mut state, &with_i(5));
    let before = FrozenView::read(&view, &[state.freeze()]).expect("reads");
    let bytes = state.bytes();
    let error = state.apply(&[with_messages(&with_i(0))], &lineage("p", 50, 50)).expect_err("divides by zero");
    assert!(error.to_string().contains("materialized view \"v\""), "{error}");
    assert!(error.to_string().to_lowercase().contains("divide by zero"), "{error}");
    assert_same("after the error", 1, &FrozenView::read(&view, &[state.freeze()]).expect("reads"), &before);
    assert_eq!(state.bytes(), bytes);
    apply(&mut state, &with_i(5));
    assert_eq!(state.cut().expect("cuts").expect("changed").num_rows() as u64, state.keys());
}

#[tokio::test]
async fn rows_that_name_no_message_are_refused() {
    let view = distinct_on(schema(), &[0], &[(11, true)]);
    let mut state = state(&view).await;
    let rows = random_rows(&mut seeded(3), 4, 0);
    let error = state.apply(&[with_messages(&rows)], &Lineage::default()).expect_err("no origins");
    assert!(error.to_string().contains("message"), "{error}");
    assert_eq!(state.keys(), 0);
}

#[tokio::test]
async fn a_segment_of_another_view_is_refused() {
    let other = group_by("SELECT g1, avg(d) AS a FROM t GROUP BY g1").await;
    let mut other_state = state(&other).await;
    apply(&mut other_state, &random_rows(&mut seeded(4), 9, 0));
    let segment = other_state.cut().expect("cuts").expect("changed");
    let mut state = state(&group_by(SUMS).await).await;
    let error = state.restore(&segment, Merge::Replace).expect_err("other columns");
    assert!(error.to_string().contains("state segment of materialized view \"v\""), "{error}");
}

#[tokio::test]
async fn a_frozen_view_does_not_change_while_batches_are_applied() {
    let view = group_by(SUMS).await;
    let mut state = state(&view).await;
    let mut rng = seeded(5);
    let mut frozen: Vec<(FrozenView, Vec<RecordBatch>, RecordBatch)> = Vec::new();
    for round in 0..60 {
        let touched = apply(&mut state, &random_rows(&mut rng, 30, round * 30));
        state.compact().expect("compacts");
        let now = state.freeze();
        let rows = FrozenView::read(&view, std::slice::from_ref(&now)).expect("reads");
        frozen.push((now, rows, touched));
    }
    // Newest first, so that lookups go back in time as well.
    for (view_then, rows_then, touched) in frozen.iter().rev().chain(&frozen) {
        let shares = std::slice::from_ref(view_then);
        assert_same("later", 2, &FrozenView::read(&view, shares).expect("reads"), rows_then);
        let (some, absent) = FrozenView::read_keys(&view, shares, touched).expect("reads");
        assert_eq!((some.num_rows(), absent.num_rows()), (touched.num_rows(), 0));
        let (some, all) = (by_key(&[some], 2), by_key(rows_then, 2));
        assert!(some.iter().all(|(key, row)| all[key] == *row), "as they were then");
    }
    let base = frozen[10].0.base().expect("reads");
    assert_eq!(base.num_rows() as u64, frozen[10].0.keys());
}

#[tokio::test]
async fn other_threads_read_one_batch_boundary() {
    // Every batch adds one to every key: a consistent read shows one number.
    let view = group_by("SELECT i, count(*) AS n FROM t GROUP BY i").await;
    let mut state = state(&view).await;
    let rows = numbered(0, 500);
    let keys = apply(&mut state, &rows);
    let current = Arc::new(std::sync::Mutex::new((1i64, state.freeze())));
    let done = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let readers: Vec<_> = (0..2)
        .map(|_| {
            let (view, current, done, keys) =
                (Arc::clone(&view), Arc::clone(&current), Arc::clone(&done), keys.clone());
            std::thread::spawn(move || {
                let mut reads = 0;
                while !done.load(std::sync::atomic::Ordering::Relaxed) || reads == 0 {
                    let (n, frozen) = current.lock().expect("not poisoned").clone();
                    let shares = std::slice::from_ref(&frozen);
                    let (some, absent) = FrozenView::read_keys(&view, shares, &keys).expect("reads");
                    assert_eq!(absent.num_rows(), 0);
                    let all = FrozenView::read(&view, shares).expect("reads");
                    for batch in all.iter().chain([&some]) {
                        let counts = batch.column(1).as_primitive::<arrow::datatypes::Int64Type>();
                        assert!(counts.values().iter().all(|c| *c == n), "all keys at {n}");
                    }
                    assert_eq!(all.iter().map(RecordBatch::num_rows).sum::<usize>(), 500);
                    reads += 1;
                }
            })
        })
        .collect();
    for n in 2..150 {
        // In pieces of one batch each time; a key is touched once per round.
        apply(&mut state, &rows);
        state.compact().expect("compacts");
        *current.lock().expect("not poisoned") = (n, state.freeze());
    }
    done.store(true, std::sync::atomic::Ordering::Relaxed);
    for reader in readers {
        reader.join().expect("no assertion failed");
    }
}

#[tokio::test]
async fn cuts_hold_what_changed_and_add_up_to_the_whole() {
    let view = group_by("SELECT i, count(*) AS n, sum(d) AS s FROM t GROUP BY i").await;
    let mut live = state(&view).await;
    assert!(live.cut().expect("cuts").is_none(), "nothing changed yet");
    apply(&mut live, &numbered(0, 300));
    let base = live.cut().expect("cuts").expect("changed");
    assert_eq!(base.num_rows(), 300);
    assert!(live.cut().expect("cuts").is_none(), "nothing changed since");

    let mut tail = Vec::new();
    for from in [0, 100, 290] {
        // Twice, with compaction: a key is in the cut once.
        for _ in 0..2 {
            apply(&mut live, &numbered(from, 20));
            live.compact().expect("compacts");
        }
        let cut = live.cut().expect("cuts").expect("changed");
        assert_eq!(cut.num_rows(), 20, "only the touched keys");
        tail.push(cut);
    }
    // Old rows moved by compaction are not news.
    while_compacting(&mut live);
    assert!(live.cut().expect("cuts").is_none(), "compaction is no change");

    let mut again = state(&view).await;
    for segment in std::iter::once(&base).chain(&tail) {
        again.restore(&through_ipc(segment), Merge::Replace).expect("restores");
    }
    assert!(again.cut().expect("cuts").is_none(), "restored rows are in segments already");
    let read = |state: &ViewState| FrozenView::read(&view, &[state.freeze()]).expect("reads");
    assert_same("restored", 1, &read(&again), &read(&live));
    assert_eq!(again.keys(), 310);
}

fn while_compacting(state: &mut ViewState) {
    let mut bytes = state.bytes();
    for _ in 0..100 {
        state.compact().expect("compacts");
        if state.bytes() == bytes {
            return;
        }
        bytes = state.bytes();
    }
    panic!("compaction does not come to rest");
}

#[tokio::test]
async fn compaction_keeps_memory_in_proportion_to_live_rows() {
    let view = group_by("SELECT i, count(*) AS n, max(s) AS s FROM t GROUP BY i").await;
    let mut state = state(&view).await;
    let keys = 2 * SEGMENT_ROWS_MAX;
    apply(&mut state, &numbered(0, keys));
    let once = state.bytes();
    for round in 0..100i64 {
        apply(&mut state, &numbered((round * 4_099) % (keys as i64 - 4_096), 4_096));
        state.compact().expect("compacts");
        assert!(state.bytes() < 3 * once, "round {round}: {} bytes, {once} when loaded", state.bytes());
    }
    let held = state.freeze();
    let with_reader = state.bytes();
    for round in 0..40i64 {
        apply(&mut state, &numbered((round * 4_099) % (keys as i64 - 4_096), 4_096));
        state.compact().expect("compacts");
    }
    assert!(state.bytes() > with_reader, "what only a reader holds is counted");
    drop(held);
    state.compact().expect("compacts");
    assert!(state.bytes() < 3 * once);
    assert_eq!(state.keys(), keys as u64);
}

#[tokio::test]
async fn a_segment_larger_than_a_compaction_step_is_emptied_in_steps() {
    let view = group_by("SELECT i, count(*) AS n, max(s) AS s FROM t GROUP BY i").await;
    let mut state = state(&view).await;
    let keys = 3 * SEGMENT_ROWS_MAX;
    apply(&mut state, &numbered(0, keys));
    let read = |frozen: &FrozenView| FrozenView::read(&view, std::slice::from_ref(frozen)).expect("reads");
    let before = state.freeze();
    let then = read(&before);
    apply(&mut state, &numbered(0, keys * 6 / 10));
    let now = read(&state.freeze());
    state.cut().expect("cuts");
    let dead_weight = state.bytes();
    for _ in 0..4 {
        state.compact().expect("compacts");
        assert_same("while compacting", 1, &read(&state.freeze()), &now);
        assert_same("frozen before", 1, &read(&before), &then);
    }
    drop(before);
    state.compact().expect("compacts");
    assert!(state.bytes() < dead_weight * 3 / 4, "the dead rows are gone");
    assert_eq!(state.keys(), keys as u64);
    assert!(state.cut().expect("cuts").is_none(), "compaction is no change");
}

#[tokio::test]
async fn null_keys_and_negative_zero_are_groups_as_in_batch_sql() {
    let sql = "SELECT g3, g1, count(*) AS n FROM t GROUP BY g3, g1";
    let view = group_by(sql).await;
    let mut state = state(&view).await;
    let rows: Vec<RecordBatch> = (0..5).map(|n| random_rows(&mut seeded(n), 40, n as i64 * 40)).collect();
    for rows in &rows {
        apply(&mut state, rows);
    }
    let got = FrozenView::read(&view, &[state.freeze()]).expect("reads");
    assert_same("nulls", 2, &got, &batch_sql(sql, &rows).await);
    let got = concat_batches(&view.output_schema, &got).expect("one schema");
    assert!(got.column(0).null_count() > 0 && got.column(1).null_count() > 0);
}

#[tokio::test]
async fn a_batch_without_rows_touches_nothing() {
    let view = group_by(SUMS).await;
    let mut state = state(&view).await;
    assert_eq!(state.apply(&[], &Lineage::default()).expect("applies").num_rows(), 0);
    let none = with_messages(&random_rows(&mut seeded(1), 0, 0));
    assert_eq!(state.apply(&[none], &Lineage::default()).expect("applies").num_rows(), 0);
    assert!(state.cut().expect("cuts").is_none());
    assert!(FrozenView::read(&view, &[state.freeze()]).expect("reads").is_empty());
    assert!(FrozenView::read(&view, &[]).expect("reads").is_empty());
}
