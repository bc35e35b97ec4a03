//! Several statements in one text, cut at semicolons that are not inside strings or comments.

use datafusion::sql::sqlparser::dialect::GenericDialect;
use datafusion::sql::sqlparser::tokenizer::{Token, Tokenizer};

/// Without empty ones. A text that cannot be cut (an open quote) stays whole, so that the server says what is wrong.
pub fn statements(text: &str) -> Vec<String> {
    let Some(cuts) = semicolons(text) else { return vec![text.to_string()] };
    let mut found = Vec::new();
    let mut start = 0;
    for cut in cuts.into_iter().chain([text.len()]) {
        let statement = text[start..cut].trim();
        if !is_blank(statement) {
            found.push(statement.to_string());
        }
        start = (cut + 1).min(text.len());
    }
    found
}

/// Whether the text ends with a semicolon that ends a statement: then it can be sent.
pub fn is_complete(text: &str) -> bool {
    semicolons(text).and_then(|cuts| cuts.last().copied()).is_some_and(|last| is_blank(&text[last + 1..]))
}

/// Comments and white space alone are no statement.
fn is_blank(text: &str) -> bool {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize();
    tokens.is_ok_and(|tokens| tokens.iter().all(|t| matches!(t, Token::Whitespace(_))))
}

/// Byte offsets. None: the text does not come apart into tokens.
fn semicolons(text: &str) -> Option<Vec<usize>> {
    let tokens = Tokenizer::new(&GenericDialect {}, text).tokenize_with_location().ok()?;
    let mut line_starts = vec![0];
    line_starts.extend(text.match_indices('\n').map(|(at, _)| at + 1));
    let offset = |line: u64, column: u64| {
        let start = *line_starts.get(line as usize - 1)?;
        text[start..].char_indices().nth(column as usize - 1).map(|(at, _)| start + at)
    };
    let marks = tokens.iter().filter(|t| t.token == Token::SemiColon);
    marks.map(|t| offset(t.span.start.line, t.span.start.column)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn semicolons_in_strings_and_comments_do_not_cut() {
        let text = "SELECT ';' AS \"a;b\"; -- no; not here\nSELECT /* ; */ 'ö;'\n, 2;;\n";
        assert_eq!(statements(text), ["SELECT ';' AS \"a;b\"", "-- no; not here\nSELECT /* ; */ 'ö;'\n, 2"]);
        assert_eq!(statements(" ; -- nothing\n"), Vec::<String>::new());
        assert_eq!(statements("SELECT 'open; "), ["SELECT 'open; "]);
    }

    #[test]
    fn a_statement_is_complete_at_its_semicolon() {
        for (text, complete) in [
            ("SELECT 1", false),
            ("SELECT 1;", true),
            ("SELECT 1; -- done\n", true),
            ("SELECT 1; SELECT", false),
            ("SELECT ';", false),
            ("SELECT 'ö' ;\n\n", true),
        ] {
            assert_eq!(is_complete(text), complete, "{text:?}");
        }
    }
}
