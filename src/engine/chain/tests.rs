//! State segments as files: large ones, damaged ones.

use super::*;
use arrow::array::{ArrayRef, Int64Array, StringArray};
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
async fn a_segment_comes_back_as_it_was() {
    for count in [0, 1, 200_000] {
        let rows = rows(count);
        let (_dir, chain, segment) = stored(&rows).await;
        assert_eq!((segment.rows, segment.slot), (count as u64, 3));
        assert_eq!(chain.get_segment(&segment, Offload::Pool).await.unwrap(), [rows]);
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
