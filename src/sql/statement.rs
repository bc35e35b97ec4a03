//! One piece of text -> one of the four statements, or faults that say what to write instead.

use crate::sql::create_table::{self, TableStatement};
use crate::sql::text::{DIALECT, Piece, lower_first};
use crate::types::fault::{Fault, closest};
use datafusion::sql::sqlparser::ast::{
    self, CreateTableOptions, CreateView, Ident, ObjectName, Query, Spanned, SqlOption, TableObject,
};
use datafusion::sql::sqlparser::parser::{Parser, ParserError};
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token};

#[derive(Clone, Debug)]
pub enum Statement {
    Table(TableStatement),
    View(ViewStatement),
    Insert(InsertStatement),
}

#[derive(Clone, Debug)]
pub struct ViewStatement {
    pub name: Ident,
    pub materialized: bool,
    /// `CREATE VIEW v (a, b)`: new names of the query's columns, or none.
    pub columns: Vec<Ident>,
    pub query: Box<Query>,
}

#[derive(Clone, Debug)]
pub struct InsertStatement {
    pub sink: Ident,
    pub table: Ident,
    pub columns: Vec<Ident>,
    pub query: Box<Query>,
}

/// Options of views that the surface has and this version does not: recognised, never ignored.
pub const VIEW_OPTIONS_TO_COME: [&str; 6] =
    ["watermark", "ttl", "late_rows", "allowed_lateness", "emit", "dedup_horizon"];

/// A name as SQL reads it: lower case unless quoted.
pub fn normal(ident: &Ident) -> String {
    if ident.quote_style.is_some() { ident.value.clone() } else { ident.value.to_lowercase() }
}

pub fn read(piece: &Piece) -> Result<Statement, Vec<Fault>> {
    let foreign = foreign_words(piece);
    if !foreign.is_empty() {
        return Err(foreign);
    }
    if create_table::begins(piece) {
        return create_table::read(piece).map(Statement::Table);
    }
    let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(piece.tokens.clone());
    let statement = parser.parse_statement().map_err(|e| vec![parse_fault(piece, e)])?;
    let rest = parser.peek_token();
    if rest.token != Token::EOF {
        let message = format!("unexpected \"{}\" after the end of the statement", rest.token);
        let hint = "A word before it is misspelt, or a \";\" is missing.";
        return Err(vec![piece.fault(rest.span, message, hint.to_string())]);
    }
    match statement {
        ast::Statement::CreateView(view) => view_statement(piece, view).map(Statement::View),
        ast::Statement::Insert(insert) => insert_statement(piece, insert).map(Statement::Insert),
        other => Err(vec![not_one_of_four(piece, &other)]),
    }
}

