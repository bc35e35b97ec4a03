//! A running engine as the servers see it: tables to query, components to be ready, a status to show.

use crate::engine::pressure::Cause;
use crate::engine::published::Published;
use crate::engine::running::Live;
use crate::query::World;
use crate::serve::{ComponentState, Facade};
use crate::sinks::delta::table::Table;
use crate::sql::plan::Plan;
use crate::state::cut::SlotView;
use crate::types::error::{Error, Result};
use crate::types::fault::{Fault, closest};
use crate::types::position::PartitionId;
use arrow::array::{ArrayRef, BooleanArray, Int64Array, StringArray, TimestampMicrosecondArray, UInt64Array};
use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;

/// The engine's handle, with what only the servers need beside it.
pub struct LiveWorld {
    live: Arc<Live>,
    clock: crate::env::clock::Clock,
}

impl LiveWorld {
    pub fn new(live: Arc<Live>, clock: crate::env::clock::Clock) -> Self {
        LiveWorld { live, clock }
    }

    fn partitions(&self) -> BTreeMap<PartitionId, crate::engine::published::PartitionProgress> {
        let shown = self.live.published();
        shown.iter().flat_map(|p| p.partitions.iter().map(|(id, progress)| (id.clone(), progress.clone()))).collect()
    }

    fn unknown_fields(shown: &[Arc<Published>], source: &str) -> u64 {
        shown.iter().filter_map(|p| p.unknown_fields.get(source)).sum()
    }

    /// Sets the gauges that are read from published state rather than counted on the way. Called before each scrape.
    fn refresh_gauges(&self) {
        let shown = self.live.published();
        for (name, source) in &self.live.sources {
            let labels = [("component", name.clone())];
            metrics::gauge!("pipe_source_connected", &labels)
                .set(source.status.connected.load(Ordering::Relaxed) as u8 as f64);
            metrics::gauge!("pipe_source_lag_messages", &labels)
                .set(source.status.lag_messages.load(Ordering::Relaxed) as f64);
            metrics::counter!("pipe_source_messages_total", &labels)
                .absolute(source.status.messages_in.load(Ordering::Relaxed));
            metrics::counter!("pipe_source_bytes_total", &labels)
                .absolute(source.status.bytes_in.load(Ordering::Relaxed));
            metrics::counter!("pipe_source_reconnects_total", &labels)
                .absolute(source.status.reconnects.load(Ordering::Relaxed));
            metrics::counter!("pipe_unknown_fields_total", &labels).absolute(Self::unknown_fields(&shown, name));
        }
        for (partition, progress) in self.partitions() {
            let labels = [("component", partition.source.to_string()), ("partition", partition.name.to_string())];
            metrics::counter!("pipe_messages_received_total", &labels).absolute(progress.counts.received);
            metrics::counter!("pipe_messages_decoded_total", &labels).absolute(progress.counts.decoded);
            metrics::counter!("pipe_messages_rejected_total", &labels).absolute(progress.counts.rejected);
            metrics::counter!("pipe_messages_dropped_total", &labels).absolute(progress.counts.dropped);
        }
        for (reason, n) in rejects(&shown) {
            metrics::counter!("pipe_rejects_total", "reason" => reason).absolute(n);
        }
        for (i, view) in self.live.plan.views.iter().enumerate() {
            let labels = [("component", view.name.to_string())];
            metrics::gauge!("pipe_state_keys", &labels).set(sum(&shown, |p| p.view_keys[i]) as f64);
            metrics::gauge!("pipe_state_bytes", &labels).set(sum(&shown, |p| p.view_bytes[i]) as f64);
        }
        let checkpoint = self.live.checkpoint_status();
        metrics::gauge!("pipe_checkpoint_epoch").set(checkpoint.epoch.0 as f64);
        metrics::gauge!("pipe_checkpoint_timestamp_seconds").set(checkpoint.epoch_time_us as f64 / 1e6);
        for (table, rows) in &checkpoint.rows_total {
            metrics::counter!("pipe_table_rows_total", "component" => table.to_string()).absolute(*rows);
        }
        for share in self.shares() {
            metrics::gauge!("pipe_budget_used_bytes", "share" => share.name).set(share.used as f64);
            metrics::gauge!("pipe_budget_limit_bytes", "share" => share.name).set(share.limit as f64);
        }
        let pressure = &self.live.pressure;
        metrics::counter!("pipe_early_seals_total").absolute(pressure.early_seals());
        metrics::counter!("pipe_paused_seconds_total", "cause" => "messages").absolute(self.live.in_flight.waited_seconds() as u64);
        for cause in Cause::ALL {
            metrics::counter!("pipe_paused_seconds_total", "cause" => cause.name())
                .absolute(pressure.paused_seconds(cause, self.clock.now_us()) as u64);
            let slots = pressure.paused().iter().filter(|p| p.cause == cause).count();
            metrics::gauge!("pipe_paused_slots", "cause" => cause.name()).set(slots as f64);
        }
    }

