//! Whose move it is when something failed. One error type at every floor edge.

use crate::types::fault::Fault;
use std::any::Any;
use std::fmt;

#[derive(Debug)]
pub enum Error {
    /// The user must change config, SQL or the call. Exit code 2.
    Config(Vec<Fault>),
    /// Something outside is not there now; trying again may help. The engine retries, with backoff.
    Unavailable(String),
    /// Going on would break a promise; a human must choose. Detail and choices are in the text. Exit code 1.
    Refused { what: String, hint: String },
    /// Another process owns the chain. We stop at once. Exit code 1.
    Fenced(String),
    /// A fault of ours or of the machine (disk full, corrupt object). Exit code 1.
    Failed(String),
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    pub fn refused(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Error::Refused { what: what.into(), hint: hint.into() }
    }

    /// Prefixes the text with what was being done. Config faults keep their own places.
    pub fn context(self, doing: impl fmt::Display) -> Self {
        match self {
            Error::Config(f) => Error::Config(f),
            Error::Unavailable(m) => Error::Unavailable(format!("{doing}: {m}")),
            Error::Refused { what, hint } => Error::Refused { what: format!("{doing}: {what}"), hint },
            Error::Fenced(m) => Error::Fenced(format!("{doing}: {m}")),
            Error::Failed(m) => Error::Failed(format!("{doing}: {m}")),
        }
    }

    pub fn is_retriable(&self) -> bool {
        matches!(self, Error::Unavailable(_))
    }

    /// DESIGN 3.3: 1 failed at run time, 2 the config or the call is wrong.
    pub fn exit_code(&self) -> u8 {
        if matches!(self, Error::Config(_)) { 2 } else { 1 }
    }
}

/// What a caught panic said.
pub fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(|s| s.to_string())).unwrap_or_default()
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Config(faults) => {
                for (i, fault) in faults.iter().enumerate() {
                    if i > 0 {
                        writeln!(f)?;
                    }
                    write!(f, "{fault}")?;
                }
                Ok(())
            }
            Error::Unavailable(m) | Error::Failed(m) => f.write_str(m),
            Error::Refused { what, hint } => write!(f, "{what}\n  hint: {hint}"),
            Error::Fenced(m) => write!(f, "fenced: {m}"),
        }
    }
}

impl std::error::Error for Error {}

impl From<datafusion::error::DataFusionError> for Error {
    fn from(e: datafusion::error::DataFusionError) -> Self {
        Error::Failed(e.strip_backtrace())
    }
}

impl From<arrow::error::ArrowError> for Error {
    fn from(e: arrow::error::ArrowError) -> Self {
        Error::Failed(e.to_string())
    }
}
