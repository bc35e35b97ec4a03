//! One `[sink.x] type = "delta"`: connects to its store, and opens or creates its tables.

use super::config::{DeltaConfig, FloatEncoding};
use super::log::{Head, Log, Metadata, creation};
use super::schema::{Misfit, lake_schema, merge, schema_json, settle};
use super::table::{Table, TableSpec};
use super::writer::{FileFormat, properties, stats_columns};
use crate::config::section::Section;
use crate::env::clock::Clock;
use crate::env::store::{self, Location, PutOutcome};
use crate::types::error::{Error, Result};
use arrow::datatypes::{DataType, SchemaRef};
use serde_json::json;
use std::sync::Arc;

pub struct DeltaSink {
    name: String,
    location: Location,
    float_encoding: FloatEncoding,
    clock: Clock,
}

impl DeltaSink {
    /// Looks up the secrets, opens the store and proves that it creates objects only if absent.
    pub async fn connect(name: &str, config: &DeltaConfig, section: &Section) -> Result<Self> {
        let options = section.reveal_settings("options", &config.options).map_err(Error::Config)?;
        let location = store::open(&config.uri, &options).map_err(|e| e.context(format!("sink \"{name}\"")))?;
        Self::at(name, location, config.float_encoding).await
    }

    /// As `connect`, on a store that is open already.
    pub async fn at(name: &str, location: Location, float_encoding: FloatEncoding) -> Result<Self> {
        store::probe_create_if_absent(&location).await.map_err(|e| e.context(format!("sink \"{name}\"")))?;
        Ok(DeltaSink { name: name.to_owned(), location, float_encoding, clock: Clock::System })
    }

    /// Opens `<uri>/<table>`, creating it if it is not there. `app_id` is the transaction under which our epochs land.
    pub async fn open_table(&self, spec: TableSpec, app_id: &str) -> Result<Arc<Table>> {
        let log = Log { table: self.location.under(&spec.name), name: format!("{}.{}", self.name, spec.name) };
        let stored = lake_schema(&spec.schema).map_err(|m| log.refused(m))?;
        if let Some(missing) = spec.partition_by.iter().find(|p| stored.field_with_name(p).is_err()) {
            return Err(log.refused(Misfit {
                what: format!("partition column \"{missing}\" is not a column of the statement"),
                hint: "Select it, or take it out of partition_by.".into(),
            }));
        }
        for column in &spec.partition_by {
            // A folder's name is the value as text: what has no exact text cannot be asked for again.
            let odd = |t: &DataType| t.is_nested() || t.is_floating() || matches!(t, DataType::Binary);
            if let Some(field) = stored.fields().iter().find(|f| f.name() == column && odd(f.data_type())) {
                return Err(log.refused(Misfit {
                    what: format!("partition column \"{column}\" is of type {}", field.data_type()),
                    hint: "Partition by text, whole numbers, decimals, dates, timestamps or booleans.".into(),
                }));
            }
        }
        if stored.fields().len() == spec.partition_by.len() {
            return Err(log.refused(Misfit {
                what: "every column is a partition column".into(),
                hint: "Leave at least one column in the files.".into(),
            }));
        }
        let format = |stored: SchemaRef| FileFormat {
            floats: self.float_encoding,
            properties: properties(&stored, self.float_encoding),
            stats_columns: stats_columns(&stored, &spec.partition_by),
            partition_by: spec.partition_by.clone(),
            schema: stored,
        };
        let head = match log.load().await? {
            Some(head) => head,
            None => self.create(&log, &spec, &format(stored.clone())).await?,
        };
        let settled = settle(&stored, &head.metadata.schema);
        let format = format(settled.map_err(|e| log.failed(format_args!("the table's schema cannot be read: {e}")))?);
        fits(&head, &format).map_err(|m| log.refused(m))?;
        Table::new(spec, app_id, log, format, head, self.clock.clone())
    }

    async fn create(&self, log: &Log, spec: &TableSpec, format: &FileFormat) -> Result<Head> {
        let now_ms = self.clock.now_us() / 1000;
        let mut action = json!({
            "id": uuid::Uuid::new_v4().to_string(),
            "name": spec.name,
            "format": { "provider": "parquet", "options": {} },
            "schemaString": schema_json(&format.schema).to_string(),
            "partitionColumns": format.partition_by,
            "configuration": {
                "delta.checkpointInterval": super::checkpoint::CHECKPOINT_COMMITS.to_string(),
                // Cleaned by us after a checkpoint that was read back; writers that clean on every commit list the log.
                "delta.enableExpiredLogCleanup": "false",
                "delta.logRetentionDuration": "interval 24 hours",
                "delta.deletedFileRetentionDuration": "interval 48 hours",
                // In this spelling delta-rs understands it too: deletes and merges of others commit beside our appends.
                "delta.isolationLevel": "writeSerializable",
                "pipe.keepsLog": "true",
            },
            "createdTime": now_ms,
        });
        let (key, value) = match format.stats_columns.is_empty() {
            true => ("delta.dataSkippingNumIndexedCols", "0".to_owned()),
            false => ("delta.dataSkippingStatsColumns", format.stats_columns.join(",")),
        };
        action["configuration"][key] = value.into();
        let metadata = Metadata::parse(action).map_err(|e| log.failed(e))?;
        let failure = match log.write(0, creation(&metadata, now_ms)).await {
            Ok(PutOutcome::Created) => {
                tracing::info!(table = %log.table.display, "created a Delta table");
                None
            }
            // Another process, or our own attempt whose answer was lost: the log says what the table is.
            Ok(PutOutcome::AlreadyExists) => None,
            // It may have landed all the same.
            Err(error) => Some(error),
        };
        match (log.load().await?, failure) {
            (Some(head), _) => Ok(head),
            (None, Some(failure)) => Err(failure),
            (None, None) => Err(Error::Unavailable(format!("{}: the new table is not there yet", log.table.display))),
        }
    }
}

/// May rows of this format go into the table as it is, or as it will be when it has grown?
fn fits(head: &Head, format: &FileFormat) -> Result<(), Misfit> {
    if head.metadata.partition_by != format.partition_by {
        let list = |columns: &[String]| match columns.is_empty() {
            true => "not partitioned".to_owned(),
            false => format!("partitioned by {}", columns.join(", ")),
        };
        return Err(Misfit {
            what: format!(
                "the table is {}, the config says {}",
                list(&head.metadata.partition_by),
                list(&format.partition_by)
            ),
            hint: "Set partition_by to what the table has, or deliver into a new table.".into(),
        });
    }
    merge(&head.metadata.schema, &schema_json(&format.schema)).map(|_| ())
}
