//! What each statement defines: one name, once; which names exist although their statement is broken.

use crate::sql::statement::{Statement, normal};
use crate::sql::text::Piece;
use crate::types::fault::Fault;
use crate::types::lineage::MSG_COLUMN;
use datafusion::sql::sqlparser::ast::Ident;
use datafusion::sql::sqlparser::tokenizer::Token;
use std::collections::{BTreeMap, BTreeSet};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Defined {
    Table,
    View,
    Materialized,
    /// Its statement has faults of its own: whoever reads it is not blamed.
    Broken,
}

/// Names of tables and views. Only the first definition of a name counts; a second one is a fault.
pub fn define(
    statements: &[(Piece, Statement)],
    broken: &[Piece],
    faults: &mut Vec<Fault>,
) -> BTreeMap<String, Defined> {
    let mut places: BTreeMap<String, &Piece> = BTreeMap::new();
    let mut defined = BTreeMap::new();
    for (piece, statement) in statements {
        let (ident, kind) = match statement {
            Statement::Table(table) => (&table.name, Defined::Table),
            Statement::View(view) if view.materialized => (&view.name, Defined::Materialized),
            Statement::View(view) => (&view.name, Defined::View),
            Statement::Insert(_) => continue,
        };
        let name = normal(ident);
        if let Some(fault) = name_fault(piece, ident, &name) {
            faults.push(fault);
        }
        match places.get(&name) {
            Some(first) => {
                let at = &first.place;
                let hint = format!("It is defined first at {}:{}:{}.", at.file.display(), at.line, at.column);
                faults.push(piece.fault(ident.span, format!("\"{name}\" is defined twice"), hint));
            }
            None => {
                places.insert(name.clone(), piece);
                defined.insert(name, kind);
            }
        }
    }
    let unread: BTreeSet<String> = broken.iter().filter_map(declared_name).collect();
    for name in unread {
        defined.entry(name).or_insert(Defined::Broken);
    }
    defined
}

fn name_fault(piece: &Piece, ident: &Ident, name: &str) -> Option<Fault> {
    if name.starts_with("__") || name == MSG_COLUMN {
        return Some(piece.fault(
            ident.span,
            format!("the name \"{name}\" is taken"),
            "Names that begin with __ are ours.".to_string(),
        ));
    }
    // Names become directories and parts of application ids.
    let odd = name.chars().find(|c| !(c.is_ascii_alphanumeric() || *c == '_' || *c == '-'));
    odd.map(|c| {
        let hint = "Names of tables and views are letters, digits, _ and -.";
        piece.fault(ident.span, format!("the name \"{name}\" contains {c:?}"), hint.to_string())
    })
}

/// The name that a statement which cannot be read was going to define.
fn declared_name(piece: &Piece) -> Option<String> {
    if !piece.is_word(0, "create") {
        return None;
    }
    let skipped = ["create", "or", "replace", "materialized", "table", "view", "if", "not", "exists"];
    let first = (0..piece.tokens.len()).find(|i| !skipped.iter().any(|w| piece.is_word(*i, w)))?;
    match &piece.tokens[first].token {
        Token::Word(word) if word.quote_style.is_some() => Some(word.value.clone()),
        Token::Word(word) => Some(word.value.to_lowercase()),
        _ => None,
    }
}
