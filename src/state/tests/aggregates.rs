//! Every mergeable aggregate, folded in random batches over several shares, equals the same SQL run in batch.

use super::support::*;
use crate::state::view::FrozenView;
use arrow::array::RecordBatch;
use arrow::compute::concat_batches;
use rand::Rng;

const EXACT: &str = "count(*) AS c1, count(i) AS c2, sum(i) AS c3, sum(d) AS c4, sum(m) AS c5, sum(n) AS c6, avg(i) AS c7, \
    avg(d) AS c8, avg(m) AS c9, min(i) AS c10, max(d) AS c11, min(s) AS c12, max(s) AS c13, min(at) AS c14, max(at) AS c15, \
    min(m) AS c16, bool_and(b) AS c17, bool_or(b) AS c18, bit_and(i) AS c19, bit_or(i) AS c20, bit_xor(i) AS c21, \
    stddev(d) AS c22, stddev_pop(d) AS c23, var(d) AS c24, var_pop(d) AS c25, covar_samp(d, e) AS c26, covar_pop(d, e) AS c27, \
    corr(d, e) AS c28, regr_slope(d, e) AS c29, regr_intercept(d, e) AS c30, regr_r2(d, e) AS c31, regr_count(d, e) AS c32, \
    regr_avgx(d, e) AS c33, regr_avgy(d, e) AS c34, regr_sxx(d, e) AS c35, regr_syy(d, e) AS c36, regr_sxy(d, e) AS c37, \
    approx_distinct(s) AS c38, approx_distinct(i) AS c39, \
    first_value(d ORDER BY u) AS c40, last_value(s ORDER BY u) AS c41, last_value(i ORDER BY at DESC NULLS LAST, u) AS c42, \
    first_value(s ORDER BY u) FILTER (WHERE b) AS c43, array_agg(i ORDER BY u) AS c44, string_agg(s, ',' ORDER BY u) AS c45, \
    array_agg(s ORDER BY u DESC) FILTER (WHERE d > 0) AS c46, \
    count(*) FILTER (WHERE d > 0) AS c47, sum(d) FILTER (WHERE b) AS c48, avg(i) FILTER (WHERE n > 2) AS c49, \
    max(s) FILTER (WHERE i > 0) AS c50, count(*) FILTER (WHERE s = 'v1' OR n IS NULL) AS c51, \
    last_value(b ORDER BY u) IGNORE NULLS AS c52, min(b) AS c53";

/// Random batches over `shares` shares, with cuts, restarts and compaction in between.
async fn run(seed: u64, sql: &str, shares: usize, batches: usize) -> (Shares, Vec<RecordBatch>) {
    let mut rng = seeded(seed);
    let mut shares = Shares::new(group_by(sql).await, shares).await;
    let mut all = Vec::new();
    let mut u = 0;
    for _ in 0..batches {
        let size = [0, 1, 3, 40, 200][rng.random_range(0..5)];
        let rows = random_rows(&mut rng, size, u);
        u += size as i64;
        let share = rng.random_range(0..shares.states.len());
        // One batch may come in several pieces.
        let middle = rng.random_range(0..=size);
        let whole = with_messages(&rows);
        let pieces = [whole.slice(0, middle), whole.slice(middle, size - middle)];
        shares.states[share].apply(&pieces, &lineage("p", 0, size)).expect("applies");
        all.push(rows);
        shares.states[share].compact().expect("compacts");
        match rng.random_range(0..12) {
            0 => shares.cut(share),
            1 => shares.restart(share, false).await,
            2 => shares.restart(share, true).await,
            3 if shares.states.len() > 1 && rng.random_bool(0.3) => shares.merge_last_into_first(),
            _ => {}
        }
    }
    (shares, all)
}

