//! A message set aside, with a reason. It becomes a row of the dead-letter table; nothing else happens to it.

use std::fmt;
use std::sync::Arc;

/// In place of a reason: the message has been replayed and is dead no longer.
pub const REPLAYED: &str = "replayed";

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RejectReason {
    /// Not JSON, or JSON after the end of the value.
    Syntax(String),
    /// A value of another type than declared, or out of range. `path` is the field, e.g. `measurements[3].speed`.
    Type { path: String, message: String },
    /// NULL or missing in a NOT NULL column.
    Null { path: String },
    /// A field the table does not declare, under `unknown_fields = "reject"`.
    UnknownField { path: String },
    /// No table of the source takes it.
    NoRoute(String),
    /// A statement failed on it: division by zero, a bad CAST. The statement is named.
    Sql { statement: Arc<str>, message: String },
    /// Larger than the source's limit.
    TooLarge { bytes: u64, bytes_max: u64 },
}

impl RejectReason {
    /// Every `code` there is.
    pub const CODES: [&'static str; 7] = ["syntax", "type", "null", "unknown_field", "no_route", "sql", "too_large"];

    /// The short code in metrics and in the `reason` column's first word: bounded cardinality.
    pub fn code(&self) -> &'static str {
        match self {
            RejectReason::Syntax(_) => "syntax",
            RejectReason::Type { .. } => "type",
            RejectReason::Null { .. } => "null",
            RejectReason::UnknownField { .. } => "unknown_field",
            RejectReason::NoRoute(_) => "no_route",
            RejectReason::Sql { .. } => "sql",
            RejectReason::TooLarge { .. } => "too_large",
        }
    }
}

impl fmt::Display for RejectReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RejectReason::Syntax(m) => write!(f, "syntax: {m}"),
            RejectReason::Type { path, message } => write!(f, "type: {path}: {message}"),
            RejectReason::Null { path } => write!(f, "null: {path} is NOT NULL"),
            RejectReason::UnknownField { path } => write!(f, "unknown_field: {path}"),
            RejectReason::NoRoute(m) => write!(f, "no_route: {m}"),
            RejectReason::Sql { statement, message } => write!(f, "sql:{statement}: {message}"),
            RejectReason::TooLarge { bytes, bytes_max } => {
                write!(f, "too_large: {bytes} bytes, the limit is {bytes_max}")
            }
        }
    }
}

/// `index` is the message's place in the input it was decoded from (or `__msg` once a batch has been put together).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    pub index: u32,
    pub reason: RejectReason,
}
