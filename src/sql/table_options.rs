//! The options of CREATE TABLE: `route` and `epoch_unit`, read from their expressions.

use crate::sql::text::Piece;
use crate::types::fault::{Fault, closest};
use crate::types::table::{
    Column, ColumnType, EpochUnit, META_COLUMNS, Route, RouteCondition, RouteSubject, RouteValue,
};
use datafusion::sql::sqlparser::ast::{BinaryOperator, Expr, Spanned, UnaryOperator, Value};
use std::sync::Arc;

pub fn text_value(value: &Expr) -> Option<String> {
    match value {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => Some(text.clone()),
            _ => None,
        },
        _ => None,
    }
}

/// `(type = 'ignition' AND _topic IN ('a', 'b'))`
pub fn route(piece: &Piece, value: &Expr) -> Result<Route, Fault> {
    let mut conditions = Vec::new();
    route_conditions(piece, value, &mut conditions)?;
    Ok(Route { conditions })
}

fn route_conditions(piece: &Piece, expr: &Expr, conditions: &mut Vec<RouteCondition>) -> Result<(), Fault> {
    match expr {
        Expr::Nested(inner) => route_conditions(piece, inner, conditions),
        Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
            route_conditions(piece, left, conditions)?;
            route_conditions(piece, right, conditions)
        }
        Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
            let values = vec![route_value(piece, right)?];
            conditions.push(RouteCondition { subject: route_subject(piece, left)?, values });
            Ok(())
        }
        Expr::InList { expr, list, negated: false } => {
            let values = list.iter().map(|v| route_value(piece, v)).collect::<Result<_, _>>()?;
            conditions.push(RouteCondition { subject: route_subject(piece, expr)?, values });
            Ok(())
        }
        other => Err(piece.fault(other.span(), format!("\"{other}\" cannot be a route"), route_hint())),
    }
}

fn route_hint() -> String {
    "A route is made of =, IN and AND over fields of the message and _topic: route = (type = 'ignition' AND v IN (1, 2)). Anything else is WHERE in a view.".to_string()
}

fn route_subject(piece: &Piece, expr: &Expr) -> Result<RouteSubject, Fault> {
    // Fields of the message are matched as written: JSON knows capitals, and a route names no column.
    let path: Vec<Arc<str>> = match expr {
        Expr::Identifier(ident) => vec![ident.value.as_str().into()],
        Expr::CompoundIdentifier(parts) => parts.iter().map(|p| p.value.as_str().into()).collect(),
        other => {
            return Err(piece.fault(other.span(), format!("\"{other}\" is not a field of a message"), route_hint()));
        }
    };
    match path.as_slice() {
        [one] if one.as_ref() == "_topic" => Ok(RouteSubject::Topic),
        [one] if META_COLUMNS.contains(&one.as_ref()) => {
            Err(piece.fault(expr.span(), format!("a route cannot read \"{one}\""), route_hint()))
        }
        _ => Ok(RouteSubject::Field(path)),
    }
}

fn route_value(piece: &Piece, expr: &Expr) -> Result<RouteValue, Fault> {
    let value = match expr {
        Expr::Value(v) => match &v.value {
            Value::SingleQuotedString(text) => Some(RouteValue::Text(text.as_str().into())),
            Value::Number(digits, _) => digits.parse().ok().map(RouteValue::Int),
            Value::Boolean(b) => Some(RouteValue::Bool(*b)),
            _ => None,
        },
        Expr::UnaryOp { op: UnaryOperator::Minus, expr } => match route_value(piece, expr)? {
            RouteValue::Int(n) => Some(RouteValue::Int(-n)),
            _ => None,
        },
        _ => None,
    };
    value.ok_or_else(|| {
        let message = format!("\"{expr}\" is not a text, an integer or a boolean");
        piece.fault(expr.span(), message, route_hint())
    })
}

