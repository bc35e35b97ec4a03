//! CREATE TABLE: our own small grammar, because NOT NULL inside STRUCT, MAP<K, V> and `epoch_unit` are ours.
//!
//!     CREATE [OR REPLACE] TABLE [IF NOT EXISTS] name (column type [NOT NULL], ...) [WITH (source = .., route = (..), epoch_unit = ..)]
//!
//! Faults of all columns and options are reported together.

use crate::sql::table_options::{epoch_units, route, text_value};
use crate::sql::text::{DIALECT, Piece, is_word, lower_first};
use crate::types::fault::{Fault, closest};
use crate::types::lineage::MSG_COLUMN;
use crate::types::table::{Column, ColumnType, EXTRA_COLUMN, META_COLUMNS, Route};
use datafusion::sql::sqlparser::ast::{Expr, Ident, Spanned};
use datafusion::sql::sqlparser::parser::Parser;
use datafusion::sql::sqlparser::tokenizer::{Span, Token, TokenWithSpan};

#[derive(Clone, Debug)]
pub struct TableStatement {
    pub name: Ident,
    pub columns: Vec<Column>,
    /// `WITH (source = '..')` and where it stands.
    pub source: Option<(String, Span)>,
    pub route: Option<Route>,
}

/// Read by the documentation's test too: an option that is not listed here is not understood.
pub const TABLE_OPTIONS: [&str; 3] = ["source", "route", "epoch_unit"];

pub fn begins(piece: &Piece) -> bool {
    piece.has_words(0, &["create", "table"]) || piece.has_words(0, &["create", "or", "replace", "table"])
}

pub fn read(piece: &Piece) -> Result<TableStatement, Vec<Fault>> {
    let mut reader = Reader { piece, tokens: halve_shift_rights(&piece.tokens), at: 0, faults: Vec::new() };
    match reader.statement() {
        Ok(statement) if reader.faults.is_empty() => Ok(statement),
        Ok(_) => Err(reader.faults),
        Err(fault) => {
            reader.faults.push(fault);
            Err(reader.faults)
        }
    }
}

/// `STRUCT<a STRUCT<b INT>>` ends in one token `>>`; as two, brackets nest.
fn halve_shift_rights(tokens: &[TokenWithSpan]) -> Vec<TokenWithSpan> {
    let mut halved = Vec::with_capacity(tokens.len());
    for token in tokens {
        if token.token == Token::ShiftRight {
            let half = TokenWithSpan { token: Token::Gt, span: token.span };
            halved.extend([half.clone(), half]);
        } else {
            halved.push(token.clone());
        }
    }
    halved
}

struct Reader<'a> {
    piece: &'a Piece,
    tokens: Vec<TokenWithSpan>,
    at: usize,
    /// Faults after which reading went on.
    faults: Vec<Fault>,
}

