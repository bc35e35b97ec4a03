//! The metrics recorder of the process, installed in one place, and what every metric means.
//!
//! Components record with the `metrics` macros wherever they are; without a recorder that costs nothing.

use crate::types::error::{Error, Result};
use crate::types::invariant;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use std::sync::{Mutex, OnceLock};

static RECORDER: OnceLock<PrometheusHandle> = OnceLock::new();
// Guards the first installation against a second one at the same time.
static INSTALLING: Mutex<()> = Mutex::new(());

/// Seconds: from a fast point query to a full scan of a lake.
const SECONDS: [f64; 12] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0];

/// From a lonely message to the largest group of the journal.
const GROUP_BYTES: [f64; 6] = [256.0, 4_096.0, 65_536.0, 262_144.0, 1_048_576.0, 16_777_216.0];
const GROUP_MESSAGES: [f64; 6] = [1.0, 10.0, 100.0, 1_000.0, 4_000.0, 8_192.0];

#[derive(Clone, Copy)]
enum Kind {
    Counter,
    Gauge,
    Histogram,
}
use Kind::{Counter, Gauge, Histogram};

const MEANINGS: &[(Kind, &str, &str)] = &[
    // Sources and the ledger.
    (Gauge, "pipe_source_connected", "1 while the source is connected, else 0."),
    (Gauge, "pipe_source_lag_messages", "Messages known to wait at the source; -1 when it cannot tell."),
    (Counter, "pipe_source_messages_total", "Messages taken from the wire, redeliveries included."),
    (Counter, "pipe_source_bytes_total", "Bytes taken from the wire."),
    (Counter, "pipe_source_reconnects_total", "Times the source connected again."),
    (Counter, "pipe_mqtt_dropped_messages_total", "MQTT messages that could not be kept; QoS 0 cannot be paused."),
    (Counter, "pipe_kafka_skipped_positions_total", "Kafka positions purged before they were read, and skipped."),
    (Counter, "pipe_mqtt_refused_messages_total", "MQTT messages above packet_bytes_max: acknowledged and lost."),
    (
        Counter,
        "pipe_mqtt_sessions_lost_total",
        "Times the broker did not know our session any more; messages may be lost.",
    ),
    (Gauge, "pipe_journal_bytes", "Bytes in the journal that are not trimmed yet."),
    (Gauge, "pipe_journal_bytes_max", "What the journal may take; reached, acknowledgements wait."),
    (Gauge, "pipe_journal_full", "1 while acknowledgements wait because the journal or its disk is full, else 0."),
    (Gauge, "pipe_journal_unapplied_messages", "Messages acknowledged and not yet in an applied epoch."),
    (Gauge, "pipe_journal_oldest_unapplied_seconds", "Since the oldest of them was received; 0 when there is none."),
    (Counter, "pipe_journal_lost_messages_total", "Messages of a damaged journal that were given up."),
    (Histogram, "pipe_journal_sync_seconds", "Time of one sync of the journal."),
    (Histogram, "pipe_journal_group_bytes", "Bytes the journal writes at once."),
    (Histogram, "pipe_journal_group_messages", "Messages the journal writes at once."),
    (Counter, "pipe_messages_received_total", "Messages handed to a slot = decoded + rejected + dropped."),
    (Counter, "pipe_messages_decoded_total", "Messages parsed, even into no rows."),
    (Counter, "pipe_messages_rejected_total", "Messages in the dead-letter table."),
    (Counter, "pipe_messages_dropped_total", "Messages dropped by a rule of the config: no route, tombstone."),
    (Counter, "pipe_rejects_total", "Rejected messages by reason."),
    (Counter, "pipe_unknown_fields_total", "Fields of messages that no table declares."),
    // State, checkpoints, sinks.
    (Gauge, "pipe_state_keys", "Keys of a materialized view."),
    (Gauge, "pipe_state_bytes", "Bytes a materialized view holds in memory."),
    (Counter, "pipe_view_rebuild_rows_total", "Rows of lake tables read to compute a materialized view anew."),
    (Histogram, "pipe_view_rebuild_seconds", "Time a materialized view took to be computed anew, at a start."),
    (Gauge, "pipe_checkpoint_epoch", "The last epoch that was decided."),
    (Gauge, "pipe_checkpoint_timestamp_seconds", "When that was, in seconds since 1970."),
    (Counter, "pipe_checkpoint_records_total", "Records written."),
    (Histogram, "pipe_checkpoint_duration_seconds", "Time from a cut to its epoch being applied."),
    (Gauge, "pipe_checkpoint_records", "Records in the checkpoint location when it was last cleaned up."),
    (Counter, "pipe_checkpoint_cleanup_deleted_total", "Objects deleted by clean-up: records, state segments."),
    (
        Counter,
        "pipe_checkpoint_cleanup_failures_total",
        "Clean-ups that deleted nothing, or not all; tried again later.",
    ),
    (Counter, "pipe_table_rows_total", "Rows landed in a table since the chain began."),
    (Gauge, "pipe_table_active_files", "Files of a table's newest version, as upkeep last counted them."),
    (Counter, "pipe_table_checkpoint_failures_total", "Checkpoints of a table's log that failed; tried again later."),
    (Counter, "pipe_table_compactions_total", "Times small files of a table were put together."),
    (Counter, "pipe_table_compaction_files_in_total", "Files that compaction replaced."),
    (Counter, "pipe_table_compaction_files_out_total", "Files that replaced them."),
    (Counter, "pipe_table_compaction_bytes_in_total", "Bytes that compaction read."),
    (Counter, "pipe_table_compaction_bytes_out_total", "Bytes that it wrote."),
    (Counter, "pipe_table_compaction_conflicts_total", "Compactions given up because another writer was faster."),
    (Counter, "pipe_table_compaction_failures_total", "Compactions that failed; tried again later."),
    (Gauge, "pipe_table_compaction_last_duration_seconds", "Time the last compaction took."),
    (Counter, "pipe_table_vacuumed_files_total", "Files deleted because no version needs them."),
    (Counter, "pipe_table_vacuumed_bytes_total", "Their bytes."),
    (Counter, "pipe_table_vacuum_failures_total", "Vacuums, and deletions of files, that failed; tried again later."),
    (Gauge, "pipe_table_vacuum_last_duration_seconds", "Time the last vacuum took."),
    (
        Counter,
        "pipe_table_upkeep_panics_total",
        "Times the upkeep of tables broke down and began anew. A fault of ours.",
    ),
    (Counter, "pipe_kv_rows_written_total", "Values written to a key-value table."),
    (Counter, "pipe_kv_rows_deleted_total", "Values deleted from a key-value table."),
    (Counter, "pipe_kv_rows_left_out_total", "Rows not written because their key is NULL or too long."),
    (Gauge, "pipe_budget_used_bytes", "Bytes in use of a share of the memory budget."),
    (Gauge, "pipe_budget_limit_bytes", "Size of that share; files count towards the share of rows."),
    (Counter, "pipe_early_seals_total", "Epochs cut before their time because rows used half of their share."),
    (
        Gauge,
        "pipe_paused_slots",
        "Slots that take nothing now, by cause: rows (the lake is behind), state (it is full).",
    ),
    (Counter, "pipe_paused_seconds_total", "Seconds of waiting, over all slots and sources, by cause."),
    // Readers.
    (Counter, "pipe_queries_total", "Queries that ended, by outcome: answered, failed, cancelled."),
    (Counter, "pipe_query_rows_total", "Rows handed to readers of queries."),
    (Histogram, "pipe_query_seconds", "Time from a query's arrival to its end or to its reader leaving."),
    (Gauge, "pipe_queries_running", "Queries that run now."),
    (Counter, "pipe_http_requests_total", "HTTP requests answered, by route and status."),
    (Counter, "pipe_http_handshakes_failed_total", "TLS handshakes over HTTP that failed or took too long."),
    // The whole.
    (Gauge, "pipe_ready", "1 when the component is ready, else 0."),
    (Gauge, "pipe_invariant_violations", "Broken promises since the start, by invariant. Anything but 0 is a fault."),
];

