//! Small records for tests of this floor.

use crate::checkpoint::next::{Author, Cut, PartitionCut, TableCut};
use crate::checkpoint::record::{Record, RecordKind, TableRecord};
use crate::types::count::Counts;
use crate::types::epoch::{ChainId, Epoch};
use crate::types::position::{PartitionId, Position, Span};

pub fn chain(name: &str) -> ChainId {
    ChainId(name.to_string())
}

pub fn author(attempt: &str) -> Author {
    Author {
        attempt: attempt.to_string(),
        owner: "host/1/0".to_string(),
        epoch_time_us: 1_700_000_000_000_000,
        slots: 1,
        engine: "pipe test".to_string(),
    }
}

/// Record `epoch` of chain "a" of pipeline "fleet", the epoch before it applied.
pub fn record(epoch: u64) -> Record {
    let mut record = crate::checkpoint::next::first_record(chain("a"), "fleet", author("x"));
    record.epoch = Epoch(epoch);
    record.parent = Epoch(epoch - 1);
    record.applied_through = Epoch(epoch - 1);
    record.kind = RecordKind::Epoch;
    record
}

pub fn table_record(table: &str, id: &str, files: u64) -> TableRecord {
    TableRecord {
        sink: "lake".to_string(),
        table: table.to_string(),
        table_id: id.to_string(),
        app_id: format!("pipe/a/lake.{table}"),
        adds: (0..files).map(|i| serde_json::json!({"path": format!("{i}.parquet")})).collect(),
        schema_action: None,
        rows: files * 10,
        rows_total: files * 10,
    }
}

pub fn empty_cut(applied_through: u64) -> Cut {
    Cut { applied_through: Epoch(applied_through), partitions: vec![], views: vec![], tables: vec![] }
}

/// All messages of the span decoded, no gaps.
pub fn moved(partition: &str, from: u64, to: u64) -> PartitionCut {
    PartitionCut {
        partition: PartitionId::new("s", partition),
        slot: 0,
        span: Span::new(Position(from), Position(to)),
        identity: None,
        counts: Counts { received: to - from, decoded: to - from, ..Counts::default() },
    }
}

pub fn written(table: &str, rows: u64) -> TableCut {
    TableCut {
        sink: "lake".to_string(),
        table: table.to_string(),
        table_id: "id-1".to_string(),
        app_id: format!("pipe/a/lake.{table}"),
        adds: vec![serde_json::json!({"path": "f.parquet"})],
        schema_action: None,
        rows,
    }
}
