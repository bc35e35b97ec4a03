//! What went wrong with a query, in words for the one who wrote it: line:column, message, hint. Never a Debug string.

use crate::types::error::Error;
use crate::types::fault::closest;
use datafusion::common::{Column, SchemaError, Span};
use datafusion::error::DataFusionError;
use datafusion::sql::sqlparser::parser::ParserError;
use std::fmt;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The statement or its values must change.
    Wrong,
    /// A limit was reached: memory, or queries at a time. Less of it, or later, may work.
    Exhausted,
    /// Someone cancelled it.
    Cancelled,
    /// Something outside (an object store) is not there now.
    Unavailable,
    /// A fault of ours or of the machine.
    Failed,
}

/// 1-based.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    pub line: u64,
    pub column: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct QueryError {
    pub kind: Kind,
    pub place: Option<Place>,
    pub message: String,
    pub hint: Option<String>,
}

pub type Result<T, E = QueryError> = std::result::Result<T, E>;

impl fmt::Display for QueryError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(place) = self.place {
            write!(f, "{}:{}: ", place.line, place.column)?;
        }
        write!(f, "{}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, "\n  hint: {hint}")?;
        }
        Ok(())
    }
}

impl std::error::Error for QueryError {}

impl QueryError {
    pub fn new(kind: Kind, message: impl Into<String>) -> Self {
        QueryError { kind, place: None, message: message.into(), hint: None }
    }

    pub fn wrong(message: impl Into<String>) -> Self {
        QueryError::new(Kind::Wrong, message)
    }

    pub fn failed(message: impl Into<String>) -> Self {
        QueryError::new(Kind::Failed, message)
    }

    pub fn at(mut self, place: Option<Place>) -> Self {
        self.place = place.or(self.place);
        self
    }

    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    fn maybe_hint(mut self, hint: Option<String>) -> Self {
        self.hint = hint.or(self.hint);
        self
    }
}

/// "did you mean", as a hint.
pub fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    closest(word, candidates).map(|c| format!("did you mean \"{c}\"?"))
}

fn place_of(span: Option<Span>) -> Option<Place> {
    span.map(|s| Place { line: s.start.line, column: s.start.column })
}

impl From<DataFusionError> for QueryError {
    fn from(error: DataFusionError) -> Self {
        match error {
            DataFusionError::Diagnostic(diagnostic, inner) => {
                let place = place_of(diagnostic.span);
                let help = diagnostic.helps.first().map(|h| sentence(&h.message));
                let inner = QueryError::from(*inner);
                // The inner error names what it is about; the diagnostic knows where.
                let hint = inner.hint.clone().or(help);
                inner.at(place).maybe_hint(hint)
            }
            DataFusionError::Context(_, inner) => QueryError::from(*inner),
            DataFusionError::Shared(inner) => {
                let place = inner.diagnostic().and_then(|d| place_of(d.span));
                from_root(inner.find_root()).at(place)
            }
            DataFusionError::Collection(errors) => {
                let first = errors.into_iter().next();
                first.map_or_else(|| QueryError::failed("the query failed"), QueryError::from)
            }
            DataFusionError::External(inner) => match inner.downcast::<QueryError>() {
                Ok(ours) => *ours,
                Err(inner) => match inner.downcast::<Error>() {
                    Ok(ours) => QueryError::from(*ours),
                    Err(inner) => match inner.downcast::<DataFusionError>() {
                        Ok(theirs) => QueryError::from(*theirs),
                        Err(other) => QueryError::failed(one_line(&other.to_string())),
                    },
                },
            },
            other => from_root(&other),
        }
    }
}

impl From<Error> for QueryError {
    fn from(error: Error) -> Self {
        match error {
            Error::Unavailable(m) => QueryError::new(Kind::Unavailable, m),
            Error::Config(_) => QueryError::wrong(error.to_string()),
            Error::Refused { what, hint } => QueryError::failed(what).hint(hint),
            Error::Fenced(_) | Error::Failed(_) => QueryError::failed(error.to_string()),
        }
    }
}