/// Installs the recorder, or hands out the one that is there. `pipeline` becomes a label of every metric; the first
/// caller's counts, since a process runs one pipeline.
pub fn install(pipeline: &str) -> Result<PrometheusHandle> {
    let _guard = INSTALLING.lock().expect("no holder panics");
    if let Some(handle) = RECORDER.get() {
        return Ok(handle.clone());
    }
    let failed = |e: &dyn std::fmt::Display| Error::Failed(format!("cannot install the metrics recorder: {e}"));
    let recorder = PrometheusBuilder::new()
        .add_global_label("pipeline", pipeline)
        .set_buckets_for_metric(Matcher::Suffix("_seconds".into()), &SECONDS)
        .and_then(|b| b.set_buckets_for_metric(Matcher::Full("pipe_journal_group_bytes".into()), &GROUP_BYTES))
        .and_then(|b| b.set_buckets_for_metric(Matcher::Full("pipe_journal_group_messages".into()), &GROUP_MESSAGES))
        .map_err(|e| failed(&e))?
        .build_recorder();
    let handle = recorder.handle();
    metrics::set_global_recorder(recorder).map_err(|e| failed(&e))?;
    for (kind, name, help) in MEANINGS {
        match kind {
            Counter => metrics::describe_counter!(*name, *help),
            Gauge => metrics::describe_gauge!(*name, *help),
            Histogram => metrics::describe_histogram!(*name, *help),
        }
    }
    Ok(RECORDER.get_or_init(|| handle).clone())
}

/// The text of /metrics. Empty when no recorder was installed.
pub fn render() -> String {
    for invariant in invariant::ALL {
        metrics::gauge!("pipe_invariant_violations", "invariant" => invariant.id).set(invariant.violations() as f64);
    }
    RECORDER.get().map_or(String::new(), |handle| {
        // Moves recorded histogram values into their buckets; without it they would pile up.
        handle.run_upkeep();
        handle.render()
    })
}
