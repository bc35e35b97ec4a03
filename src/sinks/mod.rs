//! Sinks: one folder per connector. Append-only sinks take final rows exactly once; upsert sinks take changes.

pub mod delta;
pub mod kv;

use crate::config::schema;
use crate::config::spec::{Connector, SinkConnector};
use crate::types::catalog::SinkKind;

/// Every sink of this build, as config names, checks and describes it.
pub static CONNECTORS: &[SinkConnector] = &[
    SinkConnector {
        connector: Connector {
            kind: "delta",
            check: |section| delta::config::validate(section).err().unwrap_or_default(),
            schema: schema::of::<delta::config::DeltaConfig>,
        },
        accepts: SinkKind::Append,
        check_table: |section| delta::config::validate_table(section).err().unwrap_or_default(),
        table_schema: schema::of::<delta::config::DeltaTableConfig>,
    },
    SinkConnector {
        connector: Connector {
            kind: "kv",
            check: |section| kv::config::validate(section).err().unwrap_or_default(),
            schema: schema::of::<kv::config::KvConfig>,
        },
        accepts: SinkKind::Upsert,
        check_table: |section| section.read::<NoSettings>().err().unwrap_or_default(),
        table_schema: schema::of::<NoSettings>,
    },
];

/// For sinks whose tables have nothing to set: every key is an unknown one.
#[derive(serde::Deserialize, schemars::JsonSchema)]
#[serde(deny_unknown_fields)]
struct NoSettings {}
