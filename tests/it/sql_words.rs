//! SQL as a list of words, which is enough to see what an example shows.

/// Words, quoted texts, and runs of operator characters; comments are left out, and all is lower case.
#[derive(Debug)]
pub struct Words(Vec<String>);

const OPERATOR_CHARACTERS: &str = "+-*/%|&#^<>=!~@:";

impl Words {
    pub fn of(sql: &str) -> Words {
        let mut words = Vec::new();
        let mut rest = sql.trim_start();
        while let Some(first) = rest.chars().next() {
            if rest.starts_with("--") {
                rest = rest.find('\n').map_or("", |end| &rest[end..]).trim_start();
                continue;
            }
            let is_word = |c: char| c.is_alphanumeric() || c == '_';
            let length = match first {
                '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
                c if is_word(c) => rest.find(|c: char| !is_word(c)).unwrap_or(rest.len()),
                c if OPERATOR_CHARACTERS.contains(c) => {
                    rest.find(|c: char| !OPERATOR_CHARACTERS.contains(c)).unwrap_or(rest.len())
                }
                c => c.len_utf8(),
            };
            words.push(rest[..length].to_lowercase());
            rest = rest[length..].trim_start();
        }
        Words(words)
    }

    /// Its statements that begin with these words.
    pub fn statements(&self, first: &str) -> Vec<Words> {
        let statements = self.0.split(|word| word == ";").map(|words| Words(words.to_vec()));
        statements.filter(|s| s.0.join(" ").starts_with(first)).collect()
    }

    /// Sources of its tables, each once: the one named in WITH, or the table's name.
    pub fn sources(&self) -> Vec<String> {
        let mut sources = Vec::new();
        for table in self.statements("create table") {
            let named = table.0.windows(3).find(|w| w[0] == "source" && w[1] == "=");
            let source = named.map_or(table.0[2].clone(), |w| w[2].trim_matches('\'').to_string());
            if !sources.contains(&source) {
                sources.push(source);
            }
        }
        sources
    }
}

/// One of the texts holds these words, next to each other.
pub fn has(texts: &[Words], wanted: &str) -> bool {
    let wanted = Words::of(wanted).0;
    texts.iter().any(|text| text.0.windows(wanted.len()).any(|w| w == wanted))
}

#[test]
fn what_an_example_shows_is_seen_by_its_words() {
    let words = Words::of("CREATE TABLE a (x INT) -- DATE\nWITH (source='S'); SELECT b->>'IS NULL' FROM a");
    assert_eq!(words.sources(), ["s"]);
    let words = [words];
    for (wanted, expected) in [("x int", true), ("date", false), ("is null", false), ("->>", true), ("->", false)] {
        assert_eq!(has(&words, wanted), expected, "{wanted}");
    }
}
