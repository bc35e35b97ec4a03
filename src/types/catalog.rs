//! What SQL may refer to: the sources and sinks of the config, by name. Plain data, so that `sql` needs no `config`.

use std::collections::BTreeMap;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SinkKind {
    /// Append-only tables: Delta. Receives final rows.
    Append,
    /// Upserts by key: KV. Receives changes of materialized views.
    Upsert,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum UnknownFields {
    /// Counted, otherwise ignored.
    #[default]
    Ignore,
    /// The message is rejected.
    Reject,
    /// Kept as JSON text in the column `_extra`, which every table of the source then has.
    Capture,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SourceFacts {
    pub unknown_fields: UnknownFields,
}

#[derive(Clone, Debug, Default)]
pub struct Catalog {
    pub sources: BTreeMap<String, SourceFacts>,
    pub sinks: BTreeMap<String, SinkKind>,
}