impl Reader<'_> {
    fn statement(&mut self) -> Result<TableStatement, Fault> {
        self.expect_word("create")?;
        if self.take_word("or") {
            self.expect_word("replace")?;
        }
        self.expect_word("table")?;
        if self.take_word("if") {
            self.expect_word("not")?;
            self.expect_word("exists")?;
        }
        let name = self.ident("the name of the table")?;
        if self.peek() == &Token::Period {
            return Err(self.fault("a table has a plain name", None));
        }
        self.expect(&Token::LParen)?;
        let mut columns = self.columns(&Token::RParen, "table")?;
        for column in &columns {
            self.check_reserved(column);
        }
        let mut statement = TableStatement { name, columns: Vec::new(), source: None, route: None };
        if self.take_word("with") {
            self.options(&mut statement, &mut columns)?;
        }
        if self.at < self.tokens.len() {
            let message = format!("unexpected \"{}\" after the end of CREATE TABLE", self.peek());
            let hint = "A table is CREATE TABLE name (column type, ...) [WITH (...)].";
            return Err(self.fault(message, Some(hint)));
        }
        statement.columns = columns;
        Ok(statement)
    }

    /// Columns up to the closing bracket, which is taken. A bad column is a fault and the next one is read.
    fn columns(&mut self, close: &Token, of: &str) -> Result<Vec<Column>, Fault> {
        let mut columns: Vec<Column> = Vec::new();
        loop {
            let span = self.span();
            match self.column() {
                Ok(column) => {
                    if columns.iter().any(|c| c.name == column.name) {
                        let message = format!("column \"{}\" is declared twice", column.name);
                        self.faults.push(self.piece.fault(span, message, None));
                    }
                    columns.push(column);
                }
                Err(fault) => {
                    self.faults.push(fault);
                    self.skip_to_end_of_element(true);
                }
            }
            if self.take(&Token::Comma) {
                continue;
            }
            if self.take(close) {
                return Ok(columns);
            }
            let message = format!("expected \",\" or \"{close}\" after a column of the {of}, found {}", self.found());
            return Err(self.fault(message, None));
        }
    }

    fn column(&mut self) -> Result<Column, Fault> {
        for word in ["primary", "constraint", "unique", "check", "foreign"] {
            let constraint = is_word(self.peek(), word)
                && matches!(self.tokens.get(self.at + 1).map(|t| &t.token), Some(Token::LParen) | Some(Token::Word(_)))
                && !is_type(self.tokens.get(self.at + 1).map(|t| &t.token));
            if constraint {
                let hint = "A table says what a message looks like. Keys belong to materialized views (GROUP BY, DISTINCT ON).";
                return Err(self.fault(format!("{} is not part of CREATE TABLE", word.to_uppercase()), Some(hint)));
            }
        }
        let span = self.span();
        let ident = self.ident("the name of a column")?;
        if ident.quote_style.is_none() && ident.value.chars().any(char::is_uppercase) {
            let hint =
                format!("Write \"{}\" in double quotes to keep the capitals, or all in lower case.", ident.value);
            let message = format!("column name {} has capitals, which SQL would fold to lower case", ident.value);
            self.faults.push(self.piece.fault(span, message, hint));
        }
        self.take(&Token::Colon);
        let kind = self.column_type()?;
        let nullable = self.nullability()?;
        if let Token::Word(word) = self.peek() {
            let message = format!("\"{}\" is not part of a column", word.value);
            let hint = "A column is a name, a type and NOT NULL. What else a message must satisfy is WHERE in a view.";
            return Err(self.fault(message, Some(hint)));
        }
        Ok(Column { name: ident.value.as_str().into(), kind, nullable })
    }

    fn nullability(&mut self) -> Result<bool, Fault> {
        if self.take_word("not") {
            self.expect_word("null")?;
            return Ok(false);
        }
        self.take_word("null");
        Ok(true)
    }

    fn column_type(&mut self) -> Result<ColumnType, Fault> {
        let mut kind = self.base_type()?;
        loop {
            if !self.take(&Token::LBracket) {
                return Ok(kind);
            }
            self.expect(&Token::RBracket)?;
            kind = ColumnType::Array(Box::new(element("item", kind, true)));
        }
    }

    fn base_type(&mut self) -> Result<ColumnType, Fault> {
        let span = self.span();
        let Token::Word(word) = self.peek().clone() else {
            return Err(self.fault(format!("expected a type, found {}", self.found()), None));
        };
        self.at += 1;
        let lower = word.value.to_lowercase();
        let listed = TYPES.iter().find(|t| **t == lower).copied();
        let kind = match listed.unwrap_or_default() {
            "boolean" | "bool" => ColumnType::Boolean,
            "int" | "integer" | "int4" => ColumnType::Int,
            "bigint" | "int8" => ColumnType::BigInt,
            "real" | "float" | "float4" => ColumnType::Real,
            "double" => {
                self.take_word("precision");
                ColumnType::Double
            }
            "float8" => ColumnType::Double,
            "decimal" | "numeric" => return self.decimal(span),
            "text" | "varchar" | "string" | "char" => {
                if self.peek() == &Token::LParen {
                    let hint = "Write TEXT; check a length in a view: WHERE length(x) <= 10.";
                    return Err(self.fault("the length of a text is not checked", Some(hint)));
                }
                ColumnType::Text
            }
            "bytea" => ColumnType::Bytea,
            "date" => ColumnType::Date,
            "timestamp" | "timestamptz" => return self.timestamp(),
            "json" | "jsonb" => ColumnType::Json,
            "struct" => {
                self.expect(&Token::Lt)?;
                ColumnType::Struct(self.columns(&Token::Gt, "STRUCT")?)
            }
            "array" => {
                self.expect(&Token::Lt)?;
                let kind = self.column_type()?;
                let nullable = self.nullability()?;
                self.expect(&Token::Gt)?;
                ColumnType::Array(Box::new(element("item", kind, nullable)))
            }
            "map" => return self.map(),
            _ => {
                self.at -= 1;
                return Err(self.fault(format!("unknown type \"{}\"", word.value), Some(&type_hint(&lower))));
            }
        };
        Ok(kind)
    }

    fn decimal(&mut self, span: Span) -> Result<ColumnType, Fault> {
        let hint = "Write DECIMAL(p, s), with 1 <= p <= 38 digits, s of them after the point.";
        if !self.take(&Token::LParen) {
            return Err(self.piece.fault(span, "DECIMAL needs its precision", hint.to_string()));
        }
        let precision = self.number()?;
        let scale = if self.take(&Token::Comma) { self.number()? } else { 0 };
        self.expect(&Token::RParen)?;
        if !(1..=38).contains(&precision) || scale > precision {
            let message = format!("DECIMAL({precision}, {scale}) does not exist");
            return Err(self.piece.fault(span, message, hint.to_string()));
        }
        Ok(ColumnType::Decimal(precision as u8, scale as i8))
    }

    fn timestamp(&mut self) -> Result<ColumnType, Fault> {
        if is_word(self.peek(), "without") {
            let hint = "TIMESTAMP is always microseconds UTC; text without an offset is read as UTC. Write TIMESTAMP.";
            return Err(self.fault("there is no timestamp without time zone", Some(hint)));
        }
        if self.peek() == &Token::LParen {
            return Err(self.fault("TIMESTAMP takes no precision", Some("It is always microseconds UTC.")));
        }
        if is_word(self.peek(), "with") && self.tokens.get(self.at + 1).is_some_and(|t| is_word(&t.token, "time")) {
            self.at += 2;
            self.expect_word("zone")?;
        }
        Ok(ColumnType::Timestamp(None))
    }

    fn map(&mut self) -> Result<ColumnType, Fault> {
        let close = if self.take(&Token::LParen) {
            Token::RParen
        } else {
            self.expect(&Token::Lt)?;
            Token::Gt
        };
        let span = self.span();
        if self.column_type()? != ColumnType::Text {
            let message = "the keys of a MAP are TEXT";
            self.faults.push(self.piece.fault(span, message, "Write MAP<TEXT, type>.".to_string()));
        }
        self.expect(&Token::Comma)?;
        let kind = self.column_type()?;
        let nullable = self.nullability()?;
        self.expect(&close)?;
        Ok(ColumnType::Map(Box::new(element("value", kind, nullable))))
    }

    fn options(&mut self, statement: &mut TableStatement, columns: &mut [Column]) -> Result<(), Fault> {
        self.expect(&Token::LParen)?;
        let mut seen: Vec<String> = Vec::new();
        loop {
            let span = self.span();
            let key = self.ident("the name of an option")?.value.to_lowercase();
            self.expect(&Token::Eq)?;
            let value = self.option_value()?;
            if seen.contains(&key) {
                self.faults.push(self.piece.fault(span, format!("option \"{key}\" is given twice"), None));
            }
            let mut unit_faults = Vec::new();
            let listed = TABLE_OPTIONS.iter().find(|o| **o == key).copied();
            let read = match listed.unwrap_or_default() {
                "source" => self.option_source(&value).map(|source| statement.source = Some((source, value.span()))),
                "route" => route(self.piece, &value).map(|route| statement.route = Some(route)),
                "epoch_unit" => {
                    unit_faults = epoch_units(self.piece, &value, columns);
                    Ok(())
                }
                _ => {
                    let close = closest(&key, TABLE_OPTIONS).map(|c| format!("Did you mean \"{c}\"? "));
                    let hint = format!(
                        "{}The options of a table are source, route and epoch_unit.",
                        close.unwrap_or_default()
                    );
                    Err(self.piece.fault(span, format!("unknown option \"{key}\" of a table"), hint))
                }
            };
            self.faults.extend(read.err().into_iter().chain(unit_faults));
            seen.push(key);
            if self.take(&Token::Comma) {
                continue;
            }
            return self.expect(&Token::RParen);
        }
    }

    /// The tokens of one value, up to the comma or bracket that ends it, as an expression.
    fn option_value(&mut self) -> Result<Expr, Fault> {
        let span = self.span();
        let from = self.at;
        self.skip_to_end_of_element(false);
        let tokens = self.tokens[from..self.at].to_vec();
        let mut parser = Parser::new(&DIALECT).with_tokens_with_locations(tokens);
        let value = parser.parse_expr().map_err(|e| {
            let text = e.to_string();
            let text = text.strip_prefix("sql parser error: ").unwrap_or(&text);
            self.piece.fault(span, format!("cannot read the value: {}", lower_first(text)), None)
        })?;
        match parser.peek_token() {
            rest if rest.token == Token::EOF => Ok(value),
            rest => Err(self.piece.fault(rest.span, format!("unexpected \"{}\" after the value", rest.token), None)),
        }
    }

    fn option_source(&self, value: &Expr) -> Result<String, Fault> {
        text_value(value).ok_or_else(|| {
            let hint = "Write source = 'name', with the name of a [source.name] of the TOML.";
            self.piece.fault(value.span(), "source is the name of a source in quotes", hint.to_string())
        })
    }

    fn check_reserved(&mut self, column: &Column) {
        let name = column.name.as_ref();
        let span = self.piece.find(name);
        let meta = META_COLUMNS.contains(&name);
        if meta || name == EXTRA_COLUMN || name.starts_with(MSG_COLUMN) {
            let message = format!("column name \"{name}\" is taken");
            let hint = if meta {
                "Every table has this meta column already; read it by its name."
            } else {
                "Choose another name."
            };
            self.faults.push(self.piece.fault(span, message, hint.to_string()));
        }
    }

    /// Moves to the next `,` or closing bracket of this depth. In a type, < and > are brackets.
    fn skip_to_end_of_element(&mut self, in_type: bool) {
        let mut depth = 0;
        while let Some(token) = self.tokens.get(self.at) {
            let opens = matches!(token.token, Token::LParen | Token::LBracket) || (in_type && token.token == Token::Lt);
            let closes =
                matches!(token.token, Token::RParen | Token::RBracket) || (in_type && token.token == Token::Gt);
            match token.token {
                _ if opens => depth += 1,
                _ if closes && depth == 0 => return,
                _ if closes => depth -= 1,
                Token::Comma if depth == 0 => return,
                _ => {}
            }
            self.at += 1;
        }
    }

    fn peek(&self) -> &Token {
        self.tokens.get(self.at).map_or(&Token::EOF, |t| &t.token)
    }

    fn found(&self) -> String {
        if self.at < self.tokens.len() { format!("\"{}\"", self.peek()) } else { "the end of the statement".into() }
    }

    fn span(&self) -> Span {
        self.tokens.get(self.at).or(self.tokens.last()).map_or(Span::empty(), |t| t.span)
    }

    fn fault(&self, message: impl Into<String>, hint: Option<&str>) -> Fault {
        self.piece.fault(self.span(), message, hint.map(str::to_string))
    }

    fn take(&mut self, token: &Token) -> bool {
        let found = self.peek() == token;
        self.at += usize::from(found);
        found
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = is_word(self.peek(), word);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, token: &Token) -> Result<(), Fault> {
        if self.take(token) {
            return Ok(());
        }
        Err(self.fault(format!("expected \"{token}\", found {}", self.found()), None))
    }

    fn expect_word(&mut self, word: &str) -> Result<(), Fault> {
        if self.take_word(word) {
            return Ok(());
        }
        Err(self.fault(format!("expected {}, found {}", word.to_uppercase(), self.found()), None))
    }

    /// An identifier with its name as SQL reads it; the quote style tells whether capitals were meant.
    fn ident(&mut self, what: &str) -> Result<Ident, Fault> {
        let span = self.span();
        let Token::Word(word) = self.peek().clone() else {
            return Err(self.fault(format!("expected {what}, found {}", self.found()), None));
        };
        self.at += 1;
        Ok(Ident { value: word.value, quote_style: word.quote_style, span })
    }

    fn number(&mut self) -> Result<u64, Fault> {
        if let Token::Number(digits, _) = self.peek()
            && let Ok(number) = digits.parse()
        {
            self.at += 1;
            return Ok(number);
        }
        Err(self.fault(format!("expected a number, found {}", self.found()), None))
    }
}