    fn shares(&self) -> [Share; 4] {
        let pressure = &self.live.pressure;
        let shares = pressure.shares();
        let state = pressure.state().iter().map(|v| v.bytes).sum();
        [
            Share {
                name: "messages",
                used: self.live.in_flight.used_bytes(),
                limit: self.live.in_flight.total_bytes(),
            },
            Share { name: "rows", used: pressure.rows_bytes(), limit: shares.rows_max },
            // Of the same bound as the rows.
            Share { name: "files", used: pressure.files_bytes(), limit: shares.rows_max },
            Share { name: "state", used: state, limit: shares.state_max },
        ]
    }
}

struct Share {
    name: &'static str,
    used: u64,
    limit: u64,
}

fn sum(shown: &[Arc<Published>], of: impl Fn(&Published) -> u64) -> u64 {
    shown.iter().map(|p| of(p)).sum()
}

fn waits_for_lake(checkpoint: &str, tables: &BTreeMap<Arc<str>, String>) -> String {
    match tables.first_key_value().map(|(_, why)| why.as_str()).or(Some(checkpoint).filter(|t| !t.is_empty())) {
        Some(trouble) => format!("rows wait for the lake: {trouble}"),
        None => "rows wait for the lake".into(),
    }
}

fn rejects(shown: &[Arc<Published>]) -> BTreeMap<&'static str, u64> {
    let mut all = BTreeMap::new();
    for published in shown {
        for (reason, n) in &published.rejects {
            *all.entry(*reason).or_default() += n;
        }
    }
    all
}

impl World for LiveWorld {
    fn plan(&self) -> &Plan {
        &self.live.plan
    }

    fn slots(&self) -> Vec<Arc<SlotView>> {
        self.live.published().iter().map(|p| p.view.clone()).collect()
    }

    fn lake(&self) -> Vec<(Arc<str>, Arc<Table>)> {
        self.live.tables.iter().map(|t| (t.sink.clone(), t.table.clone())).collect()
    }

    fn system(&self, name: &str) -> Option<RecordBatch> {
        match name {
            "sources" => Some(self.sources()),
            "sinks" => Some(self.sinks()),
            "views" => Some(self.views()),
            "checkpoints" => Some(self.checkpoints()),
            "rejects" => Some(self.rejects()),
            _ => None,
        }
    }
}

impl LiveWorld {
    /// One row per partition of every source; a source without partitions yet has one row with NULLs.
    fn sources(&self) -> RecordBatch {
        let partitions = self.partitions();
        let mut rows = Vec::new();
        for (name, source) in &self.live.sources {
            let own: Vec<_> = partitions.iter().filter(|(id, _)| *id.source == **name).collect();
            if own.is_empty() {
                rows.push((name, source, None));
            }
            rows.extend(own.into_iter().map(|p| (name, source, Some(p))));
        }
        let count = |of: fn(&crate::types::count::Counts) -> u64| -> ArrayRef {
            Arc::new(rows.iter().map(|r| r.2.map(|(_, p)| of(&p.counts) as i64)).collect::<Int64Array>())
        };
        batch([
            ("source", texts(rows.iter().map(|r| Some(r.0.as_str())))),
            ("type", texts(rows.iter().map(|r| Some(r.1.kind.as_str())))),
            (
                "connected",
                Arc::new(
                    rows.iter().map(|r| Some(r.1.status.connected.load(Ordering::Relaxed))).collect::<BooleanArray>(),
                ),
            ),
            ("partition", texts(rows.iter().map(|r| r.2.map(|(id, _)| id.name.as_ref())))),
            ("position", Arc::new(rows.iter().map(|r| r.2.map(|(_, p)| p.position.0 as i64)).collect::<Int64Array>())),
            ("received", count(|c| c.received)),
            ("decoded", count(|c| c.decoded)),
            ("rejected", count(|c| c.rejected)),
            ("dropped", count(|c| c.dropped)),
            (
                "lag_messages",
                Arc::new(
                    rows.iter()
                        .map(|r| Some(r.1.status.lag_messages.load(Ordering::Relaxed)).filter(|l| *l >= 0))
                        .collect::<Int64Array>(),
                ),
            ),
            (
                "trouble",
                texts_owned(rows.iter().map(|r| {
                    Some(r.1.status.trouble.lock().expect("no holder panics").clone()).filter(|t| !t.is_empty())
                })),
            ),
        ])
    }