/// Constructs of other systems, found by their words because most of them do not parse: each with its rewrite.
fn foreign_words(piece: &Piece) -> Vec<Fault> {
    let mut faults = Vec::new();
    let start = piece.tokens[0].span;
    let at_start: [(&[&str], &str, &str); 8] = [
        (
            &["create", "source"],
            "CREATE SOURCE is not one of the statements",
            "The transport is a [source.name] table of the TOML; the columns are CREATE TABLE name (...).",
        ),
        (
            &["create", "sink"],
            "CREATE SINK is not one of the statements",
            "A sink is a [sink.name] table of the TOML; write INSERT INTO name.table SELECT ... into it.",
        ),
        (
            &["create", "stream"],
            "CREATE STREAM is not one of the statements",
            "Write CREATE VIEW name AS SELECT ...: a view over a table is a stream.",
        ),
        (
            &["upsert"],
            "UPSERT is not one of the statements",
            "Write INSERT INTO: a key-value sink upserts by the key of the materialized view.",
        ),
        (
            &["merge"],
            "MERGE is not one of the statements",
            "Write INSERT INTO a key-value sink: it upserts by the key of the materialized view.",
        ),
        (
            &["update"],
            "UPDATE is not one of the statements",
            "The newest row per key is CREATE MATERIALIZED VIEW ... AS SELECT DISTINCT ON (key) ... ORDER BY key, t DESC.",
        ),
        (
            &["drop"],
            "DROP is not one of the statements",
            "The files are the truth: remove the statement from its file.",
        ),
        (
            &["alter"],
            "ALTER is not one of the statements",
            "The files are the truth: change the statement in its file.",
        ),
    ];
    for (words, message, hint) in at_start {
        if piece.has_words(0, words) {
            return vec![piece.fault(start, message, hint.to_string())];
        }
    }
    for i in 0..piece.tokens.len() {
        let span = piece.tokens[i].span;
        if piece.has_words(i, &["watermark", "for"]) {
            faults.push(piece.fault(
                span,
                "WATERMARK FOR is not part of the language",
                "A watermark is an option of the view in which the time is a column: CREATE VIEW ... WITH (watermark = t - INTERVAL '30 seconds') AS ... (event time is not built yet).".to_string(),
            ));
        }
        let emit = ["changes", "final", "on", "after", "immediately", "periodic", "every"];
        if piece.is_word(i, "emit") && emit.iter().any(|w| piece.is_word(i + 1, w)) {
            faults.push(piece.fault(
                span,
                "EMIT is not part of the language",
                "What is emitted follows from the sink: append-only sinks get final rows, key-value sinks get changes. Remove the clause.".to_string(),
            ));
        }
        if piece.has_words(i, &["for", "system_time"]) {
            faults.push(piece.fault(
                span,
                "FOR SYSTEM_TIME is not part of the language",
                "A continuous statement reads rows as they arrive. Past versions of a lake table are read by batch queries.".to_string(),
            ));
        }
        let table =
            piece.is_word(i, "table") && matches!(piece.tokens.get(i + 1).map(|t| &t.token), Some(Token::LParen));
        if table && ["tumble", "hop", "session"].iter().any(|w| piece.is_word(i + 2, w)) {
            faults.push(piece.fault(span, "TABLE(TUMBLE(...)) is not part of the language", tumble_hint()));
        }
    }
    faults
}

pub fn tumble_hint() -> String {
    "A tumbling window is GROUP BY date_bin(INTERVAL '1 minute', t) or date_trunc('minute', t).".to_string()
}

/// `ParserError` carries its place only in its text: " at Line: 3, Column: 5".
fn parse_fault(piece: &Piece, error: ParserError) -> Fault {
    let (ParserError::ParserError(text) | ParserError::TokenizerError(text)) = error else {
        return piece.fault(Span::empty(), "the statement is nested too deeply", None);
    };
    let (message, location) = match text.rsplit_once(" at Line: ") {
        Some((message, place)) => (message, place.split_once(", Column: ")),
        None => (text.as_str(), None),
    };
    let number = |s: &str| s.trim().parse::<u64>().unwrap_or(0);
    let at = location.map_or(Location::empty(), |(line, column)| Location::new(number(line), number(column)));
    let message = message.replacen("Expected: ", "expected ", 1).replacen("found: ", "found ", 1);
    // At its end the parser knows no place; we do.
    let (message, at) = match message.strip_suffix("found EOF") {
        Some(expected) => {
            (format!("{expected}found the end of the statement"), piece.tokens.last().map_or(at, |t| t.span.end))
        }
        None => (message, at),
    };
    piece.fault(Span::new(at, at), lower_first(&message), None)
}

