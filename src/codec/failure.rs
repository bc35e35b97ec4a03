//! Why a message is set aside, and the path to the value that caused it.
//!
//! The path is put together on the way out of the recursion, so that a good message pays nothing for it.

use crate::types::reject::RejectReason;
use crate::types::table::ColumnType;
use jiter::{JiterError, JiterErrorType};
use std::fmt::Write;

/// Boxed wherever it is returned: the happy path moves one pointer.
#[derive(Debug)]
pub struct Failure {
    cause: Cause,
    /// Innermost first.
    path: Vec<Segment>,
}

#[derive(Debug)]
enum Cause {
    Syntax(String),
    Type(String),
    Null,
    Unknown,
    NoRoute(String),
}

#[derive(Debug)]
enum Segment {
    Field(String),
    Index(usize),
}

pub type Outcome<T = ()> = Result<T, Box<Failure>>;

impl Failure {
    fn new(cause: Cause) -> Box<Failure> {
        Box::new(Failure { cause, path: Vec::new() })
    }

    pub fn syntax(message: impl Into<String>) -> Box<Failure> {
        Failure::new(Cause::Syntax(message.into()))
    }

    /// The value itself is the news: `found text "12", declared INT`.
    pub fn mismatch(raw: &[u8], declared: &ColumnType) -> Box<Failure> {
        Failure::new(Cause::Type(format!("found {}, declared {}", found(raw), sql_name(declared))))
    }

    /// The right kind of value, and still not one the column can hold; `why` says so.
    pub fn value(raw: &[u8], declared: &ColumnType, why: &str) -> Box<Failure> {
        Failure::new(Cause::Type(format!("found {}, declared {}: {why}", found(raw), sql_name(declared))))
    }

    pub fn null() -> Box<Failure> {
        Failure::new(Cause::Null)
    }

    pub fn unknown_field() -> Box<Failure> {
        Failure::new(Cause::Unknown)
    }

    pub fn no_route(message: String) -> Box<Failure> {
        Failure::new(Cause::NoRoute(message))
    }

    pub fn in_field(mut self: Box<Failure>, name: &str) -> Box<Failure> {
        self.path.push(Segment::Field(name.to_owned()));
        self
    }

    pub fn at_index(mut self: Box<Failure>, index: usize) -> Box<Failure> {
        self.path.push(Segment::Index(index));
        self
    }

    pub fn into_reason(self) -> RejectReason {
        let mut path = String::new();
        for segment in self.path.iter().rev() {
            match segment {
                Segment::Field(name) => {
                    if !path.is_empty() {
                        path.push('.');
                    }
                    path.push_str(name);
                }
                Segment::Index(i) => write!(path, "[{i}]").expect("writing to a string cannot fail"),
            }
        }
        match self.cause {
            Cause::Syntax(message) => RejectReason::Syntax(message),
            Cause::Type(message) => RejectReason::Type { path, message },
            Cause::Null => RejectReason::Null { path },
            Cause::Unknown => RejectReason::UnknownField { path },
            Cause::NoRoute(message) => RejectReason::NoRoute(message),
        }
    }
}

impl From<JiterError> for Box<Failure> {
    fn from(e: JiterError) -> Self {
        match e.error_type {
            JiterErrorType::JsonError(kind) => Failure::syntax(format!("{kind} at byte {}", e.index)),
            // The decoder looks at the kind of a value before it reads it, so this is a value that starts like none.
            JiterErrorType::WrongType { .. } => Failure::syntax(format!("expected value at byte {}", e.index)),
        }
    }
}

/// Characters of a value that a reason quotes: enough to recognise it, and a bound on the dead letters' size.
const FOUND_CHARS_MAX: usize = 60;

/// Kind and text of a raw JSON value.
pub fn found(raw: &[u8]) -> String {
    let text = String::from_utf8_lossy(raw);
    let kind = match raw.first() {
        Some(b'"') => "text ",
        Some(b'[') => "array ",
        Some(b'{') => "object ",
        Some(b't' | b'f') => "boolean ",
        _ => "",
    };
    let mut short: String = text.chars().take(FOUND_CHARS_MAX).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{kind}{short}")
}

/// The type as SQL writes it, without the fields of a STRUCT.
pub fn sql_name(kind: &ColumnType) -> String {
    match kind {
        ColumnType::Boolean => "BOOLEAN".into(),
        ColumnType::Int => "INT".into(),
        ColumnType::BigInt => "BIGINT".into(),
        ColumnType::Real => "REAL".into(),
        ColumnType::Double => "DOUBLE".into(),
        ColumnType::Decimal(p, s) => format!("DECIMAL({p},{s})"),
        ColumnType::Text => "TEXT".into(),
        ColumnType::Bytea => "BYTEA".into(),
        ColumnType::Date => "DATE".into(),
        ColumnType::Timestamp(_) => "TIMESTAMP".into(),
        ColumnType::Json => "JSON".into(),
        ColumnType::Struct(_) => "STRUCT".into(),
        ColumnType::Array(element) => format!("{}[]", sql_name(&element.kind)),
        ColumnType::Map(value) => format!("MAP<TEXT, {}>", sql_name(&value.kind)),
    }
}