    fn sinks(&self) -> RecordBatch {
        let totals = self.live.checkpoint_status().rows_total;
        let mut rows: Vec<(String, String, Option<i64>, Option<i64>, Option<i64>)> = Vec::new();
        for table in &self.live.tables {
            let snapshot = table.table.snapshot();
            let total = totals.get(&table.key).copied().unwrap_or(0) as i64;
            let files = table.table.active_files().map(|n| n as i64);
            rows.push((table.key.to_string(), "delta".into(), Some(total), Some(snapshot.version), files));
        }
        for (name, sink) in &self.live.kv {
            rows.extend(
                sink.tables().iter().map(|t| (format!("{name}.{}", t.spec().name), "kv".into(), None, None, None)),
            );
        }
        batch([
            ("table", texts(rows.iter().map(|r| Some(r.0.as_str())))),
            ("type", texts(rows.iter().map(|r| Some(r.1.as_str())))),
            ("rows_landed", Arc::new(rows.iter().map(|r| r.2).collect::<Int64Array>())),
            ("version", Arc::new(rows.iter().map(|r| r.3).collect::<Int64Array>())),
            ("active_files", Arc::new(rows.iter().map(|r| r.4).collect::<Int64Array>())),
        ])
    }

    fn views(&self) -> RecordBatch {
        let shown = self.live.published();
        let views = &self.live.plan.views;
        let numbers = |of: &dyn Fn(&Published, usize) -> u64| -> ArrayRef {
            Arc::new((0..views.len()).map(|i| Some(sum(&shown, |p| of(p, i)))).collect::<UInt64Array>())
        };
        batch([
            ("view", texts(views.iter().map(|v| Some(v.name.as_ref())))),
            ("keys", numbers(&|p, i| p.view_keys[i])),
            ("bytes", numbers(&|p, i| p.view_bytes[i])),
            ("fingerprint", texts(views.iter().map(|v| Some(v.fingerprint.as_str())))),
        ])
    }

    fn checkpoints(&self) -> RecordBatch {
        let status = self.live.checkpoint_status();
        let number = |n: u64| -> ArrayRef { Arc::new(Int64Array::from(vec![n as i64])) };
        batch([
            ("chain", texts([Some(self.live.chain.0.as_str())].into_iter())),
            ("incarnation", number(self.live.incarnation)),
            ("epoch", number(status.epoch.0)),
            ("applied", number(status.applied.0)),
            ("epoch_time", Arc::new(TimestampMicrosecondArray::from(vec![status.epoch_time_us]).with_timezone("UTC"))),
            ("records_written", number(status.records_written)),
            ("duration_ms", number(status.last_duration_us / 1000)),
            ("trouble", texts([Some(status.trouble.as_str()).filter(|t| !t.is_empty())].into_iter())),
        ])
    }

    /// Since this process started, by reason; the messages themselves are in the dead-letter table.
    fn rejects(&self) -> RecordBatch {
        let rejects = rejects(&self.live.published());
        batch([
            ("reason", texts(rejects.keys().map(|r| Some(*r)))),
            ("messages", Arc::new(rejects.values().map(|n| Some(*n)).collect::<UInt64Array>())),
        ])
    }
}

fn texts<'a>(values: impl Iterator<Item = Option<&'a str>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn texts_owned(values: impl Iterator<Item = Option<String>>) -> ArrayRef {
    Arc::new(values.collect::<StringArray>())
}

fn batch<const N: usize>(columns: [(&str, ArrayRef); N]) -> RecordBatch {
    RecordBatch::try_from_iter_with_nullable(columns.map(|(name, column)| (name, column, true)))
        .expect("columns of one table have one length")
}

impl Facade for LiveWorld {
    fn ready(&self) -> Vec<ComponentState> {
        let mut states: Vec<ComponentState> = self
            .live
            .sources
            .iter()
            .map(|(name, source)| {
                let ready = source.status.connected.load(Ordering::Relaxed);
                let trouble = source.status.trouble.lock().expect("no holder panics").clone();
                let detail = if ready || !trouble.is_empty() { trouble } else { "connecting".into() };
                ComponentState { component: format!("source {name}"), ready, detail }
            })
            .collect();
        let checkpoint = self.live.checkpoint_status();
        states.push(ComponentState {
            component: "checkpoint".into(),
            ready: checkpoint.trouble.is_empty(),
            detail: checkpoint.trouble,
        });
        if !self.live.kv.is_empty() {
            let ready = self.live.kv_ready.load(Ordering::Relaxed);
            let detail = if ready { "" } else { "replay has not passed the key-value store's marker yet" };
            states.push(ComponentState { component: "key-value store".into(), ready, detail: detail.into() });
        }
        for (table, why) in self.live.pressure.table_trouble() {
            states.push(ComponentState { component: format!("table {table}"), ready: false, detail: why });
        }
        if let Some((view, text)) = self.live.pressure.full_state() {
            states.push(ComponentState { component: format!("view {}", view.name), ready: false, detail: text });
        }
        if self.live.stopping.load(Ordering::Relaxed) {
            states.push(ComponentState { component: "pipeline".into(), ready: false, detail: "stopping".into() });
        }
        self.refresh_gauges();
        states
    }