fn from_root(error: &DataFusionError) -> QueryError {
    match error {
        DataFusionError::SchemaError(schema, _) => from_schema(schema),
        DataFusionError::SQL(parser, _) => from_parser(parser),
        DataFusionError::Plan(m)
        | DataFusionError::Execution(m)
        | DataFusionError::Configuration(m)
        | DataFusionError::NotImplemented(m) => from_text(m),
        DataFusionError::ArrowError(e, _) => from_text(&e.to_string()),
        DataFusionError::ResourcesExhausted(m) => QueryError::new(Kind::Exhausted, lowercase(&one_line(m)))
            .hint("read less at once, or give queries more: [limits] memory is shared out to them."),
        DataFusionError::ObjectStore(e) => QueryError::new(Kind::Unavailable, one_line(&e.to_string())),
        other => QueryError::failed(one_line(&other.strip_backtrace())),
    }
}

fn from_schema(error: &SchemaError) -> QueryError {
    let place = |column: &Column| place_of(column.spans.first());
    match error {
        SchemaError::FieldNotFound { field, valid_fields } => {
            let names: Vec<&str> = valid_fields.iter().map(|c| c.name.as_str()).collect();
            let hint = did_you_mean(&field.name, names.iter().copied()).or_else(|| {
                let mut known = names.iter().take(12).map(|n| format!("\"{n}\"")).collect::<Vec<_>>();
                if names.len() > known.len() {
                    known.push("...".into());
                }
                (!known.is_empty()).then(|| format!("there is {}.", known.join(", ")))
            });
            let from = field.relation.as_ref().map_or(String::new(), |r| format!(" in \"{r}\""));
            QueryError::wrong(format!("column \"{}\" does not exist{from}", field.name))
                .at(place(field))
                .maybe_hint(hint)
        }
        SchemaError::AmbiguousReference { field } => {
            QueryError::wrong(format!("column \"{}\" is in more than one of the tables", field.name))
                .at(place(field))
                .hint("write it with the table's name in front.")
        }
        SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
            QueryError::wrong(format!("two columns are called \"{name}\""))
                .hint("give one of them another name with AS.")
        }
    }
}

fn from_parser(error: &ParserError) -> QueryError {
    match error {
        ParserError::TokenizerError(m) | ParserError::ParserError(m) => from_text(m),
        ParserError::RecursionLimitExceeded => QueryError::wrong("the statement is nested too deeply"),
    }
}

/// Text of the parser and planner: "... at Line: 1, Column: 8" becomes a place, "Did you mean ..." a hint.
fn from_text(text: &str) -> QueryError {
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text);
    let (text, place) = match text.rsplit_once(" at Line: ") {
        Some((head, tail)) => match place_in(tail) {
            Some(place) => (head, Some(place)),
            None => (text, None),
        },
        None => (text, None),
    };
    let (text, hint) = match text.find("Did you mean") {
        Some(at) => (text[..at].trim_end_matches(['\n', ' ', '.']), Some(text[at..].trim())),
        None => (text, None),
    };
    QueryError::wrong(lowercase(&one_line(text))).at(place).maybe_hint(hint.map(|h| lowercase(&one_line(h))))
}

/// "1, Column: 8"
fn place_in(tail: &str) -> Option<Place> {
    let (line, column) = tail.split_once(", Column: ")?;
    let digits = |s: &str| s.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<u64>().ok();
    Some(Place { line: digits(line)?, column: digits(column)? })
}

fn one_line(text: &str) -> String {
    let text = text.split("\n\nbacktrace:").next().unwrap_or(text);
    text.split_whitespace().collect::<Vec<_>>().join(" ").trim_end_matches('.').to_string()
}

/// Lowers the first letter of a sentence, but not of an acronym or a name.
fn lowercase(text: &str) -> String {
    let mut chars = text.chars();
    match (chars.next(), chars.next()) {
        (Some(a), Some(b)) if a.is_uppercase() && !b.is_uppercase() => {
            a.to_lowercase().chain(text.chars().skip(1)).collect()
        }
        _ => text.to_string(),
    }
}

fn sentence(text: &str) -> String {
    lowercase(&one_line(text)) + "."
}