#[tokio::test]
async fn every_mergeable_aggregate_equals_batch_sql() {
    for seed in 0..30u64 {
        let keys = 1 + seed as usize % 3;
        let groups = ["g1", "g1, g2", "g1, g2, g3"][keys - 1];
        let sql = format!("SELECT {groups}, {EXACT} FROM t GROUP BY {groups}");
        let (shares, rows) = run(seed, &sql, 1 + seed as usize / 3 % 3, 30).await;
        let want = batch_sql(&sql, &rows).await;
        assert_same(&format!("seed {seed}"), keys, &shares.read(), &want);
    }
}

#[tokio::test]
async fn having_and_projection_come_last() {
    let sql =
        "SELECT g1, g2, sum(i) / count(*) AS ratio, upper(max(s)) AS top FROM t GROUP BY g1, g2 HAVING count(i) > 3";
    for seed in 0..6 {
        let (shares, rows) = run(100 + seed, sql, 2, 12).await;
        assert_same(&format!("seed {seed}"), 2, &shares.read(), &batch_sql(sql, &rows).await);
    }
}

#[tokio::test]
async fn some_keys_read_alone_equal_the_whole_read() {
    let sql = format!("SELECT g1, g2, {EXACT} FROM t GROUP BY g1, g2 HAVING count(*) > 4");
    for seed in 0..6 {
        let (mut shares, _) = run(200 + seed, &sql, 3, 12).await;
        for round in 0..5 {
            let touched = apply(&mut shares.states[0], &random_rows(&mut seeded(seed * 10 + round), 20, 500_000));
            let whole = by_key(&shares.read(), 2);
            let (rows, absent) = FrozenView::read_keys(&shares.view, &shares.frozen(), &touched).expect("reads");
            let some = by_key(std::slice::from_ref(&rows), 2);
            let absent = by_key(std::slice::from_ref(&absent), 2);
            assert_eq!(some.len() + absent.len(), touched.num_rows(), "every key is answered once");
            for key in by_key(std::slice::from_ref(&touched), 2).keys() {
                assert_eq!(whole.contains_key(key), some.contains_key(key), "key {key}");
                assert_eq!(absent.contains_key(key), !some.contains_key(key), "key {key}");
            }
            assert!(absent.keys().all(|k| !whole.contains_key(k)), "absent keys yield no row");
            let whole_batch = shares.read();
            let wanted: Vec<RecordBatch> = whole_batch.iter().flat_map(|b| keep(b, &some)).collect();
            assert_same("keys", 2, std::slice::from_ref(&rows), &wanted);
        }
    }
}

fn keep(
    batch: &RecordBatch,
    keys: &std::collections::BTreeMap<String, Vec<datafusion::scalar::ScalarValue>>,
) -> Vec<RecordBatch> {
    let rows = (0..batch.num_rows()).map(|r| batch.slice(r, 1));
    rows.filter(|r| by_key(std::slice::from_ref(r), 2).keys().all(|k| keys.contains_key(k))).collect()
}

/// A t-digest depends on the order and grouping of its inputs: merged digests agree with the batch one in rank, not in
/// bits. With 200 values and 100 centroids, one rank step around the quantile is well within 5 % of the value range.
#[tokio::test]
async fn approximate_percentiles_are_close() {
    let sql = "SELECT g1, approx_percentile_cont(d, 0.5) AS p, approx_median(e) AS q FROM t GROUP BY g1";
    let (shares, rows) = run(300, sql, 2, 40).await;
    let all = concat_batches(&schema(), &rows).expect("one schema");
    let (got, want) = (by_key(&shares.read(), 1), by_key(&batch_sql(sql, &[all]).await, 1));
    assert_eq!(got.keys().collect::<Vec<_>>(), want.keys().collect::<Vec<_>>());
    for (key, want) in want {
        for (column, range) in [(1, 100.0), (2, 9.0)] {
            let value = |v: &datafusion::scalar::ScalarValue| match v {
                datafusion::scalar::ScalarValue::Float64(Some(v)) => *v,
                other => panic!("{other:?} is not a number"),
            };
            let (g, w) = (value(&got[&key][column]), value(&want[column]));
            assert!((g - w).abs() <= 0.05 * range, "key {key}: {g}, batch SQL says {w}");
        }
    }
}