    fn status(&self) -> Value {
        self.refresh_gauges();
        let shown = self.live.published();
        let checkpoint = self.live.checkpoint_status();
        let now_us = self.clock.now_us();
        let partitions = self.partitions();
        let sources: BTreeMap<&String, Value> = self
            .live
            .sources
            .iter()
            .map(|(name, source)| {
                let own: BTreeMap<_, _> = partitions
                    .iter()
                    .filter(|(id, _)| *id.source == **name)
                    .map(|(id, p)| (id.name.to_string(), json!({ "position": p.position.0, "counts": p.counts })))
                    .collect();
                let lag = source.status.lag_messages.load(Ordering::Relaxed);
                let value = json!({
                    "type": source.kind,
                    "connected": source.status.connected.load(Ordering::Relaxed),
                    "messages_in": source.status.messages_in.load(Ordering::Relaxed),
                    "bytes_in": source.status.bytes_in.load(Ordering::Relaxed),
                    "lag_messages": if lag < 0 { Value::Null } else { lag.into() },
                    "reconnects": source.status.reconnects.load(Ordering::Relaxed),
                    "unknown_fields": Self::unknown_fields(&shown, name),
                    "trouble": *source.status.trouble.lock().expect("no holder panics"),
                    "partitions": own,
                });
                (name, value)
            })
            .collect();
        let counts = self.live.counts();
        let views: BTreeMap<String, Value> = (0..self.live.plan.views.len())
            .map(|i| {
                let value =
                    json!({ "keys": sum(&shown, |p| p.view_keys[i]), "bytes": sum(&shown, |p| p.view_bytes[i]) });
                (self.live.plan.views[i].name.to_string(), value)
            })
            .collect();
        json!({
            "pipeline": self.live.pipeline,
            "chain": self.live.chain,
            "incarnation": self.live.incarnation,
            "uptime_seconds": (now_us - self.live.started_at_us) / 1_000_000,
            "counts": counts,
            "rejects": rejects(&shown),
            "sources": sources,
            "views": views,
            "tables": checkpoint.rows_total.iter().map(|(k, v)| (k.to_string(), *v)).collect::<BTreeMap<_, _>>(),
            "checkpoint": {
                "epoch": checkpoint.epoch,
                "applied": checkpoint.applied,
                "age_seconds": (now_us - checkpoint.epoch_time_us) as f64 / 1e6,
                "records_written": checkpoint.records_written,
                "trouble": checkpoint.trouble,
            },
            "memory": {
                "limit_bytes": self.live.memory_bytes,
                "shares": self.shares().iter().map(|s| (s.name, json!({ "used_bytes": s.used, "limit_bytes": s.limit })))
                    .collect::<BTreeMap<_, _>>(),
                "early_seals": self.live.pressure.early_seals(),
                "paused": self.live.pressure.paused().iter().map(|p| json!({
                    "slot": p.slot,
                    "cause": p.cause.name(),
                    "seconds": (now_us - p.since_us).max(0) as f64 / 1e6,
                    "why": match p.cause {
                        Cause::Rows => waits_for_lake(&checkpoint.trouble, &self.live.pressure.table_trouble()),
                        Cause::State => self.live.pressure.full_state().map_or(String::new(), |(_, text)| text),
                    },
                })).collect::<Vec<_>>(),
            },
        })
    }

    fn kv(&self, sink: &str, table: &str, key: &[String]) -> Result<Option<Value>> {
        let wrong = |message: String, hint: Option<String>| {
            Error::Config(vec![Fault { file: "request".into(), line: 0, column: 0, message, hint }])
        };
        let Some(found) = self.live.kv.get(sink) else {
            let near = closest(sink, self.live.kv.keys().map(String::as_str));
            return Err(wrong(format!("no key-value sink \"{sink}\""), near.map(|n| format!("Did you mean \"{n}\"?"))));
        };
        let Some(table_found) = found.table(table) else {
            let names: Vec<String> = found.tables().iter().map(|t| t.spec().name.to_string()).collect();
            let hint = format!("Tables of \"{sink}\": {}.", names.join(", "));
            return Err(wrong(format!("no table \"{table}\" in sink \"{sink}\""), Some(hint)));
        };
        let parts: Vec<Value> = key.iter().map(|k| Value::String(k.clone())).collect();
        let key = table_found.key(&parts).map_err(|why| wrong(why, None))?;
        match table_found.get(&key)? {
            None => Ok(None),
            Some(row) => serde_json::from_str(&row.json)
                .map(Some)
                .map_err(|e| Error::Failed(format!("a stored row of \"{sink}.{table}\" is not JSON: {e}"))),
        }
    }
}
