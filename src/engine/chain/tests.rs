//! State segments as files: large ones, damaged ones, and who owns their memory.

use super::*;
use arrow::array::{Array, ArrayRef, AsArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;
use std::sync::Arc;

fn rows(count: usize) -> RecordBatch {
    let numbers: ArrayRef = Arc::new((0..count as i64).map(Some).collect::<Int64Array>());
    let texts: ArrayRef =
        Arc::new((0..count).map(|n| (n % 3 > 0).then(|| format!("text {n}"))).collect::<StringArray>());
    RecordBatch::try_from_iter([("number", numbers), ("text", texts)]).unwrap()
}

async fn stored(rows: &RecordBatch) -> (tempfile::TempDir, Chain, SegmentRef) {
    let dir = tempfile::tempdir().unwrap();
    let chain = Chain { location: store::open(&dir.path().to_string_lossy(), &BTreeMap::new()).unwrap() };
    let segment = chain.put_segment(3, Epoch(7), true, "state/v/7".into(), rows).await.unwrap();
    (dir, chain, segment)
}

#[tokio::test]
async fn a_segment_of_many_rows_comes_back_in_batches_that_own_their_memory() {
    for count in [0, 1, FILE_BATCH_ROWS_MAX, 2 * FILE_BATCH_ROWS_MAX + 5] {
        let (_dir, chain, segment) = stored(&rows(count)).await;
        assert_eq!((segment.rows, segment.slot), (count as u64, 3));
        let batches = chain.get_segment(&segment, Offload::Pool).await.unwrap();
        assert_eq!(batches.len(), count.div_ceil(FILE_BATCH_ROWS_MAX));
        let mut next = 0;
        let mut owners = Vec::new();
        for batch in &batches {
            let columns: Vec<_> = batch.columns().iter().map(|c| c.to_data()).collect();
            owners.push(columns[0].buffers()[0].data_ptr());
            assert_eq!(columns[0].buffers()[0].data_ptr(), columns[1].buffers()[1].data_ptr());
            let (numbers, texts) = (batch.column(0).as_primitive::<Int64Type>(), batch.column(1).as_string::<i32>());
            for row in 0..batch.num_rows() {
                assert_eq!(numbers.value(row), next);
                assert_eq!(texts.is_null(row), next % 3 == 0);
                next += 1;
            }
        }
        assert_eq!(next, count as i64);
        owners.dedup();
        assert_eq!(owners.len(), batches.len(), "letting go of one batch frees it");
    }
}

#[tokio::test]
async fn a_segment_that_is_not_the_one_recorded_is_refused() {
    let (dir, chain, segment) = stored(&rows(1_000)).await;
    let path = dir.path().join("state/v/7");
    let whole = std::fs::read(&path).unwrap();
    let mut flipped = whole.clone();
    flipped[whole.len() / 2] ^= 1;
    for (bytes, what) in [(&whole[..whole.len() - 1], "differ"), (&flipped, "differ"), (&[], "differ")] {
        std::fs::write(&path, bytes).unwrap();
        let error = chain.get_segment(&segment, Offload::Pool).await.unwrap_err().to_string();
        assert!(error.contains("state/v/7") && error.contains(what), "{error}");
    }
    std::fs::remove_file(&path).unwrap();
    let error = chain.get_segment(&segment, Offload::Pool).await.unwrap_err().to_string();
    assert!(error.contains("is missing"), "{error}");
}

/// As if a program had written nonsense and its checksum.
#[tokio::test]
async fn nonsense_with_a_right_checksum_is_an_error_and_no_panic() {
    let (dir, chain, segment) = stored(&rows(10)).await;
    for bytes in [&b""[..], b"ARROW1", b"ARROW1\0\0\xff\xff\xff\x7fARROW1", &[7; 64]] {
        std::fs::write(dir.path().join("state/v/7"), bytes).unwrap();
        let claimed = SegmentRef { bytes: bytes.len() as u64, crc32: crc32fast::hash(bytes), ..segment.clone() };
        chain.get_segment(&claimed, Offload::Pool).await.unwrap_err();
    }
}
