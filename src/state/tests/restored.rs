//! State loaded from segments: text keys, keys that come twice, memory that columns share.

use super::support::*;
use crate::state::view::{FrozenView, Merge, ViewState};
use arrow::array::*;
use arrow::compute::concat_batches;
use std::sync::Arc;

const BY_TEXT: &str = "SELECT g1, count(*) AS n, sum(i) AS s FROM t GROUP BY g1";

/// Rows whose key `g1` is one of `texts`, in turn.
fn keyed(texts: &[Option<&str>], rows: usize) -> RecordBatch {
    let mut columns = random_rows(&mut seeded(rows as u64), rows, 0).columns().to_vec();
    columns[0] = Arc::new((0..rows).map(|row| texts[row % texts.len()]).collect::<StringArray>());
    RecordBatch::try_new(schema(), columns).expect("by the schema")
}

fn unlike(count: usize) -> Vec<String> {
    (0..count).map(|n| format!("vehicle-{n:06}")).collect()
}

#[tokio::test]
async fn null_and_the_empty_text_are_keys_of_their_own_before_and_after_a_restart() {
    let view = group_by(BY_TEXT).await;
    let mut live = state(&view).await;
    // The second batch has no NULL: its keys are the column's own bytes.
    let rows = [keyed(&[None, Some(""), Some("a")], 30), keyed(&[Some("a"), Some("")], 20), keyed(&[None], 5)];
    apply(&mut live, &rows[0]);
    let base = live.cut().expect("cuts").expect("changed");
    apply(&mut live, &rows[1]);
    let tail = live.cut().expect("cuts").expect("changed");
    let mut again = state(&view).await;
    for segment in [&base, &tail] {
        again.restore(&through_ipc(segment), Merge::Replace).expect("restores");
    }
    let wanted = batch_sql(BY_TEXT, &rows).await;
    for state in [&mut live, &mut again] {
        apply(state, &rows[2]);
        assert_eq!(state.keys(), 3);
        assert_same("text keys", 1, &FrozenView::read(&view, &[state.freeze()]).expect("reads"), &wanted);
    }
}

#[tokio::test]
async fn a_key_that_comes_twice_in_a_segment_has_its_last_row() {
    let view = group_by(BY_TEXT).await;
    let mut live = state(&view).await;
    let mut cuts = Vec::new();
    for rows in [100, 60] {
        let names = unlike(rows);
        apply(&mut live, &keyed(&names.iter().map(|n| Some(n.as_str())).collect::<Vec<_>>(), rows));
        cuts.push(live.cut().expect("cuts").expect("changed"));
    }
    let both = concat_batches(&cuts[0].schema(), &cuts).expect("one schema");
    let mut again = state(&view).await;
    again.restore(&both, Merge::Replace).expect("restores");
    assert_eq!(again.keys(), 100);
    let read = |state: &ViewState| FrozenView::read(&view, &[state.freeze()]).expect("reads");
    assert_same("twice in one segment", 1, &read(&again), &read(&live));
    again.compact().expect("compacts");
    assert_same("compacted", 1, &read(&again), &read(&live));
}

#[tokio::test]
async fn restored_rows_hold_on_to_no_file_and_a_query_is_charged_for_what_it_reads() {
    let view = group_by(BY_TEXT).await;
    let mut live = state(&view).await;
    let names = unlike(40_000);
    let each_once = keyed(&names.iter().map(|n| Some(n.as_str())).collect::<Vec<_>>(), names.len());
    apply(&mut live, &each_once);
    // Columns that were read from one message share its memory.
    let segment = through_ipc(&live.cut().expect("cuts").expect("changed"));
    let mut again = state(&view).await;
    again.expect(40_000);
    let index = again.bytes();
    again.restore(&segment, Merge::Replace).expect("restores");
    let held = again.bytes() - index;
    let of_a_row = "vehicle-000007".len() as u64 + 4 + 2 * 8;
    assert!(held >= 40_000 * of_a_row && held < 40_000 * of_a_row * 3 / 2, "{held} bytes held");
    let charged = |state: &ViewState| -> u64 {
        let read = FrozenView::read(&view, &[state.freeze()]).expect("reads");
        read.iter().map(|rows| rows.get_array_memory_size() as u64).sum()
    };
    // A batch is a slice of a segment, and is charged for all of that: four at most.
    assert!(charged(&again) <= 5 * held, "{} for {held}", charged(&again));
    // The first row that is replaced makes room for the deaths of its segment: 8 bytes for each row.
    apply(&mut again, &keyed(&[Some("vehicle-000007")], 1));
    assert!(again.bytes() >= index + held + 8 * 32_768, "{} bytes after a change", again.bytes());
    for _ in 0..3 {
        apply(&mut again, &each_once);
        again.compact().expect("compacts");
    }
    assert!(again.bytes() < index + 4 * held, "{} bytes: what was replaced is let go", again.bytes());
}
