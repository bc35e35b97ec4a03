//! How a table that is there, or not, fits what statements will write: read from its log, nothing created or changed.

use super::census::{Census, census};
use super::config::DeltaConfig;
use super::log::Log;
use super::schema::{Misfit, lake_schema, merge, schema_json};
use super::table::TableSpec;
use crate::config::section::Section;
use crate::env::store;
use crate::types::error::{Error, Result};
use serde_json::Value;
use std::path::Path;

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fit {
    /// There is no such table: the start creates it.
    New,
    /// It has every column.
    Same,
    /// These columns are added with the first rows.
    Grows(Vec<String>),
    /// A start would refuse.
    Misfit { what: String, hint: String },
}

/// What is there, and the table's own id.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    pub id: Option<String>,
    pub fit: Fit,
}

pub async fn look(sink: &str, config: &DeltaConfig, section: &Section, spec: &TableSpec) -> Result<Looked> {
    let absent = Looked { id: None, fit: Fit::New };
    let Some(log) = log_of(sink, config, section, &spec.name)? else { return Ok(absent) };
    let Some(head) = log.load().await? else { return Ok(absent) };
    let fit = match grown(&head.metadata.schema, &head.metadata.partition_by, spec) {
        Ok(columns) if columns.is_empty() => Fit::Same,
        Ok(columns) => Fit::Grows(columns),
        Err(Misfit { what, hint }) => Fit::Misfit { what, hint },
    };
    Ok(Looked { id: Some(head.metadata.id.clone()), fit })
}

/// `None`: there is no table.
pub async fn count(
    sink: &str,
    config: &DeltaConfig,
    section: &Section,
    table: &str,
    app_id: &str,
) -> Result<Option<Census>> {
    match log_of(sink, config, section, table)? {
        Some(log) => census(&log, app_id).await,
        None => Ok(None),
    }
}

fn log_of(sink: &str, config: &DeltaConfig, section: &Section, table: &str) -> Result<Option<Log>> {
    // Opening a local directory would create it.
    if !config.uri.is_url() && !Path::new(&config.uri.0).is_dir() {
        return Ok(None);
    }
    let options = section.reveal_settings("options", &config.options).map_err(Error::Config)?;
    let location = store::open(&config.uri.0, &options).map_err(|e| e.context(format!("sink \"{sink}\"")))?;
    Ok(Some(Log { table: location.under(table), name: format!("{sink}.{table}") }))
}

/// Columns that the table lacks; "(nested)" if it has them all and a field inside one is new.
fn grown(table: &Value, partition_by: &[String], spec: &TableSpec) -> Result<Vec<String>, Misfit> {
    if partition_by != spec.partition_by {
        return Err(Misfit {
            what: format!("the table is partitioned by {partition_by:?}, the config says {:?}", spec.partition_by),
            hint: "Set partition_by to what the table has, or deliver into a new table.".into(),
        });
    }
    let Some(merged) = merge(table, &schema_json(&*lake_schema(&spec.schema)?))? else { return Ok(Vec::new()) };
    let names = |schema: &Value| -> Vec<String> {
        let fields = schema["fields"].as_array().into_iter().flatten();
        fields.filter_map(|f| f["name"].as_str().map(str::to_owned)).collect()
    };
    let before = names(table);
    let added: Vec<String> = names(&merged).into_iter().filter(|n| !before.contains(n)).collect();
    Ok(if added.is_empty() { vec!["(fields inside columns)".to_owned()] } else { added })
}
