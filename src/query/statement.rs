//! From text to one checked query: `?` counted into `$n`, one statement, a query and nothing else.

use crate::query::error::{Place, QueryError, Result};
use datafusion::common::TableReference;
use datafusion::sql::parser::{DFParserBuilder, Statement as DfStatement};
use datafusion::sql::sqlparser::ast::{
    ObjectName, Statement as SqlStatement, TableFactor, Visit, Visitor, visit_relations,
};
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan, Tokenizer, Word};
use std::ops::ControlFlow;

/// Nesting depth the parser follows; the planner recurses as deep.
const DEPTH_MAX: usize = 50;

#[derive(Debug)]
pub struct Statement {
    pub parsed: DfStatement,
}

pub fn parse(sql: &str) -> Result<Statement> {
    let dialect = GenericDialect {};
    let mut tokens = Tokenizer::new(&dialect, sql)
        .tokenize_with_location()
        .map_err(|e| QueryError::wrong(lower_first(&e.message)).at(Some(place(e.location.line, e.location.column))))?;
    number_placeholders(&mut tokens)?;
    let first = tokens.iter().find(|t| !matches!(t.token, Token::Whitespace(_) | Token::SemiColon)).cloned();

    let mut statements = DFParserBuilder::new(tokens)
        .with_dialect(&dialect)
        .with_recursion_limit(DEPTH_MAX)
        .build()
        .and_then(|mut parser| parser.parse_statements())?;
    let (Some(parsed), Some(first)) = (statements.pop_front(), first) else {
        return Err(QueryError::wrong("there is no statement").hint("send one, such as SELECT 1."));
    };
    if !statements.is_empty() {
        return Err(QueryError::wrong(format!("{} statements were sent at once", statements.len() + 1))
            .hint("send them one by one."));
    }
    only_queries(&parsed, &first)?;
    if let Some(ast) = innermost(&parsed) {
        if let ControlFlow::Break(e) = ast.visit(&mut Refusals) {
            return Err(*e);
        }
    }
    Ok(Statement { parsed })
}

/// DataFusion takes every `?` for one and the same named placeholder, so they are counted here. Token by token, so that
/// strings, comments and positions stay as they were written.
fn number_placeholders(tokens: &mut [TokenWithSpan]) -> Result<()> {
    let (mut marks, mut numbered) = (0, None);
    for token in tokens {
        let Token::Placeholder(text) = &mut token.token else { continue };
        let here = place(token.span.start.line, token.span.start.column);
        if text == "?" {
            marks += 1;
            *text = format!("${marks}");
        } else if let Some(number) = text.strip_prefix('$').or(text.strip_prefix('?')) {
            if !number.parse::<usize>().is_ok_and(|n| n > 0) {
                return Err(QueryError::wrong(format!("parameter \"{text}\" has no number"))
                    .at(Some(here))
                    .hint("parameters are $1, $2, ... or ? in their order."));
            }
            numbered = Some(here);
            *text = format!("${number}");
        }
    }
    match numbered {
        Some(here) if marks > 0 => {
            Err(QueryError::wrong("parameters are written both as ? and as $n").at(Some(here)).hint("choose one way."))
        }
        _ => Ok(()),
    }
}

fn only_queries(statement: &DfStatement, first: &TokenWithSpan) -> Result<()> {
    use SqlStatement as S;
    let allowed = match statement {
        DfStatement::Statement(sql) => matches!(
            **sql,
            S::Query(_)
                | S::ExplainTable { .. }
                | S::ShowTables { .. }
                | S::ShowColumns { .. }
                | S::ShowVariable { .. }
                | S::ShowFunctions { .. }
        ),
        DfStatement::Explain(explain) => return only_queries(&explain.statement, first),
        DfStatement::CreateExternalTable(_) | DfStatement::CopyTo(_) | DfStatement::Reset(_) => false,
    };
    if allowed {
        return Ok(());
    }
    let verb = match &first.token {
        Token::Word(Word { value, .. }) => value.to_uppercase(),
        other => other.to_string(),
    };
    let hint = match verb.as_str() {
        "CREATE" | "INSERT" | "DROP" | "ALTER" => {
            "what the pipeline computes and delivers is written in its SQL files; here it is only read."
        }
        "SET" | "RESET" | "BEGIN" | "START" | "COMMIT" | "ROLLBACK" => {
            "every query stands alone, over one consistent cut."
        }
        _ => "SELECT, WITH, VALUES, EXPLAIN, SHOW and DESCRIBE are answered.",
    };
    let here = place(first.span.start.line, first.span.start.column);
    Err(QueryError::wrong(format!("{verb} is not a query")).at(Some(here)).hint(hint))
}

fn innermost(statement: &DfStatement) -> Option<&SqlStatement> {
    match statement {
        DfStatement::Statement(sql) => Some(sql),
        DfStatement::Explain(explain) => innermost(&explain.statement),
        DfStatement::CreateExternalTable(_) | DfStatement::CopyTo(_) | DfStatement::Reset(_) => None,
    }
}

/// What DataFusion would read over without a word.
struct Refusals;

impl Visitor for Refusals {
    type Break = Box<QueryError>;

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<Self::Break> {
        let (name, version, sample) = match factor {
            TableFactor::Table { name, version, sample, .. } => (Some(name), version.is_some(), sample.is_some()),
            TableFactor::Derived { sample, .. } => (None, false, sample.is_some()),
            _ => return ControlFlow::Continue(()),
        };
        let here = name.and_then(place_of_name);
        if version {
            let e = QueryError::wrong("a table is read as it is now, not as of another time");
            return ControlFlow::Break(Box::new(e.at(here).hint("read older versions with a Delta reader.")));
        }
        if sample {
            let e = QueryError::wrong("TABLESAMPLE is not known here");
            return ControlFlow::Break(Box::new(
                e.at(here).hint("WHERE random() < 0.01 takes about one row in a hundred."),
            ));
        }
        ControlFlow::Continue(())
    }
}

impl Statement {
    /// Where a table is named for the first time.
    pub fn place_of_table(&self, table: &TableReference) -> Option<Place> {
        let ast = innermost(&self.parsed)?;
        let found = visit_relations(ast, |name| match last_word(name).eq_ignore_ascii_case(table.table()) {
            true => ControlFlow::Break(place_of_name(name)),
            false => ControlFlow::Continue(()),
        });
        match found {
            ControlFlow::Break(place) => place,
            ControlFlow::Continue(()) => None,
        }
    }
}

fn last_word(name: &ObjectName) -> &str {
    name.0.last().and_then(|part| part.as_ident()).map_or("", |ident| ident.value.as_str())
}

fn place_of_name(name: &ObjectName) -> Option<Place> {
    let span = name.0.first()?.as_ident()?.span;
    (span != Span::empty()).then(|| place(span.start.line, span.start.column))
}

fn place(line: u64, column: u64) -> Place {
    Place { line, column }
}

fn lower_first(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map_or(String::new(), |c| c.to_lowercase().chain(chars).collect())
}
