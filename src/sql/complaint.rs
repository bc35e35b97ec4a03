//! What DataFusion's planner objects to, as a fault of ours: our words, its place.

use crate::sql::relation::{Relation, Relations};
use crate::sql::text::{Piece, lower_first};
use crate::types::fault::{Fault, closest};
use crate::types::lineage::MSG_COLUMN;
use datafusion::common::{Column, DataFusionError, SchemaError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span};

/// `reads`: the relations of the statement, to say where a column was looked for.
pub fn fault(piece: &Piece, error: &DataFusionError, relations: &Relations, reads: &[String]) -> Fault {
    let span = span_of(error);
    let root = error.find_root();
    match root {
        DataFusionError::SchemaError(schema_error, _) => match schema_error.as_ref() {
            SchemaError::FieldNotFound { field, valid_fields } => {
                column_not_found(piece, span, field, valid_fields, relations, reads)
            }
            SchemaError::AmbiguousReference { field } => {
                let hint = "Write relation.column, or give one of them another name.";
                piece.fault(span, format!("column \"{}\" is ambiguous", field.name), hint.to_string())
            }
            SchemaError::DuplicateQualifiedField { name, .. } | SchemaError::DuplicateUnqualifiedField { name } => {
                duplicate_name(piece, span, name)
            }
        },
        other => {
            let text = bare_message(other);
            if let Some(rest) = text.strip_prefix("Projections require unique expression names but the expression \"") {
                return duplicate_name(piece, span, rest.split('"').next().unwrap_or(rest));
            }
            if let Some(name) = not_grouped(&text) {
                let hint = format!("Add {name} to GROUP BY, or take one of its values: last_value({name} ORDER BY t).");
                return piece.fault(span, format!("column \"{name}\" is neither a key nor inside an aggregate"), hint);
            }
            let (message, hint) = hint_of(&text);
            piece.fault(span, message, hint)
        }
    }
}

fn column_not_found(
    piece: &Piece,
    span: Span,
    field: &Column,
    valid: &[Column],
    relations: &Relations,
    reads: &[String],
) -> Fault {
    // The relation is named where it is certain: one is read.
    let place = match reads {
        [one] => relations.get(one).map(|r| format!(" in {} \"{one}\"", r.kind.word())).unwrap_or_default(),
        _ => String::new(),
    };
    let span = if span.start.line > 0 {
        span
    } else {
        field.spans().first().map_or(Span::empty(), |s| at(s.start.line, s.start.column))
    };
    let visible: Vec<&str> = valid.iter().map(|c| c.name.as_str()).filter(|n| *n != MSG_COLUMN).collect();
    let hint = match closest(&field.name, visible.iter().copied()) {
        Some(close) => Some(format!("Did you mean \"{close}\"?")),
        None => reads.first().and_then(|r| relations.get(r)).map(columns_hint),
    };
    piece.fault(span, format!("column \"{}\" does not exist{place}", field.name), hint)
}

fn columns_hint(relation: &Relation) -> String {
    let names: Vec<&str> = relation
        .schema
        .fields()
        .iter()
        .map(|f| f.name().as_str())
        .filter(|n| !relation.hidden.iter().any(|h| h == n))
        .collect();
    format!("It has {}.", names.join(", "))
}

fn duplicate_name(piece: &Piece, span: Span, name: &str) -> Fault {
    let name = name.rsplit('.').next().unwrap_or(name);
    piece.fault(span, format!("two columns are named \"{name}\""), "Give one of them another name with AS.".to_string())
}

/// The column in DataFusion's message about a column outside GROUP BY.
fn not_grouped(text: &str) -> Option<&str> {
    if !text.contains("must appear in the GROUP BY clause") {
        return None;
    }
    let name = text.split_once("column \"")?.1.split('"').next()?;
    Some(name.rsplit('.').next().unwrap_or(name))
}

/// The message without the prefixes that say which part of DataFusion speaks.
pub fn bare_message(error: &DataFusionError) -> String {
    let text = match error {
        DataFusionError::Plan(text)
        | DataFusionError::NotImplemented(text)
        | DataFusionError::Execution(text)
        | DataFusionError::Internal(text)
        | DataFusionError::Configuration(text)
        | DataFusionError::ResourcesExhausted(text) => text.clone(),
        DataFusionError::ArrowError(e, _) => e.to_string(),
        DataFusionError::Context(_, inner) | DataFusionError::Diagnostic(_, inner) => return bare_message(inner),
        DataFusionError::Shared(inner) => return bare_message(inner),
        other => other.strip_backtrace(),
    };
    let text = text.split("\n\nbacktrace:").next().unwrap_or(&text);
    text.strip_prefix("Cast error: ").unwrap_or(text).to_string()
}

/// Long messages of the planner carry the hint in their second half.
fn hint_of(text: &str) -> (String, Option<String>) {
    let text = text.replace("This feature is not implemented: ", "");
    if let Some((message, candidates)) = text.split_once(" Candidate functions:") {
        let candidates: Vec<&str> = candidates.split('\t').map(str::trim).filter(|c| !c.is_empty()).take(3).collect();
        let message = message.lines().next().unwrap_or(message);
        let message = message.trim_end_matches(" You might need to add explicit type casts.").trim_end_matches('.');
        return (lower_first(message), Some(format!("It takes {}.", candidates.join(" or "))));
    }
    if let Some((message, meant)) = text.split_once("Did you mean") {
        return (lower_first(message.trim().trim_end_matches('.')), Some(format!("Did you mean{meant}")));
    }
    (lower_first(text.trim_end().trim_end_matches('.')), None)
}

fn span_of(error: &DataFusionError) -> Span {
    let span = error.diagnostic().and_then(|d| d.span);
    span.map_or(Span::empty(), |s| at(s.start.line, s.start.column))
}

fn at(line: u64, column: u64) -> Span {
    let location = Location::new(line, column);
    Span::new(location, location)
}
