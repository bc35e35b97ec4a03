//! SQL files cut into statements by their tokens, so that a broken statement never hides the faults of the others.
//!
//! A `Piece` is one statement: its text, its place, its tokens. Every fault about it is made by `Piece::fault`.

use crate::sql::plan::{Place, SqlFile};
use crate::types::fault::Fault;
use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Location, Span, Token, TokenWithSpan, Tokenizer};
use std::sync::Arc;

/// The dialect of every parse. Generic takes a superset of what we allow; `allow` decides what remains.
pub const DIALECT: GenericDialect = GenericDialect {};

#[derive(Clone, Debug)]
pub struct Piece {
    pub place: Place,
    /// The statement as written, without the final `;`.
    pub sql: Arc<str>,
    /// Without white space and comments.
    pub tokens: Vec<TokenWithSpan>,
}

impl Piece {
    /// A fault at `span`; an empty span (nodes of our own making have one) means the whole statement.
    pub fn fault(&self, span: Span, message: impl Into<String>, hint: impl Into<Option<String>>) -> Fault {
        let at = span.start;
        let (line, column) =
            if at.line == 0 { (self.place.line, self.place.column) } else { (at.line as u32, at.column as u32) };
        Fault { file: self.place.file.clone(), line, column, message: message.into(), hint: hint.into() }
    }

    /// True where the token at `index` is this unquoted word.
    pub fn is_word(&self, index: usize, word: &str) -> bool {
        self.tokens.get(index).is_some_and(|t| is_word(&t.token, word))
    }

    /// The first place where the statement writes `word`, as a name or in quotes: for faults that come without one.
    pub fn find(&self, word: &str) -> Span {
        let found = self.tokens.iter().find(|t| match &t.token {
            Token::Word(w) => w.value.eq_ignore_ascii_case(word),
            Token::SingleQuotedString(text) => text == word,
            _ => false,
        });
        found.map_or(Span::empty(), |t| t.span)
    }

    pub fn has_words(&self, index: usize, words: &[&str]) -> bool {
        words.iter().enumerate().all(|(i, word)| self.is_word(index + i, word))
    }
}

pub fn is_word(token: &Token, word: &str) -> bool {
    matches!(token, Token::Word(w) if w.quote_style.is_none() && w.value.eq_ignore_ascii_case(word))
}

/// The statements of one file. What cannot be read as tokens is a fault; what stands before it is kept.
pub fn split(file: &SqlFile, faults: &mut Vec<Fault>) -> Vec<Piece> {
    let mut tokens = Vec::new();
    if let Err(e) = Tokenizer::new(&DIALECT, &file.text).tokenize_with_location_into_buf(&mut tokens) {
        faults.push(Fault {
            file: file.path.clone(),
            line: e.location.line as u32,
            column: e.location.column as u32,
            message: lower_first(&e.message),
            hint: Some("A quote or a comment is opened and never closed.".into())
                .filter(|_| e.message.starts_with("Unterminated") || e.message.contains("EOF")),
        });
        // The statement in which it broke is not worth a second fault.
        let end = tokens.iter().rposition(|t: &TokenWithSpan| t.token == Token::SemiColon).map_or(0, |i| i + 1);
        tokens.truncate(end);
    }
    let lines = LineStarts::of(&file.text);
    let mut pieces = Vec::new();
    for group in tokens.split(|t| t.token == Token::SemiColon) {
        let tokens: Vec<TokenWithSpan> =
            group.iter().filter(|t| !matches!(t.token, Token::Whitespace(_) | Token::EOF)).cloned().collect();
        let (Some(first), Some(last)) = (tokens.first(), tokens.last()) else { continue };
        let sql = &file.text[lines.offset(first.span.start)..lines.offset(last.span.end)];
        let place = Place {
            file: file.path.clone(),
            line: first.span.start.line as u32,
            column: first.span.start.column as u32,
        };
        pieces.push(Piece { place, sql: sql.into(), tokens });
    }
    pieces
}

/// Byte offsets of lines: the tokenizer counts lines and characters.
struct LineStarts<'a> {
    text: &'a str,
    starts: Vec<usize>,
}

impl<'a> LineStarts<'a> {
    fn of(text: &'a str) -> Self {
        let starts = std::iter::once(0).chain(text.match_indices('\n').map(|(i, _)| i + 1)).collect();
        LineStarts { text, starts }
    }

    fn offset(&self, at: Location) -> usize {
        let start = self.starts.get((at.line as usize).saturating_sub(1)).copied().unwrap_or(self.text.len());
        let rest = &self.text[start..];
        rest.char_indices().nth((at.column as usize).saturating_sub(1)).map_or(self.text.len(), |(i, _)| start + i)
    }
}

/// Messages begin in lower case; names and SQL words in capitals keep theirs.
pub fn lower_first(message: &str) -> String {
    let mut chars = message.chars();
    match (chars.next(), message.chars().nth(1)) {
        (Some(first), Some(second)) if first.is_uppercase() && second.is_lowercase() => {
            first.to_lowercase().chain(chars).collect()
        }
        _ => message.to_string(),
    }
}