fn not_one_of_four(piece: &Piece, statement: &ast::Statement) -> Fault {
    let word = piece.tokens[0].token.to_string().to_uppercase();
    if let ast::Statement::Query(query) = statement {
        if matches!(query.body.as_ref(), ast::SetExpr::Insert(_)) {
            return piece.fault(
                Span::empty(),
                "WITH stands before INSERT",
                "Write INSERT INTO sink.table WITH x AS (...) SELECT ....".to_string(),
            );
        }
        return piece.fault(
            Span::empty(),
            "a query alone does nothing",
            "Write CREATE VIEW name AS or INSERT INTO sink.table before it. Ad-hoc queries go over Flight SQL or `pipe sql`.".to_string(),
        );
    }
    piece.fault(
        Span::empty(),
        format!("{word} ... is not one of the statements"),
        "The statements are CREATE TABLE, CREATE VIEW, CREATE MATERIALIZED VIEW and INSERT INTO.".to_string(),
    )
}

/// One bare name; `a.b` where one name belongs is a fault.
fn one_name(piece: &Piece, name: &ObjectName, what: &str) -> Result<Ident, Fault> {
    match name.0.as_slice() {
        [part] if part.as_ident().is_some() => Ok(part.as_ident().expect("checked").clone()),
        _ => Err(piece.fault(name.span(), format!("\"{name}\" is not a plain {what} name"), None)),
    }
}

fn view_statement(piece: &Piece, view: CreateView) -> Result<ViewStatement, Vec<Fault>> {
    // Every field is named, so that a new one of the parser cannot slip by unseen.
    let CreateView {
        or_alter,
        or_replace: _,
        materialized,
        secure,
        name,
        name_before_not_exists: _,
        columns,
        query,
        options,
        cluster_by,
        comment,
        with_no_schema_binding,
        if_not_exists: _,
        temporary,
        copy_grants,
        to,
        params,
    } = view;
    let mut faults = Vec::new();
    let clauses = [
        (or_alter, "OR ALTER"),
        (secure, "SECURE"),
        (!cluster_by.is_empty(), "CLUSTER BY"),
        (comment.is_some(), "COMMENT"),
        (with_no_schema_binding, "WITH NO SCHEMA BINDING"),
        (temporary, "TEMPORARY"),
        (copy_grants, "COPY GRANTS"),
        (to.is_some(), "TO"),
        (params.is_some(), "ALGORITHM, DEFINER and SQL SECURITY"),
    ];
    for (present, clause) in clauses {
        if present {
            let message = format!("{clause} is not part of CREATE VIEW");
            faults.push(piece.fault(name.span(), message, "Remove the clause.".to_string()));
        }
    }
    match options {
        CreateTableOptions::None => {}
        CreateTableOptions::With(options) => options.iter().for_each(|o| faults.push(view_option(piece, o))),
        other => faults.push(piece.fault(other.span(), "a view takes WITH (...) only", None)),
    }
    for column in columns.iter().filter(|c| c.data_type.is_some() || c.options.is_some()) {
        let message = format!("column \"{}\" of a view is a name only", column.name.value);
        faults.push(piece.fault(column.name.span, message, "Write CAST(... AS type) in the query.".to_string()));
    }
    let name = one_name(piece, &name, "view").map_err(|f| faults.push(f));
    match name {
        Ok(name) if faults.is_empty() => {
            Ok(ViewStatement { name, materialized, columns: columns.into_iter().map(|c| c.name).collect(), query })
        }
        _ => Err(faults),
    }
}

/// No option of a view is built yet: the known ones are answered plainly, the others with the list.
fn view_option(piece: &Piece, option: &SqlOption) -> Fault {
    let SqlOption::KeyValue { key, .. } = option else {
        return piece.fault(option.span(), "an option is written name = value", None);
    };
    let name = normal(key);
    if VIEW_OPTIONS_TO_COME.contains(&name.as_str()) {
        let hint = match name.as_str() {
            "emit" => "What is emitted follows from the sink. Remove the option.",
            "ttl" => "State is kept for every key. Remove the option, or group by a shorter list of keys.",
            "dedup_horizon" => "Write a MATERIALIZED VIEW with DISTINCT ON, which keeps one row per key.",
            _ => "Windows are plain GROUP BY keys for now. Remove the option.",
        };
        return piece.fault(key.span, format!("option \"{name}\" is not built yet"), hint.to_string());
    }
    let hint = match closest(&name, VIEW_OPTIONS_TO_COME) {
        Some(close) => format!("Did you mean \"{close}\"? It is not built yet: a view takes no options for now."),
        None => "A view takes no options for now.".to_string(),
    };
    piece.fault(key.span, format!("unknown option \"{name}\" of a view"), hint)
}