/// `'ms'` for every TIMESTAMP, or `(sent_at = 'ms', measurements.t = 's')`. Every fault of the pairs.
pub fn epoch_units(piece: &Piece, value: &Expr, columns: &mut [Column]) -> Vec<Fault> {
    if text_value(value).is_some() {
        return match epoch_unit(piece, value) {
            Err(fault) => vec![fault],
            Ok(unit) => {
                // Every column is visited: a short circuit would leave the later ones without a unit.
                let found = columns.iter_mut().fold(false, |found, c| set_unit_everywhere(&mut c.kind, unit) | found);
                let none = || piece.fault(value.span(), "no column is a TIMESTAMP", "Remove epoch_unit.".to_string());
                if found { Vec::new() } else { vec![none()] }
            }
        };
    }
    let pairs: Vec<&Expr> = match value {
        Expr::Tuple(pairs) => pairs.iter().collect(),
        Expr::Nested(pair) => vec![pair.as_ref()],
        pair => vec![pair],
    };
    pairs.into_iter().filter_map(|pair| epoch_unit_of(piece, pair, columns).err()).collect()
}

fn epoch_unit_of(piece: &Piece, pair: &Expr, columns: &mut [Column]) -> Result<(), Fault> {
    let Expr::BinaryOp { left, op: BinaryOperator::Eq, right } = pair else {
        let hint = "Write epoch_unit = 'ms', or epoch_unit = (sent_at = 'ms', measurements.t = 's').";
        return Err(piece.fault(pair.span(), format!("\"{pair}\" is not column = unit"), hint.to_string()));
    };
    let path: Vec<&str> = match left.as_ref() {
        Expr::Identifier(ident) => vec![ident.value.as_str()],
        Expr::CompoundIdentifier(parts) => parts.iter().map(|p| p.value.as_str()).collect(),
        other => return Err(piece.fault(other.span(), format!("\"{other}\" is not a column"), None)),
    };
    let unit = epoch_unit(piece, right)?;
    set_unit_at(columns, &path, unit).map_err(|(message, hint)| piece.fault(left.span(), message, hint))
}

fn epoch_unit(piece: &Piece, value: &Expr) -> Result<EpochUnit, Fault> {
    match text_value(value).as_deref() {
        Some("s") => Ok(EpochUnit::Seconds),
        Some("ms") => Ok(EpochUnit::Millis),
        Some("us") => Ok(EpochUnit::Micros),
        Some("ns") => Ok(EpochUnit::Nanos),
        _ => {
            let message = format!("{value} is not a unit of time");
            Err(piece.fault(value.span(), message, "The units are 's', 'ms', 'us' and 'ns'.".to_string()))
        }
    }
}

fn set_unit_everywhere(kind: &mut ColumnType, unit: EpochUnit) -> bool {
    match kind {
        ColumnType::Timestamp(slot) => {
            *slot = Some(unit);
            true
        }
        ColumnType::Struct(fields) => {
            fields.iter_mut().fold(false, |found, f| set_unit_everywhere(&mut f.kind, unit) | found)
        }
        ColumnType::Array(inner) | ColumnType::Map(inner) => set_unit_everywhere(&mut inner.kind, unit),
        ColumnType::Boolean
        | ColumnType::Int
        | ColumnType::BigInt
        | ColumnType::Real
        | ColumnType::Double
        | ColumnType::Decimal(..)
        | ColumnType::Text
        | ColumnType::Bytea
        | ColumnType::Date
        | ColumnType::Json => false,
    }
}

fn set_unit_at(columns: &mut [Column], path: &[&str], unit: EpochUnit) -> Result<(), (String, Option<String>)> {
    let (name, rest) = path.split_first().expect("a path has at least one part");
    let names: Vec<Arc<str>> = columns.iter().map(|c| c.name.clone()).collect();
    let Some(column) = columns.iter_mut().find(|c| c.name.as_ref() == *name) else {
        let hint = closest(name, names.iter().map(|n| n.as_ref())).map(|c| format!("Did you mean \"{c}\"?"));
        return Err((format!("column \"{name}\" does not exist"), hint));
    };
    let mut kind = &mut column.kind;
    while let ColumnType::Array(inner) | ColumnType::Map(inner) = kind {
        kind = &mut inner.kind;
    }
    match (kind, rest) {
        (ColumnType::Timestamp(slot), []) => {
            *slot = Some(unit);
            Ok(())
        }
        (ColumnType::Struct(fields), [_, ..]) => set_unit_at(fields, rest, unit),
        _ => Err((format!("\"{}\" is not a TIMESTAMP", path.join(".")), None)),
    }
}
