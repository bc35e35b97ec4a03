//! What DataFusion's planner objects to, as a fault of ours: our words, its place.

use crate::sql::relation::{Relation, Relations};
use crate::sql::text::{Piece, lower_first};
use crate::types::fault::{Fault, closest};
use crate::types::lineage::MSG_COLUMN;
use arrow::datatypes::DataType;
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
            // One relation is read, so a name can be ambiguous only in the list of columns.
            SchemaError::AmbiguousReference { field } => duplicate_name(piece, span, &field.name),
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
            let (message, hint, word) = reworded(&text);
            let field = word.as_deref().filter(|_| message.starts_with("field "));
            let hint = hint.or(field.and_then(|f| close_field(f, relations, reads)));
            let span = if span.start.line > 0 { span } else { word.map_or(Span::empty(), |w| piece.find(&w)) };
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
    if let Some(relation) = field.relation.as_ref().filter(|r| valid.iter().all(|v| v.relation.as_ref() != Some(r))) {
        let known = valid.iter().find_map(|v| v.relation.as_ref());
        let hint = known.map(|k| format!("Its columns are {k}.column, or the column alone."));
        return piece.fault(span, format!("\"{relation}\" is not what the statement reads"), hint);
    }
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

/// A field of a struct, however deep, that is spelt nearly like `field`.
fn close_field(field: &str, relations: &Relations, reads: &[String]) -> Option<String> {
    let mut names = Vec::new();
    for relation in reads.iter().filter_map(|r| relations.get(r)) {
        relation.schema.fields().iter().for_each(|f| field_names(f.data_type(), &mut names));
    }
    closest(field, names).map(|close| format!("Did you mean \"{close}\"?"))
}

fn field_names<'a>(kind: &'a DataType, names: &mut Vec<&'a str>) {
    match kind {
        DataType::Struct(fields) => {
            for field in fields {
                names.push(field.name());
                field_names(field.data_type(), names);
            }
        }
        DataType::List(item) => field_names(item.data_type(), names),
        _ => {} // no names in it
    }
}

fn duplicate_name(piece: &Piece, span: Span, name: &str) -> Fault {
    let name = name.rsplit('.').next().unwrap_or(name);
    let span = if span.start.line > 0 { span } else { piece.find(name) };
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

/// The planner's message in our form: what is wrong, the hint, and the word of the statement that it is about.
fn reworded(text: &str) -> (String, Option<String>, Option<String>) {
    let between = |start: &str, end: &str| text.split_once(start)?.1.split_once(end).map(|(word, _)| word.to_string());
    if let Some(call) = between("No function matches the given name and argument types '", "'. You") {
        let name = call.split('(').next().unwrap_or(&call).to_string();
        let candidates = text.split_once("Candidate functions:").map_or("", |(_, c)| c);
        let candidates: Vec<&str> = candidates.lines().map(str::trim).filter(|l| !l.is_empty()).take(3).collect();
        let hint = format!("It takes {}. CAST gives a value another type.", candidates.join(" or "));
        return (sql_types(&format!("there is no {call}")), Some(sql_types(&hint)), Some(name));
    }
    if let Some(field) = between("Field ", " not found in struct") {
        return (format!("field \"{field}\" does not exist"), None, Some(field));
    }
    if text.starts_with("SELECT DISTINCT ON expressions must match") {
        let hint =
            "Write ORDER BY with the ON columns first, then the column that decides: ORDER BY vehicle_id, t DESC.";
        return (
            "ORDER BY does not begin with the columns of DISTINCT ON".into(),
            Some(hint.into()),
            Some("order".into()),
        );
    }
    if let Some((message, meant)) = text.split_once("Did you mean") {
        return (lower_first(message.trim().trim_end_matches('.')), Some(format!("Did you mean{meant}")), None);
    }
    let word = if text.starts_with("unnest() can only") {
        Some("unnest".into())
    } else if text.starts_with("Cannot create filter") {
        Some("where".into())
    } else {
        between("Cannot cast string '", "'").or(text.strip_prefix("Unsupported SQL type ").map(str::to_string))
    };
    (sql_types(&lower_first(text.trim_end().trim_end_matches('.'))), None, word)
}

/// Arrow's names of types, as SQL writes them.
fn sql_types(text: &str) -> String {
    let names = [
        ("Float64", "DOUBLE"),
        ("Float32", "REAL"),
        ("UInt64", "BIGINT"),
        ("Int64", "BIGINT"),
        ("Int32", "INT"),
        ("Utf8", "TEXT"),
        ("Boolean", "BOOLEAN"),
        ("Date32", "DATE"),
        ("Timestamp(µs, \"UTC\")", "TIMESTAMP"),
        ("Timestamp(ns)", "TIMESTAMP"),
    ];
    names.iter().fold(text.to_string(), |text, (arrow, sql)| text.replace(arrow, sql))
}

fn span_of(error: &DataFusionError) -> Span {
    let span = error.diagnostic().and_then(|d| d.span);
    span.map_or(Span::empty(), |s| at(s.start.line, s.start.column))
}

fn at(line: u64, column: u64) -> Span {
    let location = Location::new(line, column);
    Span::new(location, location)
}