fn element(name: &str, kind: ColumnType, nullable: bool) -> Column {
    Column { name: name.into(), kind, nullable }
}

fn is_type(token: Option<&Token>) -> bool {
    TYPES.iter().any(|t| token.is_some_and(|token| is_word(token, t)))
}

/// Read by the documentation's test too: a word that is not listed here is no type.
pub const TYPES: [&str; 27] = [
    "boolean",
    "bool",
    "int",
    "integer",
    "int4",
    "bigint",
    "int8",
    "real",
    "float",
    "float4",
    "double",
    "float8",
    "decimal",
    "numeric",
    "text",
    "varchar",
    "string",
    "char",
    "bytea",
    "date",
    "timestamp",
    "timestamptz",
    "json",
    "jsonb",
    "struct",
    "array",
    "map",
];

fn type_hint(word: &str) -> String {
    let close = match word {
        "smallint" | "tinyint" | "int2" => Some("int"),
        "blob" | "binary" | "bytes" => Some("bytea"),
        "datetime" => Some("timestamp"),
        "uuid" => Some("text"),
        _ => closest(word, TYPES),
    };
    let close = close.map(|c| format!("Did you mean {}? ", c.to_uppercase())).unwrap_or_default();
    format!(
        "{close}The types are BOOLEAN, INT, BIGINT, REAL, DOUBLE, DECIMAL(p, s), TEXT, BYTEA, DATE, TIMESTAMP, STRUCT<..>, T[], MAP<TEXT, T> and JSON."
    )
}