fn insert_statement(piece: &Piece, insert: ast::Insert) -> Result<InsertStatement, Vec<Fault>> {
    let ast::Insert {
        insert_token: _,
        optimizer_hints,
        or,
        ignore,
        into,
        table,
        table_alias,
        columns,
        overwrite,
        source,
        assignments,
        partitioned,
        after_columns,
        has_table_keyword,
        on,
        returning,
        output,
        replace_into,
        priority,
        insert_alias,
        settings,
        format_clause,
        multi_table_insert_type,
        multi_table_into_clauses,
        multi_table_when_clauses,
        multi_table_else_clause,
    } = insert;
    let mut faults = Vec::new();
    let by_key = "A key-value sink upserts by the key of the materialized view; write a plain INSERT INTO.";
    let remove = "Remove the clause.";
    let clauses = [
        (!optimizer_hints.is_empty(), "an optimizer hint", remove),
        (or.is_some(), "OR REPLACE/IGNORE", by_key),
        (ignore, "IGNORE", by_key),
        (!into && !overwrite, "INSERT without INTO", "Write INSERT INTO."),
        (table_alias.is_some() || insert_alias.is_some(), "an alias of the table", remove),
        (overwrite, "OVERWRITE", "A sink table only grows; write INSERT INTO."),
        (!assignments.is_empty(), "SET", "Write INSERT INTO sink.table SELECT ...."),
        (
            partitioned.is_some() || !after_columns.is_empty(),
            "PARTITION",
            "Partition columns are partition_by in the TOML.",
        ),
        (has_table_keyword, "the word TABLE", "Write INSERT INTO sink.table."),
        (on.is_some(), "ON CONFLICT", by_key),
        (returning.is_some() || output.is_some(), "RETURNING", remove),
        (replace_into, "REPLACE INTO", by_key),
        (priority.is_some(), "a priority", remove),
        (settings.is_some() || format_clause.is_some(), "SETTINGS and FORMAT", remove),
        (
            multi_table_insert_type.is_some()
                || !multi_table_into_clauses.is_empty()
                || !multi_table_when_clauses.is_empty()
                || multi_table_else_clause.is_some(),
            "an insert into several tables",
            "Write one INSERT INTO for each table.",
        ),
    ];
    for (present, clause, hint) in clauses {
        if present {
            let message = format!("{clause} is not part of INSERT INTO");
            faults.push(piece.fault(Span::empty(), message, hint.to_string()));
        }
    }
    let columns: Vec<Ident> =
        columns.iter().filter_map(|c| one_name(piece, c, "column").map_err(|f| faults.push(f)).ok()).collect();
    let target = match &table {
        TableObject::TableName(name) => match name.0.as_slice() {
            [sink, table] => sink.as_ident().cloned().zip(table.as_ident().cloned()),
            _ => None,
        },
        _ => None,
    };
    let Some((sink, table_name)) = target else {
        faults.push(piece.fault(
            table.span(),
            format!("\"{table}\" does not name a table of a sink"),
            "Write INSERT INTO sink.table, with a sink of the TOML.".to_string(),
        ));
        return Err(faults);
    };
    let Some(query) = source else {
        faults.push(piece.fault(Span::empty(), "INSERT INTO needs a query", "Write SELECT ... after it.".to_string()));
        return Err(faults);
    };
    if !faults.is_empty() {
        return Err(faults);
    }
    Ok(InsertStatement { sink, table: table_name, columns, query })
}
